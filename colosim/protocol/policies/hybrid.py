"""Hybrid: COLO that falls back to periodic epochs when the guests differ too often, and returns.

Source: Gilbert, "[RFC/COLO: 1/3] COLO: Hybrid mode", qemu-devel, August 2015: when checkpoints
are short several times in a row, checkpoint periodically for a while.  Dong et al. (SoCC 2013)
show why: a COLO whose guests differ all the time pays for a checkpoint at every response.

* Comparing: COLO's rule.  A storm is ``storm_checkpoints`` checkpoints in a row that output
  called for (mismatch or compare timeout) and that began within ``storm_window``.  With the cut
  of the last of them the policy turns periodic.
* Periodic: Remus's rule with ``interval``, all output waits for the commit.  Both guests go on
  and are compared, but a difference only makes its epoch a stormy one.  With the cut that ends
  ``calm_epochs`` epochs in a row without one the policy compares again.  (Gilbert's returns after
  a number of epochs, whatever they were, because his secondary stands still meanwhile.)

So under a storm that lasts there are ``storm_checkpoints`` of COLO's checkpoints and then one an
interval.  The policy turns with a cut only.  There both guests are about to be equal, and output
of one epoch waits for one thing: a comparison that began to count in the middle of an epoch would
release output while earlier output of the same stream still waits for the commit.

The secondary is not told: no dialect has a word for it.  It offers its output as before.  The
numbers that say what a storm is are assumed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import ClassVar

from colosim.protocol.policies.base import MS, SECOND, Policy, parameter
from colosim.protocol.policies.colo import Colo, ColoParams
from colosim.protocol.policies.periodic import Periodic
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
class HybridParams(ColoParams):
    """Parameters of `Hybrid`: those of COLO, and when to turn."""

    interval_ns: int = parameter(
        100 * MS, "time", "periodic: from one checkpoint's start to the next one's, at the least", 1
    )
    storm_checkpoints: int = parameter(
        4, "count", "so many checkpoints for differing output in a row are a storm ...", 1
    )
    storm_window_ns: int = parameter(
        1 * SECOND, "time", "... if no more than this lies between the first and the last", 1
    )
    calm_epochs: int = parameter(
        10, "count", "so many periodic epochs in a row without a difference end it", 1
    )


class Hybrid(Policy):
    """COLO in calm weather, Remus in a storm."""

    name: ClassVar[str] = "hybrid"
    output: ClassVar[Output] = Output.WITNESS
    hears: ClassVar[tuple[type, ...]] = (*Colo.hears, *Periodic.hears)
    summary: ClassVar[str] = "colo that turns periodic while output differs too often"
    Params: ClassVar[type] = HybridParams

    def __init__(self, params: HybridParams) -> None:
        super().__init__(params)
        colo = ColoParams(
            params.checkpoint_delay_ns, params.compare_timeout_ns, params.minimum_gap_ns
        )
        self._colo = Colo(colo)
        self._periodic = Periodic(params, params.interval_ns)
        self._active: Policy = self._colo
        self._storm: deque[int] = deque(maxlen=params.storm_checkpoints)  # when each began
        self._calm = 0  # epochs in a row
        self._differed = False  # in this epoch

    def waits_for(self) -> Output:
        return self._active.output

    def signal(self, signal: Signal, now_ns: int) -> str | None:
        """Both rules hear everything, so that either can go on at any cut."""
        if isinstance(signal, Mismatch | Stale):
            self._differed = True
            return self._active.signal(signal, now_ns)
        colo, periodic = (rule.signal(signal, now_ns) for rule in (self._colo, self._periodic))
        match signal:
            case CheckpointStarted(_, reason):
                self._begun(reason, now_ns)
            case Cut():
                self._turn(now_ns)
            case _:
                pass
        return colo if self._active is self._colo else periodic

    def deadline_ns(self) -> int | None:
        return self._active.deadline_ns()

    def tick(self, now_ns: int) -> str | None:
        return self._active.tick(now_ns)

    def _begun(self, reason: str, now_ns: int) -> None:
        if reason in (Colo.MISMATCH, Colo.TIMEOUT):
            self._storm.append(now_ns)
        else:
            self._storm.clear()

    def _turn(self, now_ns: int) -> None:
        """An epoch has ended: which rule is the next one's?"""
        params: HybridParams = self.params
        self._calm = 0 if self._differed else self._calm + 1
        self._differed = False
        storm = self._storm
        if self._active is self._colo:
            if len(storm) == storm.maxlen and storm[-1] - storm[0] <= params.storm_window_ns:
                self._active, self._calm = self._periodic, 0
        elif self._calm >= params.calm_epochs:
            self._active = self._colo
            self._colo.signal(Protected(), now_ns)  # its timer begins anew
        if self._active is self._periodic:
            storm.clear()
