"""Metrics of policies side by side, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from colosim.analysis.plots.style import Chart, look_of, styled
from colosim.analysis.summary import label


@styled
def comparison(
    summary: pd.DataFrame,
    metrics: Sequence[str] = ("throughput_per_s", "latency_mean_ms", "latency_p99_ms"),
) -> Chart:
    """One panel per metric, one bar per policy, with its 95 % interval.

    Raises ValueError for a metric that the summary does not hold.
    """
    chart = Chart(figsize=(2.4 * len(metrics), 3.0))
    for axes, metric in zip(np.ravel(chart.subplots(1, len(metrics))), metrics, strict=True):
        rows = summary[summary["metric"] == metric]
        if rows.empty:
            raise ValueError(f"no metric {metric!r}; have {', '.join(summary['metric'].unique())}")
        colours = [look.colour for look in look_of(rows["policy"]).values()]
        spread = [rows["mean"] - rows["ci_low"], rows["ci_high"] - rows["mean"]]
        bars = axes.bar(rows["policy"], rows["mean"], 0.7, yerr=spread, color=colours, capsize=4)
        axes.bar_label(bars, [f"{mean:.4g}" for mean in rows["mean"]], padding=2, fontsize=8)
        axes.set_ylabel(label(metric, rows["unit"].iloc[0]))
        axes.margins(y=0.15)
        axes.grid(visible=False, axis="x")
    return chart
