"""How many protected VMs a host bears: pauses and throughput over the VMs that share it.

N equal pairs on two hosts of eight CPUs, with one link.  Conditions: no protection; Remus whose
epochs all begin at once, with the link shared equally or as one queue; Remus with epochs set apart;
COLO.  Everything follows from `sharing.toml`; nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from backends.sim import run_replication
from colosim import Scenario, load_scenario, parallel
from colosim.model.results import RunRecord

VMS = (1, 2, 4, 8, 12, 16, 20)
KEYS = ("condition", "vms")
INTERVAL_NS = 50_000_000


class Condition(NamedTuple):
    """What protects, how the link is shared, and whether epochs are set apart."""

    name: str
    policy: str
    link: str = "fair"
    apart: bool = False


CONDITIONS = (
    Condition("none", "none"),
    Condition("Remus, fair link", "remus"),
    Condition("Remus, queue", "remus", "fifo"),
    Condition("Remus, set apart", "remus", "fair", apart=True),
    Condition("COLO", "colo"),
)


def scenario_of(condition: Condition, vms: int) -> Scenario:
    """What is simulated."""
    base = load_scenario(Path(__file__).parent / "sharing.toml")
    changes: dict[str, Any] = {"policy.name": condition.policy, "sharing.vms": vms}
    if vms > 1:
        changes["sharing.link"] = condition.link
        if condition.apart:
            changes["sharing.stagger"] = f"{INTERVAL_NS // vms} ns"
    return base.replace(changes)


def run(
    replications: int | None = None,
    vms: Sequence[int] = VMS,
    seed: int = 1,
    jobs: int | None = None,
) -> pd.DataFrame:
    """condition, vms, replication, metric, value: a row for each metric of each run.

    Metrics: pause_mean_ms and latency_mean_ms, over all VMs; throughput_per_s and checkpoints_per_s
    of one VM, the mean; worst_vm_share, the throughput of the VM that has least as part of that
    mean; link_share, the part of the link's bandwidth that is used, from primaries to secondaries
    and back together.
    """
    tasks = []
    for condition in CONDITIONS:
        for count in vms:
            what = scenario_of(condition, count)
            runs = what.replications if replications is None else replications
            tasks += [(what, condition.name, count, seed, i) for i in range(runs)]
    rows: list[tuple[Any, ...]] = []
    for found in parallel.run(_measure, tasks, jobs, what="sharing"):
        rows += found
    table = pd.DataFrame(rows, columns=[*KEYS, "replication", "metric", "value"])
    order = {condition.name: i for i, condition in enumerate(CONDITIONS)}
    by = [table["condition"].map(order), table["vms"], table["replication"], table["metric"]]
    return table.iloc[pd.MultiIndex.from_arrays(by).argsort()].reset_index(drop=True)


def _measure(
    what: Scenario, condition: str, vms: int, seed: int, replication: int
) -> list[tuple[Any, ...]]:
    record = run_replication(what, what.policy.name, seed, replication)
    return [(condition, vms, replication, *each) for each in _metrics(record, what)]


def _metrics(record: RunRecord, what: Scenario) -> Iterator[tuple[str, float]]:
    metrics = {name: value for name, (value, _) in record.metrics().items()}
    each = [vm.metrics()["throughput_per_s"][0] for vm in record.vms or [record]]
    mean = sum(each) / len(each)
    yield "pause_mean_ms", metrics["pause_mean_ms"]
    yield "latency_mean_ms", metrics["latency_mean_ms"]
    yield "throughput_per_s", mean
    yield "checkpoints_per_s", metrics["checkpoints_per_s"] / len(each)
    yield "worst_vm_share", min(each) / mean
    yield "link_share", metrics["link_mbit_per_s"] * 1e6 / what.link.bandwidth_bps
