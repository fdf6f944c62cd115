"""A replicated disk: what it costs, how its overlays grow, and what a takeover takes.

Three questions, each a table:

* `growth`: overlays and latency over the time between checkpoints, for periodic policies and
  for comparing without a difference.  How many clusters N uniform writes touch is known in closed
  form (`touched_bytes`), so the overlays are held against it.
* `takeover`: the primary is killed ever later after its last checkpoint.  How long are clients
  without answers, and how long until the overlays are in the disk, by their size?
* `appends`: one writer that appends 512 B and flushes, as in ``live-recipes.md`` 6 (LR 6), beside
  what was measured there.

Fitted to LR 6, and so no predictions: an append alone (1.6 ms), one with the NBD child (2.5 ms), a
failover (11 ms), a commit of little (7 ms) and of twice 23 MiB (46 ms).  All else is predicted.

``python -m experiments.disk`` does it all; ``figures.py`` draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import colosim
from colosim import load_scenario
from colosim.analysis.stats import interval
from colosim.scenario import OpenService, Scenario, Service

INTERVALS_MS = (20, 50, 100, 200, 500, 1000, 2000)
#: policy -> the parameter that is its time between checkpoints
PERIODS = {
    "remus": "policy.remus.interval",
    "microcheckpoint": "policy.microcheckpoint.interval",
    "colo": "policy.colo.checkpoint_delay",
}
#: (policy, where it writes)
CASES = (
    ("remus", "uniform"),
    ("microcheckpoint", "uniform"),
    ("colo", "uniform"),
    ("colo", "append"),
)
METRICS = (
    "hidden_overlay_mean_KiB",
    "active_overlay_mean_KiB",
    "latency_p50_ms",
    "latency_p99_ms",
    "disk_write_p50_ms",
    "disk_write_p99_ms",
    "pause_mean_ms",
)
#: how long after its last checkpoint the primary is killed
KILLED_MS = (20, 100, 300, 600, 1000, 1500, 1900)
_DELAY_MS = 2000
#: LR 6: bytes in both overlays -> ms to commit them; the first is "little"
MEASURED_COMMITS = {0: 7.0, 2 * 23 * 2**20: 46.0}
#: LR 6: condition -> p50 of an append, ms; and how we run it
MEASURED_APPENDS: Mapping[str, float] = {
    "alone": 1.6,
    "with the NBD child": 2.5,
    "protected, compare": 3.4,
    "protected, held": 4.5,
}
_FITTED = ("alone", "with the NBD child")
#: LR 6 names no interval; up to 64 records lay between two checkpoints
_ASSUMED_INTERVAL = "200 ms"


def scenario() -> Scenario:
    """The scenario that everything here varies."""
    return load_scenario(Path(__file__).parent / "base.toml")


# -- overlays and latency ----------------------------------------------------------------------


def growth(
    replications: int | None = None, seed: int | None = None, jobs: int | None = None
) -> pd.DataFrame:
    """policy, pattern, interval_ms, metric; n, mean, ci_low, ci_high over replications."""
    base, rows = scenario(), []
    none = colosim.simulate(base, "none", seed, replications, jobs=jobs)
    rows.append((("none", "uniform", np.nan), none))
    for policy, pattern in CASES:
        for interval_ms in INTERVALS_MS:
            changes = {PERIODS[policy]: f"{interval_ms} ms", "disk.pattern": pattern}
            result = colosim.simulate(base.replace(changes), policy, seed, replications, jobs=jobs)
            rows.append(((policy, pattern, float(interval_ms)), result))
    found = []
    for key, result in rows:
        if result.violations:
            raise RuntimeError(result.violations[0])
        wide = result.metrics.pivot(index="replication", columns="metric", values="value")
        wide["epoch_ms"] = epochs_ms(result)
        found += [
            (*key, metric, *interval(wide[metric]))
            for metric in (*METRICS, "epoch_ms")
            if metric in wide and wide[metric].notna().any()
        ]
    names = ["policy", "pattern", "interval_ms", "metric", "n", "mean", "ci_low", "ci_high"]
    return pd.DataFrame(found, columns=names)


def epochs_ms(result: Any) -> pd.Series[float]:
    """Mean time from one emptying of the overlays to the next, by replication."""
    table = result.overlays
    if not len(table):
        return pd.Series(dtype=float)
    times = table[table["measured"]].groupby("replication")["at_ns"]
    means: pd.Series[float] = times.apply(lambda at: at.diff().mean() / 1e6)
    return means


def touched_bytes(what: Scenario, epoch_ms: Any) -> Any:
    """Mean bytes of the clusters that an epoch's uniform writes touch.

    Writes are Poisson, so each of W clusters stays untouched with probability exp(-n/W); a write
    of 4 KiB lies in one cluster (it begins at a block).
    """
    disk, workload = what.disk, what.workload
    assert disk is not None
    assert isinstance(workload, OpenService)
    clusters = disk.working_set_bytes / disk.cluster_bytes
    writes = workload.rate_per_s * np.asarray(epoch_ms) / 1000 * disk.writes_per_request
    return clusters * -np.expm1(-writes / clusters) * disk.cluster_bytes


# -- takeovers ---------------------------------------------------------------------------------


def takeover(
    replications: int | None = None, seed: int | None = None, jobs: int | None = None
) -> pd.DataFrame:
    """A row per takeover: killed_ms, replication, overlay_bytes, commit_ms, gap_ms, blocked_ms.

    gap: from the last answer before the kill to the next.  blocked: from the kill until the
    survivor's guest runs alone.
    """
    base, rows = scenario(), []
    assert isinstance(base.workload, Service)
    delay_ns = base.workload.client_delay_ns
    for killed_ms in KILLED_MS:
        kill = {"target": "primary", "kind": "crash", "scope": "vm"}
        at = 2 * _DELAY_MS + 100 + killed_ms
        what = base.replace(
            {
                "duration": f"{at + 1000} ms",
                "policy.colo.checkpoint_delay": f"{_DELAY_MS} ms",
                "workload.rate": "400 /s",
                "fault": [{**kill, "at": f"{at} ms"}],
            }
        )
        result = colosim.simulate(what, "colo", seed, replications, jobs=jobs)
        if result.violations:
            raise RuntimeError(result.violations[0])
        for record in result.records:
            (alone,) = [e["at_ns"] for e in record.events if e["what"] == "alone"]
            released = np.sort(record.responses["released_ns"])
            last = released[released <= at * 1e6 + delay_ns].max()  # what left before it
            gap_ns = released[released > last].min() - last
            rows.append(
                {
                    "killed_ms": killed_ms,
                    "replication": record.replication,
                    "overlay_bytes": record.counters["disk_committed_bytes"],
                    "commit_ms": record.counters["disk_commit_ns"] / 1e6,
                    "gap_ms": gap_ns / 1e6,
                    "blocked_ms": alone / 1e6 - at,
                }
            )
    return pd.DataFrame(rows)


# -- appends -----------------------------------------------------------------------------------


def appends(
    replications: int | None = None, seed: int | None = None, jobs: int | None = None
) -> pd.DataFrame:
    """condition, basis (fitted or predicted), measured_ms; p50 of an append: mean, ci_low, ci_high.

    An append is a write and then a flush; one writer, who does not wait for what is held.
    """
    base = scenario().replace(
        {
            "workload.rate": "120 /s",
            "workload.connections": 1,
            "disk.write": "512 B",
            "disk.pattern": "append",
            # p50 of a sum of constants; a spread would make it another quantity than the mean
            "disk.latency_distribution": "deterministic",
        }
    )
    unprotected = {"policy.remus.interval": "1000 s", "execution.executes": False}
    conditions: Mapping[str, tuple[str, Mapping[str, Any]]] = {
        "alone": ("none", {}),
        "with the NBD child": ("remus", {"policy.name": "remus", **unprotected}),
        "protected, compare": ("colo", {"policy.colo.checkpoint_delay": _ASSUMED_INTERVAL}),
        "protected, held": (
            "remus",
            {"policy.name": "remus", "policy.remus.interval": _ASSUMED_INTERVAL},
        ),
    }
    rows = []
    for condition, (policy, changes) in conditions.items():
        result = colosim.simulate(base.replace(changes), policy, seed, replications, jobs=jobs)
        if result.violations:
            raise RuntimeError(result.violations[0])
        table = result.disk[result.disk["measured"]]
        p50 = table.groupby(["replication", "op"])["took_ms"].median().unstack()
        _, mean, low, high = interval(p50["write"] + p50["flush"])
        rows.append(
            {
                "condition": condition,
                "basis": "fitted" if condition in _FITTED else "predicted",
                "measured_ms": MEASURED_APPENDS[condition],
                "mean": mean,
                "ci_low": low,
                "ci_high": high,
            }
        )
    return pd.DataFrame(rows)
