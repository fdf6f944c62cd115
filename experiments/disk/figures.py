"""The two figures of the disk: what it costs over the interval, and what a takeover takes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator, ScalarFormatter

from colosim.analysis.plots import COLOURS, Chart, styled
from experiments import disk

_LOOKS = {
    "remus": (COLOURS[1], "s"),
    "microcheckpoint": (COLOURS[2], "^"),
    "colo": (COLOURS[0], "o"),
}
_MIB = 2**20


def _line(axes: Axes, rows: pd.DataFrame, colour: str, label: str, **style: object) -> None:
    low, high = rows["mean"] - rows["ci_low"], rows["ci_high"] - rows["mean"]
    axes.errorbar(
        rows["interval_ms"],
        rows["mean"],
        yerr=[low.fillna(0), high.fillna(0)],
        color=colour,
        label=label,
        markersize=4,
        linewidth=1.2,
        **style,  # type: ignore[arg-type]
    )


@styled
def costs(table: pd.DataFrame) -> Chart:
    """Overlays over the interval beside the closed form, and latency over the interval."""
    chart = Chart(figsize=(10.8, 3.6), layout="constrained")
    sizes, latency, writes = chart.subplots(1, 3)
    by = table.set_index("metric")
    for policy, (colour, marker) in _LOOKS.items():
        for overlay, dashes in (("hidden", "-"), ("active", "--")):
            metric = f"{overlay}_overlay_mean_KiB"
            rows = by[by["policy"] == policy].loc[[metric]].copy()
            rows[["mean", "ci_low", "ci_high"]] /= 1024
            if (rows["mean"] > 0).any():
                name = f"{policy}, {overlay}"
                _line(sizes, rows, colour, name, marker=marker, linestyle=dashes)
        for metric, dashes in (("latency_p50_ms", "-"), ("latency_p99_ms", ":")):
            rows = by[by["policy"] == policy].loc[[metric]]
            name = f"{policy}, {metric.split('_')[1]}"
            _line(latency, rows, colour, name, marker=marker, linestyle=dashes)
        for metric, dashes in (("disk_write_p50_ms", "-"), ("disk_write_p99_ms", ":")):
            rows = by[by["policy"] == policy].loc[[metric]]
            name = f"{policy}, {metric.split('_')[2]}"
            _line(writes, rows, colour, name, marker=marker, linestyle=dashes)
    x = np.geomspace(min(disk.INTERVALS_MS), max(disk.INTERVALS_MS), 100)
    expected = disk.touched_bytes(disk.scenario(), x) / _MIB
    sizes.plot(x, expected, color="black", linestyle=":", label="closed form, epoch = interval")
    none = by[by["policy"] == "none"]
    for axes, metric in ((latency, "latency_p50_ms"), (writes, "disk_write_p50_ms")):
        value = float(none.loc[metric, "mean"])
        axes.axhline(value, color="black", linewidth=0.8, label="none, p50")
    titles = (
        (sizes, "a  Overlays when a checkpoint empties them", "Mean size (MiB)"),
        (latency, "b  Latency of a request", "Latency (ms)"),
        (writes, "c  A write, on both disks", "Duration (ms)"),
    )
    for axes, title, y_label in titles:
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set(xscale="log", yscale="log", xlabel="Time between checkpoints (ms)")
        axes.set_ylabel(y_label)
        axes.set_xticks(disk.INTERVALS_MS, [str(each) for each in disk.INTERVALS_MS])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.legend(fontsize=6.5)
    return chart


@styled
def takeovers(table: pd.DataFrame) -> Chart:
    """Commit, gap and the time until the survivor runs, over the size of the overlays."""
    chart = Chart(figsize=(7.2, 3.6), layout="constrained")
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
    axes.legend(fontsize=7)
    return chart
