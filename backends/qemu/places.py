"""Where the hosts of a run are: on this machine, or at a `colosim agent` on another.

A `Place` is a machine: it starts, signals and ends the processes of the hosts there.  `Places` has
those of a run, and the door through which node agents of other machines reach the runner.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import secrets
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backends.qemu import tracking
from backends.qemu.address import TcpAddress, UnixAddress, connected, endpoint
from backends.qemu.door import Door
from backends.qemu.errors import LiveError
from backends.qemu.host_agent import AGENT, ALIVE_S, PIECE_BYTES, RUNNER, SILENCE_LIMIT_S
from backends.qemu.launch import Machine, Qemu
from backends.qemu.net.config import CONTROL, HUB, LINK
from backends.qemu.net.control import Control
from backends.qemu.scratch import free_soon
from backends.qemu.secret import derived
from backends.qemu.stream import Lines, Peer, peer_of
from backends.qemu.supervisor import Ended, Supervisor
from colosim import __version__

SERVICES = (RUNNER, HUB, LINK, CONTROL)
_CONNECT_LIMIT_S = 5.0
_ASK_LIMIT_S = 20.0
_PROBE_LIMIT_S = 60.0
_FENCE_LIMIT_S = 1.0  # that it is shut out makes it safe; clients wait for this
_MIRROR_LIMIT_BYTES = 64 << 20
_CLOCK_ASKS = 9

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Remote:
    """What a run with hosts on other machines needs.

    listen: the address of this machine that they come to.  port: of the runner; the network process
    has the next one; 0: free ones.
    """

    listen: str
    secret: bytes = field(repr=False)
    port: int = 0


class Place(ABC):
    """A machine.  directory: of the run, there.  ahead_ns: how far its clock is ahead of ours."""

    directory: Path
    ahead_ns = 0

    @abstractmethod
    async def machine(self, machine: Machine) -> Machine:
        """The same, with kernel and initramfs where they are there."""

    @abstractmethod
    async def start_agent(self, host: str, config: dict[str, Any]) -> None:
        """Start a host's node agent."""

    @abstractmethod
    async def start_qemu(self, host: str, argv: list[str]) -> int:
        """Start a host's QEMU; its process id there."""

    @abstractmethod
    async def signal(self, host: str, number: int, name: str | None = None) -> None:
        """Send a signal to one of a host's processes, or to all."""

    @abstractmethod
    async def fence(self, host: str) -> str:
        """End a host that is shut out of the network already; its memory is free soon after.

        What is to be said of it, if anything.
        """

    @abstractmethod
    def console(self, host: str) -> Path:
        """A file of this machine that grows as the guest's console does."""

    @abstractmethod
    async def end(self) -> None:
        """Nothing of the run is left there."""


class LocalPlace(Place):
    """This machine: the run's own supervisor and directory."""

    def __init__(self, supervisor: Supervisor, directory: Path, scratch: Path) -> None:
        self.directory = directory
        self._supervisor = supervisor
        self._scratch = scratch
        self._hosts: set[str] = set()

    async def machine(self, machine: Machine) -> Machine:
        return machine

    async def start_agent(self, host: str, config: dict[str, Any]) -> None:
        path = self.directory / f"{host}.json"
        path.write_text(json.dumps({**config, "directory": str(self.directory)}))
        argv = [sys.executable, "-m", "backends.qemu.agent", str(path)]
        await self._spawn(host, "agent", argv)

    async def start_qemu(self, host: str, argv: list[str]) -> int:
        ram = self.directory / f"{host}.ram"
        ram.touch(0o600)
        return await self._spawn(host, "qemu", argv, tracking.environment(ram))

    async def _spawn(
        self, host: str, name: str, argv: list[str], env: Mapping[str, str] | None = None
    ) -> int:
        self._hosts.add(host)
        log = self._scratch / f"{host}.log"
        return await self._supervisor.spawn(host, name, argv, log, env)

    async def signal(self, host: str, number: int, name: str | None = None) -> None:
        await self._supervisor.signal(host, number, name)

    async def fence(self, host: str) -> str:
        await self._supervisor.kill(host)
        free_soon(self.directory / f"{host}.ram")
        return ""

    def console(self, host: str) -> Path:
        return self.directory / f"{host}.console.log"

    async def end(self) -> None:
        for host in self._hosts:
            with contextlib.suppress(LiveError):
                await self._supervisor.kill(host)


