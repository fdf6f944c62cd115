"""Downtime of a year, by policy and by what begins the outages."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter

from colosim.analysis.plots.style import Chart, Look, look_of, styled
from colosim.wording import number

#: method -> whether its markers are filled
_METHODS = {"markov": True, "monte carlo": False}
_MOST_CAUSES = 14


@styled
def downtime(summary: pd.DataFrame, causes: pd.DataFrame) -> Chart:
    """Downtime a year: by policy, both methods with intervals; by what began the outages."""
    wide = causes.pivot(index="cause", columns="policy", values="downtime_s_per_year")
    wide = wide.loc[wide.max(axis=1).sort_values().index[-_MOST_CAUSES:]]
    chart = Chart(figsize=(8.4, max(3.0, 1.3 + 0.24 * len(wide))))
    left, right = chart.subplots(1, 2, width_ratios=(1, 1.6))
    looks = look_of(summary["policy"])
    _by_policy(left, summary[summary["metric"] == "downtime_s_per_year"], looks)
    for i, (policy, look) in enumerate(looks.items()):
        if policy in wide:
            places = np.arange(len(wide)) + 0.22 * ((len(looks) - 1) / 2 - i)
            right.plot(wide[policy], places, look.marker, color=look.colour, ms=4.5, label=policy)
    right.set(xscale="log", xlabel="Downtime (s/year)", title="by what began the outage")
    right.xaxis.set_major_formatter("{x:g}")
    right.set_yticks(range(len(wide)), list(wide.index))
    right.legend(loc="best")
    return chart


def _by_policy(axes: Axes, rows: pd.DataFrame, looks: Mapping[str, Look]) -> None:
    """Both methods beside each other; the second one is hollow."""
    for shift, (method, is_filled) in zip((-0.2, 0.2), _METHODS.items(), strict=True):
        for i, (policy, look) in enumerate(looks.items()):
            row = rows[(rows["policy"] == policy) & (rows["method"] == method)]
            if row.empty or not row["value"].item() > 0:
                continue
            value, low, high = (row[name].item() for name in ("value", "low", "high"))
            spread = [[max(value - max(low, value * 1e-3), 0.0)], [max(high - value, 0.0)]]
            fill = look.colour if is_filled else "white"
            axes.errorbar(
                i + shift, value, spread, fmt=look.marker, color=look.colour, mfc=fill, capsize=4,
            )  # fmt: skip
            axes.annotate(
                f" {number(value)}", (i + shift, value), (5, 0), textcoords="offset points",
                va="center", fontsize="small",
            )  # fmt: skip
    axes.set_xticks(range(len(looks)), list(looks))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    axes.set(ylabel="Downtime (s/year)", xlim=(-0.5, len(looks) - 0.2))
    axes.set_title("by policy; bars: 95 % intervals")
    axes.legend(
        handles=[
            Line2D(
                [], [], color="black", marker="o", ls="", label=method,
                mfc="black" if is_filled else "white",
            )
            for method, is_filled in _METHODS.items()
        ],
        loc="best",
    )  # fmt: skip
