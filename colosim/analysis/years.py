"""Table and figure of years of availability, by policy and by what begins the outages."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter

from colosim.analysis.plots import COLOURS, Chart, styled

_MARKERS = {"markov": "o", "monte carlo": "s"}
_MOST_CAUSES = 14
_LABELS = {
    "downtime_s_per_year": "downtime",
    "unavailability": "part of the time down",
    "outages_per_year": "outages",
    "guest_losses_per_year": "losses of the guest's state",
    "lost_state_s_per_year": "lost state",
    "lost_responses_per_year": "lost responses",
    "split_brain_s_per_year": "split brain",
    "exposed": "part of the time without a copy",
}


def readable_summary(summary: pd.DataFrame) -> pd.DataFrame:
    """Metric and method as rows, policies as columns: value (low to high); no rows of zeros."""
    summary = summary[summary.groupby("metric")["value"].transform("max") > 0]
    shown = pd.DataFrame(
        {
            "what": [
                f"{_LABELS.get(metric, metric)}{'' if unit == '1' else f' ({unit})'}, {method}"
                for metric, unit, method in zip(
                    summary["metric"], summary["unit"], summary["method"], strict=True
                )
            ],
            "metric": summary["metric"],
            "policy": summary["policy"],
            "text": [
                _with_interval(*each)
                for each in zip(summary["value"], summary["low"], summary["high"], strict=True)
            ],
        }
    )
    order = shown.drop_duplicates("what").sort_values(
        "metric",
        key=lambda names: names.map(list(pd.unique(summary["metric"])).index),
        kind="stable",
    )
    wide = shown.pivot(index="what", columns="policy", values="text")
    wide = wide.loc[list(order["what"]), list(pd.unique(summary["policy"]))]
    return wide.rename_axis(index=None, columns=None)


def _with_interval(value: float, low: float, high: float) -> str:
    if math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-300):
        return f"{value:.4g}"
    return f"{value:.4g} ({low:.4g} to {high:.4g})"


def readable_causes(causes: pd.DataFrame) -> pd.DataFrame:
    """Downtime in s/year by what began the outage, policies as columns; the largest first."""
    wide = causes.pivot(index="cause", columns="policy", values="downtime_s_per_year")
    wide = wide[list(pd.unique(causes["policy"]))]
    wide = wide.loc[wide.max(axis=1).sort_values(ascending=False).index]
    text = wide.map(lambda value: "–" if math.isnan(value) else f"{value:.3g}")
    return text.rename_axis(index="downtime (s/year) by cause, markov", columns=None)


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
