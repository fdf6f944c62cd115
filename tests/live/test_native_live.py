"""Genuine pairs of QEMU 11: shadowed, struck, taken over; and a genuine primary before our sink.

COLOSIM_QEMU_11 names the QEMU.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.nodes import node_configs
from backends.qemu.asking import probe
from backends.qemu.errors import LiveError
from backends.qemu.launch import Paths
from backends.qemu.live import run_live
from backends.qemu.plan import HostPlan
from backends.qemu.selftest import SCENARIO
from backends.qemu.sink import Sink
from backends.qemu.wire import greeting_of
from colosim.protocol import types as t
from colosim.protocol.invariants import check
from colosim.protocol.trace import Line, decode_line, encode_line, replay
from colosim.scenario import Scenario
from tests.live import pairs
from tests.live.native_pairs import QEMU, live, needs_qemu_11, plan
from tests.live.test_live_command import colosim
from tests.live.test_wire_live import guest, until_ready

HANG_NS = 600_000_000_000  # longer than any run


async def survives(run, host: str) -> None:
    """The guest of this host goes on, with its memory intact."""
    assert await run.until_promoted(pairs.WAIT_LIMIT_S) == host
    first = await pairs.verified(run, host)
    assert await pairs.verified(run, host) > first, "the guest stands still"


def struck(tmp_path, host: str, scope: str, kind: str, checkpoints: int, **machine: Any) -> None:
    """Strike after some checkpoints; nothing differed, and the other side went on."""
    survivor = {"a": "b", "b": "a"}[host]

    async def block(run):
        await pairs.until_checkpoint(tmp_path, checkpoints)
        await run.strike(host, scope, kind, HANG_NS if kind == "hang" else None)
        await survives(run, survivor)

    run = live(tmp_path, plan(**machine), block)
    assert run.counters["differences"] == 0
    lines = pairs.checked(tmp_path)
    assert pairs.counted(lines, t.Committed) >= checkpoints
    assert sum(isinstance(line.body, t.Alone) for line in lines) == 1
    assert "panic" not in (tmp_path / f"{survivor}.console.log").read_text()


@needs_qemu_11
@pytest.mark.parametrize(
    ("host", "scope", "kind"),
    [
        *(("a", "vm", "crash"), ("a", "host", "crash"), ("a", "vm", "hang")),
        *(("b", "vm", "crash"), ("b", "host", "crash"), ("b", "vm", "hang")),
    ],
)
def test_a_genuine_pair_is_struck(tmp_path, host, scope, kind):
    struck(tmp_path, host, scope, kind, 10)


@needs_qemu_11
@pytest.mark.campaign
@pytest.mark.parametrize("host", ["a", "b"])
def test_a_hundred_checkpoints_without_a_difference_then_a_failover(tmp_path, host):
    struck(tmp_path, host, "vm", "crash", 120)


SERVICES: dict[str, dict[str, Any]] = {
    "nginx": {"kind": "http"},
    "redis": {"kind": "redis"},
}


@needs_qemu_11
@pytest.mark.campaign
@pytest.mark.parametrize("target", ["primary", "secondary"])
@pytest.mark.parametrize("service", SERVICES)
def test_clients_of_a_genuine_pair_lose_nothing(tmp_path, service, target):
    """>= 100 checkpoints under load, and a failover to either side."""
    tables: dict[str, Any] = {
        **SCENARIO,
        "duration": "20 s",
        "workload": {
            "kind": "service",
            "load": "closed",
            "clients": 4,
            "think_time": "50 ms",
            "service_time": "1 ms",
        },
        "memory": {**SCENARIO["memory"], "guest_memory": "256 MiB"},
        "guest": {"engine": "native", "qemu": QEMU, "accelerator": "tcg", "services": [service]},
        "client": SERVICES[service],
        "fault": [{"target": target, "scope": "host", "kind": "crash", "at": "17 s"}],
    }
    scenario = Scenario.from_mapping(tables)
    outcome = asyncio.run(asyncio.wait_for(run_live(scenario, "remus", tmp_path, print), 240))
    record = outcome.record
    print(record.metrics(), record.counters, *record.events, sep="\n")
    assert record.counters["differences"] == 0
    assert record.violations == []
    assert len(record.checkpoints["checkpoint"]) >= 100
    assert replay(decode_line(encode_line(line)) for line in outcome.lines) == []
    assert check(outcome.lines) == []
    alone = [line for line in outcome.lines if isinstance(line.body, t.Alone)]
    print(alone, *((tmp_path / f"{host}.console.log").read_text()[-500:] for host in "ab"))
    assert len(alone) == 1
    answered = record.responses["released_ns"]
    assert (answered[record.responses["arrival_ns"] < 19_000_000_000] >= 0).all()
    assert answered.max() > 19_000_000_000, "clients are served after the failover"


@pytest.mark.campaign
@pairs.needs_qemu
def test_a_release_that_hangs_ends_with_the_reason(tmp_path):
    """The QEMU of Debian 12 hangs at its first checkpoint under TCG."""

    async def hangs():
        qemu = await probe(pairs.QEMU)
        if qemu.version >= (11, 0, 0):
            pytest.skip(f"QEMU {qemu.release} does not hang")
        whole = await plan()
        hosts = tuple(HostPlan(host.name, host.node, qemu) for host in whole.hosts)
        return replace(whole, hosts=hosts)

    async def never(run):
        raise AssertionError("it was protected")

    with pytest.raises(LiveError, match=r"checkpoint was completed|did not enter COLO"):
        live(tmp_path, hangs(), never)


# --------------------------------------------------------------------------------------- the sink


async def sunk(directory: Path, checkpoints: int) -> tuple[Sink, list[int], list[Line]]:
    """A genuine primary before our sink; how many pages differed while it was stopped."""
    whole = await plan()
    qemu, machine = whole.hosts[0].qemu, whole.machine
    _, config = node_configs(Scenario.from_mapping(SCENARIO), "remus")
    differing: list[int] = []
    lines: list[Line] = []
    enough = asyncio.Event()
    async with guest(qemu, machine, Paths(directory, "a"), incoming=False) as p:

        async def loaded(checkpoint: int) -> None:
            if enough.is_set():
                return
            status = (await p.qmp.execute("query-status"))["status"]
            assert status == "colo", "the primary waits for LOADED"
            ours = sink.ram.view(np.uint64).reshape(-1, 512)
            differing.append(int((p.ram() != ours).any(axis=1).sum()))
            if checkpoint == checkpoints:
                enough.set()

        sink = Sink(directory / "sink", config, greeting_of(qemu.version), loaded, [lines.append])
        await until_ready(p)
        await sink.start()
        names = ("x-colo", "events", "return-path")
        wanted = [{"capability": name, "state": True} for name in names]
        await p.qmp.execute("migrate-set-capabilities", {"capabilities": wanted})
        limits = {"max-bandwidth": 1 << 40, "downtime-limit": 300_000, "x-checkpoint-delay": 150}
        await p.qmp.execute("migrate-set-parameters", limits)
        await p.qmp.execute("stop")
        await p.qmp.execute("migrate", {"uri": f"unix:{sink.path}"})
        async with asyncio.timeout(120):
            await enough.wait()
        await asyncio.sleep(0.02)
        sink.close()
    return sink, differing, lines


@needs_qemu_11
@pytest.mark.parametrize("checkpoints", [20, pytest.param(200, marks=pytest.mark.campaign)])
def test_a_genuine_primary_goes_along_with_our_secondary(checkpoints):
    with tempfile.TemporaryDirectory(prefix="sink", dir="/dev/shm") as directory:
        sink, differing, lines = asyncio.run(sunk(Path(directory), checkpoints))
    assert sink.trouble is None
    assert differing == [0] * len(differing)
    assert len(differing) == checkpoints
    assert [each.checkpoint for each in sink.taken] == list(range(1, len(sink.taken) + 1))
    assert sum(each.pages for each in sink.taken) > checkpoints
    for each in sink.taken:
        assert each.request_ns <= each.send_ns <= each.state_ns
        assert each.pages - each.zero_pages <= each.ram_bytes // 4096
        assert each.device_bytes > 1000
    assert replay(decode_line(encode_line(line)) for line in lines) == []
    assert sum(isinstance(line.body, t.Loaded) for line in lines) == len(sink.taken)


# --------------------------------------------------------------------------------- the command


@needs_qemu_11
def test_a_native_run_by_command(tmp_path):
    text = (Path(__file__).parents[2] / "experiments" / "live" / "ground.toml").read_text()
    text = re.sub(r"services = .*\n", f'engine = "native"\nqemu = "{QEMU}"\n', text, count=1)
    text = text.replace('"15 s"', '"8 s"').replace('"10 s"', '"5 s"')
    path = tmp_path / "native.toml"
    path.write_text(text)
    done = colosim("live", path, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "0 differences between QEMU and our tables" in done.stderr + done.stdout
    assert "same decisions" in colosim("replay", tmp_path / "run").stdout
    events = (tmp_path / "run" / "events.csv").read_text()
    assert "secondary,promoted" in events
    shutil.rmtree(tmp_path / "run")
