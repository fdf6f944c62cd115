"""What a host does with its guest for a checkpoint: stop, save, send, load, start.

Those that `backends.sim.straight` does in one go have a half of their own that says how long it
takes (``begin_…``); what is to be done at its end comes with it, or after it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from backends.base import Cause
from backends.nodes import PRIMARY, SECONDARY
from backends.sim.guest import Snapshot
from backends.sim.host import Ahead, Host
from colosim.model.cost import varied_ns
from colosim.model.streams import Streams
from colosim.protocol import types as t
from colosim.scenario import Scenario

if TYPE_CHECKING:
    from backends.sim.world import SimWorld

_GONE = "the guest's process has ended"


class Operations:
    """Of all hosts of a world."""

    def __init__(self, world: SimWorld, scenario: Scenario, policy: str, streams: Streams) -> None:
        self._world = world
        self._clock = world.clock
        self._recorder = world.recorder
        self._durations = world.durations
        self._tracking = world.tracking
        self._output = world.output
        self._network = world.output.network
        self._link = world.link
        self._disk = world.disk
        self._streams = streams
        self._costs = scenario.costs()
        self._execution = scenario.execution
        self._is_early = scenario.transfer_of(policy) is t.Transfer.COPY_THEN_SEND
        #: states that were taken and may yet be loaded, by the names of their devices
        self.snapshots: dict[str, Snapshot] = {}

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
                self._world.tell(host.id, t.Failed(op, _GONE), cause)
            elif host.guest.hung:
                host.stuck.append(end)
            else:
                self._world.tell(host.id, t.Done(op, finish()), cause)

        if is_work:
            self._work(host, delay_ns, end)
        else:
            self._clock.after(delay_ns, end)

    def _work(self, host: Host, work_ns: int, then: Callable[[], None]) -> None:
        """So much work for the host's CPU, which it may share."""
        if host.cpu is None:
            self._clock.after(work_ns, lambda _: then())
        else:
            host.cpu.work(work_ns, then)

    # -- the guest stands still ------------------------------------------------------------

    def quiesce(self, host: Host, action: t.Quiesce, cause: Cause) -> None:
        if host.id == self._world.owner:  # whoever lost the clients unnoticed holds nobody's back
            self._network.pause()
        delay_ns = self._durations.of(host, "quiesce", self._costs.quiesce_ns)
        self._clock.after(delay_ns, self._quiesced, (host, action.op, cause))

    def _quiesced(self, asked: tuple[Host, int, Cause]) -> None:
        host, op, cause = asked
        if not self._world.goes_straight(host, op):
            self._world.tell(host.id, t.Done(op), cause)

    def stop_vm(self, host: Host, action: t.StopVm, cause: Cause) -> None:
        stop_ns, disk = self.begin_stop(host), host.guest.io
        if disk is None:
            self.takes(host, action.op, cause, stop_ns)
        else:
            self._clock.after(stop_ns, disk.drain, partial(self.takes, host, action.op, cause, 0))

    def begin_stop(self, host: Host) -> int:
        """How long it takes."""
        self._output.stopping(host)
        host.begun += 1
        host.guest.stop()
        self._recorder.stopped(host.id)
        return self._durations.of(host, "stop", self._costs.stop_ns)

    def drain(self, host: Host, action: t.Drain, cause: Cause) -> None:
        self.takes(host, action.op, cause, 0)  # output reaches the node as it is made

    # -- its state is taken ----------------------------------------------------------------

    def save(self, host: Host, action: t.Save | t.Copy, cause: Cause) -> None:
        delay_ns, state = self.begin_save(host, action.checkpoint)
        self.takes(host, action.op, cause, delay_ns, lambda: state, is_work=True)

    def begin_save(self, host: Host, checkpoint: int) -> tuple[int, t.State]:
        """Save the state, or copy it; how long that takes, and what then is in hand."""
        ahead, tracking, costs = host.ahead, self._tracking, self._costs
        rest = tracking.dirtied(host, checkpoint)
        exposure_ns, pages = rest.exposure_ns, rest.pages
        host.rest_pages = whole = pages
        ram_bytes = tracking.ram_bytes(host, rest, checkpoint)
        if ahead.exposure_ns:
            exposure_ns += ahead.exposure_ns
            written_ns, served = rest.written_ns + ahead.written_ns, rest.served + ahead.served
            distinct = tracking.distinct(host, written_ns, served, checkpoint)
            whole = min(max(distinct, pages), ahead.pages + pages)
        snapshot = self._output.snapshot(host, whole)
        host.guest.cut()
        self._disk.cut(checkpoint)
        ram = t.Blob(f"ram-{checkpoint}", ram_bytes, f"k{checkpoint}")
        device = t.Blob(f"device-{checkpoint}", costs.device_state_bytes, f"k{checkpoint}")
        self.snapshots[device.id] = snapshot
        self._recorder.saved(exposure_ns, ahead.pages + pages)
        if self._is_early:
            mean_ns = costs.copy_ns(pages)
        else:
            mean_ns = costs.save_ns(pages) + tracking.encode_ns(pages)
        return self._durations.of(host, "save", mean_ns), t.State(ram, device)

    # -- it goes to the other host ---------------------------------------------------------

    def precopy(self, host: Host, action: t.Precopy, cause: Cause) -> None:
        """Send what is dirty while the guest runs; tracking starts anew, as for a cut."""
        if action.round == 1:
            host.ahead = Ahead()
        guest, ahead, checkpoint = host.guest, host.ahead, action.checkpoint
        tracking, tell = self._tracking, self._world.tell
        sent = tracking.dirtied(host, checkpoint)
        size_bytes = tracking.ram_bytes(host, sent, checkpoint)
        ahead.exposure_ns += sent.exposure_ns
        ahead.written_ns += sent.written_ns
        ahead.served += sent.served
        ahead.pages += sent.pages
        ahead.sent_bytes += size_bytes
        guest.track_anew()

        def left() -> None:
            if guest.dead:
                tell(host.id, t.Failed(action.op, _GONE), cause)
                return
            left_bytes = tracking.ram_bytes(host, tracking.dirtied(host, checkpoint), checkpoint)
            tell(host.id, t.Precopied(action.op, size_bytes, left_bytes), cause)

        mean_ns = self._costs.transfer_ns(sent.pages) + tracking.encode_ns(sent.pages)
        self._move(
            host,
            action.op,
            cause,
            self._transfer_ns(host, mean_ns),
            lambda: self._link.deal(host, size_bytes, lambda: None, left),
        )

    def send_state(self, host: Host, action: t.SendState, cause: Cause) -> None:
        self.send_after(self.begin_send(host), host, action, cause)

    def begin_send(self, host: Host) -> int:
        """What moving the state takes the hosts themselves, before the link has it."""
        mean_ns = self._costs.transfer_ns(host.rest_pages)
        if self._is_early:
            mean_ns += self._tracking.encode_ns(host.rest_pages)
        return self._transfer_ns(host, mean_ns)

    def _transfer_ns(self, host: Host, mean_ns: int) -> int:
        return self._durations.of(host, "transfer", mean_ns) if mean_ns else 0

    def send_after(self, delay_ns: int, host: Host, action: t.SendState, cause: Cause) -> None:
        """Put a state on the link."""
        put = partial(self._link.put_state, host, action, cause)
        self._move(host, action.op, cause, delay_ns, put)

    def _move(
        self, host: Host, op: int, cause: Cause, delay_ns: int, put: Callable[[], None]
    ) -> None:
        """Put pages on the link, after the time that the hosts themselves need for them."""
        world = self._world

        def begin(_: object = None) -> None:
            if host.hung:
                host.backlog.append(begin)
            elif host.alive and host.link_open and world.hosts[host.peer].link_open:
                put()
            elif host.alive:
                failed = t.Failed(op, "the stream is closed")
                self._clock.after(0, lambda _: world.tell(host.id, failed, cause))

        if delay_ns:
            self._work(host, delay_ns, begin)
        else:
            begin()

    # -- and is loaded there ---------------------------------------------------------------

    def load(self, host: Host, action: t.Load, cause: Cause) -> None:
        load_ns, finish = self.begin_load(host, action.state, action.checkpoint)
        self.takes(host, action.op, cause, load_ns, finish, is_work=True)

    def begin_load(
        self, host: Host, state: t.State, checkpoint: int
    ) -> tuple[int, Callable[[], None]]:
        """How long it takes, and what is to be done at its end."""
        snapshot = self.snapshots[state.device.id]
        is_dirty = self._execution.executes
        own = self._tracking.dirtied(host, checkpoint).pages if is_dirty else 0
        if self._link.corruption.has_spoilt(state):
            self._recorder.counters["undetected_corruptions"] += 1
            self._recorder.event(host.id, "undetected", f"state {checkpoint} is corrupt")
        restored = self._tracking.restored(snapshot.pages, own)
        self._recorder.restored(restored)

        host.loads += 1
        empty_ns = self._disk.empty_ns(checkpoint)

        def finish() -> None:
            host.loads -= 1
            self._output.loaded(host, snapshot)
            self.snapshots.pop(state.device.id, None)
            self._world.synchronise(checkpoint)
            self._disk.loaded(checkpoint, empty_ns)

        mean_ns = self._tracking.load_ns(snapshot.pages, restored) + empty_ns
        return self._durations.of(host, "load", mean_ns), finish

    def alone(self, host: Host) -> None:
        """It goes on without its peer: states that are left are loaded by nobody any more."""
        secondary = self._world.pair.hosts[SECONDARY]
        if host is secondary or not secondary.alive:
            self.snapshots.clear()

    # -- and both run ----------------------------------------------------------------------

    def start_vm(self, host: Host, action: t.StartVm, cause: Cause) -> None:
        resume_ns, finish = self.begin_start(host), partial(self.started, host)
        start = partial(self.takes, host, action.op, cause, resume_ns, finish)
        self._disk.before_start(host.id, start)

    def begin_start(self, host: Host) -> int:
        """How long it takes."""
        return self._durations.of(host, "resume", self._costs.resume_ns)

    def started(self, host: Host) -> None:
        """The guest runs from now on."""
        world, network = self._world, self._network
        if host.loads:  # half of one state and half of another: no guest can run from that
            world.kill_vm(host)
            return
        serves = host.id == world.owner
        host.begun += 1
        if not serves and (skew_ns := self._skew_ns()):
            self._clock.after(skew_ns, self._start_late, (host, host.begun))
        elif serves or self._execution.executes:
            host.guest.start()
        if serves:
            network.resume()
            if host is world.pair.hosts[PRIMARY]:
                self._output.pair_runs()
        network.catch_up(host.guest)

    def _skew_ns(self) -> int:
        """By how much the secondary's guest starts behind what its node believes, this time."""
        execution = self._execution
        if not execution.executes or not execution.start_skew_ns:
            return 0
        z = self._streams.normal("start-skew").at(self._world.parting.synchronisation)
        return varied_ns(execution.start_skew_ns, execution.start_skew_spread, z)

    def _start_late(self, started: tuple[Host, int]) -> None:
        host, begun = started
        if host.guest.dead or begun != host.begun:
            return
        if host.guest.hung:
            host.stuck.append(lambda: self._start_late(started))
            return
        host.guest.start()
        self._network.catch_up(host.guest)
