"""Random conversations: what both guests send, and when the comparator is told to cut.

Each kind is a function of a random generator.  Payloads are random bytes: periodic ones would make
QEMU compare equal what is not at the same place, and read on behind its buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random

from tests.conformance.frames import (
    ACK,
    AH,
    DCCP,
    ESP,
    FIN,
    GRE,
    MACS,
    PLAIN,
    PSH,
    RST,
    SCTP,
    SYN,
    TCP,
    UDP,
    UDPLITE,
    Flow,
    Ip,
    ethernet,
    icmp,
    ip,
    padded,
    tcp,
    udp,
    vnet,
    words,
)


class Do(StrEnum):
    """What a step is."""

    PRIMARY = "primary"
    SECONDARY = "secondary"
    CUT = "cut"
    QUEUE = "queue limit"


@dataclass(frozen=True, slots=True)
class Step:
    """``frame`` of one side, or the queues' new limit."""

    do: Do
    frame: bytes = b""
    limit: int = 0

    def words(self, is_vnet: bool) -> str:
        if self.do is Do.QUEUE:
            return f"queue limit {self.limit}"
        return "cut" if self.do is Do.CUT else f"{self.do:9} {words(self.frame, is_vnet)}"


CUT = Step(Do.CUT)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Steps for a fresh comparator."""

    steps: tuple[Step, ...]
    vnet: bool = False
    queue_frames: int = 1024


Sides = tuple[list[bytes], list[bytes]]

# --------------------------------------------------------------------------------------------
# Randomness


def chance(draw: Random, one_in: int) -> bool:
    return draw.randrange(one_in) == 0


def disordered(draw: Random, frames: Sequence[bytes], how_often: int) -> list[bytes]:
    """Some frames swapped, repeated, or left out."""
    found = list(frames)
    for _ in range(len(found)):
        if not found or not chance(draw, how_often):
            continue
        i, j = draw.randrange(len(found)), draw.randrange(len(found))
        match draw.randrange(4):
            case 0 | 1:
                near = min(len(found) - 1, i + draw.randint(1, 3))
                found[i], found[near] = found[near], found[i]
            case 2:
                found.insert(j, found[i])
            case 3:
                del found[i]
    return found


def ip_header(draw: Random) -> Ip:
    """Mostly plain; identification and the like differ often, and rarely what counts."""
    if chance(draw, 2):
        return PLAIN
    header = Ip(
        ident=draw.randrange(65536),
        ttl=draw.choice((63, 64)),
        tos=draw.choice((0, 16)),
        fragment=draw.choice((0, 0x4000)),
        macs=MACS if chance(draw, 2) else draw.randbytes(12),
    )
    if chance(draw, 12):
        return replace(header, options=draw.randbytes(4 * draw.randint(1, 10)))
    return header


def merged(draw: Random, conversations: Iterable[Sides], cuts_one_in: int) -> tuple[Step, ...]:
    """All sides' frames, each side of each conversation in its order, and cuts between them.

    A conversation has a lead, so that one side is ahead, both go along, or anything goes.
    """
    queues: list[tuple[float, Do, list[bytes]]] = []
    for primary, secondary in conversations:
        lead = draw.choice((0.02, 0.2, 0.5, 0.5, 0.5, 0.8, 0.98))
        queues.append((1 - lead, Do.PRIMARY, primary[::-1]))
        queues.append((lead, Do.SECONDARY, secondary[::-1]))
    steps: list[Step] = []
    queues = [each for each in queues if each[2]]
    while queues:
        (one,) = draw.choices(queues, [weight for weight, _, _ in queues])
        _, do, frames = one
        steps.append(Step(do, frames.pop()))
        if not frames:
            queues.remove(one)
        if chance(draw, cuts_one_in):
            steps.append(CUT)
    return tuple(steps)


def flow(draw: Random) -> Flow:
    """Few hosts and ports, so that connections of one conversation have them in common."""
    return Flow(draw.choice((2, 3)), draw.choice((1, 4)), draw.choice((80, 53)), 40000)


# --------------------------------------------------------------------------------------------
# TCP


def _start(draw: Random) -> int:
    """Of a stream; often such that it wraps, or ends at zero."""
    if chance(draw, 3):
        return -draw.randrange(1, 1500) & 0xFFFFFFFF
    return draw.randrange(1 << 32)


def _segments(draw: Random, size: int, longest: int) -> list[tuple[int, int]]:
    """Where a stream of ``size`` bytes is split."""
    found = []
    at = 0
    while at < size:
        end = min(size, at + draw.randint(1, longest))
        found.append((at, end))
        at = end
    return found


@dataclass(slots=True)
class _Talker:
    """One guest's side of a TCP connection."""

    draw: Random
    flow: Flow
    start: int
    stream: bytes
    ack: int
    ack_step: int
    oddities: int  # one frame in so many has one

    def frames(self, segments: Iterable[tuple[int, int]]) -> list[bytes]:
        draw, found = self.draw, []
        if chance(draw, 3):
            flags = SYN | ACK if chance(draw, 2) else SYN
            isn = self.start - 1 if chance(draw, 2) else draw.randrange(1 << 32)
            found.append(tcp(self.flow, isn, self.ack, flags=flags, options=bytes(4)))
        end = 0
        for at, end in segments:
            if chance(draw, 3):
                self.ack += draw.randint(0, self.ack_step)
            found.append(self._segment(at, end))
            if chance(draw, 5):
                found.append(self._bare(end, ACK))
            if chance(draw, self.oddities):
                found.append(self._odd(at, end))
        if chance(draw, 3):
            found.append(self._bare(end, draw.choice((FIN | ACK, FIN, RST, RST | ACK))))
        return found

    def _segment(self, at: int, end: int) -> bytes:
        draw = self.draw
        return tcp(
            self.flow,
            self.start + at,
            self.ack,
            self.stream[at:end],
            flags=draw.choice((ACK, ACK | PSH, ACK, FIN | ACK) if chance(draw, 9) else (ACK,)),
            options=bytes(4 * draw.randint(1, 10)) if chance(draw, 4) else b"",
            window=draw.randrange(65536),
            ip_header=ip_header(draw),
        )

    def _bare(self, at: int, flags: int) -> bytes:
        frame = tcp(
            self.flow, self.start + at, self.ack, flags=flags, ip_header=ip_header(self.draw)
        )
        return padded(frame, self.draw.randbytes(60)) if chance(self.draw, 6) else frame

    def _odd(self, at: int, end: int) -> bytes:
        """A frame that an orderly guest does not send."""
        draw = self.draw
        size = len(self.stream)
        match draw.randrange(9):
            case 0:  # a byte differs
                payload = bytearray(self.stream[at:end])
                payload[draw.randrange(len(payload))] ^= 1 << draw.randrange(8)
                return tcp(self.flow, self.start + at, self.ack, bytes(payload))
            case 1:  # right bytes, wrong place
                shift = draw.choice((-500, -1, 1, 500, 5000))
                return tcp(self.flow, self.start + at + shift, self.ack, self.stream[at:end])
            case 2:  # the acknowledgement goes back
                past = self.ack - draw.randint(1, 1000)
                return tcp(self.flow, self.start + at, past, self.stream[at:end])
            case 3:  # acknowledges much
                future = self.ack + draw.randint(1, 1 << 31)
                return tcp(self.flow, self.start + at, future, self.stream[at:end])
            case 4:  # overlaps what was before and comes after
                a, b = max(0, at - draw.randint(0, 30)), min(size, end + draw.randint(0, 30))
                return tcp(self.flow, self.start + a, self.ack, self.stream[a:b])
            case 5:  # a piece of padding behind the payload
                frame = tcp(self.flow, self.start + at, self.ack, self.stream[at:end])
                return frame + draw.randbytes(draw.randint(1, 6))
            case 6:  # the header says that it is longer or shorter than it is
                length = draw.choice((0, 4, 6, 15))
                return tcp(self.flow, self.start + at, self.ack, self.stream[at:end], words=length)
            case 7:  # something else altogether
                return tcp(self.flow, draw.randrange(1 << 32), self.ack, draw.randbytes(20))
            case _:
                return tcp(self.flow, self.start + at, self.ack, flags=draw.randrange(64))


