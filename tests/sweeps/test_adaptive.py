"""Replications go where intervals are wide, and to the same places whatever happened meanwhile."""

import tomllib
from typing import Any

import numpy as np
import pytest

import colosim
from colosim import sweeps
from colosim.analysis.stats import interval
from colosim.scenario import Scenario, ScenarioError
from colosim.sweeps.adaptive import Rule
from tests.small import SCENARIO

BASE = Scenario.from_mapping(tomllib.loads(SCENARIO))
SWEEP: dict[str, Any] = {
    "scenario": BASE,
    "policies": ["none", "remus"],
    "replications": 5,
    "axes": {"workload.rate": ["50 /s", "700 /s"]},
    "adaptive": {"metrics": ["latency_mean_ms"], "relative": 0.08, "most": 20},
}


def contents(out):
    return {path.name: path.read_bytes() for path in out.glob("part-*.parquet")}


def test_points_get_what_their_intervals_need(tmp_path):
    outcome = sweeps.run(sweeps.plan(SWEEP), tmp_path / "out", 1)
    table = sweeps.read(tmp_path / "out")
    latency = table[table["metric"] == "latency_mean_ms"]
    sizes = latency.groupby("point").size()
    assert outcome.runs == sizes.sum()
    assert sizes.min() < sizes.max()
    wide = 0
    for point, values in latency.groupby("point"):
        assert list(values["replication"]) == list(range(sizes[point]))
        found = interval(values["value"])
        is_wide = (found.high - found.low) / 2 / found.mean > 0.08 / 1.08
        wide += is_wide
        assert not is_wide or sizes[point] == 20
    assert outcome.wide == wide
    # the same draws as without a rule
    mine = latency[(latency["point"] == 2) & (latency["replication"] < 5)]["value"]
    scenario = BASE.replace({"workload.rate": "50 /s"})
    first = colosim.simulate(scenario, "remus", replications=5).metrics
    np.testing.assert_array_equal(mine, first[first["metric"] == "latency_mean_ms"]["value"])


def test_a_resumed_one_decides_as_an_undisturbed_one(tmp_path):
    plan = sweeps.plan(SWEEP)
    sweeps.run(plan, tmp_path / "whole", 1)
    rng = np.random.default_rng(3)
    out = tmp_path / "out"
    for _ in range(3):
        after = int(rng.integers(1, 4))

        def stop(done, total, after=after):
            if done == after:
                raise KeyboardInterrupt

        assert sweeps.run(plan, out, 1, progress=stop).interrupted
    assert contents(out).items() < contents(tmp_path / "whole").items()
    sweeps.run(plan, out, 2)
    assert contents(out) == contents(tmp_path / "whole")
    assert sweeps.run(plan, out, 1).runs == 0


def test_ctrl_c_in_a_later_round_counts_the_points_of_all_rounds(tmp_path):
    plan, out = sweeps.plan(SWEEP), tmp_path / "out"
    calls = []

    def stop(done, total):
        calls.append((done, total))
        if calls[-1][0] == 0 and len(calls) > 1:
            raise KeyboardInterrupt

    first = sweeps.run(plan, out, 1, progress=stop)
    assert first.interrupted
    [*_, (_, missing)] = calls
    assert 0 < missing < 4
    assert (first.reused, first.finished) == (0, 4 - missing)


def rule(**more):
    given: dict[str, Any] = {"relative": 0.1, "most": 100, "budget": None}
    return Rule(first=10, metrics=("m",), **given | more)


def sample(n, spread):
    values = np.linspace(-1, 1, n)
    return (100 + spread * values / values.std(ddof=1))[:, None]


def test_the_widest_come_first_and_the_budget_is_kept():
    found = {0: sample(10, 1), 1: sample(10, 30), 2: sample(10, 60), 3: sample(10, 14)}
    assert rule().further(found) == [(2, 10, 10), (1, 10, 10), (3, 10, 5)]
    assert rule(budget=53).further(found) == [(2, 10, 10), (1, 10, 3)]
    assert rule(budget=40).further(found) == []
    assert rule(most=12).further(found) == [(2, 10, 2), (1, 10, 2), (3, 10, 2)]
    assert rule().wide(found) == 3


def test_what_has_no_interval():
    nan = np.full((10, 1), np.nan)
    one = nan.copy()
    one[0] = 1.0
    assert rule().width(nan) == 0  # nothing to measure here
    assert rule().width(np.ones((10, 1))) == 0
    assert rule().width(np.zeros((10, 1))) == 0
    assert rule().further({0: one, 1: sample(10, 60) - 100}) == [(0, 10, 10), (1, 10, 10)]


def test_intervals_of_a_sequential_rule_cover_nearly_what_they_should():
    """Optional stopping costs coverage, as the docs say, and not much from ten replications on."""
    rng, held, sizes = np.random.default_rng(5), 0, []
    mine = rule(relative=0.1, most=10_000)
    for _ in range(1000):
        values = rng.exponential(1.0, (10, 1)) + 1
        while batch := mine.further({0: values}):
            values = np.concatenate((values, rng.exponential(1.0, (batch[0][2], 1)) + 1))
        found = interval(values[:, 0])
        held += found.low <= 2.0 <= found.high
        sizes.append(len(values))
    assert 0.88 < held / 1000 < 0.97
    assert 60 < np.mean(sizes) < 160  # what is needed: (1.96 * 1 / (2 * 0.0909))^2 = 116


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"replications": 4}, "4 are too few"),
        ({"adaptive": {"most": 4}}, "most: less than the first 5"),
        ({"adaptive": {"budget": 19}}, "4 points begin with 5 .* at least 20"),
        ({"adaptive": {"metrics": []}}, "metrics: is empty"),
        ({"adaptive": {"metrics": ["latency"]}}, "there is no metric 'latency'"),
        ({"adaptive": {"relative": 0.0}}, "too small"),
        ({"adaptive": {"target": 0.1}}, "unknown key"),
    ],
)
def test_rules_that_cannot_be_are_one_clear_line(change, why):
    with pytest.raises((ScenarioError, sweeps.SweepError), match=why) as caught:
        sweeps.plan(SWEEP | change)
    assert "\n" not in str(caught.value)


def test_a_fixed_sweep_is_not_mixed_with_an_adaptive_one(tmp_path):
    fixed = {key: value for key, value in SWEEP.items() if key != "adaptive"}
    sweeps.run(sweeps.plan(fixed), tmp_path / "out", 1)
    with pytest.raises(sweeps.SweepError, match="holds another sweep: adaptive"):
        sweeps.run(sweeps.plan(fixed, adaptive=True), tmp_path / "out", 1)
