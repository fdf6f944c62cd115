"""Disks: a guest's requests to its own, and what replicates the primary's to the other host.

After its CPU time a request of the workload reads, then writes, then flushes, and only then is
answered (`GuestIo`).  The primary's disk is its own device and, over the link, the secondary's; a
write is done when both have it.  The secondary's guest sees `colosim.model.disk.Overlaid`.  As in
QEMU a guest that is stopped begins nothing, and counts as stopped when what it had begun has ended.

`ReplicatedDisk` is what the world knows of all that: what happens to disks at a cut, a load, a
takeover and a fault; and the judge.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from backends.nodes import PRIMARY, SECONDARY
from backends.sim.clock import Clock
from backends.sim.guest import Guest
from backends.sim.link import last_of
from colosim.model.disk import (
    BLOCK_BYTES,
    REPLY_BYTES,
    REQUEST_BYTES,
    Device,
    Image,
    Lineage,
    Overlaid,
    Piece,
    Queue,
    Write,
    judge,
    put,
)
from colosim.model.results import DISK_COLUMNS, OVERLAY_COLUMNS, columns
from colosim.model.streams import Streams
from colosim.scenario import Disk

if TYPE_CHECKING:
    from backends.sim.world import SimWorld

CHANNEL = "disk"
_HEADER_BYTES = 64  # of TCP and IP, for a message of its own
_CHUNK_BYTES = 1 << 20  # a commit's piece: others' requests come between
_OWN = 0  # the layer of own writes; those of the primary's have the numbers of checkpoints
READ, WRITE, FLUSH = "read", "write", "flush"
_PHASES = (READ, WRITE, FLUSH)

Then = Callable[[], None]
#: (client, number of the piece among that client's): where a request's draws are
Address = tuple[int, int]


class Requests:
    """Which blocks each request of the workload reads and writes; the same for whoever asks."""

    def __init__(self, disk: Disk, streams: Streams) -> None:
        self._disk = disk
        self._streams = streams
        self._blocks = disk.working_set_bytes // BLOCK_BYTES

    def reads_of(self, client: int, request: int) -> tuple[Piece, ...]:
        disk = self._disk
        first = request * disk.reads_per_request
        return tuple(
            self._piece("disk-read", client, first + i, disk.read_bytes)
            for i in range(disk.reads_per_request)
        )

    def writes_of(self, client: int, request: int) -> tuple[Piece, ...]:
        disk = self._disk
        if disk.writing_requests < 1:
            u = self._streams.uniform("disk-writes", client).at(request)
            if u >= disk.writing_requests:
                return ()
        first = request * disk.writes_per_request
        return tuple(
            self._piece("disk-write", client, first + i, disk.write_bytes)
            for i in range(disk.writes_per_request)
        )

    def _piece(self, purpose: str, client: int, number: int, mean_bytes: int) -> Piece:
        size_bytes, offset, whole = mean_bytes, 0, self._blocks
        if self._disk.size_distribution == "exponential":
            draw = self._streams.exponential(f"{purpose}-size", client).at(number)
            size_bytes = min(max(round(mean_bytes * draw), 1), (whole - 1) * BLOCK_BYTES)
        place = self._streams.uniform(f"{purpose}-place", client)
        if self._disk.pattern == "uniform":
            length = -(-size_bytes // BLOCK_BYTES)
            first = int(place.at(number) * (whole - length + 1))
        else:  # each client's own file begins anywhere; pieces may share a block
            at, offset = divmod(number * mean_bytes, BLOCK_BYTES)
            length = -(-(offset + size_bytes) // BLOCK_BYTES)
            first = (int(place.at(0) * whole) + at) % (whole - length + 1)
        return Piece(range(first, first + length), size_bytes)


class Station:
    """The device of one host."""

    def __init__(self, clock: Clock, streams: Streams, device: Device, name: str) -> None:
        self._clock = clock
        self._streams = streams
        self._device = device
        self._queue = Queue(device)
        self._name = name

    def serve(self, what: str, mean_ns: int, size_bytes: int, address: Address, then: Then) -> None:
        """A request of so many bytes; ``then`` is called when it is done."""
        variate, key, index = 0.0, *address
        if mean_ns and self._device.draws:
            purpose = f"disk-{what}-{self._name}"
            draws = getattr(self._streams, self._device.draws)(purpose, key)
            variate = draws.at(index)
        now_ns = self._clock.now_ns()
        latency_ns = self._device.latency_ns(mean_ns, variate)
        end_ns = self._queue.admit(now_ns, latency_ns, size_bytes)
        self._clock.after(end_ns - now_ns, _call, then)

    def read(self, size_bytes: int, address: Address, then: Then) -> None:
        self.serve(READ, self._device.read_ns, size_bytes, address, then)

    def write(self, size_bytes: int, address: Address, then: Then, what: str = WRITE) -> None:
        self.serve(what, self._device.write_ns, size_bytes, address, then)

    def flush(self, address: Address, then: Then) -> None:
        self.serve(FLUSH, self._device.flush_ns, 0, address, then)

    def copy(self, size_bytes: int, address: Address, then: Then) -> None:
        """Read and write so much."""
        self.serve(
            "copy-read",
            self._device.read_ns,
            size_bytes,
            address,
            lambda: self.write(size_bytes, address, then, "copy-write"),
        )


def _call(then: Then) -> None:
    then()


class Volume(Protocol):
    """What a guest takes for its disk."""

    def read(self, piece: Piece, address: Address, then: Then) -> None: ...
    def write(self, write: Write, address: Address, then: Then) -> None: ...
    def flush(self, address: Address, then: Then) -> None: ...


# --------------------------------------------------------------------------------------------
# The guest's side


@dataclass(slots=True)
class Run:
    """A guest's writes since it began or was loaded."""

    number: int
    writes: list[Write] = field(default_factory=list)
    flushes: int = 0  # that have ended
    unsafe: list[Write] = field(default_factory=list)  # done, and no flush has begun since