def tcp_sides(draw: Random, where: Flow, longest: int = 300) -> Sides:
    """Both guests say the same stream, cut at the same places or at others."""
    oddities = draw.choice((6, 12, 1000))
    stream = draw.randbytes(draw.randint(1, 8 * longest))
    start, ack = _start(draw), _start(draw)
    segments = _segments(draw, len(stream), longest)
    others = segments if chance(draw, 2) else _segments(draw, len(stream), longest)
    ack_step = draw.choice((0, 0, 10, 2000, 1 << 30))
    their_step = ack_step if chance(draw, 2) else draw.choice((0, 10, 2000))
    disorder = draw.choice((2, 8, 1000))
    sides = []
    for each, step in ((segments, ack_step), (others, their_step)):
        talker = _Talker(draw, where, start, stream, ack, step, oddities)
        sides.append(disordered(draw, talker.frames(each), disorder))
    return sides[0], sides[1]


def tcp_conversation(draw: Random) -> Conversation:
    """One to three TCP connections."""
    sides = [tcp_sides(draw, Flow(2, 1, 80, 40000 + i)) for i in range(draw.choice((1, 1, 2, 3)))]
    return Conversation(merged(draw, sides, draw.choice((20, 1000))))


# --------------------------------------------------------------------------------------------
# Datagrams and all the rest


