"""A server that rows pass one after the other: what a guest and the witnesses' link have in common.

The ends of rows follow Lindley's recursion, end = max(arrival, end before) + work.  With sums of
work S that is end = S + max over the rows so far of (arrival - S before), so a cumulative sum and a
cumulative maximum do a whole block (Lindley 1952; Kiefer and Wolfowitz 1955 for the maximum).  In
whole nanoseconds nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from backends.sim.epoch.log import Log, Times


def lindley(at: Times, sums: Times, work: Times | int, from_ns: int, out: Times) -> None:
    """Ends of rows that arrive at ``at`` at a server that is free from ``from_ns`` on.

    sums: of the work of the rows so far, each included.
    """
    np.subtract(at, sums, out=out)
    out += work
    out[0] = max(int(out[0]), from_ns)
    np.maximum.accumulate(out, out=out)
    out += sums


class Lane:
    """Rows [0, position) are through, [position, taken) are in it; [position, planned) have an end.

    ends: the column with their ends, which hold if nothing intervenes (`disturb`).
    arrivals: the column of when they arrive; taken_by(now): how many have.
    work: the column with it, or what each row takes.
    speed: at which the primary's work is done that came with a state.
    """

    def __init__(
        self,
        log: Log,
        arrivals: str,
        work: str | int,
        ends: str,
        taken_by: Callable[[int], int],
        speed: float = 1.0,
    ) -> None:
        self._speed = speed
        self._log = log
        self._arrivals = arrivals
        self.work = work
        self._ends = ends
        self._taken_by = taken_by
        self.position = self.taken = self.planned = 0
        self.left_ns = -1  # of the work of row `position`, if it was begun when last disturbed
        self.inherited = 0  # rows before it came with a state, which knows the primary's work
        self.free_ns = 0  # not before then
        self._sums, self._steps = np.empty(0, np.int64), np.empty(0, np.int64)
        self.moves = False
        self.reads = False  # takes what arrives
        self._since_ns = -1  # when disturbed last, if it was not planned since
        self.settled_ns = -1  # and nothing intervened since

    def settle(self, now_ns: int) -> int:
        """Bring it up to date; return how many more rows are through."""
        if now_ns == self.settled_ns:
            return 0
        self.settled_ns = now_ns
        through = 0
        if self.planned > self.position:
            ends = self._log.view(self._ends, self.position, self.planned)
            through = int(ends.searchsorted(now_ns, "right"))
            if through:
                self.position += through
                self.left_ns = -1
        if self.moves and self.reads:
            self.taken = max(self.taken, self._taken_by(now_ns))
        return through

    def disturb(self, now_ns: int) -> None:
        """What is planned does not hold from now on (after `settle`)."""
        self.settled_ns = -1
        self._since_ns = now_ns
        if self.planned > self.position:
            if self.position < self.taken:
                self.left_ns = int(self._log.view(self._ends, self.position, self.position + 1)[0])
                self.left_ns -= now_ns
            self.planned = self.position

    def trim(self, end: int) -> None:
        """What is planned of the rows from ``end`` on does not hold."""
        if self.planned > end:
            self.planned_to(max(end, self.position))

    def free_from(self, now_ns: int) -> int:
        """When the last row planned is through."""
        if self.planned > self.position:
            return int(self._log.view(self._ends, self.planned - 1, self.planned)[0])
        return max(now_ns, self.free_ns)

    def put(self, position: int, taken: int, left_ns: int) -> None:
        """Go on from there."""
        self.settled_ns = -1
        self.position = self.planned = position
        self.taken = taken
        self.left_ns = left_ns

    def planned_to(self, end: int) -> None:
        """Somebody else has given an end to the rows before ``end``."""
        self.settled_ns = -1
        self.planned = end

    def plan(self, now_ns: int, horizon: int) -> int | None:
        """Give an end to the rows that it can take before ``horizon``; the first that got one."""
        first, end = self.planned, horizon if self.reads else min(self.taken, horizon)
        if not self.moves or end <= first:
            return None
        log = self._log
        out = log.view(self._ends, first, end)
        from_ns = self.free_from(now_ns if self._since_ns < 0 else self._since_ns)
        self._since_ns = -1
        left_ns = self.left_ns if first == self.position and self.left_ns >= 0 else None
        work = self._works(first, end, left_ns)
        at = log.view(self._arrivals, first, end)
        lindley(at, self._sums_of(work, end - first), work, from_ns, out)
        self.planned_to(end)
        return first

    def _sums_of(self, work: Times | int, count: int) -> Times:
        if self._sums.size < count:
            self._sums = np.empty(2 * count, np.int64)
        if not isinstance(work, int):
            return np.cumsum(work, out=self._sums[:count])
        if self._steps.size < count:
            self._steps = np.arange(1, 2 * count + 1, dtype=np.int64)
        return np.multiply(self._steps[:count], work, out=self._sums[:count])

    def _inherited(self, first: int, end: int) -> Times:
        work = self._log.view("primary_work", first, end)
        return work if self._speed == 1.0 else np.rint(work / self._speed).astype(np.int64)

    def _works(self, first: int, end: int, left_ns: int | None) -> Times | int:
        """The work of rows, of the first one what is left; one number if all are alike."""
        work = self._whole_works(first, end)
        if left_ns is None:
            return work
        work = np.full(end - first, work, np.int64) if isinstance(work, int) else work.copy()
        work[0] = left_ns
        return work

    def _whole_works(self, first: int, end: int) -> Times | int:
        """The same as if none was begun.  Rows that came with a state have the primary's work."""
        if isinstance(self.work, int):
            return self.work
        known = min(end, self.inherited)
        if known <= first:
            return self._log.view(self.work, first, end)
        inherited = self._inherited(first, known)
        if known == end:
            return inherited
        return np.concatenate((inherited, self._log.view(self.work, known, end)))
