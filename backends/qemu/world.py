"""One host of the live world: it performs a node's actions on a real guest.

It decides nothing of the protocol.  An operation becomes a task that ends in Done or Failed; a
guest's operations take effect one after the other.  What both hosts do alike is in `LiveHost`;
`PrimaryHost` drives its QEMU, `SecondaryHost` watches a genuine COLO secondary do what our node
wants, and lets its messages pass when the node sends them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import time
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import astuple
from typing import Any, Protocol

from backends.base import Cause, Session
from backends.nodes import peer_of
from backends.qemu.errors import GuestGone, LiveError
from backends.qemu.genuine import ColoCompare
from backends.qemu.guests import Fate, PrimaryGuest, SecondaryGuest
from backends.qemu.net.control import Control
from backends.qemu.net.datagrams import mark, marks
from backends.qemu.net.frames import Splitter, is_arp_request, opens
from backends.qemu.net.frames import pack as pack_frames
from backends.qemu.net.pcap import Capture
from backends.qemu.net.port import Port
from backends.qemu.plan import StrikePlan
from backends.qemu.stream import PIECE_BYTES, Channel, Frame, Kind, head, pack, with_cause
from colosim.protocol import types as t
from colosim.protocol.checkpoint import P
from colosim.protocol.compare import runs
from colosim.protocol.digests import DIGESTS
from colosim.protocol.node import Node, NodeConfig
from colosim.protocol.trace import Line, encode_line

NS_PER_S = 1_000_000_000
_RETAIN_LIMIT_BYTES = 16 << 20
_WITNESS_LIMIT_BYTES = 16 << 20
WITNESS_FRAMES = 256  # in one message: its size has a limit
_MARKS = 4096  # in one message
_WITNESS = struct.Struct(">QQ")

Work = Coroutine[Any, Any, t.State | None]
_Performer = Callable[[Any, Cause], None]


class Authority(Protocol):
    """The run's witness and fence."""

    async def vote(self, host: str) -> bool: ...
    async def fence(self, host: str) -> None: ...
    def tell(self, name: str, /, **arguments: Any) -> None: ...


