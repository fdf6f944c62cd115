"""What a directory of results holds, or a result in memory: the same either way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from colosim import store
from colosim.sweeps.columns import COMMON
from colosim.timelines.aligning import AlignedTrace, of_run

if TYPE_CHECKING:
    from colosim.api import Comparison, Result

_SWEEP, _EXPLORATION = "_sweep.json", "_explore.json"
#: table -> the file that holds it
_FILES = {
    "metrics": "metrics.csv",
    "summary": "summary.csv",
    "responses": "responses.parquet",
    "checkpoints": "checkpoints.parquet",
    "events": "events.csv",
    "phases": "phases.csv",
    "holds": "holds.parquet",
}
#: columns that a table must have; others: the replication
_COLUMNS = {
    "metrics": ("policy", "replication", "metric", "value"),
    "summary": ("policy", "metric", "mean"),
    "events": ("replication", "at_ns", "node", "what"),
}


@dataclass(frozen=True)
class Run:
    """One policy's replications, simulated or live.

    manifest: what the directory says of itself.  tables: name -> table.  trace: of
    replication 0, where there is one.
    """

    manifest: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    directory: Path | None = None

    @property
    def policy(self) -> str:
        return str(self.manifest["policy"])

    @property
    def is_live(self) -> bool:
        return self.manifest.get("world") == "live"

    @property
    def scenario(self) -> Mapping[str, Any]:
        """As in a scenario file."""
        return dict(self.manifest["scenario"])

    @cached_property
    def trace(self) -> AlignedTrace | None:
        """All nodes' lines on the clock of the tables."""
        if self.directory is None or not (self.directory / "trace-0.jsonl.gz").exists():
            return None
        return of_run(self.directory, self.manifest)


@dataclass(frozen=True)
class Runs:
    """A run alone (no baseline), or several on the same scenario: a comparison.

    baseline: the policy that differences are taken from.  summary: as of `Result` or `Comparison`.
    """

    runs: Sequence[Run]
    manifest: Mapping[str, Any]
    summary: pd.DataFrame
    baseline: str | None = None
    command: str = ""

    def table(self, name: str) -> pd.DataFrame:
        """That table of all runs, one below the other; empty if none has it."""
        there = [run.tables[name] for run in self.runs if name in run.tables]
        parts = [table for table in there if len(table)] or there[:1]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


@dataclass(frozen=True)
class Sweep:
    """A sweep's dataset: tidy rows, and the columns that are its axes."""

    manifest: Mapping[str, Any]
    table: pd.DataFrame
    axes: Sequence[str]
    directory: Path


@dataclass(frozen=True)
class Exploration:
    """Faults at steps, and what became of each: outcomes has design, faults, outcome, points."""

    manifest: Mapping[str, Any]
    outcomes: pd.DataFrame
    found: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Years:
    """A year of each policy; tables as of `AvailabilityResult`."""

    manifest: Mapping[str, Any]
    summary: pd.DataFrame
    causes: pd.DataFrame
    states: pd.DataFrame
    takeovers: pd.DataFrame
    cycles: pd.DataFrame


@dataclass(frozen=True)
class Captures:
    """Two captures that were compared; tables as of `PcapComparison`."""

    manifest: Mapping[str, Any]
    summary: pd.DataFrame
    verdicts: pd.DataFrame
    checkpoints: pd.DataFrame
    frames: pd.DataFrame


Source = Runs | Sweep | Exploration | Years | Captures

#: kinds that there is no report of -> which command wrote them, and where to look instead
_OTHERS = {
    "sizing": "colosim size wrote it, and its report is sizing.txt there",
    "log": "colosim import-qemu-log wrote it; give its trace to colosim replay",
}


def read(directory: str | Path) -> Source:
    """What a directory holds; `StoreError`, one line, if that is no result that can be shown."""
    place = Path(directory)
    for name, reader in ((_SWEEP, _sweep), (_EXPLORATION, _exploration)):
        if (place / name).exists():
            return reader(place, _json(place / name))
    manifest = store.read_manifest(place)
    kind = manifest["kind"]
    readers: dict[str, Callable[[Path, dict[str, Any]], Source]] = {
        "run": _alone,
        "comparison": _comparison,
        "availability": _years,
        "pcap": _captures,
    }
    if kind not in readers:
        what = _OTHERS.get(kind, f"is of kind {kind}")
        by = "simulate, compare, live, sweep, explore, availability or compare-pcap"
        raise store.StoreError(f"{directory}: {what}; a report is of what {by} wrote")
    try:
        return readers[kind](place, manifest)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, store.StoreError):
            raise
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise store.StoreError(f"{directory}: is damaged: {why}") from None


