"""The checkpoint stream: control messages, sized blobs, and the framing of QEMU's RAM stream.

`encode` and `encode_state` write; `Decoder` reads any chunking of bytes and `Blob` objects and
yields what it understood.  It never raises: the first thing that does not fit yields one `Fault`
and everything after it is ignored, because a stream out of step cannot be trusted again.

A world that moves real bytes feeds bytes throughout; one that moves names of bytes (the
simulator, or a live runner that digests bulk data on its own) feeds the bulk parts as `Blob`.

Sources: `qemu-colo.md` 1.2 (rfc2014), 2.1-2.2 (upstream; section types and RAM record flags).
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from enum import Enum

from colosim.protocol.dialect import FROM_PRIMARY, FROM_SECONDARY, Dialect, Message
from colosim.protocol.types import Blob, Role, State

SIZE_BYTES = 8  # every size is a big-endian u64
MAX_STATE_BYTES = 1 << 40  # a size above this is a fault, not a wish for memory


@dataclass(frozen=True, slots=True)
class Fault:
    """The peer sent something that does not fit; nothing after it is read."""

    why: str


#: what a decoder yields: a control message, a whole checkpoint state, or a fault
Item = Message | State | Fault


def encode(dialect: Dialect, message: Message) -> bytes:
    """One control message on the wire."""
    return dialect.values[message].to_bytes(dialect.width, "big")


def encode_state(dialect: Dialect, state: State) -> tuple[bytes | Blob, ...]:
    """One checkpoint's state in wire order, SEND included."""
    send = encode(dialect, Message.SEND)
    if not dialect.ram_apart:
        size = state.ram.size + state.device.size
        return (send + size.to_bytes(SIZE_BYTES, "big"), state.ram, state.device)
    size_message = encode(dialect, Message.SIZE) + state.device.size.to_bytes(SIZE_BYTES, "big")
    return (send, state.ram, size_message, state.device)


class _Bulk:
    """Bulk bytes that become one blob: a name, a size and a digest, never a copy."""

    name: str
    done = False
    fault: str | None = None

    def __init__(self) -> None:
        self.taken = 0
        self._digest = hashlib.blake2b(digest_size=8)

    def feed(self, data: memoryview) -> int:
        """Take bytes; return how many were used (fewer than given when done or faulty)."""
        used = self._take(data)
        self._digest.update(data[:used])
        self.taken += used
        return used

    def blob(self) -> Blob:
        digest = self._digest.hexdigest()
        return Blob(id=f"{self.name}-{digest}", size=self.taken, digest=digest)

    def _take(self, data: memoryview) -> int:
        raise NotImplementedError


class SizedBulk(_Bulk):
    """A bulk part whose size was announced."""

    name = "state"

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.done = size == 0

    def _take(self, data: memoryview) -> int:
        used = min(len(data), self.size - self.taken)
        self.done = self.taken + used == self.size
        return used


class RamBulk(_Bulk):
    """Finds the end of a checkpoint's RAM stream, which carries no length.

    Grammar: ``(08 be16 be16:n n*byte)* 03 be32:id record* be64:EOS 7e be32:id`` repeated, then
    ``00``.  A record is a be64 of page offset and flags, a block name unless CONTINUE is set, and
    its payload.  Only the ``ram`` section can be framed: other iterable sections have formats of
    their own.
    """

    name = "ram"
    PAGE_BYTES = 4096
    EOF, PART, COMMAND, FOOTER = 0x00, 0x03, 0x08, 0x7E
    ZERO, PAGE, EOS, CONTINUE = 0x02, 0x08, 0x10, 0x20
    FLAGS_MASK = 0xFFF

    def __init__(self) -> None:
        super().__init__()
        self._fields = self._stream()
        self._need = next(self._fields)
        self._have = bytearray()

    def _take(self, data: memoryview) -> int:
        used = 0
        while used < len(data) and not self.done and self.fault is None:
            part = data[used : used + self._need - len(self._have)]
            self._have += part
            used += len(part)
            if len(self._have) == self._need:
                field, self._have = bytes(self._have), bytearray()
                try:
                    self._need = self._fields.send(field)
                except StopIteration as stop:
                    self.fault, self.done = stop.value, stop.value is None
        return used

    def _stream(self) -> Generator[int, bytes, str | None]:
        """Yield how many bytes come next, be sent them; return a fault or None at the end."""
        while True:
            kind = (yield 1)[0]
            if kind == self.EOF:
                return None
            if kind == self.COMMAND:
                header = yield 4
                length = int.from_bytes(header[2:], "big")
                if length:
                    yield length
            elif kind == self.PART:
                fault = yield from self._section((yield 4))
                if fault is not None:
                    return fault
            else:
                return f"section type {kind:#04x} in the RAM stream, expected 0x00, 0x03 or 0x08"

    def _section(self, section: bytes) -> Generator[int, bytes, str | None]:
        while not (flags := int.from_bytes((yield 8), "big") & self.FLAGS_MASK) & self.EOS:
            if flags & ~self.CONTINUE not in (self.ZERO, self.PAGE):
                return f"RAM record flags {flags:#x} cannot be framed"
            if not flags & self.CONTINUE:
                name_bytes = (yield 1)[0]
                if name_bytes:
                    yield name_bytes
            yield 1 if flags & self.ZERO else self.PAGE_BYTES
        footer = yield 5
        if footer[0] != self.FOOTER or footer[1:] != section:
            return f"RAM section ends with {footer.hex()}, expected 7e{section.hex()}"
        return None


