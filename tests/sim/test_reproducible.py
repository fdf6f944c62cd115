"""One seed, one record: across processes, hash seeds, observers; and what two policies share."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from backends.sim import run_replication
from colosim.model.results import RunRecord
from colosim.protocol.trace import Line
from tests.sim.worlds import FREE, poisson, scenario, service

POLICIES = ("none", "remus", "colo")
MEMORY = {"kind": "measured", "curve": "redis", "outside": "extrapolate", "pages_per_request": 0.5}
COMMON = {
    "memory": MEMORY,
    "cost": {},
    "link": {},
    "manager": {},
    "execution": {},
    "divergence": {"probability": 0.01, "hazard": "2 /s"},
    "policy": {"remus": {"interval": "20 ms"}, "colo": {"compare_timeout": "100 ms"}},
}
CRASH = {"target": "primary", "scope": "host", "kind": "crash", "at": "150 ms"}

WORLDS = {  # the defaults of everything, with a fault, and other shapes of load
    "closed": scenario(
        service("closed", "1 ms", clients=10, think_time="10 ms"), "400 ms", **COMMON
    ),
    "open": scenario(service("open", "1 ms", rate="400 /s", vcpus=2), "400 ms", **COMMON),
    "crash": scenario(
        service("closed", "1 ms", clients=10, think_time="10 ms"),
        "1 s",
        **{**COMMON, "manager": {"heartbeat_interval": "20 ms", "heartbeat_timeout": "100 ms"}},
        fault=[CRASH],
    ),
    "batch": scenario({"kind": "batch", "work": "200 ms"}, "1 s", **COMMON),
}

ELSEWHERE = """
import json, sys
from backends.sim import run_replication
from colosim.scenario import Scenario
for mapping, policy in json.load(sys.stdin):
    print(run_replication(Scenario.from_mapping(mapping), policy, 5, 3).fingerprint())
