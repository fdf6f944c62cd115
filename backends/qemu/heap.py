"""Memory of the processes that a checkpoint goes through.

What they take and give back at every checkpoint is hundreds of kilobytes at once.  By default libc
returns that to the kernel, and the first touch of each page that is taken again costs microseconds
of the guest's pause: more than to copy it.
"""

from __future__ import annotations

import ctypes
import gc

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 64 << 20
_LARGEST_BYTES = 32 << 20  # libc allows no more


def settle() -> None:
    """Keep freed memory, and have the collector look no more at what is there already."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # not every libc needs it
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _LARGEST_BYTES)
    gc.collect()
    gc.freeze()
