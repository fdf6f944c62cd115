"""Arbiters, clocks, fences and doubt in the simulated world."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from backends.sim import SimWorld, run_replication
from backends.sim.local import LocalTime
from colosim.model.results import RunRecord
from colosim.model.streams import Streams
from colosim.scenario import Scenario
from tests.sim.test_faults import QUICK, check_one_goes_on, check_survived, strike, watched
from tests.sim.worlds import NS_PER_MS, seen

CUT = strike("link", "cut", at="300 ms")
CRASH = strike("primary", "crash", "host", at="300 ms")
UNFENCED: dict[str, Any] = {"fencing": False}
LEASE = {**UNFENCED, "arbiter": "lease", "lease_term": "80 ms", "lease_renewal": "20 ms"}
MESSAGES = {**UNFENCED, "arbiter": "messages"}
NONE = {**UNFENCED, "arbiter": "none"}


def away(side: str | None = None, **when: Any) -> dict[str, Any]:
    """The way to the arbiter is cut."""
    return {"target": "arbiter", "kind": "cut", **({"side": side} if side else {}), **when}


def run(
    *faults: dict[str, Any],
    policy: str = "remus",
    seed: int = 1,
    manager: dict[str, Any],
    **tables: Any,
) -> RunRecord:
    what = {**QUICK, **tables, "manager": {**QUICK["manager"], **manager}, "fault": list(faults)}
    return watched(Scenario.from_mapping(what), policy, seed)


def reports(record: RunRecord, node: str = "") -> list[str]:
    return [each["detail"] for each in seen(record, "report", *([node] if node else []))]


def at_ms(record: RunRecord, what: str) -> float:
    [event] = seen(record, what)
    return event["at_ns"] / NS_PER_MS


def silence_ms(record: RunRecord) -> float:
    """The longest time in which no client got an answer."""
    times = sorted(record.responses["released_ns"][record.responses["released_ns"] >= 0])
    ends = [0, *times, record.duration_ns]
    return max(b - a for a, b in pairwise(ends)) / NS_PER_MS


# -- lease -------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["remus", "colo"])
@pytest.mark.parametrize(("fault", "loser"), [(CUT, "link"), (CRASH, "primary")])
def test_a_lease_leaves_one_side_and_fences_nobody(policy, fault, loser):
    record = run(fault, policy=policy, manager=LEASE)
    check_one_goes_on(record, loser)


def test_the_secondary_waits_for_the_end_of_the_lease():
    """100 ms of silence, and 500 ms of a lease that the primary renewed 20 ms ago at the most."""
    long = {**LEASE, "lease_term": "300 ms", "vote_timeout": "500 ms"}
    record = run(CRASH, manager=long)
    check_one_goes_on(record, "primary")
    assert 280 <= at_ms(record, "promoted") - 300 <= 305  # 1 % longer, for clocks that differ


def test_without_its_lock_service_a_healthy_pair_holds_its_output_until_it_is_back():
    record = run(away(at="300 ms", duration="200 ms"), manager=LEASE)
    check_survived(record)
    assert not seen(record, "promoted")
    assert reports(record) == ["the lease has run out: output is held"]
    assert 105 < silence_ms(record) < 190
    away_for_good = run(away(at="300 ms"), manager=LEASE)
    assert away_for_good.violations == []
    assert away_for_good.responses["released_ns"].max() < 385 * NS_PER_MS
    of_the_other = run(away("secondary", at="300 ms"), manager=LEASE)
    check_survived(of_the_other)
    assert of_the_other.events[1:] == []


@pytest.mark.parametrize("policy", ["remus", "colo"])
@pytest.mark.parametrize("fidelity", ["response", "packet", "epoch"])
def test_a_silent_primary_is_silent_at_every_fidelity(fidelity, policy):
    """Whatever was committed or witnessed since its lease ran out."""
    load = {"kind": "service", "service_time": "500 us", "retransmit": "20 ms"}
    many = {"load": "closed", "clients": 5, "think_time": "10 ms"}
    arrive = {"load": "open", "rate": "400 /s"}
    record = run(
        away(at="300 ms"),
        policy=policy,
        manager=LEASE,
        fidelity=fidelity,
        workload={**load, **(arrive if fidelity == "epoch" else many)},
    )
    [over] = seen(record, "report")
    released = record.responses["released_ns"]
    assert (released > 250 * NS_PER_MS).any()
    assert released.max() <= over["at_ns"]
    assert record.violations == []


def isolated(rate: float, **manager: Any) -> RunRecord:
    """A primary that is cut off from everybody; what its peer said meanwhile arrives in the end."""
    return run(
        {**CUT, "duration": "180 ms"},
        away("primary", at="300 ms"),
        policy="colo",
        manager={**LEASE, **manager},
        clocks={"primary_rate": rate, "secondary_offset": "100 s"},
        limits=dict.fromkeys(QUICK["limits"], "1 s"),
    )


@pytest.mark.parametrize("rate", [1.0, 0.99, 1.5])
def test_a_clock_within_the_bound_keeps_the_promise(rate):
    record = isolated(rate)
    assert record.violations == []
    assert [each["node"] for each in seen(record, "promoted")] == ["secondary"]


def test_a_clock_beyond_the_bound_is_a_split_brain():
    """Its lease of 80 ms lasts 267 ms: it releases what its peer, promoted since, had witnessed."""
    record = isolated(0.3)
    assert [each["node"] for each in seen(record, "promoted")] == ["secondary"]
    assert {each[: each.index(":")] for each in record.violations} == {"OneActiveSide"}
    assert isolated(0.3, lease_drift_bound=0.5, fencing=True).violations == []


def test_a_switchover_gives_the_lease_up():
    record = run(manager={**LEASE, "switchover_at": "300 ms", "lease_term": "400 ms"})
    check_survived(record)
    assert [each["node"] for each in seen(record, "promoted")] == ["secondary"]
    assert at_ms(record, "promoted") < 340


# -- messages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["remus", "colo"])
@pytest.mark.parametrize(("fault", "loser"), [(CUT, "link"), (CRASH, "primary")])
def test_the_first_claim_wins(policy, fault, loser):
    record = run(fault, policy=policy, manager=MESSAGES)
    check_one_goes_on(record, loser)


def test_the_loser_hears_of_it_before_it_would_ask():
    """The third member tells it, in the order of all."""
    record = run(CUT, manager=MESSAGES)
    [promoted] = seen(record, "promoted")
    [report] = seen(record, "report")
    assert report["detail"] == "no takeover here: the arbiter chose the other side"
    assert report["node"] != promoted["node"]
    assert report["at_ns"] == promoted["at_ns"]


def test_without_a_majority_nobody_goes_on():
    for record in (
        run(CUT, manager={**MESSAGES, "further_members": 0}),
        run(CRASH, manager={**MESSAGES, "further_members": 0}),
        run(CUT, away(at="290 ms"), manager=MESSAGES),
    ):
        assert record.violations == []
        assert not seen(record, "promoted")
        assert "no takeover yet: the arbiter does not answer; asking again" in reports(record)
    record = run(CUT, away("primary", at="290 ms"), manager=MESSAGES)
    assert [each["node"] for each in seen(record, "promoted")] == ["secondary"]


# -- nobody ------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["remus", "colo"])
def test_without_arbiter_and_fence_a_cut_link_is_a_split_brain(policy):
    record = run(CUT, policy=policy, manager=NONE)
    assert {each["node"] for each in seen(record, "alone")} == {"primary", "secondary"}
    assert any(each.startswith("OneActiveSide") for each in record.violations)
    check_one_goes_on(run(CRASH, policy=policy, manager=NONE), "primary")


def test_without_arbiter_two_fences_may_end_both():
    """Each shoots while the other's shot is under way; nobody is left to serve."""
    record = run(CUT, manager={"arbiter": "none"}, cost={"fence": "30 ms"})
    assert record.violations == []
    assert record.responses["released_ns"].max() < 450 * NS_PER_MS


