"""filter-rewriter as it was observed (QEMU 7.2, 10.0, 11.1), defects included.

For conformance, and for predicting what somebody who uses QEMU's own gets.  `StrictRewriter` is
what to use.  The defects, each with a test that shows it and its correction there:

* Only IPv4 without tag 0x8100 is translated.
* SYN-ACK, RST without ACK, and SACK blocks are not translated.
* The primary's first number is taken from the client's first acknowledgment, whether or not the
  guest's is known by then.  If it is not, the offset is wrong until the next checkpoint.
* No offset is ever computed for connections that the guest opens.
* With an offset other than 0 no connection is ever forgotten: the last acknowledgment is compared
  with a number of the other space, and a guest's FIN counts only without ACK.
* A SYN sent again makes the next acknowledgment subtract the primary's number once more.
* Checksums are computed anew, so a wrong one becomes right; but not of fragments and cut packets,
  and with IP options the sum is written 20 bytes after the IP header's start, wherever that is.
* Above 16,384 connections all are forgotten at once.

Where QEMU reads behind the end of a frame its result depends on what is in memory there.  Such
frames pass here as they are, and ``undefined`` counts them.  An empty frame makes QEMU abort.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from colosim.protocol.rewrite import Rewriter

_M = 0xFFFFFFFF
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_TCP = 6
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_MOST_CONNECTIONS = 16384


class _State(Enum):
    CLOSED = auto()
    SYN_SENT = auto()
    SYN_RECEIVED = auto()
    ESTABLISHED = auto()
    CLOSE_WAIT = auto()
    LAST_ACK = auto()
    FIN_WAIT_1 = auto()


@dataclass(slots=True)
class _Connection:
    state: _State = _State.CLOSED
    offset: int = 0
    fin_seq: int = 0


class QemuRewriter(Rewriter):
    """See the module's docstring.

    undefined: frames whose treatment by QEMU depends on memory behind them.
    """

    def __init__(self) -> None:
        self.undefined = 0
        self._table: dict[bytes, _Connection] = {}
        self._failover = False

    def to_guest(self, frames: Sequence[bytes]) -> list[bytes]:
        return [self._frame(frame, self._from_client, inward=True) for frame in frames]

    def from_guest(self, frames: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        return [self._frame(frame, self._from_guest, inward=False) for frame in frames], []

    def loaded(self, numbers: bytes = b"") -> None:
        for connection in self._table.values():
            connection.offset = 0

    def promoted(self) -> None:
        """New connections stay unknown from now on, but only if nothing is translated."""
        if not self.translating():
            self._failover = True

    def translating(self) -> int:
        return sum(connection.offset != 0 for connection in self._table.values())

    def connections(self) -> int:
        """How many are in the table."""
        return len(self._table)

    # -- one frame

    def _frame(
        self, frame: bytes, handle: Callable[[_Segment, _Connection], None], *, inward: bool
    ) -> bytes:
        at = _network(frame)
        if at is None:
            return frame
        if _beyond(frame, at):
            self.undefined += 1
            return frame
        if frame[at + 9] != _TCP:
            return frame
        segment = _Segment(bytearray(frame), at, inward)
        connection = self._table.get(segment.key)
        if connection is None:
            if self._failover:
                return frame
            if len(self._table) > _MOST_CONNECTIONS:
                self._table.clear()
            connection = self._table[segment.key] = _Connection()
        handle(segment, connection)
        return frame if segment.buffer == frame else bytes(segment.buffer)

    def _from_client(self, segment: _Segment, connection: _Connection) -> None:
        opening = segment.flags & (_SYN | _ACK)
        if opening == _SYN | _ACK and connection.state is _State.SYN_SENT:
            connection.state = _State.ESTABLISHED
        elif opening == _SYN:
            connection.state = _State.SYN_RECEIVED
        elif opening == _ACK:
            if connection.state is _State.SYN_RECEIVED:
                connection.offset = (connection.offset - (segment.ack - 1)) & _M
                connection.state = _State.ESTABLISHED
            if connection.offset:
                segment.ack = (segment.ack + connection.offset) & _M
                segment.sum_up()
            if connection.state is _State.LAST_ACK and segment.ack == (connection.fin_seq + 1) & _M:
                connection.state = _State.CLOSED
                self._table.pop(segment.key, None)
        if segment.flags & _FIN:
            if connection.state is _State.ESTABLISHED:
                connection.state = _State.CLOSE_WAIT
            elif connection.state is _State.FIN_WAIT_1:
                connection.state = _State.CLOSED
                self._table.pop(segment.key, None)

    def _from_guest(self, segment: _Segment, connection: _Connection) -> None:
        opening = segment.flags & (_SYN | _ACK)
        if opening == _SYN | _ACK and connection.state is _State.SYN_RECEIVED:
            connection.offset = segment.seq
        elif opening == _SYN and connection.state is _State.CLOSED:
            connection.state = _State.SYN_SENT
        elif opening == _ACK and connection.offset:
            segment.seq = (segment.seq - connection.offset) & _M
            segment.sum_up()
        closing = segment.flags & (_ACK | _FIN)
        if connection.state is _State.CLOSE_WAIT and closing == _ACK | _FIN:
            connection.fin_seq = segment.seq
            connection.state = _State.LAST_ACK
        elif connection.state is _State.ESTABLISHED and closing == _FIN:
            connection.state = _State.FIN_WAIT_1


class _Segment:
    """A frame's TCP header, read anew each time: a sum written elsewhere may change any field."""

    __slots__ = ("_ip", "_tcp", "buffer", "key")

    def __init__(self, buffer: bytearray, ip: int, inward: bool) -> None:
        self.buffer = buffer
        self._ip = ip
        self._tcp = tcp = ip + (buffer[ip] & 15) * 4
        one, other = bytes(buffer[ip + 12 : ip + 16]), bytes(buffer[ip + 16 : ip + 20])
        port, other_port = bytes(buffer[tcp : tcp + 2]), bytes(buffer[tcp + 2 : tcp + 4])
        self.key = one + other + port + other_port
        if inward:
            self.key = other + one + other_port + port

    @property
    def flags(self) -> int:
        return self.buffer[self._tcp + 13]

    @property
    def seq(self) -> int:
        return int(_U32.unpack_from(self.buffer, self._tcp + 4)[0])

    @seq.setter
    def seq(self, number: int) -> None:
        _U32.pack_into(self.buffer, self._tcp + 4, number)

    @property
    def ack(self) -> int:
        return int(_U32.unpack_from(self.buffer, self._tcp + 8)[0])

    @ack.setter
    def ack(self, number: int) -> None:
        _U32.pack_into(self.buffer, self._tcp + 8, number)

    def sum_up(self) -> None:
        """Compute the TCP checksum as QEMU does: as if the IP header had no options."""
        buffer, ip = self.buffer, self._ip
        length = _summed(buffer, ip)
        if length is None or length < 20:
            return
        first, field = ip + 20, ip + 36
        buffer[field : field + 2] = b"\0\0"
        covered = bytes(buffer[ip + 12 : ip + 20]) + bytes(buffer[first : first + length])
        words = covered + b"\0" * (len(covered) & 1)
        sum_ = _TCP + length + sum(struct.unpack(f">{len(words) // 2}H", words))
        while sum_ >> 16:
            sum_ = (sum_ & 0xFFFF) + (sum_ >> 16)
        _U16.pack_into(buffer, field, ~sum_ & 0xFFFF)


