"""The figure of a comparison of frames: how long each was held, and why checkpoints came."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from colosim.analysis.plots.style import COLOURS, Chart, styled

_OUTCOMES = {
    "equal": ("equal output of the secondary", COLOURS[0]),
    "checkpoint": ("left with a checkpoint", COLOURS[1]),
}
_POINTS_MOST = 4_000
_BINS = 200


@styled
def hold_times(frames: pd.DataFrame, checkpoints: pd.DataFrame) -> Chart:
    """Hold time of each frame over time; below, checkpoints by reason.

    frames: made_s, hold_s (NaN: never left), outcome.  checkpoints: time_s, why.  Where there are
    many frames, the median and the longest of each stretch of time stand for them.
    """
    counts = checkpoints["why"].value_counts()
    rows = max(1, len(counts))
    chart = Chart(figsize=(7.0, 3.2 + 0.22 * rows))
    upper, lower = chart.subplots(2, 1, sharex=True, height_ratios=[2.4, 0.22 * rows])
    _holds(upper, frames)
    for i, why in enumerate(counts.index):
        times = checkpoints.loc[checkpoints["why"] == why, "time_s"].to_numpy()
        colour = COLOURS[(i + len(_OUTCOMES)) % len(COLOURS)]
        lower.eventplot([times], lineoffsets=-i, linelengths=0.7, colors=colour, lw=0.8)
    labels = [f"{why} ({count:,})" for why, count in counts.items()]
    lower.set_yticks(range(0, -rows, -1), labels or ["none"])
    lower.set_ylim(0.4 - rows, 0.6)
    lower.grid(visible=False, axis="y")
    lower.set_title("checkpoints by reason", fontsize="small")
    last_s = max(frames["made_s"].max(), checkpoints["time_s"].max(), key=np.nan_to_num)
    lower.set(xlabel="Time (s)", xlim=(0, 1.01 * np.nan_to_num(last_s) or 1))
    if upper.get_legend_handles_labels()[0]:
        chart.legend(loc="outside upper center", ncols=2, markerscale=2)
    return chart


def _holds(axes: Axes, frames: pd.DataFrame) -> None:
    held = frames[frames["hold_s"] > 0]
    at_once = int((frames["hold_s"] == 0).sum())
    never = int(frames["hold_s"].isna().sum())
    counts = [f"frames: {len(frames):,}", f"left at once: {at_once:,}", f"held: {len(held):,}"]
    axes.set_title(", ".join(counts + ([f"never left: {never:,}"] if never else [])))
    axes.set_ylabel("Hold time (ms)")
    if held.empty:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no frame left after waiting", transform=axes.transAxes, ha="center")
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    for outcome, (text, colour) in _OUTCOMES.items():
        rows = held[held["outcome"] == outcome]
        if len(rows) > _POINTS_MOST:
            _stretches(axes, rows, text, colour)
        elif len(rows):
            x, y = rows["made_s"], rows["hold_s"] * 1e3
            axes.scatter(x, y, 6, color=colour, label=text, linewidths=0)


def _stretches(axes: Axes, rows: pd.DataFrame, text: str, colour: str) -> None:
    """Median and longest hold of each of `_BINS` equal stretches of time."""
    edges = np.linspace(rows["made_s"].min(), rows["made_s"].max(), _BINS + 1)
    place = np.clip(np.searchsorted(edges, rows["made_s"], side="right") - 1, 0, _BINS - 1)
    of_stretch = (rows["hold_s"] * 1e3).groupby(place)
    middle = (edges[:-1] + edges[1:])[np.unique(place)] / 2
    axes.fill_between(middle, of_stretch.median(), of_stretch.max(), color=colour, alpha=0.25, lw=0)
    axes.plot(
        middle, of_stretch.median(), color=colour, lw=1.2, label=f"{text}: median and longest"
    )
