"""QEMU's own colo-compare as comparator of a live run, fed by us.

The object lives in the primary's QEMU, but its four links lead here: the frames of both guests go
in, what it finds equal comes out, and by ``notify_dev`` it asks for checkpoints.  So a run differs
in nothing else from one that is compared by our own modes.  In a native pair it is part of QEMU's
whole proxy instead (`proxy.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.qemu.address import UnixAddress
from backends.qemu.errors import LiveError
from backends.qemu.net.frames import Splitter, pack
from backends.qemu.net.sockets import Stream, connect
from backends.qemu.qmp import Qmp
from colosim.protocol.node import NodeConfig

LINKS = ("primary", "secondary", "out", "notify")
_ASKS = b"DO_CHECKPOINT"
_FLUSH = b"COLO_CHECKPOINT"
_ACCEPT_LIMIT_S = 5.0
_POLL_S = 0.005
_NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """What colo-compare is told.

    timeout_ns: how long output of one guest alone may be held.  scan_ns: how often it looks at
    that.  queue_frames: the most that it holds of one connection and guest.
    """

    timeout_ns: int
    scan_ns: int
    queue_frames: int

    @classmethod
    def of(cls, node: NodeConfig) -> CompareSettings:
        """As the primary's node says."""
        timeout_ns = dict(node.policy_params)["compare_timeout_ns"]
        scan_ns = node.compare_scan_ns or timeout_ns // 4
        return cls(timeout_ns, scan_ns, node.compare_queue_frames)

    def object(self, name: str, **links: str) -> dict[str, Any]:
        """The arguments of object-add."""
        return {
            "qom-type": "colo-compare",
            "id": name,
            **links,
            "compare_timeout": max(1, self.timeout_ns // _NS_PER_MS),
            "expired_scan_cycle": max(1, self.scan_ns // _NS_PER_MS),
            "max_queue_size": self.queue_frames,
        }


async def add_socket(qmp: Qmp, name: str, path: Path, server: bool) -> None:
    """Give a running QEMU one end of a unix socket, as a character device."""
    address = {"type": "unix", "data": {"path": str(path)}}
    data = {"addr": address, "server": server, **({"wait": False} if server else {})}
    await qmp.execute("chardev-add", {"id": name, "backend": {"type": "socket", "data": data}})


async def connected(qmp: Qmp, names: Iterable[str]) -> None:
    """Wait until these are connected: QEMU accepts late, and what it writes before that is lost."""
    names = list(names)
    for _ in range(round(_ACCEPT_LIMIT_S / _POLL_S)):
        known = await qmp.execute("query-chardev")
        seen = {each["label"]: each["filename"] for each in known}
        if not any(seen[name].startswith("disconnected:") for name in names):
            return
        await asyncio.sleep(_POLL_S)
    raise LiveError(f"{qmp.name}: colo-compare's links were not accepted")


class ColoCompare:
    """same(numbers): these frames of the primary came out.  asks(): it wants a checkpoint."""

    def __init__(self, same: Callable[[list[int]], None], asks: Callable[[], None]) -> None:
        self._same = same
        self._asks = asks
        self._links: dict[str, Stream] = {}
        self._numbers: dict[bytes, deque[int]] = {}  # of frames that have not come out

    async def start(self, qmp: Qmp, directory: Path, host: str, settings: CompareSettings) -> None:
        """Make the objects in a running QEMU; `LiveError` if it refuses."""
        names = {link: f"cmp-{link}" for link in LINKS}
        for link, name in names.items():
            path = directory / f"{host}.{name}"
            await add_socket(qmp, name, path, server=True)
            stream = await connect(UnixAddress(path), _ACCEPT_LIMIT_S, "QEMU's colo-compare")
            self._links[link] = stream
        await connected(qmp, names.values())
        await qmp.execute("object-add", {"qom-type": "iothread", "id": "cmp-thread"})
        compare = settings.object(
            "cmp",
            primary_in=names["primary"],
            secondary_in=names["secondary"],
            outdev=names["out"],
            notify_dev=names["notify"],
            iothread="cmp-thread",
        )
        await qmp.execute("object-add", compare)
        self._on_frames("out", self._came_out)
        self._on_frames("notify", self._noticed)

    def _on_frames(self, link: str, take: Callable[[Sequence[bytes]], None]) -> None:
        splitter = Splitter()
        self._links[link].received = lambda data: take(splitter.feed(data))

    def primary(self, first: int, frames: Iterable[bytes]) -> None:
        """Frames of the primary's guest, numbered from ``first``."""
        frames = list(frames)
        for number, frame in enumerate(frames, first):
            self._numbers.setdefault(frame, deque()).append(number)
        self._links["primary"].write(pack(frames))

    def secondary(self, frames: Iterable[bytes]) -> None:
        """Frames of the secondary's guest."""
        self._links["secondary"].write(pack(frames))

    def checkpoint(self) -> None:
        """All that is held has left: let it start anew."""
        self._links["notify"].write(pack([_FLUSH]))

    def restart(self) -> None:
        """For a new pair: what came before is nobody's business any more."""
        self._numbers.clear()
        self.checkpoint()

    def close(self) -> None:
        for stream in self._links.values():
            stream.close()

    def _came_out(self, frames: Sequence[bytes]) -> None:
        numbers = []
        for frame in frames:
            queue = self._numbers.get(frame)
            if queue is None:
                continue  # of the pair before
            numbers.append(queue.popleft())
            if not queue:
                del self._numbers[frame]
        if numbers:
            self._same(numbers)

    def _noticed(self, frames: Sequence[bytes]) -> None:
        if any(frame == _ASKS for frame in frames):
            self._asks()
