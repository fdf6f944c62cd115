"""Many scenarios on all cores."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

import colosim
from colosim import Scenario, parallel
from colosim.analysis.stats import Interval, interval, paired

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Outcome:
    """Metrics of a scenario's replications: name -> one value for each.

    ``last_served_s`` is added to those of `RunRecord.metrics`: when the guest made its last output.
    """

    values: Mapping[str, NDArray[np.float64]]

    def of(self, metric: str, without: Outcome | None = None) -> Interval:
        """Mean over replications with its 95 % interval, or that of paired differences."""
        values = self.values[metric]
        return paired(values, without.values[metric]) if without else interval(values)


def simulate(scenarios: Mapping[Key, Scenario], jobs: int | None = None) -> dict[Key, Outcome]:
    """Run every scenario; the result does not depend on ``jobs`` (processes; None: all cores)."""
    outcomes = dict(parallel.run(_outcome, list(scenarios.items()), jobs, what="simulating"))
    return {key: outcomes[key] for key in scenarios}


def _outcome(key: Key, scenario: Scenario) -> tuple[Key, Outcome]:
    result = colosim.simulate(scenario, jobs=1, progress=lambda done, total: None)
    columns: dict[str, list[float]] = {}
    for record in result.records:
        for name, (value, _) in record.metrics().items():
            columns.setdefault(name, []).append(value)
        last_served_ns = int(record.responses["served_ns"].max())
        columns.setdefault("last_served_s", []).append(last_served_ns / 1e9)
    return key, Outcome({name: np.array(values) for name, values in columns.items()})
