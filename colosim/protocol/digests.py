"""Comparison of the two guests' output, as batches of digested ranges.

This is the form that needs no bytes: a range and a digest a side.  Real packets are compared by
`colosim.protocol.verdicts`.  Each stream is compared in order; at the first difference it waits for
the cut, as colo-compare does, because nothing behind a difference can be trusted to be the same
conversation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from colosim.protocol.outbox import Outbox
from colosim.protocol.types import (
    Alone,
    Cut,
    GuestOutput,
    Match,
    Mismatch,
    PeerOutput,
    Range,
    Stale,
)

#: the name of this form among the modes
DIGESTS = "digests"


@dataclass(slots=True)
class _Side:
    waiting: deque[tuple[Range, str]] = field(default_factory=deque)
    taken: int = 0  # how many were compared, to tell an old deadline from a live one


@dataclass(slots=True)
class _Stream:
    primary: _Side = field(default_factory=_Side)
    secondary: _Side = field(default_factory=_Side)
    stuck: bool = False  # differed or timed out; silent until the cut


class DigestComparator:
    """Match, Mismatch or Stale for what both guests said; never releases anything."""

    def __init__(self, timeout_ns: int, out: Outbox) -> None:
        self._timeout_ns = timeout_ns
        self._out = out
        self._streams: dict[str, _Stream] = {}
        self._epoch = 0
        self._over = False
        # (due, stream, side, index on that side, range); due never decreases
        self._ages: deque[tuple[int, _Stream, _Side, int, Range]] = deque()
        self.old_witnesses = 0

    def hears(self) -> dict[type, Callable[..., None]]:
        return {Cut: self._on_cut, Alone: self._on_alone}

    def primary_output(self, event: GuestOutput, now_ns: int) -> None:
        stream = self._stream(event.range.stream)
        self._put(stream, stream.primary, event, now_ns)

    def witness(self, event: PeerOutput, now_ns: int) -> None:
        if event.epoch != self._epoch:  # made by a run that a checkpoint has replaced
            self.old_witnesses += 1
            return
        stream = self._stream(event.range.stream)
        self._put(stream, stream.secondary, event, now_ns)

    def deadline_ns(self) -> int | None:
        ages = self._ages
        while ages:
            due_ns, stream, side, index, _ = ages[0]
            if index >= side.taken and not stream.stuck:
                return due_ns
            ages.popleft()
        return None

    def tick(self, now_ns: int) -> None:
        while (due_ns := self.deadline_ns()) is not None and due_ns <= now_ns:
            _, stream, _, _, range_ = self._ages.popleft()
            stream.stuck = True
            self._out.signal(Stale(range_))

    def _stream(self, name: str) -> _Stream:
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = _Stream()
        return stream

    def _put(
        self, stream: _Stream, side: _Side, event: GuestOutput | PeerOutput, now_ns: int
    ) -> None:
        if self._over:
            return
        side.waiting.append((event.range, event.digest))
        if stream.stuck:
            return
        primary, secondary = stream.primary, stream.secondary
        while primary.waiting and secondary.waiting:
            range_, digest = primary.waiting[0]
            other, other_digest = secondary.waiting[0]
            if range_ != other or digest != other_digest:
                stream.stuck = True
                why = "content" if range_ == other else "position"
                self._out.signal(Mismatch(range_, why))
                return
            primary.waiting.popleft()
            secondary.waiting.popleft()
            primary.taken += 1
            secondary.taken += 1
            self._out.signal(Match(range_))
        if side.waiting:
            index = side.taken + len(side.waiting) - 1
            due_ns = now_ns + self._timeout_ns
            self._ages.append((due_ns, stream, side, index, event.range))

    def _on_cut(self, signal: Cut, now_ns: int) -> None:
        self._streams.clear()
        self._ages.clear()
        self._epoch = signal.checkpoint

    def _on_alone(self, signal: Alone, now_ns: int) -> None:
        """There is nobody left to compare with."""
        self._streams.clear()
        self._ages.clear()
        self._over = True
