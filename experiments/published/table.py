"""The published numbers, selected from the table that colosim ships."""

from __future__ import annotations

from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

_COLUMNS = ["system", "workload", "condition", "metric", "value", "unit", "read", "note"]


class Published(NamedTuple):
    """What a row of the shipped table says, for a `Row` of a result: value, bounds, line."""

    published: float
    published_low: float
    published_high: float
    line: int


def load(source: str) -> pd.DataFrame:
    """Rows of one source: system, workload, condition, metric, value, unit, read, note, and more.

    ``x`` is the number of the row's first condition (pages, rate, delay, clients) and NaN where it
    has none.  ``low`` and ``high`` are how far the value can be read, else equal to it: the
    uncertainty is a range that the value lies in, or half the width of one (of two given, the
    larger).  ``line`` is the row's line in the file.  Raises LookupError if there is no such
    source.
    """
    with files("colosim").joinpath("data", "published-results.csv").open(encoding="utf-8") as file:
        table = pd.read_csv(file, dtype={"uncertainty": "string"}).fillna({"note": ""})
    table["line"] = np.arange(len(table)) + 2
    table = table[table["source"] == source].reset_index(drop=True)
    if table.empty:
        raise LookupError(f"nothing published by {source}")
    around = pd.to_numeric(table["uncertainty"], errors="coerce").fillna(0.0).astype(float)
    span = table["uncertainty"].str.extract(r"^([\d.]+)-([\d.]+)$").astype(float)
    # One span for many values is how well they could be read, not where each of them lies.
    widths = table.groupby(["metric", "uncertainty"])["value"].transform("nunique") > 1
    around = around.where(~(span[1].notna() & widths), span[1])
    is_range = span[0].notna() & ~widths
    return table[[*_COLUMNS, "line"]].assign(
        x=table["condition"].str.extract(r"^[\w-]+=([\d.]+)", expand=False).astype(float),
        low=span[0].where(is_range, table["value"] - around).astype(float),
        high=span[1].where(is_range, table["value"] + around).astype(float),
    )


def sources() -> list[str]:
    """All that the shipped table has, in its order."""
    with files("colosim").joinpath("data", "published-results.csv").open(encoding="utf-8") as file:
        return list(pd.read_csv(file)["source"].unique())


def select(
    published: pd.DataFrame, workload: str, metric: str, system: str | None = None
) -> pd.DataFrame:
    """value, low, high, line of one metric by its condition, which is the index; ordered.

    A row without a numerical condition is left out.  Raises LookupError if nothing is left.
    """
    rows = published[(published["workload"] == workload) & (published["metric"] == metric)]
    if system is not None:
        rows = rows[rows["system"] == system]
    rows = rows.dropna(subset="x").sort_values("x")
    if rows.empty:
        raise LookupError(f"nothing published about {metric} of {workload}")
    return rows.set_index("x")[["value", "low", "high", "line"]]


def reading(points: pd.DataFrame, x: float) -> dict[str, Any]:
    """The fields of a `Row` that say what was published at ``x``; none if nothing was."""
    return told(each(points[points.index == x])[0]) if x in points.index else {}


def told(point: pd.Series[Any]) -> dict[str, Any]:
    """The same of one row of the table."""
    value, low, high = (float(point[column]) for column in ("value", "low", "high"))
    return Published(value, low, high, int(point["line"]))._asdict()


def each(published: pd.DataFrame) -> list[pd.Series[Any]]:
    """The rows, one by one."""
    return [row for _, row in published.iterrows()]


def one(published: pd.DataFrame, **of: str) -> pd.Series[Any]:
    """The row with these values: ``one(published, workload="fio")``.

    Raises LookupError unless there is just one.
    """
    for column, value in of.items():
        published = published[published[column] == value]
    if len(published) != 1:
        raise LookupError(f"{len(published)} rows with {', '.join(of.values())}")
    return each(published)[0]
