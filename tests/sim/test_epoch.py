"""Fidelity ``epoch`` beside fidelity ``response``: the same draws, the same core, the same times.

Without heartbeats no message shares the link with a witness, and what is left of the difference is
nothing: every column is equal to the nanosecond.  With everything on, means are held to a margin.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pytest

from backends.sim import SimWorld, run_replication
from backends.sim.epoch.foresight import EpochForesight
from backends.sim.epoch.lane import Lane
from backends.sim.epoch.log import Log, Times
from backends.sim.epoch.output import EpochOutput
from colosim import api
from colosim.analysis.stats import equivalence, holm
from colosim.model.results import HOW, RunRecord
from colosim.model.streams import Streams
from colosim.protocol.trace import Line, decode_line, encode_line, replay
from colosim.scenario import OpenService, Scenario, ScenarioError
from tests.sim.worlds import QUIET

POLICIES = ("none", "remus", "colo")
TRANSFERS = ("stop-and-send", "copy-then-send")
BASE: dict[str, Any] = {
    "name": "epoch",
    "duration": "600 ms",
    "fidelity": "epoch",
    "workload": {
        "kind": "service",
        "load": "open",
        "rate": "2000 /s",
        "service_time": "200 us",
        "retransmit": "20 ms",
    },
    "memory": {
        "kind": "uniform",
        "working_set_pages": 2_000,
        "touches": "5000 /s",
        "touches_per_request": 2.0,
    },
    "divergence": {"probability": 0.005},
    "manager": QUIET,
    "policy": {
        "remus": {"interval": "30 ms"},
        "colo": {"compare_timeout": "100 ms", "checkpoint_delay": "200 ms"},
    },
}
#: a failure is noticed within 100 ms
WATCHED = {"heartbeat_interval": "20 ms", "heartbeat_timeout": "100 ms"}


def epochs(**tables: Any) -> Scenario:
    """The base with changes: a table's fields are put over the base's."""
    merged = dict(BASE)
    for name, value in tables.items():
        known = BASE.get(name)
        is_table = isinstance(known, dict) and isinstance(value, Mapping)
        merged[name] = {**BASE[name], **value} if is_table else value
    if "clients" in merged["workload"]:
        merged["workload"]["load"] = "closed"
        del merged["workload"]["rate"]
    return Scenario.from_mapping(merged)


def both(
    what: Scenario, policy: str, seed: int = 1, replication: int = 0
) -> tuple[RunRecord, RunRecord]:
    plain = what.replace({"fidelity": "response"})
    return (
        run_replication(plain, policy, seed, replication),
        run_replication(what, policy, seed, replication),
    )


def check_same(was: RunRecord, now: RunRecord, within_ns: int = 0) -> None:
    """Every column of every table, what happened, and what was counted."""
    for table in ("responses", "checkpoints"):
        for name, column in getattr(was, table).items():
            other = getattr(now, table)[name]
            if name.endswith("_ns") and within_ns:
                np.testing.assert_allclose(other, column, rtol=0, atol=within_ns, err_msg=name)
            else:
                np.testing.assert_array_equal(other, column, err_msg=name)
    assert now.flags == was.flags
    assert [_what(e) for e in now.events] == [_what(e) for e in was.events]
    for name, count in was.counters.items():
        assert name in HOW or now.counters[name] == count, name


def _what(event: Mapping[str, Any]) -> tuple[Any, ...]:
    return event["node"], event["what"], event["detail"]


# -- to the nanosecond -------------------------------------------------------------------------

SHAPES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "near saturation": {"workload": {"rate": "4700 /s"}},
    "deterministic": {"workload": {"service_distribution": "deterministic"}},
    "one connection": {"workload": {"connections": 1}},
    "jitter": {"execution": {"jitter": 0.5}, "workload": {"client_jitter": "50 us"}},
    "equal guests": {"execution": {"jitter": 0.0}},
    "drift": {"divergence": {"probability": 0.0, "hazard": "20 /s"}},
    "many differences": {"divergence": {"probability": 0.2, "hazard": "5 /s"}},
    "gap": {
        "policy": {**BASE["policy"], "colo": {"minimum_gap": "50 ms"}},
        "divergence": {"probability": 0.05},
    },
    "impatient": {"policy": {**BASE["policy"], "colo": {"compare_timeout": "2 ms"}}},
    "costs that vary": {"cost": {"release": "20 us", "release_spread": 0.5, "stop_spread": 0.3}},
    "rfc2014": {"dialect": "rfc2014"},
    "closed": {"workload": {"clients": 10, "think_time": "3 ms"}},
    "closed, jitter": {
        "workload": {"clients": 10, "think_time": "3 ms", "client_jitter": "50 us"},
        "execution": {"jitter": 0.5},
        "cost": {"release": "20 us"},
    },
    "closed, no thinking": {
        "workload": {"clients": 3, "think_time": "0 s"},
        "divergence": {"probability": 0.02, "hazard": "5 /s"},
    },
    "closed, gap": {
        "workload": {"clients": 30, "think_time": "10 ms"},
        "policy": {**BASE["policy"], "colo": {"minimum_gap": "50 ms"}},
        "divergence": {"probability": 0.05},
    },
    "idle secondary": {
        "execution": {"executes": False},
        "policy": {**BASE["policy"], "name": "remus"},
    },
}


CASES = [
    (shape, policy, transfer)
    for shape, policy, transfer in product(SHAPES, POLICIES, TRANSFERS)
    if (policy, transfer) != ("none", "copy-then-send")  # which is the same
    and (shape, policy) != ("idle secondary", "colo")  # which compares
]


OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "adaptive": ("adaptive", {}),
    "microcheckpoint": ("microcheckpoint", {}),
    "hybrid": ("hybrid", {}),
    "remus, pre-copy": ("remus", {"transfer": "precopy"}),
    "colo, pre-copy": ("colo", {"transfer": "precopy"}),
    "delta": ("remus", {"stream": {"compression": "delta"}}),
    "channels": ("remus", {"stream": {"channels": 4, "channel_bandwidth": "300 Mbit/s"}}),
}


@pytest.mark.parametrize(
    ("other", "shape"),
    [
        (other, shape)
        for other, shape in product(OTHERS, ("as it is", "many differences", "closed"))
        if (other, shape) != ("hybrid", "closed")  # which is refused
    ],
)
def test_other_policies_and_transfers_are_the_same_too(other, shape):
    policy, tables = OTHERS[other]
    was, now = both(epochs(**SHAPES[shape], **tables), policy)
    check_same(was, now, within_ns=1_000 if policy in ("hybrid", "colo") else 0)
    assert len(was.checkpoints["checkpoint"]) > 0


@pytest.mark.parametrize(("shape", "policy", "transfer"), CASES)
def test_the_same_to_the_nanosecond(shape, policy, transfer):
    was, now = both(epochs(**SHAPES[shape], transfer=transfer), policy)
    # as the copy arrives the guests run, and its last message meets witnesses on the link
    meets = (policy, transfer) == ("colo", "copy-then-send")
    check_same(was, now, within_ns=1_000 if meets else 0)
    assert (was.responses["released_ns"] >= 0).sum() > 30
    assert (len(was.checkpoints["checkpoint"]) > 0) == (policy != "none")


# -- faults ------------------------------------------------------------------------------------

KINDS = [
    *product(("primary", "secondary"), ("crash", "hang"), ("vm", "node", "host")),
    ("link", "cut", None),
]
WHEN: dict[str, tuple[str, ...]] = {
    "primary": ("run", "send", "wait-received"),
    "secondary": ("wait-request", "receive", "load"),
    "link": ("run", "send", "wait-received"),
}


def faulty(target: str, kind: str, scope: str | None, step: str, duration: str | None) -> Scenario:
    fault = {"target": target, "kind": kind, "step": step, "occurrence": 2}
    fault |= {"scope": scope} if scope else {}
    fault |= {"duration": duration} if duration else {}
    return epochs(manager=WATCHED, fault=[fault], divergence={"probability": 0.01})


CLOSED = {"clients": 10, "think_time": "3 ms"}


@pytest.mark.parametrize("workload", [{}, CLOSED], ids=["open", "closed"])
@pytest.mark.parametrize("policy", ["remus", "colo"])
@pytest.mark.parametrize(("target", "kind", "scope"), KINDS)
def test_faults_are_the_same(policy, target, kind, scope, workload):
    """Takeovers, repeats, lost and duplicate responses; heartbeats and witnesses share the link."""
    for step, duration in product(WHEN[target], (None, "50 ms")):
        if kind == "crash" and duration is not None:
            continue
        what = faulty(target, kind, scope, step, duration)
        if workload:
            what = what.replace(
                {"workload.load": "closed", "workload.rate": None}
                | {f"workload.{key}": value for key, value in workload.items()}
            )
        was, now = both(what, policy)
        check_same(was, now, within_ns=5_000 if policy == "colo" else 0)
        assert now.violations == was.violations == []
        assert any(event["what"] == "fault" for event in now.events)


def test_the_link_gets_slow_after_a_secondary_that_offered_nothing_since_its_load():
    """No row has crossed that the next one might overtake."""
    crash = {"target": "secondary", "kind": "crash", "scope": "vm", "at": "106 ms"}
    slow = {"target": "link", "kind": "slow", "at": "300 ms", "bandwidth": "2 Mbit/s"}
    what = epochs(
        duration="350 ms",
        manager=WATCHED,
        link={"delay": "3 ms"},
        divergence={"probability": 0.02},
        policy={"colo": {"checkpoint_delay": "20 ms", "compare_timeout": "100 ms"}},
        fault=[crash, {**slow, "delay": "2 ms", "duration": "20 ms"}],
    ).replace(
        {"workload.load": "closed", "workload.rate": None}
        | {f"workload.{key}": value for key, value in CLOSED.items()}
    )
    was, now = both(what, "colo")
    check_same(was, now, within_ns=5_000)
    assert [event["what"] for event in now.events].count("fault") == 2


def test_an_unprotected_guest_takes_everything_with_it():
    fault = {"target": "primary", "scope": "host", "kind": "crash", "at": "300 ms"}
    was, now = both(epochs(fault=[fault]), "none")
    check_same(was, now)
    assert now.counters["lost_responses"] > 500


# -- margins -----------------------------------------------------------------------------------

MARGIN = 0.02
LEVEL = 0.05
METRICS = ("throughput_per_s", "latency_mean_ms", "latency_p99_ms", "checkpoints_per_s")
DEFAULTS = {"manager": {}, "policy": {"remus": {"interval": "50 ms"}}, "warm_up": "100 ms"}


def unequal(cells: Mapping[str, tuple[Scenario, Scenario, str]], count: int) -> list[str]:
    """The cells and metrics that are not shown to be equal within the margin.

    Paired by replication, on common random numbers; Holm's correction for all of them together.
    """
    names, p = [], []
    for cell, (one, other, policy) in cells.items():
        runs = [
            [
                run_replication(what, policy, 11, replication).metrics()
                for replication in range(count)
            ]
            for what in (one, other)
        ]
        for metric in METRICS:
            was, now = ([each[metric][0] for each in run] for run in runs)
            if policy == "none" and metric == "checkpoints_per_s":
                continue
            names.append(f"{cell}: {metric}")
            p.append(equivalence(now, was, MARGIN))
    return [name for name, each in zip(names, holm(p), strict=True) if not each < LEVEL]


def grid(
    rates: tuple[int, ...], probabilities: tuple[float, ...], duration: str, **more: Any
) -> dict[str, tuple[Scenario, Scenario, str]]:
    cells = {}
    for rate, probability, policy in product(rates, probabilities, POLICIES):
        what = epochs(
            **{**DEFAULTS, **more},
            duration=duration,
            workload={"rate": f"{rate} /s"},
            divergence={"probability": probability},
        )
        plain = what.replace({"fidelity": "response"})
        cells[f"{policy}, {rate} /s, {probability:g}, {more}"] = (plain, what, policy)
    return cells


@pytest.mark.slow
def test_means_are_equal_within_the_margin():
    cells = grid((1000, 4000), (0.001, 0.02), "800 ms")
    assert unequal(cells, 4) == []


def test_the_check_of_means_can_fail():
    what = epochs(**DEFAULTS)
    slower = what.replace({"workload.service_time": "230 us"})
    found = unequal({"slower": (what, slower, "none"), "same": (what, what, "none")}, 4)
    assert "slower: latency_mean_ms" in found
    assert not any(name.startswith("same") for name in found)


@pytest.mark.campaign
def test_means_are_equal_within_the_margin_over_the_whole_grid():
    rates, probabilities = (500, 2000, 4000, 4700), (0.0, 0.0005, 0.005, 0.05)
    cells: dict[str, tuple[Scenario, Scenario, str]] = {}
    for transfer in TRANSFERS:
        cells |= grid(rates, probabilities, "2 s", transfer=transfer)
    cells |= grid(rates, (0.001,), "2 s", execution={"jitter": 0.5})
    cells |= grid(rates, (0.001,), "2 s", link={"bandwidth": "100 Mbit/s"})
    for clients, policy in product((5, 50), POLICIES):
        closed = {"clients": clients, "think_time": "10 ms"}
        what = epochs(**DEFAULTS, duration="2 s", workload=closed)
        plain = what.replace({"fidelity": "response"})
        cells[f"{policy}, {clients} clients"] = (plain, what, policy)
    assert unequal(cells, 8) == []


@pytest.mark.campaign
@pytest.mark.parametrize("policy", POLICIES)
def test_any_faults_end_the_same(policy):
    """Up to two faults at any time: who goes on and what is lost."""
    for seed in range(100):
        what = epochs(manager=WATCHED, fault=_faults(random.Random(seed), policy))
        was, now = both(what, policy, seed)
        assert [_what(e) for e in now.events] == [_what(e) for e in was.events], seed
        assert now.counters["lost_responses"] == was.counters["lost_responses"], seed
        assert now.violations == was.violations, seed
        if policy != "colo":
            check_same(was, now)


def _faults(chance: random.Random, policy: str) -> list[dict[str, Any]]:
    faults = []
    for _ in range(chance.choice((1, 2))):
        target = "primary" if policy == "none" else chance.choice(("primary", "secondary", "link"))
        kind = "cut" if target == "link" else chance.choice(("crash", "hang"))
        fault = {"target": target, "kind": kind, "at": f"{chance.randint(50_000, 500_000)} us"}
        if target != "link":
            fault["scope"] = chance.choice(("vm", "node", "host"))
        if kind != "crash" and chance.random() < 0.7:
            fault["duration"] = chance.choice(("10 ms", "60 ms", "300 ms"))
        faults.append(fault)
    return faults


# -- seeds, traces, memory ---------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_run_twice_watched_or_not(policy):
    what = epochs(manager=WATCHED)
    lines: list[Line] = []
    seen = run_replication(what, policy, 5, 3, [lines.append])
    assert lines
    assert not seen.violations
    prints = {run_replication(what, policy, 5, 3).fingerprint() for _ in range(2)}
    assert prints == {seen.fingerprint()}
    assert run_replication(what, policy, 6, 3).fingerprint() not in prints


@pytest.mark.parametrize("policy", ["remus", "colo"])
def test_a_trace_replays(policy):
    fault = {"target": "primary", "scope": "host", "kind": "crash", "at": "400 ms"}
    what = epochs(manager=WATCHED, fault=[fault], **SHAPES["impatient"])
    lines: list[Line] = []
    run_replication(what, policy, 1, 0, [lines.append])
    assert replay([decode_line(encode_line(line)) for line in lines]) == []


def test_policies_share_arrivals():
    runs = [run_replication(epochs(), policy, 9, 2) for policy in POLICIES]
    for column in ("client", "request", "arrival_ns"):
        for other in runs[1:]:
            np.testing.assert_array_equal(runs[0].responses[column], other.responses[column])


def test_what_a_checkpoint_costs_does_not_grow_with_the_load():
    """Events of the core and of the clock, a checkpoint."""
    for policy, most in (("remus", 60), ("colo", 90)):
        each = []
        for rate in (2_000, 40_000):
            what = epochs(
                workload={"rate": f"{rate} /s", "service_time": f"{400_000 // rate} us"},
                divergence={"probability": 20 / rate},  # so many a second
                duration="2 s",
                link={"bandwidth": "10 Gbit/s"},
            )
            # who looks sees every step; in one go a checkpoint takes fewer events, not less work
            record = run_replication(what, policy, 1, 0, [lambda line: None])
            count = len(record.checkpoints["checkpoint"])
            assert count > 20
            events = record.counters["node_events"] + record.counters["simulated_events"]
            each.append(events / count)
        assert max(each) < most + 40, (policy, each)
        assert each[1] < 1.5 * each[0], (policy, each)


@pytest.mark.parametrize("policy", POLICIES)
def test_memory_beside_the_record_does_not_grow_with_the_run(policy):
    sizes = []
    for duration in ("5 s", "20 s"):
        what = epochs(
            duration=duration,
            workload={"rate": "40000 /s", "service_time": "10 us"},
            divergence={"probability": 1e-5},
            link={"bandwidth": "10 Gbit/s"},
        )
        world = SimWorld(what, policy, Streams(1, 0))
        world.run()
        assert isinstance(world.output, EpochOutput)
        sizes.append(world.output._log.window_rows)
    assert sizes[1] <= 1.5 * sizes[0]


#: after each of them one guest serves on its own; some leave a state that nobody loads
LASTING: dict[str, dict[str, Any]] = {
    "takeover": {"target": "primary", "kind": "crash", "scope": "host", "step": "send"},
    "secondary dies": {"target": "secondary", "kind": "crash", "scope": "host", "step": "receive"},
    "link cut": {"target": "link", "kind": "cut", "at": "400 ms"},
}


@pytest.mark.parametrize("policy", ["remus", "colo"])
@pytest.mark.parametrize(("state", "load"), [*product(LASTING, ("open",)), ("takeover", "closed")])
def test_memory_does_not_grow_with_a_time_without_protection(state, load, policy):
    loads = {"open": {"rate": "40000 /s", "service_time": "10 us"}, "closed": CLOSED}
    sizes = []
    for seconds in (3, 9):
        what = epochs(
            duration=f"{seconds} s",
            manager=WATCHED,
            workload=loads[load],
            divergence={"probability": 0.001},
            link={"bandwidth": "10 Gbit/s"},
            fault=[LASTING[state]],
        )
        world = SimWorld(what, policy, Streams(1, 0))
        world.run()
        assert isinstance(world.output, EpochOutput)
        assert "alone" in [event["what"] for event in world.recorder.events]
        served = world.network.table()["served_ns"]
        assert np.count_nonzero(served > 1e9) > (seconds - 1) * 2_000
        sizes.append(world.output._log.window_rows)
    assert sizes[1] < 2 * sizes[0]


#: connections that differ wait for a cut as the secondary dies; witnesses are under way at a cut
ENDINGS: dict[str, dict[str, Any]] = {
    "secondary dies": {
        "workload": {"client_jitter": "2 ms"},
        "manager": {**WATCHED, "fencing": False},
        "divergence": {"probability": 0.2},
        "policy": {"colo": {"compare_timeout": "2 ms", "minimum_gap": "50 ms"}},
        "link": {"delay": "3 ms"},
        "fault": [{"target": "secondary", "kind": "crash", "scope": "host", "at": "198 ms"}],
    },
    "takeover": {
        "workload": {"client_jitter": "2 ms", "rate": "4000 /s"},
        "manager": WATCHED,
        "divergence": {"probability": 0.0},
        "policy": {"colo": {"checkpoint_delay": "30 ms"}},
        "link": {"delay": "3 ms", "bandwidth": "10 Gbit/s"},
        "fault": [{"target": "primary", "kind": "crash", "scope": "host", "at": "111 ms"}],
    },
}


@pytest.mark.parametrize("policy", ["remus", "colo"])
@pytest.mark.parametrize("clients", [{}, CLOSED], ids=["open", "closed"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_no_row_is_read_after_it_was_forgotten(ending, clients, policy, monkeypatch):
    """Rows are forgotten as soon as nobody needs them, and all is as if they never were."""
    tables = ENDINGS[ending]
    what = epochs(**{**tables, "workload": {**tables["workload"], **clients}})
    was = run_replication(what, policy, 1, 0)
    view, plan = Log.view, EpochForesight._plan
    oldest = []

    def checked(log: Log, name: str, first: int, end: int) -> Times:
        assert name in log._kept or first >= min(end, log._base), name
        return view(log, name, first, end)

    def forgets(foresight: EpochForesight, ran_out: bool) -> None:
        plan(foresight, ran_out)
        horizon: Any = foresight._horizon
        log, last = horizon._log, getattr(horizon._log, "last", ())
        log.forget(min((horizon._needed_from(), *(row for row in last if row >= 0))))
        log._make_room(0)
        oldest.append(log._base)

    monkeypatch.setattr(Log, "view", checked)
    monkeypatch.setattr(EpochForesight, "_plan", forgets)
    assert run_replication(what, policy, 1, 0).fingerprint() == was.fingerprint()
    assert max(oldest) > 50


@pytest.mark.parametrize("policy", POLICIES)
def test_a_queue_that_grows_is_planned_a_block_at_a_time(policy, monkeypatch):
    """More comes than is served: what waits is planned when its turn comes, and the same."""
    planned = []
    planned_to = Lane.planned_to

    def count(lane: Lane, end: int) -> None:
        planned.append(end - lane.planned)
        planned_to(lane, end)

    monkeypatch.setattr(Lane, "planned_to", count)
    what = epochs(
        workload={"rate": "20000 /s", "service_time": "100 us", "client_delay": "20 us"},
        divergence={"probability": 0.01},
        link={"bandwidth": "10 Gbit/s"},
    )
    was, now = both(what, policy)
    check_same(was, now)
    assert np.count_nonzero(now.responses["served_ns"] < 0) > 2_000  # they wait at the end
    assert sum(planned) < 8 * now.responses["served_ns"].size, policy


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_large_is_left_of_a_run(policy):
    """Its parts are in rings; a collector would find them by and by."""
    gc.collect()
    gc.disable()
    try:
        before = {id(each) for each in gc.get_objects() if isinstance(each, Log)}
        record = run_replication(epochs(), policy, 1, 0)
        left = [each for each in gc.get_objects() if isinstance(each, Log)]
    finally:
        gc.enable()
    assert record.responses["served_ns"].size
    assert not [each for each in left if id(each) not in before]


# -- limits of the model -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workload.vcpus": 2}, "workload.vcpus: fidelity"),
        ({"workload.pipelined": False}, "workload.pipelined: fidelity"),
        ({"cost.first_write": "1 us"}, "cost.first_write: fidelity"),
        ({"cost.witness": "1 ms"}, "cost.witness: fidelity"),
        ({"divergence.unprompted": "1 /s"}, "divergence.unprompted: fidelity"),
        (
            {"divergence.connection_probability": 0.1},
            "divergence.connection_probability: fidelity",
        ),
    ],
)
def test_what_there_is_not_is_refused_in_one_line(changes, message):
    with pytest.raises(ScenarioError) as error:
        epochs().replace(changes)
    assert str(error.value).count("\n") == 0
    assert message in str(error.value)


def test_other_workloads_are_refused():
    with pytest.raises(ScenarioError, match='a batch job is one request, no array of them; give "'):
        Scenario.from_mapping({**BASE, "workload": {"kind": "batch", "work": "100 ms"}})
    with pytest.raises(ScenarioError, match="hybrid with epoch with closed: who waits for what"):
        epochs(workload=CLOSED, policy={"name": "hybrid"})
    spread = {"release": "20 us", "release_spread": 0.5}
    with pytest.raises(ScenarioError, match=r"cost\.release_spread: .* give 0"):
        epochs(workload=CLOSED, cost=spread)


# -- the command -------------------------------------------------------------------------------


def test_the_command_takes_the_fidelity(tmp_path):
    """A run is kept, its figures drawn, its trace replayed; what is not possible is one line."""
    what = epochs(fidelity="response", duration="200 ms", replications=2)
    direct = [run_replication(what.replace({"fidelity": "epoch"}), "colo", 1, i) for i in range(2)]
    result = api.simulate(what, "colo", out=tmp_path / "run", fidelity="epoch", jobs=1)
    assert [r.fingerprint() for r in result.records] == [r.fingerprint() for r in direct]
    [found] = api.replay(tmp_path / "run")
    assert not found.differences
    batch = {"kind": "batch", "work": "100 ms"}
    with pytest.raises(ScenarioError, match="fidelity: a batch job is one request"):
        api.simulate({**BASE, "fidelity": "response", "workload": batch}, "none", fidelity="epoch")


@pytest.mark.parametrize("speed", [1.0, 0.7])
@pytest.mark.parametrize("jitter", [0.0, 0.3])
@pytest.mark.parametrize("distribution", ["deterministic", "exponential"])
def test_the_secondarys_work_is_the_same_made_early_or_late(
    distribution: str, jitter: float, speed: float
) -> None:
    workload = epochs(workload={"connections": 7, "service_distribution": distribution}).workload
    assert isinstance(workload, OpenService)
    logs = [
        Log(workload, 10**9, Streams(3, 1), jitter, 0.0, True, speed, mirrored=mirrored)
        for mirrored in (True, False)
    ]
    for log in logs:
        for size in (9_000, 50_000, 120_000):
            log.ensure(size)
            log.forget(size - 4_321)
        assert log.size > log.window_rows  # some are forgotten
    early, late = (log.view("secondary_work", 119_000, 120_000) for log in logs)
    assert (early == late).all()
    for log in logs:
        log.ensure(200_000)
    early, late = (log.view("secondary_work", 199_000, 200_000) for log in logs)
    assert (early == late).all()
