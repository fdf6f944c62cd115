"""The bytes between two QEMUs of which only the secondary knows COLO.  Nothing here does I/O.

* `MigrationBridge` makes a COLO migration of an ordinary one as it passes: it inserts the commands
  that the secondary's QEMU wants before memory comes.
* `ReturnPath` reduces what the secondary says to COLO messages.
* `RamEncoder` writes checkpoints' memory, `device_state` reads one checkpoint's devices.

What a QEMU wants depends on its version; `greeting_of` knows.  Sources: `live-recipes.md` 1-2,
`qemu-colo.md` 2.2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from backends.qemu.errors import LiveError
from backends.qemu.launch import RAM_ID
from backends.qemu.memory import Bytes, Pages, Scanner, zero_pages

MAGIC: Final = b"QEVM"
VERSION: Final = 3

EOF, START, PART, SUBSECTION, CONFIGURATION, COMMAND, FOOTER = 0, 1, 3, 5, 7, 8, 0x7E
_ENABLE_COLO, _OPEN_RETURN_PATH, _PING = 8, 1, 2
_RETURN_SHUT, _RETURN_PONG, _RETURN_SWITCHOVER_ACK = 1, 2, 7

# Flags of a RAM record.  They share a be64 with the page's offset.
ZERO, MEM_SIZE, PAGE, EOS, CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20
_FLAGS = 0xFFF

_KEPT_BYTES = 64 << 20  # of memory for records, from checkpoint to checkpoint
_NAME_LIMIT_BYTES = 4096  # of a machine's name; a longer one is no name


# ------------------------------------------------------------------------- what a version wants


def _command(number: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BHH", COMMAND, number, len(payload)) + payload


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a family of secondaries wants before memory comes.

    before_ram: commands in front of the memory's first section.  return_path: the migration needs
    the capability of that name on the secondary, whose answers then begin with its frames.
    """

    name: str
    before_ram: bytes
    return_path: bool


ENABLE_COLO: Final = Greeting("enable-colo", _command(_ENABLE_COLO), return_path=False)
# The ping is not needed; a genuine primary sends one, and its answer is swallowed.
RETURN_PATH: Final = Greeting(
    "return-path",
    _command(_OPEN_RETURN_PATH) + _command(_PING, struct.pack(">I", 1)),
    return_path=True,
)

#: what a secondary with a return path says before READY: its first migration has loaded well
SHUT: Final = struct.pack(">HHI", _RETURN_SHUT, 4, 0)

#: from this version on, newest first; tried are 7.2, 10.0 and 11.1
GREETINGS: Final[tuple[tuple[tuple[int, int, int], Greeting], ...]] = (
    ((11, 0, 0), RETURN_PATH),
    ((0, 0, 0), ENABLE_COLO),
)


def greeting_of(version: tuple[int, int, int]) -> Greeting:
    """What a secondary of this QEMU version wants."""
    return next(greeting for since, greeting in GREETINGS if version >= since)


# ---------------------------------------------------------------------------- the first migration


