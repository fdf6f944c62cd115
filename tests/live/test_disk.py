"""A replicated disk: what clients were told is on it after any single failure.

The guest writes records of 512 bytes, each with O_DSYNC, to ext4; the survivor's disk is copied as
a crash would leave it, its journal replayed, its file system checked, each record looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.qemu.asking import ask_program
from backends.qemu.errors import LiveError
from backends.qemu.guest.store import Stored, _expected, acknowledged, judge
from backends.qemu.live import plan_of
from backends.qemu.places import LocalPlace
from backends.qemu.plan import StrikePlan
from backends.qemu.qmp import Qmp
from backends.qemu.volume import program
from colosim.scenario import Scenario
from tests.live.disks import COLO, REMUS, Disks, needs_disks, scenario_of, stored_on
from tests.live.machines import short_directory
from tests.live.pairs import WAIT_LIMIT_S, needs_qemu
from tests.live.services import SERVICE, Going, ran

# --------------------------------------------------------------------------------------------
# Kills


def kills(count: int, seed: int):
    """Each survivor is protected again before it is killed, at a moment drawn from the seed."""
    draw = random.Random(seed)

    async def block(disks: Disks) -> None:
        for number in range(count):
            await disks.more(20)
            await asyncio.sleep(draw.uniform(0, 0.4))
            await disks.kill_primary(draw.choice(["vm", "host"]))
            if number < count - 1:
                await disks.run.reprotect()
        await disks.more(20)
        disks.served()

    return block


def check_kills(disks: Disks, count: int) -> None:
    assert len(disks.kills) == count
    for kill in disks.kills:
        assert kill.verdict.problems == (), kill
    survivors = [kill.survivor for kill in disks.kills]
    assert survivors == list("bcdefghijklmnopqrstuvwxyz"[:count])


@needs_disks
@pytest.mark.parametrize(("policy", "clients", "transport"), [(REMUS, 8, "unix"), (COLO, 2, "tcp")])
def test_every_acknowledged_record_survives_kills_in_a_row(tmp_path, policy, clients, transport):
    """More than three generations; under `colo` network and disk are compared and replicated."""
    count = 5
    scenario = scenario_of(policy, clients, transport=transport)
    disks = stored_on(tmp_path, scenario, kills(count, seed=1))
    check_kills(disks, count)
    assert sum(kill.under_way > 0 for kill in disks.kills) >= count - 1
    if policy is REMUS:  # output waits: most of the time nobody was told of the last writes
        assert any(kill.unheard > 0 for kill in disks.kills)


@needs_disks
@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("policy", "clients"), [(REMUS, 8), (COLO, 2)])
def test_kills_at_random_moments(tmp_path, policy, clients, seed):
    count = 6
    scenario = scenario_of(policy, clients, transport=("unix", "tcp")[seed % 2])
    check_kills(stored_on(tmp_path, scenario, kills(count, seed)), count)


async def one_kill(disks: Disks) -> None:
    """Of the primary, by itself."""
    await disks.taken_over("a", [])
    await disks.more(20)
    disks.served()


@needs_disks
@pytest.mark.campaign
@pytest.mark.parametrize("occurrence", [3, 9])
@pytest.mark.parametrize("scope", ["vm", "host"])
@pytest.mark.parametrize("step", ["stop", "save", "send", "wait-received", "wait-loaded", "resume"])
def test_a_kill_in_the_midst_of_a_checkpoint(tmp_path, step, scope, occurrence):
    strikes = {"a": StrikePlan(step, occurrence, scope, "crash")}
    disks = stored_on(tmp_path, scenario_of(REMUS, 8), one_kill, strikes)
    check_kills(disks, 1)


@needs_disks
def test_the_check_fails_where_output_does_not_wait(tmp_path):
    """Answers by the serial port are held by nobody: some of what they said is lost with the host.

    What was said by the network meanwhile is not.
    """
    interval_s = 0.5
    policy = {"name": "remus", "remus": {"interval": f"{interval_s} s"}}
    by_serial, most_s = 1000, interval_s / 2

    async def block(disks: Disks) -> None:
        await disks.more(4)
        tty = disks.run.paths("a").command
        told: list[Stored] = []
        async with asyncio.timeout(100):
            while True:  # until some are said well within one epoch
                count = disks.run.checkpoints
                while disks.run.checkpoints == count:
                    await asyncio.sleep(0.002)
                began_s, count = time.monotonic(), disks.run.checkpoints
                told += await asyncio.to_thread(by_line, tty, by_serial, len(told), 3)
                if disks.run.checkpoints == count and time.monotonic() - began_s < most_s:
                    break
        await disks.run.strike("a", "vm", "crash")
        await disks.run.until_promoted(WAIT_LIMIT_S)
        await disks.happened("disk merged", "b")
        verdict = await disks.verdict("b", [*disks.stored, *told])
        print(verdict)
        assert 0 < verdict.lost <= len(told)
        assert all(f"of client {by_serial}," in problem for problem in verdict.problems)

    stored_on(tmp_path, scenario_of(policy, 2), block)


def by_line(tty: Path, client: int, first: int, count: int) -> list[Stored]:
    """Store records by a guest's second serial port."""
    told = []
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(WAIT_LIMIT_S)
        line.connect(str(tty))
        answers = line.makefile()
        for number in range(first, first + count):
            line.sendall(f"store client={client} number={number}\n".encode())
            told.append(acknowledged(client, number, answers.readline().strip()))
    return told