class Trace:
    """Writes a host's lines so that a SIGKILL loses none whose action was started.

    write(data) gives them to the kernel at once.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._lines: list[str] = []

    def see(self, line: Line) -> None:
        self._lines.append(encode_line(line))

    def flush(self) -> None:
        if self._lines:
            text = "\n".join(self._lines) + "\n"
            self._lines.clear()
            self._write(text.encode())


class LiveHost(ABC):
    """What both hosts do alike.

    host, peer: their names; node ids are those of the configuration.  ``port`` and ``network``
    are None where the guest has no network.  vm_pid is the QEMU's.
    """

    def __init__(
        self,
        host: str,
        peer: str,
        config: NodeConfig,
        trace: Trace,
        authority: Authority,
        vm_pid: int,
        port: Port | None,
        network: Control | None,
        strikes: Iterable[StrikePlan] = (),
        capture: Capture | None = None,
    ) -> None:
        self.host = host
        self.peer = peer
        self._authority = authority
        self._vm_pid = vm_pid
        self._port = port
        self._network = network
        self._trace = trace
        self._limits = config.limits
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_ns = 0  # when the timer ends
        self._tasks: set[asyncio.Task[None]] = set()
        self._guest_turn = asyncio.Lock()
        self._stream: Channel | None = None
        self._beats: Channel | None = None
        self._vm_gone = False
        self.started = False  # the pair: before that, output goes where it always went
        self.promoted = False
        self._made = 0  # frames that the guest made
        self._held: dict[int, bytes] = {}  # those not released or dropped, by number
        self._held_bytes = 0
        self._compares = config.compare != DIGESTS
        self._capture = capture if self._compares else None
        self._strikes = list(strikes)
        self._entered: dict[str, int] = {}
        self.id = config.id
        self.node = Node(config)
        self.session = Session(
            [self.node],
            self,
            [trace.see],
            self._ears(),
            self._stepped if self._strikes else None,
        )
        self._performers: dict[type, _Performer] = {
            t.StopVm: self._stop_vm,
            t.Drain: self._drain,
            t.SendMessage: self._send_message,
            t.StartVm: self._start_vm,
            t.CloseLink: self._close_link,
            t.Release: self._release,
            t.Drop: self._drop,
            t.Heartbeat: self._heartbeat,
            t.AskVote: self._ask_vote,
            t.Fence: self._fence,
            t.Promote: self._promote,
            t.Report: self._report,
            **self._own_performers(),
        }

    # -- the contract of a world -----------------------------------------------------------

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def perform(self, node_id: str, action: t.Action, cause: Cause) -> None:
        self._trace.flush()
        self._performers[type(action)](action, cause)

    def wake_at(self, node_id: str, when_ns: int | None) -> None:
        # Asked for with every event, and mostly for later than before: a timer that is early
        # looks again, and costs less than a new one each time.
        if when_ns is None or (self._timer is not None and self._wakes_ns <= when_ns):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._wakes_ns = when_ns
        # asyncio's clock has steps of its own: never wake before the time
        delay_s = max(0, when_ns - self.now_ns() + 1000) / NS_PER_S
        self._timer = self._loop.call_later(delay_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        due_ns = self.node.deadline_ns()
        if due_ns is not None and due_ns <= self.now_ns():
            self.tell(t.Tick())
        else:
            self.wake_at(self.id, due_ns)

    def tell(self, event: t.Event, cause: Cause | None = None) -> None:
        """Feed an event to the node."""
        self.session.pump(self.id, event, cause)
        self._trace.flush()

    # -- life ------------------------------------------------------------------------------

    def attach(self, stream: Channel, beats: Channel) -> None:
        """Connect it with its peer."""
        self._beats = beats
        self._stream = stream
        self._run(self._read(stream))

    def start(self) -> None:
        """The first synchronisation is complete on this side."""
        self.started = True
        assert self._beats is not None
        self._run(self._hear_beats(self._beats))
        self.tell(t.Start())

    def vm_lost(self, why: str) -> None:
        """The guest's process ended; said once."""
        if not self._vm_gone:
            self._vm_gone = True
            if self.started:
                self.tell(t.VmGone(why))

    def befell(self, fate: Fate) -> None:
        """The guest that clients talk to has come to this by itself."""
        self._authority.tell("noticed", what=fate.what, why=fate.why)
        if self.started and fate.what == "off":
            self.tell(t.GuestOff())
        elif fate.what == "beyond use":
            self.vm_lost(fate.why)

    def close(self) -> None:
        """Let go of everything; nothing is fed any more."""
        for task in self._tasks:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for peer in (self._stream, self._beats):
            if peer is not None:
                peer.close()

    def output(self, frames: list[bytes]) -> None:
        """The guest made frames."""
        if not self.started:
            if self._port is not None and self._is_served():
                self._port.send(frames)
            return
        first, self._made = self._made, self._made + len(frames)
        self._held.update(enumerate(frames, first))
        self._held_bytes += sum(map(len, frames))
        if self._capture is not None:
            self._capture.see(frames)
            self._capture.flush()  # whoever is killed leaves all that its guest made
        # frames of two guests are no one stream, so each has its own name
        made = t.Range(f"{self.host}.frames", first, self._made)
        compared = tuple(frames) if self._compares else ()
        self.tell(t.GuestOutput(made, _digest(frames), compared))

    @abstractmethod
    def _is_served(self) -> bool:
        """Clients talk to this guest before there is a pair."""

    @abstractmethod
    async def _read(self, stream: Channel) -> None:
        """What the peer sends, until the stream ends."""

    # -- tasks -----------------------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "task failed", "exception": error})

    def _operate(self, op: int, cause: Cause, work: Work) -> None:
        """Do an operation beside others; it ends in Done or Failed."""

        async def operate() -> None:
            try:
                state = await work
            except LiveError as error:
                if isinstance(error, GuestGone):
                    self.vm_lost(str(error))
                self.tell(t.Failed(op, str(error)), cause)
            else:
                self.tell(t.Done(op, state), cause)

        self._run(operate())

    def _on_guest(self, op: int, cause: Cause, work: Work) -> None:
        """Do an operation on the guest when those before it have ended."""

        async def in_turn() -> t.State | None:
            async with self._guest_turn:
                return await work

        self._operate(op, cause, in_turn())

    # -- faults ----------------------------------------------------------------------------

    def _stepped(self, node: str, step: str) -> None:
        count = self._entered[step] = self._entered.get(step, 0) + 1
        for strike in self._strikes:
            if (strike.step, strike.occurrence) == (step, count):
                self._trace.flush()
                self._authority.tell("struck", strike=astuple(strike))
                number = signal.SIGKILL if strike.kind == "crash" else signal.SIGSTOP
                if strike.scope in ("vm", "host"):
                    os.kill(self._vm_pid, number)
                if strike.scope in ("node", "host"):
                    os.kill(os.getpid(), number)

    # -- actions ---------------------------------------------------------------------------

    @abstractmethod
    def _ears(self) -> Mapping[type, Callable[[str, Any], None]]:
        """What to hear of the node's signals."""

    @abstractmethod
    def _own_performers(self) -> Mapping[type, _Performer]:
        """Actions that only this role's table wants."""

    @abstractmethod
    def _stop_vm(self, action: t.StopVm, cause: Cause) -> None: ...

    @abstractmethod
    def _send_message(self, action: t.SendMessage, cause: Cause) -> None: ...

    @abstractmethod
    def _start_vm(self, action: t.StartVm, cause: Cause) -> None: ...

    def _drain(self, action: t.Drain, cause: Cause) -> None:
        self._on_guest(action.op, cause, self._drained())

    async def _drained(self) -> None:
        if self._port is not None:
            await self._port.drain(self._limits.cut_ns / NS_PER_S, self._turns())

    def _turns(self) -> Callable[[], Awaitable[None]] | None:
        """How to let the main loop of our QEMU go round while its guest stands still."""
        return None

    def _close_link(self, action: t.CloseLink, cause: Cause) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _release(self, action: t.Release, cause: Cause) -> None:
        frames = [frame for range_ in action.ranges for frame in self._take(range_)]
        if self._port is not None:
            self._port.send(self._to_clients(frames))

    def _to_clients(self, frames: list[bytes]) -> list[bytes]:
        """Which of these frames to send."""
        return frames

    def _drop(self, action: t.Drop, cause: Cause) -> None:
        for range_ in action.ranges:
            self._take(range_)

    def _take(self, range_: t.Range) -> list[bytes]:
        """Each frame leaves or is dropped once."""
        held = self._held
        frames = [held.pop(n) for n in range(range_.first, range_.end) if n in held]
        self._held_bytes -= sum(map(len, frames))
        return frames

    def _heartbeat(self, action: t.Heartbeat, cause: Cause) -> None:
        if self._beats is not None:
            self._beats.write(pack(Kind.BEAT, b"", cause[1]))

    async def _hear_beats(self, beats: Channel) -> None:
        try:
            while True:
                for _, payload in await beats.come():
                    self.tell(t.HeartbeatSeen(), (self._peer_id, with_cause(payload)[0]))
        except EOFError:
            beats.close()

    @property
    def _peer_id(self) -> str:
        return peer_of(self.node.config)

    def _ask_vote(self, action: t.AskVote, cause: Cause) -> None:
        async def ask() -> None:
            try:
                granted = await self._authority.vote(self.host)
            except LiveError as error:
                self._authority.tell("trouble", why=f"vote: {error}")  # the core's limit ends it
            else:
                self.tell(t.VoteSeen(action.op, granted), cause)

        self._run(ask())

    def _fence(self, action: t.Fence, cause: Cause) -> None:
        async def fence() -> None:
            await self._authority.fence(self.peer)

        self._operate(action.op, cause, fence())

    def _promote(self, action: t.Promote, cause: Cause) -> None:
        self.promoted = True
        self._authority.tell("promoted")

        async def turn_input() -> None:
            if self._network is not None and self._port is not None:
                try:
                    await self._network.ask("own", 5.0, host=self.host)
                    self._port.deliver()
                    await self._network.ask("resume", 5.0)
                except LiveError as error:
                    self._authority.tell("trouble", why=f"network: {error}")

        self._run(turn_input())

    def _report(self, action: t.Report, cause: Cause) -> None:
        self._authority.tell("report", text=action.text)


