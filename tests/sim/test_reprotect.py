"""The survivor of a pair is protected again, by new nodes; later if pairs do not last; failback."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from colosim.model.results import RunRecord
from colosim.protocol.node import NodeConfig
from colosim.protocol.trace import Line, replay
from colosim.scenario import Scenario, ScenarioError
from tests.sim.test_faults import QUICK, strike, unanswered, watched
from tests.sim.worlds import NS_PER_MS, seen

#: 8 MB over 1 Gbit/s take 65 ms, and 2.8 ms to load
COPY_MS = 68
AGAIN = {"reprotect": True, "reprotect_delay": "50 ms", "reprotect_stable": "500 ms"}
PATIENT = {**QUICK["limits"], "received": "250 ms"}


def plan(*faults: dict[str, Any], manager: dict[str, Any] | None = None, **tables: Any) -> Scenario:
    return Scenario.from_mapping(
        {
            **QUICK,
            "duration": "1500 ms",
            "memory": {
                "kind": "uniform",
                "working_set_pages": 400,
                "touches": "4000 /s",
                "guest_memory": "8 MB",
            },
            "limits": PATIENT,
            **tables,
            "manager": {**QUICK["manager"], **AGAIN, **(manager or {})},
            "fault": list(faults),
        }
    )


def crash(at_ms: int, target: str = "primary") -> dict[str, Any]:
    return strike(target, "crash", "host", at=f"{at_ms} ms")


def check_served(record: RunRecord) -> None:
    """Nothing is lost, whoever serves."""
    assert record.violations == []
    assert record.counters["lost_responses"] == 0
    assert unanswered(record, record.duration_ns - 300 * NS_PER_MS) == 0


def words(record: RunRecord, *kinds: str) -> list[tuple[str, str]]:
    return [(each["node"], each["what"]) for each in record.events if each["what"] in kinds]


@pytest.mark.parametrize("policy", ["remus", "colo", "hybrid"])
@pytest.mark.parametrize("target", ["primary", "secondary"])
def test_the_survivor_is_protected_again(policy, target):
    record = watched(plan(crash(300, target)), policy)
    check_served(record)
    assert words(record, "paired") == [("primary.2", "paired")]
    [paired] = seen(record, "paired")
    [alone] = seen(record, "alone")
    waited_ms = (paired["at_ns"] - alone["at_ns"]) / NS_PER_MS
    assert waited_ms == pytest.approx(50 + COPY_MS, abs=2)
    committed = record.checkpoints["committed_ns"]
    assert (committed > paired["at_ns"]).sum() > 3  # and checkpoints go on
    numbers = record.checkpoints["checkpoint"][record.checkpoints["started_ns"] > paired["at_ns"]]
    assert (numbers == np.arange(1, len(numbers) + 1)).all()  # counted anew


@pytest.mark.parametrize("policy", ["remus", "colo"])
def test_three_generations(policy):
    """Each time whoever is the primary then is struck; the third pair protects as the first did."""
    what = plan(crash(250), crash(800), duration="1600 ms")
    record = watched(what, policy)
    check_served(record)
    assert words(record, "alone") == [("secondary", "alone"), ("secondary.2", "alone")]
    assert words(record, "paired") == [("primary.2", "paired"), ("primary.3", "paired")]


def test_the_guest_stands_still_while_its_memory_is_copied():
    record = watched(plan(crash(300)), "remus")
    [copying], [paired] = seen(record, "reprotect"), seen(record, "paired")
    released = record.responses["released_ns"]
    within = (released > copying["at_ns"] + NS_PER_MS) & (released < paired["at_ns"])
    assert not within.any()


def test_each_pair_has_its_own_books():
    """A second promotion is no split brain; within a pair it would be."""
    lines: list[Line] = []
    from backends.sim import run_replication

    record = run_replication(plan(crash(250), crash(800)), "colo", 1, 0, [lines.append])
    assert record.violations == []
    assert replay(lines) == []
    headers = [line.body for line in lines if isinstance(line.body, NodeConfig)]
    assert [(each.id, each.pair) for each in headers][:4] == [
        ("primary", 1),
        ("secondary", 1),
        ("primary.2", 2),
        ("secondary.2", 2),
    ]


def test_a_copy_that_does_not_get_across_is_tried_again_later_and_later():
    cut = strike("link", "cut", at="420 ms", duration="900 ms")
    record = watched(plan(crash(250), cut, duration="3 s"), "remus")
    check_served(record)
    failed = [each for each in seen(record, "reprotect") if each["detail"].startswith("failed")]
    assert len(failed) >= 2
    assert "the copy took too long" in failed[0]["detail"]
    gaps = np.diff([each["at_ns"] for each in failed]) / NS_PER_MS
    assert (np.diff(gaps) > 0).all()
    assert len(seen(record, "paired")) == 1
    # meanwhile the survivor served
    released = record.responses["released_ns"]
    assert ((released > 700 * NS_PER_MS) & (released < 1200 * NS_PER_MS)).sum() > 100


def test_pairs_that_do_not_last_are_made_later_and_later():
    """The fresh secondary dies soon each time."""
    struck = [crash(250), *(crash(at, "secondary") for at in (500, 900, 1400))]
    record = watched(plan(*struck, duration="2500 ms"), "remus")
    check_served(record)
    alone, copying = seen(record, "alone"), seen(record, "reprotect")
    waits = [
        round((c["at_ns"] - a["at_ns"]) / NS_PER_MS) for a, c in zip(alone, copying, strict=False)
    ]
    assert waits[:4] == [50, 100, 200, 400]


def test_failback_to_the_preferred_host():
    record = watched(plan(crash(300), manager={"failback_after": "200 ms"}), "remus")
    check_served(record)
    places = [each["detail"] for each in seen(record, "paired")]
    assert places == ["on b, copied to a", "on a, copied to b"]
    [back] = seen(record, "failback")
    assert back["node"] == "primary.2"
    assert words(record, "alone")[-1] == ("secondary.2", "alone")
    # a planned end is no reason to wait longer
    [_, again] = seen(record, "reprotect")
    assert (again["at_ns"] - seen(record, "alone")[1]["at_ns"]) == 50 * NS_PER_MS


def test_no_failback_where_the_primary_never_moved():
    record = watched(plan(crash(300, "secondary"), manager={"failback_after": "100 ms"}), "remus")
    check_served(record)
    assert not seen(record, "failback")


@pytest.mark.parametrize("arbiter", ["lease", "messages"])
def test_each_pair_is_arbitrated_anew(arbiter):
    manager = {"arbiter": arbiter, "lease_term": "80 ms", "lease_renewal": "20 ms"}
    clocks = {"secondary_rate": 1.001, "secondary_offset": "3 s"}
    record = watched(plan(crash(250), crash(900), manager=manager, clocks=clocks), "colo")
    check_served(record)
    assert words(record, "promoted") == [("secondary", "promoted"), ("secondary.2", "promoted")]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ScenarioError, match=r"manager\.reprotect: .*fidelity"):
        plan(fidelity="packet")
    with pytest.raises(ScenarioError, match=r"manager\.failback_after: .*reprotect = true"):
        plan(manager={"reprotect": False, "failback_after": "1 s"})
