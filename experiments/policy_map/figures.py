"""A map for each link: who wins, and where that is not decided."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from colosim.analysis.plots import Chart, policy_map, styled
from experiments import policy_map as experiment

_NOBODY = "0.9"


@styled
def draw(table: pd.DataFrame, metric: str) -> Chart:
    """The map of one metric; cells of nobody are grey."""
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
        _nobody(axes, panel, rows, columns)
    [legend] = chart.legends
    handles = [
        *legend.legend_handles,
        Patch(fc=_NOBODY, label="nobody keeps up"),
    ]
    title = legend.get_title().get_text()
    legend.remove()
    chart.legend(handles=handles, title=title, loc="outside upper center", ncols=4)
    return chart


def _nobody(axes: Axes, panel: pd.DataFrame, rows: list[float], columns: list[float]) -> None:
    for cell in panel.to_dict("records"):
        dirty, divergence = cell[experiment.DIRTY], cell[experiment.DIVERGENCE]
        if dirty not in rows or divergence not in columns:
            continue  # nobody's in all panels, so not on the map
        if not isinstance(cell["policy"], str):
            corner = columns.index(divergence) - 0.5, rows.index(dirty) - 0.5
            axes.add_patch(Rectangle(corner, 1, 1, fc=_NOBODY, lw=0))
