"""Designs with other arbiters than the witness: what each promises of two active sides."""

from __future__ import annotations

from itertools import islice

import pytest

from colosim.exploration.exploring import plan_of
from colosim.exploration.judging import Claim, Run, claim_of, judge, promises_one_side
from colosim.exploration.running import Plan, run_point
from colosim.exploration.space import (
    Design,
    Point,
    PointError,
    all_designs,
    arbiter_designs,
    arbiter_kinds,
    designs,
    plainer_designs,
    singles,
    swarm_point,
)
from tests.exploration.test_grid import checked, here

#: the primary is cut off from its peer and from its arbiter; the link comes back, the other not
ISOLATED = "link cut @60ms for 40ms; arbiter cut side=primary @60ms"


def split(run: Run) -> bool:
    """Two sides were active, whatever is promised."""
    assert run.record is not None
    return any(each.startswith("OneActiveSide") for each in run.record.violations)


def some(design: Design, most: int) -> list[Point]:
    """Of its single faults, spread over all kinds and steps."""
    points = [*singles((design,))]
    return [points[0], *islice(points[1:], 0, None, len(points) // most)]


@pytest.mark.parametrize("design", arbiter_designs(), ids=str)
def test_some_single_faults(design, record_property):
    """Every thirteenth or so; all of them in the campaign."""
    outcomes: dict[str, int] = {}
    for point in some(design, 14):
        verdict = judge(run_point(point, replays=True))
        assert verdict.violations == (), str(point)
        outcomes[verdict.outcome] = outcomes.get(verdict.outcome, 0) + 1
    record_property("counted", f"{design}: {outcomes}")
    assert len(outcomes) > 1


@pytest.mark.parametrize("policy", ["remus", "colo"])
def test_nobody_to_ask_and_no_fence_is_a_split_brain_that_is_no_violation(policy):
    point = Point.parse(f"{policy}/upstream/stop-and-send/loaded/by-none seed=1: link cut @60ms")
    run = run_point(point)
    assert split(run)
    assert not promises_one_side(run)
    assert judge(run).violations == ()
    assert claim_of(point) is Claim.SAFE


def at_rate(rate: float, more: str = "") -> Point:
    design = "colo/upstream/stop-and-send/loaded/by-lease"
    settings = f"clocks.primary_rate={rate} manager.vote_timeout=100ms {more}"
    # a primary that is patient enough to be there when the link is back
    settings += "policy.colo.compare_timeout=190ms policy.colo.checkpoint_delay=190ms "
    settings += " ".join(f"limits.{name}=190ms" for name in ("request", "received", "loaded"))
    return Point.parse(f"{design} seed=1 {settings}: {ISOLATED}")


def test_a_lease_promises_one_side_as_long_as_clocks_keep_its_bound():
    within, beyond = run_point(at_rate(0.995)), run_point(at_rate(0.4))
    assert promises_one_side(within)
    assert not split(within)
    assert not promises_one_side(beyond)
    assert split(beyond)
    assert judge(beyond).violations == ()
    assert promises_one_side(run_point(at_rate(0.4, "manager.fencing=true ")))


def test_a_promise_that_is_not_kept_is_found(monkeypatch):
    """A lease that its holder believes to last ten times as long."""
    from colosim.protocol.manager import Manager

    original = Manager.lease_seen

    def lease_seen(self, op, held, now_ns):
        self._renewals = {op: asked + 250_000_000 for op, asked in self._renewals.items()}
        original(self, op, held, now_ns)

    monkeypatch.setattr(Manager, "lease_seen", lease_seen)
    names = [name for name, _ in judge(run_point(at_rate(1.0))).violations]
    assert "invariants" in names


def test_what_the_lock_service_is_needed_for():
    """It is there for a healthy pair to speak at all, and for nobody else."""
    lease = "remus/upstream/stop-and-send/loaded/by-lease seed=1"
    away = Point.parse(f"{lease}: arbiter cut @run#3")
    assert judge(run_point(away)).outcome == "down"
    assert claim_of(away) is Claim.SAFE
    of_secondary = Point.parse(f"{lease}: arbiter cut side=secondary @80ms")
    assert judge(run_point(of_secondary)).outcome == "unharmed"
    assert claim_of(of_secondary) is Claim.SURVIVES
    messages = Point.parse(f"{lease.replace('lease', 'messages')}: arbiter cut @run#3")
    assert judge(run_point(messages)).outcome == "unharmed"


def test_what_was_witnessed_in_silence_leaves_when_that_ends():
    """Found by a swarm: the lock service is away over a cut, and equal output waits for it."""
    point = Point.parse(
        "colo/upstream/stop-and-send/loaded/by-lease seed=77581645 base=lagging "
        "execution.jitter=0.0 manager.vote_delay=279us policy.colo.compare_timeout=20134us: "
        "arbiter cut @run#4 for 35084us"
    )
    run = run_point(point)
    assert "the lease has run out: output is held" in run.watcher.reports
    assert judge(run).violations == ()


def test_who_never_had_a_lease_is_silent_too():
    """Found by a swarm: a primary that hangs as it starts, and wakes when the other has gone on."""
    point = Point.parse(
        "colo/upstream/stop-and-send/loaded/by-lease seed=265791514 cost.resume=1842us "
        "policy.colo.compare_timeout=18939us: primary hang node @start#1 for 65983us"
    )
    run = run_point(point)
    assert run.watcher.promoted == ["secondary"]
    assert judge(run).violations == ()


def test_designs_and_their_points_read_back():
    assert len(all_designs()) == len(designs()) + 6
    for design in arbiter_designs():
        assert Design.parse(str(design)) == design
        assert design.arbiter == "none" or len(arbiter_kinds(design)) == 3
        plainer = list(plainer_designs(design))
        assert {other.arbiter for other in plainer} <= {"witness", design.arbiter}
        assert any(other.arbiter == "witness" for other in plainer)
    for number in range(60):
        point = swarm_point(number, 5, arbiter_designs())
        assert Point.parse(str(point)) == point
    with pytest.raises(PointError, match="by-ARBITER"):
        Design.parse("remus/upstream/stop-and-send/loaded/by-oracle")
    assert plan_of("singles", ["*/by-lease"]).designs == tuple(
        design for design in arbiter_designs() if design.arbiter == "lease"
    )


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("what", "base"),
    [("singles", "quick"), ("singles", "lagging"), ("pairs", "quick"), ("swarm", "quick")],
)
def test_all_faults(what, base, record_property):
    plan = Plan(what, arbiter_designs(), base=base, runs=20_000)
    checked(here(plan), record_property)
