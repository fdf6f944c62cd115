"""A client and a replicated pair that really speak TCP, to see a rewriter from both sides.

`End` is one TCP: it opens, answers, sends, closes and resets, and refuses what does not fit its
numbers.  `World` is a client, a primary, a secondary with another first number, the rewriter, and a
hub that releases the primary's segments once the secondary has said the same.  Links lose nothing
and keep order; who moves next is the caller's choice.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from colosim.protocol.rewrite import StrictRewriter
from tests.segments import ACK, FIN, PSH, RST, SYN, M, Ports, Segment, read

_HALF = 1 << 31
MSS = 1000

#: what an application does: (after so many bytes from the other side, what, bytes); -1: after FIN
Script = tuple[tuple[int, str, bytes], ...]


def behind(number: int, base: int) -> int:
    """How far ``number`` is behind ``base`` (negative: before it)."""
    distance = (number - base) & M
    return distance - (1 << 32) if distance >= _HALF else distance


@dataclass
class End:
    """One end of one connection at a time.

    make(seq, ack, flags, payload): a segment of this end.
    """

    make: Callable[..., Segment]
    isns: Iterator[int]
    script: Script = ()
    state: str = "closed"  # closed listen syn-sent syn-received open reset
    iss: int = 0
    una: int = 0
    nxt: int = 0
    irs: int = 0  # the other side's first number, as it was told
    rcv: int = 0
    got: bytearray = field(default_factory=bytearray)
    fin_sent: bool = False
    fin_got: bool = False
    done: int = 0  # steps of the script
    refused: list[Segment] = field(default_factory=list)

    def listen(self) -> None:
        self.state = "listen"

    def open(self) -> list[Segment]:
        self._choose()
        self.state = "syn-sent"
        return [self.make(self.iss, 0, SYN)]

    def over(self) -> bool:
        return self.state == "reset" or (
            self.fin_sent and self.fin_got and self.una == self.nxt and self.state == "open"
        )

    def receive(self, segment: Segment) -> list[Segment]:
        """The answers."""
        assert segment.harm == 0, "a wrong checksum"
        out = getattr(self, "_in_" + self.state.replace("-", "_"))(segment)
        return [*out, *self.act()]

    def act(self) -> list[Segment]:
        """What the application does now."""
        out: list[Segment] = []
        while self.state == "open" and self.done < len(self.script):
            after, what, data = self.script[self.done]
            if len(self.got) < after or (after < 0 and not self.fin_got):
                break
            self.done += 1
            out += getattr(self, "_" + what)(data)
        return out

    def again(self) -> list[Segment]:
        """What its retransmission timer sends while it opens."""
        opening = {"syn-sent": SYN, "syn-received": SYN | ACK}.get(self.state)
        return [self.make(self.iss, self.rcv, opening)] if opening else []

    # -- the application

    def _send(self, data: bytes) -> list[Segment]:
        out = []
        for first in range(0, len(data), MSS):
            part = data[first : first + MSS]
            out.append(self.make(self.nxt, self.rcv, ACK | PSH, part))
            self.nxt = (self.nxt + len(part)) & M
        return out

    def _close(self, _data: bytes) -> list[Segment]:
        self.fin_sent = True
        out = [self.make(self.nxt, self.rcv, FIN | ACK)]
        self.nxt = (self.nxt + 1) & M
        return out

    def _reset(self, data: bytes) -> list[Segment]:
        self.state = "reset"
        return [self.make(self.nxt, self.rcv, RST | ACK if data else RST)]

    # -- TCP

    def _choose(self) -> None:
        self.iss = self.una = next(self.isns)
        self.nxt = (self.iss + 1) & M

    def _learn(self, segment: Segment) -> None:
        self.irs = segment.seq
        self.rcv = (segment.seq + 1) & M

    def _refuse(self, segment: Segment) -> list[Segment]:
        self.refused.append(segment)
        return []

    def _in_closed(self, segment: Segment) -> list[Segment]:
        if segment.flags & RST:
            return []
        if segment.flags & ACK:
            return [self.make(segment.ack, 0, RST)]
        return [self.make(0, segment.seq + segment.length, RST | ACK)]

    _in_reset = _in_closed

    def _in_listen(self, segment: Segment) -> list[Segment]:
        if segment.flags & (SYN | ACK | RST) != SYN:
            return self._refuse(segment)
        self._choose()
        self._learn(segment)
        self.state = "syn-received"
        return [self.make(self.iss, self.rcv, SYN | ACK)]

    def _in_syn_sent(self, segment: Segment) -> list[Segment]:
        if segment.flags & ACK and segment.ack != self.nxt:
            self._refuse(segment)
            return [] if segment.flags & RST else [self.make(segment.ack, 0, RST)]
        if segment.flags & RST:
            self.state = "reset" if segment.flags & ACK else self.state
            return []
        if not segment.flags & SYN:
            return self._refuse(segment)
        self._learn(segment)
        if segment.flags & ACK:
            self.una = segment.ack
            self.state = "open"
            return [self.make(self.nxt, self.rcv)]
        self.state = "syn-received"
        return [self.make(self.iss, self.rcv, SYN | ACK)]

    def _in_syn_received(self, segment: Segment) -> list[Segment]:
        if segment.flags & RST:
            if segment.seq != self.rcv:
                return self._refuse(segment)
            self.state = "reset"
            return []
        if segment.flags & (SYN | ACK) == SYN:
            return self.again()
        if not segment.flags & ACK or segment.ack != self.nxt:
            self._refuse(segment)
            return [self.make(segment.ack, 0, RST)]
        self.state = "open"
        return self._in_open(segment)

    def _in_open(self, segment: Segment) -> list[Segment]:
        if segment.flags & RST:
            if behind(segment.seq, self.rcv) != 0:
                return self._refuse(segment)
            self.state = "reset"
            return []
        if segment.flags & SYN:  # sent again, or by a host that forgot the connection
            return [self.make(self.nxt, self.rcv)]
        if behind(segment.ack, self.nxt) > 0 or behind(segment.ack, self.iss) <= 0:
            self._refuse(segment)
            return []
        if behind(segment.ack, self.una) > 0:
            self.una = segment.ack
        new = behind(self.rcv, segment.seq)  # how much of it we have
        if new < 0:
            return self._refuse(segment)
        if not segment.length:
            return []
        if new < segment.length:
            self.got += segment.payload[new:]
            self.rcv = (segment.seq + segment.length) & M
            self.fin_got = self.fin_got or bool(segment.flags & FIN)
        return [self.make(self.nxt, self.rcv)]


@dataclass
class World:
    """See the module's docstring.

    early: the primary's SYN-ACK leaves before the secondary has said anything.
    """

    rewriter: StrictRewriter
    ports: Ports
    client: End
    primary: End
    secondary: End
    early: bool = False

    def __post_init__(self) -> None:
        self.to_primary: deque[Segment] = deque()
        self.to_secondary: deque[Segment] = deque()
        self.from_primary: deque[Segment] = deque()
        self.from_secondary: deque[Segment] = deque()  # behind the rewriter
        self.to_client: deque[Segment] = deque()
        self.said: list[Segment] = []  # by the secondary, in the primary's numbers
        self.unsaid: deque[Segment] = deque()  # of the secondary, not covered by a release
        self.end: int | None = None  # how far the secondary's stream is
        self.ack: int | None = None  # what it has acknowledged
        self.kinds: set[int] = set()  # flags of its SYN, SYN-ACK, RST
        self.alone = False
        self.primary_said: list[Segment] = []

    # -- what may happen next

    def begin(self, client_opens: bool) -> None:
        if client_opens:
            for guest in self.guests():
                guest.listen()
            self.from_client(self.client.open())
            return
        self.client.listen()
        if not self.alone:
            self._primary_makes(self.primary.open())
        self._secondary_makes(self.secondary.open())

    def begin_both(self) -> None:
        """Simultaneous open."""
        self.from_client(self.client.open())
        if not self.alone:
            self._primary_makes(self.primary.open())
        self._secondary_makes(self.secondary.open())

    def guests(self) -> list[End]:
        return [self.secondary] if self.alone else [self.primary, self.secondary]

    def moves(self) -> list[Callable[[], None]]:
        """Everything that can happen now, in a fixed order."""
        possible: list[tuple[deque[Segment], Callable[[], None]]] = [
            (self.to_primary, self.primary_reads),
            (self.to_secondary, self.secondary_reads),
            (self.from_secondary, self.secondary_says),
            (self.to_client, self.client_reads),
        ]
        moves = [move for queue, move in possible if queue]
        if self.from_primary and self.releasable(self.from_primary[0]):
            moves.append(self.release)
        return moves

    def settle(self) -> None:
        """Until nothing can happen."""
        for _ in range(10_000):
            moves = self.moves()
            if not moves:
                return
            moves[0]()
        raise AssertionError("they never end")

    # -- moves

    def from_client(self, segments: list[Segment]) -> None:
        for segment in segments:
            if not self.alone:
                self.to_primary.append(segment)
            self._give(self.rewriter.to_guest([segment.frame()]))

    def primary_reads(self) -> None:
        self._primary_makes(self.primary.receive(self.to_primary.popleft()))

    def secondary_reads(self) -> None:
        self._secondary_makes(self.secondary.receive(self.to_secondary.popleft()))

    def secondary_says(self) -> None:
        """Its frame reaches the rewriter, and so the hub."""
        out, ready = self.rewriter.from_guest([self.from_secondary.popleft().frame()])
        self._give(ready)
        for frame in out:
            segment = self._read(frame)
            self.said.append(segment)
            if self.alone:
                self.to_client.append(segment)
                continue
            self.unsaid.append(segment)
            if segment.flags & (SYN | RST):
                self.kinds.add(segment.flags & (SYN | ACK | RST))
            if segment.flags & SYN:
                continue  # its number is its own
            end = (segment.seq + segment.length) & M
            if self.end is None or behind(end, self.end) > 0:
                self.end = end
            if segment.flags & ACK and (self.ack is None or behind(segment.ack, self.ack) > 0):
                self.ack = segment.ack

    def client_reads(self) -> None:
        self.from_client(self.client.receive(self.to_client.popleft()))

    def releasable(self, segment: Segment) -> bool:
        kind = segment.flags & (SYN | ACK | RST)
        if segment.flags & RST:
            return kind in self.kinds
        if segment.flags & SYN:
            return kind in self.kinds or (self.early and kind == SYN | ACK)
        if self.ack is None or behind(segment.ack, self.ack) > 0:
            return False
        if not segment.length:
            return True
        return self.end is not None and behind(segment.seq + segment.length, self.end) <= 0

    def release(self) -> None:
        self.to_client.append(self.from_primary.popleft())

    # -- checkpoint and failover

    def checkpoint(self) -> None:
        """The secondary's guest becomes the primary's; what it was about to read comes with it."""
        while self.from_secondary:
            self.secondary_says()
        isns, make = self.secondary.isns, self.secondary.make
        self.secondary = copy.copy(self.primary)
        self.secondary.got = bytearray(self.primary.got)
        self.secondary.refused = []
        self.secondary.isns, self.secondary.make = isns, make
        self.rewriter.loaded()
        self.to_secondary = deque(self.to_primary)
        self.to_client.extend(self.from_primary)
        self.from_primary.clear()
        self.unsaid.clear()
        self.end, self.ack = self.primary.nxt, self.primary.rcv
        self.kinds.clear()

    def kill(self) -> None:
        """The primary dies with everything it held."""
        self.alone = True
        self.rewriter.promoted()
        self.to_primary.clear()
        self.from_primary.clear()
        self.to_client.extend(self.unsaid)
        self.unsaid.clear()

    # -- inside

    def _give(self, frames: list[bytes]) -> None:
        self.to_secondary.extend(map(self._read, frames))

    def _primary_makes(self, segments: list[Segment]) -> None:
        self.from_primary.extend(segments)
        self.primary_said.extend(segments)

    def _secondary_makes(self, segments: list[Segment]) -> None:
        self.from_secondary.extend(segments)

    def _read(self, frame: bytes) -> Segment:
        return read(frame, tags=len(self.ports.tags) // 4)


def stream(segments: list[Segment], first: int, limit: int = 1 << 20) -> dict[int, bytes | int]:
    """What segments say, by distance from ``first``: bytes, and -1 for FIN.

    Fails if they contradict each other.  What is not within ``limit`` is under its own number.
    """
    said: dict[int, bytes | int] = {}
    for segment in segments:
        if segment.flags & (SYN | RST):
            continue
        at = behind(segment.seq, first)
        units: list[bytes | int] = [bytes((byte,)) for byte in segment.payload]
        if segment.flags & FIN:
            units.append(-1)
        for index, unit in enumerate(units, at):
            assert abs(index) < limit, f"number far outside: {index}"
            assert said.setdefault(index, unit) == unit
    return said
