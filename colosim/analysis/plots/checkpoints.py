"""When checkpoints happen, and what they do to the guest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from colosim.analysis.plots.style import MARKERS, Chart, styled

_STOPPED, _AT_RISK = "#404040", "#B0B0B0"


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
            marker = MARKERS[reasons.index(reason) % len(MARKERS)]
            height = np.full(len(of_reason), i + 0.38)
            axes.scatter(of_reason["started_ns"] / 1e9, height, 14, "black", marker=marker)
    axes.set(xlabel="Time (s)", xlim=(start_s, start_s + length_s), ylim=(-0.6, len(policies)))
    axes.set_yticks(range(len(policies)), policies)
    axes.grid(visible=False, axis="y")
    chart.legend(
        handles=[
            Patch(color=_STOPPED, label="guest stopped"),
            Patch(color=_AT_RISK, label="cut, not committed"),
            *(_marker(reason, MARKERS[i % len(MARKERS)]) for i, reason in enumerate(reasons)),
        ],
        loc="outside upper center",
        ncols=3,
    )
    return chart


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
    length_s = 1.0 if gaps_s.isna().all() else min(4 * gaps_s.max(), 60 * gaps_s.min())
    return start_s - 0.03 * length_s, 1.06 * length_s  # the first one's marker is whole


def _marker(reason: str, marker: str) -> Any:
    return Line2D([], [], color="black", marker=marker, linestyle="", markersize=4, label=reason)