@dataclass(frozen=True, slots=True)
class RamBlock:
    """A part of the guest's memory as the migration stream names it."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class RamLayout:
    """What every later checkpoint needs to know of the first migration."""

    section_id: int
    blocks: tuple[RamBlock, ...]

    def block(self, name: str) -> RamBlock:
        for block in self.blocks:
            if block.name == name:
                return block
        there = ", ".join(block.name for block in self.blocks)
        raise LiveError(f"guest memory has no block {name!r} but {there}; name the backend {name}")


_Reader = Generator[int, bytes, None]


class MigrationBridge:
    """Makes a COLO migration of an ordinary outgoing one.

    `feed` takes the stream in any chunks and returns what to hand on.  Up to the end of memory's
    first section it reads along and may keep bytes back; after it everything passes untouched.
    """

    def __init__(self, greeting: Greeting) -> None:
        self._greeting = greeting
        self._layout: RamLayout | None = None
        self._pending = b""  # not yet complete
        self._out: list[bytes] = []
        self._reader = self._read()
        self._need = next(self._reader)

    @property
    def is_complete(self) -> bool:
        """Memory's blocks are known; everything after them passes untouched."""
        return self._layout is not None

    @property
    def layout(self) -> RamLayout:
        """Memory's section and blocks."""
        if self._layout is None:
            raise LiveError("the migration stream ended before its memory; see the primary's log")
        return self._layout

    def feed(self, data: bytes | bytearray | memoryview) -> bytes:
        """Take bytes of the stream; return the bytes that go on."""
        if self._layout is not None:
            return bytes(data)
        pending = self._pending + data
        at = 0
        while len(pending) - at >= self._need:
            field = pending[at : at + self._need]
            at += self._need
            try:
                self._need = self._reader.send(field)
            except StopIteration:
                self._out.append(pending[at:])
                at = len(pending)
                break
        self._pending = pending[at:]
        passed = b"".join(self._out)
        self._out.clear()
        return passed

    def _read(self) -> _Reader:
        """Yield how many bytes come next, be sent them."""
        header = yield from self._pass(8)
        magic, version = header[:4], int.from_bytes(header[4:], "big")
        if magic != MAGIC:
            raise LiveError(f"no migration stream: begins with {magic.hex()}, not {MAGIC.hex()}")
        if version != VERSION:
            raise LiveError(f"migration stream of version {version}; {VERSION} is understood")
        while True:
            kind = (yield 1)[0]
            if kind == START:
                yield from self._start()
                return
            self._out.append(bytes([kind]))
            if kind not in self._SECTIONS:
                raise LiveError(f"migration stream: section type {kind:#04x} before memory")
            yield from self._SECTIONS[kind](self)

    def _pass(self, size: int) -> Generator[int, bytes, bytes]:
        """Read a field that goes on as it is."""
        field = (yield size) if size else b""
        self._out.append(field)
        return field

    def _pass_name(self) -> Generator[int, bytes, str]:
        length = (yield from self._pass(1))[0]
        return (yield from self._pass(length)).decode("latin-1")

    def _configuration(self) -> _Reader:
        length = int.from_bytes((yield from self._pass(4)), "big")
        if length > _NAME_LIMIT_BYTES:
            raise LiveError(f"migration stream: a machine's name of {length} bytes")
        yield from self._pass(length)

    def _any_command(self) -> _Reader:
        header = yield from self._pass(4)
        yield from self._pass(int.from_bytes(header[2:], "big"))

    def _subsection(self) -> _Reader:
        """A part of the configuration; only these can be there."""
        name = yield from self._pass_name()
        yield from self._pass(4)  # its version
        if name == "configuration/target-page-bits":
            yield from self._pass(4)
        elif name == "configuration/uuid":
            yield from self._pass(16)
        elif name == "configuration/capabilities":
            for _ in range(int.from_bytes((yield from self._pass(4)), "big")):
                yield from self._pass_name()
        else:
            raise LiveError(f"migration stream: subsection {name!r} before memory")

    _SECTIONS: Final[dict[int, Callable[[MigrationBridge], _Reader]]] = {
        CONFIGURATION: _configuration,
        SUBSECTION: _subsection,
        COMMAND: _any_command,
    }

    def _start(self) -> _Reader:
        """The first section that comes in rounds: memory, with its blocks."""
        section = yield 4
        length = yield 1
        name = (yield length[0]) if length[0] else b""
        if name != b"ram":
            raise LiveError(
                f"migration stream: {name.decode('latin-1')!r} comes before memory; "
                "only guests without migrating block devices can be protected"
            )
        self._out += [self._greeting.before_ram, bytes([START]), section, length, name]
        yield from self._pass(8)  # instance, version
        head = int.from_bytes((yield from self._pass(8)), "big")
        if head & _FLAGS != MEM_SIZE:
            raise LiveError(f"migration stream: memory begins with flags {head & _FLAGS:#x}")
        rest = head & ~_FLAGS
        blocks = []
        while rest > 0:
            block = yield from self._pass_name()
            size = int.from_bytes((yield from self._pass(8)), "big")
            blocks.append(RamBlock(block, size))
            rest -= size
        if rest:
            raise LiveError("migration stream: memory's blocks are larger than their sum")
        self._layout = RamLayout(int.from_bytes(section, "big"), tuple(blocks))


