"""Divergence that is not a response's own: by time, by connection; and witnesses that are late."""

from __future__ import annotations

import numpy as np
import pytest

from backends.sim import run_replication
from colosim.holds import Holds
from colosim.protocol.trace import Line
from tests.sim.worlds import check_mean, poisson, replicate, scenario

FIDELITIES = pytest.mark.parametrize("fidelity", ["response", "packet"])
SELDOM = {"name": "colo", "colo": {"checkpoint_delay": "1 h"}}


@FIDELITIES
@pytest.mark.parametrize("rate", [20, 300])
def test_what_nobody_asked_for_comes_at_its_rate_at_any_load(fidelity, rate):
    """Checkpoints that take no time: a Poisson process, whatever is asked."""
    what = scenario(
        poisson(rate, connections=4),
        "2 s",
        divergence={"unprompted": "20 /s"},
        policy=SELDOM,
        fidelity=fidelity,
    )
    runs = replicate(what, "colo", 40)
    assert all((run.checkpoints["reason"] == "mismatch").all() for run in runs)
    check_mean([len(run.checkpoints["reason"]) for run in runs], 40, within=0.1)


@FIDELITIES
def test_it_is_output_like_any_other(fidelity):
    """Held until its checkpoint is committed, and no answer to anybody."""
    what = scenario(
        poisson(50, connections=2),
        "2 s",
        divergence={"unprompted": "10 /s"},
        policy=SELDOM,
        fidelity=fidelity,
    )
    lines: list[Line] = []
    record = run_replication(what, "colo", 1, 0, [lines.append])
    assert record.violations == []
    assert record.counters["mismatches"] > 5
    assert record.counters["lost_responses"] == 0
    if fidelity == "packet":
        assert record.counters["repeated_datagrams"] == record.counters["damaged_frames"] == 0


@FIDELITIES
def test_the_first_response_of_a_connection_differs(fidelity):
    each, chance, length_s, rate = 5, 0.4, 2, 200
    what = scenario(
        poisson(rate, connections=4),
        f"{length_s} s",
        divergence={"connection_probability": chance},
        packet={"requests_per_connection": each},
        policy=SELDOM,
        fidelity=fidelity,
    )
    runs = replicate(what, "colo", 30)
    expected = rate * length_s / each * chance
    check_mean([run.counters["mismatches"] for run in runs], expected, within=0.1)


@FIDELITIES
def test_output_is_held_as_long_as_the_witness_takes(fidelity):
    what = scenario(
        poisson(20, connections=64),
        "20 s",
        cost={"witness": "8 ms", "witness_spread": 0.5},
        policy=SELDOM,
        fidelity=fidelity,
    )
    holds = Holds(digests=True)
    run_replication(what, "colo", 1, 0, [holds.see])
    held_ms = np.array([each.hold_ns / 1e6 for each in holds.found if each.how == "match"])
    assert held_ms.size > 300
    # witnesses of a stream do not overtake each other, so a few wait for the one before
    low, high = (0.95, 1.4) if fidelity == "packet" else (0.95, 1.05)
    assert low * 8 < held_ms.mean() < high * 8
    assert 0.3 * 8 < held_ms.std() < 0.7 * 8


def test_a_witness_that_is_never_late_costs_nothing():
    """Off, the terms change no draw and no event."""
    plain = scenario(poisson(100), "1 s", divergence={"probability": 0.05})
    said = plain.replace(
        {
            "divergence.unprompted": "0 /s",
            "divergence.connection_probability": 0.0,
            "cost.witness": "0 s",
            "cost.witness_spread": 2.0,
        }
    )
    first, second = (run_replication(each, "colo", 1, 0) for each in (plain, said))
    assert first.fingerprint() == second.fingerprint()
