"""Two real QEMUs on the wire, without agents: `memory` and `wire` against the genuine.

Other versions: COLOSIM_QEMU_P and COLOSIM_QEMU_S name the binaries.  Times are shown by ``-s``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.qemu.asking import probe
from backends.qemu.errors import LiveError
from backends.qemu.guest import GroundOptions, build
from backends.qemu.guest.ground import find_headers, find_page
from backends.qemu.launch import Machine, Paths, Qemu, argv
from backends.qemu.memory import Scanner, scanner_for
from backends.qemu.qmp import Qmp
from backends.qemu.wire import MigrationBridge, RamEncoder, ReturnPath, device_state, greeting_of
from colosim.protocol.codec import encode
from colosim.protocol.dialect import UPSTREAM, Message

PAGE_BYTES = 4096
PROGRAM_PAGES = 2000
TOUCH_WORD = 2  # of a page: the number of the write that it holds
MEMORY_BYTES = 131080 << 10  # no multiple of 256 KiB, nor of a scanner's block
CHECKPOINTS = 24
QUIET = 6  # of them at the end, with the guest idle
STEP_LIMIT_S = 60.0
BOOT_LIMIT_S = 250.0


@dataclass
class Guest:
    qemu: Qemu
    paths: Paths
    process: asyncio.subprocess.Process
    qmp: Qmp

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, and see a stop happen."""
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            stat = Path(f"/proc/{self.process.pid}/stat")
            end_s = time.monotonic() + STEP_LIMIT_S
            while stat.read_text().rsplit(")", 1)[1].split()[0] != "T":
                assert time.monotonic() < end_s

    def ram(self) -> np.ndarray:
        return np.fromfile(self.paths.ram, np.uint64).reshape(-1, 512)

    async def console(self, command: str) -> str:
        """One command line of the guest's program, and its answer."""
        reader, writer = await asyncio.open_unix_connection(str(self.paths.command))
        try:
            async with asyncio.timeout(STEP_LIMIT_S):
                writer.write(command.encode() + b"\n")
                while True:  # a survivor may first finish an answer of before
                    answer = (await reader.readline()).decode().strip()
                    if answer and answer != command:
                        return answer
        finally:
            writer.close()


@dataclass
class Times:
    """Durations by step, in ms."""

    steps: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.steps[name].append((time.perf_counter() - began) * 1e3)

    def __str__(self) -> str:
        return "\n".join(
            f"{name:>14}: median {statistics.median(ms):8.2f}  max {max(ms):8.2f}  n {len(ms)}"
            for name, ms in self.steps.items()
        )


@contextlib.asynccontextmanager
async def guest(qemu: Qemu, machine: Machine, paths: Paths, incoming: bool) -> AsyncIterator[Guest]:
    with paths.of("stderr").open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *argv(qemu, machine, paths, incoming), stdin=asyncio.subprocess.DEVNULL, stderr=stderr
        )
    qmp = Qmp(paths.host)
    try:
        await qmp.connect(paths.qmp)
        yield Guest(qemu, paths, process, qmp)
    finally:
        await qmp.close()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Secondary:
    """The wire to the secondary, as a primary of 30 lines sees it."""

    def __init__(self, s: Guest) -> None:
        self._s = s
        self._greeting = greeting_of(s.qemu.version)
        self._path = ReturnPath(self._greeting)
        self._said = b""

    async def connect(self) -> None:
        names = ["x-colo", "events", *(["return-path"] if self._greeting.return_path else [])]
        wanted = [{"capability": name, "state": True} for name in names]
        uri = f"unix:{self._s.paths.migration}"
        await self._s.qmp.execute("migrate-set-capabilities", {"capabilities": wanted})
        await self._s.qmp.execute("migrate-incoming", {"uri": uri})
        self._reader, self.writer = await asyncio.open_unix_connection(str(self._s.paths.migration))

    async def send(self, *parts: bytes | memoryview) -> None:
        for part in parts:
            self.writer.write(part)
        async with asyncio.timeout(STEP_LIMIT_S):
            await self.writer.drain()

    async def say(self, message: Message, *parts: bytes | memoryview) -> None:
        await self.send(encode(UPSTREAM, message), *parts)

    async def hear(self, message: Message) -> None:
        async with asyncio.timeout(STEP_LIMIT_S):
            while len(self._said) < 4:
                data = await self._reader.read(4096)
                assert data, f"end of stream instead of {message}"
                self._said += self._path.feed(data)
        heard, self._said = self._said[:4], self._said[4:]
        assert heard == encode(UPSTREAM, message)


