"""The replication link: sharing, order, conservation, cut and heal.

Bandwidth is 8 Gbit/s throughout, one byte a nanosecond, so times can be worked out by hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.sim.clock import Clock
from backends.sim.link import STATE, Direction, InOrder, state_channels
from tests.sim.worlds import (
    FREE,
    NS_PER_MS,
    poisson,
    replicate,
    scenario,
    timeline,
)

BYTE_PER_NS = 8e9
DELAY_NS = 500


class Send(NamedTuple):
    at_ns: int
    channel: str
    size_bytes: int


class Cut(NamedTuple):
    at_ns: int
    for_ns: int


class Play:
    """What became of each parcel, by its number: when it left and when it arrived."""

    def __init__(
        self, sends: Iterable[Send], cuts: Iterable[Cut] = (), channel_bps: float | None = None
    ) -> None:
        self.clock = Clock()
        self.link = Direction(self.clock, BYTE_PER_NS, DELAY_NS, channel_bps)
        self.left: dict[int, int] = {}
        self.arrived: dict[int, int] = {}
        for number, send in enumerate(sends):
            self.clock.after(send.at_ns, self._send, (number, send))
        for cut in cuts:
            self.clock.after(cut.at_ns, self.link.cut, True)
            self.clock.after(cut.at_ns + cut.for_ns, self.link.cut, False)

    def _send(self, what: tuple[int, Send]) -> None:
        number, send = what

        def note(times: dict[int, int]) -> None:
            assert number not in times
            times[number] = self.clock.now_ns()

        self.link.send(
            send.channel, send.size_bytes, lambda: note(self.arrived), lambda: note(self.left)
        )

    def run(self, until_ns: int = 10**9) -> list[int | None]:
        """Run on; when each parcel left, so far."""
        self.clock.run(until_ns)
        return [self.left.get(number) for number in range(max(self.left, default=-1) + 1)]


EXAMPLES = {
    "alone": ([Send(0, "a", 1000)], [], [1000]),
    # half each until the smaller is through; the larger then has 2000 left and all of the link
    "two share": ([Send(0, "a", 1000), Send(0, "b", 3000)], [], [2000, 4000]),
    "equals finish together": ([Send(0, c, 700) for c in "abc"], [], [2100, 2100, 2100]),
    # a has 2000 left when b comes, and 1500 when b is through
    "one joins": ([Send(0, "a", 3000), Send(1000, "b", 500)], [], [3500, 2000]),
    # three at a third each until a is through at 900, b and c at a half until c is at 1500
    "three share": (
        [Send(0, "a", 300), Send(0, "b", 900), Send(0, "c", 600)],
        [],
        [900, 1800, 1500],
    ),
    "a channel is first in, first out": (
        [Send(0, "a", 1000), Send(0, "a", 200), Send(50, "a", 300)],
        [],
        [1000, 1200, 1500],
    ),
    # the second of a waits for the first, and only then shares with b
    "two channels, one with a queue": (
        [Send(0, "a", 1000), Send(0, "a", 1000), Send(0, "b", 1500)],
        [],
        [2000, 3500, 3000],
    ),
    "idle in between": ([Send(0, "a", 100), Send(5000, "a", 100)], [], [100, 5100]),
    "cut and healed": ([Send(0, "a", 1000)], [Cut(400, 3000)], [4000]),
    "sent while cut": ([Send(500, "a", 1000), Send(600, "b", 1000)], [Cut(0, 2000)], [4000, 4000]),
    "two cuts": ([Send(0, "a", 1000)], [Cut(100, 50), Cut(300, 1000)], [2050]),
}


@pytest.mark.parametrize(("sends", "cuts", "left"), EXAMPLES.values(), ids=EXAMPLES)
def test_examples_worked_by_hand(sends, cuts, left):
    play = Play(sends, cuts)
    assert play.run() == left
    assert play.arrived == {number: at_ns + DELAY_NS for number, at_ns in enumerate(left)}


QUARTER = BYTE_PER_NS / 4
LIMITED = {
    "one channel": ([Send(0, STATE, 1000)], [], [4000]),
    "two channels": ([Send(0, c, 1000) for c in state_channels(2)], [], [4000, 4000]),
    "five are more than the link": (
        [Send(0, c, 1000) for c in state_channels(5)],
        [],
        [5000] * 5,
    ),
    # others have what the state leaves: three quarters
    "others": ([Send(0, STATE, 1000), Send(0, "w", 1500)], [], [4000, 2000]),
    # ... or, beside three channels, a quarter until they are through
    "others beside many": (
        [*(Send(0, c, 1000) for c in state_channels(3)), Send(0, "w", 2000)],
        [],
        [4000, 4000, 4000, 5000],
    ),
    "others alone": ([Send(0, "w", 1500)], [], [1500]),
    "cut and healed": ([Send(0, STATE, 1000)], [Cut(400, 3000)], [7000]),
}


@pytest.mark.parametrize(("sends", "cuts", "left"), LIMITED.values(), ids=LIMITED)
def test_channels_of_the_state_that_are_slower_than_the_link(sends, cuts, left):
    play = Play(sends, cuts, QUARTER)
    assert play.run() == left
    assert play.arrived == {number: at_ns + DELAY_NS for number, at_ns in enumerate(left)}


def test_what_happens_in_any_order_takes_effect_in_one():
    told: list[int] = []
    order = InOrder()
    happen = [order.add(partial(told.append, number)) for number in range(4)]
    for number, so_far in ((2, []), (0, [0]), (1, [0, 1, 2]), (3, [0, 1, 2, 3])):
        happen[number]()
        assert told == so_far


def test_what_has_left_arrives_though_the_link_is_cut():
    play = Play([Send(0, "a", 100), Send(0, "a", 100)], [Cut(150, 10**9)])
    assert play.run() == [100]
    assert play.arrived == {0: 100 + DELAY_NS}


def test_a_forgotten_channel_frees_its_share():
    """Two share until 1000; then the second, with 500 left, has the link for itself."""
    play = Play([Send(0, "a", 5000), Send(0, "b", 1000), Send(1200, "c", 100)])
    play.clock.after(1000, play.link.forget, "a")
    play.run()
    assert play.left == {1: 1600, 2: 1400}
    assert set(play.arrived) == {1, 2}


def test_a_channel_can_be_used_again_after_it_was_forgotten():
    play = Play([Send(0, "a", 5000), Send(2000, "a", 100)])
    play.clock.after(1000, play.link.forget, "a")
    play.run()
    assert play.left == {1: 2100}


sends = st.lists(
    st.builds(Send, st.integers(0, 5_000), st.sampled_from("abc"), st.integers(1, 2_000)),
    min_size=1,
    max_size=12,
)
cuts = st.lists(st.tuples(st.integers(1, 2_000), st.integers(1, 2_000)), max_size=3)


@given(sends, cuts)
def test_conservation_and_order(sends, gaps):
    """Whoever shares with whom, the link as a whole sends a byte a nanosecond while it is not cut.

    So all is through when the backlog, kept here without a thought of channels, is empty.  Each
    time that a parcel leaves is rounded up to a nanosecond, which may waste one.
    """
    outages, now_ns = [], 0
    for after_ns, for_ns in gaps:
        outages.append(Cut(now_ns + after_ns, for_ns))
        now_ns = sum(outages[-1])
    play = Play(sends, outages)
    play.run()

    assert play.link.sent_bytes == sum(send.size_bytes for send in sends)
    assert play.arrived == {number: at_ns + DELAY_NS for number, at_ns in play.left.items()}
    assert len(play.left) == len(sends)
    for channel in "abc":
        # sort() is stable: parcels of one moment go in the order of asking
        order = sorted(
            (n for n, send in enumerate(sends) if send.channel == channel),
            key=lambda n: sends[n].at_ns,
        )
        times = [play.left[n] for n in order]
        assert times == sorted(times)
    for number, send in enumerate(sends):
        assert play.left[number] >= send.at_ns + send.size_bytes
    empty_ns = _emptied(sends, outages)
    assert empty_ns <= max(play.left.values()) <= empty_ns + len(sends)


def _emptied(sends: list[Send], outages: list[Cut]) -> int:
    """When a single pipe, first in, first out, a byte a nanosecond, has let everything through.

    Counts in time during which the link was not cut, and goes back to the clock at the end.
    """

    def open_ns(now_ns: int) -> int:
        return now_ns - sum(min(max(now_ns - cut.at_ns, 0), cut.for_ns) for cut in outages)

    done_ns = 0
    for send in sorted(sends):
        done_ns = max(done_ns, open_ns(send.at_ns)) + send.size_bytes
    return done_ns + sum(cut.for_ns for cut in outages if open_ns(cut.at_ns) < done_ns)


# -- in the world ------------------------------------------------------------------------------


def _first_checkpoint(**changes):
    """COLO at 10 Mbit/s, a checkpoint after 50 ms; its row, and its `Timeline` on an idle link."""
    what = scenario(
        poisson(200, **changes),
        "3 s",
        cost={**FREE, "device_state": "10000 B", "load_fixed": "1 ms"},
        link={"bandwidth": "10 Mbit/s", "delay": "0 s"},
        policy={"colo": {"checkpoint_delay": "50 ms"}},
    )
    (run,) = replicate(what, "colo", 1)
    row = {name: column[0] for name, column in run.checkpoints.items() if name != "reason"}
    assert row["completed_ns"] > 0
    return row, timeline(what, row["sent_bytes"], pages=0, restored=0)


def test_replies_share_the_link_with_witnesses():
    """Behind witnesses of 10 MB, each message of the secondary gets half of the link.

    A message of 68 bytes takes 54.4 us alone.  The guest stops after REPLY; RECEIVED commits and
    LOADED lets the guest resume.  The state goes the other way, where nothing else is.
    """
    messages = {"stopped_ns": 1, "committed_ns": 2, "resumed_ns": 2}
    for response, late_ns in (("1 B", 0), ("10000000 B", 0.0544 * NS_PER_MS)):
        row, alone = _first_checkpoint(response=response)
        for column, count in messages.items():
            expected_ns = getattr(alone, column) + count * late_ns
            assert row[column] - row["started_ns"] == pytest.approx(expected_ns, abs=10), column
