"""A secondary that is not the primary's equal: another speed, a late start, another clock."""

from __future__ import annotations

import numpy as np
import pytest

from backends.sim import run_replication
from colosim.model.divergence import Divergence
from colosim.scenario import Scenario, ScenarioError
from tests.sim.test_epoch import WATCHED, check_same, epochs
from tests.sim.worlds import (
    NS_PER_MS,
    check_mean,
    poisson,
    replicate,
    scenario,
    service,
    waiting_s,
)

# -- speed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_clients_of_colo_wait_for_the_slower_guest(speed):
    """Both guests are M/M/1 queues with the same arrivals and draws, so the slower is always last.

    A response leaves when the slower guest has made it: M/M/1 with the mean time of that guest.
    """
    workload = service("open", "1 ms", rate="350 /s")
    what = scenario(
        workload,
        "6 s",
        warm_up="1 s",
        execution={"jitter": 0.0, "secondary_speed": speed},
        policy={"colo": {"compare_timeout": "10 s"}},
    )
    slower_s = 1e-3 / min(speed, 1.0)
    truth_s = waiting_s(350, slower_s, 1, is_random=True) + slower_s
    runs = replicate(what, "colo", 10)
    assert all(len(run.checkpoints["checkpoint"]) == 0 for run in runs)
    check_mean([run.metrics()["latency_mean_ms"][0] / 1e3 for run in runs], truth_s, within=0.2)


def test_work_left_takes_longer_on_a_slow_survivor():
    """A job whose host fails has R left at the last commit; then R / speed from the takeover on."""
    what = scenario(
        {"kind": "batch", "work": "300 ms"},
        "3 s",
        manager={"heartbeat_interval": "10 ms", "heartbeat_timeout": "50 ms"},
        policy={"name": "remus", "remus": {"interval": "20 ms"}},
        fault=[{"target": "primary", "scope": "host", "kind": "crash", "at": "105 ms"}],
    )

    def completion_ns(speed: float) -> int:
        changed = what.replace({"execution.secondary_speed": speed})
        return run_replication(changed, "remus", 1, 0).completion_ns

    full, half, quarter = map(completion_ns, (1.0, 0.5, 0.25))
    left_ns = half - full
    assert 190e6 < left_ns < 210e6  # 300 ms less the 100 ms that were committed, at most
    assert quarter - full == pytest.approx(3 * left_ns, abs=4)


@pytest.mark.parametrize("policy", ["remus", "colo"])
@pytest.mark.parametrize("jitter", [0.0, 0.3])
@pytest.mark.parametrize("workload", [{}, {"clients": 10, "think_time": "3 ms"}])
def test_fidelity_epoch_has_the_same_speed(policy, jitter, workload):
    for fault in ([], [{"target": "primary", "kind": "crash", "scope": "host", "at": "300 ms"}]):
        what = epochs(
            workload=workload,
            execution={"jitter": jitter, "secondary_speed": 0.7},
            fault=fault,
            manager=WATCHED,
        )
        plain = run_replication(what.replace({"fidelity": "response"}), policy, 1, 0)
        now = run_replication(what, policy, 1, 0)
        check_same(plain, now, within_ns=5_000 if policy == "colo" else 0)
        usual = run_replication(what.replace({"execution.secondary_speed": 1.0}), policy, 1, 0)
        assert usual.fingerprint() != now.fingerprint()  # its own pages alone make a difference


# -- a late start ------------------------------------------------------------------------------

SKEW_NS, PERIOD_NS = 6 * NS_PER_MS, 20 * NS_PER_MS


def test_a_late_start_holds_back_what_comes_meanwhile():
    """A request that arrives y after a start leaves at L if y < L: L^2 / (2 T) on average.

    Starts are every T, for checkpoints take no time; T is the same for all.
    """
    what = scenario(
        poisson(500),
        "1250 ms",
        execution={"jitter": 0.0, "start_skew": "6 ms"},
        policy={"colo": {"checkpoint_delay": "20 ms", "compare_timeout": "1 s"}},
    )
    means = []
    for run in replicate(what, "colo", 12):
        starts = np.concatenate(([0], run.checkpoints["completed_ns"][:-1]))
        assert np.ptp(np.diff(starts)[1:]) <= 100
        arrival, released = run.responses["arrival_ns"], run.responses["released_ns"]
        chosen = (arrival < starts[-1] - 1_000_000) & (released >= 0)
        arrival, released = arrival[chosen], released[chosen]
        start = starts[np.searchsorted(starts, arrival, side="right") - 1]
        predicted = np.maximum(arrival, start + SKEW_NS) + 1_000
        assert np.abs(released - predicted).max() <= 100
        means.append((released - arrival - 1_000).mean())
    check_mean(means, SKEW_NS**2 / (2 * PERIOD_NS), within=0.15)


