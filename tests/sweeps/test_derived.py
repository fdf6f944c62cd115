"""Metrics computed of others, and the summary."""

import math
import tomllib
from typing import Any

import numpy as np
import pandas as pd
import pytest

import colosim
from colosim import sweeps
from colosim.analysis.stats import paired
from colosim.analysis.summary import summarise
from colosim.scenario import Scenario, ScenarioError
from colosim.sweeps.dataset import encode
from tests.small import SCENARIO

BASE = Scenario.from_mapping(tomllib.loads(SCENARIO))


def wide(table):
    keys = ["point", "policy", "replication"]
    return table.pivot(index=keys, columns="metric", values="value").reset_index()


def test_derived_metrics_are_computed_for_each_replication(tmp_path):
    derived = {
        "per_request": {"of": "link_mbit_per_s / throughput_per_s", "unit": "Mbit"},
        "twice": "2 * max(per_request, abs(-per_request)) ** 1",
        "nothing": "latency_mean_ms / lost_responses",
    }
    table = colosim.sweep({"scenario": BASE, "policies": ["remus"], "derived": derived})
    found = wide(table)
    expected = found["link_mbit_per_s"] / found["throughput_per_s"]
    np.testing.assert_allclose(found["per_request"], expected)
    np.testing.assert_allclose(found["twice"], 2 * expected)
    assert found["nothing"].isna().all()
    units = dict(zip(table["metric"], table["unit"], strict=True))
    assert (units["per_request"], units["twice"]) == ("Mbit", "1")


@pytest.mark.parametrize(
    ("name", "of", "why"),
    [
        ("x", "__import__('os').system('true')", "cannot be read: use metrics"),
        ("x", "latency_mean_ms.real", "cannot be read: use metrics"),
        ("x", "(lambda: 1)()", "cannot be read: use metrics"),
        ("x", "latency_mean_ms[0]", "cannot be read: use metrics"),
        ("x", "1 if 1 else 2", "cannot be read: use metrics"),
        ("x", "True", "cannot be read: use metrics"),
        ("x", "max(1)", "max takes 2"),
        ("x", "1 +", "cannot be read: invalid syntax"),
        ("x", "9" * 400, "cannot be read"),
        ("x", "1+" * 300, "more than 500 characters"),
        ("x", "latency_mean", "there is no metric latency_mean; known: .*latency_mean_ms"),
        ("latency_mean_ms", "1", "there is such a metric already"),
        ("not a name", "1", "is no name"),
        ("x", {"of": "1", "units": "ms"}, "units: unknown key"),
        ("x", 3, "table"),
    ],
)
def test_an_expression_that_cannot_be_is_one_clear_line(name, of, why):
    with pytest.raises((ScenarioError, sweeps.SweepError), match=why) as caught:
        sweeps.plan({"scenario": BASE, "derived": {name: of}})
    assert "\n" not in str(caught.value)


def test_the_summary_has_the_intervals_and_paired_comparisons(tmp_path):
    given = {
        "scenario": BASE,
        "policies": ["none", "remus"],
        "replications": 6,
        "axes": {
            "workload.rate": ["100 /s", "200 /s"],
            "policy.remus.interval": ["40 ms", "80 ms"],
        },
    }
    table = colosim.sweep(given, tmp_path / "out")
    found = sweeps.summary(tmp_path / "out")
    keys = ["point", "workload.rate_per_s", "policy.remus.interval_ns", "policy"]
    expected = summarise(table, keys)
    pd.testing.assert_frame_equal(found[list(expected)], expected, check_dtype=False)

    values = wide(table)
    rows: Any = found[found["policy"] == "remus"].to_dict("records")
    for row in rows:
        of_point = values["point"] == row["point"]
        rates = found["workload.rate_per_s"] == row["workload.rate_per_s"]
        baseline = found[(found["policy"] == "none") & rates]
        of_base = values["point"] == baseline["point"].iloc[0]
        mine, other = values.loc[of_point, row["metric"]], values.loc[of_base, row["metric"]]
        _, *interval = paired(mine, other)
        np.testing.assert_allclose([row["diff"], row["diff_low"], row["diff_high"]], interval)
        if other.mean() > 0:
            assert row["ratio"] == pytest.approx(mine.mean() / other.mean())
            assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    assert found.loc[found["policy"] == "none", "diff"].isna().all()
    written = pd.read_csv(tmp_path / "out" / "_summary.csv")
    pd.testing.assert_frame_equal(written, found, check_dtype=False)
    assert set(pd.concat(sweeps.batches(tmp_path / "out"))["point"]) == set(table["point"])


def test_a_ratio_covers_what_it_should():
    """The ratio of means of pairs that have much in common: 95 % of intervals hold the true one."""
    from colosim.sweeps.dataset import _compared

    rng, held, trials = np.random.default_rng(1), 0, 1000
    for _ in range(trials):
        common = rng.exponential(1.0, 20)
        found = _compared(2 * common + rng.normal(1, 0.1, 20), common + 1)
        held += found["ratio_low"] <= 1.5 <= found["ratio_high"]
    assert 0.92 < held / trials < 0.97
    assert math.isnan(_compared(np.zeros(3), np.zeros(3))["ratio"])


def test_the_baseline_is_one_of_the_policies():
    with pytest.raises(sweeps.SweepError, match="baseline: 'colo' is none of policies"):
        sweeps.plan({"scenario": BASE, "policies": ["none"], "baseline": "colo"})
    given = {"scenario": BASE, "policies": ["none", "remus"], "baseline": "remus"}
    assert [point.baseline for point in sweeps.plan(given).points] == [1, None]


def test_a_directory_without_parts_is_one_clear_line(tmp_path):
    with pytest.raises(sweeps.SweepError, match="holds no part of a sweep"):
        sweeps.summary(tmp_path)


def test_a_metric_that_some_replications_lack_stays_with_those_that_have_it(tmp_path):
    """The disk's, of replications in which nobody asked it: their batch has no such rows."""
    rows: dict[str, Any] = dict.fromkeys(("policy", "unit", "fingerprint", "flags"), "")
    rows |= {"seed": 1, "violations": 0}
    for point, baseline, names in ((0, None, ("a", "b", "b")), (1, 0, ("b", "b", "b"))):
        footer = {"point": point, "baseline": baseline}
        for piece, metric in enumerate(names):
            own = [2.0 * piece + 10 * point, 2.0 * piece + 1 + 10 * point]
            both = rows | {"metric": [metric] * 2, "replication": [0, 1], "value": own}
            file = tmp_path / f"part-{point:06}-{2 * piece:06}.parquet"
            file.write_bytes(encode({}, both, footer))
    rows_of = sweeps.summary(tmp_path).to_dict("records")
    found = {(row["point"], row["metric"]): row for row in rows_of}
    assert found[0, "b"]["n"] == 4
    assert found[1, "b"]["n"] == 6
    # replications 2 to 5 of one with 2 to 5 of the other
    assert [found[1, "b"][name] for name in ("diff", "diff_low", "diff_high")] == [10.0] * 3
