"""Confidence intervals over independent replications (numpy, scipy)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit


class Interval(NamedTuple):
    """Mean of ``n`` values and the bounds of its confidence interval (NaN where undefined)."""

    n: int
    mean: float
    low: float
    high: float


def interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's t interval for the mean of independent values, shape (n,).

    mean -+ t(n-1, (1 + confidence)/2) * s / sqrt(n) (Law, "Simulation Modeling and Analysis",
    5th ed., 4.5).  NaN values, of replications that had nothing to measure, are left out and not
    counted; fewer than two values have no interval.  Raises ValueError unless 0 < confidence < 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence:g}; it must be between 0 and 1")
    sample = np.asarray(values, dtype=float)
    sample = sample[~np.isnan(sample)]
    n = sample.size
    mean = float(sample.mean()) if n else math.nan
    if n < 2:
        return Interval(n, mean, math.nan, math.nan)
    half = float(stdtrit(n - 1, (1 + confidence) / 2) * sample.std(ddof=1) / math.sqrt(n))
    return Interval(n, mean, mean - half, mean + half)


def paired(values: ArrayLike, baseline: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval for the mean of ``values - baseline``, both of shape (n,), paired by position.

    For two systems under common random numbers: what the draws did to both cancels out, so the
    interval is narrower than that of two independent samples.  Raises ValueError unless the shapes
    are equal.
    """
    first, second = np.asarray(values, dtype=float), np.asarray(baseline, dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"{first.size} values cannot be paired with {second.size}")
    return interval(first - second, confidence)
