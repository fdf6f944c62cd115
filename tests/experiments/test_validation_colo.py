"""The validation of policy colo without its live runs: what it would run, and what it writes."""

from __future__ import annotations

import pandas as pd
import pytest
from click.testing import CliRunner

import colosim
from experiments import output
from experiments.validation import colo
from experiments.validation.__main__ import main
from tests.calibration.as_live import BASE, live


def test_calibration_and_held_out_runs_differ():
    for workload in colo.WORKLOADS:
        own = colo.plan(workloads=[workload])
        seen = [each.scenario.to_mapping() for each in own if each.purpose == "calibrate"]
        held = [each.scenario.to_mapping() for each in own if each.purpose == "held out"]
        loads = {each["workload"]["rate"] for each in seen if each["policy"]["name"] == "colo"}
        assert len(loads) == 2  # or nothing tells what differences depend on
        assert len(held) == 2
        assert all(each not in seen for each in held)
    runs = colo.plan()
    assert len({each.folder for each in runs}) == len(runs)
    assert sum(each.scenario.duration_ns for each in runs) / 1e9 + 12 * len(runs) < 10 * 60
    quick = colo.plan(quick=True)
    assert sum(each.scenario.duration_ns for each in quick) / 1e9 + 12 * len(quick) < 3 * 60


@pytest.mark.slow
def test_it_writes_what_it_says(tmp_path, monkeypatch):
    def run(scenario, out):
        own = scenario.to_mapping()
        delay = own["policy"]["colo"]["checkpoint_delay"]
        live(
            out,
            scenario.policy.name,
            delay if scenario.policy.name == "colo" else "",
            duration="14 s",
            link=own["link"],
            divergence={"probability": colo.CHANCE},
            workload={**BASE["workload"], "rate": own["workload"]["rate"]},
        )

    monkeypatch.setattr(colosim, "live", run)
    monkeypatch.setattr(output, "is_there", lambda scenario, place: place.exists())
    done = CliRunner().invoke(main, ["--colo", "--quick", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    names = ("hazards.csv", "validation-colo.csv", "validation-colo.svg", "validation-colo.md")
    for name in names:
        assert (tmp_path / "out" / name).stat().st_size > 0
    text = (tmp_path / "out" / "validation-colo.md").read_text()
    assert "| work | content | response |" in text
    assert "hold, matched, p50 (ms)" in text
    table = pd.read_csv(tmp_path / "out" / "validation-colo.csv")
    assert set(table.loc[table["status"] == "predicted", "name"]) == {
        *("400 ms, other load", "300 ms, slow link")
    }


def test_what_does_not_go_together_is_one_line():
    for arguments, says in (
        (["--colo", "--workload", "idle"], "--workload idle: there is none with --colo; give"),
        (["--workload", "work"], "--workload work: there is none without --colo; give"),
        (["--colo", "--native", "/q"], "--native: a genuine pair has no policy colo"),
    ):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 2
        assert says in done.output
