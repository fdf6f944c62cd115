"""Where rows of both guests meet at fidelity ``epoch``: when, and which of them differ.

Nobody is told here: nodes, gates and the rest of the world are unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from backends.sim.epoch.guest import EpochGuest
from backends.sim.epoch.log import Log
from backends.sim.epoch.witnesses import WitnessLink
from backends.sim.parting import Parting


class Meeting:
    """A row is met when the primary's guest has made it and its witness has come.

    is_comparing: both guests run on the same state.
    stuck: connections that were found to differ, until the cut.
    drift_ns: since when the state of the guests differs, or will.
    told, where it is asked for: rows before it have been compared.
    """

    def __init__(
        self,
        log: Log,
        guests: Sequence[EpochGuest],
        link: WitnessLink,
        parting: Parting,
        is_comparing: bool,
    ) -> None:
        self._log = log
        self._guests = guests  # the primary's, then the secondary's
        self._link = link
        self._parting = parting
        self.is_comparing = is_comparing
        self.stuck: set[int] = set()
        self._met = 0  # rows before it have their moment in "met"
        self._drift: int | None = None  # the row from which on the state of the guests differs
        self.drift_ns: int | None = None

    # -- the state of both -----------------------------------------------------------------

    def go_on_from(self, position: int, now_ns: int) -> None:
        """Both guests are equal, and make that row next."""
        self._link.go_on_from(position, now_ns)
        self._met = position
        self.is_comparing = True

    def synchronised(self) -> None:
        """Whether and when they part is drawn anew."""
        self._drift = self.drift_ns = None

    def cut(self) -> None:
        """No connection is stuck any more."""
        self.stuck.clear()

    def stop_comparing(self) -> None:
        """They do not run on the same state any more."""
        self.is_comparing = False

    # -- plans -----------------------------------------------------------------------------

    def plan(self, now_ns: int, told: int, fresh: Iterable[int | None]) -> None:
        """What witnesses do, and when rows meet.  fresh: the first rows that guests make anew."""
        rows = (self._link.plan(now_ns), *fresh)
        self._meet(min((row for row in rows if row is not None), default=self._met), told)
        self._watch_drift(now_ns, told)

    def planned_to(self, end: int, now_ns: int, told: int) -> None:
        """Somebody else has given its moment to the rows before ``end``."""
        self._met = end
        self._watch_drift(now_ns, told)

    def trim(self, end: int) -> None:
        """What is planned of the rows from ``end`` on does not hold."""
        self._met = min(self._met, end)

    def _meet(self, fresh: int, told: int) -> None:
        log = self._log
        first = max(min(fresh, self._met), told)
        end = min(self._guests[0].lane.planned, self._link.lane.planned)
        if first < end:
            made, witnessed = log.view("made", first, end), log.view("witnessed", first, end)
            np.maximum(made, witnessed, out=log.view("met", first, end))
        self._met = max(first, end)

    def _watch_drift(self, now_ns: int, told: int) -> None:
        """From which row on every response differs, as far as is planned."""
        hazard_at_ns = self._parting.hazard_at_ns
        if hazard_at_ns is None:
            return
        guest = self._guests[-1]
        if self.drift_ns is None or self.drift_ns > now_ns:
            left_ns = hazard_at_ns - guest.exposure_ns
            self.drift_ns = now_ns + max(0, left_ns) if guest.lane.moves else None
        self._drift = None
        end = guest.lane.planned
        if self.drift_ns is not None and told < end:
            ends = self._log.view("mirrored", told, end)
            row = told + int(ends.searchsorted(self.drift_ns, "left"))
            self._drift = row if row < end else None

    # -- questions -------------------------------------------------------------------------

    def needed(self, told: int) -> tuple[int, ...]:
        """Oldest rows that are yet to be compared, or whose witnesses are under way."""
        link = self._link.lane
        if self.is_comparing:
            return told, link.position
        return (link.position,) if link.position < link.planned else ()

    def known(self) -> int:
        """Rows before it have a moment in "met" that holds if nothing intervenes."""
        if not self.is_comparing:
            return 0
        ours, theirs = self._guests
        return min(self._met, self._link.lane.planned, ours.lane.planned, theirs.lane.planned)

    def next_difference(self, row: int) -> int | None:
        """The next row from ``row`` on that differs and that nobody knows of, as far as planned."""
        while True:
            found = self._log.differing(row)
            if self._drift is not None:
                drifted = max(row, self._drift)
                found = drifted if found is None else min(found, drifted)
            if found is None or found >= self.known():
                return None
            if self._log.client(found) not in self.stuck:
                return found
            row = found + 1

    def agrees(self, row: int) -> bool:
        """It is known when the row meets its equal."""
        if row >= self.known() or self._log.client(row) in self.stuck:
            return False
        return self.next_difference(row) != row

    def came_ns(self, row: int) -> int | None:
        """When the first of the two responses was at the comparison, or will be."""
        log = self._log
        when_ns = []
        if row < self._guests[0].lane.planned:
            when_ns.append(int(log.view("made", row, row + 1)[0]))
        if self.is_comparing and row < self._link.lane.planned:
            when_ns.append(int(log.view("witnessed", row, row + 1)[0]))
        return min(when_ns, default=None)
