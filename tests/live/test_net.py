"""The network of a live run: the real network process, real sockets, frames made by hand.

A test is the gateway (where passt would be) and the guests (where QEMU would be).  The last test
has a real passt and a real QEMU.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import math
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.qemu.address import UnixAddress, free_ports
from backends.qemu.errors import LiveError
from backends.qemu.guest import build, cached
from backends.qemu.guest.ground import stream as ground_stream
from backends.qemu.net.config import CONTROL, NetConfig
from backends.qemu.net.control import Control
from backends.qemu.net.frames import (
    FrameError,
    Splitter,
    opens,
    pack,
    pack_for_hub,
    pack_message,
    unpack,
)
from backends.qemu.net.passt import passt_argv
from backends.qemu.net.port import Port
from tests.protocol.frames import ACK, RST, SYN, fragments4, tcp, udp

REPOSITORY = Path(__file__).parents[2]
LIMIT_S = 60.0
TRIES = 5
MS = 1_000_000
KIB = 1 << 10
MIB = 1 << 20
SOCKETS = ("hub", "link", "net-control")


def frame(number: int, size: int = 60) -> bytes:
    """A frame that can be told from others."""
    return struct.pack(">12xHQ", 0x88B5, number).ljust(size, b"\xa5")


def number_of(data: bytes) -> int:
    return struct.unpack_from(">Q", data, 14)[0]


async def until(holds: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> None:
    end_s = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end_s, f"not within {limit_s} s: {what}"
        await asyncio.sleep(0.001)


async def takes(measure: Callable[[], Awaitable[float]], least_s: float, most_s: float) -> None:
    """Never less than ``least_s``, and less than ``most_s`` in one try at least.

    A machine that is busy with other things makes some tries longer, and none shorter.
    """
    took_s = []
    for _ in range(TRIES):
        took_s.append(await measure())
        assert took_s[-1] >= least_s
        if took_s[-1] < most_s:
            return
    raise AssertionError(f"{took_s} s; less than {most_s} s would be right")


class Peer:
    """The other end of a socket, by hand: reads all that comes, unless told not to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.data = bytearray()
        self.has_ended = False
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, path: Path, hello: bytes = b"", reads: bool = True) -> Peer:
        peer = cls(*await asyncio.open_unix_connection(str(path), limit=4 * KIB))
        peer.writer.write(hello)
        if reads:
            peer.read_on()
        else:
            peer.pause()
        return peer

    def pause(self) -> None:
        """Leave what comes in the socket, as a stopped QEMU does."""
        transport = self.writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()
        if self._task is not None:
            self._task.cancel()

    def read_on(self) -> None:
        transport = self.writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.resume_reading()
        self._task = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await self.reader.read(1 << 18):
                self.data += data
        self.has_ended = True

    @property
    def frames(self) -> list[bytes]:
        return Splitter().feed(bytes(self.data))

    @property
    def numbers(self) -> list[int]:
        return [number_of(data) for data in self.frames]

    async def gets(self, data: bytes, what: str) -> None:
        await until(lambda: self.data == data, what)

    async def ends(self) -> None:
        await until(lambda: self.has_ended, "the end")

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class Net:
    """The network process, with the test as its gateway."""

    def __init__(self, directory: Path, config: NetConfig) -> None:
        self.directory = directory
        self.config = config
        self.process: asyncio.subprocess.Process
        self.control: Control
        self.gateway: Peer
        self.errors = b""
        self._open: list[Any] = []

    async def start(self, with_gateway: bool = True) -> None:
        connected: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()
        if with_gateway:
            server = await asyncio.start_unix_server(
                lambda r, w: connected.set_result(Peer(r, w)),
                str(self.config.path("gw")),
                limit=256 * KIB,
            )
            self._open.append(server)
        path = self.directory / "net.json"
        path.write_text(self.config.to_json())
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "backends.qemu.net", str(path)),
            cwd=REPOSITORY,
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self.control = await Control.connect(UnixAddress(self.directory / CONTROL), LIMIT_S)
        if with_gateway:
            self.gateway = await connected
            self.gateway.read_on()
            await until(lambda: len(self.gateway.data) >= 64, "the ARP request")
            self.gateway.data.clear()

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        return await self.control.ask(do, LIMIT_S, **arguments)

    async def hub(self) -> dict[str, Any]:
        return (await self.ask("stats"))["hub"]

    async def port(self, host: str, **arguments: Any) -> tuple[Port, list[bytes]]:
        """A port that hands on nothing by itself, and what its guest sent."""
        output: list[bytes] = []
        port = Port(self.directory, host, output.extend, **arguments)
        await port.start(LIMIT_S)
        self._open.append(port)
        return port, output

    async def guest(self, port: Port, reads: bool = True) -> Peer:
        peer = await Peer.connect(port.path, reads=reads)
        await port.connected(LIMIT_S)
        self._open.append(peer)
        return peer

    async def link(self, host: str, channel: str = "stream", reads: bool = True) -> Peer:
        hello = json.dumps({"host": host, "channel": channel}).encode() + b"\n"
        peer = await Peer.connect(self.config.path("link"), hello, reads)
        self._open.append(peer)
        return peer

    async def give(self, numbers: list[int], size: int = 60) -> None:
        """Frames from the gateway; returns when the hub has read them."""
        before = (await self.hub())["frames_from"].get("gw", 0)
        self.gateway.write(pack(frame(n, size) for n in numbers))
        await self.gateway.writer.drain()
        while (await self.hub())["frames_from"].get("gw", 0) < before + len(numbers):
            await asyncio.sleep(0.001)

    async def end(self) -> int:
        """End it as a supervisor does, by its standard input; its exit status."""
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        self.process.stdin.close()
        try:
            async with asyncio.timeout(LIMIT_S):
                self.errors = await self.process.stderr.read()
                return await self.process.wait()
        finally:
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()

    async def close(self) -> None:
        for thing in reversed(self._open):
            if isinstance(thing, asyncio.Server):
                thing.close()
            else:
                await thing.close()
        if hasattr(self, "gateway"):
            await self.gateway.close()
        if hasattr(self, "control"):
            await self.control.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cnet-", dir="/tmp") as name:
        yield Path(name)


@contextlib.asynccontextmanager
async def network(directory: Path, **fields: Any) -> AsyncIterator[Net]:
    net = Net(directory, NetConfig(directory, **fields))
    try:
        await net.start()
        yield net
    finally:
        status = await net.end()
        await net.close()
    assert (status, net.errors.count(b"Traceback")) == (0, 0), net.errors.decode()
    assert not [name for name in SOCKETS if (directory / name).exists()]