def _alone(place: Path, manifest: dict[str, Any]) -> Runs:
    run = _run(place, manifest)
    summary = run.tables["summary"]
    verb = "live" if run.is_live else "simulate"
    many = "" if run.is_live else f" --replications {manifest['replications']}"
    command = (
        f"colosim {verb} scenario.toml --policy {run.policy} --seed {manifest['seed']}{many} "
        "--out DIR"
    )
    return Runs([run], manifest, summary, None, command)


def _comparison(place: Path, manifest: dict[str, Any]) -> Runs:
    runs = [_run(place / name, store.read_manifest(place / name)) for name in manifest["policies"]]
    summary = store.read_table(place, _FILES["summary"], *_COLUMNS["summary"], "diff")
    if summary is None:
        raise store.StoreError(f"{place}: has no summary.csv; it is not whole")
    command = _compare_command(manifest["policies"], runs[0])
    return Runs(runs, manifest, summary, manifest["baseline"], command)


def _compare_command(policies: Sequence[str], first: Run) -> str:
    return (
        f"colosim compare scenario.toml --policies {','.join(policies)} "
        f"--seed {first.manifest['seed']} --replications {first.manifest['replications']} --out DIR"
    )


def _run(place: Path, manifest: dict[str, Any]) -> Run:
    tables = {
        name: store.read_table(place, file, *_COLUMNS.get(name, ("replication",)))
        for name, file in _FILES.items()
    }
    there = {name: table for name, table in tables.items() if table is not None}
    for name in ("metrics", "summary", "responses", "checkpoints", "events"):
        if name not in there:
            raise store.StoreError(f"{place}: has no {_FILES[name]}; it is not whole")
    return Run(manifest, there, place)


_OF_YEARS = ("summary.csv", "causes.csv", "states.csv", "takeovers.csv", "cycles.csv")
_OF_CAPTURES = ("summary.csv", "verdicts.csv", "checkpoints.csv", "frames.parquet")


def _years(place: Path, manifest: dict[str, Any]) -> Years:
    return Years(**_whole(place, manifest, _OF_YEARS))


def _captures(place: Path, manifest: dict[str, Any]) -> Captures:
    return Captures(**_whole(place, manifest, _OF_CAPTURES))


def _whole(place: Path, manifest: dict[str, Any], files: Sequence[str]) -> dict[str, Any]:
    """The manifest and each of the files, by name without suffix."""
    found: dict[str, Any] = {"manifest": manifest}
    for file in files:
        found[Path(file).stem] = table = store.read_table(place, file)
        if table is None:
            raise store.StoreError(f"{place}: has no {file}; it is not whole")
    return found


def _sweep(place: Path, manifest: dict[str, Any]) -> Sweep:
    from colosim import sweeps

    try:
        table = sweeps.read(place)
    except (OSError, ValueError) as error:
        raise store.StoreError(f"{place}: cannot be read: {error}") from None
    if table.empty:
        raise store.StoreError(f"{place}: no point of this sweep is finished yet")
    axes = [str(name) for name in table if name not in ("point", *COMMON)]
    return Sweep(manifest, table, axes, place)


def _exploration(place: Path, manifest: dict[str, Any]) -> Exploration:
    outcomes = store.read_table(place, "outcomes.csv")
    if outcomes is None or not (place / "report.json").exists():
        raise store.StoreError(
            f"{place}: this exploration is not finished; run it again to its end"
        )
    return Exploration(manifest, outcomes, _json(place / "report.json"))


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise store.StoreError(f"{path}: cannot be read: {error}") from None


def of_result(result: Result | Comparison) -> Runs:
    """A result in memory; it has no trace."""
    several = getattr(result, "results", None)
    runs = [_of(each) for each in (several.values() if several else [result])]
    manifest = {**result.manifest(), "versions": store.versions()}
    if several:
        command = _compare_command(list(several), runs[0])
        return Runs(runs, manifest, result.summary, manifest["baseline"], command)
    verb = "live" if runs[0].is_live else "simulate"
    command = f"colosim {verb} scenario.toml --policy {runs[0].policy} --out DIR"
    return Runs(runs, manifest, result.summary, None, command)


def _of(result: Any) -> Run:
    tables = {name: getattr(result, name) for name in _FILES}
    return Run({**result.manifest(), "versions": store.versions()}, tables)
