"""Two figures: the price of noticing a failure soon, and what each way to arbitrate lets happen."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from colosim.analysis.plots import COLOURS, Chart, styled
from experiments import managers

_MARKERS = {0: "o", 300: "s"}


@styled
def draw_detection(curve: pd.DataFrame, losses: pd.DataFrame) -> Chart:
    """False failovers over detection time, and over the time-out where heartbeats are lost."""
    chart = Chart(figsize=(10.4, 4.2), layout="constrained")
    first, second, third = chart.subplots(1, 3)
    for colour, (interval_ms, here) in zip(COLOURS, curve.groupby("interval_ms"), strict=False):
        for grace_ms, rows in here.groupby("grace_ms"):
            name = f"{interval_ms} ms" + (f", grace {grace_ms} ms" if grace_ms else "")
            look = {"color": colour, "marker": _MARKERS[int(str(grace_ms))], "label": name}
            if grace_ms:
                look["markerfacecolor"] = "none"
            _points(first, rows, "detection_ms", look)
            _points(second, rows, "silence_ms", look)
    silence = np.linspace(curve["silence_ms"].min(), curve["silence_ms"].max(), 100)
    bounds = [managers.foreseen_per_h(s, curve["interval_ms"].max()) for s in silence]
    low, high = np.transpose(bounds)
    second.fill_between(silence, low, high, color="0.85", label="by hand, 200 ms", zorder=0)
    first.set(
        title="a  What detection costs",
        xlabel="Time until a crash is suspected (ms)",
        ylabel="False failovers per hour",
    )
    second.set(title="b  By silence allowed", xlabel="Time-out and grace (ms)")
    for colour, (loss, rows) in zip(COLOURS[3:], losses.groupby("loss"), strict=False):
        error = (rows["false_per_h"] - rows["low"], rows["high"] - rows["false_per_h"])
        third.errorbar(
            rows["timeouts"],
            rows["false_per_h"],
            yerr=np.clip(error, 0, None),
            color=colour,
            marker="o",
            linestyle="none",
            capsize=2,
            label=f"{loss:.0%} lost",
        )
        third.plot(rows["timeouts"], rows["foreseen_per_h"], color=colour, linestyle=":")
    third.set(
        title="c  Heartbeats lost one by one",
        xlabel="Time-out (heartbeat intervals)",
        ylabel="False failovers per hour",
    )
    for axes in (first, second, third):
        axes.set_yscale("log")
        axes.title.set_fontweight("bold")
    second.legend(title="Heartbeat interval", fontsize="small")
    third.legend(title="dotted: by hand", fontsize="small")
    chart.suptitle(
        f"Blips of the link, {managers.BLIPS_PER_H:g} an hour, exponential, mean "
        f"{managers.BLIP_MS:g} ms; bars: 95 % intervals"
    )
    return chart


def _points(axes: Axes, rows: pd.DataFrame, x: str, look: dict[str, object]) -> None:
    rows = rows.sort_values(x)
    error = (rows["false_per_h"] - rows["false_low"], rows["false_high"] - rows["false_per_h"])
    # where none was seen there is only an upper bound
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


@styled
def draw_arbiters(table: pd.DataFrame) -> Chart:
    """Split brain and outage, a row for each design and a column for each fault."""
    chart = Chart(figsize=(10.4, 6.4), layout="constrained")
    first, second = chart.subplots(2, 1, sharex=True)
    faults = list(dict.fromkeys(table["fault"]))
    designs = list(dict.fromkeys(table["design"]))
    wide = {
        name: table.pivot(index="design", columns="fault", values=name).loc[designs, faults]
        for name in ("split", "down", "outage_ms")
    }
    split = wide["split"]
    _cells(first, split, "Reds", 1.0, lambda row, column: _share(split, row, column))
    first.set_title("a  Runs in which two sides spoke", fontweight="bold")
    outage_s = (wide["outage_ms"] / 1e3).where(wide["down"] < 1, np.inf)
    _cells(
        second,
        outage_s.replace(np.inf, 4.0).where(split.notna()),
        "Blues",
        4.0,
        lambda row, column: _outage(outage_s, wide["down"], row, column),
    )
    second.set_title(
        "b  Longest time without an answer (s), and runs in which the service never came back",
        fontweight="bold",
    )
    second.set_xticks(range(len(faults)), [each.replace(", ", ",\n") for each in faults])
    second.tick_params(axis="x", labelrotation=20)
    for axes in (first, second):
        axes.set_yticks(range(len(designs)), designs)
        axes.grid(visible=False)
    return chart


def _share(shares: pd.DataFrame, row: int, column: int) -> str:
    value = shares.iloc[row, column]
    return "" if np.isnan(value) else f"{value:.0%}"


def _outage(outage_s: pd.DataFrame, down: pd.DataFrame, row: int, column: int) -> str:
    part, lasts = down.iloc[row, column], outage_s.iloc[row, column]
    if np.isnan(part):
        return ""
    if part == 1:
        return "down"
    return f"{lasts:.2f}" + (f"\n{part:.0%} down" if part else "")


def _cells(axes: Axes, values: pd.DataFrame, colours: str, most: float, text: object) -> None:
    axes.imshow(values.to_numpy(dtype=float), cmap=colours, vmin=0, vmax=most, aspect="auto")
    for row, column in np.ndindex(*values.shape):
        value = values.iloc[row, column]
        colour = "white" if value > 0.6 * most else "black"
        axes.text(column, row, text(row, column), ha="center", va="center", color=colour, size=7)  # type: ignore[operator]
