"""Policies on real guests: what is planned, how runs are read, and what is said without QEMU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from backends.qemu.errors import LiveError
from colosim import api
from colosim.model.results import RunRecord
from experiments import live_policies, output
from experiments.live_policies.__main__ import main

RUNS = live_policies.plan(turns=2)


def test_policies_take_turns_and_each_has_its_seed():
    assert [each.policy for each in RUNS] == [*live_policies.POLICIES] * 2
    assert [each.scenario.seed for each in RUNS] == [1] * 5 + [2] * 5
    assert len({each.folder for each in RUNS}) == len(RUNS)
    for each in RUNS:
        assert each.scenario.policy.name == each.policy


def left(run, out, latency_ms):
    """A whole run directory, as a live run leaves it: an answer each 10 ms, two checkpoints."""
    arrival = np.arange(0, run.scenario.duration_ns, 10_000_000)
    count = len(arrival)
    responses = {
        "client": np.zeros(count, np.int64),
        "request": np.arange(count),
        "arrival_ns": arrival,
        "served_ns": np.full(count, -1),
        "released_ns": arrival + round(latency_ms * 1e6),
    }
    begun = np.array([2, 3]) * 1_000_000_000
    names = ("started_ns", "stopped_ns", "cut_ns", "committed_ns", "resumed_ns", "completed_ns")
    checkpoints: dict[str, Any] = {
        "checkpoint": [1, 2],
        "reason": ["timer", "mismatch"],
        **{name: begun + 5_000_000 * i for i, name in enumerate(names)},
        **{name: [100, 200] for name in ("exposure_ns", "pages", "restored_pages", "sent_bytes")},
    }
    record = RunRecord(
        policy=run.policy,
        seed=run.scenario.seed,
        replication=0,
        duration_ns=run.scenario.duration_ns,
        warm_up_ns=run.scenario.warm_up_ns,
        responses=responses,
        checkpoints=checkpoints,
        events=[],
        violations=[],
        flags=[],
        counters={},
    )
    place = out / run.folder
    place.mkdir(parents=True)
    api.Result(run.scenario, run.policy, [record])._write(place)


def test_the_summary_is_of_what_was_measured(tmp_path):
    runs = live_policies.plan(("none", "remus"), turns=2)
    for each in runs[:3]:  # the last one is missing
        left(each, tmp_path, latency_ms=7.0 if each.policy == "none" else 20.0)
    summary = live_policies.summary(runs, tmp_path).set_index("policy")
    assert list(summary.index) == ["none", "remus"]
    assert summary.loc["none", "latency_mean_ms"] == pytest.approx(7.0)
    assert summary.loc["remus", "latency_p99_ms"] == pytest.approx(20.0)
    # slices of one second: an answer each 10 ms
    assert summary["throughput_per_s"].to_list() == pytest.approx([100, 100], rel=0.02)
    assert summary.loc["none", "checkpoints_per_s"] == pytest.approx(2 / 5)
    assert summary.loc["remus", "pause_ms"] == pytest.approx(15.0)
    assert summary.loc["none", "reasons"] in ("timer 2, mismatch 2", "mismatch 2, timer 2")
    latencies = live_policies.latencies(runs, tmp_path)
    assert latencies.groupby("policy")["replication"].nunique().to_dict() == {"none": 2, "remus": 1}


def test_what_is_there_is_not_run_again(tmp_path, monkeypatch):
    runs = live_policies.plan(("none", "remus"))
    for each in runs:
        left(each, tmp_path, 5.0)
        assert output.is_there(each.scenario, tmp_path / each.folder)
    monkeypatch.setattr(api, "live", None)
    assert live_policies.run(runs, tmp_path, print) == []
    arguments = ["--out", str(tmp_path), "--policy", "none", "--policy", "remus"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "| remus | 100." in done.output
    assert (tmp_path / "latency.svg").exists()


def test_without_qemu_the_reason_is_said(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise LiveError("qemu-system-x86_64 is not there; install it")

    monkeypatch.setattr(api, "live", refuse)
    done = CliRunner().invoke(main, ["--out", str(tmp_path), "--policy", "none"])
    assert done.exit_code == 0, done.output
    assert "none, turn 1: qemu-system-x86_64 is not there; install it" in done.output
    assert "nothing is shown" in done.output
