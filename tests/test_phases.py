"""Phases of a trace against hand-computed ones."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

import colosim
from backends.nodes import node_configs
from colosim.phases import Phase, phases
from colosim.protocol import types as t
from colosim.protocol.checkpoint import Transfer
from colosim.protocol.trace import Line
from colosim.scenario import load_scenario
from tests.small import SCENARIO, write


@pytest.fixture
def trace(tmp_path):
    """Makes lines of a primary."""
    scenario = load_scenario(write(tmp_path / "of-trace.toml"))
    return partial(_trace, node_configs(scenario, "remus")[0])


def _trace(config, *entries, transfer=Transfer.STOP_AND_SEND):
    """Lines of a primary: (now_ns, step) for an event, a number for CheckpointStarted."""
    config = replace(config, transfer=transfer)
    lines = [Line("primary", 0, 0, "node", "", config)]
    now_ns, step = 0, "idle"
    for n, entry in enumerate(entries, 1):
        if isinstance(entry, int):
            signal = t.CheckpointStarted(entry, "interval")
            lines.append(Line("primary", n, now_ns, "signal", step, signal))
        else:
            now_ns, step = entry
            lines.append(Line("primary", n, now_ns, "event", step, t.Tick()))
    return lines


WHOLE = [
    *((5, "run"), (100, "quiesce"), 1, (110, "request"), (130, "stop"), (131, "cut")),
    *((135, "save"), (145, "save"), (200, "send"), (220, "wait-received"), (300, "wait-loaded")),
    *((310, "resume"), (314, "run"), (900, "run")),
]


def test_each_step_of_a_checkpoint_is_a_phase(trace):
    assert phases(trace(*WHOLE)) == [
        Phase(1, "quiesce", 100, 10),
        Phase(1, "request", 110, 20),
        Phase(1, "stop", 130, 1),
        Phase(1, "cut", 131, 4),
        Phase(1, "save", 135, 65),
        Phase(1, "send", 200, 20),
        Phase(1, "wait-received", 220, 80),
        Phase(1, "wait-loaded", 300, 10),
        Phase(1, "resume", 310, 4),
    ]


def test_all_rounds_of_a_precopy_are_one_phase(trace):
    entries = [(5, "run"), (10, "precopy"), 1, (20, "precopy"), (40, "quiesce"), (41, "request")]
    assert phases(trace(*entries, transfer=Transfer.PRECOPY)) == [
        Phase(1, "precopy", 10, 30),
        Phase(1, "quiesce", 40, 1),
    ]


def test_steps_passed_in_one_feed_take_no_time(trace):
    found = phases(trace((5, "run"), (10, "wait-received"), 3, (20, "resume"), (25, "quiesce"), 4))
    assert found == [
        Phase(3, "wait-received", 10, 10),
        Phase(3, "wait-loaded", 20, 0),
        Phase(3, "resume", 20, 5),
    ]


@pytest.mark.parametrize("step", ["exited", "dead", "failover"])
def test_a_step_that_failed_is_no_phase(trace, step):
    found = phases(trace((5, "run"), (10, "quiesce"), 1, (20, "request"), (30, step)))
    assert found == [Phase(1, "quiesce", 10, 10)]


def test_a_copy_is_sent_while_the_guest_runs(trace):
    steps = ["quiesce", "request", "stop", "cut", "copy", "resume-early", "send", "wait-received"]
    entries = [(10 * i, step) for i, step in enumerate([*steps, "wait-loaded", "run"], 1)]
    found = phases(trace((5, "run"), *entries, transfer=Transfer.COPY_THEN_SEND))
    assert [each.phase for each in found] == [*steps, "wait-loaded"]


def test_other_nodes_are_passed_over(trace):
    lines = trace(*WHOLE)
    other = [replace(line, node="secondary") for line in lines if line.kind == "event"]
    assert phases([*lines, *other]) == phases(lines)


def test_a_traced_simulated_run_has_them(tmp_path):
    file = write(tmp_path / "s.toml", SCENARIO)
    result = colosim.simulate(file, "remus", out=tmp_path / "run")
    assert set(result.phases["replication"]) == {0}
    assert (tmp_path / "run" / "phases.csv").exists()
    costs = result.scenario.costs()
    took = result.phases.groupby("phase")["duration_ns"]
    assert set(took.get_group("stop")) == {costs.stop_ns}
    table = result.checkpoints.query("replication == 0 and resumed_ns >= 0")
    wide = result.phases.pivot(index="checkpoint", columns="phase", values="duration_ns")
    paused = wide.drop(columns=["quiesce", "request"]).sum(axis=1, skipna=False).dropna()
    wanted = table["resumed_ns"] - table["stopped_ns"]
    assert list(paused) == list(wanted)
    summary = result.phase_summary.set_index("phase")
    assert summary.loc["stop", "median_ms"] == costs.stop_ns / 1e6
    assert len(colosim.simulate(file, "remus").phases) == 0