class RemotePlace(Place):
    """Another machine, by its `colosim agent` at ``at`` ("HOST:PORT").

    Consoles and logs of its hosts grow in ``scratch`` too.  ended(Ended) is called for every
    process of it that ends; lost(place, why) once when it is out of reach.
    """

    def __init__(
        self,
        at: str,
        scratch: Path,
        ended: Callable[[Ended], None],
        lost: Callable[[Place, str], None],
    ) -> None:
        self._at = at
        self._scratch = scratch
        self._ended = ended
        self._lost = lost
        self._why: str | None = None  # it is out of reach
        self._is_ending = False
        self._end_limit_s = _ASK_LIMIT_S
        self._heard_s = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self._sent: dict[Path, Path] = {}
        self._peer: Peer
        self._lines: Lines

    async def begin(self, run: str, secret: bytes, memory_bytes: int) -> None:
        """Connect, and have a directory there."""
        await self._connect(secret)
        given = await self._ask(
            "begin", _ASK_LIMIT_S, run=run, version=__version__, memory_bytes=memory_bytes
        )
        self.directory = Path(given["directory"])
        self.ahead_ns = await self._clock_ahead()

    @property
    def is_in_reach(self) -> bool:
        return self._why is None

    async def _connect(self, secret: bytes) -> None:
        address = TcpAddress(*endpoint(self._at), AGENT, RUNNER, secret)
        self._peer = await peer_of(await connected(address, _CONNECT_LIMIT_S, "colosim agent"))
        self._lines = Lines(self._peer, self._perform)
        self._tasks = [asyncio.create_task(self._serve()), asyncio.create_task(self._live())]

    async def _serve(self) -> None:
        await self._lines.serve()
        if self._why is None:
            self._why = "its connection has ended"
        if not self._is_ending:
            self._lost(self, f"colosim agent at {self._at}: {self._why}")

    async def _live(self) -> None:
        while self._why is None:
            if time.monotonic() - self._heard_s > SILENCE_LIMIT_S:
                self._why = f"nothing was heard of it for {SILENCE_LIMIT_S:g} s"
                self._peer.writer.transport.abort()
                return
            self._lines.tell("alive")
            await asyncio.sleep(ALIVE_S)

    async def _perform(self, name: str, arguments: dict[str, Any]) -> Any:
        self._heard_s = time.monotonic()
        match name:
            case "grown":
                self._mirror(**arguments)
            case "ended":
                self._ended(Ended(**arguments))
            case _:
                pass  # alive; or a word of a newer agent

    def _mirror(self, name: str, data: str) -> None:
        path = self._scratch / Path(name).name
        with path.open("ab") as file:
            if file.tell() < _MIRROR_LIMIT_BYTES:
                file.write(base64.b64decode(data))

    async def _ask(self, do: str, limit_s: float, /, **arguments: Any) -> Any:
        try:
            if self._why is not None:
                raise LiveError(self._why)
            return await self._lines.ask(do, limit_s, **arguments)
        except LiveError as error:
            raise LiveError(f"colosim agent at {self._at}: {self._why or error}") from None

    async def _clock_ahead(self) -> int:
        """By the quickest of some answers, as NTP does: right to half of its way there and back."""
        best: tuple[int, int] | None = None
        for _ in range(_CLOCK_ASKS):
            asked_ns = time.monotonic_ns()
            there_ns = int(await self._ask("clock", _ASK_LIMIT_S))
            took_ns = time.monotonic_ns() - asked_ns
            found = (took_ns, there_ns - asked_ns - took_ns // 2)
            best = found if best is None else min(best, found)
        assert best is not None
        return best[1]

    async def probe(self, path: str) -> Qemu:
        """A QEMU there."""
        found, (major, minor, micro) = await self._ask("probe", _PROBE_LIMIT_S, path=path)
        return Qemu(found, (major, minor, micro))

    async def kvm_works(self, qemu: Qemu) -> bool:
        """Whether KVM is worth it there."""
        version = list(qemu.version)
        return bool(await self._ask("kvm", _PROBE_LIMIT_S, path=qemu.path, version=version))

    async def machine(self, machine: Machine) -> Machine:
        kernel, initrd = [
            None if path is None else await self._file(path)
            for path in (machine.kernel, machine.initrd)
        ]
        return replace(machine, kernel=kernel, initrd=initrd)

    async def _file(self, path: Path) -> Path:
        """Where a file of ours is there; it is sent if need be."""
        if path in self._sent:
            return self._sent[path]
        with path.open("rb") as file:
            sha = await asyncio.to_thread(hashlib.file_digest, file, "sha256")
            digest, size = sha.hexdigest(), file.tell()
            found = await self._ask("file", _ASK_LIMIT_S, digest=digest, size=size)
            file.seek(0)
            while found is None:
                piece = file.read(PIECE_BYTES)
                if not piece:
                    raise LiveError(f"{path}: it changed while it was sent")
                data = base64.b64encode(piece).decode()
                found = await self._ask("piece", _ASK_LIMIT_S, digest=digest, data=data)
        self._sent[path] = Path(found)
        return self._sent[path]

    async def start_agent(self, host: str, config: dict[str, Any]) -> None:
        await self._ask("agent", _ASK_LIMIT_S, domain=host, config=config)

    async def start_qemu(self, host: str, argv: list[str]) -> int:
        return int(await self._ask("qemu", _ASK_LIMIT_S, domain=host, argv=argv))

    async def signal(self, host: str, number: int, name: str | None = None) -> None:
        await self._ask("signal", _ASK_LIMIT_S, domain=host, number=number, name=name)

    async def fence(self, host: str) -> str:
        """Kill it if it can be reached.

        If not, that it is shut out is the fence: all that clients see of it goes through our hub.
        Its agent ends it as soon as it misses us.
        """
        try:
            await self._ask("kill", _FENCE_LIMIT_S, domain=host)
        except LiveError as error:
            self._end_limit_s = _FENCE_LIMIT_S  # it may be dead, and its run ends without us
            return f"; only shut out of the network: {error}"
        return ""

    def console(self, host: str) -> Path:
        return self._scratch / f"{host}.console.log"

    async def end(self) -> None:
        self._is_ending = True
        if self._tasks:
            with contextlib.suppress(LiveError):
                await self._ask("end", self._end_limit_s)
        await self._disconnect()

    async def _disconnect(self) -> None:
        self._is_ending = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
            self._peer.close()


@contextlib.asynccontextmanager
async def asked(at: str, secret: bytes) -> AsyncIterator[RemotePlace]:
    """An agent that is only asked something: no run begins there."""
    place = RemotePlace(at, Path(), lambda ended: None, lambda place, why: None)
    await place._connect(secret)
    try:
        yield place
    finally:
        await place._disconnect()


#: gets a node agent's connection, and the host that it proved to be
Connected = Callable[[Peer, str | None], Awaitable[None]]


class Places:
    """The machines of a run.

    connected: gets the connections of node agents.  ended, lost: as of `RemotePlace`.
    """

    def __init__(
        self,
        local: LocalPlace,
        remote: Remote | None,
        scratch: Path,
        memory_bytes: int,
        connected: Connected,
        ended: Callable[[Ended], None],
        lost: Callable[[Place, str], None],
    ) -> None:
        self._local = local
        self._places: dict[str, RemotePlace] = {}
        self._remote = remote
        self._scratch = scratch
        self._memory_bytes = memory_bytes
        self._connected = connected
        self._ended = ended
        self._lost = lost
        self._run = secrets.token_hex(16)
        self._keys: dict[str, bytes] = {}
        self._door: Door | None = None
        self._coming: set[asyncio.Task[None]] = set()

    def expect(self, hosts: Sequence[str]) -> dict[str, Any]:
        """Hosts that may be on other machines; what the network process must know of them."""
        if not hosts:
            return {}
        remote = self._needed()
        for host in hosts:
            self._keys[host] = derived(remote.secret, "session", self._run, host)
        keys = tuple((host, self._keys[host].hex()) for host in hosts)
        port = remote.port + 1 if remote.port else 0
        return {"listen": remote.listen, "port": port, "keys": keys}

    async def at(self, at: str | None) -> Place:
        """The machine whose agent is there; None: this one."""
        if at is None:
            return self._local
        if (place := self._places.get(at)) is not None:
            if place.is_in_reach:
                return place
            await place.end()  # its agent may have been started again
        made = RemotePlace(at, self._scratch, self._ended, self._lost)
        try:
            await made.begin(self._run, self._needed().secret, self._memory_bytes)
        except BaseException:
            self._places.pop(at, None)
            await made.end()
            raise
        self._places[at] = made
        return made

    async def services(self, at: str | None, host: str, network: Control) -> dict[str, str]:
        """How a host's node agent reaches the parts of the run: addresses by name."""
        if at is None:
            directory = self._local.directory
            return {name: str(UnixAddress(directory / name)) for name in SERVICES}
        door = await self._opened()
        hub_host, hub_port = (await network.ask("stats", _ASK_LIMIT_S))["door"]
        where = dict.fromkeys(SERVICES, (hub_host, hub_port)) | {RUNNER: door.at}
        return {name: str(TcpAddress(*where[name], name, host, b"")) for name in SERVICES}

    def _needed(self) -> Remote:
        if self._remote is None:
            raise LiveError("hosts: a host on another machine needs hosts.listen and a secret")
        return self._remote

    async def _opened(self) -> Door:
        if self._door is None:
            remote = self._needed()
            self._door = await Door.opened(
                remote.listen, remote.port, self._keys, {RUNNER: self._came}, lambda text: None
            )
        return self._door

    def _came(self, sock: socket.socket, host: str) -> None:
        async def serve() -> None:
            await self._connected(await peer_of(sock), host)

        task = asyncio.create_task(serve())
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    async def end(self) -> None:
        """Nothing of the run is left on any machine that can be reached."""
        if self._door is not None:
            self._door.close()
        for task in self._coming:  # a connection with a dead machine would last
            task.cancel()
        await asyncio.gather(*(place.end() for place in (self._local, *self._places.values())))
