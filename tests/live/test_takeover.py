"""Real pairs: protected, checkpointed, struck at every step, taken over."""

from __future__ import annotations

import asyncio
import random

import pytest

from backends.qemu.plan import StrikePlan
from backends.qemu.selftest import SCENARIO, committed_generation
from colosim.protocol import types as t
from tests.live.pairs import (
    WAIT_LIMIT_S,
    checked,
    counted,
    live,
    needs_qemu,
    plan,
    until_checkpoint,
    verified,
)

PRIMARY_STEPS = (
    *("run", "quiesce", "request", "stop", "cut", "save", "send"),
    "wait-received",
    "wait-loaded",
    "resume",
)
SECONDARY_STEPS = ("wait-request", "stop", "cut", "wait-send", "receive", "load", "resume")
HANG_NS = 600_000_000_000  # longer than any run


async def survives(run, host: str) -> int:
    """The guest of this host goes on, with its memory intact; its generation."""
    assert await run.until_promoted(WAIT_LIMIT_S) == host
    first = await verified(run, host)
    assert await verified(run, host) > first, "the guest stands still"
    return first


def struck(tmp_path, what, block) -> None:
    """Run it, and check what can be checked of every run in which one host was struck."""
    found = []

    async def whole(run):
        found.append(await block(run))
        # a primary's guest serves all along: it may answer before its node has said that it runs
        async with asyncio.timeout(WAIT_LIMIT_S):
            while not any('"Alone"' in (tmp_path / f"{host}.trace").read_text() for host in "ab"):
                await asyncio.sleep(0.05)

    live(tmp_path, what, whole)
    lines = checked(tmp_path)
    assert found[0] >= committed_generation(tmp_path) > 0
    assert sum(isinstance(line.body, t.Alone) for line in lines) == 1


@needs_qemu
def test_twenty_checkpoints_then_the_primary_is_killed(tmp_path):
    async def block(run):
        await until_checkpoint(tmp_path, 20)
        await run.strike("a", "vm", "crash")
        return await survives(run, "b")

    struck(tmp_path, plan(), block)
    assert counted(checked(tmp_path), t.Committed) >= 20


@needs_qemu
@pytest.mark.parametrize("scope", ["vm", "host"])
@pytest.mark.parametrize("step", PRIMARY_STEPS)
def test_the_primary_is_killed_at_a_step(tmp_path, step, scope):
    strike = StrikePlan(step, 3, scope, "crash")
    struck(tmp_path, plan({"a": strike}), lambda run: survives(run, "b"))


@needs_qemu
@pytest.mark.parametrize("step", SECONDARY_STEPS)
def test_the_secondary_is_killed_at_a_step(tmp_path, step):
    strike = StrikePlan(step, 3, "host", "crash")
    struck(tmp_path, plan({"b": strike}), lambda run: survives(run, "a"))


@needs_qemu
@pytest.mark.parametrize("kind", ["crash", "hang"])
@pytest.mark.parametrize(("host", "step", "survivor"), [("a", "send", "b"), ("b", "load", "a")])
def test_an_agent_fails(tmp_path, host, step, survivor, kind):
    """Its QEMU is still there, and is fenced with it."""
    strike = StrikePlan(step, 3, "node", kind, HANG_NS if kind == "hang" else None)
    struck(tmp_path, plan({host: strike}), lambda run: survives(run, survivor))


@needs_qemu
@pytest.mark.parametrize("scope", ["vm", "host"])
@pytest.mark.parametrize(
    ("host", "step", "survivor"), [("a", "send", "b"), ("b", "receive", "a"), ("b", "load", "a")]
)
def test_one_side_hangs(tmp_path, host, step, survivor, scope):
    """At `receive` a hung QEMU must not pass for a silent primary, which would be fenced for it."""
    strike = StrikePlan(step, 3, scope, "hang", HANG_NS)
    limits = {**SCENARIO["limits"], **dict.fromkeys(("received", "loaded", "receive"), "4 s")}
    struck(tmp_path, plan({host: strike}, limits=limits), lambda run: survives(run, survivor))


@needs_qemu
def test_the_link_is_cut(tmp_path):
    """Both suspect the other, one is chosen, the other is fenced."""

    async def block(run):
        await until_checkpoint(tmp_path, 3)
        await run.strike("link", "link", "cut")
        return await survives(run, await run.until_promoted(WAIT_LIMIT_S))

    struck(tmp_path, plan(), block)


@needs_qemu
@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(200))
def test_a_kill_at_a_random_moment(tmp_path, seed):
    """Of either side, its process or the whole host, while checkpoints follow each other."""
    draw = random.Random(seed)
    host = draw.choice("aaab")
    scope = draw.choice(["vm", "host"])
    after_s = draw.uniform(0, 1.5)

    async def block(run):
        await until_checkpoint(tmp_path, 1)
        await asyncio.sleep(after_s)
        await run.strike(host, scope, "crash")
        return await survives(run, "b" if host == "a" else "a")

    struck(tmp_path, plan(), block)
