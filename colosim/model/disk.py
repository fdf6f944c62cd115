"""A guest's disk and its copy on the other host: durations, what each block holds, and the judge.

Three parts that need no clock.  `Device` and `Queue` say how long a request takes.  `Overlaid` is
the secondary's disk as QEMU has it (``qemu-colo.md`` 2.6): own writes in ``active``, what the
primary overwrites in ``hidden``, the primary's writes in the disk itself.

What a block holds is told by everything that was ever written to it: a `Version` is a write on top
of an older version.  So `judge` can say which writes a survivor's disk has, which it lacks and
which it should not have.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from colosim.model.cost import varied_ns
from colosim.model.errors import ModelError, check_range

#: the unit of contents; a request of other size touches every block that it has a part of
BLOCK_BYTES = 4096
#: of NBD's requests and simple replies (its protocol document), without TCP's headers
REQUEST_BYTES, REPLY_BYTES = 28, 16
LAWS = ("deterministic", "exponential", "lognormal")
NS_PER_S = 1_000_000_000

# --------------------------------------------------------------------------------------------
# Durations


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A local disk: mean latencies (ns), how they are distributed, bandwidth and queue depth.

    ``spread``: relative standard deviation, of ``lognormal`` only.  ModelError out of range.
    """

    read_ns: int
    write_ns: int
    flush_ns: int
    law: str = "lognormal"
    spread: float = 0.0
    bandwidth_bps: float
    queue_depth: int

    def __post_init__(self) -> None:
        for name in ("read_ns", "write_ns", "flush_ns", "spread"):
            check_range(name, getattr(self, name))
        check_range("bandwidth_bps", self.bandwidth_bps, above=True)
        check_range("queue_depth", self.queue_depth, 1)
        if self.law not in LAWS:
            raise ModelError(f"law is {self.law}; it must be one of {', '.join(LAWS)}")

    @property
    def draws(self) -> str:
        """The distribution that `latency_ns` wants a variate of, or nothing."""
        if self.law == "lognormal":
            return "normal" if self.spread else ""
        return "exponential" if self.law == "exponential" else ""

    def latency_ns(self, mean_ns: int, variate: float = 0.0) -> int:
        """A latency with that mean, at a variate of `draws`."""
        if self.draws == "exponential":
            return round(mean_ns * variate)
        return varied_ns(mean_ns, self.spread if self.draws else 0.0, variate)

    def transfer_ns(self, size_bytes: int) -> int:
        """What moving so many bytes takes, at the bandwidth that all requests share."""
        return math.ceil(size_bytes * 8 * NS_PER_S / self.bandwidth_bps)


