"""The command of one source, and of all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import pandas as pd

from experiments import output
from experiments.published import figures
from experiments.published.rows import Row, show
from experiments.published.study import Study, write

#: what is said of a published number that several rows look at: the first of these that one is
_ORDER = ("fitted", "predicted", "measured", "unmodelled")
_QUICK = click.option("--quick", is_flag=True, help="short runs, wide intervals")


def command(study: Study) -> click.Command:
    """Fit, predict, print the table, draw the figure."""

    @click.command(help=f"{study.source}: what the simulator explains of it.")
    @click.option("--out", default=f"out/{study.name}", show_default=True, help="directory")
    @_QUICK
    def main(out: str, quick: bool) -> None:
        directory = output.directory(out)
        console = output.console()
        console.print(f"[bold]{study.source}[/bold]: what the simulator explains of it\n")
        found = study.run(directory, quick)
        show(found.rows, console)
        for file in write(found, directory):
            print(f"written: {file}")

    return main


def command_of_all(studies: Sequence[Study]) -> click.Command:
    """All sources, one after the other, and a table of how well each is predicted."""

    @click.command(help="Every source of published results: what the simulator explains of it.")
    @click.option("--out", default="out/published", show_default=True, help="directory")
    @_QUICK
    def main(out: str, quick: bool) -> None:
        directory = output.directory(out)
        console = output.console()
        lines: list[dict[str, str]] = []
        ratios: dict[str, list[float]] = {}
        for study in studies:
            place = output.directory(str(directory / study.name))
            console.print(f"[bold]{study.source}[/bold]: what the simulator explains of it\n")
            found = study.run(place, quick)
            show(found.rows, console)
            write(found, place)
            lines.append({"source": study.source, **summary(found.rows)})
            ratios[study.source] = [1 + row.relative_error for row in predicted(found.rows)]
        table = pd.DataFrame(lines)
        table.to_csv(directory / "summary.csv", index=False)
        page = output.markdown_table(table)
        Path(directory / "summary.md").write_text(page + "\n", "utf-8")
        print(page)
        figures.overview(ratios).save(directory / "overview.png")
        print(f"written: {directory}/summary.csv, summary.md, overview (svg, png)")
        print("and a directory for each source")

    return main


def status(rows: Sequence[Row]) -> Mapping[int, str]:
    """Line of a published number -> what it is; fitted where any row used it, then predicted."""
    kinds: dict[int, set[str]] = {}
    for row in rows:
        if row.line:
            kinds.setdefault(row.line, set()).add(row.kind)
    return {line: next(kind for kind in _ORDER if kind in of) for line, of in kinds.items()}


def predicted(rows: Sequence[Row]) -> list[Row]:
    """Predictions of numbers that no row of their source used."""
    what = status(rows)
    return [
        row
        for row in rows
        if row.kind == "predicted"
        and what.get(row.line) == "predicted"
        and not math.isnan(row.relative_error)
    ]


def summary(rows: Sequence[Row]) -> dict[str, str]:
    """How many published numbers are what, and how far predictions are off.

    A number is predicted if no row of its source used it.  Where several models predict it, all of
    them count.  within: the model's interval or range meets what can be read of the number.
    """
    what = status(rows)
    counts = {kind: sum(of == kind for of in what.values()) for kind in _ORDER}
    off = pd.Series([abs(row.relative_error) for row in predicted(rows)], dtype=float)
    within = sum(_within(row) for row in rows if what.get(row.line) == "predicted")
    return {
        "numbers": str(len(what)),
        **{kind: str(count) for kind, count in counts.items()},
        "median error": f"{off.median():.0%}" if len(off) else "–",
        "largest": f"{off.max():.0%}" if len(off) else "–",
        "within": f"{within} of {len(off)}" if len(off) else "–",
    }


def _within(row: Row) -> bool:
    """The model's interval or range meets what can be read of the published value."""
    if row.kind != "predicted" or math.isnan(row.relative_error):
        return False
    half = 0.0 if math.isnan(row.interval) else row.interval
    ends = [row.model - half, row.model + half, row.low, row.high]
    known = [each for each in ends if not math.isnan(each)]
    return min(known) <= row.published_high and row.published_low <= max(known)
