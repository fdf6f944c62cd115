"""Figures of the web-server comparison: a panel per workload, a colour per condition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from colosim.analysis.plots import COLOURS, Chart, stretch_tail, styled
from colosim.analysis.stats import interval
from experiments.webserver import FIXED

#: by the first word of a condition, in the order of the conditions: (colour, dashes)
_LOOKS: Mapping[str, Sequence[tuple[str, Any]]] = {
    "none": [(COLOURS[6], "-")],
    "Remus": [("#F0B030", "-"), (COLOURS[1], "--"), ("#803000", "-.")],
    "COLO": [
        (COLOURS[4], "-"),
        (COLOURS[4], "--"),
        (COLOURS[0], "-."),
        ("#00305A", (0, (5, 1))),
        (COLOURS[2], (0, (1, 1))),
    ],
}
_COSTS = {
    "pause_mean_ms": "Pause of the guest (ms)",
    "checkpoints_per_s": "Checkpoints (1/s)",
    "replication_mbit_per_s": "State sent (Mbit/s)",
    "link_mbit_per_s": "All on the link (Mbit/s)",
}
_TITLE: Any = {"loc": "left", "fontweight": "bold"}
_NUMBER = FuncFormatter(lambda value, _: f"{value:g}")


@styled
def latency(responses: pd.DataFrame) -> Chart:
    """Distribution of latency at fixed load, tail stretched, with 95 % bands."""
    workloads = responses.groupby("workload", sort=False)
    looks = _looks(pd.unique(responses["condition"]))
    chart = Chart(figsize=(9.6, 4.8))
    panels = chart.subplots(1, len(workloads), squeeze=False, sharey=True)[0]
    for axes, (workload, rows) in zip(panels, workloads, strict=True):
        axes.set_title(str(workload), **_TITLE)
        axes.set_xscale("log")
        axes.set_xlabel("Latency seen by the client (ms)")
        axes.xaxis.set_major_formatter(_NUMBER)
        first, last = np.quantile(rows["latency_ms"], [0.001, 0.9999])
        x = np.geomspace(first, last, 400)
        for condition, of_condition in rows.groupby("condition", sort=False):
            mean, low, high = _distribution(of_condition, x)
            colour, dashes = looks[str(condition)]
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(x, mean, color=colour, linestyle=dashes, linewidth=1.5, label=condition)
    stretch_tail(panels[0])
    panels[0].set_ylabel("Responses that took no longer")
    handles, labels = panels[0].get_legend_handles_labels()
    chart.legend(handles, labels, loc="outside lower center", ncols=5)
    chart.suptitle("Latency at the measured load; bands: 95 % interval over replications")
    return chart


def _distribution(rows: pd.DataFrame, x: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Mean over replications of their distribution functions at ``x``, and its interval."""
    shares = [
        np.searchsorted(np.sort(values), x, side="right") / len(values)
        for _, values in rows.groupby("replication")["latency_ms"]
    ]
    _, mean, low, high = np.transpose([interval(of_x) for of_x in np.transpose(shares)])
    return mean, low, high


@styled
def saturation(metrics: pd.DataFrame) -> Chart:
    """Throughput of closed clients, few and as many as saturate the server, against none's."""
    rows = metrics[(metrics["clients"] != FIXED) & (metrics["metric"] == "throughput_per_s")]
    wide = rows.pivot(
        index=["workload", "clients", "replication"], columns="condition", values="value"
    )
    percent = wide.div(wide["none"], axis="index") * 100
    conditions = [name for name in pd.unique(rows["condition"]) if name != "none"]
    workloads = list(pd.unique(rows["workload"]))
    loads = sorted(pd.unique(rows["clients"]), reverse=True)

    chart, panels = _panels(1, len(workloads), conditions)
    for axes, workload in zip(panels[0], workloads, strict=True):
        axes.set_title(workload, **_TITLE)
        for i, clients in enumerate(loads):
            of_load = percent.loc[workload, clients]
            bars = {name: interval(of_load[name])[1:] for name in conditions}
            _dots(axes, bars, hollow=conditions if i else (), lower_by=0.25 * i)
        axes.axvline(100, color="black", linewidth=1)
        axes.set(xlim=(0, 105), xlabel="Responses, none = 100 %")
    _legend(chart, f"{loads[0]} clients", ", ".join(f"{clients} clients" for clients in loads[1:]))
    chart.suptitle(
        "Throughput of clients that ask again at once, memory scaled to their load; "
        "bars: 95 % interval, paired"
    )
    return chart


