"""What only calibrated scenarios use: spreads, the hosts' own times, clients that wait."""

from __future__ import annotations

import numpy as np
import pytest

from colosim.model.cost import Costs, varied_ns
from tests.sim.worlds import FREE, NS_PER_MS, poisson, replicate, scenario, service

REMUS = {"policy": {"name": "remus", "remus": {"interval": "50 ms"}}}
IDLE = {"kind": "batch", "work": "5 s"}


def pauses_ms(**cost):
    [run] = replicate(scenario(IDLE, "5 s", cost={**FREE, **cost}, **REMUS), "remus", 1)
    table = run.checkpoints
    done = table["resumed_ns"] >= 0
    return (table["resumed_ns"] - table["stopped_ns"])[done] / NS_PER_MS, run


def test_the_hosts_own_time_to_move_a_state_is_part_of_the_pause():
    assert pauses_ms()[0].mean() < 0.01
    pauses, _ = pauses_ms(transfer_fixed="3 ms")
    assert np.allclose(pauses, 3, atol=0.01)


def test_a_page_moved_costs_what_it_says():
    memory = {"kind": "sequential", "working_set_pages": 1000, "touches": "2000 /s"}
    cost = {**FREE, "transfer_per_page": "10 us"}
    [run] = replicate(scenario(IDLE, "5 s", cost=cost, memory=memory, **REMUS), "remus", 1)
    table = run.checkpoints
    done = table["resumed_ns"] >= 0
    pauses = (table["resumed_ns"] - table["stopped_ns"])[done]
    assert np.allclose(pauses, 10_000 * table["pages"][done], atol=1e5)
    assert table["pages"][done].min() > 50


@pytest.mark.parametrize("step", ["stop", "save", "transfer", "load", "resume"])
def test_a_spread_has_its_mean_and_deviation(step):
    name = step if step in ("stop", "resume") else f"{step}_fixed"
    # the secondary stops while the primary still runs; but it resumes before it says LOADED
    times = 2 if step == "resume" else 1
    pauses, _ = pauses_ms(**{name: "4 ms", f"{step}_spread": 0.3})
    n = pauses.size
    deviation = 4 * 0.3 * np.sqrt(times)
    assert abs(pauses.mean() - 4 * times) < 4 * deviation / np.sqrt(n)
    # standard error of a lognormal's deviation: kurtosis makes it about twice the normal's
    assert abs(pauses.std() / deviation - 1) < 8 / np.sqrt(2 * n)
    again, _ = pauses_ms(**{name: "4 ms", f"{step}_spread": 0.3})
    assert list(again) == list(pauses)


def test_a_factor_is_lognormal_with_mean_1():
    z = np.random.default_rng(1).standard_normal(200_000)
    drawn = np.array([varied_ns(1_000_000, 0.5, each) for each in z]) / 1e6
    assert drawn.mean() == pytest.approx(1, abs=0.005)
    assert drawn.std() == pytest.approx(0.5, abs=0.01)
    assert varied_ns(1_000_000, 0.0, 3.0) == 1_000_000


def test_a_host_that_notices_late_checkpoints_late():
    _, run = pauses_ms(wake_up="2 ms")
    assert set(np.diff(run.checkpoints["started_ns"])) == {52 * NS_PER_MS}
    _, run = pauses_ms()
    assert set(np.diff(run.checkpoints["started_ns"])) == {50 * NS_PER_MS}


@pytest.mark.parametrize(("policy", "late_ms"), [("remus", 4), ("none", 0)])
def test_what_was_held_leaves_late(policy, late_ms):
    load = service("closed", "1 us", clients=3, think_time="5 ms")
    usual, late = (
        replicate(scenario(load, "3 s", cost={**FREE, "release": each}, **REMUS), policy, 1)[0]
        for each in ("0 s", "4 ms")
    )
    for run, more_ms in ((usual, 0), (late, late_ms)):
        answered = run.responses["released_ns"] >= 0
        released = run.responses["released_ns"][answered]
        if policy == "remus":
            since = (released[:, None] - run.checkpoints["committed_ns"][None, :]) / NS_PER_MS
            assert np.isclose(np.abs(since - more_ms).min(axis=1), 0, atol=0.01).all()
        assert run.counters["lost_responses"] == 0
        assert answered.sum() > 100
    same = late.fingerprint() == usual.fingerprint()
    assert same is (late_ms == 0)