class PrimaryHost(LiveHost):
    """Our node is the primary's COLO: it speaks the wire and drives an ordinary QEMU."""

    def __init__(
        self,
        guest: PrimaryGuest,
        saved: Callable[[Mapping[str, Any]], None],
        *args: Any,
        genuine: ColoCompare | None = None,
        **kw: Any,
    ) -> None:
        self._guest = guest
        self._genuine = genuine
        self._saved = saved
        self._checkpoint = 0
        self._covered: list[bytes] = []  # by the state that was saved last
        self._quiesced = False
        self._stopped_ns = 0
        self._pause_ns = 0
        self._replica_lost: str | None = None
        super().__init__(*args, **kw)

    def start(self) -> None:
        super().start()
        if self._replica_lost is not None:
            self.tell(t.PeerGone(self._replica_lost))

    def _turns(self) -> Callable[[], Awaitable[None]] | None:
        return self._guest.qmp.turns

    def replica_lost(self, why: str) -> None:
        """The secondary has not all that our guest wrote to its disk: it is no secondary."""
        self._replica_lost = why
        self._authority.tell("report", text=why)
        if self.started:
            self.tell(t.PeerGone(why))

    def _fence(self, action: t.Fence, cause: Cause) -> None:
        async def fence() -> None:
            disk = self._guest.disk
            if disk is not None:  # first: our guest may hang in a write to a host that hangs
                await disk.cut_off()
            await self._authority.fence(self.peer)
            if disk is not None:
                try:
                    await disk.part()
                except LiveError as error:  # it is cut off, which is what counts
                    self._authority.tell("report", text=f"the secondary's disk: {error}")

        self._operate(action.op, cause, fence())

    def _is_served(self) -> bool:
        return True

    def _ears(self) -> Mapping[type, Callable[[str, Any], None]]:
        def started(_: str, signal: t.CheckpointStarted) -> None:
            self._checkpoint = signal.checkpoint

        def resumed(_: str, signal: t.Resumed) -> None:
            self._pause_ns = self.now_ns() - self._stopped_ns

        def completed(_: str, signal: t.Completed) -> None:
            self._authority.tell("completed", pause_ns=self._pause_ns)

        def committed(_: str, signal: t.Committed) -> None:
            if self._genuine is not None:
                self._genuine.checkpoint()

        return {
            t.CheckpointStarted: started,
            t.Committed: committed,
            t.Resumed: resumed,
            t.Completed: completed,
        }

    def output(self, frames: list[bytes]) -> None:
        first = self._made
        super().output(frames)
        if self._genuine is not None and self.started:
            self._genuine.primary(first, frames)

    def _to_clients(self, frames: list[bytes]) -> list[bytes]:
        # a survivor must not send a datagram again, so it is told first
        if self._compares and (leave := [each for each in map(mark, frames) if each]):
            for at in range(0, len(leave), _MARKS):
                self._write(pack(Kind.LEFT, b"".join(leave[at : at + _MARKS])))
        return frames

    def found_same(self, numbers: list[int]) -> None:
        """Of colo-compare.  What a checkpoint has released comes out of it too, later."""
        ranges = runs(f"{self.host}.frames", (n for n in numbers if n in self._held))
        if found := tuple(t.Match(range_) for range_ in ranges):
            self.tell(t.Compared(found))

    def asked(self) -> None:
        """Colo-compare wants a checkpoint; it does not say of which frame, or why."""
        everything = t.Range(f"{self.host}.frames", 0, self._made)
        self.tell(t.Compared((t.Mismatch(everything, "asked"),)))

    def _own_performers(self) -> Mapping[type, _Performer]:
        return {
            t.Quiesce: self._quiesce,
            t.Save: self._save,
            t.Copy: self._save,
            t.SendState: self._send_state,
        }

    async def _read(self, stream: Channel) -> None:
        """What the secondary says."""
        why = "the secondary's side ended the stream"
        try:
            while True:
                for kind, payload in await stream.come():
                    n, data = with_cause(payload)
                    if kind is Kind.CONTROL:
                        self.tell(t.PeerBytes(data), (self._peer_id, n))
                    elif kind is Kind.WITNESS:
                        witness = unpack_witness(data, f"{self.peer}.frames")
                        self.tell(witness, (self._peer_id, n))
                        if self._genuine is not None:
                            self._genuine.secondary(witness.frames)
        except EOFError:
            pass
        except LiveError as error:
            why = str(error)
        if stream is self._stream:
            self.tell(t.LinkLost(why))

    def _quiesce(self, action: t.Quiesce, cause: Cause) -> None:
        async def quiesce() -> None:
            if self._network is not None:
                self._quiesced = True
                # all of it before the core's own limit, which would say that our guest is well
                limit_s = self._limits.quiesce_ns / NS_PER_S
                wait_s, probe_s = 0.6 * limit_s, 0.3 * limit_s
                try:
                    await self._network.ask(
                        "quiesce", wait_s * 1.05, mark=self._checkpoint, limit_s=wait_s
                    )
                except LiveError as error:
                    # one of the guests does not read: ours must not go on alone if it is that one
                    if not await self._guest.answers(probe_s):
                        self.vm_lost(str(error))
                    raise

        self._operate(action.op, cause, quiesce())

    def _stop_vm(self, action: t.StopVm, cause: Cause) -> None:
        self._stopped_ns = self.now_ns()
        # Frames that a network did not take at once wait in QEMU, and to drain it lets them go.
        # That changes devices and memory, so only what is saved after that is one state.
        saves = self.node.step == P.STOP and self._port is None
        stop = self._guest.stop_to_save if saves else self._guest.stop
        self._on_guest(action.op, cause, stop())

    def _save(self, action: t.Save | t.Copy, cause: Cause) -> None:
        async def save() -> t.State:
            if self._compares:
                self._covered = list(self._held.values())
            state, saved = await self._guest.save(action.checkpoint)
            self._saved({"node": self.id, **saved.row()})
            return state

        self._on_guest(action.op, cause, save())

    def _send_message(self, action: t.SendMessage, cause: Cause) -> None:
        self._write(pack(Kind.CONTROL, action.data, cause[1]))

    def _send_state(self, action: t.SendState, cause: Cause) -> None:
        parts: list[bytes | memoryview] = []
        if self._port is not None and self._port.rewriter is not None:
            parts.append(pack(Kind.NUMBERS, self._port.rewriter.numbers()))
        covered, self._covered = self._covered, []
        parts += [
            pack(Kind.COVERED, pack_frames(covered[at : at + WITNESS_FRAMES]))
            for at in range(0, len(covered), WITNESS_FRAMES)
        ]
        for chunk in action.chunks:
            if isinstance(chunk, bytes):
                parts.append(pack(Kind.CONTROL, chunk, cause[1]))
                continue
            for part in self._guest.take(chunk):
                for at in range(0, len(part), PIECE_BYTES):
                    piece = part[at : at + PIECE_BYTES]
                    parts += [head(Kind.BULK, len(piece)), piece]
            parts.append(pack(Kind.BLOB, _named(chunk), cause[1]))
        stream = self._stream
        if stream is not None:
            stream.write(*parts)
        self._operate(action.op, cause, self._written(stream))

    async def _written(self, stream: Channel | None) -> None:
        if stream is None:
            raise LiveError("the stream is closed")
        try:
            await stream.taken(self._limits.send_ns / NS_PER_S)
        except ConnectionError:
            raise LiveError("the stream to the secondary broke") from None
        except TimeoutError:
            raise LiveError("the secondary's side does not read the stream") from None

    def _write(self, data: bytes) -> None:
        if self._stream is not None:
            self._stream.write(data)

    def _start_vm(self, action: t.StartVm, cause: Cause) -> None:
        async def start() -> None:
            await self._guest.start()
            if self._quiesced:
                self._quiesced = False
                self._run(self._resume_input())

        self._on_guest(action.op, cause, start())

    async def _resume_input(self) -> None:
        """Once the guest runs; what follows does not wait for it."""
        assert self._network is not None
        try:
            await self._network.ask("resume", self._limits.resume_ns / NS_PER_S)
        except LiveError as error:  # a guest that nobody can reach is of no use
            self.vm_lost(f"network: {error}")


