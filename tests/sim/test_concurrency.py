"""States part by scheduling: the more requests are served at once, the sooner."""

from __future__ import annotations

from typing import Any

import pytest

from backends.sim import run_replication
from colosim.model.divergence import Divergence
from colosim.scenario import Scenario
from tests.sim.worlds import asymptotic_renewals, check_mean, replicate, scenario, service


def test_the_rate_grows_with_pairs():
    divergence = Divergence(hazard_per_s=2.0, pair_hazard_per_s=3.0)
    second = [divergence.partings(1e9, busy) for busy in (0, 1, 2, 3, 8)]
    assert second == [2, 2, 5, 11, 86]


def busy(vcpus: int, **divergence: Any) -> Scenario:
    """So many clients that never think: all vCPUs always serve, answers every 4 ms each."""
    workload = service("closed", "4 ms", clients=vcpus, vcpus=vcpus, think_time="0 s")
    return scenario(workload, "2 s", divergence=divergence)


@pytest.mark.parametrize("vcpus", [2, 4])
def test_checkpoints_of_a_guest_whose_vcpus_are_always_busy(vcpus):
    """All b vCPUs are busy, so the hazard is constant, and checkpoints take no time.

    The next response, at rate b / S, shows that the states have parted: renewals of two exponential
    times.  (The exponential services go on over a checkpoint, which changes nothing.)
    """
    hazard, pair = 4.0, 3.0
    rate = hazard + pair * vcpus * (vcpus - 1) / 2
    runs = replicate(busy(vcpus, hazard="4 /s", pair_hazard="3 /s"), "colo", 14)
    counts = [len(run.checkpoints["checkpoint"]) for run in runs]
    response_s = 4e-3 / vcpus
    cycle_s, variance_s2 = 1 / rate + response_s, 1 / rate**2 + response_s**2
    truth = asymptotic_renewals(2.0, cycle_s, variance_s2)
    check_mean(counts, truth.mean, within=0.45)
    # were it one chance for each vCPU, or none but hazard, the check would fail
    assert truth.mean > 1.4 * 2.0 * hazard


def test_at_random_the_rate_follows_the_mean_of_pairs():
    """M/M/infinity: b is Poisson with mean a, so b (b - 1) / 2 is a^2 / 2 on average."""
    workload = service("open", "5 ms", rate="400 /s", vcpus=1000)
    what = scenario(workload, "3 s", divergence={"pair_hazard": "2 /s"}, warm_up="100 ms")
    runs = replicate(what, "colo", 16)
    counts = [run.metrics()["checkpoints_per_s"][0] for run in runs]
    rate = 2 * (400 * 5e-3) ** 2 / 2  # 4 /s; seen one response, 2.5 ms, later
    check_mean(counts, 1 / (1 / rate + 1 / 400), within=0.4)


def test_one_vcpu_has_no_pairs():
    one = busy(1, hazard="10 /s")
    pairs = busy(1, hazard="10 /s", pair_hazard="1000 /s")
    was, now = (run_replication(what, "colo", 1, 0) for what in (one, pairs))
    starts = was.checkpoints["started_ns"]
    assert len(starts) > 5
    assert now.checkpoints["started_ns"].tolist() == pytest.approx(starts.tolist(), abs=100)
