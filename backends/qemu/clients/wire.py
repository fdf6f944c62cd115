"""One TCP connection of a client: reads what is asked for and shows what came beyond it."""

from __future__ import annotations

import asyncio
import time

_MOST_KEPT_BYTES = 1 << 20
_LONGEST_LINE_BYTES = 1 << 16
_LONGEST_TEXT = 200


class Failed(Exception):
    """A request or a connection that failed.

    kind: connect (nobody listens), reset or closed (the connection broke), timeout, wrong (not
    the answer that was due), doubled (more than the answer), exit (a command's status).
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text[:_LONGEST_TEXT])
        self.kind = kind


class Wire(asyncio.Protocol):
    """A connection; `Failed` says how it broke.  Made by `open_wire`."""

    def __init__(self) -> None:
        #: when the last byte (or the end) came
        self.heard_ns = 0
        self._transport: asyncio.Transport | None = None
        self._bytes = bytearray()
        self._broken: Failed | None = None
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard_ns = time.monotonic_ns()
        self._bytes += data
        if len(self._bytes) > _MOST_KEPT_BYTES and not self._paused and self._transport:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._break(Failed("closed", "the connection was closed by the other side"))

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            self._break(Failed("reset", f"the connection broke: {error}"))
        self._break(Failed("closed", "the connection was closed"))

    # What protocols call

    @property
    def broken(self) -> Failed | None:
        """How the connection ended, if it has."""
        return self._broken

    @property
    def surplus(self) -> bytes:
        """What came and was not asked for."""
        return bytes(self._bytes)

    def write(self, data: bytes) -> None:
        if self._broken is not None:
            raise self._broken
        assert self._transport is not None
        self._transport.write(data)

    async def some(self, most_bytes: int = _MOST_KEPT_BYTES) -> bytes:
        """What came, at least one byte."""
        while not self._bytes:
            await self._more()
        return self._take(most_bytes)

    async def exactly(self, size_bytes: int) -> bytes:
        while len(self._bytes) < size_bytes:
            await self._more()
        return self._take(size_bytes)

    async def until(self, end: bytes, most_bytes: int = _LONGEST_LINE_BYTES) -> bytes:
        """All up to ``end``, without it."""
        looked = 0
        while (at := self._bytes.find(end, looked)) < 0:
            looked = max(0, len(self._bytes) - len(end) + 1)
            if len(self._bytes) > most_bytes:
                raise Failed("wrong", f"more than {most_bytes} bytes without {end!r}")
            await self._more()
        return self._take(at + len(end))[: -len(end)]

    async def rest(self) -> int:
        """Read to the end of the connection; how many bytes there were."""
        count = 0
        try:
            while True:
                count += len(await self.some())
        except Failed as end:
            if end.kind != "closed":
                raise
        return count

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _take(self, size_bytes: int) -> bytes:
        taken = bytes(memoryview(self._bytes)[:size_bytes])
        del self._bytes[:size_bytes]
        return taken

    async def _more(self) -> None:
        if self._broken is not None:
            raise self._broken
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _break(self, how: Failed) -> None:
        if self._broken is None:
            self.heard_ns = time.monotonic_ns()
            self._broken = how
        self._wake()


async def open_wire(host: str, port: int) -> Wire:
    """Connect; OSError if nobody listens."""
    _, wire = await asyncio.get_running_loop().create_connection(Wire, host, port)
    return wire
