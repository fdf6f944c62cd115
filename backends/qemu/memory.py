"""Which pages of a stopped guest's memory changed since they were last sent.

The guest's memory is a file that QEMU maps shared, so it can be read from outside.  Three scanners:

* `WriteTracking` asks the kernel for what it recorded for a QEMU that was started for it
  (`tracking`): work for the pages that were written, no copy.
* `SoftDirty` asks the kernel which pages QEMU wrote to: O(memory) bits, no copy.  Not every kernel
  has it, and one without it says so by silence, so `soft_dirty_works` tries it first.
* `Shadow` keeps a copy and compares at memory speed.  It works everywhere.

`scanner_for` chooses.  Only ever scan while the guest is stopped.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import mmap
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from backends.qemu import tracking
from backends.qemu.errors import GuestGone, LiveError

PAGE_BYTES: Final = 4096

#: page numbers, ascending
Pages = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
_T = TypeVar("_T")

_WORD_BYTES = 8
# One memcmp sees a block: long enough that calling it costs nothing, short enough that a block with
# a changed page is still in the cache when it is looked at again word by word.
_BLOCK_BYTES = 1 << 20
# One thread does a stretch at a time, so that none waits long for the slowest.
_STRETCH_BLOCKS = 8

# ctypes lets go of the interpreter's lock during a call of CDLL, which numpy need not.
_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_memcmp.restype = ctypes.c_int


class Scanner(Protocol):
    """Finds changed pages; knows what was last sent.

    name: how pages are found, for the record.  size_bytes, page_bytes: of the guest's memory.
    is_quick: a scan takes no longer than starting a thread for it.
    rows: content of all pages as it was absorbed, one row each; the place itself, no copy.
    """

    name: str
    is_quick: bool
    size_bytes: int
    page_bytes: int
    rows: Bytes

    def take(self) -> None:
        """All of memory, as it is now, counts as sent (checkpoint 0)."""

    def changed(self) -> Pages:
        """Pages that may differ from what was last sent, ascending."""

    def absorb(self, pages: Pages) -> None:
        """These pages count as sent with the content they have now."""

    def close(self) -> None:
        """Let go of memory, threads and files."""


class _RamFile:
    """The guest's memory, mapped for reading only."""

    def __init__(self, path: Path, size_bytes: int, page_bytes: int) -> None:
        if size_bytes <= 0 or size_bytes % page_bytes:
            raise LiveError(
                f"{path}: guest memory of {size_bytes} bytes; give a multiple of {page_bytes}"
            )
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise LiveError(
                f"{path}: no guest memory there: {error.strerror}; start QEMU first"
            ) from None
        try:
            has_bytes = os.fstat(fd).st_size
            if has_bytes < size_bytes:
                raise LiveError(f"{path}: has {has_bytes} bytes, guest memory has {size_bytes}")
            self._map = mmap.mmap(fd, size_bytes, mmap.MAP_SHARED, mmap.PROT_READ)
        except OSError as error:
            raise LiveError(f"{path}: cannot be mapped: {error.strerror}") from None
        finally:
            os.close(fd)
        self.bytes: Bytes = np.frombuffer(self._map, np.uint8)
        self.rows: Bytes = self.bytes.reshape(-1, page_bytes)

    def close(self) -> None:
        del self.bytes, self.rows  # they point into the map
        self._map.close()


