"""What protection leaves of a service as its clients and its vCPUs grow.

Clients that wait feel latency as throughput: under Remus each has at most one answer an epoch,
however many vCPUs there are; more clients fill them.  Under COLO more vCPUs serve more requests at
once, and each two of them may reach what they share in another order in the other guest
(`pair_hazard`): so checkpoints come more often with the square of the vCPUs that are busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from colosim import Scenario, load_scenario
from colosim.analysis.stats import Interval, interval, paired
from experiments import output

POLICIES = ("none", "remus", "colo")
KEYS = ["policy", "vcpus", "clients"]
METRICS = (
    "throughput_per_s",
    "latency_mean_ms",
    "latency_p99_ms",
    "checkpoints_per_s",
    "pause_mean_ms",
)
_COLUMNS = {"workload.vcpus": "vcpus", "workload.clients": "clients"}


class Grid(NamedTuple):
    """All combinations."""

    clients: Sequence[int]
    vcpus: Sequence[int]


QUICK = Grid((1, 4, 16, 64, 256), (1, 2, 4, 8))
FULL = Grid((1, 2, 4, 8, 16, 32, 64, 128, 256, 512), (1, 2, 4, 8, 16))


def base() -> Scenario:
    """The service, before anything is varied."""
    return load_scenario(Path(__file__).parent / "scaling.toml")


def run(
    out: Path,
    grid: Grid = QUICK,
    replications: int | None = None,
    seed: int = 1,
    jobs: int | None = None,
) -> pd.DataFrame:
    """policy, vcpus, clients, replication, metric, value; of `METRICS`.

    ``out`` keeps what has been run; a run that was stopped goes on there.  Raises
    `output.Unusable`, one line.
    """
    axes = {"workload.vcpus": grid.vcpus, "workload.clients": grid.clients}
    table = output.swept(
        base(), POLICIES, axes, out, replications=replications, seed=seed, jobs=jobs
    )
    table = table[table["metric"].isin(METRICS)].rename(columns=_COLUMNS)
    return table[[*KEYS, "replication", "metric", "value"]].reset_index(drop=True)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """policy, vcpus, clients, and with _low and _high (95 % intervals) each of `METRICS` and
    kept: throughput as part of that without protection, paired by replication.
    """
    wide = table.pivot_table("value", [*KEYS, "replication"], "metric", dropna=False)
    rows = []
    for key, here in wide.groupby(level=KEYS, sort=False):
        _, vcpus, clients = key
        throughput = here["throughput_per_s"].to_numpy()
        bare = wide.xs(("none", vcpus, clients), level=KEYS)["throughput_per_s"].to_numpy()
        shown: dict[str, Interval] = {name: interval(here[name]) for name in METRICS}
        shown["kept"] = interval(throughput / bare)
        row: dict[str, Any] = dict(zip(KEYS, key, strict=True))
        for name, (_, mean, low, high) in shown.items():
            row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    order = {policy: n for n, policy in enumerate(POLICIES)}
    found = pd.DataFrame(rows)
    return found.sort_values(KEYS, key=lambda c: c.map(order) if c.name == "policy" else c)


def better(table: pd.DataFrame, first: str = "colo", other: str = "remus") -> pd.DataFrame:
    """vcpus, clients, and by how many requests a second ``first`` is ahead: ahead, low, high."""
    chosen = table[table["metric"] == "throughput_per_s"]
    wide = chosen.pivot(index=["vcpus", "clients", "replication"], columns="policy", values="value")
    rows = [
        (*key, *paired(here[first], here[other])[1:])
        for key, here in wide.groupby(level=["vcpus", "clients"])
    ]
    return pd.DataFrame(rows, columns=["vcpus", "clients", "ahead", "low", "high"])
