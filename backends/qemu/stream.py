"""The checkpoint stream between two agents, and lines of JSON to and from the runner.

A frame of the stream is ``be32 length, u8 kind, payload``.  It carries the COLO wire and, beside
it, which trace line made the bytes (their cause).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Any

from backends.qemu.address import Address, connected
from backends.qemu.errors import LiveError
from backends.qemu.net.sockets import Stream

_HEADER = struct.Struct(">IB")
_CAUSE = struct.Struct(">Q")
_LARGEST = 1 << 20
_AHEAD_BYTES = 1 << 18  # of frames that nobody takes; beyond it the other side is not read
_BACKLOG_BYTES = 1 << 16
_CONNECT_LIMIT_S = 10.0
_LINE_BYTES = 1 << 20
PIECE_BYTES = 1 << 18


class Kind(IntEnum):
    """What a frame holds."""

    MIGRATION = 0  # a piece of the first synchronisation, raw
    CONTROL = 1  # be64 line number of the cause, then control bytes
    BULK = 2  # a piece of a blob
    BLOB = 3  # be64 line number, then JSON {id, size, digest}: the blob is complete
    BEAT = 4  # be64 line number
    WITNESS = 5  # be64 line number, then frames of the secondary's guest
    NUMBERS = 6  # how far apart the sequence numbers of guest and clients are, at this state
    COVERED = 7  # frames that the state covers and that have not left
    LEFT = 8  # datagrams that leave now, as `datagrams.mark` has them


#: what it is, its payload
Frame = tuple[Kind, bytes | memoryview]

_KINDS = frozenset(Kind)
_BULK = (Kind.MIGRATION, Kind.BULK)  # their frames have no meaning, their bytes have


def pack(kind: Kind, payload: bytes | memoryview, cause: int | None = None) -> bytes:
    """One frame."""
    before = b"" if cause is None else _CAUSE.pack(cause)
    return head(kind, len(before) + len(payload)) + before + payload


def head(kind: Kind, length: int) -> bytes:
    """What comes before a payload of this length."""
    return _HEADER.pack(length, kind)


def with_cause(payload: bytes | memoryview) -> tuple[int, bytes]:
    """Split the line number of the cause off."""
    return _CAUSE.unpack_from(payload)[0], bytes(payload[_CAUSE.size :])


async def connect(
    address: Address, hello: dict[str, Any] | None, limit_s: float = 10.0, who: str = "the listener"
) -> Peer:
    """Connect as soon as somebody listens there, and say hello."""
    peer = await peer_of(await connected(address, limit_s, who))
    if hello is not None:
        peer.writer.write(json.dumps(hello).encode() + b"\n")
    return peer


async def peer_of(sock: socket.socket) -> Peer:
    """A connected socket, unix or TCP, as reader and writer."""
    return Peer(*await asyncio.open_connection(sock=sock, limit=_LINE_BYTES))


class Peer:
    """A connection's two ends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def close(self) -> None:
        """At once; what was written before still arrives."""
        with contextlib.suppress(RuntimeError, OSError):
            self.writer.close()


