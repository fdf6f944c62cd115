"""No process outlives its runner, whoever ends and however."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backends.qemu.errors import LiveError
from backends.qemu.supervisor import Ended, Supervisor

LIMIT_S = 60.0
#: a child with a child of its own, which ignores what can be ignored
STUBBORN = "trap '' TERM INT HUP; sleep 600 & wait"


def gone(pid: int) -> bool:
    """The process has ended and was reaped (or waits for a parent that is not ours)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def until(condition) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end_s, "time limit"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in text.split()]


def supervised(tmp_path, block):
    """Run ``await block(supervisor, ended)`` in a fresh run directory."""

    async def run():
        ended: list[Ended] = []
        directory = tmp_path / "run"
        directory.mkdir()
        async with Supervisor(directory, ended.append) as supervisor:
            result = await block(supervisor, ended)
        assert not directory.exists()
        return result

    return asyncio.run(asyncio.wait_for(run(), LIMIT_S))


def test_children_are_started_signalled_and_reaped(tmp_path):
    async def block(supervisor, ended):
        log = tmp_path / "log"
        await supervisor.spawn("a", "one", ["sh", "-c", "echo said; exit 3"], log)
        two = await supervisor.spawn("a", "two", ["sh", "-c", STUBBORN], log)
        three = await supervisor.spawn("b", "three", ["sleep", "600"], log)
        while not ended:
            await asyncio.sleep(0.01)
        assert ended == [Ended("a", "one", 3)]
        assert log.read_text() == "said\n"
        await supervisor.signal("b", signal.SIGSTOP, "three")
        until(lambda: " T " in Path(f"/proc/{three}/stat").read_text())
        until(lambda: children(two))
        (grandchild,) = children(two)
        await supervisor.kill("a")
        assert gone(two)
        until(lambda: gone(grandchild))
        assert not gone(three)
        await supervisor.kill("b")  # stopped processes too
        assert gone(three)
        while len(ended) < 3:
            await asyncio.sleep(0.01)
        assert ended[1:] == [Ended("a", "two", -9), Ended("b", "three", -9)]

    supervised(tmp_path, block)


def test_what_cannot_be_started_is_one_line(tmp_path):
    async def block(supervisor, ended):
        with pytest.raises(LiveError, match=r"^qemu: No such file or directory: /no/such$"):
            await supervisor.spawn("a", "qemu", ["/no/such"], tmp_path / "log")

    supervised(tmp_path, block)


def test_one_that_does_not_answer_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("backends.qemu.supervisor._ANSWER_LIMIT_S", 0.05)

    async def block(supervisor, ended):
        os.kill(supervisor._process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(LiveError, match=r"kill: .* did not answer in 0\.05 s"):
                await supervisor.kill("a")
        finally:
            os.kill(supervisor._process.pid, signal.SIGCONT)
        assert not supervisor._waiting

    supervised(tmp_path, block)


def test_the_end_of_the_block_ends_all(tmp_path):
    async def block(supervisor, ended):
        log = tmp_path / "log"
        return [await supervisor.spawn("a", str(i), ["sh", "-c", STUBBORN], log) for i in range(3)]

    for pid in supervised(tmp_path, block):
        assert gone(pid)


RUNNER = """
import asyncio, sys
from pathlib import Path
from backends.qemu.supervisor import Supervisor

async def run():
    directory = Path(sys.argv[1])
    async with Supervisor(directory, print) as supervisor:
        child = await supervisor.spawn("a", "x", ["sh", "-c", sys.argv[2]], directory / "log")
        print(supervisor._process.pid, child, flush=True)
        await asyncio.sleep(600)

asyncio.run(run())
"""


@pytest.mark.parametrize("victim", ["runner", "supervisor"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_runner_leaves_nothing(tmp_path, victim, number):
    directory = tmp_path / "run"
    directory.mkdir()
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(directory), STUBBORN],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert runner.stdout is not None
    supervisor, child = map(int, runner.stdout.readline().split())
    try:
        if victim == "supervisor" and number == signal.SIGTERM:
            os.kill(supervisor, number)  # which it ignores: only the runner's end counts
            time.sleep(0.1)
            assert not gone(supervisor)
            runner.kill()
        else:
            os.kill(runner.pid if victim == "runner" else supervisor, number)
        until(lambda: gone(child))
        if victim == "runner":
            until(lambda: gone(supervisor))
            until(lambda: not directory.exists())
    finally:
        runner.kill()
        runner.wait()
