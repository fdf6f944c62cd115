"""Defects that a review of the whole found, each as the run that showed it."""

from __future__ import annotations

from typing import Any

import pytest

from backends.sim import run_replication
from colosim.scenario import Scenario

BASE = {
    "name": "found",
    "duration": "3 s",
    "workload": {
        "kind": "service",
        "load": "open",
        "rate": "400 /s",
        "service_time": "1 ms",
    },
    "memory": {"kind": "uniform", "working_set_pages": 500, "touches": "2000 /s"},
}


def found(changes, policy="colo", observers=()):
    scenario = Scenario.from_mapping(BASE).replace({"policy.name": policy, **changes})
    return run_replication(scenario, policy, 1, 0, observers)


@pytest.mark.parametrize(("connections", "jitter"), [(1, 0.0), (4, 0.05)])
def test_several_servers_answer_a_connection_in_order(connections, jitter):
    """Output out of order was released unwitnessed, and differed at every turn."""
    changes = {
        "workload.vcpus": 2,
        "workload.rate": "800 /s",
        "workload.service_time": "2 ms",
        "workload.connections": connections,
        "execution.jitter": jitter,
    }
    lines: list[Any] = []
    record = found(changes, observers=[lines.append])
    assert record.violations == []
    assert record.counters["mismatches"] == 0
    assert lines


@pytest.mark.parametrize("step", ["quiesce", "cut", "save", "run"])
def test_a_fault_strikes_in_its_step(step):
    """Steps of no duration were over, and steps passed within one feed did not count."""
    fault = {"target": "primary", "scope": "vm", "kind": "crash", "step": step, "occurrence": 2}
    lines: list[Any] = []
    found({"fault": [fault]}, "remus", [lines.append])
    [gone] = [n for n, line in enumerate(lines) if type(line.body).__name__ == "VmGone"]
    before = [line.step for line in lines[:gone] if line.node == "primary"]
    assert before[-1] == step


def test_a_fault_that_never_happens_is_told():
    fault = {"target": "primary", "scope": "vm", "kind": "crash", "step": "save", "occurrence": 999}
    assert "fault-did-not-happen" in found({"fault": [fault]}, "remus").flags


def test_a_slow_start_is_no_failure():
    """The secondary counted the primary's silence from before its guest had started."""
    assert found({"cost.resume": "600 ms"}, "remus").events == []


def test_an_outage_at_the_end_loses_what_is_open():
    changes = {
        "fault": [{"target": "link", "kind": "cut", "at": "1 s"}],
        "manager.fence_fails": True,
    }
    record = found(changes)
    unanswered = int((record.responses["released_ns"] < 0).sum())
    assert record.counters["lost_responses"] == unanswered > 500


def test_cuts_may_overlap():
    cuts = [("1000 ms", "400 ms"), ("1100 ms", "10 ms")]
    faults = [{"target": "link", "kind": "cut", "at": at, "duration": d} for at, d in cuts]
    changes = {"fault": faults, "manager.heartbeat_timeout": "2 s"}
    record = found({**changes, "policy.remus.interval": "20 ms"}, "remus")
    assert record.metrics()["longest_gap_ms"][0] > 390


def test_first_writes_of_a_request_are_paid_once():
    """Each pause made it pay again, so that short epochs served nothing at all."""
    changes = {
        "workload.service_time": "5 ms",
        "workload.rate": "10 /s",
        "workload.service_distribution": "deterministic",
        "memory.touches_per_request": 1000,
        "cost.first_write": "30 us",
        "policy.remus.interval": "25 ms",
    }
    assert found(changes, "remus").metrics()["throughput_per_s"][0] > 8
