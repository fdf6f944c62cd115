"""Genuine COLO pairs for live tests: QEMU 11 or newer, named by COLOSIM_QEMU_11."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.nodes import node_configs
from backends.qemu.asking import probe
from backends.qemu.native import NativeRun
from backends.qemu.plan import HostPlan, LivePlan
from backends.qemu.selftest import SCENARIO
from colosim.scenario import Scenario
from tests.live import pairs

QEMU = os.environ.get("COLOSIM_QEMU_11")
PAIR_LIMIT_S = 400.0


def needs_qemu_11(function):
    """A live test; skipped without such a QEMU."""

    @functools.wraps(function)
    def test(*args, **kwargs):
        if QEMU is None:
            pytest.skip("COLOSIM_QEMU_11 names no QEMU")
        return function(*args, **kwargs)

    return pairs.needs_qemu(test)


async def plan(interval: str = "100 ms", **machine: Any) -> LivePlan:
    """The ground-truth guest of `pairs`, as a native pair."""
    wire = await pairs.plan()
    qemu = await probe(QEMU or pairs.QEMU)
    tables = {**SCENARIO, "policy": {"name": "remus", "remus": {"interval": interval}}}
    nodes = node_configs(Scenario.from_mapping(tables), "remus")
    hosts = tuple(HostPlan(name, node, qemu) for name, node in zip("ab", nodes, strict=True))
    return replace(wire, hosts=hosts, machine=replace(wire.machine, **machine))


def live(
    tmp_path: Path, what: Awaitable[LivePlan], block: Callable[[NativeRun], Awaitable[Any]]
) -> NativeRun:
    """Boot, protect, and do ``block``; afterwards all processes have ended."""

    async def run() -> NativeRun:
        run = NativeRun(await what, tmp_path, print)
        try:
            async with run.running():
                await run.boot()
                await run.protect()
                await block(run)
        finally:
            print(*run.events, sep="\n")
        assert not run.directory.exists()
        return run

    return asyncio.run(asyncio.wait_for(run(), PAIR_LIMIT_S))
