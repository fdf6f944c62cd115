"""Sources of a sizing, each laid over what was known before it.

============  ===================================================================================
``scenario``  a scenario file
``live``      directories of live runs
``logs``      logs of a genuine QEMU pair
``captures``  captures of both guests' output
``pages``     dirty pages: rates, a table, QEMU itself; how points become a curve
``hand``      what is set by hand, and what is assumed where nobody said anything
============  ===================================================================================

They are taken in this order, so that each replaces what it knows better.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from colosim import store
from colosim.sizing.basis import Basis
from colosim.sizing.errors import SizingError
from colosim.sizing.sources import hand, pages
from colosim.sizing.sources.captures import captures
from colosim.sizing.sources.live import live
from colosim.sizing.sources.logs import logs
from colosim.sizing.sources.scenario import begin

_CAPTURES = (".pcap", ".pcapng", ".cap")
_RIGHT = (
    "give a scenario (.toml), run directories of colosim live, two captures (.pcap), logs of a "
    "genuine pair (.log) or a directory of colosim import-qemu-log"
)


@dataclass(frozen=True, slots=True)
class Given:
    """What to size from, sorted.  rates, table, measured: dirty pages, at most one of them."""

    scenario: Path | None = None
    runs: Sequence[Path] = ()
    logs: Sequence[Path] = ()
    captures: Sequence[Path] = ()
    rates: Sequence[str] = ()
    table: Path | None = None
    measured: Any = None
    memory: str | None = None
    link: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    offset: float | Literal["auto"] = "auto"
    guest: str | None = None
    compare: Mapping[str, Any] = field(default_factory=dict)


def sorted_sources(paths: Sequence[str | Path], **more: Any) -> Given:
    """What each path is; `SizingError` for one that is nothing to size from."""
    by_kind: dict[str, list[Path]] = {"scenario": [], "runs": [], "logs": [], "captures": []}
    for each in paths:
        path = Path(each)
        kind = _kind(path)
        by_kind[kind] += _logs_in(path) if kind == "logs" and path.is_dir() else [path]
    if len(by_kind["scenario"]) > 1:
        first, second = by_kind["scenario"][:2]
        raise SizingError(f"{second}: a scenario was given already, {first}; give one")
    if len(by_kind["captures"]) not in (0, 2):
        raise SizingError(f"{by_kind['captures'][0]}: give two captures, the primary's first")
    if len(by_kind["logs"]) > 2:
        raise SizingError(f"{by_kind['logs'][2]}: give one pair's logs, the primary's first")
    one = by_kind["scenario"][0] if by_kind["scenario"] else None
    return Given(one, by_kind["runs"], by_kind["logs"], by_kind["captures"], **more)


def _kind(path: Path) -> str:
    if path.is_dir():
        manifest = path / store.MANIFEST
        try:
            world = dict(json.loads(manifest.read_text("utf-8"))).get("world")
        except (OSError, ValueError, TypeError):
            raise SizingError(f"{path}: is no run's directory; {_RIGHT}") from None
        if world not in ("live", "log"):
            raise SizingError(f"{path}: was not run live; {_RIGHT}")
        return "logs" if world == "log" else "runs"
    if not path.exists():
        raise SizingError(f"{path}: is not there; {_RIGHT}")
    kinds = {".toml": "scenario", ".log": "logs", **dict.fromkeys(_CAPTURES, "captures")}
    kind = kinds.get(path.suffix)
    if kind is None:
        raise SizingError(f"{path}: what it is cannot be told by its name; {_RIGHT}")
    return kind


def _logs_in(path: Path) -> list[Path]:
    """The logs that an imported pair was read from."""
    body = json.loads((path / store.MANIFEST).read_text("utf-8"))
    logs = [Path(each) for each in body.get("logs", [])]
    for log in logs:
        if not log.exists():
            raise SizingError(f"{path}: was read from {log}, which is gone; give the logs")
    return logs


def basis_of(given: Given, place: Path, say: Callable[[str], None]) -> Basis:
    """Everything that the sources know, one over the other; files go to ``place``."""
    basis = begin(given.scenario)
    if given.runs:
        say(f"{len(given.runs)} live runs")
        live(basis, given.runs, place)
    if given.logs:
        logs(basis, *given.logs)
    if given.captures:
        say("captures are compared")
        captures(basis, given.captures, given.offset, given.guest, **given.compare)
    _pages(basis, given)
    if given.link is not None:
        hand.set_link(basis, given.link)
    hand.set_fields(basis, given.changes)
    hand.assume(basis)
    pages.fit_to_memory(basis)
    return basis


def _pages(basis: Basis, given: Given) -> None:
    ways = [given.rates, given.table, given.measured]
    if sum(bool(each) for each in ways) > 1:
        raise SizingError("dirty pages are given twice; give one of --dirty-rate, a CSV or --qmp")
    if given.measured is not None:
        pages.take_measured(basis, given.measured)
    elif given.rates or given.table:
        pages.take_rates(basis, given.rates, given.table)
    if given.memory is not None:
        pages.take_memory(basis, given.memory)
