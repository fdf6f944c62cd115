"""COLO: checkpoint when the two guests' outputs differ, and otherwise seldom.

Source: Dong et al., "COLO: COarse-grained LOck-stepping Virtual Machines for Non-stop Service",
SoCC 2013, and QEMU's rules (triggers: mismatch, a packet older than compare_timeout, and a timer
of x-checkpoint-delay that every trigger re-arms).  ``minimum_gap`` is the 2015 series'
CHECKPOINT_MIN_PERIOD, which did not survive upstream, hence 0 by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from colosim.protocol.policies.base import SECOND, Policy, parameter
from colosim.protocol.types import (
    CheckpointStarted,
    Cut,
    Mismatch,
    Output,
    Protected,
    Signal,
    Stale,
)


@dataclass(frozen=True, slots=True)
class ColoParams:
    """Parameters of `Colo`."""

    checkpoint_delay_ns: int = parameter(
        20 * SECOND, "time", "a checkpoint at the latest this long after the last trigger", 1
    )
    compare_timeout_ns: int = parameter(
        3 * SECOND, "time", "output of one guest alone for this long triggers a checkpoint", 1
    )
    minimum_gap_ns: int = parameter(
        0, "time", "no checkpoint starts sooner than this after the last one's start"
    )


class Colo(Policy):
    """Checkpoints triggered by differing output, a compare timeout or a timer."""

    name: ClassVar[str] = "colo"
    output: ClassVar[Output] = Output.WITNESS
    hears: ClassVar[tuple[type, ...]] = (Protected, Mismatch, Stale, CheckpointStarted, Cut)
    summary: ClassVar[str] = "checkpoint on differing output; equal output leaves at once"
    Params: ClassVar[type] = ColoParams
    #: reasons that output gives
    MISMATCH: ClassVar[str] = "mismatch"
    TIMEOUT: ClassVar[str] = "compare-timeout"

    def __init__(self, params: ColoParams) -> None:
        super().__init__(params)
        self._delay_ns = params.checkpoint_delay_ns
        self._gap_ns = params.minimum_gap_ns
        self._due_ns: int | None = None  # the timer
        self._not_before_ns = 0
        self._reason: str | None = None  # a trigger that waits for the gap to end

    def signal(self, signal: Signal, now_ns: int) -> str | None:
        match signal:
            case Protected():
                self._due_ns = now_ns + self._delay_ns
            case Mismatch():
                return self._trigger(self.MISMATCH, now_ns)
            case Stale():
                return self._trigger(self.TIMEOUT, now_ns)
            case CheckpointStarted():
                self._not_before_ns = now_ns + self._gap_ns
            case Cut():
                self._reason = None  # what it complained of is covered by this cut
            case _:
                pass
        return None

    def deadline_ns(self) -> int | None:
        return self._due_ns if self._reason is None else self._not_before_ns

    def tick(self, now_ns: int) -> str | None:
        return self._trigger(self._reason or "checkpoint-delay", now_ns)

    def _trigger(self, reason: str, now_ns: int) -> str | None:
        if now_ns < self._not_before_ns:
            self._reason = reason
            return None
        self._reason = None
        if self._due_ns is not None:  # armed when protection begins
            self._due_ns = now_ns + self._delay_ns
        return reason