@dataclass(slots=True, eq=False)
class _Asked:
    """A request between its CPU time and its answer: what is left to do of its phase."""

    client: int
    request: int
    reads: tuple[Piece, ...]
    writes: tuple[Piece, ...]
    phase: int
    left: list[int]
    begun: set[int] = field(default_factory=set)


class GuestIo:
    """A guest's own half: it begins requests while it runs, and takes note of their end.

    Writes that overlap one under way wait for it, as a file system makes them.
    """

    def __init__(
        self,
        clock: Clock,
        guest: Guest,
        requests: Requests,
        volume: Volume,
        flush: str,
        new_run: Callable[[], int],
        record: Callable[[str, int, int], None],
    ) -> None:
        """record(op, begun_ns, size_bytes) is called when a request has ended."""
        self._clock = clock
        self._guest = guest
        self._requests = requests
        self._volume = volume
        self._flush = flush
        self._new_run = new_run
        self._record = record
        self.run = Run(new_run())
        self._open: dict[tuple[int, int], _Asked] = {}
        self._under_way = 0
        self._locked: set[int] = set()  # blocks of writes under way
        self._blocked: list[tuple[_Asked, int]] = []  # writes that wait for those
        self._group: list[_Asked] = []  # that wait for the next common flush
        self._is_flushing = False
        self._stuck: list[Then] = []  # ends that a hung guest has not noticed
        self._drained: list[Then] = []

    # -- what the guest does -----------------------------------------------------------------

    def begin(self, client: int, request: int) -> None:
        """A request has had its CPU time."""
        asked = self._asked(client, request, 0, [])
        asked.left = self._parts(asked)
        self._proceed(asked)

    def start(self) -> None:
        """The guest runs, or no longer hangs."""
        stuck, self._stuck = self._stuck, []
        for end in stuck:
            end()
        self._retry()
        for asked in list(self._open.values()):
            self._proceed(asked)

    def stop(self) -> None:
        """Nothing more is begun: what waits is begun again by `start`."""
        self._group.clear()
        self._blocked.clear()

    def kill(self) -> None:
        """Whoever waits for it to come to rest learns that it has ended."""
        waiting, self._drained = self._drained, []
        for then in waiting:
            then()

    def drain(self, then: Then) -> None:
        """``then`` when nothing is under way, at once if so, or when the guest is dead."""
        if self._under_way and not self._guest.dead:
            self._drained.append(then)
        else:
            then()

    def state(self) -> tuple[tuple[int, int, int, tuple[int, ...]], ...]:
        """(client, request, phase, what is left of it) of each request that is not answered."""
        return tuple((a.client, a.request, a.phase, tuple(a.left)) for a in self._open.values())

    def load(self, state: Sequence[tuple[int, int, int, tuple[int, ...]]]) -> None:
        """Become the guest with that state; its own past is void."""
        self.stop()
        self._locked.clear()
        self._stuck.clear()
        self._under_way, self._is_flushing = 0, False
        self.run = Run(self._new_run())
        self._open.clear()
        for client, request, phase, left in state:
            self._asked(client, request, phase, list(left))

    # -- one request -------------------------------------------------------------------------

    def _asked(self, client: int, request: int, phase: int, left: list[int]) -> _Asked:
        requests = self._requests
        reads, writes = requests.reads_of(client, request), requests.writes_of(client, request)
        asked = self._open[client, request] = _Asked(client, request, reads, writes, phase, left)
        return asked

    def _parts(self, asked: _Asked) -> list[int]:
        """What its phase consists of, numbered."""
        flushes = 1 if asked.writes and self._flush != "none" else 0
        return list(range((len(asked.reads), len(asked.writes), flushes)[asked.phase]))

    @property
    def _runs(self) -> bool:
        return self._guest.running and not self._guest.hung

    def _proceed(self, asked: _Asked) -> None:
        """Begin what comes next; the answer, if nothing does."""
        while self._runs:
            if asked.left:
                for part in [part for part in asked.left if part not in asked.begun]:
                    self._begin(asked, part)
                return
            if asked.phase + 1 == len(_PHASES):
                del self._open[asked.client, asked.request]
                self._guest.answer(asked.client, asked.request)
                return
            asked.phase += 1
            asked.left = self._parts(asked)

    def _begin(self, asked: _Asked, part: int) -> None:
        client, request = asked.client, asked.request
        phase = _PHASES[asked.phase]
        if phase == READ:
            pieces = asked.reads
            end = self._beginning(READ, [asked], part, pieces[part].size_bytes)
            self._volume.read(pieces[part], (client, request * len(pieces) + part), end)
        elif phase == WRITE:
            self._begin_write(asked, part)
        elif self._flush == "request":
            self._begin_flush([asked])
        elif asked not in self._group:
            self._group.append(asked)
            self._begin_group()

    def _beginning(
        self,
        op: str,
        asking: Sequence[_Asked],
        part: int,
        size_bytes: int,
        ended: Then = lambda: None,
    ) -> Then:
        """Count a request to the disk that begins; the result is to be called at its end."""
        for asked in asking:
            asked.begun.add(part)
        self._under_way += 1
        run, begun_ns = self.run, self._clock.now_ns()

        def end() -> None:
            if run is not self.run or self._guest.dead:
                return
            if self._guest.hung:
                self._stuck.append(end)
                return
            self._under_way -= 1
            self._record(op, begun_ns, size_bytes)
            for asked in asking:
                asked.begun.discard(part)
                asked.left.remove(part)
            ended()
            for asked in asking:
                if not asked.left:
                    self._proceed(asked)
            self._settle()

        return end

    def _settle(self) -> None:
        if not self._under_way:
            waiting, self._drained = self._drained, []
            for then in waiting:
                then()

    def _begin_write(self, asked: _Asked, part: int) -> None:
        pieces = asked.writes
        piece, run = pieces[part], self.run
        if not self._locked.isdisjoint(piece.blocks):
            if (asked, part) not in self._blocked:
                self._blocked.append((asked, part))
            return
        self._locked.update(piece.blocks)
        number = len(run.writes)
        write = Write(run.number, number, asked.client, asked.request, part, piece, run.flushes)
        run.writes.append(write)

        def ended() -> None:
            write.done = True
            run.unsafe.append(write)
            self._locked.difference_update(piece.blocks)
            self._retry()

        end = self._beginning(WRITE, [asked], part, piece.size_bytes, ended)
        self._volume.write(write, (asked.client, asked.request * len(pieces) + part), end)

    def _retry(self) -> None:
        """Begin those writes that had to wait for others."""
        if self._blocked and self._runs:
            blocked, self._blocked = self._blocked, []
            for asked, part in blocked:
                self._begin_write(asked, part)

    def _begin_group(self) -> None:
        """The next common flush, when the last one has ended."""
        if self._group and not self._is_flushing and self._runs:
            self._is_flushing = True
            asking, self._group = self._group, []
            self._begin_flush(asking)

    def _begin_flush(self, asking: Sequence[_Asked]) -> None:
        """One flush for all who ask; what was done before it began is safe when it ends."""
        run, first = self.run, asking[0]
        covered, run.unsafe = run.unsafe, []

        def ended() -> None:
            run.flushes += 1
            for write in covered:
                write.durable = run.flushes
            self._is_flushing = False
            self._begin_group()

        end = self._beginning(FLUSH, asking, 0, 0, ended)
        self._volume.flush((first.client, first.request), end)


# --------------------------------------------------------------------------------------------
# The two disks


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
                size = _HEADER_BYTES + REQUEST_BYTES + size_bytes
                world.send_disk(host, size, partial(child.arrived, partial(asked, reply)))

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
        self._world.part(host, why)
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
        host = self._world.hosts[SECONDARY]
        if self._is_up():
            self._world.send_disk(host, _HEADER_BYTES + size_bytes, arrived)

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


# --------------------------------------------------------------------------------------------
# What the world knows


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
            self._world.clock.after(self._disk.detach_ns, _call, then)
            return

        def ready() -> None:
            volume.commit()
            then()

        def closed() -> None:
            volume.when_landed(ready)

        self._world.clock.after(self._disk.failover_ns, _call, closed)

    def died(self, name: str) -> None:
        volume = self.secondary
        if name == SECONDARY and volume is not None and self.primary.child is not None:
            lost = partial(self.primary.lost, "the connection to the secondary's disk was reset")
            self._world.send_disk(self._world.hosts[SECONDARY], _HEADER_BYTES, lost)

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
