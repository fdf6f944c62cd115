"""The web-server comparison at small counts: what must hold whatever the numbers are."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from click.testing import CliRunner
from pandas.testing import assert_frame_equal

import colosim
from colosim.model.memory import CurvePoint, MeasuredCurve
from experiments import webserver
from experiments.webserver import CONDITIONS, FIXED, METRICS, WORKLOADS, figures, report
from experiments.webserver.__main__ import main

FEW = 8
BY_NAME = {condition.name: condition for condition in CONDITIONS}
REMUS_MS = (25, 50, 100)


@pytest.fixture(scope="module")
def tables():
    return webserver.run(replications=2, clients=(FEW,), workloads=("nginx",), jobs=1)


@pytest.fixture(scope="module")
def mean(tables):
    """(clients, condition, metric) -> mean."""
    return tables.summary.set_index(["clients", "condition", "metric"])["mean"]


def test_every_condition_has_every_metric_with_its_interval(tables):
    summary = tables.summary
    rows = summary.set_index(["clients", "condition", "metric"])
    assert set(rows.index) == {
        (clients, condition, metric)
        for clients in (FIXED, FEW)
        for condition in BY_NAME
        for metric in METRICS
    }
    measured = summary[summary["mean"].notna()]
    assert (measured["ci_low"] <= measured["mean"]).all()
    assert (measured["mean"] <= measured["ci_high"]).all()
    missing = summary[summary["mean"].isna()]
    assert set(missing["condition"]) == {"none"}
    assert set(missing["metric"]) == {"pause_mean_ms", "pause_p99_ms", "dirty_pages_mean"}


def test_responses_are_those_at_fixed_load(tables):
    answered = tables.responses.groupby("condition").size()
    assert set(answered.index) == set(BY_NAME)
    assert answered.min() > 0.9 * 2 * 10 * 200  # replications, seconds, arrivals a second
    assert (tables.responses["latency_ms"] > 0).all()


def test_none_pays_nothing(mean):
    for clients in (FIXED, FEW):
        for metric in ("checkpoints_per_s", "replication_mbit_per_s", "link_mbit_per_s"):
            assert mean[clients, "none", metric] == 0


@pytest.mark.parametrize("interval_ms", REMUS_MS)
def test_remus_checkpoints_once_an_interval(mean, interval_ms):
    rate = mean[FIXED, f"Remus {interval_ms} ms", "checkpoints_per_s"]
    assert rate == pytest.approx(1e3 / interval_ms, abs=0.11)  # one at the edge of 10 s


@pytest.mark.parametrize("interval_ms", REMUS_MS)
def test_remus_adds_half_an_interval_and_the_commit(tables, interval_ms):
    """Output waits for the end of its epoch, then for the commit (Cully et al. 2008, 2.3)."""
    name = f"Remus {interval_ms} ms"
    rows = tables.summary.set_index(["clients", "condition", "metric"])
    added_ms = rows.loc[(FIXED, name, "latency_mean_ms"), "diff"]
    result = colosim.simulate(
        webserver.scenario_of("nginx", FIXED, BY_NAME[name]), replications=2, jobs=1
    )
    checkpoints = result.checkpoints[result.checkpoints["committed_ns"] >= 0]
    commit_ms = (checkpoints["committed_ns"] - checkpoints["started_ns"]).mean() / 1e6
    assert added_ms == pytest.approx(interval_ms / 2 + commit_ms, rel=0.1)


def test_a_longer_interval_trades_latency_for_traffic(mean):
    latency = [mean[FIXED, f"Remus {ms} ms", "latency_mean_ms"] for ms in REMUS_MS]
    traffic = [mean[FIXED, f"Remus {ms} ms", "replication_mbit_per_s"] for ms in REMUS_MS]
    assert latency == sorted(latency)
    assert traffic == sorted(traffic, reverse=True)


@pytest.mark.parametrize("interval_ms", REMUS_MS)
def test_a_closed_client_gets_one_response_an_epoch_from_remus(mean, interval_ms):
    rate = mean[FEW, f"Remus {interval_ms} ms", "throughput_per_s"]
    assert rate <= FEW * (1e3 / interval_ms + 1 / 5)  # an epoch more at the edge of 5 s


def test_more_divergence_makes_more_checkpoints(mean):
    """With the same draws, what differs at a low probability differs at a higher one."""
    rates = [mean[FIXED, f"COLO p={p}", "checkpoints_per_s"] for p in ("1e-4", "1e-3", "1e-2")]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


def test_doubtful_memory_is_marked(tables):
    memory = tables.summary.groupby(["clients", "condition"])["memory"].first()
    assert set(memory.xs("none", level="condition")) == {"unused"}
    for interval_ms in REMUS_MS:
        assert memory[FIXED, f"Remus {interval_ms} ms"] == "measured"
        assert memory[FEW, f"Remus {interval_ms} ms"] == "scaled"
    assert memory[FIXED, "COLO p=1e-4"] == "extrapolated"  # 5 s without a checkpoint
    assert memory[FIXED, "COLO p=1e-4, 1.5 s"] == "measured"
    assert memory[FEW, "COLO p=1e-4"] == "scaled, extrapolated"
    text = str(list(next(iter(report.printed(tables.summary))).columns[-1].cells))
    assert text.count("extrapolated") == (memory[FIXED] == "extrapolated").sum()


def test_same_seed_same_tables():
    def run(seed, jobs):
        return webserver.run(
            replications=2,
            clients=(FEW,),
            workloads=("nginx",),
            conditions=[BY_NAME[name] for name in ("none", "Remus 50 ms", "COLO p=1e-2")],
            seed=seed,
            jobs=jobs,
        )

    first, again, other = run(7, 1), run(7, 2), run(8, 1)
    for one, two in zip(first, again, strict=True):
        assert_frame_equal(one, two)
    assert not first.metrics.equals(other.metrics)


def test_late_slope_is_pages_per_request_at_the_end_of_the_curve():
    points = [CurvePoint(ms * 1_000_000, (100 + 3 * ms / 10,)) for ms in (10, 100, 200)]
    curve = MeasuredCurve([CurvePoint(1_000, (50.0,)), *points], load_per_s=200)
    assert webserver.late_slope(curve) == pytest.approx(3 / 10 / 0.2)  # pages/ms over requests/ms


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_saturated_load_says_how_memory_is_scaled(workload):
    given = webserver.saturated(workload, FEW).to_mapping()
    assert given["workload"]["clients"] == FEW
    curve = MeasuredCurve.named(workload)
    assert given["memory"]["pages_per_request"] == webserver.late_slope(curve) > 0


def test_findings_claim_only_what_the_intervals_support():
    values = {
        "none": (1.0, 1.1, 1.2),
        "Remus 25 ms": (20.0, 20.2, 20.1),
        "COLO p=1": (2.0, 2.3, 2.1),
        "COLO p=2": (0.9, 1.6, 1.1),  # paired differences around zero
    }
    metrics = pd.DataFrame(
        [
            ("redis", FIXED, condition, replication, metric, value, "ms")
            for condition, of_condition in values.items()
            for replication, value in enumerate(of_condition)
            for metric in ("latency_mean_ms", "latency_p99_ms", "link_mbit_per_s")
        ],
        columns=["workload", "clients", "condition", "replication", "metric", "value", "unit"],
    )
    metrics["condition"] = metrics["condition"].where(
        metrics["metric"] != "link_mbit_per_s",
        metrics["condition"].replace("Remus 25 ms", "Remus 100 ms"),
    )
    against_none, against_remus, *_ = report.findings(metrics)
    assert "Remus +19 to +19" in against_none
    assert "COLO p=1 +1.03" in against_none
    assert "no difference seen: COLO p=2" in against_none
    assert "COLO -18.9 to -18" in against_remus


def test_the_command_says_where_its_results_are(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(webserver, "run", lambda **_: tables)
    result = CliRunner().invoke(main, ["--out", str(tmp_path), "--quick"])
    assert result.exit_code == 0, result.output
    assert str(tmp_path) in result.output.replace("\n", "")
    for condition in BY_NAME:
        assert condition in result.output
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"metrics.csv", "summary.csv"} | {
        f"{name}.{suffix}"
        for name in ("latency", "saturation", "costs")
        for suffix in ("png", "svg")
    }
    assert all(path.stat().st_size > 1_000 for path in tmp_path.iterdir())
    assert len(pd.read_csv(tmp_path / "summary.csv")) == len(tables.summary)


def test_an_unwritable_directory_is_one_line(tmp_path):
    file = tmp_path / "file"
    file.touch()
    result = CliRunner().invoke(main, ["--out", str(file)])
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1


def test_figures_show_every_condition(tables):
    legend = figures.latency(tables.responses).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == list(BY_NAME)
    costs = figures.costs(tables.summary)
    labels = [label.get_text() for label in costs.axes[0].get_yticklabels()]
    assert labels == [name for name in BY_NAME if name != "none"]
    assert not math.isnan(costs.axes[0].get_xlim()[0])
