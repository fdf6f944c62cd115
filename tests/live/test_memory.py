from __future__ import annotations

import mmap
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.qemu import memory
from backends.qemu.errors import LiveError
from backends.qemu.memory import PAGE_BYTES, Shadow, SoftDirty, scanner_for, soft_dirty_works

BLOCK_PAGES = (1 << 20) // PAGE_BYTES


class Ram:
    """A guest's memory: a file, mapped shared by whoever writes to it."""

    def __init__(self, path: Path, pages: int) -> None:
        self.path = path
        self.size_bytes = pages * PAGE_BYTES
        with path.open("w+b") as file:
            file.truncate(self.size_bytes)
            self._map = mmap.mmap(file.fileno(), self.size_bytes)
        self.rows = np.frombuffer(self._map, np.uint8).reshape(-1, PAGE_BYTES)

    def close(self) -> None:
        del self.rows
        self._map.close()


@pytest.fixture
def ram(tmp_path):
    # Two blocks and a bit: no multiple of a block, nor of 256 KiB.
    ram = Ram(tmp_path / "ram", 2 * BLOCK_PAGES + 2)
    ram.rows[:] = np.random.default_rng(1).integers(0, 256, ram.rows.shape, np.uint8)
    yield ram
    ram.close()


def shadow(ram, workers=2):
    scanner = Shadow(ram.path, ram.size_bytes, workers=workers)
    scanner.take()
    return scanner


@pytest.mark.parametrize("workers", [1, 2, 5, None])
def test_finds_the_changed_pages_and_forgets_the_absorbed(ram, workers):
    scanner = shadow(ram, workers)
    assert scanner.changed().size == 0
    touched = [0, 7, BLOCK_PAGES - 1, BLOCK_PAGES, 2 * BLOCK_PAGES + 1]
    for page in touched:
        ram.rows[page, page % PAGE_BYTES] ^= 1
    found = scanner.changed()
    assert found.dtype == np.int64
    assert found.tolist() == touched
    scanner.absorb(found[:2])
    assert scanner.changed().tolist() == touched[2:]
    scanner.absorb(found)
    assert scanner.changed().size == 0
    scanner.close()


@settings(max_examples=30)
@given(pages=st.integers(1, 3 * BLOCK_PAGES), data=st.data())
def test_agrees_with_plain_numpy(tmp_path_factory, pages, data):
    ram = Ram(tmp_path_factory.mktemp("ram") / "ram", pages)
    seed = data.draw(st.integers(0, 1 << 32))
    rng = np.random.default_rng(seed)
    scanner = Shadow(ram.path, ram.size_bytes, workers=2)
    for _ in range(3):  # the second scan of a block goes another way
        sent = ram.rows.copy()
        scanner.take() if rng.random() < 0.5 else scanner.absorb(scanner.changed())
        for page in rng.integers(0, pages, rng.integers(0, 40)):
            ram.rows[page, rng.integers(PAGE_BYTES)] += 1
        want = np.flatnonzero((ram.rows != sent).any(axis=1))
        assert scanner.changed().tolist() == want.tolist()
        assert scanner.changed().tolist() == want.tolist()
    scanner.close()
    ram.close()


@pytest.mark.parametrize("byte", [0, 1, 7, 8, 63, 64, 2047, 4088, 4095])
def test_sees_any_byte_of_a_page(ram, byte):
    scanner = shadow(ram)
    ram.rows[300, byte] ^= 0x80
    assert scanner.changed().tolist() == [300]
    scanner.close()


def test_gives_what_was_absorbed_whatever_comes_after(ram):
    scanner = shadow(ram)
    ram.rows[3] = 9
    changed = scanner.changed()
    scanner.absorb(changed)
    ram.rows[3] = 10
    assert scanner.pages(changed).tolist() == [[9] * PAGE_BYTES]
    assert scanner.changed().tolist() == [3]
    scanner.close()


def test_a_block_that_became_zero_counts_as_taken(ram):
    scanner = shadow(ram)
    ram.rows[:] = 0
    scanner.take()
    assert scanner.changed().size == 0
    ram.rows[1, 0] = 1
    ram.rows[BLOCK_PAGES, 4095] = 1
    assert scanner.changed().tolist() == [1, BLOCK_PAGES]
    scanner.close()


def test_unused_memory_costs_no_memory(tmp_path):
    def resident_bytes():
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    def shared_bytes():
        return int(Path("/proc/self/statm").read_text().split()[2]) * mmap.PAGESIZE

    ram = Ram(tmp_path / "ram", 64 * BLOCK_PAGES)
    before = resident_bytes() - shared_bytes()
    scanner = shadow(ram)
    assert resident_bytes() - shared_bytes() - before < 8 << 20
    scanner.close()
    ram.close()


def test_zero_pages():
    rows = np.zeros((5, PAGE_BYTES), np.uint8)
    rows[1, 0] = rows[2, 4095] = rows[3, 2048] = 1
    assert memory.zero_pages(rows).tolist() == [True, False, False, False, True]


@pytest.mark.parametrize(
    ("size_bytes", "says"),
    [(4097, "give a multiple of 4096"), (0, "give a multiple of 4096"), (1 << 30, "has 2105344")],
)
def test_wrong_sizes(ram, size_bytes, says):
    with pytest.raises(LiveError, match=says):
        Shadow(ram.path, size_bytes)


def test_no_file(tmp_path):
    with pytest.raises(LiveError, match="no guest memory there"):
        Shadow(tmp_path / "ram", 4096)


def test_the_choice_follows_the_self_test(ram):
    scanner = scanner_for(os.getpid(), ram.path, ram.size_bytes)
    assert scanner.name in ("soft-dirty", "shadow")
    if not soft_dirty_works():
        assert scanner.name == "shadow"
    scanner.take()
    ram.rows[5, 5] ^= 1
    assert scanner.changed().tolist() == [5]
    scanner.absorb(np.array([5]))
    assert scanner.changed().size == 0
    scanner.close()


def test_soft_dirty_where_it_works(ram):
    scanner = SoftDirty(os.getpid(), ram.path, ram.size_bytes)
    assert np.ptp([pages for _, _, pages in scanner._parts]) == 0  # ours and its own map
    if not soft_dirty_works():
        pytest.skip("this kernel keeps no soft-dirty bits")
    scanner.take()
    ram.rows[[2, 500], 0] ^= 1
    assert scanner.changed().tolist() == [2, 500]
    scanner.close()


def test_soft_dirty_wants_the_process_that_maps_the_file(ram):
    other = subprocess.Popen(["sleep", "60"])
    try:
        with pytest.raises(LiveError, match=f"process {other.pid} does not map it"):
            SoftDirty(other.pid, ram.path, ram.size_bytes)
    finally:
        other.kill()
        other.wait()
    with pytest.raises(LiveError, match=f"process {other.pid}: its maps cannot be read"):
        SoftDirty(other.pid, ram.path, ram.size_bytes)
