"""rfc2014 and upstream beside each other: when does each release output, and who pays for it?

Both dialects run the same workload with the same random draws under the same parameters: periodic
checkpoints as in the RFC's patch 17 (policy ``remus``), and comparing (``colo``).  What differs:

* rfc2014 releases what waited for a checkpoint when the secondary has loaded it, at resume;
  upstream when the secondary has received it.
* rfc2014's secondary runs on after it said LOADED, upstream's before.

`run` gives the table, `figure` draws it, ``python -m experiments.dialects`` does both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

import colosim
from colosim import load_scenario
from colosim.analysis.plots import COLOURS, Chart, styled
from colosim.analysis.stats import interval, paired
from colosim.api import Comparison

DIALECTS = ("upstream", "rfc2014")
POLICIES = {"remus": "periodic", "colo": "colo"}
#: columns of checkpoints, from -> to: what the time between them is
SPANS = {
    "cut_to_release_ms": ("cut_ns", "committed_ns"),
    "release_to_resume_ms": ("committed_ns", "resumed_ns"),
    "pause_ms": ("stopped_ns", "resumed_ns"),
}
METRICS = ("latency_mean_ms", "latency_p99_ms", "checkpoints_per_s", "throughput_per_s")
_STOPPED, _HELD = "#505050", COLOURS[0]


def run(
    replications: int | None = None, seed: int | None = None, jobs: int | None = None
) -> dict[str, Comparison]:
    """Simulate both dialects; the arguments are those of `colosim.compare`."""
    scenario = load_scenario(Path(__file__).parent / "redis.toml")
    return {
        dialect: colosim.compare(
            scenario.replace({"dialect": dialect}), list(POLICIES), seed, replications, jobs=jobs
        )
        for dialect in DIALECTS
    }


def summary(comparisons: Mapping[str, Comparison]) -> pd.DataFrame:
    """policy, metric; mean, ci_low, ci_high per dialect; diff (rfc2014 - upstream), its interval.

    Times of a checkpoint are means over those of a replication that began after the warm-up.
    """
    values = {dialect: _values(comparison) for dialect, comparison in comparisons.items()}
    rows = []
    for policy, name in POLICIES.items():
        for metric in (*SPANS, *METRICS):
            samples = {dialect: values[dialect].loc[policy][metric] for dialect in DIALECTS}
            row: dict[str, str | float] = {"policy": name, "metric": metric}
            for dialect, sample in samples.items():
                _, mean, low, high = interval(sample)
                row |= {dialect: mean, f"{dialect}_low": low, f"{dialect}_high": high}
            _, mean, low, high = paired(samples["rfc2014"], samples["upstream"])
            rows.append(row | {"diff": mean, "diff_low": low, "diff_high": high})
    return pd.DataFrame(rows)


def _values(comparison: Comparison) -> pd.DataFrame:
    """One row per policy and replication, one column per metric."""
    keys = ["policy", "replication"]
    metrics = comparison.metrics.pivot(index=keys, columns="metric", values="value")
    whole = _whole(comparison.checkpoints)
    spans = pd.DataFrame({name: (whole[b] - whole[a]) / 1e6 for name, (a, b) in SPANS.items()})
    return spans.groupby([whole[key] for key in keys]).mean().join(metrics[list(METRICS)])


def _whole(checkpoints: pd.DataFrame) -> pd.DataFrame:
    """Those begun after the warm-up and ended before the end."""
    return checkpoints[checkpoints["measured"] & (checkpoints["completed_ns"] >= 0)]


@styled
def figure(summary: pd.DataFrame) -> Chart:
    """A checkpoint of mean duration: how long the guest stands, and how long output is held."""
    chart = Chart(figsize=(9.0, 3.0))
    panels = chart.subplots(1, len(POLICIES), sharey=True, sharex=True)
    for axes, (policy, rows) in zip(panels, summary.groupby("policy", sort=False), strict=True):
        values = rows.set_index("metric").drop(columns="policy").T.to_dict()
        for place, dialect in enumerate(DIALECTS):
            pause, held, rest = (
                values[metric][dialect]
                for metric in ("pause_ms", "cut_to_release_ms", "release_to_resume_ms")
            )
            spans = (
                ("pause_ms", place - 0.17, 0.0, pause, _STOPPED),
                ("cut_to_release_ms", place + 0.17, pause - rest - held, held, _HELD),
            )
            for metric, y, start, length, colour in spans:
                half = values[metric][f"{dialect}_high"] - length
                axes.barh([y], [length], 0.32, left=[start], color=colour)
                text = f"{length:.1f} ± {half:.1f} "
                axes.text(start + length, y, text, va="center", ha="right", color="white")
        axes.set_title(str(policy), loc="left", fontweight="bold", fontsize="medium")
        axes.set_xlabel("Since the guest stopped (ms)")
        axes.grid(visible=False, axis="y")
    panels[0].set_yticks(range(len(DIALECTS)), DIALECTS)
    panels[0].set_ylim(len(DIALECTS) - 0.5, -0.5)
    texts = ("guest stands", "from the cut to the release of its output")
    handles = panels[0].containers[:2]
    chart.legend(handles, texts, loc="outside lower center", ncols=2)
    chart.suptitle("One checkpoint in two dialects; mean ± half of a 95 % interval")
    return chart
