"""Planned switchover, and a link that is slow for a while, in the simulated world."""

from __future__ import annotations

from typing import Any

import pytest

from backends.sim import run_replication
from colosim.protocol.trace import Line
from colosim.protocol.types import SteppedDown
from tests.sim.test_faults import (
    END_NS,
    PROTECTING,
    QUICK,
    TRANSFERS,
    check_survived,
    plan,
    strike,
    watched,
)
from tests.sim.worlds import NS_PER_MS, seen

AT_MS = range(200, 260, 7)  # an interval is 30 ms: every part of a checkpoint is met


def switched(at_ms: int, *faults: dict[str, Any], **tables: Any):
    manager = {**QUICK["manager"], "switchover_at": f"{at_ms} ms"}
    return plan(*faults, manager=manager, **tables)


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("policy", PROTECTING)
def test_the_secondary_goes_on_and_nothing_is_lost(policy, transfer):
    for at_ms in AT_MS:
        run = watched(switched(at_ms, transfer=transfer), policy)
        check_survived(run)
        assert [event["node"] for event in seen(run, "alone")] == ["secondary"]
        # nobody had to miss a heartbeat
        [promoted] = seen(run, "promoted")
        assert promoted["at_ns"] < (at_ms + 60) * NS_PER_MS


@pytest.mark.parametrize("scope", ["vm", "node", "host"])
@pytest.mark.parametrize("policy", PROTECTING)
def test_the_secondary_fails_in_the_middle_of_it(policy, scope):
    """Before it has taken over, the primary goes on; afterwards the service is lost, and said."""
    ends = set()
    for after_ms in range(12):
        at = {"at": f"{200 + after_ms} ms"}
        run = watched(switched(200, strike("secondary", "crash", scope, **at)), policy)
        alone = [event["node"] for event in seen(run, "alone")]
        if alone == ["primary"]:
            check_survived(run)
        else:
            assert alone == ["secondary"] or seen(run, "report"), "lost, and nobody said so"
        ends.add(tuple(alone))
        assert run.violations == []
    assert ("primary",) in ends


@pytest.mark.parametrize("policy", PROTECTING)
def test_the_other_side_is_gone_when_it_is_its_turn(policy):
    """It hangs when it has said the last word: this side wants the service back, and says so."""
    fault = strike("secondary", "hang", "node", step="wait-request", occurrence=8)
    said = set()
    for at_ms in AT_MS:
        run = watched(switched(at_ms, fault), policy)
        check_survived(run)
        said |= {event["detail"] for event in seen(run, "report")}
    assert "nobody took over: this side wants the service back" in said


def test_a_host_without_a_pair_hands_nothing_over():
    run = watched(switched(200), "none")
    assert seen(run, "alone") == []
    assert (run.responses["released_ns"] > END_NS - 50 * NS_PER_MS).any()


def test_the_trace_says_when_the_primary_stepped_down():
    lines: list[Line] = []
    run_replication(switched(200), "remus", 1, 0, [lines.append])
    [down] = [line for line in lines if isinstance(line.body, SteppedDown)]
    assert down.node == "primary"


def test_a_slow_link_slows_checkpoints_and_is_over():
    slow = strike("link", "slow", at="200 ms", duration="200 ms", bandwidth="100 Mbit/s")
    run = watched(plan(slow), "remus")
    table = run.checkpoints
    took = table["committed_ns"] - table["cut_ns"]
    done = table["committed_ns"] >= 0
    during = done & (table["cut_ns"] > 200 * NS_PER_MS) & (table["committed_ns"] < 400 * NS_PER_MS)
    after = done & (table["cut_ns"] > 500 * NS_PER_MS)
    before = done & (table["committed_ns"] < 200 * NS_PER_MS)
    assert during.any()
    least_ns = table["sent_bytes"] * 8 * 10  # at 100 Mbit/s, a bit takes 10 ns
    assert (took[during] > least_ns[during]).all()
    assert (took[before] < least_ns[before]).all()
    assert took[after].max() < 2 * took[before].max()
    assert [event["what"] for event in run.events if event["node"] == "link"] == ["fault", "healed"]


def test_slow_links_may_overlap():
    """The latest one counts, and what it leaves open is as ever."""
    first = strike("link", "slow", at="100 ms", duration="300 ms", bandwidth="100 Mbit/s")
    second = strike("link", "slow", at="200 ms", duration="50 ms", delay="4 ms")
    run = watched(plan(first, second), "remus")
    table = run.checkpoints
    waits = (table["committed_ns"] - table["cut_ns"]) / NS_PER_MS
    cut, committed = table["cut_ns"], table["committed_ns"]
    inside = (cut > 200 * NS_PER_MS) & (cut < committed) & (committed < 250 * NS_PER_MS)
    assert inside.any()
    assert (waits[inside] > 8).all()  # there and back
