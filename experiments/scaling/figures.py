"""The one figure: throughput, what is left of it, and COLO's checkpoints, over clients."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from colosim.analysis.plots import Chart, shades, styled
from experiments.scaling import POLICIES

_DASHES = dict(zip(POLICIES, (":", "--", "-"), strict=True))
_MARKERS = dict(zip(POLICIES, "v^o", strict=True))
#: between the points of one number of clients and those of two times as many
_APART = 0.09


@styled
def draw(summary: pd.DataFrame) -> Chart:
    """Bars: 95 % intervals.  Shades are vCPUs, dashes and markers policies."""
    chart = Chart(figsize=(10.8, 4.0))
    first, second, third = chart.subplots(1, 3)
    vcpus = sorted(summary["vcpus"].unique())
    looks = dict(zip(vcpus, zip(shades(len(vcpus)), range(len(vcpus)), strict=True), strict=True))
    ends = [vcpus[0], vcpus[-1]]
    _lines(first, summary[summary["vcpus"].isin(ends)], "throughput_per_s", looks)
    first.set(title="a  Throughput, fewest and most vCPUs", ylabel="Requests (1/s)", yscale="log")
    first.yaxis.set_major_formatter("{x:g}")
    _lines(second, summary[summary["policy"] != "none"], "kept", looks)
    second.axhline(1, color="black", lw=0.8)
    second.set(title="b  What protection leaves", ylabel="Throughput (none = 1)", ylim=(0, 1.08))
    _lines(third, summary[summary["policy"] == "colo"], "checkpoints_per_s", looks)
    third.set(title="c  Checkpoints of COLO", ylabel="Checkpoints (1/s)")
    third.set_ylim(bottom=0)
    clients = sorted(summary["clients"].unique())
    for axes in (first, second, third):
        axes.set_xscale("log", base=2)
        axes.set_xticks(clients, [str(each) for each in clients])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("Clients")
    handles = [
        *(Line2D([], [], color=looks[each][0], lw=3, label=f"vCPUs: {each}") for each in vcpus),
        *(
            Line2D([], [], color="0.3", ls=_DASHES[name], marker=_MARKERS[name], ms=4, label=name)
            for name in POLICIES
        ),
    ]
    chart.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    chart.suptitle("Bars: 95 % intervals; points beside each other are of as many clients")
    return chart


def _lines(axes: Axes, rows: pd.DataFrame, name: str, looks: dict[int, tuple[str, int]]) -> None:
    for (policy, vcpus), here in rows.groupby(["policy", "vcpus"], sort=False):
        shade, place = looks[int(str(vcpus))]
        axes.errorbar(
            here["clients"] * 2 ** (_APART * (place - (len(looks) - 1) / 2)),
            here[name],
            yerr=[here[name] - here[f"{name}_low"], here[f"{name}_high"] - here[name]],
            color=shade,
            linestyle=_DASHES[str(policy)],
            marker=_MARKERS[str(policy)],
            markersize=4,
            capsize=2,
            linewidth=1.2,
        )
