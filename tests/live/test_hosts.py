"""One host of the live world by itself, without its QEMU."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from backends.nodes import node_configs
from backends.qemu.errors import GuestGone
from backends.qemu.guests import SecondaryGuest
from backends.qemu.launch import Paths, Qemu
from backends.qemu.net.sockets import Stream
from backends.qemu.selftest import SCENARIO
from backends.qemu.stream import Channel
from backends.qemu.world import PrimaryHost, SecondaryHost, Trace
from colosim.protocol import types as t
from colosim.protocol.trace import decode_line
from colosim.scenario import Scenario
from tests.protocol.frames import SYN, tcp


class Runner:
    """Takes what a host says; the vote is never answered."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    async def vote(self, host: str) -> bool:
        await asyncio.Event().wait()
        return False

    async def fence(self, host: str) -> None:
        raise AssertionError("nobody was promoted")

    def tell(self, name: str, /, **arguments: Any) -> None:
        self.told.append((name, arguments))


def test_a_message_that_is_due_when_the_link_ends_does_not_break_the_guest(tmp_path):
    """The primary dies between the secondary's stop and its reply: seen once in 200 kills."""

    async def main() -> tuple[str, list[tuple[str, Any]]]:
        qmp: Any = SimpleNamespace(name="QEMU of host b")
        qemu = Qemu("qemu", (7, 2, 0))
        guest = SecondaryGuest(qmp, Paths(tmp_path, "b"), qemu, 1.0, lambda fate: None)
        ours, qemus = socket.socketpair()
        guest.listen(Stream(ours))
        runner = Runner()
        _, config = node_configs(Scenario.from_mapping(SCENARIO), "remus")
        host = SecondaryHost(
            guest, "b", "a", config, Trace(lambda data: None), runner, 0, None, None
        )
        link, primary = socket.socketpair()
        beats, other = socket.socketpair()
        host.attach(Channel(Stream(link)), Channel(Stream(beats)))
        resume: Any = {"event": "RESUME"}
        stop: Any = {"event": "STOP"}
        guest.heard(resume)
        host.start()
        qemus.send(bytes.fromhex("00000000"))  # CHECKPOINT_READY
        await asyncio.sleep(0.05)
        host.tell(t.PeerBytes(bytes.fromhex("00000001")))  # CHECKPOINT_REQUEST
        primary.close()
        await asyncio.sleep(0.05)
        guest.heard(stop)  # and it has not replied yet
        async with asyncio.timeout(60):
            while host.node.step not in ("exited", "broken"):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        step = host.node.step
        host.close()
        for end in (qemus, other):
            end.close()
        return step, runner.told

    step, told = asyncio.run(main())
    assert step == "exited"
    assert not any(name == "report" for name, _ in told)


def test_a_primary_whose_memory_is_gone_does_not_ask_for_the_vote():
    """Of a killed QEMU the memory goes before the monitor: seen in 3 of about 120 kills."""

    async def save(checkpoint: int) -> None:
        raise GuestGone("its memory is not there any more")

    async def nothing() -> None:
        pass

    async def main() -> list[str]:
        written: list[bytes] = []
        guest: Any = SimpleNamespace(save=save, stop_to_save=nothing, start=nothing)
        config, _ = node_configs(Scenario.from_mapping(SCENARIO), "remus")
        host = PrimaryHost(
            guest,
            lambda row: None,
            "a",
            "b",
            config,
            Trace(written.append),
            Runner(),
            0,
            None,
            None,
        )
        ends = socket.socketpair(), socket.socketpair()
        host.attach(*[Channel(Stream(ours)) for ours, _ in ends])
        host.start()
        host.tell(t.PeerBytes(bytes.fromhex("00000000")))  # CHECKPOINT_READY
        async with asyncio.timeout(60):
            while host.node.step != "request":
                await asyncio.sleep(0.01)
        host.tell(t.PeerBytes(bytes.fromhex("00000002")))  # CHECKPOINT_REPLY
        async with asyncio.timeout(60):
            while host.node.step != "dead":
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        host.close()
        for _, theirs in ends:
            theirs.close()
        lines = [decode_line(line) for line in b"".join(written).decode().splitlines()]
        return [type(line.body).__name__ for line in lines]

    said = asyncio.run(main())
    assert "VmGone" in said
    assert "AskVote" not in said


def test_a_survivor_opens_no_connection_in_another_number_than_its_peer_did(tmp_path):
    """The other guest's SYN may have left: a client that has it resets at one that differs."""
    opens, said = tcp(7, ack=None, flags=SYN), tcp(100, b"said")

    async def main() -> tuple[list[bytes], list[bytes]]:
        _, config = node_configs(Scenario.from_mapping(SCENARIO), "colo")
        qmp: Any = SimpleNamespace(name="QEMU of host b")
        guest = SecondaryGuest(
            qmp, Paths(tmp_path, "b"), Qemu("qemu", (7, 2, 0)), 1.0, lambda fate: None
        )
        host = SecondaryHost(
            guest, "b", "a", config, Trace(lambda data: None), Runner(), 0, None, None
        )
        host.started = True
        host.output([opens, said])
        host.perform(host.id, t.Promote(), (host.id, 0))
        before = [*host._held.values()]
        host.output([opens])  # the guest's own timer
        await asyncio.sleep(0)
        host.close()
        return before, [*host._held.values()]

    before, after = asyncio.run(main())
    assert before == [said]
    assert after == [said, opens]


@pytest.mark.parametrize("loads", [False, True])
def test_a_survivor_that_had_panicked_is_said_to_have(tmp_path, loads):
    """Taken over, it runs on and starts anew; a load in between would have made it good."""
    found: list[str] = []
    panic: Any = {"event": "GUEST_PANICKED", "data": {"action": "pause"}}
    stop: Any = {"event": "STOP"}
    resume: Any = {"event": "RESUME"}
    reset: Any = {"event": "RESET", "data": {"guest": True}}
    answers = {"query-colo-status": {"mode": "none"}, "query-status": {"status": "running"}}

    async def execute(command: str, *_arguments: Any, **_more: Any) -> Any:
        if command == "x-colo-lost-heartbeat":
            guest.heard(resume)
        return answers.get(command, {})

    qmp: Any = SimpleNamespace(name="QEMU of host b", execute=execute)
    guest = SecondaryGuest(
        qmp, Paths(tmp_path, "b"), Qemu("qemu", (7, 2, 0)), 1.0, lambda fate: found.append(fate.why)
    )
    for event in (resume, panic, stop, *([resume] if loads else [])):
        guest.heard(event)
    asyncio.run(guest.take_over())
    for event in (reset, reset):
        guest.heard(event)
    why = "it was started anew" + ("" if loads else ": it had panicked before it was taken over")
    assert found == [why, "it was started anew"]