class SecondaryHost(LiveHost):
    """Our node shadows a genuine secondary; it sits between the stream and that QEMU."""

    def __init__(self, guest: SecondaryGuest, *args: Any, **kw: Any) -> None:
        self._guest = guest
        self._saying = asyncio.Lock()
        # Frames made since the guest was stopped for a load: QEMU resumes by itself, so they may
        # come before our node knows of the load that they follow.
        self._fresh: list[bytes] | None = None
        self._oldest = 0  # no frame before this one is held
        self._numbers = b""  # that go with the state which is to be loaded next
        # The state's guest has sent these, and nobody knows whether they left: it would not send
        # them again before its retransmission timer, some 200 ms, has run out.
        self._coming: list[bytes] = []
        self._covered: list[bytes] = []
        super().__init__(*args, **kw)

    def start(self) -> None:
        super().start()
        # Before the step's own limit ends, or its guest's silence would look like its peer's: this
        # side would fence a healthy primary and go on with a guest that is beyond use.
        self._guest.must_read_within(self._limits.receive_ns / 2 / NS_PER_S)
        if self._compares and self._port is not None:
            self._renumber()
            self._port.deliver()  # it executes what clients send, from the first synchronisation on

    def output(self, frames: list[bytes]) -> None:
        if self._compares and self.started and not self.promoted and self._port is not None:
            self._port.send([frame for frame in frames if is_arp_request(frame)])
        if self._fresh is not None:
            self._fresh += frames
            return
        super().output(frames)
        self._retain()

    def _retain(self) -> None:
        """Keep no more than a limit: what is older was released long ago, or is sent again."""
        while self._held_bytes > _RETAIN_LIMIT_BYTES:
            # by number: the first key of a dict that loses its first keys is found ever later
            self._held_bytes -= len(self._held.pop(self._oldest, b""))
            self._oldest += 1

    def _give_fresh(self) -> None:
        frames, self._fresh = self._fresh, None
        if frames:
            self.output(frames)

    def _have_left(self, datagrams: list[bytes]) -> None:
        """Of the primary, which made the same."""
        left = Counter(datagrams)
        rest = len(datagrams)
        self._covered, covered = [], self._covered
        for frame in covered:
            known = mark(frame) if rest else None
            if known is None or not left[known]:
                self._covered.append(frame)
            else:
                left[known] -= 1
                rest -= 1
        for number, frame in list(self._held.items()) if rest else ():
            known = mark(frame)
            if known is not None and left[known]:
                self._held_bytes -= len(self._held.pop(number))
                left[known] -= 1
                rest -= 1
                if not rest:
                    return

    def _to_clients(self, frames: list[bytes]) -> list[bytes]:
        # what both guests said left from the other one, and most of it has arrived
        acked = None if self._port is None else self._port.acked
        return frames if acked is None else acked.beyond(frames)

    def _renumber(self) -> None:
        """The guest has the primary's state, and with it the primary's sequence numbers."""
        if self._port is not None and self._port.rewriter is not None:
            self._port.rewriter.loaded(self._numbers)

    def _is_served(self) -> bool:
        return False

    def vm_lost(self, why: str) -> None:
        self._guest.lost(why)
        super().vm_lost(why)

    def _ears(self) -> Mapping[type, Callable[[str, Any], None]]:
        def loaded(_: str, signal: t.Loaded) -> None:
            if self._port is not None:
                self._port.forget(signal.checkpoint)
            self._renumber()
            self._covered, self._coming = self._coming, []
            self._loop.call_soon(self._give_fresh)  # when the node has done with this signal

        def alone(_: str, signal: t.Alone) -> None:
            covered, self._covered = self._covered, []
            if self._port is not None and covered:
                self._port.send(self._to_clients(covered))  # before what the guest made since

        return {t.Loaded: loaded, t.Alone: alone}

    def _own_performers(self) -> Mapping[type, _Performer]:
        return {t.Load: self._load, t.OfferWitness: self._offer_witness}

    def _offer_witness(self, action: t.OfferWitness, cause: Cause) -> None:
        if self._stream is None or self.promoted:
            return
        if self._stream.backlog_bytes > _WITNESS_LIMIT_BYTES:
            return  # the link is far behind: the compare timeout's checkpoint makes it good
        range_ = action.range
        for first in range(range_.first, range_.end, WITNESS_FRAMES):
            end = min(first + WITNESS_FRAMES, range_.end)
            frames = [self._held[n] for n in range(first, end)]
            data = pack_witness(first, action.epoch, frames)
            self._stream.write(pack(Kind.WITNESS, data, cause[1]))

    def _promote(self, action: t.Promote, cause: Cause) -> None:
        super()._promote(action, cause)
        if self._port is not None and self._port.rewriter is not None:
            self._port.rewriter.promoted()
        self._leave_openings()
        self._loop.call_soon(self._give_fresh)

    def _leave_openings(self) -> None:
        """What opens a connection of the guest's own leaves when the guest sends it again.

        The other guest's may have left, with another first number, and whoever has got that would
        reset at ours; until ours comes again, in a second, its answer has told the rewriter.
        """
        for number, frame in list(self._held.items()):
            if opens(frame):
                self._held_bytes -= len(self._held.pop(number))

    async def _read(self, stream: Channel) -> None:
        """Hand on what the primary sends, and tell the node of it."""
        why = "the primary's side ended the stream"
        try:
            while True:
                frames = await stream.come()
                # First to the guest: it works while the node is told.
                await self._guest.write(*map(_for_guest, frames))
                for kind, payload in frames:
                    self._take_in(kind, payload)
        except EOFError:
            pass
        except LiveError as error:  # its own guest does not take what it is given
            why = str(error)
            if stream is self._stream:
                self.vm_lost(why)
        if stream is self._stream:
            self.tell(t.LinkLost(why))

    def _take_in(self, kind: Kind, payload: bytes | memoryview) -> None:
        if kind is Kind.CONTROL:
            n, data = with_cause(payload)
            self.tell(t.PeerBytes(data), (self._peer_id, n))
        elif kind is Kind.BLOB:
            n, data = with_cause(payload)
            self.tell(t.PeerBlob(_blob(data)), (self._peer_id, n))
        elif kind is Kind.NUMBERS:
            self._numbers = bytes(payload)
        elif kind is Kind.COVERED:
            self._coming += Splitter().feed(bytes(payload))
        elif kind is Kind.LEFT:
            self._have_left(marks(bytes(payload)))

    def _stop_vm(self, action: t.StopVm, cause: Cause) -> None:
        async def stopped() -> None:
            if not self.promoted:  # else QEMU's own failover stops it
                await self._guest.until_running(False)

        self._on_guest(action.op, cause, stopped())

    async def _drained(self) -> None:
        await super()._drained()
        if self._compares and not self.promoted:
            self._fresh = []
            self._coming = []
            self._covered = []  # the primary goes on, so they have left

    def _load(self, action: t.Load, cause: Cause) -> None:
        # it loads what it was handed, and resumes by itself when that is done
        self._on_guest(action.op, cause, self._guest.until_running(True))

    def _start_vm(self, action: t.StartVm, cause: Cause) -> None:
        async def start() -> None:
            if self.promoted:
                await self._guest.take_over()
                self._run(self._merge())
            else:
                await self._guest.until_running(True)

        self._on_guest(action.op, cause, start())

    async def _merge(self) -> None:
        """The guest runs meanwhile; its disk is one that can be replicated again afterwards."""
        disk, began_ns = self._guest.disk, self.now_ns()
        if disk is None:
            return
        try:
            await disk.merged()
        except LiveError as error:
            self._authority.tell("report", text=str(error))
        else:
            self._authority.tell("merged", took_ns=self.now_ns() - began_ns)

    def _send_message(self, action: t.SendMessage, cause: Cause) -> None:
        """Let the guest's own message pass, which must be the one our table asks for."""

        async def say() -> None:
            async with self._saying:
                try:
                    said = await self._guest.next_message()
                except LiveError as error:
                    self.vm_lost(str(error))
                    return
            if said is None:  # the stream that this should go to is closed
                return
            if said != action.data:
                text = f"the secondary's QEMU said {said.hex()} where {action.data.hex()} was due"
                self._authority.tell("report", text=text)
            if self._stream is not None:  # as it was said: the primary's node judges it
                self._stream.write(pack(Kind.CONTROL, said, cause[1]))

        self._run(say())

    def _close_link(self, action: t.CloseLink, cause: Cause) -> None:
        super()._close_link(action, cause)
        self._guest.close()


