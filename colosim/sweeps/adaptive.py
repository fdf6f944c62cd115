"""Replications where intervals are wide: a sequential rule, in rounds.

Every point begins with as many replications as the sweep says.  After each round a point is done
when the 95 % interval of each chosen metric is narrow enough: half width / |mean| at most
g / (1 + g), for a wanted g.  With that the true relative error is at most g when the interval
covers the mean (Law, "Simulation Modeling and Analysis", 5th ed., 9.4.1).  The others get what
their spread lets expect that they need, widest first while the budget lasts.

The number of replications is then no constant but depends on what was drawn: intervals that happen
to be narrow too early end a point, so they cover the mean somewhat less often than 95 %, and
mean and variance are biased a little.  Both vanish as g gets smaller (Chow and Robbins, Ann. Math.
Stat. 36, 1965; Glynn and Whitt, Ann. Appl. Probab. 2, 1992), and are small from ten first
replications on (Law, as above).  For an interval that holds exactly, fix the replications.

What is decided depends on results alone, not on who computed them when: the same seed gives the
same replications with every scheduler, and after every interruption.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colosim.analysis.stats import interval
from colosim.sweeps.errors import SweepError
from colosim.sweeps.file import Adaptive

#: what a variance takes at least
_FEWEST = 5

#: values of the chosen metrics, one row a replication
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """See the module.  ``first``: replications of every point; the others as in `Adaptive`."""

    first: int
    metrics: tuple[str, ...]
    relative: float
    most: int
    budget: int | None

    @classmethod
    def of(cls, given: Adaptive, first: int, points: int) -> Rule:
        """The rule of a file; `SweepError` if its numbers do not go together."""
        if not given.metrics:
            raise SweepError("adaptive.metrics: is empty; name a metric")
        if first < _FEWEST:
            raise SweepError(
                f"replications: {first} are too few to see how wide an interval is; "
                f"give at least {_FEWEST}, better 10, or leave adaptive out"
            )
        if given.most < first:
            raise SweepError(f"adaptive.most: less than the first {first} replications; give more")
        if given.budget is not None and given.budget < first * points:
            raise SweepError(
                f"adaptive.budget: {points} points begin with {first} replications each; "
                f"give at least {first * points}"
            )
        return cls(first, tuple(given.metrics), given.relative, given.most, given.budget)

    def to_mapping(self) -> dict[str, Any]:
        """For the identity of a sweep."""
        return asdict(self) | {"metrics": list(self.metrics)}

    def width(self, values: Values) -> float:
        """The widest interval of a point, as a multiple of what is wanted; at most 1: done."""
        wanted = self.relative / (1 + self.relative)
        return max((_relative(column) / wanted for column in values.T), default=0.0)

    def further(self, found: Mapping[int, Values]) -> list[tuple[int, int, int]]:
        """(point, first replication, replications) of the next round, widest first; or nothing."""
        left = math.inf if self.budget is None else self.budget - sum(map(len, found.values()))
        widths = {point: self.width(values) for point, values in found.items()}
        batches = []
        for point in sorted(widths, key=lambda point: (-widths[point], point)):
            n = len(found[point])
            granted = int(min(self._wants(n, widths[point]), left))
            if granted:
                batches.append((point, n, granted))
                left -= granted
        return batches

    def wide(self, found: Mapping[int, Values]) -> int:
        """How many points have an interval that is wider than wanted."""
        return sum(self.width(values) > 1 for values in found.values())

    def _wants(self, n: int, width: float) -> int:
        """Widths shrink with the root of n; but do not trust an estimate for more than twice n.

        Nor look too often: every look is a chance to end too early.
        """
        if width <= 1 or n >= self.most:
            return 0
        expected = n if math.isinf(width) else min(math.ceil(n * width**2) - n, n)
        return min(max(expected, math.ceil(self.first / 2)), self.most - n)


def _relative(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Half width of the 95 % interval / |mean|; 0 if there is nothing to measure or no spread."""
    found = interval(values)
    if found.n == 0:
        return 0.0
    half = (found.high - found.low) / 2
    if math.isnan(half):  # one value
        return math.inf
    if half == 0:
        return 0.0
    return half / abs(found.mean) if found.mean else math.inf
