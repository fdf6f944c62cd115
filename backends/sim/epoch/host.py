"""A host whose guest's output is rows: which of them its node has heard of, and which it holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from backends.nodes import PRIMARY
from backends.sim.epoch.guest import EpochGuest, Rows
from backends.sim.host import Host


@dataclass(slots=True)
class EpochHost(Host):
    """told: rows before it were told to the node, or skipped.
    skipped: rows that were made and not told, for their connection differs.
    held: what the gate has, rows by (stream, first).
    is_open: the gate lets output pass.  floor_ns: nothing leaves before then.
    hung_ns: when its node hung last.
    again: rows that the loaded state had made and, for all it knows, nobody has.
    """

    guest: EpochGuest
    told: int = 0
    skipped: list[int] = field(default_factory=list)
    held: dict[tuple[str, int], Rows] = field(default_factory=dict)
    is_open: bool = False
    floor_ns: int = 0
    hung_ns: int = -1
    again: tuple[Rows, ...] = ()

    @property
    def speaks(self) -> bool:
        """Its node hears what its guest says."""
        return self.alive and not self.hung

    @property
    def offers(self) -> bool:
        """As a secondary: what its guest says goes to the other node."""
        return self.alive and not self.hung and not self.is_open

    @property
    def made_in(self) -> str:
        """The column with the moments at which its guest makes rows."""
        return "made" if self.id == PRIMARY else "mirrored"
