"""Service time and the network's part, out of a run without protection and a protected one.

What a request meets on its way is told apart in three: the client's and the network's part that is
always the same, each way; a part that varies; and the guest's own time, which other requests wait
for. Without protection the last two look alike. But a guest that is stopped again and again has
little time to serve in, and only its own time makes a queue then. So for every service time the
first two are fitted to the run without protection, and that service time is taken that gives back
both that run's latency and that of the run that is stopped most often.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colosim import api
from colosim.calibration.runs import MeasuredRun
from colosim.scenario import Scenario
from colosim.units import TIME

QUANTILES = (0.1, 0.5, 0.9, 0.99)
_HELD = (0.5, 0.99)  # of the protected run
_TO_90 = math.log(10) - math.log(2)  # from an exponential's median to its 90 % quantile, in means
_GRID = np.geomspace(0.02, 1.0, 7)
_REFINE = (0.8, 0.9, 1.12, 1.25)
_ROUNDS = 3
_LONGEST_NS = 15_000_000_000  # of a protected run that is simulated again and again

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ServiceFit:
    """distribution, service_ns (mean), delay_ns (one way) and jitter_ns (mean).

    simulated_ms, measured_ms: latency without protection at `QUANTILES`.  error: mean of the
    relative errors there and in the protected run.
    """

    distribution: str
    service_ns: int
    delay_ns: int = 0
    jitter_ns: int = 0
    error: float = math.inf
    simulated_ms: tuple[float, ...] = ()
    measured_ms: tuple[float, ...] = ()

    @property
    def way_ns(self) -> int:
        """Mean time of a response from its host to its client."""
        return self.delay_ns + self.jitter_ns

    def keys(self, scenario: Scenario) -> dict[str, Any]:
        """What is calibrated of `[workload]`, as in a scenario file."""
        is_open = scenario.workload.model_dump().get("load") == "open"
        return {
            "service_time": f"{self.service_ns} ns",
            "service_distribution": self.distribution,
            "client_delay": f"{self.delay_ns} ns",
            "client_jitter": f"{self.jitter_ns} ns",
            **({"pipelined": False} if is_open else {}),
        }


def fit(
    bare: MeasuredRun, held: MeasuredRun, question: Callable[[ServiceFit], Scenario]
) -> ServiceFit:
    """The best service time and distribution.

    bare: a run of policy none.  held: the protected run, which ``question`` puts to the simulator
    as if a fit were right.
    """
    measured = np.quantile(bare.latency_ms, QUANTILES)
    wanted = np.quantile(held.latency_ms, _HELD)
    tried: dict[tuple[str, int], ServiceFit] = {}

    def attempt(distribution: str, service_ns: float) -> None:
        service = max(1, round(service_ns))
        if (distribution, service) not in tried:
            found = _way(bare.scenario, ServiceFit(distribution, service), measured)
            error = _error(_quantiles(_short(question(found)), held.policy, _HELD), wanted)
            tried[distribution, service] = replace(found, error=(found.error + error) / 2)

    for distribution in ("exponential", "deterministic"):
        for part in _GRID:
            attempt(distribution, part * float(measured[2]) * 1e6)
    for _ in range(2):
        best = min(tried.values(), key=lambda found: found.error)
        for part in _REFINE:
            attempt(best.distribution, part * best.service_ns)
    return min(tried.values(), key=lambda found: found.error)


def _way(scenario: Scenario, given: ServiceFit, measured: Values) -> ServiceFit:
    """Delay and jitter that give the unprotected latency back, whatever the service time."""
    delay, jitter = 0.0, 0.0
    found = given
    for _ in range(_ROUNDS):
        changes = {f"workload.{key}": value for key, value in found.keys(scenario).items()}
        simulated = _quantiles(scenario.replace(changes), "none", QUANTILES)
        shown = tuple(map(float, simulated)), tuple(map(float, measured))
        tried = replace(
            found, error=_error(simulated, measured), simulated_ms=shown[0], measured_ms=shown[1]
        )
        wider_ms = (measured[2] - measured[1]) - (simulated[2] - simulated[1])
        jitter = max(0.0, jitter + float(wider_ms) * 1e6 / _TO_90)
        more_ms = float(measured[1] - simulated[1])
        moved = (jitter - found.jitter_ns) * math.log(2)
        delay += (more_ms * 1e6 - moved) / 2
        if delay < 0:  # the median comes first, the width has what is left
            jitter = max(0.0, jitter + 2 * delay / math.log(2))
            delay = 0.0
        found = replace(tried, delay_ns=round(delay), jitter_ns=round(jitter))
    return replace(found, delay_ns=tried.delay_ns, jitter_ns=tried.jitter_ns)


def _short(scenario: Scenario) -> Scenario:
    longest_ns = scenario.warm_up_ns + _LONGEST_NS
    if scenario.duration_ns <= longest_ns:
        return scenario
    return scenario.replace({"duration": TIME.format(longest_ns)})


def _quantiles(scenario: Scenario, policy: str, at: Sequence[float]) -> Values:
    result = api.simulate(scenario, policy, replications=1, jobs=1, progress=lambda *_: None)
    latency_ms = result.responses.query("measured")["latency_ms"].dropna()
    if latency_ms.empty:  # so slow that nothing was answered
        return np.full(len(at), np.inf)
    return np.asarray(np.quantile(latency_ms, at), dtype=float)


def _error(simulated: Values, measured: Values) -> float:
    """Mean relative error; twice too much is as bad as half."""
    return float(np.mean(np.abs(np.log(simulated / measured))))