def run(test: Awaitable[None], limit_s: float = 200.0) -> None:
    async def limited() -> None:
        async with asyncio.timeout(limit_s):
            await test

    asyncio.run(limited())


# --------------------------------------------------------------------------------------------
# Framing

BODIES = st.lists(st.binary(max_size=70), max_size=20)
CUTS = st.lists(st.integers(0, 2000), max_size=30)


def chunks(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(places):
        yield data[start:end]


@given(BODIES, CUTS)
def test_any_chunking_gives_the_same_frames(bodies: list[bytes], cuts: list[int]) -> None:
    splitter = Splitter()
    got = [body for chunk in chunks(pack(bodies), cuts) for body in splitter.feed(chunk)]
    assert got == bodies
    assert splitter.rest_bytes == 0


@given(st.lists(st.one_of(st.binary(max_size=50), st.integers(0, 99)), max_size=20), CUTS)
def test_frames_and_messages_keep_their_order(things: list[bytes | int], cuts: list[int]) -> None:
    data = b"".join(
        pack_message({"mark": thing}) if isinstance(thing, int) else pack_for_hub([thing])
        for thing in things
    )
    splitter = Splitter()
    got = [unpack(body) for chunk in chunks(data, cuts) for body in splitter.feed(chunk)]
    assert got == [{"mark": thing} if isinstance(thing, int) else thing for thing in things]


@given(st.binary(max_size=40), st.integers(0, 40))
def test_any_bytes_are_frames_or_a_frame_error(data: bytes, at: int) -> None:
    splitter = Splitter(largest_bytes=1000)
    with contextlib.suppress(FrameError):
        for chunk in (data[:at], data[at:]):
            for body in splitter.feed(chunk):
                unpack(body)


@pytest.mark.parametrize(
    ("frame", "does"),
    [
        (tcp(7, ack=None, flags=SYN), True),
        (tcp(7, ack=None, flags=SYN, six=True), True),
        (tcp(7, ack=None, flags=SYN, options=b"\x02\x04\x05\xb4", pad=6), True),
        (tcp(7, flags=SYN | ACK), False),
        (tcp(7, flags=SYN | ACK, six=True), False),
        (tcp(7, b"x"), False),
        (tcp(7, ack=None, flags=RST), False),
        (tcp(7, ack=None, flags=SYN)[:53], False),
        (fragments4(tcp(7, ack=None, flags=SYN), 8, 1)[1].ljust(60, b"\2"), False),
        (udp(b"\2" * 40), False),
        (b"", False),
    ],
)
def test_a_frame_that_opens_a_connection_is_known(frame, does):
    assert opens(frame) is does


# --------------------------------------------------------------------------------------------
# Input: order and conservation

STEPS = st.sampled_from(["give", "give", "quiesce", "resume", "keep", "deliver", "forget"]).flatmap(
    lambda do: st.tuples(st.just(do), st.integers(1, 4))
)


class Expected:
    """What each guest must have got, by the rules."""

    def __init__(self) -> None:
        self.given = 0
        self.is_holding = False
        self.held: list[int] = []
        self.passed: list[int] = []  # to both ports
        self.kept: list[int] = []  # of port b
        self.got_b: list[int] = []
        self.keeps = False
        self.marks: dict[int, int] = {}

    def pass_on(self, numbers: list[int]) -> None:
        self.passed += numbers
        (self.kept if self.keeps else self.got_b).extend(numbers)

    def deliver(self) -> None:
        self.got_b += self.kept
        self.kept = []
        self.keeps = False

    def forget(self, mark: int) -> None:
        place = self.marks.get(mark, 0)
        self.kept = [n for n in self.kept if self.passed.index(n) >= place]


async def play(net: Net, ports: dict[str, Port], guests: dict[str, Peer], steps: list[Any]) -> None:
    expected = Expected()
    for peer in guests.values():
        peer.data.clear()
    base = {host: port.stats().get("from hub", 0) for host, port in ports.items()}

    def settled() -> bool:
        return all(
            port.stats().get("from hub", 0) - base[host] == len(expected.passed)
            for host, port in ports.items()
        )

    async def step(do: str, value: int) -> None:
        if do == "give":
            numbers = [expected.given + i for i in range(value)]
            expected.given += value
            await net.give(numbers)
            if expected.is_holding:
                expected.held += numbers
            else:
                expected.pass_on(numbers)
        elif do == "quiesce":
            expected.is_holding = True
            mark = len(expected.marks) + 1
            expected.marks[mark] = len(expected.passed)
            assert (await net.ask("quiesce", mark=mark, limit_s=5))["gone"] == []
            # every guest that gets them at once has got all that went before
            assert guests["a"].numbers == expected.passed
        elif do == "resume":
            expected.is_holding = False
            expected.pass_on(expected.held)
            expected.held = []
            await net.ask("resume")
        elif do == "keep":
            ports["b"].keep()
            expected.keeps = True
        elif do == "deliver":
            ports["b"].deliver()
            expected.deliver()
        elif do == "forget" and (mark := len(expected.marks) + 1 - value) > 0:
            ports["b"].forget(mark)
            expected.forget(mark)
        await until(settled, "the frames at the ports")

    for do, value in [*steps, ("resume", 0), ("deliver", 0)]:
        await step(do, value)
    await until(lambda: guests["b"].numbers == expected.got_b, "the frames of b")
    await until(lambda: guests["a"].numbers == expected.passed, "the frames of a")
    assert expected.passed == list(range(expected.given))


def test_order_and_conservation_through_holds_and_marks(directory: Path) -> None:
    """No frame is lost, doubled or overtaken; `forget` drops exactly those before the mark."""
    with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        context = network(directory)
        net = runner.run(context.__aenter__())
        stack.callback(lambda: runner.run(context.__aexit__(None, None, None)))

        async def ready() -> tuple[dict[str, Port], dict[str, Peer]]:
            ports = {host: (await net.port(host))[0] for host in "ab"}
            guests = {host: await net.guest(port) for host, port in ports.items()}
            for host in "ab":
                await net.ask("listen", host=host, on=True)
            return ports, guests

        ports, guests = runner.run(ready())

        @settings(max_examples=60)
        @given(st.lists(STEPS, max_size=25))
        def example(steps: list[Any]) -> None:
            runner.run(asyncio.wait_for(play(net, ports, guests, steps), LIMIT_S))

        example()


def test_a_port_knows_the_place_of_every_mark(directory: Path) -> None:
    """The test is the hub: frames and marks in any chunking, so also in one read."""
    with asyncio.Runner() as runner:

        @settings(max_examples=60)
        @given(
            st.lists(st.one_of(st.just("mark"), st.just("frame")), max_size=20),
            CUTS,
            st.booleans(),
            st.lists(st.integers(0, 5), max_size=4),
        )
        def example(things: list[str], cuts: list[int], keeps: bool, forget: list[int]) -> None:
            play = play_hub(directory, things, cuts, keeps, forget)
            runner.run(asyncio.wait_for(play, LIMIT_S))

        example()


async def play_hub(
    directory: Path, things: list[str], cuts: list[int], keeps: bool, forget: list[int]
) -> None:
    connected: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_unix_server(
        lambda r, w: connected.set_result(Peer(r, w)), str(directory / "hub")
    )
    port = Port(directory, "a", lambda frames: None, keeps=keeps)
    starting = asyncio.create_task(port.start(LIMIT_S))
    hub = await connected
    hub.read_on()
    hub.write(pack_message({"hello": {"ok": True}}))
    await starting
    guest = await Peer.connect(port.path)
    await port.connected(LIMIT_S)

    places = [n for n, thing in enumerate(things) if thing == "mark"]
    data = b"".join(
        pack_message({"mark": n, "ask": n, "limit_s": LIMIT_S})
        if n in places
        else pack_for_hub([frame(n)])
        for n in range(len(things))
    )
    for chunk in chunks(data, cuts):
        hub.write(chunk)
        await asyncio.sleep(0)
    await until(lambda: len(hub.frames) == 1 + len(places), "the answers")
    answers = [message for body in hub.frames[1:] if isinstance(message := unpack(body), dict)]
    assert sorted(answer["mark"] for answer in answers) == places
    assert all(answer["ok"] for answer in answers)
    numbers = [n for n, thing in enumerate(things) if thing == "frame"]
    await until(lambda: port.stats().get("from hub", 0) == len(numbers), "the frames")
    for mark in (places[number] for number in forget if number < len(places)):
        before = [n for n in numbers if n < mark] if keeps else []
        assert port.forget(mark) == len(before)
        numbers = [n for n in numbers if n not in before]
    port.deliver()
    await until(lambda: guest.numbers == numbers, "the guest's frames")
    for thing in (guest, port, hub):
        await thing.close()
    server.close()


def test_a_quiesce_waits_until_the_guest_has_read(directory: Path) -> None:
    async def test() -> None:
        async with network(directory) as net:
            port, _ = await net.port("a")
            guest = await net.guest(port, reads=False)
            await net.ask("listen", host="a", on=True)
            await net.give(list(range(100)), 1500)
            with pytest.raises(LiveError, match=r"host a: its QEMU does not read: \d+ bytes"):
                await net.ask("quiesce", mark=1, limit_s=0.2)
            asking = asyncio.create_task(net.ask("quiesce", mark=2, limit_s=LIMIT_S))
            await asyncio.sleep(0.1)
            assert not asking.done()
            guest.read_on()
            await asking
            assert guest.numbers == list(range(100))

    run(test())


def test_a_silent_agent_is_named(directory: Path) -> None:
    async def test() -> None:
        async with network(directory) as net:
            hello = pack_message({"hello": {"host": "b"}})
            silent = await Peer.connect(net.config.path("hub"), hello)
            await until(lambda: silent.data, "the answer to hello")
            await net.ask("listen", host="b", on=True)
            with pytest.raises(LiveError, match=r"mark 7 was not answered within 0.1 s by host b"):
                await net.ask("quiesce", mark=7, limit_s=0.1)
            asking = asyncio.create_task(net.ask("quiesce", mark=8, limit_s=LIMIT_S))
            await until(lambda: len(silent.frames) == 3, "the second mark")
            await net.ask("resume")  # also ends a quiesce that has no answer yet
            with pytest.raises(LiveError, match="input was resumed"):
                await asking
            asking = asyncio.create_task(net.ask("quiesce", mark=9, limit_s=LIMIT_S))
            await until(lambda: len(silent.frames) == 4, "the third mark")
            await silent.close()
            assert (await asking)["gone"] == ["b"]

    run(test())


def test_what_is_held_and_kept_is_bounded(directory: Path) -> None:
    async def test() -> None:
        async with network(directory, hold_limit_bytes=10_000) as net:
            port, _ = await net.port("a", keeps=True, keep_limit_bytes=5_000)
            guest = await net.guest(port)
            await net.ask("listen", host="a", on=True)
            await net.ask("quiesce", mark=1, limit_s=LIMIT_S)
            await net.give(list(range(15)), 1000)
            stats = await net.hub()
            assert (stats["held_frames"], stats["dropped"]["hold"]) == (10, 5)
            await net.ask("resume")
            await until(lambda: port.stats().get("from hub") == 10, "the held frames")
            assert port.stats()["kept_frames"] == 5
            assert port.stats()["dropped: keep limit"] == 5
            await net.ask("quiesce", mark=2, limit_s=LIMIT_S)
            await net.give([15, 16], 1000)
            await net.ask("resume")
            await until(lambda: port.stats().get("from hub") == 12, "two more")
            assert port.forget(1) == 0  # long gone
            assert port.forget(2) == 3  # of five, two came after the mark
            port.deliver()
            await until(lambda: guest.numbers == [15, 16], "what came after the mark")

    run(test())


def test_what_one_guest_has_read_need_not_be_kept_for_the_other(directory: Path) -> None:
    async def test() -> None:
        async with network(directory) as net:
            a, _ = await net.port("a")
            b, _ = await net.port("b", keeps=True)
            first, second = await net.guest(a), await net.guest(b)
            await net.ask("listen", host="a", on=True)
            await net.give([0])
            await until(lambda: a.stats().get("from hub") == 1, "one that is before all this")
            await net.ask("listen", host="b", on=True)
            await net.ask("quiesce", mark=1, limit_s=LIMIT_S)
            await net.ask("resume")
            assert a.read_since(1) == 0
            assert a.read_since(2) is None  # there was no such mark
            await net.give([1, 2, 3])
            await until(lambda: b.stats()["kept_frames"] == 3, "all are kept")
            await until(lambda: a.read_since(1) == 3, "all are read")
            first.pause()
            await net.give([4])
            await until(lambda: a.stats().get("from hub") == 5, "one that is not read")
            assert a.read_since(1) is None
            assert b.forget(1, 3) == 3
            assert b.forget(1, 3) == 0
            await first.close()
            assert a.read_since(1) is None  # nor ever will be
            await until(lambda: b.stats()["kept_frames"] == 1, "the last")
            b.deliver()
            await until(lambda: second.numbers == [4], "what nobody has read")

    run(test())


def test_a_guest_that_does_not_read_costs_bounded_memory(directory: Path) -> None:
    async def test() -> None:
        async with network(directory, backlog_limit_bytes=MIB) as net:
            port, _ = await net.port("a", backlog_limit_bytes=MIB)
            await net.guest(port, reads=False)
            await net.ask("listen", host="a", on=True)
            for _ in range(8):
                await net.give(list(range(400)), 1500)
            await until(lambda: port.stats().get("from hub") == 3200, "all frames")
            stats = port.stats()
            assert 0 < stats["dropped: guest backlog"] == 3200 - stats["to guest"]
            assert stats["guest_unread_bytes"] < 3 * MIB

    run(test())


# --------------------------------------------------------------------------------------------
# Output: owner and fence


def test_only_the_owners_frames_leave(directory: Path) -> None:
    async def test() -> None:
        async with network(directory) as net:
            ports = {host: (await net.port(host))[0] for host in "ab"}
            expected: list[int] = []
            for turn, owner in enumerate((None, "a", "b", "b", None, "a")):
                await net.ask("own", host=owner)
                for host in "ab":
                    numbers = [turn * 100 + i + (50 if host == "b" else 0) for i in range(20)]
                    ports[host].send([frame(n) for n in numbers[:7]])
                    ports[host].send([frame(n) for n in numbers[7:]])
                    expected += numbers if host == owner else []
                while (await net.hub())["frames_from"].get("b", 0) < (turn + 1) * 20:
                    await asyncio.sleep(0.001)
                while (await net.hub())["frames_from"].get("a", 0) < (turn + 1) * 20:
                    await asyncio.sleep(0.001)
            await until(lambda: net.gateway.numbers == expected, "the owners' frames")

    run(test())


def test_nothing_of_a_fenced_host_leaves(directory: Path) -> None:
    async def test() -> None:
        async with network(directory) as net:
            gone: list[str] = []
            port, _ = await net.port("a", hub_gone=lambda: gone.append("port"))
            agent = await Control.connect(
                UnixAddress(directory / CONTROL),
                LIMIT_S,
                host="a",
                lost=lambda: gone.append("control"),
            )
            link = {host: await net.link(host) for host in "ab"}
            link["a"].write(b"the last words")
            await until(lambda: link["b"].data == b"the last words", "the link")
            await agent.ask("own", 5, host="a")
            await net.ask("gateway", way="out", delay_ns=10_000 * MS)
            port.send([frame(n) for n in range(50)])
            while (await net.hub())["frames_from"].get("a") != 50:
                await asyncio.sleep(0.001)
            await net.ask("fence", host="a")  # all fifty are on their way
            assert not net.gateway.data
            await until(lambda: sorted(gone) == ["control", "port"], "the fenced connections")
            await until(lambda: link["b"].has_ended, "the end of the link")
            stats = await net.hub()
            assert (stats["owner"], stats["ports"]) == (None, [])
            assert stats["dropped"]["fenced"] == 50
            await net.ask("gateway", way="out", delay_ns=0)

            await port.close()
            late = Port(directory, "a", lambda frames: None)
            with pytest.raises(LiveError, match="host a is not let in: host a is fenced"):
                await late.start(LIMIT_S)
            for do in ("own", "hello"):
                with pytest.raises(LiveError, match="host a is fenced"):
                    await net.ask(do, host="a")
            with pytest.raises(LiveError, match="the connection has ended"):
                await agent.ask("own", 5, host="a")
            refused = await net.link("a")
            await until(lambda: refused.has_ended, "the refusal at the link")

            await net.ask("admit", host="a")
            await late.start(LIMIT_S)
            await net.ask("own", host="a")
            late.send([frame(1)])  # which overtakes none that would still be on its way
            await until(lambda: net.gateway.numbers == [1], "the new guest's frame")
            await late.close()
            await agent.close()

    run(test())


def test_a_fence_says_when_the_gateway_has_not_read_all(directory: Path) -> None:
    async def test() -> None:
        async with network(directory) as net:
            port, _ = await net.port("a")
            await net.ask("own", host="a")
            net.gateway.pause()  # passt hangs
            for _ in range(1000):
                port.send([frame(n, 1500) for n in range(2)])
            while (await net.hub())["frames_from"].get("a", 0) < 2000:
                await asyncio.sleep(0.001)
            with pytest.raises(LiveError, match="is fenced, but passt does not read"):
                await net.ask("fence", host="a")
            net.gateway.read_on()
            await net.ask("fence", host="a")

    run(test())


# --------------------------------------------------------------------------------------------
# The port's guest side


def test_the_last_frames_of_a_killed_guest_are_read(directory: Path) -> None:
    """Writing to it fails first, as after a SIGKILL."""

    async def test() -> None:
        async with network(directory) as net:
            gone: list[int] = []
            output: list[bytes] = []
            port = Port(directory, "a", output.extend, guest_gone=lambda: gone.append(len(output)))
            await port.start(LIMIT_S)
            net._open.append(port)
            with socket.socket(socket.AF_UNIX) as guest:
                guest.connect(str(port.path))
                await port.connected(LIMIT_S)
                guest.sendall(pack(frame(n) for n in range(1000)) + b"\0\0")
            # no turn of the loop yet: the frames are unread, the other end is closed
            port._to_guest([frame(0)])
            await until(lambda: gone, "the end of the guest")
            assert gone == [1000]
            assert list(map(number_of, output)) == list(range(1000))
            await port.drain(LIMIT_S)
            again = await net.guest(port)  # a new one may come
            port._to_guest([frame(1)])
            await until(lambda: again.numbers == [1], "the new guest's frame")

    run(test())


def test_a_guest_that_found_its_socket_full_sends_the_rest_when_it_may(directory: Path) -> None:
    """As QEMU, whose stopped guest's ring is emptied at the next turn of its loop."""

    async def test() -> None:
        async with network(directory) as net:
            port, output = await net.port("a")
            turns = 0
            with socket.socket(socket.AF_UNIX) as guest:
                guest.connect(str(port.path))
                await port.connected(LIMIT_S)
                guest.setblocking(False)
                left = list(range(400))

                def fill() -> None:
                    with contextlib.suppress(BlockingIOError):
                        while left:
                            assert guest.send(pack([frame(left[0], 1500)])) == 1504
                            left.pop(0)

                async def turn() -> None:
                    nonlocal turns
                    turns += 1
                    fill()

                fill()
                assert 0 < len(left) < 400
                await port.drain(LIMIT_S, turn)
                assert list(map(number_of, output)) == list(range(400))
                guest.send(pack([frame(400, 1500)]))
                before = turns
                await port.drain(LIMIT_S, turn)
                assert (len(output), turns) == (401, before)  # it cannot have waited

    run(test())


def test_drain_reads_all_that_was_written(directory: Path) -> None:
    async def test() -> None:
        async with network(directory) as net:
            port, output = await net.port("a")
            with socket.socket(socket.AF_UNIX) as guest:
                guest.connect(str(port.path))
                await port.connected(LIMIT_S)
                for turn in range(20):
                    guest.sendall(pack(frame(n, 1500) for n in range(turn * 50, turn * 50 + 50)))
                    await port.drain(LIMIT_S)
                    assert list(map(number_of, output)) == list(range(turn * 50 + 50))
                guest.sendall(pack([frame(1000, 1500)])[:100])
                with pytest.raises(LiveError, match="100 bytes of an unfinished frame"):
                    await port.drain(0.05)
                guest.sendall(pack([frame(1000, 1500)])[100:])
                await port.drain(LIMIT_S)
                assert len(output) == 1001

    run(test())


def test_a_guest_that_sends_no_frames_is_an_error_that_is_said(directory: Path) -> None:
    async def test() -> None:
        async with network(directory) as net:
            said: list[str] = []
            port, _ = await net.port("a", say=said.append)
            guest = await net.guest(port)
            guest.write(b"\xff" * 100)
            await until(lambda: guest.has_ended, "the end")
            assert said == [f"{port.path}: a frame of 4294967295 bytes; at most 131072"]

    run(test())


# --------------------------------------------------------------------------------------------
# Impairments toward the gateway


def test_delay_bandwidth_loss_and_cut_of_the_gateway(directory: Path) -> None:
    async def test() -> None:
        async with network(directory, seed=3, capture=directory / "all.pcap") as net:
            port, _ = await net.port("a")
            await net.ask("own", host="a")

            sent = 0

            async def send(numbers: range) -> None:
                """Returns when the hub has them."""
                nonlocal sent
                sent += len(numbers)
                net.gateway.data.clear()
                port.send([frame(n, 1000) for n in numbers])
                while (await net.hub())["frames_from"].get("a", 0) < sent:
                    await asyncio.sleep(0.001)

            async def twenty() -> float:
                start_s = time.monotonic()
                await send(range(20))
                await until(lambda: len(net.gateway.frames) == 20, "frames")
                assert net.gateway.numbers == list(range(20))
                return time.monotonic() - start_s

            await net.ask("gateway", delay_ns=50 * MS)
            await takes(twenty, 0.05, 0.5)
            await net.ask("gateway", delay_ns=0, bandwidth_bps=800_000)  # 10 ms a frame
            await takes(twenty, 0.19, 0.38)
            await net.ask("gateway", bandwidth_bps=None, delay_ns=100 * MS)
            await send(range(1))
            await net.ask("gateway", delay_ns=1 * MS)  # a shorter delay overtakes nothing
            port.send([frame(1)])
            sent += 1
            await until(lambda: net.gateway.numbers == [0, 1], "both, in order")
            await net.ask("gateway", delay_ns=0, loss=0.5)
            await send(range(2000))
            lost = (await net.hub())["dropped"]["loss out"]
            assert 850 < lost < 1150
            await until(lambda: len(net.gateway.frames) == 2000 - lost, "the others")
            assert net.gateway.numbers == sorted(net.gateway.numbers)
            await net.ask("gateway", loss=0, delay_ns=10_000 * MS)
            await send(range(5))
            await net.ask("gateway", cut=True, delay_ns=0)  # takes what is under way, too
            await send(range(5))
            assert (await net.hub())["dropped"]["cut out"] == 10
            await net.ask("gateway", cut=False)
            await send(range(3))
            await until(lambda: len(net.gateway.frames) == 3, "frames")
            passed = 1 + sent - lost - 10
            assert (await net.hub())["captured_frames"] == passed
        frames = list(captured(directory / "all.pcap"))
        assert len(frames) == passed
        assert [number_of(data) for data in frames[1:21]] == list(range(20))
        assert frames[0][12:22].hex() == "08060001080006040001"  # the ARP request at start

    run(test())


def captured(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    assert struct.unpack_from("=IHH12xI", data) == (0xA1B23C4D, 2, 4, 1)
    at, last_ns = 24, 0
    while at < len(data):
        seconds, ns, size, whole = struct.unpack_from("=IIII", data, at)
        assert size == whole
        assert last_ns <= seconds * 10**9 + ns < time.time_ns()
        last_ns = seconds * 10**9 + ns
        yield data[at + 16 : at + 16 + size]
        at += 16 + size


def test_the_gateways_queue_is_bounded(directory: Path) -> None:
    async def test() -> None:
        async with network(directory, queue_limit_bytes=10_000) as net:
            port, _ = await net.port("a")
            await net.ask("own", host="a")
            await net.ask("gateway", bandwidth_bps=800_000)  # 10 ms a frame
            port.send([frame(n, 1000) for n in range(100)])
            while (await net.hub())["frames_from"].get("a", 0) < 100:
                await asyncio.sleep(0.001)
            dropped = (await net.hub())["dropped"]["queue out"]
            assert dropped >= 70  # the queue drained a little while the frames came
            await until(lambda: len(net.gateway.frames) == 100 - dropped, "what fits")
            assert net.gateway.numbers[:11] == list(range(11))

    run(test())


# --------------------------------------------------------------------------------------------
# The link


def bulk(size: int, seed: int = 0) -> bytes:
    block = hashlib.sha512(bytes([seed])).digest()
    return (block * (size // len(block) + 1))[:size]


def test_the_link_hands_on_every_byte(directory: Path) -> None:
    async def test() -> None:
        async with network(directory) as net:
            ends = {(h, c): await net.link(h, c) for c in ("stream", "beat") for h in "ab"}
            sent: dict[tuple[str, str], bytes] = {}
            for seed, ((host, channel), peer) in enumerate(ends.items()):
                sent[host, channel] = bulk(300_000 + seed * 7, seed)
                for at in range(0, len(sent[host, channel]), 1777 * (seed + 1)):
                    peer.write(sent[host, channel][at : at + 1777 * (seed + 1)])
            for (host, channel), data in sent.items():
                other = ends["b" if host == "a" else "a", channel]
                await other.gets(data, f"{host} {channel}")

    run(test())


def test_the_channels_share_the_links_bandwidth(directory: Path) -> None:
    """Bulk at 16 Mbit/s: alone it takes the whole, with another half, and beats pass between."""

    async def test() -> None:
        async with network(directory) as net:
            ends = {(h, c): await net.link(h, c) for c in ("stream", "beat") for h in "ab"}
            await net.ask("link", host="a", bandwidth_bps=16_000_000)

            def clear() -> float:
                for peer in ends.values():
                    peer.data.clear()
                return time.monotonic()

            async def beat_and_bulk() -> float:
                start_s = clear()
                ends["a", "stream"].write(bulk(600_000))
                await asyncio.sleep(0.05)
                ends["a", "beat"].write(b"beat")
                await until(lambda: ends["b", "beat"].data, "the beat")
                ends["b", "stream"].write(bulk(600_000))  # the other way is unlimited
                await until(lambda: len(ends["a", "stream"].data) == 600_000, "the other way")
                are_first = len(ends["b", "stream"].data) < 600_000  # not behind the bulk
                await until(lambda: len(ends["b", "stream"].data) == 600_000, "the bulk")
                return time.monotonic() - start_s if are_first else math.inf

            async def both() -> float:
                start_s = clear()
                for channel in ("stream", "beat"):
                    ends["a", channel].write(bulk(400_000))
                await until(lambda: len(ends["b", "stream"].data) == 400_000, "one")
                assert len(ends["b", "beat"].data) > 300_000
                await until(lambda: len(ends["b", "beat"].data) == 400_000, "both")
                return time.monotonic() - start_s

            await takes(beat_and_bulk, 0.29, 0.6)
            await takes(both, 0.39, 0.8)

    run(test())


def test_the_links_delay(directory: Path) -> None:
    async def test() -> None:
        async with network(directory) as net:
            a, b = await net.link("a"), await net.link("b")
            a.write(b"x")
            await until(lambda: b.data == b"x", "no delay")
            await net.ask("link", delay_ns=40 * MS)
            times = []
            for turn in range(5):
                start_s = time.monotonic()
                (a, b)[turn % 2].write(b"y")
                other = (b, a)[turn % 2]
                await other.gets(bytes(other.data) + b"y", "with a delay")
                times.append(time.monotonic() - start_s)
            assert 0.04 <= min(times) < 0.08
            a.write(b"late")
            await asyncio.sleep(0.01)
            await net.ask("link", delay_ns=0)  # a shorter delay overtakes nothing
            a.write(b"+soon")
            await b.gets(b"xyyylate+soon", "both, in order")

    run(test())


def test_a_cut_keeps_bytes_and_the_end_back(directory: Path) -> None:
    async def test() -> None:
        async with network(directory) as net:
            a, b = await net.link("a"), await net.link("b")
            a.write(b"before ")
            await until(lambda: b.data == b"before ", "before the cut")
            await net.ask("link", cut=True)
            a.write(b"during ")
            b.write(b"lost: nobody is left to read it")
            await asyncio.sleep(0.05)
            await a.close()
            await asyncio.sleep(0.1)
            assert b.data == b"before "
            assert not b.has_ended
            await net.ask("link", cut=False)
            await until(lambda: b.has_ended, "the end")
            assert b.data == b"before during "

    run(test())


@pytest.mark.parametrize("kind", ["half-close", "close"])
def test_the_end_comes_after_every_byte(directory: Path, kind: str) -> None:
    async def test() -> None:
        async with network(directory) as net:
            for turn in range(3):  # each turn a new pair
                a, b = await net.link("a"), await net.link("b")
                await net.ask("link", bandwidth_bps=80_000_000, delay_ns=5 * MS)
                a.write(bulk(500_000, turn))
                if kind == "half-close":
                    a.writer.write_eof()
                else:
                    await a.writer.drain()
                    await a.close()
                await b.ends()
                assert b.data == bulk(500_000, turn)
                if kind == "half-close":
                    b.write(b"and back")
                await b.close()
                if kind == "half-close":
                    await a.ends()
                    assert a.data == b"and back"
                    await a.close()
                while (await net.ask("stats"))["link"]["pairs"]:
                    await asyncio.sleep(0.001)
            assert (await net.ask("stats"))["link"]["pairs_made"] == 3

    run(test())


def test_a_reader_that_does_not_read_stops_the_sender(directory: Path) -> None:
    async def test() -> None:
        async with network(directory, link_window_bytes=MIB) as net:
            a, b = await net.link("a"), await net.link("b", reads=False)
            data = bulk(8 * MIB)
            a.write(data)
            await asyncio.sleep(0.3)
            left = a.writer.transport.get_write_buffer_size()
            assert len(data) - 3 * MIB < left < len(data)
            b.read_on()
            await until(lambda: b.data == data, "all of it")

    run(test())


def test_one_who_leaves_before_the_other_came_is_forgotten(directory: Path) -> None:
    async def test() -> None:
        async with network(directory) as net:
            early = await net.link("a")
            early.write(b"stale")
            await early.close()
            while (await net.ask("stats"))["link"]["pairs"]:
                await asyncio.sleep(0.001)
            a, b = await net.link("a"), await net.link("b")
            a.write(b"fresh")
            await until(lambda: b.data == b"fresh", "the fresh one")

    run(test())


@pytest.mark.parametrize(
    "hello",
    [
        b"\n",
        b"[]\n",
        b'{"host":"a"}\n',
        b'{"host":"c","channel":"stream"}\n',
        b'{"host":"a","channel":[1]}\n',
        b"x" * 2000,
    ],
)
def test_a_stranger_at_the_link_is_refused(directory: Path, hello: bytes) -> None:
    async def test() -> None:
        async with network(directory) as net:
            peer = await Peer.connect(net.config.path("link"), hello)
            await until(lambda: peer.has_ended, "the refusal")
            await peer.close()
        assert net.errors.startswith(b"link: a connection was refused: ")
        assert net.errors.count(b"\n") == 1

    run(test())


# --------------------------------------------------------------------------------------------
# The control socket and the process

WRONG = [
    ({"do": "dance"}, "there is no request 'dance'; there are hello, listen,"),
    ({"do": "own"}, "own: host is missing"),
    ({"do": "own", "host": "c"}, "there is no host 'c'; there are a, b"),
    ({"do": "own", "host": 1}, "own: host: the name of a host, or null would be right, not 1"),
    ({"do": "listen", "host": "a", "on": 1}, "listen: on: true or false would be right, not 1"),
    ({"do": "quiesce", "mark": 1, "limit_s": 0}, "quiesce: limit_s: seconds, more than 0"),
    ({"do": "quiesce", "mark": True, "limit_s": 1}, "quiesce: mark: 0, 1, 2, ..."),
    ({"do": "gateway", "loss": 2}, "gateway: loss: a probability would be right, not 2"),
    ({"do": "gateway", "bandwidth_bps": 0}, "gateway: bandwidth_bps: bits a second, or null"),
    ({"do": "gateway", "way": "up"}, "gateway: way: in, out or both would be right, not 'up'"),
    ({"do": "gateway", "delay_ns": float("nan")}, "gateway: delay_ns: 0, 1, 2, ..."),
    ({"do": "link", "loss": 0.1}, "link: there is no loss; there are host, delay_ns,"),
    ({"do": "link", "host": "c", "cut": True}, "link: there is no host 'c'; there are a, b"),
    ({"do": ["own"]}, "there is no request ['own']"),
    ([], "a request is a JSON object with id and do"),
    ({"host": "a"}, "a request is a JSON object with id and do"),
]


def test_a_wrong_request_gets_one_line_that_says_why(directory: Path) -> None:
    async def test() -> None:
        async with network(directory) as net:
            peer = await Peer.connect(net.config.path("net-control"))
            for number, (request, _) in enumerate(WRONG):
                given = {"id": number, **request} if isinstance(request, dict) else request
                peer.write(json.dumps(given).encode() + b"\n")
            peer.write(b"nonsense\n")
            await until(lambda: peer.data.count(b"\n") == len(WRONG) + 1, "the answers")
            answers = [json.loads(line) for line in peer.data.splitlines()]
            assert not any(answer["ok"] for answer in answers)
            for (_, why), answer in zip(WRONG, answers, strict=False):
                assert answer["why"].startswith(why)
            await peer.close()

    run(test())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, None])
def test_the_process_ends_cleanly(directory: Path, number: signal.Signals | None) -> None:
    async def test() -> None:
        net = Net(directory, NetConfig(directory, capture=directory / "all.pcap"))
        try:
            await net.start()
            assert all((directory / name).is_socket() for name in SOCKETS)
            if number is not None:
                net.process.send_signal(number)
                async with asyncio.timeout(LIMIT_S):
                    await net.process.wait()
        finally:
            status = await net.end()
            await net.close()
        assert (status, net.errors) == (0, b"")
        assert not [name for name in SOCKETS if (directory / name).exists()]
        assert len(list(captured(directory / "all.pcap"))) == 1

    run(test())


def test_a_network_that_was_killed_can_be_started_again(directory: Path) -> None:
    async def test() -> None:
        net = Net(directory, NetConfig(directory, has_gateway=False))
        await net.start(with_gateway=False)
        lost = asyncio.Event()
        client = await Control.connect(UnixAddress(directory / CONTROL), LIMIT_S, lost=lost.set)
        second = await started(directory)
        assert second == (2, f"network: {directory}/hub: another process listens here already\n")
        net.process.kill()
        async with asyncio.timeout(LIMIT_S):
            await lost.wait()
        with pytest.raises(LiveError, match="the connection has ended"):
            await client.ask("stats", 1)
        await net.end()
        await net.close()
        async with network(directory, has_gateway=True) as again:
            assert (await again.hub())["gateway"]

    run(test())


async def started(directory: Path, text: str | None = None) -> tuple[int | None, str]:
    """Start a network process that is to end by itself: its status and what it said."""
    path = directory / "net.json"
    if text is not None:
        path.write_text(text)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "backends.qemu.net", str(path)),
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(LIMIT_S):
            said = await process.stderr.read()
            return await process.wait(), said.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "no configuration of the network process: Expecting property name"),
        ("[]", "a JSON object would be right, not list"),
        ("{}", "directory is missing"),
        ('{"directory": 5}', "directory: 5 is not of the right type"),
        ('{"directory": "DIR", "colour": 1}', "there is no field colour; there are directory,"),
        ('{"directory": "DIR", "seed": true}', "seed: True is not of the right type"),
        ('{"directory": "DIR/none"}', "cannot listen here: No such file or directory"),
        ('{"directory": "DIR", "capture": "DIR/none/x"}', "cannot capture frames here: No such"),
        (
            '{"directory": "DIR", "connect_limit_s": 0.2}',
            "unix:DIR/gw: passt was not there within 0.2 s: No such file or directory",
        ),
        ('{"directory": "DIR/%s"}' % ("x" * 120), "a socket's path has at most 107 bytes"),
    ],
)
def test_a_wrong_configuration_is_one_line(directory: Path, text: str, why: str) -> None:
    async def test() -> None:
        status, said = await started(directory, text.replace("DIR", str(directory)))
        assert status == 2
        assert why.replace("DIR", str(directory)) in said
        assert said.startswith("network: ")
        assert said.count("\n") == 1
        assert not [name for name in SOCKETS if (directory / name).exists()]

    run(test())


