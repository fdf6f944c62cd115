"""The validation experiment without its live runs: what it would run, and what it writes."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from click.testing import CliRunner

import colosim
from backends.qemu.errors import LiveError
from experiments import output, validation
from experiments.validation import report
from experiments.validation.__main__ import main
from tests.calibration.as_live import IDLE, live


def test_calibration_and_held_out_runs_differ():
    runs = validation.plan()
    assert {each.workload for each in runs} == set(validation.WORKLOADS)
    for workload in validation.WORKLOADS:
        own = [each for each in runs if each.workload == workload]
        seen = [each.scenario.to_mapping() for each in own if each.purpose == "calibrate"]
        held = [each.scenario.to_mapping() for each in own if each.purpose == "held out"]
        assert len({each["policy"]["remus"]["interval"] for each in seen}) >= 3
        assert len(held) >= 2
        assert all(each not in seen for each in held)
        [shown] = [each for each in own if each.name == validation.SHOWN]
        assert shown.scenario.duration_ns - shown.scenario.warm_up_ns >= 200 * 100_000_000
    folders = [each.folder for each in runs]
    assert len(folders) == len(set(folders))
    length_s = sum(each.scenario.duration_ns for each in runs) / 1e9
    assert length_s + 15 * len(runs) < 45 * 60  # with 15 s for each to boot and to be written


def test_quick_is_quick():
    runs = validation.plan(quick=True)
    assert sum(each.scenario.duration_ns for each in runs) / 1e9 + 12 * len(runs) < 4 * 60


@pytest.mark.skipif(not validation.can_be_native(), reason="there is no native engine yet")
def test_a_genuine_pair_is_run_beside():
    names = [each.name for each in validation.plan(native="/q", workloads=["idle"])]
    assert names[-2:] == ["wire beside native", "native"]


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """The quick experiment of an idle guest, its live runs simulated."""

    def run(scenario, out):
        interval = scenario.to_mapping()["policy"]["remus"]["interval"]
        live(out, "remus", interval, **IDLE)
        runs.append(out)

    runs: list[object] = []
    monkeypatch.setattr(colosim, "live", run)
    return runs


def test_it_writes_what_it_says_and_runs_nothing_twice(tmp_path, measured, monkeypatch):
    # a simulated run says another scenario than the live one that it stands for
    monkeypatch.setattr(output, "is_there", lambda scenario, place: place.exists())
    arguments = ["--quick", "--workload", "idle", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert len(measured) == 4
    for name in ("phases.csv", "phases.svg", "validation.csv", "validation.svg", "validation.md"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    text = (tmp_path / "out" / "validation.md").read_text()
    assert re.search(r"^\| pause \| [\d.]+ / [\d.]+ \|$", text, re.MULTILINE)
    table = pd.read_csv(tmp_path / "out" / "validation.csv")
    assert set(table["status"]) == {"fitted", "predicted"}
    assert set(table.loc[table["status"] == "predicted", "name"]) == {"150 ms"}
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 0
    assert len(measured) == 4
    assert again.output.count("there already") == 4


def test_a_run_that_fails_is_told_and_the_rest_goes_on(tmp_path, monkeypatch):
    def fail(scenario, out):
        raise LiveError("qemu: not found")

    monkeypatch.setattr(colosim, "live", fail)
    done = CliRunner().invoke(main, ["--quick", "--workload", "idle", "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert done.output.count("qemu: not found") == 2 * 4
    assert "What could not be run" in (tmp_path / "validation.md").read_text()


def test_without_the_native_engine_the_genuine_pair_is_left_out(tmp_path, measured, monkeypatch):
    monkeypatch.setattr(validation, "can_be_native", lambda: False)
    monkeypatch.setattr(validation, "validate", lambda *_: (pd.DataFrame(), pd.DataFrame(), []))
    arguments = ["--quick", "--workload", "idle", "--out", str(tmp_path), "--native", "/q"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert "/q: this colosim has no engine for genuine pairs; left out" in done.output
    assert len(measured) == 4


def test_a_run_of_another_scenario_is_run_again(tmp_path):
    [run, *_] = validation.plan(workloads=["idle"])
    assert not output.is_there(run.scenario, tmp_path)
    other = live(tmp_path / "other", "remus", "50 ms", **IDLE)
    assert not output.is_there(run.scenario, other)


def test_errors_count_only_what_was_predicted():
    table = pd.DataFrame(
        {
            "metric": ["pause_mean_ms"] * 3,
            "status": ["predicted", "predicted", "fitted"],
            "error": [-0.1, 0.3, 9.0],
            "inside": [True, False, False],
        }
    )
    found = report.errors_table(table).set_index("what").loc["pause (ms)"]
    assert list(found) == [2, "20.0%", "30.0%", "50%"]
