"""The result: one row per number, and how rows are shown."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from colosim.analysis.stats import Interval

Kind = Literal["measured", "fitted", "predicted", "unmodelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number of the paper, of the model, or of both; NaN where there is none.

    x: the condition as a number: pages, checkpoints a second, ms of injected delay, clients.
    kind: *measured* by the paper and taken over (no model value); *fitted* to the published
    value, or to a set it belongs to; *predicted*: the published value, if any, was not used;
    *unmodelled*: colosim has no model of it, or no input for it, as the note says.
    line: of the published value in the shipped table; 0 if there is none.
    remark: what that table notes of the value (`remarked` looks it up).
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
    x: float = math.nan
    line: int = 0
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
    remark: str = ""

    @property
    def residual(self) -> float:
        """Published minus model, in the row's unit."""
        return self.published - self.model

    @property
    def relative_error(self) -> float:
        """(Model - published) / published."""
        return (self.model - self.published) / self.published if self.published else math.nan

    @property
    def degrees_of_freedom(self) -> int | None:
        """What the fit leaves over to test it; None for a row that is not fitted."""
        return self.n - self.parameters if self.n else None


def estimated(value: Interval, among: Iterable[float] = ()) -> dict[str, Any]:
    """The fields of a `Row` that a simulation gives; ``among``: under all assumptions."""
    found = {"model": value.mean, "interval": value.high - value.mean}
    values = list(among)
    return {**found, "low": min(values), "high": max(values)} if values else found


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """All rows as a table, with residual, relative_error and degrees_of_freedom."""
    table = pd.DataFrame([asdict(row) for row in rows]).assign(
        residual=[row.residual for row in rows],
        relative_error=[row.relative_error for row in rows],
        degrees_of_freedom=pd.array([row.degrees_of_freedom for row in rows], dtype="Int64"),
    )
    return table[[*table.columns.drop(["note", "remark"]), "note", "remark"]]


def remarked(rows: Iterable[Row], published: pd.DataFrame) -> list[Row]:
    """The same rows, each with what the shipped table notes of its published value."""
    notes = published.set_index("line")["note"].to_dict()
    return [replace(row, remark=str(notes.get(row.line, ""))) for row in rows]


def show(rows: Sequence[Row], console: Console) -> None:
    """One table per part, without the columns it does not need, and its notes below it.

    Letters stand for what the shipped table itself notes of a value: its anomalies.
    """
    for part in dict.fromkeys(row.part for row in rows):
        of_part = [row for row in rows if row.part == part]
        notes = list(dict.fromkeys(row.note for row in of_part if row.note))
        remarks = list(dict.fromkeys(row.remark for row in of_part if row.remark))
        table = Table(
            title=part,
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        shown = [header for header, text in _COLUMNS.items() if any(text(row) for row in of_part)]
        for header in shown:
            left = header in _LEFT
            table.add_column(header, justify="left" if left else "right", no_wrap=not left)
        table.add_column("note", justify="right")
        for row in of_part:
            cells = [_COLUMNS[header](row) for header in shown]
            marks = [str(notes.index(row.note) + 1)] if row.note else []
            marks += [_LETTERS[remarks.index(row.remark)]] if row.remark else []
            table.add_row(*cells, " ".join(marks))
        console.print(table)
        told = [(str(i), note) for i, note in enumerate(notes, 1)]
        letters = zip(_LETTERS, remarks, strict=False)
        told += [(letter, f"Of the table: {text}.") for letter, text in letters]
        for mark, note in told:
            text = textwrap.fill(
                note, console.width, initial_indent=f"{mark:>4}. ", subsequent_indent=" " * 6
            )
            console.print(text, highlight=False)
        console.print()


def _number(value: float) -> str:
    """Three significant digits, no more than three decimals, all digits of whole numbers."""
    if math.isnan(value):
        return ""
    size = abs(value)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{decimals}f}"


def _model(row: Row) -> str:
    within = "" if math.isnan(row.interval) else f" ± {_number(row.interval)}"
    return _number(row.model) + within


def _range(row: Row) -> str:
    return "" if math.isnan(row.low) else f"{_number(row.low)}..{_number(row.high)}"


_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_LEFT = ("quantity", "condition", "kind")
#: header -> what a row has there
_COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "quantity": lambda row: row.quantity + (f" ({row.unit})" if row.unit != "1" else ""),
    "condition": lambda row: row.condition,
    "kind": lambda row: row.kind,
    "published": lambda row: "" if math.isnan(row.published) else f"{row.published:.4g}",
    "model": _model,
    "range": _range,
    "closed\nform": lambda row: _number(row.closed_form),
    "residual": lambda row: _number(row.residual),
    "relative\nerror": lambda row: (
        "" if math.isnan(row.relative_error) else f"{round(row.relative_error, 3) + 0:+.1%}"
    ),
    "dof": lambda row: str(row.degrees_of_freedom) if row.n else "",
}
