"""Where a process of a run connects to: one notion for sockets of this machine and of others.

* ``unix:PATH``: a socket in the run's private directory.  Who may open it is trusted.
* ``tcp:HOST:PORT/NAME``: the service NAME behind a `backends.qemu.door`.  Who connects first proves
  that it has the key, and so does the door.

`connected` gives a socket for either.  Every TCP connection has the options of `tuned`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.qemu.errors import LiveError
from backends.qemu.secret import Refused, prove
from colosim import guest

_RETRY_S = 0.01
_PATH_BYTES = 107  # a unix socket's name, by the kernel
#: below those that the kernel gives to whoever asks for any
_PORTS = range(10_000, 32_768)
_PORT_TRIES = 1000
#: Death of a machine that sends no FIN is noticed by heartbeats; these only clear up after it.
_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
)


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket of this machine."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A service behind a door; ``speaker`` is who connects, with ``key``."""

    host: str
    port: int
    name: str
    speaker: str
    key: bytes = field(repr=False)

    def __str__(self) -> str:
        return f"tcp:{endpoint_text(self.host, self.port)}/{self.name}"


Address = UnixAddress | TcpAddress


def parse(text: str, speaker: str, key: bytes | None) -> Address:
    """What `str` of an address was; ``speaker`` and ``key`` are for TCP."""
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        return UnixAddress(Path(rest))
    at, slash, name = rest.rpartition("/")
    if kind != "tcp" or not slash or not name or key is None:
        raise LiveError(f"{text}: no address; unix:PATH or, with a key, tcp:HOST:PORT/NAME")
    return TcpAddress(*endpoint(at), name, speaker, key)


def endpoint(text: str) -> tuple[str, int]:
    """`colosim.guest.endpoint`, whose error is one line for people."""
    try:
        return guest.endpoint(text)
    except ValueError as error:
        raise LiveError(f"{text}: {error}") from None


def endpoint_text(host: str, port: int) -> str:
    """The other way round."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_path(path: Path) -> None:
    """`LiveError` unless a socket can have this name."""
    size = len(bytes(path))
    if size > _PATH_BYTES:
        raise LiveError(f"{path}: a socket's path has at most {_PATH_BYTES} bytes, this {size}")


def free_ports(count: int = 1) -> range:
    """So many free ports of 127.0.0.1, one after the other; `LiveError` if there are none.

    Nobody is given them by chance before they are used, by passt for one.
    """
    for _ in range(_PORT_TRIES):
        first = random.choice(_PORTS)
        ports = range(first, first + count)
        with contextlib.ExitStack() as tried, contextlib.suppress(OSError):
            for port in ports:
                tried.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return ports
    raise LiveError(f"127.0.0.1: no free ports from {_PORTS[0]} to {_PORTS[-1]}")


def tuned(sock: socket.socket) -> socket.socket:
    """Every write leaves at once, and a connection with a dead machine ends by itself."""
    sock.setblocking(False)
    for level, option, value in _OPTIONS:
        sock.setsockopt(level, option, value)
    return sock


async def resolved(host: str, port: int) -> list[tuple[int, Any]]:
    """(family, socket address) of every address that the host has; OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, *_, address in found]


async def connected(address: Address, limit_s: float, who: str) -> socket.socket:
    """A connected socket, as soon as somebody listens there.

    `LiveError` names ``who`` if that is not within the limit, and says why if we are refused.
    """
    if isinstance(address, UnixAddress):
        check_path(address.path)
    end_s = time.monotonic() + limit_s
    why = "it does not answer"
    while True:
        try:
            async with asyncio.timeout(max(0.0, end_s - time.monotonic())):
                return await _connected(address)
        except Refused as refused:
            raise LiveError(f"{address}: {who}: {refused}") from None
        except TimeoutError:
            pass  # what was wrong before says more
        except OSError as error:
            # asyncio says more than the reason; a name that is unknown has a negative number
            number = error.errno or 0
            why = os.strerror(number) if number > 0 else error.strerror or why
        if time.monotonic() > end_s:
            raise LiveError(f"{address}: {who} was not there within {limit_s:g} s: {why}")
        await asyncio.sleep(_RETRY_S)


async def _connected(address: Address) -> socket.socket:
    loop = asyncio.get_running_loop()
    if isinstance(address, UnixAddress):
        with _closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, str(address.path))
            return sock
    error = OSError(0, "no such host")
    for family, where in await resolved(address.host, address.port):
        try:
            with _closing(socket.socket(family, socket.SOCK_STREAM)) as sock:
                await loop.sock_connect(tuned(sock), where)
                await prove(sock, address.speaker, address.name, address.key)
                return sock
        except OSError as why:
            error = why
    raise error


@contextlib.contextmanager
def _closing(sock: socket.socket) -> Iterator[socket.socket]:
    """Close it unless all goes well."""
    try:
        yield sock
    except BaseException:
        sock.close()
        raise
