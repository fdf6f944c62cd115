"""The comparison of real packets, as a part of a node.

The frames of both guests go to a `FrameComparator` of the configured mode; its verdicts become the
signals that policy and gate hear.  A replay has no frames: there `ToldComparison` says again what
the trace says was found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from colosim.protocol.compare_qemu import QemuComparator
from colosim.protocol.compare_strict import StrictComparator
from colosim.protocol.outbox import Outbox
from colosim.protocol.types import (
    Alone,
    Committed,
    Cut,
    Forgone,
    GuestOutput,
    Match,
    Mismatch,
    PeerOutput,
    Range,
    Stale,
)
from colosim.protocol.verdicts import (
    CompareLimits,
    Differs,
    FrameComparator,
    Late,
    Lost,
    Same,
    Verdict,
)

#: how frames are compared, by name
MODES: dict[str, type[FrameComparator]] = {"strict": StrictComparator, "qemu": QemuComparator}
#: QEMU's own object compares, and the world feeds what it finds (`Compared`)
ELSEWHERE = "colo-compare"

Found = Match | Mismatch | Stale | Forgone


class Comparison(Protocol):
    """What a node needs of whoever compares."""

    def hears(self) -> dict[type, Callable[..., None]]: ...
    def primary_output(self, event: GuestOutput, now_ns: int) -> None: ...
    def witness(self, event: PeerOutput, now_ns: int) -> None: ...
    def deadline_ns(self) -> int | None: ...
    def tick(self, now_ns: int) -> None: ...


class FrameComparison:
    """Compares the frames of events; frames made by a run that a cut has replaced do not count."""

    def __init__(self, comparator: FrameComparator, out: Outbox) -> None:
        self._comparator = comparator
        self._out = out
        self._epoch = 0
        self._over = False
        self._ours = self._theirs = ""  # the streams that the frames are numbered in
        self.old_witnesses = 0

    def hears(self) -> dict[type, Callable[..., None]]:
        return {Cut: self._on_cut, Committed: self._on_committed, Alone: self._on_alone}

    def primary_output(self, event: GuestOutput, now_ns: int) -> None:
        if not self._over:
            self._ours = event.range.stream
            self._comparator.primary(event.range.first, event.frames, now_ns)
            self._say()

    def witness(self, event: PeerOutput, now_ns: int) -> None:
        if self._over:
            return
        if event.epoch != self._epoch:
            self.old_witnesses += 1
            return
        self._theirs = event.range.stream
        self._comparator.secondary(event.range.first, event.frames, now_ns)
        self._say()

    def deadline_ns(self) -> int | None:
        return None if self._over else self._comparator.deadline_ns()

    def tick(self, now_ns: int) -> None:
        self._comparator.tick(now_ns)
        self._say()

    def _on_cut(self, signal: Cut, now_ns: int) -> None:
        self._epoch = signal.checkpoint
        self._comparator.cut(now_ns)  # what was held is in the gate's hands
        self._say()

    def _on_committed(self, signal: Committed, now_ns: int) -> None:
        if not self._over:
            self._comparator.committed(now_ns)
            self._say()

    def _on_alone(self, signal: Alone, now_ns: int) -> None:
        """There is nobody left to compare with."""
        self._over = True

    def _say(self) -> None:
        for verdict in self._comparator.verdicts():
            for found in self._signals(verdict):
                self._out.signal(found)

    def _signals(self, verdict: Verdict) -> Iterator[Found]:
        match verdict:
            case Same(frames):
                yield from (Match(range_) for range_ in runs(self._ours, frames))
            case Lost(frames):
                yield from (Forgone(range_) for range_ in runs(self._ours, frames))
            case Differs(why):
                yield Mismatch(self._at(verdict), why.value, described(verdict))
            case Late(connection):
                side = "secondary" if verdict.primary is None else "primary"
                yield Stale(self._at(verdict), f"{connection}: of the {side} alone")

    def _at(self, verdict: Differs | Late) -> Range:
        if verdict.primary is not None:
            return Range(self._ours, verdict.primary, verdict.primary + 1)
        at = verdict.secondary or 0
        return Range(self._theirs, at, at + 1)


class ToldComparison:
    """Says what it is told, in place of comparing."""

    def __init__(self, out: Outbox) -> None:
        self._out = out
        self._script: deque[Found] = deque()

    def tell(self, found: Iterable[Found]) -> None:
        """What the next event shall bring to light."""
        self._script = deque(found)

    def hears(self) -> dict[type, Callable[..., None]]:
        return dict.fromkeys((Cut, Committed), self._on_signal)

    def primary_output(self, event: GuestOutput, now_ns: int) -> None:
        self._say()

    def witness(self, event: PeerOutput, now_ns: int) -> None:
        self._say()

    def deadline_ns(self) -> int | None:
        return 0 if self._script else None

    def tick(self, now_ns: int) -> None:
        self._say()

    def _on_signal(self, signal: Cut | Committed, now_ns: int) -> None:
        self._say()

    def _say(self) -> None:
        while self._script:
            self._out.signal(self._script.popleft())


def runs(stream: str, frames: Iterable[int]) -> Iterator[Range]:
    """Frames in their order, as ranges of consecutive numbers."""
    first = end = None
    for frame in frames:
        if frame == end:
            end += 1
            continue
        if first is not None and end is not None:
            yield Range(stream, first, end)
        first, end = frame, frame + 1
    if first is not None and end is not None:
        yield Range(stream, first, end)


def described(verdict: Differs) -> str:
    """For people: where the first difference is, with both sides."""
    if verdict.offset is None:
        return verdict.connection
    ours, theirs = verdict.ours.hex(" "), verdict.theirs.hex(" ")
    return f"{verdict.connection}: byte {verdict.offset}: {ours} here, {theirs} there"


def comparison_of(mode: str, limits: CompareLimits, out: Outbox) -> FrameComparison:
    """Who compares frames in this mode."""
    return FrameComparison(MODES[mode](limits), out)
