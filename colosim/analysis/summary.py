"""Tidy tables of replications, and their summary with confidence intervals.

Tables have one row per thing seen, and start with the columns policy and replication:

``metrics``      metric, value, unit: one row per metric of a replication
``responses``    the columns of `RunRecord.responses`, measured (not warm-up), latency_ms
``checkpoints``  the columns of `RunRecord.checkpoints`, measured, pause_ms
``phases``       the columns of `RunRecord.phases`, measured: a row per step of a checkpoint
``disk``         the columns of `RunRecord.disk`, measured, took_ms: a row per read, write, flush
``overlays``     the columns of `RunRecord.overlays`, measured: a row per checkpoint loaded
``events``       at_ns, node, what, detail: faults, exits, takeovers

Where several VMs share hosts, ``responses`` and ``checkpoints`` also have vm: which one's, from 0.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from colosim.analysis.stats import interval, paired
from colosim.model.results import RunRecord
from colosim.wording import capital

_EVENT_COLUMNS = ("at_ns", "node", "what", "detail")


def metrics_table(records: Iterable[RunRecord]) -> pd.DataFrame:
    """policy, replication, metric, value, unit; see `RunRecord.metrics` for what they mean."""
    rows = [
        (record.policy, record.replication, metric, value, unit)
        for record in records
        for metric, (value, unit) in record.metrics().items()
    ]
    return pd.DataFrame(rows, columns=["policy", "replication", "metric", "value", "unit"])


def responses_table(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row per request; latency_ms is NaN for those never answered."""

    def table(record: RunRecord) -> pd.DataFrame:
        columns = record.responses
        return pd.DataFrame(columns).assign(
            measured=columns["arrival_ns"] >= record.warm_up_ns,
            latency_ms=_between_ms(columns["arrival_ns"], columns["released_ns"]),
            **_vm(len(vm.responses["client"]) for vm in record.vms),
        )

    return _stacked(records, table)


