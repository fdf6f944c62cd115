"""Two figures: the indices, and how the output goes with each input."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullLocator

from colosim.analysis.plots import COLOURS, Chart, styled
from experiments.sensitivity import INPUTS, OUTPUTS

_UNITS = {"/s": "1/s", "": "relative"}
_ORDERS = {
    "first": ("first order: alone", COLOURS[0], "o"),
    "total": ("total: with others", COLOURS[1], "s"),
}


@styled
def draw(indices: pd.DataFrame) -> Chart:
    """First order and total of each input, with bootstrap intervals; a panel for each output."""
    chart = Chart(figsize=(8.4, 0.9 + 0.42 * len(INPUTS)))
    panels = chart.subplots(1, len(OUTPUTS), sharex=True, sharey=True)
    names = [each.name for each in INPUTS]
    for axes, (output, meaning) in zip(np.ravel(panels), OUTPUTS.items(), strict=True):
        rows = indices[indices["output"] == output].set_index("input").loc[names]
        for place, (order, (label, colour, marker)) in enumerate(_ORDERS.items()):
            ends = rows[[f"{order}_low", f"{order}_high"]].to_numpy()
            y = np.arange(len(names)) + 0.16 * (2 * place - 1)
            axes.hlines(y, ends[:, 0], ends[:, 1], color=colour, lw=1.4)
            axes.plot(rows[order], y, marker, color=colour, ms=4.5, label=label)
        axes.axvline(0, color="black", lw=0.8)
        axes.set_title(meaning)
        axes.set_xlabel("Part of the variance (Sobol index)")
        axes.set_yticks(range(len(names)), names)
    np.ravel(panels)[0].invert_yaxis()
    handles, labels = np.ravel(panels)[0].get_legend_handles_labels()
    chart.legend(handles, labels, loc="outside lower center", ncols=2)
    chart.suptitle("Bars: 95 % intervals by bootstrap")
    return chart


@styled
def effects(found: pd.DataFrame) -> Chart:
    """The outputs' means over each input, all others varying; bands: 95 % intervals."""
    chart = Chart(figsize=(1.75 * len(INPUTS), 3.8))
    panels = chart.subplots(len(OUTPUTS), len(INPUTS), sharex="col", sharey="row")
    for line, output in zip(panels, OUTPUTS, strict=True):
        for axes, each in zip(line, INPUTS, strict=True):
            rows = found[(found["output"] == output) & (found["input"] == each.name)]
            axes.fill_between(rows["value"], rows["low"], rows["high"], color="0.8", lw=0)
            axes.plot(rows["value"], rows["mean"], color=COLOURS[0], marker="o", ms=3)
            if each.is_log:
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=4))
                axes.xaxis.set_major_formatter("{x:g}")
                axes.xaxis.set_minor_locator(NullLocator())
        line[0].set_ylim(bottom=0)
        line[0].set_ylabel(
            {"stopped": "Stopped (part of time)", "slowdown": "log10 slow-down"}[output]
        )
    for axes, each in zip(panels[-1], INPUTS, strict=True):
        axes.set_xlabel(f"{each.name}\n({_UNITS.get(each.unit, each.unit)})")
    chart.suptitle("Means over all other inputs; bands: 95 % intervals")
    return chart
