"""Rates that change in time, against what they must be on average in each phase."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

from backends.sim import run_replication
from colosim.scenario import Scenario, ScenarioError
from tests.sim.test_epoch import check_same, epochs
from tests.sim.worlds import (
    FALSE_ALARM,
    NS_PER_MS,
    NS_PER_S,
    check_mean,
    poisson,
    replicate,
    scenario,
    service,
)

LOADS = [
    {"duration": "100 ms", "load": 0.5},
    {"duration": "50 ms", "load": 4.0},
    {"duration": "150 ms", "load": 0.0},
    {"duration": "100 ms"},
]
CYCLE_NS = 400 * NS_PER_MS
BORDERS_NS = np.array([0, 100, 150, 300, 400]) * NS_PER_MS


def by_phase(at_ns: np.ndarray) -> np.ndarray:
    """How many in each phase, all cycles together."""
    return np.histogram(at_ns % CYCLE_NS, BORDERS_NS)[0]


# -- load --------------------------------------------------------------------------------------


def test_arrivals_are_poisson_at_the_rate_of_each_phase():
    """Counts by phase: mean and variance r f L, the next phase's not correlated with it."""
    what = scenario(poisson(500, client_delay="300 us"), "4 s", phase=LOADS)
    runs = replicate(what, "none", 60)
    counts = np.array([by_phase(run.responses["arrival_ns"]) for run in runs])
    truth = np.array([0.5 * 100, 4 * 50, 0, 100]) * 500 / 1e3 * 10  # ten cycles
    for i in (0, 1, 3):
        check_mean(counts[:, i], truth[i], within=0.05)
        n, variance = len(runs), counts[:, i].var(ddof=1)
        low, high = (n - 1) * variance / chi2.ppf([1 - FALSE_ALARM / 2, FALSE_ALARM / 2], n - 1)
        assert low <= truth[i] <= high
    assert (counts[:, 2] == 0).all()


def test_phases_use_the_draws_of_the_constant_rate_and_policies_share_them():
    what = scenario(poisson(500), "2 s", phase=LOADS)
    runs = [run_replication(what, policy, 3, 0) for policy in ("none", "remus", "colo")]
    first, *others = (run.responses["arrival_ns"] for run in runs)
    assert all((other == first).all() for other in others)
    plain = scenario(poisson(500), "4 s")
    was = run_replication(plain, "none", 3, 0).responses["arrival_ns"][: len(first)]
    change = what.schedule().load()
    assert change is not None
    assert np.abs(np.array([change.when(at) for at in was]) - first).max() <= 4


def test_after_the_last_phase():
    stays = scenario(poisson(500), "4 s", phase=LOADS[1:3], after_phases="stay")
    (run,) = replicate(stays, "none", 1)
    assert 0 < run.responses["arrival_ns"].max() <= 50 * NS_PER_MS
    again = stays.replace({"after_phases": "repeat"})
    (run,) = replicate(again, "none", 1)
    assert run.responses["arrival_ns"].max() > 3_500 * NS_PER_MS


def test_clients_that_think_at_another_rate_or_not_at_all():
    """N clients that wait for nobody ask N f / Z times a second in a phase, each its own part."""
    phases = [
        {"duration": "100 ms", "load": 3.0},
        {"duration": "50 ms", "clients": 5},
        {"duration": "150 ms", "clients": 10, "load": 0.5},
        {"duration": "100 ms", "clients": 0},
    ]
    workload = service("closed", "1 ns", clients=20, vcpus=100, think_time="10 ms")
    what = scenario(workload, "4 s", phase=phases)
    runs = replicate(what, "none", 12)
    counts = np.array([by_phase(run.responses["arrival_ns"]) for run in runs])
    truth = np.array([20 * 3 * 100, 5 * 50, 10 * 0.5 * 150, 0]) / 10 * 10
    for i in range(3):
        check_mean(counts[:, i], truth[i], within=0.1)
    assert (counts[:, 3] == 0).all()
    for run in runs:
        phase = np.searchsorted(BORDERS_NS, run.responses["arrival_ns"] % CYCLE_NS, "right") - 1
        most = run.responses["client"][np.isin(phase, (1, 2))]
        assert most.max() == 9
        assert run.responses["client"][phase == 1].max() == 4


# -- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fidelity", ["response", "packet", "epoch"])
@pytest.mark.parametrize("transfer", ["stop-and-send", "precopy"])
def test_pages_follow_the_integral_of_touches(fidelity, transfer):
    """In a walk through memory every touch is a page: r times the integral over the exposure."""
    phases = [{"duration": "70 ms", "touches": 5.0}, {"duration": "30 ms", "touches": 0.0}]
    what = scenario(
        service("open", "100 us", rate="200 /s"),
        "1 s",
        fidelity=fidelity,
        transfer=transfer,
        phase=phases,
        memory={"kind": "sequential", "working_set_pages": 60_000, "touches": "10000 /s"},
        policy={"remus": {"interval": "37 ms"}},
    )
    (run,) = replicate(what, "remus", 1)
    change = what.schedule().touches()
    assert change is not None
    table = run.checkpoints
    done = table["cut_ns"] > 0
    cuts = np.concatenate(([0], table["cut_ns"][done]))
    stopped, resumed = table["stopped_ns"][done], table["resumed_ns"][done]
    starts = np.concatenate(([0], resumed))
    for i, pages in enumerate(table["pages"][done]):
        touched = 1e-5 * (change.done(stopped[i]) - change.done(starts[i]))
        assert abs(pages - touched) <= 3, (cuts[i], pages, touched)
    assert table["pages"][done].min() < 0.6 * table["pages"][done].max()


# -- divergence --------------------------------------------------------------------------------