"""


def test_same_fingerprint_in_other_processes():
    """Other processes, other hash seeds, the scenario by way of its canonical mapping."""
    each = [(what, policy) for what in WORLDS.values() for policy in POLICIES]
    expected = [run_replication(what, policy, 5, 3).fingerprint() for what, policy in each]
    assert len(set(expected)) == len(each)  # all different, so equality below says something
    task = json.dumps([(what.to_mapping(), policy) for what, policy in each])
    for hash_seed in ("0", "1", "random"):
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE],
            input=task,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == expected


def test_runs_do_not_disturb_each_other():
    what = WORLDS["closed"]
    first = run_replication(what, "colo", 5, 3).fingerprint()
    run_replication(what, "remus", 6, 0)
    assert run_replication(what, "colo", 5, 3).fingerprint() == first


def test_another_seed_or_replication_is_another_run():
    what = WORLDS["open"]
    prints = {
        run_replication(what, "none", seed, replication).fingerprint()
        for seed in (1, 2)
        for replication in (0, 1)
    }
    assert len(prints) == 4


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_trace_changes_nothing(name, policy):
    lines: list[Line] = []
    seen = run_replication(WORLDS[name], policy, 1, 0, [lines.append])
    alone = run_replication(WORLDS[name], policy, 1, 0)
    assert lines
    assert seen.fingerprint() == alone.fingerprint()
    assert not seen.violations


# -- common random numbers ---------------------------------------------------------------------


def works_ns(run: RunRecord, delay_ns: int) -> dict[tuple[int, int], int]:
    """Guest time that each request took, by (client, request): from the record alone.

    Nobody queues, so a request is in service from its admission: as it arrives, or as the guest
    resumes if a checkpoint keeps input back.  Time during which the guest is stopped is taken off.
    """
    table = run.checkpoints
    done = table["resumed_ns"] >= 0
    started, stopped, resumed = (
        table[name][done] for name in ("started_ns", "stopped_ns", "resumed_ns")
    )

    def running(at_ns: np.ndarray) -> np.ndarray:
        pauses = np.clip(at_ns[:, None] - stopped, 0, resumed - stopped)
        return at_ns - pauses.sum(axis=1)

    columns = run.responses
    served = columns["served_ns"]
    last = min([run.duration_ns, *table["started_ns"][~done]])
    known = (served >= 0) & (served < last)
    arrived = columns["arrival_ns"][known] + delay_ns
    # the checkpoint begun last before each arrival; before the first one nothing is kept back
    before = np.searchsorted(started, arrived, side="right")
    admitted = np.maximum(arrived, np.concatenate(([0], resumed))[before])
    work = running(served[known]) - running(admitted)
    keys = zip(columns["client"][known], columns["request"][known], strict=True)
    return {(int(c), int(r)): int(ns) for (c, r), ns in zip(keys, work, strict=True)}


SHARING = {
    "cost": {**FREE, "stop": "300 us", "save_fixed": "2 ms", "load_fixed": "1 ms"},
    "divergence": {"probability": 0.02},
    "policy": {"remus": {"interval": "15 ms"}},
}


def test_policies_share_arrivals_and_work_where_load_is_open():
    """Equal to the nanosecond: who asks when, and how long each request takes in the guest."""
    what = scenario(
        poisson(300, "4 ms", service_distribution="exponential", client_delay="100 us"),
        "1 s",
        **SHARING,
    )
    runs = {policy: run_replication(what, policy, 9, 2) for policy in POLICIES}
    assert len(runs["remus"].checkpoints["checkpoint"]) > 20
    assert len(runs["colo"].checkpoints["checkpoint"]) > 3
    _same_columns(runs, ("client", "request", "arrival_ns"))
    works = {policy: works_ns(run, 100_000) for policy, run in runs.items()}
    for policy in ("remus", "colo"):
        common = works["none"].keys() & works[policy].keys()
        assert len(common) > 250
        assert {key: works[policy][key] for key in common} == {
            key: works["none"][key] for key in common
        }
    assert len(set(works["none"].values())) > 250  # they are not just all alike


def _same_columns(runs: dict[str, RunRecord], names: tuple[str, ...]) -> None:
    reference = runs["none"].responses
    for run in runs.values():
        for name in names:
            np.testing.assert_array_equal(run.responses[name], reference[name])


def test_policies_share_work_and_think_times_where_load_is_closed():
    """Arrivals follow from the answers there; thinking and work are the same all the same."""
    what = scenario(
        service("closed", "4 ms", clients=12, vcpus=12, think_time="10 ms", client_delay="100 us"),
        "1 s",
        **SHARING,
    )
    runs = {policy: run_replication(what, policy, 9, 2) for policy in POLICIES}
    works = {policy: works_ns(run, 100_000) for policy, run in runs.items()}
    thinking = {policy: _think_ns(run) for policy, run in runs.items()}
    for draws in (works, thinking):
        for policy in ("remus", "colo"):
            common = draws["none"].keys() & draws[policy].keys()
            assert len(common) > 300
            assert all(draws["none"][key] == draws[policy][key] for key in common)
    arrivals = [run.responses["arrival_ns"] for run in runs.values()]
    assert len({column.tobytes() for column in arrivals}) == 3


def _think_ns(run: RunRecord) -> dict[tuple[int, int], int]:
    """Time from an answer to the client's next request."""
    columns = run.responses
    rows = zip(
        *(columns[n] for n in ("client", "request", "arrival_ns", "released_ns")), strict=True
    )
    by_key = {(int(c), int(r)): (int(arrival), int(back)) for c, r, arrival, back in rows}
    return {
        (client, request): arrival - (by_key[client, request - 1][1] if request else 0)
        for (client, request), (arrival, _) in by_key.items()
    }


def test_a_slower_service_meets_the_same_arrivals():
    """Draws are scaled, not redrawn, so scenarios with other parameters share them too."""

    def columns(service_time: str) -> dict[str, np.ndarray]:
        what = scenario(poisson(300, service_time, service_distribution="exponential"), "1 s")
        return run_replication(what, "none", 9, 2).responses

    slow, quick = columns("4 ms"), columns("1 ms")
    np.testing.assert_array_equal(slow["arrival_ns"], quick["arrival_ns"])
    both = (slow["served_ns"] >= 0) & (quick["served_ns"] >= 0)
    slow_ns, quick_ns = ((c["served_ns"] - c["arrival_ns"])[both] for c in (slow, quick))
    assert np.abs(slow_ns - 4 * quick_ns).max() <= 4
    assert both.sum() > 250