class ReturnPath:
    """Reduces what the secondary says to COLO messages.

    A secondary with a return path begins with frames of it, up to READY; from there on, and with
    any other secondary from the start, everything passes.
    """

    _HEADER = struct.Struct(">HH")
    _NAMES: Final = {_RETURN_SHUT: "shut", _RETURN_PONG: "pong", _RETURN_SWITCHOVER_ACK: "ack"}

    def __init__(self, greeting: Greeting) -> None:
        self._frames = greeting.return_path  # still to come
        self._pending = b""

    def feed(self, data: bytes | bytearray | memoryview) -> bytes:
        """Take what the secondary sent; return the part that is COLO's."""
        if not self._frames:
            return bytes(data)
        self._pending += data
        while len(self._pending) >= self._HEADER.size:
            kind, length = self._HEADER.unpack_from(self._pending)
            if kind == 0:  # READY is be32 0; no frame is of type 0
                self._frames = False
                colo, self._pending = self._pending, b""
                return colo
            if kind not in self._NAMES:
                raise LiveError(f"the secondary answers with frame {kind}; it is no COLO secondary")
            end = self._HEADER.size + length
            if len(self._pending) < end:
                break
            payload = self._pending[self._HEADER.size : end]
            if kind == _RETURN_SHUT and any(payload):
                raise LiveError("the secondary could not load the first state; see its log")
            self._pending = self._pending[end:]
        return b""


# ------------------------------------------------------------------------------------ checkpoints


class RamEncoder:
    """Writes checkpoints' memory, one after the other.

    Nothing else of a machine started with ``-nodefaults`` changes once its firmware has read the
    ACPI tables: its other blocks are ROMs and these tables, and the first migration brought them.
    No version wants a command before the section; a genuine 10.0 primary sends one (0x0b).
    """

    def __init__(self, layout: RamLayout, scanner: Scanner, block: str = RAM_ID) -> None:
        there = layout.block(block)
        if there.size_bytes != scanner.size_bytes:
            raise LiveError(
                f"guest memory: {scanner.size_bytes} bytes in the file, "
                f"{there.size_bytes} in block {block!r} of the migration stream"
            )
        self._scanner = scanner
        self._name = bytes([len(block)]) + block.encode()
        section = layout.section_id.to_bytes(4, "big")
        self._head = bytes([PART]) + section
        self._tail = EOS.to_bytes(8, "big") + bytes([FOOTER]) + section + bytes([EOF])
        self._room: Bytes = np.empty(0, np.uint8)

    def encode(self, pages: Pages) -> list[memoryview]:
        """These pages, which from now on count as sent; the parts are good until the next call."""
        self._scanner.absorb(pages)
        records = self._records(pages) if pages.size else []
        return [memoryview(self._head), *records, memoryview(self._tail)]

    def _records(self, pages: Pages) -> list[memoryview]:
        """Zero pages first: the order is free, and so each kind is one array."""
        rows = self._scanner.rows
        page_bytes = rows.shape[1]
        zero = zero_pages(rows, pages)
        kinds = ((ZERO, pages[zero], 1), (PAGE, pages[~zero], page_bytes))
        sizes = [numbers.size * (8 + payload_bytes) for _, numbers, payload_bytes in kinds]
        room, at = self._reserved(sum(sizes)), 0
        parts: list[memoryview] = []
        for (flag, numbers, payload_bytes), size in zip(kinds, sizes, strict=True):
            if not size:
                continue
            records = room[at : at + size].reshape(numbers.size, 8 + payload_bytes)
            heads = (numbers * page_bytes | flag | CONTINUE).astype(">u8")
            records[:, :8] = heads.view(np.uint8).reshape(-1, 8)
            records[:, 8:] = 0 if flag == ZERO else rows[numbers]
            data = room[at : at + size].data
            at += size
            if not parts:  # the first record of a section names its block
                first = int(numbers[0]) * page_bytes | flag
                parts += [memoryview(first.to_bytes(8, "big") + self._name), data[8:]]
            else:
                parts.append(data)
        return parts

    def _reserved(self, size: int) -> Bytes:
        """Memory that was used before: the first touch of each page of new memory costs more
        than to fill it.
        """
        if size > _KEPT_BYTES:
            return np.empty(size, np.uint8)
        if size > self._room.size:
            self._room = np.empty(min(2 * size, _KEPT_BYTES), np.uint8)
        return self._room


def device_state(path: Path | str) -> bytes:
    """What xen-save-devices-state wrote, without the file's header: what a secondary wants."""
    try:
        saved = Path(path).read_bytes()
    except OSError as error:
        raise LiveError(f"{path}: no device state: {error.strerror}") from None
    header = MAGIC + VERSION.to_bytes(4, "big")
    if saved[: len(header)] != header:
        raise LiveError(f"{path}: begins with {saved[:8].hex()}, device state with {header.hex()}")
    if len(saved) == len(header) or saved[-1] != EOF:
        raise LiveError(f"{path}: device state of {len(saved)} bytes has no end; is the disk full?")
    return saved[len(header) :]
