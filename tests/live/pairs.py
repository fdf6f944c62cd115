"""Pairs of real guests for live tests: the ground-truth guest under TCG, as small as it can be."""

from __future__ import annotations

import asyncio
import functools
import shutil
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from backends.nodes import node_configs
from backends.qemu.asking import probe
from backends.qemu.errors import LiveError
from backends.qemu.guest import GroundOptions, build
from backends.qemu.launch import CLOCK, Machine
from backends.qemu.plan import HostPlan, LivePlan, StrikePlan
from backends.qemu.records import merged
from backends.qemu.runner import LiveRun
from backends.qemu.selftest import SCENARIO, SELF_TEST_BYTES, serial
from colosim.protocol import types as t
from colosim.protocol.invariants import check
from colosim.protocol.trace import Line, decode_line, encode_line, replay
from colosim.scenario import Scenario

QEMU = "qemu-system-x86_64"
PAIR_LIMIT_S = 400.0
TRIES = 3
WAIT_LIMIT_S = 100.0  # for anything: a machine may be five times slower than one at rest


@functools.cache
def why_not() -> str | None:
    """Why no pair can run here, or None."""
    for program in (QEMU, "passt"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    try:
        build(["ground"], lambda text: None)
    except LiveError as error:
        return str(error)
    return None


def needs_qemu(function):
    """A live test; skipped where there is no QEMU, no passt or no guest image."""

    @pytest.mark.live
    @functools.wraps(function)
    def test(*args, **kwargs):
        if why := why_not():
            pytest.skip(why)
        return function(*args, **kwargs)

    return test


def measured(function):
    """A test of what is measured: three tries, each with runs of its own, twice as long as before.

    A machine that begins or ends some other work between two runs makes them differ, and on a slow
    one little happens in a run.  The test is given a directory, and how many times as long.
    """

    @functools.wraps(function)
    def test(tmp_path):
        for number in range(1, TRIES + 1):
            place = tmp_path / f"try-{number}"
            place.mkdir()
            try:
                return function(place, 2 ** (number - 1))
            except AssertionError as error:
                if number == TRIES:
                    raise
                print(f"try {number}: {error}")
        return None

    del test.__wrapped__  # pytest is to see what this one is given
    return test


async def plan(strikes: dict[str, StrikePlan] | None = None, **tables: Any) -> LivePlan:
    """``strikes``: host -> what it does to itself.  ``tables`` replace those of `SCENARIO`."""
    image = build(["ground"], lambda text: None)
    ground = GroundOptions(pages=2000, rate=5000, pattern="uniform", seed=1, vm="p")
    machine = Machine(
        kind="pc",
        accelerator="tcg",
        memory_bytes=SELF_TEST_BYTES,
        kernel=image.kernel,
        initrd=image.initrd,
        append=image.command_line(ground=ground) + CLOCK["tcg"],
    )
    qemu = await probe(QEMU)
    nodes = node_configs(Scenario.from_mapping({**SCENARIO, **tables}), "remus")
    a, b = (
        HostPlan(name, node, qemu, (strikes[name],) if strikes and name in strikes else ())
        for name, node in zip("ab", nodes, strict=True)
    )
    return LivePlan(machine, (a, b))


def live(
    tmp_path: Path, what: Awaitable[LivePlan], block: Callable[[LiveRun], Awaitable[Any]]
) -> LiveRun:
    """Boot, protect, and do ``block``; afterwards all processes have ended."""

    async def run() -> LiveRun:
        run = LiveRun(await what, tmp_path, print)
        async with run.running():
            try:
                await run.boot()
                await run.protect()
                await block(run)
            finally:
                print(*run.events, sep="\n")
        assert not run.directory.exists()
        return run

    return asyncio.run(asyncio.wait_for(run(), PAIR_LIMIT_S))


def ask(run: LiveRun, host: str, command: str, limit_s: float = WAIT_LIMIT_S) -> str:
    """One command to the guest of a host, by its second serial port."""
    return serial(run.paths(host).command, command, limit_s)


async def verified(run: LiveRun, host: str) -> int:
    """The generation of a guest whose memory is intact."""
    said = await asyncio.to_thread(verdict, run.paths(host).command)
    assert said.startswith("ok pages="), said
    return int(said.rpartition("generation=")[2])


def verdict(port: Path) -> str:
    """What a guest says to `verify`.

    A command that was under way at a takeover is answered first, or is half a line before ours. A
    guest that is asked on a new connection each time may answer the one before, or not at all.
    """
    with socket.socket(socket.AF_UNIX) as tty:
        tty.settimeout(WAIT_LIMIT_S)
        tty.connect(str(port))
        tty.sendall(b"verify\n")
        for line in tty.makefile():
            if line.startswith(("ok pages=", "bad ")):
                return line.strip()
            if line.startswith("error"):
                tty.sendall(b"verify\n")
    raise LiveError("the guest's serial port closed")


def lines_of(tmp_path: Path, hosts: str = "ab") -> list[Line]:
    return merged([tmp_path / f"{host}.trace" for host in hosts])


def checked(tmp_path: Path, hosts: str = "ab") -> list[Line]:
    """The merged trace, which replays to the same decisions and breaks no invariant."""
    lines = lines_of(tmp_path, hosts)
    assert replay(decode_line(encode_line(line)) for line in lines) == []
    assert [str(each) for each in check(lines)] == []
    return lines


def counted(lines: list[Line], what: type, node: str = "primary") -> int:
    return sum(isinstance(line.body, what) and line.node == node for line in lines)


async def until_checkpoint(
    tmp_path: Path, number: int, *, node: str = "primary", host: str = "a"
) -> None:
    """Until that many checkpoints are complete, as the trace of the primary's host says."""
    trace = tmp_path / f"{host}.trace"
    completed = f'"{t.Completed.__name__}":{{"checkpoint":{number}}}'
    async with asyncio.timeout(WAIT_LIMIT_S):
        while True:
            lines = trace.read_text().splitlines() if trace.exists() else []
            if any(completed in line and f'"node":"{node}"' in line for line in lines):
                return
            await asyncio.sleep(0.05)
