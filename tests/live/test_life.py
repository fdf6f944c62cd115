"""What becomes of a pair: handed over, protected again, its guest switched off or beyond use."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from backends.qemu.errors import LiveError
from colosim.protocol import types as t
from tests.live.pairs import (
    WAIT_LIMIT_S,
    ask,
    checked,
    counted,
    live,
    needs_qemu,
    plan,
    until_checkpoint,
    verified,
)
from tests.live.test_takeover import survives


async def with_devices(*arguments: str, **tables):
    """A pair whose machines have these devices too."""
    made = await plan(**tables)
    return replace(made, machine=replace(made.machine, extra=arguments))


async def until(condition) -> None:
    async with asyncio.timeout(WAIT_LIMIT_S):
        while not condition():
            await asyncio.sleep(0.02)


def happened(run, what: str) -> bool:
    return any(told.what == what for told in run.events)


@needs_qemu
def test_a_planned_switchover(tmp_path):
    """It is not by silence that the secondary knows of it, and the old primary is fenced."""

    async def block(run):
        await until_checkpoint(tmp_path, 5)
        await run.hand_over()
        await survives(run, "b")

    run = live(tmp_path, plan(), block)
    lines = checked(tmp_path)
    assert counted(lines, t.SteppedDown) == 1
    assert [line.node for line in lines if isinstance(line.body, t.Alone)] == ["secondary"]
    assert happened(run, "switchover")
    secondary = [line for line in lines if line.node == "secondary"]
    asks = next(i for i, line in enumerate(secondary) if isinstance(line.body, t.AskVote))
    [*_, why] = (line.body for line in secondary[:asks] if line.kind == "event")
    assert not isinstance(why, t.Tick)


@needs_qemu
def test_three_generations(tmp_path):
    """Each survivor is protected again, and its successor has all that it had."""
    generations = []

    async def block(run):
        for survivor, victim in (("b", "a"), ("c", "b"), ("d", "c")):
            pair = ord(survivor) - ord("a")
            node = "primary" if pair == 1 else f"primary.{pair}"
            await until_checkpoint(tmp_path, 3, node=node, host=victim)
            await run.strike(victim, "host", "crash")
            generations.append(await survives(run, survivor))
            if survivor != "d":
                await run.reprotect()

    live(tmp_path, plan(), block)
    assert generations == sorted(generations)
    lines = checked(tmp_path, "abcd")
    alone = [line.node for line in lines if isinstance(line.body, t.Alone)]
    assert alone == ["secondary", "secondary.2", "secondary.3"]


@needs_qemu
def test_a_lost_secondary_is_replaced(tmp_path):
    """The guest was never gone: it is protected again where it is."""

    async def block(run):
        await until_checkpoint(tmp_path, 2)
        await run.strike("b", "host", "crash")
        await survives(run, "a")
        await run.reprotect()
        await until_checkpoint(tmp_path, 3, node="primary.2", host="a")
        await run.strike("a", "vm", "crash")
        await survives(run, "c")

    live(tmp_path, plan(), block)
    checked(tmp_path, "abc")


async def left_bytes(run) -> int:
    """What host b has sent to its peers."""
    return (await run.network.ask("stats", 5))["link"]["left_bytes"]["b"]


@needs_qemu
def test_a_guest_that_cannot_be_protected_again_goes_on(tmp_path):
    """The fresh secondary dies while it gets the memory."""

    async def block(run):
        await until_checkpoint(tmp_path, 2)
        await run.strike("a", "host", "crash")
        await survives(run, "b")
        await run.network.ask("link", 5, bandwidth_bps=20_000_000)
        before = await left_bytes(run)
        again = asyncio.create_task(run.reprotect())
        while await left_bytes(run) < before + (1 << 20):
            assert not again.done(), again
            await asyncio.sleep(0.02)
        await run.strike("c", "host", "crash")
        with pytest.raises(LiveError):
            await asyncio.wait_for(again, WAIT_LIMIT_S)
        await verified(run, "b")
        await run.network.ask("link", 5, bandwidth_bps=None)
        await run.reprotect()
        await until_checkpoint(tmp_path, 2, node="primary.3", host="b")

    live(tmp_path, plan(), block)


@needs_qemu
def test_a_guest_that_switches_itself_off_stays_off(tmp_path):
    async def block(run):
        await until_checkpoint(tmp_path, 3)
        with pytest.raises((LiveError, OSError)):
            await asyncio.to_thread(ask, run, "a", "end how=off", limit_s=1)
        assert await run.until_promoted(WAIT_LIMIT_S) == "a"
        assert run.is_off

    run = live(tmp_path, plan(), block)
    lines = checked(tmp_path)
    assert counted(lines, t.GuestOff) == 1
    assert counted(lines, t.Promote, "secondary") == 0
    assert any(told.what == "fenced" and told.node == "secondary" for told in run.events)


@needs_qemu
def test_a_reboot_is_execution_like_any_other(tmp_path):
    """The pair goes on through it, and the secondary takes over the guest that was started anew."""

    async def block(run):
        await until_checkpoint(tmp_path, 3)
        with pytest.raises((LiveError, OSError)):
            await asyncio.to_thread(ask, run, "a", "end how=reboot", limit_s=1)
        console = run.paths("a").console
        await until(lambda: console.read_text(errors="replace").count("colosim: ready") == 2)
        await until_checkpoint(tmp_path, run.checkpoints + 2)  # which has what came up
        await run.strike("a", "host", "crash")
        await survives(run, "b")

    run = live(tmp_path, plan(), block)
    assert happened(run, "guest reset")
    checked(tmp_path)


@needs_qemu
def test_a_guest_that_panics_is_taken_over(tmp_path):
    """By QEMU's own word for it, from the last checkpoint.

    A guest takes some 50 ms to panic, and a checkpoint in the middle of that has the rest of it.
    """
    seldom = {"name": "remus", "remus": {"interval": "2 s"}}

    async def block(run):
        await until_checkpoint(tmp_path, 2)
        with pytest.raises((LiveError, OSError)):
            await asyncio.to_thread(ask, run, "a", "end how=panic", limit_s=1)
        await survives(run, "b")

    run = live(tmp_path, with_devices("-device", "pvpanic", policy=seldom), block)
    assert "panicked" in next(told.detail for told in run.events if told.what.startswith("guest "))
    checked(tmp_path)


@needs_qemu
def test_a_guest_that_is_stopped_for_an_io_error_is_taken_over(tmp_path):
    """The primary's disk fails; the secondary's, which may finish what was under way, does not."""
    (tmp_path / "a.conf").write_text('[inject-error]\nevent = "none"\niotype = "write"\n')
    (tmp_path / "b.conf").write_text("")
    devices = with_devices(
        "-blockdev",
        "driver=blkdebug,node-name=d0,image.driver=null-co,image.size=1048576,"
        f"config={tmp_path}/{{host}}.conf",
        *("-device", "virtio-blk-pci,drive=d0,werror=stop,rerror=stop"),
    )

    async def block(run):
        await until_checkpoint(tmp_path, 3)
        with pytest.raises((LiveError, OSError)):
            await asyncio.to_thread(ask, run, "a", "disk /dev/vda", limit_s=1)
        await survives(run, "b")

    run = live(tmp_path, devices, block)
    assert "write error" in next(told.detail for told in run.events if "beyond" in told.what)
    checked(tmp_path)


@needs_qemu
def test_a_slow_link_is_survived_and_over(tmp_path):
    async def block(run):
        await until_checkpoint(tmp_path, 3)
        slow = (("delay_ns", 30_000_000), ("bandwidth_bps", 100_000_000))
        await run.strike("link", "link", "slow", 2_000_000_000, slow)
        began = time.monotonic()
        await until(lambda: happened(run, "healed"))
        assert time.monotonic() - began > 1.9
        count = (tmp_path / "a.trace").read_text().count('"Completed"')
        await until_checkpoint(tmp_path, count + 5)
        assert '"Exit"' not in (tmp_path / "a.trace").read_text()

    live(tmp_path, plan(), block)
    checked(tmp_path)
