"""How far the clocks of two captures are apart, from frames of clients that both guests got.

QEMU's filter-dump counts from a whole second by the guest's own clock, so two of its captures are
up to a second apart, and farther after each stop of one guest.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median, quantiles

from colosim.protocol.packets import SYN, TCP, UDP, parse, tcp_header

_MOST = 8_192  # of one source


@dataclass(frozen=True, slots=True)
class Difference:
    """What to add to the secondary's times: the median of n frames; low and high hold 90 %."""

    median_ns: int
    low_ns: int
    high_ns: int
    n: int


class Marks:
    """The first frames of a source that can be told from all others, with their times."""

    __slots__ = ("_times_ns", "is_full")

    def __init__(self) -> None:
        self._times_ns: dict[int, int | None] = {}
        self.is_full = False

    def see(self, frame: bytes, time_ns: int) -> bool:
        """Remember a frame if it has content and is new; what is said twice marks nothing."""
        mark = _mark(frame)
        if mark is None:
            return False
        is_new = mark not in self._times_ns
        self._times_ns[mark] = time_ns if is_new else None
        self.is_full = len(self._times_ns) >= _MOST
        return is_new

    def ahead_of(self, other: Marks) -> list[int]:
        """Time here less time there, in ns, of each frame that both have."""
        return [
            ours - theirs
            for mark, ours in self._times_ns.items()
            if ours is not None and (theirs := other._times_ns.get(mark)) is not None
        ]


def _mark(frame: bytes) -> int | None:
    """A digest of what a rewriter does not change: no acknowledgement and no checksum."""
    packet = parse(frame)
    if packet is None or packet.fragment is not None:
        return None
    key, protocol, at, end, _ = packet
    if protocol == UDP:
        return hash((key, frame[at + 8 : end]))
    if protocol != TCP:
        return None
    sequence, _, flags, data_at = tcp_header(frame, at)
    if data_at == end and not flags & SYN:
        return None
    return hash((key, sequence, flags & SYN, frame[data_at:end]))


def difference(ahead_ns: list[int]) -> Difference | None:
    """The clocks' difference, or None if no frame tells it."""
    if not ahead_ns:
        return None
    # of a single value there are no quantiles
    parts = quantiles(ahead_ns * 2, n=20, method="inclusive")
    return Difference(round(median(ahead_ns)), round(parts[0]), round(parts[-1]), len(ahead_ns))
