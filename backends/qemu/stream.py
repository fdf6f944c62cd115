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

_HEADER = struct.Struct(">IB")
_CAUSE = struct.Struct(">Q")
_LARGEST = 1 << 20
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


def pack(kind: Kind, payload: bytes | memoryview, cause: int | None = None) -> bytes:
    """One frame."""
    before = b"" if cause is None else _CAUSE.pack(cause)
    return head(kind, len(before) + len(payload)) + before + payload


def head(kind: Kind, length: int) -> bytes:
    """What comes before a payload of this length."""
    return _HEADER.pack(length, kind)


async def unpack(reader: asyncio.StreamReader) -> tuple[Kind, bytes]:
    """The next frame; `asyncio.IncompleteReadError` at the end of the stream."""
    length, kind = _HEADER.unpack(await reader.readexactly(_HEADER.size))
    if length > _LARGEST or kind not in tuple(Kind):
        raise LiveError(f"the peer's agent sent a frame of kind {kind} and {length} bytes")
    return Kind(kind), await reader.readexactly(length)


def with_cause(payload: bytes) -> tuple[int, bytes]:
    """Split the line number of the cause off."""
    return _CAUSE.unpack_from(payload)[0], payload[_CAUSE.size :]


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
