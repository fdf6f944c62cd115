"""Figures of tidy tables, in one style: colour-blind safe, units on the axes, intervals drawn.

Each function takes a table of `colosim.analysis.summary` and returns a `Chart`, which shows itself
in a notebook and is written by `Chart.save`.  No pyplot: no global state, no display needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogFormatter

from colosim.analysis.stats import interval
from colosim.analysis.summary import label

#: Okabe and Ito, "Color Universal Design" (2008); lines differ in their dashes as well
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))
#: look alike in every figure, also in one where the others are missing
_KNOWN = ("none", "remus", "colo")
_MARKERS = "v^so*Dx"
_STOPPED, _AT_RISK = "#404040", "#B0B0B0"
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "font.size": 9.0,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "colosim",  # the same figure is the same file
}
P = ParamSpec("P")


class Chart(Figure):
    """A matplotlib figure that knows its style when it is written or shown."""

    def save(self, path: str | Path) -> tuple[Path, Path]:
        """Write ``path`` with the suffixes .svg and .png in place of its own."""
        svg, png = Path(path).with_suffix(".svg"), Path(path).with_suffix(".png")
        with rc_context(_STYLE):
            self.savefig(svg, metadata={"Date": None})
            self.savefig(png)
        return svg, png

    def _repr_svg_(self) -> str:
        from io import StringIO

        text = StringIO()
        with rc_context(_STYLE):
            self.savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()


def styled(draw: Callable[P, Chart]) -> Callable[P, Chart]:
    """Decorate a function that draws: it draws in the one style."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Chart:
        with rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawn


@styled
def latency_cdf(responses: pd.DataFrame) -> Chart:
    """Distribution of latency per policy, with 95 % bands over replications; warm-up removed."""
    return _cdf(responses, "latency_ms", "Latency seen by the client (ms)", "Responses (fraction)")


@styled
def pause_cdf(checkpoints: pd.DataFrame) -> Chart:
    """Distribution of checkpoint pauses per policy, with 95 % bands; warm-up removed."""
    return _cdf(checkpoints, "pause_ms", "Pause of the guest (ms)", "Checkpoints (fraction)")


def _cdf(table: pd.DataFrame, column: str, x_label: str, y_label: str) -> Chart:
    """Mean over replications of their distribution functions, and its interval at each x."""
    chart = Chart(figsize=(5.2, 3.4))
    axes = chart.subplots()
    axes.set(xlabel=x_label, ylabel=y_label, ylim=(0, 1.02))
    measured = table[table["measured"] & (table[column] > 0)]
    if measured.empty:
        return chart
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    x = np.geomspace(0.98 * measured[column].min(), 1.02 * measured[column].max(), 400)
    looks = _looks(measured["policy"])
    for policy, rows in measured.groupby("policy", sort=False):
        of_replications = [
            np.searchsorted(np.sort(values), x, side="right") / len(values)
            for _, values in rows.groupby("replication")[column]
        ]
        _, mean, low, high = np.transpose([interval(y) for y in np.transpose(of_replications)])
        colour, dashes = looks[str(policy)]
        axes.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(x, mean, color=colour, linestyle=dashes, label=str(policy))
    axes.legend(loc="best")
    replications = measured.groupby("policy")["replication"].nunique().max()
    axes.set_title(f"mean of {replications} replications; band: 95 % interval")
    return chart


@styled
def comparison(
    summary: pd.DataFrame,
    metrics: Sequence[str] = ("throughput_per_s", "latency_mean_ms", "latency_p99_ms"),
) -> Chart:
    """One panel per metric, one bar per policy, with its 95 % interval.

    Raises ValueError for a metric that the summary does not hold.
    """
    chart = Chart(figsize=(2.4 * len(metrics), 3.0))
    for axes, metric in zip(np.ravel(chart.subplots(1, len(metrics))), metrics, strict=True):
        rows = summary[summary["metric"] == metric]
        if rows.empty:
            raise ValueError(f"no metric {metric!r}; have {', '.join(summary['metric'].unique())}")
        colours = [colour for colour, _ in _looks(rows["policy"]).values()]
        spread = [rows["mean"] - rows["ci_low"], rows["ci_high"] - rows["mean"]]
        bars = axes.bar(rows["policy"], rows["mean"], 0.7, yerr=spread, color=colours, capsize=4)
        axes.bar_label(bars, [f"{mean:.4g}" for mean in rows["mean"]], padding=2, fontsize=8)
        axes.set_ylabel(label(metric, rows["unit"].iloc[0]))
        axes.margins(y=0.15)
        axes.grid(visible=False, axis="x")
    return chart


