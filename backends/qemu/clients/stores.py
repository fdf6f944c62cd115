"""Clients of key-value stores.  Each owns part of the keys, so it knows what a key must hold."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from backends.qemu.clients.base import Protocol, Setting, difference, identity
from backends.qemu.clients.wire import Failed, Wire
from backends.qemu.guest.ground import work_answer
from backends.qemu.guest.services import SERVICES

_DEEPEST = 8


class Store(Protocol):
    """Writes and reads of keys; a read must give the last write that was acknowledged.

    A write whose answer never came may have happened or not: then both values are right.  A key
    that this run has not written yet may hold anything.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._may_hold: dict[int, tuple[str, ...]] = {}

    @abstractmethod
    async def set(self, wire: Wire, key: str, value: bytes) -> None:
        """Write; `Failed` unless the store says it did."""

    @abstractmethod
    async def get(self, wire: Wire, key: str) -> bytes | None:
        """Read; None if the store does not have it."""

    async def request(self, client: int, number: int) -> None:
        wire, name, key = self.wire, identity(client, number), self._key(client, number)
        assert wire is not None
        if self.setting.draw("client-set", client, number) < self.options.set_ratio:
            if key in self._may_hold:
                self._may_hold[key] += (name,)
            await self.set(wire, f"colosim:{key}", self._value(name))
            self._may_hold[key] = (name,)
            return
        got = await self.get(wire, f"colosim:{key}")
        self.tally.received_bytes += 0 if got is None else len(got)
        self._check(key, got)

    def _key(self, client: int, number: int) -> int:
        """One of the client's keys: those that are ``client`` modulo the number of clients."""
        clients = self.setting.clients
        own = max(1, -(-(self.options.keys - client) // clients))
        return client + clients * int(self.setting.draw("client-key", client, number) * own)

    def _value(self, name: str) -> bytes:
        return work_answer(name, self.options.size_bytes).encode()

    def _check(self, key: int, got: bytes | None) -> None:
        names = self._may_hold.get(key)
        if names is None or any(got == self._value(name) for name in names):
            return
        expected = self._value(names[-1])
        what = "nothing" if got is None else difference(got, expected)
        raise Failed("wrong", f"key colosim:{key}: the value of request {names[-1]} is due: {what}")


class Redis(Store):
    """SET and GET."""

    ports: ClassVar[Mapping[str, int]] = {"redis": SERVICES["redis"].port}
    sizes: ClassVar[range] = range((1 << 24) + 1)

    async def set(self, wire: Wire, key: str, value: bytes) -> None:
        wire.write(command(b"SET", key.encode(), value))
        if (said := await answer(wire)) != "OK":
            raise Failed("wrong", f"SET {key}: {said!r}")

    async def get(self, wire: Wire, key: str) -> bytes | None:
        wire.write(command(b"GET", key.encode()))
        got = await answer(wire)
        if got is not None and not isinstance(got, bytes):
            raise Failed("wrong", f"GET {key}: {got!r}")
        return got


def command(*words: bytes) -> bytes:
    """A command as redis reads it."""
    parts = [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"*%d\r\n%b" % (len(words), b"".join(parts))


async def answer(wire: Wire, depth: int = 0) -> Any:
    """One RESP value: str, int, bytes, list or None.  `Failed` if it is an error."""
    line = await wire.until(b"\r\n")
    kind, text = line[:1], line[1:]
    match kind:
        case b"+":
            return text.decode()
        case b"-":
            raise Failed("wrong", f"redis says {text.decode(errors='replace')}")
        case b":":
            return int(text)
        case b"$" if int(text) < 0:
            return None
        case b"$":
            data = await wire.exactly(int(text) + 2)
            if not data.endswith(b"\r\n"):
                raise ValueError(f"{text.decode()} bytes do not end in a new line")
            return data[:-2]
        case b"*" if depth < _DEEPEST:
            count = int(text)
            return None if count < 0 else [await answer(wire, depth + 1) for _ in range(count)]
        case _:
            raise ValueError(f"{line[:60]!r}")


class Memcached(Store):
    """The text protocol's set and get.  Give so few keys that the guest's 16 MiB hold them all."""

    ports: ClassVar[Mapping[str, int]] = {"memcached": SERVICES["memcached"].port}
    sizes: ClassVar[range] = range(1_000_001)

    async def set(self, wire: Wire, key: str, value: bytes) -> None:
        wire.write(b"set %b 0 0 %d\r\n%b\r\n" % (key.encode(), len(value), value))
        if (said := await wire.until(b"\r\n")) != b"STORED":
            raise Failed("wrong", f"set {key}: {said[:60]!r}")

    async def get(self, wire: Wire, key: str) -> bytes | None:
        wire.write(b"get %b\r\n" % key.encode())
        line = await wire.until(b"\r\n")
        if line == b"END":
            return None
        words = line.split()
        if len(words) != 4 or words[0] != b"VALUE" or words[1] != key.encode():
            raise ValueError(f"{line[:60]!r}")
        data = await wire.exactly(int(words[3]) + 7)
        if not data.endswith(b"\r\nEND\r\n"):
            raise ValueError(f"{int(words[3])} bytes do not end in END")
        return data[:-7]
