"""A live run: two hosts, their network, the witness and the fence, from start to teardown.

The runner starts everything through the supervisor, makes the pair, lets it work, strikes with the
faults that have a time, and ends everything.  It is the arbiter: it grants the right to go on
alone once, and fences by SIGKILL of a whole domain.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from backends.nodes import of_pair
from backends.qemu import volume
from backends.qemu.address import UnixAddress
from backends.qemu.errors import LiveError
from backends.qemu.launch import MAC, DiskFiles, Paths, argv
from backends.qemu.net.config import CONTROL, GATEWAY, NetConfig
from backends.qemu.net.control import Control
from backends.qemu.net.passt import passt_argv
from backends.qemu.places import LocalPlace, Place, Places
from backends.qemu.plan import HostPlan, LivePlan, StrikePlan
from backends.qemu.scratch import last_words, new_directory
from backends.qemu.stream import Lines, Peer
from backends.qemu.supervisor import Ended, Supervisor
from backends.qemu.telling import Telling, until_ready
from colosim.protocol.digests import DIGESTS
from colosim.protocol.manager import Witness
from colosim.protocol.trace import Line, encode_line
from colosim.protocol.types import Role

#: names of a run's hosts, in the order in which they come
HOSTS = tuple("abcdefghijklmnopqrstuvwxyz")
#: in the run's scratch directory: the replicated disk of the guest that clients talked to last
KEPT_DISK = "disk.img"
_LEAST_DELAY_S = 0.05
_REAPED_S = 0.3  # whoever ended was reaped by then
_STOPPED_LIMIT_S = 5.0
_UNIMPAIRED: Mapping[str, Any] = {"delay_ns": 0, "bandwidth_bps": None, "cut": False}
_DISK_COPIES = 4  # two disks; two overlays, which seldom hold much; a fresh secondary's disk
_UP_LIMIT_S = 20.0
_PAIR_LIMIT_S = 180.0
_NET_LIMIT_S = 5.0


@dataclass(slots=True)
class _Host:
    """A host while it runs."""

    plan: HostPlan
    paths: Paths
    place: Place
    vm_pid: int = 0
    lines: Lines | None = None
    up: asyncio.Event = field(default_factory=asyncio.Event)
    trouble: str | None = None
    ended: set[str] = field(default_factory=set)


class LiveRun(Telling):
    """A pair, while ``async with`` it lasts.

    scratch: a directory for what is kept (traces, consoles).  say: progress for a person.
    """

    def __init__(self, plan: LivePlan, scratch: Path, say: Callable[[str], None]) -> None:
        super().__init__()
        self.plan = plan
        self.primary = plan.hosts[0].name  # who clients talk to
        self.secondary: str | None = None  # who protects it
        self._off: str | None = None  # whose guest switched itself off
        self.checkpoints = 0  # complete
        self.pause_ns = 0  # of the last
        self._scratch = scratch
        self._say = say
        self._witness = Witness()
        self._hosts: dict[str, _Host] = {}
        self._pairs = 1
        self.nodes: dict[str, str] = {}  # id of a node -> its host
        self._over: set[str] = set()  # domains of which a process has ended
        self._healing: set[asyncio.Task[None]] = set()
        self.directory = Path()
        self._network: Control | None = None
        self._supervisor: Supervisor
        self._places: Places
        self.lost: set[str] = set()  # hosts whose machine is out of reach

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[LiveRun]:
        """The processes of the run; all have ended, and were reaped, when the block ends."""
        is_here = any(plan.at is None for plan in self.plan.hosts)
        self.directory = new_directory(self._memory_needed() if is_here else 0)
        try:
            async with Supervisor(self.directory, self._process_ended) as self._supervisor:
                self._places = Places(
                    LocalPlace(self._supervisor, self.directory, self._scratch),
                    self.plan.remote,
                    self._scratch,
                    self._memory_needed(),
                    self._agent_connected,
                    self._process_ended,
                    self._machine_lost,
                )
                server = await asyncio.start_unix_server(
                    lambda *ends: self._agent_connected(Peer(*ends), None),
                    str(self.directory / "runner"),
                    limit=1 << 20,
                )
                try:
                    await self._start_network()
                    yield self
                finally:
                    for task in self._healing:
                        task.cancel()
                    server.close()
                    if self._network is not None:
                        await self._network.close()
                    await self._places.end()
                    with contextlib.suppress(LiveError):
                        await self._supervisor.kill("network")
                    self._keep()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    async def boot(self) -> None:
        """Start the primary's host and wait until its guest says that it is ready."""
        primary = self.plan.hosts[0]
        await self._start_host(primary, incoming=False, peer=self.plan.hosts[-1])
        if self.plan.machine.mac is not None:
            await self.network.ask("listen", _NET_LIMIT_S, host=primary.name, on=True)
            await self.network.ask("own", _NET_LIMIT_S, host=primary.name)
        await self._until_ready(primary.name)

    async def protect(self) -> None:
        """Start the secondary's host and make the pair."""
        a, b = self.plan.hosts
        await self._start_secondary(b, a)
        await self._pair(a.name, b.name)

    async def reprotect(self) -> None:
        """Make a new pair of the host that went on alone and a fresh secondary.

        Clients stay connected; their guest stands still while its memory is sent.  If it fails the
        guest goes on alone as before, and `LiveError` says why.
        """
        survivor = self.promoted
        if survivor is None or self.is_off:
            raise LiveError("no guest goes on alone: there is nothing to protect again")
        name = self._next_host()
        if name is None:
            raise LiveError(f"a run has at most {len(HOSTS)} hosts")
        self._pairs += 1
        first, second = self.plan.hosts
        lead = of_pair(first.node, self._pairs)
        # not on the survivor's machine, where there are two
        away = first if second.at == self._hosts[survivor].plan.at else second
        where = away if first.at != second.at else second
        fresh = HostPlan(name, of_pair(second.node, self._pairs), where.qemu, at=where.at)
        self.tell(survivor, "re-protection", f"with host {name}")
        self._hosts[survivor].plan = replace(self._hosts[survivor].plan, node=lead)
        self.nodes[lead.id] = survivor
        self._witness = Witness()
        self._remove_disks(but=(survivor,))
        try:
            await self._start_secondary(fresh, self._hosts[survivor].plan)
            header = encode_line(Line(lead.id, 0, 0, "node", "", lead))
            peer_qemu = [fresh.qemu.path, fresh.qemu.version]
            ask = self._lines(survivor).ask
            await ask("lead", _UP_LIMIT_S, node=header, peer=name, peer_qemu=peer_qemu)
            await self._pair(survivor, name)
        except LiveError:
            await asyncio.sleep(_REAPED_S)
            if self._hosts[survivor].ended and name in self._hosts:
                raise  # the fresh one may have it all: its own node decides
            if name in self._hosts:
                await self._discard(name)
            if self.promoted is None:
                self.promoted, self.secondary = survivor, None
            raise
        self.tell(survivor, "protected", f"by host {name}")

    def _next_host(self) -> str | None:
        return next((name for name in HOSTS if name not in self._hosts), None)

    async def hand_over(self) -> None:
        """Planned switchover: the primary is told to let the secondary go on."""
        self.tell(self.primary, "switchover", "asked for")
        await self._lines(self.primary).ask("hand_over", _NET_LIMIT_S)

    async def _pair(self, a: str, b: str) -> None:
        self._say("first synchronisation")
        limit_s = _PAIR_LIMIT_S
        disk = await self._lines(b).ask("export", _UP_LIMIT_S)
        if disk is not None:
            await self._lines(a).ask("resync", limit_s, disk=disk)
        accept = asyncio.create_task(self._lines(b).ask("accept", limit_s, limit_s=limit_s))
        self.promoted, self.secondary = None, b
        try:
            await self._lines(a).ask("protect", limit_s)
            await accept
        finally:
            accept.cancel()
            await asyncio.gather(accept, return_exceptions=True)
        self._say("protected")

    async def _start_secondary(self, plan: HostPlan, primary: HostPlan) -> None:
        await self._start_host(plan, incoming=True, peer=primary)
        if self.plan.machine.mac is not None:
            await self.network.ask("listen", _NET_LIMIT_S, host=plan.name, on=True)

    async def _discard(self, name: str) -> str:
        """Shut a host out and end its domain; what there is to say of that."""
        await self.network.ask("fence", _NET_LIMIT_S, host=name)
        return await self._hosts[name].place.fence(name)

    async def settle(self) -> None:
        """After a takeover, until the disk of the guest that goes on is whole; `LiveError`."""
        await self._lines(self.primary).ask("settle", _PAIR_LIMIT_S)

    def words(self) -> str:
        """How it goes, for a person."""
        host = self._hosts[self.primary]
        who = f"{host.plan.node.id} serves" + ("" if self.secondary else " alone")
        if not self.checkpoints:
            return who
        return f"{who}, {self.checkpoints} checkpoints, last pause {self.pause_ns / 1e6:.0f} ms"

    # -- what tests and faults do ----------------------------------------------------------

    @property
    def is_off(self) -> bool:
        """The guest that clients talked to has switched itself off."""
        return self._off is not None and self._off == self.primary

    @property
    def network(self) -> Control:
        """The control of hub and link; there is one as long as the run lasts."""
        assert self._network is not None
        return self._network

    def paths(self, host: str) -> Paths:
        return self._hosts[host].paths

    def disk_of(self, host: str) -> Path | None:
        """The file of a host's replicated disk, if there is one."""
        asked = self.plan.machine.volume
        if asked is None or host not in self._hosts:
            return None
        return DiskFiles.of(asked, self.paths(host)).disk

    def pid_of(self, host: str) -> int:
        """The process id of a host's QEMU, on its machine."""
        return self._hosts[host].vm_pid

    async def snapshot(self, host: str, to: Path) -> None:
        """Copy a host's replicated disk as its QEMU's death at this moment would leave it."""
        there, disk = self._hosts[host], self.disk_of(host)
        if disk is None or there.plan.at is not None:
            raise LiveError(f"host {host} has no replicated disk here")
        await there.place.signal(host, signal.SIGSTOP, "qemu")
        try:
            end_s = time.monotonic() + _STOPPED_LIMIT_S
            while not _stands_still(there.vm_pid):
                if time.monotonic() > end_s:
                    raise LiveError(f"host {host}: its QEMU did not stop")
                await asyncio.sleep(0.001)
            await asyncio.to_thread(volume.copy_sparse, disk, to)
        finally:
            await there.place.signal(host, signal.SIGCONT, "qemu")

    @property
    def hosts(self) -> tuple[str, ...]:
        """All that there were, in the order in which they came."""
        return tuple(self._hosts)

    async def begin(self) -> int:
        """The run proper begins now, with the link as it shall be; the time."""
        if self.plan.link:
            await self.network.ask("link", _NET_LIMIT_S, **dict(self.plan.link))
        self.tell("run", "begin", "")
        return self.events[-1].at_ns

    async def strike(
        self,
        host: str,
        scope: str,
        kind: str,
        duration_ns: int | None = None,
        link: Iterable[tuple[str, int]] = (),
    ) -> None:
        """A fault now: of a process, of a whole host, or (host "link") of the link.

        link: what a slow one has.
        """
        self.tell(host, "fault", f"{scope} {kind}")
        if scope == "link":
            given = {"cut": True} if kind == "cut" else dict(link)
            usual = {**_UNIMPAIRED, **dict(self.plan.link)}
            await self.network.ask("link", _NET_LIMIT_S, **given)
            self._heal_later(host, scope, duration_ns, {name: usual[name] for name in given})
        else:
            number = signal.SIGKILL if kind == "crash" else signal.SIGSTOP
            name = {"vm": "qemu", "node": "agent", "host": None}[scope]
            await self._hosts[host].place.signal(host, number, name)
            self._heal_later(host, scope, duration_ns, {})

    def _heal_later(
        self, host: str, scope: str, duration_ns: int | None, link: Mapping[str, Any]
    ) -> None:
        async def heal() -> None:
            assert duration_ns is not None
            await asyncio.sleep(duration_ns / 1e9)
            self.tell(host, "healed", scope)
            try:
                if scope == "link":
                    await self.network.ask("link", _NET_LIMIT_S, **link)
                else:
                    await self._hosts[host].place.signal(host, signal.SIGCONT)
            except LiveError as error:  # nobody waits for this task
                self.tell(host, "trouble", f"not healed: {error}")

        if duration_ns is not None:
            task = asyncio.create_task(heal())
            self._healing.add(task)
            task.add_done_callback(self._healing.discard)

    async def keep_protected(self, delay_ns: int) -> None:
        """Protect again, a while after each takeover, for ever; what fails is told."""
        while self._next_host() is not None:
            while self.promoted is None or self.is_off:
                await self._changed.wait()
            await asyncio.sleep(max(delay_ns / 1e9, _LEAST_DELAY_S))
            try:
                await self.reprotect()
            except LiveError as error:
                self.tell("run", "not protected", str(error))
        self.tell("run", "not protected", f"a run has at most {len(HOSTS)} hosts")

    def check(self) -> None:
        """`LiveError` if an agent is in trouble."""
        for host in self._hosts.values():
            if host.trouble is not None:
                raise LiveError(host.trouble)

    # -- starting --------------------------------------------------------------------------

    def _memory_needed(self) -> int:
        machine = self.plan.machine
        need_bytes = 3 * machine.memory_bytes  # two guests and the shadow, which may swap
        if machine.volume is not None and machine.volume.directory is None:
            need_bytes += _DISK_COPIES * machine.volume.size_bytes
        return need_bytes

    async def _start_network(self) -> None:
        """The link between the hosts; and, where clients are to reach the guest, its network."""
        log = self._scratch / "network.log"
        forwards = self.plan.forwards
        config = NetConfig(
            self.directory,
            HOSTS,
            has_gateway=forwards is not None,
            guest_mac=MAC,
            capture=None if forwards is None else self._scratch / "gateway.pcap",
            tap=self.plan.tap,
            **self._places.expect(HOSTS if any(plan.at for plan in self.plan.hosts) else ()),
        )
        path = self.directory / "network.json"
        path.write_text(config.to_json())
        if forwards is not None and self.plan.tap is None:
            command = passt_argv(config.path(GATEWAY), forwards)
            await self._supervisor.spawn("network", "passt", command, log)
        command = [sys.executable, "-m", "backends.qemu.net", str(path)]
        await self._supervisor.spawn("network", "hub", command, log)
        self._network = await self._connected_network()

    async def _connected_network(self) -> Control:
        """Its control; or, where it ends at once, its last words."""
        address = UnixAddress(self.directory / CONTROL)
        connecting = asyncio.create_task(Control.connect(address, _UP_LIMIT_S))
        try:
            while not connecting.done() and "network" not in self._over:
                await asyncio.wait([connecting], timeout=0.1)
            if not connecting.done():
                raise LiveError(last_words(self._scratch / "network.log"))
            return await connecting
        finally:
            connecting.cancel()

    async def _start_host(self, plan: HostPlan, incoming: bool, peer: HostPlan) -> None:
        place = await self._places.at(plan.at)
        paths = Paths(place.directory, plan.name)
        host = self._hosts[plan.name] = _Host(plan, paths, place)
        self.nodes[plan.node.id] = plan.name
        machine = await place.machine(self.plan.machine)
        if machine.volume is not None:
            await asyncio.to_thread(volume.make, machine.volume, paths, incoming)
        rewrites = plan.node.compare != DIGESTS and self.plan.rewriter == "qemu"
        command = argv(plan.qemu, machine, paths, incoming, rewrites and incoming)
        await self._start_agent(host, peer)  # first: it listens for the guest's network
        host.vm_pid = await place.start_qemu(plan.name, command)
        ask = self._lines(plan.name).ask
        adopt = asyncio.create_task(ask("adopt", _UP_LIMIT_S, vm_pid=host.vm_pid))
        try:
            while not adopt.done():  # if QEMU ends at once, its own last words say more
                self._check(host)
                await asyncio.wait([adopt], timeout=0.1)
            await adopt
        finally:
            adopt.cancel()

    async def _start_agent(self, host: _Host, other: HostPlan) -> None:
        plan = host.plan
        header = Line(plan.node.id, 0, 0, "node", "", plan.node)
        compares = plan.node.compare != DIGESTS
        frames = self._scratch / f"{plan.name}.frames.pcap"
        config = {
            "host": plan.name,
            "peer": other.name,
            "services": await self._places.services(plan.at, plan.name, self.network),
            "node": encode_line(header),
            "memory_bytes": self.plan.machine.memory_bytes,
            "qemu": [plan.qemu.path, plan.qemu.version],
            "peer_qemu": [other.qemu.path, other.qemu.version],
            "trace": None if plan.at else str(self._scratch / f"{plan.name}.trace"),
            "saves": None if plan.at else str(self._scratch / f"{plan.name}.saves"),
            "has_net": self.plan.machine.mac is not None,
            "strikes": [astuple(strike) for strike in plan.strikes],
            "rewrites": compares
            and plan.node.role is Role.SECONDARY
            and self.plan.rewriter == "strict",
            "capture": str(frames) if compares and not plan.at else None,
            "volume": self._volume_asked(),
        }
        await host.place.start_agent(plan.name, config)
        await self._wait(host, host.up, _UP_LIMIT_S, "its agent did not come up")

    def _volume_asked(self) -> dict[str, Any] | None:
        """As an agent is told."""
        asked = self.plan.machine.volume
        if asked is None:
            return None
        return {**asdict(asked), "image": None}  # the agent makes no disks

    async def _until_ready(self, name: str) -> None:
        host, plan = self._hosts[name], self.plan
        self._say("booting the guest")
        console = host.place.console(name)
        await until_ready(name, console, plan.ready, plan.boot_limit_s, partial(self._check, host))

    async def _wait(self, host: _Host, event: asyncio.Event, limit_s: float, else_: str) -> None:
        end_s = time.monotonic() + limit_s
        while not event.is_set():
            self._check(host)
            if time.monotonic() > end_s:
                raise LiveError(f"host {host.plan.name}: {else_} within {limit_s:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await event.wait()

    def _check(self, host: _Host) -> None:
        if host.trouble is not None:
            raise LiveError(f"host {host.plan.name}: {host.trouble}")
        if host.ended:
            what = " and ".join(sorted(host.ended))
            log = self._scratch / f"{host.plan.name}.log"
            raise LiveError(f"host {host.plan.name}: {what} ended at once: {last_words(log)}")

    def _lines(self, name: str) -> Lines:
        lines = self._hosts[name].lines
        if lines is None:
            raise LiveError(f"host {name}: its agent is not connected")
        return lines

    # -- what agents and the supervisor tell -----------------------------------------------

    async def _agent_connected(self, peer: Peer, speaker: str | None) -> None:
        """A node agent; one of another machine proved to be that of the host ``speaker``."""
        hello = json.loads(await peer.reader.readline() or b"{}")
        host = self._hosts.get(hello.get("host", ""))
        if host is None or speaker not in (None, host.plan.name):
            peer.close()
            return

        async def perform(name: str, arguments: dict[str, Any]) -> Any:
            return await getattr(self, f"do_{name}")(host, **arguments)

        host.lines = Lines(peer, perform)
        await host.lines.serve()

    async def do_up(self, host: _Host) -> None:
        host.up.set()

    async def do_trace(self, host: _Host, text: str) -> None:
        """Lines of a host whose files are not here."""
        self._append(f"{host.plan.name}.trace", text)

    async def do_saves(self, host: _Host, text: str) -> None:
        self._append(f"{host.plan.name}.saves", text)

    def _append(self, name: str, text: str) -> None:
        with (self._scratch / name).open("a") as file:
            file.write(text)

    async def do_trouble(self, host: _Host, why: str) -> None:
        host.trouble = why
        self.tell(host.plan.name, "trouble", why)

    async def do_report(self, host: _Host, text: str) -> None:
        self.tell(host.plan.name, "report", text)

    async def do_scanner(self, host: _Host, name: str) -> None:
        self.tell(host.plan.name, "scanner", name)

    async def do_struck(self, host: _Host, strike: Any) -> None:
        """A host does this to itself now; what befalls the link is done here."""
        plan, name = StrikePlan(*strike), host.plan.name
        if plan.scope == "link":
            await self.strike("link", plan.scope, plan.kind, plan.duration_ns, plan.link)
        else:
            self.tell(name, "fault", f"{plan.scope} {plan.kind} at {plan.step}")
            self._heal_later(name, plan.scope, plan.duration_ns, {})

    async def do_completed(self, host: _Host, pause_ns: int) -> None:
        self.checkpoints += 1
        self.pause_ns = pause_ns

    async def do_merged(self, host: _Host, took_ns: int) -> None:
        """What a survivor's guest wrote as a secondary is in its disk."""
        self.tell(host.plan.name, "disk merged", f"in {took_ns / 1e6:.1f} ms")

    async def do_noticed(self, host: _Host, what: str, why: str) -> None:
        if what == "off":
            self._off = host.plan.name
        self.tell(host.plan.name, f"guest {what}", why)

    async def do_promoted(self, host: _Host) -> None:
        if not self._is_present(host):
            return
        self.promoted = self.primary = host.plan.name
        self.secondary = None
        self.tell(host.plan.name, "promoted", "")

    def _is_present(self, host: _Host) -> bool:
        """Of the pair that there is: what an older one still says comes late, and means nothing."""
        return host.plan.node.pair == self._pairs

    async def do_vote(self, asking: _Host, host: str) -> bool:
        granted = self._is_present(asking) and self._witness.ask(host)
        self.tell(asking.plan.name, "vote", "granted" if granted else "denied")
        return granted

    async def do_fence(self, asking: _Host, host: str) -> None:
        """The other host can do nothing any more when this returns."""
        if self.plan.fence_fails:
            raise LiveError("manager.fence_fails: fencing fails, as the scenario says")
        if not self._is_present(asking):
            raise LiveError(f"host {asking.plan.name} is of a pair that is over")
        how = await self._discard(host)
        self.tell(host, "fenced", f"by {asking.plan.name}{how}")

    def ahead_ns(self) -> dict[str, int]:
        """How far the clock of each node's machine is ahead of ours."""
        return {node: self._hosts[name].place.ahead_ns for node, name in self.nodes.items()}

    def _machine_lost(self, place: Place, why: str) -> None:
        for name, host in self._hosts.items():
            if host.place is place:
                self.lost.add(name)
                self.tell(name, "lost", why)

    def _process_ended(self, ended: Ended) -> None:
        self._over.add(ended.domain)
        host = self._hosts.get(ended.domain)
        if host is not None:
            host.ended.add(ended.name)
        self.tell(ended.domain, "ended", f"{ended.name} with status {ended.status}")

    def _label(self, name: str) -> str:
        """A host is called as its node of the present pair."""
        host = self._hosts.get(name)
        return name if host is None else host.plan.node.id

    # -- keeping ---------------------------------------------------------------------------

    def _keep(self) -> None:
        for name, host in self._hosts.items():
            kept, console = self._scratch / f"{name}.console.log", host.place.console(name)
            if console != kept and console.exists():
                shutil.copy(console, kept)
        disk = self.disk_of(self.primary)
        try:
            if disk is not None and disk.exists():
                volume.copy_sparse(disk, self._scratch / KEPT_DISK)
        finally:
            self._remove_disks()

    def _remove_disks(self, but: Iterable[str] = ()) -> None:
        """Those of dead hosts are of no use: a fresh secondary gets all of it anew."""
        asked = self.plan.machine.volume
        if asked is not None:
            for host in self._hosts.values():
                if host.plan.name not in but:
                    volume.remove(asked, host.paths)


def _stands_still(pid: int) -> bool:
    """All threads of a process are stopped, or gone with it."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        states = [
            (task / "stat").read_text().rpartition(")")[2].split()[0]
            for task in Path(f"/proc/{pid}/task").iterdir()
        ]
        return all(state in "TtZX" for state in states)
    return not Path(f"/proc/{pid}").exists()
