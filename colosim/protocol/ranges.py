"""Ranges of a byte stream, and the bytes of some of them, for comparing streams piece by piece.

Positions are whole numbers without wrap-around: whoever reads sequence numbers from the wire
unfolds them first.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from operator import itemgetter
from typing import NamedTuple

BEFORE_ALL = -(1 << 80)

_start = itemgetter(0)
_end = itemgetter(1)


class Ranges:
    """A set of positions, kept as disjoint ranges in order, none touching the next."""

    __slots__ = ("items",)

    def __init__(self, items: Iterable[tuple[int, int]] = ()) -> None:
        self.items = [[start, end] for start, end in items]

    def covers(self, start: int, end: int) -> bool:
        """Whether every position of [start, end) is in the set; an empty range is."""
        if start >= end:
            return True
        index = bisect_right(self.items, start, key=_start) - 1
        return index >= 0 and end <= self.items[index][1]

    def add(self, start: int, end: int) -> None:
        if start >= end:
            return
        first = bisect_left(self.items, start, key=_end)
        last = bisect_right(self.items, end, key=_start)
        if first < last:
            start = min(start, self.items[first][0])
            end = max(end, self.items[last - 1][1])
        self.items[first:last] = [[start, end]]

    def gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of [start, end) that are not in the set."""
        found = []
        index = bisect_right(self.items, start, key=_end)
        while start < end:
            if index == len(self.items) or end <= self.items[index][0]:
                found.append((start, end))
                break
            low, high = self.items[index]
            if start < low:
                found.append((start, low))
            start = max(start, high)
            index += 1
        return found


class Piece(NamedTuple):
    """Bytes of a stream: where they are, which frame said them and where its payload began."""

    start: int
    end: int
    data: bytes
    frame: int
    origin: int

    def part(self, start: int, end: int) -> bytes:
        """The bytes of [start, end), as far as they are in this piece."""
        return self.data[max(0, start - self.start) : max(0, end - self.start)]


class Pieces:
    """Disjoint pieces in order."""

    __slots__ = ("bytes", "items")

    def __init__(self) -> None:
        self.items: list[Piece] = []
        self.bytes = 0

    def __len__(self) -> int:
        return len(self.items)

    def over(self, start: int, end: int) -> list[Piece]:
        """The pieces with bytes in [start, end)."""
        first = bisect_right(self.items, start, key=_end)
        last = bisect_left(self.items, end, key=_start)
        return self.items[first:last]

    def gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of [start, end) of which no piece has bytes."""
        found = []
        for piece in self.over(start, end):
            if start < piece.start:
                found.append((start, piece.start))
            start = piece.end
        if start < end:
            found.append((start, end))
        return found

    def put(self, piece: Piece) -> None:
        """Add a piece that overlaps no other."""
        self.items.insert(bisect_left(self.items, piece.start, key=_start), piece)
        self.bytes += len(piece.data)

    def remove(self, start: int, end: int) -> None:
        """Forget the bytes of [start, end)."""
        first = bisect_right(self.items, start, key=_end)
        last = bisect_left(self.items, end, key=_start)
        kept = []
        for piece in self.items[first:last]:
            self.bytes -= len(piece.data)
            for low, high in ((piece.start, start), (end, piece.end)):
                if low < high:
                    data = piece.part(low, high)
                    kept.append(Piece(low, high, data, piece.frame, piece.origin))
                    self.bytes += len(data)
        self.items[first:last] = kept

    def clear(self) -> None:
        self.items.clear()
        self.bytes = 0
