"""Downtime of a year, by policy and by what begins the outages."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter

from colosim.analysis.plots.style import COLOURS, Chart, styled

_MARKERS = {"markov": "o", "monte carlo": "s"}
_MOST_CAUSES = 14


@styled
def downtime(summary: pd.DataFrame, causes: pd.DataFrame) -> Chart:
    """Downtime a year: by policy, both methods with intervals; by what began the outages."""
    wide = causes.pivot(index="cause", columns="policy", values="downtime_s_per_year")
    wide = wide.loc[wide.max(axis=1).sort_values().index[-_MOST_CAUSES:]]
    chart = Chart(figsize=(8.4, max(3.0, 1.3 + 0.24 * len(wide))))
    left, right = chart.subplots(1, 2, width_ratios=(1, 1.6))
    policies = [str(policy) for policy in pd.unique(summary["policy"])]
    _by_policy(left, summary[summary["metric"] == "downtime_s_per_year"], policies)
    for i, policy in enumerate(policies):
        if policy in wide:
            places = np.arange(len(wide)) + 0.22 * ((len(policies) - 1) / 2 - i)
            colour, marker = COLOURS[i % 7], "osD^v<>"[i % 7]
            right.plot(wide[policy], places, marker, color=colour, ms=4.5, label=policy)
    right.set(xscale="log", xlabel="Downtime (s/year)", title="by what began the outage")
    right.set_yticks(range(len(wide)), list(wide.index))
    right.legend(loc="best")
    return chart


def _by_policy(axes: Axes, rows: pd.DataFrame, policies: list[str]) -> None:
    for shift, (method, marker) in zip((-0.12, 0.12), _MARKERS.items(), strict=True):
        for i, policy in enumerate(policies):
            row = rows[(rows["policy"] == policy) & (rows["method"] == method)]
            if row.empty or not row["value"].item() > 0:
                continue
            value, low, high = (row[name].item() for name in ("value", "low", "high"))
            spread = [[max(value - max(low, value * 1e-3), 0.0)], [max(high - value, 0.0)]]
            fill = COLOURS[i % 7] if method == "markov" else "white"
            axes.errorbar(
                i + shift, value, spread, fmt=marker, color=COLOURS[i % 7], mfc=fill, capsize=4,
                label=method if i == 0 else None,
            )  # fmt: skip
    axes.set_xticks(range(len(policies)), policies)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    axes.set(ylabel="Downtime (s/year)", xlim=(-0.6, len(policies) - 0.4))
    axes.set_title("interval: 95 %")
    axes.legend(loc="best")
