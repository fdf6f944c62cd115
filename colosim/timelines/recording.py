"""A run's trace with the lines of all nodes on one clock, that of the run's tables.

A trace has each node's own time: of a live run the clock of its machine, of a simulated one perhaps
a clock that is wrong.  The tables count from the beginning of the run.  So for each node a zero is
found: of a primary from checkpoints that both trace and table have; of any other from the times of
messages in both directions, where those say that its clock is not the same one (half of what the
fastest messages of both directions differ by, as NTP takes it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from colosim import store
from colosim.protocol import types as t
from colosim.protocol.node import NodeConfig
from colosim.protocol.trace import Line, TraceError
from colosim.states import VISIT_COLUMNS, visits

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Recording:
    """Lines of a trace, their times counted from the beginning of the run."""

    lines: Sequence[Line]

    @cached_property
    def nodes(self) -> dict[str, NodeConfig]:
        """The first configuration of each node, in the order of the trace."""
        found: dict[str, NodeConfig] = {}
        for line in self.lines:
            if isinstance(line.body, NodeConfig):
                found.setdefault(line.node, line.body)
        return found

    @cached_property
    def visits(self) -> pd.DataFrame:
        """node, pair, part, state, start_ns, end_ns (NaN: never left) of every stay in a state."""
        import pandas as pd

        found = visits(self.lines)
        return pd.DataFrame(found, columns=list(VISIT_COLUMNS)).astype({"end_ns": float})


def recording(trace: Path, checkpoints: pd.DataFrame | None, is_live: bool) -> Recording:
    """Read a trace; checkpoints: the table of the same replication.

    Raises StoreError if it cannot be read.
    """
    try:
        lines = list(store.read_trace(trace))
        zero_ns = _zeros(lines, _started(checkpoints), is_live)
    except (TraceError, LookupError, TypeError) as error:
        raise store.StoreError(f"{trace}: is no trace, or damaged: {error}") from None
    return Recording(
        [replace(line, now_ns=line.now_ns - zero_ns.get(line.node, 0)) for line in lines]
    )


def _started(checkpoints: pd.DataFrame | None) -> dict[int, int]:
    if checkpoints is None:
        return {}
    columns = (checkpoints["checkpoint"].tolist(), checkpoints["started_ns"].tolist())
    return {int(number): int(at) for number, at in zip(*columns, strict=True)}


def _zeros(lines: Sequence[Line], started: Mapping[int, int], is_live: bool) -> dict[str, int]:
    """What the clock of each node showed when the run began."""
    first = next((x.node for x in lines if _is_primary(x)), None)
    if first is None:
        return {}
    both = [
        line.now_ns - started[line.body.checkpoint]
        for line in lines
        if line.node == first
        and isinstance(line.body, t.CheckpointStarted)
        and line.body.checkpoint in started
    ]
    if both:
        zero_ns = round(median(both))
    else:  # a simulated run begins at 0; a live one about when it is protected
        protected = (x.now_ns for x in lines if isinstance(x.body, t.Protected) and x.node == first)
        zero_ns = next(protected, 0) if is_live else 0
    ahead_ns = _ahead(lines, first)
    return {node: zero_ns + ahead_ns.get(node, 0) for node in {line.node for line in lines}}


def _is_primary(line: Line) -> bool:
    return isinstance(line.body, NodeConfig) and line.body.role is t.Role.PRIMARY


def _ahead(lines: Iterable[Line], first: str) -> dict[str, int]:
    """How far other nodes' clocks are ahead of the first one's, where messages say so."""
    sent: dict[tuple[str, int], int] = {}
    there: dict[str, int] = {}  # least of received - sent, from the first node
    back: dict[str, int] = {}  # and to it
    for line in lines:
        sent[line.node, line.n] = line.now_ns
        if line.cause is None or line.cause[0] == line.node or line.cause not in sent:
            continue
        took_ns = line.now_ns - sent[line.cause]
        if line.cause[0] == first:
            there[line.node] = min(there.get(line.node, took_ns), took_ns)
        elif line.node == first:
            other = line.cause[0]
            back[other] = min(back.get(other, took_ns), took_ns)
    return {
        node: (there[node] - back[node]) // 2
        for node in there.keys() & back.keys()
        if there[node] < 0 or back[node] < 0
    }


def of_run(directory: Path, manifest: Mapping[str, Any], replication: int = 0) -> Recording:
    """The recording of one replication of a run's directory; `StoreError` if it has no trace."""
    trace = directory / f"trace-{replication}.jsonl.gz"
    if not trace.exists():
        raise store.StoreError(
            f"{directory}: holds no trace of replication {replication}; "
            "run with --out and --trace first or all"
        )
    table = store.read_table(directory, "checkpoints.parquet")
    if table is not None:
        table = table[table["replication"] == replication]
    return recording(trace, table, manifest.get("world") == "live")
