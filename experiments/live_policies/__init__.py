"""The policies beside each other on real guests: one short run each, in turn.

`plan` says what is run, `run` runs what is not there yet, `summary` looks at it.  What COLO costs
clients in depth, with kills, is `experiments.colo`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from colosim import Scenario, load_scenario
from colosim.analysis.stats import interval
from experiments import output

POLICIES = ("none", "remus", "microcheckpoint", "colo", "hybrid")
SLICES = 5


@dataclass(frozen=True, slots=True)
class Run:
    """One live run; turn counts the repetitions."""

    policy: str
    turn: int
    scenario: Scenario

    @property
    def folder(self) -> str:
        """Its directory, below that of the experiment."""
        return f"runs/{self.policy}-{self.turn}"


def plan(
    policies: Sequence[str] = POLICIES, turns: int = 1, length_s: int = 6, seed: int = 1
) -> list[Run]:
    """All runs.  Policies take turns, so that a slow minute of the machine meets them all."""
    base = load_scenario(Path(__file__).parent / "web.toml")
    return [
        Run(
            policy,
            turn,
            base.replace({"policy.name": policy, "duration": f"{length_s} s", "seed": seed + turn}),
        )
        for turn in range(turns)
        for policy in policies
    ]


def run(runs: Sequence[Run], out: Path, say: Callable[[str], None]) -> list[str]:
    """Run what is not in ``out`` already; returns what could not be run, a line each."""
    todo = (
        (f"{each.policy}, turn {each.turn + 1}", each.scenario, out / each.folder) for each in runs
    )
    return output.run_live(todo, say)


def summary(runs: Sequence[Run], out: Path) -> pd.DataFrame:
    """A row for each policy that ran: policy, answers, throughput_per_s and latency_mean_ms with
    _low and _high, latency_p50_ms, latency_p99_ms, checkpoints, checkpoints_per_s, pause_ms
    (median), pages (median), reasons.

    Intervals, 95 %: means of `SLICES` equal slices of each run's measured time count as
    independent (batch means: Law, 9.5.3).
    """
    rows: list[dict[str, Any]] = []
    for policy in dict.fromkeys(each.policy for each in runs):
        there = [
            each
            for each in runs
            if each.policy == policy and output.is_there(each.scenario, out / each.folder)
        ]
        if there:
            rows.append({"policy": policy, **_row(there, out)})
    return pd.DataFrame(rows)


def _row(runs: Sequence[Run], out: Path) -> dict[str, Any]:
    slices, latencies, points, measured_s = [], [], [], 0.0
    for each in runs:
        table = pd.read_parquet(out / each.folder / "responses.parquet")
        begin, end = each.scenario.warm_up_ns, each.scenario.duration_ns
        answers = table[table["measured"].astype(bool) & table["released_ns"].between(begin, end)]
        step = (end - begin) / SLICES
        for k in range(SLICES):
            came = answers["released_ns"].between(begin + k * step, begin + (k + 1) * step)
            here = answers.loc[came, "latency_ms"]
            slices.append((len(here) / (step / 1e9), here.mean()))
        latencies.append(answers["latency_ms"])
        measured_s += (end - begin) / 1e9
        if (place := out / each.folder / "checkpoints.parquet").exists():
            found = pd.read_parquet(place)
            points.append(found[found["measured"].astype(bool) & (found["committed_ns"] >= 0)])
    of_all, checkpoints = pd.concat(latencies), pd.concat(points)
    row: dict[str, Any] = {"answers": len(of_all)}
    for name, values in zip(
        ("throughput_per_s", "latency_mean_ms"), zip(*slices, strict=True), strict=True
    ):
        _, row[name], row[f"{name}_low"], row[f"{name}_high"] = interval(values)
    reasons = checkpoints["reason"].value_counts()
    return row | {
        "latency_p50_ms": of_all.quantile(0.5),
        "latency_p99_ms": of_all.quantile(0.99),
        "checkpoints": len(checkpoints),
        "checkpoints_per_s": len(checkpoints) / measured_s,
        "pause_ms": checkpoints["pause_ms"].median(),
        "pages": checkpoints["pages"].median(),
        "reasons": ", ".join(f"{name} {count}" for name, count in reasons.items()) or "–",
    }


def latencies(runs: Sequence[Run], out: Path) -> pd.DataFrame:
    """What `latency_cdf` draws: policy, replication (the turn), measured, latency_ms of answers."""
    tables = [
        pd.read_parquet(out / each.folder / "responses.parquet").assign(
            policy=each.policy, replication=each.turn
        )
        for each in runs
        if output.is_there(each.scenario, out / each.folder)
    ]
    table = pd.concat(tables, ignore_index=True)
    return table[table["latency_ms"].notna()]
