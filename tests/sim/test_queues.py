"""The simulator against queues and renewals that have a closed form, at both fidelities.

Beside `test_closed_forms` (mean waiting times, buffered output, renewals without a gap): whole
distributions of the time in a queue, servers that stop for checkpoints, and the least gap between
COLO's checkpoints.  `docs/models.md` has a table of what is checked against what.

Each share and each mean is held to a confidence interval over replications whose false-alarm rate
is `worlds.FALSE_ALARM`, and which must be narrow enough to tell the formula from its neighbours.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import chi2

from colosim.model.results import RunRecord
from colosim.scenario import Scenario
from tests.sim.worlds import (
    FALSE_ALARM,
    FREE,
    INSTANT,
    NS_PER_MS,
    NS_PER_S,
    check_mean,
    delayed_renewals,
    interrupted_s,
    poisson,
    replicate,
    scenario,
    served_by,
    service,
)

SERVICE_S = 1e-3

# -- time in the queue, without protection ---------------------------------------------------------


def queue(distribution: str, load: float, fidelity: str, length_s: float) -> Scenario:
    """M/M/1 or M/D/1, started empty; the warm-up is some 50 time constants of the slowest."""
    workload = service(
        "open",
        "1 ms",
        rate=f"{load / SERVICE_S} /s",
        service_distribution=distribution,
    )
    return scenario(workload, f"{length_s} s", warm_up="2 s", fidelity=fidelity)


def measured_s(record: RunRecord, until: str = "released_ns") -> np.ndarray:
    """Seconds from arrival to ``until`` of all requests that arrived after the warm-up."""
    table = record.responses
    chosen = (table["arrival_ns"] >= record.warm_up_ns) & (table[until] >= 0)
    return (table[until] - table["arrival_ns"])[chosen] / NS_PER_S


def check_distribution(
    distribution: str, load: float, fidelity: str, length_s: float, count: int, within: float
) -> None:
    """Share of requests that take longer than t, at five t from the median to the far tail."""
    times_s = [
        measured_s(record)
        for record in replicate(queue(distribution, load, fidelity, length_s), "none", count)
    ]
    rate = load / SERVICE_S
    sojourn_s = np.concatenate(times_s)
    for quantile in (0.5, 0.75, 0.9, 0.97, 0.99):
        # Any t would do; these have enough requests beyond them.
        t = round(float(np.quantile(sojourn_s, quantile)), 5)
        truth = 1 - served_by(t, rate, SERVICE_S, distribution == "exponential")
        beyond = [float((times > t).mean()) for times in times_s]
        # The further out, the fewer requests: they come in busy periods.
        check_mean(beyond, truth, within=within * (1 if quantile < 0.9 else 4))
    mean = rate * SERVICE_S**2 / (1 - load) * (1 if distribution == "exponential" else 0.5)
    check_mean([times.mean() for times in times_s], mean + SERVICE_S, within=within)


@pytest.mark.parametrize("distribution", ["exponential", "deterministic"])
@pytest.mark.parametrize("load", [0.5, 0.8])
def test_times_in_a_queue_have_the_right_distribution(distribution, load):
    """M/M/1: exponential of rate mu - lambda.  M/D/1: Crommelin's sum.  Millions of requests."""
    length_s, within = {0.5: (122, 0.03), 0.8: (402, 0.04)}[load]
    check_distribution(distribution, load, "epoch", length_s, 24, within)


@pytest.mark.parametrize("distribution", ["exponential", "deterministic"])
def test_times_in_a_queue_at_fidelity_response(distribution):
    check_distribution(distribution, 0.5, "response", 7, 16, within=0.15)


@pytest.mark.campaign
@pytest.mark.parametrize("distribution", ["exponential", "deterministic"])
@pytest.mark.parametrize(
    ("fidelity", "load"),
    [
        *(("epoch", load) for load in (0.3, 0.5, 0.8, 0.9)),
        *(("response", load) for load in (0.3, 0.5)),
    ],
)
def test_times_in_a_queue_at_full_counts(distribution, load, fidelity):
    length_s, factor = {"response": (22, 7.0), "epoch": (1002, 1.0)}[fidelity]
    within = {0.3: 0.01, 0.5: 0.015, 0.8: 0.04, 0.9: 0.1}[load] * factor
    check_distribution(distribution, load, fidelity, length_s, 40, within)


