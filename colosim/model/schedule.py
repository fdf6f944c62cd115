"""Rates that change in time: phases, each with factors on the scenario's own rates.

A rate r that is multiplied by f(t) is the rate r in another time, F(t), the integral of f from 0 to
t: a Poisson process of intensity r f(t) is one of intensity r read off at F (the time change
theorem; Çinlar, Introduction to Stochastic Processes, 1975, 4.7).  So draws keep their meaning and
their addresses: what took x of its own time at the constant rate ends when F has grown by x.  f is
constant in each phase, so F and its inverse are piecewise linear, and exact.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from colosim.model.errors import ModelError, check_range

#: a time that no run reaches, and that leaves room for sums: 73 years
NEVER_NS = 2**61


class TimeChange:
    """F and its inverse for a factor that is ``pieces[i][1]`` for ``pieces[i][0]`` nanoseconds.

    repeats: after the last piece comes the first one again; else the last one stays for good.
    Raises ModelError for a length that is not above 0 or a factor below 0.
    """

    def __init__(self, pieces: Sequence[tuple[int, float]], repeats: bool) -> None:
        if not pieces:
            raise ModelError("a change of rates needs at least one phase")
        for length_ns, factor in pieces:
            check_range("length of a phase", length_ns, 1)
            check_range("factor of a phase", factor)
        self._repeats = repeats
        self._factors = [factor for _, factor in pieces]
        self._starts = [0.0, *accumulate(float(length_ns) for length_ns, _ in pieces)]
        self._done = [0.0, *accumulate(length_ns * factor for length_ns, factor in pieces)]
        self._whole_ns, self._whole_done = self._starts[-1], self._done[-1]
        self._most_done = math.nextafter(self._whole_done, 0.0)  # of a round, less than whole
        if not repeats:  # the last piece has no end
            self._starts[-1] = self._done[-1] = math.inf
        self._arrays = tuple(map(np.array, (self._starts, self._done, self._factors)))

    def factor(self, t_ns: float) -> float:
        """The factor at a time."""
        if self._repeats:
            t_ns -= math.floor(t_ns / self._whole_ns) * self._whole_ns
        return self._factors[self._piece(self._starts, t_ns)]

    def done(self, t_ns: float) -> float:
        """F(t), in nanoseconds of the constant rate; t is 0 or more."""
        rounds = math.floor(t_ns / self._whole_ns) if self._repeats else 0
        t_ns -= rounds * self._whole_ns
        i = self._piece(self._starts, t_ns)
        return (
            rounds * self._whole_done + self._done[i] + (t_ns - self._starts[i]) * self._factors[i]
        )

    def when(self, done_ns: float) -> float:
        """The time at which F is that, the last such; at most `NEVER_NS`."""
        if self._repeats and not self._whole_done:
            return NEVER_NS
        rounds = 0
        if self._repeats:
            rounds = math.floor(done_ns / self._whole_done)
            # rounded, it may lie a little outside of its round, in a piece where nothing is done
            done_ns = min(max(done_ns - rounds * self._whole_done, 0.0), self._most_done)
        i = self._piece(self._done, done_ns)
        if not self._factors[i]:
            return NEVER_NS
        t_ns = self._starts[i] + (done_ns - self._done[i]) / self._factors[i]
        return min(rounds * self._whole_ns + t_ns, NEVER_NS)

    def when_each(self, done_ns: NDArray[np.float64]) -> NDArray[np.float64]:
        """`when` of each, to the bit."""
        starts, done, factors = self._arrays
        if self._repeats and not self._whole_done:
            return np.full(done_ns.shape, float(NEVER_NS))
        rounds = np.floor(done_ns / self._whole_done) if self._repeats else np.zeros(done_ns.shape)
        rest = done_ns - rounds * self._whole_done
        if self._repeats:
            rest = np.clip(rest, 0.0, self._most_done)
        i = np.clip(done.searchsorted(rest, "right"), 1, len(factors)) - 1
        with np.errstate(divide="ignore", invalid="ignore"):
            t_ns = rounds * self._whole_ns + (starts[i] + (rest - done[i]) / factors[i])
        return np.where(factors[i] > 0, np.minimum(t_ns, NEVER_NS), float(NEVER_NS))

    def _piece(self, borders: list[float], at: float) -> int:
        # what is rounded may lie a little outside
        return max(min(bisect_right(borders, at), len(self._factors)), 1) - 1


class Phase(NamedTuple):
    """Factors on the rates for a time.

    load: of arrivals, or of the rate at which clients end thinking.  clients: how many of them ask
    at all, the first ones; None for all.  touches: of the guest's writes that no request makes.
    divergence: of everything that makes the guests differ.
    """

    length_ns: int
    load: float = 1.0
    clients: int | None = None
    touches: float = 1.0
    divergence: float = 1.0


@dataclass(frozen=True)
class Schedule:
    """Phases in turn; none of them: nothing ever changes."""

    phases: tuple[Phase, ...] = ()
    repeats: bool = True

    def load(self, client: int | None = None) -> TimeChange | None:
        """Of arrivals, or of one client's thinking, which stands while it does not ask."""

        def of(phase: Phase) -> float:
            asks = client is None or phase.clients is None or client < phase.clients
            return phase.load if asks else 0.0

        return self._change(of)

    def touches(self) -> TimeChange | None:
        return self._change(lambda phase: phase.touches)

    def divergence(self) -> TimeChange | None:
        return self._change(lambda phase: phase.divergence)

    def _change(self, factor: Callable[[Phase], float]) -> TimeChange | None:
        """None if it is 1 throughout."""
        pieces = [(phase.length_ns, factor(phase)) for phase in self.phases]
        if all(each == 1.0 for _, each in pieces):
            return None
        return TimeChange(pieces, self.repeats)


#: nothing ever changes
CONSTANT = Schedule()
