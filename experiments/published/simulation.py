"""Many scenarios on all cores."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

import colosim
from colosim import Scenario, parallel
from colosim.analysis.stats import Interval, interval, paired
from colosim.model.results import RunRecord

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Outcome:
    """Metrics of a scenario's replications: name -> one value for each.

    Added to those of `RunRecord.metrics`: ``last_served_s``, when the guest made its last output;
    ``transmit_mean_ms``, from the guest's resumption to the commit (below 0 where the guest stands
    until the commit), and ``state_mean_ms`` and ``state_p99_ms``, from the cut to the commit, of
    checkpoints after the warm-up.
    """

    values: Mapping[str, NDArray[np.float64]]

    def of(self, metric: str, without: Outcome | None = None) -> Interval:
        """Mean over replications with its 95 % interval, or that of paired differences."""
        values = self.values[metric]
        return paired(values, without.values[metric]) if without else interval(values)


#: further metrics of a replication
Measure = Callable[[RunRecord], Mapping[str, float]]


def nothing_more(record: RunRecord) -> Mapping[str, float]:
    """No further metrics."""
    return {}


def simulate(
    scenarios: Mapping[Key, Scenario],
    jobs: int | None = None,
    measure: Measure = nothing_more,
) -> dict[Key, Outcome]:
    """Run every scenario; the result does not depend on ``jobs`` (processes; None: all cores).

    ``measure``: a function of a module, so that other processes find it.
    """
    tasks = [(key, scenario, measure) for key, scenario in scenarios.items()]
    outcomes = dict(parallel.run(_outcome, tasks, jobs, what="simulating"))
    return {key: outcomes[key] for key in scenarios}


def _outcome(key: Key, scenario: Scenario, measure: Measure) -> tuple[Key, Outcome]:
    result = colosim.simulate(scenario, jobs=1, progress=lambda done, total: None)
    columns: dict[str, list[float]] = {}
    for record in result.records:
        for name, value in measure(record).items():
            columns.setdefault(name, []).append(value)
        for name, (value, _) in record.metrics().items():
            columns.setdefault(name, []).append(value)
        last_served_ns = int(record.responses["served_ns"].max())
        columns.setdefault("last_served_s", []).append(last_served_ns / 1e9)
        for name, value in _of_checkpoints(record).items():
            columns.setdefault(name, []).append(value)
    return key, Outcome({name: np.array(values) for name, values in columns.items()})


def _of_checkpoints(record: RunRecord) -> Mapping[str, float]:
    table = record.checkpoints
    whole = (table["started_ns"] >= record.warm_up_ns) & (table["committed_ns"] >= 0)
    whole &= table["resumed_ns"] >= 0
    if not whole.any():
        return dict.fromkeys(("transmit_mean_ms", "state_mean_ms", "state_p99_ms"), math.nan)
    committed_ms = table["committed_ns"][whole] / 1e6
    state_ms = committed_ms - table["cut_ns"][whole] / 1e6
    return {
        "transmit_mean_ms": float((committed_ms - table["resumed_ns"][whole] / 1e6).mean()),
        "state_mean_ms": float(state_ms.mean()),
        "state_p99_ms": float(np.percentile(state_ms, 99)),
    }
