"""Dirty pages over exposure: what was seen, and the curve beside it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.ticker import LogFormatter

from colosim.analysis.plots.style import COLOURS, Chart, gid, look_of, styled
from colosim.analysis.stats import interval

_MOST_POINTS = 3_000
_GROUPS = 12
_CURVES = (("-", COLOURS[6]), ("--", COLOURS[3]), (":", COLOURS[5]))


@styled
def dirty_pages(seen: pd.DataFrame, curves: Mapping[str, pd.DataFrame] | None = None) -> Chart:
    """Distinct dirty pages of each checkpoint over its exposure, and curves to compare with.

    seen: `colosim.analysis.pages.points`: exposure_ms, pages and, if there are several, policy.
    curves: name -> exposure_ms, pages, low, high, as `model_curve` and `fitted_curve` make them;
    low and high are drawn as a band.  Where points are many, groups of like exposure have their
    mean and its 95 % interval drawn over them.
    """
    chart = Chart(figsize=(5.6, 3.6))
    axes = chart.subplots()
    axes.set(xlabel="Exposure: time the guest ran since the last cut (ms)", ylabel="Dirty pages")
    for (name, curve), (dashes, colour) in zip((curves or {}).items(), _CURVES, strict=False):
        x = curve["exposure_ms"]
        axes.fill_between(x, curve["low"], curve["high"], color=colour, alpha=0.15, lw=0)
        axes.plot(x, curve["pages"], color=colour, ls=dashes, lw=1.4, label=name)
    policies = seen["policy"] if "policy" in seen else pd.Series(["seen"] * len(seen))
    for policy, look in look_of(policies).items():
        rows = seen[policies.to_numpy() == policy]
        if len(rows) > _MOST_POINTS:
            rows = rows.sample(_MOST_POINTS, random_state=1)
        axes.scatter(
            rows["exposure_ms"], rows["pages"], 11, look.colour, marker=look.marker,
            alpha=0.35 if len(rows) > 50 else 0.9, linewidths=0, gid=gid(policy),
            label=f"{policy}: each checkpoint",
        )  # fmt: skip
        _means(chart, rows, look.colour, look.marker)
    if len(seen):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    axes.set_ylim(0, None)
    if axes.get_legend_handles_labels()[0]:
        legend = axes.legend(loc="best", markerscale=1.6)
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
    return chart


def _means(chart: Chart, rows: pd.DataFrame, colour: str, marker: str) -> None:
    if len(rows) < 2 * _GROUPS:
        return
    [axes] = chart.axes
    x = rows["exposure_ms"].to_numpy()
    edges = np.unique(np.quantile(x, np.linspace(0, 1, _GROUPS + 1)))
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, max(len(edges) - 2, 0))
    for _, group in rows.groupby(place):
        n, mean, low, high = interval(group["pages"])
        if n >= 3:
            axes.errorbar(
                group["exposure_ms"].mean(), mean, [[mean - low], [high - mean]], fmt=marker,
                color=colour, mec="black", mew=0.6, ms=5, capsize=3, lw=1.2, zorder=3,
            )  # fmt: skip
