"""Delay, loss, bandwidth and cuts for whole frames: one direction of the way to the gateway.

Bandwidth is a pacer: a frame leaves when the one before it has left, and takes its bits over the
bandwidth.  What would wait behind more than the queue's limit is dropped, as a switch does.  A
frame arrives ``delay_ns`` after its last bit has left.  A cut is a pulled plug: frames are lost,
those under way too.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable

NS_PER_S = 1_000_000_000
_DELAYED_LIMIT_BYTES = 64 << 20


class Line:
    """``deliver(frames)`` gets what arrives, in order.  Unimpaired frames pass within `put`."""

    def __init__(
        self, deliver: Callable[[list[bytes]], None], queue_limit_bytes: int, seed: int
    ) -> None:
        self._deliver = deliver
        self._queue_limit_bytes = queue_limit_bytes
        self._random = random.Random(seed)
        self._queue: deque[tuple[int, str, bytes]] = deque()  # (arrives, from whom, frame)
        self._queued_bytes = 0
        self._free_ns = 0  # when the frame before has left
        self._timer: asyncio.TimerHandle | None = None
        self.delay_ns = 0
        self.loss = 0.0
        self.bandwidth_bps: float | None = None
        self.is_cut = False
        self.dropped: Counter[str] = Counter()

    def cut(self, is_cut: bool) -> None:
        self.is_cut = is_cut
        if is_cut:
            self.dropped["cut"] += len(self._queue)
            self._queue.clear()
            self._queued_bytes = 0
            self._free_ns = 0
            self.close()

    def put(self, frames: list[bytes], origin: str) -> None:
        """Frames that start on their way; ``origin`` is for `purge`."""
        if self.is_cut:
            self.dropped["cut"] += len(frames)
            return
        if self.loss:
            kept = [frame for frame in frames if self._random.random() >= self.loss]
            self.dropped["loss"] += len(frames) - len(kept)
            frames = kept
        if not (self._queue or self.delay_ns or self.bandwidth_bps):
            if frames:
                self._deliver(frames)
            return
        now_ns = time.monotonic_ns()
        for frame in frames:
            self._enqueue(frame, origin, now_ns)
        self._plan(now_ns)

    def purge(self, origin: str) -> int:
        """Drop what is under way from there; how many frames."""
        kept = deque(item for item in self._queue if item[1] != origin)
        purged = len(self._queue) - len(kept)
        self._queue = kept
        self._queued_bytes = sum(len(frame) for _, _, frame in kept)
        self.close()
        self._plan(time.monotonic_ns())
        return purged

    def _enqueue(self, frame: bytes, origin: str, now_ns: int) -> None:
        leaves_ns = now_ns
        if self.bandwidth_bps:
            start_ns = max(self._free_ns, now_ns)
            waiting_bytes = (start_ns - now_ns) * self.bandwidth_bps / 8 / NS_PER_S
            if waiting_bytes > self._queue_limit_bytes:
                self.dropped["queue"] += 1
                return
            leaves_ns = start_ns + int(len(frame) * 8 * NS_PER_S / self.bandwidth_bps)
        if self._queued_bytes + len(frame) > _DELAYED_LIMIT_BYTES:
            self.dropped["queue"] += 1
            return
        self._free_ns = leaves_ns
        # First in, first out: a delay that was made shorter overtakes nothing.
        self._queue.append((leaves_ns + self.delay_ns, origin, frame))
        self._queued_bytes += len(frame)

    def _plan(self, now_ns: int) -> None:
        if self._timer is None and self._queue:
            wait_s = max(0, self._queue[0][0] - now_ns) / NS_PER_S
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._arrive)

    def _arrive(self) -> None:
        self._timer = None
        now_ns = time.monotonic_ns()
        frames: list[bytes] = []
        while self._queue and self._queue[0][0] <= now_ns:
            frame = self._queue.popleft()[2]
            self._queued_bytes -= len(frame)
            frames.append(frame)
        if frames:
            self._deliver(frames)
        self._plan(now_ns)

    def close(self) -> None:
        """Deliver nothing more by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
