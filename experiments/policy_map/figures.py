"""A map for each link: who wins, and where that is not decided."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from colosim.analysis.plots import Chart, policy_map, styled
from experiments import policy_map as experiment

_UNDECIDED, _NOBODY = "////", "xxxx"


@styled
def draw(table: pd.DataFrame, metric: str) -> Chart:
    """The map of one metric; cells that are not decided, and those of nobody, are hatched."""
    chart = policy_map(
        experiment.contest(table, metric),
        experiment.DIVERGENCE,
        experiment.DIRTY,
        metric,
        experiment.LINK,
        sure=experiment.SURE,
    )
    cells = experiment.cells(table, metric)
    won = cells[cells["policy"].notna()]
    rows, columns = (sorted(won[name].unique()) for name in experiment.CELL[1:])
    here = cells[cells[experiment.LINK].isin(won[experiment.LINK])]
    for axes, (_, panel) in zip(chart.axes, here.groupby(experiment.LINK), strict=True):
        _hatch(axes, panel, rows, columns)
    chart.axes[0].legend(
        handles=[
            Patch(fill=False, hatch=_UNDECIDED, ec="0.35", lw=0.5, label="not decided"),
            Patch(fill=False, hatch=_NOBODY, ec="0.35", lw=0.5, label="nobody keeps up"),
        ],
        loc="upper right",
        fontsize=7,
        frameon=True,
        framealpha=0.9,
    )
    return chart


def _hatch(axes: Axes, panel: pd.DataFrame, rows: list[float], columns: list[float]) -> None:
    for cell in panel.to_dict("records"):
        dirty, divergence = cell[experiment.DIRTY], cell[experiment.DIVERGENCE]
        if dirty not in rows or divergence not in columns:
            continue  # nobody's in all panels, so not on the map
        is_nobodys = not isinstance(cell["policy"], str)
        if is_nobodys or not cell["confidence"] >= experiment.SURE:
            corner = columns.index(divergence) - 0.5, rows.index(dirty) - 0.5
            hatch = _NOBODY if is_nobodys else _UNDECIDED
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, hatch=hatch, ec="0.55", lw=0))
