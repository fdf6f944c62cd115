"""Distributions over replications, with bands: what clients wait, what the guest stands."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.ticker import LogFormatter

from colosim.analysis.plots.style import Chart, look_of, styled
from colosim.analysis.stats import interval


@styled
def latency_cdf(responses: pd.DataFrame) -> Chart:
    """Distribution of latency per policy, with 95 % bands over replications; warm-up removed."""
    return _cdf(responses, "latency_ms", "Latency seen by the client (ms)", "Responses (fraction)")


@styled
def pause_cdf(checkpoints: pd.DataFrame) -> Chart:
    """Distribution of checkpoint pauses per policy, with 95 % bands; warm-up removed."""
    return _cdf(checkpoints, "pause_ms", "Pause of the guest (ms)", "Checkpoints (fraction)")


def _cdf(table: pd.DataFrame, column: str, x_label: str, y_label: str) -> Chart:
    """Mean over replications of their distribution functions, and its interval at each x."""
    chart = Chart(figsize=(5.2, 3.4))
    axes = chart.subplots()
    axes.set(xlabel=x_label, ylabel=y_label, ylim=(0, 1.02))
    measured = table[table["measured"] & (table[column] > 0)]
    if measured.empty:
        return chart
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    x = np.geomspace(0.98 * measured[column].min(), 1.02 * measured[column].max(), 400)
    look = look_of(measured["policy"])
    for policy, rows in measured.groupby("policy", sort=False):
        of_replications = [
            np.searchsorted(np.sort(values), x, side="right") / len(values)
            for _, values in rows.groupby("replication")[column]
        ]
        _, mean, low, high = np.transpose([interval(y) for y in np.transpose(of_replications)])
        colour, dashes, _ = look[str(policy)]
        axes.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(x, mean, color=colour, linestyle=dashes, label=str(policy))
    axes.legend(loc="best")
    replications = measured.groupby("policy")["replication"].nunique().max()
    axes.set_title(f"mean of {replications} replications; band: 95 % interval")
    return chart