class Shadow:
    """Finds changed pages by comparing memory with a copy of what was last sent."""

    name = "shadow"
    is_quick = False

    def __init__(
        self,
        path: Path | str,
        size_bytes: int,
        page_bytes: int = PAGE_BYTES,
        workers: int | None = None,
    ) -> None:
        if _BLOCK_BYTES % page_bytes or page_bytes % (_WORD_BYTES**2):
            raise LiveError(f"pages of {page_bytes} bytes; give a power of two, 64 to 1048576")
        self.size_bytes = size_bytes
        self.page_bytes = page_bytes
        self._ram = _RamFile(Path(path), size_bytes, page_bytes)
        self._map = mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._copy: Bytes = np.frombuffer(self._map, np.uint8)
        self.rows: Bytes = self._copy.reshape(-1, page_bytes)
        blocks = -(-size_bytes // _BLOCK_BYTES)
        self._differed = np.zeros(blocks, np.bool_)  # at the last scan
        self._stretches = [
            range(first, min(first + _STRETCH_BLOCKS, blocks))
            for first in range(0, blocks, _STRETCH_BLOCKS)
        ]
        workers = min(workers or os.cpu_count() or 1, len(self._stretches))
        self._pool = ThreadPoolExecutor(workers, "scan") if workers > 1 else None

    def take(self) -> None:
        self._differed[:] = False
        list(self._in_parallel(self._take_stretch))

    def changed(self) -> Pages:
        found = list(self._in_parallel(self._scan_stretch))
        return np.concatenate(found)

    def absorb(self, pages: Pages) -> None:
        self.rows[pages] = self._ram.rows[pages]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        self._ram.close()
        del self._copy, self.rows
        self._map.close()

    def _in_parallel(self, work: Callable[[range], _T]) -> Iterator[_T]:
        run = map if self._pool is None else self._pool.map
        return run(work, self._stretches)

    def _ends(self, block: int) -> tuple[int, int]:
        first = block * _BLOCK_BYTES
        return first, min(first + _BLOCK_BYTES, self.size_bytes)

    def _take_stretch(self, blocks: range) -> None:
        for block in blocks:
            first, end = self._ends(block)
            source = self._ram.bytes[first:end]
            # Equal to itself moved by one byte, and the first byte is zero: all zero.
            here = source.ctypes.data
            if source[0] == 0 and _memcmp(here, here + 1, end - first - 1) == 0:
                # Memory that the guest never used costs none here either.
                self._map.madvise(mmap.MADV_DONTNEED, first, end - first)
            else:
                self._copy[first:end] = source

    def _scan_stretch(self, blocks: range) -> Pages:
        ram, copy = self._ram.bytes, self._copy
        ram_at, copy_at = ram.ctypes.data, copy.ctypes.data
        unequal = np.empty(_BLOCK_BYTES // _WORD_BYTES, np.bool_)
        found = [np.empty(0, np.int64)]
        for block in blocks:
            first, end = self._ends(block)
            # A block that changed last time has probably changed again: look closely at once.
            if not self._differed[block] and not _memcmp(
                ram_at + first, copy_at + first, end - first
            ):
                continue
            words = unequal[: (end - first) // _WORD_BYTES]
            np.not_equal(ram[first:end].view(np.uint64), copy[first:end].view(np.uint64), out=words)
            # Eight answers are one word, which is an eighth of the work.
            by_page = words.view(np.uint64).reshape(-1, self.page_bytes // _WORD_BYTES**2)
            pages = np.flatnonzero(np.bitwise_or.reduce(by_page, axis=1))
            self._differed[block] = pages.size > 0
            found.append(pages + first // self.page_bytes)
        return np.concatenate(found)


def zero_pages(rows: Bytes, pages: Pages) -> npt.NDArray[np.bool_]:
    """Which of these pages hold nothing but zeros; the others are hardly looked at."""
    words = rows.view(np.uint64)
    zero: npt.NDArray[np.bool_] = words[pages, 0] == 0  # decides nearly all that are not
    zero &= words[pages, words.shape[1] // 2] == 0
    maybe = np.flatnonzero(zero)
    zero[maybe] = ~words[pages[maybe]].any(axis=1)
    return zero


# ------------------------------------------------------------------------------- soft-dirty bits

_SOFT_DIRTY = np.uint64(1 << 55)
_ENTRY_BYTES = 8  # of pagemap, one entry a page
_MAPPED = 1 << 63 | 1 << 62 | 1 << 57  # present, swapped out, or protected: a page has one of them
_CLEAR_SOFT_DIRTY = b"4"


def _clear_soft_dirty(process: Path) -> None:
    (process / "clear_refs").write_bytes(_CLEAR_SOFT_DIRTY)


def _soft_dirty(process: Path, address: int, pages: int) -> npt.NDArray[np.bool_]:
    with (process / "pagemap").open("rb", buffering=0) as file:
        file.seek(address // PAGE_BYTES * _ENTRY_BYTES)
        entries = np.frombuffer(file.read(pages * _ENTRY_BYTES), np.uint64)
    if entries.size != pages:
        what = f"{entries.size} entries of its page map at {address:#x}, not {pages}"
        raise OSError(errno.ESRCH, what)
    dirty: npt.NDArray[np.bool_] = (entries & _SOFT_DIRTY) != 0
    return dirty


@functools.cache
def soft_dirty_works() -> bool:
    """Try it on memory of our own that is mapped as a guest's is: a shared file in memory.

    A kernel without it takes the command and leaves every bit zero.
    """
    process = Path("/proc/self")
    pages = 8
    written = [1, 6]
    try:
        fd = os.memfd_create("soft-dirty")
        try:
            os.ftruncate(fd, pages * PAGE_BYTES)
            memory = mmap.mmap(fd, pages * PAGE_BYTES)
        finally:
            os.close(fd)
        memory[:] = bytes([1]) * len(memory)
        _clear_soft_dirty(process)
        for page in written:
            memory[page * PAGE_BYTES] = 2
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        return bool(np.flatnonzero(_soft_dirty(process, address, pages)).tolist() == written)
    except OSError:
        return False


class _ByKernel(ABC):
    """Memory of a process of which the kernel says what was written."""

    is_quick = True

    def __init__(self, pid: int, path: Path | str, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.page_bytes = PAGE_BYTES
        self._process = Path(f"/proc/{pid}")
        self._path = Path(path)
        self._ram = _RamFile(self._path, size_bytes, PAGE_BYTES)
        self.rows = self._ram.rows
        self._parts = list(self._mapped(Path(path)))
        if sum(pages for _, _, pages in self._parts) < size_bytes // PAGE_BYTES:
            _ByKernel.close(self)
            raise LiveError(f"{path}: process {pid} does not map it; give the pid of its QEMU")

    def changed(self) -> Pages:
        """Raises `GuestGone` if the process has just ended: its memory goes before its sockets."""
        with self._asking():
            found = self._written()
            is_there = self._is_there()
        # the kernel finds nothing written in the memory of a process that is just ending
        if not is_there:
            raise GuestGone(f"{self._named}: its memory is not there any more")
        return found

    def close(self) -> None:
        del self.rows
        self._ram.close()

    def _is_there(self) -> bool:
        """Whether the memory that was just looked at is the process's still."""
        return list(self._mapped(self._path)) == self._parts

    @abstractmethod
    def _written(self) -> Pages:
        """What the kernel says; OSError for a process that has no memory any more."""

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise GuestGone(f"{self._named}: its memory: {error.strerror}") from None

    @property
    def _named(self) -> str:
        return f"process {self._process.name}"

    def _mapped(self, path: Path) -> Iterator[tuple[int, int, int]]:
        """Where the process maps the file: address, first page of the file, number of pages."""
        ours = path.stat()
        try:
            maps = (self._process / "maps").read_text()
        except OSError as error:
            raise GuestGone(f"{self._named}: its maps cannot be read: {error.strerror}") from None
        for line in maps.splitlines():
            span, _, offset, device, inode = line.split(maxsplit=5)[:5]
            major, minor = (int(part, 16) for part in device.split(":"))
            if (os.makedev(major, minor), int(inode)) == (ours.st_dev, ours.st_ino):
                start, end = (int(part, 16) for part in span.split("-"))
                first = int(offset, 16) // PAGE_BYTES
                pages = min((end - start) // PAGE_BYTES, self.size_bytes // PAGE_BYTES - first)
                yield start, first, max(pages, 0)


class SoftDirty(_ByKernel):
    """Finds changed pages by the kernel's record of what QEMU wrote to.

    `absorb` clears the record of all pages, so absorb what `changed` said, all of it.
    """

    name = "soft-dirty"

    def take(self) -> None:
        with self._asking():
            _clear_soft_dirty(self._process)

    def _written(self) -> Pages:
        dirty = np.zeros(self.size_bytes // PAGE_BYTES, np.bool_)
        for address, first, pages in self._parts:
            dirty[first : first + pages] |= _soft_dirty(self._process, address, pages)
        return np.flatnonzero(dirty)

    def absorb(self, pages: Pages) -> None:
        self.take()


class WriteTracking(_ByKernel):
    """Finds changed pages by a record that the kernel keeps for a QEMU that was started for it.

    What `changed` says is protected again in the same moment: what is written later is found the
    next time.  Raises `LiveError` for a QEMU whose memory is not tracked.
    """

    name = "write tracking"

    def __init__(self, pid: int, path: Path | str, size_bytes: int) -> None:
        super().__init__(pid, path, size_bytes)
        try:
            pagemap = self._process / "pagemap"
            self._pagemap = os.open(pagemap, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            super().close()
            raise LiveError(f"process {pid}: its page map: {error.strerror}") from None
        try:
            self._written()
        except OSError as error:
            self.close()
            raise LiveError(f"process {pid}: memory is not tracked: {error.strerror}") from None

    def take(self) -> None:
        self.changed()

    def _written(self) -> Pages:
        found = [np.empty(0, np.int64)]
        for address, first, pages in self._parts:
            for stretches in tracking.scan(self._pagemap, address, pages * PAGE_BYTES):
                ends = (stretches - np.uint64(address)).astype(np.int64) // PAGE_BYTES + first
                lengths = ends[:, 1] - ends[:, 0]
                before = np.cumsum(lengths) - lengths
                found.append(np.repeat(ends[:, 0] - before, lengths) + np.arange(lengths.sum()))
        return np.unique(np.concatenate(found)) if len(self._parts) > 1 else np.concatenate(found)

    def _is_there(self) -> bool:
        """All pages were just scanned, so the kernel has a note on each that is mapped."""
        return all(self._entry(address) & _MAPPED for address, _, _ in self._parts)

    def _entry(self, address: int) -> int:
        entry = os.pread(self._pagemap, _ENTRY_BYTES, address // PAGE_BYTES * _ENTRY_BYTES)
        return int.from_bytes(entry, sys.byteorder)  # of nothing: zero

    def absorb(self, pages: Pages) -> None:
        """They were protected again when they were found."""

    def close(self) -> None:
        os.close(self._pagemap)
        super().close()


def _has_swap() -> bool:
    """Whether memory may be swapped out; the page table forgets then what was written to."""
    try:
        return len(Path("/proc/swaps").read_text().splitlines()) > 1
    except OSError:
        return True


def scanner_for(pid: int, path: Path | str, size_bytes: int) -> Scanner:
    """The best scanner that works here for this QEMU's memory file."""
    with contextlib.suppress(OSError, LiveError):
        return WriteTracking(pid, path, size_bytes)
    if soft_dirty_works() and not _has_swap():
        with contextlib.suppress(OSError, LiveError):  # another user's process, say
            return SoftDirty(pid, path, size_bytes)
    return Shadow(path, size_bytes)
