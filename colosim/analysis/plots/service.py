"""What clients get over time, and what went wrong meanwhile."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from colosim.analysis.plots.style import Chart, look_of, styled
from colosim.analysis.stats import interval

#: what is marked -> its name, dashes and colour
_MARKED = {
    "fault": ("fault", "-", "#D55E00"),
    "healed": ("healed", ":", "#D55E00"),
    "alone": ("goes on alone", "--", "#000000"),
    "promoted": ("promoted", "-.", "#0072B2"),
    "fenced": ("fenced", (0, (1, 1)), "#0072B2"),
    "protected": ("protected again", (0, (5, 1)), "#009E73"),
}
_BINS = 200
_MOST_MARKS = 24  # of a kind: of more, those of the first replication


@styled
def throughput(
    responses: pd.DataFrame, events: pd.DataFrame | None = None, bin_s: float | None = None
) -> Chart:
    """Answers that reached clients in each bin of time, a panel per policy; faults are marked.

    responses, events: tables of `colosim.analysis.summary`.  bin_s: width of a bin; default some
    200 for the run.  With several replications their mean, and a band that is its 95 % interval.
    Faults and takeovers are lines; those of many replications are drawn for the first only.
    """
    policies = [str(policy) for policy in pd.unique(responses["policy"])]
    chart = Chart(figsize=(7.0, 0.9 + 1.7 * max(1, len(policies))))
    panels = np.ravel(chart.subplots(max(1, len(policies)), 1, sharex=True, sharey=True))
    last_s = _last_s(responses, events)
    width_s = bin_s or _nice(last_s / _BINS)
    edges = width_s * np.arange(max(1, round(last_s / width_s)) + 1)
    looks = look_of(policies)
    seen: set[str] = set()
    for axes, policy in zip(panels, policies, strict=False):
        rows = responses[responses["policy"] == policy]
        counts = [  # one without any answer counts, too
            np.histogram(times[times >= 0] / 1e9, edges)[0] / width_s
            for _, times in rows.groupby("replication")["released_ns"]
        ]
        look = looks[policy]
        if counts:
            _, mean, low, high = np.transpose([interval(y) for y in np.transpose(counts)])
            axes.stairs(mean, edges, color=look.colour, lw=1.2, baseline=None)
            if len(counts) > 1:
                axes.stairs(high, edges, baseline=low, fill=True, color=look.colour, alpha=0.25)
        n = len(counts)
        axes.set_title(f"{policy}" + (f": mean of {n}, 95 % interval" if n > 1 else ""))
        if events is not None:
            seen |= _marks(axes, events[events["policy"] == policy])
    for axes in panels:
        axes.set_ylabel("Answers (1/s)")
    panels[-1].set(xlabel=f"Time (s), bins of {width_s:g} s", ylim=(0, None), xlim=(0, edges[-1]))
    if seen:
        chart.legend(
            handles=[_sample(kind) for kind in _MARKED if kind in seen],
            loc="outside upper center",
            ncols=len(seen),
        )
    return chart


def _last_s(responses: pd.DataFrame, events: pd.DataFrame | None) -> float:
    """When the last thing happened: where nobody is answered any more, requests are still sent."""
    times = [responses["released_ns"].max(), responses["arrival_ns"].max()]
    if events is not None:
        times.append(events.loc[events["what"].isin(list(_MARKED)), "at_ns"].max())
    return max((float(at_ns) / 1e9 for at_ns in times if at_ns > 0), default=1.0)


def _marks(axes: Axes, events: pd.DataFrame) -> set[str]:
    """Lines where something happened; the kinds that did."""
    there: set[str] = set()
    for kind, (_, dashes, colour) in _MARKED.items():
        rows = events[(events["what"] == kind) & (events["at_ns"] >= 0)]
        if len(rows) > _MOST_MARKS:
            rows = rows[rows["replication"] == rows["replication"].min()][:_MOST_MARKS]
        for at_s in np.unique(rows["at_ns"] / 1e9):
            axes.axvline(at_s, color=colour, ls=dashes, lw=1.1, alpha=0.8)
            there.add(kind)
    return there


def _sample(kind: str) -> Any:
    text, dashes, colour = _MARKED[kind]
    return Line2D([], [], color=colour, ls=dashes, lw=1.1, label=text)


def _nice(width: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... (or tenths of that) that is not below."""
    if not width > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(width))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= width * (1 - 1e-9))
