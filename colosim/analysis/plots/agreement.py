"""The figure of a validation: what was predicted against what was measured."""

from __future__ import annotations

import pandas as pd

from colosim.analysis.plots.style import COLOURS, Chart, styled
from colosim.analysis.summary import label

_LOOKS = {"predicted": (COLOURS[0], "o"), "fitted": (COLOURS[5], "s"), "unknown": (COLOURS[6], "D")}
_COLUMNS = 3


@styled
def agreement(table: pd.DataFrame) -> Chart:
    """Predicted over measured, a panel per metric; a point on the line is right.

    Bars are where one run falls in 95 % of cases if the model is right.
    """
    metrics = list(pd.unique(table["metric"]))
    rows = -(-len(metrics) // _COLUMNS)
    chart = Chart(figsize=(3.2 * _COLUMNS, 3.0 * rows), layout="constrained")
    panels = chart.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    for axes, metric in zip(panels, metrics, strict=False):
        here = table[table["metric"] == metric]
        low = float(here[["measured", "low"]].min().min())
        high = float(here[["measured", "high"]].max().max())
        axes.axline((low, low), (high, high + 1e-9), color="#808080", lw=0.8, ls="--")
        for status, of_status in here.groupby("status", sort=False):
            colour, marker = _LOOKS[str(status)]
            bars = [
                of_status["predicted"] - of_status["low"],
                of_status["high"] - of_status["predicted"],
            ]
            axes.errorbar(
                of_status["measured"],
                of_status["predicted"],
                yerr=bars,
                fmt=marker,
                color=colour,
                ms=4,
                lw=1,
                label=str(status),
            )
        axes.set_title(_title(metric))
        axes.set_xlabel("Measured")
        axes.set_ylabel("Predicted")
    if metrics:
        panels[0].legend()
        chart.suptitle("On the line: as measured. Bars: where one run falls in 95 % of cases")
    return chart


def _title(metric: str) -> str:
    unit = "ms" if metric.endswith("_ms") else "1/s" if metric.endswith("_per_s") else "pages"
    return label(metric, unit)
