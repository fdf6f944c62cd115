"""The paper's numbers, selected from the table that colosim ships."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pandas as pd

SOURCE = "Cully et al., Remus, NSDI 2008"
_FIELDS = (("", "value"), ("_low", "low"), ("_high", "high"))


def load() -> pd.DataFrame:
    """Rows of the paper: workload, metric, x, value, low, high, unit, read.

    ``x`` is the number of the row's first condition (pages, configured rate, added delay) and NaN
    where it has none; ``low`` and ``high`` are how far the value can be read, else equal to it.
    """
    with files("colosim").joinpath("data", "published-results.csv").open(encoding="utf-8") as file:
        table = pd.read_csv(file, dtype={"uncertainty": "string"})
    table = table[table["source"] == SOURCE].reset_index(drop=True)
    around = pd.to_numeric(table["uncertainty"], errors="coerce").fillna(0.0)
    span = table["uncertainty"].str.extract(r"^([\d.]+)-([\d.]+)$").astype(float)
    return table[["workload", "metric", "value", "unit", "read"]].assign(
        x=table["condition"].str.extract(r"^\w+=([\d.]+)", expand=False).astype(float),
        low=span[0].fillna(table["value"] - around).astype(float),
        high=span[1].fillna(table["value"] + around).astype(float),
    )


def select(published: pd.DataFrame, workload: str, metric: str) -> pd.DataFrame:
    """value, low, high of one metric by its condition, which is the index; ordered.

    A row without a numerical condition is left out.  Raises LookupError if nothing is left.
    """
    rows = published[(published["workload"] == workload) & (published["metric"] == metric)]
    rows = rows.dropna(subset="x").sort_values("x")
    if rows.empty:
        raise LookupError(f"nothing published about {metric} of {workload}")
    return rows.set_index("x")[["value", "low", "high"]]


def reading(points: pd.DataFrame, x: float) -> dict[str, Any]:
    """The fields of a `Row` that say what was published at ``x``; none if nothing was."""
    if x not in points.index:
        return {}
    return {f"published{suffix}": float(points[column][x]) for suffix, column in _FIELDS}