def _for_guest(frame: Frame) -> bytes | memoryview:
    """The part of a frame that is for the secondary's QEMU."""
    kind, payload = frame
    if kind in (Kind.MIGRATION, Kind.BULK):
        return payload
    return with_cause(payload)[1] if kind is Kind.CONTROL else b""


def _digest(frames: Iterable[bytes]) -> str:
    """To tell frames apart in a trace, for every frame there is: the cheapest will do."""
    digest = 0
    for frame in frames:
        digest = zlib.crc32(frame, digest)
    return f"{digest:08x}"


def pack_witness(first: int, epoch: int, frames: list[bytes]) -> bytes:
    """Frames of the secondary's guest, numbered from ``first``."""
    return _WITNESS.pack(first, epoch) + pack_frames(frames)


def unpack_witness(data: bytes, stream: str) -> t.PeerOutput:
    """The inverse of `pack_witness`; ``stream`` is the one that the frames are numbered in."""
    first, epoch = _WITNESS.unpack_from(data)
    splitter = Splitter()
    frames = splitter.feed(data[_WITNESS.size :])
    made = t.Range(stream, first, first + len(frames))
    return t.PeerOutput(made, _digest(frames), epoch, tuple(frames))


def _named(blob: t.Blob) -> bytes:
    return f"{blob.id} {blob.size} {blob.digest}".encode()


def _blob(text: bytes) -> t.Blob:
    name, size, digest = text.decode().split(" ")
    return t.Blob(name, int(size), digest)
