"""The result: one row per number, and how rows are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import pandas as pd
from rich.console import Console
from rich.table import Table

Kind = Literal["measured", "fitted", "predicted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number of the paper, of the model, or of both; NaN where there is none.

    kind: *measured* by the paper and taken over (no model value); *fitted* to the published
    value, or to a set it belongs to; *predicted*: the published value, if any, was not used.
    published_low, published_high: how far the value can be read from the figure.
    model: of the simulator where the note does not say otherwise.
    interval: half of the model's 95 % interval (replications; standard errors for a line).
    low, high: range of the model over the assumptions that the note names.
    closed_form: the same number without the simulator.
    n, parameters: published values of the fit that the row is part of, and what was adjusted.
    """

    part: str
    quantity: str
    condition: str
    kind: Kind
    unit: str
    published: float = math.nan
    published_low: float = math.nan
    published_high: float = math.nan
    model: float = math.nan
    interval: float = math.nan
    low: float = math.nan
    high: float = math.nan
    closed_form: float = math.nan
    n: int = 0
    parameters: int = 0
    note: str = ""

    @property
    def residual(self) -> float:
        """Published minus model, in the row's unit."""
        return self.published - self.model

    @property
    def relative_error(self) -> float:
        """(Model - published) / published."""
        return (self.model - self.published) / self.published if self.published else math.nan


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """All rows as a table, with residual, relative_error and degrees_of_freedom."""
    table = pd.DataFrame([asdict(row) for row in rows])
    degrees = (table["n"] - table["parameters"]).where(table["n"] > 0).astype("Int64")
    table.insert(table.columns.get_loc("parameters") + 1, "degrees_of_freedom", degrees)
    table.insert(table.columns.get_loc("closed_form"), "residual", [r.residual for r in rows])
    errors = [row.relative_error for row in rows]
    table.insert(table.columns.get_loc("closed_form"), "relative_error", errors)
    return table


def show(rows: Sequence[Row], console: Console) -> None:
    """One table per part, its notes below it."""
    for part in dict.fromkeys(row.part for row in rows):
        of_part = [row for row in rows if row.part == part]
        notes = list(dict.fromkeys(row.note for row in of_part if row.note))
        table = Table(title=part, title_justify="left", title_style="bold", pad_edge=False)
        for name in ("", "condition", "kind"):
            table.add_column(name)
        for name in ("published", "model", "range", "closed form", "residual", "rel. error"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("dof", justify="right")
        table.add_column("note", justify="right")
        for row in of_part:
            table.add_row(
                f"{row.quantity} ({row.unit})" if row.unit != "1" else row.quantity,
                row.condition,
                row.kind,
                _number(row.published),
                _number(row.model) + (f" ± {_number(row.interval)}" if _is(row.interval) else ""),
                f"{_number(row.low)} .. {_number(row.high)}" if _is(row.low) else "",
                _number(row.closed_form),
                _number(row.residual),
                f"{row.relative_error:+.1%}" if _is(row.relative_error) else "",
                str(row.n - row.parameters) if row.n else "",
                str(notes.index(row.note) + 1) if row.note else "",
            )
        console.print(table)
        for i, note in enumerate(notes, 1):
            console.print(f"  {i}. {note}", highlight=False)
        console.print()


def _is(value: float) -> bool:
    return not math.isnan(value)


def _number(value: float) -> str:
    """Three significant digits, and none of a whole number lost."""
    if not _is(value):
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
