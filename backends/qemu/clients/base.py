"""What every protocol is, and what its clients count together."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from backends.qemu.clients.wire import Failed, Wire, open_wire
from backends.qemu.guest.store import Stored
from colosim.guest import Client


@dataclass(slots=True)
class Failure:
    """All failures of one kind: how many, and the first."""

    count: int
    first: str
    first_ns: int


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """How the user's command ended: exit status, or minus the signal.

    stopped: it still ran when the run ended, and was ended.
    """

    status: int
    duration_ns: int
    stopped: bool


@dataclass(slots=True)
class Tally:
    """What the clients of a load count together.

    lost: requests without an answer because the connection broke or the time limit passed, and
    connections that broke while nothing was asked.  wrong: answers that are not what they must
    be.  doubled: times that more came than was asked for.
    stored: records that the guest said are on its disk.
    reopened: connections made anew because the server closed one between requests, as http allows.
    """

    lost: int = 0
    wrong: int = 0
    doubled: int = 0
    reopened: int = 0
    received_bytes: int = 0
    failures: dict[str, Failure] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    commands: list[CommandEnd] = field(default_factory=list)
    stored: list[Stored] = field(default_factory=list)

    def failed(self, failed: Failed, at_ns: int) -> None:
        """Count a failure of its kind; the first text is kept."""
        self.failures.setdefault(failed.kind, Failure(0, str(failed), at_ns)).count += 1


@dataclass(frozen=True, slots=True)
class Setting:
    """What the clients of a load have in common.

    clients: how many.  demand_ns(client, request): CPU time that a request is to take.  draw(what,
    client, request): uniform in (0, 1), the same in every run of one seed.  diverge: chance that
    an answer differs between two guests.
    """

    options: Client
    host: str
    port: int
    clients: int
    demand_ns: Callable[[int, int], int]
    draw: Callable[[str, int, int], float]
    diverge: float = 0.0
    tally: Tally = field(default_factory=Tally)


class Protocol(ABC):
    """One client: a connection and what is asked on it.  It lives through reconnects.

    `request` returns when the whole answer came and was right, else raises `Failed`.
    """

    #: guest service -> its port; the first one of the guest's services is talked to
    ports: ClassVar[Mapping[str, int]]
    #: what client.size may be, in bytes
    sizes: ClassVar[range] = range(2**62)
    #: runs once, by itself, with no load
    once: ClassVar[bool] = False

    def __init__(self, setting: Setting) -> None:
        self.options = setting.options
        self.setting = setting
        self.tally = setting.tally
        self.wire: Wire | None = None
        self._limit_s = setting.options.timeout_ns / 1e9
        self._limit: asyncio.Timeout | None = None

    async def connect(self) -> None:
        """Make the connection."""
        self.close()
        self.wire = await open_wire(self.setting.host, self.setting.port)

    @abstractmethod
    async def request(self, client: int, number: int) -> None:
        """Ask, and check the answer."""

    def close(self) -> None:
        """End the connection at once."""
        if self.wire is not None:
            self.wire.close()
            self.wire = None

    def trouble(self) -> Failed | None:
        """What is wrong with the connection while nothing is asked."""
        if self.wire is None:
            return None
        if surplus := self.wire.surplus:
            return Failed("doubled", f"{len(surplus)} bytes more than asked for: {surplus[:60]!r}")
        return self.wire.broken

    @property
    def answered_ns(self) -> int:
        """When the last byte of the last answer came."""
        return time.monotonic_ns() if self.wire is None else self.wire.heard_ns

    async def limited_connect(self) -> None:
        """`connect` within the time limit; any failure is `Failed`."""
        try:
            async with asyncio.timeout(self._limit_s):
                await self.connect()
        except TimeoutError:
            raise Failed("connect", f"no connection within {self._limit_s:g} s") from None
        except OSError as error:
            raise Failed("connect", f"no connection: {error.strerror or error}") from None

    async def limited_request(self, client: int, number: int) -> None:
        """`request` within the time limit; any failure is `Failed`."""
        try:
            async with asyncio.timeout(self._limit_s) as self._limit:
                await self.request(client, number)
        except TimeoutError:
            raise Failed("timeout", f"no answer within {self._limit_s:g} s") from None
        except OSError as error:
            raise Failed("connect", f"no connection: {error.strerror or error}") from None
        except ValueError as error:
            raise Failed("wrong", f"no answer of this protocol: {error}") from None

    def goes_on(self) -> None:
        """Let the time limit count from now: part of a long answer came."""
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time() + self._limit_s)


def identity(client: int, number: int) -> str:
    """A request's name, which its answer depends on."""
    return f"{client}-{number}"


def difference(got: bytes, expected: bytes) -> str:
    """Where two byte strings part."""
    if len(got) != len(expected):
        return f"{len(got)} bytes instead of {len(expected)}"
    at = next(i for i, (a, b) in enumerate(zip(got, expected, strict=True)) if a != b)
    return f"byte {at} of {len(expected)} differs: {got[at : at + 20]!r}"
