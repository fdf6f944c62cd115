"""The one figure: what each sizing says of every policy, beside what was measured."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from colosim.analysis.plots import COLOURS, Chart, styled
from experiments.sizing import MEASURED, METRICS

_LOOKS = tuple(zip(COLOURS, "os^", strict=False))


@styled
def draw(table: pd.DataFrame) -> Chart:
    """A panel for each metric; hollow where that policy's own run was among what was seen."""
    metrics = [metric for metric in METRICS if metric in set(table["metric"])]
    policies = list(pd.unique(table["policy"]))
    ways = [way for way in pd.unique(table["source"]) if way != MEASURED]
    chart = Chart(figsize=(2.3 * len(metrics), 1.2 + 0.62 * len(policies)))
    panels = chart.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        here = table[table["metric"] == metric]
        _panel(axes, here, policies, ways)
        most = here[["value", "high"]].max().max()
        axes.set(xlabel=METRICS[metric], xlim=(-0.03 * most, 1.06 * most))
    panels[0].set_yticks(range(len(policies)), policies)
    panels[0].set_ylim(len(policies) - 0.5, -0.5)
    handles, labels = panels[0].get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))
    chart.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=len(shown))
    chart.suptitle("Hollow: that policy's own run was seen; bars: 95 % intervals, by chance alone")
    return chart


def _panel(axes: Axes, here: pd.DataFrame, policies: list[str], ways: list[str]) -> None:
    measured = here[here["source"] == MEASURED]
    y = measured["policy"].map(policies.index) - 0.3
    axes.plot(measured["value"], y, "D", color="black", ms=4.5, label="measured, each run")
    for i, (way, (colour, marker)) in enumerate(zip(ways, _LOOKS, strict=False)):
        rows = here[here["source"] == way]
        for row in rows.to_dict("records"):
            axes.errorbar(
                row["value"], policies.index(row["policy"]) - 0.08 + 0.19 * i,
                xerr=[[row["value"] - row["low"]], [row["high"] - row["value"]]],
                fmt=marker, color=colour, mfc="white" if row["seen"] else colour, ms=4.5,
                capsize=2, lw=1.2,
            )  # fmt: skip
        axes.plot([], [], marker, color=colour, ms=4.5, label=f"sized from {way}")
    axes.grid(visible=False, axis="y")
    for line in range(1, len(policies)):
        axes.axhline(line - 0.5, color="0.85", lw=0.8)
