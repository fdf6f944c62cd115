"""The simulator against textbook formulas: queues, buffered output, renewals, distinct pages.

Each mean is held to a confidence interval whose false-alarm rate is `worlds.FALSE_ALARM`, and
which must be narrow enough to tell the formula from its neighbours.
"""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from scipy.stats import chi2

from colosim.model.memory import MeasuredCurve
from colosim.scenario import Service
from tests.sim.worlds import (
    FALSE_ALARM,
    FREE,
    INSTANT,
    NS_PER_MS,
    NS_PER_S,
    asymptotic_renewals,
    check_mean,
    latency_ns,
    poisson,
    renewals,
    repairman_per_s,
    replicate,
    scenario,
    service,
    timeline,
    waiting_s,
)

COSTS = {
    **FREE,
    "quiesce": "300 us",
    "stop": "500 us",
    "save_fixed": "2 ms",
    "copy_fixed": "400 us",
    "load_fixed": "3 ms",
    "resume": "200 us",
    "device_state": "100000 B",
}
SLOW_LINK = {"bandwidth": "1 Gbit/s", "delay": "400 us"}

# -- queues ------------------------------------------------------------------------------------

QUEUES = [  # servers, distribution, load of each server, seconds a replication
    (1, "exponential", 0.3, 8),
    (1, "exponential", 0.5, 8),
    (1, "exponential", 0.7, 10),
    (1, "deterministic", 0.3, 8),
    (1, "deterministic", 0.5, 8),
    (1, "deterministic", 0.7, 8),
    (2, "exponential", 0.6, 5),
]


@pytest.mark.parametrize(("servers", "distribution", "load", "length_s"), QUEUES)
def test_mean_waiting_time_of_a_queue(servers, distribution, load, length_s):
    """M/M/1, M/D/1 and M/M/2 without protection.

    The queue starts empty.  After the warm-up of 1 s the bias is below e^-30: the slowest of these
    queues forgets with a time constant of S / (1 - sqrt(load))^2 < 40 ms.
    """
    service_s, delay_s = 1e-3, 50e-6
    rate = load * servers / service_s
    workload = service(
        "open",
        "1 ms",
        rate=f"{rate} /s",
        service_distribution=distribution,
        vcpus=servers,
        client_delay="50 us",
    )
    what = scenario(workload, f"{length_s} s", warm_up="1 s")
    runs = replicate(what, "none", 20)
    latency_s = np.array([run.metrics()["latency_mean_ms"][0] / 1e3 for run in runs])
    # Waiting differs by a factor of two between the distributions; the rest is the same for both.
    waiting = latency_s - 2 * delay_s - service_s
    truth = waiting_s(rate, service_s, servers, distribution == "exponential")
    check_mean(waiting, truth, within=0.2)


@pytest.mark.parametrize(("clients", "length_s"), [(1, 30), (5, 12), (12, 6), (40, 6)])
def test_throughput_of_closed_clients(clients, length_s):
    """The machine repairman, exact for any mean; and the asymptotic bounds that hold for all.

    Think time and both ways of the network are one delay of Z: the product form asks only for its
    mean.  X <= min(1 / S, N / (Z + S)) and X >= N / (Z + N S) (Denning and Buzen 1978).
    """
    service_s, think_s, delay_s = 2e-3, 18e-3, 1e-3
    workload = service("closed", "2 ms", clients=clients, think_time="18 ms", client_delay="1 ms")
    runs = replicate(scenario(workload, f"{length_s} s", warm_up="1 s"), "none", 12)
    measured = [run.metrics()["throughput_per_s"][0] for run in runs]
    away_s = think_s + 2 * delay_s
    check_mean(measured, repairman_per_s(clients, away_s, service_s), within=0.06)
    assert np.mean(measured) <= min(1 / service_s, clients / (away_s + service_s)) * 1.02
    assert np.mean(measured) >= clients / (away_s + clients * service_s) * 0.98


# -- one checkpoint, and output that waits for it ----------------------------------------------

PERIODIC = [
    (transfer, commit, *rest)
    for transfer in ("stop-and-send", "copy-then-send")
    for commit in ("received", "loaded")
    for rest in (("1 us", COSTS, SLOW_LINK), ("8 ms", COSTS, SLOW_LINK))
] + [
    ("stop-and-send", "received", "1 us", FREE, INSTANT),
    ("stop-and-send", "received", "1 ms", FREE, {**INSTANT, "delay": "1 ms"}),
    ("stop-and-send", "received", "10 ms", FREE, {**INSTANT, "delay": "1 ms"}),
]