def _udp(where: Flow, payload: bytes, header: Ip) -> bytes:
    return udp(where, payload, ip_header=header)


def _with_ports(protocol: int, before: bytes = b"", fragment: int | None = None) -> Datagram:
    """Any protocol whose ports are in front, or ``before`` before them."""

    def datagram(where: Flow, payload: bytes, header: Ip) -> bytes:
        ports = where.from_port.to_bytes(2) + where.to_port.to_bytes(2)
        if fragment is not None:
            header = replace(header, fragment=fragment)
            ports += bytes(16)  # QEMU reads a TCP header of it
        return ip(protocol, where, before + ports + payload, header)

    return datagram


def _tagged(tag: bytes) -> Datagram:
    def datagram(where: Flow, payload: bytes, header: Ip) -> bytes:
        return udp(where, payload, ip_header=replace(header, tag=tag))

    return datagram


def _plain(protocol: int) -> Datagram:
    def datagram(where: Flow, payload: bytes, header: Ip) -> bytes:
        return ip(protocol, where, payload, header)

    return datagram


Datagram = Callable[[Flow, bytes, Ip], bytes]
DATAGRAMS: tuple[Datagram, ...] = (
    *[_udp] * 4,
    *[icmp] * 2,
    *(_with_ports(protocol) for protocol in (DCCP, ESP, SCTP, UDPLITE)),
    _with_ports(AH, before=bytes(4)),
    *(_plain(protocol) for protocol in (GRE, 2, 89, 255)),
    # later fragments: the first bytes are taken for ports
    _with_ports(UDP, fragment=0x2001),
    _with_ports(TCP, fragment=0x00B9),
    _tagged(b"\x88\xa8\x00\x05"),
    _tagged(b"\x88\xa8\x00\x05\x81\x00\x00\x06"),
)


def datagram_sides(draw: Random, where: Flow) -> Sides:
    """The same datagrams from both; some differ in what is compared, more in what is not."""
    build = draw.choice(DATAGRAMS)
    primary: list[bytes] = []
    secondary: list[bytes] = []
    for _ in range(draw.randint(1, 10)):
        to = where._replace(from_port=81) if chance(draw, 5) else where
        payload = draw.randbytes(draw.randint(0, 40))
        header = ip_header(draw)
        primary.append(build(to, payload, header))
        if chance(draw, 2):  # else the very same
            options = header.options
            if chance(draw, 4):
                options = draw.randbytes(len(options))
            header = replace(ip_header(draw), options=options)
        frame = build(to, payload, header)
        secondary.append(_differing(draw, frame) if chance(draw, 10) else frame)
    disorder = draw.choice((2, 6, 1000))
    return disordered(draw, primary, disorder), disordered(draw, secondary, disorder)


def _differing(draw: Random, frame: bytes) -> bytes:
    """One byte, its length, or padding behind it."""
    match draw.randrange(3):
        case 0:
            changed = bytearray(frame)
            changed[draw.randrange(len(frame))] ^= 1 << draw.randrange(8)
            return bytes(changed)
        case 1:
            return frame[:-1]
        case _:
            return frame + draw.randbytes(draw.randint(1, 4))


def stray_frames(draw: Random) -> list[bytes]:
    """What is not compared, what is garbage, and what was cut short."""
    found = []
    for _ in range(draw.randint(1, 6)):
        where = flow(draw)
        match draw.randrange(9):
            case 0:
                frame = ethernet(b"\x08\x06", draw.randbytes(28))
            case 1:
                frame = ethernet(b"\x86\xdd", draw.randbytes(60))
            case 2:
                frame = udp(where, b"tagged", ip_header=Ip(tag=b"\x81\x00\x00\x07"))
            case 3:
                frame = draw.randbytes(draw.randint(1, 80))
            case 4:  # an IPv4 type, and then anything
                frame = ethernet(b"\x08\x00", draw.randbytes(draw.randint(4, 80)))
            case 5:
                tag = b"\x88\xa8" + draw.randbytes(2) + draw.choice((b"\x08\x00", b"\x86\xdd"))
                frame = MACS + tag + draw.randbytes(draw.randint(2, 60))
            case 6:  # any bytes of the headers
                changed = bytearray(tcp(where, 1, 2, draw.randbytes(30)))
                for _ in range(draw.randint(1, 3)):
                    changed[draw.randrange(12, 50)] = draw.randrange(256)
                frame = bytes(changed)
            case 7:
                whole = tcp(where, draw.randrange(1000), 5, draw.randbytes(20))
                frame = whole[: draw.randint(14, len(whole))]
            case _:
                whole = udp(where, draw.randbytes(20))
                frame = whole[: draw.randint(14, len(whole))]
        found.append(frame)
    return found


