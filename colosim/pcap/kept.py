"""Frames of the secondary that are kept for later, and how many may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

_BUDGET_BYTES = 64 << 20
_ENTRY_BYTES = 200  # what Python needs beside the bytes of a frame


class Sent(NamedTuple):
    """A frame of the secondary; ``number`` as in its capture."""

    number: int
    frame: bytes


class Kept(NamedTuple):
    """A frame of the secondary that may be said again, and when it was said first."""

    since_ns: int
    sent: Sent


@dataclass(slots=True)
class Counts:
    """What became of the secondary's frames.

    moved: connections whose numbers were moved; switched: to the primary's numbers in the middle.
    unknown: connections whose beginning was not seen, so that nothing could be moved.
    late, again: frames left out after a cut, and frames given again.
    not_kept: frames for which there was no room, so that a cut may have lost them.
    """

    moved: int = 0
    switched: int = 0
    unknown: int = 0
    late: int = 0
    again: int = 0
    not_kept: int = 0


class Budget:
    """Room for all that is kept, of all connections; ``counts`` says what had none."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self._left_bytes = _BUDGET_BYTES

    @property
    def used_bytes(self) -> int:
        """What is taken and was not given back."""
        return _BUDGET_BYTES - self._left_bytes

    def take(self, size: int = 0) -> bool:
        """Room for an entry with so many bytes beside it."""
        if self._left_bytes < size + _ENTRY_BYTES:
            self.counts.not_kept += 1
            return False
        self._left_bytes -= size + _ENTRY_BYTES
        return True

    def give(self, size: int = 0) -> None:
        """An entry that was taken is gone."""
        self._left_bytes += size + _ENTRY_BYTES