APART = [
    {"duration": "100 ms", "divergence": 0.5},
    {"duration": "50 ms", "divergence": 4.0},
    {"duration": "150 ms", "divergence": 0.0},
    {"duration": "100 ms"},
]


def differing(divergence: dict[str, Any], rate: float = 1000) -> Scenario:
    return scenario(poisson(rate), "4 s", divergence=divergence, phase=APART)


def test_responses_differ_at_the_chance_of_each_phase():
    runs = replicate(differing({"probability": 0.1}), "colo", 4)
    found = np.sum([by_phase(run.checkpoints["started_ns"]) for run in runs], axis=0)
    asked = np.sum([by_phase(run.responses["arrival_ns"]) for run in runs], axis=0)
    chance = np.array([0.05, 0.4, 0.0, 0.1])
    assert asked.min() > 1_500
    # binomial; false alarm: 1e-4 for each
    within = 3.9 * np.sqrt(chance * (1 - chance) / asked)
    assert (np.abs(found / asked - chance) <= within).all()


def test_states_part_at_the_rate_of_each_phase():
    """The next response shows it: a checkpoint every 1 / (h f) + 1 / r in each phase."""
    rate = 400
    runs = replicate(differing({"hazard": "20 /s"}, rate), "colo", 20)
    counts = np.array([by_phase(run.checkpoints["started_ns"]) for run in runs])
    lengths_s = np.diff(BORDERS_NS) / NS_PER_S * 10
    for i, hazard in ((0, 10), (1, 80), (3, 20)):
        check_mean(counts[:, i], lengths_s[i] / (1 / hazard + 1 / rate), within=0.45)
    # parted before the border, seen after it: 80 / 400 of 200 cycles; at factor 1 it were 600
    assert counts[:, 2].sum() < 80


def test_what_nobody_asked_for_comes_at_the_rate_of_each_phase():
    runs = replicate(differing({"unprompted": "10 /s"}, rate=1), "colo", 30)
    counts = np.array([by_phase(run.checkpoints["started_ns"]) for run in runs])
    truth = np.array([5 * 0.1, 40 * 0.05, 0, 10 * 0.1]) * 10
    for i in (0, 1, 3):
        check_mean(counts[:, i], truth[i], within=0.4)
    assert counts[:, 2].sum() == 0


@pytest.mark.parametrize("cause", ["hazard", "unprompted"])
def test_a_factor_for_good_is_another_rate(cause):
    one = scenario(
        poisson(500),
        "2 s",
        divergence={cause: "6 /s"},
        phase=[{"duration": "1 s", "divergence": 2.0}],
    )
    other = scenario(poisson(500), "2 s", divergence={cause: "12 /s"})
    was, now = (run_replication(what, "colo", 4, 0) for what in (one, other))
    assert len(was.checkpoints["started_ns"]) > 8
    np.testing.assert_allclose(
        was.checkpoints["started_ns"], now.checkpoints["started_ns"], atol=50
    )


# -- all together ------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["none", "remus", "colo"])
@pytest.mark.parametrize("workload", [{}, {"clients": 20, "think_time": "3 ms"}])
def test_fidelity_epoch_has_the_same_phases(policy, workload):
    phases = [
        {"duration": "30 ms", "load": 1.7, "touches": 3.0},
        {"duration": "45 ms", "load": 0.0},
        {"duration": "60 ms", "load": 0.3, "touches": 0.2},
        *([{"duration": "60 ms", "clients": 7}] if workload else []),
    ]
    what = epochs(workload=workload, phase=phases)
    plain = run_replication(what.replace({"fidelity": "response"}), policy, 1, 0)
    check_same(plain, run_replication(what, policy, 1, 0), 1_000 if policy == "colo" else 0)
    assert (plain.responses["released_ns"] >= 0).sum() > 200


OPEN = service("open", "100 us", rate="300 /s")
SHUT = service("closed", "100 us", clients=5, think_time="1 ms")
CURVE = {"kind": "measured", "curve": "redis", "outside": "extrapolate"}


@pytest.mark.parametrize(
    ("workload", "phase", "more", "says"),
    [
        (OPEN, {"clients": 3}, {}, "phase.0.clients"),
        (SHUT, {"clients": 6}, {}, "phase.0.clients"),
        (SHUT, {"clients": 0}, {}, "phase.0.load"),
        (OPEN, {"load": 0.0}, {}, "phase.0.load"),
        ({"kind": "batch", "work": "1 s"}, {"load": 2.0}, {}, "phase.0.load"),
        (OPEN, {"touches": 2.0}, {"memory": CURVE | {"pages_per_request": 1.0}}, "phase.0.touches"),
        (OPEN | {"rate": "500 /s"}, {"load": 2.0}, {"memory": CURVE}, "phase.0.load"),
        (OPEN, {"touches": 2.0}, {"cost": {"first_write": "1 us"}}, "phase.0.touches"),
        (OPEN, {"divergence": 2.0}, {"fidelity": "epoch"}, "phase.0.divergence"),
    ],
)
def test_what_makes_no_sense_is_refused(workload, phase, more, says):
    with pytest.raises(ScenarioError) as told:
        scenario(workload, "1 s", phase=[{"duration": "1 s", **phase}], **more)
    (line,) = str(told.value).splitlines()
    assert says in line
    assert ";" in line


def test_no_phases_and_then():
    with pytest.raises(ScenarioError, match="after_phases"):
        scenario(OPEN, "1 s", after_phases="stay")


def test_a_time_is_in_seconds():
    (run,) = replicate(scenario(OPEN, "1 s", phase=[{"duration": "1 s", "load": 2.0}]), "none", 1)
    assert abs(len(run.responses["client"]) - 600) < 120
    assert run.responses["arrival_ns"].max() < NS_PER_S
