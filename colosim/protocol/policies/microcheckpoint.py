"""Micro-checkpointing (MC): Remus's rule as QEMU's patches have it, and its way to send state.

Source: Hines, "[RFC PATCH v2 00/12] fault tolerance: micro-checkpointing", qemu-devel, February
2014, and the wiki page Features/MicroCheckpointing: every 100 ms (MC_DEFAULT_CHECKPOINT_FREQ_MS)
the guest stops, its dirty pages are copied to a staging area, it runs again while they are sent,
and its output is plugged until the other side has them.  So it is a preset: periodic, output
waits for the commit, ``copy-then-send`` and no other transfer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from colosim.protocol.policies.base import MS, parameter
from colosim.protocol.policies.periodic import Periodic
from colosim.protocol.types import Transfer


@dataclass(frozen=True, slots=True)
class MicrocheckpointParams:
    """Parameters of `Microcheckpoint`."""

    interval_ns: int = parameter(
        100 * MS, "time", "time from one checkpoint's start to the next one's, at the least", 1
    )


class Microcheckpoint(Periodic):
    """Periodic epochs; the state is copied aside and sent while the guest runs."""

    name: ClassVar[str] = "microcheckpoint"
    transfer: ClassVar[Transfer] = Transfer.COPY_THEN_SEND
    summary: ClassVar[str] = "remus with copy-then-send, as in QEMU's MC patches (Hines 2014)"
    Params: ClassVar[type] = MicrocheckpointParams

    def __init__(self, params: MicrocheckpointParams) -> None:
        super().__init__(params, params.interval_ns)
