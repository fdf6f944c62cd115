"""A tap in the migration stream of a genuine pair: every byte passes as it is, and is read along.

``python -m backends.qemu.tap LISTEN CONNECT REPORT`` is a process of its own.  It accepts the
primary's QEMU, connects to the secondary's, and hands on what either writes, unread; what it
passed on is understood only when the exchange is over or the stream is quiet, so that reading
costs the pair no time.  Each thing understood is a `Seen`, one JSON object a line.

`PrimaryStream` and `SecondaryStream` understand the two directions; they do no I/O and take any
chunking.  Sources: `qemu-colo.md` 2.2, `live-recipes.md` 1.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import re
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backends.qemu.errors import LiveError
from backends.qemu.wire import (
    COMMAND,
    CONTINUE,
    ENABLE_COLO,
    EOF,
    EOS,
    FOOTER,
    PAGE,
    RETURN_PATH,
    ZERO,
    MigrationBridge,
    RamLayout,
    ReturnPath,
)
from colosim.protocol.codec import MAX_STATE_BYTES, encode
from colosim.protocol.dialect import UPSTREAM, Message
from colosim.protocol.types import Blob

_PART, _END, _FULL = 2, 3, 4
_VMDESC_HEAD_BYTES = 6
#: the devices' end, and the size of their description; a later one may begin within it
_VMDESC_MARK = re.compile(rb"(?=\x00\x06(.{4}))..", re.DOTALL)
_FLAGS = 0xFFF
_PAGE_BYTES = 4096
_MESSAGE_BYTES = UPSTREAM.width
_MESSAGES = {encode(UPSTREAM, message) for message in Message}
_LONGEST_TAIL_BYTES = 64 << 20  # of the first migration's devices and their description

PRIMARY, SECONDARY = "primary", "secondary"

#: takes a page: its block, its offset in bytes, its content or None if all of it is zero
Store = Callable[[str, int, bytes | memoryview | None], None]


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing that a QEMU of the pair was seen to do.

    at_ns: monotonic.  side: which QEMU did it.  what: one of

    * ``synchronised``: its first migration has passed whole; size_bytes, pages
    * ``message``: it sent a COLO message; data are its bytes, with the number behind SIZE
    * ``ram``, ``device``: it sent this part of a state; digest, size_bytes, began_ns, pages, zeros
    * ``stop``, ``start``, ``exit``: it said so on its monitor; why of an exit
    * ``end``: it ended the stream; ``gone``: its process ended; ``silent``: it hangs; why
    * ``fault``: what it sent is not understood, nor is anything after it; why
    * ``failover``, ``alone``: its log tells that a failover was asked for, or is over
    """

    at_ns: int
    side: str
    what: str
    data: bytes = b""
    size_bytes: int = 0
    digest: str = ""
    began_ns: int = 0
    pages: int = 0
    zeros: int = 0
    why: str = ""

    def to_json(self) -> str:
        """One line; fields with their default are left out."""
        row = {key: value for key, value in asdict(self).items() if value or key == "at_ns"}
        if self.data:
            row["data"] = self.data.hex()
        return json.dumps(row)

    @classmethod
    def from_json(cls, line: str | bytes) -> Seen:
        """The inverse of `to_json`."""
        row: dict[str, Any] = json.loads(line)
        return cls(**{**row, "data": bytes.fromhex(row.get("data", ""))})

    @property
    def blob(self) -> Blob:
        """A part of a state by name."""
        return Blob(f"{self.what}-{self.digest}", self.size_bytes, self.digest)


# --------------------------------------------------------------------------------------------
# Reading

_Fields = Generator[int, memoryview, None]


