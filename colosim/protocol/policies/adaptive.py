"""Adaptive epochs: as short as the guest's dirty pages and the way to the other side allow.

The idea is Adaptive Remus's (da Silva, Obelheiro, Koslovski, "Adaptive Remus: adaptive
checkpointing for Xen-based virtual machine replication", IJPEDS 32(4), 2017): short intervals
suit a guest that talks, long ones a guest that computes, and no fixed one suits both.  The rule
is ours, so that its fixed point is known:

    interval = takes · 100 / busy_percent, within minimum and maximum

takes is what a checkpoint as large as the last takes from its start to its commit, by the straight
line (least squares) of time over bytes through the last ``window`` checkpoints: what they have in
common is the hosts' and the link's fixed part, what grows with the bytes is the link's rate.  Its
slope is kept between 0 and time / bytes.  So a burst of writes counts at once, a hiccup of the
link for its share of the window.

Let c(I) be what a checkpoint takes if it is made every I.  At rest I = c(I) · 100 / busy_percent.
Distinct dirty pages are concave in I, so there is at most one such I above 0 and c'(I) is below
busy_percent / 100 there: the rule comes to it.  Where there is none (the guest dirties more than
that part of the link carries) it ends at the maximum.  The default of busy_percent is assumed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import ClassVar

from colosim.protocol.policies.base import MS, SECOND, parameter
from colosim.protocol.policies.periodic import Periodic
from colosim.protocol.types import Committed, Signal


@dataclass(frozen=True, slots=True)
class AdaptiveParams:
    """Parameters of `Adaptive`."""

    minimum_interval_ns: int = parameter(
        25 * MS, "time", "shortest interval, and the first; Remus's shortest (Cully 2008)", 1
    )
    maximum_interval_ns: int = parameter(1 * SECOND, "time", "longest interval", 1)
    busy_percent: int = parameter(
        25, "percent", "part of the interval that a checkpoint may take until its commit", 1, 100
    )
    window: int = parameter(8, "count", "checkpoints that the line goes through", 1)


class Adaptive(Periodic):
    """Periodic epochs whose interval follows what the last checkpoints took."""

    name: ClassVar[str] = "adaptive"
    summary: ClassVar[str] = "remus with an interval that follows dirty pages and link"
    Params: ClassVar[type] = AdaptiveParams

    def __init__(self, params: AdaptiveParams) -> None:
        super().__init__(params, params.minimum_interval_ns)
        self._last: deque[tuple[int, int]] = deque(maxlen=params.window)  # (bytes, busy ns)

    def signal(self, signal: Signal, now_ns: int) -> str | None:
        if isinstance(signal, Committed) and self._started_ns is not None:
            self._last.append((max(signal.sent_bytes, 1), now_ns - self._started_ns))
            self.interval_ns = self._next_ns()
            self._due_ns = self._started_ns + self.interval_ns
        return super().signal(signal, now_ns)

    def _next_ns(self) -> int:
        params: AdaptiveParams = self.params
        wanted_ns = self._takes_ns() * 100 // params.busy_percent
        return max(params.minimum_interval_ns, min(wanted_ns, params.maximum_interval_ns))

    def _takes_ns(self) -> int:
        """What a checkpoint as large as the last takes."""
        count = len(self._last)
        sizes = sum(size for size, _ in self._last)
        times = sum(busy for _, busy in self._last)
        # slope of the line: rise / run, whole numbers so that every machine comes to the same
        rise = count * sum(size * busy for size, busy in self._last) - sizes * times
        run = count * sum(size * size for size, _ in self._last) - sizes * sizes
        if rise <= 0 or run <= 0:
            return times // count
        if rise * sizes > times * run:
            rise, run = times, sizes
        beyond = count * self._last[-1][0] - sizes
        return (times * run + rise * beyond) // (count * run)
