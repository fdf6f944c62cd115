"""Our secondary as the peer of a genuine primary: it answers as COLO does and keeps the memory.

There is no second guest: the node of a secondary answers what QEMU's primary says, pages go to
memory of ours, and stopping, loading and starting take no time.  That measures a primary alone, and
shows that our secondary's tables are ones that a genuine primary goes along with.

The primary runs with ``x-colo`` and migrates to `Sink.path` (`live-recipes.md` 1, last paragraph).
Stop it first: under TCG the first migration of a running guest loses pages, which is how `ram`
showed it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backends.base import Cause, Session
from backends.qemu.launch import RAM_ID
from backends.qemu.stream import PIECE_BYTES
from backends.qemu.tap import PrimaryStream, Seen
from backends.qemu.wire import SHUT, Greeting
from colosim.protocol import types as t
from colosim.protocol.node import Node, NodeConfig
from colosim.protocol.trace import Line

_NS_PER_S = 1_000_000_000
_PAGE_BYTES = 4096
_NEVER_NS = 1 << 62
#: what takes no time where there is no guest
_AT_ONCE = (t.StopVm, t.Drain, t.StartVm)


async def _nothing(checkpoint: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Taken:
    """One checkpoint as it arrived: monotonic times and sizes; rows of a table of the primary.

    request_ns: its REQUEST.  send_ns: its SEND.  state_ns: the last byte of its state.
    """

    checkpoint: int
    request_ns: int
    send_ns: int
    state_ns: int
    pages: int
    zero_pages: int
    ram_bytes: int
    device_bytes: int


class Sink:
    """One primary's peer.

    config: of a secondary's node; nobody beats for the primary, so its heartbeats are not waited
    for.  trouble: why our node left the stream.  ``loaded(checkpoint)`` is awaited when a state is
    loaded and before LOADED is said: until it returns the primary is stopped.  ram: the guest's
    memory, from the first migration on.
    """

    def __init__(
        self,
        path: Path,
        config: NodeConfig,
        greeting: Greeting,
        loaded: Callable[[int], Awaitable[None]] = _nothing,
        observers: Iterable[Callable[[Line], None]] = (),
    ) -> None:
        self.path = path
        self.taken: list[Taken] = []
        self.trouble: str | None = None
        self._greeting = greeting
        self._on_loaded = loaded
        manager = replace(config.manager, heartbeat_timeout_ns=_NEVER_NS)
        self._node = Node(replace(config, manager=manager))
        self._stream = PrimaryStream(self._store)
        self._blocks: dict[str, NDArray[np.uint8]] = {}
        self._received: list[tuple[str, int, bytes | None]] = []  # of the state that arrives
        self._is_synchronised = False
        self._todo: deque[tuple[t.Action, Cause]] = deque()
        self._seen: dict[str, Seen] = {}  # of the checkpoint under way
        self._writer: asyncio.StreamWriter | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_closing = False
        self._session = Session([self._node], self, observers, {t.Exit: self._exited})
        self._server: asyncio.Server | None = None

    @property
    def ram(self) -> NDArray[np.uint8]:
        """The guest's memory as of the last state that was loaded."""
        return self._blocks[RAM_ID]

    async def start(self) -> None:
        """Listen for the primary."""
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(
            self._connected, str(self.path), limit=PIECE_BYTES
        )

    def close(self) -> None:
        """Let go of the primary."""
        self._is_closing = True
        if self._timer is not None:
            self._timer.cancel()
        if self._writer is not None:
            self._writer.close()
        if self._server is not None:
            self._server.close()

    # -- the stream ----------------------------------------------------------------------------

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._writer is not None:
            writer.close()
            return
        self._writer = writer
        with suppress(ConnectionError):
            while data := await reader.read(PIECE_BYTES):
                for seen in self._stream.feed(data, time.monotonic_ns()):
                    await self._take(seen)
        if self._is_synchronised and not self._is_closing:
            await self._tell(t.LinkLost("the primary ended the stream"))

    def _exited(self, node: str, signal: t.Signal) -> None:
        assert isinstance(signal, t.Exit)
        self.trouble = self.trouble or signal.why

    async def _take(self, seen: Seen) -> None:
        match seen.what:
            case "synchronised":
                self._is_synchronised = True
                assert self._writer is not None
                if self._greeting.return_path:
                    self._writer.write(SHUT)
                await self._tell(t.Start())
            case "message":
                self._seen[seen.data[:4].hex()] = seen
                await self._tell(t.PeerBytes(seen.data))
            case "fault":
                self.trouble = seen.why
                await self._tell(t.LinkLost(seen.why))
            case _:
                self._seen[seen.what] = seen
                await self._tell(t.PeerBlob(seen.blob))

    def _store(self, block: str, offset: int, page: bytes | memoryview | None) -> None:
        if self._is_synchronised:  # whole states only, as QEMU's own secondary does it
            self._received.append((block, offset, None if page is None else bytes(page)))
        else:
            self._apply(block, offset, page)

    def _apply(self, block: str, offset: int, page: bytes | memoryview | None) -> None:
        memory = self._blocks.get(block)
        if memory is None:
            size = self._stream.layout.block(block).size_bytes
            memory = self._blocks[block] = np.zeros(size, np.uint8)
        memory[offset : offset + _PAGE_BYTES] = 0 if page is None else np.frombuffer(page, np.uint8)

    # -- the node's world ------------------------------------------------------------------------

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def perform(self, node_id: str, action: t.Action, cause: Cause) -> None:
        self._todo.append((action, cause))

    def wake_at(self, node_id: str, when_ns: int | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when_ns is not None:
            delay_s = max(0, when_ns - self.now_ns()) / _NS_PER_S + 0.001
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(delay_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        due_ns = self._node.deadline_ns()
        if due_ns is not None and due_ns <= self.now_ns():
            self._session.pump(self._node.config.id, t.Tick())
            if self._node.step == "exited":
                self.close()
        else:
            self.wake_at(self._node.config.id, due_ns)

    async def _tell(self, event: t.Event, cause: Cause | None = None) -> None:
        """Feed an event, and do what follows until nothing does."""
        name = self._node.config.id
        self._session.pump(name, event, cause)
        while self._todo:
            action, because = self._todo.popleft()
            match action:
                case t.SendMessage(data):
                    assert self._writer is not None
                    self._writer.write(data)
                case t.Load(op, _, checkpoint):
                    await self._load(checkpoint)
                    self._session.pump(name, t.Done(op), because)
                case _ if isinstance(action, _AT_ONCE):
                    self._session.pump(name, t.Done(action.op), because)
                case t.AskVote(op):  # there is no guest that could go on
                    self._session.pump(name, t.VoteSeen(op, False), because)
                case t.CloseLink():
                    self.close()
                case _:
                    pass

    async def _load(self, checkpoint: int) -> None:
        for block, offset, page in self._received:
            self._apply(block, offset, page)
        self._received.clear()
        request, send = (self._seen[f"{number:08x}"] for number in (1, 3))
        ram, device = self._seen["ram"], self._seen["device"]
        self.taken.append(
            Taken(
                checkpoint=checkpoint,
                request_ns=request.at_ns,
                send_ns=send.at_ns,
                state_ns=device.at_ns,
                pages=ram.pages,
                zero_pages=ram.zeros,
                ram_bytes=ram.size_bytes,
                device_bytes=device.size_bytes,
            )
        )
        await self._on_loaded(checkpoint)
