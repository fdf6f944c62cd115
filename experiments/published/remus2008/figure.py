"""The one figure: four panels, described in README.md."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from colosim.analysis.plots import COLOURS, Chart
from experiments.published.figures import FITTED_TO, panels, points, published
from experiments.published.remus2008 import kernel_build, pauses, specweb
from experiments.published.remus2008.experiment import Experiment
from experiments.published.remus2008.kernel_build import ASSUMED_PAGES, NOMINAL_PAGES
from experiments.published.rows import Row

_BLUE, _ORANGE, _GREEN, *_ = COLOURS
_RATES = np.linspace(5, 45, 161)


def draw(experiment: Experiment) -> Chart:
    """All four panels."""
    chart, four = panels(2, 2, 9.6, 7.4)
    drawn = (_pauses, _kernel_build, _achieved_rate, _score)
    for name, axes, panel in zip("abcd", four, drawn, strict=True):
        axes.set_title(f"({name}) {panel(axes, experiment)}", loc="left", fontsize="medium")
        axes.legend(fontsize="small", frameon=False, handlelength=2.6)
    return chart


def _pauses(axes: Axes, experiment: Experiment) -> str:
    pages = np.geomspace(0.8, 2000, 200)
    hollow: dict[str, Any] = {
        "markerfacecolor": "none",
        "markersize": 8,
    }  # shows the other one behind it
    looks = zip((_BLUE, _ORANGE), "os", ("-", "--"), ({}, hollow), strict=True)
    for (what, line), (colour, marker, dashes, fill) in zip(
        experiment.lines._asdict().items(), looks, strict=True
    ):
        rows = _rows(experiment, pauses.PART, what)
        look = {"color": colour, "marker": marker, **fill}
        published(axes, rows, f"{what}, published", **look)
        label = f"fitted: {line.fixed_ms:.2f} ms + {1e3 * line.per_page_ms:.1f} µs per page"
        axes.plot(pages, line.at(pages), color=colour, linestyle=dashes, label=label)
    axes.set(xlabel="Dirty pages", ylabel="Time (ms)", xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    return "Page toucher: pause and transmit"


def _kernel_build(axes: Axes, experiment: Experiment) -> str:
    study = experiment.kernel
    curves = {
        key: [100 * model.overhead(rate) for rate in _RATES] for key, model in study.fits.items()
    }
    band = f"every form, {min(ASSUMED_PAGES)}..{max(ASSUMED_PAGES)} pages"
    edges = [each(list(curves.values()), axis=0) for each in (np.min, np.max)]
    published(axes, _rows(experiment, kernel_build.PART, "overhead, pauses alone"), FITTED_TO)
    looks = zip((_GREEN, _ORANGE, _BLUE), "^Ds", ("-.", "--", "-"), strict=True)
    for form, (colour, marker, dashes) in zip(reversed(kernel_build.FORMS), looks, strict=True):
        label = f"{form}, {NOMINAL_PAGES} pages an epoch"
        axes.plot(_RATES, curves[form, NOMINAL_PAGES], color=colour, linestyle=dashes, label=label)
        rows = _rows(experiment, kernel_build.PART, f"overhead, {form}")
        points(axes, rows, "model", color=colour, marker=marker)
    axes.fill_between(_RATES, *edges, color="0.87", linewidth=0, label=band)
    bounds = [kernel_build.bound(experiment.lines, rate) for rate in _RATES]
    most = [100 * bound.overhead(rate) for bound, rate in zip(bounds, _RATES, strict=True)]
    axes.plot(_RATES, most, color="black", linestyle=":", label="pauses alone, at most")
    rows = _rows(experiment, kernel_build.PART, "overhead, pauses alone")
    points(axes, rows, "model", ("low", "high"), color="black", marker="x")
    axes.set(xlabel="Checkpoints a second", ylabel="Overhead (%)", ylim=(0, None))
    return "Kernel build: overhead (markers: simulated)"


def _achieved_rate(axes: Axes, experiment: Experiment) -> str:
    rows = _rows(experiment, specweb.PART, "checkpoints")
    used = [row for row in rows if row.kind == "fitted"]
    held_out = [row for row in rows if row.kind == "predicted"]
    published(axes, used, FITTED_TO)
    published(axes, held_out, "published, held out", markerfacecolor="white")
    looks = zip((_BLUE, _ORANGE), ("-", "--"), strict=True)
    for (form, in_flight_ms), (colour, dashes) in zip(
        experiment.web.in_flight_ms.items(), looks, strict=True
    ):
        achieved = [1000 / specweb.period_ms(rate, in_flight_ms) for rate in _RATES]
        axes.plot(_RATES, achieved, color=colour, linestyle=dashes, label=f"time in flight {form}")
    simulated: dict[str, Any] = {"color": _BLUE, "marker": "s", "markersize": 9, "alpha": 0.4}
    points(axes, rows, "model", label=f"{specweb.NOMINAL}, simulated", **simulated)
    axes.plot(_RATES, _RATES, color="0.6", linestyle=":", label="as configured")
    axes.set(xlabel="Configured checkpoints a second", ylabel="Achieved checkpoints (1/s)")
    return "SPECweb2005: achieved rate"


def _score(axes: Axes, experiment: Experiment) -> str:
    rows = _rows(experiment, specweb.PART, "score, not buffered")
    published(axes, rows, "published, not buffered", marker="D", markerfacecolor="0.7")
    rows = _rows(experiment, specweb.PART, "score, both losses")
    published(axes, rows, "published, buffered (not fitted to)", markerfacecolor="white")
    looks = zip((_BLUE, _ORANGE), "s^", ("-", "--"), strict=True)
    for name, (colour, marker, dashes) in zip(specweb.COMBINATIONS, looks, strict=True):
        rows = _rows(experiment, specweb.PART, f"score, {name}")
        look = {"color": colour, "marker": marker, "linestyle": dashes}
        points(axes, rows, "model", ("low", "high"), f"predicted, {name}", **look)
    axes.set(xlabel="Configured checkpoints a second", ylabel="Score (connections)")
    axes.set(xlim=(5, 45), ylim=(0, 260))
    return "SPECweb2005: score"


def _rows(experiment: Experiment, part: str, quantity: str) -> list[Row]:
    """Rows with a numerical condition."""
    of_part = (row for row in experiment.rows if row.part == part and row.quantity == quantity)
    return [row for row in of_part if not np.isnan(row.x)]
