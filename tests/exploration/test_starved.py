"""Checkpoints that leave the guest no time: requests come late, which is a cost and no loss."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from colosim.exploration.judging import judge
from colosim.exploration.running import run_point
from colosim.exploration.space import Point
from colosim.protocol.gate import Gate
from colosim.protocol.types import Range

#: found by a swarm of 100,000 (seed 20261130) as lost answers: Remus' interval is shorter than a
#: checkpoint takes, so the guest runs for 7 % of the time
FOUND = (
    "remus/upstream/stop-and-send/loaded seed=115604937 cost.stop=337us "
    "policy.remus.interval=5028us: no fault"
)
#: eight clients, of whom nobody is answered in the last 42 ms
BUSY = (
    "remus/upstream/precopy/loaded seed=65 workload.clients=8 workload.service_time=1511us "
    "cost.stop=1ms policy.remus.interval=6512us: "
)
STARVED = [
    FOUND,
    f"{BUSY}secondary crash host @exited#1",
    "remus/upstream/precopy/received seed=27 workload.clients=5 workload.service_time=1706us "
    "cost.stop=337us policy.remus.interval=5445us: secondary crash host @exited#1",
]


@pytest.mark.parametrize("text", STARVED)
def test_what_comes_late_for_want_of_a_guest_is_not_lost(text):
    run = run_point(Point.parse(text))
    assert run.longer is not None
    assert judge(run).violations == ()
    # it goes on as it was: to the end of the shorter run the two are one
    assert run.record is not None
    ours, theirs = run.record.responses, run.longer.responses
    until_ns = run.record.duration_ns
    for name in ("arrival_ns", "served_ns", "released_ns"):
        there = ours[name] >= 0
        assert (ours[name][there] == theirs[name][: len(there)][there]).all()
    assert (theirs["released_ns"] > until_ns).any()


def forgets_an_answer(commits, ranges):
    """The third one to client 1 is lost; others are served on."""
    return [r for r in ranges if (r.stream, r.first) != ("1", 2)], []


def keeps_an_answer(commits, ranges):
    """It leaves 40 checkpoints later: in this run never."""
    kept = [r for r in ranges if (r.stream, r.first) == ("1", 2)]
    return [r for r in ranges if r not in kept], [(commits + 40, r) for r in kept]


def ends_after_ten(commits, ranges):
    """From the tenth commit on nobody gets anything."""
    return (ranges, []) if commits < 10 else ([], [])


@pytest.mark.parametrize(
    ("lets_out", "text", "promise"),
    [
        (forgets_an_answer, FOUND, "nothing lost"),
        (keeps_an_answer, FOUND, "nothing lost"),
        (ends_after_ten, FOUND, "serves to the end"),
        (ends_after_ten, f"{BUSY}no fault", "serves to the end"),
    ],
)
def test_what_is_lost_is_found_there_too(lets_out, text, promise):
    """Of gates that are wrong, with guests that have as little time."""
    later: dict[Gate, list[tuple[int, Range]]] = {}
    commits: dict[Gate, int] = {}

    def on_committed(self, signal, now_ns):
        now = commits[self] = commits.get(self, 0) + 1
        ready, kept = lets_out(now, self._take(signal.checkpoint))
        waiting = later.setdefault(self, [])
        ready = (*ready, *(r for due, r in waiting if due <= now))
        later[self] = [each for each in waiting if each[0] > now] + kept
        if ready:
            self._let_out(ready)

    with patch.object(Gate, "_on_committed", on_committed):
        run = run_point(Point.parse(text))
    assert run.longer is not None
    assert promise in [name for name, _ in judge(run).violations]
