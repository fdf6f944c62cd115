"""What every kind of live run needs of the file system: a private directory, and last words."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
import tempfile
from pathlib import Path

from backends.qemu.errors import LiveError

TMPFS = Path("/dev/shm")
_FREE_AFTER_S = 0.5


def new_directory(need_bytes: int) -> Path:
    """A private directory in memory with room for the guests; `LiveError` if there is none."""
    if not TMPFS.is_dir():
        raise LiveError(f"{TMPFS}: not there; guest memory must be in a tmpfs")
    free = shutil.disk_usage(TMPFS).free
    if free < need_bytes:
        raise LiveError(
            f"{TMPFS}: {free >> 20} MiB free, {need_bytes >> 20} MiB needed; "
            "give the guest less memory, or mount it larger"
        )
    return Path(tempfile.mkdtemp(prefix="colosim-", dir=TMPFS))


def free_soon(path: Path) -> None:
    """Give back a dead guest's memory: the name at once, what it holds a moment later.

    For each GiB that takes the kernel some tenths of a second, and somebody waits for the survivor.
    """
    dead = path.with_suffix(".dead")
    with contextlib.suppress(FileNotFoundError):
        path.rename(dead)
        loop = asyncio.get_running_loop()
        free = functools.partial(dead.unlink, missing_ok=True)
        loop.call_later(_FREE_AFTER_S, loop.run_in_executor, None, free)


def last_words(path: Path) -> str:
    """The last line of a log that says something."""
    try:
        lines = path.read_text(errors="replace").split("\n")
    except OSError:
        return "nothing"
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
