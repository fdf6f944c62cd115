"""The one figure: four panels, described in README.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import ScalarFormatter

from colosim.analysis.plots import COLOURS, Chart
from experiments.published.remus2008 import kernel_build, pauses, specweb
from experiments.published.remus2008.experiment import Experiment
from experiments.published.remus2008.kernel_build import NOMINAL_PAGES
from experiments.published.remus2008.rows import Row

_BLUE, _ORANGE, _GREEN, *_ = COLOURS
_USED: Mapping[str, Any] = {"color": "black", "marker": "o", "linestyle": "", "zorder": 5}
_NOT_USED: Mapping[str, Any] = {**_USED, "markerfacecolor": "white"}
_INTERVALS_PER_S = np.linspace(5, 45, 161)


def draw(experiment: Experiment) -> Chart:
    """All four panels."""
    chart = Chart(figsize=(9.6, 7.4), layout="constrained")
    panels = (_pauses, _kernel_build, _achieved_rate, _score)
    for name, axes, panel in zip("abcd", chart.subplots(2, 2).flat, panels, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.set_title(f"({name}) {panel(axes, experiment)}", loc="left", fontsize="medium")
        axes.legend(fontsize="small", frameon=False, handlelength=2.6)
    return chart


def _pauses(axes: Axes, experiment: Experiment) -> str:
    pages = np.geomspace(0.8, 2000, 200)
    looks = zip((_BLUE, _ORANGE), "os", ("-", "--"), strict=True)
    for (what, line), (colour, marker, dashes) in zip(
        experiment.lines._asdict().items(), looks, strict=True
    ):
        rows = _rows(experiment, pauses.PART, what)
        _published(axes, rows, f"{what}, published", {**_USED, "color": colour, "marker": marker})
        label = f"fitted: {line.fixed_ms:.2f} ms + {1e3 * line.per_page_ms:.1f} µs per page"
        axes.plot(pages, line.at(pages), color=colour, linestyle=dashes, label=label)
    axes.set(xlabel="Dirty pages", ylabel="Time (ms)", xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScalarFormatter())
    return "Page toucher: pause and transmit"


def _kernel_build(axes: Axes, experiment: Experiment) -> str:
    study = experiment.kernel
    rates = list(_INTERVALS_PER_S)
    curves = {
        key: [100 * model.overhead(rate) for rate in rates] for key, model in study.fits.items()
    }
    edges = [each(list(curves.values()), axis=0) for each in (np.min, np.max)]
    axes.fill_between(rates, *edges, color="0.85", label="all forms, all assumed pages")
    looks = zip((_BLUE, _ORANGE, _GREEN), "sD^", ("-", "--", "-."), strict=True)
    for form, (colour, marker, dashes) in zip(kernel_build.FORMS, looks, strict=True):
        label = f"{form}, {NOMINAL_PAGES} pages an epoch"
        axes.plot(rates, curves[form, NOMINAL_PAGES], color=colour, linestyle=dashes)
        look = {"color": colour, "marker": marker, "linestyle": dashes}
        _model(axes, _rows(experiment, kernel_build.PART, f"overhead, {form}"), label, look)
    rows = _rows(experiment, kernel_build.PART, "overhead, pauses alone")
    look = {"color": "black", "marker": "x", "linestyle": ":"}
    _model(axes, rows, "pauses alone, at most", look, bars=True)
    _published(axes, rows, "published, fitted to", _USED)
    axes.set(xlabel="Checkpoints a second", ylabel="Overhead (%)", ylim=(0, None))
    return "Kernel build: overhead"


def _achieved_rate(axes: Axes, experiment: Experiment) -> str:
    rates = list(_INTERVALS_PER_S)
    axes.plot(rates, rates, color="0.6", linestyle=":", label="as configured")
    looks = zip((_BLUE, _ORANGE), ("-", "--"), strict=True)
    for (form, in_flight_ms), (colour, dashes) in zip(
        experiment.web.in_flight_ms.items(), looks, strict=True
    ):
        achieved = [1000 / specweb.period_ms(rate, in_flight_ms) for rate in rates]
        axes.plot(rates, achieved, color=colour, linestyle=dashes, label=f"{form} time in flight")
    rows = _rows(experiment, specweb.PART, "checkpoints")
    look = {"color": _BLUE, "marker": "s", "linestyle": ""}
    _model(axes, rows, f"simulated, {specweb.NOMINAL}", look)
    for kind, label, look in (
        ("fitted", "published, fitted to", _USED),
        ("predicted", "published, held out", _NOT_USED),
    ):
        _published(axes, [row for row in rows if row.kind == kind], label, look)
    axes.set(xlabel="Configured checkpoints a second", ylabel="Achieved (1/s)")
    return "SPECweb2005: achieved rate"


def _score(axes: Axes, experiment: Experiment) -> str:
    looks = zip((_GREEN, _BLUE), "^s", strict=True)
    looks = {
        "score, larger loss only": {"color": _ORANGE, "marker": "^", "linestyle": "--"},
        "score, both losses": {"color": _BLUE, "marker": "s", "linestyle": "-"},
    }
    measured = _rows(experiment, specweb.PART, "score, not buffered")
    look = {**_USED, "marker": "D", "markerfacecolor": "0.7"}
    _published(axes, measured, "published without buffering", look)
    for quantity, look in looks.items():
        label = f"predicted, {quantity.removeprefix('score, ')}"
        _model(axes, _rows(experiment, specweb.PART, quantity), label, look, bars=True)
    rows = _rows(experiment, specweb.PART, "score, both losses")
    _published(axes, rows, "published with buffering", _NOT_USED)
    axes.set(xlabel="Configured checkpoints a second", ylabel="Score (connections)", ylim=(0, 240))
    return "SPECweb2005: score"


def _rows(experiment: Experiment, part: str, quantity: str) -> list[Row]:
    rows = [row for row in experiment.rows if (row.part, row.quantity) == (part, quantity)]
    return [row for row in rows if not np.isnan(row.x)]


def _published(axes: Axes, rows: Sequence[Row], label: str, look: Mapping[str, Any]) -> None:
    """Points, with bars for how far they can be read."""
    _bars(axes, rows, "published", ("published_low", "published_high"), label, look)


def _model(
    axes: Axes, rows: Sequence[Row], label: str, look: Mapping[str, Any], bars: bool = False
) -> None:
    """Points of the model, with bars for their range over the assumptions."""
    _bars(axes, rows, "model", ("low", "high") if bars else ("model", "model"), label, look)


def _bars(
    axes: Axes,
    rows: Sequence[Row],
    value: str,
    ends: tuple[str, str],
    label: str,
    look: Mapping[str, Any],
) -> None:
    x, y, low, high = np.array(
        [[getattr(row, name) for name in ("x", value, *ends)] for row in rows]
    ).T
    axes.errorbar(x, y, (y - low, high - y), label=label, capsize=3, markersize=5, **look)
