"""Has the kernel record which pages of a QEMU's guest memory are written (Linux 6.7, x86-64).

A small library, compiled here and preloaded into QEMU, asks the kernel for it (`track.c`);
`memory.WriteTracking` reads the record from outside.  It needs neither root nor a kernel option
that distributions leave out.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import mmap
import os
import platform
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backends.qemu.errors import LiveError
from backends.qemu.guest.image import cache_folder
from backends.qemu.guest.programs import compiler_version, gcc

SOURCE = Path(__file__).with_name("track.c")
VARIABLE = "COLOSIM_TRACKED"

PAGE_BYTES = 4096
_COMPILE = ("-shared", "-fPIC", "-O2", "-s", "-std=gnu11", "-Wl,--build-id=none")

# linux/fs.h: _IOWR('f', 16, struct pm_scan_arg), which is twelve words
_SCAN_WORDS = struct.Struct("12Q")
_PAGEMAP_SCAN = 3 << 30 | _SCAN_WORDS.size << 16 | ord("f") << 8 | 16
_WP_MATCHING, _CHECK_WPASYNC = 1, 2
_IS_WRITTEN = 1 << 1
_REGION_WORDS = 3  # start, end, categories
_REGIONS = 4096  # that one call may answer

# linux/userfaultfd.h, as in track.c
_USERFAULTFD = 323
_USER_MODE_ONLY = 1
_FEATURES = 1 << 12 | 1 << 13 | 1 << 15
_UFFD_API, _REGISTER_WP = 0xAA, 1 << 1
_API = struct.Struct("3Q")
_REGISTER = struct.Struct("4Q")
_UFFDIO_API = 3 << 30 | _API.size << 16 | 0xAA << 8 | 0x3F
_UFFDIO_REGISTER = 3 << 30 | _REGISTER.size << 16 | 0xAA << 8

#: first pages and ends (exclusive) of stretches, as addresses
Stretches = npt.NDArray[np.uint64]


def environment(ram: Path) -> dict[str, str]:
    """What a QEMU whose guest memory is this file is to be started with; {} where it is no use."""
    library = _library()
    if library is None:
        return {}
    return {"LD_PRELOAD": str(library), VARIABLE: os.path.realpath(ram)}


@functools.cache
def works() -> bool:
    """Try it on memory of our own that is mapped as a guest's is: a shared file in memory."""
    if platform.machine() not in ("x86_64", "amd64"):
        return False
    pages, written = 8, [1, 6]
    handles: list[int] = []
    try:
        handles.append(os.memfd_create("tracking"))
        os.ftruncate(handles[0], pages * PAGE_BYTES)
        memory = mmap.mmap(handles[0], pages * PAGE_BYTES)
        memory[:] = bytes([1]) * len(memory)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        handles.append(_register(address, len(memory)))
        handles.append(os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC))
        list(scan(handles[-1], address, len(memory)))
        for page in written:
            memory[page * PAGE_BYTES] = 2
        found = list(scan(handles[-1], address, len(memory)))
    except (OSError, LiveError):
        return False
    finally:
        for handle in handles:
            os.close(handle)
    return [int(first - address) // PAGE_BYTES for part in found for first, _ in part] == written


def _register(address: int, length: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    handle = int(libc.syscall(_USERFAULTFD, os.O_CLOEXEC | _USER_MODE_ONLY))
    if handle < 0:
        raise OSError(ctypes.get_errno(), "userfaultfd")
    try:
        fcntl.ioctl(handle, _UFFDIO_API, _API.pack(_UFFD_API, _FEATURES, 0))
        fcntl.ioctl(handle, _UFFDIO_REGISTER, _REGISTER.pack(address, length, _REGISTER_WP, 0))
    except OSError:
        os.close(handle)
        raise
    return handle


def scan(pagemap: int, address: int, length: int) -> Iterator[Stretches]:
    """Pages written since the last scan, which are protected again: rows of (first, end).

    pagemap: the open file of the process.  Raises OSError where the memory is not tracked.
    """
    regions = np.empty((_REGIONS, _REGION_WORDS), np.uint64)
    at, end = address, address + length
    while at < end:
        words = (
            *(_SCAN_WORDS.size, _WP_MATCHING | _CHECK_WPASYNC, at, end, 0),
            *(regions.ctypes.data, _REGIONS, 0),
            *(0, _IS_WRITTEN, 0, _IS_WRITTEN),
        )
        asked = bytearray(_SCAN_WORDS.pack(*words))
        count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, asked)
        at = _SCAN_WORDS.unpack(asked)[4]
        yield regions[:count, :2].copy()


@functools.cache
def _library() -> Path | None:
    """Where the preloaded library is; None where the kernel or the compiler cannot do it."""
    if not works():
        return None
    try:
        source = SOURCE.read_bytes()
        key = hashlib.sha256(source + compiler_version().encode()).hexdigest()[:16]
        library = cache_folder() / f"track-{key}.so"
        if not library.exists():
            library.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=library.parent, prefix=".track-") as folder:
                made = Path(folder) / library.name
                if gcc(*_COMPILE, "-o", str(made), str(SOURCE)).returncode != 0:
                    return None
                made.rename(library)
    except (OSError, LiveError):
        return None
    return library
