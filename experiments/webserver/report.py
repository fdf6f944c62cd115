"""The web-server comparison in words: its tables, and what their numbers support."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd
from rich import box
from rich.table import Table

from experiments.webserver import FIXED, compared

_COLUMNS = {
    "throughput_per_s": "responses\n1/s",
    "latency_mean_ms": "mean latency\nms",
    "latency_p99_ms": "p99 latency\nms",
    "pause_mean_ms": "pause\nms",
    "checkpoints_per_s": "checkpoints\n1/s",
    "replication_mbit_per_s": "state\nMbit/s",
    "link_mbit_per_s": "all on link\nMbit/s",
}


def load(clients: int) -> str:
    """A load in words."""
    return "measured load" if clients == FIXED else f"{clients} clients that do not think"


def printed(summary: pd.DataFrame) -> Iterator[Table]:
    """A table for each workload and load: a row per condition, mean ± half of its interval."""
    for workload, clients in _loads(summary):
        rows = summary[(summary["workload"] == workload) & (summary["clients"] == clients)]
        title = f"{workload}, {load(clients)}; {rows['n'].max()} replications"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("condition", no_wrap=True)
        for heading in _COLUMNS.values():
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("memory")
        for condition, of_condition in rows.groupby("condition", sort=False):
            by_metric = of_condition.set_index("metric")
            cells = [_cell(*by_metric.loc[metric, ["mean", "ci_high"]]) for metric in _COLUMNS]
            table.add_row(str(condition), *cells, of_condition["memory"].iloc[0])
        yield table


def _loads(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    """(workload, clients), in order."""
    return list(table[["workload", "clients"]].drop_duplicates().itertuples(False, None))


def _cell(mean: float, high: float) -> str:
    """Mean, to three digits, and half of its interval."""
    if math.isnan(mean):
        return "–"
    if not mean:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(mean))))
    return f"{mean:.{decimals}f} ± {high - mean:.{decimals}f}"


class _Question(NamedTuple):
    """How does a metric compare with what it is under ``baseline``?"""

    metric: str
    text: str
    baseline: str
    policies: Sequence[str]


_FIXED_QUESTIONS = (
    _Question("latency_mean_ms", "mean latency, ms", "none", ("Remus", "COLO")),
    _Question("latency_mean_ms", "mean latency, ms", "Remus 25 ms", ("COLO",)),
    _Question("latency_p99_ms", "p99 latency, ms", "Remus 25 ms", ("COLO",)),
    _Question("link_mbit_per_s", "traffic on the link, Mbit/s", "Remus 100 ms", ("COLO",)),
)
_CLOSED_QUESTIONS = (_Question("throughput_per_s", "responses, 1/s", "none", ("Remus", "COLO")),)


def findings(metrics: pd.DataFrame) -> Iterator[str]:
    """One line for each load and question: what differs, by paired 95 % intervals."""
    for workload, clients in _loads(metrics):
        here = metrics[(metrics["workload"] == workload) & (metrics["clients"] == clients)]
        for question in _FIXED_QUESTIONS if clients == FIXED else _CLOSED_QUESTIONS:
            yield f"{workload}, {load(clients)}: {_answer(here, question)}"


def _answer(metrics: pd.DataFrame, question: _Question) -> str:
    metric, text, baseline, policies = question
    rows = metrics[metrics["metric"] == metric]
    value = rows.loc[rows["condition"] == baseline, "value"].mean()
    against = compared(rows, baseline)
    parts = []
    for policy in policies:
        of_policy = against[against["condition"].str.startswith(policy)]
        low, high = of_policy["diff"].min(), of_policy["diff"].max()
        if (of_policy["diff_high"] < 0).all() or (of_policy["diff_low"] > 0).all():
            parts.append(f"{policy} {low:+.3g} to {high:+.3g}")
            continue
        differs = (of_policy["diff_high"] < 0) | (of_policy["diff_low"] > 0)
        clear = of_policy.loc[differs, ["condition", "diff"]].itertuples(False, None)
        parts += [f"{condition} {difference:+.3g}" for condition, difference in clear]
        parts.append(f"no difference seen: {', '.join(of_policy.loc[~differs, 'condition'])}")
    return f"{text}: {baseline} {value:.4g}; {'; '.join(parts)}"
