"""What a guest asks of its disk, and the device that serves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from backends.sim.clock import Clock
from colosim.model.disk import (
    BLOCK_BYTES,
    Device,
    Piece,
    Queue,
    Write,
)
from colosim.model.streams import Streams
from colosim.scenario import Disk

CHANNEL = "disk"  # of the link
READ, WRITE, FLUSH = "read", "write", "flush"

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
        self._clock.after(end_ns - now_ns, call, then)

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


def call(then: Then) -> None:
    """Of a clock, which gives what it was given."""
    then()


class Volume(Protocol):
    """What a guest takes for its disk."""

    def read(self, piece: Piece, address: Address, then: Then) -> None: ...
    def write(self, write: Write, address: Address, then: Then) -> None: ...
    def flush(self, address: Address, then: Then) -> None: ...
