"""Clients of a protected service: nothing is lost or doubled when its primary is killed.

`remus`: what leaves was committed, what a client sent since the last cut reaches the guest that
takes over.  The campaign kills at more moments.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from backends.qemu.errors import LiveError
from backends.qemu.live import run_live
from backends.qemu.selftest import SCENARIO
from colosim.protocol import types as t
from colosim.protocol.node import NodeConfig
from colosim.scenario import Scenario
from tests.live.pairs import WAIT_LIMIT_S, ask, live, needs_qemu, plan, until_checkpoint
from tests.live.services import (
    KILL,
    SERVICE,
    Going,
    check_served,
    loses,
    ran,
)


@needs_qemu
@pytest.mark.parametrize("scope", ["vm", "host"])
@pytest.mark.parametrize("client", ["echo", "work", "download"])
def test_clients_do_not_notice_that_the_primary_was_killed(tmp_path, client, scope):
    size = "4 MiB" if client == "download" else "1 KiB"
    outcome = ran(
        tmp_path,
        story=loses(scope=scope, checkpoints=12, each=2 if client == "download" else 5),
        client={"kind": client, "size": size},
    )
    check_served(outcome)
    assert sum(isinstance(line.body, t.Alone) for line in outcome.lines) == 1
    assert (outcome.record.checkpoints["committed_ns"] >= 0).sum() > 10


@needs_qemu
def test_clients_do_not_notice_that_the_secondary_was_killed(tmp_path):
    outcome = ran(
        tmp_path,
        story=loses("secondary"),
        client={"kind": "echo"},
    )
    check_served(outcome)


@needs_qemu
@pytest.mark.parametrize("client", ["echo", "download"])
def test_clients_stay_through_three_hosts(tmp_path, client):
    """The primary is killed, its successor is protected again, handed over and killed."""

    async def story(going: Going) -> None:
        for pair, node in ((1, "primary"), (2, "primary.2")):
            await going.told(t.Committed, 5, node)
            await loses()(going)
            await going.happened("protected", pair)
        await going.told(t.Committed, 5, "primary.3")
        await going.served()

    outcome = ran(
        tmp_path,
        story=story,
        client={"kind": client, "size": "1 KiB" if client == "echo" else "1 MiB"},
        manager={**SCENARIO["manager"], "reprotect": True, "reprotect_delay": "500 ms"},
    )
    check_served(outcome)
    alone = [line.node for line in outcome.lines if isinstance(line.body, t.Alone)]
    assert alone == ["secondary", "secondary.2"]
    # the third pair protects as the first did
    headers = [line.node for line in outcome.lines if isinstance(line.body, NodeConfig)]
    assert {"primary.3", "secondary.3"} <= set(headers)
    [*_, protected_ns] = (e["at_ns"] for e in outcome.record.events if e["what"] == "protected")
    assert (outcome.record.checkpoints["committed_ns"] > protected_ns).sum() >= 4


@needs_qemu
def test_clients_do_not_notice_a_planned_switchover(tmp_path):
    async def story(going: Going) -> None:
        await going.happened("promoted")
        await going.served()

    outcome = ran(
        tmp_path,
        story=story,
        client={"kind": "echo"},
        manager={**SCENARIO["manager"], "switchover_at": "2 s"},
    )
    check_served(outcome)
    assert [line.node for line in outcome.lines if isinstance(line.body, t.Alone)] == ["secondary"]


@needs_qemu
@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(24))
def test_a_session_through_a_kill_at_a_random_moment(tmp_path, seed):
    """A download of 20 MB, or echoes; every other time the survivor is protected and killed too."""
    draw = random.Random(seed)
    client = {"kind": "download", "size": "20 MB"} if seed % 3 else {"kind": "echo"}
    faults = [{**KILL, "scope": draw.choice(["vm", "host"]), "at": f"{draw.uniform(2, 6):.3f} s"}]
    if seed % 2:
        faults.append({**KILL, "scope": "host", "at": f"{draw.uniform(12, 15):.3f} s"})
    outcome = ran(
        tmp_path,
        duration="20 s",
        client=client,
        workload={**SERVICE["workload"], "clients": 2},
        fault=faults,
        manager={**SCENARIO["manager"], "reprotect": True},
    )
    promoted_ns = [e["at_ns"] for e in outcome.record.events if e["what"] == "promoted"]
    check_served(outcome, promoted_ns[-1] / 1e9)
    assert sum(isinstance(line.body, t.Alone) for line in outcome.lines) == len(faults)
    assert (outcome.record.responses["released_ns"] > 0).sum() >= 2


@needs_qemu
def test_without_protection_everything_passes_at_once(tmp_path):
    outcome = ran(tmp_path, "none", lambda going: going.served(50), client={"kind": "echo"})
    check_served(outcome)
    assert outcome.record.checkpoints["checkpoint"].size == 0


@pytest.mark.parametrize(
    ("tables", "policy", "says"),
    [
        ({"guest": {"qemu": "/no/such/qemu"}}, "none", "/no/such/qemu: not found; install"),
        ({"guest": {"qemu": "/bin/true"}}, "none", "/bin/true: is no QEMU"),
        ({"guest": {"kernel": "/no/kernel"}}, "none", "/no/kernel: not there; give a kernel"),
        ({"dialect": "rfc2014"}, "none", "doctor: dialect: rfc2014: real QEMUs speak upstream"),
        ({"transfer": "precopy"}, "remus", "doctor: transfer: precopy: QEMU's secondary"),
        ({"stream": {"channels": 2}}, "remus", "doctor: stream.channels: several channels: QEMU"),
        (
            {"stream": {"channel_bandwidth": "1 Gbit/s"}},
            "remus",
            "doctor: stream.channel_bandwidth: limited: a live stream",
        ),
        ({"stream": {"compression": "delta"}}, "colo", "doctor: stream.compression: delta: QEMU"),
        (
            {"manager": {"arbiter": "lease"}},
            "remus",
            "doctor: manager.arbiter: in simulation only; leave it out",
        ),
        ({"manager": {"fencing": False}}, "remus", "doctor: manager.fencing: in simulation only"),
        ({"link": {"blips": "1 /min"}}, "remus", "doctor: link.blips: in simulation only"),
        ({"clocks": {"primary_rate": 1.1}}, "remus", "doctor: clocks: in simulation only"),
        ({"disk": {}}, "remus", "doctor: disk: a live guest's is guest.volume"),
        ({"phase": [{"duration": "1 s", "load": 2.0}]}, "remus", "doctor: phase: clients"),
        ({"guest": {"engine": "native"}}, "hybrid", "doctor: policy.name: native with hybrid: a"),
    ],
)
def test_what_cannot_be_run_is_one_line(tmp_path, tables, policy, says):
    scenario = Scenario.from_mapping({**SERVICE, **tables, "commit": None})
    with pytest.raises(LiveError) as caught:
        asyncio.run(run_live(scenario, policy, tmp_path, print))
    text = str(caught.value)
    assert text.startswith(says)
    assert "\n" not in text


@needs_qemu
def test_a_port_that_is_taken_is_one_line(tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        scenario = Scenario.from_mapping({**SERVICE, "client": {"kind": "echo", "host_port": port}})
        with pytest.raises(LiveError, match=rf"^client\.host_port: {port}: .*; give a free one$"):
            asyncio.run(run_live(scenario, "none", tmp_path, print))


@needs_qemu
def test_a_disk_image_is_there_after_a_takeover(tmp_path):
    """Both guests read it, neither can write it."""
    image = tmp_path / "with, a comma.img"
    image.write_bytes(b"colosim" * 1000 + bytes(1 << 20))
    says = {}

    def ask_both(run, host):
        says[host] = ask(run, host, "disk /dev/vda")

    made = asyncio.run(plan())
    made = replace(made, machine=replace(made.machine, disk=image))

    async def block(run):
        await until_checkpoint(tmp_path, 2)
        await asyncio.to_thread(ask_both, run, "a")
        await run.strike("a", "host", "crash")
        await run.until_promoted(WAIT_LIMIT_S)
        await asyncio.to_thread(ask_both, run, "b")

    async def given():
        return made

    live(tmp_path, given(), block)
    # there, and read-only: a disk that is missing would be no such file
    assert says == dict.fromkeys("ab", "error: /dev/vda: Operation not permitted")


@needs_qemu
def test_a_node_that_hangs_no_longer_than_the_grace_is_only_doubted(tmp_path):
    """The clients wait for it; nobody asks for the vote."""

    async def story(going: Going) -> None:
        for words in ("is silent", "is heard again"):
            await going.happened("report", detail=words)
        await going.served()

    outcome = ran(
        tmp_path,
        story=story,
        client={"kind": "echo"},
        limits=dict.fromkeys(SCENARIO["limits"], "30 s"),
        manager={**SCENARIO["manager"], "heartbeat_grace": "20 s"},
        fault=[
            {
                "target": "secondary",
                "scope": "node",
                "kind": "hang",
                "at": "1 s",
                "duration": "5 s",
            }
        ],
    )
    check_served(outcome)
    reports = [line.body.text for line in outcome.lines if isinstance(line.body, t.Report)]
    assert "the other side is silent: waiting a little longer" in reports
    assert "the other side is heard again" in reports
    # (both ask as the run ends, and nobody answers)
    assert {"vote", "promoted"}.isdisjoint(each["what"] for each in outcome.record.events)
