"""Two figures: the price of noticing a failure soon, and what each way to arbitrate lets happen."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from colosim.analysis.plots import COLOURS, Chart, styled
from experiments import managers

#: as dark as a service that is down
_DOWN_S = 4.0
_SHOWN = ["design", "fault", "split", "down", "outage_ms"]


@styled
def draw_detection(curve: pd.DataFrame, losses: pd.DataFrame, heavy: pd.DataFrame) -> Chart:
    """False failovers over detection time, and over the time-out where heartbeats are lost.

    heavy: the curve where blips have a heavy tail.
    """
    chart = Chart(figsize=(10.4, 4.2))
    first, second, third = chart.subplots(1, 3)
    intervals_ms = sorted(curve["interval_ms"].unique())
    colours = dict(zip(intervals_ms, COLOURS, strict=False))
    markers = dict(zip(intervals_ms, "osD", strict=False))
    lines = {(each.interval_ms, each.grace_ms) for each, _ in managers.by_setting(curve)}
    for interval_ms, grace_ms in sorted(lines):
        rows = curve[(curve["interval_ms"] == interval_ms) & (curve["grace_ms"] == grace_ms)]
        look: dict[str, object] = {
            "color": colours[interval_ms],
            "marker": markers[interval_ms],
            "markerfacecolor": "none" if grace_ms else colours[interval_ms],
            "label": f"{interval_ms} ms" + (f", grace {grace_ms} ms" if grace_ms else ""),
        }
        _points(first, rows, "detection_ms", look)
        _points(second, rows, "silence_ms", look)
    silence = np.linspace(curve["silence_ms"].min(), curve["silence_ms"].max(), 100)
    bounds = [managers.foreseen_per_h(s, curve["interval_ms"].max()) for s in silence]
    low, high = np.transpose(bounds)
    second.fill_between(silence, low, high, color="0.85", label="by hand", zorder=0)
    tail: dict[str, object] = {
        "color": COLOURS[6],
        "marker": "^",
        "label": f"{heavy['interval_ms'].iloc[0]} ms, heavy tail",
    }
    _points(second, heavy, "silence_ms", tail)
    first.set(
        title="a  What detection costs",
        xlabel="Time until a crash is suspected (ms)",
        ylabel="False failovers per hour",
    )
    second.set(title="b  By silence allowed", xlabel="Time-out and grace (ms)")
    for colour, marker, (loss, rows) in zip(COLOURS, "os", losses.groupby("loss"), strict=False):
        error = (rows["false_per_h"] - rows["low"], rows["high"] - rows["false_per_h"])
        _bounds(third, rows["timeouts"], rows["false_per_h"], rows["high"], colour)
        third.errorbar(
            rows["timeouts"],
            rows["false_per_h"].where(rows["false_per_h"] > 0),
            yerr=np.clip(error, 0, None),
            color=colour,
            marker=marker,
            markersize=4,
            linestyle="none",
            capsize=2,
            label=f"{float(str(loss)):.0%} lost",
        )
        third.plot(rows["timeouts"], rows["foreseen_per_h"], color=colour, linestyle=":")
    third.set(
        title="c  Heartbeats lost one by one",
        xlabel="Time-out (heartbeat intervals)",
        ylabel="False failovers per hour",
    )
    for axes in (first, second, third):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.title.set_fontweight("bold")
    second.legend(title="Heartbeat interval", fontsize="small")
    third.legend(title="dotted: by hand", fontsize="small")
    chart.suptitle(
        f"Blips of the link, {managers.BLIPS_PER_H:g} an hour, exponential (heavy tail: "
        f"Pareto), mean {managers.BLIP_MS:g} ms; bars: 95 % intervals; v: none seen, upper bound"
    )
    return chart


def _points(axes: Axes, rows: pd.DataFrame, x: str, look: dict[str, object]) -> None:
    rows = rows.sort_values(x)
    error = (rows["false_per_h"] - rows["false_low"], rows["false_high"] - rows["false_per_h"])
    _bounds(axes, rows[x], rows["false_per_h"], rows["false_high"], look["color"])
    seen = rows["false_per_h"].where(rows["false_per_h"] > 0)
    axes.errorbar(
        rows[x],
        seen,
        yerr=np.clip(error, 0, None),
        linestyle="-" if x == "detection_ms" else "none",
        linewidth=0.8,
        markersize=4,
        capsize=2,
        **look,  # type: ignore[arg-type]
    )


def _bounds(axes: Axes, x: Any, count: pd.Series, high: pd.Series, colour: Any) -> None:
    """Where none was seen there is only an upper bound."""
    axes.plot(x, high.where(count == 0), "v", color=colour, markerfacecolor="none", markersize=5)


@styled
def draw_arbiters(table: pd.DataFrame) -> Chart:
    """Split brain and outage, a row for each design and a column for each fault."""
    chart = Chart(figsize=(10.4, 6.4))
    first, second = chart.subplots(2, 1, sharex=True)
    faults = list(dict.fromkeys(table["fault"]))
    designs = list(dict.fromkeys(table["design"]))
    shape = (len(designs), len(faults))
    split, down, outage_s = (np.full(shape, np.nan) for _ in range(3))
    for design, fault, *values in table[_SHOWN].itertuples(index=False):
        at = designs.index(design), faults.index(fault)
        split[at], down[at], outage_s[at] = values[0], values[1], values[2] / 1e3
    cells = product(range(shape[0]), range(shape[1]))
    places = [at for at in cells if not np.isnan(split[at])]
    _cells(first, split, "Reds", 1.0)
    _written(first, {at: (_share(float(split[at])), bool(split[at] > 0.6)) for at in places})
    first.set_title("a  Runs in which two sides spoke (white: does not apply)", fontweight="bold")
    shade = np.where(down == 1, _DOWN_S, outage_s)
    _cells(second, shade, "Blues", _DOWN_S)
    texts = {
        at: (_outage(float(outage_s[at]), float(down[at])), bool(shade[at] > 0.6 * _DOWN_S))
        for at in places
    }
    _written(second, texts)
    second.set_title(
        "b  Longest time without an answer (s), and runs in which the service never came back",
        fontweight="bold",
    )
    labels = [each.replace(", ", ",\n") for each in faults]
    second.set_xticks(range(len(faults)), labels, rotation=30, ha="right")
    for axes in (first, second):
        axes.set_yticks(range(len(designs)), designs)
        axes.grid(visible=False)
    return chart


def _share(share: float) -> str:
    return f"{share:.0%}"


def _outage(lasts_s: float, down: float) -> str:
    if down == 1:
        return "down"
    return f"{lasts_s:.2f}" + (f"\n{down:.0%} down" if down else "")


def _cells(axes: Axes, values: NDArray[np.float64], colours: str, most: float) -> None:
    axes.imshow(values, cmap=colours, vmin=0, vmax=most, aspect="auto")


def _written(axes: Axes, texts: Mapping[tuple[int, int], tuple[str, bool]]) -> None:
    """(row, column) -> text, and whether its cell is dark."""
    for (row, column), (text, is_dark) in texts.items():
        colour = "white" if is_dark else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, size=7)
