"""Remus: checkpoint periodically, let all output wait for its commit.

Source: Cully et al., "Remus: High Availability via Asynchronous Virtual Machine Replication",
NSDI 2008.  With ``copy-then-send`` transfer the guest runs while its state is sent (the paper's
design).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from colosim.protocol.policies.base import MS, parameter
from colosim.protocol.policies.periodic import Periodic


@dataclass(frozen=True, slots=True)
class RemusParams:
    """Parameters of `Remus`."""

    interval_ns: int = parameter(
        100 * MS, "time", "time from one checkpoint's start to the next one's, at the least", 1
    )


class Remus(Periodic):
    """Periodic epochs with output commit."""

    name: ClassVar[str] = "remus"
    summary: ClassVar[str] = "periodic checkpoints; all output waits for the commit (Cully 2008)"
    Params: ClassVar[type] = RemusParams

    def __init__(self, params: RemusParams) -> None:
        super().__init__(params, params.interval_ns)