# --------------------------------------------------------------------------------------------
# Other failures


async def lost_secondary(disks: Disks) -> None:
    """The primary goes on; its disk has all; then it is protected again, and killed."""
    assert await disks.run.until_promoted(WAIT_LIMIT_S) == "a"
    await disks.more(20)
    assert (await disks.verdict("a")).problems == ()
    await disks.run.reprotect()
    await disks.more(20)
    assert (await disks.kill_primary()).verdict.problems == ()
    disks.served()


@needs_disks
@pytest.mark.parametrize(
    ("step", "scope", "kind"),
    [
        ("wait-send", "vm", "hang"),
        pytest.param("wait-request", "host", "hang", marks=pytest.mark.campaign),
        pytest.param("receive", "vm", "hang", marks=pytest.mark.campaign),
        pytest.param("wait-request", "vm", "crash", marks=pytest.mark.campaign),
        pytest.param("load", "host", "crash", marks=pytest.mark.campaign),
    ],
)
def test_a_secondary_fails(tmp_path, monkeypatch, step, scope, kind):
    """One that hangs cannot be killed here: the primary waits for its writes, and cuts it off."""
    fence = LocalPlace.fence

    async def shut_out(place: LocalPlace, host: str) -> str:
        return "" if (host, kind) == ("b", "hang") else await fence(place, host)

    monkeypatch.setattr(LocalPlace, "fence", shut_out)
    strikes = {"b": StrikePlan(step, 6, scope, kind)}
    stored_on(tmp_path, scenario_of(REMUS, 8), lost_secondary, strikes)


@needs_disks
def test_a_primary_that_wakes_up_cannot_write_to_the_disk_of_its_successor(tmp_path, monkeypatch):
    """It hung and could not be killed; it goes on with its own disk, and nobody hears of it."""

    async def shut_out(place: LocalPlace, host: str) -> str:
        return ""

    async def block(disks: Disks) -> None:
        assert await disks.run.until_promoted(WAIT_LIMIT_S) == "b"
        await disks.happened("disk merged", "b")
        await disks.more(20)
        os.kill(disks.run.pid_of("a"), signal.SIGCONT)  # its agent hangs on
        told = await asyncio.to_thread(by_line, disks.run.paths("a").command, 1000, 0, 200)
        await disks.more(20)
        own = disks.run.disk_of("a")
        assert own is not None
        assert judge(own, told, disks.seed).problems == ()
        assert (await disks.verdict("b")).problems == ()
        assert (await disks.verdict("b", told)).lost == len(told)
        disks.served()

    monkeypatch.setattr(LocalPlace, "fence", shut_out)
    strikes = {"a": StrikePlan("run", 8, "host", "hang")}
    stored_on(tmp_path, scenario_of(REMUS, 8), block, strikes)


