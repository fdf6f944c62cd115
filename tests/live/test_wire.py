from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.qemu.errors import LiveError
from backends.qemu.wire import (
    ENABLE_COLO,
    RETURN_PATH,
    MigrationBridge,
    RamBlock,
    RamEncoder,
    RamLayout,
    ReturnPath,
    device_state,
    greeting_of,
)
from colosim.protocol.codec import RamBulk

GREETINGS = [ENABLE_COLO, RETURN_PATH]
BLOCKS = (RamBlock("ram0", 131080 << 10), RamBlock("pc.bios", 1 << 18))


def name(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


HEADER = b"QEVM" + struct.pack(">I", 3)
CONFIGURATION = b"\x07" + struct.pack(">I", 15) + b"pc-i440fx-7.2\0\0"
SUBSECTIONS = (
    *(b"\x05", name("configuration/capabilities"), struct.pack(">II", 1, 1), name("x-colo")),
    *(b"\x05", name("configuration/uuid"), struct.pack(">I", 1), bytes(16)),
)
COMMAND = struct.pack(">BHHI", 8, 2, 4, 1)
RAM = (
    b"\x01"
    + struct.pack(">I", 2)
    + name("ram")
    + struct.pack(">II", 0, 4)
    + struct.pack(">Q", sum(block.size_bytes for block in BLOCKS) | 4)
    + b"".join(name(block.name) + struct.pack(">Q", block.size_bytes) for block in BLOCKS)
)
REST = struct.pack(">Q", 0x10) + b"\x7e" + struct.pack(">I", 2) + bytes(range(256)) * 8
BEFORE = {
    "plain": HEADER + CONFIGURATION,
    "old machine": HEADER,
    "subsections": HEADER + CONFIGURATION + b"".join(SUBSECTIONS),
    "commands": HEADER + CONFIGURATION + COMMAND + COMMAND,
}


def in_chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


# ------------------------------------------------------------------------------------ migration


@given(
    before=st.sampled_from(sorted(BEFORE)),
    greeting=st.sampled_from(GREETINGS),
    cuts=st.lists(st.integers(0, 400), max_size=60),
)
def test_the_bridge_inserts_before_memory_and_changes_nothing_else(before, greeting, cuts):
    bridge = MigrationBridge(greeting)
    stream = BEFORE[before] + RAM + REST
    passed = b"".join(bridge.feed(chunk) for chunk in in_chunks(stream, cuts))
    assert passed == BEFORE[before] + greeting.before_ram + RAM + REST
    assert bridge.layout == RamLayout(2, BLOCKS)


def test_byte_by_byte_nothing_is_kept_longer_than_a_field():
    bridge = MigrationBridge(ENABLE_COLO)
    kept = 0
    for byte in BEFORE["plain"] + RAM + REST:
        kept = max(kept + 1 - len(bridge.feed(bytes([byte]))), 0)
        assert kept < 32


def test_what_each_version_is_greeted_with():
    assert greeting_of((7, 2, 22)) is greeting_of((10, 0, 13)) is ENABLE_COLO
    assert greeting_of((11, 1, 3)) is RETURN_PATH
    assert ENABLE_COLO.before_ram.hex() == "0800080000"
    assert RETURN_PATH.before_ram.hex() == "0800010000" + "080002000400000001"


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        (b"GET / HTTP/1.1\r\n", "no migration stream: begins with 47455420"),
        (b"QEVM" + bytes(4), "version 0; 3 is understood"),
        (HEADER + b"\x04", "section type 0x04 before memory"),
        (HEADER + b"\x01" + bytes(4) + name("block"), "'block' comes before memory"),
        (HEADER + b"\x05" + name("other") + bytes(4), "subsection 'other'"),
        (HEADER + b"\x07\xff\xff\xff\xff", "a machine's name of 4294967295 bytes"),
        (HEADER + RAM[:17] + bytes(8), "memory begins with flags 0x0"),
        (HEADER + RAM[:17] + struct.pack(">Q", 4096 | 4) + RAM[25:], "larger than their sum"),
    ],
)
def test_what_is_no_migration_is_said_in_one_line(stream, says):
    with pytest.raises(LiveError, match=says) as error:
        MigrationBridge(ENABLE_COLO).feed(stream)
    assert "\n" not in str(error.value)


def test_a_stream_that_ends_early_has_no_layout():
    bridge = MigrationBridge(ENABLE_COLO)
    bridge.feed(HEADER + RAM[:30])
    with pytest.raises(LiveError, match="ended before its memory"):
        _ = bridge.layout


# ---------------------------------------------------------------------------------- return path

SHUT, PONG = bytes.fromhex("0001000400000000"), bytes.fromhex("0002000400000001")
COLO = bytes.fromhex("00000000000000020000000500000006")


