"""Which states the parts of a node went through, from the lines of a trace.

A trace says in which step an event left the checkpointer, but neither the steps that were only
passed through nor the manager's states.  Nodes that are fed the same events again have them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from colosim.protocol.node import Node, NodeConfig
from colosim.protocol.trace import Line, replay

CHECKPOINTER, MANAGER = "checkpointer", "manager"
VISIT_COLUMNS = ("node", "pair", "part", "state", "start_ns", "end_ns")


class Visit(NamedTuple):
    """A stay in a state.  Times are of the node's clock; end_ns is None if it was never left."""

    node: str
    pair: int
    part: str
    state: str
    start_ns: int
    end_ns: int | None


def visits(lines: Iterable[Line]) -> list[Visit]:
    """All stays of all nodes, in the order of each node; those only passed through took no time.

    Raises TraceError for a trace that cannot be replayed.
    """
    found: list[Visit] = []
    at: dict[tuple[str, str], Visit] = {}  # where each part is

    def enter(node: str, pair: int, part: str, states: Iterable[str], now_ns: int) -> None:
        for state in states:
            left = at.get((node, part))
            if left is not None:
                found.append(left._replace(end_ns=now_ns))
            at[node, part] = Visit(node, pair, part, state, now_ns, None)

    def seen(node: Node, line: Line) -> None:
        pair = node.config.pair
        enter(line.node, pair, CHECKPOINTER, node.entered(), line.now_ns)
        manager, was = node.manager_state, at.get((line.node, MANAGER))
        if manager is not None and (was is None or manager != was.state):
            enter(line.node, pair, MANAGER, [manager], line.now_ns)

    def begun() -> Iterator[Line]:
        for line in lines:
            if isinstance(line.body, NodeConfig):
                parts = (at.pop((line.node, part), None) for part in (CHECKPOINTER, MANAGER))
                found.extend(last for last in parts if last)  # of an earlier node of this name
                enter(line.node, line.body.pair, CHECKPOINTER, [line.step], line.now_ns)
            yield line

    replay(begun(), seen)
    return [*found, *at.values()]
