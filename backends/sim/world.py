"""The simulated world: SimPy drives, the core decides.

`SimWorld` turns a node's actions into durations and later events, by the models of
`colosim.model`.  It holds no rule of the protocol: not when to checkpoint, not what may leave,
not who takes over.  Fidelity is ``response``: one object per response;
`backends.sim.packet.world` has the one with packets, `backends.sim.epoch.world` that with arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from backends.base import Cause, Session
from backends.nodes import PRIMARY, SECONDARY, node_configs, node_id, of_pair, role_of
from backends.recorder import Recorder
from backends.sim.arbitration import ARBITRATION
from backends.sim.beats import HEARTBEAT
from backends.sim.clock import Clock, Planned
from backends.sim.disk import CHANNEL as DISK
from backends.sim.disk import NoDisk, ReplicatedDisk
from backends.sim.faults import FaultPlan
from backends.sim.guest import Guest, Meter, Snapshot
from backends.sim.link import NS_PER_S, STATE, Direction, InOrder, last_of, state_channels
from backends.sim.local import LocalSessions
from backends.sim.sharing import Cpu, Port, Shared
from backends.sim.straight import Straight
from backends.sim.traffic import Demand, Jitter, Network, start_clients
from colosim.model.cost import Slowdown, varied_ns, varied_ratio
from colosim.model.divergence import Divergence
from colosim.model.streams import Streams
from colosim.protocol import types as t
from colosim.protocol.checkpoint import P, S
from colosim.protocol.manager import LONGEST_BACK_OFF
from colosim.protocol.node import Node, NodeConfig
from colosim.protocol.policies import POLICIES
from colosim.scenario import BatchJob, Fault, Scenario, Service
from colosim.session import Observer

#: where hosts are; the first primary's is the one that is preferred
_SITES = ("a", "b")
MESSAGE_BYTES = 64  # of TCP and IP headers that a message of its own costs
_UNPROMPTED = "unprompted"  # the stream of what no client asked for


@dataclass(slots=True)
class Ahead:
    """What went ahead of a checkpoint's state while the guest ran, all rounds together."""

    exposure_ns: int = 0
    written_ns: int = 0  # the same as the memory model takes it
    served: int = 0  # requests
    pages: int = 0  # sent; some of them more than once
    sent_bytes: int = 0


@dataclass(slots=True)
class Host:
    """A failure domain: a guest, its node, and what happens to them."""

    id: str
    guest: Guest
    peer: str
    alive: bool = True
    ahead: Ahead = field(default_factory=Ahead)  # of the checkpoint under way
    rest_pages: int = 0  # of the state that was taken last
    hangs: int = 0  # of the node; hangs may overlap
    vm_hangs: int = 0
    loads: int = 0  # of states that are under way into the guest
    begun: int = 0  # how often its guest was told to start or stop
    touched: Meter | None = None  # running time by the rate of the guest's own writes
    cpu: Cpu | None = None  # shared with other VMs
    risk: Meter | None = None  # expected number of times that the guests have parted
    link_open: bool = True  # this end of the checkpoint stream
    backlog: list[Callable[[], None]] = field(default_factory=list)  # while the node hangs
    stuck: list[Callable[[], None]] = field(default_factory=list)  # while the guest hangs
    due_ns: int | None = None  # when its node wants Tick
    wake_ns: int | None = None  # when the wake-up call is planned, at or before due
    wake: Planned | None = None  # that call
    # what the guest made and nobody has: (client, request) -> digest
    owed: dict[tuple[int, int], str] = field(default_factory=dict)
    operations: dict[str, int] = field(default_factory=dict)  # how many of each were begun
    # stream -> when the last witness of it went to the link
    offered_ns: dict[str, int] = field(default_factory=dict)
    # what the loaded state had made and, for all it knows, nobody has: a guest repeats that
    repeats: dict[tuple[int, int], str] = field(default_factory=dict)

    @property
    def hung(self) -> bool:
        """The node does not run."""
        return self.hangs > 0


