"""The web-server comparison: what do none, Remus and COLO cost the clients of redis and nginx?

Two loads.  *Fixed*: Poisson arrivals at the rate that the dirty-page curve was measured with, so
memory is as measured.  *Saturated*: closed clients that ask again at once; there the load is not
the measured one, and what a further request dirties is taken from the curve (`late_slope`).

All conditions of a workload meet the same random draws, so that differences are paired.
`run` gives the tables, `figures` draws them, ``python -m experiments.webserver`` does both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

import colosim
from colosim import Scenario, load_scenario, parallel
from colosim.analysis.summary import differences, summarise
from colosim.model.memory import MeasuredCurve
from colosim.protocol.policies import POLICIES

WORKLOADS = ("redis", "nginx")
CLIENTS = (8, 256)
FIXED = 0  # in the column ``clients``: load is open, at the measured rate
METRICS = (
    "throughput_per_s",
    "latency_mean_ms",
    "latency_p50_ms",
    "latency_p99_ms",
    "pause_mean_ms",
    "pause_p99_ms",
    "checkpoints_per_s",
    "dirty_pages_mean",
    "replication_mbit_per_s",
    "link_mbit_per_s",
    "longest_gap_ms",
)
_KEYS = ("workload", "clients", "condition")


class Condition(NamedTuple):
    """A policy and what it changes in the workload's scenario."""

    name: str
    policy: str
    changes: Mapping[str, Any]


def _remus(interval_ms: int) -> Condition:
    """Remus as published: the guest runs while its copy is sent, the backup does not run."""
    changes = {
        "policy.remus.interval": f"{interval_ms} ms",
        "transfer": "copy-then-send",
        "execution.executes": False,
    }
    return Condition(f"Remus {interval_ms} ms", "remus", changes)


def _colo(name: str, probability: float, **changes: Any) -> Condition:
    """COLO as in QEMU: the guest stands until the secondary has loaded."""
    return Condition(f"COLO {name}", "colo", {"divergence.probability": probability, **changes})


CONDITIONS = (
    Condition("none", "none", {}),
    *(_remus(interval_ms) for interval_ms in (25, 50, 100)),
    _colo("p=1e-4", 1e-4),
    # the same, but exposure stays within what was measured
    _colo("p=1e-4, 1.5 s", 1e-4, **{"policy.colo.checkpoint_delay": "1.5 s"}),
    _colo("p=1e-3", 1e-3),
    _colo("p=1e-2", 1e-2),
    # a clock in the answers, such as HTTP's Date, parts the guests about once a second
    _colo("h=1/s", 0.0, **{"divergence.hazard": "1 /s"}),
)


class Tables(NamedTuple):
    """What an experiment returns.

    metrics: workload, clients, condition, replication, metric, value, unit.
    summary: workload, clients, condition, metric, unit, n, mean, ci_low, ci_high; the mean paired
        difference from none: diff, diff_low, diff_high; and what the memory is: "measured",
        "scaled" to another load, "extrapolated" beyond the longest measured exposure, or both.
    responses: workload, condition, replication, latency_ms of what was answered after the
        warm-up, at fixed load.
    """

    metrics: pd.DataFrame
    summary: pd.DataFrame
    responses: pd.DataFrame


def late_slope(curve: MeasuredCurve) -> float:
    """Distinct pages that one more request dirties, once the pages that all requests touch are
    dirty: the slope of the measured curve between its last two exposures, per request.

    For short exposures it is too low: there a request still meets pages that nobody has dirtied.
    """
    before_ns, last_ns = (point.exposure_ns for point in curve.points[-2:])
    pages = curve.mean(last_ns, 0) - curve.mean(before_ns, 0)
    return pages / (curve.load_per_s * (last_ns - before_ns) / 1e9)


def fixed(workload: str) -> Scenario:
    """The workload under the load that it was measured with."""
    return load_scenario(Path(__file__).parent / f"{workload}.toml")


def saturated(workload: str, clients: int) -> Scenario:
    """The workload under closed clients that do not think."""
    scenario = fixed(workload)
    curve = scenario.memory_model()
    assert isinstance(curve, MeasuredCurve)
    return scenario.replace(
        {
            "duration": "6 s",
            "warm_up": "1 s",
            "replications": 4,
            "workload.load": "closed",
            "workload.rate": None,
            "workload.clients": clients,
            "workload.think_time": "0 s",
            "memory.pages_per_request": late_slope(curve),
        }
    )


def scenario_of(workload: str, clients: int, condition: Condition) -> Scenario:
    """What is simulated: a workload under a load and a condition."""
    scenario = fixed(workload) if clients == FIXED else saturated(workload, clients)
    return scenario.replace({"policy.name": condition.policy, **condition.changes})


def run(
    replications: int | None = None,
    clients: Sequence[int] = CLIENTS,
    workloads: Sequence[str] = WORKLOADS,
    conditions: Sequence[Condition] = CONDITIONS,
    seed: int = 1,
    jobs: int | None = None,
) -> Tables:
    """Simulate every condition; ``replications``: instead of the scenarios' own.

    ``conditions`` has none among it; ``jobs`` is that of `colosim.simulate`.
    """
    pieces = {
        (workload, load, condition.name): (workload, load, condition, replications, seed)
        for load in (FIXED, *clients)
        for workload in workloads
        for condition in conditions
    }
    measured = dict(parallel.run(_measure, list(pieces.values()), jobs, what="webserver"))
    metrics, responses, memory = (
        pd.concat([_keyed(measured[key][i], key) for key in pieces], ignore_index=True)
        for i in range(3)
    )
    summary = summarise(metrics, _KEYS)
    summary = summary.merge(compared(metrics, "none"), "left", [*_KEYS, "metric"])
    return Tables(metrics, summary.merge(memory, "left", list(_KEYS)), responses)


def compared(metrics: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Paired differences from a condition: workload, clients, condition, metric, diff, ..."""
    tables = []
    for workload, clients in metrics[["workload", "clients"]].drop_duplicates().to_numpy():
        here = (metrics["workload"] == workload) & (metrics["clients"] == clients)
        table = differences(metrics[here].rename(columns={"condition": "policy"}), baseline)
        table = table.rename(columns={"policy": "condition"})
        tables.append(table.assign(workload=workload, clients=clients))
    return pd.concat(tables, ignore_index=True)


_Key = tuple[str, int, str]


def _keyed(table: pd.DataFrame, key: _Key) -> pd.DataFrame:
    """``table`` after the columns that say where it comes from."""
    return pd.concat([pd.DataFrame([key] * len(table), table.index, _KEYS), table], axis="columns")


def _measure(
    workload: str, clients: int, condition: Condition, replications: int | None, seed: int
) -> tuple[_Key, tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]]:
    """One condition under one load: its metrics, its latencies at fixed load, its memory."""
    result = colosim.simulate(
        scenario_of(workload, clients, condition),
        seed=seed,
        replications=replications,
        jobs=1,
        progress=lambda done, total: None,
    )
    metrics = result.metrics[result.metrics["metric"].isin(METRICS)].drop(columns="policy")

    answered = result.responses["measured"] & result.responses["latency_ms"].notna()
    responses = result.responses.loc[answered & (clients == FIXED), ["replication", "latency_ms"]]

    if not POLICIES[condition.policy].protects():
        memory = "unused"
    else:
        doubts = ["scaled"] * (clients != FIXED)
        doubts += ["extrapolated"] * ("memory-extrapolated" in result.flags)
        memory = ", ".join(doubts) or "measured"
    return (workload, clients, condition.name), (
        metrics,
        responses,
        pd.DataFrame({"memory": [memory]}),
    )
