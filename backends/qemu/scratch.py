"""What every kind of live run needs of the file system: a private directory, and last words."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from backends.qemu.errors import LiveError

TMPFS = Path("/dev/shm")


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


def last_words(path: Path) -> str:
    """The last line of a log that says something."""
    try:
        lines = path.read_text(errors="replace").split("\n")
    except OSError:
        return "nothing"
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
