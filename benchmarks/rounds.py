"""Cases that take turns on one core, and how many times as fast one is as another.

A machine has slow moments.  So every round runs each case once, one after the other, and a ratio
is taken within a round.  The ratio of two cases is the geometric mean over rounds, with Student's
t interval of the logarithms: that of a/b is then one over that of b/a.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import colosim
from benchmarks.command import write
from benchmarks.speed import aligned, measuring, processor
from colosim.analysis.stats import interval

#: runs a case; how many of what it counts were done, and in how many seconds of CPU time
Run = Callable[[], tuple[int, float]]
#: one round: rate by case
Rates = Mapping[str, Sequence[float]]


#: decimals of a ratio that is below so much
_DIGITS = ((4, 0.01), (3, 0.1), (2, 10.0), (1, 100.0))


class Missing(Exception):
    """A peer is not there, or cannot run; the reason, and what to install."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Geometric mean of ``n`` ratios and its 95 % interval (NaN for one ratio)."""

    n: int
    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        digits = next((n for n, most in _DIGITS if self.mean < most), 0)
        if math.isnan(self.low):
            return f"{self.mean:,.{digits}f}"
        return f"{self.mean:,.{digits}f} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"


def ratio(rates: Sequence[float], others: Sequence[float]) -> Ratio:
    """How many times as fast; paired by round."""
    logs = np.log(np.asarray(rates, dtype=float) / np.asarray(others, dtype=float))
    found = interval(logs)
    return Ratio(found.n, math.exp(found.mean), math.exp(found.low), math.exp(found.high))


def turns(cases: Mapping[str, Run], rounds: int) -> dict[str, list[float]]:
    """By case, its rate in each round: of what it counts, a second of CPU time, on one core."""
    rates: dict[str, list[float]] = {name: [] for name in cases}
    with measuring():
        for _ in range(rounds):
            for name, run in cases.items():
                count, spent_s = run()
                rates[name].append(count / spent_s)
    return rates


@dataclass(frozen=True, slots=True)
class Row:
    """One case: what it is, what a second counts, and its ratios by the name of the peer."""

    case: str
    unit: str
    per_s: tuple[float, float, float]  # median, min, max
    ratios: dict[str, Ratio] = field(default_factory=dict)

    @property
    def rate(self) -> str:
        middle, low, high = (f"{each:,.0f}" for each in self.per_s)
        return f"{middle} ({low} to {high})"


def rows(rates: Rates, unit: str, peers: Iterable[str]) -> list[Row]:
    """A row a case, with its ratio to each of ``peers`` that ran."""
    against = [peer for peer in peers if peer in rates]
    return [
        Row(
            name,
            unit,
            (median(each), min(each), max(each)),
            {peer: ratio(each, rates[peer]) for peer in against if peer != name},
        )
        for name, each in rates.items()
    ]


def table(found: Sequence[Row]) -> list[tuple[str, ...]]:
    """Rows of text, the heading first."""
    names = {peer for row in found for peer in row.ratios}
    cases = [row.case for row in found if row.case in names]
    peers = [*sorted(names.difference(cases)), *cases]
    lines: list[tuple[str, ...]] = [
        ("case", f"{found[0].unit} a second (min to max)", *(f"times {peer}" for peer in peers))
    ]
    for row in found:
        ratios = (str(row.ratios[peer]) if peer in row.ratios else "" for peer in peers)
        lines.append((row.case, row.rate, *ratios))
    return lines


def markdown(lines: Sequence[tuple[str, ...]]) -> str:
    """A table, the heading first."""
    heading, *rest = lines
    rule = ("---",) * len(heading)
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, rule, *rest))


def context(peers: Mapping[str, str]) -> dict[str, Any]:
    """Where and with what: date (UTC), machine, load, versions (of ``peers`` too)."""
    packages = {name: version(name) for name in ("simpy", "numpy")}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "versions": {
            "colosim": colosim.__version__,
            "python": platform.python_version(),
            **packages,
            **peers,
        },
    }


def show(result: Mapping[str, Any], file: Path | None) -> None:
    """Print the table and what was skipped; write the JSON, if asked to."""
    print(aligned(table(result["rows"])))
    for peer, reason in result["skipped"].items():
        print(f"{peer} skipped: {reason}")
    write(result, file)
