"""One direction of a TCP connection: numbers of the secondary, and what of it is late or ahead.

Segments are moved and trimmed without a new checksum, for nobody compares that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from enum import StrEnum
from struct import Struct
from typing import NamedTuple

from colosim.pcap.kept import Budget, Kept, Sent
from colosim.protocol.packets import ACK, FIN, RST, SYN, parse

_MASK, _HALF = (1 << 32) - 1, 1 << 31
_NEAR_BYTES = 1 << 26  # numbers farther apart are not of one conversation
_ON_ITS_WAY_BYTES = 1 << 20
_STARTS_MOST = 16
_WAITING_MOST = 256
_AHEAD_MOST = 4_096
_ETHERNET_BYTES = 14
_IPV4, _IPV6 = 0x0800, 0x86DD

_tcp = Struct("!IIBB").unpack_from
_u16 = Struct("!H")
_u32 = Struct("!I")


class Numbers(StrEnum):
    """Whose sequence numbers a capture of the secondary shows."""

    AUTO = "auto"  #: found out for each connection
    OWN = "own"  #: the secondary's: captured at the guest, before its rewriter
    TRANSLATED = "translated"  #: the primary's: captured behind the rewriter


class _Ahead(NamedTuple):
    """A moved segment of the secondary; ``start`` and ``end`` of its data and FIN."""

    since_ns: int
    sent: Sent
    start: int
    end: int
    ack: int
    flags: int


class Stream:
    """One direction between two ends.

    Of the primary: ``_isn``; ``_end`` and ``_ack``, the highest; ``_starts``, of its last segments;
    ``_cut_end``, the end at the last cut.  Of the secondary: ``_their_isn``; ``_their_end``, of its
    last segment; ``_own``, what its numbers are ahead by; ``_shift``, what is taken off them now;
    ``_ahead``, moved segments beyond the primary.
    """

    __slots__ = (
        "_ack",
        "_ahead",
        "_budget",
        "_cut_end",
        "_end",
        "_is_reset",
        "_is_unknown",
        "_isn",
        "_numbers",
        "_own",
        "_shift",
        "_starts",
        "_syn",
        "_their_end",
        "_their_isn",
        "_unpaired",
        "_waiting",
        "cuts",
    )

    def __init__(self, budget: Budget, numbers: Numbers, cuts: int) -> None:
        self.cuts = cuts
        self._budget = budget
        self._numbers = numbers
        self._isn: int | None = None
        self._their_isn: int | None = None
        self._unpaired = ""  # "ours", "theirs": that SYN is without the other's
        self._own: int | None = None
        self._shift: int | None = None
        self._is_unknown = False
        self._starts: deque[int] = deque(maxlen=_STARTS_MOST)
        self._their_end: int | None = None
        self._end: int | None = None
        self._ack: int | None = None
        self._is_reset = False
        self._cut_end: int | None = None
        self._syn: Kept | None = None  # the secondary's, while it is unpaired
        self._waiting: list[tuple[Kept, int, int]] = []  # for the primary's SYN
        self._ahead: deque[_Ahead] = deque()

    # -- the primary ---------------------------------------------------------------------------

    def primary(self, frame: bytes, at: int, end: int, now_ns: int) -> Sequence[Sent]:
        sequence, ack, words, flags = _tcp(frame, at + 4)
        if flags & SYN:
            return self._primary_syn(sequence, ack)
        if flags & ACK and (self._ack is None or _distance(ack, self._ack) > 0):
            self._ack = ack
        if flags & RST:
            self._is_reset = True
        behind = sequence + end - at - (words >> 4) * 4 + (flags & FIN) & _MASK
        if self._end is None or _distance(behind, self._end) > 0:
            self._end = behind
            self._starts.append(sequence)
        ahead = self._ahead
        while ahead and not self._is_ahead(ahead[0]):
            self._budget.give(len(ahead.popleft().sent.frame))
        return ()

    def _primary_syn(self, sequence: int, ack: int) -> Sequence[Sent]:
        if sequence == self._isn:
            return ()
        self._isn, self._end, self._ack = sequence, sequence + 1 & _MASK, ack
        self._is_reset, self._cut_end = False, None
        self._forget_ahead()
        if self._unpaired != "theirs":
            self._unpaired = "ours"
            return ()
        self._pair()
        waiting, self._waiting = self._waiting, []
        found: list[Sent] = []
        for kept, at, end in waiting:
            self._budget.give(len(kept.sent.frame))
            found += self._segment(kept.sent, at, end, kept.since_ns)
        return found

    # -- the secondary -------------------------------------------------------------------------

    def secondary(self, sent: Sent, at: int, end: int, now_ns: int) -> Sequence[Sent]:
        if sent.frame[at + 13] & SYN:
            return self._secondary_syn(sent, at, now_ns)
        is_early = self._unpaired == "theirs" and len(self._waiting) < _WAITING_MOST
        if is_early and self._budget.take(len(sent.frame)):
            self._waiting.append((Kept(now_ns, sent), at, end))
            return ()
        return self._segment(sent, at, end, now_ns)

    def _secondary_syn(self, sent: Sent, at: int, now_ns: int) -> Sequence[Sent]:
        sequence = _tcp(sent.frame, at + 4)[0]
        # A repeated one says nothing new; with the primary's number it is of the primary's state.
        if sequence not in (self._isn, self._their_isn):
            self._their_isn, self._own, self._shift = sequence, None, None
            if self._unpaired == "ours":
                self._pair()
            else:
                self._forget_waiting()
                self._unpaired, self._syn = "theirs", Kept(now_ns, sent)
        return (sent,)

    def _pair(self) -> None:
        """Both SYNs were seen."""
        assert self._isn is not None
        assert self._their_isn is not None
        self._own = self._their_isn - self._isn & _MASK
        self._shift, self._syn, self._unpaired = None, None, ""
        self._their_end = self._their_isn + 1 & _MASK
        self._starts.clear()

    def _segment(self, sent: Sent, at: int, end: int, now_ns: int) -> Sequence[Sent]:
        frame = sent.frame
        sequence, ack, words, flags = _tcp(frame, at + 4)
        data_at = at + (words >> 4) * 4
        shift = self._shift_of(sequence)
        start = sequence - shift & _MASK
        size = end - data_at + (flags & FIN)
        self._their_end = sequence + size & _MASK
        skip = 0
        if size and self._cut_end is not None and not self._is_far(start):
            skip = min(max(_distance(self._cut_end, start), 0), size)
            if skip == size and self._ack is not None and _distance(ack, self._ack) <= 0:
                self._budget.counts.late += 1
                return ()
        if shift or skip:
            sent = Sent(sent.number, _moved(frame, at, end, start, skip))
            start, size = start + skip & _MASK, size - skip
        self._append(_Ahead(now_ns, sent, start, start + size & _MASK, ack, flags))
        return (sent,)

    def _shift_of(self, sequence: int) -> int:
        """What is to be taken off a number of the secondary."""
        if self._numbers is Numbers.TRANSLATED:
            return 0
        if self._own is None:
            if not self._is_unknown and self._is_far(sequence):
                self._is_unknown = True
                self._budget.counts.unknown += 1
            return 0
        shift = self._own if self._shift is None else self._shift
        if self._numbers is Numbers.AUTO and sequence != self._their_end:
            other = 0 if shift else self._own
            if self._is_rather(sequence - other & _MASK, sequence - shift & _MASK, shift):
                self._budget.counts.switched += self._shift is not None
                shift = other
        if self._shift is None and shift:
            self._budget.counts.moved += 1
        self._shift = shift
        return shift

    def _is_rather(self, one: int, other: int, shift: int) -> bool:
        """A segment does not go on where the secondary was.  Is it at one place, not the other?

        Two guests that were one a moment ago choose initial numbers that are near each other, as
        these follow the clock, so distance tells only if it is more than what is on its way.
        """
        if self._end is None:
            return False
        if one == self._end or one in self._starts:
            return True
        if self._their_end is not None and one == self._their_end - shift & _MASK:
            return True
        return abs(_distance(one, self._end)) + _ON_ITS_WAY_BYTES < abs(_distance(other, self._end))

    def _is_far(self, sequence: int) -> bool:
        """That number is not of the primary's conversation."""
        return self._end is not None and abs(_distance(sequence, self._end)) > _NEAR_BYTES

    # -- ahead ---------------------------------------------------------------------------------

    def _append(self, segment: _Ahead) -> None:
        if not self._is_ahead(segment):
            return
        if len(self._ahead) == _AHEAD_MOST:
            self._budget.give(len(self._ahead.popleft().sent.frame))
        if self._budget.take(len(segment.sent.frame)):
            self._ahead.append(segment)

    def _is_ahead(self, segment: _Ahead) -> bool:
        """The primary has not said all of it."""
        if self._end is None or _distance(segment.end, self._end) > 0:
            return True
        if segment.flags & ACK and (self._ack is None or _distance(segment.ack, self._ack) > 0):
            return True
        return bool(segment.flags & RST) and not self._is_reset

    def pass_cut(self, cuts: int) -> None:
        """There were cuts since this was seen last."""
        self.cuts = cuts
        self._cut_end = self._end

    def cut(self, different: Collection[int], since_ns: int) -> list[Kept]:
        """What is ahead, but not what is older or different."""
        again: list[Kept] = []
        if self._syn is not None and self._syn.since_ns > since_ns:
            again.append(self._syn)
        old, self._ahead = self._ahead, deque()
        for segment in old:
            self._budget.give(len(segment.sent.frame))
            is_new = segment.since_ns > since_ns and segment.sent.number not in different
            if is_new and self._is_ahead(segment):
                rest = self._beyond(segment)
                self._append(rest)
                again.append(Kept(rest.since_ns, rest.sent))
        return again

    def _beyond(self, segment: _Ahead) -> _Ahead:
        """Of a segment what the primary has not said."""
        skip = 0 if self._end is None else _distance(self._end, segment.start)
        size = _distance(segment.end, segment.start)
        if skip <= 0 or not size:
            return segment
        packet = parse(segment.sent.frame)
        assert packet is not None  # it was parsed before
        start = segment.start
        frame = _moved(segment.sent.frame, packet.at, packet.end, start, min(skip, size))
        sent = Sent(segment.sent.number, frame)
        return segment._replace(sent=sent, start=start + min(skip, size) & _MASK)

    def expire(self, since_ns: int) -> None:
        """Nothing here grows old."""

    def keeps(self) -> bool:
        """A cut would change something here."""
        return bool(self._ahead or self._waiting or self._syn)

    def drop(self) -> None:
        """This is forgotten, with all that it keeps."""
        self._forget_ahead()
        self._forget_waiting()

    def _forget_ahead(self) -> None:
        while self._ahead:
            self._budget.give(len(self._ahead.pop().sent.frame))

    def _forget_waiting(self) -> None:
        while self._waiting:
            self._budget.give(len(self._waiting.pop()[0].sent.frame))


def _distance(a: int, b: int) -> int:
    """How far ``a`` is ahead of ``b`` on the circle of sequence numbers."""
    return (a - b + _HALF & _MASK) - _HALF


def _moved(frame: bytes, at: int, end: int, start: int, skip: int) -> bytes:
    """A segment that begins at ``start``, and there without its first ``skip`` bytes, FIN last."""
    if not skip:
        return frame[: at + 4] + _u32.pack(start) + frame[at + 8 :]
    data_at = at + (frame[at + 12] >> 4) * 4
    head = bytearray(frame[:data_at])
    _u32.pack_into(head, at + 4, start + skip & _MASK)
    payload = end - data_at
    if skip > payload:
        skip = payload
        head[at + 13] &= ~FIN
    network = _ETHERNET_BYTES
    while (head[network - 2] << 8 | head[network - 1]) not in (_IPV4, _IPV6):  # tags
        network += 4
    length_at = network + (2 if head[network] >> 4 == 4 else 4)
    _u16.pack_into(head, length_at, _u16.unpack_from(head, length_at)[0] - skip)
    return bytes(head) + frame[data_at + skip : end]
