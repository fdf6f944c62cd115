"""What the world knows of disks: what happens to them at a cut, a load, a takeover and a fault; and
the judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from backends.nodes import PRIMARY, SECONDARY
from backends.sim.disk.guest import GuestIo
from backends.sim.disk.requests import CHANNEL, Requests, Station, Then, Volume, call
from backends.sim.disk.volumes import PrimaryVolume, SecondaryVolume
from backends.sim.link import MESSAGE_BYTES
from colosim.model.disk import (
    Lineage,
    judge,
)
from colosim.model.results import DISK_COLUMNS, OVERLAY_COLUMNS, columns
from colosim.model.streams import Streams
from colosim.scenario import Disk

if TYPE_CHECKING:
    from backends.sim.world import SimWorld


class NoDisk:
    """Guests without disks: what the world tells is of no consequence."""

    def cut(self, checkpoint: int) -> None:
        """The primary's state is taken, its guest stopped and its disk at rest."""

    def empty_ns(self, checkpoint: int) -> int:
        """What a load takes longer, because the overlays are to be emptied."""
        return 0

    def loaded(self, checkpoint: int, empty_ns: int) -> None:
        """The secondary's guest is that checkpoint."""

    def promoted(self, name: str, is_loading: bool) -> None:
        """This side is to go on alone: the other disk is of no concern any more."""

    def before_start(self, name: str, then: Then) -> None:
        """A guest is to be started; ``then`` when its disk is ready for that."""
        then()

    def alone(self, name: str) -> None:
        """Its guest runs alone."""

    def died(self, name: str) -> None:
        """The process that has a host's disk has ended, its host's kernel has not."""

    def strike(self, kind: str) -> None:
        """The secondary's disk is full or broken (``full``, ``error``), or well again (nothing)."""

    def end(self) -> None:
        """The run is over."""

    def violations(self) -> list[str]:
        """What the judge found."""
        return []

    def table(self) -> dict[str, NDArray[Any]]:
        """Columns for `RunRecord.disk`."""
        return {}

    def overlays(self) -> dict[str, NDArray[Any]]:
        """Columns for `RunRecord.overlays`."""
        return {}

    def counters(self) -> dict[str, int]:
        return {}