# -- a server that stops for checkpoints -----------------------------------------------------------

STOPPED_MS, RUNNING_MS = 4, 8


def random_epochs(tmp_path, fidelity: str, load: float, distribution: str) -> Scenario:
    """Remus back to back: a copy stops the guest for 4 ms, then it runs for an exponential time.

    copy-then-send at once again: the next checkpoint begins as the last is committed, and that is
    as long after the copy as its pages take on the link.  Pages are exponential, mean 8 ms.
    """
    curve = tmp_path / f"exponential-{fidelity}.csv"
    quantiles = -np.log1p(-(np.arange(2000) + 0.5) / 2000)
    pages_per_ms = 1e9 * 1e-3 / (8 * 4104)
    rows = [
        f"spread,flat,{ms},{ms},{RUNNING_MS * pages_per_ms * quantile:.3f}"
        for ms in (0.001, 1_000_000)
        for quantile in quantiles
    ]
    curve.write_text("\n".join(["workload,setting,interval_ms,exposure_ms,dirty_pages", *rows]))
    workload = service(
        "open", "1 ms", rate=f"{load / SERVICE_S} /s", service_distribution=distribution
    )
    return scenario(
        workload,
        "6 s",
        warm_up="1 s",
        fidelity=fidelity,
        transfer="copy-then-send",
        memory={
            "kind": "measured",
            "file": str(curve),
            "workload": "spread",
            "setting": "flat",
            "pages_per_request": 0.0,
            "guest_memory": "4 GiB",
        },
        cost={**FREE, "copy_fixed": f"{STOPPED_MS} ms"},
        link={"bandwidth": "1 Gbit/s", "delay": "0 s"},
        policy={"remus": {"interval": "1 us"}},
    )


@pytest.mark.parametrize(
    ("fidelity", "load", "distribution", "count"),
    [
        ("epoch", 0.4, "exponential", 8),
        ("response", 0.5, "deterministic", 8),
        pytest.param("epoch", 0.5, "exponential", 120, marks=pytest.mark.campaign),
        pytest.param("epoch", 0.5, "deterministic", 120, marks=pytest.mark.campaign),
    ],
)
def test_a_server_that_stops_at_random_for_remus(tmp_path, fidelity, load, distribution, count):
    """M/G/1 whose server is away now and then, in the middle of a service too.

    What must hold for the formula, and does here: arrivals are Poisson and go on while the guest
    stands; the guest runs for independent exponential times, whether it is busy or not, and stands
    for independent times; a service that was cut goes on where it was.  With Remus's fixed interval
    the second does not hold.  The time is that until the guest has served a request: when a client
    sees the answer is a matter of the commit.
    """
    what = random_epochs(tmp_path, fidelity, load, distribution)
    runs = replicate(what, "remus", count)
    stopped_s, running_s = STOPPED_MS / 1e3, RUNNING_MS / 1e3
    truth = interrupted_s(load / SERVICE_S, SERVICE_S, distribution, 1 / running_s, stopped_s)
    within = 0.8 / math.sqrt(count)
    check_mean([measured_s(run, "served_ns").mean() for run in runs], truth, within=within)
    # As a queue that never stops, or one whose server is only that much slower, it would fail.
    slower = load * (1 + stopped_s / running_s)
    second = 2 if distribution == "exponential" else 1
    slow_s = SERVICE_S * (1 + stopped_s / running_s) * (1 + second * slower / 2 / (1 - slower))
    assert abs(slow_s / truth - 1) > 0.3
    pauses_s = np.concatenate([np.diff(run.checkpoints["started_ns"]) for run in runs]) / NS_PER_S
    assert pauses_s.mean() == pytest.approx(stopped_s + running_s, rel=0.08)
    assert np.std(pauses_s) == pytest.approx(running_s, rel=0.12)


