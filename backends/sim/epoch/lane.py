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


def lindley(at: Times, work: Times, from_ns: int, out: Times, sums: Times) -> None:
    """Ends of rows that arrive at ``at`` at a server that is free from ``from_ns`` on.

    sums: memory for as many.
    """
    np.cumsum(work, out=sums)
    np.subtract(at, sums, out=out)
    out += work
    out[0] = max(int(out[0]), from_ns)
    np.maximum.accumulate(out, out=out)
    out += sums


class Lane:
    """Rows [0, position) are through, [position, taken) are in it; [position, planned) have an end.

    ends: the column with their ends, which hold if nothing intervenes (`disturb`).
    arrivals: the column of when they arrive; taken_by(now): how many have.
    """

    def __init__(
        self,
        log: Log,
        arrivals: str,
        work: str | Callable[[], int],
        ends: str,
        taken_by: Callable[[int], int],
    ) -> None:
        self._log = log
        self._arrivals = arrivals
        self._work = work
        self._ends = ends
        self._taken_by = taken_by
        self.position = self.taken = self.planned = 0
        self.left_ns = -1  # of the work of row `position`, if it was begun when last disturbed
        self.inherited = 0  # rows before it came with a state, which knows the primary's work
        self.free_ns = 0  # not before then
        self._sums = np.empty(0, np.int64)
        self.moves = False
        self.reads = False  # takes what arrives

    def settle(self, now_ns: int) -> int:
        """Bring it up to date; return how many more rows are through."""
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
        if self.planned > self.position:
            if self.position < self.taken:
                self.left_ns = int(self._log.view(self._ends, self.position, self.position + 1)[0])
                self.left_ns -= now_ns
            self.planned = self.position

    def put(self, position: int, taken: int, left_ns: int) -> None:
        """Go on from there."""
        self.position = self.planned = position
        self.taken = taken
        self.left_ns = left_ns

    def plan(self, now_ns: int, horizon: int) -> int | None:
        """Give an end to the rows that it can take before ``horizon``; the first that got one."""
        first, end = self.planned, horizon if self.reads else self.taken
        if not self.moves or end <= first:
            return None
        log = self._log
        out = log.view(self._ends, first, end)
        if first > self.position:
            from_ns = int(log.view(self._ends, first - 1, first)[0])
        else:
            from_ns = max(now_ns, self.free_ns)
        if isinstance(self._work, str):
            work = log.view(self._work, first, end)
        else:
            work = np.full(end - first, self._work(), np.int64)
        begun = first == self.position and self.left_ns >= 0
        if begun or first < self.inherited:
            work = work.copy()
            if (known := min(end, self.inherited)) > first:
                work[: known - first] = log.view("primary_work", first, known)
            if begun:
                work[0] = self.left_ns
        if self._sums.size < end - first:
            self._sums = np.empty(2 * (end - first), np.int64)
        at = log.view(self._arrivals, first, end)
        lindley(at, work, from_ns, out, self._sums[: end - first])
        self.planned = end
        return first
