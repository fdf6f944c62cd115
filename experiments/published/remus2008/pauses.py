"""Pause and transmit as lines over the number of dirty pages, from the page-toucher rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from colosim.model.cost import Costs
from experiments.published.rows import Row
from experiments.published.table import reading, select

PART = "Pause and transmit (page toucher)"
WORKLOAD = "page toucher"
_BITS_PER_PAGE = 8 * (Costs().page_bytes + Costs().page_header_bytes)
_NOTE = (
    "Fitted to figure-read values, each weighted by the inverse of the range it is read with; what "
    "that range means (deviation, extremes) is not stated, so only ratios of weights matter."
)


@dataclass(frozen=True, slots=True)
class Line:
    """``fixed_ms + per_page_ms * pages`` and the standard errors of both (NaN without any)."""

    fixed_ms: float
    per_page_ms: float
    fixed_error_ms: float
    per_page_error_ms: float
    n: int

    def at(self, pages: float) -> float:
        """Milliseconds for ``pages``."""
        return self.fixed_ms + self.per_page_ms * pages

    def __add__(self, other: Line) -> Line:
        """One after the other; errors are not carried over."""
        fixed_ms, per_page_ms = self.fixed_ms + other.fixed_ms, self.per_page_ms + other.per_page_ms
        return Line(fixed_ms, per_page_ms, math.nan, math.nan, self.n)

    def pages(self, ms: float) -> float:
        """The pages that take ``ms``; below 0 if nothing is that quick."""
        return (ms - self.fixed_ms) / self.per_page_ms


class Lines(NamedTuple):
    """What a checkpoint of Remus costs: the guest stands in ``pause`` and runs in ``transmit``."""

    pause: Line
    transmit: Line

    @property
    def in_flight(self) -> Line:
        """From the start of a checkpoint to its commit."""
        return self.pause + self.transmit

    def changes(self) -> dict[str, Any]:
        """The same as values of a scenario.

        The pause is the copying of pages, the slope of transmit is the link's bandwidth and its
        fixed part is the size of the devices' state.
        """
        bits_per_ms = _BITS_PER_PAGE / self.transmit.per_page_ms
        return {
            "cost.copy_fixed": f"{self.pause.fixed_ms:.6f} ms",
            "cost.copy_per_page": f"{self.pause.per_page_ms:.6f} ms",
            "cost.device_state": f"{self.transmit.fixed_ms * bits_per_ms / 8:.0f} B",
            "link.bandwidth": f"{bits_per_ms * 1000:.0f} bit/s",
        }


def fit(published: pd.DataFrame) -> Lines:
    """Both lines by weighted least squares."""
    return Lines(*(fit_line(select(published, WORKLOAD, what)) for what in Lines._fields))


def fit_line(points: pd.DataFrame, column: str = "value") -> Line:
    """Weighted least squares; ``points`` as from `select`, weights 1 / (high - low)."""
    (per_page, fixed), covariance = np.polyfit(
        points.index, points[column], 1, w=1 / (points["high"] - points["low"]), cov=True
    )
    per_page_error, fixed_error = np.sqrt(np.diag(covariance))
    return Line(
        float(fixed), float(per_page), float(fixed_error), float(per_page_error), len(points)
    )


def worst(published: pd.DataFrame) -> Lines:
    """Pauses as long and transmits as short as the figure can be read."""
    return Lines(
        fit_line(select(published, WORKLOAD, "pause"), "high"),
        fit_line(select(published, WORKLOAD, "transmit"), "low"),
    )


def rows(published: pd.DataFrame, lines: Lines) -> Iterator[Row]:
    """Each point against its line, and what the lines are."""
    for what, line in lines._asdict().items():
        common: dict[str, Any] = {
            "part": PART,
            "kind": "fitted",
            "n": line.n,
            "parameters": 2,
            "note": _NOTE,
        }
        points = select(published, WORKLOAD, what)
        for pages in points.index:
            yield Row(
                quantity=what,
                condition=f"{pages:.0f} page" + "s" * (pages != 1),
                x=pages,
                unit="ms",
                **reading(points, pages),
                model=line.at(pages),
                **common,
            )
        t = stdtrit(line.n - 2, 0.975)
        for name, unit, model, error in (
            ("fixed part", "ms", line.fixed_ms, line.fixed_error_ms),
            ("per page", "us", line.per_page_ms * 1e3, line.per_page_error_ms * 1e3),
        ):
            yield Row(
                quantity=f"{what}, {name}",
                condition="",
                unit=unit,
                model=model,
                interval=t * error,
                **common,
            )
