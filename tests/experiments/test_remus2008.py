"""The Remus 2008 experiment: fits come from the data, predictions do not."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import colosim
from colosim import load_scenario
from colosim.model.memory import SequentialTouch
from experiments.published.remus2008 import (
    experiment,
    failover,
    figure,
    kernel_build,
    pauses,
    specweb,
)
from experiments.published.remus2008.experiment import STUDY, Effort, Experiment
from experiments.published.rows import Row, frame
from experiments.published.study import Findings, write
from experiments.published.table import load, select

HERE = Path(experiment.__file__).parent
TINY = Effort(share=0.003, replications=2, duration_s=3)
PAPER = load(STUDY.source)
LINES = pauses.fit(PAPER)
OVERHEADS = kernel_build.overheads(PAPER)
ACHIEVED = select(PAPER, specweb.WORKLOAD, "achieved_rate")["value"]


def changed(workload: str, metric: str, x: float, factor: float) -> pd.DataFrame:
    """The published table with one value changed."""
    table = PAPER.copy()
    row = (table["workload"] == workload) & (table["metric"] == metric) & (table["x"] == x)
    assert row.sum() == 1
    table.loc[row, ["value", "low", "high"]] *= factor
    return table


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return experiment.run(PAPER, tmp_path_factory.mktemp("result"), TINY, jobs=1)


@pytest.fixture(scope="module")
def rows(result: Experiment) -> list[Row]:
    return list(result.rows)


# --------------------------------------------------------------------------------------------
# The published table


def test_conditions_and_ranges_are_read():
    transmit = select(PAPER, "page toucher", "transmit")
    assert transmit.index.tolist() == [1, 256, 512, 1024]
    transmit = transmit.drop(columns="line")
    assert list(transmit.loc[512]) == [35.0, 24.7, 47.6]
    assert list(select(PAPER, "kernel build", "completion_time").loc[10])[:3] == [405, 404, 406]
    assert list(select(PAPER, "kernel build", "overhead").loc[20])[:3] == [52, 52, 52]
    with pytest.raises(LookupError, match="nothing published about colour"):
        select(PAPER, "kernel build", "colour")


# --------------------------------------------------------------------------------------------
# Pause and transmit


@pytest.mark.parametrize("what", ["pause", "transmit"])
def test_lines_are_weighted_least_squares_of_the_data(what: str):
    points = select(PAPER, pauses.WORKLOAD, what)
    weight = 1 / (points["high"] - points["low"]).to_numpy()
    design = np.column_stack([np.ones(len(points)), points.index])
    solution, *_ = np.linalg.lstsq(design * weight[:, None], points["value"] * weight, rcond=None)
    line = getattr(LINES, what)
    assert [line.fixed_ms, line.per_page_ms] == pytest.approx(solution)
    steeper = getattr(pauses.fit(changed(pauses.WORKLOAD, what, 1024, 1.2)), what)
    assert steeper.per_page_ms > 1.02 * line.per_page_ms


def test_an_exact_line_is_found_without_error():
    points = pd.DataFrame({"value": [1.0, 2.0, 4.0], "low": 0.0, "high": 9.0}, index=[0, 10, 30])
    line = pauses.fit_line(points)
    assert (line.fixed_ms, line.per_page_ms) == pytest.approx((1.0, 0.1))
    assert line.at(20) == pytest.approx(3.0)
    assert line.pages(3.0) == pytest.approx(20)
    assert line.fixed_error_ms == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("pages", [1, 256, 1024])
def test_the_simulator_pauses_and_transmits_as_the_lines_say(pages: int):
    base = load_scenario(HERE / "kernel-build.toml")
    toucher = {
        "kind": "sequential",
        "guest_memory": "512 MiB",
        "working_set_pages": pages,
        "touches": "1000000 /s",
    }
    scenario = base.replace(
        LINES.changes() | {"memory": toucher, "replications": 1, "workload.work": "1 s"}
    )
    table = colosim.simulate(scenario, jobs=1).checkpoints
    table = table[table["committed_ns"] > 0]
    assert len(table) >= 8
    pause_ms = (table["resumed_ns"] - table["stopped_ns"]) / 1e6
    transmit_ms = (table["committed_ns"] - table["resumed_ns"]) / 1e6
    assert table["pages"].tolist() == [pages] * len(table)
    assert pause_ms.tolist() == pytest.approx([LINES.pause.at(pages)] * len(table), rel=1e-3)
    assert transmit_ms.tolist() == pytest.approx(
        [LINES.transmit.at(pages)] * len(table), rel=2e-3, abs=0.005
    )


# --------------------------------------------------------------------------------------------
# Kernel build


@pytest.mark.parametrize("rate", kernel_build.RATES)
def test_no_number_of_pages_pauses_longer_than_the_bound(rate: int):
    most = kernel_build.bound(LINES, rate).overhead(rate)
    for pages in range(10, 5000, 10):
        memory = SequentialTouch(pages, 1e9, guest_pages=131_072)
        assert kernel_build.Model(LINES, memory, 0.0).overhead(rate) <= most * 1.002


@pytest.mark.parametrize("rate", kernel_build.RATES)
def test_the_bound_hardly_depends_on_when_transmit_begins(rate: int):
    """README.md: if transmit contained the pause, less than a tenth more."""
    interval_ms = 1000 / rate
    pause_ms = LINES.pause.at(LINES.transmit.pages(interval_ms))
    bound = kernel_build.bound(LINES, rate).overhead(rate)
    assert bound < pause_ms / (interval_ms - pause_ms) < 1.1 * bound


def test_the_bound_is_far_below_what_is_published(rows: list[Row]):
    bounds = [row for row in rows if row.quantity == "overhead, pauses alone"]
    assert [row.x for row in bounds] == [10, 20]
    for row in bounds:
        assert row.kind == "predicted"
        assert row.model < row.high < row.published / 2
        assert row.model == pytest.approx(row.closed_form, rel=0.1)


@pytest.mark.parametrize("pages", kernel_build.ASSUMED_PAGES)
@pytest.mark.parametrize("form", kernel_build.FORMS)
@pytest.mark.parametrize("factor", [1.0, 0.9])
def test_a_fit_has_the_overheads_that_it_was_given(form: str, pages: int, factor: float):
    measured = {rate: factor * overhead for rate, overhead in OVERHEADS.items()}
    model = kernel_build.fit(measured, LINES, form, pages)
    for rate, overhead in measured.items():
        assert model.overhead(rate) == pytest.approx(overhead, rel=2e-3)
    work_ms = max(50, LINES.in_flight.at(pages)) / (1 + measured[20])
    assert model.memory.mean(work_ms * 1e6, 0) == pytest.approx(pages, rel=1e-3)


def test_assumptions_that_contradict_the_data_do_not_fit():
    with pytest.raises(kernel_build.NoFitError, match="5000 pages"):
        kernel_build.fit(OVERHEADS, LINES, "uniform", 5000)
    with pytest.raises(kernel_build.NoFitError, match="no shape"):
        kernel_build.fit({10: 0.31, 20: 0.8}, LINES, "power law", 250)


def test_pages_that_fill_the_link_leave_nothing_to_lose():
    full = kernel_build.fit(OVERHEADS, LINES, "uniform", 1000)
    assert full.overhead(40) == pytest.approx(full.overhead(20), rel=1e-6)
    assert kernel_build.fit(OVERHEADS, LINES, "uniform", 250).overhead(40) > 1.2 * full.overhead(20)


def test_the_simulator_agrees_with_the_closed_form(rows: list[Row]):
    simulated = [row for row in rows if row.quantity.startswith("overhead, ") and row.x]
    assert len(simulated) == 2 + 4 * len(kernel_build.FORMS)
    for row in simulated:  # of so short a job an epoch is a few per cent
        assert row.model == pytest.approx(row.closed_form, rel=0.04, abs=0.8)


def test_predictions_without_a_published_value_have_a_range(rows: list[Row]):
    predicted = [row for row in rows if row.part == kernel_build.PART and row.x in (30, 40)]
    assert len(predicted) == 2 * (len(kernel_build.FORMS) + 1)
    for row in predicted:
        assert row.kind == "predicted"
        assert math.isnan(row.published)
        assert row.low < row.high


# --------------------------------------------------------------------------------------------
# SPECweb


@pytest.mark.parametrize("form", specweb.FORMS)
@pytest.mark.parametrize("factor", [1.0, 0.95])
def test_times_in_flight_have_the_rates_that_they_were_fitted_to(form: str, factor: float):
    rates: dict[float, float] = {20: 16.38, 40: 23.34 * factor}
    in_flight_ms = specweb.fit(rates, form)
    for rate, achieved in rates.items():
        assert 1000 / specweb.period_ms(rate, in_flight_ms) == pytest.approx(achieved)


def test_rates_that_no_time_in_flight_gives_do_not_fit():
    with pytest.raises(ValueError, match="no time in flight gives these rates"):
        specweb.fit({20: 21.0, 40: 15.0}, "gamma")


@given(st.lists(st.floats(0.1, 500), min_size=1, max_size=20))
def test_no_time_in_flight_gives_less_than_the_least_rate(in_flight_ms: list[float]):
    sample = np.array(in_flight_ms)
    achieved: dict[float, float] = {
        rate: 1000 / specweb.period_ms(rate, sample) for rate in specweb.FITTED
    }
    least = specweb.least_rate_per_s(achieved)
    assert 1000 / specweb.period_ms(30, sample) >= least * (1 - 1e-12)


def test_simulated_rates_agree_with_the_closed_form(tmp_path: Path):
    study = specweb.Study.of(PAPER, LINES)
    scenario = study.scenarios(tmp_path / "pages.csv", 1, 100)["gamma", 40]
    table = colosim.simulate(scenario, jobs=1).checkpoints
    in_flight_ms = (table["committed_ns"] - table["started_ns"])[table["committed_ns"] > 0] / 1e6
    expected = study.in_flight_ms["gamma"]
    standard_error = expected.std() / math.sqrt(len(in_flight_ms))
    assert abs(in_flight_ms.mean() - expected.mean()) < 4 * standard_error
    periods_ms = table["started_ns"].diff().dropna() / 1e6
    assert abs(periods_ms.mean() - specweb.period_ms(40, expected)) < 4 * standard_error


def test_score_is_read_between_injected_delays_and_not_beyond():
    injected = select(PAPER, specweb.WORKLOAD, "score")["value"]
    for delay_ms, score in injected.items():
        assert specweb.score_at(float(str(delay_ms)), injected) == score
    assert specweb.score_at(75, injected) == pytest.approx((140 + 120) / 2)
    assert math.isnan(specweb.score_at(100.1, injected))
    for combine, _ in specweb.COMBINATIONS.values():
        assert combine(305, 170, 305) == pytest.approx(170)
        assert combine(100, 305, 305) == pytest.approx(100)
        assert math.isnan(combine(math.nan, 170, 305))


def test_published_latencies_are_the_reciprocals_of_the_rates():
    """What the note of the rows "as mean period" says."""
    latencies_ms = select(PAPER, specweb.WORKLOAD, "latency_mean")["value"]
    assert latencies_ms.to_dict() == {x: round(1000 / ACHIEVED[x]) for x in specweb.HELD_OUT}


# --------------------------------------------------------------------------------------------
# The whole table

MODEL = ["model", "interval", "low", "high", "closed_form"]


def test_the_table_is_the_same_again_in_other_processes(rows: list[Row], tmp_path: Path):
    again = experiment.run(PAPER, tmp_path, TINY, jobs=2)
    pd.testing.assert_frame_equal(frame(again.rows), frame(rows), check_exact=True)


@pytest.fixture(scope="module")
def without_held_out(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The model's columns after every held-out value was changed."""
    table = PAPER.copy()
    held_out = table["metric"].isin(["overhead", "score_buffered", "latency_mean", "failover_time"])
    held_out |= (table["metric"] == "achieved_rate") & table["x"].isin(specweb.HELD_OUT)
    assert held_out.sum() == 2 + 4 + 2 + 1 + 2
    table.loc[held_out, ["value", "low", "high"]] *= 1.3
    changed = experiment.run(table, tmp_path_factory.mktemp("held-out"), TINY, jobs=1)
    return frame(changed.rows)


