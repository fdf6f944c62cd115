"""QEMU's own colo-compare as comparator of a live run, fed by us.

The object lives in the primary's QEMU, but its four links lead here: the frames of both guests go
in, what it finds equal comes out, and by ``notify_dev`` it asks for checkpoints.  So a run differs
in nothing else from one that is compared by our own modes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from backends.qemu.address import UnixAddress
from backends.qemu.errors import LiveError
from backends.qemu.net.frames import Splitter, pack
from backends.qemu.net.sockets import Stream, connect
from backends.qemu.qmp import Qmp

LINKS = ("primary", "secondary", "out", "notify")
_ASKS = b"DO_CHECKPOINT"
_FLUSH = b"COLO_CHECKPOINT"
_ACCEPT_LIMIT_S = 5.0
_POLL_S = 0.005
_NS_PER_MS = 1_000_000


class ColoCompare:
    """same(numbers): these frames of the primary came out.  asks(): it wants a checkpoint."""

    def __init__(self, same: Callable[[list[int]], None], asks: Callable[[], None]) -> None:
        self._same = same
        self._asks = asks
        self._links: dict[str, Stream] = {}
        self._numbers: dict[bytes, deque[int]] = {}  # of frames that have not come out

    async def start(
        self, qmp: Qmp, directory: Path, host: str, timeout_ns: int, queue_frames: int
    ) -> None:
        """Make the objects in a running QEMU; `LiveError` if it refuses."""
        for link in LINKS:
            path = directory / f"{host}.cmp-{link}"
            address = {"type": "unix", "data": {"path": str(path)}}
            backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}
            await qmp.execute("chardev-add", {"id": f"cmp-{link}", "backend": backend})
            stream = await connect(UnixAddress(path), _ACCEPT_LIMIT_S, "QEMU's colo-compare")
            self._links[link] = stream
        await self._accepted(qmp)
        await qmp.execute("object-add", {"qom-type": "iothread", "id": "cmp-thread"})
        compare = {
            "qom-type": "colo-compare",
            "id": "cmp",
            "primary_in": "cmp-primary",
            "secondary_in": "cmp-secondary",
            "outdev": "cmp-out",
            "notify_dev": "cmp-notify",
            "iothread": "cmp-thread",
            "compare_timeout": max(1, timeout_ns // _NS_PER_MS),
            "expired_scan_cycle": max(1, timeout_ns // _NS_PER_MS // 4),
            "max_queue_size": queue_frames,
        }
        await qmp.execute("object-add", compare)
        self._on_frames("out", self._came_out)
        self._on_frames("notify", self._noticed)

    async def _accepted(self, qmp: Qmp) -> None:
        """QEMU accepts later than we connect; what it writes before that is lost."""
        for _ in range(round(_ACCEPT_LIMIT_S / _POLL_S)):
            known = await qmp.execute("query-chardev")
            seen = {each["label"]: each["filename"] for each in known}
            if not any(seen[f"cmp-{link}"].startswith("disconnected:") for link in LINKS):
                return
            await asyncio.sleep(_POLL_S)
        raise LiveError(f"{qmp.name}: colo-compare's links were not accepted")

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
