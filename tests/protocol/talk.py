"""Two guests that talk to a comparator, with the books kept apart from it."""

from __future__ import annotations

from collections.abc import Iterable

from colosim.protocol.compare_strict import StrictComparator
from colosim.protocol.conversation import Conversation
from colosim.protocol.verdicts import CompareLimits, Differs, FrameComparator, Late, Lost, Same


class Talk:
    """Feeds frames, numbers them, and checks after each step that no frame has vanished.

    left: frames of the primary that were released, in order; found: all other verdicts.
    """

    def __init__(self, comparator: FrameComparator | None = None, limits=None, fast=True):
        self.comparator = comparator or StrictComparator(limits or CompareLimits(), fast=fast)
        self.frames: list[bytes] = []
        self.witnesses = 0
        self.left: list[int] = []
        self.waiting: set[int] = set()
        self.found: list = []
        self.now_ns = 0

    def p(self, *frames: bytes) -> list[int]:
        """The primary says this; what leaves now."""
        first = len(self.frames)
        self.frames += frames
        self.waiting.update(range(first, len(self.frames)))
        self.comparator.primary(first, frames, self.now_ns)
        return self._look()

    def s(self, *frames: bytes) -> list[int]:
        first = self.witnesses
        self.witnesses += len(frames)
        self.comparator.secondary(first, frames, self.now_ns)
        return self._look()

    def wait(self, duration_ns: int) -> list[int]:
        """Time passes as it does for a caller: ticks at deadlines."""
        end_ns = self.now_ns + duration_ns
        while True:
            due_ns = self.comparator.deadline_ns()
            if due_ns is None or due_ns > end_ns:
                break
            assert due_ns >= self.now_ns
            self.now_ns = due_ns
            self.comparator.tick(due_ns)
            after_ns = self.comparator.deadline_ns()
            assert after_ns is None or after_ns > due_ns
        self.now_ns = end_ns
        return self._look()

    def cut(self, commit: bool = True) -> list[int]:
        covered = self.comparator.cut(self.now_ns)
        self.gone(covered)
        assert self._look() == []
        if commit:
            assert self.commit() == []
        return list(covered)

    def commit(self) -> list[int]:
        self.comparator.committed(self.now_ns)
        return self._look()

    def drain(self) -> list:
        """The verdicts, other than releases, since the last call."""
        found, self.found = self.found, []
        return found

    def gone(self, numbers: Iterable[int]) -> None:
        """These are no longer held; each may be so once."""
        for number in numbers:
            assert number in self.waiting, f"{number}: said twice, or never seen"
            self.waiting.remove(number)

    def _look(self) -> list[int]:
        left: list[int] = []
        for verdict in self.comparator.verdicts():
            if isinstance(verdict, Same):
                left += verdict.frames
                self.gone(verdict.frames)
            else:
                assert isinstance(verdict, Differs | Late | Lost)
                self.found.append(verdict)
                if isinstance(verdict, Lost):
                    self.gone(verdict.frames)
        self.left += left
        self._conserved()
        return left

    def _conserved(self) -> None:
        """Each frame of the primary is in exactly one of: left, a cut, held."""
        if not isinstance(self.comparator, StrictComparator):
            return
        held = self.comparator.held()
        assert held.primary_frames == len(self.waiting)
        assert sorted(held_numbers(self.comparator)) == sorted(self.waiting)
        assert held.bytes == kept_bytes(self.comparator)


def parts_of(comparator: StrictComparator) -> list:
    table = list(comparator._table.values())
    following = [c.next for c in table if isinstance(c, Conversation) and c.next is not None]
    return table + following


def held_numbers(comparator: StrictComparator) -> list[int]:
    """The numbers of the primary's frames that are really somewhere inside."""
    found = list(comparator._numbers) + list(comparator._out)
    for part in parts_of(comparator):
        found += [entry[0] for entry in part.half[0].line]
    found = [n for number in found for n in comparator._together.get(number, [number])]
    for partial in comparator._fragments[0]:
        found += partial.numbers
    return found


def kept_bytes(comparator: StrictComparator) -> int:
    """The bytes of all frames and pieces of frames that are really somewhere inside."""
    total = 0
    for part in parts_of(comparator):
        for half in part.half:
            if isinstance(part, Conversation):
                total += sum(len(entry[5]) for entry in half.line)
                total += sum(len(piece.data) for piece in half.pieces.items)
            else:
                total += sum(len(entry[1]) for entry in half.line)
        if isinstance(part, Conversation) and part.early is not None:
            total += len(part.early[1])
    for pool in comparator._fragments:
        for partial in pool:
            total += len(partial.head) + sum(map(len, partial.pieces.values()))
    return total