class Channel:
    """A connection of the checkpoint link: frames, both ways.

    Pieces of bulk are handed on as they come, and not as they were sent.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._frames: list[Frame] = []  # that nobody has taken
        self._ahead_bytes = 0  # of them
        self._pending = b""  # the beginning of a frame
        self._bulk, self._bulk_bytes = Kind.BULK, 0  # what is to come of a frame of bulk
        self._over: Exception | None = None
        self._came: asyncio.Future[None] | None = None
        stream.received = self._received
        stream.ended = lambda: self._end(EOFError())

    @property
    def backlog_bytes(self) -> int:
        """What was written and has not left."""
        return self._stream.backlog_bytes

    def write(self, *parts: bytes | memoryview) -> None:
        """At once, or as soon as can be; nothing is copied."""
        self._stream.write(*parts)

    async def taken(self, limit_s: float | None = None) -> None:
        """Until what was written has left, but for a little; errors of `Stream.taken`."""
        await self._stream.taken(_BACKLOG_BYTES, limit_s)

    async def come(self) -> list[Frame]:
        """What has come, as soon as something has.

        `EOFError` at the end, `LiveError` for what is no frame.
        """
        while not self._frames:
            if self._over is not None:
                raise self._over
            self._came = asyncio.get_running_loop().create_future()
            await self._came
        frames, self._frames = self._frames, []
        self._ahead_bytes = 0
        if self._over is None:
            self._stream.resume()
        return frames

    def close(self) -> None:
        """At once; what was written before still arrives."""
        self._stream.pause()
        self._stream.close_when_written()
        self._end(EOFError())

    def _received(self, data: bytes) -> None:
        view = memoryview(self._pending + data if self._pending else data)
        at, end = 0, len(view)
        while at < end:
            if self._bulk_bytes:
                piece = view[at : at + self._bulk_bytes]
                self._put(self._bulk, piece)
                self._bulk_bytes -= len(piece)
                at += len(piece)
                continue
            payload = at + _HEADER.size
            if payload > end:
                break
            length, number = _HEADER.unpack_from(view, at)
            if length > _LARGEST or number not in _KINDS:
                self._stream.pause()
                why = f"the peer's agent sent a frame of kind {number} and {length} bytes"
                self._end(LiveError(why))
                return
            kind = Kind(number)
            if kind in _BULK:
                self._bulk, self._bulk_bytes = kind, length
                at = payload
                continue
            if payload + length > end:
                break
            self._put(kind, bytes(view[payload : payload + length]))
            at = payload + length
        self._pending = bytes(view[at:])
        if self._ahead_bytes > _AHEAD_BYTES:
            self._stream.pause()
        self._wake()

    def _put(self, kind: Kind, payload: bytes | memoryview) -> None:
        self._frames.append((kind, payload))
        self._ahead_bytes += len(payload)

    def _end(self, why: Exception) -> None:
        self._over = self._over or why
        self._wake()

    def _wake(self) -> None:
        if self._came is not None and not self._came.done():
            self._came.set_result(None)


async def join(address: Address, hello: dict[str, Any], who: str) -> Channel:
    """Connect to the link as soon as it is there, and say hello."""
    stream = Stream(await connected(address, _CONNECT_LIMIT_S, who))
    stream.write(json.dumps(hello).encode() + b"\n")
    return Channel(stream)


class Lines:
    """Requests and answers, one JSON object a line, both ways over one connection.

    A request is ``{"id": n, "do": name, ...}``; its answer ``{"id": n, "ok": value}`` or
    ``{"id": n, "why": text}``.  A message without id wants no answer.  perform(name, arguments)
    handles what the other side asks.
    """

    def __init__(
        self, peer: Peer, perform: Callable[[str, dict[str, Any]], Awaitable[Any]]
    ) -> None:
        self._peer = peer
        self._perform = perform
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def tell(self, name: str, /, **arguments: Any) -> None:
        """Say something that wants no answer."""
        self._write({"do": name, **arguments})

    async def ask(self, name: str, limit_s: float, /, **arguments: Any) -> Any:
        """Ask for something; `LiveError` with the other side's reason, or after the limit."""
        number = next(self._ids)
        answer = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._write({"id": number, "do": name, **arguments})
        try:
            async with asyncio.timeout(limit_s):
                return await answer
        except TimeoutError:
            raise LiveError(f"{name}: no answer within {limit_s:g} s") from None
        finally:
            self._waiting.pop(number, None)

    async def serve(self) -> None:
        """Read until the other side ends."""
        try:
            while line := await self._peer.reader.readline():
                self._heard(json.loads(line))
        except (OSError, ValueError):
            pass
        finally:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(LiveError("the other side has ended"))
            self._peer.close()

    def _heard(self, message: dict[str, Any]) -> None:
        if "do" in message:
            task = asyncio.create_task(self._answer(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif (answer := self._waiting.get(message["id"])) and not answer.done():
            if "why" in message:
                answer.set_exception(LiveError(message["why"]))
            else:
                answer.set_result(message["ok"])

    async def _answer(self, message: dict[str, Any]) -> None:
        number, name = message.pop("id", None), message.pop("do")
        try:
            outcome = {"ok": await self._perform(name, message)}
        except LiveError as error:
            outcome = {"why": str(error)}
        except Exception as error:  # a defect of ours must not look like silence
            outcome = {"why": f"defect in {name}: {type(error).__name__}: {error}"}
        if number is not None:
            self._write({"id": number, **outcome})
        elif "why" in outcome:
            self._write({"do": "trouble", "why": outcome["why"]})

    def _write(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(RuntimeError, OSError):
            self._peer.writer.write(json.dumps(message).encode() + b"\n")
