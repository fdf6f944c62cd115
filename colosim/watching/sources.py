"""Where moments come from: a run directory, a simulation, the files of a run that goes on.

Each gives what happened a place on one axis, without comparing the clocks of two hosts. A recorded
primary is placed by the times that its record has of its checkpoints, its peer by happens-before
(`Causal`); lines that come in are placed by when they came (`Arrival`).
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from heapq import merge
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from colosim import store
from colosim.protocol import types as t
from colosim.protocol.trace import Line, TraceError, decode_line
from colosim.timelines.rows import CheckpointRows, Row, is_of_primary
from colosim.watching.model import END, Dirty, Moment, Told


class Causal:
    """Places the lines of a merged trace: each node's own pace, none before its cause.

    ahead_ns: of the axis before the clocks of nodes, as far as it is known. What another node does
    before anything caused it to is placed where the axis is.
    """

    def __init__(self, ahead_ns: Mapping[str, int]) -> None:
        self._ahead_ns = dict(ahead_ns)
        self._known = frozenset(ahead_ns)
        self._at_ns: dict[tuple[str, int], int] = {}
        self._head_ns: int | None = None

    def at_ns(self, line: Line) -> int:
        """The place of the next line; never before the last one's."""
        node = line.node
        caused_ns = None if line.cause is None else self._at_ns.get(line.cause)
        if caused_ns is not None and node not in self._known:
            ahead_ns = caused_ns - line.now_ns
            self._ahead_ns[node] = max(self._ahead_ns.get(node, ahead_ns), ahead_ns)
        if node in self._ahead_ns:
            at_ns = line.now_ns + self._ahead_ns[node]
            at_ns = at_ns if self._head_ns is None else max(self._head_ns, at_ns)
        else:
            at_ns = 0 if self._head_ns is None else self._head_ns
        self._head_ns = at_ns
        if line.kind == "action":
            self._at_ns[node, line.n] = at_ns
            self._at_ns.pop((node, line.n - _REMEMBERED_LINES), None)  # causes are recent
        return at_ns


_REMEMBERED_LINES = 20_000


class Arrival:
    """Places lines by when they came, each node's at its own pace: the quickest tells its delay."""

    def __init__(self) -> None:
        self._ahead_ns: dict[str, int] = {}

    def at_ns(self, node: str, now_ns: int, came_ns: int) -> int:
        """now_ns: by the node's clock; came_ns: by ours."""
        ahead_ns = came_ns - now_ns
        self._ahead_ns[node] = min(self._ahead_ns.get(node, ahead_ns), ahead_ns)
        return now_ns + self._ahead_ns[node]


# --------------------------------------------------------------------------------------------
# Run directories


@dataclass(frozen=True, slots=True)
class Recording:
    """A run that is over; times from where its record begins.

    begin_ns: where there is something to see. end_ns: None if only the trace says it, with its last
    line. duration_ns: 0 if it is not known. Moments may be asked for again.
    """

    trace: Path
    name: str
    begin_ns: int
    end_ns: int | None
    duration_ns: int
    rows: Sequence[Row]
    told: Sequence[Moment]
    ahead_ns: Mapping[str, int]  # of the axis before the nodes' clocks

    def moments(self) -> Iterator[Moment]:
        """All that happened, in order; `StoreError` if the trace is not whole."""
        last_ns = 0
        for moment in merge(self._lines(), self.told, key=lambda each: each.at_ns):
            if self.end_ns is not None and moment.at_ns > self.end_ns:
                break
            yield moment
            if isinstance(moment.what, Told) and moment.what.what == END:
                return
            last_ns = moment.at_ns
        end_ns = last_ns if self.end_ns is None else self.end_ns
        yield Moment(end_ns, Told("run", END, ""))

    def _lines(self) -> Iterator[Moment]:
        place, rows = Causal(self.ahead_ns), CheckpointRows(self.rows)
        row: Row = {}
        for line in store.read_trace(self.trace):
            at_ns = place.at_ns(line)
            yield Moment(at_ns, line)
            if not self.rows or not is_of_primary(line):
                continue
            if isinstance(line.body, t.CheckpointStarted):
                row = rows.begun_by(line) or {}
            elif isinstance(line.body, t.Save | t.Copy) and row.get("pages", -1) >= 0:
                yield Moment(at_ns, Dirty(line.node, line.body.checkpoint, row["pages"]))


def recording(path: str | Path) -> Recording:
    """The run that a directory holds, or the one that a trace in it is of.

    Raises StoreError, one line, if there is no trace, or more than one.
    """
    given = Path(path)
    traces = [given] if given.is_file() else store.traces(given)
    if len(traces) > 1:
        names = ", ".join(str(each) for each in traces[:4]) + (", ..." if traces[4:] else "")
        raise store.StoreError(f"{path}: holds {len(traces)} traces; give one of {names}")
    [trace] = traces
    directory = trace.parent
    manifest = _manifest(directory)
    scenario = manifest.get("scenario", {})
    named = re.match(r"trace-(\d+)\.", trace.name)
    number = int(named[1]) if named else 0
    rows = _rows(directory / "checkpoints.parquet", number)
    ahead_ns, begin_ns = _placed(trace, rows)
    told = _told(directory / "events.csv", number)
    duration_ns = _duration_ns(scenario)
    known_ns = [value for row in rows for value in (row["started_ns"], row["completed_ns"])]
    known_ns += [moment.at_ns for moment in told]
    end_ns = duration_ns or None
    if manifest.get("interrupted") and known_ns:
        end_ns = max(known_ns)
    name = scenario.get("name") or directory.name
    return Recording(trace, name, begin_ns, end_ns, duration_ns, rows, told, ahead_ns)


