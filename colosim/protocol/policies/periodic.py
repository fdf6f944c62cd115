"""Periodic epochs with output commit: what all policies without a comparison have in common.

The next checkpoint starts at ``max(start + interval, previous committed)``: an epoch that takes
longer to commit than the interval stretches the period instead of queueing (Cully et al., "Remus",
NSDI 2008).
"""

from __future__ import annotations

from typing import Any, ClassVar

from colosim.protocol.policies.base import Policy
from colosim.protocol.types import (
    Aborted,
    CheckpointStarted,
    Committed,
    Output,
    Protected,
    Signal,
)


class Periodic(Policy):
    """A checkpoint every ``interval_ns``, which a subclass may change at any time."""

    output: ClassVar[Output] = Output.COMMIT
    hears: ClassVar[tuple[type, ...]] = (Protected, CheckpointStarted, Committed, Aborted)

    def __init__(self, params: Any, interval_ns: int) -> None:
        super().__init__(params)
        self.interval_ns = interval_ns
        self._started_ns: int | None = None  # the last one, or protection; None before that
        self._due_ns: int | None = None
        self._uncommitted = False

    def signal(self, signal: Signal, now_ns: int) -> str | None:
        match signal:
            case Protected():
                self._due_ns = now_ns + self.interval_ns
            case CheckpointStarted():
                self._started_ns = now_ns
                self._due_ns = now_ns + self.interval_ns
                self._uncommitted = True
            case Committed() | Aborted():
                self._uncommitted = False
                if self._due_ns is not None and now_ns >= self._due_ns:
                    return self.tick(now_ns)
            case _:
                pass
        return None

    def deadline_ns(self) -> int | None:
        return None if self._uncommitted else self._due_ns

    def tick(self, now_ns: int) -> str | None:
        # Re-armed here too: a checkpointer that cannot start now remembers the wish.
        self._due_ns = now_ns + self.interval_ns
        return "interval"