class _Reader:
    """Cuts a stream into the fields that a generator asks for."""

    def __init__(self, side: str) -> None:
        self._side = side
        self._at_ns = 0
        self._began_ns = 0
        self._out: list[Seen] = []
        self._have = bytearray()
        self._digest: Any = None  # of the bulk that is being read
        self._size_bytes = 0
        self._faulty = False

    def _say(self, what: str, **rest: Any) -> None:
        self._out.append(Seen(self._at_ns, self._side, what, **rest))

    def _drain(self) -> list[Seen]:
        out, self._out = self._out, []
        return out


class PrimaryStream(_Reader):
    """What a COLO primary writes: the first migration, then checkpoints.

    store: gets every page of memory, in the order of the stream.  layout is known once memory's
    first section has begun.
    """

    def __init__(self, store: Store | None = None) -> None:
        super().__init__(PRIMARY)
        self._store = store
        self._head: MigrationBridge | None = MigrationBridge(RETURN_PATH)  # it only reads here
        self._layout: RamLayout | None = None
        self._block = ""  # of the page before: records may carry on without a name
        self._pages = self._zeros = 0
        self._fields = self._after_head()
        self._need = 0

    @property
    def layout(self) -> RamLayout:
        """Memory's section and blocks."""
        assert self._layout is not None
        return self._layout

    def feed(self, data: bytes | memoryview, at_ns: int) -> list[Seen]:
        """Take bytes that were read at this time; what they complete."""
        self._at_ns = at_ns
        if self._faulty:
            return []
        view = memoryview(data)
        try:
            if self._head is not None:
                view = view[self._feed_head(view) :]
            if self._head is None:
                self._feed_fields(view)
        except LiveError as error:
            self._faulty = True
            self._say("fault", why=str(error))
        return self._drain()

    def _feed_head(self, view: memoryview) -> int:
        """The stream's head, byte by byte: it is short, and so its end is known exactly."""
        assert self._head is not None
        for at in range(len(view)):
            self._head.feed(view[at : at + 1])
            self._size_bytes += 1
            if self._head.is_complete:
                self._layout = self._head.layout
                self._head = None
                self._need = next(self._fields)
                return at + 1
        return len(view)

    def _feed_fields(self, view: memoryview) -> None:
        at = 0
        while at < len(view):
            need = self._need
            if need == 0:  # whatever there is
                field = view[at:]
                at = len(view)
            elif not self._have and len(view) - at >= need:
                field = view[at : at + need]
                at += need
            else:
                part = view[at : at + need - len(self._have)]
                self._have += part
                at += len(part)
                if len(self._have) < need:
                    return
                field, self._have = memoryview(self._have), bytearray()
            self._size_bytes += len(field)
            if self._digest is not None:
                self._digest.update(field)
            self._need = self._fields.send(field)

    # -- grammar: each yields how many bytes come next, and is sent them -----------------------

    def _after_head(self) -> _Fields:
        yield from self._records()
        yield from self._footer()
        while (kind := (yield 1)[0]) != _FULL:
            if kind in (_PART, _END):
                yield from self._ram_section()
            elif kind == COMMAND:
                yield from self._command()
            else:
                raise LiveError(f"first migration: section type {kind:#04x} among memory's")
        yield from self._tail()
        self._say("synchronised", size_bytes=self._size_bytes, pages=self._pages)
        while True:
            yield from self._checkpoint()

    def _tail(self) -> _Fields:
        """The devices, which carry no length, up to their description, which does.

        The primary is silent after it, so it is the end if it ends where the bytes end.
        """
        tail = bytearray()
        begins: dict[int, int] = {}  # of what may be the description, by where it would end
        looked_at = 0
        while not _is_description(tail[begins.get(len(tail), len(tail)) :]):
            if len(tail) > _LONGEST_TAIL_BYTES:
                raise LiveError("first migration: its devices have no end")
            tail += yield 0
            for found in _VMDESC_MARK.finditer(tail, looked_at):
                begin = found.start() + _VMDESC_HEAD_BYTES
                begins[begin + int.from_bytes(found[1], "big")] = begin
                looked_at = found.start() + 1
            looked_at = max(looked_at, len(tail) - _VMDESC_HEAD_BYTES)

    def _checkpoint(self) -> _Fields:
        message = bytes((yield _MESSAGE_BYTES))
        if message == encode(UPSTREAM, Message.SIZE):
            size = bytes((yield 8))
            self._say("message", data=message + size)
            yield from self._device(int.from_bytes(size, "big"))
            return
        self._say("message", data=message)
        if message == encode(UPSTREAM, Message.SEND):
            yield from self._ram()
        elif message not in _MESSAGES:
            raise LiveError(f"{message.hex()} is no COLO message")

    def _ram(self) -> _Fields:
        self._begin()
        while (kind := (yield 1)[0]) != EOF:
            if kind == _END:
                yield from self._ram_section()
            elif kind == COMMAND:
                yield from self._command()
            else:
                raise LiveError(f"checkpoint: section type {kind:#04x} in its memory")
        self._bulk("ram", pages=self._pages, zeros=self._zeros)

    def _device(self, size: int) -> _Fields:
        if size > MAX_STATE_BYTES:
            raise LiveError(f"checkpoint: device state of {size} bytes")
        self._begin()
        if size:
            yield size
        self._bulk("device")

    def _begin(self) -> None:
        self._digest = hashlib.blake2b(digest_size=8)
        self._began_ns = self._at_ns
        self._size_bytes = self._pages = self._zeros = 0

    def _bulk(self, what: str, **rest: Any) -> None:
        digest, self._digest = self._digest.hexdigest(), None
        size, began_ns = self._size_bytes, self._began_ns
        self._say(what, size_bytes=size, digest=digest, began_ns=began_ns, **rest)

    def _command(self) -> _Fields:
        length = int.from_bytes((yield 4)[2:], "big")
        if length:
            yield length

    def _ram_section(self) -> _Fields:
        section = int.from_bytes((yield 4), "big")
        if section != self.layout.section_id:
            raise LiveError(f"section {section} is not memory, which is {self.layout.section_id}")
        yield from self._records()
        yield from self._footer()

    def _footer(self) -> _Fields:
        footer = yield 5
        if footer[0] != FOOTER or int.from_bytes(footer[1:], "big") != self.layout.section_id:
            raise LiveError(f"memory's section ends with {bytes(footer).hex()}")

    def _records(self) -> _Fields:
        store = self._store
        while not (head := int.from_bytes((yield 8), "big")) & EOS:
            flags = head & _FLAGS
            kind = flags & ~CONTINUE
            if kind not in (ZERO, PAGE):
                raise LiveError(f"memory: a record with flags {flags:#x}")
            if not flags & CONTINUE:
                name = yield (yield 1)[0]
                self._block = bytes(name).decode("latin-1")
            content = yield 1 if kind == ZERO else _PAGE_BYTES
            if kind == ZERO:
                self._zeros += 1
            self._pages += 1
            if store is not None:
                store(self._block, head & ~_FLAGS, None if kind == ZERO else content)


