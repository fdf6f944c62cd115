"""Pairs with a replicated disk, clients that store records on it, and what became of these."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from backends.qemu.clients import Load
from backends.qemu.errors import LiveError
from backends.qemu.guest.store import Stored, Verdict, judge
from backends.qemu.live import plan_of
from backends.qemu.plan import StrikePlan
from backends.qemu.runner import LiveRun
from backends.qemu.selftest import SCENARIO
from backends.qemu.volume import program
from colosim.model.streams import Streams
from colosim.scenario import Scenario
from tests.live.pairs import WAIT_LIMIT_S, checked, needs_qemu
from tests.live.services import SERVICE

RUN_LIMIT_S = 500.0
REMUS = SCENARIO["policy"]
COLO = {"name": "colo", "colo": {"checkpoint_delay": "1 s", "compare_timeout": "300 ms"}}


def needs_disks(function):
    """A live test; skipped where e2fsprogs or what live tests need is missing."""

    def why_not() -> str | None:
        try:
            for name in ("mke2fs", "e2fsck", "debugfs"):
                program(name)
        except LiveError as error:
            return str(error)
        return None

    @functools.wraps(function)
    def test(*args, **kwargs):
        if why := why_not():
            pytest.skip(why)
        return function(*args, **kwargs)

    return needs_qemu(test)


def scenario_of(policy: dict[str, Any], clients: int, **volume: Any) -> Scenario:
    """Clients that store one record after the other, as fast as they are acknowledged."""
    return Scenario.from_mapping(
        {
            **SERVICE,
            "policy": policy,
            "workload": {**SERVICE["workload"], "clients": clients, "think_time": "0 s"},
            "memory": {**SERVICE["memory"], "working_set_pages": 200},
            "client": {"kind": "store", "timeout": "90 s"},
            "guest": {
                "accelerator": "tcg",
                "ground": {"pages": 200, "touches": "500 /s"},
                "qemu": os.environ.get("COLOSIM_QEMU", "qemu-system-x86_64"),
                "volume": {"size": "16 MiB", **volume},
            },
        }
    )


@dataclass
class Kill:
    """What one failure left."""

    survivor: str
    verdict: Verdict
    under_way: int  # requests without an answer
    unheard: int  # records on the lost host's disk that nobody was told of
    gap_ms: float  # until the next acknowledgement


@dataclass
class Disks:
    """A run, while it lasts."""

    run: LiveRun
    load: Load
    folder: Path
    seed: int
    kills: list[Kill] = field(default_factory=list)

    @property
    def stored(self) -> list[Stored]:
        return self.load.tally.stored

    async def more(self, count: int) -> None:
        """Until clients were told of so many more records."""
        goal = len(self.stored) + count
        async with asyncio.timeout(WAIT_LIMIT_S):
            while len(self.stored) < goal:
                self.run.check()
                await asyncio.sleep(0.005)

    async def verdict(self, host: str, promised: Iterable[Stored] | None = None) -> Verdict:
        """What a host's disk says, as it is now, of what is promised by now."""
        told = list(self.stored if promised is None else promised)
        copy = self.folder / f"{host}.snapshot"
        await self.run.snapshot(host, copy)
        try:
            return await asyncio.to_thread(judge, copy, told, self.seed)
        finally:
            copy.unlink()

    async def kill_primary(self, scope: str = "vm") -> Kill:
        """SIGKILL, takeover, and what the survivor's disk says."""
        victim = self.run.primary
        await self.run.strike(victim, scope, "crash")
        told = list(self.stored)
        under_way = int((self.load.table()["released_ns"] < 0).sum())
        return await self.taken_over(victim, told, under_way)

    async def taken_over(self, victim: str, told: list[Stored], under_way: int = 0) -> Kill:
        """After the loss of a primary; told: what was acknowledged when it was lost."""
        began_s = time.monotonic()
        survivor = await self.run.until_promoted(WAIT_LIMIT_S)
        assert survivor != victim
        await self.happened("disk merged", survivor)
        await self.more(1)
        gap_ms = (time.monotonic() - began_s) * 1e3
        dead = self.run.disk_of(victim)
        assert dead is not None
        left = await asyncio.to_thread(judge, dead, told, self.seed)
        # all that its clients were told is on its own disk as well
        assert left.problems == (), left
        unheard = left.records - len(told)
        kill = Kill(survivor, await self.verdict(survivor), under_way, unheard, gap_ms)
        self.kills.append(kill)
        print(kill)
        return kill

    async def happened(self, what: str, host: str) -> None:
        node = {name: node for node, name in self.run.nodes.items()}[host]
        async with asyncio.timeout(WAIT_LIMIT_S):
            while not any(e.what == what and e.node == node for e in self.run.events):
                await asyncio.sleep(0.005)

    def served(self) -> None:
        """No answer was lost, wrong or doubled."""
        tally = self.load.tally
        assert (tally.lost, tally.wrong, tally.doubled) == (0, 0, 0), tally.failures


def stored_on(
    tmp_path: Path,
    scenario: Scenario,
    block: Callable[[Disks], Awaitable[None]],
    strikes: dict[str, StrikePlan] | None = None,
    arguments: tuple[str, ...] = (),
) -> Disks:
    """Boot, protect, let clients store, do ``block``; the trace must replay and break nothing."""

    async def whole() -> Disks:
        plan = await plan_of(scenario, scenario.policy.name, print)
        hosts = tuple(
            replace(each, strikes=(strikes[each.name],) if strikes and each.name in strikes else ())
            for each in plan.hosts
        )
        machine = replace(plan.machine, extra=arguments)
        run = LiveRun(replace(plan, hosts=hosts, machine=machine), tmp_path, print)
        async with run.running():
            try:
                await run.boot()
                await run.protect()
                start_ns = await run.begin()
                [(port, _)] = run.plan.forwards or ()
                workload: Any = scenario.workload
                load = Load(workload, scenario.client, Streams(scenario.seed, 0), port, start_ns)
                disks = Disks(run, load, tmp_path, scenario.seed % 2**31)
                load.start()
                try:
                    await block(disks)
                finally:
                    await load.stop()
            finally:
                print(*run.events, sep="\n")
        assert not run.directory.exists()
        return disks

    disks = asyncio.run(asyncio.wait_for(whole(), RUN_LIMIT_S))
    print(disks.run.checkpoints, "checkpoints,", len(disks.stored), "records acknowledged")
    checked(tmp_path, "".join(disks.run.hosts))
    return disks
