"""Loses the primary of a real pair, and looks whether the secondary went on as it should."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backends.nodes import node_configs
from backends.qemu.asking import ask_program, last_line, release, text_of
from backends.qemu.errors import LiveError
from backends.qemu.findings import Finding
from backends.qemu.guest import GroundOptions, GuestImage, cached
from backends.qemu.launch import CLOCK, Machine, Qemu
from backends.qemu.plan import HostPlan, LivePlan
from backends.qemu.records import merged
from backends.qemu.runner import LiveRun
from colosim.protocol import types as t
from colosim.protocol.invariants import check
from colosim.protocol.trace import decode_line, encode_line, replay
from colosim.scenario import Scenario

Say = Callable[[str], None]

_MS = 1_000_000
_BUILD_LIMIT_S = 300.0
_PAIR_LIMIT_S = 120.0
_SERIAL_LIMIT_S = 15.0
_TAKEOVER_LIMIT_S = 20.0
SELF_TEST_BYTES = 131080 << 10  # no multiple of 256 KiB: QEMU 7.2's own log loses pages otherwise

LAST_STEP = "replay"
_STEPS = ("parts", "boot", "protect", "checkpoints", "takeover", "memory", LAST_STEP)
_CHECKPOINTS = 5
_PAGES = 2000

#: limits that a loaded machine keeps, and failures noticed within seconds
SCENARIO: dict[str, Any] = {
    "name": "doctor",
    "duration": "60 s",
    "policy": {"name": "remus", "remus": {"interval": "100 ms"}},
    "commit": "loaded",
    "workload": {"kind": "batch", "work": "1 s"},
    "memory": {"kind": "uniform", "working_set_pages": _PAGES, "touches": "5000 /s"},
    "manager": {"heartbeat_interval": "50 ms", "heartbeat_timeout": "2 s"},
    "limits": {
        **dict.fromkeys(("quiesce", "request", "stop", "cut", "resume"), "3 s"),
        **dict.fromkeys(("ready", "save", "send", "received", "loaded", "load", "receive"), "10 s"),
    },
}

_Passed = Callable[[str], None]


async def self_test(
    say: Say, qemu: str = "qemu-system-x86_64", accelerator: str = "tcg"
) -> list[Finding]:
    """Lose the primary of a real pair: one finding a step; after one that failed the rest skip."""
    passed: list[str] = []
    why = ""
    with tempfile.TemporaryDirectory(prefix="colosim-", ignore_cleanup_errors=True) as scratch:
        try:
            async with asyncio.timeout(_BUILD_LIMIT_S + _PAIR_LIMIT_S):
                image = await asyncio.to_thread(_image, say)
                binary = await asyncio.to_thread(release, qemu)
                passed.append(f"QEMU {binary.release}, {accelerator}, {image.initrd.parent}")
                plan = _plan(image, binary, accelerator)
                async with asyncio.timeout(_PAIR_LIMIT_S):
                    await _lose_primary(plan, Path(scratch), say, passed.append)
        except TimeoutError:
            why = "not done in time"
        except Exception as error:  # whatever it is, it is what was to be found out
            why = f"{type(error).__name__}: {error}"
            if isinstance(error, LiveError):
                why = str(error)
    found = [
        Finding(f"self-test {step}", "ok", detail)
        for step, detail in zip(_STEPS, passed, strict=False)
    ]
    for step in _STEPS[len(passed) :]:
        if len(found) == len(passed):
            detail, _, advice = why.partition("; ")
            advice = advice or "run a scenario with colosim live --out DIR, which keeps the logs"
            found.append(Finding(f"self-test {step}", "fail", detail, advice))
        else:
            found.append(Finding(f"self-test {step}", "skip", "the step before it failed"))
    return found


def skipped(why: str) -> list[Finding]:
    """All its steps, not tried."""
    return [Finding(f"self-test {step}", "skip", why) for step in _STEPS]


def _image(say: Say) -> GuestImage:
    """From the cache, else built by a process that can be ended."""
    image = cached(["ground"])
    if image is not None:
        return image
    say("building a guest image")
    code = (
        "import sys\n"
        "from backends.qemu.errors import LiveError\n"
        "from backends.qemu.guest import build\n"
        "try: build(['ground'], lambda text: None)\n"
        "except LiveError as error: sys.exit(str(error))\n"
    )
    said = ask_program([sys.executable, "-c", code], _BUILD_LIMIT_S)
    image = cached(["ground"])
    if image is None:
        late = f"was not built within {_BUILD_LIMIT_S:g} s; is the network there?"
        raise LiveError(f"guest image: {late if said.status is None else last_line(said.err)}")
    return image


def _plan(image: GuestImage, qemu: Qemu, accelerator: str) -> LivePlan:
    ground = GroundOptions(pages=_PAGES, rate=5000, pattern="uniform", seed=1, vm="p")
    machine = Machine(
        kind="pc",
        accelerator=accelerator,
        memory_bytes=SELF_TEST_BYTES,
        kernel=image.kernel,
        initrd=image.initrd,
        append=image.command_line(ground=ground) + CLOCK.get(accelerator, ""),
    )
    nodes = node_configs(Scenario.from_mapping(SCENARIO), "remus")
    a, b = (HostPlan(name, node, qemu) for name, node in zip("ab", nodes, strict=True))
    return LivePlan(machine, (a, b))


async def _lose_primary(plan: LivePlan, scratch: Path, say: Say, passed: _Passed) -> None:
    run = LiveRun(plan, scratch, say)
    async with run.running():
        start_s = time.monotonic()
        await run.boot()
        passed(f"the guest was ready after {time.monotonic() - start_s:.1f} s")
        start_s = time.monotonic()
        await run.protect()
        passed(f"the pair was made in {time.monotonic() - start_s:.1f} s")
        start_s = time.monotonic()
        await until_checkpoint(run, scratch, _CHECKPOINTS)
        passed(f"{_CHECKPOINTS} done in {time.monotonic() - start_s:.1f} s")
        say("killing the primary")
        await run.strike("a", "vm", "crash")
        struck_ns = run.events[-1].at_ns
        survivor = await run.until_promoted(_TAKEOVER_LIMIT_S)
        if survivor != "b":
            raise LiveError(f"host {survivor} went on, whose guest had been killed")
        promoted = next(told for told in run.events if told.what == "promoted")
        took_ms = (promoted.at_ns - struck_ns) / _MS
        passed(f"the secondary went on {took_ms:.0f} ms after the primary's SIGKILL")
        generation = await _goes_on(run, survivor)
    committed = committed_generation(scratch)
    if not generation >= committed > 0:
        raise LiveError(
            f"the guest went on from generation {generation}, {committed} was committed"
        )
    passed(f"all pages verified, generation {generation}, {committed} was committed")
    passed(await asyncio.to_thread(_replayed, scratch))


async def until_checkpoint(run: LiveRun, scratch: Path, number: int) -> None:
    """Until that many checkpoints are complete, as the primary's trace says."""
    done = f'"{t.Completed.__name__}":{{"checkpoint":{number}}}'
    trace = scratch / "a.trace"
    while not trace.exists() or done not in trace.read_text(errors="replace"):
        run.check()
        await asyncio.sleep(0.1)


