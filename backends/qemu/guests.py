"""The two guests of a pair as their agents see them: what an action does to a real QEMU.

`PrimaryGuest` drives the QEMU that clients talk to; it knows nothing of COLO.  `SecondaryGuest`
is a genuine COLO secondary: it acts on what it reads from its migration socket, and we watch.
Everything raises `LiveError` with the reason; the time limits of steps are the core's, those here
only make sure that nothing waits for ever.  Recipes: `live-recipes.md` 2.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from qemu.qmp.message import Message as QmpMessage

from backends.qemu.address import UnixAddress, connected
from backends.qemu.errors import LiveError
from backends.qemu.guest.ground import find_headers
from backends.qemu.launch import Paths, Qemu
from backends.qemu.memory import Pages, Scanner
from backends.qemu.net.sockets import Stream
from backends.qemu.qmp import Qmp, event_is
from backends.qemu.stream import PIECE_BYTES, Peer
from backends.qemu.volume import ReplicaDisk, SourceDisk
from backends.qemu.wire import (
    MigrationBridge,
    RamEncoder,
    ReturnPath,
    device_state,
    greeting_of,
)
from colosim.protocol.types import Blob, State

_SYNC_LIMIT_S = 120.0
_CONNECT_LIMIT_S = 10.0
_MESSAGE_BYTES = 4
_BACKLOG_BYTES = 1 << 16  # that may wait for a guest's migration socket
_UNLIMITED_BPS = 1 << 40
_PLAIN = [{"capability": name, "state": False} for name in ("x-colo", "return-path")]

#: run states that a guest does not leave by itself
_STUCK = frozenset(("io-error", "guest-panicked", "internal-error"))

# The loop does nothing else while it encodes as many pages, some milliseconds; a thread for fewer
# costs the guest's pause more than it gives.
_INLINE_PAGES = 4096
# of the loop until a command has left: its task, the library's
_ROUNDS = 2

Write = Callable[[bytes | memoryview], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fate:
    """What the guest that clients talk to has come to by itself.

    what: ``off`` (it switched itself off), ``beyond use`` (it panicked, or QEMU stopped it for an
    I/O error) or ``reset``.
    """

    what: str
    why: str


Befell = Callable[[Fate], None]


@dataclass(frozen=True, slots=True)
class Saved:
    """What one `PrimaryGuest.save` took and how long; rows of a run's table of saves.

    generation: of the guest's `ground` program in the saved state, where it runs.
    """

    checkpoint: int
    pages: int
    ram_bytes: int
    device_bytes: int
    device_ns: int
    scan_ns: int
    encode_ns: int
    generation: int | None

    def row(self) -> dict[str, int | None]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Ram:
    """The memory part of a save."""

    pages: int
    blob: Blob
    scan_ns: int
    encode_ns: int


class _Guest:
    """What both have: a monitor, whether the guest runs, and what becomes of it by itself.

    befell(Fate) is called for what happens to a guest that clients talk to.
    """

    def __init__(self, qmp: Qmp, limit_s: float, befell: Befell) -> None:
        self.qmp = qmp
        self._limit_s = limit_s
        self._befell = befell
        self._is_held = False  # we stopped it
        self._is_over = False  # nothing that befalls it from now on is news
        self._is_off = False
        self._runs = False  # it said RESUME since `start` began

    async def stop(self) -> None:
        self._is_held = True
        await self.qmp.execute("stop", limit_s=self._limit_s)

    async def start(self) -> None:
        """Run the guest; done when QEMU says that it runs.  One that is off stays so."""
        if self._is_off:
            return
        self._is_held = self._runs = False
        await self.qmp.execute("cont", limit_s=self._limit_s)
        if not self._runs:
            await self._check_running()

    async def answers(self, limit_s: float) -> bool:
        """Whether its QEMU is there at all."""
        try:
            await self.qmp.execute("query-status", limit_s=limit_s)
        except LiveError:
            return False
        return True

    def heard(self, event: QmpMessage) -> None:
        """An event of its monitor."""
        self._runs = self._runs or event["event"] == "RESUME"
        fate = None if self._is_over else self._fate(event)
        if fate is not None:
            self._is_over = fate.what != "reset"
            self._is_off = self._is_off or fate.what == "off"
            self._befell(fate)

    def _fate(self, event: QmpMessage) -> Fate | None:
        data = event.get("data", {})
        assert isinstance(data, dict)
        match event["event"]:
            case "SHUTDOWN" if data["reason"] == "guest-shutdown":
                return Fate("off", "it switched itself off")
            case "RESET" if data["guest"]:
                return Fate("reset", "it was started anew")
            case "GUEST_PANICKED":
                return Fate("beyond use", "the guest panicked")
            case "BLOCK_IO_ERROR" if data["action"] == "stop":
                disk = data.get("qom-path") or data["device"] or data.get("node-name")
                return Fate("beyond use", f"stopped for a {data['operation']} error of disk {disk}")
            case "STOP" if not self._is_held:
                return Fate("beyond use", "the guest was stopped, and not by us")
            case _:
                return None

    async def _check_running(self) -> None:
        status = (await self.qmp.execute("query-status", limit_s=self._limit_s))["status"]
        if status != "running":
            raise LiveError(f"{self.qmp.name}: the guest does not run: {status}")


class PrimaryGuest(_Guest):
    """A QEMU whose state is sent away: by one ordinary migration, then by checkpoints.

    disk: its replicated disk, where it has one.
    """

    def __init__(
        self,
        qmp: Qmp,
        paths: Paths,
        scanner: Scanner,
        limit_s: float,
        befell: Befell,
        disk: SourceDisk | None = None,
    ) -> None:
        super().__init__(qmp, limit_s, befell)
        self.disk = disk
        self._paths = paths
        self._scanner = scanner
        self._ground: Pages | None = None  # where its `ground` program has the header page
        self._encoder: RamEncoder | None = None
        self._devices: asyncio.Task[tuple[bytes, int]] | None = None  # of `stop_to_save`
        self._since_ns = 0  # that QEMU has been at it
        self._blobs: dict[str, Sequence[bytes | memoryview]] = {}

    async def resync(self, address: dict[str, Any], peer: str) -> None:
        """Let the secondary have the disk, before `synchronise`; it leaves the guest stopped.

        From then on nothing may need that disk until the migration has begun: from being connected
        until the first bytes come, QEMU 11.1 answers nobody, nor takes writes.
        """
        assert self.disk is not None
        await self.disk.resync(address, peer)
        await self.stop()
        await self.disk.join()

    async def synchronise(self, write: Write, peer: Qemu) -> None:
        """Send the whole guest, as checkpoint 0, and leave it stopped.

        The guest is stopped first: the dirty log of QEMU 7.2 loses pages under TCG.
        """
        bridge = MigrationBridge(greeting_of(peer.version))
        arrived: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if not arrived.done():
                arrived.set_result(Peer(reader, writer))

        self._paths.migration.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(
            accept, str(self._paths.migration), limit=PIECE_BYTES
        )
        execute, migration = self.qmp.execute, self._paths.migration
        try:
            async with asyncio.timeout(_SYNC_LIMIT_S):
                if not self._is_held:  # to stop it again would flush the secondary's disk
                    await self.stop()
                await execute("migrate-set-capabilities", {"capabilities": _PLAIN})
                await execute(
                    "migrate-set-parameters",
                    {"max-bandwidth": _UNLIMITED_BPS, "downtime-limit": 300_000},
                )
                await execute("migrate", {"uri": f"unix:{migration}"})
                source = await arrived
                while piece := await source.reader.read(PIECE_BYTES):
                    await write(bridge.feed(piece))
                source.close()
                await self._migrated()
        except TimeoutError:
            raise LiveError(f"first synchronisation took over {_SYNC_LIMIT_S:g} s") from None
        finally:
            server.close()
        self._encoder = RamEncoder(bridge.layout, self._scanner)
        await asyncio.to_thread(self._first_look)

    def _first_look(self) -> None:
        scanner = self._scanner
        scanner.take()
        header = next(find_headers(scanner.rows.reshape(-1)), None)
        if header is not None:
            self._ground = np.array([header.offset // scanner.page_bytes])

    def _generation(self) -> int | None:
        if self._ground is None:
            return None
        header = next(find_headers(self._scanner.rows[self._ground].reshape(-1)), None)
        return header.generation if header is not None and header.whole else None

    async def go_on(self) -> None:
        """Run on after a synchronisation that failed."""
        with contextlib.suppress(LiveError):
            await self.qmp.execute("migrate_cancel")
        if self.disk is not None:
            await self.disk.part()
        await self.start()

    async def _migrated(self) -> None:
        while True:
            status = await self.qmp.execute("query-migrate")
            if status["status"] == "completed":
                return
            if status["status"] in ("failed", "cancelled"):
                why = status.get("error-desc", status["status"])
                raise LiveError(f"{self.qmp.name}: first synchronisation failed: {why}")
            await asyncio.sleep(0.005)

    def heard(self, event: QmpMessage) -> None:
        super().heard(event)
        why = None if self.disk is None else self.disk.heard(event)
        if why is not None:
            self._befell(Fate("beyond use", why))

    async def stop(self) -> None:
        async with self._patience():
            await super().stop()

    def _patience(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Around what waits for the guest's writes."""
        return contextlib.nullcontext() if self.disk is None else self.disk.patience()

    async def stop_to_save(self) -> None:
        """Stop the guest for `save`, before which nothing else can change it.

        QEMU is asked for the devices' state in the same breath: it does one after the other, and
        need not wait until we have heard of the first.
        """
        self._devices = self._saving_devices()  # its command is given after that of `stop`
        await self.stop()
        self._since_ns = time.monotonic_ns()

    async def save(self, checkpoint: int) -> tuple[State, Saved]:
        """The stopped guest's device state, and its pages that changed since the last save."""
        devices, self._devices = self._devices, None
        if devices is None:
            devices = self._saving_devices()
            for _ in range(_ROUNDS):
                await asyncio.sleep(0)
        async with self._patience():
            ram = await self._save_ram(checkpoint)
            device, there_ns = await devices
        if self.disk is not None and self.disk.trouble is not None:
            # of all that the guest wrote before it stopped we have heard by now
            raise LiveError(self.disk.trouble)
        blob = self._blob(f"device-{checkpoint}", [device])
        saved = Saved(
            checkpoint=checkpoint,
            pages=ram.pages,
            ram_bytes=ram.blob.size,
            device_bytes=blob.size,
            device_ns=there_ns - self._since_ns,
            scan_ns=ram.scan_ns,
            encode_ns=ram.encode_ns,
            generation=self._generation(),
        )
        return State(ram=ram.blob, device=blob), saved

    def _saving_devices(self) -> asyncio.Task[tuple[bytes, int]]:
        self._since_ns = time.monotonic_ns()
        task = asyncio.create_task(self._save_devices())
        task.add_done_callback(_look_at)
        return task

    async def _save_devices(self) -> tuple[bytes, int]:
        """The state, and when it was there."""
        path = self._paths.device_state
        arguments = {"filename": str(path), "live": False}
        await self.qmp.execute("xen-save-devices-state", arguments, self._limit_s)
        state = device_state(path)
        path.unlink()
        return state, time.monotonic_ns()

    async def _save_ram(self, checkpoint: int) -> _Ram:
        """While QEMU saves its devices."""
        assert self._encoder is not None
        began_ns = time.monotonic_ns()
        scan = self._scanner.changed
        pages = scan() if self._scanner.is_quick else await asyncio.to_thread(scan)
        found_ns = time.monotonic_ns()
        name, encode = f"ram-{checkpoint}", self._encoder.encode
        if pages.size <= _INLINE_PAGES:
            parts = encode(pages)
        else:
            parts = await asyncio.to_thread(encode, pages)
        blob = self._blob(name, parts)
        scan_ns, encode_ns = found_ns - began_ns, time.monotonic_ns() - found_ns
        return _Ram(len(pages), blob, scan_ns, encode_ns)

    def _blob(self, name: str, parts: Sequence[bytes | memoryview]) -> Blob:
        digest = 0  # to tell states apart in a trace, in the guest's pause: the cheapest will do
        for part in parts:
            digest = zlib.crc32(part, digest)
        blob = Blob(name, sum(len(part) for part in parts), f"{digest:08x}")
        self._blobs[name] = parts
        return blob

    def take(self, blob: Blob) -> Sequence[bytes | memoryview]:
        """The bytes that a blob names; they are given once."""
        return self._blobs.pop(blob.id)


