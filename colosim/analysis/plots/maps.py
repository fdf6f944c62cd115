"""Policy maps: which policy wins where, by how much, and where the border is sure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from colosim.analysis.plots.style import Chart, Look, look_of, name_of, styled, ticks_of
from colosim.analysis.summary import label
from colosim.analysis.winners import winners
from colosim.wording import percent

_PANELS_IN_ROW = 3
_MOST_WRITTEN = 64  # cells of a panel that get a text each


@styled
def policy_map(
    table: pd.DataFrame,
    x: str,
    y: str,
    metric: str = "latency_mean_ms",
    panels: str | None = None,
    policies: Sequence[str] | None = None,
    lowest: bool = True,
    sure: float = 0.95,
) -> Chart:
    """Which policy has the best mean of a metric, over two axes of a sweep.

    table: tidy, as `colosim.sweeps.read` returns it.  x, y: its columns for the axes, such as
    "link.bandwidth_bps"; a third, ``panels``, gives a panel for each of its values.  policies: who
    competes; default all but "none".  lowest: the lowest mean wins, else the highest.

    A cell has the winner's colour and marker, and says by how much it wins over the runner-up.
    Where the confidence (`colosim.analysis.winners`) is below ``sure`` the cell is pale, its
    marker hollow, and its text has the confidence, or says that it is a tie.  The border between
    two winners is a full line where both sides are sure, else dotted.

    Raises ValueError for a column, metric or policy that the table does not have.
    """
    by = [x, y] if panels is None else [panels, x, y]
    won = winners(table, by, metric, policies, lowest)
    looks = look_of(table["policy"])
    looks = {policy: looks[policy] for policy in looks if policy in set(won["policy"])}
    groups = [("", won)]
    if panels is not None:
        names = ticks_of(panels, pd.unique(won[panels]))
        parts = [part for _, part in won.groupby(panels, sort=True)]
        groups = [
            (f"{name_of(panels)} {name}", part) for name, part in zip(names, parts, strict=True)
        ]
    shape = (_count(won[y]), _count(won[x]))
    chart = _chart(shape, max(1, len(groups)))
    for axes, (title, part) in zip(chart.axes, groups, strict=False):
        axes.set_title(title)
        _panel(axes, part, (x, y), (_values(won[x]), _values(won[y])), looks, sure)
    unit = table.loc[table["metric"] == metric, "unit"].iloc[0] if "unit" in table else "1"
    which = "lowest" if lowest else "highest"
    chart.legend(
        handles=[
            *(_sample(policy, look) for policy, look in looks.items()),
            *_samples(sure, shape),
        ],
        title=f"policy with the {which} mean of: {label(metric, unit)}",
        loc="outside upper center",
        ncols=max(2, round(chart.get_figwidth() / 2.6)),
    )
    return chart


def _values(column: pd.Series[Any]) -> list[Any]:
    return sorted(pd.unique(column))


def _count(column: pd.Series[Any]) -> int:
    return max(1, column.nunique())


def _chart(shape: tuple[int, int], panels: int) -> Chart:
    columns = min(panels, _PANELS_IN_ROW)
    rows = math.ceil(panels / columns)
    width = min(max(4.6 if panels == 1 else 2.6, 0.3 + 0.46 * shape[1]), 7.0)
    height = min(max(2.2, 0.9 + 0.5 * shape[0]), 6.0)
    chart = Chart(figsize=(max(width * columns, 5.4), 1.0 + height * rows))
    for axes in np.ravel(chart.subplots(rows, columns, squeeze=False, sharey=True))[panels:]:
        axes.remove()
    return chart


def _panel(
    axes: Axes,
    won: pd.DataFrame,
    names: tuple[str, str],
    values: tuple[list[Any], list[Any]],
    looks: dict[str, Look],
    sure: float,
) -> None:
    x, y = names
    columns, rows = values
    winner = np.full((len(rows), len(columns)), None, dtype=object)
    certain = np.zeros(winner.shape, dtype=bool)
    picture = np.ones((*winner.shape, 3))
    for cell in won.to_dict("records"):
        place = rows.index(cell[y]), columns.index(cell[x])
        winner[place] = cell["policy"]
        certain[place] = cell["confidence"] >= sure  # of a NaN: not
        picture[place] = _tint(looks[cell["policy"]].colour, 0.75 if certain[place] else 0.3)
        _mark(
            axes, place, cell, looks[cell["policy"]], (bool(certain[place]), _writes(winner.shape))
        )
    axes.imshow(picture, origin="lower", aspect="auto", interpolation="nearest")
    _borders(axes, winner, certain)
    axes.set_xticks(range(len(columns)), ticks_of(x, columns))
    axes.set_yticks(range(len(rows)), ticks_of(y, rows))
    if max(map(len, ticks_of(x, columns)), default=0) * len(columns) > 48:
        axes.set_xticks(
            range(len(columns)),
            ticks_of(x, columns),
            rotation=45,
            ha="right",
            rotation_mode="anchor",
        )
    axes.set_xlabel(name_of(x))
    axes.grid(visible=False)
    axes.set_ylabel(name_of(y))
    axes.label_outer(remove_inner_ticks=False)


def _tint(colour: str, strength: float) -> Any:
    return 1 - strength * 0.8 * (1 - np.asarray(to_rgb(colour)))


def _mark(
    axes: Axes, place: tuple[int, int], cell: Any, look: Look, about: tuple[bool, bool]
) -> None:
    """The winner's marker, and below it the margin and, where it is not sure, the confidence."""
    certain, written = about
    row, column = place
    axes.plot(
        column,
        row + (0.18 if written else 0),
        look.marker,
        color="black",
        mfc="black" if certain else "white",
        ms=5 if written else 3,
        mew=0.8,
    )
    if written:
        margin, confidence = cell["margin"], cell["confidence"]
        lines = [] if math.isnan(margin) else ["tie" if margin == 0 else f"{margin:.0%}"]
        if not certain and margin != 0:
            lines.append("1 run" if math.isnan(confidence) else f"({confidence:.0%})")
        text = "\n".join(lines)
        axes.text(column, row - 0.02, text, ha="center", va="top", fontsize=7, linespacing=1.0)