def _network(frame: bytes) -> int | None:
    """Where the IP header is, if QEMU takes the frame for IPv4."""
    if len(frame) < 18 or frame[12:14] == b"\x81\x00":
        return None
    at = 14
    if frame[12:14] == b"\x88\xa8":
        at = 22 if frame[16:18] == b"\x81\x00" else 18
    if frame[at - 2 : at] != b"\x08\x00" and len(frame) >= at:
        return None
    if len(frame) > at and len(frame) < at + (frame[at] & 15) * 4:
        return None
    return at


def _summed(frame: bytes | bytearray, at: int) -> int | None:
    """How many bytes the checksum is computed of; None if it is left as it is."""
    total = _U16.unpack_from(frame, at + 2)[0]
    fragment = _U16.unpack_from(frame, at + 6)[0] & 0x3FFF
    if frame[at] >> 4 != 4 or fragment or len(frame) - at < total:
        return None
    return int(total - (frame[at] & 15) * 4)


def _beyond(frame: bytes, at: int) -> bool:
    """Whether QEMU may look behind the frame's end."""
    if len(frame) < at + 20:
        return True
    if frame[at + 9] != _TCP:
        return False
    if len(frame) < at + (frame[at] & 15) * 4 + 14:
        return True
    length = _summed(frame, at)
    # less than nothing is taken for very much
    return length is not None and (length < 0 or at + 20 + length > len(frame))
