"""Hosts whose clocks differ: each node has a session on a clock of its own, as live hosts have.

Nothing compares the clocks of two hosts; a node's trace lines have its own time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

from backends.base import Cause, Session, World
from colosim.protocol import types as t
from colosim.protocol.node import Node
from colosim.session import Ear, Observer


class LocalTime:
    """A world as it is seen by the clock of one host: time there is rate · time + offset."""

    def __init__(self, world: World, rate: float, offset_ns: int) -> None:
        self._world = world
        self._rate = Fraction(rate).limit_denominator(1_000_000_000)
        self._offset_ns = offset_ns

    def now_ns(self) -> int:
        return self.local_ns(self._world.now_ns())

    def local_ns(self, world_ns: int) -> int:
        """What the host's clock shows at a moment of the world."""
        return int(world_ns * self._rate) + self._offset_ns

    def world_ns(self, local_ns: int) -> int:
        """The first moment of the world at which the host's clock shows so much."""
        exact = Fraction(local_ns - self._offset_ns) / self._rate
        return max(-int(-exact // 1), 0)

    def perform(self, node_id: str, action: t.Action, cause: Cause) -> None:
        self._world.perform(node_id, action, cause)

    def wake_at(self, node_id: str, when_ns: int | None) -> None:
        self._world.wake_at(node_id, None if when_ns is None else self.world_ns(when_ns))


class LocalSessions:
    """A session for each node, with the face of one for all."""

    def __init__(
        self,
        nodes: Iterable[Node],
        world: World,
        clocks: Mapping[str, tuple[float, int]],
        observers: Iterable[Observer] = (),
        ears: Mapping[type, Ear] | None = None,
        stepped: Callable[[str, str], None] | None = None,
    ) -> None:
        """clocks: by node, its rate and its offset in ns."""
        seen = tuple(observers)
        self._sessions = {
            node.config.id: Session(
                [node], LocalTime(world, *clocks[node.config.id]), seen, ears, stepped
            )
            for node in nodes
        }
        self.nodes = {name: each.nodes[name] for name, each in self._sessions.items()}

    @property
    def events(self) -> int:
        return sum(each.events for each in self._sessions.values())

    def pump(self, node_id: str, event: t.Event, cause: Cause | None = None) -> Any:
        self._sessions[node_id].pump(node_id, event, cause)
