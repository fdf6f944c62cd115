"""The one figure of the storm: what it does, and where it comes from."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from colosim.analysis.plots import COLOURS, Chart, styled
from colosim.analysis.stats import interval
from experiments import storm

#: colour, dashes, marker and its size: those that coincide are seen one around the other
_LOOKS = {
    "none": (COLOURS[6], "-", "D", 11),
    "strict": (COLOURS[0], "-", "o", 4),
    "qemu": (COLOURS[1], "-", "s", 5),
    "qemu, oldest first": (COLOURS[2], "--", "o", 8),
}
_CHANCE = "chance that the primary leads by a gap"


@styled
def draw(table: pd.DataFrame) -> Chart:
    """Checkpoints and goodput over the burst, and bursts that mismatch over the gap."""
    chart = Chart(figsize=(10.8, 3.9))
    first, second, third = chart.subplots(1, 3)
    bursts = table[table["sweep"] == "burst"]
    _lines(first, bursts, "checkpoints_per_s")
    first.set(title="a  Checkpoints", ylabel="Checkpoints (1/s)")
    _lines(second, bursts[bursts["condition"] != "none"], "goodput_share")
    second.set(title="b  Goodput", ylabel="Goodput, without protection = 1", ylim=(0, 1.05))
    sizes = sorted(bursts["at"].unique())
    for axes in (first, second):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("Datagrams of an answer")
    gaps = table[table["sweep"] == "gap"]
    _lines(third, gaps, "false_share")
    x = np.linspace(gaps["at"].min(), gaps["at"].max(), 200)
    third.plot(
        x,
        [storm.lead_chance(us) for us in x],
        color="black",
        linestyle=":",
        label=_CHANCE,
    )
    third.set(
        title="c  Single bursts of eight",
        xlabel="Time from one datagram to the next (us)",
        ylabel="Bursts that made a checkpoint",
    )
    for axes in (first, second, third):
        axes.title.set_fontweight("bold")
    shown = {
        label: handle
        for axes in (first, third)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    names = [*_LOOKS, _CHANCE]
    handles = [shown[name] for name in names]
    chart.legend(handles, names, loc="outside lower center", ncols=5)
    chart.suptitle("UDP bursts of two guests that say the same; bars: 95 % intervals")
    return chart


def _lines(axes: Axes, table: pd.DataFrame, metric: str) -> None:
    """A line for each condition, its mean and interval at each place."""
    rows = table[table["metric"] == metric]
    for condition, of_condition in rows.groupby("condition", sort=False):
        colour, dashes, marker, size = _LOOKS[str(condition)]
        places = of_condition.groupby("at")["value"]
        x = [float(str(at)) for at, _ in places]
        _, mean, low, high = np.transpose([interval(values) for _, values in places])
        axes.errorbar(
            x,
            mean,
            yerr=[mean - low, high - mean],
            color=colour,
            linestyle=dashes,
            marker=marker,
            markersize=size,
            markerfacecolor=colour if size <= 5 else "none",
            capsize=2,
            linewidth=1.3,
            label=str(condition),
        )
