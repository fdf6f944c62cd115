"""What both sides of a pair did: their states over time, and as a diagram with counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Patch

from colosim.analysis.plots.style import COLOURS, Chart, styled
from colosim.analysis.standing import standing

_STOPPED = "#404040"
#: of states: what is done in them -> how it looks, told apart without colour, too
_KINDS = {
    "waits for the other side": (COLOURS[4], "", ("request", "wait-")),
    "stops, drains": ("#999999", "//", ("quiesce", "stop", "cut")),
    "saves or copies": (COLOURS[5], "..", ("save", "copy")),
    "sends or receives": (COLOURS[0], "\\\\", ("send", "receive", "precopy", "round")),
    "loads": (COLOURS[3], "xx", ("load",)),
    "starts": (COLOURS[2], "--", ("start", "resume", "relaunch", "takeover", "failover")),
}
_RUNS = "#F0F0F0"
_MOST_COLUMNS = 4  # of a diagram, side by side


# --------------------------------------------------------------------------------------------
# Both sides over time


@styled
def both_sides(
    visits: pd.DataFrame, start_s: float | None = None, length_s: float | None = None
) -> Chart:
    """What the checkpointers of both sides did, step by step, and while which their guests stood.

    visits: node, pair, part, state, start_ns, end_ns (NaN: never left), of one clock.  Without
    ``start_s`` and ``length_s`` (seconds) the checkpoint of middling length is shown.
    """
    seen = visits[visits["part"] == "checkpointer"]
    rows = _bounded(seen)
    if start_s is None or length_s is None:
        chosen = _typical(rows)
        start_s = chosen[0] if start_s is None else start_s
        length_s = chosen[1] if length_s is None else length_s
    unit, scale = ("ms", 1e6) if length_s < 2 else ("s", 1e9)
    zero_ns = start_s * 1e9 if unit == "ms" else 0.0
    low, high = start_s * 1e9, (start_s + length_s) * 1e9
    rows = rows[rows["pair"].isin(_present_pairs(seen, low, high))]
    nodes = sorted(pd.unique(rows["node"]))
    chart = Chart(figsize=(7.2, 1.5 + 0.85 * max(1, len(nodes))))
    axes = chart.subplots()
    kinds: set[str] = set()
    for i, node in enumerate(nodes):
        y = len(nodes) - 1 - i
        own = rows[rows["node"] == node]
        for visit in own[(own["end_ns"] > low) & (own["start_ns"] < high)].itertuples():
            first, last = max(visit.start_ns, low), min(visit.end_ns, high)
            kind = _kind(str(visit.state))
            kinds |= {kind} - {""}
            _span(axes, ((first - zero_ns) / scale, (last - zero_ns) / scale), y, kind)
            if (last - first) / (high - low) > 0.011 * (len(str(visit.state)) + 1):
                x = ((first + last) / 2 - zero_ns) / scale
                axes.text(
                    x, y, visit.state, ha="center", va="center", fontsize=7,
                    bbox={"fc": "white", "ec": "none", "pad": 0.8, "alpha": 0.8},
                )  # fmt: skip
        for first, last in standing(zip(own["state"], own["end_ns"], strict=True)):
            if last > low and first < high:
                span = (max(first, low) - zero_ns) / scale, (min(last, high) - zero_ns) / scale
                axes.broken_barh([(span[0], span[1] - span[0])], (y - 0.42, 0.1), color=_STOPPED)
    since = f", from {start_s:.6g} s of the trace" if unit == "ms" else " of the trace"
    axes.set(xlabel=f"Time ({unit}{since})", ylim=(-0.6, max(0.6, len(nodes) - 0.4)))
    axes.set_xlim((low - zero_ns) / scale, (high - zero_ns) / scale)
    axes.set_yticks(range(len(nodes)), nodes[::-1])
    axes.grid(visible=False, axis="y")
    samples = [
        Patch(fc=colour, ec="black", lw=0.4, hatch=hatch, label=kind)
        for kind, (colour, hatch, _) in _KINDS.items()
        if kind in kinds
    ]
    samples.append(Patch(fc=_RUNS, ec="black", lw=0.4, label="runs"))
    samples.append(Patch(color=_STOPPED, label="thin bar: guest stands"))
    chart.legend(handles=samples, loc="outside upper center", ncols=4)
    return chart


def _kind(state: str) -> str:
    words = state.split("/", maxsplit=1)[0]
    for kind, (_, _, beginnings) in _KINDS.items():
        if words != "wait-request" and words.startswith(beginnings):
            return kind
    return ""


def _span(axes: Axes, times: tuple[float, float], y: float, kind: str) -> None:
    colour, hatch = _KINDS[kind][:2] if kind else (_RUNS, "")
    first, last = times
    axes.broken_barh(
        [(first, last - first)], (y - 0.3, 0.6), fc=colour, ec="black", lw=0.3, hatch=hatch
    )


def _bounded(rows: pd.DataFrame) -> pd.DataFrame:
    """States that were never left last as long as anything was seen."""
    last = rows[["start_ns", "end_ns"]].max().max() if len(rows) else 0
    return rows.assign(end_ns=rows["end_ns"].fillna(last))


def _present_pairs(seen: pd.DataFrame, low: float, high: float) -> list[int]:
    """Pairs that did anything in a stretch: of others the last state says nothing more."""
    moved = seen["start_ns"].between(low, high) | seen["end_ns"].between(low, high)
    return list((seen[moved] if moved.any() else seen)["pair"])


def _typical(rows: pd.DataFrame) -> tuple[float, float]:
    """Start and length of a stretch around the checkpoint of middling length, of either side."""
    spans = [span for _, own in rows.groupby("node", sort=False) for span in _rounds(own)]
    if not spans:
        last = rows["end_ns"].max() if len(rows) else 1e9
        return 0.0, max(float(last) / 1e9, 1e-3)
    first, last = sorted(spans, key=lambda span: span[1] - span[0])[len(spans) // 2]
    edge = 0.06 * (last - first)
    return (first - edge) / 1e9, (last - first + 2 * edge) / 1e9


def _rounds(own: pd.DataFrame) -> list[tuple[float, float]]:
    """From where a side leaves "run" until it is there again."""
    runs = own[own["state"] == "run"]
    return [
        (float(left), float(back))
        for left, back in _next_of(runs["end_ns"], runs["start_ns"])
        if back > left
    ]


def _next_of(ends: Iterable[float], starts: Iterable[float]) -> Iterable[tuple[float, float]]:
    """The end of each with the start of the next."""
    return zip(list(ends)[:-1], list(starts)[1:], strict=True)


# --------------------------------------------------------------------------------------------
# Diagram


@styled
def state_diagram(visits: pd.DataFrame) -> Chart:
    """States of every checkpointer and manager that were visited, with counts and times.

    visits: as for `both_sides`.  A column for each; states from top to bottom in the order of their
    first visit.  A box has the number of visits and the median time of one; an arrow has how often
    that way was taken, and is thicker the more often.  Arrows down are on the left, arrows back up
    on the right.
    """
    columns = [
        (f"{node}: {part}", own)
        for (node, part), own in visits.groupby(["node", "part"], sort=False)
    ]
    columns.sort(key=lambda column: column[0].split(": ")[::-1])  # checkpointers first
    rows = [columns[i : i + _MOST_COLUMNS] for i in range(0, len(columns), _MOST_COLUMNS)] or [[]]
    most = [max([3, *(own["state"].nunique() for _, own in row)]) for row in rows]
    width = max(1, len(rows[0]))
    chart = Chart(figsize=(2.6 * width, 0.8 * len(rows) + 0.55 * sum(most)))
    panels = chart.subplots(len(rows), width, squeeze=False, height_ratios=most)
    for line, row, height in zip(panels, rows, most, strict=True):
        for axes, (title, own) in zip(line, row, strict=False):
            _column(axes, title, own, height)
        for axes in line:
            axes.set_axis_off()
    return chart


def _column(axes: Axes, title: str, own: pd.DataFrame, most: int) -> None:
    states = list(pd.unique(own["state"]))
    counts = own["state"].value_counts()
    over = own[own["end_ns"].notna()]
    took = (over["end_ns"] - over["start_ns"]).groupby(over["state"]).median()
    medians = {
        state: _time(float(took[state])) if state in took else "to the end" for state in states
    }
    axes.set(xlim=(-1.6, 1.6), ylim=(-most + 0.3, 0.8))
    axes.set_title(title)
    ways = Counter(
        way for _, of_pair in own.groupby("pair", sort=False) for way in pairwise(of_pair["state"])
    )
    most_taken = max(ways.values(), default=1)
    for (left, entered), count in ways.items():
        _arrow(axes, (states.index(left), states.index(entered)), count, count / most_taken)
    for i, state in enumerate(states):
        axes.text(
            0, -i, f"{state}\n{counts[state]:,} × {medians[state]}",
            ha="center", va="center", fontsize=7, linespacing=1.1,
            bbox={"boxstyle": "round,pad=0.25", "fc": "white", "ec": "black", "lw": 0.8},
        )  # fmt: skip


def _arrow(axes: Axes, way: tuple[int, int], count: int, share: float) -> None:
    """From one row to another: straight to the next one, else round the boxes between."""
    first, last = way
    steps = last - first
    width = 0.6 + 1.8 * share
    side = -1 if steps >= 0 else 1
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 8, "lw": width}
    if steps == 1:
        ends = ((0.0, -first - 0.28), (0.0, -last + 0.28))
        arrow = FancyArrowPatch(*ends, color=COLOURS[0], shrinkA=0, shrinkB=0, **style)
        axes.add_patch(arrow)
        axes.text(0.07, -first - 0.5, f"{count:,}", fontsize=6.5, va="center")
        return
    edge, bulge = 0.5 * side, min(0.35 + 0.09 * abs(steps), 1.0)
    colour = COLOURS[0] if steps > 0 else COLOURS[1]
    rad = (bulge if steps else 1.6) / max(abs(steps), 0.5)
    start, end = (edge, -first - (0 if steps else 0.14)), (edge, -last + (0 if steps else 0.14))
    arrow = FancyArrowPatch(
        start, end, connectionstyle=f"arc3,rad={-rad if side > 0 and not steps else rad}",
        color=colour, ls="-" if steps > 0 else "--", shrinkA=0, shrinkB=0, **style,
    )  # fmt: skip
    axes.add_patch(arrow)
    x = edge + side * (0.36 * bulge + 0.08)
    axes.text(x, -(first + last) / 2, f"{count:,}", fontsize=6.5, va="center", ha=_away(side))


def _away(side: int) -> Any:
    return "left" if side > 0 else "right"


def _time(ns: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.0f} ns"
