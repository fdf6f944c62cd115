"""A guest's network, in the loop of its host's agent: between QEMU's socket and the hub.

What the guest sends goes to ``output`` and nowhere else; the agent gives to `Port.send` what may
leave.  What comes from the hub goes to the guest (mode deliver) or is kept for it (mode keep).
Both sides are always read.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from backends.qemu.address import Address, UnixAddress
from backends.qemu.errors import LiveError
from backends.qemu.net.acked import Acked
from backends.qemu.net.config import HUB, MIB
from backends.qemu.net.frames import Splitter, pack, pack_for_hub, pack_message, unpack
from backends.qemu.net.sockets import Listener, Stream, connect
from colosim.protocol.rewrite import Rewriter

_HELLO_LIMIT_S = 5.0
_MARKS = 64
_POLL_S = 0.0005
# frames that were there to be read at once; a socket is full with 92 of the largest (212,992 bytes
# by the kernel's count, which adds some 790 to each)
_MAY_BE_FULL = 64


def _nothing() -> None:
    pass


def _settle(greeted: asyncio.Future[str | None], why: str | None) -> None:
    if not greeted.done():
        greeted.set_result(why)


class Port:
    """Make it, `start` it, then start QEMU: it connects to ``HOST.net`` in the directory.

    output(frames) gets what the guest sent, in batches and in order.  guest_gone() is called when
    QEMU's socket has ended, after its last frames; hub_gone() when the hub's has.  hub: where it
    is; else in the directory.  rewriter: translates sequence numbers between guest and clients.
    acked: is shown what clients send.
    """

    def __init__(
        self,
        directory: Path,
        host: str,
        output: Callable[[list[bytes]], None],
        *,
        hub: Address | None = None,
        keeps: bool = False,
        rewriter: Rewriter | None = None,
        acked: Acked | None = None,
        guest_gone: Callable[[], None] = _nothing,
        hub_gone: Callable[[], None] = _nothing,
        say: Callable[[str], None] = lambda text: None,
        keep_limit_bytes: int = 16 * MIB,
        backlog_limit_bytes: int = 16 * MIB,
    ) -> None:
        self.host = host
        self.path = directory / f"{host}.net"
        self.keeps = keeps
        self.rewriter = rewriter
        self.acked = acked
        self._hub_address = hub or UnixAddress(directory / HUB)
        self._output = output
        self._guest_gone = guest_gone
        self._hub_gone = hub_gone
        self._say = say
        self._keep_limit_bytes = keep_limit_bytes
        self._backlog_limit_bytes = backlog_limit_bytes
        self._guest: Stream | None = None
        self._guest_splitter = Splitter()
        self._may_wait = False  # QEMU may have found the socket full
        self._connected = asyncio.Event()
        self._hub: Stream | None = None
        self._hub_splitter = Splitter()
        self._listener: Listener | None = None
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._first = 0  # how many frames came from the hub before the first that is kept
        self._marks: dict[int, int] = {}  # how many frames came before each
        self._tasks: set[asyncio.Task[None]] = set()
        self._counts: Counter[str] = Counter()

    # -- life

    async def start(self, limit_s: float = 10.0) -> None:
        """Listen for QEMU and connect to the hub; `LiveError` if it refuses."""
        self._listener = Listener(self.path, self._accepted)
        try:
            self._hub = hub = await connect(self._hub_address, limit_s, "the network process")
            greeted: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
            hub.received = lambda data: self._greeted(greeted, data)
            hub.ended = lambda: _settle(greeted, "it closed the connection")
            hub.write(pack_message({"hello": {"host": self.host}}))
            try:
                async with asyncio.timeout(_HELLO_LIMIT_S):
                    why = await greeted
            except TimeoutError:
                why = f"no answer within {_HELLO_LIMIT_S:g} s"
            if why is not None:
                raise LiveError(f"{self._hub_address}: host {self.host} is not let in: {why}")
        except BaseException:
            await self.close()
            raise

    async def connected(self, limit_s: float) -> None:
        """Wait until QEMU is connected."""
        try:
            async with asyncio.timeout(limit_s):
                await self._connected.wait()
        except TimeoutError:
            why = f"QEMU did not connect within {limit_s:g} s"
            raise LiveError(f"{self.path}: {why}") from None

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for stream in (self._guest, self._hub):
            if stream is not None:
                stream.close()

    # -- what the agent does

    def send(self, frames: list[bytes]) -> None:
        """Frames that may leave, to the hub."""
        hub = self._hub
        if hub is None or hub.is_closed or hub.is_broken:
            self._counts["dropped: no hub"] += len(frames)
        elif hub.backlog_bytes > self._backlog_limit_bytes:
            self._counts["dropped: hub backlog"] += len(frames)
        elif frames:
            self._counts["sent"] += len(frames)
            hub.write(pack_for_hub(frames))

    def keep(self) -> None:
        """From now on keep what comes for the guest."""
        self.keeps = True

    def deliver(self) -> None:
        """Give the guest all that was kept, and from now on what comes, at once."""
        self.keeps = False
        frames = list(self._kept)
        self._drop(len(frames))
        self._to_guest(frames)

    def read_since(self, mark: int) -> int | None:
        """How many frames came after the mark, if the guest's QEMU has read all of them."""
        guest, at = self._guest, self._marks.get(mark)
        if guest is None or at is None or guest.unread_bytes() or guest.is_gone():
            return None  # in this order: what a QEMU that ends has not read is gone with it
        return self._first - at

    def forget(self, mark: int, beyond: int = 0) -> int:
        """Drop the kept frames that came before the mark, and some beyond it; how many.

        A mark that never came, or came before all that is kept, drops nothing.
        """
        at = self._marks.get(mark)
        count = 0 if at is None else max(0, at + beyond - self._first)
        count = min(count, len(self._kept))
        self._drop(count)
        self._counts["forgotten"] += count
        return count

    async def drain(
        self, limit_s: float, turns: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Return when all that the stopped guest has sent was given to ``output``.

        Twice nothing to read, with the loop run between, and no frame that began and did not end.
        turns: lets QEMU's main loop go round.  Where it could not write, for the socket was full,
        it goes on sending what a stopped guest has in its ring, but not before its next turn.
        """
        guest = self._guest
        if guest is None:
            return
        times_empty = 0
        try:
            async with asyncio.timeout(limit_s):
                while times_empty < 2 and not (guest.is_closed or guest.has_ended):
                    if guest.read_now():
                        times_empty = 0
                        await asyncio.sleep(0)
                    elif self._guest_splitter.rest_bytes:
                        await asyncio.sleep(_POLL_S)
                    elif times_empty and self._may_wait and turns is not None:
                        self._may_wait, times_empty = False, 0
                        await turns()
                    else:
                        times_empty += 1
                        await asyncio.sleep(0)
        except TimeoutError:
            rest = self._guest_splitter.rest_bytes
            why = f"{rest} bytes of an unfinished frame" if rest else "the guest sends on"
            raise LiveError(f"{self.path}: not drained within {limit_s:g} s: {why}") from None

    def stats(self) -> dict[str, Any]:
        guest = self._guest
        return {
            "guest": guest is not None and not guest.is_closed,
            "keeps": self.keeps,
            "kept_frames": len(self._kept),
            "kept_bytes": self._kept_bytes,
            "guest_unread_bytes": 0 if guest is None else guest.unread_bytes(),
            **self._counts,
        }

    # -- the guest's side

    def _accepted(self, stream: Stream) -> None:
        if self._guest is not None and not self._guest.is_closed:
            stream.close()
            self._say(f"{self.path}: a second connection was refused")
            return
        self._guest = stream
        self._guest_splitter = Splitter()
        stream.received = self._from_guest
        stream.ended = self._guest_ended
        self._connected.set()

    def _from_guest(self, data: bytes) -> None:
        frames = self._guest_splitter.feed(data)
        if frames:
            self._may_wait = len(frames) >= _MAY_BE_FULL
            self._counts["from guest"] += len(frames)
            if self.rewriter is not None:
                frames, waited = self.rewriter.from_guest(frames)
                self._write_guest(waited)
            self._output(frames)

    def _guest_ended(self) -> None:
        assert self._guest is not None
        if self._guest.fault is not None:
            self._say(f"{self.path}: {self._guest.fault}")
        self._guest.close()
        self._connected.clear()
        self._guest_gone()

    def _to_guest(self, frames: list[bytes]) -> None:
        if self.rewriter is not None:
            frames = self.rewriter.to_guest(frames)
        self._write_guest(frames)

    def _write_guest(self, frames: list[bytes]) -> None:
        guest = self._guest
        if not frames:
            return
        if guest is None or guest.is_closed or guest.is_broken:
            self._counts["dropped: no guest"] += len(frames)
        elif guest.backlog_bytes > self._backlog_limit_bytes:
            self._counts["dropped: guest backlog"] += len(frames)
        else:
            self._counts["to guest"] += len(frames)
            guest.write(pack(frames))

    # -- the hub's side

    def _greeted(self, greeted: asyncio.Future[str | None], data: bytes) -> None:
        bodies = self._hub_splitter.feed(data)
        if not bodies:
            return
        message = unpack(bodies[0])
        hello = message.get("hello") if isinstance(message, dict) else None
        if not isinstance(hello, dict) or hello.get("ok") is not True:
            why = hello.get("why") if isinstance(hello, dict) else None
            _settle(greeted, str(why or "its answer is no hello"))
            return
        assert self._hub is not None
        self._hub.received = lambda more: self._from_hub(self._hub_splitter.feed(more))
        self._hub.ended = self._hub_ended
        _settle(greeted, None)
        self._from_hub(bodies[1:])

    def _hub_ended(self) -> None:
        assert self._hub is not None
        if self._hub.fault is not None:
            self._say(f"{self._hub_address}: {self._hub.fault}")
        self._hub.close()
        self._hub_gone()

    def _from_hub(self, bodies: list[bytes]) -> None:
        frames: list[bytes] = []
        for body in bodies:
            what = unpack(body)
            if isinstance(what, bytes):
                frames.append(what)
                continue
            self._take(frames)
            frames = []
            self._heard(what)
        self._take(frames)

    def _take(self, frames: list[bytes]) -> None:
        self._counts["from hub"] += len(frames)
        if self.acked is not None:
            self.acked.see(frames)
        if not self.keeps:
            self._first += len(frames)
            self._to_guest(frames)
            return
        self._kept.extend(frames)
        self._kept_bytes += sum(map(len, frames))
        while self._kept_bytes > self._keep_limit_bytes:
            self._counts["dropped: keep limit"] += 1
            self._drop(1)

    def _drop(self, count: int) -> None:
        for frame in list(itertools.islice(self._kept, count)):
            self._kept_bytes -= len(frame)
            self._kept.popleft()
        self._first += count

    def _heard(self, message: dict[str, Any]) -> None:
        mark, ask = message.get("mark"), message.get("ask")
        if not isinstance(mark, int):
            return
        self._marks.pop(mark, None)  # asked again: the later place counts
        self._marks[mark] = self._first + len(self._kept)
        while len(self._marks) > _MARKS:
            del self._marks[next(iter(self._marks))]
        if self.keeps:
            self._answer(mark, ask, None)
            return
        task = asyncio.get_running_loop().create_task(
            self._settle(mark, ask, float(message.get("limit_s", 1.0)))
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self, mark: int, ask: Any, limit_s: float) -> None:
        guest = self._guest
        why = None
        if guest is not None and not await guest.drained(limit_s):
            why = f"its QEMU does not read: {guest.unread_bytes()} bytes are left"
        self._answer(mark, ask, why)

    def _answer(self, mark: int, ask: Any, why: str | None) -> None:
        self._counts["marks"] += 1
        answer = {"mark": mark, "ask": ask, "ok": why is None, "why": why}
        if self._hub is not None:
            with contextlib.suppress(OSError):
                self._hub.write(pack_message(answer))
