"""Hosts of a run on other machines: `colosim agent`s on loopback, and in network namespaces."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.qemu.address import TcpAddress, UnixAddress, connected, endpoint, parse
from backends.qemu.door import Door
from backends.qemu.errors import LiveError
from backends.qemu.host_agent import AGENT, RUNNER, SILENCE_LIMIT_S
from backends.qemu.live import LiveOutcome, run_live
from backends.qemu.places import RemotePlace, asked
from backends.qemu.records import merged, recorded
from backends.qemu.secret import derived, read_secret
from backends.qemu.selftest import SCENARIO, committed_generation, serial
from backends.qemu.stream import peer_of
from colosim.protocol import types as t
from colosim.protocol.trace import TraceError, decode_line, encode_line, replay
from colosim.scenario import Scenario
from tests.live.machines import (
    ROOT,
    AgentProcess,
    agent,
    bridged,
    colosim,
    secret_file,
    until,
    users_of,
    why_no_namespaces,
)
from tests.live.pairs import needs_qemu, until_checkpoint

LIMIT_S = 20.0
RUN_LIMIT_S = 150.0
CHECKPOINTS = 10
MS = 1_000_000
DELAY_MS = 5

TWO_HOSTS: dict[str, Any] = {
    **SCENARIO,
    "duration": "14 s",
    "workload": {
        "kind": "service",
        "load": "closed",
        "clients": 2,
        "think_time": "50 ms",
        "service_time": "1 ms",
    },
    "memory": {**SCENARIO["memory"], "guest_memory": "131080 KiB"},
    "guest": {"accelerator": "tcg"},
    "client": {"kind": "echo"},
    "link": {"delay": f"{DELAY_MS} ms", "bandwidth": "200 Mbit/s"},
}


def needs_namespaces(function):
    """A test in network namespaces; skipped, with the reason, where there are none."""
    why = why_no_namespaces()
    return pytest.mark.skipif(why is not None, reason=str(why))(function)


def scenario_of(listen: str, secret: Path, primary: str, secondary: str | None) -> dict[str, Any]:
    hosts = {"listen": listen, "secret_file": str(secret), "primary": primary}
    return {**TWO_HOSTS, "hosts": hosts | ({"secondary": secondary} if secondary else {})}


# --------------------------------------------------------------------------------------------
# A pair on two machines


class Lived:
    """A live run, and what the survivor said of its memory while it still ran."""

    outcome: LiveOutcome
    generations: list[int]


def lived(
    tmp_path: Path, tables: dict[str, Any], survivor: AgentProcess, strike: Callable[[], None]
) -> Lived:
    """Protect, checkpoint under clients, strike, and let the survivor serve to the end."""
    result = Lived()

    async def run() -> None:
        running = asyncio.create_task(
            run_live(Scenario.from_mapping(tables), "remus", tmp_path, print)
        )
        try:
            await until_checkpoint(tmp_path, CHECKPOINTS, 100)
            await asyncio.to_thread(strike)
            result.generations = await asyncio.to_thread(verified, survivor)
        except BaseException:
            if running.done():
                running.result()
            running.cancel()
            raise
        result.outcome = await running

    asyncio.run(asyncio.wait_for(run(), RUN_LIMIT_S))
    print(*result.outcome.record.events, sep="\n")
    return result


def verified(survivor: AgentProcess) -> list[int]:
    """Generations of the survivor's guest, which verified all its memory twice and worked."""
    (directory,) = survivor.directory.glob("colosim-*")
    time.sleep(4)  # it has taken over by then
    said = [serial(directory / "b.tty", "verify") for _ in range(2)]
    assert all(each.startswith("ok ") for each in said), said
    first, second = (int(each.rpartition("generation=")[2]) for each in said)
    assert second > first, "the guest stands still"
    return [first, second]


