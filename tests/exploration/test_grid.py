"""Every single fault at every step, for every design; and what the campaign adds."""

from __future__ import annotations

import os

import pytest

from colosim.exploration.judging import Claim, claim_of, judge
from colosim.exploration.running import Found, Plan, explore, run_batch, run_point
from colosim.exploration.space import Design, designs, singles
from colosim.protocol.policies import POLICIES

#: of a swarm in the campaign
RUNS = int(os.environ.get("COLOSIM_EXPLORE_RUNS", "100000"))
#: second faults of each first one in the campaign; 0: all, some hours of a core for each base
PER_FIRST = int(os.environ.get("COLOSIM_EXPLORE_PER_FIRST", "8")) or None


def is_everyday(design: Design) -> bool:
    """In `make test`; the campaign has them all, also where a policy repeats another one."""
    return design.policy in ("none", "remus", "colo") or (
        design.dialect == "upstream" and design.commit == "loaded" and design.quirks == "none"
    )


PLAIN = [design for design in designs() if design.quirks == "none" and is_everyday(design)]
QUIRKY = [design for design in designs() if design.quirks != "none" and is_everyday(design)]


def here(plan: Plan) -> Found:
    """Explored in this process: the tests themselves are spread over all cores."""
    found = Found(plan)
    for batch in plan.batches():
        for verdict in run_batch(*batch)[1]:
            found.add(verdict)
    return found


def checked(found: Found, record_property) -> None:
    """Nothing in scope is violated, and every fault that was planned struck."""
    outcomes: dict[str, int] = {}
    for (_, _, outcome), count in found.counts.items():
        outcomes[outcome] = outcomes.get(outcome, 0) + count
    record_property("counted", f"{found.plan.what} of {found.plan.base}: {outcomes}")
    told = [f"{v.point}: {v.violations[0]}" for v in found.violated[:5]]
    assert told == []
    assert found.violations == 0
    if found.plan.what == "singles":
        assert "not struck" not in outcomes


@pytest.mark.parametrize(
    ("design", "base", "replays"),
    [
        *((design, "quick", True) for design in PLAIN),
        *((design, "lagging", False) for design in QUIRKY),
    ],
    ids=str,
)
def test_a_single_fault_at_every_step(design: Design, base, replays, record_property):
    """Clients are served to the end by exactly one side that did not fail, and nothing is lost.

    `colosim.exploration.judging` has what is held of each run.  With replays: its trace, written
    and read again, replays to the same decisions.
    """
    found = here(Plan("singles", (design,), base=base, replays=replays))
    checked(found, record_property)
    if design.protects and design.dialect == "upstream":
        assert {outcome for _, _, outcome in found.counts} == {
            "unharmed",
            "primary went on",
            "secondary went on",
        }


def test_there_are_enough_points(record_property):
    """At least 2,000 in `make test`, most of which claim to survive."""
    plans = [Plan("singles", (design,)) for design in (*PLAIN, *QUIRKY)]
    points = [
        point for plan in plans for n in range(len(plan.batches())) for point in plan.points(n)
    ]
    surviving = sum(claim_of(point) >= Claim.SURVIVES for point in points)
    record_property("counted", f"{len(points)} points, {surviving} claim to survive")
    assert len(points) > 3_500
    assert surviving > 2_000


def test_some_of_the_faults_with_disks(record_property):
    """Each eleventh of every fault at every step, those of disks too, under all policies."""
    chosen = [
        design
        for design in PLAIN
        if design.protects and (design.dialect, design.commit) == ("upstream", "loaded")
    ]
    points = list(singles(chosen, "disk"))[::11]
    found = Found(Plan("singles", tuple(chosen), base="disk"))
    for point in points:
        found.add(judge(run_point(point)))
    checked(found, record_property)
    assert {design.policy for design in chosen} == {p for p in POLICIES if POLICIES[p].protects()}
    assert len(points) > 200
    struck = {fault.kind for point in points for fault in point.faults}
    assert {"full", "error", "crash", "hang", "cut", "slow"} <= struck


def test_a_small_swarm(record_property):
    checked(here(Plan("swarm", designs(), seed=7, runs=300)), record_property)


@pytest.mark.campaign
@pytest.mark.parametrize("occurrence", [1, 3, 6])
@pytest.mark.parametrize("base", ["quick", "lagging", "disk"])
def test_the_whole_grid(base, occurrence, record_property):
    plan = Plan("singles", designs(), occurrence + 1, base=base, occurrence=occurrence)
    found = Found(plan)
    explore(found)
    checked(found, record_property)


@pytest.mark.campaign
@pytest.mark.parametrize("base", ["quick", "lagging"])
def test_pairs(base, record_property):
    """Each single fault with second faults at steps that were still entered."""
    found = Found(Plan("pairs", designs(), base=base, per_first=PER_FIRST))
    explore(found)
    checked(found, record_property)


@pytest.mark.campaign
def test_a_swarm(record_property):
    found = Found(Plan("swarm", designs(), runs=RUNS))
    explore(found)
    checked(found, record_property)
    assert found.points == RUNS
