"""One end of one TCP connection: a pure state machine.  Segments, calls and time in, segments out.

What is modelled: first numbers, the handshake, segments of at most ``mss``, cumulative and delayed
acknowledgements, a fixed window, reassembly, the retransmission timer of RFC 6298 with Linux's
bounds and backoff, fast retransmission, FIN in either order, RST, TIME-WAIT.  What is not:
congestion control, Nagle, SACK, timestamps, window scaling and a receiver that is slow.

Positions in a stream count from the SYN, which is 0, so they never wrap; numbers on the wire do.
Times are integers in nanoseconds of whatever clock the owner has: a guest's stands while it does.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, Protocol

from backends.sim.packet.frames import ACK, FIN, PSH, RST, SYN

_M = 0xFFFF_FFFF
_HALF = 1 << 31
_FAST = 3  # duplicate acknowledgements that say that a segment is lost
NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes and times of an end.

    rto_ns: least time until something is sent again, on top of the smoothed round trip.
    first_rto_ns: before anything is known of the round trip.
    """

    mss: int = 1448
    window: int = 65_535
    delayed_ack_ns: int = 40_000_000
    rto_ns: int = 200_000_000
    first_rto_ns: int = NS_PER_S
    longest_rto_ns: int = 60 * NS_PER_S
    time_wait_ns: int = NS_PER_S


class Nature(Protocol):
    """What differs between two machines that run the same program."""

    def isn(self, client: int, number: int) -> int: ...
    def ack_delay_ns(self, client: int, number: int, ack: int) -> int: ...


class Segment(NamedTuple):
    """One segment, with the numbers that are on the wire."""

    seq: int
    ack: int
    flags: int
    data: bytes


class Phase(Enum):
    """Where a connection is in its life; closing is told by `Connection.fin_sent` and others."""

    SYN_SENT = auto()
    SYN_RECEIVED = auto()
    OPEN = auto()
    TIME_WAIT = auto()
    CLOSED = auto()


Chunk = tuple[int, bytes, int]  # position, data, SYN or FIN or PSH: what is sent as one segment


