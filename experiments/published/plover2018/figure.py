"""The one figure: throughput of every service, and predictions of checkpoints and of the peak."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, NullLocator

from colosim.analysis.plots import COLOURS, Chart
from experiments.published.figures import panels, points, published
from experiments.published.plover2018.fits import COLO, MC, NONE, SERVICES
from experiments.published.plover2018.study import _WORDS, Result
from experiments.published.rows import Row

_BLUE, _ORANGE, _GREEN, *_ = COLOURS
_SYSTEMS: dict[str, dict[str, Any]] = {
    NONE: {"color": _BLUE, "marker": "o", "linestyle": "-"},
    COLO: {"color": _GREEN, "marker": "s", "linestyle": "-."},
    MC: {"color": _ORANGE, "marker": "^", "linestyle": "--"},
}
_PERCENT = "% of unprotected"


def draw(result: Result) -> Chart:
    """A panel for each service, then pause and transfer, latency and bandwidth."""
    chart, axes = panels(4, 3, 10.4, 12.0)
    rest: Sequence[tuple[str, Callable[[Axes, Result], None]]] = (
        ("Pause and transfer of MC", _checkpoints),
        ("Latency at the peak", lambda a, r: _scatter(a, r, "latency, of unprotected", _PERCENT)),
        ("Replication bandwidth", lambda a, r: _scatter(a, r, "replication bandwidth", "Gb/s")),
    )
    for name, each in zip(SERVICES, axes, strict=False):
        _throughput(each, result, name)
        each.set_title(name, loc="left", fontsize="medium")
    for (title, panel), each in zip(rest, axes[len(SERVICES) :], strict=False):
        panel(each, result)
        each.set_title(title, loc="left", fontsize="medium")
        each.legend(fontsize="x-small", frameon=False)
    axes[-1].set_axis_off()
    axes[-1].legend(
        *axes[0].get_legend_handles_labels(), loc="center", frameon=False, fontsize="medium"
    )
    return chart


def _throughput(axes: Axes, result: Result, name: str) -> None:
    for system, look in _SYSTEMS.items():
        rows = _of(result, f"throughput, {_WORDS[system]}", name)
        mark = {"color": look["color"], "marker": look["marker"]}
        for kind, fill, word in (
            ("fitted", look["color"], "fitted to"),
            ("predicted", "white", "not fitted to"),
        ):
            label = f"{_WORDS[system]}, published, {word}"
            chosen = [row for row in rows if row.kind == kind]
            published(axes, chosen, label, **mark, markerfacecolor=fill)
        line = {"color": look["color"], "linestyle": look["linestyle"], "markersize": 0}
        points(axes, rows, "model", None, f"{_WORDS[system]}, model", **line)
    axes.set(yscale="log", xlabel="Clients", ylabel="Requests (1/s)", xlim=(0, None))
    low, high = axes.get_ylim()
    steps = [step * 10**power for power in range(7) for step in (1, 2, 5)]
    _plain_ticks(axes.yaxis, [step for step in steps if low <= step <= high])


def _checkpoints(axes: Axes, result: Result) -> None:
    pages = np.geomspace(2e3, 4e4, 50)
    lines = next(iter(result.fits.values())).lines
    looks = zip(("pause", "transfer"), (_BLUE, _ORANGE), "os", ("-", "--"), lines, strict=True)
    for quantity, colour, marker, dashes, line in looks:
        sizes = {(r.part, r.x): r.published for r in _of(result, "dirty pages")}
        for kind, fill, word in (
            ("fitted", colour, "fitted to"),
            ("predicted", "white", "not fitted to"),
        ):
            rows = [row for row in _of(result, quantity) if row.kind == kind]
            axes.plot(
                [sizes[row.part, row.x] for row in rows],
                [row.published for row in rows],
                marker,
                color=colour,
                markerfacecolor=fill,
                markersize=5,
                label=f"{quantity}, {word}",
            )
        axes.plot(pages, line.at(pages), color=colour, linestyle=dashes)
    axes.set(xscale="log", yscale="log", xlabel="Dirty pages", ylabel="Time (ms)")
    _plain_ticks(axes.xaxis, (2_500, 5_000, 10_000, 20_000, 40_000))
    _plain_ticks(axes.yaxis, (3, 10, 30, 60))


def _plain_ticks(axis: Axis, places: Sequence[float]) -> None:
    axis.set_major_locator(FixedLocator(list(places)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def _scatter(axes: Axes, result: Result, quantity: str, unit: str) -> None:
    """Predicted over published; open where the table calls the value anomalous."""
    rows = [row for row in _of(result, quantity) if row.kind == "predicted"]
    looks = zip(
        dict.fromkeys(r.condition for r in rows), (_GREEN, _ORANGE, _BLUE), "s^v", strict=False
    )
    for condition, colour, marker in looks:
        for odd in (False, True):
            chosen = [
                row
                for row in rows
                if row.condition == condition and odd == ("anomaly" in row.remark)
            ]
            if not chosen:
                continue
            axes.plot(
                [row.published for row in chosen],
                [row.model for row in chosen],
                marker,
                color=colour,
                markerfacecolor="white" if odd else colour,
                label=condition + (", called anomalous" if odd else ""),
            )
    most = max(max(row.published, row.model) for row in rows) * 1.05
    axes.plot([0, most], [0, most], color="0.6", linestyle=":", label="equal")
    axes.set(xlabel=f"Published ({unit})", ylabel=f"Predicted ({unit})", ylim=(0, 1.6 * most))


def _of(result: Result, quantity: str, part: str | None = None) -> list[Row]:
    return [row for row in result.rows if row.quantity == quantity and part in (None, row.part)]
