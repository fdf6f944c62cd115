"""What a comparison of the two guests' frames says, and the shape that both of its modes have.

A comparator takes Ethernet frames of both guests and says which of the primary's may leave.  It
releases nothing, keeps no bytes longer than it must, and has no clock: time is an argument.  Frames
are named by their numbers; the caller counts the primary's and the secondary's apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Why(StrEnum):
    """Reasons to checkpoint."""

    CONTENT = "content"  #: bytes differ
    LENGTH = "length"  #: datagrams of different sizes
    POSITION = "position"  #: the streams are not at the same byte
    ACK = "ack"  #: the primary acknowledges what the secondary has not
    CONTROL = "control"  #: SYN, FIN or RST of one guest where the other goes on
    LIMIT = "limit"  #: a table or queue is full


@dataclass(frozen=True, slots=True)
class Same:
    """Both guests said this: these of the primary's frames may leave, in this order."""

    frames: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Differs:
    """The guests differ.

    connection: for people, such as ``tcp 10.0.0.2:80 > 10.0.0.1:40312``.
    primary, secondary: the frames compared, where there are such.
    offset: of the first differing byte, in the payload of the primary's frame.
    ours, theirs: up to 16 bytes of each side from there.
    """

    why: Why
    connection: str
    primary: int | None = None
    secondary: int | None = None
    offset: int | None = None
    ours: bytes = b""
    theirs: bytes = b""


@dataclass(frozen=True, slots=True)
class Late:
    """Only one of the guests said this, and the compare timeout has passed."""

    connection: str
    primary: int | None = None
    secondary: int | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """Frames of the primary that will never be released (mode ``qemu``: a full queue or table)."""

    frames: tuple[int, ...]


Verdict = Same | Differs | Late | Lost


@dataclass(frozen=True, slots=True)
class CompareLimits:
    """Limits of one comparator; the defaults are colo-compare's of QEMU 7.2.

    timeout_ns: how long output of one guest alone may be held.
    scan_ns: how often mode ``qemu`` looks at ages; ``strict`` has deadlines instead.
    queue_frames: held frames of one connection and side.
    queue_bytes: the same in bytes (``strict`` only).
    connections: how many are known at a time.
    """

    timeout_ns: int = 3_000_000_000
    scan_ns: int = 1_000_000_000
    queue_frames: int = 1024
    queue_bytes: int = 8 << 20
    connections: int = 16384


@dataclass(frozen=True, slots=True)
class Held:
    """What a comparator keeps now: its bounded memory."""

    primary_frames: int
    secondary_frames: int
    bytes: int
    connections: int


class FrameComparator(ABC):
    """Compares frames; `verdicts` says what it found.

    No frame, of any bytes and in any order, makes it raise.
    """

    def __init__(self, limits: CompareLimits) -> None:
        self.limits = limits

    @abstractmethod
    def primary(self, first: int, frames: Sequence[bytes], now_ns: int) -> None:
        """The primary's guest made frames, numbered from ``first``; numbers never go back."""

    @abstractmethod
    def secondary(self, first: int, frames: Sequence[bytes], now_ns: int) -> None:
        """The secondary's guest made frames, numbered from ``first``; numbers never go back."""

    @abstractmethod
    def cut(self, now_ns: int) -> tuple[int, ...]:
        """The primary's state is fixed, and the secondary will go on from it.

        Returns the primary's frames held until now, in the order in which this mode's checkpoint
        sends them.  They belong to the checkpoint, and nothing more will be said of them.
        """

    @abstractmethod
    def committed(self, now_ns: int) -> None:
        """The state of the last cut is safe on the other side, and what it covers has left."""

    @abstractmethod
    def deadline_ns(self) -> int | None:
        """When `tick` has something to do, or None."""

    @abstractmethod
    def tick(self, now_ns: int) -> None:
        """Time has passed."""

    @abstractmethod
    def verdicts(self) -> list[Verdict]:
        """Drain what was found since the last call, in order."""

    @abstractmethod
    def held(self) -> Held:
        """How much it keeps."""