class Connection:
    """One end.

    client, number: the client whose connection this is, and which of its connections.
    out: segments to send, and ``got``: what the other side said, in order; the owner drains both.
    """

    __slots__ = (
        "_ack_due_ns",
        "_acks",
        "_backoff",
        "_chunks",
        "_duplicates",
        "_end",
        "_highest",
        "_limits",
        "_must_ack",
        "_nature",
        "_ooo",
        "_peer_fin",
        "_recover",
        "_round_trip_ns",
        "_rto_due_ns",
        "_sent",
        "_timed",
        "_unacked",
        "_variation_ns",
        "_wait_due_ns",
        "client",
        "fin_got",
        "fin_sent",
        "got",
        "irs",
        "iss",
        "number",
        "out",
        "phase",
        "rcv",
        "retransmitted",
        "una",
        "waits",
        "was_reset",
    )

    def __init__(
        self, limits: Limits, nature: Nature, client: int, number: int, phase: Phase
    ) -> None:
        self._limits = limits
        self._nature = nature
        self.client = client
        self.number = number
        self.phase = phase
        self.iss = nature.isn(client, number)
        self.irs = 0
        self.una = 0  # the first position that is not acknowledged
        self.rcv = 0  # the next position of the other side's stream
        self.out: list[Segment] = []
        self.got: list[bytes] = []
        self.fin_sent = False  # or waits to be
        self.fin_got = False
        self.waits = False  # it closed first, so TIME-WAIT is its
        self.was_reset = False
        self.retransmitted = 0
        self._chunks: deque[Chunk] = deque()  # what is not acknowledged
        self._sent = 0  # how many of them are under way
        self._end = 0  # position after the last of them
        self._highest = 0  # position after the last that ever was sent
        self._ooo: dict[int, bytes] = {}
        self._peer_fin: int | None = None
        self._must_ack = False
        self._unacked = 0  # segments received since the last acknowledgement
        self._acks = 0
        self._duplicates = 0
        self._recover: int | None = None  # a loss is being repaired until this is acknowledged
        self._backoff = 0
        self._round_trip_ns: int | None = None
        self._variation_ns = 0
        self._timed: tuple[int, int] | None = None  # position and when it was sent, for one sample
        self._ack_due_ns: int | None = None
        self._rto_due_ns: int | None = None
        self._wait_due_ns: int | None = None

    @classmethod
    def opened(
        cls, limits: Limits, nature: Nature, client: int, number: int, now_ns: int
    ) -> Connection:
        """The end that sends the SYN."""
        made = cls(limits, nature, client, number, Phase.SYN_SENT)
        made._put(b"", SYN)
        made._send(now_ns)
        return made

    @classmethod
    def accepted(
        cls, limits: Limits, nature: Nature, client: int, number: int, irs: int, now_ns: int
    ) -> Connection:
        """The end that was sent a SYN with the number ``irs``."""
        made = cls(limits, nature, client, number, Phase.SYN_RECEIVED)
        made.irs = irs
        made.rcv = 1
        made._put(b"", SYN)
        made._send(now_ns)
        return made

    def copy(self, nature: Nature) -> Connection:
        """The same state in another machine."""
        made = object.__new__(Connection)
        for name in Connection.__slots__:
            setattr(made, name, getattr(self, name))
        made._nature = nature
        made._chunks = self._chunks.copy()
        made._ooo = self._ooo.copy()
        made.out, made.got = self.out.copy(), self.got.copy()
        return made

    # -- what the owner does ---------------------------------------------------------------

    def write(self, data: bytes, now_ns: int) -> None:
        """Say this; what two calls say is never in one segment."""
        mss = self._limits.mss
        for first in range(0, len(data), mss):
            last = first + mss >= len(data)
            self._put(data[first : first + mss], PSH if last else 0)
        self._send(now_ns)

    def close(self, now_ns: int) -> None:
        """Say that there is nothing more to say."""
        if not self.fin_sent:
            self.fin_sent = True
            self.waits = not self.fin_got
            self._put(b"", FIN)
            self._send(now_ns)

    def due_ns(self) -> int | None:
        """When `tick` has something to do, or None."""
        due_ns = self._rto_due_ns
        if self._ack_due_ns is not None and (due_ns is None or self._ack_due_ns < due_ns):
            due_ns = self._ack_due_ns
        return due_ns if self._wait_due_ns is None else self._wait_due_ns

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        if self._wait_due_ns is not None:
            if now_ns >= self._wait_due_ns:
                self._close()
            return
        if self._ack_due_ns is not None and now_ns >= self._ack_due_ns:
            self._acknowledge()
        if self._rto_due_ns is not None and now_ns >= self._rto_due_ns:
            self._backoff += 1
            self._recover = None
            self._duplicates = 0
            self._sent = 0  # all of it is taken to be lost; one goes out to see
            self._rto_due_ns = None
            self._next(now_ns)

    # -- segments in -----------------------------------------------------------------------

    def receive(self, seq: int, ack: int, flags: int, data: bytes, now_ns: int) -> None:
        """A segment of the other side."""
        if self.phase is Phase.CLOSED:
            return
        if flags & RST:
            self._reset(seq, ack, flags)
            return
        if flags & SYN:
            self._synchronise(seq, ack, flags, now_ns)
            return
        if not flags & ACK or self.phase is Phase.SYN_SENT:
            return
        position = self.una + _signed(ack - self.iss - self.una)
        if position > self._highest:
            self._must_ack = True
        elif position > self.una:
            if self.phase is Phase.SYN_RECEIVED:
                self.phase = Phase.OPEN
            self._acked(position, now_ns)
        elif position == self.una and self._sent and not (data or flags & FIN):
            self._duplicates += 1
            if self._duplicates == _FAST and self._recover is None:
                self._recover = self._highest
                self._again(now_ns)
        if data or flags & FIN:
            self._take(seq, data, flags, now_ns)
        self._send(now_ns)
        if self._must_ack:
            self._acknowledge()
        self._over(now_ns)

    def _synchronise(self, seq: int, ack: int, flags: int, now_ns: int) -> None:
        if self.phase is Phase.SYN_SENT:
            if flags & ACK and ack == self.iss + 1 & _M:
                self.irs = seq
                self.rcv = 1
                self.phase = Phase.OPEN
                self._must_ack = True
                self._acked(1, now_ns)
                self._send(now_ns)
        elif self.phase is Phase.SYN_RECEIVED and not flags & ACK and seq == self.irs:
            self._again(now_ns)  # the client has not heard the answer
        else:
            self._must_ack = True
        if self._must_ack:
            self._acknowledge()

    def _reset(self, seq: int, ack: int, flags: int) -> None:
        if self.phase is Phase.TIME_WAIT:
            return  # RFC 1337: it answers something old
        if self.phase is Phase.SYN_SENT:
            fits = bool(flags & ACK) and ack == self.iss + 1 & _M
        else:
            behind = _signed(seq - self.irs - self.rcv)
            fits = 0 <= behind < max(1, self._limits.window)
        if fits:
            self.was_reset = True
            self._close()

    def _acked(self, position: int, now_ns: int) -> None:
        """The other side has everything before ``position``."""
        self.una = position
        chunks = self._chunks
        while chunks and _end(chunks[0]) <= position:
            chunks.popleft()
            self._sent = max(0, self._sent - 1)
        if chunks and chunks[0][0] < position:
            start, data, flags = chunks[0]
            chunks[0] = (position, data[position - start :], flags)
        if self._timed is not None and position >= self._timed[0]:
            self._sample(now_ns - self._timed[1])
            self._timed = None
        self._backoff = self._duplicates = 0
        self._rto_due_ns = now_ns + self._rto_ns() if self._sent else None
        if self._recover is not None:
            if position >= self._recover:
                self._recover = None
            elif self._sent:
                self._again(now_ns)  # the next one is missing too

    def _sample(self, took_ns: int) -> None:
        """RFC 6298, section 2, in integers."""
        if self._round_trip_ns is None:
            self._round_trip_ns, self._variation_ns = took_ns, took_ns // 2
            return
        off_ns = abs(self._round_trip_ns - took_ns)
        self._variation_ns += (off_ns - self._variation_ns) // 4
        self._round_trip_ns += (took_ns - self._round_trip_ns) // 8

    def _rto_ns(self) -> int:
        limits = self._limits
        if self._round_trip_ns is None:
            least_ns = limits.first_rto_ns
        else:
            least_ns = self._round_trip_ns + max(limits.rto_ns, 4 * self._variation_ns)
        return min(least_ns << min(self._backoff, 20), limits.longest_rto_ns)

    def _take(self, seq: int, data: bytes, flags: int, now_ns: int) -> None:
        start = self.rcv + _signed(seq - self.irs - self.rcv)
        end = start + len(data)
        if flags & FIN:
            self._peer_fin = end
        if start > self.rcv:
            if end - self.rcv <= self._limits.window and len(self._ooo.get(start, b"")) < len(data):
                self._ooo[start] = data
            self._must_ack = True
            return
        if end > self.rcv:
            self._must_ack = self._must_ack or bool(self._ooo)
            self._say(data[self.rcv - start :])
            self._join()
            self._unacked += 1
        elif not flags & FIN or self.fin_got:  # all of it known
            self._must_ack = True
            return
        if self._peer_fin == self.rcv:
            self.fin_got = True
            self.rcv += 1
            self._must_ack = True
        elif self._unacked >= 2:
            self._must_ack = True
        elif self._ack_due_ns is None:
            more_ns = self._nature.ack_delay_ns(self.client, self.number, self._acks)
            self._ack_due_ns = now_ns + self._limits.delayed_ack_ns + more_ns

    def _say(self, data: bytes) -> None:
        self.got.append(data)
        self.rcv += len(data)

    def _join(self) -> None:
        """Take in what came early and fits now."""
        ooo = self._ooo
        while ooo:
            start = min(ooo)
            if start > self.rcv:
                return
            data = ooo.pop(start)
            if start + len(data) > self.rcv:
                self._say(data[self.rcv - start :])

    # -- segments out ----------------------------------------------------------------------

    def _put(self, data: bytes, flags: int) -> None:
        self._chunks.append((self._end, data, flags))
        self._end = _end(self._chunks[-1])

    def _send(self, now_ns: int) -> None:
        """All that the window allows."""
        chunks, reach = self._chunks, self.una + self._limits.window
        while self._sent < len(chunks):
            chunk = chunks[self._sent]
            opening = self.phase in (Phase.SYN_SENT, Phase.SYN_RECEIVED)
            if (opening and not chunk[2] & SYN) or _end(chunk) > reach or self._backoff:
                return
            self._next(now_ns)

    def _next(self, now_ns: int) -> None:
        """The first that is not under way."""
        chunk = self._chunks[self._sent]
        self._sent += 1
        if (end := _end(chunk)) > self._highest:
            self._highest = end
            if self._timed is None:
                self._timed = (end, now_ns)
        else:
            self._repeated()
        self._emit(chunk)
        if self._rto_due_ns is None:
            self._rto_due_ns = now_ns + self._rto_ns()

    def _again(self, now_ns: int) -> None:
        """The first that is under way, before its time has come."""
        self._repeated()
        self._emit(self._chunks[0])
        self._rto_due_ns = now_ns + self._rto_ns()

    def _repeated(self) -> None:
        self.retransmitted += 1
        self._timed = None  # whose acknowledgement comes cannot be known (Karn)

    def _emit(self, chunk: Chunk) -> None:
        start, data, flags = chunk
        if self.phase is not Phase.SYN_SENT:
            flags |= ACK
        self._said_ack()
        self.out.append(Segment(self.iss + start & _M, self._ack(), flags, data))

    def _acknowledge(self) -> None:
        """A segment that only acknowledges."""
        if not self._must_ack and self._ack_due_ns is None:
            return
        self._said_ack()
        self.out.append(Segment(self.iss + self._highest & _M, self._ack(), ACK, b""))

    def _ack(self) -> int:
        return self.irs + self.rcv & _M if self.phase is not Phase.SYN_SENT else 0

    def _said_ack(self) -> None:
        self._must_ack = False
        self._unacked = 0
        self._ack_due_ns = None
        self._acks += 1

    # -- the end ---------------------------------------------------------------------------

    def _over(self, now_ns: int) -> None:
        if self.phase is Phase.OPEN and self.fin_sent and self.fin_got and not self._chunks:
            if self.waits:
                self.phase = Phase.TIME_WAIT
                self._wait_due_ns = now_ns + self._limits.time_wait_ns
            else:
                self._close()

    def _close(self) -> None:
        self.phase = Phase.CLOSED
        self._chunks.clear()
        self._ack_due_ns = self._rto_due_ns = self._wait_due_ns = None


def _end(chunk: Chunk) -> int:
    start, data, flags = chunk
    return start + len(data) + (1 if flags & (SYN | FIN) else 0)


def _signed(difference: int) -> int:
    """A difference of numbers on the wire, as the smaller way round."""
    return (difference + _HALF & _M) - _HALF
