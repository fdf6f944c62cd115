"""The one figure: pause, throughput and the worst VM over the number of VMs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from colosim.analysis.plots import COLOURS, Chart, styled
from colosim.analysis.stats import interval
from experiments.sharing import CONDITIONS

_LOOKS = dict(
    zip(
        (condition.name for condition in CONDITIONS),
        (
            (COLOURS[6], "-", "D"),
            (COLOURS[0], "-", "o"),
            (COLOURS[1], "--", "s"),
            (COLOURS[2], "-", "^"),
            (COLOURS[3], "-", "v"),
        ),
        strict=True,
    )
)


@styled
def draw(table: pd.DataFrame) -> Chart:
    """Bars: 95 % intervals."""
    chart = Chart(figsize=(10.8, 3.9))
    first, second, third = chart.subplots(1, 3)
    _lines(first, table, "pause_mean_ms")
    first.set(title="a  Pause", ylabel="Mean pause (ms)")
    _logarithmic(first, (10, 20, 50, 100))
    _lines(second, table, "throughput_per_s")
    second.set(title="b  Throughput", ylabel="Requests of each VM (1/s)", ylim=(0, None))
    _lines(third, table, "latency_mean_ms")
    third.set(title="c  Latency", ylabel="Mean latency (ms)")
    _logarithmic(third, (3, 5, 10, 20, 50))
    vms = sorted(table["vms"].unique())
    for axes in (first, second, third):
        axes.set_xticks(vms, [str(each) for each in vms])
        axes.set_xlabel("VMs on the host")
        axes.title.set_fontweight("bold")
    handles, names = second.get_legend_handles_labels()
    chart.legend(handles, names, loc="outside lower center", ncols=5)
    chart.suptitle(
        "Protected VMs that share two hosts of eight CPUs and a link of 10 Gbit/s; "
        "bars: 95 % intervals"
    )
    return chart


def _logarithmic(axes: Axes, ticks: tuple[int, ...]) -> None:
    axes.set_yscale("log")
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())


def _lines(axes: Axes, table: pd.DataFrame, metric: str) -> None:
    """A line for each condition, its mean and interval at each number of VMs."""
    rows = table[(table["metric"] == metric) & table["value"].notna()]
    for condition, of_condition in rows.groupby("condition", sort=False):
        colour, dashes, marker = _LOOKS[str(condition)]
        places = of_condition.groupby("vms")["value"]
        x = [float(str(vms)) for vms, _ in places]
        _, mean, low, high = np.transpose([interval(values) for _, values in places])
        axes.errorbar(
            x,
            mean,
            yerr=[mean - low, high - mean],
            color=colour,
            linestyle=dashes,
            marker=marker,
            markersize=4,
            capsize=2,
            linewidth=1.3,
            label=str(condition),
        )
