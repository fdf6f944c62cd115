"""What the figures share: black is published, colours are the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from colosim.analysis.plots import COLOURS, Chart, styled
from experiments.published.rows import Row

FITTED_TO = "published, fitted to"
HELD_OUT = "published, not fitted to"


#: as far apart as model and published may be to be called near
_NEAR = 1.25
_RATIOS = (0.2, 0.3, 0.5, 0.8, 1, 1.25, 2, 3, 5)


@styled
def overview(ratios: Mapping[str, Sequence[float]]) -> Chart:
    """Model over published of every predicted number: a line for each source, the best first.

    A bar is the middle half of a source, its mark the median.
    """
    shown = {source: np.asarray(of, float) for source, of in ratios.items() if len(of)}
    errors = {source: float(np.median(np.abs(of - 1))) for source, of in shown.items()}
    shown = {source: shown[source] for source in sorted(shown, key=errors.__getitem__)}
    chart = Chart(figsize=(8.4, 1.3 + 0.42 * max(1, len(shown))))
    axes = chart.subplots()
    axes.axvspan(1 / _NEAR, _NEAR, color="0.9", lw=0, zorder=0)
    axes.axvline(1, color="black", lw=0.8, zorder=1)
    spread = np.random.default_rng(1)
    for line, of in enumerate(shown.values()):
        y = line + spread.uniform(-0.3, 0.3, len(of))
        axes.plot(of, y, "o", color=COLOURS[4], ms=4, mec=COLOURS[0], mew=0.4, alpha=0.7)
        low, middle, high = np.quantile(of, (0.25, 0.5, 0.75))
        axes.plot([low, high], [line, line], color="black", lw=2.6, solid_capstyle="butt")
        axes.plot(middle, line, "D", color="white", mec="black", mew=1.2, ms=6)
    numbers = np.concatenate([*shown.values(), [1 / _NEAR, _NEAR]])
    axes.set_xscale("log")
    axes.set_xticks(_RATIOS, [f"{ratio:g}" for ratio in _RATIOS])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(0.9 * numbers.min(), 1.1 * numbers.max())
    axes.set_xlabel(f"Model / published (grey: {1 / _NEAR:g} to {_NEAR:g})")
    axes.set_yticks(range(len(shown)), list(shown))
    axes.set_ylim(max(1, len(shown)) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    _beside(axes, [f"{errors[source]:.0%} (n = {len(of)})" for source, of in shown.items()])
    all_of = numbers[:-2]
    near = int(((all_of >= 1 / _NEAR) & (all_of <= _NEAR)).sum())
    axes.set_title(
        f"Of {len(all_of)} predictions {near} are within a factor of {_NEAR:g} of the published "
        "number\ndots: predictions, not fitted to; bar: their middle half; diamond: median"
    )
    return chart


def _beside(axes: Axes, texts: Sequence[str]) -> None:
    """A text at the right of each line."""
    right = axes.twinx()
    right.set_ylim(axes.get_ylim())
    right.set_yticks(range(len(texts)), texts)
    right.tick_params(length=0)
    right.grid(visible=False)
    right.set_ylabel("Median error")


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
