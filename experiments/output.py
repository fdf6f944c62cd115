"""Where an experiment's results go, and whether they are there already."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from colosim.scenario import Scenario
from colosim.store import MANIFEST

if TYPE_CHECKING:
    import pandas as pd

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


def is_there(scenario: Scenario, place: Path) -> bool:
    """A whole run of just that scenario; run directories appear complete or not at all."""
    try:
        manifest = json.loads((place / MANIFEST).read_text("utf-8"))
        found = Scenario.from_mapping(manifest["scenario"])
    except (OSError, ValueError, KeyError):
        return False
    # by value: a key that is new since then has its default in both
    return not manifest["interrupted"] and found.to_mapping() == scenario.to_mapping()


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
