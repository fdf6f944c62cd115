"""The client that needs no connection: datagrams that come back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

from backends.qemu.clients.base import Protocol, Setting, difference, identity
from backends.qemu.clients.wire import Failed
from backends.qemu.guest.ground import ECHO_PORT, work_answer

_AGAIN_S = 0.25  # a datagram may be lost: then it is sent again, as any client does
_REMEMBERED = 100


class _Ends(asyncio.DatagramProtocol):
    """Where datagrams arrive."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[bytes] = asyncio.Queue()
        self.heard_ns = time.monotonic_ns()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.heard_ns = time.monotonic_ns()
        self.came.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        """Nobody listens yet, or any more: the next try may do."""


class Udp(Protocol):
    """Datagrams that come back as they were sent; each is sent again until it does."""

    ports: ClassVar[Mapping[str, int]] = {"ground": ECHO_PORT}
    sizes: ClassVar[range] = range(16, 1473)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._transport: asyncio.DatagramTransport | None = None
        self._ends = _Ends()
        self._due: Counter[bytes] = Counter()  # how often each may still come back

    async def connect(self) -> None:
        self.close()
        loop = asyncio.get_running_loop()
        address = (self.setting.host, self.setting.port)
        self._transport, self._ends = await loop.create_datagram_endpoint(
            _Ends, remote_addr=address
        )

    async def request(self, client: int, number: int) -> None:
        size_bytes = self.options.size_bytes
        name = identity(client, number).encode() + b" "
        sent = name + work_answer(name.decode(), size_bytes - len(name)).encode()
        assert self._transport is not None
        while True:
            self._due[name] += 1
            self._transport.sendto(sent)
            try:
                async with asyncio.timeout(_AGAIN_S):
                    got = await self._answer(name)
                break
            except TimeoutError:
                continue
        if got != sent:
            raise Failed("wrong", f"udp {name.decode()}: {difference(got, sent)}")

    async def _answer(self, name: bytes) -> bytes:
        """The next one to this request; others are late answers to what was sent again."""
        while True:
            got = await self._ends.came.get()
            self.tally.received_bytes += len(got)
            asked = got.partition(b" ")[0] + b" "
            self._due[asked] -= 1
            if self._due[asked] < 0:
                raise Failed("doubled", f"udp {asked.decode(errors='replace')}: came twice")
            while len(self._due) > _REMEMBERED:
                del self._due[next(iter(self._due))]
            if asked == name:
                return got

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    @property
    def answered_ns(self) -> int:
        return self._ends.heard_ns