def test_the_loss_of_passt_ends_the_process(directory: Path) -> None:
    async def test() -> None:
        net = Net(directory, NetConfig(directory))
        try:
            await net.start()
            await net.gateway.close()
            async with asyncio.timeout(LIMIT_S):
                await net.process.wait()
        finally:
            status = await net.end()
            await net.close()
        assert status == 1
        assert net.errors == b"network: passt is lost: it closed its socket\n"

    run(test())


def test_configurations_survive_the_file(directory: Path) -> None:
    config = NetConfig(directory, ("x", "y"), False, capture=directory / "c", seed=5)
    path = directory / "net.json"
    path.write_text(config.to_json())
    assert NetConfig.read(path) == config


# --------------------------------------------------------------------------------------------
# passt


@pytest.mark.skipif(shutil.which("passt") is None, reason="passt is not on PATH")
def test_the_command_line_of_passt(directory: Path) -> None:
    argv = passt_argv(directory / "gw", [(8080, 80), (8081, 5000)])
    assert argv[argv.index("--tcp-ports") + 1] == "127.0.0.1/8080:80,8081:5000"
    assert passt_argv(directory / "gw", [])[-1 if os.geteuid() else -3] == "none"
    with pytest.raises(LiveError, match="port 0: a port is between 1 and 65535"):
        passt_argv(directory / "gw", [(8080, 0)])
    with pytest.raises(LiveError, match="two forwards have the same port"):
        passt_argv(directory / "gw", [(8080, 80), (8080, 81)])