class ReplicatedDisk(NoDisk):
    """The disks of one run."""

    def __init__(self, world: SimWorld, disk: Disk, streams: Streams) -> None:
        self._world = world
        self._disk = disk
        self._requests = Requests(disk, streams)
        self._violations: dict[str, None] = {}
        self._rows: list[tuple[str, int, int, int]] = []
        self._overlays: list[tuple[int, int, int, int, int]] = []
        #: checkpoint -> (writes of the primary up to its cut, what it wrote since the one before)
        self._cuts: dict[int, tuple[int, Mapping[int, int]]] = {}
        self._at_cut: dict[int, int] = {}  # block -> mark, of the checkpoint loaded last
        self._to_detach = ""  # who was promoted and has not taken leave of the other disk
        self._base = 0  # writes of the primary that the secondary's guest has come from
        runs = count()
        device = disk.device()
        self.primary = PrimaryVolume(world, disk, Station(world.clock, streams, device, PRIMARY))
        self.secondary: SecondaryVolume | None = None
        volumes: dict[str, Volume] = {PRIMARY: self.primary}
        if SECONDARY in world.hosts:
            station = Station(world.clock, streams, device, SECONDARY)
            self.secondary = self.primary.child = SecondaryVolume(world, disk, station)
            volumes[SECONDARY] = self.secondary
        self.io: dict[str, GuestIo] = {}
        for name, volume in volumes.items():
            guest = world.hosts[name].guest
            io = guest.io = self.io[name] = GuestIo(
                world.clock,
                guest,
                self._requests,
                volume,
                disk.flush,
                partial(next, runs),
                partial(self._ended, name),
            )
        if self.secondary is not None:
            self.secondary.belongs_to(lambda: io.run)

    def _ended(self, name: str, op: str, begun_ns: int, size_bytes: int) -> None:
        if name == self._world.owner:
            self._rows.append((op, begun_ns, self._world.now_ns(), size_bytes))

    # -- a checkpoint ------------------------------------------------------------------------

    def cut(self, checkpoint: int) -> None:
        primary = self.primary
        self._cuts[checkpoint] = (len(self.io[PRIMARY].run.writes), primary.written)
        primary.written, primary.checkpoint = {}, checkpoint + 1

    def empty_ns(self, checkpoint: int) -> int:
        return 0 if self.secondary is None else self.secondary.empty_ns(checkpoint)

    def loaded(self, checkpoint: int, empty_ns: int) -> None:
        """Both overlays are emptied, and what is seen then must be what the primary had."""
        assert self.secondary is not None
        chain = self.secondary.chain
        sizes = chain.sizes(checkpoint)
        self._overlays.append((checkpoint, self._world.now_ns(), *sizes, empty_ns))
        touched = set(chain.active)
        chain.empty(checkpoint)
        self._base, written = self._cuts[checkpoint]
        for passed in [number for number in self._cuts if number <= checkpoint]:
            self._at_cut.update(self._cuts.pop(passed)[1])
        touched.update(written, *chain.hidden.values())
        wrong = [block for block in touched if self._mark(block) != self._at_cut.get(block)]
        if wrong:
            self._wrong(
                SECONDARY,
                f"{len(wrong)} blocks are not as the primary's were at cut {checkpoint}, "
                f"{min(wrong)} the first",
            )
        if self._world.owner == SECONDARY:  # it was promoted while the state was loaded
            self.judge(SECONDARY, "after the load")

    def _mark(self, block: int) -> int | None:
        assert self.secondary is not None
        version = self.secondary.chain.view(block)
        return None if version is None else version.mark

    # -- a takeover --------------------------------------------------------------------------

    def promoted(self, name: str, is_loading: bool) -> None:
        self._to_detach = name
        if name == PRIMARY:
            self.primary.drop()
        elif self.secondary is not None:
            self.secondary.is_exported = False  # the fence of the disk
        if not is_loading:
            self.judge(name, "when it was promoted")

    def alone(self, name: str) -> None:
        if name == PRIMARY:
            self.primary.drop()  # where there is no manager nobody was promoted
        self.judge(name, "when it went on alone")

    def before_start(self, name: str, then: Then) -> None:
        volume = self.secondary
        if name != self._to_detach or volume is None:
            then()
            return
        self._to_detach = ""
        if name == PRIMARY:
            self._world.clock.after(self._disk.detach_ns, call, then)
            return

        def ready() -> None:
            volume.commit()
            then()

        def closed() -> None:
            volume.when_landed(ready)

        self._world.clock.after(self._disk.failover_ns, call, closed)

    def died(self, name: str) -> None:
        volume = self.secondary
        if name == SECONDARY and volume is not None and self.primary.child is not None:
            lost = partial(self.primary.lost, "the connection to the secondary's disk was reset")
            self._world.link.send(SECONDARY, CHANNEL, MESSAGE_BYTES, lost)

    def strike(self, kind: str) -> None:
        if self.secondary is not None:
            self.secondary.fault = kind

    # -- the judge ---------------------------------------------------------------------------

    def judge(self, name: str, when: str) -> None:
        """Whether the disk of a guest that clients talk to has what it must have."""
        own = self.io[name].run
        if name == PRIMARY:
            image, lineage, runs = self.primary.image, Lineage({own.number: None}), [own]
        else:
            assert self.secondary is not None
            theirs = self.io[PRIMARY].run
            image = self.secondary.chain.whole_view()
            lineage = Lineage({theirs.number: self._base, own.number: None})
            runs = [theirs, own]
        found = judge(image, lineage, [run.writes for run in runs], self._promised())
        for text in found:
            self._wrong(name, f"{when}: {text}")

    def end(self) -> None:
        if self._world.serves():
            self.judge(self._world.owner, "at the end")

    def _promised(self) -> list[tuple[int, int, int]]:
        """Writes whose flush a client was told of by an answer."""
        if self._disk.flush == "none":
            return []
        network = self._world.network
        return [
            (client, request, index)
            for client, request, released_ns in zip(
                network.client, network.request, network.released_ns, strict=True
            )
            if released_ns >= 0
            for index in range(len(self._requests.writes_of(client, request)))
        ]

    def _wrong(self, name: str, text: str) -> None:
        at_ms = self._world.now_ns() / 1e6
        self._violations[f"Disk: {name} at {at_ms:.6f} ms: {text}"] = None

    # -- results -----------------------------------------------------------------------------

    def violations(self) -> list[str]:
        return list(self._violations)

    def table(self) -> dict[str, NDArray[Any]]:
        return columns(self._rows, DISK_COLUMNS)

    def overlays(self) -> dict[str, NDArray[Any]]:
        return columns(self._overlays, OVERLAY_COLUMNS)

    def counters(self) -> dict[str, int]:
        secondary = self.secondary
        if secondary is None:
            return {}
        return {"overlay_peak_bytes": secondary.peak_bytes, "overlay_copies": secondary.copies}
