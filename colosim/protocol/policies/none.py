"""No protection: one guest, output leaves at once.  The baseline of every comparison."""

from __future__ import annotations

from typing import ClassVar

from colosim.protocol.policies.base import Policy
from colosim.protocol.types import Output


class Unprotected(Policy):
    """One guest and nobody else."""

    name: ClassVar[str] = "none"
    output: ClassVar[Output] = Output.NONE
    hears: ClassVar[tuple[type, ...]] = ()
    summary: ClassVar[str] = "no secondary, no checkpoints; output leaves at once"

    @classmethod
    def protects(cls) -> bool:
        return False
