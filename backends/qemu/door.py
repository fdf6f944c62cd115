"""A TCP port where processes of other machines come in: they prove who they are, then choose.

There is one in the runner (for the node agents), one in the network process (hub, link, control)
and one in `colosim agent` (for the runner).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping

from backends.qemu.address import endpoint_text, resolved, tuned
from backends.qemu.errors import LiveError
from backends.qemu.secret import Refused, challenge

_PENDING = 32
_BACKLOG = 32

#: gets a connection's socket, and whose it is
Service = Callable[[socket.socket, str], None]


class Door:
    """Made by `opened`.

    keys: those who may come in.  services: what they may want, by name.  say: of who was sent away.
    """

    def __init__(
        self,
        sock: socket.socket,
        keys: Mapping[str, bytes],
        services: Mapping[str, Service],
        say: Callable[[str], None],
    ) -> None:
        self._sock = sock
        self._keys = keys
        self._services = services
        self._say = say
        self._coming: set[asyncio.Task[None]] = set()
        host, port = sock.getsockname()[:2]
        self.at: tuple[str, int] = (host, port)
        asyncio.get_running_loop().add_reader(sock, self._readable)

    @classmethod
    async def opened(
        cls,
        host: str,
        port: int,
        keys: Mapping[str, bytes],
        services: Mapping[str, Service],
        say: Callable[[str], None],
    ) -> Door:
        """Listen there (port 0: a free one); `LiveError` if that cannot be."""
        where = endpoint_text(host, port)
        try:
            family, address = (await resolved(host, port))[0]
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.setblocking(False)
                sock.bind(address)
                sock.listen(_BACKLOG)
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            raise LiveError(
                f"{where}: cannot listen here: {error.strerror}; "
                "give an address of this machine and a free port"
            ) from None
        return cls(sock, keys, services, say)

    def close(self) -> None:
        """Let nobody in any more; connections that were made stay."""
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()
        for task in self._coming:
            task.cancel()

    def _readable(self) -> None:
        try:
            sock, peer = self._sock.accept()
        except OSError:
            return
        if len(self._coming) >= _PENDING:
            sock.close()
            return
        task = asyncio.get_running_loop().create_task(self._welcome(sock, peer[0]))
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    async def _welcome(self, sock: socket.socket, peer: str) -> None:
        try:
            speaker, wanted = await challenge(tuned(sock), self._key)
        except (Refused, OSError) as error:
            sock.close()
            why = str(error) if isinstance(error, Refused) else "it did not say who it is"
            self._say(f"a connection from {peer} was refused: {why}")
        except BaseException:
            sock.close()
            raise
        else:
            self._services[wanted](sock, speaker)

    def _key(self, speaker: str, wanted: str) -> bytes | None:
        return self._keys.get(speaker) if wanted in self._services else None
