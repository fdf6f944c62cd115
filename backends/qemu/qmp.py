"""QMP with time limits and errors of one line, on top of the library ``qemu.qmp``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError
from qemu.qmp.message import Message

from backends.qemu.errors import GuestGone, LiveError

# It tells of every lost connection on its own account; the run says it once, where it matters.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)

_RETRY_S = 0.02


class QmpLost(GuestGone):
    """The connection ended: QEMU has, or hung so long that it was given up."""


class _Client(QMPClient):
    """The library writes every message out again, indented, for a log that nobody reads.

    That was a fifth of a round trip, and a checkpoint has three of them in the guest's pause.
    """

    def _cb_inbound(self, msg: Message) -> Message:
        return msg

    def _cb_outbound(self, msg: Message) -> Message:
        return msg


class Qmp:
    """One QEMU's monitor.

    name is what errors call it.  lost(why) is called once when the connection ends by itself;
    heard(event) for every event, in order and in the loop: what QEMU told before it answered was
    heard before `execute` returns.  asks(command, arguments) is called before each command.
    """

    def __init__(
        self,
        name: str,
        heard: Callable[[Message], None] = lambda event: None,
        lost: Callable[[str], None] = lambda why: None,
        asks: Callable[[str, Mapping[str, Any] | None], None] = lambda command, arguments: None,
    ) -> None:
        self.name = name
        self._heard = heard
        self._lost = lost
        self._asks = asks
        self._client = _Client(name)
        # asked for every event as it comes: so it is handled at once, and not kept
        self._client.events.event_filter = self._dispatch
        self._watch: asyncio.Task[None] | None = None
        self._waiters: list[tuple[Callable[[Message], bool], asyncio.Future[Message]]] = []
        self._closing = False

    async def connect(self, path: Path, limit_s: float = 10.0) -> None:
        """Connect as soon as the socket is there."""
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    try:
                        await self._client.connect(str(path))
                        break
                    except ConnectError:
                        await asyncio.sleep(_RETRY_S)
        except TimeoutError:
            raise LiveError(f"{self.name}: its monitor did not answer in {limit_s:g} s") from None
        self._watch = asyncio.create_task(self._until_lost())

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        limit_s: float = 10.0,
        oob: bool = False,
    ) -> Any:
        """Run one command; `LiveError` names it where QEMU refuses, is silent or gone."""
        given = None if arguments is None else dict(arguments)
        self._asks(command, given)
        try:
            async with asyncio.timeout(limit_s):
                return await self._client.execute(command, given, oob=oob)
        except ExecuteError as error:
            raise LiveError(f"{self.name}: {command}: {error}") from None
        except TimeoutError:
            raise LiveError(f"{self.name}: {command} did not end in {limit_s:g} s") from None
        except (QMPError, OSError) as error:
            raise QmpLost(f"{self.name}: {command}: {error}") from None

    async def turns(self) -> None:
        """Let QEMU's main loop go round: all that was ready by now is dealt with.

        An answer may be sent before its own turn is over, not before the turn that came before.
        """
        for _ in range(2):
            await self.execute("query-status")

    def expect(self, wanted: Callable[[Message], bool]) -> asyncio.Future[Message]:
        """The next event of this kind; ask before doing what causes it."""
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiters.append((wanted, future))
        return future

    async def close(self) -> None:
        """Let go; QEMU goes on."""
        self._closing = True
        if self._watch is not None:
            self._watch.cancel()
        with contextlib.suppress(QMPError, OSError, TimeoutError):
            async with asyncio.timeout(1):
                await self._client.disconnect()

    def _dispatch(self, event: Message) -> bool:
        try:
            self._heard(event)
        except Exception as error:  # the library would take it for a fault of the connection
            loop = asyncio.get_running_loop()
            loop.call_exception_handler({"message": "event of a monitor", "exception": error})
        for wanted, future in list(self._waiters):
            if future.done() or wanted(event):
                self._waiters.remove((wanted, future))
                if not future.done():
                    future.set_result(event)
        return False

    async def _until_lost(self) -> None:
        why = "its monitor closed"
        while self._client.runstate.name == "RUNNING":
            await self._client.runstate_changed()
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._client.disconnect()
        for _, future in self._waiters:
            if not future.done():
                future.set_exception(QmpLost(f"{self.name}: {why}"))
                future.exception()  # it may be that nobody waits any more
        self._waiters.clear()
        if not self._closing:
            self._lost(why)


def event_is(name: str, **data: Any) -> Callable[[Message], bool]:
    """An event of this name with these values among its data."""

    def matches(event: Message) -> bool:
        given = event.get("data") or {}
        assert isinstance(given, dict)
        return event["event"] == name and all(given.get(k) == v for k, v in data.items())

    return matches