def check_survived(tmp_path: Path, result: Lived) -> None:
    """The secondary served to the end, nothing was lost, decisions and invariants hold."""
    outcome = result.outcome
    record = outcome.record
    assert record.violations == []
    assert replay(decode_line(encode_line(line)) for line in outcome.lines) == []
    assert [line.node for line in outcome.lines if isinstance(line.body, t.Alone)] == ["secondary"]
    assert [each["node"] for each in record.events if each["what"] == "promoted"] == ["secondary"]
    for what in ("lost", "wrong", "doubled"):
        assert record.counters[f"{what}_responses"] == 0, record.counters
    assert record.responses["released_ns"].max() > 13e9
    committed = [line.body.checkpoint for line in outcome.lines if isinstance(line.body, t.Loaded)]
    assert len(committed) >= CHECKPOINTS
    table = record.checkpoints
    delayed = (table["started_ns"] > 100 * MS) & (table["committed_ns"] > 0)  # the run has begun
    took_ns = (table["committed_ns"] - table["cut_ns"])[delayed]
    assert len(took_ns) and took_ns.min() > 2 * DELAY_MS * MS, "the link had no delay"


@needs_qemu
def test_a_pair_on_two_machines_of_loopback(tmp_path):
    """Without root: separate directories; the primary's whole domain is killed."""
    secret = secret_file(tmp_path)
    with agent(secret) as a, agent(secret) as b:

        def strike() -> None:
            a.kill()
            until(lambda: users_of(a.directory) == [], "the end of the primary's domain")

        tables = scenario_of("127.0.0.1", secret, a.at, b.at)
        result = lived(tmp_path, tables, b, strike)
        check_survived(tmp_path, result)
        until(lambda: b.processes() == [], "the end of the secondary's domain")
        assert "nothing of its run is left" in b.end()
    assert result.outcome.about["machine of primary"] == a.at


@needs_qemu
@needs_namespaces
@pytest.mark.parametrize("how", ["killed", "cut off"])
def test_a_machine_that_says_nothing_any_more(tmp_path, how):
    """Its plug is pulled: no FIN tells of it.  One that still lives ends its run by itself."""
    secret = secret_file(tmp_path)
    with (
        bridged("ab") as net,
        agent(secret, net.there["a"], net.namespaces["a"]) as a,
        agent(secret, net.there["b"], net.namespaces["b"]) as b,
    ):
        cut_s = []

        def strike() -> None:
            net.unplug("a")
            cut_s.append(time.monotonic())
            if how == "killed":
                a.kill()

        tables = scenario_of(net.here, secret, a.at, b.at)
        result = lived(tmp_path, tables, b, strike)
        check_survived(tmp_path, result)
        events = result.outcome.record.events
        (fenced,) = [each["detail"] for each in events if each["what"] == "fenced"]
        assert fenced.startswith("by b; only shut out of the network: colosim agent at")
        left_s = SILENCE_LIMIT_S + 5 - (time.monotonic() - cut_s[0])
        until(lambda: a.processes() == [], "the end of what was cut off", max(1.0, left_s))
        if how == "cut off":
            assert a.process.poll() is None, "the agent itself goes on"


@needs_qemu
def test_only_the_primary_is_elsewhere(tmp_path):
    """Ways to this machine and to another in one run; a kill that the runner does."""
    secret = secret_file(tmp_path)
    with agent(secret) as a:
        tables = {
            **scenario_of("127.0.0.1", secret, a.at, None),
            "duration": "6 s",
            "fault": [{"target": "primary", "scope": "host", "kind": "crash", "at": "3 s"}],
        }
        scenario = Scenario.from_mapping(tables)
        outcome = asyncio.run(
            asyncio.wait_for(run_live(scenario, "remus", tmp_path, print), RUN_LIMIT_S)
        )
        assert outcome.record.violations == []
        assert outcome.record.counters["lost_responses"] == 0
        assert outcome.record.responses["released_ns"].max() > 5e9
        assert committed_generation(tmp_path) == 0, "traces were removed, saves stay"
        assert "colosim: ready" in (tmp_path / "a.console.log").read_text()
        received = sorted((a.directory / "received").iterdir())
        assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in received] == [
            path.name for path in received
        ]
        assert len(received) == 2, "kernel and initramfs, once each"
