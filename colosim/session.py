"""The one pump that drives nodes, in the simulated and in the live world.

``pump`` feeds an event, shows the node's signals and actions to the observers (trace writer,
invariants, fault plan, progress), and hands the actions to the world.  Where nobody observes,
nothing is built for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from colosim.protocol.node import Hear, Node
from colosim.protocol.trace import Line
from colosim.protocol.types import Action, Event, Role, Tick

Observer = Callable[[Line], None]
Ear = Callable[[str, Any], None]
#: the trace line of the action that made an event happen: (node, n)
Cause = tuple[str, int]


@dataclass(frozen=True, slots=True)
class OfRole:
    """An ear for the nodes of one role: `ears_of` gives it to no others."""

    role: Role
    ear: Ear

    def __call__(self, node_id: str, signal: Any) -> None:
        self.ear(node_id, signal)


class World(Protocol):
    """What a world must offer; `backends.base` says more."""

    def now_ns(self) -> int: ...
    def perform(self, node_id: str, action: Action, cause: Cause) -> None: ...
    def wake_at(self, node_id: str, when_ns: int | None) -> None: ...


class Session:
    """Nodes, their world and those who watch.

    observers see every trace line.  ears hear signals of a type, as (node id, signal), and
    stepped hears of every step a node enters; both cost nothing where they are not used.
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        world: World,
        observers: Iterable[Observer] = (),
        ears: Mapping[type, Ear] | None = None,
        stepped: Callable[[str, str], None] | None = None,
    ) -> None:
        self.nodes = {node.config.id: node for node in nodes}
        self._world = world
        self._observers = tuple(observers)
        self._stepped = stepped
        self._due_ns = {name: node.deadline_ns() for name, node in self.nodes.items()}
        self._n = dict.fromkeys(self.nodes, 0)
        self.events = 0
        self._own = {
            name: ears_of(ears or {}, name, node.config.role) for name, node in self.nodes.items()
        }
        #: who hears what of a node that settles
        self._hearing = {name: node.hearing(self._own[name]) for name, node in self.nodes.items()}
        for name, node in self.nodes.items():
            self._show(name, world.now_ns(), "node", node.step, node.config, None)

    def pump(self, node_id: str, event: Event, cause: Cause | None = None) -> None:
        """Feed one event and start what the node wants done."""
        node = self.nodes[node_id]
        world = self._world
        now_ns = world.now_ns()
        due_ns = self._due_ns[node_id]
        if due_ns is not None and due_ns <= now_ns and not isinstance(event, Tick):
            self._feed(node, node_id, Tick(), None, now_ns)
        self._feed(node, node_id, event, cause, now_ns)
        self._due_ns[node_id] = due_ns = node.deadline_ns()
        world.wake_at(node_id, due_ns)

    def settles(self, node_id: str) -> Callable[[int], None]:
        """What does the same without an event, at a time in ns, after effects that were done in one
        go; nobody observes.
        """
        perform, cause = self._world.perform, (node_id, -1)
        settle, hearing = self.nodes[node_id].settle, self._hearing[node_id]

        def settles(now_ns: int) -> None:
            for action in settle(now_ns, hearing):
                perform(node_id, action, cause)

        return settles

    def is_heard(self, node_id: str, signal: type) -> bool:
        """Whether anybody hears signals of that type of a node that settles."""
        return signal in self._hearing[node_id]

    def wake(self, node_id: str) -> None:
        """Tell the world anew when the node wants its Tick."""
        self._due_ns[node_id] = due_ns = self.nodes[node_id].deadline_ns()
        self._world.wake_at(node_id, due_ns)

    def _feed(
        self, node: Node, node_id: str, event: Event, cause: Cause | None, now_ns: int
    ) -> None:
        self.events += 1
        node.feed(event, now_ns)
        signals, actions = node.signals(), node.actions()
        if self._observers:
            step = node.step
            self._show(node_id, now_ns, "event", step, event, cause)
            for signal in signals:
                self._show(node_id, now_ns, "signal", step, signal, None)
        ears = self._own[node_id]
        for signal in signals:
            hear = ears.get(type(signal))
            if hear is not None:
                hear(signal, now_ns)
        first = self._n[node_id]
        if self._observers:  # all of it, before any of it: whoever is killed now leaves it whole
            for action in actions:
                self._show(node_id, now_ns, "action", step, action, None)
        if self._stepped is not None:  # first: an operation of no duration ends the step at once
            for entered in node.entered():
                self._stepped(node_id, entered)
        for n, action in enumerate(actions, first):
            self._world.perform(node_id, action, (node_id, n))

    def _show(
        self, node_id: str, now_ns: int, kind: str, step: str, body: object, cause: Cause | None
    ) -> None:
        """A line; its time is the one that was fed, for a real clock goes on meanwhile."""
        line = Line(node_id, self._n[node_id], now_ns, kind, step, body, cause)
        self._n[node_id] += 1
        for observe in self._observers:
            observe(line)


def ears_of(ears: Mapping[type, Ear], node_id: str, role: Role) -> dict[type, Hear]:
    """Those that are for this node, each told its signal and a time in ns."""

    def told(ear: Ear) -> Hear:
        return lambda signal, now_ns: ear(node_id, signal)

    return {
        kind: told(ear.ear if isinstance(ear, OfRole) else ear)
        for kind, ear in ears.items()
        if not isinstance(ear, OfRole) or ear.role is role
    }