def _is_description(text: bytearray) -> bool:
    with contextlib.suppress(ValueError):
        return text[:1] == b"{" and "devices" in json.loads(bytes(text))
    return False


class SecondaryStream(_Reader):
    """What a COLO secondary writes back: frames of the return path up to READY, then messages."""

    def __init__(self, path: ReturnPath) -> None:
        super().__init__(SECONDARY)
        self._path = path

    def feed(self, data: bytes | memoryview, at_ns: int) -> list[Seen]:
        """Take bytes that were read at this time; what they complete."""
        self._at_ns = at_ns
        if self._faulty:
            return []
        try:
            self._have += self._path.feed(data)
        except LiveError as error:
            self._faulty = True
            self._say("fault", why=str(error))
        while len(self._have) >= _MESSAGE_BYTES and not self._faulty:
            message = bytes(self._have[:_MESSAGE_BYTES])
            del self._have[:_MESSAGE_BYTES]
            self._say("message", data=message)
            if message not in _MESSAGES:
                self._faulty = True
                self._say("fault", why=f"{message.hex()} is no COLO message")
        return self._drain()


# --------------------------------------------------------------------------------------------
# The process

_CHUNK_BYTES = 1 << 18
_ARENA_BYTES = 64 << 20  # what passes lies here until it is read along: fresh pages cost time
_SLICE_BYTES = 1 << 16  # read along at once: what a message can be delayed by
_BACKLOG_BYTES = 32 << 20  # passed on and not read yet; beyond it reading goes first
_QUIET_S = 0.03
_CONNECT_LIMIT_S = 10.0
#: words of the secondary after which the primary goes on by itself
_OVER = (encode(UPSTREAM, Message.LOADED), encode(UPSTREAM, Message.READY))


