"""Clients of `ground`, the guest's own program: every byte of its answers is known."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Mapping
from typing import ClassVar

from backends.qemu.clients.base import Protocol, Setting, difference, identity
from backends.qemu.clients.wire import Failed
from backends.qemu.guest.ground import (
    ECHO_PORT,
    LINE_PORT,
    STREAM_PORT,
    diverges,
    stream,
    work_answer,
)
from backends.qemu.guest.store import acknowledged

_PIECE_BYTES = 1 << 20
_LONGEST_WORK_US = 60_000_000
_DIVERGING_BYTES = 16


class Echo(Protocol):
    """Bytes that come back as they were sent."""

    ports: ClassVar[Mapping[str, int]] = {"ground": ECHO_PORT}
    sizes: ClassVar[range] = range(1, (1 << 24) + 1)

    async def request(self, client: int, number: int) -> None:
        sent = work_answer(identity(client, number), self.options.size_bytes).encode()
        assert self.wire is not None
        self.wire.write(sent)
        got = await self.wire.exactly(len(sent))
        self.tally.received_bytes += len(got)
        if got != sent:
            raise Failed("wrong", f"echo {identity(client, number)}: {difference(got, sent)}")


class Work(Protocol):
    """CPU time of the workload's service time, and an answer of known text."""

    ports: ClassVar[Mapping[str, int]] = {"ground": LINE_PORT}
    sizes: ClassVar[range] = range((1 << 20) + 1)

    async def request(self, client: int, number: int) -> None:
        name, size_bytes = identity(client, number), self.options.size_bytes
        work_us = min(round(self.setting.demand_ns(client, number) / 1000), _LONGEST_WORK_US)
        chance = self.setting.diverge
        also = f" diverge={chance!r}" if chance else ""
        assert self.wire is not None
        self.wire.write(f"work us={work_us} bytes={size_bytes}{also} id={name}\n".encode())
        got = await self.wire.until(b"\n", size_bytes + 1000)
        self.tally.received_bytes += len(got) + 1
        expected = work_answer(name, size_bytes).encode()
        if chance and diverges(name, chance) and len(got) == size_bytes:
            known = max(0, size_bytes - _DIVERGING_BYTES)
            got, expected = got[:known], expected[:known]
        if got != expected:
            said = f": {got.decode(errors='replace')}" if got.startswith(b"error: ") else ""
            raise Failed("wrong", f"work {name}: {difference(got, expected)}{said}")


class Store(Protocol):
    """Records on the guest's disk, one at a time; what was acknowledged is kept in the tally."""

    ports: ClassVar[Mapping[str, int]] = {"ground": LINE_PORT}

    async def request(self, client: int, number: int) -> None:
        assert self.wire is not None
        self.wire.write(f"store client={client} number={number}\n".encode())
        answer = (await self.wire.until(b"\n")).decode(errors="replace")
        self.tally.received_bytes += len(answer) + 1
        try:
            self.tally.stored.append(acknowledged(client, number, answer))
        except ValueError:
            name = identity(client, number)
            raise Failed("wrong", f"store {name}: {answer}") from None


class Download(Protocol):
    """A long answer whose SHA-256 is known; the time limit is on silence, not on its length."""

    ports: ClassVar[Mapping[str, int]] = {"ground": STREAM_PORT}
    sizes: ClassVar[range] = range(1, (1 << 40) + 1)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._expected = stream_sha256(setting.options.size_bytes)

    async def request(self, client: int, number: int) -> None:
        size_bytes = self.options.size_bytes
        assert self.wire is not None
        start_ns = time.monotonic_ns()
        self.wire.write(f"get {size_bytes}\n".encode())
        digest, missing_bytes = hashlib.sha256(), size_bytes
        while missing_bytes:
            piece = await self.wire.some(missing_bytes)
            digest.update(piece)
            missing_bytes -= len(piece)
            self.tally.received_bytes += len(piece)
            self.goes_on()
        if digest.hexdigest() != self._expected:
            raise Failed("wrong", f"download {identity(client, number)}: another SHA-256")
        duration_ns = max(1, self.answered_ns - start_ns)
        self.tally.samples["download_mbit_per_s"].append(size_bytes * 8e3 / duration_ns)


@functools.lru_cache
def stream_sha256(size_bytes: int) -> str:
    """The SHA-256 of a download, about a second for each 250 MB."""
    digest = hashlib.sha256()
    for start in range(0, size_bytes, _PIECE_BYTES):
        digest.update(stream(min(_PIECE_BYTES, size_bytes - start), start))
    return digest.hexdigest()
