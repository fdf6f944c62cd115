"""Delay, bandwidth and cuts for bytes: one direction of the checkpoint link.

Bandwidth is shared like a fluid by the channels that have something to send: they take turns of
half a millisecond's worth of bytes each, and the pacer keeps to the bandwidth over any longer
time (a turn that came late is made up for, up to 50 ms).  Bytes arrive ``delay_ns`` after they
have left.  A cut freezes everything, also what is under way, and it goes on when the cut heals:
TCP repeats what was lost.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Protocol

NS_PER_S = 1_000_000_000
_TURN_S = 0.0005
_TURN_BYTES = (256, 1 << 16)  # at least, at most
_CATCH_UP_NS = 50_000_000


class Channel(Protocol):
    """Who sends in this direction."""

    queue: deque[memoryview | None]  # not left yet; None: the end

    def arrive(self, data: memoryview | None) -> None: ...


class Direction:
    """All that one host sends to the other."""

    def __init__(self) -> None:
        self._ready: deque[Channel] = deque()  # those with something to send, by turns
        self._way: deque[tuple[int, Channel, memoryview | None]] = deque()  # (arrives, ...)
        self._free_ns = 0  # when what was before has left
        self._timer: asyncio.TimerHandle | None = None
        self.delay_ns = 0
        self.bandwidth_bps: float | None = None
        self.is_cut = False
        self.left_bytes = 0

    def put(self, channel: Channel, data: memoryview | None) -> None:
        """Queue bytes, or the end of the channel."""
        if not self._ready:
            self._free_ns = max(self._free_ns, time.monotonic_ns())
        if not channel.queue:
            self._ready.append(channel)
        channel.queue.append(data)
        self.flow()

    def cut(self, is_cut: bool) -> None:
        self.is_cut = is_cut
        self._free_ns = max(self._free_ns, time.monotonic_ns())
        self.flow()

    def flow(self) -> None:
        """Do what is due; call it when a setting has changed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.is_cut:
            return
        now_ns = time.monotonic_ns()
        self._leave(now_ns)
        while self._way and self._way[0][0] <= now_ns:
            _, channel, data = self._way.popleft()
            channel.arrive(data)
        self._plan(now_ns)

    def _leave(self, now_ns: int) -> None:
        self._free_ns = max(self._free_ns, now_ns - _CATCH_UP_NS)
        while self._ready and (not self.bandwidth_bps or self._free_ns <= now_ns):
            channel = self._ready.popleft()
            data = self._turn(channel.queue)
            if channel.queue:
                self._ready.append(channel)
            size = 0 if data is None else len(data)
            self.left_bytes += size
            if self.bandwidth_bps:
                self._free_ns += int(size * 8 * NS_PER_S / self.bandwidth_bps)
            else:
                self._free_ns = now_ns
            # First in, first out: a delay that was made shorter overtakes nothing.
            self._way.append((self._free_ns + self.delay_ns, channel, data))

    def _turn(self, queue: deque[memoryview | None]) -> memoryview | None:
        data = queue.popleft()
        if data is None or not self.bandwidth_bps:
            return data
        least, most = _TURN_BYTES
        size = min(max(least, int(self.bandwidth_bps / 8 * _TURN_S)), most)
        if len(data) > size:
            queue.appendleft(data[size:])
            return data[:size]
        return data

    def _plan(self, now_ns: int) -> None:
        due_ns = [self._way[0][0]] if self._way else []
        if self._ready:
            due_ns.append(self._free_ns)
        if due_ns:
            wait_s = max(0, min(due_ns) - now_ns) / NS_PER_S
            self._timer = asyncio.get_running_loop().call_later(wait_s, self.flow)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
