"""The two figures of the disk: what it costs over the interval, and what a takeover takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from colosim.analysis.plots import COLOURS, Chart, styled
from experiments import disk

#: (policy, pattern) -> colour, marker, its size, whether it is filled: some lie on each other
_LOOKS: dict[tuple[str, str], tuple[str, str, float, bool]] = {
    ("remus", "uniform"): (COLOURS[1], "s", 9, False),
    ("microcheckpoint", "uniform"): (COLOURS[2], "^", 6, False),
    ("colo", "uniform"): (COLOURS[0], "o", 4, True),
    ("colo", "append"): (COLOURS[3], "D", 4, True),
}
_MIB = 2**20


def _line(
    axes: Axes, table: pd.DataFrame, case: tuple[str, str], metric: str, dashes: str, scale: float
) -> None:
    """One metric of one case over the interval, with its confidence intervals."""
    of_case = (table["policy"] == case[0]) & (table["pattern"] == case[1])
    rows = table[of_case & (table["metric"] == metric)]
    colour, marker, size, is_filled = _LOOKS[case]
    low, high = rows["mean"] - rows["ci_low"], rows["ci_high"] - rows["mean"]
    axes.errorbar(
        rows["interval_ms"],
        rows["mean"] * scale,
        yerr=[low.fillna(0) * scale, high.fillna(0) * scale],
        color=colour,
        linestyle=dashes,
        marker=marker,
        markersize=size,
        markerfacecolor=colour if is_filled else "none",
        linewidth=1.1,
        label=f"{case[0]}, {case[1]}" if dashes == "-" else None,
    )


@styled
def costs(table: pd.DataFrame) -> Chart:
    """Overlays over the interval beside the closed form; a request and a write over it."""
    chart = Chart(figsize=(10.8, 3.8))
    sizes, latency, writes = chart.subplots(1, 3)
    for case in _LOOKS:
        _line(sizes, table, case, "hidden_overlay_mean_KiB", "-", 1 / 1024)
        for dashes, quantile in (("-", "p50"), (":", "p99")):
            _line(latency, table, case, f"latency_{quantile}_ms", dashes, 1)
            _line(writes, table, case, f"disk_write_{quantile}_ms", dashes, 1)
    x = np.geomspace(min(disk.INTERVALS_MS), max(disk.INTERVALS_MS), 100)
    expected = disk.touched_bytes(disk.scenario(), x) / _MIB
    sizes.plot(x, expected, color="black", linestyle=":", label="closed form, uniform")
    none = table[table["policy"] == "none"].set_index("metric")["mean"]
    for axes, what in ((latency, "latency"), (writes, "disk_write")):
        for dashes, quantile in (("-", "p50"), (":", "p99")):
            axes.axhline(
                none[f"{what}_{quantile}_ms"],
                color="black",
                linewidth=0.9,
                linestyle=dashes,
                label="none" if dashes == "-" else None,
            )
    titles = (
        (sizes, "a  Hidden overlay, when it is emptied", "Mean size (MiB)"),
        (latency, "b  A request (p50; dotted p99)", "Latency (ms)"),
        (writes, "c  A write to both disks (p50; dotted p99)", "Duration (ms)"),
    )
    for axes, title, y_label in titles:
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set(xscale="log", xlabel="Time between checkpoints (ms)", ylabel=y_label)
        axes.set_xticks(disk.INTERVALS_MS, [str(each) for each in disk.INTERVALS_MS])
        axes.xaxis.set_minor_locator(NullLocator())
    for axes in (sizes, latency):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    writes.set_ylim(0, None)
    handles = {label: handle for axes in (sizes, latency) for handle, label in _shown(axes)}
    chart.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6)
    chart.suptitle("A replicated disk over the time between checkpoints; bars: 95 % intervals")
    return chart


def _shown(axes: Axes) -> list[tuple[Any, str]]:
    return list(zip(*axes.get_legend_handles_labels(), strict=True))


@styled
def takeovers(table: pd.DataFrame) -> Chart:
    """Commit, gap and the time until the survivor runs, over the size of the overlays."""
    chart = Chart(figsize=(7.2, 3.6))
    axes = chart.subplots()
    x = table["overlay_bytes"] / _MIB
    for metric, colour, marker, label in (
        ("commit_ms", COLOURS[0], "o", "overlays committed, beside the running guest"),
        ("gap_ms", COLOURS[1], "s", "clients without an answer"),
        ("blocked_ms", COLOURS[2], "^", "from the kill until the survivor runs alone"),
    ):
        axes.plot(x, table[metric], marker, color=colour, markersize=4, alpha=0.7, label=label)
    measured = disk.MEASURED_COMMITS
    axes.plot(
        [size / _MIB for size in measured],
        list(measured.values()),
        "*",
        color="black",
        markersize=10,
        label="commit as measured (LR 6), to which bus and fixed part are fitted",
    )
    axes.set(xlabel="Both overlays (MiB)", ylabel="Time (ms)", ylim=(0, None))
    axes.set_title("A takeover with a replicated disk; each point is one")
    axes.legend(fontsize=7)
    return chart
