"""The process of one host: its node, and the world around it.

``python -m backends.qemu.agent CONFIG`` is started by the supervisor.  The runner tells it by
`stream.Lines` what to do: ``protect`` and ``accept`` make a pair of two agents, and ``lead`` makes
the survivor of a pair the primary of the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.qemu import heap
from backends.qemu.address import Address, parse
from backends.qemu.errors import LiveError
from backends.qemu.genuine import ColoCompare, CompareSettings
from backends.qemu.guests import Fate, PrimaryGuest, SecondaryGuest
from backends.qemu.launch import Paths, Qemu, Volume
from backends.qemu.memory import scanner_for
from backends.qemu.net.acked import Acked
from backends.qemu.net.config import CAPTURE_LIMIT_BYTES, CONTROL, HUB, LINK
from backends.qemu.net.control import Control
from backends.qemu.net.pcap import Capture
from backends.qemu.net.port import Port
from backends.qemu.plan import StrikePlan
from backends.qemu.qmp import Qmp
from backends.qemu.stream import Channel, Kind, Lines, connect, head, join, pack
from backends.qemu.volume import ReplicaDisk, SourceDisk
from backends.qemu.world import NS_PER_S, LiveHost, PrimaryHost, SecondaryHost, Trace
from colosim.protocol.compare import ELSEWHERE
from colosim.protocol.digests import DIGESTS
from colosim.protocol.node import NodeConfig
from colosim.protocol.rewrite import StrictRewriter
from colosim.protocol.trace import decode_line
from colosim.protocol.types import HandOver, Role

_GOES_ON = ("alone", "idle")  # after a takeover; after an attempt to protect it that failed
_VOTE_LIMIT_S = 60.0  # the core's own limit is shorter
_OPERATION_LIMIT_S = 60.0  # likewise


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """What the runner tells an agent at its start; ``node`` is the header of its trace.

    services: addresses of runner, hub, link and control; key: in hex, for those that are TCP.
    trace, saves: files; None: the runner is on another machine, and is told.  rewrites: sequence
    numbers are translated here.  capture: file of the guest's frames, where they are compared.
    volume: the guest's replicated disk.
    """

    host: str
    peer: str
    directory: str
    node: str
    memory_bytes: int
    qemu: tuple[str, tuple[int, int, int]]
    peer_qemu: tuple[str, tuple[int, int, int]]
    trace: str | None
    saves: str | None
    has_net: bool
    services: dict[str, str]
    key: str | None = None
    strikes: tuple[StrikePlan, ...] = ()
    rewrites: bool = False
    capture: str | None = None
    volume: Volume | None = None


class Authority:
    """The runner, as witness and fence."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    async def vote(self, host: str) -> bool:
        return bool(await self._lines.ask("vote", _VOTE_LIMIT_S, host=host))

    async def fence(self, host: str) -> None:
        await self._lines.ask("fence", _VOTE_LIMIT_S, host=host)

    def tell(self, name: str, /, **arguments: Any) -> None:
        self._lines.tell(name, **arguments)