async def migrate(p: Guest, secondary: Secondary) -> MigrationBridge:
    """The first migration, through the bridge; the guest is stopped and stays so."""
    bridge = MigrationBridge(greeting_of(secondary._s.qemu.version))
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[asyncio.StreamReader] = loop.create_future()
    server = await asyncio.start_unix_server(
        lambda reader, writer: arrived.set_result(reader), str(p.paths.migration)
    )
    try:
        limits = {"max-bandwidth": 1 << 40, "downtime-limit": 300_000}
        await p.qmp.execute("migrate-set-parameters", limits)
        await p.qmp.execute("migrate", {"uri": f"unix:{p.paths.migration}"})
        reader = await arrived
        while piece := await reader.read(1 << 18):
            await secondary.send(bridge.feed(piece))
    finally:
        server.close()
    async with asyncio.timeout(STEP_LIMIT_S):
        while (await p.qmp.execute("query-migrate"))["status"] != "completed":
            await asyncio.sleep(0.01)
    return bridge


async def save(p: Guest, bridge: MigrationBridge, scanner: Scanner, times: Times) -> Any:
    """Device state and memory of the stopped guest."""
    with times.step("save"):
        arguments = {"filename": str(p.paths.device_state), "live": False}
        await p.qmp.execute("xen-save-devices-state", arguments)
        devices = device_state(p.paths.device_state)
    with times.step("scan"):
        pages = scanner.changed()
    with times.step("encode"):
        ram = RamEncoder(bridge.layout, scanner).encode(pages)
    times.steps["pages"].append(len(pages))
    times.steps["device bytes"].append(len(devices))
    return ram, len(devices).to_bytes(8, "big"), devices


