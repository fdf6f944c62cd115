"""The network process: ``python -m backends.qemu.net CONFIG.json``.

It ends, and removes its sockets, at SIGTERM or SIGINT and when its standard input ends, which
whoever started it holds open.  Exit status: 0 then, 1 when passt is lost, 2 when it cannot start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from backends.qemu import heap
from backends.qemu.door import Door, Service
from backends.qemu.errors import LiveError
from backends.qemu.net.config import CONTROL, HUB, LINK, NetConfig
from backends.qemu.net.control import Desk
from backends.qemu.net.hub import Hub
from backends.qemu.net.relay import Relay
from backends.qemu.net.sockets import Stream

_FLUSH_S = 0.5


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Loop(asyncio.SelectorEventLoop):
    """select() waits to the microsecond where epoll and poll round up to the millisecond.

    Delays and pacing need that; there are few descriptors.
    """

    def __init__(self) -> None:
        super().__init__(selectors.SelectSelector())


@contextlib.contextmanager
def _ends(stop: asyncio.Future[str | None]) -> Iterator[None]:
    """Settle ``stop`` when this process is to end."""
    loop = asyncio.get_running_loop()

    def end() -> None:
        if not stop.done():
            stop.set_result(None)

    def input_ready() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            end()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    loop.add_reader(0, input_ready)
    try:
        yield
    finally:
        loop.remove_reader(0)


async def serve(config: NetConfig) -> str | None:
    """Run until it is to end; the reason if something was lost."""
    stop: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def lost(why: str) -> None:
        if not stop.done():
            stop.set_result(why)

    with _ends(stop), contextlib.ExitStack() as open_:
        hub = Hub(config, lost, _say)
        open_.callback(hub.close)
        relay = Relay(config, _say)
        open_.callback(relay.close)
        if config.has_gateway:
            connecting = asyncio.create_task(hub.connect_gateway())
            stop.add_done_callback(lambda _: connecting.cancel())
            with contextlib.suppress(asyncio.CancelledError):
                await connecting
        accept = {HUB: hub.accept, LINK: relay.accept}
        door = await _door(config, accept)
        if door is not None:
            open_.callback(door.close)
        desk = Desk(config.path(CONTROL), hub, relay, None if door is None else door.at)
        open_.callback(desk.close)  # its socket says: ready; nobody knows the door before
        accept[CONTROL] = desk.accept
        while not stop.done():
            await asyncio.wait([stop], timeout=_FLUSH_S)
            hub.flush()
    return stop.result()


async def _door(config: NetConfig, accept: Mapping[str, Callable[[Stream], None]]) -> Door | None:
    """Where hosts of other machines come in."""
    if config.listen is None:
        return None
    keys = {host: bytes.fromhex(key) for host, key in config.keys}

    def service(name: str) -> Service:
        return lambda sock, host: accept[name](Stream(sock, host))

    services = {name: service(name) for name in (HUB, LINK, CONTROL)}
    return await Door.opened(config.listen, config.port, keys, services, _say)


def main(argv: list[str]) -> int:
    """Run with the configuration file ``argv[1]``."""
    if len(argv) != 2:
        _say("usage: python -m backends.qemu.net CONFIG.json")
        return 2
    try:
        config = NetConfig.read(Path(argv[1]))
        heap.settle()
        with asyncio.Runner(loop_factory=_Loop) as runner:
            why = runner.run(serve(config))
    except LiveError as error:
        _say(f"network: {error}")
        return 2
    if why is not None:
        _say(f"network: {why}")
    return 0 if why is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
