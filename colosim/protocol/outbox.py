"""Where the parts of a node put what they want: actions for the world, signals for each other."""

from __future__ import annotations

from collections import deque

from colosim.protocol.types import Action, Signal


class Outbox:
    """Shared by the parts of one node; hands out operation ids."""

    __slots__ = ("actions", "last_op", "signals")

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self.signals: deque[Signal] = deque()
        self.last_op = 0

    def act(self, action: Action) -> None:
        self.actions.append(action)

    def signal(self, signal: Signal) -> None:
        self.signals.append(signal)

    def new_op(self) -> int:
        self.last_op += 1
        return self.last_op
