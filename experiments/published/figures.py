"""What the figures share: black is published, colours are the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

from colosim.analysis.plots import COLOURS, Chart, styled
from experiments.published.rows import Row

FITTED_TO = "published, fitted to"
HELD_OUT = "published, not fitted to"


@styled
def overview(ratios: Mapping[str, Sequence[float]]) -> Chart:
    """Model over published of every predicted number: a line for each source, its median marked."""
    shown = {source: np.asarray(of, float) for source, of in ratios.items() if len(of)}
    chart = Chart(figsize=(7.2, 1.1 + 0.42 * max(1, len(shown))))
    axes = chart.subplots()
    axes.axvspan(0.8, 1.25, color="0.92", lw=0, zorder=0)
    axes.axvline(1, color="black", lw=0.8)
    spread = np.random.default_rng(1)
    for line, of in enumerate(shown.values()):
        y = line + spread.uniform(-0.22, 0.22, len(of))
        axes.plot(of, y, "o", color=COLOURS[0], ms=4, mew=0, alpha=0.5)
        axes.plot([np.median(of)] * 2, [line - 0.36, line + 0.36], color=COLOURS[1], lw=2)
    axes.set(xscale="log", xlabel="Model / published (1: as published; grey: within 25 %)")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    texts = [f"{source} ({len(of)})" for source, of in shown.items()]
    axes.set_yticks(range(len(shown)), texts)
    axes.set_ylim(max(1, len(shown)) - 0.5, -0.5)
    axes.set_title("Predicted numbers, not fitted to; orange: median of the source")
    return chart


def panels(rows: int, columns: int, width: float, height: float) -> tuple[Chart, list[Axes]]:
    """A chart with panels row by row, all in one style."""
    chart = Chart(figsize=(width, height))
    return chart, list(np.atleast_1d(chart.subplots(rows, columns)).flat)


def published(axes: Axes, rows: Sequence[Row], label: str = "", **look: Any) -> None:
    """Black points, with bars for how far they can be read."""
    look = {"color": "black", "marker": "o", "zorder": 5, **look}
    points(axes, rows, "published", ("published_low", "published_high"), label, **look)


def used_and_held_out(axes: Axes, rows: Sequence[Row]) -> None:
    """The same, full where a model was fitted to them, open where not."""
    for kind, label, fill in (
        ("fitted", FITTED_TO, "black"),
        ("predicted", HELD_OUT, "white"),
    ):
        published(axes, [row for row in rows if row.kind == kind], label, markerfacecolor=fill)


def modelled(axes: Axes, rows: Sequence[Row], label: str = "", **look: Any) -> None:
    """The model's values, with bars for their 95 % intervals or, if there is one, their range."""
    points(axes, rows, "model", None, label, **look)
    for row in rows:
        half = 0.0 if math.isnan(row.interval) else row.interval
        low, high = row.model - half, row.model + half
        if not math.isnan(row.low):
            low, high = row.low, row.high
        axes.vlines(row.x, low, high, color=look["color"], linewidth=1.2, zorder=3)


def points(
    axes: Axes,
    rows: Sequence[Row],
    value: str,
    ends: tuple[str, str] | None = None,
    label: str | None = None,
    **look: Any,
) -> None:
    """Fields of rows over their condition, with bars from one field to the other."""

    def column(name: str) -> NDArray[np.float64]:
        return np.array([getattr(row, name) for row in rows])

    if not rows:
        return
    look = {"markersize": 5, "linestyle": "", "zorder": 4, **look}
    axes.plot(column("x"), column(value), label=label, **look)
    if ends:
        low, high = map(column, ends)
        axes.vlines(column("x"), low, high, color=look["color"], linewidth=1.2, zorder=3)


def beside(axes: Axes, rows: Sequence[Row], names: Sequence[str], colour: str) -> None:
    """Bars side by side: published (grey) and the model (coloured; hatched where it was fitted)."""
    places = np.arange(len(rows))
    axes.bar(places - 0.2, [row.published for row in rows], 0.38, color="0.6", label="published")
    looks: dict[str, dict[str, Any]] = {
        "predicted": {},
        "fitted": {"hatch": "///", "alpha": 0.5},
    }
    for kind, look in looks.items():
        chosen = [i for i, row in enumerate(rows) if row.kind == kind]
        if chosen:
            heights = [rows[i].model for i in chosen]
            axes.bar(places[chosen] + 0.2, heights, 0.38, color=colour, label=kind, **look)
    for i, row in enumerate(rows):
        if not math.isnan(row.low):
            axes.vlines(i + 0.2, row.low, row.high, color="black", linewidth=1.2)
        if row.published_high > row.published_low:
            axes.vlines(i - 0.2, row.published_low, row.published_high, color="black", linewidth=1)
    axes.set_xticks(places, names, fontsize="small")
    axes.set_ylim(0, 1.3 * axes.dataLim.y1)  # room for the legend