def checkpoints_table(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row per checkpoint begun; pause_ms is NaN if the guest did not stop, or not resume."""

    def table(record: RunRecord) -> pd.DataFrame:
        columns = record.checkpoints
        return pd.DataFrame(columns).assign(
            reason=columns["reason"].astype(str),
            measured=columns["started_ns"] >= record.warm_up_ns,
            pause_ms=_between_ms(columns["stopped_ns"], columns["resumed_ns"]),
            **_vm(len(vm.checkpoints["checkpoint"]) for vm in record.vms),
        )

    return _stacked(records, table)


def _vm(rows: Iterable[int]) -> dict[str, NDArray[np.int64]]:
    """A column of which VM's each row is, where there are several; rows: of one after the other."""
    counts = list(rows)
    return {"vm": np.repeat(np.arange(len(counts)), counts)} if counts else {}


def phases_table(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row per step of a checkpoint, of the replications that somebody watched."""

    def table(record: RunRecord) -> pd.DataFrame:
        numbers = _in_turn(record.checkpoints["checkpoint"])
        started = dict(zip(numbers, record.checkpoints["started_ns"], strict=True))
        return pd.DataFrame(record.phases).assign(
            phase=record.phases["phase"].astype(str),
            measured=[
                started.get(each, -1) >= record.warm_up_ns
                for each in _in_turn(record.phases["checkpoint"])
            ],
        )

    return _stacked(records, table)


def _in_turn(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Of each row its number, and how many-th time it comes: each pair numbers from 1."""
    turns: Counter[int] = Counter()
    found: list[tuple[int, int]] = []
    for number in numbers:
        turns[number] += not found or number != found[-1][0]
        found.append((number, turns[number]))
    return found


def phases_summary(phases: pd.DataFrame) -> pd.DataFrame:
    """policy, phase, n, median_ms, p95_ms, p99_ms over the measured rows, in order of passing."""
    took = phases[phases["measured"].astype(bool)].groupby(["policy", "phase"], sort=False)
    quantiles = (took["duration_ns"].quantile(np.array([0.5, 0.95, 0.99])) / 1e6).unstack()
    quantiles.columns = pd.Index(["median_ms", "p95_ms", "p99_ms"])
    quantiles.insert(0, "n", took.size())
    return quantiles.reset_index()


def holds_table(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row for frames that were made together and left together."""

    def table(record: RunRecord) -> pd.DataFrame:
        return pd.DataFrame(record.holds).assign(
            how=record.holds["how"].astype(str),
            measured=record.holds["made_ns"] >= record.warm_up_ns,
            hold_ms=record.holds["hold_ns"] / 1e6,
        )

    return _stacked(records, table)


#: what let a frame go (``how`` of a hold), in words
LET_GO: Mapping[str, str] = {
    "match": "equal output of the secondary",
    "commit": "left with a checkpoint",
    "alone": "of the survivor",
}


def holds_summary(holds: pd.DataFrame) -> pd.DataFrame:
    """policy, how, frames, median_ms, p95_ms, p99_ms of the measured frames, each counted."""
    measured = holds[holds["measured"].astype(bool)]
    rows = []
    for (policy, how), group in measured.groupby(["policy", "how"], sort=False):
        each_ms = np.repeat(group["hold_ms"].to_numpy(), group["frames"].to_numpy())
        rows.append((policy, how, each_ms.size, *np.percentile(each_ms, [50, 95, 99])))
    return pd.DataFrame(rows, columns=["policy", "how", "frames", "median_ms", "p95_ms", "p99_ms"])


def disk_table(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row per read, write or flush of the guest that clients talk to."""

    def table(record: RunRecord) -> pd.DataFrame:
        columns = record.disk
        return pd.DataFrame(columns).assign(
            op=columns["op"].astype(str),
            measured=columns["begun_ns"] >= record.warm_up_ns,
            took_ms=_between_ms(columns["begun_ns"], columns["done_ns"]),
        )

    return _stacked(records, table)


def overlays_table(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row per checkpoint that emptied the overlays of the secondary's disk."""

    def table(record: RunRecord) -> pd.DataFrame:
        return pd.DataFrame(record.overlays).assign(
            measured=record.overlays["at_ns"] >= record.warm_up_ns
        )

    return _stacked(records, table)


def events_table(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row per event, ``detail`` as text."""

    def table(record: RunRecord) -> pd.DataFrame:
        frame = pd.DataFrame(record.events, columns=list(_EVENT_COLUMNS))
        return frame.assign(detail=[_text(detail) for detail in frame["detail"]])

    return _stacked(records, table)


def summarise(metrics: pd.DataFrame, by: Sequence[str] = ("policy",)) -> pd.DataFrame:
    """Mean and 95 % interval over replications: by..., metric, unit, n, mean, ci_low, ci_high.

    ``by`` names what tells one system from another, such as the axes of a sweep.  A metric that
    was NaN in every replication has n = 0.
    """
    keys = [*by, "metric", "unit"]
    rows = [
        (*key, *interval(values))
        for key, values in metrics.groupby(keys, sort=False, dropna=False)["value"]
    ]
    return pd.DataFrame(rows, columns=[*keys, "n", "mean", "ci_low", "ci_high"])


def differences(metrics: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Paired differences from policy ``baseline``: policy, metric, diff, diff_low, diff_high.

    Replication i of one policy is paired with replication i of the other, which met the same random
    draws; replications that one of the two lacks are left out.  Raises ValueError if there is no
    such policy.
    """
    wide = metrics.pivot(index=["metric", "replication"], columns="policy", values="value")
    if baseline not in wide:
        raise ValueError(f"no policy {baseline!r} among {', '.join(map(str, wide))}")
    rows = [
        (policy, metric, *paired(values[policy], values[baseline])[1:])
        for policy in pd.unique(metrics["policy"])
        if policy != baseline
        for metric, values in wide.groupby(level="metric", sort=False)
    ]
    return pd.DataFrame(rows, columns=["policy", "metric", "diff", "diff_low", "diff_high"])


def label(metric: str, unit: str) -> str:
    """A metric for people: "latency_p99_ms" in "ms" is "Latency p99 (ms)"."""
    return f"{capital(named(metric, unit))} ({'count' if unit == '1' else unit})"


def named(metric: str, unit: str) -> str:
    """A metric within a sentence, which has its unit elsewhere: "latency p99"."""
    suffix = {"1/s": "per_s", "Mbit/s": "mbit_per_s"}.get(unit, unit)
    return metric.removesuffix(f"_{suffix}").replace("_", " ")


def readable(
    table: pd.DataFrame, value: str = "mean", low: str = "ci_low", high: str = "ci_high"
) -> pd.DataFrame:
    """Text for people: a row per metric, a column per policy, cells "mean ± half of the interval".

    ``value``, ``low`` and ``high`` name the columns to show.  Metrics that nothing was measured of
    are left out.
    """
    shown = table[table[value].notna()]
    cells = pd.DataFrame(
        {
            "metric": [label(*each) for each in zip(shown["metric"], shown["unit"], strict=True)],
            "policy": shown["policy"],
            "text": [
                plus_minus(mean, (above - below) / 2)
                for mean, below, above in zip(shown[value], shown[low], shown[high], strict=True)
            ],
        }
    )
    wide = cells.pivot(index="metric", columns="policy", values="text").fillna("–")
    wide = wide.loc[list(pd.unique(cells["metric"])), list(pd.unique(cells["policy"]))]
    return wide.rename_axis(index=None, columns=None)


def plus_minus(mean: float, half: float) -> str:
    """Text "mean ± half", both with as many decimals as give the mean four digits."""
    size = math.floor(math.log10(abs(mean))) if mean else 0
    decimals = min(max(3 - size, 0), 6) if mean else 0
    return f"{mean:.{decimals}f}" + ("" if math.isnan(half) else f" ± {half:.{decimals}f}")


def _stacked(
    records: Iterable[RunRecord], table: Callable[[RunRecord], pd.DataFrame]
) -> pd.DataFrame:
    frames = []
    for record in records:
        frame = table(record)
        frame.insert(0, "policy", record.policy)
        frame.insert(1, "replication", record.replication)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _between_ms(start_ns: NDArray[np.int64], end_ns: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where((start_ns >= 0) & (end_ns >= 0), (end_ns - start_ns) / 1e6, np.nan)


def _text(detail: object) -> str:
    return detail if isinstance(detail, str) else json.dumps(detail, sort_keys=True)
