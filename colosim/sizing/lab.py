"""Scenarios, simulated: all policies meet the same random draws, replication by replication."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from colosim import parallel
from colosim.model.results import RunRecord
from colosim.progress import Progress
from colosim.scenario import Scenario, Service


@dataclass(frozen=True, slots=True)
class Task:
    """One scenario under one candidate; key: what the rows of its results are called."""

    key: tuple[str, ...]
    scenario: Scenario
    policy: str
    replications: int


class Stopped(KeyboardInterrupt):
    """Ctrl-C; table: of the replications that all tasks had finished, so it may be empty."""

    def __init__(self, table: pd.DataFrame) -> None:
        super().__init__()
        self.table = table


def run(
    tasks: Sequence[Task], jobs: int | None, progress: Progress | None, what: str
) -> pd.DataFrame:
    """Columns key (a tuple), replication, and one per metric; NaN: nothing was measured.

    Ctrl-C raises `Stopped`.
    """
    work = [
        (task.key, task.scenario, task.policy, i)
        for i in range(max(task.replications for task in tasks))
        for task in tasks
        if i < task.replications
    ]
    finished = defaultdict(list)
    try:
        for row in parallel.run(measured, work, jobs, progress, what):
            finished[row["replication"]].append(row)
    except KeyboardInterrupt:
        whole = [rows for rows in finished.values() if len(rows) == len(tasks)]
        raise Stopped(_table(whole)) from None
    return _table(finished.values())


def _table(finished: Iterable[list[dict[str, Any]]]) -> pd.DataFrame:
    rows = [row for each in finished for row in each]
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=["key", "replication"])
    return table.sort_values(["key", "replication"], ignore_index=True)


def measured(
    key: tuple[str, ...], scenario: Scenario, policy: str, replication: int
) -> dict[str, Any]:
    """Metrics of one replication, and what memory it would have taken.

    stopped_share: of the measured time that the guest stood still.  held_bytes_max: most output
    that was held at one time.  state_bytes_max: of the largest checkpoint.  overlay_bytes_max: both
    overlays of the secondary's disk.
    """
    from backends.sim import run_replication

    record = run_replication(scenario, policy, scenario.seed, replication)
    row: dict[str, Any] = {"key": key, "replication": replication}
    row |= {name: value for name, (value, _) in record.metrics().items()}
    row["stopped_share"] = _stopped(record)
    row["held_bytes_max"] = _held(record, scenario)
    row["state_bytes_max"] = float(record.checkpoints["sent_bytes"].max(initial=0))
    overlays = record.overlays
    both = overlays["active_bytes"] + overlays["hidden_bytes"]
    row["overlay_bytes_max"] = float(both.max(initial=0))
    row["flags"] = ", ".join(record.flags)
    return row


def _stopped(record: RunRecord) -> float:
    table = record.checkpoints
    used = (table["stopped_ns"] >= record.warm_up_ns) & (table["resumed_ns"] >= 0)
    still_ns = (table["resumed_ns"] - table["stopped_ns"])[used].sum()
    end_ns = record.completion_ns if record.completion_ns >= 0 else record.duration_ns
    return float(still_ns) / max(end_ns - record.warm_up_ns, 1)


def _held(record: RunRecord, scenario: Scenario) -> float:
    """Most bytes of answers that were made and had not reached clients, at one time."""
    workload = scenario.workload
    if not isinstance(workload, Service):
        return 0.0
    made, left = record.responses["served_ns"], record.responses["released_ns"]
    known = (made >= 0) & (left >= made)
    times = np.concatenate([made[known], left[known]])
    steps = np.concatenate([np.ones(known.sum()), -np.ones(known.sum())])
    order = np.lexsort((-steps, times))
    most = np.cumsum(steps[order]).max(initial=0.0)
    return float(most) * workload.response_bytes


def means(table: pd.DataFrame, keys: Iterable[tuple[str, ...]], metric: str) -> list[float]:
    """Mean of a metric under each key; NaN where it was never measured."""
    by_key = table.groupby("key")[metric].mean()
    return [float(by_key.get(key, np.nan)) for key in keys]


def quiet(done: int, total: int) -> None:
    """No bar, for what is short."""
