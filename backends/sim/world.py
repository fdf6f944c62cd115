"""The simulated world: SimPy drives, the core decides.

`SimWorld` puts a world together and has its clock, its hosts and the life of its pairs.  What a
node wants done goes to the part that knows how (`_performers`); how long that takes, the models of
`colosim.model` say.  There is no rule of the protocol here: not when to checkpoint, not what may
leave, not who takes over.

==============  =================================================================================
``host``        a failure domain: a guest and its node
``operations``  what a host does with its guest for a checkpoint
``tracking``    what guests dirty, and what that is on the link
``replication`` what crosses the link, and what faults do to it
``output``      what guests say, at each fidelity
``foresight``   what is planned ahead, and told of whatever intervenes
``parting``     when guests part, and what they then say
``succession``  how pairs follow each other
==============  =================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from backends.base import Cause, Session
from backends.nodes import PRIMARY, SECONDARY, of_pair, peer_of
from backends.recorder import Recorder
from backends.sim.arbitration import ARBITRATION
from backends.sim.beats import HEARTBEAT
from backends.sim.clock import Clock
from backends.sim.disk import NoDisk, ReplicatedDisk
from backends.sim.epoch.output import EpochOutput
from backends.sim.faults import Blips, FaultPlan
from backends.sim.host import SITES, Durations, Host
from backends.sim.link import MESSAGE_BYTES
from backends.sim.local import LocalSessions
from backends.sim.operations import Operations
from backends.sim.output import Output
from backends.sim.packet.output import PacketOutput
from backends.sim.parting import Parting
from backends.sim.replication import Replication
from backends.sim.responses import ResponseOutput
from backends.sim.sharing import Shared
from backends.sim.straight import Straight
from backends.sim.succession import Succession
from backends.sim.tracking import DirtyTracking
from colosim.model.streams import Streams
from colosim.protocol import types as t
from colosim.protocol.checkpoint import P, S
from colosim.protocol.node import Node, NodeConfig
from colosim.scenario import BatchJob, Fault, Scenario
from colosim.session import Observer

OUTPUTS: dict[str, type[Output]] = {
    "response": ResponseOutput,
    "packet": PacketOutput,
    "epoch": EpochOutput,
}


@dataclass(frozen=True, slots=True)
class Pair:
    """The hosts that are there, by their roles; those of earlier pairs hear nothing any more."""

    number: int
    hosts: dict[str, Host]
    began_ns: int = 0


class SimWorld:
    """One replication of one scenario under one policy."""

    _may_go_straight = True  # checkpoints in which nothing intervenes (`backends.sim.straight`)

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
        self._scenario = scenario
        self._streams = streams
        self._shared = shared
        self._vm = vm
        self._observers = tuple(observers)
        self._costs = scenario.costs()
        self.clock = Clock() if shared is None else shared.clock
        self.recorder = Recorder(self.clock)
        if any(fault.kind == "corrupt" for fault in scenario.fault):
            self.recorder.counters["undetected_corruptions"] = 0
        self.flags: set[str] = set()
        self.durations = Durations(self._costs, streams)
        self.tracking = DirtyTracking(scenario, streams)
        self.parting = Parting(scenario, streams)
        self.output = OUTPUTS[scenario.fidelity](self, scenario, policy, streams)
        self.network, self.foresight = self.output.network, self.output.foresight
        configs = self.output.configs()
        made = (self._host(*each) for each in zip(configs, SITES, strict=False))
        self.hosts = {host.id: host for host in made}  # of all pairs
        self.pair = Pair(1, dict(self.hosts))
        self.owner = PRIMARY  # the host whose guest clients talk to
        self.link = Replication(self, scenario, streams, shared, vm)
        disk = scenario.disk
        self.disk = NoDisk() if disk is None else ReplicatedDisk(self, disk, streams)
        self.operations = Operations(self, scenario, policy, streams)
        self.succession = Succession(self, scenario)
        self.arbitration = ARBITRATION[scenario.manager.arbiter](self, scenario.manager)
        self.faults = FaultPlan(scenario.fault, self)
        self._told_of_steps = [stepped] if stepped else []
        if self.faults.by_step:
            self._told_of_steps.append(self.faults.stepped)
        self._may_go_straight &= self.output.goes_straight
        # where somebody looks at the steps, they are taken one by one
        self._may_go_straight &= not self._observers and not self._told_of_steps
        self._may_go_straight &= self.link.is_in_one and not self._costs.wake_up_ns
        self._may_go_straight &= shared is None  # others use the CPU and the link
        self._may_go_straight &= disk is None
        self.session = self._session(configs)
        self.sessions = [self.session]  # of all pairs
        self._straight = self._way()
        operations, output, link = self.operations, self.output, self.link
        self._performers: dict[type, Callable[[Host, Any, Cause], None]] = {
            t.Precopy: operations.precopy,
            t.Quiesce: operations.quiesce,
            t.StopVm: operations.stop_vm,
            t.Drain: operations.drain,
            t.Save: operations.save,
            t.Copy: operations.save,
            t.SendState: operations.send_state,
            t.Load: operations.load,
            t.StartVm: operations.start_vm,
            t.SendMessage: link.send_message,
            t.CloseLink: link.close,
            t.OfferWitness: output.offer_witness,
            t.Release: output.release,
            t.Drop: output.drop,
            t.Heartbeat: self._heartbeat,
            t.AskVote: self._ask_vote,
            t.RenewLease: self._renew_lease,
            t.GiveUpLease: self._give_up_lease,
            t.Fence: self._fence,
            t.Promote: self._promote,
            t.Report: self._report,
        }

    # -- parts -----------------------------------------------------------------------------

    def _host(self, config: NodeConfig, site: str) -> Host:
        host = self.output.host(config.id, peer_of(config))
        host.pair, host.site = config.pair, site
        if self._shared is not None:
            host.cpu = self._shared.cpu(host.id, host.guest)
        self.tracking.watch(host)
        self.parting.watch(host)
        return host

    def _session(self, configs: Iterable[NodeConfig]) -> Session | LocalSessions:
        """The nodes of a pair, on the clocks of the sites where they are."""
        clocks = self._scenario.clocks
        nodes = [Node(config) for config in configs]
        stepped = self._stepped if self._told_of_steps else None
        ears = self.output.ears({**self.recorder.ears(), t.Alone: self._alone})
        if clocks.are_one:
            return Session(nodes, self, self._observers, ears, stepped)
        own = {node.config.id: clocks.of(self.hosts[node.config.id].site) for node in nodes}
        return LocalSessions(nodes, self, own, self._observers, ears, stepped)

    def _stepped(self, node_id: str, step: str) -> None:
        for tell in self._told_of_steps:
            tell(node_id, step)

    def _way(self) -> Straight | None:
        """For checkpoints of the pair that there is, if there can be one."""
        if not self._may_go_straight or SECONDARY not in self.pair.hosts:
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
        is_shared = self.output.compares and self.output.sends_witnesses
        return not (scenario.fault or is_asked or is_lossy or is_shared)

    # -- the run ---------------------------------------------------------------------------

    def run(self) -> None:
        """Start everything and run to the end of the scenario, or of its batch job."""
        self.begin()
        self.clock.run(self._scenario.duration_ns)
        self.end()

    def begin(self) -> None:
        """Start everything; time has yet to go on."""
        scenario, hosts = self._scenario, self.pair.hosts
        self.network.read_by(hosts[PRIMARY].guest)
        if SECONDARY in hosts:
            if self.output.compares:
                self.network.read_by(hosts[SECONDARY].guest)
            self.synchronise(0)
        else:
            hosts[PRIMARY].guest.start()
        self.output.start_clients()
        if isinstance(scenario.workload, BatchJob):
            ends = self.clock.stop if self._shared is None else self._shared.finished
            self.network.answered = lambda client, request: ends()
        self.faults.start()
        if scenario.link.blips_per_s:
            Blips(self, scenario.link, self._streams).start()
        self.succession.start()
        self.clock.after(scenario.warm_up_ns, self._warm)
        if late_ns := self._vm * scenario.sharing.stagger_ns:
            self.clock.after(late_ns, self._start_nodes)
        else:
            self._start_nodes()

    def _start_nodes(self, _: object = None) -> None:
        for name in self.hosts:
            self.tell(name, t.Start())

    def _warm(self, _: object) -> None:
        """The warm-up is over: what was counted so far is not part of the metrics."""
        self.foresight.hear_all()
        self.recorder.counters["mismatches_in_warm_up"] = self.recorder.counters["mismatches"]
        self.recorder.counters["link_bytes_in_warm_up"] = self.link_bytes()

    def end(self) -> None:
        """The run is over."""
        if self._straight is not None:
            self._straight.end()
        if self.faults.pending or self.link.corruption.is_due:
            self.flags.add("fault-did-not-happen")
        if self.tracking.is_extrapolated:
            self.flags.add("memory-extrapolated")
        self.foresight.hear_all()

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
        host, foresight = self.hosts[node_id], self.foresight
        if foresight.says_late:
            foresight.hear_before(host, event)
        if not host.alive:
            return
        if host.hung:
            host.backlog.append(lambda: self.tell(node_id, event, cause))
        else:
            self.session.pump(node_id, event, cause)

    def goes_straight(self, host: Host, op: int) -> bool:
        """Client input is held back, by that operation: whether the checkpoint goes on in one go,
        as far as it can (`backends.sim.straight`).
        """
        return self._straight is not None and self._straight(host, op)

    # -- managers --------------------------------------------------------------------------

    def _heartbeat(self, host: Host, action: t.Heartbeat, cause: Cause) -> None:
        if chance := self._scenario.link.heartbeat_loss:
            number = host.next_number("heartbeat")
            if self._streams.uniform(f"heartbeat-loss-{host.id}").at(number) < chance:
                return
        if self._straight is None or not self._straight.takes_beat(host):
            self.link.post(host, HEARTBEAT, MESSAGE_BYTES, t.HeartbeatSeen(), cause)

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
            number = host.next_number("fence-failure")
            u = self._streams.uniform(f"fence-failure-{host.id}").at(number)
            fails = fails or u < manager.fence_failure

        def end(_: object) -> None:
            if fails:
                self.tell(host.id, t.Failed(action.op, "the fence did not answer"), cause)
                return
            self.kill_host(self.hosts[host.peer])
            self.tell(host.id, t.Done(action.op), cause)

        self.clock.after(self.durations.of(host, "fence", self._costs.fence_ns), end)

    def _promote(self, host: Host, action: t.Promote, cause: Cause) -> None:
        self.foresight.settle()  # what it has served until now, clients did not talk to it
        self.recorder.event(host.id, "promoted", "")
        self.owner = host.id
        if host.peer in self.hosts:
            self.network.unread_by(self.hosts[host.peer].guest)
        self.disk.promoted(host.id, is_loading=host.loads > 0)
        self.network.read_by(host.guest)
        self.output.promoted(host)

    def _report(self, host: Host, action: t.Report, cause: Cause) -> None:
        self.recorder.event(host.id, "report", action.text)

    # -- the life of a pair ----------------------------------------------------------------

    def synchronise(self, checkpoint: int) -> None:
        """Both guests are equal now."""
        self.parting.synchronised(self.pair.number, checkpoint)
        self.foresight.synchronised()

    def _alone(self, node_id: str, signal: t.Signal) -> None:
        self.recorder.event(node_id, "alone", "")
        self.disk.alone(node_id)
        self.operations.alone(self.hosts[node_id])
        self.output.alone(self.hosts[node_id])
        self.succession.alone()

    def pair_up(self, survivor: Host, pages: int) -> None:
        """The survivor is the primary of a new pair: new nodes, whose books are empty.

        pages: of its memory, that were copied to a fresh secondary.
        """
        output, number = self.output, self.pair.number + 1
        configs = [of_pair(config, number) for config in output.configs()]
        site = survivor.site
        other = next(each for each in SITES if each != site)
        survivor.alive = False  # its node is over, its guest is not
        ours, theirs = configs
        primary, secondary = output.next_primary(survivor, ours), self._host(theirs, other)
        self.pair = Pair(number, {PRIMARY: primary, SECONDARY: secondary}, self.now_ns())
        self.hosts |= {host.id: host for host in self.pair.hosts.values()}
        self.link.lead_from(secondary.id)
        self.owner = primary.id
        snapshot = output.snapshot(primary, pages)
        primary.guest.cut()
        output.loaded(secondary, snapshot)
        if output.compares:
            self.network.read_by(secondary.guest)
        self.arbitration = self.arbitration.anew()
        self.synchronise(0)
        self.session = self._session(configs)
        self.sessions.append(self.session)
        self._straight = self._way()
        self.recorder.event(primary.id, "paired", f"on {site}, copied to {other}")
        for host in (primary, secondary):
            self.tell(host.id, t.Start())

    # -- what faults do --------------------------------------------------------------------

    def playing(self, role: str) -> Host:
        """Whom a fault of a role strikes: where pairs follow each other, the survivor of one is
        the primary already.
        """
        hosts = self.pair.hosts
        if self._scenario.manager.reprotect and self.owner != hosts[PRIMARY].id:
            role = PRIMARY if role == SECONDARY else SECONDARY
        return hosts[role]

    def kill_vm(self, host: Host, why: str = "the guest's process has ended") -> None:
        host.guest.kill()
        self.disk.died(host.id)
        self.tell(host.id, t.VmGone(why))

    def kill_node(self, host: Host) -> None:
        """The node's process ends, its guest with it; the host's kernel closes its sockets."""
        self.foresight.hear_out(host)
        if host.alive:
            host.alive = False
            host.guest.kill()
            self.disk.died(host.id)
            self.link.reset(host)
        self.foresight.disturbed()

    def kill_host(self, host: Host) -> None:
        """Everything in the domain ends without a word."""
        self.foresight.hear_out(host)
        host.alive = False
        host.guest.kill()
        self.link.lose(host)
        self.foresight.disturbed()

    def hang_vm(self, host: Host, is_hung: bool) -> None:
        host.vm_hangs += 1 if is_hung else -1
        host.guest.hang(host.vm_hangs > 0)
        if not host.guest.hung:
            stuck, host.stuck = host.stuck, []
            for end in stuck:
                end()
            self.network.catch_up(host.guest)

    def hang_node(self, host: Host, is_hung: bool) -> None:
        self.foresight.hanging(host, is_hung)
        host.hangs += 1 if is_hung else -1
        if not host.hung:
            backlog, host.backlog = host.backlog, []
            for tell in backlog:
                tell()
        self.foresight.hung(host)

    def cut_link(self, is_cut: bool) -> None:
        self.foresight.settle()
        self.link.cut(is_cut)
        self.foresight.disturbed()

    def slow_link(self, fault: Fault, is_slow: bool) -> None:
        self.foresight.settle()
        self.link.slow(fault, is_slow)
        self.foresight.slowed()

    # -- disks -----------------------------------------------------------------------------

    def disk_fails(self, name: str, why: str) -> None:
        """A guest whose disk fails is stopped, and beyond use."""
        self.recorder.event(name, "disk-failed", why)
        self.kill_vm(self.hosts[name], f"its disk fails: {why}")

    # -- the end ---------------------------------------------------------------------------

    def serves(self) -> bool:
        """Whether the guest that clients talk to answers, but for a checkpoint's pause."""
        host = self.hosts[self.owner]
        stuck = host.guest.dead or host.guest.hung or host.hung or not host.alive
        out = (P.EXITED, P.FROZEN, P.DEAD, S.EXITED, S.BROKEN)
        node = self.session.nodes[host.id]
        return not stuck and not node.gave_up and node.step not in out

    def link_bytes(self) -> int:
        if self._straight is not None:
            self._straight.catch_up()
        return self.link.sent_bytes + self.output.witness_bytes()