class Queue:
    """First come, first served: at most ``queue_depth`` requests are in the device at a time.

    A request moves its bytes over the one bus, then takes its latency beside the others'.  With one
    place and no bytes that is a single server, which the tests hold against M/M/1 and M/D/1.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._free_ns = [0] * device.queue_depth  # a heap: when each place is free
        self._bus_ns = 0  # when the bus is

    def admit(self, now_ns: int, latency_ns: int, size_bytes: int) -> int:
        """When a request that comes now is done.  Ask in the order of time."""
        start_ns = max(now_ns, self._free_ns[0])
        self._bus_ns = max(start_ns, self._bus_ns) + self._device.transfer_ns(size_bytes)
        end_ns = self._bus_ns + latency_ns
        heapq.heapreplace(self._free_ns, end_ns)
        return end_ns


# --------------------------------------------------------------------------------------------
# What blocks hold


@dataclass(frozen=True, slots=True)
class Piece:
    """One read or write: its blocks, and its size in bytes."""

    blocks: range
    size_bytes: int


@dataclass(slots=True, eq=False)
class Write:
    """One write of one run of a guest.

    number: its place among the writes of its run, in the order of beginning.  after: how many
    flushes of its run had ended when it began.  durable: the number of the flush that made it
    safe, -1 until then.
    """

    run: int
    number: int
    client: int
    request: int
    index: int
    piece: Piece
    after: int
    done: bool = False
    durable: int = -1

    @property
    def key(self) -> tuple[int, int, int]:
        """What it is for, whoever executes it."""
        return self.client, self.request, self.index

    def __str__(self) -> str:
        return f"{self.client}.{self.request}.{self.index}"


@dataclass(slots=True, eq=False)
class Version:
    """What a block holds: a write on top of what was there; ``mark`` tells equal ones."""

    write: Write
    older: Version | None
    mark: int = field(init=False)

    def __post_init__(self) -> None:
        below = 0 if self.older is None else self.older.mark
        self.mark = hash((below, self.write.run, self.write.number))

    def writes(self) -> Iterator[Write]:
        """The newest first."""
        version: Version | None = self
        while version is not None:
            yield version.write
            version = version.older


#: block -> what it holds; what is missing was never written
Image = dict[int, Version]


def put(image: Image, write: Write, below: Mapping[int, Version | None]) -> None:
    """The write is in the image, on top of ``below``."""
    for block in write.piece.blocks:
        image[block] = Version(write, below.get(block))


class Overlaid:
    """The secondary's disk: ``active`` over ``hidden`` over ``disk``.

    The guest's own writes go to ``active``.  What the primary's write replaces is kept in
    ``hidden`` first.  So the guest sees the last checkpoint and its own writes since, whatever the
    primary does.  Overlays grow by whole clusters.

    Where the primary runs on while its state is sent (copy-then-send), its next writes come before
    the checkpoint is loaded.  So a write says which checkpoint it will belong to, and ``hidden``
    has a layer for each that is not loaded yet.  QEMU has one: it knows stop-and-send only.
    """

    def __init__(self, cluster_blocks: int) -> None:
        self._cluster_blocks = cluster_blocks
        self.disk: Image = {}
        self.active: Image = {}
        self.hidden: dict[int, dict[int, Version | None]] = {}  # checkpoint -> block -> old
        self.active_clusters: set[int] = set()
        self.hidden_clusters: dict[int, set[int]] = {}
        self.is_committed = False  # there are no overlays any more

    def clusters(self, blocks: range) -> range:
        """The clusters that blocks are in."""
        return range(
            blocks.start // self._cluster_blocks, (blocks.stop - 1) // self._cluster_blocks + 1
        )

    def new_hidden(self, blocks: range, checkpoint: int) -> list[int]:
        """Clusters to copy before the primary's write lands; from now on they count as copied."""
        kept = self.hidden_clusters.setdefault(checkpoint, set())
        new = [cluster for cluster in self.clusters(blocks) if cluster not in kept]
        kept.update(new)
        return new

    def new_active(self, blocks: range) -> list[int]:
        """Clusters that the guest's own write has to bring to ``active`` first."""
        if self.is_committed:
            return []
        new = [c for c in self.clusters(blocks) if c not in self.active_clusters]
        self.active_clusters.update(new)
        return new

    def land(self, write: Write, checkpoint: int) -> None:
        """The primary's write is on the disk, and what it replaced in ``hidden``."""
        self.keep(write.piece.blocks, checkpoint)
        put(self.disk, write, self.disk)

    def keep(self, blocks: range, checkpoint: int) -> None:
        """Copy what is about to be replaced, unless an older version is kept already."""
        layer = self.hidden.setdefault(checkpoint, {})
        for block in blocks:
            if block not in layer:
                layer[block] = self.disk.get(block)

    def write(self, write: Write) -> None:
        """The guest's own write."""
        if self.is_committed:
            put(self.disk, write, self.disk)
        else:
            blocks = write.piece.blocks
            put(self.active, write, {block: self.view(block) for block in blocks})

    def view(self, block: int) -> Version | None:
        """What the guest reads."""
        if block in self.active:
            return self.active[block]
        return self.below(block)

    def below(self, block: int) -> Version | None:
        """What it reads beneath ``active``: the last checkpoint."""
        for checkpoint in sorted(self.hidden):
            if block in self.hidden[checkpoint]:
                return self.hidden[checkpoint][block]
        return self.disk.get(block)

    def whole_view(self) -> Image:
        """The view of every block that was ever written."""
        blocks = {*self.disk, *self.active}
        return {block: seen for block in blocks if (seen := self.view(block)) is not None}

    def sizes(self, checkpoint: int | None = None) -> tuple[int, int]:
        """Bytes of ``active`` and ``hidden``: of the layers that a checkpoint empties, or all."""
        cluster = self._cluster_blocks * BLOCK_BYTES
        hidden = sum(
            len(clusters)
            for number, clusters in self.hidden_clusters.items()
            if checkpoint is None or number <= checkpoint
        )
        return len(self.active_clusters) * cluster, hidden * cluster

    def empty(self, checkpoint: int) -> None:
        """The guest is that checkpoint now: its own writes are void, and older layers too."""
        self.active.clear()
        self.active_clusters.clear()
        for layers in (self.hidden, self.hidden_clusters):
            for each in [number for number in layers if number <= checkpoint]:
                del layers[each]

    def commit(self) -> None:
        """Failover: the disk becomes the guest's view, and there are no overlays any more."""
        view = self.whole_view()
        self.disk, self.is_committed = view, True
        self.active = {}
        for each in (self.active_clusters, self.hidden, self.hidden_clusters):
            each.clear()