def test_without_passt_it_says_how_to_get_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(directory))
    with pytest.raises(LiveError, match="apt-get install passt"):
        passt_argv(directory / "gw", [])


# --------------------------------------------------------------------------------------------
# Speed: far below what an idle machine does, far above what would be a defect


def test_tens_of_megabytes_a_second(directory: Path) -> None:
    async def test() -> None:
        async with network(directory) as net:
            a, b = await net.link("a"), await net.link("b")
            data = bulk(64 * MIB)
            await net.ask("own", host="a")
            port, _ = await net.port("a")
            batch = [frame(n, 1514) for n in range(64)]

            async def by_link() -> float:
                b.data.clear()
                start_s = time.monotonic()
                a.write(data)
                await until(lambda: len(b.data) == len(data), "the link")
                return time.monotonic() - start_s

            async def by_frames() -> float:
                net.gateway.data.clear()
                start_s = time.monotonic()
                size = 0
                while size < 32 * MIB:
                    port.send(batch)
                    size += 64 * 1518
                    while port._hub is not None and port._hub.backlog_bytes > MIB:
                        await asyncio.sleep(0)
                await until(lambda: len(net.gateway.data) == size, "the frames")
                return time.monotonic() - start_s

            await takes(by_link, 0, 64 / 20)
            await takes(by_frames, 0, 32 / 8)

    run(test())


