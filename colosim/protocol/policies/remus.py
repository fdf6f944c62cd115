"""Remus: checkpoint periodically, let all output wait for its commit.

Source: Cully et al., "Remus: High Availability via Asynchronous Virtual Machine Replication",
NSDI 2008.  The next checkpoint starts at ``max(start + interval, previous committed)``: an
epoch that takes longer to commit than the interval stretches the period instead of queueing.
With ``copy-then-send`` transfer the guest runs while its state is sent (the paper's design).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from colosim.protocol.policies.base import MS, Policy, parameter
from colosim.protocol.types import (
    Aborted,
    CheckpointStarted,
    Committed,
    Output,
    Protected,
    Signal,
)


@dataclass(frozen=True, slots=True)
class RemusParams:
    """Parameters of `Remus`."""

    interval_ns: int = parameter(
        100 * MS, "time", "time from one checkpoint's start to the next one's, at the least", 1
    )


class Remus(Policy):
    """Periodic epochs with output commit."""

    name: ClassVar[str] = "remus"
    output: ClassVar[Output] = Output.COMMIT
    summary: ClassVar[str] = "periodic checkpoints; all output waits for the commit (Cully 2008)"
    Params: ClassVar[type] = RemusParams

    def __init__(self, params: RemusParams) -> None:
        super().__init__(params)
        self._interval_ns = params.interval_ns
        self._due_ns: int | None = None  # None before protection
        self._uncommitted = False

    def signal(self, signal: Signal, now_ns: int) -> str | None:
        match signal:
            case Protected():
                self._due_ns = now_ns + self._interval_ns
            case CheckpointStarted():
                self._due_ns = now_ns + self._interval_ns
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
        self._due_ns = now_ns + self._interval_ns
        return "interval"
