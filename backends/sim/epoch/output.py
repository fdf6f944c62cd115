"""Output at fidelity ``epoch``: what guests say are rows of a log, and their responses too.

What nodes then release leaves at the moments that the arrays say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.base import Cause
from backends.nodes import PRIMARY, SECONDARY
from backends.sim.epoch.feedback import FeedbackLog
from backends.sim.epoch.foresight import EpochForesight
from backends.sim.epoch.guest import EpochGuest, EpochSnapshot, Rows
from backends.sim.epoch.horizon import Horizon, OpenHorizon
from backends.sim.epoch.host import EpochHost
from backends.sim.epoch.lane import Lane
from backends.sim.epoch.log import Log, Times
from backends.sim.epoch.meeting import Meeting
from backends.sim.epoch.telling import Telling
from backends.sim.epoch.traffic import EpochNetwork
from backends.sim.epoch.waiting import ClosedHorizon
from backends.sim.epoch.witnesses import WitnessLink
from backends.sim.guest import Snapshot
from backends.sim.host import Host
from backends.sim.output import Output
from colosim.model.streams import Streams
from colosim.protocol import types as t
from colosim.protocol.policies import POLICIES
from colosim.scenario import ClosedService, OpenService, Scenario
from colosim.session import Ear, OfRole

if TYPE_CHECKING:
    from backends.sim.world import SimWorld


class EpochOutput(Output):
    """Puts the parts together, and does what nodes and operations want of them."""

    network: EpochNetwork
    foresight: EpochForesight
    sends_witnesses = False  # the log has them

    def __init__(self, world: SimWorld, scenario: Scenario, policy: str, streams: Streams) -> None:
        super().__init__(world, scenario, policy, streams)
        self._is_open = POLICIES[policy].output is t.Output.NONE  # from the start
        self._end_ns = scenario.duration_ns
        #: they come when the world makes its hosts; the primary is first
        self._hosts: dict[str, EpochHost] = {}
        self._guests: list[EpochGuest] = []
        self._log = self._log_of(scenario, policy, streams)
        self.network = EpochNetwork(self._clock, self._client_delay_ns, self._log, self._end_ns)
        self._link = WitnessLink(
            self._log,
            self._guests,
            self._response_bytes,
            scenario.link.bandwidth_bps,
            scenario.link.delay_ns,
            self.compares,
        )
        self._meeting = Meeting(self._log, self._guests, self._link, world.parting, self.compares)
        params = scenario.policy_params(policy)
        timeout_ns: int | None = getattr(params, "compare_timeout_ns", None)
        self._telling = Telling(
            world, self._hosts, self._log, self._meeting, self.compares, timeout_ns
        )
        self._horizon = self._horizon_of(self._log)
        self.foresight = EpochForesight(
            world,
            self._guests,
            self._hosts,
            self._horizon,
            self._link,
            self._meeting,
            self._telling,
            self.compares,
            self._end_ns,
        )

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

    def _horizon_of(self, log: Log) -> Horizon:
        guests, hosts, meeting = self._guests, self._hosts, self._meeting
        if not isinstance(log, FeedbackLog):
            return OpenHorizon(log, guests, hosts, meeting, self._needed_from, self._end_ns)
        return ClosedHorizon(
            log,
            guests,
            hosts,
            lambda: hosts[self._world.owner],
            self._link,
            meeting,
            self._needed_from,
            self._end_ns,
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
            partial(self._made, name),
            self.foresight.changed,
            self.foresight.trimmed,
            self._speed(name),
        )
        host = self._hosts[name] = EpochHost(name, guest, peer, is_open=self._is_open)
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

    def start_clients(self) -> None:
        """They are the log."""
        self.foresight.changed()

    def _needed_from(self) -> int:
        """The oldest row that may yet be served, told, compared or released."""
        rows = list(self._meeting.needed(self._hosts[PRIMARY].told))
        for snapshot in self._world.operations.snapshots.values():
            assert isinstance(snapshot, EpochSnapshot)
            rows += (snapshot.position, *(first for first, _ in snapshot.owed))
        for host in self._hosts.values():
            if host.alive:  # else all of it is gone
                rows += (host.guest.lane.position, host.told, *host.skipped[:1])
                rows += (first for first, _ in (*host.held.values(), *host.again))
        return min(rows, default=0)

    # -- output ----------------------------------------------------------------------------

    def _made(self, name: str, first: int, end: int) -> None:
        """A guest has served these rows."""
        host = self._hosts[name]
        if name == self._world.owner:
            self.network.serve(first, end, self._log.view(host.made_in, first, end))
        if name == SECONDARY and self.compares and host.offers:
            self._link.offered += end - first

    def offer_witness(self, host: Host, action: t.OfferWitness, cause: Cause) -> None:
        self._telling.offer = cause  # the link has it already

    def release(self, host: Host, action: t.Release, cause: Cause) -> None:
        host = self._hosts[host.id]
        taken = self._taken(host, action.ranges)
        leaving = self._telling.leaving
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
        """What comes may follow from that."""
        if self._horizon.left(first, end, when_ns, self._clock.now_ns()):
            self.foresight.changed()

    def drop(self, host: Host, action: t.Release | t.Drop, cause: Cause) -> None:
        self._taken(self._hosts[host.id], action.ranges)

    @staticmethod
    def _taken(host: EpochHost, ranges: Iterable[t.Range]) -> list[Rows]:
        return [host.held.pop((range_.stream, range_.first)) for range_ in ranges]

    # -- checkpoints and takeover ----------------------------------------------------------

    def _on_cut(self, node_id: str, signal: t.Cut) -> None:
        """What was made until now is the checkpoint's; the guests are compared anew after it."""
        if node_id != PRIMARY:
            return
        host = self._hosts[PRIMARY]
        host.told = host.guest.lane.position
        host.skipped.clear()
        self._meeting.cut()
        self.foresight.stop_comparing()

    def stopping(self, host: Host) -> None:
        """Its rows end when it is stopped."""

    def pair_runs(self) -> None:
        """They say nothing but responses."""

    def snapshot(self, host: Host, pages: int) -> Snapshot:
        host = self._hosts[host.id]
        return host.guest.snapshot(pages, {}, (*host.again, *host.held.values()))

    def loaded(self, host: Host, snapshot: Snapshot) -> None:
        assert isinstance(snapshot, EpochSnapshot)
        host = self._hosts[host.id]
        host.guest.load(snapshot)
        host.again, host.told = snapshot.owed, snapshot.position
        host.skipped.clear()
        if self.compares:
            self._meeting.go_on_from(snapshot.position, self._clock.now_ns())

    def promoted(self, host: Host) -> None:
        """Its rows are the same as the other's."""

    def alone(self, host: Host) -> None:
        """Output passes from now on; and the guest repeats what its state had made.

        As at fidelity ``response``: its TCP finds it unacknowledged.
        """
        host = self._hosts[host.id]
        host.is_open, host.floor_ns = True, self._clock.now_ns()
        foresight = self.foresight
        foresight.stop_comparing()
        foresight.changed()
        self._clock.after(0, lambda _: foresight.hear_out(host))

        def repeat(_: object) -> None:
            foresight.hear_out(host)
            again, host.again = host.again, ()
            for rows in again:
                for run in self.network.missing(*rows) if not host.guest.dead else ():
                    self._telling.repeat(host, run, self._clock.now_ns())

        self._clock.after(self._retransmit_ns, repeat)

    # -- the end ---------------------------------------------------------------------------

    def lost_responses(self) -> int:
        host, log = self._hosts[self._world.owner], self._log
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
        return self._link.sent_bytes