# --------------------------------------------------------------------------------------------
# A real guest behind a real passt

QEMU = shutil.which("qemu-system-x86_64")


class Qmp:
    """Just enough of the monitor to stop the guest and go on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, path: Path) -> Qmp:
        await asyncio.to_thread(wait_for, path)
        qmp = cls(*await asyncio.open_unix_connection(str(path)))
        await qmp.run("qmp_capabilities")
        return qmp

    async def turns(self) -> None:
        for _ in range(2):
            await self.run("query-status")

    async def run(self, command: str) -> None:
        self._writer.write(json.dumps({"execute": command}).encode() + b"\n")
        async with asyncio.timeout(LIMIT_S):
            while "return" not in json.loads(await self._reader.readline()):
                continue

    async def close(self) -> None:
        self._writer.close()


def wait_for(path: Path) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not path.exists():
        assert time.monotonic() < end_s, f"{path} did not come"
        time.sleep(0.01)


@contextlib.asynccontextmanager
async def guest_network(directory: Path, forwards: list[tuple[int, int]]) -> AsyncIterator[Any]:
    """A passt, the network process, a port in this loop and a QEMU; (net, port, qmp)."""
    try:
        image = cached(["ground", "httpd"]) or build(["ground", "httpd"], print)
    except LiveError as error:
        pytest.skip(str(error))
    net = Net(directory, NetConfig(directory, capture=directory / "all.pcap"))
    console = directory / "console"
    with contextlib.ExitStack() as stack:

        def start(*argv: Any) -> None:
            process = subprocess.Popen(list(map(str, argv)), stdin=subprocess.DEVNULL)
            stack.callback(process.wait, LIMIT_S)
            stack.callback(process.kill)

        start(*passt_argv(directory / "gw", forwards))
        try:
            await net.start(with_gateway=False)

            def output(frames: list[bytes]) -> None:
                port.send(frames)

            port = Port(directory, "a", output)
            await port.start(LIMIT_S)
            net._open.append(port)
            await net.ask("listen", host="a", on=True)
            await net.ask("own", host="a")
            netdev = f"stream,id=hn0,server=off,addr.type=unix,addr.path={port.path}"
            mac = net.config.guest_mac
            start(
                *(QEMU, "-machine", "pc", "-accel", "tcg", "-m", "128", "-nodefaults"),
                *("-display", "none", "-no-reboot"),
                *("-qmp", f"unix:{directory / 'qmp'},server=on,wait=off"),
                *("-kernel", image.kernel, "-initrd", image.initrd, "-append", image.append),
                *("-serial", f"file:{console}", "-netdev", netdev),
                *("-device", f"virtio-net-pci,id=e0,netdev=hn0,mac={mac},romfile="),
            )
            await port.connected(LIMIT_S)
            qmp = await Qmp.connect(directory / "qmp")
            net._open.append(qmp)
            await until(lambda: "colosim: ready" in console.read_text(), "the guest", 200)
            yield net, port, qmp
        finally:
            status = await net.end()
            await net.close()
        assert (status, net.errors) == (0, b"")


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not on PATH")
@pytest.mark.skipif(shutil.which("passt") is None, reason="passt is not on PATH")
def test_clients_reach_a_real_guest_through_quiesces_and_stops(directory: Path) -> None:
    echo_port, get_port, http_port = free_ports(3)
    forwards = [(echo_port, 7), (get_port, 5001), (http_port, 8081)]

    async def echo() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", echo_port)
        for number in range(300):
            writer.write(b"%06d" % number * 10)
            assert await reader.readexactly(60) == b"%06d" % number * 10
        writer.close()

    async def download(size: int) -> float:
        start_s = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", get_port)
        writer.write(b"get %d\n" % size)
        got = hashlib.sha256()
        left = size
        while left:
            data = await reader.read(min(left, 1 << 18))
            assert data, f"the download ended {left} bytes early"
            got.update(data)
            left -= len(data)
        writer.close()
        assert got.digest() == hashlib.sha256(ground_stream(size)).digest()
        return size / MIB / (time.monotonic() - start_s)

    async def http() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", http_port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert (await reader.read(12)).endswith(b"200")
        writer.close()

    async def test() -> None:
        async with guest_network(directory, forwards) as (net, port, qmp):
            await http()
            await echo()
            rate = await download(32 * MIB)
            await asyncio.gather(echo(), download(4 * MIB))
            loads = [asyncio.create_task(work) for work in (echo(), download(48 * MIB), http())]
            pauses_ms: list[float] = []
            while not all(load.done() for load in loads):
                start_s = time.monotonic()
                await net.ask("quiesce", mark=len(pauses_ms) + 1, limit_s=LIMIT_S)
                asked_s = time.monotonic()
                await qmp.run("stop")
                await port.drain(LIMIT_S, qmp.turns)
                before = port.stats()["from guest"]
                await asyncio.sleep(0.003)
                assert port.stats()["from guest"] == before  # drained was drained
                assert (await net.hub())["holding"]
                await qmp.run("cont")
                await net.ask("resume")
                pauses_ms.append((asked_s - start_s) * 1000)
                await asyncio.sleep(0.03)
            for load in loads:
                await load
            # The guest's TCP may still acknowledge: the two ends are asked one after the
            # other, so their counts are equal once nothing is on the way.
            async with asyncio.timeout(LIMIT_S):
                while True:
                    stats, ends = await net.hub(), port.stats()
                    counted = stats["frames_to"]["a"], stats["frames_from"]["a"]
                    if counted == (ends["to guest"], ends["sent"]):
                        break
                    await asyncio.sleep(0.1)
            assert stats["dropped"] == {}
            assert len(pauses_ms) > 10
            quiesce_ms = sorted(pauses_ms)[len(pauses_ms) // 2]
            print(f"{rate:.0f} MB/s; {len(pauses_ms)} quiesces, median {quiesce_ms:.2f} ms")
        seen = sum(1 for _ in captured(directory / "all.pcap"))
        assert seen >= stats["frames_from"]["gw"] + stats["frames_to"]["gw"]

    run(test(), 550)
