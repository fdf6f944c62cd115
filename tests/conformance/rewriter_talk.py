"""Random conversations through a sequence rewriter, and the words to show one to a person.

A `Talk` keeps a few connections whose numbers it knows, so that most frames continue something:
the state of interest is in the rewriter, and pure noise would hardly ever reach it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.segments import (
    ACK,
    CLIENT6,
    FIN,
    GUEST6,
    MACS,
    PSH,
    RST,
    SYN,
    M,
    Ports,
    Segment,
    sack,
)

WRAPS = (0, 1, M, M - 1, M - 30, 1 << 31, (1 << 31) - 1, 0xFFFF, 0x10000)
FLAGS = {"F": FIN, "S": SYN, "R": RST, "P": PSH, "A": ACK, "U": 32, "E": 64, "C": 128}


@dataclass(frozen=True)
class Step:
    """One frame, or a checkpoint; ``words`` say what was meant."""

    what: str  # "to", "from", "checkpoint"
    frame: bytes
    words: str

    def __str__(self) -> str:
        arrow = {"to": "client > guest", "from": "guest > client"}.get(self.what, self.what)
        return f"{arrow}: {self.words}" if self.words else arrow


@dataclass
class _Line:
    """One connection: what its ends are at."""

    ports: Ports
    client: int
    primary: int
    secondary: int
    sent_in: int = 1  # bytes by the client, with its SYN
    sent_out: int = 1
    fin_out: int = 1
    script: list[str] = field(default_factory=list)


OPENINGS: tuple[list[str], ...] = (
    ["syn", "syn-ack", "answer"],
    ["syn", "syn", "syn-ack", "syn-ack", "answer", "answer"],
    ["syn", "answer", "syn-ack", "answer"],
    ["syn", "syn-ack", "answer", "syn", "answer"],
    ["guest-syn", "client-syn-ack", "guest-ack"],
    ["guest-syn", "syn", "syn-ack", "client-syn-ack"],
    ["syn", "guest-refuses"],
    ["guest-ack"],
)
TALKING: tuple[list[str], ...] = (
    ["data-in", "guest-ack"],
    ["data-out", "client-ack"],
    ["data-out", "data-in", "client-ack", "guest-ack"],
    ["client-sack"],
    [],
)
CLOSINGS: tuple[list[str], ...] = (
    ["client-fin", "guest-fin-ack", "last-ack"],
    ["client-fin", "guest-ack", "data-out", "guest-fin-ack", "last-ack", "last-ack"],
    ["client-fin", "guest-fin-ack", "last-ack-of-guest-numbers"],
    ["client-bare-fin", "guest-fin-ack", "last-ack"],
    ["guest-fin-ack", "client-fin", "guest-ack"],
    ["guest-bare-fin", "client-fin", "guest-ack"],
    ["guest-bare-fin", "client-bare-fin"],
    ["guest-fin-ack", "client-ack", "client-fin", "guest-ack"],
    ["client-reset"],
    ["client-reset-ack"],
    ["guest-reset"],
    ["guest-reset-ack"],
    [],
)


class Talk:
    """One conversation, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._lines = [self._line(n) for n in range(self._random.randint(1, 4))]
        self._strange = self._random.choice((0.0, 0.05, 0.3))
        self._checkpoints = self._random.choice((0.0, 0.01, 0.05))

    def steps(self, count: int) -> list[Step]:
        return [self._step() for _ in range(count)]

    # -- what comes next

    def _line(self, n: int) -> _Line:
        draw = self._random
        client, primary, secondary = (
            draw.choice((draw.choice(WRAPS), draw.getrandbits(32))) for _ in range(3)
        )
        if draw.random() < 0.1:
            secondary = primary  # both guests have the same
        ports = Ports(client_port=40000 + n % 3, guest_port=80 + n // 3)
        return _Line(ports, client, primary, secondary)

    def _step(self) -> Step:
        draw = self._random
        if draw.random() < self._checkpoints:
            return Step("checkpoint", b"", "")
        line = draw.choice(self._lines)
        if not line.script:
            if draw.random() < 0.5:
                fresh = self._line(0)
                line.client, line.primary, line.secondary = (
                    fresh.client,
                    fresh.primary,
                    fresh.secondary,
                )
                line.sent_in = line.sent_out = line.fin_out = 1
            line.script = [
                *draw.choice(OPENINGS),
                *draw.choice(TALKING),
                *draw.choice(TALKING),
                *draw.choice(CLOSINGS),
            ]
        what = line.script.pop(0)
        if draw.random() < 0.03:
            line.script = []  # it ends here
        if draw.random() < 0.1:
            what = draw.choice(list(_MOVES))
        segment, inward = _MOVES[what](self, line)
        words = what
        if draw.random() < self._strange:
            frame, changes = self._odd(segment)
            words += ", " + changes
        else:
            frame = segment.frame()
        direction = "to" if inward else "from"
        if draw.random() < 0.01:
            direction = "from" if inward else "to"
            words += ", on the wrong side"
        return Step(direction, frame, f"{words}: {said(segment)}")

    def _payload(self) -> bytes:
        draw = self._random
        size = draw.choice((0, 1, 2, 7, 30, draw.randint(0, 200), draw.randint(0, 1448)))
        return draw.randbytes(size)

    # -- moves (numbers to the guest are the primary's, from the guest the secondary's)

    def _in(self, line: _Line, flags: int, data: bytes = b"", **more) -> tuple[Segment, bool]:
        seq, ack = line.client + line.sent_in, line.primary + line.sent_out
        if flags & SYN:
            seq = line.client
        if flags & FIN or data:
            line.sent_in += len(data) + bool(flags & FIN)
        return line.ports.inward(seq, ack if flags & ACK else 0, flags, data, **more), True

    def _out(self, line: _Line, flags: int, data: bytes = b"") -> tuple[Segment, bool]:
        seq, ack = line.secondary + line.sent_out, line.client + line.sent_in
        if flags & SYN:
            seq = line.secondary
        if flags & FIN:
            line.fin_out = line.sent_out + len(data) + 1
        line.sent_out += len(data) + bool(flags & FIN)
        return line.ports.outward(seq, ack if flags & ACK else 0, flags, data), False

    def _data_in(self, line: _Line) -> tuple[Segment, bool]:
        return self._in(line, ACK | PSH, self._payload())

    def _data_out(self, line: _Line) -> tuple[Segment, bool]:
        return self._out(line, self._random.choice((ACK, ACK | PSH)), self._payload())

    def _sack_in(self, line: _Line) -> tuple[Segment, bool]:
        edge = line.primary + line.sent_out
        return self._in(line, ACK, options=sack((edge, edge + 100), (edge + 200, edge + 1000)))

    def _last_ack(self, line: _Line, base: int) -> tuple[Segment, bool]:
        seq = line.client + line.sent_in
        return line.ports.inward(seq, base + line.fin_out, ACK), True

    # -- what is odd about some frames

    def _odd(self, segment: Segment) -> tuple[bytes, str]:
        name = self._random.choice(list(_ODD))
        return _ODD[name](self, segment), name

    def _cut(self, segment: Segment) -> bytes:
        frame = segment.frame()
        return frame[: self._random.randint(1, len(frame))]

    def _flags(self, segment: Segment) -> bytes:
        return replace(segment, flags=self._random.getrandbits(8)).frame()

    def _damage(self, segment: Segment) -> bytes:
        frame = bytearray(segment.frame())
        for _ in range(self._random.randint(1, 3)):
            frame[self._random.randrange(12, len(frame))] = self._random.getrandbits(8)
        return bytes(frame)

    def _length(self, segment: Segment) -> bytes:
        frame = bytearray(segment.frame())
        length = int.from_bytes(frame[16:18], "big") + self._random.choice((-30, -5, -1, 1, 5, 40))
        frame[16:18] = max(length, 0).to_bytes(2, "big")
        return bytes(frame)

    def _head(self, segment: Segment) -> bytes:
        frame = bytearray(segment.frame())
        frame[14] = self._random.choice((0x40, 0x44, 0x46, 0x47, 0x4F, 0x65, 0x05))
        return bytes(frame)

    def _protocol(self, segment: Segment) -> bytes:
        frame = bytearray(segment.frame())
        frame[23] = self._random.choice((1, 17, 47, 50, 51, 132))
        return bytes(frame)

    def _six(self, segment: Segment) -> bytes:
        inward = segment.source[-1] == 1
        source, target = (CLIENT6, GUEST6) if inward else (GUEST6, CLIENT6)
        return replace(segment, source=source, target=target).frame()

    def _noise(self, segment: Segment) -> bytes:
        kind = self._random.choice(
            (b"\x08\x00", b"\x08\x06", b"\x86\xdd", b"\x81\x00", b"\x88\xa8")
        )
        return MACS + kind + self._random.randbytes(self._random.randint(0, 80))

    def _double(self, segment: Segment) -> bytes:
        return replace(segment, tags=b"\x88\xa8\x00\x07\x81\x00\x00\x09").frame()


_Move = Callable[[Talk, _Line], tuple[Segment, bool]]
_MOVES: dict[str, _Move] = {
    "syn": lambda talk, line: talk._in(line, SYN),
    "syn-ack": lambda talk, line: talk._out(line, SYN | ACK),
    "answer": lambda talk, line: talk._in(line, ACK),
    "guest-syn": lambda talk, line: talk._out(line, SYN),
    "client-syn-ack": lambda talk, line: talk._in(line, SYN | ACK),
    "guest-refuses": lambda talk, line: (
        line.ports.outward(0, line.client + 1, RST | ACK),
        False,
    ),
    "guest-ack": lambda talk, line: talk._out(line, ACK),
    "client-ack": lambda talk, line: talk._in(line, ACK),
    "client-sack": Talk._sack_in,
    "data-in": Talk._data_in,
    "data-out": Talk._data_out,
    "client-fin": lambda talk, line: talk._in(line, FIN | ACK, talk._payload()),
    "client-bare-fin": lambda talk, line: talk._in(line, FIN),
    "guest-fin-ack": lambda talk, line: talk._out(line, FIN | ACK, talk._payload()),
    "guest-bare-fin": lambda talk, line: talk._out(line, FIN),
    "last-ack": lambda talk, line: talk._last_ack(line, line.primary),
    "last-ack-of-guest-numbers": lambda talk, line: talk._last_ack(
        line, 2 * line.primary - line.secondary
    ),
    "client-reset": lambda talk, line: talk._in(line, RST),
    "client-reset-ack": lambda talk, line: talk._in(line, RST | ACK),
    "guest-reset": lambda talk, line: talk._out(line, RST),
    "guest-reset-ack": lambda talk, line: talk._out(line, RST | ACK),
}

_ODD: dict[str, Callable[[Talk, Segment], bytes]] = {
    "wrong checksum": lambda talk, one: replace(one, harm=talk._random.randint(1, 0xFFFE)).frame(),
    "cut": Talk._cut,
    "random flags": Talk._flags,
    "damaged": Talk._damage,
    "other length": Talk._length,
    "other IP header length": Talk._head,
    "other protocol": Talk._protocol,
    "IP options": lambda talk, one: replace(
        one, ip_options=b"\1" * 4 * talk._random.randint(1, 10)
    ).frame(),
    "first fragment": lambda talk, one: replace(one, fragment=0x2000).frame(),
    "later fragment": lambda talk, one: replace(one, fragment=talk._random.randint(1, 99)).frame(),
    "not to be fragmented": lambda talk, one: replace(one, fragment=0x4000).frame(),
    "VLAN": lambda talk, one: replace(one, tags=b"\x81\x00\x00\x07").frame(),
    "provider VLAN": lambda talk, one: replace(one, tags=b"\x88\xa8\x00\x07").frame(),
    "two VLANs": Talk._double,
    "IPv6": Talk._six,
    "trailer": lambda talk, one: replace(one, trailer=talk._random.randbytes(9)).frame(),
    "noise": Talk._noise,
}


def said(segment: Segment) -> str:
    """A segment in words."""
    flags = "".join(name for name, bit in FLAGS.items() if segment.flags & bit)
    text = f"{segment.source_port} > {segment.target_port} {flags or '-'}"
    text += f" seq {segment.seq:#x} ack {segment.ack:#x}"
    return text + (f", {len(segment.payload)} bytes" if segment.payload else "")
