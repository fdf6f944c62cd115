"""The guide to genuine COLO says what the native engine does."""

import asyncio
import json
import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

from backends.qemu import proxy
from backends.qemu.genuine import CompareSettings
from backends.qemu.launch import MAC, Machine, Paths, Qemu, argv
from backends.qemu.tap import PRIMARY, SECONDARY
from colosim.scenario import Scenario
from tests.docs.examples import blocks
from tests.live import native_pairs as native

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "howto" / "genuine-colo.md"
HOME = Path("/run/pair")


def recorded():
    """Command lines of both QEMUs, and what both monitors are told, in order, as the page says."""
    lines, told = [], []
    for block in blocks(PAGE):
        if block.kind == "console recorded":
            text = block.text.replace("\\\n", " ")
            lines = [shlex.split(line[2:]) for line in text.splitlines()]
        if block.kind == "text":
            told += block.text.splitlines()
    return lines, [(line[0], json.loads(line[3:])) for line in told]


def test_command_lines_are_those_of_the_engine():
    machine = Machine(
        kind="pc",
        accelerator="tcg",
        memory_bytes=131_080 << 10,
        kernel=Path("vmlinuz"),
        initrd=Path("initrd.cpio"),
        append="console=ttyS0 clocksource=acpi_pm",
        mac=MAC,
    )
    qemu = Qemu("qemu-system-x86_64", (11, 1, 3))
    a = argv(qemu, machine, Paths(HOME, "a"), False) + proxy.arguments(HOME / "a.log")
    b = argv(qemu, machine, Paths(HOME, "b"), True)
    assert recorded()[0] == [a, b]


class Monitor:
    """Notes what `proxy` says; QEMU itself is asked by the live test below."""

    def __init__(self, side, told):
        self.name, self._told = side, told

    async def execute(self, command, arguments=None):
        if command == "query-chardev":
            return [
                {"label": name, "filename": ""}
                for sockets in proxy._SOCKETS.values()
                for name, _, _ in sockets
            ]
        body = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self._told.append((self.name, body))
        return None


def test_the_proxy_is_the_engines():
    told: list[tuple[str, dict]] = []
    monitors: dict[str, Any] = {PRIMARY: Monitor("a", told), SECONDARY: Monitor("b", told)}

    async def run():
        joined = proxy.Proxy.__new__(proxy.Proxy)
        joined._directory = HOME
        joined._settings = CompareSettings(300_000_000, 75_000_000, 1024)
        await joined.join(monitors)
        for side in (SECONDARY, PRIMARY):
            leave = partial(monitors[side].execute, proxy._LEAVE)
            await joined.leave(side, monitors[side], leave)

    asyncio.run(run())
    others = ("migrate", "stop")
    page = [(side, body) for side, body in recorded()[1] if not body["execute"].startswith(others)]
    assert page == told


@native.needs_qemu_11
def test_a_native_run_leaves_these_commands(tmp_path):
    """Recorded from a real pair, whose secondary takes over; one key for another directory."""
    import colosim

    mapping = {
        "name": "native",
        "duration": "6 s",
        "commit": "received",
        "compare": {"mode": "colo-compare", "rewriter": "qemu"},
        "policy": {
            "name": "colo",
            "colo": {"checkpoint_delay": "2 s", "compare_timeout": "300 ms"},
        },
        "workload": {
            "kind": "service",
            "load": "closed",
            "clients": 1,
            "think_time": "50 ms",
            "service_time": "1 ms",
        },
        "memory": {
            "kind": "uniform",
            "guest_memory": "131080 KiB",
            "working_set_pages": 200,
            "touches": "500 /s",
        },
        "guest": {"engine": "native", "qemu": native.QEMU, "services": ["ground"]},
        "client": {"kind": "echo"},
        "fault": [{"target": "primary", "scope": "host", "kind": "crash", "at": "3 s"}],
    }
    colosim.live(Scenario.from_mapping(mapping), out=tmp_path / "out")
    found = (tmp_path / "out" / "commands.txt").read_text()
    [home] = set(re.findall(r"path=(/[^ ]+)/[ab]\.net", found))
    found = found.replace(f"unix:{home}/tap", f"unix:{HOME}/b.mig").replace(home, str(HOME))
    said = [(line[0], json.loads(line[3:])) for line in found.splitlines() if line[1] == ":"]
    page = recorded()[1]
    alone = len(proxy._ALONE[PRIMARY])  # which did not happen here
    assert said == page[:-alone]
    lines = [shlex.split(line[3:]) for line in found.splitlines() if line[1] == "$"]
    own = ("-kernel", "-initrd", "-append", "-D")
    for mine, shown in zip(lines, recorded()[0], strict=True):
        for words in (mine, shown):
            words[0] = "qemu"
            for option in own:
                if option in words:
                    words[words.index(option) + 1] = "own"
        assert mine == shown
