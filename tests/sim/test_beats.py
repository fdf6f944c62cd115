"""Heartbeats in one go (`backends.sim.beats`) beside the same ones by the clock, on one link."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from backends.sim.beats import HEARTBEAT, OneWay
from backends.sim.clock import Clock
from backends.sim.link import STATE, Direction
from colosim.protocol.manager import Manager, ManagerConfig
from colosim.protocol.outbox import Outbox

BANDWIDTH_BPS, DELAY_NS, BEAT_BYTES = 1e9, 700, 64
INTERVAL_NS, FIRST_NS = 40_000, 1_234
GAPS_NS = st.integers(0, 150_000)
SIZES = st.lists(st.integers(1, 9_000), min_size=1, max_size=4).map(tuple)


@dataclass
class Seen:
    """When the last bit of each crossing left and it was there, and when heartbeats were."""

    crossings: list[tuple[int, int]] = field(default_factory=list)
    beats_ns: list[int] = field(default_factory=list)


class ByTheClock:
    """Crossings one after the other, each so long after the one before; and the heartbeats."""

    def __init__(self, crossings: list[tuple[int, tuple[int, ...]]]) -> None:
        self.clock, self.seen = Clock(), Seen()
        self.out = Direction(self.clock, BANDWIDTH_BPS, DELAY_NS)
        self._crossings = iter(crossings)
        self._left_ns = 0
        self.clock.after(FIRST_NS, self._beat)
        self._next()

    def _beat(self, _: object) -> None:
        self.out.send(HEARTBEAT, BEAT_BYTES, self._heard)
        self.clock.after(INTERVAL_NS, self._beat)

    def _heard(self) -> None:
        self.seen.beats_ns.append(self.clock.now_ns())

    def _next(self) -> None:
        crossing = next(self._crossings, None)
        if crossing is not None:
            self.clock.after(crossing[0], self._send, crossing[1])

    def _send(self, sizes: tuple[int, ...]) -> None:
        for i, size in enumerate(sizes):
            last = i == len(sizes) - 1
            arrived = self._arrived if last else _nothing
            self.out.send(STATE, size, arrived, self._left if last else None)

    def _left(self) -> None:
        self._left_ns = self.clock.now_ns()

    def _arrived(self) -> None:
        self.seen.crossings.append((self._left_ns, self.clock.now_ns()))
        self._next()


def _nothing() -> None:
    pass


@given(st.lists(st.tuples(GAPS_NS, SIZES), min_size=1, max_size=8), st.integers(0, 200_000))
def test_a_crossing_meets_the_heartbeats_that_it_would_meet(crossings, rest_ns):
    told = ByTheClock(crossings)
    longest_ns = 10 * sum(gap_ns + 100_000 * len(sizes) for gap_ns, sizes in crossings) + 10**6
    while len(told.seen.crossings) < len(crossings):
        assert told.clock.now_ns() < longest_ns
        told.clock.step()

    clock = Clock()
    out = Direction(clock, BANDWIDTH_BPS, DELAY_NS)
    config = ManagerConfig(INTERVAL_NS, 10 * INTERVAL_NS, 1, 1)
    heard_ns: list[int] = []
    way = OneWay(
        out,
        Manager(config, Outbox()),
        INTERVAL_NS,
        BEAT_BYTES,
        lambda: heard_ns.append(clock.now_ns()),
    )
    way.begin(FIRST_NS)
    now_ns, found = 0, []
    for gap_ns, sizes in crossings:
        now_ns = clock.put_forward(now_ns + gap_ns)
        crossing = way.crossing(now_ns, now_ns, sizes)
        if crossing.met is not None:
            way.meet(crossing.met)
        out.passed(sum(sizes), crossing.there_ns)
        found.append((crossing.left_ns, crossing.there_ns))
        now_ns = clock.put_forward(crossing.there_ns)
    assert found == told.seen.crossings

    # and then by the clock again: what was under way arrives when it would have
    end_ns = now_ns + rest_ns
    told.clock.run(end_ns + 1)
    clock.put_forward(end_ns)
    way.catch_up(end_ns)
    next_ns, before_ns = way.end(clock), way.heard_ns(end_ns)
    assert next_ns - INTERVAL_NS < end_ns <= next_ns
    assert out.sent_bytes - told.out.sent_bytes in (0, -BEAT_BYTES)  # one that is due just now
    if before_ns >= 0:
        assert before_ns in told.seen.beats_ns
    told.clock.run(next_ns)
    clock.run(next_ns)
    assert heard_ns == [at_ns for at_ns in told.seen.beats_ns if at_ns > end_ns]
