"""The web-server comparison in words: tables, and what their numbers support."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd
from rich import box
from rich.table import Table

from colosim.analysis.summary import label, readable
from experiments.webserver import FIXED, Tables, compared

_COLUMNS = {
    "throughput_per_s": "responses, 1/s",
    "latency_mean_ms": "latency, mean ms",
    "latency_p99_ms": "latency, p99 ms",
    "pause_mean_ms": "pause, ms",
    "checkpoints_per_s": "checkpoints, 1/s",
    "replication_mbit_per_s": "state, Mbit/s",
    "link_mbit_per_s": "all on link, Mbit/s",
}


def load(clients: int) -> str:
    """A load in words."""
    return "measured load" if clients == FIXED else f"{clients} clients that do not think"


def printed(summary: pd.DataFrame) -> Iterator[Table]:
    """A table for each workload and load: a row per condition, mean ± half of its interval."""
    for (workload, clients), rows in summary.groupby(["workload", "clients"], sort=False):
        replications = rows["n"].max()
        table = Table(
            title=f"{workload}, {load(clients)} (± half a 95 % interval, {replications} replications)",
            title_justify="left",
            box=box.SIMPLE_HEAD,
        )
        units = dict(zip(rows["metric"], rows["unit"], strict=True))
        columns = [label(metric, units[metric]) for metric in _COLUMNS]
        texts = readable(rows.rename(columns={"condition": "policy"}))
        memory = rows.groupby("condition")["memory"].first()
        table.add_column("condition", no_wrap=True)
        for heading in _COLUMNS.values():
            table.add_column(heading, justify="right")
        table.add_column("memory")
        for condition in texts.columns:
            cells = texts[condition].reindex(columns, fill_value="–")
            table.add_row(condition, *cells, memory[condition])
        yield table


class _Question(NamedTuple):
    """How does a metric under one load compare with what it is under ``baseline``?"""

    metric: str
    clients: int
    baseline: str
    policies: tuple[str, ...]


def findings(tables: Tables) -> Iterator[str]:
    """One line per workload and question: which conditions differ, by paired 95 % intervals."""
    loads = [int(clients) for clients in pd.unique(tables.metrics["clients"])]
    questions = (
        _Question("latency_mean_ms", FIXED, "none", ("Remus", "COLO")),
        _Question("latency_mean_ms", FIXED, "Remus 25 ms", ("COLO",)),
        _Question("latency_p99_ms", FIXED, "Remus 25 ms", ("COLO",)),
        _Question("link_mbit_per_s", FIXED, "Remus 100 ms", ("COLO",)),
        *(
            _Question("throughput_per_s", clients, "none", ("Remus", "COLO"))
            for clients in loads
            if clients != FIXED
        ),
    )
    for workload, metrics in tables.metrics.groupby("workload", sort=False):
        for question in questions:
            yield f"{workload}, {load(question.clients)}: {_answer(metrics, question)}"


def _answer(metrics: pd.DataFrame, question: _Question) -> str:
    metric, clients, baseline, policies = question
    rows = metrics[(metrics["clients"] == clients) & (metrics["metric"] == metric)]
    value = rows.loc[rows["condition"] == baseline, "value"].mean()
    texts: dict[str, list[str]] = {"lower": [], "higher": [], "no difference seen": []}
    for each in compared(rows, baseline).itertuples():
        if str(each.condition).startswith(policies):
            side = "lower" if each.diff_high < 0 else "higher" if each.diff_low > 0 else None
            size = f" ({each.diff:+.3g})" if side else ""
            texts[side or "no difference seen"].append(f"{each.condition}{size}")
    sides = "; ".join(f"{side}: {', '.join(names)}" for side, names in texts.items() if names)
    return f"{label(metric, rows['unit'].iloc[0])}, {baseline} {value:.4g}. {sides}"
