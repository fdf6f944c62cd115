"""Waking up on time: asyncio's own timers are up to a millisecond late (epoll counts in those)."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import heapq
import itertools
import os
import time

_NS_PER_S = 1_000_000_000
_ABSOLUTE = 1  # TFD_TIMER_ABSTIME


class _Timespec(ctypes.Structure):
    _fields_ = (("s", ctypes.c_long), ("ns", ctypes.c_long))


class _Timer(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"timerfd: {os.strerror(number)}")
    return result


class Alarm:
    """Wakes any number of tasks, each at a time of CLOCK_MONOTONIC.  Close it at the end."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = _checked(
            _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        )
        self._loop.add_reader(self._descriptor, self._ring)
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    async def until(self, at_ns: int) -> None:
        """Sleep until then; returns at once if that is past."""
        if at_ns <= time.monotonic_ns():
            return
        woken = self._loop.create_future()
        heapq.heappush(self._waiting, (at_ns, next(self._order), woken))
        if self._waiting[0][2] is woken:
            self._set(at_ns)
        await woken

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 8)
        now_ns = time.monotonic_ns()
        # Those that were cancelled leave when their turn comes.
        while self._waiting and self._waiting[0][0] <= now_ns:
            woken = heapq.heappop(self._waiting)[2]
            if not woken.done():
                woken.set_result(None)
        if self._waiting:
            self._set(self._waiting[0][0])

    def _set(self, at_ns: int) -> None:
        timer = _Timer(value=_Timespec(*divmod(at_ns, _NS_PER_S)))
        _checked(_libc.timerfd_settime(self._descriptor, _ABSOLUTE, ctypes.byref(timer), None))