class _Arena:
    """Memory for what passes, used round and round; twice what may lie in it at a time."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray(b"\1") * _ARENA_BYTES)  # every page is touched
        self._at = 0

    def room(self) -> memoryview:
        """Where the next chunk may be read to."""
        if self._at + _CHUNK_BYTES > _ARENA_BYTES:
            self._at = 0
        return self._memory[self._at : self._at + _CHUNK_BYTES]

    def take(self, size: int) -> memoryview:
        """What was read there."""
        self._at += size
        return self._memory[self._at - size : self._at]


class _Way:
    """One direction: what was read from one socket and is to be written to the other."""

    def __init__(
        self, side: str, source: socket.socket, target: socket.socket, arena: _Arena
    ) -> None:
        self.side = side
        self.source = source
        self.target = target
        self.ended = False  # the source has no more
        self._arena = arena
        self._unsent = memoryview(b"")

    @property
    def waits(self) -> bool:
        return bool(self._unsent)

    def pump(self) -> Iterator[tuple[int, memoryview | None]]:
        """Pass on what is there; yield each piece, with the time it came, when it was handed on.

        None is the end.
        """
        while not self._unsent and not self.ended:
            try:
                size = self.source.recv_into(self._arena.room())
            except BlockingIOError:
                return
            except OSError:
                size = 0
            came_ns = time.monotonic_ns()  # before anyone can act on it
            if not size:
                self.ended = True
                with contextlib.suppress(OSError):
                    self.target.shutdown(socket.SHUT_WR)
                yield came_ns, None
                return
            data = self._unsent = self._arena.take(size)
            self.flush()
            yield came_ns, data

    def flush(self) -> None:
        """Write what the target takes; what it will never take is dropped, as its end is seen."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self.target.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent = memoryview(b"")