def _manifest(directory: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((directory / store.MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _duration_ns(scenario: Mapping[str, Any]) -> int:
    from colosim.units import TIME, UnitError

    try:
        return int(TIME.parse(scenario.get("duration", "0 s")))
    except UnitError:
        return 0


def _rows(path: Path, replication: int) -> Sequence[Row]:
    """Checkpoints of a replication in the order in which they began."""
    if not path.exists():
        return []
    import pandas as pd

    try:
        table: Any = pd.read_parquet(path)
        return list(table[table["replication"] == replication].to_dict("records"))
    except (OSError, KeyError, ValueError) as error:
        why = " ".join(str(error).split())
        raise store.StoreError(f"{path}: cannot be read: {why}") from None


def _told(path: Path, replication: int) -> Sequence[Moment]:
    """What the world said, by the record's times."""
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["replication"]) == replication]
        found = [
            Moment(int(row["at_ns"]), Told(row["node"], row["what"], row["detail"])) for row in rows
        ]
    except (OSError, KeyError, ValueError) as error:
        why = " ".join(str(error).split())
        raise store.StoreError(f"{path}: cannot be read: {why}") from None
    return sorted(found, key=lambda moment: moment.at_ns)


def _placed(trace: Path, rows: Sequence[Row]) -> tuple[Mapping[str, int], int]:
    """How far the axis is ahead of each primary's clock, and where on it the first pair begins.

    The record has the begin of every checkpoint. Where there is none, the first node's first Start
    is at 0.
    """
    ahead_ns: dict[str, int] = {}
    starts_ns: dict[str, int] = {}
    table = CheckpointRows(rows)
    for line in _few(trace, ('"Start"', '"CheckpointStarted"')):
        if isinstance(line.body, t.Start):
            starts_ns.setdefault(line.node, line.now_ns)
        elif (row := table.begun_by(line)) is not None:
            ahead_ns.setdefault(line.node, int(row["started_ns"]) - line.now_ns)
    first = next(iter(starts_ns), None)
    if first is not None and not ahead_ns:
        ahead_ns[first] = -starts_ns[first]
    began_ns = [starts_ns[node] + ahead for node, ahead in ahead_ns.items() if node in starts_ns]
    return ahead_ns, min([0, *began_ns[:1]])


def _few(trace: Path, words: Sequence[str]) -> Iterator[Line]:
    """The lines of a trace that have one of the words; the others are not decoded."""
    try:
        with gzip.open(trace, "rt", encoding="utf-8") as lines:
            for number, text in enumerate(lines, 1):
                if any(word in text for word in words):
                    yield _decoded(text, number)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, TraceError) as error:
        raise store.StoreError(f"{trace}: is no trace, or damaged: {error}") from None


def _decoded(text: str, number: int) -> Line:
    try:
        return decode_line(text)
    except TraceError as error:
        raise TraceError(f"line {number}: {error}") from None


# --------------------------------------------------------------------------------------------
# Simulations


class Simulated:
    """A simulation, kept in a directory that is gone with this object (a context manager)."""

    def __init__(self, scenario: Any, policy: str | None, seed: int | None) -> None:
        from colosim import api

        self._directory = TemporaryDirectory(prefix="colosim-")
        try:
            api.simulate(scenario, policy, seed, 1, Path(self._directory.name) / "run")
            self.recording = recording(Path(self._directory.name) / "run")
        except BaseException:
            self._directory.cleanup()
            raise

    def __enter__(self) -> Recording:
        return self.recording

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()


# --------------------------------------------------------------------------------------------
# A run that goes on


class Tail:
    """The growing files of a live run's directory: what came since one asked last.

    Traces and saves of hosts on other machines come into the same files, as their agents send them.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[Path, int] = {}
        self._left: dict[Path, bytes] = {}
        self._place = Arrival()
        self._zero_ns: int | None = None

    def read(self, came_ns: int) -> list[Moment]:
        """All whole lines that were written; came_ns: the present time of any steady clock."""
        moments: list[Moment] = []
        with suppress(FileNotFoundError):  # it has got its final name: no file comes any more
            for path in sorted(self._directory.iterdir()):
                if path.suffix in _FOLLOWED and path not in self._files:
                    self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        for path, handle in self._files.items():
            for text in self._whole(path, handle):
                moments += self._moment(path.suffix, text, came_ns)
        return sorted(moments, key=lambda moment: moment.at_ns)

    def now_ns(self, came_ns: int) -> int:
        """Where on the axis the present time is."""
        return self.place("", came_ns, came_ns)

    def place(self, node: str, now_ns: int, came_ns: int) -> int:
        """Where on the axis a node's time is."""
        if self._zero_ns is None:
            self._zero_ns = came_ns
        return self._place.at_ns(node, now_ns, came_ns) - self._zero_ns

    def close(self) -> None:
        """Let go of the files."""
        for handle in self._files.values():
            os.close(handle)
        self._files.clear()

    def _whole(self, path: Path, handle: int) -> list[bytes]:
        data = self._left.get(path, b"")
        while piece := os.read(handle, 1 << 20):
            data += piece
        *lines, self._left[path] = data.split(b"\n")
        return lines

    def _moment(self, suffix: str, text: bytes, came_ns: int) -> list[Moment]:
        if suffix == ".trace":
            line = decode_line(text.decode())
            return [Moment(self.place(line.node, line.now_ns, came_ns), line)]
        row = json.loads(text)
        dirty = Dirty(row["node"], row["checkpoint"], row["pages"])
        return [Moment(self.now_ns(came_ns), dirty)]


_FOLLOWED = (".trace", ".saves")  # lines of a trace; pages of checkpoints