def test_what_is_held_out_does_not_change_a_prediction(
    rows: list[Row], without_held_out: pd.DataFrame
):
    table = frame(rows)
    pd.testing.assert_frame_equal(without_held_out[MODEL], table[MODEL], check_exact=True)
    differ = without_held_out["published"].ne(table["published"]) & table["published"].notna()
    assert set(table[differ]["kind"]) <= {"predicted", "fitted"}
    # overheads in the text are those of the run times, rounded; the fit takes the run times
    assert set(table[differ & (table["kind"] == "fitted")]["part"]) == {kernel_build.PART}
    predicted = table["kind"].eq("predicted") & table["published"].notna()
    assert (differ == predicted)[table["kind"] == "predicted"].all()


def test_what_is_fitted_to_changes_predictions():
    slower = changed(specweb.WORKLOAD, "achieved_rate", 40, 0.95)
    before, after = (specweb.Study.of(table, LINES) for table in (PAPER, slower))
    for form in specweb.FORMS:
        assert specweb.period_ms(30, after.in_flight_ms[form]) > 1.01 * specweb.period_ms(
            30, before.in_flight_ms[form]
        )
    longer = changed(kernel_build.WORKLOAD, "completion_time", 10, 1.02)
    model = kernel_build.fit(kernel_build.overheads(longer), LINES, "uniform", 250)
    assert model.overhead(40) < 0.98 * kernel_build.fit(OVERHEADS, LINES, "uniform", 250).overhead(
        40
    )