@given(
    frames=st.lists(st.sampled_from([SHUT, PONG]), max_size=4),
    cuts=st.lists(st.integers(0, 48), max_size=48),
)
def test_frames_before_ready_are_swallowed(frames, cuts):
    path = ReturnPath(RETURN_PATH)
    chunks = in_chunks(b"".join(frames) + COLO, cuts)
    assert b"".join(map(path.feed, chunks)) == COLO


def test_without_a_return_path_everything_passes():
    path = ReturnPath(ENABLE_COLO)
    assert path.feed(COLO[:3]) + path.feed(COLO[3:]) == COLO


@pytest.mark.parametrize(
    ("frame", "says"),
    [("0001000400000001", "could not load the first state"), ("0004000c", "answers with frame 4")],
)
def test_a_secondary_in_trouble(frame, says):
    with pytest.raises(LiveError, match=says):
        ReturnPath(RETURN_PATH).feed(bytes.fromhex(frame))


# ---------------------------------------------------------------------------------- checkpoints

PAGE_BYTES = 4096


class Memory:
    """A scanner's part in encoding."""

    name = "memory"
    is_quick = True
    page_bytes = PAGE_BYTES

    def __init__(self, pages: int) -> None:
        self.size_bytes = BLOCKS[0].size_bytes
        self.rows = np.random.default_rng(1).integers(0, 256, (pages, PAGE_BYTES), np.uint8)
        self.absorbed: list[int] = []

    def take(self) -> None: ...

    def changed(self) -> np.ndarray:
        return np.arange(len(self.rows))

    def absorb(self, pages: np.ndarray) -> None:
        self.absorbed += pages.tolist()

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def bridge():
    bridge = MigrationBridge(ENABLE_COLO)
    bridge.feed(HEADER + RAM)
    return bridge


def decoded(data: bytes) -> dict[int, bytes]:
    """Read a section the slow and plain way: byte offset -> content."""
    assert data[:5] == b"\x03" + struct.pack(">I", 2)
    at, block = 5, b""
    pages: dict[int, bytes] = {}
    while True:
        (head,) = struct.unpack_from(">Q", data, at)
        at += 8
        flags, offset = head & 0xFFF, head & ~0xFFF
        if flags & 0x10:
            assert data[at:] == b"\x7e" + struct.pack(">I", 2) + b"\0"
            return pages
        if not flags & 0x20:
            length = data[at]
            block = data[at + 1 : at + 1 + length]
            at += 1 + length
        assert block == b"ram0"
        assert offset not in pages
        if flags & 0x02:
            assert data[at] == 0
            pages[offset], at = bytes(PAGE_BYTES), at + 1
        else:
            assert flags & 0x08
            pages[offset], at = data[at : at + PAGE_BYTES], at + PAGE_BYTES


@given(
    pages=st.sets(st.integers(0, 63)).map(sorted),
    zero=st.sets(st.integers(0, 63)),
)
def test_what_is_encoded_is_what_is_there(bridge, pages, zero):
    memory = Memory(64)
    memory.rows[list(zero)] = 0
    data = b"".join(RamEncoder(bridge.layout, memory).encode(np.array(pages, np.int64)))
    assert decoded(data) == {page * PAGE_BYTES: memory.rows[page].tobytes() for page in pages}
    assert memory.absorbed == pages
    core = RamBulk()  # the protocol core must find its end too
    assert core.feed(memoryview(data + b"more")) == len(data)
    assert core.done
    assert core.fault is None


def test_parts_know_their_length_in_bytes(bridge):
    memory = Memory(3)
    memory.rows[1] = 0
    parts = RamEncoder(bridge.layout, memory).encode(memory.changed())
    assert sum(len(part) for part in parts) == len(b"".join(parts))


def test_another_size_or_block_is_refused(bridge):
    memory = Memory(1)
    with pytest.raises(LiveError, match=r"has no block 'pc\.ram' but ram0, pc\.bios"):
        RamEncoder(bridge.layout, memory, block="pc.ram")
    memory.size_bytes = 1 << 27
    with pytest.raises(LiveError, match="134217728 bytes in the file, 134225920 in block 'ram0'"):
        RamEncoder(bridge.layout, memory)


def test_device_state(tmp_path):
    path = tmp_path / "devices"
    path.write_bytes(HEADER + b"\x04devices\0")
    assert device_state(path) == b"\x04devices\0"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no device state: No such file"),
        (b"", "begins with ,"),
        (b"QEVM\0\0\0\2\4\0", "begins with 5145564d00000002"),
        (HEADER, "has no end"),
        (HEADER + b"\x04half", "has no end"),
    ],
)
def test_device_state_that_is_none(tmp_path, content, says):
    path = tmp_path / "devices"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LiveError, match=says):
        device_state(path)