def test_a_server_that_stops_at_random_for_colo():
    """The same formula where COLO's guests say different things after an exponential time.

    Both guests stand for the whole checkpoint, a message and 4 ms, and run again together; nothing
    else holds an answer back, as both take the same time for a request.
    """
    load = 0.4
    workload = service("open", "1 ms", rate=f"{load / SERVICE_S} /s")
    what = scenario(
        workload,
        "6 s",
        warm_up="1 s",
        divergence={"unprompted": f"{1e3 / RUNNING_MS} /s"},
        cost={**FREE, "save_fixed": f"{STOPPED_MS} ms"},
        link=INSTANT,
    )
    runs = replicate(what, "colo", 8)
    truth = interrupted_s(
        load / SERVICE_S, SERVICE_S, "exponential", 1e3 / RUNNING_MS, STOPPED_MS / 1e3
    )
    check_mean([measured_s(run).mean() for run in runs], truth, within=0.25)


# -- the least gap between COLO's checkpoints ------------------------------------------------------

GAP_MS = 20


def with_gap(per_s: float, length_s: float) -> Scenario:
    return scenario(
        poisson(20),
        f"{length_s} s",
        divergence={"unprompted": f"{per_s} /s"},
        policy={"colo": {"minimum_gap": f"{GAP_MS} ms", "checkpoint_delay": "1 h"}},
    )


@pytest.mark.parametrize(
    ("per_s", "count"),
    [
        (20.0, 60),
        (100.0, 40),
        pytest.param(20.0, 600, marks=pytest.mark.campaign),
        pytest.param(50.0, 600, marks=pytest.mark.campaign),
        pytest.param(100.0, 600, marks=pytest.mark.campaign),
    ],
)
def test_checkpoints_with_a_least_gap_are_a_renewal_process(per_s, count):
    """Epochs last max(gap, X), X exponential of rate h; checkpoints take no time.

    The first is X alone, as nothing was before it.  Mean (gap + e^(-h gap) / h) and variance of an
    epoch, the share of epochs that the gap made, and mean and variance of the number of epochs.
    """
    length_s, gap_s = 1.5, GAP_MS / 1e3
    runs = replicate(with_gap(per_s, length_s), "colo", count)
    wide = math.sqrt(600 / count)
    late = math.exp(-per_s * gap_s)
    mean_s = gap_s + late / per_s
    variance_s2 = gap_s**2 + late * (2 * gap_s / per_s + 2 / per_s**2) - mean_s**2
    epochs_s = [np.diff(run.checkpoints["started_ns"]) / NS_PER_S for run in runs]
    # A number of epochs fixed beforehand: those that a fixed time holds are too short on average.
    first = int(0.4 * length_s / mean_s)
    assert min(map(len, epochs_s)) >= first
    chosen = np.array([each[:first] for each in epochs_s])
    check_mean(chosen.mean(axis=1), mean_s, within=0.04 * wide)
    check_mean(((chosen - mean_s) ** 2).mean(axis=1), variance_s2, within=0.25 * wide)
    assert chosen.min() >= gap_s
    made_by_gap = chosen < gap_s + 1e-6
    check_mean(made_by_gap.mean(axis=1), 1 - late, within=0.07 * wide)

    counts = [len(run.checkpoints["checkpoint"]) for run in runs]
    truth = delayed_renewals(length_s, 1 / per_s, mean_s, variance_s2)
    check_mean(counts, truth.mean, within=0.03 * wide)
    n, variance = len(counts), float(np.var(counts, ddof=1))
    low, high = (n - 1) * variance / chi2.ppf([1 - FALSE_ALARM / 2, FALSE_ALARM / 2], n - 1)
    assert low <= truth.variance <= high
    assert per_s < 50 or truth.mean > high  # as the variance of a Poisson process would be


def test_a_gap_that_is_never_reached_changes_nothing():
    """The gap counts from one start to the next, so at 0.2 epochs a second it is never felt."""
    (run,) = replicate(with_gap(0.2, 100.0), "colo", 1)
    epochs_ms = np.diff(run.checkpoints["started_ns"]) / NS_PER_MS
    assert len(epochs_ms) > 5
    assert epochs_ms.min() > GAP_MS
