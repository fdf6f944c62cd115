"""The network at fidelity ``epoch``: who reads the log, and what became of its rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backends.sim.clock import Clock
from backends.sim.epoch.guest import EpochGuest, Rows
from backends.sim.epoch.log import Log, Times
from backends.sim.guest import Guest
from backends.sim.traffic import Network


class EpochNetwork(Network):
    """Rows enter by the log; they leave in blocks."""

    def __init__(self, clock: Clock, delay_ns: int, log: Log, duration_ns: int) -> None:
        super().__init__(clock, delay_ns)
        self._log = log
        self._duration_ns = duration_ns
        self._served_to = self._left_to = 0  # rows from there on never were, or left

    # -- input -----------------------------------------------------------------------------

    def catch_up(self, guest: Guest) -> None:
        assert isinstance(guest, EpochGuest)
        guest.reads(guest in self._readers and not self._paused)

    def unread_by(self, guest: Guest) -> None:
        super().unread_by(guest)
        self.catch_up(guest)

    def pause(self) -> None:
        super().pause()
        for guest in self._readers:
            self.catch_up(guest)

    # -- output ----------------------------------------------------------------------------

    def serve(self, first: int, end: int, when_ns: Times) -> None:
        """The guest that clients talk to served these rows; the first time counts."""
        served = self._log.view("served", first, end)
        if first >= self._served_to:
            served[:] = when_ns
        else:
            np.copyto(served, when_ns, where=served < 0)
        self._served_to = max(self._served_to, end)

    def leave(self, first: int, end: int, when_ns: Times | int, late_ns: Times | int) -> None:
        """Rows leave for their clients; what a client has is ignored."""
        log = self._log
        released = log.view("released", first, end)
        if first >= self._left_to:  # nobody can have them
            np.add(when_ns, late_ns + self._delay_ns, out=released)
            if log.has_jitter:
                released += log.view("jitter", first, end)
        else:
            back_ns = when_ns + (late_ns + self._delay_ns)
            if log.has_jitter:
                back_ns = back_ns + log.view("jitter", first, end)
            new = released < 0
            self.duplicates += int(new.size - np.count_nonzero(new))
            np.copyto(released, back_ns, where=new)
        self._left_to = max(self._left_to, end)

    def missing(self, first: int, end: int) -> list[Rows]:
        """Runs of rows among [first, end) that no client has."""
        rows = first + np.flatnonzero(self._log.view("released", first, end) < 0)
        return runs(rows)

    def table(self) -> dict[str, NDArray[np.int64]]:
        return self._log.table(self._duration_ns, self._delay_ns)


def runs(rows: Times) -> list[Rows]:
    """Rows in order, as runs of consecutive ones."""
    if not rows.size:
        return []
    breaks = np.flatnonzero(np.diff(rows) > 1)
    firsts = np.concatenate((rows[:1], rows[breaks + 1])).tolist()
    ends = (np.concatenate((rows[breaks], rows[-1:])) + 1).tolist()
    return list(zip(firsts, ends, strict=True))
