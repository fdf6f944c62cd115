"""Policy colo: hazards that are known go in and must come out, with intervals that cover them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import colosim
from colosim.calibration import CalibrationError, divergence, lateness, read_run, readable
from colosim.calibration.divergence import exact_interval
from colosim.calibration.prediction import epochs_of
from tests.calibration.as_live import BASE, edit, live

LATE = {"witness": "3 ms", "witness_spread": 1.0}


def colo(out, delay="1 s", rate=100, seed=1, duration="25 s", execution=None, **divergent):
    return live(
        out,
        "colo",
        delay,
        seed=seed,
        duration=duration,
        execution=execution or {},
        divergence=divergent,
        workload={**BASE["workload"], "rate": f"{rate} /s"},
        cost={**BASE["cost"], **LATE},
    )


def with_late_starts(out, delay="400 ms", rate=100, seed=1):
    late = {"start_skew": "60 ms", "start_skew_spread": 0.2}
    return colo(out, delay, rate, seed, execution=late, probability=0.005)


def chosen(runs: Iterable[Path]) -> tuple[divergence.DivergenceFit, Any]:
    fit = divergence.fit([read_run(each) for each in runs])
    return fit, fit.chosen.set_index("why")


# -- which exposure ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_response(tmp_path_factory):
    root = tmp_path_factory.mktemp("by-response")
    loads = {"slow": ("1 s", 40), "busy": ("2 s", 160)}
    return {
        name: colo(root / name, delay, rate, probability=0.02)
        for name, (delay, rate) in loads.items()
    }


@pytest.fixture(scope="module")
def by_time(tmp_path_factory):
    root = tmp_path_factory.mktemp("by-time")
    return [
        colo(root / str(rate), "1 s", rate, unprompted="1.5 /s", duration="40 s")
        for rate in (30, 160)
    ]


def test_a_chance_of_each_response_is_told_from_a_rate_by_time(by_response):
    fit, found = chosen(by_response.values())
    row = found.loc["content"]
    assert row["per"] == "response"
    assert row["low"] <= 0.02 <= row["high"]
    assert row["agree"] > 0.001
    assert "likelier" in fit.summary()
    assert fit.keys()["unprompted"] == "0.0 /s"


def test_a_rate_by_time_is_told_from_a_chance_of_each_response(by_time):
    fit, found = chosen(by_time)
    row = found.loc["content"]
    assert row["per"] == "second"
    assert row["low"] <= 1.5 <= row["high"]
    assert fit.keys()["probability"] == 0
    # and the other explanation is seen not to hold
    other: Any = fit.hazards.set_index("per").loc["response"]
    assert other["agree"] < 0.01
    assert other["log_likelihood"] < row["log_likelihood"] - 2


def test_one_load_tells_nothing_and_that_is_said(by_response):
    fit, found = chosen([by_response["busy"]])
    assert found.loc["content", "per"] == "response"
    assert math.isnan(found.loc["content", "agree"])
    assert "not told apart" in fit.summary()


def test_what_a_connection_begins_with(tmp_path):
    runs = [
        live(
            tmp_path / str(each),
            "colo",
            "1 s",
            duration="20 s",
            divergence={"connection_probability": 0.25},
            packet={"requests_per_connection": each},
            workload={**BASE["workload"], "connections": 4},
        )
        for each in (3, 25)
    ]
    _, found = chosen(runs)
    assert found.loc["content", "per"] == "connection"
    assert found.loc["content", "low"] <= 0.25 <= found.loc["content", "high"]


def test_no_mismatch_is_an_upper_bound_and_not_zero(tmp_path):
    fit, found = chosen([colo(tmp_path / "quiet", duration="12 s")])
    row = found.loc["any"]
    assert (row["events"], row["low"]) == (0, 0)
    assert row["rate"] == row["high"] == pytest.approx(-math.log(0.05) / row["exposure"])
    assert 9 < row["exposure"] < 11
    assert float(fit.keys()["unprompted"].split()[0]) == pytest.approx(row["high"], rel=1e-3)
    assert "none in" in fit.notes()["divergence.unprompted"]


def test_a_simulated_run_without_a_checkpoint_is_one_long_epoch():
    """In a run in which guests hardly differ there may be none, in another of the same some."""
    policy = {"name": "colo", "colo": {"checkpoint_delay": "20 s"}}
    scenario = colosim.Scenario.from_mapping(
        {
            **BASE,
            "policy": policy,
            "duration": "3 s",
            "warm_up": "1 s",
            "divergence": {"probability": 0.003},
        }
    )
    result = colosim.simulate(scenario, replications=4, jobs=1, trace="none")
    has = set(result.checkpoints["replication"])
    assert 0 < len(has) < 4
    found = epochs_of(result, scenario)
    assert [len(each) > 1 for each in found] == [i in has for i in range(4)]
    assert all(1.5 < each["seconds"].sum() <= 2 for each in found)
    answered = result.responses.query("released_ns >= 1e9 and released_ns <= 3e9")
    for i in {*range(4)} - has:
        assert found[i]["responses"].sum() == (answered["replication"] == i).sum()


@pytest.mark.slow
@pytest.mark.parametrize(("per", "truth"), [("second", {"unprompted": "3 /s"}),
                                            ("response", {"probability": 0.04})])  # fmt: skip
def test_intervals_cover_the_truth_as_often_as_they_say(tmp_path, per, truth):
    """10 runs of 8 s: intervals of 95 % hold in fewer than 7 of them once in 1,000 times."""
    value = truth.get("probability", 3.0)
    inside, rates = 0, []
    for seed in range(10):
        run = read_run(colo(tmp_path / str(seed), "2 s", 80, seed, "8 s", **truth))
        rows: Any = divergence.fit([run]).hazards.set_index("per")
        inside += rows.loc[per, "low"] <= value <= rows.loc[per, "high"]
        rates.append((rows.loc[per, "events"], rows.loc[per, "exposure"]))
    assert inside >= 7
    events, exposure = np.sum(rates, axis=0)
    # no bias that all of them together would show: 160 events have a standard error of 8 %
    assert events > 120
    assert events / exposure == pytest.approx(value, rel=0.24)


# -- how late the second guest is ----------------------------------------------------------------


@pytest.fixture(scope="module")
def late_starts(tmp_path_factory):
    root = tmp_path_factory.mktemp("late-starts")
    return [
        with_late_starts(root / "slow", rate=60),
        with_late_starts(root / "busy", delay="700 ms", rate=160),
    ]


def test_a_late_start_is_told_from_late_frames(late_starts):
    found = lateness.fit([read_run(each) for each in late_starts])
    mean_ns, spread = found.start
    assert mean_ns == pytest.approx(60e6, rel=0.1)
    assert spread == pytest.approx(0.2, abs=0.1)
    assert found.late > 0.8 * found.starts
    # as without: frames that wait for one before them are in it
    assert found.witness[0] == pytest.approx(3.6e6, rel=0.25)
    assert 0.5 < found.witness[1] < 1.6


def test_starts_that_are_not_late_are_said_to_be_none(by_response):
    found = lateness.fit([read_run(each) for each in by_response.values()])
    assert not any(found.start)
    assert found.starts > 30
    assert [each.value for each in found.fitted()] == [0, 0]
    assert found.fitted()[0].how.startswith("none: ")
    assert found.witness[0] == pytest.approx(3.6e6, rel=0.25)


def test_a_run_without_matches_says_nothing_of_lateness(by_response):
    run = read_run(by_response["slow"])
    nothing = replace(run, holds=run.holds[:0], matched=run.matched[:0])
    found = lateness.fit([nothing])
    assert (found.witness, found.start, found.starts) == ((0, 0), (0, 0), 0)
    assert math.isnan(found.latency_ms)


def test_late_starts_are_predicted(late_starts, tmp_path):
    """With them the holds of a run that was not seen come out; without, they do not."""
    none = live(tmp_path / "none", "none", seed=7)
    made = colosim.calibrate([*late_starts, none], tmp_path / "late.toml")
    assert made.scenario.execution.start_skew_ns == pytest.approx(60e6, rel=0.1)
    [line] = [e for e in made.path.read_text().splitlines() if e.startswith("start_skew = ")]
    assert "first frames were held longer" in line
    unseen = with_late_starts(tmp_path / "unseen", delay="500 ms", rate=80, seed=5)
    errors = []
    for path in (made.path, _copied(made.path, tmp_path / "punctual.toml")):
        if path != made.path:
            text = re.sub(r"(?m)^start_skew.*$", "", path.read_text())
            path.write_text(text)
        table: Any = colosim.validate(path, [unseen], replications=4, jobs=1).table
        errors.append(table.set_index("metric").loc["matched_hold_p99_ms", "error"])
    assert abs(errors[0]) < 0.15
    assert errors[1] < -0.5


# -- intervals -----------------------------------------------------------------------------------


def test_exact_intervals():
    """Garwood's table for 10 events; Clopper and Pearson's for 10 of 100."""
    assert exact_interval(10, 1.0, "second") == pytest.approx((4.795, 18.390), abs=1e-3)
    assert exact_interval(10, 100, "response") == pytest.approx((0.0490, 0.1762), abs=1e-4)
    assert exact_interval(0, 10.0, "second") == pytest.approx((0, 0.29957), abs=1e-4)
    assert exact_interval(0, 100, "response")[1] == pytest.approx(0.02951, abs=1e-4)
    assert exact_interval(7, 7, "response")[1] == 1


# -- the whole way -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibration(by_response, tmp_path_factory):
    root = tmp_path_factory.mktemp("calibrated")
    none = live(root / "none", "none", seed=7)
    return colosim.calibrate([*by_response.values(), none], root / "colo.toml")


def test_costs_and_witnesses_come_out(calibration):
    costs = calibration.scenario.costs()
    # witnesses of one guest's frames do not overtake each other: some wait for the one before
    assert costs.witness_ns == pytest.approx(3.6e6, rel=0.25)
    assert 0.5 < costs.witness_spread < 1.5
    assert costs.save_ns(500) == pytest.approx(8e6 + 2e6 + 500 * 9e3, rel=0.05)
    assert costs.release_ns == pytest.approx(1.5e6, rel=0.4)
    assert costs.wake_up_ns == pytest.approx(600e3, rel=0.5)
    memory = calibration.scenario.memory_model()
    assert memory.mean(500e6, 0) == pytest.approx(2000 * (1 - math.exp(-1.25)), rel=0.08)


def test_the_file_says_from_what(calibration):
    text = calibration.path.read_text()
    divergent = text[text.index("[divergence]") :].splitlines()
    [line] = [each for each in divergent if each.startswith("probability = ")]
    assert "# content: " in line
    assert "95 %: " in line
    body = json.loads(calibration.path.with_suffix(".calibration.json").read_text())
    assert {each["why"] for each in body["hazards"]} == {"content"}
    assert len(calibration.hazards) == len(body["hazards"])


def test_a_run_that_was_not_seen_is_predicted(calibration, tmp_path):
    other = colo(tmp_path / "other", "500 ms", 100, 3, probability=0.02)
    found = colosim.validate(calibration.path, [other], tmp_path / "v", replications=6, jobs=1)
    table: Any = found.table.set_index("metric")
    assert set(table["status"]) == {"predicted"}
    for metric, within in {
        "pause_mean_ms": 0.1,
        "dirty_pages_mean": 0.15,
        "checkpoints_per_s": 0.15,
        "throughput_per_s": 0.05,
        "latency_p50_ms": 0.25,
        "matched_hold_mean_ms": 0.3,
        "differences_per_s": 0.5,
    }.items():
        assert abs(table.loc[metric, "error"]) < within, (metric, table.loc[metric])
    assert bool(table.loc["differences_content_per_s", "inside"])
    assert bool(table.loc["differences_per_s", "inside"])
    assert len(readable(found)) == len(table)
    assert (tmp_path / "v" / "validation.csv").exists()


def test_a_count_that_says_little_is_said_to(calibration, tmp_path):
    few = colo(tmp_path / "few", "200 ms", 20, 5, "12 s", probability=0.02)
    found = colosim.validate(calibration.path, [few], replications=4, jobs=1)
    row: Any = found.table.set_index("metric").loc["differences_per_s"]
    assert row["measured"] * 11 < 10
    assert math.isnan(row["error"])
    assert "few" in row["flags"]
    assert row["low"] <= row["measured"] <= row["high"]
    assert "few" in set(readable(found)["error"])
    assert not math.isnan(found.median_error)


def _copied(path, to):
    """A calibrated scenario with all that is beside it."""
    for suffix in (".toml", ".pages.csv", ".calibration.json"):
        if path.with_suffix(suffix).exists():
            text = path.with_suffix(suffix).read_text()
            to.with_suffix(suffix).write_text(text.replace(path.stem + ".", to.stem + "."))
    return to


def test_a_wrong_hazard_is_seen(calibration, by_response, tmp_path):
    """The check can fail: five times the chance is out of the interval."""
    wrong = _copied(calibration.path, tmp_path / "wrong.toml")
    lines = wrong.read_text().splitlines()
    wrong.write_text(
        "\n".join("probability = 0.1" if e.startswith("probability = ") else e for e in lines)
    )
    found = colosim.validate(wrong, [by_response["busy"]], replications=4, jobs=1).table
    assert not found.set_index("metric").loc["differences_per_s", "inside"]


# -- what does not fit together ------------------------------------------------------------------


def refusal(given, tmp_path):
    with pytest.raises(CalibrationError) as caught:
        colosim.calibrate(given, tmp_path / "x.toml")
    (said,) = str(caught.value).splitlines()
    return said


@pytest.mark.parametrize(
    ("table", "changes", "says"),
    [
        ("compare", {"mode": "qemu"}, "compare.mode is qemu, but strict in"),
        ("compare", {"rewriter": "qemu"}, "compare.rewriter is qemu, but strict in"),
        ("divergence", {"probability": 0.5}, "divergence.probability is 0.5, but 0.02 in"),
    ],
)
def test_runs_that_differ_for_other_reasons_are_refused(
    by_response, tmp_path, table, changes, says
):
    other = colo(tmp_path / "other", probability=0.02, duration="15 s")
    scenario = json.loads((other / "manifest.json").read_text())["scenario"]
    edit(other, {"scenario": scenario | {table: scenario[table] | changes}})
    assert says in refusal([by_response["slow"], other], tmp_path)


def test_what_is_missing_is_said(by_response, tmp_path):
    other = colo(tmp_path / "other", probability=0.02, duration="15 s")
    (other / "holds.parquet").unlink()
    assert "holds no holds.parquet; give runs in which" in refusal([other], tmp_path)
    assert "give one with policy none too" in refusal(by_response.values(), tmp_path)


def test_differences_are_not_made_up(calibration, by_response, tmp_path):
    """A scenario of runs that compared nothing says nothing of runs that do."""
    path = _copied(calibration.path, tmp_path / "remus.toml")
    beside = path.with_suffix(".calibration.json")
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {"hazards": []}))
    with pytest.raises(CalibrationError, match=r"policy is colo, and .* was calibrated on no such"):
        colosim.validate(path, [by_response["busy"]])


@pytest.mark.slow
def test_runs_of_both_policies_go_together(by_response, tmp_path):
    """Costs of a checkpoint are the same; why guests differ is of those that were compared."""
    remus = [
        live(tmp_path / each, "remus", f"{each} ms", duration="15 s") for each in ("100", "300")
    ]
    none = live(tmp_path / "none", "none", seed=7, duration="15 s")
    both = colosim.calibrate([*remus, by_response["busy"], none], tmp_path / "both.toml")
    assert both.scenario.divergence.probability == pytest.approx(0.02, rel=0.3)
    found = colosim.validate(both.path, [remus[0]], replications=2, jobs=1).table
    assert not found["metric"].str.contains("hold|differences").any()
