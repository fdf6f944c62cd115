"""Where an experiment's results go, whether they are there already, and what each may be asked.

`Results` is what most experiments write: pages, tables and figures in one directory, and a last
line that says which.  The options that they share are here, so that they mean the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich import box
from rich.console import Console
from rich.table import Table

import colosim
from backends.qemu.errors import LiveError
from colosim.analysis.stats import interval
from colosim.scenario import Scenario, ScenarioError
from colosim.store import MANIFEST, StoreError
from colosim.sweeps import SweepError

if TYPE_CHECKING:
    import pandas as pd

    from colosim.analysis.plots import Chart

_Command = TypeVar("_Command", bound=Callable[..., Any])

_WIDTH = 150  # where the output is no terminal


class Unusable(click.ClickException):
    """One line on stderr, exit status 2."""

    exit_code = 2


def console() -> Console:
    """Standard output, wide enough for a table if it is a file or a pipe."""
    return Console(width=None if Console().is_terminal else _WIDTH, highlight=False)


def directory(out: str) -> Path:
    """The directory ``out``, made if needed; `Unusable` if nothing can be written there."""
    path = Path(out)
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / ".writable").touch()
        (path / ".writable").unlink()
    except OSError as error:
        raise Unusable(f"{out}: {error.strerror}; give a directory that can be written") from None
    return path


class Results:
    """What an experiment prints, and writes into its directory.

    place: the directory.  console: where it prints.
    """

    def __init__(self, out: str) -> None:
        """Raises `Unusable` if nothing can be written there."""
        self.place = directory(out)
        self.console = console()
        self._files: list[str] = []
        self._figures: list[str] = []

    def say(self, text: str) -> None:
        """What goes on."""
        self.console.print(f"  {text}", soft_wrap=True, markup=False)

    def page(self, name: str, text: str) -> None:
        """Print it, and write it as ``name``.md."""
        text = text.rstrip() + "\n"
        self.console.print(text, soft_wrap=True, markup=False)
        (self.place / f"{name}.md").write_text(text, "utf-8")
        self._files.append(f"{name}.md")

    def table(self, name: str, table: pd.DataFrame) -> None:
        """Write it as ``name``.csv."""
        table.to_csv(self.place / f"{name}.csv", index=False)
        self._files.append(f"{name}.csv")

    def figure(self, name: str, chart: Chart) -> None:
        """Write it as ``name``.svg and .png."""
        chart.save(self.place / name)
        self._figures.append(name)

    def told(self) -> None:
        """Say what was written."""
        figures = f"figures (svg, png): {', '.join(self._figures)}" if self._figures else ""
        said = "; ".join(filter(None, (", ".join(self._files), figures)))
        self.console.print(f"\nwritten in {self.place}: {said}", soft_wrap=True)


# --------------------------------------------------------------------------------------------
# Options, and sweeps

seed_option = click.option(
    "--seed", default=1, show_default=True, help="What all chance comes from."
)
jobs_option = click.option(
    "--jobs", type=click.IntRange(1), help="Worker processes; default all cores."
)


def out_option(name: str) -> Callable[[_Command], _Command]:
    """--out, which is ``out/NAME`` if it is not given."""
    text = "Directory for results."
    return click.option("--out", default=f"out/{name}", show_default=True, help=text)


def replications_option(default: int, of: str) -> Callable[[_Command], _Command]:
    """--replications; of: what there are several runs of."""
    text = f"Runs of each {of}; default {default}."
    return click.option("--replications", type=click.IntRange(2), help=text)


def swept(
    scenario: Scenario,
    policies: Sequence[str],
    axes: Mapping[str, Sequence[object]],
    out: Path,
    *,
    replications: int | None,
    seed: int,
    jobs: int | None,
) -> pd.DataFrame:
    """A sweep over all combinations; ``out`` keeps what has been run, so one that was stopped goes
    on there.  replications: None for the scenario's.  Raises `Unusable`, one line.
    """
    plan: dict[str, Any] = {"scenario": scenario, "policies": list(policies), "seed": seed}
    plan |= {"axes": {key: list(values) for key, values in axes.items()}}
    if replications is not None:
        plan["replications"] = replications
    try:
        return colosim.sweep(plan, out, jobs)
    except (SweepError, StoreError) as error:
        raise Unusable(str(error)) from None


# --------------------------------------------------------------------------------------------
# Runs that are there already


def is_there(scenario: Scenario, place: Path) -> bool:
    """A whole run of just that scenario; run directories appear complete or not at all."""
    try:
        manifest = json.loads((place / MANIFEST).read_text("utf-8"))
        found = Scenario.from_mapping(manifest["scenario"])
    except (OSError, ValueError, KeyError):
        return False
    # by value: a key that is new since then has its default in both
    return not manifest["interrupted"] and found.to_mapping() == scenario.to_mapping()


def run_live(runs: Iterable[tuple[str, Scenario, Path]], say: Callable[[str], None]) -> list[str]:
    """Run what is not there already; what could not be run, a line each.

    runs: title, scenario, directory.
    """
    failures = []
    for title, scenario, place in runs:
        if is_there(scenario, place):
            say(f"{title}: there already")
            continue
        say(f"{title}: running")
        try:
            colosim.live(scenario, out=place)
        except (LiveError, ScenarioError) as error:
            failures.append(f"{title}: {error}")
            say(failures[-1])
    return failures


def about(places: Iterable[Path]) -> dict[str, str]:
    """What ran live runs: machine, versions, accelerator, day; as the first that is there says."""
    for place in places:
        path = place / MANIFEST
        if path.exists():
            manifest = json.loads(path.read_text("utf-8"))
            keys = ("qemu of primary", "accelerator", "processor", "dirty pages found by")
            return {
                **{key: str(manifest[key]) for key in keys if key in manifest},
                "colosim": manifest["versions"]["colosim"],
                "day": manifest["created"][:10],
            }
    return {}


def means_table(rows: pd.DataFrame, at: str, title: str, heading: str, form: str) -> Table:
    """A row for each value of column ``at``, a column for each condition: mean ± half of its 95 %
    interval.  form: of the mean.
    """
    conditions = list(rows["condition"].unique())
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column(heading, justify="right")
    for condition in conditions:
        table.add_column(condition, justify="right", no_wrap=True)
    for place, here in rows.groupby(at):
        cells = []
        for condition in conditions:
            _, mean, _, high = interval(here.loc[here["condition"] == condition, "value"])
            cells.append(f"{mean:{form}} ± {high - mean:.2g}")
        table.add_row(str(place), *cells)
    return table


def markdown_table(table: pd.DataFrame, index: str | None = None) -> str:
    """A table for a page; index: the heading of its index, if that is to be shown."""
    shown = table if index is None else table.rename_axis(index).reset_index()
    lines = ["| " + " | ".join(map(str, shown.columns)) + " |", "|" + "---|" * len(shown.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in shown.itertuples(False, None)]
    return "\n".join(lines)


def page(parts: Sequence[str], failures: Sequence[str], heading: str = "##") -> str:
    """A page of its parts, and at its end what could not be run; heading: of that."""
    missing = [f"{heading} What could not be run", "\n".join(f"* {each}" for each in failures)]
    return "\n\n".join([*parts, *(missing if failures else [])]) + "\n"
