"""The gateway to a real passt, with a guest of three frames."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.qemu.address import UnixAddress, free_ports
from backends.qemu.net.config import NetConfig
from backends.qemu.net.frames import arp_request
from backends.qemu.net.gateway import Passt
from backends.qemu.net.passt import passt_argv
from backends.qemu.net.sockets import connect
from tests.segments import ACK, SYN, Ports, Segment, read

SAID = b"x" * 1024
LIMIT_S = 60.0


@pytest.fixture
def passt() -> Iterator[tuple[Path, int]]:
    """Its socket, and the port of this host that leads to the guest's port 7."""
    if shutil.which("passt") is None:
        pytest.skip("passt is not installed")
    [port] = free_ports()
    with tempfile.TemporaryDirectory(prefix="cnet-", dir="/tmp") as name:
        path = Path(name) / "gw"
        process = subprocess.Popen(passt_argv(path, [(port, 7)]), stdin=subprocess.DEVNULL)
        try:
            yield path, port
        finally:
            process.kill()
            process.wait(LIMIT_S)


async def answered(path: Path, port: int) -> tuple[int, bytes, int]:
    """A client says something to a guest whose output was held: two SYN-ACKs leave at once.

    How many frames passt sends for that, what the client's answer is, and how many were left out.
    """
    config = NetConfig(path.parent)
    stream = await connect(UnixAddress(path), LIMIT_S, "passt")
    gateway = Passt(stream)
    frames: list[bytes] = []
    opened: asyncio.Future[Segment] = asyncio.get_running_loop().create_future()
    spoken: asyncio.Future[Segment] = asyncio.get_running_loop().create_future()

    def received(some: list[bytes]) -> None:
        frames.extend(some)
        for frame in some:
            if frame[12:14] == b"\x08\x00":
                segment = read(frame)
                if segment.flags & SYN and not opened.done():
                    opened.set_result(segment)
                elif segment.payload and not spoken.done():
                    spoken.set_result(segment)

    gateway.received = received
    gateway.write([arp_request(config.guest_mac, config.guest_ip, config.gateway_ip)])
    loop = asyncio.get_running_loop()
    client = socket.socket()
    client.setblocking(False)
    try:
        while not opened.done():  # until passt knows the guest
            with contextlib.suppress(OSError):
                await loop.sock_connect(client, ("127.0.0.1", port))
                await loop.sock_sendall(client, SAID)
            await asyncio.wait([opened], timeout=0.5)
        syn = opened.result()
        ports = Ports(syn.source, syn.target, syn.source_port, syn.target_port)
        ok = ports.outward(1000, syn.seq + 1, SYN | ACK).frame()
        gateway.write([ok, ok])
        data = await spoken
        await asyncio.sleep(0.5)
        count = len(frames)
        got = data.seq + len(data.payload)
        gateway.write([ports.outward(1001, got, ACK, data.payload).frame()])
        answer = await loop.sock_recv(client, 4096)
        return count, answer, gateway.dropped.total()
    finally:
        client.close()
        gateway.close()


@pytest.mark.live
def test_a_syn_ack_that_was_held_and_repeated_does_no_harm(passt, record_property):
    """Found by exploring on real guests: passt repeated one segment for ever, and served nobody."""
    count, answer, left_out = asyncio.run(asyncio.wait_for(answered(*passt), LIMIT_S))
    record_property("counted", f"{count} frames of passt")
    assert answer
    assert SAID.startswith(answer)  # a segment of it
    assert left_out == 1
    assert count < 20


@pytest.mark.live
def test_another_syn_ack_leaves(passt):
    """Another connection's, and one that answers another SYN."""

    async def play() -> int:
        gateway = Passt(await connect(UnixAddress(passt[0]), LIMIT_S, "passt"))
        one, other = Ports(client_port=40000), Ports(client_port=40001)
        first = one.outward(1, 5, SYN | ACK).frame()
        sizes = [
            gateway.write([first]),
            gateway.write([other.outward(1, 5, SYN | ACK).frame()]),
            gateway.write([one.outward(1, 6, SYN | ACK).frame()]),
            gateway.write([one.outward(2, 5).frame(), one.outward(2, 5).frame()]),
            gateway.write([first]),
        ]
        assert [size // (len(first) + 4) for size in sizes] == [1, 1, 1, 2, 0]
        gateway.close()
        return gateway.dropped.total()

    assert asyncio.run(play()) == 1
