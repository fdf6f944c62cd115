from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.qemu import memory, tracking
from backends.qemu.errors import GuestGone, LiveError
from backends.qemu.memory import (
    PAGE_BYTES,
    Shadow,
    SoftDirty,
    WriteTracking,
    scanner_for,
    soft_dirty_works,
)

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
    assert scanner.rows[changed].tolist() == [[9] * PAGE_BYTES]
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
    rows = np.zeros((6, PAGE_BYTES), np.uint8)
    rows[1, 0] = rows[2, 4095] = rows[3, 2048] = rows[5, 1] = 1
    pages = np.array([0, 1, 2, 3, 4])
    assert memory.zero_pages(rows, pages).tolist() == [True, False, False, False, True]


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


WRITER = """
import mmap, os, sys
path, size = sys.argv[1], int(sys.argv[2])
with open(path, "r+b") as file:
    memory = mmap.mmap(file.fileno(), size)
print("ready", flush=True)
for line in sys.stdin:
    how, *pages = line.split()
    for page in map(int, pages):
        if how == "own":  # by the process itself
            memory[page * 4096 + page % 4096] = (memory[page * 4096 + page % 4096] + 1) % 256
        else:  # by the kernel on its behalf, as network and disk data come
            with open("/dev/urandom", "rb", buffering=0) as source:
                source.readinto(memoryview(memory)[page * 4096 : page * 4096 + 100])
    print("done", flush=True)
"""


class Writer:
    """A process whose memory is tracked as a QEMU's is; call it with what it shall write."""

    def __init__(self, path: Path, pages: int) -> None:
        path.write_bytes(bytes(pages * PAGE_BYTES))
        self.path, self.pages = path, pages
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(pages * PAGE_BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **tracking.environment(path)},
        )
        self.pid = self._process.pid
        self._expect("ready")

    def __call__(self, how: str, pages) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{how} {' '.join(map(str, pages))}\n")
        self._process.stdin.flush()
        self._expect("done")

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == f"{word}\n"

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def writer(tmp_path):
    writer = Writer(tmp_path / "a.ram", 700)
    yield writer
    writer.end()


def needs_tracking():
    if not tracking.environment(Path("a.ram")):
        pytest.skip("this kernel does not track writes (Linux 6.7), or there is no compiler")


def test_write_tracking_finds_what_another_process_wrote(writer):
    needs_tracking()
    scanner = WriteTracking(writer.pid, writer.path, writer.pages * PAGE_BYTES)
    scanner.take()
    assert scanner.changed().size == 0
    draw = np.random.default_rng(1)
    for how in ("own", "kernel") * 5:
        pages = np.unique(draw.integers(0, writer.pages, draw.integers(1, 200)))
        writer(how, pages)
        found = scanner.changed()
        assert found.dtype == np.int64
        assert found.tolist() == pages.tolist()
        assert (scanner.rows[found].reshape(-1).view(np.uint8) != 0).any()
        assert scanner.changed().size == 0
    scanner.close()


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_process_that_ends_is_told_from_one_that_wrote_nothing(writer, has_ended):
    """Its memory goes before its sockets do, so this may be the first that is seen of its end."""
    needs_tracking()
    scanner = WriteTracking(writer.pid, writer.path, writer.pages * PAGE_BYTES)
    scanner.take()
    writer("own", [5])
    if has_ended:
        writer.end()
    else:
        os.kill(writer.pid, signal.SIGKILL)
        os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)  # a zombie: it has no memory
    with pytest.raises(GuestGone, match=f"process {writer.pid}: its "):
        scanner.changed()
    scanner.close()


def test_write_tracking_misses_nothing_that_a_comparison_finds(writer):
    needs_tracking()
    size_bytes = writer.pages * PAGE_BYTES
    tracked = WriteTracking(writer.pid, writer.path, size_bytes)
    compared = Shadow(writer.path, size_bytes)
    for scanner in (tracked, compared):
        scanner.take()
    for seed in range(20):
        pages = np.random.default_rng(seed).integers(0, writer.pages, 300)
        writer("own", pages)
        found, differ = tracked.changed(), compared.changed()
        compared.absorb(differ)
        assert np.isin(differ, found).all()
        assert differ.size > 200
    tracked.close()
    compared.close()


def test_more_stretches_than_one_answer_holds(writer, monkeypatch):
    needs_tracking()
    monkeypatch.setattr(tracking, "_REGIONS", 7)
    scanner = WriteTracking(writer.pid, writer.path, writer.pages * PAGE_BYTES)
    scanner.take()
    pages = range(0, writer.pages, 3)
    writer("own", pages)
    assert scanner.changed().tolist() == list(pages)
    scanner.close()


def test_a_tracked_process_is_chosen_and_another_is_not(writer, ram):
    needs_tracking()
    size_bytes = writer.pages * PAGE_BYTES
    assert scanner_for(writer.pid, writer.path, size_bytes).name == "write tracking"
    with pytest.raises(LiveError, match=f"process {os.getpid()}: memory is not tracked"):
        WriteTracking(os.getpid(), ram.path, ram.size_bytes)


def test_without_a_compiler_nothing_is_tracked(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    tracking._library.cache_clear()
    try:
        assert tracking.environment(tmp_path / "ram") == {}
    finally:
        tracking._library.cache_clear()