def test_skews_vary_around_their_mean_and_are_the_same_for_both_fidelities():
    skews = {"start_skew": "2 ms", "start_skew_spread": 0.5}
    what = epochs(execution={"jitter": 0.1, **skews})
    plain = run_replication(what.replace({"fidelity": "response"}), "colo", 1, 0)
    now = run_replication(what, "colo", 1, 0)
    check_same(plain, now, within_ns=1_000)
    fixed = run_replication(what.replace({"execution.start_skew_spread": 0.0}), "colo", 1, 0)
    assert fixed.fingerprint() != now.fingerprint()


@pytest.mark.parametrize("step", ["run", "wait-loaded", "send"])
def test_a_primary_that_fails_before_the_late_start(step):
    """The secondary has yet to start, or is stopped before it has; it serves all the same."""
    fault = {"target": "primary", "scope": "host", "kind": "crash", "step": step, "occurrence": 2}
    what = epochs(
        fidelity="response",
        execution={"jitter": 0.1, "start_skew": "30 ms"},
        manager=WATCHED,
        policy={"name": "colo", "colo": {"checkpoint_delay": "25 ms"}},
        fault=[fault],
        duration="1 s",
    )
    run = run_replication(what, "colo", 1, 0)
    assert run.violations == []
    assert run.counters["lost_responses"] == 0
    assert (run.responses["released_ns"] > 900 * NS_PER_MS).sum() > 50


# -- another clock -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "timed", "chance"), [("300 us", 1.0, 0.3), ("900 us", 0.5, 0.45)]
)
def test_responses_that_say_the_time(offset, timed, chance):
    """A step of the clock lies between two readings d apart with chance d / r, r = 1 ms here."""
    what = timing(timed, offset)
    runs = replicate(what, "colo", 6)
    parts = [run.counters["mismatches"] / len(run.responses["client"]) for run in runs]
    check_mean(parts, chance, within=0.15)


def timing(timed: float, offset: str, **more: object) -> Scenario:
    clock = {"timed": timed, "clock_offset": offset, "clock_resolution": "1 ms"}
    return scenario(poisson(600), "2 s", divergence=clock, **more)


def test_clocks_that_agree_make_no_difference_unless_the_secondary_is_late():
    (same,) = replicate(timing(1.0, "0 s"), "colo", 1)
    assert same.counters["mismatches"] == 0
    (late,) = replicate(
        timing(1.0, "0 s", execution={"jitter": 0.0, "secondary_speed": 0.01}), "colo", 1
    )
    # 1 us of work takes 100 us there: 0.1 of the responses
    assert late.counters["mismatches"] / len(late.responses["client"]) == pytest.approx(
        0.1, rel=0.3
    )


def test_frames_say_the_time_too():
    workload = service("open", "100 us", rate="300 /s", service_distribution="deterministic")
    clock = {"timed": 1.0, "clock_offset": "4 ms", "clock_resolution": "10 ms"}
    what = scenario(workload, "1 s", fidelity="packet", divergence=clock)
    (run,) = replicate(what, "colo", 1)
    assert 0.2 < run.counters["mismatches"] / len(run.responses["client"]) < 0.6
    assert run.counters["wrong_responses"] == run.counters["resets"] == 0
    (same,) = replicate(what.replace({"divergence.clock_offset": "0 s"}), "colo", 1)
    assert same.counters["mismatches"] == 0


def test_what_the_clock_says():
    clock = Divergence(timed=0.5, clock_offset_ns=3, clock_resolution_ns=10)
    assert [clock.time_said(0.4, at, is_ahead=False) for at in (0, 9, 10)] == [0, 0, 1]
    assert [clock.time_said(0.4, at, is_ahead=True) for at in (0, 6, 7)] == [0, 0, 1]
    assert clock.time_said(0.5, 100, is_ahead=True) is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fidelity": "epoch", "divergence": {"timed": 0.1}}, "divergence.timed"),
        ({"divergence": {"clock_offset": "1 ms"}}, "divergence.clock_offset"),
        ({"execution": {"start_skew_spread": 0.5}}, "execution.start_skew_spread"),
        ({"execution": {"secondary_speed": 0.0}}, "execution.secondary_speed"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, says):
    workload = service("open", "100 us", rate="300 /s")
    with pytest.raises(ScenarioError) as told:
        scenario(workload, "1 s", **changes)
    (line,) = str(told.value).splitlines()
    assert says in line
    assert ";" in line
