"""Properties of mode strict over random conversations, and a plain reading it must agree with."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colosim.protocol.verdicts import CompareLimits, Differs, Late
from tests.protocol.frames import ACK, FIN, PSH, RST, icmp_echo, tcp, udp
from tests.protocol.plain_spec import PlainSpec, Segment
from tests.protocol.talk import Talk

SEEDS = st.integers(0, 2**64 - 1)
FAST = st.booleans()


def stream_of(rng: random.Random, size: int) -> bytes:
    return bytes(rng.choices(range(256), k=size))


def segments_of(
    rng: random.Random, stream: bytes, base: int, ack: int, fin: bool, disorder: bool = True
) -> list[Segment]:
    """A stream cut at random, some of it said twice, some too early or too late; acks grow."""
    borders = sorted(rng.sample(range(1, len(stream)), min(rng.randrange(8), len(stream) - 1)))
    borders = [0, *borders, len(stream)]
    parts = [(a, b) for a, b in itertools.pairwise(borders) if a < b]
    if disorder:
        for _ in range(rng.randrange(4)):
            a = rng.randrange(len(stream))
            again = (a, min(len(stream), a + rng.randrange(1, 40)))
            parts.insert(rng.randrange(len(parts) + 1), again)
        for _ in range(rng.randrange(3)):
            i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
            parts[i], parts[j] = parts[j], parts[i]
    acks = sorted(ack - rng.choice((0, 0, 0, 10, 20)) for _ in parts)
    said = [Segment(base + a, stream[a:b], n) for (a, b), n in zip(parts, acks, strict=True)]
    for _ in range(rng.randrange(3)):  # bare ACKs
        at = rng.randrange(len(said) + 1)
        said.insert(at, Segment(said[at - 1].end if at else base, b"", said[max(0, at - 1)].ack))
    end = base + len(stream)
    if fin:
        said.append(Segment(end, b"", ack, ACK | FIN))
    said.append(Segment(end, b"", ack))
    return said


def frame_of(rng: random.Random, segment: Segment, **more) -> bytes:
    flags = segment.flags | rng.choice((0, PSH))
    pad = rng.choice((0, 0, 6))
    options = rng.choice((b"", b"\1\1\x08\x0a" + rng.randbytes(8)))
    return tcp(
        segment.position, segment.payload, segment.ack, flags, pad=pad, options=options, **more
    )


@dataclass
class Side:
    frames: list[bytes]
    at: int = 0

    def some(self, rng: random.Random) -> list[bytes]:
        count = rng.choice((1, 1, 2, 5))
        found = self.frames[self.at : self.at + count]
        self.at += len(found)
        return found


def interleave(rng: random.Random, talk: Talk, ours: list[bytes], theirs: list[bytes]) -> None:
    """Say all of both sides in batches, in random order between the sides."""
    sides = [Side(ours), Side(theirs)]
    leading = rng.random()
    while any(side.at < len(side.frames) for side in sides):
        which = 0 if rng.random() < leading else 1
        if frames := sides[which].some(rng):
            (talk.p, talk.s)[which](*frames)


def left_numbers(left: list[int], before: int) -> set[int]:
    """What had left before that one did."""
    return set(left[: left.index(before)])


@given(SEEDS, FAST)
def test_equal_streams_all_leave_once_in_order(seed, fast):
    rng = random.Random(seed)
    talk = Talk(fast=fast)
    ours: list[tuple[int, bytes]] = []
    theirs: list[tuple[int, bytes]] = []
    segments: dict[int, list[Segment]] = {}
    for port in range(rng.randrange(1, 4)):
        stream = stream_of(rng, rng.randrange(1, 400))
        base = rng.choice((1000, 2**32 - rng.randrange(1, 300), 2**32, rng.randrange(2**32)))
        ack = rng.choice((2**32 - 5, 2**32 + 3, 7_000_000))
        fin = rng.random() < 0.5
        vlans = rng.choice(((), (), (5,), (5, 6)))
        more = {"dport": 40000 + port, "six": rng.random() < 0.3, "vlans": vlans}
        for side in (ours, theirs):
            said = segments_of(rng, stream, base, ack, fin)
            side += [(port, frame_of(rng, segment, **more)) for segment in said]
            segments.setdefault(port, said)  # the primary's
    for side in (ours, theirs):  # mix the conversations, each in its own order
        keys = sorted(range(len(side)), key=lambda _: rng.random())
        keys.sort(key=lambda _: rng.random() < 0.5)
        by_port = {port: iter([f for p, f in side if p == port]) for port, _ in side}
        order = [port for port, _ in side]
        rng.shuffle(order)
        side[:] = [(port, next(by_port[port])) for port in order]
    interleave(rng, talk, [f for _, f in ours], [f for _, f in theirs])
    assert talk.found == []
    assert sorted(talk.left) == list(range(len(ours)))
    for port in {port for port, _ in ours}:
        mine = [number for number in talk.left if ours[number][0] == port]
        in_order = [number for number, (whose, _) in enumerate(ours) if whose == port]
        left: set[int] = set()
        for number in mine:
            segment = segments[port][in_order.index(number)]
            places = set(range(segment.position, segment.end))
            if number != min(set(mine) - left_numbers(mine, number)):
                assert places <= left  # it repeats what has left, and may overtake
            left |= places
    held = talk.comparator.held()
    assert (held.primary_frames, held.secondary_frames, held.bytes) == (0, 0, 0)
    assert talk.comparator.deadline_ns() is None


@given(SEEDS, FAST)
def test_a_frame_with_a_differing_byte_never_leaves_before_the_cut(seed, fast):
    rng = random.Random(seed)
    talk = Talk(fast=fast)
    stream = stream_of(rng, rng.randrange(1, 400))
    where = rng.randrange(len(stream))
    other = bytearray(stream)
    other[where] ^= rng.randrange(1, 256)
    base = rng.choice((1000, 2**32 - rng.randrange(1, 300)))
    said = segments_of(rng, stream, base, 500, True)
    heard = segments_of(rng, bytes(other), base, 500, True)
    ours = [frame_of(rng, segment) for segment in said]
    interleave(rng, talk, ours, [frame_of(rng, segment) for segment in heard])
    wrong = {n for n, segment in enumerate(said) if segment.position <= base + where < segment.end}
    assert wrong
    assert not wrong & set(talk.left)
    (differs,) = talk.found
    assert isinstance(differs, Differs)
    assert differs.why == "content"
    assert differs.primary is not None
    assert differs.offset == base + where - said[differs.primary].position
    assert differs.ours[0] == stream[where]
    assert differs.theirs[0] == other[where]
    assert wrong <= set(talk.cut())


def some_segments(rng: random.Random, stream: bytes, base: int, ack: int) -> list[Segment]:
    """As `segments_of`, but anything may be missing, differ or end too early."""
    said = stream
    if rng.random() < 0.2:
        changed = bytearray(stream)
        changed[rng.randrange(len(stream))] ^= 1
        said = bytes(changed)
    size = rng.choice((len(said), len(said), rng.randrange(1, len(said) + 1)))
    found = segments_of(rng, said[:size], base, ack, rng.random() < 0.6)
    if rng.random() < 0.3:
        found.append(Segment(base + size, b"", ack, rng.choice((RST, RST | ACK))))
    if rng.random() < 0.3:
        found.append(Segment(base + size + 1, b"", ack + rng.choice((1, 2))))
    return [segment for segment in found if rng.random() < 0.97]


@given(SEEDS, FAST)
def test_agrees_with_the_plain_specification(seed, fast):
    """Random conversations with checkpoints: the same frames leave at the same moments."""
    rng = random.Random(seed)
    talk, spec = Talk(fast=fast), PlainSpec()
    base = rng.choice((1000, 2**32 - rng.randrange(1, 300)))
    stream = stream_of(rng, rng.randrange(2, 400))
    said = iter(some_segments(rng, stream, base, 5000))
    heard = iter(some_segments(rng, stream, base, 5000))
    started = False
    leading = rng.random()
    while True:
        move = rng.random()
        if move < 0.04:
            assert talk.cut(commit=False) == spec.cut()
        elif move < 0.1:
            if not spec.committed:
                assert talk.commit() == spec.commit()
        elif rng.random() < leading:
            segment = next(said, None)
            if segment is None:
                break
            number = len(talk.frames)
            left, differs = spec.primary(number, segment)
            assert talk.p(frame_of(rng, segment)) == left
            assert [isinstance(v, Differs) for v in talk.drain()] == [True] * differs
            started = True
        elif started:
            segment = next(heard, None)
            if segment is None:
                leading = 1.0
                continue
            left, differs = spec.secondary(segment)
            assert talk.s(frame_of(rng, segment)) == left
            assert [isinstance(v, Differs) for v in talk.drain()] == [True] * differs
        else:
            leading = max(leading, 0.2)


@given(SEEDS)
def test_datagrams_in_order_whoever_leads(seed):
    rng = random.Random(seed)
    talk = Talk()
    said = []
    for number in range(rng.randrange(1, 60)):
        flow = rng.randrange(4)
        payload = rng.randbytes(rng.randrange(20))
        said.append(
            (flow, udp(payload, dport=5000 + flow))
            if flow < 2
            else (flow, icmp_echo(flow, number, payload))
        )
    heard = []
    by_flow = {flow: iter([f for g, f in said if g == flow]) for flow in range(4)}
    order = [flow for flow, _ in said]
    rng.shuffle(order)
    heard = [next(by_flow[flow]) for flow in order]
    interleave(rng, talk, [f for _, f in said], heard)
    assert talk.found == []
    assert sorted(talk.left) == list(range(len(said)))
    for flow in range(4):
        mine = [n for n in talk.left if said[n][0] == flow]
        assert mine == sorted(mine)
    assert talk.comparator.held().connections == 0


@given(SEEDS)
def test_late_exactly_at_the_timeout(seed):
    """The oldest frame that waits decides, to the nanosecond; once until the cut."""
    rng = random.Random(seed)
    limits = CompareLimits(timeout_ns=1000)
    talk = Talk(limits=limits)
    waits: dict[int, int] = {}  # port -> since when
    late: set[int] = set()
    for _ in range(rng.randrange(1, 40)):
        step = rng.randrange(400)
        due = {port: since + 1000 for port, since in waits.items() if port not in late}
        expected = {port for port, at in due.items() if at <= talk.now_ns + step}
        talk.wait(step)
        said = talk.drain()
        assert all(isinstance(verdict, Late) for verdict in said)
        assert sorted(int(v.connection.rsplit(":", 1)[1]) for v in said) == sorted(expected)
        late |= expected
        port = rng.randrange(1, 6)
        if rng.random() < 0.1:
            talk.cut()
            waits.clear()
            late.clear()
        elif port in waits:
            talk.s(udp(b"x", dport=port))
            del waits[port]
        else:
            talk.p(udp(b"x", dport=port))
            waits[port] = talk.now_ns
        rest = [since + 1000 for port, since in waits.items() if port not in late]
        assert talk.comparator.deadline_ns() == min(rest, default=None)


def in_step(rng: random.Random, ports: int) -> list[tuple[bytes, bytes]]:
    """What two guests say that are nearly in step: (primary's frame, secondary's frame)."""
    places = [rng.choice((1000, 2**32 - rng.randrange(1, 3000))) for _ in range(ports)]
    acks = [rng.choice((700, 2**32 - 20)) for _ in range(ports)]
    pairs = []
    for _ in range(rng.randrange(1, 80)):
        port = rng.randrange(ports)
        payload = rng.randbytes(rng.choice((0, 1, 100, 100, 100)))
        acks[port] += rng.choice((0, 0, 0, 30))
        ours: dict[str, Any] = {"seq": places[port], "payload": payload, "ack": acks[port]}
        theirs = dict(ours)
        odd = rng.random()
        if odd < 0.02:
            theirs["payload"] = payload[:-1] + b"?"
        elif odd < 0.04:
            theirs["payload"] = payload[: len(payload) // 2]
        elif odd < 0.08:
            theirs["ack"] -= 30
        elif odd < 0.1:
            ours["flags"] = theirs["flags"] = ACK | rng.choice((FIN, RST))
        elif odd < 0.12:
            ours["options"] = bytes((1, 1, 8, 10)) + rng.randbytes(8)
        elif odd < 0.14:
            theirs["pad"] = 6
        places[port] += len(payload)
        pairs.append((tcp(dport=40000 + port, **ours), tcp(dport=40000 + port, **theirs)))
    return pairs


def cut_apart(rng: random.Random, ports: int) -> list[list[bytes]]:
    """What two guests say that cut the same streams into different segments, each its own way."""
    said: list[list[bytes]] = []
    streams = [rng.randbytes(rng.randrange(1, 1500)) for _ in range(ports)]
    starts = [rng.choice((1000, 2**32 - rng.randrange(1, 1500))) for _ in range(ports)]
    for _ in range(2):
        rows = []
        for port, stream in enumerate(streams):
            at = 0
            while at < len(stream):
                size = rng.choice((0, 0, 1, 50, 100, 100, 100, 150, 400))
                ack = 700 + at // 200 * 30 + rng.choice((0, 0, 0, 30))
                payload = stream[at : at + size]
                if rng.random() < 0.01:
                    payload = payload[:-1] + b"?"
                sequence = (starts[port] + at) % 2**32
                # by how far the stream has come, so that both are about as far
                how_far = at + rng.random()
                frame = tcp(dport=40000 + port, seq=sequence, payload=payload, ack=ack)
                rows.append((how_far, frame))
                if rng.random() > 0.05:  # else it says so again
                    at += len(payload)
        said.append([frame for _, frame in sorted(rows, key=lambda row: row[0])])
    return said


@pytest.mark.parametrize("apart", [False, True])
@given(seed=SEEDS)
def test_the_fast_path_says_what_the_readable_path_says(apart, seed):
    """Same verdicts after each batch, same memory, same deadlines."""
    rng = random.Random(seed)
    limits = CompareLimits(timeout_ns=1000, queue_frames=rng.choice((8, 1024)))
    talks = [Talk(limits=limits, fast=fast) for fast in (True, False)]
    ports = rng.choice((1, 1, 3))
    given = cut_apart(rng, ports) if apart else zip(*in_step(rng, ports), strict=True)
    sides = [Side(list(frames)) for frames in given]
    leading = rng.random()
    while any(side.at < len(side.frames) for side in sides):
        which = 0 if rng.random() < leading else 1
        if sides[which].at == len(sides[which].frames):
            which = 1 - which
        frames = sides[which].some(rng)
        said = [(talk.p, talk.s)[which](*frames) for talk in talks]
        assert said[0] == said[1]
        move = rng.random()
        if move < 0.1:
            assert talks[0].wait(300) == talks[1].wait(300)
        elif move < 0.13:
            assert talks[0].cut(commit=False) == talks[1].cut(commit=False)
        elif move < 0.2:
            assert talks[0].commit() == talks[1].commit()
        assert talks[0].drain() == talks[1].drain()
        held = [talk.comparator.held() for talk in talks]
        assert held[0].primary_frames == held[1].primary_frames
        assert held[0].secondary_frames == held[1].secondary_frames
        assert talks[0].comparator.deadline_ns() == talks[1].comparator.deadline_ns()


@pytest.mark.parametrize("fast", [True, False])
def test_data_that_reaches_past_a_bare_acknowledgement_that_must_wait(fast):
    """The secondary's segment goes on behind it: all leaves once the secondary has said the ack."""
    talk = Talk(fast=fast)
    talk.p(tcp(seq=1000, payload=b"in step", ack=700))
    talk.s(tcp(seq=1000, payload=b"in step", ack=700))
    talk.p(
        tcp(seq=1007, payload=b"a" * 100, ack=700),
        tcp(seq=1107, ack=730),
        tcp(seq=1107, payload=b"b" * 100, ack=730),
    )
    talk.s(tcp(seq=1007, payload=b"a" * 100 + b"b" * 50, ack=700))
    assert talk.left == [0, 1]
    talk.s(tcp(seq=1157, payload=b"b" * 50, ack=730))
    assert talk.left == [0, 1, 2, 3]
    assert talk.found == []
