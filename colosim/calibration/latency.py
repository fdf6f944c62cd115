"""Service time and network delay, out of a run without protection.

Two numbers and a distribution stand for all that a request meets on its way: the client's and the
network's part, each way, that is always the same; and the guest's time, that varies and that other
requests wait for. They are those with which the simulator, unprotected and under the run's own
load, gives the run's latency back at four quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from colosim import api
from colosim.calibration.runs import LiveRun
from colosim.scenario import Scenario

QUANTILES = (0.1, 0.5, 0.9, 0.99)
_GRID = np.geomspace(0.01, 1.0, 9)
_REFINE = np.geomspace(0.8, 1.25, 5)

Values = NDArray[np.float64]


class ServiceFit(NamedTuple):
    """distribution, service_ns (mean) and delay_ns (one way); error: mean relative error at
    `QUANTILES`, which ``simulated_ms`` are against ``measured_ms``.
    """

    distribution: str
    service_ns: int
    delay_ns: int
    error: float
    simulated_ms: tuple[float, ...]
    measured_ms: tuple[float, ...]


def fit(run: LiveRun) -> ServiceFit:
    """The best of both distributions; ``run`` is one of policy none."""
    measured = np.quantile(run.latency_ms, QUANTILES)
    return min(
        (_best(run, word, measured) for word in ("exponential", "deterministic")),
        key=lambda found: found.error,
    )


def _best(run: LiveRun, distribution: str, measured: Values) -> ServiceFit:
    """Search of the service time, coarse then fine; the delay follows from the median."""
    longest_ns = float(measured[-1]) * 1e6
    tried: dict[int, ServiceFit] = {}

    def attempt(service_ns: float) -> None:
        service = max(1, round(service_ns))
        if service not in tried:
            tried[service] = _tried(run, distribution, service, measured)

    for part in _GRID:
        attempt(part * longest_ns)
    for _ in range(2):
        best = min(tried.values(), key=lambda found: found.error)
        for part in _REFINE:
            attempt(part * best.service_ns)
    return min(tried.values(), key=lambda found: found.error)


def _tried(run: LiveRun, distribution: str, service_ns: int, measured: Values) -> ServiceFit:
    delay_ns = 0
    for _ in range(2):  # a closed load slows down a little with the delay
        simulated = _quantiles(run.scenario, distribution, service_ns, delay_ns)
        delay_ns = max(0, round(delay_ns + (measured[1] - simulated[1]) * 1e6 / 2))
    simulated = _quantiles(run.scenario, distribution, service_ns, delay_ns)
    error = float(np.mean(np.abs(simulated / measured - 1)))
    shown = tuple(map(float, simulated)), tuple(map(float, measured))
    return ServiceFit(distribution, service_ns, delay_ns, error, *shown)


def _quantiles(scenario: Scenario, distribution: str, service_ns: int, delay_ns: int) -> Values:
    changed = scenario.replace(
        {f"workload.{k}": v for k, v in keys(scenario, distribution, service_ns, delay_ns).items()}
    )
    result = api.simulate(changed, "none", replications=1, jobs=1, progress=lambda *_: None)
    latency_ms = result.responses.query("measured")["latency_ms"].dropna()
    return np.asarray(np.quantile(latency_ms, QUANTILES), dtype=float)


def keys(
    scenario: Scenario, distribution: str, service_ns: int, delay_ns: int
) -> Mapping[str, Any]:
    """What is calibrated of `[workload]`, as in a scenario file."""
    pipelined = {"pipelined": False} if scenario.workload.model_dump().get("load") == "open" else {}
    return {
        "service_time": f"{service_ns} ns",
        "service_distribution": distribution,
        "client_delay": f"{delay_ns} ns",
        **pipelined,
    }