def _borders(axes: Axes, winner: Any, certain: Any) -> None:
    for (row, column), policy in np.ndenumerate(winner):
        for other, ends in (
            ((row, column + 1), ((column + 0.5, column + 0.5), (row - 0.5, row + 0.5))),
            ((row + 1, column), ((column - 0.5, column + 0.5), (row + 0.5, row + 0.5))),
        ):
            inside = other[0] < winner.shape[0] and other[1] < winner.shape[1]
            if inside and None not in (policy, winner[other]) and policy != winner[other]:
                both = certain[row, column] and certain[other]
                axes.plot(*ends, color="black", lw=2.2, ls="-" if both else ":")


def _sample(policy: str, look: Look) -> Any:
    return Line2D(
        [], [], color="black", marker=look.marker, linestyle="", markersize=5,
        label=policy, mfc=_tint(look.colour, 0.75), markeredgewidth=0.8,
    )  # fmt: skip


def _samples(sure: float, shape: tuple[int, int]) -> list[Any]:
    hollow = Line2D([], [], color="black", marker="o", linestyle="", mfc="white", markersize=5)
    hollow.set_label(f"hollow: less than {percent(sure, 0)} sure")
    return [
        hollow,
        *(
            Patch(fc="none", ec="none", label=text)
            for text in ("%: better than the next", "(%): how sure, where hollow")
            if _writes(shape)
        ),
        Line2D([], [], color="black", lw=2.2, label=f"border, {percent(sure, 0)} sure or more"),
        Line2D([], [], color="black", lw=2.2, ls=":", label="border, less sure"),
    ]


def _writes(shape: tuple[int, ...]) -> bool:
    return math.prod(shape) <= _MOST_WRITTEN