# -- fences ------------------------------------------------------------------------------------


def test_a_fence_that_fails_is_tried_again():
    """Each of the tries is drawn, and the times between them double."""
    often = {"fence_failure": 0.6, "fence_retries": 6, "fence_backoff": "10 ms"}
    texts = set()
    for seed in range(1, 9):
        record = run(CRASH, manager=often, seed=seed, duration="2 s")
        again = [each["at_ns"] for each in seen(record, "report")]
        texts |= set(reports(record))
        gaps = [(b - a) / NS_PER_MS for a, b in pairwise(again)]
        assert gaps == pytest.approx([10 * 2**n + 10 for n in range(len(gaps))])
        check_one_goes_on(record, "primary")
    assert texts == {"no takeover yet: the other side is not fenced; trying again"}


def test_tries_come_to_an_end():
    manager = {"fence_fails": True, "fence_retries": 3, "fence_backoff": "10 ms"}
    record = run(CRASH, manager=manager)
    assert not seen(record, "promoted")
    assert len(reports(record)) == 4
    assert reports(record)[-1] == "no takeover: the other side could not be fenced"


def test_how_long_fencing_takes_varies():
    spread = {"fence": "20 ms", "fence_spread": 0.5}
    taken = [
        at_ms(run(CRASH, manager={}, seed=seed, cost=spread), "promoted") for seed in range(1, 6)
    ]
    assert len(set(taken)) == 5
    assert 390 < min(taken) < max(taken) < 500