@contextlib.contextmanager
def small_file_system(at: Path, size_bytes: int) -> Iterator[None]:
    """A tmpfs of this size; it takes root."""
    if os.geteuid() != 0:
        pytest.skip("to mount a small file system takes root")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "colosim", str(at)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


@needs_disks
def test_the_disk_of_the_secondary_is_full(tmp_path):
    """Its disk and overlays cannot grow any more: it is no secondary, and the primary goes on."""
    for name in "abc":
        (tmp_path / name).mkdir()

    async def block(disks: Disks) -> None:
        await disks.more(20)
        ballast = tmp_path / "b" / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        await lost_secondary(disks)

    with small_file_system(tmp_path / "b", 64 << 20):
        scenario = scenario_of(REMUS, 8, directory=f"{tmp_path}/{{host}}")
        disks = stored_on(tmp_path, scenario, block)
    assert [path.name for name in "abc" for path in (tmp_path / name).iterdir()] == []
    assert any(told.what == "fenced" for told in disks.run.events)


async def fail_writes(monitor: Path) -> None:
    """From now on a host's own disk takes no writes: an error of input and output."""
    qmp = Qmp("second monitor")
    await qmp.connect(monitor)
    fault = {"event": "none", "iotype": "write", "errno": 5}
    options = {"driver": "blkdebug", "node-name": "faulty", "image": "parentf"}
    await qmp.execute("blockdev-add", {**options, "inject-error": [fault]})
    node = {"driver": "raw", "node-name": "parent0", "file": "faulty"}
    await qmp.execute("blockdev-reopen", {"options": [node]})
    await qmp.close()


@needs_disks
@pytest.mark.campaign
@pytest.mark.parametrize("host", ["b", "a"])
def test_a_disk_that_takes_no_writes(tmp_path, host):
    """Of the secondary: the primary goes on.  Of the primary: its secondary takes over."""
    with short_directory() as folder:

        async def block(disks: Disks) -> None:
            await disks.more(20)
            await fail_writes(folder / f"{host}.qmp")
            if host == "b":
                await lost_secondary(disks)
                return
            assert await disks.run.until_promoted(WAIT_LIMIT_S) == "b"
            await disks.happened("disk merged", "b")
            await disks.more(20)
            assert (await disks.verdict("b")).problems == ()
            disks.served()

        monitor = ("-qmp", f"unix:{folder}/{{host}}.qmp,server=on,wait=off")
        disks = stored_on(tmp_path, scenario_of(REMUS, 8), block, arguments=monitor)
    whats = {"b": "the secondary's disk: write error", "a": "of its own disk"}
    assert any(whats[host] in told.detail for told in disks.run.events)


# --------------------------------------------------------------------------------------------
# As people run it


@needs_disks
def test_a_run_says_what_became_of_the_disk(tmp_path):
    async def story(going: Going) -> None:
        await going.served(8)
        await going.lose()
        await going.happened("disk merged")
        await going.served(8)

    outcome = ran(
        tmp_path, story=story, client={"kind": "store"}, guest={**SERVICE["guest"], "volume": {}}
    )
    counters = outcome.record.counters
    assert counters["disk_lost_records"] == counters["lost_responses"] == 0
    assert counters["disk_records"] >= counters["disk_acknowledged_records"] > 50
    assert any(event["what"] == "disk merged" for event in outcome.record.events)
    assert (tmp_path / "disk.img").stat().st_size == 64 << 20


REMOTE = {"primary": "127.0.0.1:1", "listen": "127.0.0.1", "secret_file": "/none"}


