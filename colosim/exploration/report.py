"""What was found, for people: a minimal trace of a violation, and tables.

A trace begins with the last checkpoint that was complete before the first fault (without one,
before the violation) and ends shortly after the violation.  One line a step, signal or action that
matters; heartbeats and repeated output are told once, with their number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from colosim.exploration.judging import OUTCOMES, Run
from colosim.protocol import types as t
from colosim.protocol.codec import encode
from colosim.protocol.dialect import DIALECTS
from colosim.protocol.node import NodeConfig
from colosim.protocol.trace import Line

if TYPE_CHECKING:
    import pandas as pd

_MOST_LINES = 120
_AFTER_NS = 2_000_000  # of the run is shown after the last violation

#: what says nothing about who did what
_HIDDEN = (NodeConfig, t.Drop, t.Match, t.Takeover)
#: what is told by its number only, as long as nothing else happens
_MANY: Mapping[type, str] = {
    t.Heartbeat: "heartbeats sent",
    t.HeartbeatSeen: "heartbeats seen",
    t.GuestOutput: "outputs made",
    t.OfferWitness: "witnesses offered",
    t.PeerOutput: "witnesses seen",
    t.Release: "outputs released",
    t.Tick: "ticks",
    t.Done: "operations done",
}


@dataclass(slots=True)
class _Row:
    at_ns: int
    who: str
    step: str
    text: str
    many: type | None = None
    count: int = 1


def trace_text(run: Run, lines: list[Line]) -> str:
    """The readable trace of a run, a line each: milliseconds, node, step, what."""
    rows = list(_collapsed(_rows(run, lines)))
    if len(rows) > _MOST_LINES:
        gone = len(rows) - _MOST_LINES
        half = _MOST_LINES // 2
        rows = [*rows[:half], _Row(rows[half].at_ns, "", "", f"({gone} lines)"), *rows[-half:]]
    return "\n".join(
        f"{row.at_ns / 1e6:10.3f} ms  {row.who:<10} {row.step:<15} {row.text}".rstrip()
        for row in rows
    )


def _rows(run: Run, lines: list[Line]) -> Iterator[_Row]:
    """World and nodes in the order of time, within the stretch that matters."""
    events = [] if run.record is None else run.record.events
    struck = [e["at_ns"] for e in events if e["what"] == "fault"]
    last_ns = _last_ns(run)
    first_ns = min([*struck, last_ns])
    from_ns = max(
        (x.now_ns for x in lines if isinstance(x.body, t.Completed) and x.now_ns < first_ns),
        default=0,
    )
    to_ns = last_ns + _AFTER_NS
    told = [
        _Row(e["at_ns"], e["node"], "", f"*** {e['what']} {e['detail']}".rstrip())
        for e in events
        if e["what"] in ("fault", "healed", "corrupted", "undetected", "switchover")
    ]
    names = _names(run.scenario.dialect)
    seen = [_Row(x.now_ns, x.node, x.step, *_said(x, names)) for x in lines if _matters(x)]
    both = [*((row.at_ns, 0, row) for row in told), *((row.at_ns, 1, row) for row in seen)]
    for at_ns, _, row in sorted(both, key=lambda each: each[:2]):
        if from_ns <= at_ns <= to_ns:
            yield row


def _last_ns(run: Run) -> int:
    """When the last of what is shown happened: a violation that has a time, else all."""
    if run.record is None or not run.record.violations:
        return run.watcher.now_ns
    return int(run.record.violations[0].rpartition(", ")[2].removesuffix(" ns)"))


def _matters(line: Line) -> bool:
    return not isinstance(line.body, _HIDDEN)


def _names(dialect: str) -> Mapping[bytes, str]:
    """Control messages by their bytes."""
    return {encode(DIALECTS[dialect], each): each.name for each in DIALECTS[dialect].values}


def _said(line: Line, names: Mapping[bytes, str]) -> tuple[str, type | None]:
    kind = type(line.body)
    mark = {"event": "<", "action": ">", "signal": "~"}[line.kind]
    if kind in _MANY:
        return f"{mark} {_MANY[kind]}", kind
    match line.body:
        case t.SendMessage(data) if data in names:
            return f"{mark} SendMessage {names[data]}", None
        case t.PeerBytes(data) if data in names:
            return f"{mark} message {names[data]}", None
        case body:
            return f"{mark} {_words(body)}", None


def _words(value: Any) -> str:
    """A body in short: its name and its fields in order."""
    match value:
        case t.Range(stream, first, end):
            return f"{stream}[{first}:{end}]"
        case t.Blob(name):
            return f"{{{name}}}"
        case bytes():
            return value.hex()
        case tuple():
            return ", ".join(map(_words, value))
        case _ if is_dataclass(value):
            parts = (getattr(value, each.name) for each in fields(value) if each.name != "op")
            return " ".join([type(value).__name__, *map(_words, parts)])
        case _:
            return str(value)


def _collapsed(rows: Iterator[_Row]) -> Iterator[_Row]:
    """Rows of which the many become one, wherever nothing else of that node comes between."""
    waiting: dict[tuple[str, type], _Row] = {}
    for row in rows:
        if row.many is not None:
            kept = waiting.get((row.who, row.many))
            if kept is None:
                waiting[row.who, row.many] = row
            else:
                kept.count += 1
            continue
        yield from _let_go(waiting)
        yield row
    yield from _let_go(waiting)


def _let_go(waiting: dict[tuple[str, type], _Row]) -> Iterator[_Row]:
    for row in waiting.values():
        if row.count > 1:
            row.text = f"{row.text} ({row.count})"
        if row.many is not t.Tick:
            yield row
    waiting.clear()


# --------------------------------------------------------------------------------------------
# Tables


def outcomes(counts: Mapping[tuple[str, str, str], int]) -> pd.DataFrame:
    """design, faults, outcome, points: one row for each that was seen."""
    import pandas as pd

    rows = [(*key, count) for key, count in sorted(counts.items())]
    return pd.DataFrame(rows, columns=["design", "faults", "outcome", "points"])


def summary(table: pd.DataFrame, rows: str = "policy") -> pd.DataFrame:
    """Points by ``rows`` and outcome; rows: "policy", "design" or "faults"."""
    named = table.assign(policy=table["design"].str.partition("/")[0])
    found = named.pivot_table("points", rows, "outcome", aggfunc="sum", fill_value=0)
    present = [outcome for outcome in OUTCOMES if outcome in found.columns]
    found = found[present].astype(int)
    found["points"] = found.sum(axis=1)
    found.columns.name = None
    return found
