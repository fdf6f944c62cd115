"""Confidence intervals over independent replications (numpy, scipy)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit


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
    return interval(_differences(values, baseline), confidence)


def _differences(values: ArrayLike, baseline: ArrayLike) -> NDArray[np.float64]:
    first: NDArray[np.float64] = np.asarray(values, dtype=float)
    second: NDArray[np.float64] = np.asarray(baseline, dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"{first.size} values cannot be paired with {second.size}")
    return np.subtract(first, second)


def not_above(values: ArrayLike, baseline: ArrayLike, tie: float = 1.0) -> float:
    """P of a one-sided t test that the mean of ``values`` is not above that of ``baseline``.

    Both of shape (n,), paired by position (Law, 5th ed., 10.2.1).

    Small p: it is above.  Pairs with a NaN are left out.  Differences without any spread decide by
    themselves: 0.0, 1.0, or ``tie`` where there is none.  NaN for fewer than two pairs; ValueError
    unless the shapes are equal.
    """
    difference = _differences(values, baseline)
    difference = difference[~np.isnan(difference)]
    if difference.size < 2:
        return math.nan
    mean = difference.mean()
    error = float(difference.std(ddof=1)) / math.sqrt(difference.size)
    if not error:
        return tie if mean == 0 else float(mean < 0)
    return float(stdtr(difference.size - 1, -mean / error))


def equivalence(values: ArrayLike, baseline: ArrayLike, margin: float) -> float:
    """P of two one-sided t tests that paired means differ by ``margin`` of the baseline or more.

    Small p: the systems are equivalent within the margin (Schuirmann, J. Pharmacokinet. Biopharm.
    15, 1987).  Differences without any spread decide by themselves: 0.0 or 1.0.  NaN for fewer than
    two values; ValueError unless margin > 0 and the shapes are equal.
    """
    if not margin > 0:
        raise ValueError(f"margin is {margin:g}; it must be above 0")
    difference = paired(values, baseline)
    if difference.n < 2:
        return math.nan
    bound = margin * abs(float(np.mean(np.asarray(baseline, dtype=float))))
    spare = bound - abs(difference.mean)
    quantile = float(stdtrit(difference.n - 1, 0.975))
    error = (difference.high - difference.low) / 2 / quantile
    if not error:
        return 0.0 if spare > 0 else 1.0
    return float(stdtr(difference.n - 1, -spare / error))


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """P values corrected for their number (Holm, Scand. J. Stat. 6, 1979): the chance that any
    true hypothesis is rejected is at most the level that they are compared with.
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    corrected = np.empty_like(values)
    weights = np.arange(values.size, 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * weights), 1.0)
    return corrected
