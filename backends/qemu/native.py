"""The native engine: QEMU on both sides runs COLO itself, and we are its manager and its witness.

The primary's QEMU migrates to a tap (`tap.py`), the tap hands every byte to the secondary's QEMU,
and `pair.py` manages both and compares them with our nodes.  This module is the runner's part: it
starts and ends all processes, grants the right to go on alone once, fences and strikes.

QEMU decides when to checkpoint: x-checkpoint-delay is the policy's interval or delay.  Under policy
``remus`` output is held by our gates, so that it means what it means elsewhere.  Under policy
``colo`` QEMU's own proxy holds and compares it (`proxy.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from backends.qemu import doctor, proxy
from backends.qemu.address import UnixAddress
from backends.qemu.errors import LiveError
from backends.qemu.launch import MAC, Paths, argv
from backends.qemu.net.config import CONTROL, GATEWAY, NetConfig
from backends.qemu.net.control import Control
from backends.qemu.net.passt import passt_argv
from backends.qemu.plan import HostPlan, LivePlan
from backends.qemu.scratch import last_words, new_directory
from backends.qemu.stream import Lines, Peer
from backends.qemu.supervisor import Ended, Supervisor
from backends.qemu.telling import Telling, until_ready
from backends.qemu.wire import greeting_of
from colosim.protocol.checkpoint import Transfer
from colosim.protocol.manager import Witness
from colosim.protocol.policies import POLICIES
from colosim.protocol.trace import Line, encode_line
from colosim.protocol.types import Output
from colosim.scenario import Fault, Scenario

_UP_LIMIT_S = 20.0
_PAIR_LIMIT_S = 60.0  # and the policy's interval, for the first checkpoint
_NET_LIMIT_S = 5.0
_FINISH_LIMIT_S = 10.0
_NS_PER_MS = 1_000_000
#: parameters of policies that are QEMU's x-checkpoint-delay
_DELAYS = ("interval_ns", "checkpoint_delay_ns")


def refuse(scenario: Scenario, plan: LivePlan) -> None:
    """`LiveError` for what the native engine cannot do, one line."""
    a, b = plan.hosts
    if a.qemu.version != b.qemu.version:
        raise LiveError(
            f"guest.secondary_qemu: {b.qemu.release} beside {a.qemu.release}: a native pair is of "
            'one version; use guest.engine = "wire"'
        )
    broken = doctor.broken("native", a.qemu, plan.machine.accelerator)
    if broken is not None:
        raise LiveError(
            f'guest.engine: QEMU {a.qemu.release}, {broken}; use guest.engine = "wire", or QEMU '
            "11.0 or newer"
        )
    transfer = scenario.transfer_of(scenario.policy.name)
    if transfer is not Transfer.STOP_AND_SEND:
        raise LiveError(
            f"transfer: {transfer.value}: QEMU's own COLO does stop-and-send; "
            'use that, or guest.engine = "wire"'
        )
    manager = scenario.manager
    for key, given in (
        ("manager.reprotect", manager.reprotect),
        ("manager.switchover_at", manager.switchover_at_ns is not None),
        ("hosts", any(host.at for host in plan.hosts)),
        ("client.network", plan.tap is not None),
    ):
        if given:
            raise LiveError(f'{key}: not with a native pair; use guest.engine = "wire"')
    for key, said, right in proxy.conflicts(scenario, a.node.policy):
        raise LiveError(
            f'{key}: {said}: in a native pair QEMU\'s own proxy decides; give "{right}", '
            'or guest.engine = "wire"'
        )
    for number, fault in enumerate(scenario.fault, 1):
        if why := _no_strike(fault):
            raise LiveError(f'fault {number}: {why}; use guest.engine = "wire"')


def _compares(plan: LivePlan) -> bool:
    """The policy compares what both guests send."""
    return POLICIES[plan.hosts[0].node.policy].output is Output.WITNESS


def _no_strike(fault: Fault) -> str:
    """Why a fault cannot be made to happen with this engine, or nothing."""
    if fault.step is not None:
        return f"at step {fault.step}: a native pair does not wait for our steps; give at"
    if fault.target == "link":
        return f"{fault.kind} of the link: both QEMUs are joined by the tap on this machine"
    if fault.scope == "node":
        return "scope node: the nodes of a native pair only watch it"
    return ""


class NativeRun(Telling):
    """A genuine pair, while ``async with`` it lasts; to its users like `runner.LiveRun`.

    scratch: a directory for what is kept (traces, phases, consoles).  say: progress for a person.
    counters: after the run, differences and what was counted beside them.
    """

    def __init__(self, plan: LivePlan, scratch: Path, say: Callable[[str], None]) -> None:
        super().__init__()
        self.plan = plan
        a, b = plan.hosts
        self.primary: str | None = a.name
        self.secondary: str | None = b.name
        self.hosts = (a.name, b.name)
        self.nodes = {host.node.id: host.name for host in plan.hosts}
        self.lost: frozenset[str] = frozenset()
        self.counters: dict[str, int] = {}
        self.directory = Path()
        self._scratch = scratch
        self._say = say
        self._witness = Witness()
        self._differences = 0
        self._up = asyncio.Event()
        self._healing: set[asyncio.Task[None]] = set()
        self._ended: set[tuple[str, str]] = set()
        self._trouble: str | None = None
        self._network: Control | None = None
        self._pair: Lines | None = None
        self._supervisor: Supervisor

    # -- life --------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[NativeRun]:
        """The processes of the run; all have ended, and were reaped, when the block ends."""
        self.directory = new_directory(2 * self.plan.machine.memory_bytes)
        try:
            async with Supervisor(self.directory, self._process_ended) as self._supervisor:
                server = await asyncio.start_unix_server(
                    self._pair_connected, str(self.directory / "runner"), limit=1 << 20
                )
                try:
                    await self._start_network()
                    await self._start_pair()
                    yield self
                finally:
                    for task in self._healing:
                        task.cancel()
                    await self._finish()
                    server.close()
                    if self._network is not None:
                        await self._network.close()
                    for domain in (*(host.name for host in self.plan.hosts), "pair", "network"):
                        with contextlib.suppress(LiveError):
                            await self._supervisor.kill(domain)
                    self._keep()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    async def boot(self) -> None:
        """Start the primary's QEMU and wait until its guest says that it is ready."""
        primary = self.plan.hosts[0]
        await self._start_host(primary, incoming=False)
        if self.plan.machine.mac is not None:
            await self.network.ask("listen", _NET_LIMIT_S, host=primary.name, on=True)
            await self.network.ask("own", _NET_LIMIT_S, host=primary.name)
        await self._until_ready(primary.name)

    async def protect(self) -> None:
        """Start the secondary's QEMU and make the pair; done at its first whole checkpoint."""
        b = self.plan.hosts[1]
        await self._start_host(b, incoming=True)
        if self.plan.machine.mac is not None:
            await self.network.ask("listen", _NET_LIMIT_S, host=b.name, on=True)
        await self._ask("prepare", _UP_LIMIT_S)
        where = [str(self.directory / name) for name in ("tap", f"{b.name}.mig", "report")]
        path = "return-path" if self._has_return_path else "none"
        command = [sys.executable, "-m", "backends.qemu.tap", *where, path]
        await self._supervisor.spawn("pair", "tap", command, self._scratch / "pair.log")
        self._say("first synchronisation")
        limit_s = _PAIR_LIMIT_S + self._delay_ms / 1000
        await self._ask("protect", limit_s + _NET_LIMIT_S, within_s=limit_s)
        self._say("protected")

    @property
    def network(self) -> Control:
        """The control of the hub; there is one as long as the run lasts."""
        assert self._network is not None
        return self._network

    def paths(self, host: str) -> Paths:
        """Where a host's files are."""
        return Paths(self.directory, host)

    async def begin(self) -> int:
        """The run proper begins now; the time."""
        self.tell("run", "begin", "")
        return self.events[-1].at_ns

    def words(self) -> str:
        """How it goes, for a person."""
        alone = f"{self.promoted} serves alone" if self.promoted else "QEMU's own pair"
        return f"{alone}, {self._differences} differences"

    def ahead_ns(self) -> dict[str, int]:
        """All clocks are this machine's."""
        return {}

    async def strike(
        self,
        host: str,
        scope: str,
        kind: str,
        duration_ns: int | None = None,
        link: Iterable[tuple[str, int]] = (),
    ) -> None:
        """A fault now: of a QEMU (scope vm), or of all that is on its host; never of the link."""
        self.tell(host, "fault", f"{scope} {kind}")
        if scope == "host" and kind == "crash":
            await self._ask("down", _NET_LIMIT_S, host=host)
        number = signal.SIGKILL if kind == "crash" else signal.SIGSTOP
        await self._supervisor.signal(host, number)
        if duration_ns is not None and kind == "hang":
            task = asyncio.create_task(self._heal(host, scope, duration_ns))
            self._healing.add(task)
            task.add_done_callback(self._healing.discard)

    async def _heal(self, host: str, scope: str, duration_ns: int) -> None:
        await asyncio.sleep(duration_ns / 1e9)
        self.tell(host, "healed", scope)
        try:
            await self._supervisor.signal(host, signal.SIGCONT)
        except LiveError as error:  # nobody waits for this task
            self.tell(host, "trouble", f"not healed: {error}")

    def check(self) -> None:
        """`LiveError` if the pair's manager is in trouble."""
        if self._trouble is not None:
            raise LiveError(self._trouble)

    # -- starting ------------------------------------------------------------------------------

    @property
    def _has_return_path(self) -> bool:
        return greeting_of(self.plan.hosts[0].qemu.version).return_path

    @property
    def _has_proxy(self) -> bool:
        """QEMU's own proxy holds output; without a network there is none."""
        return self.plan.machine.mac is not None and _compares(self.plan)

    @property
    def _delay_ms(self) -> int:
        params = dict(self.plan.hosts[0].node.policy_params)
        [delay_ns] = [params[name] for name in _DELAYS if name in params]
        return max(1, round(delay_ns / _NS_PER_MS))

    @property
    def _proxy_log(self) -> Path:
        return self._scratch / f"{self.plan.hosts[0].name}.proxy.log"

    @property
    def _commands(self) -> Path:
        """Kept with the run: both QEMUs' command lines, and what their monitors were told."""
        return self._scratch / "commands.txt"

    async def _start_network(self) -> None:
        forwards = self.plan.forwards
        log = self._scratch / "network.log"
        config = NetConfig(
            self.directory,
            tuple(host.name for host in self.plan.hosts),
            has_gateway=forwards is not None,
            guest_mac=MAC,
            capture=None if forwards is None else self._scratch / "gateway.pcap",
        )
        path = self.directory / "network.json"
        path.write_text(config.to_json())
        if forwards is not None:
            command = passt_argv(config.path(GATEWAY), forwards)
            await self._supervisor.spawn("network", "passt", command, log)
        command = [sys.executable, "-m", "backends.qemu.net", str(path)]
        await self._supervisor.spawn("network", "hub", command, log)
        self._network = await Control.connect(UnixAddress(self.directory / CONTROL))

    async def _start_pair(self) -> None:
        hosts = self.plan.hosts
        headers = {
            host.name: encode_line(Line(host.node.id, 0, 0, "node", "", host.node))
            for host in hosts
        }
        config = {
            "directory": str(self.directory),
            "nodes": headers,
            "traces": {host.name: str(self._scratch / f"{host.name}.trace") for host in hosts},
            "phases": str(self._scratch / "phases.jsonl"),
            "commands": str(self._commands),
            "proxy_log": str(self._proxy_log),
            "has_net": self.plan.machine.mac is not None,
            "has_return_path": self._has_return_path,
            "delay_ms": self._delay_ms,
        }
        path = self.directory / "pair.json"
        path.write_text(json.dumps(config))
        log = self._scratch / "pair.log"
        command = [sys.executable, "-m", "backends.qemu.pair", str(path)]
        await self._supervisor.spawn("pair", "manager", command, log)
        end_s = time.monotonic() + _UP_LIMIT_S
        while not self._up.is_set():
            self.check()
            if ("pair", "manager") in self._ended:
                raise LiveError(f"the pair's manager ended at once: {last_words(log)}")
            if time.monotonic() > end_s:
                raise LiveError(f"the pair's manager did not come up within {_UP_LIMIT_S:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._up.wait()

    async def _start_host(self, plan: HostPlan, incoming: bool) -> None:
        paths = self.paths(plan.name)
        paths.ram.touch(0o600)
        command = argv(plan.qemu, self.plan.machine, paths, incoming)
        if self._has_proxy and not incoming:
            command += proxy.arguments(self._proxy_log)
        with self._commands.open("a", encoding="utf-8") as file:
            file.write(f"{plan.name}$ {shlex.join(command)}\n")
        log = self._scratch / f"{plan.name}.log"
        await self._supervisor.spawn(plan.name, "qemu", command, log)
        adopt = asyncio.create_task(self._ask("adopt", _UP_LIMIT_S, host=plan.name))
        try:
            while not adopt.done():  # if QEMU ends at once, its own last words say more
                self._check_host(plan.name)
                await asyncio.wait([adopt], timeout=0.1)
            await adopt
        finally:
            adopt.cancel()

    async def _until_ready(self, name: str) -> None:
        plan, console = self.plan, self.paths(name).console
        self._say("booting the guest")
        check = partial(self._check_host, name)
        await until_ready(name, console, plan.ready, plan.boot_limit_s, check)

    def _check_host(self, name: str) -> None:
        self.check()
        if (name, "qemu") in self._ended:
            log = self._scratch / f"{name}.log"
            raise LiveError(f"host {name}: qemu ended at once: {last_words(log)}")

    async def _ask(self, name: str, limit_s: float, **arguments: Any) -> Any:
        if self._pair is None:
            raise LiveError("the pair's manager is not connected")
        return await self._pair.ask(name, limit_s, **arguments)

    # -- what the pair's manager and the supervisor tell -----------------------------------------

    async def _pair_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        hello = json.loads(await reader.readline() or b"{}")
        if hello.get("host") != "pair" or self._pair is not None:
            writer.close()
            return

        async def perform(name: str, arguments: dict[str, Any]) -> Any:
            return await getattr(self, f"do_{name}")(**arguments)

        self._pair = Lines(Peer(reader, writer), perform)
        await self._pair.serve()

    async def do_up(self) -> None:
        self._up.set()

    async def do_trouble(self, why: str) -> None:
        self._trouble = self._trouble or why
        self.tell("run", "trouble", why)

    async def do_report(self, host: str, text: str) -> None:
        self.tell(host, "report", text)

    async def do_difference(self, host: str, text: str) -> None:
        self._differences += 1
        self._say(f"QEMU differs from our tables: {text}")
        self.tell(host, "difference", text)

    async def do_promoted(self, host: str) -> None:
        self.promoted = self.primary = host
        self.secondary = None
        self.tell(host, "promoted", "")
        if self._has_proxy:
            what = "the output that colo-compare held; QEMU does not say how much"
            self.tell(self.plan.hosts[0].name, "lost", what)

    async def do_vote(self, host: str) -> bool:
        granted = self._witness.ask(host)
        self.tell(host, "vote", "granted" if granted else "denied")
        return granted

    async def do_fence(self, host: str, by: str) -> None:
        """The other host can do nothing any more when this returns."""
        if self.plan.fence_fails:
            raise LiveError("manager.fence_fails: fencing fails, as the scenario says")
        await self.network.ask("fence", _NET_LIMIT_S, host=host)
        await self._supervisor.kill(host)
        self.tell(host, "fenced", f"by {by}")

    def _process_ended(self, ended: Ended) -> None:
        self._ended.add((ended.domain, ended.name))
        if (ended.domain, ended.name) == ("pair", "manager"):
            self._trouble = self._trouble or f"the pair's manager ended, status {ended.status}"
        self.tell(ended.domain, "ended", f"{ended.name} with status {ended.status}")

    def _label(self, name: str) -> str:
        return next((node for node, host in self.nodes.items() if host == name), name)

    # -- the end -------------------------------------------------------------------------------

    async def _finish(self) -> None:
        """Let the comparison end before the guests do."""
        try:
            found = await self._ask("finish", _FINISH_LIMIT_S)
        except LiveError as error:
            self.tell("run", "trouble", f"the comparison did not end: {error}")
            return
        self.counters = {"differences": found["differences"], **found["counts"]}
        self.tell("run", "compared", ", ".join(f"{n} {c}" for n, c in self.counters.items()))
        self._say(f"{found['differences']} differences between QEMU and our tables")

    def _keep(self) -> None:
        for host in self.plan.hosts:
            console = self.paths(host.name).console
            if console.exists():
                shutil.copy(console, self._scratch / f"{host.name}.console.log")
