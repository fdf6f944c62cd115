"""The checkpoint stream between two agents, over a socket pair."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.qemu.errors import LiveError
from backends.qemu.net.sockets import Stream
from backends.qemu.stream import Channel, Kind, head, pack, with_cause

BULK = (Kind.MIGRATION, Kind.BULK)
LIMIT_S = 60.0


def run(scene: Callable[[socket.socket, Channel], Awaitable[None]]) -> None:
    """A channel, and the other end of its connection."""

    async def main() -> None:
        ours, other = socket.socketpair()
        other.setblocking(False)
        channel = Channel(Stream(ours))
        async with asyncio.timeout(LIMIT_S):
            await scene(other, channel)
        channel.close()
        other.close()

    asyncio.run(main())


async def heard(channel: Channel) -> list[tuple[Kind, bytes]]:
    """All of it, to the end; pieces of bulk that follow each other are one."""
    frames: list[tuple[Kind, bytes]] = []
    try:
        while True:
            for kind, payload in await channel.come():
                if frames and kind in BULK and frames[-1][0] is kind:
                    frames[-1] = (kind, frames[-1][1] + bytes(payload))
                else:
                    frames.append((kind, bytes(payload)))
    except EOFError:
        return frames


FRAMES = st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=40)), max_size=8)


@settings(deadline=None)
@given(frames=FRAMES, cuts=st.lists(st.integers(1, 30), max_size=20))
def test_frames_arrive_however_they_are_cut(frames, cuts):
    async def scene(other: socket.socket, channel: Channel) -> None:
        data = b"".join(pack(kind, payload) for kind, payload in frames)
        loop, at = asyncio.get_running_loop(), 0
        hearing = asyncio.create_task(heard(channel))
        for size in (*cuts, len(data)):
            await loop.sock_sendall(other, data[at : at + size])
            at += size
            await asyncio.sleep(0)
        other.shutdown(socket.SHUT_WR)
        wanted: list[tuple[Kind, bytes]] = []
        for kind, payload in frames:
            if kind in BULK and (not payload or (wanted and wanted[-1][0] is kind)):
                if payload:
                    wanted[-1] = (kind, wanted[-1][1] + payload)
            else:
                wanted.append((kind, payload))
        assert await hearing == wanted

    run(scene)


def test_what_is_no_frame_is_an_error_after_what_was_one():
    async def scene(other: socket.socket, channel: Channel) -> None:
        other.send(pack(Kind.CONTROL, b"good", 7) + bytes.fromhex("0000000463") + b"bad!")
        [(kind, payload)] = await channel.come()
        assert (kind, with_cause(payload)) == (Kind.CONTROL, (7, b"good"))
        with pytest.raises(LiveError, match="a frame of kind 99 and 4 bytes"):
            await channel.come()

    run(scene)


def test_who_does_not_take_frames_is_not_sent_all_of_them():
    async def scene(other: socket.socket, channel: Channel) -> None:
        data = pack(Kind.BULK, bytes(1 << 20)) * 16
        sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(other, data))
        await asyncio.sleep(0.2)
        assert not sending.done()
        total = 0
        while total < 16 << 20:
            total += sum(len(payload) for _, payload in await channel.come())
        await sending

    run(scene)


def test_what_was_written_arrives_though_it_is_closed():
    async def scene(other: socket.socket, channel: Channel) -> None:
        payload = bytes(range(256)) * 8192
        channel.write(head(Kind.BULK, len(payload)), payload, pack(Kind.BLOB, b"name", 1))
        assert channel.backlog_bytes > 0
        with pytest.raises(TimeoutError):
            await channel.taken(0.01)
        channel.close()
        channel.write(b"too late")
        data = b""
        while piece := await asyncio.get_running_loop().sock_recv(other, 1 << 20):
            data += piece
        assert data == pack(Kind.BULK, payload) + pack(Kind.BLOB, b"name", 1)
        with pytest.raises(EOFError):
            await channel.come()
        with pytest.raises(ConnectionError):
            await channel.taken(1.0)

    run(scene)


def test_whoever_waits_for_a_reader_that_has_gone_is_told():
    async def scene(other: socket.socket, channel: Channel) -> None:
        channel.write(bytes(8 << 20))
        waiting = asyncio.create_task(channel.taken(LIMIT_S))
        await asyncio.sleep(0)
        other.close()
        with pytest.raises(ConnectionError):
            await waiting

    run(scene)