def test_every_row_says_what_it_is(rows: list[Row]):
    for row in rows:
        assert row.kind in {"measured", "fitted", "predicted"}
        assert (row.n > 0) == (row.kind == "fitted")
        assert math.isnan(row.model) == (row.kind == "measured")
        assert row.note or row.kind == "measured"
        assert row.part
        assert row.unit
    assert {row.kind for row in rows if row.part == kernel_build.PART and row.x in (10, 20)} == {
        "fitted",
        "predicted",
    }
    achieved = {row.x: row.kind for row in rows if row.quantity == "checkpoints"}
    assert achieved == {10: "predicted", 20: "fitted", 30: "predicted", 40: "fitted"}


def test_no_published_number_is_left_out(rows: list[Row]):
    unit = {"connections": "1"}
    shown = {(row.part, unit.get(row.unit, row.unit), row.published) for row in rows}
    part = {
        pauses.WORKLOAD: pauses.PART,
        kernel_build.WORKLOAD: kernel_build.PART,
        specweb.WORKLOAD: specweb.PART,
        "failover": failover.PART,
    }
    assert {row.line for row in rows} - {0} == set(PAPER["line"])
    for row in PAPER.to_dict("records"):
        assert (part[row["workload"]], unit.get(row["unit"], row["unit"]), row["value"]) in shown