class Agent:
    """One host."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._directory = Path(config.directory)
        self._paths = Paths(self._directory, config.host)
        self._host: LiveHost | None = None
        self._guest: PrimaryGuest | SecondaryGuest | None = None
        self._peer_qemu = Qemu(*config.peer_qemu)
        self._qmp: Qmp | None = None
        self._network: Control | None = None
        self._port: Port | None = None
        self._capture: Capture | None = None
        self._colo_compare: ColoCompare | None = None

    async def run(self) -> None:
        """Until the runner ends."""
        config = self._config
        runner = await connect(self._to("runner"), {"host": config.host}, who="the runner")
        lines = Lines(runner, self._perform)
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: self._defect(lines, context)
        )
        self._authority = Authority(lines)
        serving = asyncio.create_task(lines.serve())
        try:
            await self._join_network()
            lines.tell("up")
        except LiveError as error:
            lines.tell("trouble", why=str(error))
        await serving
        if self._host is not None:
            self._host.close()
        if self._qmp is not None:
            await self._qmp.close()
        if self._port is not None:
            await self._port.close()
        if self._network is not None:
            await self._network.close()
        if self._capture is not None:
            self._capture.close()
        if self._colo_compare is not None:
            self._colo_compare.close()

    async def _join_network(self) -> None:
        config = self._config
        if config.has_net:
            self._network = await Control.connect(self._to(CONTROL), host=config.host)
            # What clients send to a guest that is not theirs is kept until it may become theirs.
            node = decode_line(config.node).body
            keeps = node.role is Role.SECONDARY
            self._port = Port(
                self._directory,
                config.host,
                self._output,
                hub=self._to(HUB),
                keeps=keeps,
                rewriter=StrictRewriter() if config.rewrites else None,
                acked=Acked() if keeps and node.compare != DIGESTS else None,
            )
            await self._port.start()

    def _to(self, service: str) -> Address:
        config = self._config
        key = None if config.key is None else bytes.fromhex(config.key)
        return parse(config.services[service], config.host, key)

    def _writer(self, path: str | None, name: str) -> Callable[[bytes], object]:
        """Appends to a file of the record at once; where there is none, the runner is told."""
        if path is None:
            return lambda data: self._authority.tell(name, text=data.decode())
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return functools.partial(os.write, os.open(path, flags, 0o600))

    # -- what the runner asks --------------------------------------------------------------

    async def do_adopt(self, vm_pid: int) -> None:
        """Take the QEMU that was started for this host."""
        config = self._config
        self._vm_pid = vm_pid
        self._qmp = Qmp(f"QEMU of host {config.host}", self._heard, self._lost)
        await self._qmp.connect(self._paths.qmp)
        self._trace = Trace(self._writer(config.trace, "trace"))
        self._write_saved = self._writer(config.saves, "saves")
        if config.capture is not None:
            self._capture = Capture(Path(config.capture), CAPTURE_LIMIT_BYTES)
        await self._become(decode_line(config.node).body, config.peer, config.strikes)

    async def do_lead(self, node: str, peer: str, peer_qemu: tuple[str, Any]) -> None:
        """Be the primary of a new pair: this guest is the one that clients talk to."""
        if self._host is None or self._host.node.step not in _GOES_ON:
            raise LiveError(f"host {self._config.host} does not go on alone (yet)")
        await self.do_settle()
        path, version = peer_qemu
        self._peer_qemu = Qemu(path, tuple(version))
        self._host.close()
        await self._become(decode_line(node).body, peer)

    async def _become(
        self, node: NodeConfig, peer: str, strikes: Iterable[StrikePlan] = ()
    ) -> None:
        """Take a role in a pair."""
        config, paths, qmp = self._config, self._paths, self._qmp
        assert qmp is not None
        rest: dict[str, Any] = {
            "host": config.host,
            "peer": peer,
            "config": node,
            "trace": self._trace,
            "authority": self._authority,
            "vm_pid": self._vm_pid,
            "port": self._port,
            "network": self._network,
            "strikes": strikes,
            "capture": self._capture,
        }
        if node.role is Role.PRIMARY:
            scanner = scanner_for(self._vm_pid, paths.ram, config.memory_bytes)
            self._authority.tell("scanner", name=scanner.name)
            disk = None
            if config.volume is not None:
                # the core's limit of `stop` would say that our own guest hangs
                limits = node.limits
                patience_s = min(limits.stop_ns, limits.save_ns) / 2 / NS_PER_S
                disk = SourceDisk(qmp, patience_s, self._replica_lost)
            guest = PrimaryGuest(qmp, paths, scanner, _OPERATION_LIMIT_S, self._befell, disk)
            genuine = await self._genuine(node)
            self._guest = guest
            self._host = PrimaryHost(guest, self._saved, genuine=genuine, **rest)
        else:
            qemu = Qemu(*config.qemu)
            replica = None if config.volume is None else ReplicaDisk(qmp, paths, config.volume)
            limit_s = _OPERATION_LIMIT_S
            second = SecondaryGuest(qmp, paths, qemu, limit_s, self._befell, replica)
            self._guest, self._host = second, SecondaryHost(second, **rest)

    async def _genuine(self, node: NodeConfig) -> ColoCompare | None:
        """QEMU's own comparator, where it shall compare."""
        if node.compare != ELSEWHERE:
            return None
        assert self._qmp is not None
        if self._colo_compare is not None:
            self._colo_compare.restart()
            return self._colo_compare

        def same(numbers: list[int]) -> None:
            if isinstance(self._host, PrimaryHost):
                self._host.found_same(numbers)

        def asks() -> None:
            if isinstance(self._host, PrimaryHost):
                self._host.asked()

        compare = ColoCompare(same, asks)
        settings = CompareSettings.of(node)
        await compare.start(self._qmp, self._directory, self._config.host, settings)
        self._colo_compare = compare
        return compare

    async def _perform(self, name: str, arguments: dict[str, Any]) -> Any:
        return await getattr(self, f"do_{name}")(**arguments)

    async def do_export(self) -> dict[str, Any] | None:
        """Let the primary write to this secondary's disk; where, if there is one."""
        assert isinstance(self._guest, SecondaryGuest)
        return None if self._guest.disk is None else await self._guest.disk.export()

    async def do_settle(self) -> None:
        """Until the disk of a guest that was taken over is whole."""
        if isinstance(self._guest, SecondaryGuest) and self._guest.disk is not None:
            await self._guest.disk.merged()

    async def do_resync(self, disk: dict[str, Any]) -> None:
        """Copy the guest's disk to where the peer's can be written to; `do_protect` comes next."""
        assert isinstance(self._host, PrimaryHost)
        assert isinstance(self._guest, PrimaryGuest)
        async with self._or_go_on():
            await self._guest.resync(disk, self._host.peer)

    async def do_protect(self) -> None:
        """Send the guest to the peer and begin."""
        assert isinstance(self._host, PrimaryHost)
        assert isinstance(self._guest, PrimaryGuest)
        async with self._or_go_on():
            stream, beats = await self._joined()
            self._host.attach(stream, beats)
            if self._port is not None and self._port.rewriter is not None:
                stream.write(pack(Kind.NUMBERS, self._port.rewriter.numbers()))

            async def write(data: bytes | memoryview) -> None:
                stream.write(head(Kind.MIGRATION, len(data)), data)
                try:
                    await stream.taken()
                except ConnectionError:
                    raise LiveError("the secondary's side ended during synchronisation") from None

            await self._guest.synchronise(write, self._peer_qemu)
        self._host.start()

    @contextlib.asynccontextmanager
    async def _or_go_on(self) -> AsyncIterator[None]:
        """Around a part of the first synchronisation; if it fails, clients are served as before."""
        assert isinstance(self._host, PrimaryHost)
        assert isinstance(self._guest, PrimaryGuest)
        try:
            yield
        except LiveError:
            self._host.close()
            await self._guest.go_on()
            raise

    async def do_hand_over(self) -> None:
        """Planned switchover."""
        if not isinstance(self._host, PrimaryHost) or not self._host.started:
            raise LiveError(f"host {self._config.host}: there is no pair to hand over to")
        self._host.tell(HandOver())

    async def do_accept(self, limit_s: float) -> None:
        """Become the peer of an agent that protects its guest; returns when in COLO."""
        assert isinstance(self._host, SecondaryHost)
        assert isinstance(self._guest, SecondaryGuest)
        await self._guest.prepare()
        self._host.attach(*await self._joined())
        assert self._guest.in_colo is not None
        try:
            async with asyncio.timeout(limit_s):
                await self._guest.in_colo
        except TimeoutError:
            raise LiveError(f"the secondary did not enter COLO within {limit_s:g} s") from None
        self._host.start()

    async def _joined(self) -> tuple[Channel, Channel]:
        link, host = self._to(LINK), self._config.host
        return (
            await join(link, {"host": host, "channel": "stream"}, "the link"),
            await join(link, {"host": host, "channel": "beat"}, "the link"),
        )

    # -- what happens ----------------------------------------------------------------------

    def _output(self, frames: list[bytes]) -> None:
        if self._host is not None:
            self._host.output(frames)

    def _saved(self, row: Mapping[str, Any]) -> None:
        self._write_saved(json.dumps(row).encode() + b"\n")

    def _heard(self, event: Any) -> None:
        if self._guest is not None:
            self._guest.heard(event)

    def _befell(self, fate: Fate) -> None:
        if self._host is not None:
            self._host.befell(fate)

    def _replica_lost(self, why: str) -> None:
        if isinstance(self._host, PrimaryHost):
            self._host.replica_lost(why)

    def _lost(self, why: str) -> None:
        if self._host is not None:
            self._host.vm_lost(why)

    def _defect(self, lines: Lines, context: dict[str, Any]) -> None:
        error = context.get("exception")
        logging.error("%s", context.get("message"), exc_info=error)
        lines.tell("trouble", why=f"defect in the agent: {type(error).__name__}: {error}")


def main() -> None:
    """Run the agent that the file ``argv[1]`` describes."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    raw = json.loads(Path(sys.argv[1]).read_text())
    for name in ("qemu", "peer_qemu"):
        path, version = raw[name]
        raw[name] = (path, tuple(version))
    if raw["volume"] is not None:
        raw["volume"] = Volume(**raw["volume"])
    raw["strikes"] = tuple(StrikePlan(*each) for each in raw["strikes"])
    heap.settle()
    asyncio.run(Agent(AgentConfig(**raw)).run())


if __name__ == "__main__":
    main()