def test_a_client_that_does_not_pipeline_waits_for_its_answer():
    load = poisson(200, connections=4)
    many, one = (
        replicate(scenario({**load, "pipelined": each}, "4 s", **REMUS), "remus", 1)[0].responses
        for each in (True, False)
    )
    # a request counts from when it was due, so both worlds have the same ones
    by_due = [
        dict(zip(zip(r["client"], r["request"], strict=True), r["arrival_ns"], strict=True))
        for r in (many, one)
    ]
    assert by_due[1].items() <= by_due[0].items()
    for client in range(4):
        own = one["client"] == client
        assert list(one["request"][own]) == sorted(one["request"][own])
        released = one["released_ns"][own]
        released = released[released >= 0]
        # one answer a checkpoint, no two at once
        assert (np.diff(released) > 40 * NS_PER_MS).all()
    assert np.diff(np.sort(many["released_ns"][many["released_ns"] >= 0])).min() == 0
    # 4 connections, 20 checkpoints a second: 80 answers of the 200 that are due
    assert (one["released_ns"] >= 0).sum() == pytest.approx(80 * 4, rel=0.05)


def test_it_changes_nothing_where_nobody_has_to_wait():
    load = poisson(50, connections=500)
    many, one = (
        replicate(scenario({**load, "pipelined": each}, "4 s"), "none", 1)[0]
        for each in (True, False)
    )
    assert list(many.responses["released_ns"]) == list(one.responses["released_ns"])


def test_jitter_is_on_the_way_and_not_in_the_guest():
    load = {**poisson(500, service_time="1 ms", vcpus=1), "client_jitter": "2 ms"}
    [run] = replicate(scenario(load, "20 s"), "none", 1)
    responses = run.responses
    answered = responses["released_ns"] >= 0
    way_ms = (responses["released_ns"] - responses["served_ns"])[answered] / NS_PER_MS
    assert abs(way_ms.mean() - 2) < 4 * 2 / np.sqrt(way_ms.size)
    assert abs(way_ms.std() - 2) < 4 * 2 * np.sqrt(2 / way_ms.size)
    # an M/D/1 queue at half load, which the jitter does not touch: 1.5 ms (Pollaczek-Khinchine)
    sojourn_ms = (responses["served_ns"] - responses["arrival_ns"])[answered] / NS_PER_MS
    assert sojourn_ms.mean() == pytest.approx(1.5, rel=0.1)


def test_zero_pages_are_a_byte_each():
    half = Costs(zero_pages=0.5, device_state_bytes=1000)
    assert half.state_bytes(100) == 1000 + 50 * 4104 + 50 * 9


@pytest.mark.parametrize("kind", ["crash", "hang"])
@pytest.mark.parametrize("scope", ["vm", "node", "host"])
def test_a_fault_while_the_state_is_moved_leaves_one_side_that_serves(scope, kind):
    fault = [{"target": "primary", "scope": scope, "kind": kind, "step": "send", "occurrence": 3}]
    manager = {"heartbeat_interval": "20 ms", "heartbeat_timeout": "100 ms"}
    limits = dict.fromkeys(("send", "received", "loaded", "save"), "300 ms")
    given = scenario(
        poisson(100),
        "5 s",
        cost={**FREE, "transfer_fixed": "5 ms", "release": "1 ms", "release_spread": 0.5},
        fault=fault,
        manager=manager,
        limits=limits,
        commit="loaded",
        **REMUS,
    )
    [run] = replicate(given, "remus", 1)
    assert run.violations == []
    assert run.counters["lost_responses"] == 0
    assert run.responses["released_ns"].max() > 4_500 * NS_PER_MS
