"""Sequence translation: lets the secondary's guest talk to clients that know the primary's numbers.

Each guest picks the first sequence number of a new connection by itself.  A client learns the
primary's.  A rewriter stands between the network and the secondary's guest: it gives the guest the
acknowledgments it expects, and gives everyone else the primary's sequence numbers.

``offset`` of a connection is the guest's number minus the primary's, modulo 2^32.  It is known once
both first numbers are: the guest's from its SYN or SYN-ACK, the primary's from what the client
acknowledges first.  A checkpoint makes it 0, because the guest then *is* the primary's.

Only the guest's own number space is translated: ``seq`` from the guest, ``ack`` and SACK blocks to
the guest, and the quoted ``seq`` of ICMP errors to the guest.  Checksums are adjusted by the
difference (RFC 1624), so a wrong one stays wrong.

A guest whose handshake carries timestamps refuses an answer that echoes another time than its own
(Linux: a SYN-ACK from before its SYN is answered by RST).  So the one segment that ends a handshake
echoes what the guest sent.  Later timestamps stay: they differ only by the guests' clocks.

Frames are whole Ethernet frames with full checksums.  Connections signed by TCP-MD5 or TCP-AO
cannot be translated: the signature covers the numbers.  With TCP Fast Open a guest that sends
before the handshake's end can be read wrongly; the comparator sees it and a checkpoint heals it.

A guest that is protected again after its promotion keeps its rewriter.  The new secondary's guest,
which has its state, has a rewriter of its own, and gets what the first one knows with each state
(`Rewriter.numbers`): so both say what clients know.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

_OFFSET = struct.Struct(">HHI")  # lengths of a connection's two keys, and its offset


class Rewriter(ABC):
    """Stands between the network and one guest.

    No frame, of any bytes and in any order, makes it raise.  A frame in which nothing changes is
    returned as the same object.
    """

    @abstractmethod
    def to_guest(self, frames: Sequence[bytes]) -> list[bytes]:
        """Clients' frames on their way to the guest: what to give it now."""

    @abstractmethod
    def from_guest(self, frames: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        """The guest's frames on their way out: (what leaves, what to give the guest now).

        The second list are frames of clients that had to wait for what the guest said.
        """

    @abstractmethod
    def loaded(self, numbers: bytes = b"") -> None:
        """The guest has the primary's state: its numbers are the primary's.

        Every frame that it made before has been given, and what it is given from now on it gets in
        the new state.  numbers: `numbers` of the primary's own rewriter, if it has one.
        """

    def numbers(self) -> bytes:
        """What a guest with this one's state needs to be translated as this one is."""
        return b""

    @abstractmethod
    def promoted(self) -> None:
        """The guest is the one that clients talk to; what is translated goes on being so."""

    @abstractmethod
    def translating(self) -> int:
        """Open connections with an offset other than 0."""


@dataclass(frozen=True, slots=True)
class RewriteLimits:
    """Limits of one rewriter.

    connections: how many are known at a time.  To make room it forgets closed ones first, then
    those with offset 0, then half-open ones, always the oldest.  If all are open and translated a
    new one stays unknown: it passes as it is, the guests differ, and the checkpoint heals it.
    held_frames: of one connection, while they wait for the guest's first number.
    held_bytes: of all connections together.  What does not fit is dropped.
    """

    connections: int = 16384
    held_frames: int = 64
    held_bytes: int = 1 << 20


# --------------------------------------------------------------------------------------------
# Frames

_M = 0xFFFFFFFF
_HALF = 1 << 31
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16

_TCP, _ICMP, _ICMP6 = 6, 1, 58
_SACK, _TIMESTAMP = 5, 8  # TCP options
_TAGS = frozenset((b"\x81\x00", b"\x88\xa8", b"\x91\x00"))
_MOST_TAGS = 2
_IP6_EXTENSIONS = frozenset((0, 43, 60))  # all counted in units of 8 bytes
_IP6_FRAGMENT = 44
_MOST_EXTENSIONS = 8
_ICMP_ERRORS = frozenset((3, 4, 5, 11, 12))
_ICMP6_ERRORS = frozenset((1, 2, 3, 4))

_U32 = struct.Struct(">I")
_U16 = struct.Struct(">H")
_TCP_HEAD = struct.Struct(">4xIIBBHH")  # seq, ack, offset, flags, window, checksum
# The whole of an untagged IPv4 frame without IP options, as far as the TCP checksum.
_PLAIN = struct.Struct(">12xHBxHxxHxB14xIIBBHH")
_PATCH = struct.Struct(">IIBBHH")
_PLAIN_START = b"\x08\x00\x45"
_ONLY_TIMESTAMPS = b"\x01\x01\x08\x0a"


class _Where(NamedTuple):
    """Where a frame's transport header is; ``key`` is addresses and ports, in the frame's order."""

    protocol: int
    at: int
    end: int  # of the IP packet; 0 if this is only its first fragment
    key: bytes


def _network(frame: bytes) -> tuple[int, bytes] | None:
    """Where the IP header is, and the tags before it (their VLAN numbers)."""
    at, tags = 12, b""
    for _ in range(_MOST_TAGS + 1):
        kind = frame[at : at + 2]
        if kind in {b"\x08\x00", b"\x86\xdd"}:
            return at + 2, tags
        if kind not in _TAGS or len(frame) < at + 4:
            return None
        tags += bytes((frame[at + 2] & 0x0F, frame[at + 3]))
        at += 4
    return None


def _locate(frame: bytes) -> _Where | None:
    """The transport header, if the frame has one that can be read whole."""
    network = _network(frame)
    if network is None:
        return None
    at, tags = network
    if len(frame) < at + 20:
        return None
    version = frame[at] >> 4
    if version == 4:
        return _locate4(frame, at, tags, len(frame))
    return _locate6(frame, at, tags, len(frame)) if version == 6 else None


def _locate4(frame: bytes, ip: int, tags: bytes, limit: int) -> _Where | None:
    """``limit``: where the packet must end at the latest; 0: it may be cut."""
    head = (frame[ip] & 0x0F) * 4
    total, fragment = _U16.unpack_from(frame, ip + 2)[0], _U16.unpack_from(frame, ip + 6)[0]
    at = ip + head
    if head < 20 or fragment & 0x1FFF or total < head + 8 or len(frame) < at + 8:
        return None
    if limit and ip + total > limit:
        return None
    key = tags + frame[ip + 12 : ip + 20] + frame[at : at + 4]
    return _Where(frame[ip + 9], at, 0 if fragment & 0x2000 else ip + total, key)


def _locate6(frame: bytes, ip: int, tags: bytes, limit: int) -> _Where | None:
    if len(frame) < ip + 40:
        return None
    end = ip + 40 + _U16.unpack_from(frame, ip + 4)[0]
    if limit and end > limit:
        return None
    protocol, at, whole = frame[ip + 6], ip + 40, True
    for _ in range(_MOST_EXTENSIONS):
        if len(frame) < at + 8 or end < at + 8:
            return None
        if protocol in _IP6_EXTENSIONS:
            protocol, at = frame[at], at + 8 + 8 * frame[at + 1]
        elif protocol == _IP6_FRAGMENT:
            fragment = _U16.unpack_from(frame, at + 2)[0]
            if fragment & 0xFFF8:
                return None
            whole = whole and not fragment & 1
            protocol, at = frame[at], at + 8
        else:
            key = tags + frame[ip + 8 : ip + 40] + frame[at : at + 4]
            return _Where(protocol, at, end if whole else 0, key)
    return None


def _turned(key: bytes) -> bytes:
    """The key of the frames of the other direction."""
    addresses = 8 if len(key) < 36 else 32
    a = len(key) - 4 - addresses
    b, c = a + addresses // 2, a + addresses
    return b"".join((key[:a], key[b:c], key[a:b], key[c + 2 :], key[c : c + 2]))


def _adjusted(checksum: int, difference: int) -> int:
    """The checksum after the 16-bit words that it covers grew by ``difference`` in all.

    In one's complement, modulo 65535, a 32-bit number is the sum of its halves, so ``difference``
    may be one of 32-bit numbers that start at an even place.
    """
    return 0xFFFF - ((0xFFFF - checksum + difference) % 0xFFFF or 0xFFFF)


def _with_seq(frame: bytes, at: int, offset: int) -> bytes:
    """The guest's segment with the primary's number."""
    seq, ack, words, flags, window, checksum = _TCP_HEAD.unpack_from(frame, at)
    new = (seq - offset) & _M
    checksum = _adjusted(checksum, new - seq)
    patch = _PATCH.pack(new, ack, words, flags, window, checksum)
    return frame[: at + 4] + patch + frame[at + 18 :]


def _with_ack(frame: bytes, at: int, offset: int) -> bytes:
    """The client's segment with the guest's numbers in ACK and SACK."""
    seq, ack, words, flags, window, checksum = _TCP_HEAD.unpack_from(frame, at)
    new = (ack + offset) & _M
    difference = new - ack
    rest = frame[at + 18 :]
    if words > 0x5F:
        end = at + (words >> 4) * 4
        options, more = _with_sack(frame[at + 20 : end], offset)
        difference += more
        rest = frame[at + 18 : at + 20] + options + frame[end:]
    patch = _PATCH.pack(seq, new, words, flags, window, _adjusted(checksum, difference))
    return frame[: at + 4] + patch + rest


def _options(options: bytes) -> Iterator[tuple[int, int, int]]:
    """(kind, where, size) of TCP options, as far as they can be read."""
    at = 0
    while at < len(options) and options[at]:
        if options[at] == 1:
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        if size < 2 or at + size > len(options):
            return  # the guest will not read on either
        yield options[at], at, size
        at += size


def _with_sack(options: bytes, offset: int) -> tuple[bytes, int]:
    """TCP options with translated SACK blocks, and what that changes in the checksum's sum."""
    result = bytearray(options)
    difference = 0
    for kind, at, size in _options(options):
        if kind == _SACK:
            for edge in range(at + 2, at + size - 3, 4):
                old = _U32.unpack_from(options, edge)[0]
                new = (old + offset) & _M
                _U32.pack_into(result, edge, new)
                difference += _weight(edge) * (new - old)
    return bytes(result), difference


def _weight(place: int) -> int:
    """A number at an odd place has its bytes in the other halves of the checksum's words."""
    return 256 if place & 1 else 1


def _timestamp(frame: bytes, at: int) -> int | None:
    """Where the timestamp option is, if the segment has one."""
    for kind, place, size in _options(frame[at + 20 : at + (frame[at + 12] >> 4) * 4]):
        if kind == _TIMESTAMP and size == 10:
            return at + 20 + place
    return None


def _with_echo(frame: bytes, at: int, clock: int) -> bytes:
    """The client's segment with another time echoed, if it echoes one."""
    place = _timestamp(frame, at)
    if place is None:
        return frame
    echo = _U32.unpack_from(frame, place + 6)[0]
    checksum = _U16.unpack_from(frame, at + 16)[0]
    result = bytearray(frame)
    _U32.pack_into(result, place + 6, clock)
    _U16.pack_into(result, at + 16, _adjusted(checksum, _weight(place - at) * (clock - echo)))
    return bytes(result)


def _plain_seq(frame: bytes, offset: int) -> bytes | None:
    """`_with_seq` for the usual frame; None if it is not one."""
    kind, head, total, fragment, protocol, seq, ack, words, flags, window, checksum = (
        _PLAIN.unpack_from(frame)
    )
    if (
        kind != 0x800
        or head != 0x45
        or protocol != _TCP
        or fragment & 0x3FFF
        or flags & 7
        or words < 0x50
        or not 20 + ((words & 0xF0) >> 2) <= total <= len(frame) - 14
    ):
        return None
    if not offset:
        return frame
    new = (seq - offset) & _M
    checksum = 0xFFFF - ((0xFFFF - checksum + new - seq) % 0xFFFF or 0xFFFF)
    return frame[:38] + _PATCH.pack(new, ack, words, flags, window, checksum) + frame[52:]


def _plain_ack(frame: bytes, offset: int) -> bytes | None:
    """`_with_ack` for the usual frame; None if it is not one."""
    kind, head, total, fragment, protocol, seq, ack, words, flags, window, checksum = (
        _PLAIN.unpack_from(frame)
    )
    if (
        kind != 0x800
        or head != 0x45
        or protocol != _TCP
        or fragment & 0x3FFF
        or flags & 0x17 != _ACK
        or words < 0x50
        or not 20 + ((words & 0xF0) >> 2) <= total <= len(frame) - 14
    ):
        return None
    if not offset:
        return frame
    if words > 0x5F and not (words >> 4 == 8 and frame[54:58] == _ONLY_TIMESTAMPS):
        return _with_ack(frame, 34, offset)  # there may be SACK
    new = (ack + offset) & _M
    checksum = 0xFFFF - ((0xFFFF - checksum + new - ack) % 0xFFFF or 0xFFFF)
    return frame[:38] + _PATCH.pack(seq, new, words, flags, window, checksum) + frame[52:]


# --------------------------------------------------------------------------------------------
# Connections


class _Kind(Enum):
    """What a segment does to a connection."""

    SYN = auto()
    SYN_ACK = auto()
    RST = auto()
    ACK = auto()  # everything else that acknowledges
    BARE = auto()  # neither: no stack sends it


def _kind(flags: int) -> _Kind:
    if flags & _RST:
        return _Kind.RST
    if flags & _SYN:
        return _Kind.SYN_ACK if flags & _ACK else _Kind.SYN
    return _Kind.ACK if flags & _ACK else _Kind.BARE


_KINDS = tuple(_kind(flags) for flags in range(256))


class _Segment(NamedTuple):
    kind: _Kind
    seq: int
    ack: int
    flags: int
    next: int | None  # the number after its last byte; None if only a fragment is here


class _Phase(Enum):
    """What is known of a connection."""

    OPENING = auto()
    """The client's SYN went to the guest; the guest's first number is not known.

    Whatever was known of an earlier connection with these ports stays in force until the guest
    answers, for it may answer for the earlier one.
    """

    ANSWERED = auto()
    """The guest's first number is known, the primary's is not: it sent SYN or SYN-ACK."""

    KNOWN = auto()
    """Offset known, or from before our time and so 0."""

    RELOADED = auto()
    """It was being opened when the guest was loaded: offset 0, the primary's number not known."""

    CLOSED = auto()
    """Over for both ends; kept, as long as there is room, for what is sent again."""


@dataclass(slots=True, eq=False)
class _Connection:
    inward: bytes  # its key in clients' frames
    outward: bytes  # its key in the guest's frames
    phase: _Phase
    pool: dict[_Connection, None]
    offset: int = 0
    clock: int | None = None  # the guest's time in its SYN or SYN-ACK, until that is answered
    # KNOWN, and no FIN awaits its acknowledgment in such frames: only their numbers matter
    plain_in: bool = False
    plain_out: bool = False
    client_isn: int | None = None
    primary_isn: int | None = None
    guest_isn: int | None = None
    fin_in: int | None = None  # what acknowledges the client's FIN
    fin_out: int | None = None  # what acknowledges the guest's FIN, in the primary's numbers
    over_in: bool = False
    over_out: bool = False
    held: list[bytes] = field(default_factory=list)

    def follows(self, seq: int) -> bool:
        """Whether a client's segment belongs behind the client's SYN."""
        return self.client_isn is not None and 0 < (seq - self.client_isn) & _M < _HALF

    def restart(self, client_isn: int | None) -> None:
        """A new connection with the same ports."""
        self.client_isn = client_isn
        self.primary_isn = self.guest_isn = self.fin_in = self.fin_out = self.clock = None
        self.over_in = self.over_out = False


_Client = Callable[["StrictRewriter", _Connection, _Segment], bool]
_Guest = Callable[["StrictRewriter", _Connection, _Segment], None]


class StrictRewriter(Rewriter):
    """Translates every segment of a connection, from its first to its last.

    Beyond filter-rewriter: RST, SYN-ACK and SACK are translated; all orders of closing; client's
    acknowledgments that come before the guest's SYN-ACK wait for it; connections opened by the
    guest; ports used again; handshakes that a checkpoint interrupts; IPv6, VLAN tags, first
    fragments; ICMP errors; the time that a handshake echoes.

    dropped: clients' frames that will never be given to the guest.
    unknown: connections for which there was no room.
    """

    def __init__(self, limits: RewriteLimits | None = None) -> None:
        self.limits = limits or RewriteLimits()
        self.dropped = 0
        self.unknown = 0
        self._inward: dict[bytes, _Connection] = {}
        self._outward: dict[bytes, _Connection] = {}
        # Every connection is in one of these, in the order in which it came there.
        self._closed: dict[_Connection, None] = {}
        self._zero: dict[_Connection, None] = {}
        self._half: dict[_Connection, None] = {}
        self._open: dict[_Connection, None] = {}
        self._held_bytes = 0
        self._alone = False
        self._ready: list[bytes] = []  # clients' frames that need not wait any more

    # -- the interface

    def to_guest(self, frames: Sequence[bytes]) -> list[bytes]:
        result = []
        find = self._inward.get
        for frame in frames:
            connection = find(frame[26:38])
            new: bytes | None
            if connection is None:
                # not ours, unless it opens a connection or is no plain frame
                if len(frame) >= 54 and frame[12:15] == _PLAIN_START and _no_concern(frame):
                    result.append(frame)
                    continue
                new = None
            elif connection.plain_in and len(frame) >= 54:
                new = _plain_ack(frame, connection.offset)
            else:
                new = None
            if new is None:
                new = self._client_frame(frame)
            if new is not None:
                result.append(new)
        return result

    def from_guest(self, frames: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        result = []
        find = self._outward.get
        for frame in frames:
            connection = find(frame[26:38])
            new = None
            if connection is None:
                if len(frame) >= 54 and frame[12:15] == _PLAIN_START and _no_concern(frame):
                    result.append(frame)
                    continue
            elif connection.plain_out and len(frame) >= 54:
                new = _plain_seq(frame, connection.offset)
            result.append(self._guest_frame(frame) if new is None else new)
        ready, self._ready = self._ready, []
        return result, ready

    def loaded(self, numbers: bytes = b"") -> None:
        self._alone = False
        for connection in [*self._half, *self._open]:
            self._drop_held(connection)
            connection.offset = 0
            connection.guest_isn = connection.clock = None
            if connection.phase is not _Phase.KNOWN:
                known = connection.primary_isn is not None
                connection.phase = _Phase.KNOWN if known else _Phase.RELOADED
            self._settle(connection)
        for connection in [*self._closed]:
            self._forget(connection)
        for inward, outward, offset in _unpacked(numbers):
            if inward not in self._inward:
                self._new(inward, outward, _Phase.KNOWN, None)
            if (translated := self._inward.get(inward)) is not None:
                translated.offset = offset
                self._enter(translated, _Phase.KNOWN)

    def numbers(self) -> bytes:
        return b"".join(
            _OFFSET.pack(len(connection.inward), len(connection.outward), connection.offset)
            + connection.inward
            + connection.outward
            for connection in self._open
        )

    def promoted(self) -> None:
        self._alone = True
        for connection in [*self._zero]:  # clients know this guest's own numbers
            if connection.phase is _Phase.KNOWN:
                self._forget(connection)

    def translating(self) -> int:
        return len(self._open)

    def connections(self) -> int:
        """How many are known."""
        return len(self._inward)

    def held(self) -> int:
        """Clients' frames that wait for the guest's first number."""
        return sum(len(connection.held) for connection in [*self._half, *self._open])

    # -- one frame

    def _client_frame(self, frame: bytes) -> bytes | None:
        """What to give the guest now; None if the frame has to wait, or was dropped."""
        where = _locate(frame)
        if where is None:
            return frame
        if where.protocol != _TCP:
            return self._client_error(frame, where)
        segment = _segment(frame, where)
        if segment is None:
            return frame
        connection = self._inward.get(where.key)
        if connection is None:
            if segment.kind is _Kind.SYN:
                self._new(where.key, _turned(where.key), _Phase.OPENING, client_isn=segment.seq)
            return frame
        if _CLIENT[connection.phase, segment.kind](self, connection, segment):
            self._hold(connection, frame)
            return None
        if not segment.flags & _ACK:
            return frame
        if connection.offset:
            frame = _with_ack(frame, where.at, connection.offset)
        if connection.clock is not None and connection.phase is _Phase.KNOWN:
            frame = _with_echo(frame, where.at, connection.clock)
            connection.clock = None
        return frame

    def _guest_frame(self, frame: bytes) -> bytes:
        where = _locate(frame)
        if where is None or where.protocol != _TCP:
            return frame
        segment = _segment(frame, where)
        if segment is None:
            return frame
        connection = self._outward.get(where.key)
        if connection is None:
            connection = self._guest_begins(where.key, segment)
            if connection is None:
                return frame
        else:
            _GUEST[connection.phase, segment.kind](self, connection, segment)
        if segment.flags & _SYN and (connection.phase is _Phase.ANSWERED or connection.held):
            place = _timestamp(frame, where.at)
            connection.clock = None if place is None else _U32.unpack_from(frame, place + 2)[0]
        self._give_held(connection)
        if connection.offset:
            return _with_seq(frame, where.at, connection.offset)
        return frame

    def _client_error(self, frame: bytes, where: _Where) -> bytes:
        """ICMP errors quote a segment of the guest, which knows it only by its own number."""
        errors = {_ICMP: _ICMP_ERRORS, _ICMP6: _ICMP6_ERRORS}.get(where.protocol)
        quoted = where.at + 8
        if errors is None or frame[where.at] not in errors or len(frame) < quoted + 20:
            return frame
        locate = _locate4 if where.protocol == _ICMP else _locate6
        if frame[quoted] >> 4 != (4 if where.protocol == _ICMP else 6):
            return frame
        inner = locate(frame, quoted, b"", 0)
        if inner is None or inner.protocol != _TCP or inner.at + 8 > (where.end or len(frame)):
            return frame
        tags = where.key[: len(where.key) - len(inner.key)]
        connection = self._outward.get(tags + inner.key)
        if connection is None or not connection.offset:
            return frame
        seq = _U32.unpack_from(frame, inner.at + 4)[0]
        new = (seq + connection.offset) & _M
        result = bytearray(frame)
        _U32.pack_into(result, inner.at + 4, new)
        checksum = _U16.unpack_from(frame, where.at + 2)[0]
        _U16.pack_into(result, where.at + 2, _adjusted(checksum, new - seq))
        return bytes(result)

    # -- what clients' segments mean; True: the frame has to wait

    def _nothing(self, connection: _Connection, segment: _Segment) -> bool:
        return False

    def _client_opens(self, connection: _Connection, segment: _Segment) -> bool:
        if connection.phase is not _Phase.CLOSED and connection.client_isn == segment.seq:
            return False  # sent again
        if connection.client_isn is None and connection.phase in _BEGUN:
            connection.client_isn = segment.seq  # both open at the same time
            return False
        self._drop_held(connection)
        connection.restart(segment.seq)
        self._enter(connection, _Phase.OPENING)
        return False

    def _client_early(self, connection: _Connection, segment: _Segment) -> bool:
        """The client knows the primary's first number before we know the guest's."""
        if segment.kind is _Kind.ACK and not connection.follows(segment.seq):
            return False  # of the connection before
        if connection.primary_isn is None:
            connection.primary_isn = (segment.ack - 1) & _M
        return True

    def _client_answers(self, connection: _Connection, segment: _Segment) -> bool:
        """The first acknowledgment by the client tells the primary's first number."""
        if segment.kind is _Kind.SYN_ACK:
            if connection.client_isn is None:
                connection.client_isn = segment.seq
        elif not connection.follows(segment.seq):
            return False
        connection.primary_isn = (segment.ack - 1) & _M
        self._pair(connection)
        return self._client_goes_on(connection, segment)

    def _client_answers_loaded(self, connection: _Connection, segment: _Segment) -> bool:
        if connection.client_isn is None and segment.kind is _Kind.SYN_ACK:
            connection.client_isn = segment.seq
        elif segment.kind is _Kind.ACK and not connection.follows(segment.seq):
            return False
        connection.primary_isn = (segment.ack - 1) & _M
        self._enter(connection, _Phase.KNOWN)
        return self._client_goes_on(connection, segment)

    def _client_refuses(self, connection: _Connection, segment: _Segment) -> bool:
        """A reset while the guest waits for the client's answer."""
        fits = connection.client_isn is None or connection.follows(segment.seq)
        if not fits:
            return False
        if segment.flags & _ACK:
            connection.primary_isn = (segment.ack - 1) & _M
            self._pair(connection)
        elif connection.client_isn is None:
            return False  # without ACK it does not answer a SYN
        self._enter(connection, _Phase.CLOSED)
        return False

    def _client_aborts(self, connection: _Connection, segment: _Segment) -> bool:
        """A reset before the guest has answered the client's SYN."""
        if connection.follows(segment.seq):
            self._drop_held(connection)
            self._enter(connection, _Phase.CLOSED)
        return False

    def _client_resets(self, connection: _Connection, segment: _Segment) -> bool:
        self._enter(connection, _Phase.CLOSED)
        return False

    def _client_goes_on(self, connection: _Connection, segment: _Segment) -> bool:
        if segment.flags & _FIN and segment.next is not None:
            connection.fin_in = segment.next
            self._settle(connection)
        if _reached(segment.ack, connection.fin_out):
            connection.over_out = True
            self._over(connection)
        return False

    # -- what the guest's segments mean

    def _ignored(self, connection: _Connection, segment: _Segment) -> None:
        pass

    def _guest_begins(self, key: bytes, segment: _Segment) -> _Connection | None:
        """A connection of which we know nothing."""
        if segment.kind is _Kind.SYN:
            client_isn = None
        elif segment.kind is _Kind.SYN_ACK:
            client_isn = (segment.ack - 1) & _M
        else:
            return None
        return self._new(_turned(key), key, _Phase.ANSWERED, client_isn, guest_isn=segment.seq)

    def _guest_opens(self, connection: _Connection, segment: _Segment) -> None:
        closed = connection.phase is _Phase.CLOSED
        if not closed and connection.guest_isn == segment.seq:
            return  # sent again
        if not closed and connection.guest_isn is None and connection.primary_isn == segment.seq:
            return  # sent again by a guest that was loaded in between
        if connection.phase is _Phase.OPENING:  # both open at the same time
            primary_isn = connection.primary_isn
            connection.restart(connection.client_isn)
            connection.primary_isn = primary_isn
        else:
            self._drop_held(connection)
            connection.restart(None)
        self._first_number(connection, segment.seq)

    def _guest_accepts(self, connection: _Connection, segment: _Segment) -> None:
        closed = connection.phase is _Phase.CLOSED
        if not closed and connection.guest_isn == segment.seq:
            return  # sent again
        client_isn = connection.client_isn
        # a SYN may carry data (TCP Fast Open)
        fits = client_isn is not None and (segment.ack - 1 - client_isn) & _M < 0x10000
        if not fits:
            self._drop_held(connection)
            connection.restart((segment.ack - 1) & _M)
        elif closed:  # the client has reset it in the meantime
            connection.guest_isn = segment.seq
            connection.offset = 0
            if connection.primary_isn is not None:
                connection.offset = (segment.seq - connection.primary_isn) & _M
            return
        self._first_number(connection, segment.seq)

    def _first_number(self, connection: _Connection, seq: int) -> None:
        connection.guest_isn = seq
        if connection.primary_isn is not None:
            self._pair(connection)
        else:
            connection.offset = 0
            self._enter(connection, _Phase.ANSWERED)

    def _guest_declines(self, connection: _Connection, segment: _Segment) -> None:
        """A reset in answer to a SYN has the number 0, whichever guest sends it."""
        if segment.seq == 0 and segment.flags & _ACK:
            self._drop_held(connection)
            connection.offset = 0
            self._enter(connection, _Phase.CLOSED)

    def _guest_gives_up(self, connection: _Connection, segment: _Segment) -> None:
        assert connection.guest_isn is not None
        if (segment.seq - connection.guest_isn) & _M <= 1:  # or it answers something older
            self._enter(connection, _Phase.CLOSED)

    def _guest_resets(self, connection: _Connection, segment: _Segment) -> None:
        self._enter(connection, _Phase.CLOSED)

    def _guest_stays(self, connection: _Connection, segment: _Segment) -> None:
        """It answers a SYN with an ACK: for it the connection before goes on."""
        self._enter(connection, _Phase.KNOWN)

    def _guest_goes_on(self, connection: _Connection, segment: _Segment) -> None:
        if segment.flags & _FIN and segment.next is not None:
            connection.fin_out = (segment.next - connection.offset) & _M
            self._settle(connection)
        if _reached(segment.ack, connection.fin_in):
            connection.over_in = True
            self._over(connection)

    # -- the table

    def _new(
        self,
        inward: bytes,
        outward: bytes,
        phase: _Phase,
        client_isn: int | None,
        guest_isn: int | None = None,
    ) -> _Connection | None:
        if self._alone:  # the client will learn this guest's own number
            return None
        if len(self._inward) >= self.limits.connections and not self._make_room():
            self.unknown += 1
            return None
        connection = _Connection(
            inward, outward, phase, self._half, client_isn=client_isn, guest_isn=guest_isn
        )
        self._inward[inward] = self._outward[outward] = connection
        self._half[connection] = None
        return connection

    def _make_room(self) -> bool:
        for pool in (self._closed, self._zero, self._half):
            if pool:
                self._forget(next(iter(pool)))
                return True
        return False

    def _forget(self, connection: _Connection) -> None:
        self._drop_held(connection)
        del self._inward[connection.inward]
        del self._outward[connection.outward]
        del connection.pool[connection]

    def _enter(self, connection: _Connection, phase: _Phase) -> None:
        connection.phase = phase
        self._settle(connection)

    def _settle(self, connection: _Connection) -> None:
        """Put it into the pool, and on the path, that its phase and offset ask for."""
        if connection.phase is _Phase.CLOSED:
            pool = self._closed
        elif connection.offset:
            pool = self._open
        else:
            pool = self._half if connection.phase in _WAITING else self._zero
        if pool is not connection.pool:
            del connection.pool[connection]
            pool[connection] = None
            connection.pool = pool
        known = connection.phase is _Phase.KNOWN
        connection.plain_in = known and (connection.fin_out is None or connection.over_out)
        connection.plain_out = known and (connection.fin_in is None or connection.over_in)

    def _pair(self, connection: _Connection) -> None:
        """Both first numbers are known."""
        assert connection.guest_isn is not None
        assert connection.primary_isn is not None
        connection.offset = (connection.guest_isn - connection.primary_isn) & _M
        self._enter(connection, _Phase.KNOWN)

    def _over(self, connection: _Connection) -> None:
        """One direction is."""
        if connection.over_in and connection.over_out:
            connection.phase = _Phase.CLOSED
        self._settle(connection)

    # -- frames that wait

    def _hold(self, connection: _Connection, frame: bytes) -> None:
        limits = self.limits
        if (
            len(connection.held) >= limits.held_frames
            or self._held_bytes + len(frame) > limits.held_bytes
        ):
            self.dropped += 1
            return
        connection.held.append(frame)
        self._held_bytes += len(frame)

    def _take_held(self, connection: _Connection) -> list[bytes]:
        held, connection.held = connection.held, []
        self._held_bytes -= sum(map(len, held))
        return held

    def _drop_held(self, connection: _Connection) -> None:
        if connection.held:
            self.dropped += len(self._take_held(connection))

    def _give_held(self, connection: _Connection) -> None:
        """To the guest, if they need not wait any more."""
        if connection.phase is _Phase.OPENING or not connection.held:
            return
        for frame in self._take_held(connection):
            new = self._client_frame(frame)
            if new is not None:
                self._ready.append(new)


def _unpacked(numbers: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """The inverse of `StrictRewriter.numbers`, as far as it makes sense."""
    at = 0
    while at + _OFFSET.size <= len(numbers):
        inward, outward, offset = _OFFSET.unpack_from(numbers, at)
        at += _OFFSET.size
        if at + inward + outward > len(numbers):
            return
        yield numbers[at : at + inward], numbers[at + inward : at + inward + outward], offset
        at += inward + outward


def _no_concern(frame: bytes) -> bool:
    """Of a plain frame of an unknown connection: whether it neither opens one nor is an error."""
    return frame[23] != _ICMP and not (frame[23] == _TCP and frame[47] & _SYN)


def _segment(frame: bytes, where: _Where) -> _Segment | None:
    """The TCP segment, if its header is whole."""
    if len(frame) < where.at + 20 or (where.end and where.end < where.at + 20):
        return None
    seq, ack, words, flags, _, _ = _TCP_HEAD.unpack_from(frame, where.at)
    payload = where.at + (words >> 4) * 4
    if words < 0x50 or payload > (where.end or len(frame)):
        return None
    after = None
    if where.end:
        after = (seq + where.end - payload + bool(flags & _SYN) + (flags & _FIN)) & _M
    return _Segment(_KINDS[flags], seq, ack, flags, after)


def _reached(ack: int, number: int | None) -> bool:
    return number is not None and (ack - number) & _M < _HALF


_BEGUN = frozenset((_Phase.ANSWERED, _Phase.RELOADED))
_WAITING = frozenset((_Phase.OPENING, _Phase.ANSWERED))

_P, _K, _S = _Phase, _Kind, StrictRewriter

# What a client's segment does.
_CLIENT: dict[tuple[_Phase, _Kind], _Client] = {
    (_P.OPENING, _K.SYN): _S._client_opens,
    (_P.OPENING, _K.SYN_ACK): _S._client_early,
    (_P.OPENING, _K.ACK): _S._client_early,
    (_P.OPENING, _K.RST): _S._client_aborts,
    (_P.OPENING, _K.BARE): _S._nothing,
    (_P.ANSWERED, _K.SYN): _S._client_opens,
    (_P.ANSWERED, _K.SYN_ACK): _S._client_answers,
    (_P.ANSWERED, _K.ACK): _S._client_answers,
    (_P.ANSWERED, _K.RST): _S._client_refuses,
    (_P.ANSWERED, _K.BARE): _S._nothing,
    (_P.KNOWN, _K.SYN): _S._client_opens,
    (_P.KNOWN, _K.SYN_ACK): _S._nothing,
    (_P.KNOWN, _K.ACK): _S._client_goes_on,
    (_P.KNOWN, _K.RST): _S._client_resets,
    (_P.KNOWN, _K.BARE): _S._nothing,
    (_P.RELOADED, _K.SYN): _S._client_opens,
    (_P.RELOADED, _K.SYN_ACK): _S._client_answers_loaded,
    (_P.RELOADED, _K.ACK): _S._client_answers_loaded,
    (_P.RELOADED, _K.RST): _S._client_resets,
    (_P.RELOADED, _K.BARE): _S._nothing,
    (_P.CLOSED, _K.SYN): _S._client_opens,
    (_P.CLOSED, _K.SYN_ACK): _S._nothing,
    (_P.CLOSED, _K.ACK): _S._nothing,
    (_P.CLOSED, _K.RST): _S._nothing,
    (_P.CLOSED, _K.BARE): _S._nothing,
}

# What a segment of the guest does.
_GUEST: dict[tuple[_Phase, _Kind], _Guest] = {
    (_P.OPENING, _K.SYN): _S._guest_opens,
    (_P.OPENING, _K.SYN_ACK): _S._guest_accepts,
    (_P.OPENING, _K.ACK): _S._guest_stays,
    (_P.OPENING, _K.RST): _S._guest_declines,
    (_P.OPENING, _K.BARE): _S._ignored,
    (_P.ANSWERED, _K.SYN): _S._guest_opens,
    (_P.ANSWERED, _K.SYN_ACK): _S._guest_accepts,
    (_P.ANSWERED, _K.ACK): _S._ignored,
    (_P.ANSWERED, _K.RST): _S._guest_gives_up,
    (_P.ANSWERED, _K.BARE): _S._ignored,
    (_P.KNOWN, _K.SYN): _S._guest_opens,
    (_P.KNOWN, _K.SYN_ACK): _S._guest_accepts,
    (_P.KNOWN, _K.ACK): _S._guest_goes_on,
    (_P.KNOWN, _K.RST): _S._guest_resets,
    (_P.KNOWN, _K.BARE): _S._ignored,
    (_P.RELOADED, _K.SYN): _S._guest_opens,
    (_P.RELOADED, _K.SYN_ACK): _S._guest_accepts,
    (_P.RELOADED, _K.ACK): _S._guest_goes_on,
    (_P.RELOADED, _K.RST): _S._guest_resets,
    (_P.RELOADED, _K.BARE): _S._ignored,
    (_P.CLOSED, _K.SYN): _S._guest_opens,
    (_P.CLOSED, _K.SYN_ACK): _S._guest_accepts,
    (_P.CLOSED, _K.ACK): _S._ignored,
    (_P.CLOSED, _K.RST): _S._ignored,
    (_P.CLOSED, _K.BARE): _S._ignored,
}
