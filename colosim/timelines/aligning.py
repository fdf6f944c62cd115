"""A run's trace with the lines of all nodes on one clock, that of the run's tables.

A trace has each node's own time: of a live run the clock of its machine, of a simulated one perhaps
a clock that is wrong.  The tables count from the beginning of the run.  So for each node a zero is
found: of a primary from its checkpoints, which both trace and table have; of its secondary from the
times of messages in both directions, where those say that its clock is not the same one (half of
what the fastest messages of both directions differ by, as NTP takes it: RFC 5905, 8).
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
from colosim.timelines.rows import CheckpointRows

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class AlignedTrace:
    """Lines of a trace, all their times counted from the beginning of the run."""

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


def aligned(trace: Path, checkpoints: pd.DataFrame | None, is_live: bool) -> AlignedTrace:
    """Read a trace; checkpoints: the table of the same replication.

    Raises StoreError if it cannot be read.
    """
    try:
        lines = list(store.read_trace(trace))
        rows = [] if checkpoints is None else checkpoints.to_dict("records")
        zero_ns = _zeros(lines, CheckpointRows(rows), is_live)
    except (TraceError, LookupError, TypeError) as error:
        raise store.StoreError(f"{trace}: is no trace, or damaged: {error}") from None
    return AlignedTrace(
        [replace(line, now_ns=line.now_ns - zero_ns.get(line.node, 0)) for line in lines]
    )


def _zeros(lines: Sequence[Line], table: CheckpointRows, is_live: bool) -> dict[str, int]:
    """What the clock of each node showed when the run began."""
    pairs: dict[str, int] = {}
    primaries: dict[int, str] = {}
    shown_ns: dict[str, list[int]] = {}
    for line in lines:
        if isinstance(line.body, NodeConfig):
            pairs.setdefault(line.node, line.body.pair)
            if line.body.role is t.Role.PRIMARY:
                primaries.setdefault(line.body.pair, line.node)
        elif (row := table.begun_by(line)) is not None:
            shown_ns.setdefault(line.node, []).append(line.now_ns - int(row["started_ns"]))
    if not primaries:
        return {}
    first = next(iter(primaries.values()))
    zeros = {node: round(median(found)) for node, found in shown_ns.items()}
    if first not in zeros:  # a simulated run begins at 0; a live one about when it is protected
        protected = (x.now_ns for x in lines if isinstance(x.body, t.Protected) and x.node == first)
        zeros[first] = next(protected, 0) if is_live else 0
    ahead_ns = {primary: _ahead(lines, primary) for primary in primaries.values()}
    for node, pair in pairs.items():
        primary = primaries.get(pair, first)
        of_primary_ns = zeros.get(primary, zeros[first])
        zeros.setdefault(node, of_primary_ns + ahead_ns[primary].get(node, 0))
    return zeros


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


def of_run(directory: Path, manifest: Mapping[str, Any], replication: int = 0) -> AlignedTrace:
    """The trace of one replication of a run's directory; `StoreError` if it has no trace."""
    trace = directory / f"trace-{replication}.jsonl.gz"
    if not trace.exists():
        raise store.StoreError(
            f"{directory}: holds no trace of replication {replication}; "
            "run with --out and --trace first or all"
        )
    table = store.read_table(directory, "checkpoints.parquet")
    if table is not None:
        table = table[table["replication"] == replication]
    return aligned(trace, table, manifest.get("world") == "live")