def test_errors_are_what_they_say(rows: list[Row]):
    table = frame(rows)
    both = table[table["published"].notna() & table["model"].notna()]
    assert len(both) > 20
    error = (both["model"] - both["published"]) / both["published"]
    assert both["relative_error"].tolist() == pytest.approx(error.tolist())
    assert both["residual"].tolist() == pytest.approx((both["published"] - both["model"]).tolist())


def test_table_and_figure_are_written(result: Experiment, tmp_path: Path):
    files = write(Findings(result.rows, lambda rows: figure.draw(result)), tmp_path)
    assert [file.name for file in files] == ["table.csv", "figure.svg", "figure.png"]
    assert len(pd.read_csv(files[0])) == len(result.rows)
    text = files[1].read_text()
    for words in ("Dirty pages", "Overhead (%)", "Achieved checkpoints (1/s)", "held out"):
        assert words in text
    assert files[2].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["kernel-build.toml", "specweb.toml", "failover.toml"])
def test_scenarios_stand_on_their_own(name: str):
    scenario = load_scenario(HERE / name)
    assert scenario.policy.name == "remus"
    assert not scenario.execution.executes


def test_an_unwritable_directory_is_one_line(tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    command = [sys.executable, "-m", "experiments.published.remus2008", "--out", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert str(file) in run.stderr
    assert "Traceback" not in run.stderr
