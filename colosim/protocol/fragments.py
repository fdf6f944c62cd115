"""IP datagrams put together again from their fragments, one side at a time, in bounded memory.

A whole datagram comes back as a frame that looks as if it had never been cut, with the numbers of
all frames it came in.  Fragments that overlap and are not equal make a datagram that the receiver
may read in two ways: it is never put together (RFC 5722 asks for that in IPv6; here it is the rule
for both).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from colosim.protocol.packets import Packet

_IP_MAX = 65535


@dataclass(slots=True, eq=False)
class Partial:
    """A datagram of which pieces are missing."""

    since_ns: int
    numbers: list[int] = field(default_factory=list)
    pieces: dict[int, bytes] = field(default_factory=dict)  # by offset
    head: bytes = b""  # link and IP header of the first piece
    at: tuple[int, int, int] = (0, 0, 0)  # network, next_at, protocol of the first piece
    size: int | None = None  # of the whole, once the last piece was seen
    bytes: int = 0
    spoilt: bool = False


class Reassembler:
    """The unfinished datagrams of one side, the oldest first."""

    def __init__(self) -> None:
        self._partials: dict[bytes, Partial] = {}
        self.frames = 0
        self.bytes = 0

    def __iter__(self) -> Iterator[Partial]:
        return iter(self._partials.values())

    def add(
        self, packet: Packet, frame: bytes, number: int, now_ns: int
    ) -> tuple[Partial, bytes | None]:
        """Take one fragment: the datagram it is of, and the datagram's frame when that is whole."""
        piece = packet.fragment
        assert piece is not None
        partial = self._partials.get(piece.id)
        if partial is None:
            partial = self._partials[piece.id] = Partial(now_ns)
        partial.numbers.append(number)
        self.frames += 1
        if not partial.spoilt:
            self._put(partial, packet, frame)
        if partial.spoilt:
            return partial, None
        whole = _whole(partial)
        if whole is not None:
            self.remove(piece.id)
        return partial, whole

    def oldest(self) -> tuple[bytes, Partial] | None:
        return next(iter(self._partials.items()), None)

    def remove(self, id_: bytes) -> Partial:
        partial = self._partials.pop(id_)
        self.frames -= len(partial.numbers)
        self.bytes -= partial.bytes
        return partial

    def clear(self) -> None:
        self._partials.clear()
        self.frames = self.bytes = 0

    def _put(self, partial: Partial, packet: Packet, frame: bytes) -> None:
        piece = packet.fragment
        assert piece is not None
        data = frame[packet.at : packet.end]
        end = piece.offset + len(data)
        known = partial.pieces.get(piece.offset)
        if known == data and piece.more == (partial.size != end):
            return  # the same once more
        overlaps = any(
            offset < end and piece.offset < offset + len(other)
            for offset, other in partial.pieces.items()
        )
        last = end if not piece.more else partial.size
        beyond = last is not None and (
            end > last or any(o + len(d) > last for o, d in partial.pieces.items())
        )
        contradicts = not piece.more and partial.size not in (None, end)
        ragged = piece.more and len(data) % 8
        if overlaps or beyond or contradicts or ragged or not data or end > _IP_MAX:
            self.bytes -= partial.bytes
            partial.bytes = 0
            partial.pieces.clear()
            partial.head = b""
            partial.spoilt = True
            return
        partial.pieces[piece.offset] = data
        if not piece.more:
            partial.size = end
        kept = len(data)
        if piece.offset == 0:
            partial.head = frame[: piece.head]
            partial.at = (piece.network, piece.next_at, packet.protocol)
            kept += len(partial.head)
        partial.bytes += kept
        self.bytes += kept


def _whole(partial: Partial) -> bytes | None:
    pieces = partial.pieces
    if partial.size is None or not partial.head:
        return None
    if sum(map(len, pieces.values())) != partial.size:  # disjoint, so equal sizes mean no hole
        return None
    network, next_at, protocol = partial.at
    head = bytearray(partial.head)
    if next_at:  # IPv6: the length counts from behind the fixed header
        length = len(head) - network - 40 + partial.size
        where = network + 4
        head[next_at] = protocol
    else:
        length = len(head) - network + partial.size
        where = network + 2
        head[network + 6] = head[network + 7] = 0
    if length > _IP_MAX:
        partial.spoilt = True
        return None
    head[where : where + 2] = length.to_bytes(2, "big")
    return bytes(head) + b"".join(pieces[offset] for offset in sorted(pieces))
