"""Distributions over replications, with bands: what clients wait, what the guest stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter, NullLocator

from colosim.analysis.plots.style import Chart, gid, look_of, styled
from colosim.analysis.stats import interval
from colosim.analysis.summary import LET_GO


@styled
def latency_cdf(responses: pd.DataFrame, tail: bool = False) -> Chart:
    """Distribution of latency per policy, with 95 % bands over replications; warm-up removed.

    tail: stretched upwards, so that 90, 99 and 99.9 % are equal steps.
    """
    chart = _cdf(responses, "latency_ms", "Latency seen by the client (ms)", "Responses (fraction)")
    if tail:
        stretch_tail(chart.axes[0])
        chart.axes[0].set_ylabel("Responses that took no longer")
    return chart


@styled
def pause_cdf(checkpoints: pd.DataFrame) -> Chart:
    """Distribution of checkpoint pauses per policy, with 95 % bands; warm-up removed."""
    return _cdf(checkpoints, "pause_ms", "Pause of the guest (ms)", "Checkpoints (fraction)")


@styled
def hold_cdf(holds: pd.DataFrame) -> Chart:
    """Distribution of how long frames were held, by what let them go; warm-up removed.

    holds: table of `colosim.analysis.summary`; each frame counts.  A curve begins at the part of
    its frames that left at once.  Mean over replications, with 95 % bands.
    """
    chart = Chart(figsize=(5.2, 3.4))
    axes = chart.subplots()
    axes.set(xlabel="Time a frame was held (ms)", ylabel="Frames (fraction)", ylim=(0, 1.02))
    measured = holds[holds["measured"].astype(bool)]
    later = measured[measured["hold_ms"] > 0]
    if later.empty:
        return chart
    _log(axes)
    x = np.geomspace(0.98 * later["hold_ms"].min(), 1.02 * later["hold_ms"].max(), 400)
    names = (
        measured["policy"] + ", " + measured["how"].map(LET_GO).fillna(measured["how"])
    ).rename("name")
    groups = list(measured.groupby(names, sort=False))
    for (name, rows), look in zip(groups, look_of(range(len(groups))).values(), strict=True):
        parts = [
            _weighted(each["hold_ms"].to_numpy(), each["frames"].to_numpy(), x)
            for _, each in rows.groupby("replication")
        ]
        mean, low, high = _band(parts)
        axes.fill_between(x, low, high, color=look.colour, alpha=0.25, linewidth=0)
        frames = int(rows["frames"].sum())
        axes.plot(x, mean, color=look.colour, ls=look.dashes, label=f"{name}: {frames:,} frames")
    chart.legend(loc="outside upper center", ncols=1)
    _said(axes, measured)
    return chart


_SHARES = (0, 0.5, 0.9, 0.99, 0.999)


def stretch_tail(axes: Axes) -> None:
    """A y axis of shares on which 90, 99 and 99.9 % are equal steps."""
    axes.set_yscale("function", functions=(_stretched, _unstretched))
    axes.set_ylim(0, 0.9993)
    axes.set_yticks(_SHARES, [f"{100 * share:.4g} %" for share in _SHARES])
    axes.yaxis.set_minor_locator(NullLocator())


def _stretched(share: Any) -> Any:
    return np.asarray(-np.log10(np.clip(1 - share, 1e-5, None)))


def _unstretched(place: Any) -> Any:
    return np.asarray(1 - 10.0**-place)


def _weighted(held_ms: Any, frames: Any, x: Any) -> Any:
    order = np.argsort(held_ms, kind="stable")
    total = np.concatenate([[0], np.cumsum(frames[order])])
    return total[np.searchsorted(held_ms[order], x, side="right")] / max(total[-1], 1)


def _log(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))


def _cdf(table: pd.DataFrame, column: str, x_label: str, y_label: str) -> Chart:
    """Mean over replications of their distribution functions, and its interval at each x."""
    chart = Chart(figsize=(5.2, 3.4))
    axes = chart.subplots()
    axes.set(xlabel=x_label, ylabel=y_label, ylim=(0, 1.02))
    measured = table[table["measured"] & (table[column] > 0)]
    if measured.empty:
        return chart
    _log(axes)
    x = np.geomspace(0.98 * measured[column].min(), 1.02 * measured[column].max(), 400)
    look = look_of(measured["policy"])
    for policy, rows in measured.groupby("policy", sort=False):
        of_replications = [
            np.searchsorted(np.sort(values), x, side="right") / len(values)
            for _, values in rows.groupby("replication")[column]
        ]
        mean, low, high = _band(of_replications)
        colour, dashes, _ = look[str(policy)]
        axes.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0, gid=gid(policy))
        axes.plot(x, mean, color=colour, linestyle=dashes, label=str(policy), gid=gid(policy))
    chart.legend(loc="outside upper center", ncols=len(look) if len(look) <= 4 else 3)
    _said(axes, measured)
    return chart


def _band(of_replications: list[Any]) -> tuple[Any, Any, Any]:
    """Mean of distribution functions, and its 95 % interval within what a share can be."""
    _, mean, low, high = np.transpose([interval(y) for y in np.transpose(of_replications)])
    return mean, np.clip(low, 0, 1), np.clip(high, 0, 1)


def _said(axes: Axes, measured: pd.DataFrame) -> None:
    replications = measured.groupby("policy")["replication"].nunique().max()
    axes.set_title(
        f"mean of {replications} replications; band: 95 % interval"
        if replications > 1
        else "one replication, so no interval"
    )
