"""Trace lines: what a session saw and did, readable, and enough to do it again.

A line is ``{node, n, now_ns, kind, step, body}``: ``n`` counts a node's lines, ``kind`` is
``node`` (the header: its configuration), ``event``, ``signal`` or ``action``, ``step`` is
the checkpointer's step after the event.  An event that another node's action caused names it:
``cause = [node, n]``.  That is the order of a merged trace: happens-before, never clocks.

`replay` feeds the recorded events to new nodes and reports every action that differs.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from itertools import zip_longest
from typing import Any

from colosim.protocol import types as t
from colosim.protocol.checkpoint import Limits, Quirks, Rounds
from colosim.protocol.dialect import DIALECTS, Message
from colosim.protocol.manager import ManagerConfig
from colosim.protocol.node import Node, NodeConfig
from colosim.protocol.policies import POLICIES


class TraceError(ValueError):
    """A trace that cannot be read; says which line and why."""


@dataclass(frozen=True, slots=True)
class Line:
    """One trace line; ``body`` is the event, signal, action or (kind ``node``) NodeConfig."""

    node: str
    n: int
    now_ns: int
    kind: str
    step: str
    body: Any
    cause: tuple[str, int] | None = None


_TYPES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        *t.Event.__args__,
        *t.Action.__args__,
        *t.Signal.__args__,
        t.Range,
        t.Blob,
        t.State,
        NodeConfig,
        Limits,
        ManagerConfig,
        Rounds,
    )
}
#: what a comparison says
_FOUND = (t.Match, t.Mismatch, t.Stale, t.Forgone)
_AS_THEY_ARE = frozenset((int, str, bool, type(None)))
_NAMES: dict[type, tuple[str, ...] | None] = {}
_to_text = json.JSONEncoder(separators=(",", ":")).encode
_ENUMS: dict[str, Callable[[str], Enum]] = {
    "role": t.Role,
    "transfer": t.Transfer,
    "quirks": Quirks,
    "commit": Message,
    "survival": t.Survival,
    "output": t.Output,
    "arbiter": t.Arbiter,
}


def _names(kind: type) -> tuple[str, ...] | None:
    """The fields of a dataclass that are written; None for any other type."""
    if kind not in _NAMES:
        is_one = is_dataclass(kind)
        _NAMES[kind] = tuple(f.name for f in fields(kind) if f.compare) if is_one else None
    return _NAMES[kind]


def _plain(value: Any) -> Any:
    """A value of the vocabulary as JSON; objects name their type, bytes are hex."""
    kind = type(value)
    if kind in _AS_THEY_ARE:  # first: every frame that a guest makes waits for its line
        return value
    if (names := _names(kind)) is not None:
        return {kind.__name__: {name: _plain(getattr(value, name)) for name in names}}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    return value


def _lively(value: Any) -> Any:
    """The inverse of `_plain`."""
    if isinstance(value, list):
        return tuple(_lively(item) for item in value)
    if not isinstance(value, dict):
        return value
    [(name, body)] = value.items()
    if name == "hex":
        return bytes.fromhex(body)
    arguments = {
        key: _ENUMS[key](item) if key in _ENUMS and item is not None else _lively(item)
        for key, item in body.items()
    }
    return _TYPES[name](**arguments)


def encode_line(line: Line) -> str:
    """One line of JSON, without its newline."""
    body = {
        "node": line.node,
        "n": line.n,
        "now_ns": line.now_ns,
        "kind": line.kind,
        "step": line.step,
        "body": _plain(line.body),
    }
    if line.cause is not None:
        body["cause"] = list(line.cause)
    return _to_text(body)


def decode_line(text: str) -> Line:
    """The inverse of `encode_line`; raises `TraceError` for anything else."""
    try:
        raw = json.loads(text)
        cause = raw.get("cause")
        return Line(
            node=raw["node"],
            n=raw["n"],
            now_ns=raw["now_ns"],
            kind=raw["kind"],
            step=raw["step"],
            body=_lively(raw["body"]),
            cause=None if cause is None else (cause[0], cause[1]),
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise TraceError(f"not a trace line ({type(error).__name__}: {error})") from None


def decode(lines: Iterable[str]) -> Iterator[Line]:
    """Decode lines; a `TraceError` names the line number."""
    for number, text in enumerate(lines, 1):
        try:
            yield decode_line(text)
        except TraceError as error:
            raise TraceError(f"line {number}: {error}") from None


@dataclass(frozen=True, slots=True)
class Difference:
    """A place where a replay did something else than the trace says."""

    node: str
    n: int
    recorded: str
    replayed: str


def replay(
    lines: Iterable[Line], seen: Callable[[Node, Line], None] | None = None
) -> list[Difference]:
    """Feed the recorded events to new nodes; return every difference in signals and actions.

    seen: called with the node after each of its events, in its order.
    Works feed by feed (an event with its consequences) and keeps no more than one of each node in
    memory.  Frames are not in a trace: what comparing them brought to light is taken from it.
    Raises `TraceError` for a header that no node can have.
    """
    nodes: dict[str, Node] = {}
    feeds: dict[str, list[Line]] = {}
    differences: list[Difference] = []
    for line in lines:
        if line.kind == "node" and isinstance(line.body, NodeConfig):
            if line.node in nodes:
                _again(nodes[line.node], feeds[line.node], differences, seen)
            nodes[line.node] = _node(line.node, line.body)
            feeds[line.node] = []
            continue
        if line.node not in nodes:
            raise TraceError(f"node {line.node!r} has lines but no header")
        if line.kind == "event":
            _again(nodes[line.node], feeds[line.node], differences, seen)
            feeds[line.node] = []
        feeds[line.node].append(line)
    for name, feed in feeds.items():
        _again(nodes[name], feed, differences, seen)
    return differences


def _again(
    node: Node,
    feed: list[Line],
    differences: list[Difference],
    seen: Callable[[Node, Line], None] | None,
) -> None:
    """One recorded event and its consequences, compared with what the node does now."""
    if not feed:
        return
    line, *recorded = feed
    if line.kind != "event":  # lines before any event: nothing can have caused them
        line, recorded = replace(line, n=0), feed
    else:
        if not isinstance(line.body, t.Compared):
            node.tell(each.body for each in recorded if isinstance(each.body, _FOUND))
        try:
            node.feed(line.body, line.now_ns)
        except t.ProtocolError as error:
            differences.append(Difference(line.node, line.n, repr(line.body), repr(error)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise TraceError(f"line {line.n} of node {line.node!r}: {error!r}") from None
        if seen is not None:
            seen(node, line)
    replayed: list[tuple[str, Any]] = [("signal", signal) for signal in node.signals()]
    replayed += [("action", action) for action in node.actions()]
    for was, now in zip_longest(recorded, replayed):
        if was is None or now != (was.kind, was.body):
            n, body = (line.n, None) if was is None else (was.n, was.body)
            differences.append(Difference(line.node, n, repr(body), repr(now and now[1])))


def _node(name: str, config: NodeConfig) -> Node:
    for what, known in (("policy", POLICIES), ("dialect", DIALECTS)):
        if (given := getattr(config, what)) not in known:
            raise TraceError(f"header of node {name!r}: {what} {given!r} is unknown")
    try:
        return Node(config, told=True)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise TraceError(f"header of node {name!r}: {error!r}") from None


def merge(traces: Iterable[Iterable[Line]]) -> list[Line]:
    """Merge traces of several nodes by happens-before; clocks are not looked at.

    Each trace is in its own order, and a line with a cause comes after that line.  What an event
    led to comes with it: no action has an effect before all lines of its feed were written.  Among
    lines that may come next, the one of the first trace given goes first.
    """
    queues = [deque(trace) for trace in traces]
    seen: dict[str, int] = {}
    merged: list[Line] = []
    while any(queues):
        for queue in queues:
            if queue and ((cause := queue[0].cause) is None or seen.get(cause[0], -1) >= cause[1]):
                _take_feed(queue, merged)
                seen[merged[-1].node] = merged[-1].n
                break
        else:
            stuck = next(queue[0] for queue in queues if queue)
            raise TraceError(f"line {stuck.n} of node {stuck.node!r} has a cause that never comes")
    return merged


def _take_feed(queue: deque[Line], merged: list[Line]) -> None:
    """Move one event, or header, and what it led to."""
    merged.append(queue.popleft())
    while queue and queue[0].node == merged[-1].node and queue[0].kind in ("signal", "action"):
        merged.append(queue.popleft())
