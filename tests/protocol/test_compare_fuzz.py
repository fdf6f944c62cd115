"""Any bytes at all: nothing raises, memory is bounded, and what came in is accounted for.

`SUBJECTS` is a registry: whatever takes frames and must stand anything has a line there.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colosim.protocol.compare_qemu import QemuComparator
from colosim.protocol.compare_strict import StrictComparator
from colosim.protocol.rewrite import StrictRewriter
from colosim.protocol.rewrite_qemu import QemuRewriter
from colosim.protocol.verdicts import CompareLimits
from tests.protocol.frames import ethernet, fragments4, fragments6, icmp_echo, ip4, ip6, tcp, udp
from tests.protocol.talk import Talk

LIMITS = CompareLimits(
    timeout_ns=1000, scan_ns=300, queue_frames=8, queue_bytes=6000, connections=6
)
CAMPAIGN_SECONDS = 240.0


def some_frame(rng: random.Random) -> bytes:
    """A good frame of one of a few conversations, near enough that they meet."""
    payload = bytes((rng.randrange(3),)) * rng.choice((0, 1, 5, 40, 1400))
    more: dict[str, Any] = {"six": rng.random() < 0.2, "vlans": rng.choice(((), (), (), (1,)))}
    kind = rng.randrange(8)
    if kind < 4:
        sequence = rng.choice((0, 100, 2**32 - 20)) + rng.choice((0, 1, 5, 6, 41))
        ack = rng.choice((None, 7, 8, 2**32 - 1))
        flags = rng.choice((0x10, 0x10, 0x18, 0x12, 0x02, 0x11, 0x04, 0x14, rng.randrange(256)))
        more |= {"dport": rng.randrange(3), "pad": rng.choice((0, 6))}
        return tcp(sequence, payload, ack, flags, **more)
    if kind == 4:
        return udp(payload, dport=rng.randrange(10), **more)
    if kind == 5:
        return icmp_echo(rng.randrange(3), 1, payload[:5])
    if kind == 6:
        whole = udp(bytes(2000), dport=1, six=more["six"])
        cut = fragments6 if more["six"] else fragments4
        return rng.choice(cut(whole, rng.choice((8, 800, 1200)), rng.randrange(3)))
    if rng.random() < 0.5:
        return ethernet(0x0800, ip4(rng.randrange(256), rng.randbytes(rng.randrange(60))))
    chain = tuple((rng.choice((0, 43, 44, 60)), rng.randbytes(7)) for _ in range(rng.randrange(4)))
    return ethernet(0x86DD, ip6(rng.choice((6, 17, 44, 58)), rng.randbytes(40), extensions=chain))


def mutated(rng: random.Random, frame: bytes) -> bytes:
    data = bytearray(frame)
    for _ in range(rng.choice((1, 1, 2, 8))):
        how = rng.randrange(4)
        at = rng.randrange(len(data)) if data else 0
        if how == 0 and data:
            data[at] = rng.randrange(256)
        elif how == 1 and data:  # more often where headers are
            data[rng.randrange(min(60, len(data)))] ^= 1 << rng.randrange(8)
        elif how == 2:
            del data[at:]
        else:
            data[at:at] = rng.randbytes(rng.randrange(20))
    return bytes(data)


def any_frame(rng: random.Random) -> bytes:
    chance = rng.random()
    if chance < 0.1:
        return rng.randbytes(rng.choice((0, 1, 13, 14, 33, 34, 60, 1514)))
    frame = some_frame(rng)
    return mutated(rng, frame) if chance < 0.5 else frame


class ComparatorSubject:
    """A comparator of either mode; `Talk` keeps the books of the strict one."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.talk = Talk(make())

    def step(self, rng: random.Random) -> None:
        talk = self.talk
        frames = [any_frame(rng) for _ in range(rng.choice((1, 1, 3, 12)))]
        chance = rng.random()
        if chance < 0.45:
            talk.p(*frames)
        elif chance < 0.85:
            talk.s(*frames)
        elif chance < 0.95:
            talk.wait(rng.randrange(700))
        elif chance < 0.97:
            talk.commit()
        else:
            talk.cut(commit=False)
        held = talk.comparator.held()
        assert held.primary_frames == len(talk.waiting)
        assert held.connections <= LIMITS.connections + 1
        talk.drain()
        if isinstance(talk.comparator, StrictComparator):
            halves = 4 * held.connections  # two guests, and a conversation may have its next
            assert held.secondary_frames <= LIMITS.queue_frames * (halves + 1)
            assert held.bytes <= LIMITS.queue_bytes * (halves + 2)
            assert len(talk.comparator._ages) <= 2_000


class RewriterSubject:
    """A rewriter: each frame comes out, or is kept within its limits."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.rewriter = make()

    def step(self, rng: random.Random) -> None:
        rewriter = self.rewriter
        frames = [any_frame(rng) for _ in range(rng.choice((1, 1, 3, 12)))]
        chance = rng.random()
        if chance < 0.48:
            assert len(rewriter.to_guest(frames)) <= len(frames)
        elif chance < 0.96:
            out, _ = rewriter.from_guest(frames)
            assert [len(frame) for frame in out] == [len(frame) for frame in frames]
        elif chance < 0.995:
            rewriter.loaded()
        else:
            rewriter.promoted()
        assert rewriter.translating() >= 0


SUBJECTS: dict[str, tuple[Callable[[Callable[[], Any]], Any], Callable[[], Any]]] = {
    "strict": (ComparatorSubject, lambda: StrictComparator(LIMITS)),
    "strict, readable": (ComparatorSubject, lambda: StrictComparator(LIMITS, fast=False)),
    "qemu": (ComparatorSubject, lambda: QemuComparator(LIMITS)),
    "strict rewriter": (RewriterSubject, StrictRewriter),
    "qemu rewriter": (RewriterSubject, QemuRewriter),
}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_any_frames(subject):
    drive, make = SUBJECTS[subject]

    @given(st.integers(0, 2**64 - 1))
    def run(seed: int) -> None:
        rng = random.Random(seed)
        driven = drive(make)
        for _ in range(40):
            driven.step(rng)

    make()  # skips where it is not there
    run()


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=80)), max_size=20))
def test_any_bytes(frames):
    talk = Talk(limits=LIMITS)
    for primary, data in frames:
        (talk.p if primary else talk.s)(data)
    talk.cut()
    assert talk.waiting == set()


@pytest.mark.campaign
@pytest.mark.parametrize("subject", SUBJECTS)
def test_any_frames_for_minutes(subject):
    """Four minutes for each subject; a failure names its seed."""
    drive, make = SUBJECTS[subject]
    make()
    end = time.monotonic() + CAMPAIGN_SECONDS
    seed = steps = 0
    while time.monotonic() < end:
        rng = random.Random(seed)
        driven = drive(make)
        try:
            for _ in range(1_000):
                driven.step(rng)
                steps += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}, step {steps % 1_000}") from error
        seed += 1
    print(f"{subject}: {steps} steps")
    assert steps > 1_000
