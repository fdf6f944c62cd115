"""Output at fidelity ``epoch``: guests, witnesses and clients are arrays.

What will happen is planned for a block of rows ahead, as if nothing intervened.  Whatever does (a
checkpoint's steps, a fault) first brings the guests up to date, then their plans are made anew.
The nodes hear of output when it matters to them: at a difference, at a cut, at the end of a block;
as one range of rows, with its witness if it has met it.  What they then release leaves at the
moments that the arrays say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.base import Cause
from backends.nodes import PRIMARY, SECONDARY
from backends.sim.clock import Planned
from backends.sim.epoch.feedback import FeedbackLog
from backends.sim.epoch.guest import EpochGuest, EpochSnapshot, Rows
from backends.sim.epoch.lane import Lane
from backends.sim.epoch.log import Log, Times
from backends.sim.epoch.traffic import EpochNetwork, runs
from backends.sim.foresight import Foresight
from backends.sim.guest import Snapshot
from backends.sim.host import Host
from backends.sim.link import NS_PER_S
from backends.sim.output import Output
from colosim.model.streams import Streams
from colosim.protocol import types as t
from colosim.protocol.checkpoint import P
from colosim.protocol.policies import POLICIES
from colosim.scenario import ClosedService, OpenService, Scenario
from colosim.session import Ear, OfRole

if TYPE_CHECKING:
    from backends.sim.world import SimWorld

#: the stream of rows; what a stream of its own is made of is a client's connection
STREAM = "responses"
_LEAST_BLOCK = 64
_LARGEST_BLOCK = 32_768
#: when a request arrives; the row before of its client (those of one moment leave in the order of
#: rows); client and request
Due = tuple[int, int, int, int]
_LARGEST_FORESIGHT = 4_096  # rows of clients that wait
_BEYOND = 32  # rows planned after one that differs
#: at these a node's gate, or what it waits for, may change for good
_MATTERS = (t.Done, t.Failed, t.VoteSeen, t.LinkLost, t.VmGone, t.PeerGone, t.HandOver)


@dataclass(slots=True)
class EpochHost(Host):
    """A host whose guest's output is rows.

    told: rows before it were told to the node, or skipped.
    skipped: rows that were made and not told, for their connection differs.
    held: what the gate has, rows by (stream, first).
    is_open: the gate lets output pass.  floor_ns: nothing leaves before then.
    hung_ns: when its node hung last.
    again: rows that the loaded state had made and, for all it knows, nobody has.
    """

    guest: EpochGuest
    told: int = 0
    skipped: list[int] = field(default_factory=list)
    held: dict[tuple[str, int], Rows] = field(default_factory=dict)
    is_open: bool = False
    floor_ns: int = 0
    hung_ns: int = -1
    again: tuple[Rows, ...] = ()

    @property
    def offers(self) -> bool:
        """As a secondary: what its guest says goes to the other node."""
        return self.alive and not self.hung and not self.is_open


class EpochOutput(Output, Foresight):
    """What guests say are rows of a log."""

    network: EpochNetwork
    says_late = True
    sends_witnesses = False  # the log has them

    def __init__(self, world: SimWorld, scenario: Scenario, policy: str, streams: Streams) -> None:
        super().__init__(world, scenario, policy, streams)
        self.foresight = self
        self._is_open = POLICIES[policy].output is t.Output.NONE  # from the start
        self._log = self._log_of(scenario, policy, streams)
        self._end_ns = scenario.duration_ns
        self.network = EpochNetwork(self._clock, self._client_delay_ns, self._log, self._end_ns)
        self._owes_plan = False  # there was nothing to plan, and that may be over
        self._is_called = False  # a call to plan is under way
        self._stuck: set[int] = set()  # connections that differ, until the cut
        self._is_comparing = self.compares  # both guests run on the same state
        self._met = 0  # rows before it have their moment in "met"
        self._drift: int | None = None  # the row from which on the state of the guests differs
        self._drift_ns: int | None = None  # and since when
        self._offered = 0  # responses that the secondary has sent as witnesses
        self._offer: Cause | None = None  # the action by which it sent the latest
        self._leaving: tuple[int, int, Times] | None = None  # rows, and when they may leave
        self._block = _LEAST_BLOCK  # of rows of clients that wait
        #: of others, while both guests run and while one does, which is soon over
        self._blocks = {True: _LEAST_BLOCK, False: _LEAST_BLOCK}
        self._is_whole = True  # the last block was of the first kind
        self._block_first = self._horizon = 0
        #: calls that are planned, by their methods
        self._calls: dict[Callable[[object], None], Planned] = {}
        self._age_is_called = False  # the same of the look at the ages of responses
        self._bits_per_ns = scenario.link.bandwidth_bps / NS_PER_S
        self._delay_ns = scenario.link.delay_ns
        self._arrived_ns = 0  # no witness is there before then: it would overtake others
        self._pair: dict[str, EpochHost] = {}
        self._guests: list[EpochGuest] = []
        params = scenario.policy_params(policy)
        self._timeout_ns: int | None = getattr(params, "compare_timeout_ns", None)
        self._witness_lane = Lane(
            self._log, "mirrored", self._witness_ns, "left", self._mirrored_by
        )
        self._witness_lane.moves = self._witness_lane.reads = self.compares

    # -- parts -----------------------------------------------------------------------------

    def _log_of(self, scenario: Scenario, policy: str, streams: Streams) -> Log:
        workload, jitter = scenario.workload, scenario.execution.jitter
        speed = scenario.execution.secondary_speed if POLICIES[policy].protects() else 1.0
        paired = POLICIES[policy].protects() and scenario.execution.executes
        probability = scenario.divergence.probability
        if isinstance(workload, ClosedService):
            log = FeedbackLog(
                workload, streams, jitter, probability, paired, speed, scenario.schedule()
            )
            log.late_ns = self._release_ns
            return log
        assert isinstance(workload, OpenService)  # so says the scenario
        change, end_ns = scenario.schedule().load(), scenario.duration_ns
        return Log(
            workload,
            end_ns,
            streams,
            jitter,
            probability,
            paired,
            speed,
            change,
            mirrored=self.compares,
        )

    def host(self, name: str, peer: str) -> Host:
        first = name == PRIMARY
        lane = Lane(
            self._log,
            "at",
            "primary_work" if first else "secondary_work",
            "made" if first else "mirrored",
            self._log.arrived,
            self._speed(name),
        )
        guest = EpochGuest(
            self._clock,
            self._slowdown(),
            lane,
            lambda first, end: self._made(name, first, end),
            self._changed,
            self._trimmed,
            self._speed(name),
        )
        host = self._pair[name] = EpochHost(name, guest, peer, is_open=self._is_open)
        self._guests.append(guest)
        return host

    def ears(self, known: Mapping[type, Ear]) -> dict[type, Ear]:
        cut = self._both(known[t.Cut], self._on_cut)
        return {**known, t.Cut: OfRole(t.Role.PRIMARY, cut)}

    @staticmethod
    def _both(*ears: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
        def hear(node: str, signal: Any) -> None:
            for ear in ears:
                ear(node, signal)

        return hear

    def _of(self, name: str) -> EpochHost:
        return self._pair[name]

    def start_clients(self) -> None:
        """They are the log."""
        self._changed()

    def hear_all(self) -> None:
        self.settle()
        for host in self._pair.values():
            self._hear(host)

    # -- plans -----------------------------------------------------------------------------

    def _changed(self) -> None:
        """Something intervened: plan anew, once all of it has happened."""
        self.is_planned = False
        if not self._is_called and not self.plans_wait:
            self._is_called = True
            self._clock.after(0, self._called)

    def _trimmed(self) -> None:
        """A guest stopped, or takes no more rows: of those before them, all that is planned holds.

        But there may be others, beyond the horizon, and clients that wait go on from what is gone.
        """
        lanes = (guest.lane for guest in self._guests)
        is_short = any(lane.moves and lane.planned < lane.taken for lane in lanes)
        if is_short or isinstance(self._log, FeedbackLog):
            self._changed()
            return
        self._call_off(self._ran_out)
        if self.compares:
            self._witness_lane.settle(self._clock.now_ns())
            self._witness_lane.trim(self._guests[-1].lane.planned)
            self._expect_difference()

    def _called(self, _: object) -> None:
        self._is_called = False
        self.plan_anew()

    def plan_anew(self) -> None:
        if self.is_planned:
            return
        self.is_planned = True
        self._owes_plan = self.plans_wait and (self._may_owe or self._stands_still())
        if self._owes_plan:
            self._call_off(self._ran_out)
            self._call_off(self._differ)
        else:
            self._plan(ran_out=False)

    @property
    def _may_owe(self) -> bool:
        """A plan would only say what lanes do since they were disturbed: later it says the same."""
        return not (self.compares or isinstance(self._log, FeedbackLog))

    def plan_owed(self) -> None:
        if self._owes_plan:
            self._owes_plan = False
            self._plan(ran_out=False)

    def plans_go_on(self) -> None:
        super().plans_go_on()
        if self._owes_plan:
            self.is_planned = False
        self.plan_anew()

    def _stands_still(self) -> bool:
        """There is nothing to plan, whatever was planned."""
        moving = [guest.lane for guest in self._guests if guest.lane.moves]
        return self._is_idle(moving) and not isinstance(self._log, FeedbackLog)

    def _is_idle(self, moving: Sequence[Lane]) -> bool:
        link = self._witness_lane
        return not moving and link.position >= link.taken

    def settle(self) -> None:
        """Bring everything that moves up to date."""
        self.plan_anew()
        for guest in self._guests:
            guest.settle()
        self._witness_lane.settle(self._clock.now_ns())

    def _plan(self, ran_out: bool) -> None:
        now_ns, link = self._clock.now_ns(), self._witness_lane
        guests = self._guests
        for guest in guests:
            guest.settle()
        if isinstance(self._log, FeedbackLog):
            self._forget_plans(self._log, now_ns)
        moving = [guest.lane for guest in guests if guest.lane.moves]
        is_ahead = bool(moving) and not isinstance(self._log, FeedbackLog)
        if is_ahead:
            self._look_ahead(ran_out, max(lane.position for lane in moving))
        if link.planned > guests[-1].lane.planned:  # what they wait for does not hold any more
            link.settle(now_ns)
            link.disturb(now_ns)
        if self._is_idle(moving) and not isinstance(self._log, FeedbackLog):
            self._call_off(self._ran_out)
            self._call_off(self._differ)
            if self.compares:
                self._expect_age()
            return
        fresh = [guest.lane.plan(now_ns, self._horizon) for guest in guests]
        if is_ahead:
            self._expect_end(now_ns, moving)
        if self._is_comparing:
            fresh.append(self._plan_witnesses(now_ns))
            self._meet(min((row for row in fresh if row is not None), default=self._met))
            self._watch_drift()
        if isinstance(self._log, FeedbackLog):
            self._foresee(self._log, now_ns, ran_out)
        if self._is_comparing:
            self._expect_difference()
        if self.compares:
            self._expect_age()

    def _look_ahead(self, ran_out: bool, reached: int) -> None:
        """How far to plan: twice as far as the last plan held, or to the next difference.

        From the row on that the guests have reached: others may wait behind it.
        """
        log, kind = self._log, self._is_whole
        used, planned = reached - self._block_first, self._horizon - self._block_first
        if ran_out or 2 * used > planned:
            self._blocks[kind] = min(2 * self._blocks[kind], _LARGEST_BLOCK)
        elif used > _LEAST_BLOCK:
            self._blocks[kind] = min(2 * used, _LARGEST_BLOCK)
        self._is_whole = all(guest.lane.moves for guest in self._guests)
        self._block_first = reached
        horizon = reached + self._blocks[self._is_whole]
        if log.size <= horizon:
            log.forget(self._needed_from())
            log.ensure(horizon + 1)
        if self._is_comparing:
            row = log.differing(max(reached, self._of(PRIMARY).told))
            if row is not None:
                horizon = min(horizon, row + _BEYOND)
        self._horizon = horizon

    def _expect_end(self, now_ns: int, moving: Iterable[Lane]) -> None:
        """When the first row that is not planned arrives, or a guest that has it comes to it."""
        arrives_ns = int(self._log.view("at", self._horizon, self._horizon + 1)[0])
        ends_ns = [
            arrives_ns if lane.reads and arrives_ns > now_ns else lane.free_from(now_ns)
            for lane in moving
            if lane.reads or lane.planned < lane.taken
        ]
        end_ns = min(ends_ns) if ends_ns else self._end_ns
        self._call(self._ran_out, max(end_ns, now_ns))  # plans that were owed may be over already

    # -- clients that wait -----------------------------------------------------------------

    def _forget_plans(self, log: FeedbackLog, now_ns: int) -> None:
        """What has not arrived follows from what leaves, and that is to be planned anew."""
        log.cut(now_ns)
        for guest in self._guests:
            if guest.lane.planned > log.size:
                guest.lane.disturb(now_ns)
        self._met = min(self._met, log.size)
        self._horizon = log.size
        log.forget(min((self._needed_from(), *(row for row in log.last if row >= 0))))

    def _leaves_by(self) -> tuple[str, EpochHost] | None:
        """The column with the moments at which output leaves by itself, and of which host."""
        host = self._of(self._world.owner)
        if not self._speaks(host):
            return None
        if host.is_open:
            return self._column(host), host
        return ("met", host) if self._is_comparing and host.id == PRIMARY else None

    def _leaves_ns(self, log: FeedbackLog, row: int, now_ns: int) -> int | None:
        """When a row that has arrived leaves, or has left; None if that is not known."""
        left_ns = int(log.view("leaves", row, row + 1)[0])
        if 0 <= left_ns <= now_ns:
            return left_ns
        rule = self._leaves_by()
        if rule is None:
            return None
        column, host = rule
        if column == "met":
            known = host.told <= row < self._known() and log.client(row) not in self._stuck
            if not known or self._next_difference(row) == row:
                return None
        elif not host.told <= row < host.guest.lane.planned:
            return None
        return max(int(log.view(column, row, row + 1)[0]), host.floor_ns)

    def _asked(self, log: FeedbackLog, now_ns: int) -> list[Due]:
        """The next request of every client of which it is known when it arrives."""
        due: list[Due] = []
        for client, row in enumerate(log.last):
            if row < 0:
                due.append((log.ask(client, -1, 0), -1, client, 0))
                continue
            leaves_ns = self._leaves_ns(log, row, now_ns)
            log.view("leaves", row, row + 1)[0] = -1 if leaves_ns is None else leaves_ns
            if leaves_ns is not None:
                request = log.request(row)
                due.append((log.ask(client, request, leaves_ns), row, client, request + 1))
        heapify(due)
        return due

    def _foresee(self, log: FeedbackLog, now_ns: int, ran_out: bool) -> None:
        """Make the rows to come: an arrival, what becomes of it, its client's next arrival.

        Twice as many as came since the last time, or as were made then if all of them came.
        """
        due, first = self._asked(log, now_ns), log.size
        most = 2 * (self._block if ran_out else first - self._block_first)
        self._block = min(max(most, _LEAST_BLOCK), _LARGEST_FORESIGHT)
        self._block_first = first
        rule, sooner = self._leaves_by(), _Sooner(self, now_ns)
        column, floor_ns = (rule[0], rule[1].floor_ns) if rule else ("", 0)
        rows: dict[str, list[int]] = {name: [] for name in sooner.columns}
        differing: list[int] = []
        end_ns = self._end_ns
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
            stays = column == "met" and (is_other or client in self._stuck)
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
            sooner.planned(row)
        self._call(self._ran_out, due[0][0] if due else self._end_ns)

    def _ran_out(self, _: object) -> None:
        """The block's last row has arrived."""
        del self._calls[self._ran_out]
        self.settle()
        for host in self._pair.values():
            self._hear(host)
        self._plan(ran_out=True)

    def _call(self, what: Callable[[object], None], at_ns: int) -> None:
        """Plan a call, instead of the one that was planned; none after the run's end."""
        self._call_off(what)
        if at_ns < self._end_ns:
            self._calls[what] = self._clock.after(at_ns - self._clock.now_ns(), what)

    def _call_off(self, what: Callable[[object], None]) -> None:
        planned = self._calls.pop(what, None)
        if planned is not None:
            self._clock.cancel(planned)

    def _needed_from(self) -> int:
        """The oldest row that may yet be served, told or released."""
        rows = [
            snapshot.position
            for snapshot in self._world.operations.snapshots.values()
            if isinstance(snapshot, EpochSnapshot)
        ]
        for host in self._pair.values():
            rows += (host.guest.lane.position, host.told)
            rows += (first for first, _ in (*host.held.values(), *host.again))
        if self.compares:
            rows.append(self._witness_lane.position)
        return min(rows)

    # -- witnesses -------------------------------------------------------------------------

    def _witness_ns(self) -> int:
        """What a witness takes of the link, alone on it."""
        return -int(-self._response_bytes * 8 // self._bits_per_ns)

    def _mirrored_by(self, now_ns: int) -> int:
        guest = self._pair[SECONDARY].guest
        guest.settle()
        return guest.lane.position

    def _plan_witnesses(self, now_ns: int) -> int | None:
        """When they leave, and when they arrive: one never overtakes another."""
        lane, log = self._witness_lane, self._log
        lane.settle(now_ns)
        first = lane.plan(now_ns, self._pair[SECONDARY].guest.lane.planned)
        if first is not None:
            left = log.view("left", first, lane.planned)
            arrives = log.view("witnessed", first, lane.planned)
            np.add(left, self._delay_ns, out=arrives)
            if self._arrived_ns > arrives[0]:
                np.maximum(arrives, self._arrived_ns, out=arrives)
        return first

    def _known(self) -> int:
        """Rows before it have a moment in "met" that holds if nothing intervenes."""
        if not self._is_comparing:
            return 0
        ours, theirs = (guest.lane.planned for guest in self._guests)
        return min(self._met, self._witness_lane.planned, ours, theirs)

    def _meet(self, fresh: int) -> None:
        """When rows have been made by both guests and are together, from the first new plan on."""
        log = self._log
        primary = self._pair[PRIMARY].guest.lane
        first = max(min(fresh, self._met), self._of(PRIMARY).told)
        end = min(primary.planned, self._witness_lane.planned)
        if first < end:
            made, witnessed = log.view("made", first, end), log.view("witnessed", first, end)
            np.maximum(made, witnessed, out=log.view("met", first, end))
        self._met = max(first, end)

    # -- differences -----------------------------------------------------------------------

    def _watch_drift(self) -> None:
        """From which row on every response differs, as far as is planned."""
        if self._world.parting.hazard_at_ns is None:
            return
        guest, now_ns = self._pair[SECONDARY].guest, self._clock.now_ns()
        if self._drift_ns is None or self._drift_ns > now_ns:
            left_ns = self._world.parting.hazard_at_ns - guest.exposure_ns
            self._drift_ns = now_ns + max(0, left_ns) if guest.lane.moves else None
        self._drift = None
        first, end = self._of(PRIMARY).told, guest.lane.planned
        if self._drift_ns is not None and first < end:
            ends = self._log.view("mirrored", first, end)
            row = first + int(ends.searchsorted(self._drift_ns, "left"))
            self._drift = row if row < end else None

    def _next_difference(self, row: int) -> int | None:
        """The next row from ``row`` on that differs and that nobody knows of, as far as planned."""
        while True:
            found = self._log.differing(row)
            if self._drift is not None:
                drifted = max(row, self._drift)
                found = drifted if found is None else min(found, drifted)
            if found is None or found >= self._known():
                return None
            if self._log.client(found) not in self._stuck:
                return found
            row = found + 1

    def _expect_difference(self) -> None:
        host, row = self._of(PRIMARY), None
        if self._is_comparing and self._speaks(host):
            row = self._next_difference(host.told)
        if row is None:
            self._call_off(self._differ)
        else:
            met_ns = int(self._log.view("met", row, row + 1)[0])
            self._call(self._differ, max(met_ns, self._clock.now_ns()))

    def _differ(self, _: object) -> None:
        del self._calls[self._differ]
        self.settle()
        self._compare()
        self._expect_difference()

    def _expect_age(self) -> None:
        """When the oldest response that one guest alone has made is too old, or sooner."""
        host = self._of(PRIMARY)
        if self._age_is_called or host.is_open or not self._speaks(host):
            return
        since_ns = self._alone_since_ns(host.told)
        if since_ns is not None and self._timeout_ns is not None:
            self._age_is_called = True
            wait_ns = max(0, since_ns + self._timeout_ns - self._clock.now_ns())
            self._clock.after(wait_ns, self._look_at_ages)

    def _look_at_ages(self, _: object) -> None:
        self._age_is_called = False
        self.settle()
        self._compare()
        self._complain()
        self._expect_difference()
        self._expect_age()

    def _alone_since_ns(self, row: int) -> int | None:
        """When the first of the two responses was at the comparison, or will be."""
        log, primary = self._log, self._pair[PRIMARY].guest.lane
        when_ns = []
        if row < primary.planned:
            when_ns.append(int(log.view("made", row, row + 1)[0]))
        if self._is_comparing and row < self._witness_lane.planned:
            when_ns.append(int(log.view("witnessed", row, row + 1)[0]))
        if not when_ns:
            return None
        host, since_ns = self._of(PRIMARY), min(when_ns)
        return since_ns if since_ns <= host.hung_ns else max(since_ns, host.floor_ns)

    def _complain(self) -> None:
        """Of responses that have waited too long."""
        host, now_ns = self._of(PRIMARY), self._clock.now_ns()
        if not self._speaks(host):
            return
        row = host.told
        while self._timeout_ns is not None and not host.is_open:
            since_ns = self._alone_since_ns(row)
            if since_ns is None or since_ns + self._timeout_ns > now_ns:
                return
            client = self._log.client(row)
            if client not in self._stuck:
                self._stuck.add(client)
                request = self._log.request(row)
                stale = t.Stale(t.Range(str(client), request, request + 1))
                self._world.tell(host.id, t.Compared((stale,)))
            host.skipped.append(row)
            row += 1
            host.told = row

    # -- output ----------------------------------------------------------------------------

    def _made(self, name: str, first: int, end: int) -> None:
        """A guest has served these rows."""
        if name == self._world.owner:
            column = "made" if name == PRIMARY else "mirrored"
            self.network.serve(first, end, self._log.view(column, first, end))
        if name == SECONDARY and self.compares and self._of(name).offers:
            self._offered += end - first

    def _column(self, host: Host) -> str:
        return "made" if host.id == PRIMARY else "mirrored"

    def _speaks(self, host: Host) -> bool:
        """Its node hears what its guest says."""
        return host.alive and not host.hung

    def _compare(self) -> None:
        """Tell the primary's node of all rows that both guests have made by now."""
        host, log = self._of(PRIMARY), self._log
        if not self._speaks(host) or host.is_open:
            return
        now_ns = self._clock.now_ns()
        while self._is_comparing:
            first, known = host.told, self._known()
            if first >= known:
                return
            end = first + int(log.view("met", first, known).searchsorted(now_ns, "right"))
            row = self._next_difference(first)
            until = end if row is None else min(end, row)
            if first < until:
                self._say_equal(host, first, until)
            if row is None or row >= end:
                return
            self._say_different(host, row)

    def _say_equal(self, host: EpochHost, first: int, end: int) -> None:
        rows = [(first, end)]
        if self._stuck:
            clients = self._log.clients(first, end)
            stuck = np.zeros(end - first, np.bool_)
            for client in self._stuck:
                stuck |= clients == client
            host.skipped += (first + np.flatnonzero(stuck)).tolist()
            rows = runs(first + np.flatnonzero(~stuck))
        host.told = end
        for run in rows:
            self._say_both(host, STREAM, *run, *run, "")

    def _say_different(self, host: EpochHost, row: int) -> None:
        client, request = self._log.client(row), self._log.request(row)
        self._stuck.add(client)
        host.told = row + 1
        self._say_both(host, str(client), request, request + 1, row, row + 1, "!")

    def _say_both(
        self, host: EpochHost, stream: str, first: int, end: int, row: int, last: int, mark: str
    ) -> None:
        """Rows [row, last) of both guests; they meet at the primary."""
        range_, digest = (
            t.Range(stream, first, end),
            mark and f"{mark}{self._world.parting.synchronisation}",
        )
        cause = self._offered_by(range_, digest, row, last)
        self._put(host, range_, (row, last), "")
        when_ns = _not_before(host.floor_ns, self._log.view("met", row, last))
        self._leaving = (row, last, when_ns)
        self._world.tell(
            host.id, t.PeerOutput(range_, digest, self._world.parting.synchronisation), cause
        )
        self._leaving = None

    def _offered_by(self, range_: t.Range, digest: str, row: int, last: int) -> Cause | None:
        """The secondary's node hears of it too; the action by which it offers it."""
        host = self._of(SECONDARY)
        if not self._speaks(host) or host.is_open or row < host.told:
            return None
        host.skipped += range(host.told, row)
        host.told = last
        self._offer = None
        self._put(host, range_, (row, last), digest)
        return self._offer

    def _put(self, host: EpochHost, range_: t.Range, rows: Rows, digest: str) -> None:
        host.held[range_.stream, range_.first] = rows
        self._world.tell(host.id, t.GuestOutput(range_, digest))

    def _hear(self, host: EpochHost) -> None:
        """Tell a node what matters to it of what its guest has made."""
        if not self._speaks(host):
            return
        if host.id == PRIMARY:
            self._compare()
        if self._waits(host):
            return
        # unless the primary's guest was stopped for a cut, they may yet meet their witnesses
        is_cut = not host.guest.running and not host.guest.dead
        if host.id == PRIMARY and not is_cut and not self._passes(host):
            return
        log, position = self._log, host.guest.lane.position
        skipped, host.skipped = host.skipped, []
        for row in skipped:
            if row < position:
                client, request = log.client(row), log.request(row)
                self._say_one(host, t.Range(str(client), request, request + 1), (row, row + 1))
        if host.told < position:
            rows, host.told = (host.told, position), position
            self._say_one(host, t.Range(STREAM, *rows), rows)

    def _passes(self, host: EpochHost) -> bool:
        """What its guest says goes to the gate as it is made, for no witness is waited for."""
        return host.is_open or not self.compares

    def _is_routine(self, host: EpochHost, event: t.Event) -> bool:
        """The event changes nothing for what the guest has said and the node has not heard."""
        if self._waits(host):
            return True
        step = self._world.session.nodes[host.id].step
        runs = host.guest.running and step not in (P.EXITED, P.FROZEN)
        return isinstance(event, t.Done) and runs and host.id == PRIMARY and self._is_comparing

    def _waits(self, host: EpochHost) -> bool:
        """It is a secondary whose responses its node hears of as they meet the primary's."""
        return host.id == SECONDARY != self._world.owner and not self._passes(host)

    def _say_one(self, host: EpochHost, range_: t.Range, rows: Rows) -> None:
        """Rows of one guest that no witness waits for; through an open gate they leave as made."""
        if host.is_open:
            ends = self._log.view(self._column(host), *rows)
            self._leaving = (*rows, _not_before(host.floor_ns, ends))
        self._put(host, range_, rows, "")
        self._leaving = None

    def hear_before(self, host: Host, event: t.Event) -> None:
        """What a guest has said comes before what may decide over it."""
        if isinstance(event, _MATTERS) and not self._is_routine(self._of(host.id), event):
            self.hear_out(host)

    def offer_witness(self, host: Host, action: t.OfferWitness, cause: Cause) -> None:
        self._offer = cause  # the link has it already

    def release(self, host: Host, action: t.Release, cause: Cause) -> None:
        host = self._of(host.id)
        taken = self._taken(host, action.ranges)
        leaving = self._leaving
        if leaving is not None and taken == [leaving[:2]]:  # each of them by itself
            first, end, when_ns = leaving
            late_ns: Times | int = 0
            if self._release_ns:
                late = [self._late_ns(host) for _ in range(first, end)]
                late_ns = np.array(late, np.int64)
            self.network.leave(first, end, when_ns, late_ns)
            self._left(first, end, when_ns)
            return
        late_ns = self._late_ns(host)
        for rows in taken:
            self.network.leave(*rows, self._clock.now_ns(), late_ns)
            self._left(*rows, self._clock.now_ns())

    def _left(self, first: int, end: int, when_ns: Times | int) -> None:
        """Clients that wait go on from there, if the plan did not say so."""
        if isinstance(self._log, FeedbackLog):
            leaves = self._log.view("leaves", first, end)
            if (leaves != when_ns).any():
                leaves[:] = np.where(
                    (leaves >= 0) & (leaves <= self._clock.now_ns()), leaves, when_ns
                )
                self._changed()

    def drop(self, host: Host, action: t.Release | t.Drop, cause: Cause) -> None:
        self._taken(self._of(host.id), action.ranges)

    @staticmethod
    def _taken(host: EpochHost, ranges: Iterable[t.Range]) -> list[Rows]:
        return [host.held.pop((range_.stream, range_.first)) for range_ in ranges]

    # -- checkpoints and takeover ----------------------------------------------------------

    def _on_cut(self, node_id: str, signal: t.Cut) -> None:
        """What was made until now is the checkpoint's; the guests are compared anew after it."""
        if node_id != PRIMARY:
            return
        host = self._of(PRIMARY)
        host.told = host.guest.lane.position
        host.skipped.clear()
        self._stuck.clear()
        self._ends_comparing()

    def _ends_comparing(self) -> None:
        self._is_comparing = False
        self._call_off(self._differ)
        if self.compares:
            self._expect_age()

    def stopping(self, host: Host) -> None:
        """Its rows end when it is stopped."""

    def pair_runs(self) -> None:
        """They say nothing but responses."""

    def snapshot(self, host: Host, pages: int) -> Snapshot:
        host = self._of(host.id)
        return host.guest.snapshot(pages, {}, (*host.again, *host.held.values()))

    def loaded(self, host: Host, snapshot: Snapshot) -> None:
        assert isinstance(snapshot, EpochSnapshot)
        host = self._of(host.id)
        host.guest.load(snapshot)
        host.again, host.told = snapshot.owed, snapshot.position
        host.skipped.clear()
        if self.compares:
            lane, now_ns = self._witness_lane, self._clock.now_ns()
            lane.settle(now_ns)
            if lane.position < lane.taken <= lane.planned:  # the link has old ones to send yet
                lane.free_ns = int(self._log.view("left", lane.taken - 1, lane.taken)[0])
            lane.put(snapshot.position, snapshot.position, -1)
            self._met = snapshot.position
            self._is_comparing = True

    def synchronised(self) -> None:
        self._drift = self._drift_ns = None

    def promoted(self, host: Host) -> None:
        """Its rows are the same as the other's."""

    def alone(self, host: Host) -> None:
        """Output passes from now on; and the guest repeats what its state had made.

        As at fidelity ``response``: its TCP finds it unacknowledged.
        """
        host = self._of(host.id)
        host.is_open, host.floor_ns = True, self._clock.now_ns()
        self._ends_comparing()
        self._changed()
        self._clock.after(0, lambda _: self.hear_out(host))

        def repeat(_: object) -> None:
            self.hear_out(host)
            again, host.again = host.again, ()
            for rows in again:
                for run in self.network.missing(*rows) if not host.guest.dead else ():
                    self._leaving = (*run, np.full(run[1] - run[0], self._clock.now_ns()))
                    self._put(host, t.Range(STREAM, *run), run, "")
                    self._leaving = None

        self._clock.after(self._retransmit_ns, repeat)

    # -- what intervenes -------------------------------------------------------------------

    def hear_out(self, host: Host) -> None:
        """What was said before a fault was heard before it."""
        self.settle()
        self._hear(self._of(host.id))

    def hanging(self, host: Host, is_hung: bool) -> None:
        host = self._of(host.id)
        if is_hung:
            self.hear_out(host)
            host.hung_ns = self._clock.now_ns()
            return
        self.settle()
        host.floor_ns = self._clock.now_ns()
        if self.compares and host.hangs == 1:
            if host.id == SECONDARY:
                self._offered += host.guest.lane.position - self._witness_lane.taken
            else:  # first of all it finds out how late it is
                host.backlog.insert(0, self._complain)

    def hung(self, host: Host) -> None:
        self.disturbed()
        self.hear_out(host)
        self._changed()

    def slowed(self) -> None:
        lane, log = self._witness_lane, self._log
        if lane.position and self.compares:
            self._arrived_ns = int(log.view("witnessed", lane.position - 1, lane.position)[0])
        bandwidth_bps, self._delay_ns = self._world.link.speed()
        self._bits_per_ns = bandwidth_bps / NS_PER_S
        lane.disturb(self._clock.now_ns())
        self._changed()

    def disturbed(self) -> None:
        """Whether the link takes witnesses and moves them."""
        if not self.compares:
            return
        host, lane = self._of(SECONDARY), self._witness_lane
        lane.disturb(self._clock.now_ns())
        if not host.alive:
            lane.put(lane.position, lane.position, -1)  # what has not left is gone
        lane.moves = host.alive and not self._world.link.is_cut
        lane.reads = self._speaks(host)
        self._changed()

    # -- the end ---------------------------------------------------------------------------

    def lost_responses(self) -> int:
        host, log = self._of(self._world.owner), self._log
        arrived = log.arrived(self._end_ns - 1)
        missing = log.view("released", 0, arrived) < 0
        if not self._world.serves():
            return int(np.count_nonzero(missing))
        lane = host.guest.lane
        missing[min(lane.position, arrived) :] = False  # in its queue, or yet to be read
        for first, end in (*host.held.values(), *host.again):
            missing[first:end] = False
        missing[host.told : lane.position] = False  # made, and the node has yet to hear of it
        for row in host.skipped:
            missing[row] = False
        return int(np.count_nonzero(missing))

    def witness_bytes(self) -> int:
        return self._offered * self._response_bytes


def _not_before(floor_ns: int, when_ns: Times) -> Times:
    return np.maximum(when_ns, floor_ns) if when_ns[0] < floor_ns else when_ns


class _Sooner:
    """What becomes of a row as it arrives, in the lanes that take it."""

    def __init__(self, output: EpochOutput, now_ns: int) -> None:
        self._output = output
        size, link = output._log.size, output._witness_lane
        self._lanes = [guest.lane for guest in output._guests]
        self._goes = [lane.moves and lane.reads and lane.planned == size for lane in self._lanes]
        self._free_ns = [lane.free_from(now_ns) for lane in self._lanes]
        is_open = output._is_comparing and link.moves and link.reads
        self._is_offered = is_open and self._goes[1]
        self._meets = self._is_offered and self._goes[0]
        self._link_ns, self._witness_ns = link.free_from(now_ns), output._witness_ns()
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
            output = self._output
            values["left"] = max(values["mirrored"], self._link_ns) + self._witness_ns
            self._link_ns = values["left"]
            values["witnessed"] = max(self._link_ns + output._delay_ns, output._arrived_ns)
        if self._meets:
            values["met"] = max(values["made"], values["witnessed"])
        return values

    def is_drifted(self, mirrored_ns: int) -> bool:
        """The state of the guests differs by then."""
        drift_ns = self._output._drift_ns
        return drift_ns is not None and mirrored_ns >= drift_ns

    def planned(self, end: int) -> None:
        """The lanes have ends up to there."""
        output = self._output
        for lane, goes in zip(self._lanes, self._goes, strict=True):
            if goes:
                lane.planned_to(end)
        if self._is_offered:
            output._witness_lane.planned_to(end)
        if self._meets:
            output._met = end
            output._watch_drift()