async def _goes_on(run: LiveRun, host: str) -> int:
    """The guest's generation; it verified its memory twice, and worked between."""
    path = run.paths(host).command
    generations = []
    for _ in range(2):
        said = await asyncio.to_thread(serial, path, "verify")
        if not said.startswith("ok "):
            raise LiveError(f"the guest's memory is not intact: {said}")
        generations.append(int(said.rpartition("generation=")[2]))
    if generations[1] <= generations[0]:
        raise LiveError(f"the guest stands still at generation {generations[0]}")
    return generations[0]


def serial(path: Path, command: str, limit_s: float = _SERIAL_LIMIT_S) -> str:
    """One command to the guest by its second serial port."""
    with socket.socket(socket.AF_UNIX) as tty:
        tty.settimeout(limit_s)
        tty.connect(str(path))
        tty.sendall(command.encode() + b"\n")
        said = b""
        while not said.endswith(b"\n"):
            piece = tty.recv(4096)
            if not piece:
                raise LiveError("the guest's serial port closed")
            said += piece
    return text_of(said).strip()


def committed_generation(scratch: Path) -> int:
    """That of the guest's program in the state of the last committed checkpoint."""
    lines = merged([scratch / "a.trace", scratch / "b.trace"])
    committed = [line.body.checkpoint for line in lines if isinstance(line.body, t.Committed)]
    rows = [json.loads(row) for row in (scratch / "a.saves").read_text().splitlines()]
    last = max(committed, default=0)
    return next((int(row["generation"]) for row in rows if row["checkpoint"] == last), 0)


def _replayed(scratch: Path) -> str:
    lines = merged([scratch / "a.trace", scratch / "b.trace"])
    differing = replay(decode_line(encode_line(line)) for line in lines)
    if differing:
        raise LiveError(f"the trace replays to other decisions: {differing[0]}")
    broken = [str(each) for each in check(lines)]
    if broken:
        raise LiveError(f"the trace breaks an invariant: {broken[0]}")
    return f"{len(lines)} trace lines replay to the same decisions and break no invariant"