@styled
def timeline(
    checkpoints: pd.DataFrame,
    replication: int = 0,
    start_s: float | None = None,
    length_s: float | None = None,
) -> Chart:
    """When checkpoints start and why, how long the guest stands and its output is at risk.

    Without ``start_s`` and ``length_s`` (seconds) a stretch after the warm-up is chosen that shows
    a few checkpoints of each policy.
    """
    rows = checkpoints[checkpoints["replication"] == replication]
    policies = list(pd.unique(rows["policy"]))[::-1]
    chart = Chart(figsize=(7.0, 1.3 + 0.8 * max(1, len(policies))))
    axes = chart.subplots()
    chosen_s = _stretch_s(rows)
    start_s = chosen_s[0] if start_s is None else start_s
    length_s = chosen_s[1] if length_s is None else length_s
    rows = rows[rows["started_ns"].between(start_s * 1e9, (start_s + length_s) * 1e9)]
    reasons = list(pd.unique(rows["reason"]))
    for i, policy in enumerate(policies):
        of_policy = rows[rows["policy"] == policy]
        _spans(axes, of_policy, ("stopped_ns", "resumed_ns"), (i, 0.3), _STOPPED)
        _spans(axes, of_policy, ("cut_ns", "committed_ns"), (i - 0.3, 0.3), _AT_RISK)
        for reason, of_reason in of_policy.groupby("reason"):
            marker = _MARKERS[reasons.index(reason) % len(_MARKERS)]
            height = np.full(len(of_reason), i + 0.38)
            axes.scatter(of_reason["started_ns"] / 1e9, height, 14, "black", marker=marker)
    axes.set(xlabel="Time (s)", xlim=(start_s, start_s + length_s), ylim=(-0.6, len(policies)))
    axes.set_yticks(range(len(policies)), policies)
    axes.grid(visible=False, axis="y")
    chart.legend(
        handles=[
            Patch(color=_STOPPED, label="guest stopped"),
            Patch(color=_AT_RISK, label="cut, not committed"),
            *(_marker(reason, _MARKERS[i % len(_MARKERS)]) for i, reason in enumerate(reasons)),
        ],
        loc="outside upper center",
        ncols=3,
    )
    return chart


def _looks(policies: pd.Series[str]) -> dict[str, tuple[str, Any]]:
    """Colour and dashes of each policy, in the order given."""
    wanted = [str(policy) for policy in pd.unique(policies)]
    others = [policy for policy in wanted if policy not in _KNOWN]
    places = {policy: i for i, policy in enumerate((*_KNOWN, *others))}
    return {policy: (COLOURS[places[policy] % 7], _DASHES[places[policy] % 7]) for policy in wanted}


def _spans(
    axes: Axes,
    rows: pd.DataFrame,
    columns: tuple[str, str],
    place: tuple[float, float],
    colour: str,
) -> None:
    """Bars from one moment to the other where both were reached; place is (y, height)."""
    first, last = (rows[column].to_numpy() for column in columns)
    reached = (first >= 0) & (last >= 0)
    spans = np.column_stack([first, last - first])[reached] / 1e9
    axes.broken_barh([(start, length) for start, length in spans], place, color=colour)


def _stretch_s(rows: pd.DataFrame) -> tuple[float, float]:
    """Start and length: four of the rarest policy's periods, but at most 60 of the busiest's."""
    measured = rows[rows["measured"]]
    gaps_s = measured.groupby("policy")["started_ns"].agg(lambda at: at.diff().median()) / 1e9
    start_s = measured["started_ns"].min() / 1e9 if len(measured) else 0.0
    if gaps_s.isna().all():
        return start_s, 1.0
    return start_s, min(4 * gaps_s.max(), 60 * gaps_s.min())


def _marker(reason: str, marker: str) -> Any:
    return Line2D([], [], color="black", marker=marker, linestyle="", markersize=4, label=reason)