@pytest.mark.parametrize(("transfer", "commit", "service_time", "cost", "link"), PERIODIC)
def test_added_delay_of_periodic_output_buffering(transfer, commit, service_time, cost, link):
    """Remus, every checkpoint of the same length, responses a Poisson process of service time D.

    Checkpoints start every I.  With the times of `timeline` since such a start: a request that
    arrives at phase y in [0, I) is let in at max(y, resumed), or at once if the checkpoint is
    over, so it is served before the guest stops again, at I + stopped, if y + D <= I + stopped.
    It leaves at the commit of that checkpoint, I + committed, else a whole I later.  y is uniform:

        mean latency = I / 2 + committed + max(0, D - stopped)

    With no costs and no delay that is the residual epoch, I / 2, and D.  First the record must
    agree with this to a few ns for each single response, then on average.
    """
    interval_ns = 40 * NS_PER_MS
    what = scenario(
        poisson(500, service_time, client_delay="70 us"),
        "1250 ms",
        transfer=transfer,
        commit=commit,
        cost=cost,
        link=link,
        policy={"remus": {"interval": "40 ms"}},
    )
    runs = replicate(what, "remus", 20)
    assert isinstance(what.workload, Service)
    delay_ns, service_ns = what.workload.client_delay_ns, what.workload.service_time_ns
    means = []
    for run in runs:
        table = {name: column[:-1] for name, column in run.checkpoints.items()}
        start_ns = table["started_ns"]
        (sent_bytes,) = set(table["sent_bytes"])
        assert sent_bytes == what.costs().state_bytes(0) + 16  # three words and a size
        steps = timeline(what, sent_bytes, pages=0, restored=0)
        for column, expected_ns in steps._asdict().items():
            if column in table:
                assert np.abs(table[column] - start_ns - expected_ns).max() <= 8, column
        assert (np.diff(start_ns) == interval_ns).all()
        assert set(table["exposure_ns"][1:]) == {
            interval_ns - table["resumed_ns"][0] + table["stopped_ns"][0]
        }

        late_ns = ceil(max(0, service_ns - steps.stopped_ns))
        first, last = start_ns[2] - late_ns - delay_ns, start_ns[-2] - late_ns - delay_ns
        arrival = run.responses["arrival_ns"]
        arrival = arrival[(arrival >= first) & (arrival < last)] + delay_ns
        answer = start_ns[np.searchsorted(start_ns - late_ns, arrival, side="right")]
        predicted = answer + steps.committed_ns - arrival + 2 * delay_ns
        measured = latency_ns(run, first, last)
        assert np.abs(measured - predicted).max() <= 10
        means.append(measured.mean() / NS_PER_MS)

    truth_ns = interval_ns / 2 + steps.committed_ns + late_ns + 2 * delay_ns
    check_mean(means, truth_ns / NS_PER_MS, within=0.03)


def test_added_delay_when_epochs_differ(tmp_path):
    """Output that waits for the next commit waits E[T^2] / (2 E[T]) + E[T] when epochs are random.

    copy-then-send without a pause, back to back: an epoch lasts as long as its state is on the
    link, by pages drawn on their own.  A response waits for the rest of its epoch (the residual of
    a renewal process), then for its own state to cross, which takes the next epoch.
    """
    curve = tmp_path / "spread.csv"
    rows = [
        f"spread,flat,{ms},{ms},{pages}"
        for ms in (0.001, 1_000_000)
        for pages in (100, 300, 2000, 4000)
    ]
    curve.write_text("\n".join(["workload,setting,interval_ms,exposure_ms,dirty_pages", *rows]))
    what = scenario(
        poisson(1000),
        "1700 ms",
        warm_up="200 ms",
        transfer="copy-then-send",
        memory={
            "kind": "measured",
            "file": str(curve),
            "workload": "spread",
            "setting": "flat",
            "pages_per_request": 0.0,
        },
        link={"bandwidth": "10 Gbit/s", "delay": "0 s"},
        policy={"remus": {"interval": "1 us"}},
    )
    # All of the distribution, by the model's own quantiles; messages add 0.2 us to an epoch.
    memory = MeasuredCurve.from_csv(curve, "spread", "flat", pages_per_request=0.0)
    pages = [memory.draw(NS_PER_S, 0, (i + 0.5) / 10_000).pages for i in range(10_000)]
    epoch_ms = np.array([what.costs().state_bytes(n) * 8 / 1e7 for n in pages]) + 0.0002
    truth_ms = (epoch_ms**2).mean() / (2 * epoch_ms.mean()) + epoch_ms.mean()
    assert (epoch_ms**2).mean() / (2 * epoch_ms.mean()) > 0.75 * epoch_ms.mean()  # not I / 2
    runs = replicate(what, "remus", 14)
    check_mean([run.metrics()["latency_mean_ms"][0] for run in runs], truth_ms, within=0.1)
    epochs = np.concatenate([np.diff(run.checkpoints["started_ns"]) for run in runs]) / NS_PER_MS
    assert abs(epochs.mean() / epoch_ms.mean() - 1) < 0.1


# -- checkpoints under a constant hazard -------------------------------------------------------