def mixed_sides(draw: Random) -> list[Sides]:
    sides: list[Sides] = []
    for _ in range(draw.randint(1, 5)):
        match draw.randrange(5):
            case 0:
                sides.append(tcp_sides(draw, flow(draw), longest=60))
            case 1:
                sides.append((stray_frames(draw), stray_frames(draw)))
            case _:
                sides.append(datagram_sides(draw, flow(draw)))
    return sides


def mixed_conversation(draw: Random) -> Conversation:
    """Several protocols at a time."""
    return Conversation(merged(draw, mixed_sides(draw), draw.choice((15, 60, 1000))))


def limits_conversation(draw: Random) -> Conversation:
    """Short queues, whose limit changes now and then."""
    sides = mixed_sides(draw)
    if chance(draw, 2):
        sides.append(tcp_sides(draw, flow(draw), longest=40))
    steps = merged(draw, sides, draw.choice((30, 1000)))
    changed: list[Step] = []
    for step in steps:
        changed.append(step)
        if chance(draw, 25):
            changed.append(Step(Do.QUEUE, limit=draw.randint(1, 5)))
    return Conversation(tuple(changed), queue_frames=draw.randint(1, 4))


def vnet_conversation(draw: Random) -> Conversation:
    """Behind vnet headers, mostly of one length."""
    usual = draw.choice((0, 10, 12, 20))
    header = draw.randbytes(usual)

    def wrapped(step: Step) -> Step:
        if step.do is Do.CUT:
            return step
        own, said = header, None
        match draw.randrange(24):
            case 0:  # another length
                own = draw.randbytes(draw.randint(0, 24))
            case 1:  # another header
                own = draw.randbytes(usual)
            case 2:  # not the truth
                said = draw.choice((0, 1, 8, 20, 21, 1 << 16, 0xFFFFFFFF))
        return replace(step, frame=vnet(step.frame, own, said))

    steps = merged(draw, mixed_sides(draw), draw.choice((20, 1000)))
    return Conversation(tuple(map(wrapped, steps)), vnet=True)


def large_conversation(draw: Random) -> Conversation:
    """Frames around and above 64 KiB, whose lengths do not fit into 16 bits; two at a time."""
    where = flow(draw)
    steps: list[Step] = []
    for _ in range(draw.randint(1, 3)):
        size = draw.choice((9000, 65000, 65530, 65536, 65590, 68000, 69000))
        payload = draw.randbytes(size)
        theirs = bytearray(payload)
        if chance(draw, 2):  # where 16 bits look, or behind that
            theirs[draw.randrange(size)] ^= 1
        seq = draw.choice((1000, 0xFFFFF000))
        match draw.randrange(4):
            case 0:
                frames = [udp(where, payload), udp(where, bytes(theirs))]
            case 1:
                frames = [ip(GRE, where, payload), ip(GRE, where, bytes(theirs))]
            case 2:
                frames = [tcp(where, seq, 1, payload), tcp(where, seq, 1, bytes(theirs))]
            case _:  # in two pieces, so that places do not fit either
                at = size - draw.choice((20, 100))
                frames = [
                    tcp(where, seq, 1, payload),
                    tcp(where, seq, 1, payload[:at]),
                    tcp(where, seq + at, 1, payload[at:]),
                ]
        sides = [Do.PRIMARY, Do.SECONDARY, Do.SECONDARY]
        if chance(draw, 2):
            sides = [Do.SECONDARY, Do.PRIMARY, Do.PRIMARY]
        steps += [Step(do, frame) for do, frame in zip(sides, frames, strict=False)]
        if chance(draw, 2):
            steps.append(CUT)
    return Conversation(tuple(steps))


Kind = Callable[[Random], Conversation]
KINDS: dict[str, Kind] = {
    "tcp": tcp_conversation,
    "mixed": mixed_conversation,
    "limits": limits_conversation,
    "vnet": vnet_conversation,
    "large": large_conversation,
}
