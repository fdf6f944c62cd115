"""The simulated world: SimPy drives, the core decides.

`SimWorld` turns a node's actions into durations and later events, by the models of
`colosim.model`.  It holds no rule of the protocol: not when to checkpoint, not what may leave,
not who takes over.  Fidelity is ``response``: one object per response;
`backends.sim.packet.world` has the one with packets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from backends.base import Cause, Session
from backends.nodes import PRIMARY, SECONDARY, node_configs
from backends.recorder import Recorder
from backends.sim.clock import Clock
from backends.sim.faults import FaultPlan
from backends.sim.guest import Guest, Snapshot
from backends.sim.link import Direction
from backends.sim.traffic import Demand, Jitter, Network, start_clients
from colosim.model.cost import Slowdown, varied_ns
from colosim.model.divergence import Divergence
from colosim.model.streams import Streams
from colosim.protocol import types as t
from colosim.protocol.checkpoint import P, S
from colosim.protocol.manager import Witness
from colosim.protocol.node import Node, NodeConfig
from colosim.protocol.policies import POLICIES
from colosim.scenario import BatchJob, Fault, Scenario, Service
from colosim.session import Observer

MESSAGE_BYTES = 64  # of TCP and IP headers that a message of its own costs


@dataclass(slots=True)
class Host:
    """A failure domain: a guest, its node, and what happens to them."""

    id: str
    guest: Guest
    peer: str
    alive: bool = True
    hangs: int = 0  # of the node; hangs may overlap
    vm_hangs: int = 0
    loads: int = 0  # of states that are under way into the guest
    link_open: bool = True  # this end of the checkpoint stream
    backlog: list[Callable[[], None]] = field(default_factory=list)  # while the node hangs
    stuck: list[Callable[[], None]] = field(default_factory=list)  # while the guest hangs
    due_ns: int | None = None  # when its node wants Tick
    wake_ns: int | None = None  # the wake-up call that is planned, at or before due
    turn: int = 0  # of that call
    # what the guest made and nobody has: (client, request) -> digest
    owed: dict[tuple[int, int], str] = field(default_factory=dict)
    operations: dict[str, int] = field(default_factory=dict)  # how many of each were begun
    # what the loaded state had made and, for all it knows, nobody has: a guest repeats that
    repeats: dict[tuple[int, int], str] = field(default_factory=dict)

    @property
    def hung(self) -> bool:
        """The node does not run."""
        return self.hangs > 0


class SimWorld:
    """One replication of one scenario under one policy."""

    def __init__(
        self,
        scenario: Scenario,
        policy: str,
        streams: Streams,
        observers: Iterable[Observer] = (),
        stepped: Callable[[str, str], None] | None = None,
    ) -> None:
        self._scenario = scenario
        self._streams = streams
        self._tracked = POLICIES[policy].protects()  # nobody tracks writes without a reader
        self._mirrored = POLICIES[policy].output is t.Output.WITNESS
        self._memory = scenario.memory_model()
        self._costs = scenario.costs()
        divergence = scenario.divergence
        self._divergence = Divergence(divergence.probability, divergence.hazard_per_s)
        workload = scenario.workload
        service = workload if isinstance(workload, Service) else None
        self._vcpus = service.vcpus if service else 1
        self._response_bytes = service.response_bytes if service else MESSAGE_BYTES
        self._retransmit_ns = service.retransmit_ns if service else 0
        self.clock = Clock()
        self.network = self._network(
            service.client_delay_ns if service else 0,
            Jitter(service.client_jitter_ns if service else 0, streams),
        )
        configs = self._configs(scenario, policy)
        self.hosts = {config.id: self._host(config.id) for config in configs}
        self._out = {
            name: Direction(self.clock, scenario.link.bandwidth_bps, scenario.link.delay_ns)
            for name in self.hosts
        }
        self._witness = Witness()
        self._cuts = 0
        self._slow: list[Fault] = []  # those that hold, the latest last
        self._corrupt: list[Fault] = []  # those whose byte has yet to come
        self._spoilt: set[str] = set()  # names of blobs that are not what was sent
        self._struck_bytes = 0
        self._snapshots: dict[str, Snapshot] = {}
        self._owner = PRIMARY
        self._hazard_at_ns: int | None = None
        self._synchronisation = 0
        self.recorder = Recorder(self.clock)
        if any(fault.kind == "corrupt" for fault in scenario.fault):
            self.recorder.counters["undetected_corruptions"] = 0
        self.flags: set[str] = set()
        self.faults = FaultPlan(scenario.fault, self)
        self._told_of_steps = [stepped] if stepped else []
        if self.faults.by_step:
            self._told_of_steps.append(self.faults.stepped)
        self.session = Session(
            [Node(config) for config in configs],
            self,
            observers,
            self._ears(),
            self._stepped if self._told_of_steps else None,
        )
        self._performers: dict[type, Callable[[Host, Any, Cause], None]] = {
            t.Quiesce: self._quiesce,
            t.StopVm: self._stop_vm,
            t.Drain: self._drain,
            t.Save: self._save,
            t.Copy: self._copy,
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
            t.Fence: self._fence,
            t.Promote: self._promote,
            t.Report: self._report,
        }

    def _configs(self, scenario: Scenario, policy: str) -> list[NodeConfig]:
        return node_configs(scenario, policy)

    def _network(self, delay_ns: int, jitter: Jitter) -> Network:
        return Network(self.clock, delay_ns, jitter)

    def _ears(self) -> dict[type, Callable[[str, Any], None]]:
        return {**self.recorder.ears(), t.Alone: self._alone}

    def _host(self, name: str) -> Host:
        scenario = self._scenario
        demand = Demand(scenario.workload, self._streams, scenario.execution.jitter)
        guest = Guest(
            self.clock,
            Slowdown(self._memory, self._costs.first_write_ns if self._tracked else 0),
            self._vcpus,
            demand.primary_ns if name == PRIMARY else demand.secondary_ns,
            self._primary_finished if name == PRIMARY else self._secondary_finished,
        )
        return Host(name, guest, SECONDARY if name == PRIMARY else PRIMARY)

    def _stepped(self, node_id: str, step: str) -> None:
        for tell in self._told_of_steps:
            tell(node_id, step)

    def run(self) -> None:
        """Start everything and run to the end of the scenario, or of its batch job."""
        scenario = self._scenario
        self.network.read_by(self.hosts[PRIMARY].guest)
        if SECONDARY in self.hosts:
            if self._mirrored:
                self.network.read_by(self.hosts[SECONDARY].guest)
            self._synchronise(0)
        else:
            self.hosts[PRIMARY].guest.start()
        start_clients(scenario.workload, self.clock, self._streams, self.network)
        if isinstance(scenario.workload, BatchJob):
            self.network.answered = lambda client, request: self.clock.stop()
        self.faults.start()
        if (at_ns := scenario.manager.switchover_at_ns) is not None:
            self.clock.after(at_ns, self._hand_over)
        self.clock.after(scenario.warm_up_ns, self._warm)
        for name in self.hosts:
            self.tell(name, t.Start())
        self.clock.run(scenario.duration_ns)
        if self.faults.pending or self._corrupt:
            self.flags.add("fault-did-not-happen")

    def _hand_over(self, _: object) -> None:
        self.recorder.event(PRIMARY, "switchover", "asked for")
        self.tell(PRIMARY, t.HandOver())

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
        host.turn += 1
        host.wake_ns = max(when_ns, self.now_ns()) + self._costs.wake_up_ns
        self.clock.after(host.wake_ns - self.now_ns(), self._wake, (host, host.turn))

    def _wake(self, woken: tuple[Host, int]) -> None:
        host, turn = woken
        if turn != host.turn:
            return
        host.wake_ns = None
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

    def _takes(
        self,
        host: Host,
        op: int,
        cause: Cause,
        delay_ns: int,
        finish: Callable[[], t.State | None] = lambda: None,
    ) -> None:
        """An operation of ``delay_ns`` that a dead guest fails and a hung one does not end."""

        def end(_: object = None) -> None:
            if host.guest.dead:
                self.tell(host.id, t.Failed(op, "the guest's process has ended"), cause)
            elif host.guest.hung:
                host.stuck.append(end)
            else:
                self.tell(host.id, t.Done(op, finish()), cause)

        self.clock.after(delay_ns, end)

    def _cost_ns(self, host: Host, step: str, mean_ns: int) -> int:
        """What a step takes this time, by the spread that the scenario gives it."""
        spread = getattr(self._costs, f"{step}_spread")
        if not spread:
            return mean_ns
        index = host.operations[step] = host.operations.get(step, -1) + 1
        z = self._streams.normal(f"cost-{step}-{host.id}").at(index)
        return varied_ns(mean_ns, spread, z)

    def _quiesce(self, host: Host, action: t.Quiesce, cause: Cause) -> None:
        self.network.pause()
        delay_ns = self._cost_ns(host, "quiesce", self._costs.quiesce_ns)
        self.clock.after(delay_ns, lambda _: self.tell(host.id, t.Done(action.op), cause))

    def _stop_vm(self, host: Host, action: t.StopVm, cause: Cause) -> None:
        host.guest.stop()
        self.recorder.stopped(host.id)
        self._takes(host, action.op, cause, self._cost_ns(host, "stop", self._costs.stop_ns))

    def _drain(self, host: Host, action: t.Drain, cause: Cause) -> None:
        self._takes(host, action.op, cause, 0)  # output reaches the node as it is made

    def _save(self, host: Host, action: t.Save, cause: Cause) -> None:
        self._take_state(host, action, cause, self._costs.save_ns)

    def _copy(self, host: Host, action: t.Copy, cause: Cause) -> None:
        self._take_state(host, action, cause, self._costs.copy_ns)

    def _take_state(
        self,
        host: Host,
        action: t.Save | t.Copy,
        cause: Cause,
        takes_ns: Callable[[int], int],
    ) -> None:
        guest, checkpoint = host.guest, action.checkpoint
        exposure_ns, pages = self._dirty(guest, "pages-primary", checkpoint)
        snapshot = self._snapshot(host, pages)
        guest.cut()
        costs = self._costs
        device_bytes = costs.device_state_bytes
        ram_bytes = costs.state_bytes(pages) - device_bytes
        ram = t.Blob(f"ram-{checkpoint}", ram_bytes, f"k{checkpoint}")
        device = t.Blob(f"device-{checkpoint}", device_bytes, f"k{checkpoint}")
        self._snapshots[device.id] = snapshot
        self.recorder.saved(exposure_ns, pages)
        save_ns = self._cost_ns(host, "save", takes_ns(pages))
        self._takes(host, action.op, cause, save_ns, lambda: t.State(ram, device))

    def _snapshot(self, host: Host, pages: int) -> Snapshot:
        return host.guest.snapshot(pages, {**host.repeats, **host.owed})

    def _dirty(self, guest: Guest, purpose: str, checkpoint: int) -> tuple[int, int]:
        """(exposure, distinct dirty pages) of a guest since its cut."""
        exposure_ns = guest.exposure_ns
        u = self._streams.uniform(purpose).at(checkpoint)
        pages, extrapolated = self._memory.draw(exposure_ns, guest.served_since_cut, u)
        if extrapolated:
            self.flags.add("memory-extrapolated")
        return exposure_ns, pages

    def _load(self, host: Host, action: t.Load, cause: Cause) -> None:
        snapshot = self._snapshots.pop(action.state.device.id)
        own = 0
        if self._scenario.execution.executes:
            _, own = self._dirty(host.guest, "pages-secondary", action.checkpoint)
        if not self._spoilt.isdisjoint((action.state.ram.id, action.state.device.id)):
            self.recorder.counters["undetected_corruptions"] += 1
            self.recorder.event(host.id, "undetected", f"state {action.checkpoint} is corrupt")
        restored = self._memory.union(snapshot.pages, own)
        self.recorder.restored(restored)

        host.loads += 1

        def finish() -> None:
            host.loads -= 1
            self._loaded(host, snapshot)
            self._synchronise(action.checkpoint)

        load_ns = self._cost_ns(host, "load", self._costs.load_ns(restored))
        self._takes(host, action.op, cause, load_ns, finish)

    def _loaded(self, host: Host, snapshot: Snapshot) -> None:
        host.guest.load(snapshot)
        host.repeats = dict(snapshot.unanswered)

    def _start_vm(self, host: Host, action: t.StartVm, cause: Cause) -> None:
        def finish() -> None:
            if host.loads:  # half of one state and half of another: no guest can run from that
                self.kill_vm(host)
                return
            serves = host.id == self._owner
            if serves or self._scenario.execution.executes:
                host.guest.start()
            if serves:
                self.network.resume()
            self.network.catch_up(host.guest)

        resume_ns = self._cost_ns(host, "resume", self._costs.resume_ns)
        self._takes(host, action.op, cause, resume_ns, finish)

    # -- output ----------------------------------------------------------------------------

    def _synchronise(self, checkpoint: int) -> None:
        """Both guests are equal now; draw when their state will differ."""
        self._synchronisation = checkpoint
        e = self._streams.exponential("hazard").at(checkpoint)
        self._hazard_at_ns = self._divergence.first_ns(e)

    def _primary_finished(self, client: int, request: int) -> None:
        self._finished(self.hosts[PRIMARY], client, request, "")

    def _secondary_finished(self, client: int, request: int) -> None:
        host = self.hosts[SECONDARY]
        drifted = self._hazard_at_ns is not None and host.guest.exposure_ns >= self._hazard_at_ns
        u = self._streams.uniform("divergence", client).at(request)
        differs = drifted or self._divergence.response_differs(u)
        self._finished(host, client, request, f"!{self._synchronisation}" if differs else "")

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

        def repeat(_: object) -> None:
            repeats, host.repeats = host.repeats, {}
            for (client, request), digest in repeats.items():
                if not host.guest.dead and not self.network.has(client, request):
                    self._say(host, client, request, digest)

        self.clock.after(self._retransmit_ns, repeat)

    def _release(self, host: Host, action: t.Release, cause: Cause) -> None:
        self._drop(host, action, cause)
        # without protection nothing was held: what output takes is part of the service
        mean_ns = self._costs.release_ns if self._tracked else 0
        late_ns = self._cost_ns(host, "release", mean_ns) if mean_ns else 0
        self.network.release(action.ranges, late_ns)

    def _drop(self, host: Host, action: t.Release | t.Drop, cause: Cause) -> None:
        for range_ in action.ranges:
            for request in range(range_.first, range_.end):
                host.owed.pop((int(range_.stream), request), None)

    def _offer_witness(self, host: Host, action: t.OfferWitness, cause: Cause) -> None:
        event = t.PeerOutput(action.range, action.digest, action.epoch)
        self._post(host, "witness", self._response_bytes, event, cause)

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
            if channel != "colo" or to.link_open:
                self.tell(to.id, event, cause)

        self._out[host.id].send(channel, size_bytes, arrived, left)

    def _send_message(self, host: Host, action: t.SendMessage, cause: Cause) -> None:
        if host.link_open:
            data = self._control(host, action.data)
            self._post(host, "colo", MESSAGE_BYTES + len(data), t.PeerBytes(data), cause)

    def _send_state(self, host: Host, action: t.SendState, cause: Cause) -> None:
        """Put a state on the link, after the time that the hosts themselves need for it."""
        names = [chunk.id for chunk in action.chunks if isinstance(chunk, t.Blob)]
        [snapshot] = [self._snapshots[name] for name in names if name in self._snapshots]
        mean_ns = self._costs.transfer_ns(snapshot.pages)

        def put(_: object = None) -> None:
            if host.hung:
                host.backlog.append(put)
            elif host.alive:
                self._put_state(host, action, cause)

        if mean_ns:
            self.clock.after(self._cost_ns(host, "transfer", mean_ns), put)
        else:
            put()

    def _put_state(self, host: Host, action: t.SendState, cause: Cause) -> None:
        def left() -> None:
            self.tell(host.id, t.Done(action.op), cause)

        if not host.link_open or not self.hosts[host.peer].link_open:
            failed = t.Failed(action.op, "the stream is closed")
            self.clock.after(0, lambda _: self.tell(host.id, failed, cause))
            return
        self.recorder.sent(self._size_of(action.chunks))
        for chunk in action.chunks:
            last = left if chunk is action.chunks[-1] else None
            event: t.PeerBytes | t.PeerBlob
            if isinstance(chunk, bytes):
                event = t.PeerBytes(self._control(host, chunk))
            else:
                event = t.PeerBlob(self._bulk(host, chunk))
            self._post(host, "colo", self._size_of((chunk,)), event, cause, last)

    def _strikes(self, host: Host, part: str) -> bool:
        """Whether what this host sends now is what a corrupt link waited for."""
        for fault in self._corrupt:
            if (fault.sender or PRIMARY, fault.part) == (host.id, part):
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
        if host.link_open:
            host.link_open = False
            self._post(host, "colo", MESSAGE_BYTES, t.LinkLost("the peer closed it"), cause)

    # -- managers --------------------------------------------------------------------------

    def _heartbeat(self, host: Host, action: t.Heartbeat, cause: Cause) -> None:
        self._post(host, "heartbeat", MESSAGE_BYTES, t.HeartbeatSeen(), cause)

    def _ask_vote(self, host: Host, action: t.AskVote, cause: Cause) -> None:
        there_ns = self._scenario.manager.vote_delay_ns // 2
        back_ns = self._scenario.manager.vote_delay_ns - there_ns

        def decide(_: object) -> None:
            answer = t.VoteSeen(action.op, self._witness.ask(host.id))
            self.clock.after(back_ns, lambda _: self.tell(host.id, answer, cause))

        self.clock.after(there_ns, decide)

    def _fence(self, host: Host, action: t.Fence, cause: Cause) -> None:
        def end(_: object) -> None:
            if self._scenario.manager.fence_fails:
                self.tell(host.id, t.Failed(action.op, "the fence did not answer"), cause)
                return
            self.kill_host(self.hosts[host.peer])
            self.tell(host.id, t.Done(action.op), cause)

        self.clock.after(self._costs.fence_ns, end)

    def _promote(self, host: Host, action: t.Promote, cause: Cause) -> None:
        self.recorder.event(host.id, "promoted", "")
        self._owner = host.id
        if host.peer in self.hosts:
            self.network.unread_by(self.hosts[host.peer].guest)
        self.network.read_by(host.guest)

    def _report(self, host: Host, action: t.Report, cause: Cause) -> None:
        self.recorder.event(host.id, "report", action.text)

    # -- what faults do --------------------------------------------------------------------

    def kill_vm(self, host: Host) -> None:
        host.guest.kill()
        self.tell(host.id, t.VmGone("the guest's process has ended"))

    def kill_node(self, host: Host) -> None:
        """The node's process ends, its guest with it; the host's kernel closes its sockets."""
        if host.alive:
            host.alive = False
            host.guest.kill()
            if host.link_open and host.peer in self.hosts:
                host.link_open = False
                self._out[host.id].forget("witness")
                ended = t.LinkLost("connection reset")
                self._post(host, "colo", MESSAGE_BYTES, ended, (host.id, -1))

    def kill_host(self, host: Host) -> None:
        """Everything in the domain ends without a word."""
        host.alive = False
        host.link_open = False
        host.guest.kill()
        for channel in ("colo", "witness", "heartbeat"):
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

    def cut_link(self, is_cut: bool) -> None:
        self._cuts += 1 if is_cut else -1  # cuts may overlap
        for direction in self._out.values():
            direction.cut(self._cuts > 0)

    def slow_link(self, fault: Fault, is_slow: bool) -> None:
        """The link as the latest of the faults that hold has it; what that leaves open, as ever."""
        (self._slow.append if is_slow else self._slow.remove)(fault)
        link, last = self._scenario.link, self._slow[-1] if self._slow else None
        bandwidth_bps = (last and last.bandwidth_bps) or link.bandwidth_bps
        delay_ns = link.delay_ns if last is None or last.delay_ns is None else last.delay_ns
        for direction in self._out.values():
            direction.change(bandwidth_bps, delay_ns)

    def corrupt_link(self, fault: Fault) -> None:
        """The next bytes of that kind; those that are under way already arrive as they are."""
        self._corrupt.append(fault)

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
        return sum(direction.sent_bytes for direction in self._out.values())