def test_number_of_checkpoints_is_a_renewal_process():
    """COLO, states part at rate h, responses at rate r, checkpoints that take no time.

    A checkpoint synchronises the states; they part after Exp(h); the next response, Exp(r) later,
    shows it.  Mean and variance are exact for every run length, so there is no warm-up.
    """
    what = scenario(poisson(60), "500 ms", divergence={"hazard": "40 /s"})
    runs = replicate(what, "colo", 400)
    counts = [len(run.checkpoints["checkpoint"]) for run in runs]
    truth = renewals(0.5, 40, 60)
    assert all((run.checkpoints["reason"] == "mismatch").all() for run in runs)
    check_mean(counts, truth.mean, within=0.04)
    _check_variance(counts, truth.variance)
    # With a Poisson count of the same mean in its place, the check would fail.
    assert truth.variance < 0.6 * truth.mean


def test_number_of_checkpoints_when_they_take_time():
    """With costs: expected count T / (1/h + 1/r + C) + (v/m^2 - 1) / 2, variance v T / m^3.

    C is the time from the response that differs to both guests running again: the witness crosses
    the link, then a whole checkpoint.  Requests of the pause are served as the guest resumes, long
    before the states can part again, so detection still takes Exp(r).
    """
    hazard, rate, length_s = 20.0, 100.0, 3.0
    cost = {**FREE, "quiesce": "1 ms", "stop": "2 ms", "save_fixed": "5 ms", "load_fixed": "10 ms"}
    link = {"bandwidth": "100 Mbit/s", "delay": "0 s"}
    what = scenario(
        poisson(rate), f"{length_s} s", divergence={"hazard": f"{hazard} /s"}, cost=cost, link=link
    )
    runs = replicate(what, "colo", 80)
    counts = [len(run.checkpoints["checkpoint"]) for run in runs]
    steps = timeline(what, what.costs().state_bytes(0) + 16, pages=0, restored=0)
    assert isinstance(what.workload, Service)
    witness_ns = what.workload.response_bytes * 8 / what.link.bandwidth_bps * NS_PER_S
    time_s = (witness_ns + steps.secondary_ns) / NS_PER_S
    cycle_s = 1 / hazard + 1 / rate + time_s
    assert time_s > 0.2 * cycle_s  # or its formula would not be tested
    truth = asymptotic_renewals(length_s, cycle_s, 1 / hazard**2 + 1 / rate**2)
    check_mean(counts, truth.mean, within=0.05)
    _check_variance(counts, truth.variance)


def _check_variance(counts, truth):
    """The chi-square interval.  It takes counts for normal; their excess kurtosis is below 0.05."""
    n, variance = len(counts), np.var(counts, ddof=1)
    low, high = (n - 1) * variance / chi2.ppf([1 - FALSE_ALARM / 2, FALSE_ALARM / 2], n - 1)
    assert low <= truth <= high, f"variance {variance:.4g}, truth {truth:.4g}"


# -- distinct pages ----------------------------------------------------------------------------


@pytest.mark.parametrize("touches_per_page", [0.1, 0.5, 1.5, 3.0])
def test_distinct_pages_saturate(touches_per_page):
    """W (1 - (1 - 1/W)^N) pages a checkpoint for N touches of W pages; the occupancy problem.

    Half of the touches are the guest's own, half its requests'.  What COLO's secondary restores
    is the union of two independent sets.
    """
    pages, requests, interval_s = 4000, 4, 0.02
    touches = touches_per_page * pages
    what = scenario(
        poisson(requests / interval_s),
        "2 s",
        memory={
            "kind": "uniform",
            "working_set_pages": pages,
            "touches": f"{touches / 2 / interval_s} /s",
            "touches_per_request": touches / 2 / requests,
        },
        policy={"remus": {"interval": "20 ms"}, "colo": {"checkpoint_delay": "20 ms"}},
    )
    for policy in ("remus", "colo"):
        found, expected, restored, union = [], [], [], []
        stopped = {"policy.name": policy, "execution.executes": policy == "colo"}
        for run in replicate(what.replace(stopped), policy, 10):
            table = run.checkpoints
            started = np.concatenate(([0], table["started_ns"]))
            served = np.histogram(run.responses["served_ns"], started)[0]
            made = touches / 2 / interval_s * table["exposure_ns"] / NS_PER_S
            made = made + touches / 2 / requests * served
            distinct = pages * (1 - (1 - 1 / pages) ** made)
            found.append(table["pages"].mean())
            expected.append(distinct.mean())
            restored.append(table["restored_pages"].mean())
            union.append((pages * (1 - (1 - 1 / pages) ** (2 * made))).mean())
        # The number of requests is as drawn, so the difference has no other noise than pages.
        check_mean(np.array(found) / expected, 1, within=0.01)
        if policy == "colo":
            check_mean(np.array(restored) / union, 1, within=0.01)
        else:  # its secondary does not run here, so there is nothing else to restore
            assert restored == found
