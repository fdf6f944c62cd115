"""The control socket of the network process: JSON, one object a line.

``{"id": n, "do": name, ...}`` is answered by ``{"id": n, "ok": true, ...}`` or ``{"id": n, "ok":
false, "why": text}``, in any order.  The requests are `REQUESTS`.  A request that fails changes
nothing, except a quiesce (input stays held) and a fence (the host stays shut out).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.qemu.address import Address, connected
from backends.qemu.errors import LiveError
from backends.qemu.net.config import HUB, LINK
from backends.qemu.net.fluid import Direction
from backends.qemu.net.hub import Hub
from backends.qemu.net.line import Line
from backends.qemu.net.relay import Relay
from backends.qemu.net.sockets import Listener, Stream

_LINE_BYTES = 1 << 16
_CLIENTS = 16
_REQUESTS_A_CLIENT = 64
_LONGEST_S = 3600.0

# --------------------------------------------------------------------------------------------
# What can be asked


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class _Field:
    fits: Callable[[Any], bool]
    right: str  # what would be right


_HOST = _Field(lambda v: isinstance(v, str), "the name of a host")
_FLAG = _Field(lambda v: isinstance(v, bool), "true or false")
_COUNT = _Field(lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0, "0, 1, 2, ...")
_LIMIT = _Field(lambda v: _is_number(v) and 0 < v <= _LONGEST_S, "seconds, more than 0")
_LOSS = _Field(lambda v: _is_number(v) and 0 <= v <= 1, "a probability")
_BANDWIDTH = _Field(lambda v: v is None or (_is_number(v) and v >= 1), "bits a second, or null")
_MAYBE_HOST = _Field(lambda v: v is None or isinstance(v, str), "the name of a host, or null")
_WAY = _Field(lambda v: v in ("in", "out", "both"), "in, out or both")


@dataclass(frozen=True, slots=True)
class _Request:
    needs: Mapping[str, _Field]
    may: Mapping[str, _Field]


REQUESTS: dict[str, _Request] = {
    # this client speaks for a host: it is closed when the host is fenced
    "hello": _Request({"host": _HOST}, {}),
    # whose port gets the gateway's frames
    "listen": _Request({"host": _HOST, "on": _FLAG}, {}),
    # whose frames leave; null: nobody's
    "own": _Request({"host": _MAYBE_HOST}, {}),
    # shut a host out; answered when nothing of it can leave any more
    "fence": _Request({"host": _HOST}, {}),
    # lift that, for another guest under the host's name
    "admit": _Request({"host": _HOST}, {}),
    # hold input; answered when every listening guest has got what went before
    "quiesce": _Request({"mark": _COUNT, "limit_s": _LIMIT}, {}),
    "resume": _Request({}, {}),
    # impairments: only what is given changes.  `host` of link: only what this host sends
    "gateway": _Request(
        {},
        {
            "way": _WAY,
            "delay_ns": _COUNT,
            "loss": _LOSS,
            "bandwidth_bps": _BANDWIDTH,
            "cut": _FLAG,
        },
    ),
    "link": _Request(
        {}, {"host": _HOST, "delay_ns": _COUNT, "bandwidth_bps": _BANDWIDTH, "cut": _FLAG}
    ),
    # counters; the capture file is flushed too
    "stats": _Request({}, {}),
}


def _checked(do: Any, given: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(do, str) or do not in REQUESTS:
        raise LiveError(f"there is no request {do!r}; there are {', '.join(REQUESTS)}")
    request = REQUESTS[do]
    fields = {**request.needs, **request.may}
    for name, value in given.items():
        if name not in fields:
            raise LiveError(f"{do}: there is no {name}; there are {', '.join(fields) or 'none'}")
        if not fields[name].fits(value):
            raise LiveError(f"{do}: {name}: {fields[name].right} would be right, not {value!r}")
    if missing := [name for name in request.needs if name not in given]:
        raise LiveError(f"{do}: {missing[0]} is missing")
    return given


# --------------------------------------------------------------------------------------------
# The network process's end


class _Client:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.host: str | None = None
        self.line = b""
        self.tasks: set[asyncio.Task[None]] = set()


class Desk:
    """Answers at ``net-control``, and to the clients that it is given.

    door: where those of other machines come in.
    """

    def __init__(
        self, path: Path, hub: Hub, relay: Relay, door: tuple[str, int] | None = None
    ) -> None:
        self._door = door
        self._hub = hub
        self._relay = relay
        self._clients: set[_Client] = set()
        self._listener = Listener(path, self.accept)

    def close(self) -> None:
        self._listener.close()
        for client in list(self._clients):
            self._lost(client)

    def accept(self, stream: Stream) -> None:
        """A client; one of another machine speaks for its host from the start."""
        fenced = stream.speaker is not None and stream.speaker in self._hub.stats()["fenced"]
        if len(self._clients) >= _CLIENTS or fenced:
            stream.close()
            return
        client = _Client(stream)
        client.host = stream.speaker
        self._clients.add(client)
        stream.received = lambda data: self._received(client, data)
        stream.ended = lambda: self._lost(client)

    def _lost(self, client: _Client) -> None:
        client.stream.close()
        self._clients.discard(client)
        for task in client.tasks:
            task.cancel()

    def _received(self, client: _Client, data: bytes) -> None:
        *lines, client.line = (client.line + data).split(b"\n")
        for line in lines:
            if len(client.tasks) >= _REQUESTS_A_CLIENT:
                self._lost(client)
                return
            task = asyncio.get_running_loop().create_task(self._answer(client, line))
            client.tasks.add(task)
            task.add_done_callback(client.tasks.discard)
        if len(client.line) > _LINE_BYTES or client.stream.backlog_bytes > _LINE_BYTES * 16:
            self._lost(client)

    async def _answer(self, client: _Client, line: bytes) -> None:
        number: Any = None
        answer: dict[str, Any]
        try:
            try:
                given = json.loads(line)
                number, do = given.pop("id"), given.pop("do")
            except (ValueError, AttributeError, KeyError, TypeError):
                raise LiveError("a request is a JSON object with id and do") from None
            answer = {"ok": True, **await self._perform(client, do, _checked(do, given))}
        except LiveError as error:
            answer = {"ok": False, "why": str(error)}
        client.stream.write(json.dumps({"id": number, **answer}).encode() + b"\n")

    async def _perform(self, client: _Client, do: str, given: dict[str, Any]) -> dict[str, Any]:
        hub = self._hub
        simple: dict[str, Callable[..., None]] = {
            "listen": hub.listen,
            "own": hub.own,
            "resume": hub.resume,
            "gateway": self._gateway,
            "link": self._link,
            "admit": self._admit,
        }
        if do in simple:
            simple[do](**given)
            return {}
        waiting: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
            "hello": lambda host: self._hello(client, host),
            "fence": self._fence,
            "quiesce": hub.quiesce,
            "stats": self._stats,
        }
        return await waiting[do](**given)

    async def _hello(self, client: _Client, host: str) -> dict[str, Any]:
        if client.stream.speaker not in (None, host):
            raise LiveError(f"host {client.stream.speaker} says that it is {host}")
        if host in self._hub.stats()["fenced"]:
            raise LiveError(f"host {host} is fenced")
        client.host = host
        return {}

    async def _fence(self, host: str) -> dict[str, Any]:
        shut_out = self._hub.fence(host)
        try:
            await shut_out
        finally:
            self._relay.fence(host)
            for client in list(self._clients):
                if client.host == host:
                    self._lost(client)
        return {}

    def _admit(self, host: str) -> None:
        self._hub.admit(host)
        self._relay.admit(host)

    def _gateway(self, way: str = "both", **given: Any) -> None:
        lines = {"in": [self._hub.inward], "out": [self._hub.outward]}
        for line in lines.get(way, [self._hub.inward, self._hub.outward]):
            _set(line, given)

    def _link(self, host: str | None = None, **given: Any) -> None:
        ways = self._relay.directions
        if host is not None and host not in ways:
            raise LiveError(f"link: there is no host {host!r}; there are {', '.join(ways)}")
        for way in ways.values() if host is None else [ways[host]]:
            _set(way, given)
            way.flow()

    async def _stats(self) -> dict[str, Any]:
        self._hub.flush()
        return {HUB: self._hub.stats(), LINK: self._relay.stats(), "door": self._door}


def _set(way: Line | Direction, given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name == "cut":
            way.cut(value)
        else:
            setattr(way, name, value)


# --------------------------------------------------------------------------------------------
# The client's end


class Control:
    """A client of the control socket, for the runner and the agents."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: Callable[[], None]
    ) -> None:
        self._writer = writer
        self._lost = lost
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._is_closing = False
        self._task = asyncio.get_running_loop().create_task(self._read(reader))

    @classmethod
    async def connect(
        cls,
        address: Address,
        limit_s: float = 10.0,
        host: str | None = None,
        lost: Callable[[], None] = lambda: None,
    ) -> Control:
        """Connect as soon as the network process is ready, that is, has passt.

        host is for a host's agent, which loses the connection when its host is fenced.  lost()
        is called once if the connection ends by itself.
        """
        sock = await connected(address, limit_s, "the network process")
        control = cls(*await asyncio.open_connection(sock=sock, limit=_LINE_BYTES), lost)
        if host is not None:
            try:
                await control.ask("hello", limit_s, host=host)
            except BaseException:
                await control.close()
                raise
        return control

    async def ask(self, do: str, limit_s: float, /, **arguments: Any) -> dict[str, Any]:
        """One request; `LiveError` where it is refused or not answered in time."""
        if self._task.done():
            raise LiveError(f"network: {do}: the connection has ended")
        number = next(self._ids)
        answer = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._writer.write(json.dumps({"id": number, "do": do, **arguments}).encode() + b"\n")
            async with asyncio.timeout(limit_s):
                result: dict[str, Any] = await answer
        except TimeoutError:
            raise LiveError(f"network: {do} was not answered within {limit_s:g} s") from None
        finally:
            del self._waiting[number]
        if not result.pop("ok"):
            raise LiveError(f"network: {do}: {result['why']}")
        return result

    async def close(self) -> None:
        self._is_closing = True
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                message = json.loads(line)
                answer = self._waiting.get(message.pop("id"))
                if answer is not None and not answer.done():
                    answer.set_result(message)
        except (OSError, ValueError):
            pass
        finally:
            with contextlib.suppress(RuntimeError):  # the loop may be closed
                self._writer.close()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_result({"ok": False, "why": "the connection has ended"})
            if not self._is_closing:
                self._lost()
