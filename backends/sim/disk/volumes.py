"""The primary's disk, with the link to its replica, and the secondary's, with its overlays."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from backends.nodes import PRIMARY, SECONDARY
from backends.sim.disk.guest import Run
from backends.sim.disk.requests import CHANNEL, Address, Station, Then
from backends.sim.link import MESSAGE_BYTES, last_of
from colosim.model.disk import (
    BLOCK_BYTES,
    REPLY_BYTES,
    REQUEST_BYTES,
    Image,
    Overlaid,
    Piece,
    Write,
    put,
)
from colosim.scenario import Disk

if TYPE_CHECKING:
    from backends.sim.world import SimWorld

_CHUNK_BYTES = 1 << 20  # a commit's piece: others' requests come between
_OWN = 0  # the layer of own writes; those of the primary's have the numbers of checkpoints


class PrimaryVolume:
    """The primary's own device and, while there is one, the secondary's over the link."""

    def __init__(self, world: SimWorld, disk: Disk, station: Station) -> None:
        self._world = world
        self._disk = disk
        self._station = station
        self.image: Image = {}
        self.written: dict[int, int] = {}  # block -> mark of its contents, since the last cut
        self.checkpoint = 1  # that a write of now will belong to
        self.child: SecondaryVolume | None = None
        self._pending: dict[int, Then] = {}  # asked of the child and not answered
        self._since_ns: deque[tuple[int, int]] = deque()  # (when, which), the oldest first
        self._watched = False
        self._asked = 0

    def read(self, piece: Piece, address: Address, then: Then) -> None:
        self._station.read(piece.size_bytes, address, then)

    def write(self, write: Write, address: Address, then: Then) -> None:
        child, size_bytes = self.child, write.piece.size_bytes
        both = then if child is None else last_of(2, then)

        def landed() -> None:
            put(self.image, write, self.image)
            for block in write.piece.blocks:
                self.written[block] = self.image[block].mark
            both()

        self._station.write(size_bytes, address, landed)
        if child is not None:
            self._ask(size_bytes, partial(child.receive, write, self.checkpoint, address), both)

    def flush(self, address: Address, then: Then) -> None:
        child = self.child
        both = then if child is None else last_of(2, then)
        self._station.flush(address, both)
        if child is not None:
            self._ask(0, partial(child.receive_flush, address), both)

    def _ask(self, size_bytes: int, asked: Callable[[Then], None], then: Then) -> None:
        """Ask the child; ``then`` when it has answered, or is none any more."""
        world, child = self._world, self.child
        assert child is not None
        self._asked = number = self._asked + 1
        self._pending[number] = then
        self._since_ns.append((world.now_ns(), number))
        self._watch()
        host = world.hosts[PRIMARY]
        reply = partial(child.send, REPLY_BYTES, partial(self._replied, number))

        def put_on_link(_: object = None) -> None:
            if number in self._pending and host.alive and not host.guest.dead:
                size = MESSAGE_BYTES + REQUEST_BYTES + size_bytes
                arrived = partial(child.arrived, partial(asked, reply))
                world.link.send(PRIMARY, CHANNEL, size, arrived)

        if self._disk.replicate_ns:
            world.clock.after(self._disk.replicate_ns, put_on_link)
        else:
            put_on_link()

    def _replied(self, number: int) -> None:
        then = self._pending.pop(number, None)
        if then is not None:
            then()

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            left_ns = self._since_ns[0][0] + self._disk.timeout_ns - self._world.now_ns()
            self._world.clock.after(left_ns, self._look)

    def _look(self, _: object) -> None:
        """The oldest request without an answer may have waited too long."""
        self._watched = False
        since = self._since_ns
        while since and since[0][1] not in self._pending:
            since.popleft()
        if not since:
            return
        if since[0][0] + self._disk.timeout_ns <= self._world.now_ns():
            self._watched = True  # once is enough, however late the node acts on it
            self.lost("the secondary's disk does not answer")
        else:
            self._watch()

    def lost(self, why: str) -> None:
        """The child is of no use: go on without it, and part the pair.

        Without the child a checkpoint could still be made, of a disk that the other side does not
        have; so the checkpoint stream is closed with it.
        """
        host = self._world.hosts[PRIMARY]
        if self.child is None or not host.alive or host.guest.dead:
            return
        if host.hung:  # it is the node that notices
            host.backlog.append(partial(self.lost, why))
            return
        self._world.recorder.event(PRIMARY, "disk-parted", why)
        self._world.link.part(host, why)
        self.drop()

    def drop(self) -> None:
        """Write to the own device only; what waits for the other one does not any more."""
        self.child = None
        pending, self._pending = self._pending, {}
        self._since_ns.clear()
        for then in pending.values():
            then()


class SecondaryVolume:
    """The secondary's disk: what its guest sees, and what the primary's requests do below it."""

    def __init__(self, world: SimWorld, disk: Disk, station: Station) -> None:
        self._world = world
        self._disk = disk
        self._station = station
        self.chain = Overlaid(disk.cluster_bytes // BLOCK_BYTES)
        self.fault = ""  # "full" or "error", while it is so
        self.peak_bytes = self.copies = 0
        self.is_exported = True
        self._run: Callable[[], Run] = lambda: Run(-1)
        self._landing = 0
        self._landed: list[Then] = []
        #: (layer, cluster) -> who waits until it has been copied there
        self._copying: dict[tuple[int, int], list[Then]] = {}

    def belongs_to(self, run: Callable[[], Run]) -> None:
        """run() is the current run of its guest."""
        self._run = run

    # -- the guest's own requests ------------------------------------------------------------

    def read(self, piece: Piece, address: Address, then: Then) -> None:
        if not self._fails("own read"):
            self._station.read(piece.size_bytes, address, then)

    def write(self, write: Write, address: Address, then: Then) -> None:
        new = self.chain.new_active(write.piece.blocks)
        if self._fails("own write", bool(new)):
            return
        run = self._run()

        def landed() -> None:
            if self._run() is run and self._is_up():
                self.chain.write(write)
                self._measure()
                then()

        def land() -> None:
            self._station.write(write.piece.size_bytes, address, landed)

        self._copied(_OWN, write, new, address, land)

    def flush(self, address: Address, then: Then) -> None:
        if not self._fails("own flush"):
            self._station.flush(address, then)

    # -- the primary's -----------------------------------------------------------------------

    def send(self, size_bytes: int, arrived: Then) -> None:
        """An answer on its way to the primary."""
        if self._is_up():
            self._world.link.send(SECONDARY, CHANNEL, MESSAGE_BYTES + size_bytes, arrived)

    def arrived(self, asked: Then) -> None:
        """A request of the primary is here."""
        host = self._world.hosts[SECONDARY]
        if not self._is_up() or not self.is_exported:
            return
        if host.guest.hung:
            host.stuck.append(partial(self.arrived, asked))
        else:
            asked()

    def receive(self, write: Write, checkpoint: int, address: Address, reply: Then) -> None:
        new = self.chain.new_hidden(write.piece.blocks, checkpoint)
        if self._fails("primary's write", bool(new)):
            return
        self._landing += 1

        def landed() -> None:
            if self._is_up():
                self.chain.land(write, checkpoint)
                self._measure()
                self._landing -= 1
                reply()
                self._settle()

        def land() -> None:
            self._station.write(write.piece.size_bytes, address, landed, "landing")

        self._copied(checkpoint, write, new, address, land)

    def receive_flush(self, address: Address, reply: Then) -> None:
        if not self._fails("primary's flush"):
            self._station.flush(address, reply)

    def when_landed(self, then: Then) -> None:
        """``then`` when no write of the primary is under way into the disk."""
        if self._landing:
            self._landed.append(then)
        else:
            then()

    def _settle(self) -> None:
        if not self._landing:
            waiting, self._landed = self._landed, []
            for then in waiting:
                then()

    # -- overlays ----------------------------------------------------------------------------

    def _copied(
        self, layer: int, write: Write, new: Sequence[int], address: Address, then: Then
    ) -> None:
        """``then`` when all clusters of the write have been copied to the layer."""
        key, copying = Overlaid.clusters, self._copying
        waits = [
            c for c in key(self.chain, write.piece.blocks) if c in new or (layer, c) in copying
        ]
        if not waits:
            then()
            return
        one = last_of(len(waits), then)
        for cluster in waits:
            if (layer, cluster) in copying:
                copying[layer, cluster].append(one)
                continue
            copying[layer, cluster] = [one]
            self.copies += 1
            end = partial(self._copy_ends, (layer, cluster))
            self._station.copy(self._disk.cluster_bytes, address, end)

    def _copy_ends(self, what: tuple[int, int]) -> None:
        for then in self._copying.pop(what):
            then()

    def _measure(self) -> None:
        self.peak_bytes = max(self.peak_bytes, sum(self.chain.sizes()))

    def empty_ns(self, checkpoint: int) -> int:
        """How long a checkpoint takes to empty what it empties of the overlays as they are now."""
        clusters = sum(self.chain.sizes(checkpoint)) // self._disk.cluster_bytes
        return self._disk.empty_fixed_ns + self._disk.empty_per_cluster_ns * clusters

    def commit(self) -> None:
        """Failover: both overlays go into the disk, beside what the guest asks for."""
        world, left_bytes = self._world, sum(self.chain.sizes())
        size_bytes, host, began_ns = left_bytes, world.hosts[SECONDARY], world.now_ns()

        def go_on(_: object = None) -> None:
            nonlocal left_bytes
            if not self._is_up():
                return
            if host.guest.hung:
                host.stuck.append(go_on)
                return
            if left_bytes:
                piece = min(left_bytes, _CHUNK_BYTES)
                left_bytes -= piece
                self._station.serve("commit", 0, 2 * piece, (0, 0), go_on)  # read and written
                return
            self.chain.commit()
            took_ns = world.now_ns() - began_ns
            world.recorder.counters["disk_committed_bytes"] = size_bytes
            world.recorder.counters["disk_commit_ns"] = took_ns
            world.recorder.event(SECONDARY, "disk-committed", f"{size_bytes} bytes")

        world.clock.after(self._disk.commit_fixed_ns, go_on)

    # -- faults ------------------------------------------------------------------------------

    def _is_up(self) -> bool:
        host = self._world.hosts[SECONDARY]
        return host.alive and not host.guest.dead

    def _fails(self, what: str, grows: bool = False) -> bool:
        """Whether a request meets a disk that fails, which ends the guest: QEMU stops it.

        A full one fails where an overlay has to grow.
        """
        if not self.fault or (self.fault == "full" and not grows):
            return False
        if self._is_up():
            self._world.disk_fails(SECONDARY, f"{self.fault}: {what}")
        return True
