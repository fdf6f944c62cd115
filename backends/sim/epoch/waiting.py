"""How far ahead fidelity ``epoch`` plans, where clients wait: the plan makes the rows to come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import heapify, heappop, heappush

import numpy as np

from backends.nodes import PRIMARY
from backends.sim.epoch.feedback import FeedbackLog
from backends.sim.epoch.guest import EpochGuest
from backends.sim.epoch.horizon import LEAST_BLOCK, Horizon
from backends.sim.epoch.host import EpochHost
from backends.sim.epoch.lane import Lane
from backends.sim.epoch.log import Times
from backends.sim.epoch.meeting import Meeting
from backends.sim.epoch.witnesses import WitnessLink

_LARGEST_BLOCK = 4_096
#: when a request arrives; the row before of its client (those of one moment leave in the order of
#: rows); client and request
Due = tuple[int, int, int, int]


class ClosedHorizon(Horizon):
    """Of rows of clients that wait for their answers."""

    feeds_back = True

    def __init__(
        self,
        log: FeedbackLog,
        guests: Sequence[EpochGuest],
        hosts: Mapping[str, EpochHost],
        owner: Callable[[], EpochHost],
        link: WitnessLink,
        meeting: Meeting,
        needed_from: Callable[[], int],
        duration_ns: int,
    ) -> None:
        """owner: whose guest clients talk to.  needed_from: the oldest row that anybody needs."""
        self._log = log
        self._guests = guests
        self._hosts = hosts
        self._owner = owner
        self._link = link
        self._meeting = meeting
        self._needed_from = needed_from
        self._duration_ns = duration_ns
        self._block = LEAST_BLOCK
        self._block_first = 0

    def begin(self, now_ns: int, moving: Sequence[Lane], ran_out: bool) -> None:
        """What has not arrived follows from what leaves, and that is to be planned anew."""
        log = self._log
        log.cut(now_ns)
        for guest in self._guests:
            if guest.lane.planned > log.size:
                guest.lane.disturb(now_ns)
        self._meeting.trim(log.size)
        self.end = log.size
        log.forget(min((self._needed_from(), *(row for row in log.last if row >= 0))))

    def finish(self, now_ns: int, moving: Sequence[Lane], ran_out: bool) -> int:
        """Make the rows to come: an arrival, what becomes of it, its client's next arrival.

        Twice as many as came since the last time, or as were made then if all of them came.
        """
        log, meeting = self._log, self._meeting
        due, first = self._asked(now_ns), log.size
        most = 2 * (self._block if ran_out else first - self._block_first)
        self._block = min(max(most, LEAST_BLOCK), _LARGEST_BLOCK)
        self._block_first = first
        rule = self._leaves_by()
        sooner = _Sooner(first, self._guests, self._link, meeting, now_ns)
        column, floor_ns = (rule[0], rule[1].floor_ns) if rule else ("", 0)
        rows: dict[str, list[int]] = {name: [] for name in sooner.columns}
        differing: list[int] = []
        end_ns = self._duration_ns
        row = first
        while due and due[0][0] < end_ns and row - first < self._block:
            at_ns, before, client, request = heappop(due)
            values = sooner.ends(at_ns, *log.works(client, request))
            is_other = log.differs(client, request)
            if is_other:
                differing.append(row)
            if "met" in values and (is_other or sooner.is_drifted(values["mirrored"])):
                is_other = True
                end_ns = min(end_ns, values["met"] + 1)
            stays = column == "met" and (is_other or client in meeting.stuck)
            leaves_ns = max(values[column], floor_ns) if column in values and not stays else -1
            if leaves_ns >= 0:
                heappush(due, (log.ask(client, request, leaves_ns), row, client, request + 1))
            values |= {"client": client, "request": request, "before": before, "leaves": leaves_ns}
            for name, value in values.items():
                rows[name].append(value)
            log.last[client] = row
            row += 1
        if row > first:
            log.append(rows, differing)
            sooner.planned_to(row, self._hosts[PRIMARY].told)
        return due[0][0] if due else self._duration_ns

    def left(self, first: int, end: int, when_ns: Times | int, now_ns: int) -> bool:
        """Clients go on from there, if the plan did not say so."""
        leaves = self._log.view("leaves", first, end)
        if not (leaves != when_ns).any():
            return False
        leaves[:] = np.where((leaves >= 0) & (leaves <= now_ns), leaves, when_ns)
        return True

    # -- what is known to leave ------------------------------------------------------------

    def _leaves_by(self) -> tuple[str, EpochHost] | None:
        """The column with the moments at which output leaves by itself, and of which host."""
        host = self._owner()
        if not host.speaks:
            return None
        if host.is_open:
            return host.made_in, host
        return ("met", host) if self._meeting.is_comparing and host.id == PRIMARY else None

    def _leaves_ns(self, row: int, now_ns: int) -> int | None:
        """When a row that has arrived leaves, or has left; None if that is not known."""
        log = self._log
        left_ns = int(log.view("leaves", row, row + 1)[0])
        if 0 <= left_ns <= now_ns:
            return left_ns
        rule = self._leaves_by()
        if rule is None:
            return None
        column, host = rule
        if row < host.told:
            return None
        is_met = column == "met"
        if not (self._meeting.agrees(row) if is_met else row < host.guest.lane.planned):
            return None
        return max(int(log.view(column, row, row + 1)[0]), host.floor_ns)

    def _asked(self, now_ns: int) -> list[Due]:
        """The next request of every client of which it is known when it arrives."""
        log = self._log
        due: list[Due] = []
        for client, row in enumerate(log.last):
            if row < 0:
                due.append((log.ask(client, -1, 0), -1, client, 0))
                continue
            leaves_ns = self._leaves_ns(row, now_ns)
            log.view("leaves", row, row + 1)[0] = -1 if leaves_ns is None else leaves_ns
            if leaves_ns is not None:
                request = log.request(row)
                due.append((log.ask(client, request, leaves_ns), row, client, request + 1))
        heapify(due)
        return due


class _Sooner:
    """What becomes of a row as it arrives, in the lanes that take it."""

    def __init__(
        self,
        size: int,
        guests: Sequence[EpochGuest],
        link: WitnessLink,
        meeting: Meeting,
        now_ns: int,
    ) -> None:
        """size: rows that there are; lanes that are not planned so far take no more."""
        self._link, self._meeting, self._now_ns = link, meeting, now_ns
        self._lanes = [guest.lane for guest in guests]
        self._goes = [lane.moves and lane.reads and lane.planned == size for lane in self._lanes]
        self._free_ns = [lane.free_from(now_ns) for lane in self._lanes]
        is_open = meeting.is_comparing and link.lane.moves and link.lane.reads
        self._is_offered = is_open and self._goes[1]
        self._meets = self._is_offered and self._goes[0]
        self._link_ns = link.lane.free_from(now_ns)
        self._drift_ns = meeting.drift_ns
        self.columns = ["at", "client", "request", "before", "leaves"]
        self.columns += ["primary_work", "secondary_work"]
        self._names = ("made", "mirrored")[: len(self._lanes)]
        self.columns += [name for name, goes in zip(self._names, self._goes, strict=True) if goes]
        self.columns += ["left", "witnessed"] * self._is_offered + ["met"] * self._meets

    def ends(self, at_ns: int, work_ns: int, secondary_work_ns: int) -> dict[str, int]:
        """Columns of the row that arrives next."""
        values = {"at": at_ns, "primary_work": work_ns, "secondary_work": secondary_work_ns}
        works = (work_ns, secondary_work_ns)
        for i, name in enumerate(self._names):
            if self._goes[i]:
                self._free_ns[i] = values[name] = max(at_ns, self._free_ns[i]) + works[i]
        if self._is_offered:
            link = self._link
            values["left"] = max(values["mirrored"], self._link_ns) + link.witness_ns
            self._link_ns = values["left"]
            values["witnessed"] = max(self._link_ns + link.delay_ns, link.arrived_ns)
        if self._meets:
            values["met"] = max(values["made"], values["witnessed"])
        return values

    def is_drifted(self, mirrored_ns: int) -> bool:
        """The state of the guests differs by then."""
        return self._drift_ns is not None and mirrored_ns >= self._drift_ns

    def planned_to(self, end: int, told: int) -> None:
        """The lanes have ends up to there."""
        for lane, goes in zip(self._lanes, self._goes, strict=True):
            if goes:
                lane.planned_to(end)
        if self._is_offered:
            self._link.lane.planned_to(end)
        if self._meets:
            self._meeting.planned_to(end, self._now_ns, told)