EMPTY = Blob(id="empty", size=0, digest="")


class _Expect(Enum):
    """What the next bytes are."""

    MESSAGE = "a message"
    RAM = "the RAM stream"
    SIZE_MESSAGE = "the size message"
    SIZE = "a size"
    SIZED = "the announced bytes"


class Decoder:
    """Reads one direction of a checkpoint stream.

    ``reads_from`` is the role of the peer that writes it.  After SEND the decoder collects the
    whole state by itself and yields the `State` when its last byte is in.  Where the sized part
    comes as several blobs (rfc2014: RAM and devices in one), the last is the device state.
    """

    def __init__(self, dialect: Dialect, reads_from: Role) -> None:
        self._dialect = dialect
        self._messages = {value: message for message, value in dialect.values.items()}
        self._allowed = FROM_PRIMARY if reads_from is Role.PRIMARY else FROM_SECONDARY
        self._expect = _Expect.MESSAGE
        self._field = bytearray()  # of a message or a size
        self._bulk: _Bulk | None = None
        self._blobs: list[Blob] = []  # of the state being received
        self._size = 0
        self.faulty = False

    def feed(self, chunk: bytes | Blob) -> Iterator[Item]:
        """Yield what this chunk completed, in order."""
        if self.faulty:
            return
        if isinstance(chunk, Blob):
            yield from self._feed_blob(chunk)
            return
        view = memoryview(chunk)
        while view and not self.faulty:
            if self._bulk is not None:
                view = view[self._bulk.feed(view) :]
                yield from self._look_at_bulk(self._bulk)
                continue
            need = SIZE_BYTES if self._expect is _Expect.SIZE else self._dialect.width
            part = view[: need - len(self._field)]
            self._field += part
            view = view[len(part) :]
            if len(self._field) == need:
                value = int.from_bytes(self._field, "big")
                self._field.clear()
                if self._expect is _Expect.SIZE:
                    yield from self._size_is(value)
                else:
                    yield from self._message_is(value)

    def _message_is(self, value: int) -> Iterator[Item]:
        message = self._messages.get(value)
        if message is None:
            yield self._fault(f"invalid message {value}")
        elif message not in self._allowed:
            yield self._fault(f"message {message} from the wrong side")
        elif (message is Message.SIZE) != (self._expect is _Expect.SIZE_MESSAGE):
            yield self._fault(f"message {message} where {self._expect.value} was expected")
        elif message is Message.SIZE:
            self._expect = _Expect.SIZE
        else:
            if message is Message.SEND:
                self._blobs = []
                if self._dialect.ram_apart:
                    self._expect, self._bulk = _Expect.RAM, RamBulk()
                else:
                    self._expect = _Expect.SIZE
            yield message

    def _size_is(self, size: int) -> Iterator[Item]:
        if size > MAX_STATE_BYTES:
            yield self._fault(f"state of {size} bytes, more than the limit of {MAX_STATE_BYTES}")
            return
        self._expect, self._size = _Expect.SIZED, size
        self._bulk = SizedBulk(size)
        yield from self._look_at_bulk(self._bulk)  # a size of zero is complete at once

    def _look_at_bulk(self, bulk: _Bulk) -> Iterator[Item]:
        if bulk.fault is not None:
            yield self._fault(bulk.fault)
        elif bulk.done:
            yield from self._have_blob(bulk.blob())

    def _feed_blob(self, blob: Blob) -> Iterator[Item]:
        if self._bulk is None or self._bulk.taken:
            yield self._fault(f"bulk data where {self._expect.value} was expected")
            return
        announced = self._size if self._expect is _Expect.SIZED else None
        arrived = blob.size + (sum(b.size for b in self._sized_blobs()) if announced else 0)
        if announced is None or arrived == announced:
            yield from self._have_blob(blob)
        elif arrived < announced:
            self._blobs.append(blob)
        else:
            yield self._fault(f"state of {arrived} bytes, announced {announced}")

    def _sized_blobs(self) -> list[Blob]:
        return self._blobs[1:] if self._dialect.ram_apart else self._blobs

    def _have_blob(self, blob: Blob) -> Iterator[Item]:
        self._bulk = None
        self._blobs.append(blob)
        if self._expect is _Expect.RAM:
            self._expect = _Expect.SIZE_MESSAGE
            return
        self._expect = _Expect.MESSAGE
        ram = self._blobs[0] if len(self._blobs) > 1 else EMPTY
        yield State(ram=ram, device=blob)

    def _fault(self, why: str) -> Fault:
        self.faulty = True
        return Fault(why)