def _look_at(task: asyncio.Task[Any]) -> None:
    """Nobody may want its outcome any more."""
    if not task.cancelled():
        task.exception()


async def leave_colo(qmp: Qmp, limit_s: float) -> bool:
    """Let a QEMU of either side go on alone; done when it says that it does, without COLO.

    True if its guest runs, False if that has switched itself off.
    """
    await qmp.execute("x-colo-lost-heartbeat", limit_s=limit_s)
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        mode = (await qmp.execute("query-colo-status", limit_s=limit_s))["mode"]
        status = (await qmp.execute("query-status", limit_s=limit_s))["status"]
        if mode == "none" and status in ("running", "shutdown"):
            return bool(status == "running")
        if mode == "none" and status in _STUCK:
            raise LiveError(f"{qmp.name}: the guest cannot run: {status}")
        await asyncio.sleep(0.002)
    raise LiveError(f"{qmp.name}: it did not take over in {limit_s:g} s")


class SecondaryGuest(_Guest):
    """A QEMU in COLO's incoming side.

    said(bytes) is not a callback: `next_message` gives what it says, in order.  disk: its
    replicated disk, where it has one.
    """

    def __init__(
        self,
        qmp: Qmp,
        paths: Paths,
        qemu: Qemu,
        limit_s: float,
        befell: Befell,
        disk: ReplicaDisk | None = None,
    ) -> None:
        super().__init__(qmp, limit_s, befell)
        self.disk = disk
        self._is_over = True  # until clients talk to it, each load makes good what befalls it
        self._read_limit_s = limit_s
        self._paths = paths
        self._greeting = greeting_of(qemu.version)
        self._socket: Stream | None = None
        self._messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._changed = asyncio.Event()  # replaced each time that it is set
        self._running = False
        self._is_closed = False
        self._has_panicked = False  # and no load has made that good
        self._trouble: str | None = None
        self.in_colo: asyncio.Future[QmpMessage] | None = None

    def heard(self, event: QmpMessage) -> None:
        super().heard(event)
        name = event["event"]
        if name in ("STOP", "RESUME"):
            self._running = name == "RESUME"
            if self._running and not self._is_closed:  # after a load; later on, to go on alone
                self._has_panicked = False
        elif name == "GUEST_PANICKED":
            self._has_panicked = True
        elif name == "COLO_EXIT":
            data = event["data"]
            assert isinstance(data, dict)
            if data.get("reason") == "error":
                self._trouble = self._trouble or f"{self.qmp.name}: it left COLO with an error"
        self._wake()

    def _fate(self, event: QmpMessage) -> Fate | None:
        fate = super()._fate(event)
        if fate is not None and fate.what == "reset" and self._has_panicked:
            self._has_panicked = False  # one reboot may be several resets
            return Fate("reset", f"{fate.why}: it had panicked before it was taken over")
        return fate

    async def prepare(self) -> None:
        """Let it wait for its first synchronisation."""
        names = ["x-colo", "events", *(["return-path"] if self._greeting.return_path else [])]
        capabilities = [{"capability": name, "state": True} for name in names]
        execute = self.qmp.execute
        await execute("migrate-set-capabilities", {"capabilities": capabilities})
        self.in_colo = self.qmp.expect(event_is("MIGRATION", status="colo"))
        await execute("migrate-incoming", {"uri": f"unix:{self._paths.migration}"})
        address = UnixAddress(self._paths.migration)
        self.listen(Stream(await connected(address, _CONNECT_LIMIT_S, self.qmp.name)))

    def listen(self, stream: Stream) -> None:
        """Its migration socket."""
        path, pending = ReturnPath(self._greeting), bytearray()

        def said(data: bytes) -> None:
            try:
                pending.extend(path.feed(data))
            except LiveError as error:
                self.lost(str(error))
            while len(pending) >= _MESSAGE_BYTES:
                self._messages.put_nowait(bytes(pending[:_MESSAGE_BYTES]))
                del pending[:_MESSAGE_BYTES]

        stream.received = said
        stream.ended = lambda: self._messages.put_nowait(None)
        self._socket = stream

    def must_read_within(self, limit_s: float) -> None:
        """From now on it is beyond use if it leaves what it is handed unread for so long."""
        self._read_limit_s = min(limit_s, self._limit_s)

    async def write(self, *parts: bytes | memoryview) -> None:
        """Hand on bytes of the primary's side."""
        if self._socket is None:
            raise LiveError("its migration socket is closed")
        self._socket.write(*parts)
        try:
            await self._socket.taken(_BACKLOG_BYTES, self._read_limit_s)
        except TimeoutError:
            raise LiveError(f"{self.qmp.name}: it does not read its migration socket") from None
        except ConnectionError:
            raise LiveError(f"{self.qmp.name}: its migration socket closed") from None

    async def next_message(self) -> bytes | None:
        """What it says next on the way back; None: we have closed its socket."""
        message = await self._messages.get()
        if message is None:
            self._messages.put_nowait(None)
            if self._is_closed:
                return None
            raise LiveError(self._trouble or f"{self.qmp.name}: its migration socket closed")
        return message

    async def until_running(self, running: bool) -> None:
        """Until it has stopped, or runs again, by itself."""
        what = "resume" if running else "stop"
        try:
            async with asyncio.timeout(self._limit_s):
                while self._running is not running and not self._trouble:
                    await self._changed.wait()
        except TimeoutError:
            limit_s = self._limit_s
            raise LiveError(f"{self.qmp.name}: it did not {what} in {limit_s:g} s") from None
        if self._running is not running:
            raise LiveError(self._trouble or "")

    async def take_over(self) -> None:
        """Leave COLO and go on alone; done when QEMU says that it runs."""
        self.close()
        # It may hold its global lock until what it reads from ends: then its monitor is deaf to
        # all but what it does out of band.
        instances = [{"type": "migration"}]
        with contextlib.suppress(LiveError):
            await self.qmp.execute("yank", {"instances": instances}, self._limit_s, oob=True)
        if self.disk is not None:
            # Until now what the primary writes to the disk is kept from our guest.  Once COLO is
            # left it is not, and a primary that hung may yet wake up.
            await self.disk.fence()
        # Until its COLO thread has seen that the stream ended, it may be between two states.
        if await leave_colo(self.qmp, self._limit_s):
            self._is_over = False
        else:
            self._is_off = True
            self._befell(Fate("off", "it had switched itself off when it was taken over"))

    def close(self) -> None:
        """End its stream, which also frees it if it waits for bytes."""
        self._is_closed = True
        if self._socket is not None:
            self._socket.pause()
            self._socket.close_when_written()
            self._socket = None
            self._messages.put_nowait(None)

    def lost(self, why: str) -> None:
        """Its process ended."""
        self._trouble = self._trouble or f"{self.qmp.name}: {why}"
        self._messages.put_nowait(None)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
