"""Do intervals labelled 95 % hold the truth 95 times in a hundred?

Three systems whose expected metric is known exactly for the run as it is: finite, started empty,
with its warm-up taken off as the product does.  Every interval is the product's own, from ten
replications of a seed of its own, so intervals are independent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from scipy.linalg import expm
from scipy.stats import binom

from backends.sim import run_replication
from colosim.analysis.stats import Interval, interval
from colosim.scenario import Scenario
from tests.sim.worlds import FALSE_ALARM, poisson, renewals, scenario, service

REPLICATIONS = 10
CAMPAIGN_INTERVALS = 4_000  # of each case


class Case(NamedTuple):
    what: Scenario
    policy: str
    metric: str
    truth: float


def answers_of_a_queue() -> Case:
    """M/M/1 from empty: answers until t are arrivals less those inside, rate t - E[L(t)]."""
    rate, service_s, warm_up_s, end_s = 900.0, 1e-3, 0.01, 0.08
    what = scenario(service("open", "1 ms", rate="900 /s", connections=8), "80 ms", warm_up="10 ms")
    gained = _in_queue(rate, 1 / service_s, end_s) - _in_queue(rate, 1 / service_s, warm_up_s)
    return Case(what, "none", "throughput_per_s", rate - gained / (end_s - warm_up_s))


def _in_queue(arrival_per_s: float, served_per_s: float, time_s: float, places: int = 300) -> float:
    """E[L(t)] of M/M/1 started empty, by the exponential of its generator (cut at 300 places)."""
    up, down = np.full(places - 1, arrival_per_s), np.full(places - 1, served_per_s)
    generator = np.diag(up, 1) + np.diag(down, -1)
    generator -= np.diag(generator.sum(axis=1))
    return float(expm(generator * time_s)[0] @ np.arange(places))


def latency_of_buffered_output() -> Case:
    """Remus at no cost: service and half an interval; the window is three whole intervals.

    Responses of a Poisson process fall on it uniformly, whatever their number.
    """
    what = scenario(
        poisson(300, "1 us", connections=8),
        "50500 us",
        warm_up="19999 us",
        policy={"remus": {"interval": "10 ms"}},
    )
    return Case(what, "remus", "latency_mean_ms", 0.001 + 5)


def checkpoints_under_hazard() -> Case:
    """COLO: a checkpoint after Exp(60 /s) and Exp(90 /s); the renewal function's increment."""
    what = scenario(
        poisson(90, connections=8), "250 ms", warm_up="50 ms", divergence={"hazard": "60 /s"}
    )
    counted = renewals(0.25, 60, 90).mean - renewals(0.05, 60, 90).mean
    return Case(what, "colo", "checkpoints_per_s", counted / 0.2)


CASES: dict[Callable[[], Case], int] = {  # intervals of each in `make test`
    answers_of_a_queue: 750,
    latency_of_buffered_output: 200,
    checkpoints_under_hazard: 100,
}


def intervals(case: Case, count: int) -> list[Interval]:
    return [
        interval(
            [
                run_replication(case.what, case.policy, seed, replication).metrics()[case.metric][0]
                for replication in range(REPLICATIONS)
            ]
        )
        for seed in range(count)
    ]


def covered(found: list[Interval], truth: float) -> int:
    return sum(each.low <= truth <= each.high for each in found)


def check_coverage(found: int, count: int) -> None:
    """Within 2 % of 95 %; or as near as ``count`` intervals can be held to it."""
    low, high = binom.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], count, 0.95)
    assert min(low, 0.93 * count) <= found <= max(high, 0.97 * count), f"{found} of {count}"


@pytest.mark.slow
def test_intervals_cover_the_truth():
    """1,050 intervals; their coverage has a standard deviation of 0.67 %, so 2 % is 3 of them.

    A correct product fails this for some 6 choices of seeds in 1,000, of which 3 are its parts'.
    """
    inside = 0
    for make, count in CASES.items():
        case = make()
        found = intervals(case, count)
        covering = covered(found, case.truth)
        check_coverage(covering, count)
        inside += covering
        if make is answers_of_a_queue:  # the same check finds a truth that ignores the start
            assert covered(found, 900.0) < 0.85 * count
    total = sum(CASES.values())
    assert total >= 1_000
    assert 0.93 <= inside / total <= 0.97


@pytest.mark.campaign
@pytest.mark.parametrize("make", CASES)
def test_intervals_of_each_system_cover_the_truth(make):
    """4,000 intervals each: standard deviation 0.34 %, so 2 % is 5.8 of them."""
    case = make()
    inside = covered(intervals(case, CAMPAIGN_INTERVALS), case.truth)
    assert 0.93 <= inside / CAMPAIGN_INTERVALS <= 0.97
