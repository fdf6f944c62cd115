"""Real guests: phases, calibration, and a prediction of a run that was not calibrated on."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

import colosim
from backends.qemu.selftest import SCENARIO
from tests.live.pairs import measured, needs_qemu

STEPS = {"quiesce", "request", "stop", "cut", "save", "send", "wait-received", "wait-loaded"}
PARTS = {"save/scan", "save/device", "save/encode"}


def run(place: Path, interval: str, length_s: int) -> colosim.Result:
    scenario = {
        **SCENARIO,
        "duration": f"{length_s} s",
        "commit": "loaded",
        "policy": {"name": "remus", "remus": {"interval": interval}},
        "workload": {"kind": "batch", "work": f"{length_s} s"},
        "guest": {"accelerator": "tcg", "ground": {"pages": 2000, "touches": "5000 /s"}},
    }
    return colosim.live(scenario, out=place)


@needs_qemu
@measured
def test_a_short_calibration_predicts_another_interval(tmp_path, longer):
    first = run(tmp_path / "r50", "50 ms", 4 * longer)
    run(tmp_path / "r150", "150 ms", 7 * longer)
    run(tmp_path / "r100", "100 ms", 5 * longer)

    table = first.phases
    assert set(table["phase"]) == STEPS | PARTS | {"resume"}
    whole = table[~table["phase"].isin(PARTS)]
    wide = whole.pivot(index="checkpoint", columns="phase", values="duration_ns").dropna()
    paused = wide.drop(columns=["quiesce", "request"]).sum(axis=1)
    checkpoints = first.checkpoints.set_index("checkpoint").loc[paused.index]
    pause_ns = checkpoints["resumed_ns"] - checkpoints["stopped_ns"]
    # stopped_ns is the line of the action, the phase begins with the event before it; and
    # between two lines a busy machine may do something else
    assert ((paused - pause_ns).abs() < 1e6).mean() > 0.8
    assert ((paused - pause_ns).abs() < 0.5 * pause_ns).all()
    written = pd.read_csv(tmp_path / "r50" / "phases.csv")
    assert len(written) == len(table)
    assert set(first.phase_summary.columns) >= {"phase", "n", "median_ms", "p95_ms", "p99_ms"}

    path = tmp_path / "ground.toml"
    calibration = colosim.calibrate([tmp_path / "r50", tmp_path / "r150"], path)
    assert calibration.scenario.costs().find_pages_ns > 0
    found = colosim.validate(path, [tmp_path / "r100", tmp_path / "r50"], replications=4, jobs=1)
    by_status = found.table.set_index(["status", "metric"])["error"].abs()
    # the machine may be busy with other things, so this is no more than the right size
    assert by_status["predicted", "dirty_pages_mean"] < 0.3
    assert by_status["predicted", "checkpoints_per_s"] < 0.1
    assert by_status["predicted", "pause_mean_ms"] < 1.0
    assert by_status["fitted", "dirty_pages_mean"] < 0.2
