"""Which of many connections wants to be ticked next.

Most changes only put a time off, so a time that is queued is looked at when it comes, and queued
again if it was put off: a heap entry for each connection at most, or two for a moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush


class Timers:
    """Times by key; ``due_ns`` may be too early, never too late."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, bytes]] = []
        self._queued: dict[bytes, int] = {}
        self._n = 0  # so that equal times keep the order of asking

    def copy(self) -> Timers:
        made = Timers()
        made._heap = self._heap.copy()
        made._queued = self._queued.copy()
        made._n = self._n
        return made

    def want(self, key: bytes, due_ns: int | None) -> None:
        """This one wants to be looked at then, at the latest."""
        queued_ns = self._queued.get(key)
        if due_ns is not None and (queued_ns is None or due_ns < queued_ns):
            self._queued[key] = due_ns
            self._n += 1
            heappush(self._heap, (due_ns, self._n, key))

    def due_ns(self) -> int | None:
        return self._heap[0][0] if self._heap else None

    def due(self, now_ns: int) -> Iterator[bytes]:
        """Those whose time has come, as far as is known here; each is to say anew what it wants."""
        while self._heap and self._heap[0][0] <= now_ns:
            due_ns, _, key = heappop(self._heap)
            if self._queued.get(key) == due_ns:
                del self._queued[key]
                yield key
