"""What protection takes: of the service's capacity, of the link, and of both hosts' memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from colosim.analysis.stats import Interval, interval, paired
from colosim.scenario import Scenario, Service
from colosim.sizing import lab
from colosim.sizing.candidates import NONE, Candidate
from colosim.sizing.trials import Trials
from colosim.units import BANDWIDTH

_OVERLOAD = 1.5
_LINK_FACTORS = (1 / 256, 1 / 64, 1 / 16, 1 / 4, 1 / 2, 1.0, 4.0)
_LEAST_BPS = 1_000_000
_LINK_ENOUGH = 1.1
_LEAST_ANSWERED = 0.98
_ADDED = {
    "added_p50_ms": "latency_p50_ms",
    "added_p99_ms": "latency_p99_ms",
    "added_time_s": "completion_time_s",
}
_SHOWN = (
    *("throughput_per_s", "latency_p50_ms", "latency_p99_ms", "completion_time_s"),
    *("stopped_share", "checkpoints_per_s", "pause_mean_ms", "dirty_pages_mean"),
    "link_mbit_per_s",
)
CAPACITY_COLUMNS = ("key", "replication", "throughput_per_s")
LINK_COLUMNS = ("bandwidth_bps", "goal", "used_mbit_per_s", "throughput_per_s", "own", "enough")
_LARGEST = ("held_bytes_max", "state_bytes_max", "overlay_bytes_max")


def capacity(trials: Trials, known: Mapping[str, Candidate]) -> pd.DataFrame:
    """What is answered when more is asked than the guest can (`CAPACITY_COLUMNS`).

    Of services with several clients that wait, the load is turned into one that does not.
    """
    workload = trials.scenario.workload
    if not isinstance(workload, Service):
        return pd.DataFrame(columns=list(CAPACITY_COLUMNS))
    most_per_s = workload.vcpus / (workload.service_time_ns / 1e9)
    asked_per_s = _OVERLOAD * most_per_s
    seconds = min(max(trials.effort.short_requests / most_per_s, 2.0), 20.0)
    mapping = trials.scenario.to_mapping()
    mapping["workload"] = {
        key: value
        for key, value in mapping["workload"].items()
        if key not in ("clients", "think_time", "rate", "load", "pipelined")
    } | {"load": "open", "rate": f"{asked_per_s:.6g} /s", "pipelined": True}
    mapping.pop("phase", None)
    mapping |= {"warm_up": f"{seconds / 4:.3f} s", "duration": f"{seconds * 1.25:.3f} s"}
    scenario = Scenario.from_mapping(mapping)
    n = max(trials.effort.short, 2)
    return trials.run([trials.task((), scenario, each, n) for each in known.values()], "capacity")


def costs(
    table: pd.DataFrame, overloaded: pd.DataFrame, known: Mapping[str, Candidate]
) -> pd.DataFrame:
    """A row per candidate: candidate, policy, what it adds to no protection (paired), what it takes
    of the capacity, and its own metrics, each with _low and _high; the largest bytes; flags.
    """
    rows = []
    for label, candidate in known.items():
        own, base = _of(table, label), _of(table, NONE)
        row: dict[str, Any] = {"candidate": label, "policy": candidate.policy}
        for name, metric in _ADDED.items():
            row |= _columns(name, paired(own[metric].to_numpy(), base[metric].to_numpy()))
        row |= _columns("capacity_lost", _lost(overloaded, label))
        for metric in _SHOWN:
            row |= _columns(metric, interval(own[metric].to_numpy(float)))
        row |= {name: float(own[name].max()) for name in _LARGEST}
        flags = {flag for each in own["flags"] for flag in each.split(", ") if flag}
        row["flags"] = ", ".join(sorted(flags))
        rows.append(row)
    return pd.DataFrame(rows)


def _of(table: pd.DataFrame, label: str) -> pd.DataFrame:
    return table[table["key"] == (label,)]


def _columns(name: str, found: Interval) -> dict[str, float]:
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def _lost(overloaded: pd.DataFrame, label: str) -> Interval:
    own, base = (
        _of(overloaded, each)["throughput_per_s"].to_numpy(float) for each in (label, NONE)
    )
    return interval(1 - own / base if base.size else np.array([]))


def memory(scenario: Scenario, table: pd.DataFrame, choice: Candidate) -> pd.DataFrame:
    """Bytes that protection needs beside the guest's own: host, what, bytes."""
    own = _of(table, choice.label)
    held, state, overlays = (float(own[name].max()) for name in _LARGEST)
    guest = scenario.memory.guest_memory_bytes
    rows = [
        ("secondary", "the second guest's RAM", guest),
        ("secondary", "genuine QEMU: COLO's cache of the primary's RAM", guest),
        ("secondary", "a checkpoint until it is whole (largest seen)", state),
        ("primary", "a checkpoint until it is sent (largest seen)", state),
        ("primary", "output that is held (most seen)", held),
    ]
    if choice.compares:
        rows.append(("primary", "the secondary's output, to be compared (as much)", held))
    if scenario.disk is not None:
        rows.append(("secondary", "overlays of the disk (largest seen)", overlays))
    return pd.DataFrame(rows, columns=["host", "what", "bytes"])


def link(trials: Trials, choice: Candidate) -> pd.DataFrame:
    """The choice over narrower and wider links (`LINK_COLUMNS`), the narrowest first.

    own: the scenario's.  enough: on it and on all wider ones the goal is within a tenth of that on
    the widest, and as much is answered.
    """
    own = trials.scenario.link.bandwidth_bps
    base = trials.short(trials.scenario)
    rates = sorted({max(round(own * factor), _LEAST_BPS) for factor in _LINK_FACTORS})
    tasks = [
        trials.task(
            (str(rate),),
            base.replace({"link.bandwidth": BANDWIDTH.format(rate)}),
            choice,
            trials.effort.short,
        )
        for rate in rates
    ]
    table = trials.run(tasks, "the link")
    rows = []
    for rate in rates:
        key = [(str(rate), choice.label)]
        [goal], [used], [answered] = (
            lab.means(table, key, metric)
            for metric in (trials.metric, "link_mbit_per_s", "throughput_per_s")
        )
        rows.append((rate, goal, used, answered, rate == own))
    found = pd.DataFrame(rows, columns=list(LINK_COLUMNS[:-1]))
    widest = found.iloc[-1]
    enough = found["goal"] <= _LINK_ENOUGH * widest["goal"]
    if not trials.is_job:
        enough &= found["throughput_per_s"] >= _LEAST_ANSWERED * widest["throughput_per_s"]
    return found.assign(enough=enough[::-1].cummin()[::-1])