@styled
def costs(summary: pd.DataFrame) -> Chart:
    """What protection costs at fixed load: pauses, checkpoints, and traffic between the hosts."""
    summary = summary[(summary["clients"] == FIXED) & (summary["condition"] != "none")]
    workloads = summary.groupby("workload", sort=False)
    conditions = list(pd.unique(summary["condition"]))
    chart, panels = _panels(len(workloads), len(_COSTS), conditions)
    for row, (workload, rows) in zip(panels, workloads, strict=True):
        hollow = list(rows.loc[rows["memory"] != "measured", "condition"])
        for axes, metric in zip(row, _COSTS, strict=True):
            if axes is row[0]:
                axes.set_title(str(workload), **_TITLE)
            of_metric = rows.loc[rows["metric"] == metric]
            bars = of_metric[["condition", "mean", "ci_low", "ci_high"]].itertuples(False, None)
            axes.set_xscale("log")
            _dots(axes, {name: values for name, *values in bars}, hollow)
    for axes, label in zip(panels[-1], _COSTS.values(), strict=True):
        axes.set_xlabel(label)
        axes.margins(x=0.1)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_major_formatter(_NUMBER)
        axes.xaxis.set_minor_formatter(NullFormatter())
    _legend(chart, "memory as measured", "memory extrapolated")
    chart.suptitle("Cost of protection at the measured load; bars: 95 % interval")
    return chart


def _panels(rows: int, columns: int, conditions: Sequence[str]) -> tuple[Chart, NDArray[Any]]:
    """A chart of panels that share the conditions as their lines and, in a column, the x axis."""
    height = 0.9 + rows * (0.7 + 0.24 * len(conditions))
    chart = Chart(figsize=(9.6, height))
    panels = chart.subplots(rows, columns, squeeze=False, sharey=True, sharex="col")
    panels[0][0].set_yticks(range(len(conditions)), conditions)
    panels[0][0].set_ylim(len(conditions) - 0.5, -0.5)
    return chart, panels


def _dots(
    axes: Axes,
    bars: Mapping[str, Sequence[float]],
    hollow: Sequence[str] = (),
    lower_by: float = 0.0,
) -> None:
    """(mean, low, high) of each condition, one below the other."""
    looks = _looks(bars)
    for place, (name, (mean, low, high)) in enumerate(bars.items()):
        colour, _ = looks[name]
        axes.errorbar(
            [mean],
            [place + lower_by],
            xerr=[[mean - low], [high - mean]],
            color=colour,
            marker="o",
            markersize=5,
            markerfacecolor="white" if name in hollow else colour,
            capsize=3,
        )


def _legend(chart: Chart, full: str, hollow: str) -> None:
    handles = [
        Line2D([], [], marker="o", color="black", markerfacecolor=face, linestyle="", label=text)
        for face, text in (("black", full), ("white", hollow))
        if text
    ]
    chart.legend(handles=handles, loc="outside lower center", ncols=2)


def _looks(conditions: Iterable[str]) -> dict[str, tuple[str, Any]]:
    """Colour and dashes of each condition."""
    looks: dict[str, tuple[str, Any]] = {}
    for condition in conditions:
        policy = condition.split()[0]
        place = sum(name.split()[0] == policy for name in looks)
        looks[condition] = _LOOKS[policy][place % len(_LOOKS[policy])]
    return looks
