"""A real guest whose primary's host is killed while clients talk to it.

`run` does it, `phases` says what the steps of a checkpoint took, `figure` shows what the clients
saw; ``python -m experiments.live`` does all three.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

import colosim
from colosim import load_scenario
from colosim.analysis.plots import COLOURS, Chart, styled
from colosim.api import Result

#: step of a checkpoint: columns of the checkpoint table between which it lies
PHASES = {
    "request and reply": ("started_ns", "stopped_ns"),
    "stop and drain": ("stopped_ns", "cut_ns"),
    "save, send, load": ("cut_ns", "committed_ns"),
    "resume": ("committed_ns", "resumed_ns"),
    "whole pause": ("stopped_ns", "resumed_ns"),
}


def run(out: Path, say: Callable[[str], None]) -> Result:
    """The scenario ``web.toml``, kept in ``out``."""
    return colosim.live(load_scenario(Path(__file__).parent / "web.toml"), out=out, say=say)


def phases(result: Result) -> pd.DataFrame:
    """phase; n, median_ms, p99_ms over the committed checkpoints of a run."""
    table = result.checkpoints
    rows = []
    for name, (first, last) in PHASES.items():
        whole = table[(table[first] >= 0) & (table[last] >= 0)]
        took_ms = (whole[last] - whole[first]) / 1e6
        rows.append((name, len(took_ms), took_ms.median(), np.percentile(took_ms, 99)))
    return pd.DataFrame(rows, columns=["phase", "n", "median_ms", "p99_ms"])


@styled
def figure(result: Result, around_s: float = 1.5) -> Chart:
    """Every answer as a point, when it came and what it took; the kill and the takeover."""
    when = {
        what: result.events.loc[result.events["what"] == what, "at_ns"].iloc[0] / 1e9
        for what in ("fault", "promoted")
    }
    begin_s, end_s = when["fault"] - around_s, when["promoted"] + around_s
    answers = result.responses.query("released_ns >= 0")
    came_s = answers["released_ns"] / 1e9
    seen = (came_s > begin_s) & (came_s < end_s)
    chart = Chart(figsize=(8, 3.6))
    axes = chart.subplots()
    axes.plot(came_s[seen], answers["latency_ms"][seen], ".", color=COLOURS[0], label="an answer")
    stops = result.checkpoints.query("stopped_ns >= 0 and resumed_ns >= 0")
    for i, (first, last) in enumerate(zip(stops["stopped_ns"], stops["resumed_ns"], strict=True)):
        label = "guest stopped for a checkpoint" if i == 0 else None
        axes.axvspan(first / 1e9, last / 1e9, color="#dddddd", lw=0, label=label)
    axes.axvline(when["fault"], color=COLOURS[1], label="kill -9 of the primary's host")
    axes.axvline(when["promoted"], color=COLOURS[2], ls="--", label="the secondary goes on")
    metrics = result.summary.set_index("metric")["mean"]
    axes.set(
        xlim=(begin_s, end_s),
        xlabel="Time (s)",
        ylabel="Latency seen by the client (ms)",
        title=f"{result.scenario.name}, {result.policy}: longest gap "
        f"{metrics['longest_gap_ms']:.0f} ms, {metrics['lost_responses']:.0f} answers lost",
    )
    axes.set_ylim(bottom=0)
    chart.legend(loc="outside upper center", ncols=4)
    return chart