class SimWorld:
    """One replication of one scenario under one policy."""

    _may_go_straight = True  # checkpoints in which nothing intervenes (`backends.sim.straight`)
    says_late = False  # a node hears of what its guest said later than it was said
    _witnesses_are_sent = True  # over the link, one by one

    def __init__(
        self,
        scenario: Scenario,
        policy: str,
        streams: Streams,
        observers: Iterable[Observer] = (),
        stepped: Callable[[str, str], None] | None = None,
        shared: Shared | None = None,
        vm: int = 0,
    ) -> None:
        """shared: with other VMs, of which this is the one with the number ``vm``."""
        self._shared = shared
        self._vm = vm
        self._scenario = scenario
        self._streams = streams
        self._schedule = scenario.schedule()
        self._tracked = POLICIES[policy].protects()  # nobody tracks writes without a reader
        self._mirrored = POLICIES[policy].output is t.Output.WITNESS
        self._memory = scenario.memory_model()
        self._costs = scenario.costs()
        self._spreads = self._costs.spreads()
        self._is_delta = scenario.stream.compression == "delta"
        self._delta_ratio = scenario.delta_ratio() if self._is_delta else None
        self._channels = state_channels(scenario.stream.channels)
        self._is_early = scenario.transfer_of(policy) is t.Transfer.COPY_THEN_SEND
        self._divergence = Divergence(**scenario.divergence.model_dump())
        self._is_timed = self._divergence.timed > 0
        self._per_connection = scenario.packet.requests_per_connection
        workload = scenario.workload
        service = workload if isinstance(workload, Service) else None
        self._vcpus = service.vcpus if service else 1
        self._response_bytes = service.response_bytes if service else MESSAGE_BYTES
        self._retransmit_ns = service.retransmit_ns if service else 0
        self.clock = Clock() if shared is None else shared.clock
        self.network = self._network(
            service.client_delay_ns if service else 0,
            Jitter(service.client_jitter_ns if service else 0, streams),
        )
        self._policy = policy
        self._observers = tuple(observers)
        configs = self._configs(scenario, policy)
        self._apart = self._schedule.divergence()
        hazards = (self._divergence.hazard_per_s, self._divergence.pair_hazard_per_s)
        self._may_part = self._apart is not None or any(hazards)
        self._pairs = 1
        #: the nodes of the pair that there is; those of earlier ones hear nothing any more
        self._primary, self._secondary = PRIMARY, SECONDARY
        self.hosts = {config.id: self._host(config.id) for config in configs}
        for host in self.hosts.values():
            self._meter(host)
            cpu = host.cpu = None if shared is None else shared.cpu(host.id)
            if cpu is not None:
                cpu.join(host.guest)
        self._sites = {PRIMARY: _SITES[0], SECONDARY: _SITES[1]}
        self._hasty = 0  # pairs in a row, but the first, that did not last
        self._paired_ns = 0  # when the present pair began
        self._ends_as_planned = False  # its end
        self._cuts = 0
        self._slow: list[Fault] = []  # those that hold, the latest last
        self._out = {name: self._direction(name) for name in self.hosts}
        self.arbitration = ARBITRATION[scenario.manager.arbiter](self, scenario.manager)
        self._corrupt: list[Fault] = []  # those whose byte has yet to come
        self._spoilt: set[str] = set()  # names of blobs that are not what was sent
        self._struck_bytes = 0
        self._snapshots: dict[str, Snapshot] = {}
        self._owner = PRIMARY
        self._parted: set[str] = set()  # hosts that gave the stream up and have not closed it
        self._hazard_at_ns: int | None = None
        self._risk_taken = 0.0  # the expected number at which they part, this time
        self._synchronisation = 0
        self.recorder = Recorder(self.clock)
        if any(fault.kind == "corrupt" for fault in scenario.fault):
            self.recorder.counters["undetected_corruptions"] = 0
        self.flags: set[str] = set()
        self.plans_wait = False
        self.is_planned = True
        self.faults = FaultPlan(scenario.fault, self)
        self._told_of_steps = [stepped] if stepped else []
        if self.faults.by_step:
            self._told_of_steps.append(self.faults.stepped)
        # where somebody looks at the steps, they are taken one by one
        self._may_go_straight &= not self._observers and not self._told_of_steps
        self._may_go_straight &= len(self._channels) == 1 and not self._costs.wake_up_ns
        self._may_go_straight &= shared is None  # others use the CPU and the link
        self._may_go_straight &= scenario.disk is None
        self.session = self._session(configs)
        self.sessions = [self.session]  # of all pairs
        disk = scenario.disk
        self.disk = NoDisk() if disk is None else ReplicatedDisk(self, disk, streams)
        self._straight = self._way()
        self._performers: dict[type, Callable[[Host, Any, Cause], None]] = {
            t.Precopy: self._precopy,
            t.Quiesce: self._quiesce,
            t.StopVm: self._stop_vm,
            t.Drain: self._drain,
            t.Save: self._save,
            t.Copy: self._save,
            t.SendMessage: self._send_message,
            t.SendState: self._send_state,
            t.Load: self._load,
            t.StartVm: self._start_vm,
            t.CloseLink: self._close_link,
            t.OfferWitness: self._offer_witness,
            t.Release: self._release,
            t.Drop: self._drop,
            t.Heartbeat: self._heartbeat,
            t.AskVote: self._ask_vote,
            t.RenewLease: self._renew_lease,
            t.GiveUpLease: self._give_up_lease,
            t.Fence: self._fence,
            t.Promote: self._promote,
            t.Report: self._report,
        }

    def _session(self, configs: Iterable[NodeConfig]) -> Session | LocalSessions:
        """The nodes of a pair, on the clocks of the sites where they are."""
        clocks = self._scenario.clocks
        nodes = [Node(config) for config in configs]
        stepped = self._stepped if self._told_of_steps else None
        if clocks.are_one:
            return Session(nodes, self, self._observers, self._ears(), stepped)
        own = {node.config.id: clocks.of(self._sites[node.config.id]) for node in nodes}
        return LocalSessions(nodes, self, own, self._observers, self._ears(), stepped)

    def _link_speed(self) -> tuple[float, int]:
        """(bandwidth, delay) as the latest of the faults that hold has them, else as ever."""
        link, last = self._scenario.link, self._slow[-1] if self._slow else None
        bandwidth_bps = (last and last.bandwidth_bps) or link.bandwidth_bps
        return bandwidth_bps, (
            link.delay_ns if last is None or last.delay_ns is None else last.delay_ns
        )

    def _way(self) -> Straight | None:
        """For checkpoints of the pair that there is, if there can be one."""
        if not self._may_go_straight or SECONDARY not in self.present():
            return None
        session = self.session
        return Straight.of(self, session, MESSAGE_BYTES) if isinstance(session, Session) else None

    @property
    def beats_are_regular(self) -> bool:
        """Nothing in the scenario keeps a heartbeat back or makes a manager do something else."""
        scenario = self._scenario
        link, manager = scenario.link, scenario.manager
        is_asked = manager.switchover_at_ns is not None or manager.failback_after_ns is not None
        is_lossy = link.blips_per_s or link.heartbeat_loss
        is_shared = self._mirrored and self._witnesses_are_sent
        return not (scenario.fault or is_asked or is_lossy or is_shared)

    def present(self) -> dict[str, Host]:
        """The hosts of the pair that there is, by their roles."""
        ids = {PRIMARY: self._primary, SECONDARY: self._secondary}
        return {role: self.hosts[name] for role, name in ids.items() if name in self.hosts}

    def _configs(self, scenario: Scenario, policy: str) -> list[NodeConfig]:
        return node_configs(scenario, policy)

    def _network(self, delay_ns: int, jitter: Jitter) -> Network:
        return Network(self.clock, delay_ns, jitter)

    def _ears(self) -> dict[type, Callable[[str, Any], None]]:
        return {**self.recorder.ears(), t.Alone: self._alone}

    def playing(self, role: str) -> Host:
        """Whom a fault of a role strikes: where pairs follow each other, the survivor of one is
        the primary already.
        """
        hosts = self.present()
        if self._scenario.manager.reprotect and self._owner == self._secondary:
            role = PRIMARY if role == SECONDARY else SECONDARY
        return hosts[role]

    def _host(self, name: str) -> Host:
        demand, is_first = self._demand(), role_of(name) == PRIMARY
        guest = Guest(
            self.clock,
            Slowdown(self._memory, self._costs.first_write_ns if self._tracked else 0),
            self._vcpus,
            demand.primary_ns if is_first else demand.secondary_ns,
            self._primary_finished if is_first else self._secondary_finished,
            self._speed(name),
        )
        return Host(name, guest, self._secondary if is_first else self._primary)

    def direction_of(self, name: str) -> Direction:
        """What carries what that host sends; of a link that no other VM uses."""
        out = self._out[name]
        assert isinstance(out, Direction)
        return out

    def plan_anew(self) -> None:
        """What was planned ahead and does not hold any more; while `plans_wait`, only if asked."""

    def plan_owed(self) -> None:
        """While `plans_wait`: what was put off is planned, for somebody is about to look."""

    def plans_go_on(self) -> None:
        """Whatever changes is planned anew without being asked."""
        self.plans_wait = False

    def hear_out(self, host: Host) -> None:
        """Its guest was stopped for a cut: the node hears what it has not heard of yet."""

    def _direction(self, name: str) -> Direction | Port:
        """The link from a host, in the state in which it is."""
        if self._shared is not None:
            return self._shared.port(name, self._vm)
        channel_bps = self._scenario.stream.channel_bandwidth_bps
        made = Direction(self.clock, *self._link_speed(), channel_bps)
        made.cut(self.is_cut)
        return made

    def _meter(self, host: Host) -> None:
        """Have what changes in time added up while the host's guest runs."""
        if touches := self._schedule.touches():
            host.touched = Meter(
                lambda from_ns, to_ns, done_ns, busy: (
                    (touches.done(to_ns) - touches.done(from_ns)) * done_ns / (to_ns - from_ns)
                )
            )
            host.guest.meters.append(host.touched)
        apart, divergence = self._apart, self._divergence
        if role_of(host.id) == SECONDARY and (apart or divergence.pair_hazard_per_s):

            def risk(from_ns: int, to_ns: int, done_ns: int, busy: int) -> float:
                ran = done_ns / (to_ns - from_ns)
                running_ns = (apart.done(to_ns) - apart.done(from_ns)) * ran if apart else done_ns
                return divergence.partings(running_ns, busy)

            host.risk = Meter(risk)
            host.guest.meters.append(host.risk)

    def _demand(self) -> Demand:
        execution = self._scenario.execution
        workload = self._scenario.workload
        return Demand(workload, self._streams, execution.jitter, execution.secondary_speed)

    def _speed(self, name: str) -> float:
        """Of a host's CPU."""
        return 1.0 if name == PRIMARY else self._scenario.execution.secondary_speed

    def _stepped(self, node_id: str, step: str) -> None:
        for tell in self._told_of_steps:
            tell(node_id, step)

    def run(self) -> None:
        """Start everything and run to the end of the scenario, or of its batch job."""
        self.begin()
        self.clock.run(self._scenario.duration_ns)
        self.end()

    def begin(self) -> None:
        """Start everything; time has yet to go on."""
        scenario = self._scenario
        self.network.read_by(self.hosts[PRIMARY].guest)
        if SECONDARY in self.hosts:
            if self._mirrored:
                self.network.read_by(self.hosts[SECONDARY].guest)
            self._synchronise(0)
        else:
            self.hosts[PRIMARY].guest.start()
        self._start_clients()
        if isinstance(scenario.workload, BatchJob):
            ends = self.clock.stop if self._shared is None else self._shared.finished
            self.network.answered = lambda client, request: ends()
        self.faults.start()
        if scenario.link.blips_per_s:
            self._plan_blip(0)
        if (at_ns := scenario.manager.switchover_at_ns) is not None:
            self.clock.after(at_ns, self._hand_over)
        self.clock.after(scenario.warm_up_ns, self._warm)
        if late_ns := self._vm * scenario.sharing.stagger_ns:
            self.clock.after(late_ns, self._start_nodes)
        else:
            self._start_nodes()

    def _start_nodes(self, _: object = None) -> None:
        for name in self.hosts:
            self.tell(name, t.Start())

    def end(self) -> None:
        """The run is over."""
        if self._straight is not None:
            self._straight.end()
        if self.faults.pending or self._corrupt:
            self.flags.add("fault-did-not-happen")

    def _start_clients(self) -> None:
        start_clients(
            self._scenario.workload, self.clock, self._streams, self.network, self._schedule
        )

    def _hand_over(self, _: object) -> None:
        self._ends_as_planned = True
        self.recorder.event(self._primary, "switchover", "asked for")
        self.tell(self._primary, t.HandOver())

    def _warm(self, _: object) -> None:
        """The warm-up is over: what was counted so far is not part of the metrics."""
        self.recorder.counters["mismatches_in_warm_up"] = self.recorder.counters["mismatches"]
        self.recorder.counters["link_bytes_in_warm_up"] = self.link_bytes()

    # -- the contract of a world -----------------------------------------------------------

    def now_ns(self) -> int:
        return self.clock.now_ns()

    def perform(self, node_id: str, action: t.Action, cause: Cause) -> None:
        self._performers[type(action)](self.hosts[node_id], action, cause)

    def wake_at(self, node_id: str, when_ns: int | None) -> None:
        host = self.hosts[node_id]
        host.due_ns = when_ns
        # Most calls only put the wake-up off: the one that is planned will then plan the next.
        late_ns = self._costs.wake_up_ns
        if when_ns is not None and (host.wake_ns is None or when_ns + late_ns < host.wake_ns):
            self._plan_wake(host, when_ns)

    def _plan_wake(self, host: Host, when_ns: int) -> None:
        if host.wake is not None:
            self.clock.cancel(host.wake)
        host.wake_ns = max(when_ns, self.now_ns()) + self._costs.wake_up_ns
        host.wake = self.clock.after(host.wake_ns - self.now_ns(), self._wake, host)

    def wake_exactly(self, host: Host) -> None:
        """No wake-up call sooner than its node wants it."""
        if host.wake is None or host.wake_ns == host.due_ns:
            return
        if host.due_ns is not None:
            self._plan_wake(host, host.due_ns)
        else:
            self.clock.cancel(host.wake)
            host.wake = host.wake_ns = None

    def _wake(self, host: Host) -> None:
        host.wake = host.wake_ns = None
        if host.due_ns is None:
            return
        if host.due_ns <= self.now_ns():
            self.tell(host.id, t.Tick())
        else:
            self._plan_wake(host, host.due_ns)

    def tell(self, node_id: str, event: t.Event, cause: Cause | None = None) -> None:
        """Pump an event, unless the node is dead, or later if it hangs."""
        host = self.hosts[node_id]
        if not host.alive:
            return
        if host.hung:
            host.backlog.append(lambda: self.tell(node_id, event, cause))
        else:
            self.session.pump(node_id, event, cause)

    # -- operations on a guest -------------------------------------------------------------

    def takes(
        self,
        host: Host,
        op: int,
        cause: Cause,
        delay_ns: int,
        finish: Callable[[], t.State | None] = lambda: None,
        is_work: bool = False,
    ) -> None:
        """An operation of ``delay_ns`` that a dead guest fails and a hung one does not end.

        is_work: of the host's CPU, not only time that passes.
        """

        def end(_: object = None) -> None:
            if host.guest.dead:
                self.tell(host.id, t.Failed(op, "the guest's process has ended"), cause)
            elif host.guest.hung:
                host.stuck.append(end)
            else:
                self.tell(host.id, t.Done(op, finish()), cause)

        if is_work:
            self._work(host, delay_ns, end)
        else:
            self.clock.after(delay_ns, end)

    def _work(self, host: Host, work_ns: int, then: Callable[[], None]) -> None:
        """So much work for the host's CPU, which it may share."""
        if host.cpu is None:
            self.clock.after(work_ns, lambda _: then())
        else:
            host.cpu.work(work_ns, then)

    def _cost_ns(self, host: Host, step: str, mean_ns: int) -> int:
        """What a step takes this time, by the spread that the scenario gives it."""
        spread = self._spreads.get(step)
        if spread is None:
            return mean_ns
        index = host.operations[step] = host.operations.get(step, -1) + 1
        z = self._streams.normal(f"cost-{step}-{host.id}").at(index)
        return varied_ns(mean_ns, spread, z)

    def _quiesce(self, host: Host, action: t.Quiesce, cause: Cause) -> None:
        if host.id == self._owner:  # whoever lost the clients without noticing holds nobody's back
            self.network.pause()
        delay_ns = self._cost_ns(host, "quiesce", self._costs.quiesce_ns)
        self.clock.after(delay_ns, self._quiesced, (host, action.op, cause))

    def _quiesced(self, asked: tuple[Host, int, Cause]) -> None:
        host, op, cause = asked
        if self._straight is None or not self._straight(host, op):
            self.tell(host.id, t.Done(op), cause)

    def _stop_vm(self, host: Host, action: t.StopVm, cause: Cause) -> None:
        stop_ns, disk = self.begin_stop(host), host.guest.io
        if disk is None:
            self.takes(host, action.op, cause, stop_ns)
        else:
            self.clock.after(stop_ns, disk.drain, partial(self.takes, host, action.op, cause, 0))

    def begin_stop(self, host: Host) -> int:
        """How long it takes."""
        host.begun += 1
        host.guest.stop()
        self.recorder.stopped(host.id)
        return self._cost_ns(host, "stop", self._costs.stop_ns)

    def _drain(self, host: Host, action: t.Drain, cause: Cause) -> None:
        self.takes(host, action.op, cause, 0)  # output reaches the node as it is made

    def _save(self, host: Host, action: t.Save | t.Copy, cause: Cause) -> None:
        delay_ns, state = self.begin_save(host, action.checkpoint)
        self.takes(host, action.op, cause, delay_ns, lambda: state, is_work=True)

    def begin_save(self, host: Host, checkpoint: int) -> tuple[int, t.State]:
        """Save the state, or copy it; how long that takes, and what then is in hand."""
        guest = host.guest
        ahead, served = host.ahead, guest.served_since_cut
        exposure_ns, written_ns, pages = self._dirty(host, "pages-primary", checkpoint)
        host.rest_pages = whole = pages
        ram_bytes = self._ram_bytes(pages, checkpoint, written_ns, served)
        if ahead.exposure_ns:
            exposure_ns += ahead.exposure_ns
            written_ns += ahead.written_ns
            distinct = self._drawn(written_ns, ahead.served + served, "pages-primary", checkpoint)
            whole = min(max(distinct, pages), ahead.pages + pages)
        snapshot = self._snapshot(host, whole)
        guest.cut()
        self.disk.cut(checkpoint)
        device_bytes = self._costs.device_state_bytes
        ram = t.Blob(f"ram-{checkpoint}", ram_bytes, f"k{checkpoint}")
        device = t.Blob(f"device-{checkpoint}", device_bytes, f"k{checkpoint}")
        self._snapshots[device.id] = snapshot
        self.recorder.saved(exposure_ns, ahead.pages + pages)
        costs = self._costs
        if self._is_early:
            mean_ns = costs.copy_ns(pages)
        else:
            mean_ns = costs.save_ns(pages) + self._encode_ns(pages)
        return self._cost_ns(host, "save", mean_ns), t.State(ram, device)

    def _snapshot(self, host: Host, pages: int) -> Snapshot:
        return host.guest.snapshot(pages, {**host.repeats, **host.owed})

    def _dirty(self, host: Host, purpose: str, checkpoint: int) -> tuple[int, int, int]:
        """(exposure, the same as the memory model takes it, distinct dirty pages) since the cut."""
        guest = host.guest
        exposure_ns = guest.exposure_ns
        touched_ns = exposure_ns if host.touched is None else host.touched.value
        written_ns = round(touched_ns * guest.speed)  # a slow guest writes slowly
        pages = self._drawn(written_ns, guest.served_since_cut, purpose, checkpoint)
        return exposure_ns, written_ns, pages

    def _drawn(self, exposure_ns: int, served: int, purpose: str, checkpoint: int) -> int:
        """Distinct dirty pages; one draw a checkpoint, whatever is asked about."""
        u = self._streams.uniform(purpose, self._pairs - 1).at(checkpoint)
        pages, extrapolated = self._memory.draw(exposure_ns, served, u)
        if extrapolated:
            self.flags.add("memory-extrapolated")
        return pages

    def _ram_bytes(self, pages: int, checkpoint: int, written_ns: int, served: int) -> int:
        """What the pages of a state are on the link; how well they compress is drawn once each.

        written_ns, served: the exposure that made them, as the memory model takes it.
        """
        costs, ratio = self._costs, 1.0
        if self._delta_ratio is not None:
            draws = self._streams.normal("delta-ratio", self._pairs - 1)
            z = draws.at(checkpoint) if costs.delta_spread else 0.0
            ratio = varied_ratio(self._delta_ratio(written_ns, served), costs.delta_spread, z)
        return costs.state_bytes(pages, ratio) - costs.device_state_bytes

    def _encode_ns(self, pages: int) -> int:
        """What making pages smaller takes: as the state is taken, but of a copy as it is sent."""
        return self._costs.encode_ns(pages, self._is_delta)

    def _load(self, host: Host, action: t.Load, cause: Cause) -> None:
        load_ns, finish = self.begin_load(host, action.state, action.checkpoint)
        self.takes(host, action.op, cause, load_ns, finish, is_work=True)

    def begin_load(
        self, host: Host, state: t.State, checkpoint: int
    ) -> tuple[int, Callable[[], None]]:
        """How long it takes, and what is to be done at its end."""
        snapshot = self._snapshots.pop(state.device.id)
        own = 0
        if self._scenario.execution.executes:
            _, _, own = self._dirty(host, "pages-secondary", checkpoint)
        if not self._spoilt.isdisjoint((state.ram.id, state.device.id)):
            self.recorder.counters["undetected_corruptions"] += 1
            self.recorder.event(host.id, "undetected", f"state {checkpoint} is corrupt")
        restored = self._memory.union(snapshot.pages, own)
        self.recorder.restored(restored)

        host.loads += 1
        empty_ns = self.disk.empty_ns(checkpoint)

        def finish() -> None:
            host.loads -= 1
            self._loaded(host, snapshot)
            self._synchronise(checkpoint)
            self.disk.loaded(checkpoint, empty_ns)

        mean_ns = self._costs.load_ns(restored) + empty_ns
        if self._is_delta:
            content = self._costs.parts(snapshot.pages).content
            mean_ns += self._costs.delta_load_per_page_ns * content
        return self._cost_ns(host, "load", mean_ns), finish

    def _loaded(self, host: Host, snapshot: Snapshot) -> None:
        host.guest.load(snapshot)
        host.repeats = dict(snapshot.unanswered)

    def _start_vm(self, host: Host, action: t.StartVm, cause: Cause) -> None:
        resume_ns, finish = self.begin_start(host), partial(self.started, host)
        start = partial(self.takes, host, action.op, cause, resume_ns, finish)
        self.disk.before_start(host.id, start)

    def begin_start(self, host: Host) -> int:
        """How long it takes."""
        return self._cost_ns(host, "resume", self._costs.resume_ns)

    def started(self, host: Host) -> None:
        """The guest runs from now on."""
        if host.loads:  # half of one state and half of another: no guest can run from that
            self.kill_vm(host)
            return
        serves = host.id == self._owner
        host.begun += 1
        if not serves and self._skew_ns():
            self.clock.after(self._skew_ns(), self._start_late, (host, host.begun))
        elif serves or self._scenario.execution.executes:
            host.guest.start()
        if serves:
            self.network.resume()
        if host.id == self._primary and serves and self._mirrored:
            self._plan_unprompted(self._synchronisation)
        self.network.catch_up(host.guest)

    def _skew_ns(self) -> int:
        """By how much the secondary's guest starts behind what its node believes, this time."""
        execution = self._scenario.execution
        if not execution.executes or not execution.start_skew_ns:
            return 0
        z = self._streams.normal("start-skew").at(self._synchronisation)
        return varied_ns(execution.start_skew_ns, execution.start_skew_spread, z)

    def _start_late(self, started: tuple[Host, int]) -> None:
        host, begun = started
        if host.guest.dead or begun != host.begun:
            return
        if host.guest.hung:
            host.stuck.append(lambda: self._start_late(started))
            return
        host.guest.start()
        self.network.catch_up(host.guest)

    # -- output ----------------------------------------------------------------------------

    def _synchronise(self, checkpoint: int) -> None:
        """Both guests are equal now; draw when their state will differ."""
        self._synchronisation = checkpoint
        if not self._may_part:
            return
        e = self._streams.exponential("hazard", self._pairs - 1).at(checkpoint)
        self._hazard_at_ns = self._divergence.first_ns(e)
        self._risk_taken = e

    def _plan_unprompted(self, synchronisation: int) -> None:
        """Both guests run; when they will say different things that nobody asked for."""
        e = self._streams.exponential("unprompted", self._pairs - 1).at(synchronisation)
        at_ns = self._divergence.unprompted_ns(e)
        if at_ns is not None and self._apart is not None:
            now_ns = self.now_ns()
            at_ns = round(self._apart.when(self._apart.done(now_ns) + at_ns)) - now_ns
        if at_ns is not None:
            self.clock.after(at_ns, self._speak_unprompted, synchronisation)

    def _speak_unprompted(self, synchronisation: int) -> None:
        hosts = self.present().values()
        both = all(host.alive and host.guest.running and not host.guest.hung for host in hosts)
        if both and synchronisation == self._synchronisation and self._owner == self._primary:
            for host in hosts:
                self._say_unprompted(host, synchronisation)

    def _say_unprompted(self, host: Host, number: int) -> None:
        range_ = t.Range(_UNPROMPTED, number, number + 1)
        self.tell(host.id, t.GuestOutput(range_, f"{number} of {host.id}"))

    def _primary_finished(self, client: int, request: int) -> None:
        host = self.hosts[self._primary]
        said = self._time_said(host, client, request) if self._is_timed else ""
        self._finished(host, client, request, said)

    def _secondary_finished(self, client: int, request: int) -> None:
        host = self.hosts[self._secondary]
        drifted = self._has_drifted(host)
        u = self._streams.uniform("divergence", client).at(request)
        each = self._per_connection
        opens = request % each == 0 if each else request == 0
        factor = 1.0 if self._apart is None else self._apart.factor(self.now_ns())
        differs = drifted or self._divergence.response_differs(u, opens, factor)
        difference = f"!{self._synchronisation}" if differs else ""
        if self._is_timed:
            difference += self._time_said(host, client, request)
        self._finished(host, client, request, difference)

    def _has_drifted(self, host: Host) -> bool:
        """The guests' states are not the same any more."""
        if host.risk is not None:
            host.guest.catch_up()
            return host.risk.value >= self._risk_taken
        return self._hazard_at_ns is not None and host.guest.exposure_ns >= self._hazard_at_ns

    def _time_said(self, host: Host, client: int, request: int) -> str:
        """What a response says of the time, as a mark on it."""
        u = self._streams.uniform("timed", client).at(request)
        said = self._divergence.time_said(u, self.now_ns(), role_of(host.id) == SECONDARY)
        return "" if said is None else f"@{said}"

    def _finished(self, host: Host, client: int, request: int, difference: str) -> None:
        if host.id == self._owner:
            self.network.served(client, request)
        self._say(host, client, request, f"{client}.{request}{difference}")

    def _say(self, host: Host, client: int, request: int, digest: str) -> None:
        host.owed[client, request] = digest
        range_ = t.Range(str(client), request, request + 1)
        self.tell(host.id, t.GuestOutput(range_, digest))

    def _alone(self, node_id: str, signal: t.Signal) -> None:
        """The guest that took over repeats what was made before its state was cut.

        Output that waited for the commit died with the other host; the guest's TCP, which was
        copied with everything else, finds it unacknowledged and sends it again.
        """
        host = self.hosts[node_id]
        self.recorder.event(node_id, "alone", "")
        self.disk.alone(node_id)

        def repeat(_: object) -> None:
            repeats, host.repeats = host.repeats, {}
            for (client, request), digest in repeats.items():
                if not host.guest.dead and not self.network.has(client, request):
                    self._say(host, client, request, digest)

        self.clock.after(self._retransmit_ns, repeat)
        if self._scenario.manager.reprotect:
            self._plan_protection()

    # -- the next pair ---------------------------------------------------------------------

    def _plan_protection(self) -> None:
        """Later and later if pairs do not last: a bad link would copy all memory for nothing."""
        manager = self._scenario.manager
        lasted_ns = self.now_ns() - self._paired_ns
        is_short = self._pairs > 1 and lasted_ns < manager.reprotect_stable_ns
        is_hasty = is_short and not self._ends_as_planned
        self._hasty = self._hasty + 1 if is_hasty else 0
        self._protect_later()

    def _protect_later(self) -> None:
        longer = min(2**self._hasty, LONGEST_BACK_OFF)
        delay_ns = self._scenario.manager.reprotect_delay_ns * longer
        self.clock.after(delay_ns, self._protect_again, self._pairs)

    def _protect_again(self, pairs: int) -> None:
        """Copy all of the survivor's memory to a fresh secondary while its guest stands still."""
        survivor = self.hosts[self._owner]
        if survivor.guest.dead or not survivor.alive:
            return
        if survivor.hung or survivor.guest.hung or self.is_cut:
            self._protection_fails("the link or the guest does not answer")
            return
        costs = self._costs
        pages = self._scenario.memory.guest_memory_bytes // costs.page_bytes
        self.recorder.event(survivor.id, "reprotect", f"copying {pages} pages")
        survivor.guest.stop()
        lead = node_id(t.Role.PRIMARY, pairs + 1)
        out = self._out.setdefault(lead, self._direction(lead))
        given_up = False

        def give_up(_: object) -> None:
            nonlocal given_up
            if self._pairs == pairs and not survivor.guest.dead:
                given_up = True
                out.forget(STATE)
                survivor.guest.start()
                self.network.catch_up(survivor.guest)
                self._protection_fails("the copy took too long")

        def loaded(_: object) -> None:
            if not (given_up or survivor.guest.dead or survivor.hung or survivor.guest.hung):
                self._pair_up(survivor, pages)

        def arrived() -> None:
            self.clock.after(costs.load_ns(pages), loaded)

        out.send(STATE, costs.state_bytes(pages), arrived)
        self.clock.after(self._scenario.limits.received_ns, give_up)

    def _protection_fails(self, why: str) -> None:
        self.recorder.event(self._owner, "reprotect", f"failed: {why}")
        self._hasty += 1
        self._protect_later()

    def _pair_up(self, survivor: Host, pages: int) -> None:
        """The survivor is the primary of a new pair: new nodes, whose books are empty."""
        scenario, first = self._scenario, self._pairs + 1
        self._pairs, self._paired_ns, self._ends_as_planned = first, self.now_ns(), False
        configs = [of_pair(config, first) for config in self._configs(scenario, self._policy)]
        self._primary, self._secondary = (config.id for config in configs)
        site = self._sites[survivor.id]
        other = next(each for each in _SITES if each != site)
        self._sites |= {self._primary: site, self._secondary: other}
        survivor.alive = False  # its node is over, its guest is not
        primary = Host(self._primary, survivor.guest, self._secondary)
        primary.owed, primary.vm_hangs = survivor.owed, survivor.vm_hangs
        primary.touched = survivor.touched
        demand = self._demand()
        primary.guest.become(demand.primary_ns, self._primary_finished)
        secondary = self._host(self._secondary)
        self._meter(secondary)
        self.hosts |= {primary.id: primary, secondary.id: secondary}
        self._out[secondary.id] = self._direction(secondary.id)
        self._owner = primary.id
        snapshot = self._snapshot(primary, pages)
        primary.guest.cut()
        self._loaded(secondary, snapshot)
        if self._mirrored:
            self.network.read_by(secondary.guest)
        self.arbitration = self.arbitration.anew()
        self._synchronise(0)
        self.session = self._session(configs)
        self.sessions.append(self.session)
        self._straight = self._way()
        self.recorder.event(primary.id, "paired", f"on {site}, copied to {other}")
        for host in (primary, secondary):
            self.tell(host.id, t.Start())
        back_ns = scenario.manager.failback_after_ns
        if back_ns is not None and site != _SITES[0]:
            self.clock.after(back_ns, self._fail_back, first)

    def _fail_back(self, pairs: int) -> None:
        """A planned switchover to the site that is preferred, if the pair is still there."""
        if self._pairs == pairs and self._owner == self._primary:
            self._ends_as_planned = True
            self.recorder.event(self._primary, "failback", "asked for")
            self.tell(self._primary, t.HandOver())

    def _release(self, host: Host, action: t.Release, cause: Cause) -> None:
        self._drop(host, action, cause)
        # without protection nothing was held: what output takes is part of the service
        mean_ns = self._costs.release_ns if self._tracked else 0
        late_ns = self._cost_ns(host, "release", mean_ns) if mean_ns else 0
        answers = tuple(range_ for range_ in action.ranges if range_.stream != _UNPROMPTED)
        self.network.release(answers, late_ns)

    def _drop(self, host: Host, action: t.Release | t.Drop, cause: Cause) -> None:
        for range_ in action.ranges:
            if range_.stream == _UNPROMPTED:
                continue
            for request in range(range_.first, range_.end):
                host.owed.pop((int(range_.stream), request), None)

    def _offer_witness(self, host: Host, action: t.OfferWitness, cause: Cause) -> None:
        event = t.PeerOutput(action.range, action.digest, action.epoch)
        self._witness_of(host, self._response_bytes, event, cause)

    def _witness_of(self, host: Host, size_bytes: int, event: t.PeerOutput, cause: Cause) -> None:
        """Put a witness on the link, after the time that the host needs for it; in order."""
        mean_ns = self._costs.witness_ns
        if not mean_ns:
            self._post(host, "witness", size_bytes, event, cause)
            return
        now_ns, stream = self.now_ns(), event.range.stream
        due_ns = now_ns + self._cost_ns(host, "witness", mean_ns)
        due_ns = host.offered_ns[stream] = max(due_ns, host.offered_ns.get(stream, 0))

        def put(_: object) -> None:
            if host.alive:
                self._post(host, "witness", size_bytes, event, cause)

        self.clock.after(due_ns - now_ns, put)

    # -- the link --------------------------------------------------------------------------

    def _post(
        self,
        host: Host,
        channel: str,
        size_bytes: int,
        event: t.Event,
        cause: Cause,
        left: Callable[[], None] | None = None,
    ) -> None:
        """Send something to the other node over the replication link."""
        if host.peer not in self.hosts:
            return
        to = self.hosts[host.peer]

        def arrived() -> None:
            if channel != STATE or to.link_open:
                self.tell(to.id, event, cause)

        self._out[host.id].send(channel, size_bytes, arrived, left)

    def _send_message(self, host: Host, action: t.SendMessage, cause: Cause) -> None:
        if host.link_open:
            data = self._control(host, action.data)
            self._post(host, STATE, MESSAGE_BYTES + len(data), t.PeerBytes(data), cause)

    def _precopy(self, host: Host, action: t.Precopy, cause: Cause) -> None:
        """Send what is dirty while the guest runs; tracking starts anew, as for a cut."""
        if action.round == 1:
            host.ahead = Ahead()
        guest, ahead, checkpoint = host.guest, host.ahead, action.checkpoint
        exposure_ns, written_ns, pages = self._dirty(host, "pages-primary", checkpoint)
        size_bytes = self._ram_bytes(pages, checkpoint, written_ns, guest.served_since_cut)
        ahead.exposure_ns += exposure_ns
        ahead.written_ns += written_ns
        ahead.served += guest.served_since_cut
        ahead.pages += pages
        ahead.sent_bytes += size_bytes
        guest.track_anew()

        def left() -> None:
            if guest.dead:
                self.tell(host.id, t.Failed(action.op, "the guest's process has ended"), cause)
                return
            _, again_ns, more = self._dirty(host, "pages-primary", checkpoint)
            left_bytes = self._ram_bytes(more, checkpoint, again_ns, guest.served_since_cut)
            self.tell(host.id, t.Precopied(action.op, size_bytes, left_bytes), cause)

        mean_ns = self._costs.transfer_ns(pages) + self._encode_ns(pages)
        self._move(
            host,
            action.op,
            cause,
            self._transfer_ns(host, mean_ns),
            lambda: self._spread(host, size_bytes, lambda: None, left),
        )

    def _send_state(self, host: Host, action: t.SendState, cause: Cause) -> None:
        self.send_after(self.begin_send(host), host, action, cause)

    def begin_send(self, host: Host) -> int:
        """What moving the state takes the hosts themselves, before the link has it."""
        mean_ns = self._costs.transfer_ns(host.rest_pages)
        if self._is_early:
            mean_ns += self._encode_ns(host.rest_pages)
        return self._transfer_ns(host, mean_ns)

    def _transfer_ns(self, host: Host, mean_ns: int) -> int:
        return self._cost_ns(host, "transfer", mean_ns) if mean_ns else 0

    def send_after(self, delay_ns: int, host: Host, action: t.SendState, cause: Cause) -> None:
        """Put a state on the link."""
        put = partial(self._put_state, host, action, cause)
        self._move(host, action.op, cause, delay_ns, put)

    def _move(
        self, host: Host, op: int, cause: Cause, delay_ns: int, put: Callable[[], None]
    ) -> None:
        """Put pages on the link, after the time that the hosts themselves need for them."""

        def begin(_: object = None) -> None:
            if host.hung:
                host.backlog.append(begin)
            elif host.alive and host.link_open and self.hosts[host.peer].link_open:
                put()
            elif host.alive:
                failed = t.Failed(op, "the stream is closed")
                self.clock.after(0, lambda _: self.tell(host.id, failed, cause))

        if delay_ns:
            self._work(host, delay_ns, begin)
        else:
            begin()

    def _put_state(self, host: Host, action: t.SendState, cause: Cause) -> None:
        """Message by message; where the pages are dealt to channels, the rest waits for them."""
        chunks, to = action.chunks, self.hosts[host.peer]
        self.recorder.sent(self._size_of(chunks) + host.ahead.sent_bytes)
        is_dealt = len(self._channels) > 1
        ram = next(chunk for chunk in chunks if isinstance(chunk, t.Blob))
        order = InOrder()

        def arrived(event: t.Event) -> None:
            if to.link_open:
                self.tell(to.id, event, cause)

        def left() -> None:
            self.tell(host.id, t.Done(action.op), cause)

        all_left = last_of(len(chunks), left) if is_dealt else left
        for chunk in chunks:
            event: t.PeerBytes | t.PeerBlob
            if isinstance(chunk, bytes):
                event = t.PeerBytes(self._control(host, chunk))
            else:
                event = t.PeerBlob(self._bulk(host, chunk))
            here = partial(arrived, event)
            gone = all_left if is_dealt or chunk is chunks[-1] else None
            size_bytes = self._size_of((chunk,))
            if is_dealt and chunk is ram:
                self._spread(host, size_bytes, order.add(here), gone)
            else:
                self._out[host.id].send(
                    STATE, size_bytes, order.add(here) if is_dealt else here, gone
                )

    def _spread(
        self,
        host: Host,
        size_bytes: int,
        arrived: Callable[[], None],
        left: Callable[[], None] | None,
    ) -> None:
        """Deal bytes to the channels of the state; told when the last of them has arrived, left."""
        channels = self._channels
        share, more = divmod(size_bytes, len(channels))
        all_arrived = last_of(len(channels), arrived)
        all_left = None if left is None else last_of(len(channels), left)
        for i, channel in enumerate(channels):
            self._out[host.id].send(channel, share + (i < more), all_arrived, all_left)

    def _strikes(self, host: Host, part: str) -> bool:
        """Whether what this host sends now is what a corrupt link waited for."""
        for fault in self._corrupt:
            if (fault.sender or PRIMARY, fault.part) == (role_of(host.id), part):
                self._corrupt.remove(fault)
                return True
        return False

    def _control(self, host: Host, data: bytes) -> bytes:
        """Control bytes as they arrive: one of them may be another one."""
        if not self._corrupt or not self._strikes(host, "framing"):
            return data
        draws, drawn = self._streams.uniform("corrupt"), 2 * self._struck_bytes
        self._struck_bytes += 1
        at = int(draws.at(drawn) * len(data))
        other = data[at] ^ (1 + int(draws.at(drawn + 1) * 255))
        self.recorder.event("link", "corrupted", f"byte {at} of {data.hex()} is {other:02x}")
        return data[:at] + bytes((other,)) + data[at + 1 :]

    def _bulk(self, host: Host, blob: t.Blob) -> t.Blob:
        """A part of a state as it arrives; which byte is another one is all the same."""
        if not self._corrupt or not self._strikes(host, "payload"):
            return blob
        self._spoilt.add(blob.id)
        self.recorder.event("link", "corrupted", f"one of {blob.size} bytes of {blob.id}")
        return replace(blob, digest=f"{blob.digest}!")

    @staticmethod
    def _size_of(chunks: Iterable[bytes | t.Blob]) -> int:
        return sum(len(chunk) if isinstance(chunk, bytes) else chunk.size for chunk in chunks)

    def _close_link(self, host: Host, action: t.CloseLink, cause: Cause) -> None:
        if host.link_open or host.id in self._parted:
            host.link_open = False
            self._parted.discard(host.id)
            self._post(host, STATE, MESSAGE_BYTES, t.LinkLost("the peer closed it"), cause)

    # -- managers --------------------------------------------------------------------------

    def _heartbeat(self, host: Host, action: t.Heartbeat, cause: Cause) -> None:
        if chance := self._scenario.link.heartbeat_loss:
            index = host.operations["heartbeat"] = host.operations.get("heartbeat", -1) + 1
            if self._streams.uniform(f"heartbeat-loss-{host.id}").at(index) < chance:
                return
        if self._straight is None or not self._straight.takes_beat(host):
            self._post(host, HEARTBEAT, MESSAGE_BYTES, t.HeartbeatSeen(), cause)

    def _ask_vote(self, host: Host, action: t.AskVote, cause: Cause) -> None:
        self.arbitration.ask(host, action.op, cause)

    def _renew_lease(self, host: Host, action: t.RenewLease, cause: Cause) -> None:
        self.arbitration.renew(host, action.op, cause)

    def _give_up_lease(self, host: Host, action: t.GiveUpLease, cause: Cause) -> None:
        self.arbitration.give_up(host)

    def _fence(self, host: Host, action: t.Fence, cause: Cause) -> None:
        manager = self._scenario.manager
        fails = manager.fence_fails
        if manager.fence_failure:
            index = host.operations["fence-failure"] = host.operations.get("fence-failure", -1) + 1
            u = self._streams.uniform(f"fence-failure-{host.id}").at(index)
            fails = fails or u < manager.fence_failure

        def end(_: object) -> None:
            if fails:
                self.tell(host.id, t.Failed(action.op, "the fence did not answer"), cause)
                return
            self.kill_host(self.hosts[host.peer])
            self.tell(host.id, t.Done(action.op), cause)

        self.clock.after(self._cost_ns(host, "fence", self._costs.fence_ns), end)

    def _promote(self, host: Host, action: t.Promote, cause: Cause) -> None:
        self.recorder.event(host.id, "promoted", "")
        self._owner = host.id
        if host.peer in self.hosts:
            self.network.unread_by(self.hosts[host.peer].guest)
        self.disk.promoted(host.id, is_loading=host.loads > 0)
        self.network.read_by(host.guest)

    def _report(self, host: Host, action: t.Report, cause: Cause) -> None:
        self.recorder.event(host.id, "report", action.text)

    # -- what faults do --------------------------------------------------------------------

    def kill_vm(self, host: Host, why: str = "the guest's process has ended") -> None:
        host.guest.kill()
        self.disk.died(host.id)
        self.tell(host.id, t.VmGone(why))

    def kill_node(self, host: Host) -> None:
        """The node's process ends, its guest with it; the host's kernel closes its sockets."""
        if host.alive:
            host.alive = False
            host.guest.kill()
            self.disk.died(host.id)
            if host.link_open and host.peer in self.hosts:
                host.link_open = False
                self._out[host.id].forget("witness")
                ended = t.LinkLost("connection reset")
                self._post(host, STATE, MESSAGE_BYTES, ended, (host.id, -1))

    def kill_host(self, host: Host) -> None:
        """Everything in the domain ends without a word."""
        host.alive = False
        host.link_open = False
        host.guest.kill()
        for channel in (*self._channels, "witness", HEARTBEAT, DISK):
            self._out[host.id].forget(channel)

    def hang_vm(self, host: Host, is_hung: bool) -> None:
        host.vm_hangs += 1 if is_hung else -1
        host.guest.hang(host.vm_hangs > 0)
        if not host.guest.hung:
            stuck, host.stuck = host.stuck, []
            for end in stuck:
                end()
            self.network.catch_up(host.guest)

    def hang_node(self, host: Host, is_hung: bool) -> None:
        host.hangs += 1 if is_hung else -1
        if not host.hung:
            backlog, host.backlog = host.backlog, []
            for tell in backlog:
                tell()

    @property
    def is_cut(self) -> bool:
        """Nothing crosses the link."""
        return self._cuts > 0

    def cut_link(self, is_cut: bool) -> None:
        self._cuts += 1 if is_cut else -1  # cuts may overlap
        for direction in self._out.values():
            direction.cut(self._cuts > 0)

    def _plan_blip(self, number: int) -> None:
        """Blip ``number`` of the link: when it begins after the one before, and how long it is."""
        link = self._scenario.link
        wait = self._streams.exponential("blip-wait").at(number)
        self.clock.after(round(wait / link.blips_per_s * NS_PER_S), self._blip, number)

    def _blip(self, number: int) -> None:
        lasts = self._streams.exponential("blip").at(number) * self._scenario.link.blip_ns
        self.cut_link(True)

        def end(_: object) -> None:
            self.cut_link(False)
            self._plan_blip(number + 1)

        self.clock.after(round(lasts), end)

    def slow_link(self, fault: Fault, is_slow: bool) -> None:
        """The link as the latest of the faults that hold has it; what that leaves open, as ever."""
        (self._slow.append if is_slow else self._slow.remove)(fault)
        for direction in self._out.values():
            direction.change(*self._link_speed())

    def corrupt_link(self, fault: Fault) -> None:
        """The next bytes of that kind; those that are under way already arrive as they are."""
        self._corrupt.append(fault)

    # -- disks -----------------------------------------------------------------------------

    @property
    def owner(self) -> str:
        """The host whose guest clients talk to."""
        return self._owner

    def serves(self) -> bool:
        """Whether its guest answers, but for a checkpoint's pause."""
        return self._serves(self.hosts[self._owner])

    def send_disk(self, host: Host, size_bytes: int, arrived: Callable[[], None]) -> None:
        """Put a request to the other disk, or its answer, on the link."""
        self._out[host.id].send(DISK, size_bytes, arrived)

    def part(self, host: Host, why: str) -> None:
        """The checkpoint stream is of no use to this host any more.

        The other one learns of it when this one's node has left the loop, and so asks for the vote
        first: what is wrong is over there.
        """
        if host.link_open:
            host.link_open = False
            self._parted.add(host.id)
            self.tell(host.id, t.LinkLost(why))

    def disk_fails(self, name: str, why: str) -> None:
        """A guest whose disk fails is stopped, and beyond use."""
        self.recorder.event(name, "disk-failed", why)
        self.kill_vm(self.hosts[name], f"its disk fails: {why}")

    # -- the end ---------------------------------------------------------------------------

    def lost_responses(self) -> int:
        """Requests that nobody will ever answer.

        Not lost: what the guest that clients talk to has served and still holds, works on, or
        has yet to read.  Where the run ends with nobody serving, everything open is lost, also
        if a takeover was under way.
        """
        owner = self.hosts[self._owner]
        unanswered = self.network.unanswered()
        if not self._serves(owner):
            return len(unanswered)
        due = {*owner.owed, *owner.repeats, *owner.guest.requests()}
        read = owner.guest.input_position
        return sum(row < read and (c, request) not in due for c, request, row in unanswered)

    def _serves(self, host: Host) -> bool:
        """Whether the host's guest answers, but for a checkpoint's pause."""
        stuck = host.guest.dead or host.guest.hung or host.hung or not host.alive
        out = (P.EXITED, P.FROZEN, P.DEAD, S.EXITED, S.BROKEN)
        node = self.session.nodes[host.id]
        return not stuck and not node.gave_up and node.step not in out

    def counters(self) -> dict[str, int]:
        """What else is counted at this fidelity."""
        return {}

    def link_bytes(self) -> int:
        if self._straight is not None:
            self._straight.catch_up()
        return sum(direction.sent_bytes for direction in self._out.values())