def differing(p: np.ndarray, s: np.ndarray) -> tuple[int, int]:
    """How many pages differ, and how many of them the secondary cannot have written itself.

    It ran on for a moment.  A page of the guest's program tells which write it holds, and whatever
    the secondary wrote since is newer than the last write that the primary knows of.
    """
    unequal = (p != s).any(axis=1)
    first = find_page(p.reshape(-1), 0)
    assert first is not None
    program = p[:, 0] == p[first // PAGE_BYTES, 0]
    assert program.sum() >= PROGRAM_PAGES
    last = next(iter(find_headers(p.reshape(-1)))).touches
    stale = unequal & program & (s[:, TOUCH_WORD] <= last)
    return int(unequal.sum()), int(stale.sum())


async def checkpoint(
    p: Guest,
    s: Guest,
    secondary: Secondary,
    bridge: MigrationBridge,
    scanner: Scanner,
    times: Times,
) -> tuple[int, int]:
    """One checkpoint; what differs when the secondary is frozen right after it."""
    with times.step("request"):
        await secondary.say(Message.REQUEST)
        await secondary.hear(Message.REPLY)
    with times.step("stop"):
        await p.qmp.execute("stop")
    ram, size, devices = await save(p, bridge, scanner, times)
    with times.step("received"):
        await secondary.say(Message.SEND, *ram)
        await secondary.say(Message.SIZE, size, devices)
        await secondary.hear(Message.RECEIVED)
    with times.step("loaded"):
        await secondary.hear(Message.LOADED)
    s.signal(signal.SIGSTOP)
    p.signal(signal.SIGSTOP)
    try:
        return differing(p.ram(), s.ram())
    finally:
        s.signal(signal.SIGCONT)
        p.signal(signal.SIGCONT)
        with times.step("cont"):
            await p.qmp.execute("cont")


async def until_ready(vm: Guest) -> None:
    async with asyncio.timeout(BOOT_LIMIT_S):
        while True:
            with contextlib.suppress(OSError):
                if "colosim: ready" in vm.paths.console.read_text(errors="replace"):
                    return
            assert vm.process.returncode is None, vm.paths.of("stderr").read_text()
            await asyncio.sleep(0.1)


async def takeover(s: Guest, secondary: Secondary, times: Times) -> None:
    with times.step("takeover"):
        await s.qmp.execute("x-colo-lost-heartbeat")
        secondary.writer.close()
        async with asyncio.timeout(STEP_LIMIT_S):
            while (
                (await s.qmp.execute("query-colo-status"))["mode"] != "none"
                or (await s.qmp.execute("query-status"))["status"] != "running"
            ):  # fmt: skip
                await asyncio.sleep(0.001)


async def prove(directory: Path) -> None:
    qemu_p = await probe(os.environ.get("COLOSIM_QEMU_P", "qemu-system-x86_64"))
    qemu_s = await probe(os.environ.get("COLOSIM_QEMU_S", "qemu-system-x86_64"))
    older = min(qemu_p.version, qemu_s.version)
    kind = "pc" if qemu_p.version == qemu_s.version else f"pc-i440fx-{older[0]}.{older[1]}"
    image = build(["ground"], lambda text: None)
    ground = GroundOptions(pages=PROGRAM_PAGES, rate=5000, pattern="uniform", seed=1, vm="p")
    machine = Machine(
        kind, "tcg", MEMORY_BYTES, image.kernel, image.initrd, image.command_line(ground=ground)
    )
    times = Times()
    async with (
        guest(qemu_p, machine, Paths(directory, "p"), incoming=False) as p,
        guest(qemu_s, machine, Paths(directory, "s"), incoming=True) as s,
    ):
        await until_ready(p)
        scanner = scanner_for(p.process.pid, p.paths.ram, MEMORY_BYTES)
        secondary = Secondary(s)
        await secondary.connect()
        await p.qmp.execute("stop")
        with times.step("first"):
            bridge = await migrate(p, secondary)
            await secondary.hear(Message.READY)
        with times.step("take"):
            scanner.take()
        await p.qmp.execute("cont")

        seen = []
        for number in range(CHECKPOINTS):
            if number == CHECKPOINTS - QUIET:
                await p.console("set rate=0")
            await asyncio.sleep(0.05)
            seen.append(await checkpoint(p, s, secondary, bridge, scanner, times))
        sent = next(iter(find_headers(p.ram().reshape(-1))))
        print(f"\nP {qemu_p.release}, S {qemu_s.release}, {kind}, {scanner.name}, {bridge.layout}")
        print(f"pages that differ after LOADED, all and stale: {seen}\n{times}")

        p.signal(signal.SIGKILL)
        await p.process.wait()
        await takeover(s, secondary, times)
        print(f"takeover {times.steps['takeover'][0]:.1f} ms")

        assert sent.whole
        # The guest's program checks every page of its own: one lost page is a bad page.
        answer = await s.console("verify")
        verified = re.fullmatch(rf"ok pages={PROGRAM_PAGES} generation=(\d+)", answer)
        assert verified, answer
        assert int(verified[1]) >= sent.generation
        await s.console("set rate=5000")
        await asyncio.sleep(0.2)
        again = re.fullmatch(
            rf"ok pages={PROGRAM_PAGES} generation=(\d+)", await s.console("verify")
        )
        assert again
        assert int(again[1]) > int(verified[1])
        assert all(stale <= 1 for _, stale in seen), "but for one frozen half-written"
        assert all(every <= 100 for every, _ in seen[1 - QUIET :])
        scanner.close()


@pytest.mark.live
def test_checkpoints_reach_a_genuine_secondary_which_takes_over():
    if shutil.which(os.environ.get("COLOSIM_QEMU_P", "qemu-system-x86_64")) is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    try:
        build(["ground"], lambda text: None)
    except LiveError as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="wire", dir="/dev/shm") as directory:
        asyncio.run(prove(Path(directory)))