@needs_qemu
@pytest.mark.parametrize(
    ("tables", "policy", "says"),
    [
        ({"transfer": "copy-then-send"}, "remus", "a replicated disk with copy-then-send: what"),
        ({}, "microcheckpoint", "a replicated disk with copy-then-send: what"),
        ({"engine": "native"}, "remus", "guest.volume: a replicated disk with native: only"),
        (
            {"client": {"kind": "store"}, "volume": None},
            "remus",
            "client.kind: store with no disk:",
        ),
        ({"hosts": REMOTE}, "remus", "a replicated disk with other machines: disks are"),
        ({"image": "/no/image"}, "remus", "/no/image: not there; give a raw disk image"),
        ({"size": "8388609 B"}, "remus", "guest.volume.size: 8388609 B; give a multiple"),
    ],
)
def test_what_cannot_be_replicated_is_refused(tables, policy, says):
    guest: dict[str, Any] = {"accelerator": "tcg", "volume": {}}
    rest = dict(tables)
    for name in ("image", "size"):
        if name in rest:
            guest["volume"] = {name: rest.pop(name)}
    if "volume" in rest:
        del guest["volume"], rest["volume"]
    if "engine" in rest:
        guest["engine"] = rest.pop("engine")
    scenario = Scenario.from_mapping({**SERVICE, **rest, "guest": guest})
    with pytest.raises(LiveError, match=r"^[^\n]*$") as error:
        asyncio.run(plan_of(scenario, policy, print))
    assert says in str(error.value)


# --------------------------------------------------------------------------------------------
# The judge, by itself


def records(count: int) -> np.ndarray:
    """As the guest of seed 7 stores them: of three clients in turn."""
    words = np.zeros((count, 64), np.uint64)
    words[:, 2] = np.arange(count) % 3
    words[:, 3] = np.arange(count) // 3
    return _expected(words, 7)


def promises(words: np.ndarray) -> list[Stored]:
    return [Stored(int(each[2]), int(each[3]), int(each[1]), int(each[-1])) for each in words]


def disk_with(folder: Path, raw: bytes) -> Path:
    """A file system that holds this file."""
    disk, file = folder / "disk", folder / "raw"
    file.write_bytes(raw)
    with disk.open("wb") as empty:
        empty.truncate(8 << 20)
    for command in (
        [program("mke2fs"), "-q", "-F", "-t", "ext4", str(disk)],
        [program("debugfs"), "-w", "-R", f"write {file} records", str(disk)],
    ):
        said = ask_program(command, 20)
        assert said.status == 0, said
    return disk


WHOLE = records(30)


def swapped() -> bytes:
    words = records(30)
    words[[0, 3], 3] = words[[3, 0], 3]
    return _expected(words, 7).tobytes()


def flipped() -> bytes:
    words = records(30)
    words[17, 40] ^= np.uint64(1 << 33)
    return words.tobytes()


@needs_disks
@pytest.mark.parametrize(
    ("raw", "told", "says"),
    [
        (WHOLE.tobytes(), WHOLE, []),
        (WHOLE.tobytes(), WHOLE[:11], []),  # more is there than was promised
        (b"", WHOLE[:0], []),
        (WHOLE[:20].tobytes(), WHOLE[:21], ["record 21 of client 2, number 6, was acknowledged"]),
        (WHOLE.tobytes()[:-1], WHOLE[:29], ["the file ends in the midst of record 30"]),
        (flipped(), WHOLE[:17], ["1 of 30 records are damaged, the first is 18"]),
        (flipped(), WHOLE[:18], ["1 of 30 records", "record 18 of client 2, number 5"]),
        (swapped(), WHOLE[4:], ["records of client 0 are out of order"]),
    ],
)
def test_the_judge_of_records(tmp_path, raw, told, says):
    verdict = judge(disk_with(tmp_path, raw), promises(told), 7)
    assert len(verdict.problems) == len(says), verdict
    for problem, text in zip(verdict.problems, says, strict=True):
        assert text in problem


@needs_disks
def test_the_judge_of_a_file_system(tmp_path):
    disk = disk_with(tmp_path, WHOLE.tobytes())
    with disk.open("r+b") as file:  # the first blocks of tables behind the superblock
        file.seek(8192)
        file.write(os.urandom(4096))
    problems = judge(disk, [], 7).problems
    assert problems
    assert "e2fsck" in problems[0] or "journal" in problems[0]


def test_without_e2fsprogs_a_run_says_what_to_install(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(LiveError, match="mke2fs: not found; install the Debian package e2fsprogs"):
        program("mke2fs")