class Tap:
    """Relays between two connected sockets and reports what it read to a third.

    A byte, or the end, on the report socket closes the stream on both sides.
    """

    def __init__(
        self, primary: socket.socket, secondary: socket.socket, report: socket.socket, path: bool
    ) -> None:
        arena = _Arena()
        self._ways = (
            _Way(PRIMARY, primary, secondary, arena),
            _Way(SECONDARY, secondary, primary, arena),
        )
        returned = ReturnPath(RETURN_PATH if path else ENABLE_COLO)
        self._feed = {PRIMARY: PrimaryStream().feed, SECONDARY: SecondaryStream(returned).feed}
        self._report = report
        self._backlog: deque[tuple[int, str, memoryview | None]] = deque()
        self._backlog_bytes = 0
        self._last_ns = 0  # when something was passed on
        self._wanted: dict[int, int] = {}  # what is polled for, by descriptor
        self._is_over = True  # no exchange is under way
        for sock in (primary, secondary):
            sock.setblocking(False)

    def run(self) -> None:
        """Until both sides have ended, or the report's reader has."""
        poll = select.epoll()
        poll.register(self._report, select.EPOLLIN)
        while not all(way.ended for way in self._ways):
            self._register(poll)
            ready = {number for number, _ in poll.poll(self._patience_s())}
            if self._report.fileno() in ready:
                self._told()
                break
            for way in self._ways:
                if way.source.fileno() in ready or way.waits:
                    self._pass(way)
            if self._backlog_bytes > _BACKLOG_BYTES or (self._backlog and not ready):
                self._read_along(_SLICE_BYTES)
        while self._backlog:
            self._read_along(_SLICE_BYTES)
        for way in self._ways:
            way.source.close()

    def _told(self) -> None:
        """Close the stream on both sides: what was not handed on by now never is."""
        closed_ns = time.monotonic_ns()
        for way in self._ways:
            with contextlib.suppress(OSError):
                way.source.shutdown(socket.SHUT_RDWR)
            if not way.ended:
                way.ended = True
                self._backlog.append((closed_ns, way.side, None))

    def _register(self, poll: select.epoll) -> None:
        """Read where nothing waits to be written, write where something does."""
        for way, back in zip(self._ways, reversed(self._ways), strict=True):
            full = self._backlog_bytes > _BACKLOG_BYTES
            wanted = 0 if way.waits or way.ended or full else select.EPOLLIN
            wanted |= select.EPOLLOUT if back.waits else 0
            number = way.source.fileno()
            before = self._wanted.get(number, 0)
            if wanted != before:
                self._wanted[number] = wanted
                if not before:
                    poll.register(number, wanted)
                elif wanted:
                    poll.modify(number, wanted)
                else:
                    poll.unregister(number)

    def _patience_s(self) -> float:
        """Until when to wait before reading along; -1 for ever."""
        if not self._backlog:
            return -1.0
        if self._is_over or self._backlog_bytes > _BACKLOG_BYTES:
            return 0.0
        return max(0.0, _QUIET_S - (time.monotonic_ns() - self._last_ns) / 1e9)

    def _pass(self, way: _Way) -> None:
        """Pass on what there is, up to the limit of what lies here unread."""
        way.flush()
        for came_ns, data in way.pump():
            self._last_ns = came_ns
            self._backlog.append((came_ns, way.side, data))
            if data is None:
                self._is_over = True
                return
            self._backlog_bytes += len(data)
            self._is_over = way.side == SECONDARY and bytes(data[-_MESSAGE_BYTES:]) in _OVER
            if self._backlog_bytes > _BACKLOG_BYTES:
                return

    def _read_along(self, size_bytes: int) -> None:
        at_ns, side, data = self._backlog.popleft()
        if data is None:
            self._say([Seen(at_ns, side, "end")])
            return
        if len(data) > size_bytes:
            self._backlog.appendleft((at_ns, side, data[size_bytes:]))
            data = data[:size_bytes]
        self._backlog_bytes -= len(data)
        self._say(self._feed[side](data, at_ns))

    def _say(self, seen: list[Seen]) -> None:
        if seen:
            text = "".join(f"{each.to_json()}\n" for each in seen)
            with contextlib.suppress(OSError):  # the next poll sees that nobody listens
                self._report.sendall(text.encode())


def _connected(path: str) -> socket.socket:
    end_s = time.monotonic() + _CONNECT_LIMIT_S
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            if time.monotonic() > end_s:
                raise
            time.sleep(0.01)
        else:
            return sock


def main() -> None:
    """Serve one pair."""
    listen, connect, report_to, path = sys.argv[1:]
    report = _connected(report_to)
    with socket.socket(socket.AF_UNIX) as server:
        Path(listen).unlink(missing_ok=True)
        server.bind(listen)
        server.listen(1)
        report.sendall(b"\n")  # now the primary may be told to come
        primary, _ = server.accept()
    secondary = _connected(connect)
    gc.disable()  # no pause of our own in the pair's way; nothing here makes cycles
    Tap(primary, secondary, report, path == "return-path").run()


if __name__ == "__main__":
    main()