# --------------------------------------------------------------------------------------------
# The judge


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a guest has come from: run -> how many of its first writes (None: all).

    A guest that took over is a checkpoint, which has the primary's writes up to its cut, and what
    it did itself since.
    """

    runs: Mapping[int, int | None]

    def has(self, write: Write) -> bool:
        if write.run not in self.runs:
            return False
        most = self.runs[write.run]
        return most is None or write.number < most


def judge(
    image: Mapping[int, Version],
    lineage: Lineage,
    writes: Iterable[Sequence[Write]],
    promised: Iterable[tuple[int, int, int]],
) -> list[str]:
    """What is wrong with a survivor's disk, a line each; nothing if it is as it must be.

    image: what its guest reads.  writes: of each run that is known, all of them.  promised: the
    keys of those writes that were flushed before a response which a client has.

    1. Every promised write is there, under whatever was written later.
    2. Every other is wholly there or wholly not.
    3. Within a run: if a write is there, then so is every one that was safe when it began.
    4. What the guest has not come from is not there: a write of the primary after the cut, or of a
       run that a load has replaced.
    5. Whatever was done in what it has come from is there, flushed or not, for no power was lost.
    """
    blocks: dict[Write, set[int]] = {}
    for block, version in image.items():
        for write in version.writes():
            blocks.setdefault(write, set()).add(block)
    whole = {write for write, found in blocks.items() if len(found) == len(write.piece.blocks)}
    keys = {write.key for write in whole}
    latest: dict[int, int] = {}
    for write in blocks:
        latest[write.run] = max(latest.get(write.run, 0), write.after)
    known = [write for run in writes for write in run]

    def lost(write: Write) -> bool:
        return 0 <= write.durable <= latest.get(write.run, -1) and write not in blocks

    kinds: tuple[tuple[str, list[str]], ...] = (
        (
            "acknowledged to a client and not on the survivor's disk",
            [".".join(map(str, key)) for key in promised if key not in keys],
        ),
        ("only partly there", [str(write) for write in blocks if write not in whole]),
        ("missing although a later one, past a flush, is there", [*map(str, filter(lost, known))]),
        (
            "there, of a past that the survivor's guest does not have",
            [str(write) for write in blocks if not lineage.has(write)],
        ),
        (
            "done by the survivor's guest and not there",
            [str(w) for w in known if w.done and lineage.has(w) and w not in blocks],
        ),
    )
    return [f"{len(found)} writes {what}, {min(found)} the first" for what, found in kinds if found]