# -- doubt -------------------------------------------------------------------------------------


def test_a_short_blip_is_only_doubted():
    blip = {**CUT, "duration": "130 ms"}
    limits = dict.fromkeys(QUICK["limits"], "500 ms")
    record = run(blip, manager={"heartbeat_grace": "100 ms"}, limits=limits)
    check_survived(record)
    assert not seen(record, "promoted")
    assert "the other side is heard again" in reports(record)
    check_one_goes_on(run(blip, manager={}, limits=limits), "link")


# -- clocks ------------------------------------------------------------------------------------


def test_clocks_that_are_set_otherwise_change_nothing():
    """No node knows what time it is, and none is told another's."""
    plain = run(CRASH, manager={})
    moved = run(CRASH, manager={}, clocks={"primary_offset": "5 s", "secondary_offset": "1 h"})
    assert moved.fingerprint() == plain.fingerprint()


def test_a_slow_clock_is_late():
    timely = run(CRASH, manager={})
    late = run(CRASH, manager={}, clocks={"secondary_rate": 0.5})
    check_one_goes_on(late, "primary")
    assert at_ms(late, "promoted") - at_ms(timely, "promoted") == pytest.approx(100, abs=25)


def test_a_local_deadline_is_never_early():
    world = SimWorld(Scenario.from_mapping(QUICK), "remus", Streams(1, 0))
    for rate in (0.1, 0.3, 0.999, 1.0, 1.001, 7.3):
        clock = LocalTime(world, rate, 17)
        for local_ns in (17, 18, 1_000, 123_456_789, 10**15 + 1):
            at_ns = clock.world_ns(local_ns)
            assert clock.local_ns(at_ns) >= local_ns
            assert at_ns == 0 or clock.local_ns(at_ns - 1) < local_ns


@pytest.mark.parametrize("policy", ["remus", "colo"])
@pytest.mark.parametrize(
    "tables",
    [
        {"manager": LEASE},
        {"manager": {"reprotect": True, "reprotect_delay": "50 ms"}},
        {"manager": {"heartbeat_grace": "50 ms"}, "clocks": {"primary_rate": 0.999}},
        {"manager": MESSAGES, "link": {"heartbeat_loss": 0.2, "blips": "3 /s", "blip": "30 ms"}},
    ],
    ids=["lease", "reprotect", "clocks", "blips"],
)
def test_a_trace_changes_nothing(tables, policy):
    """Nor does whoever looks; what goes faster unwatched must be the same."""
    memory = {"kind": "uniform", "working_set_pages": 400, "touches": "4000 /s"}
    for faults in ([], [away(at="300 ms", duration="150 ms")], [CRASH]):
        what = Scenario.from_mapping(
            {
                **QUICK,
                **tables,
                "memory": {**memory, "guest_memory": "8 MB"},
                "manager": {**QUICK["manager"], **tables["manager"]},
                "fault": faults,
            }
        )
        alone = run_replication(what, policy, 1, 0)
        assert watched(what, policy).fingerprint() == alone.fingerprint()
