"""What every source is to the command: numbers in, rows and one figure out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pandas as pd

from colosim.analysis.plots import styled
from experiments.published.rows import Row, frame, remarked
from experiments.published.table import load

if TYPE_CHECKING:
    from colosim.analysis.plots import Chart


class Findings(NamedTuple):
    """What came of a source; ``draw`` makes its figure of the rows."""

    rows: Sequence[Row]
    draw: Callable[[Sequence[Row]], Chart]


class Solve(Protocol):
    """Fit, simulate on ``jobs`` processes (None: all cores) and compare.

    ``published`` as from `table.load`; ``out`` gets what simulations read, such as curves of pages.
    """

    def __call__(
        self, published: pd.DataFrame, out: Path, quick: bool, jobs: int | None
    ) -> Findings:
        """``quick``: short runs, wide intervals."""
        ...


@dataclass(frozen=True)
class Study:
    """A source of the shipped table.

    name: of its package and of its directory of results.  source: as the table calls it.
    """

    name: str
    source: str
    solve: Solve

    def run(self, out: Path, quick: bool = False, jobs: int | None = None) -> Findings:
        """`solve` on the shipped numbers, every row with what the table notes of its value."""
        published = load(self.source)
        found = self.solve(published, out, quick, jobs)
        return found._replace(rows=remarked(found.rows, published))


def write(found: Findings, out: Path) -> list[Path]:
    """Write table and figure; their paths."""
    table = out / "table.csv"
    frame(found.rows).to_csv(table, index=False)
    return [table, *styled(found.draw)(found.rows).save(out / "figure.png")]
