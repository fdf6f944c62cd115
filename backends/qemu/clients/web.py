"""Client of a web server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from backends.qemu.clients.base import Protocol
from backends.qemu.clients.wire import Failed, Wire
from backends.qemu.guest.services import SERVICES

_BODILESS = (204, 304)


class Http(Protocol):
    """GET of a path: status 200 and a whole body, which is counted.

    A server may close a kept connection between two requests: that is no failure.
    """

    ports: ClassVar[Mapping[str, int]] = {
        name: service.port for name, service in SERVICES.items() if service.web
    }

    async def connect(self) -> None:
        if self.options.keep_alive:
            await super().connect()

    def trouble(self) -> Failed | None:
        trouble = super().trouble()
        return None if trouble is not None and trouble.kind == "closed" else trouble

    async def request(self, client: int, number: int) -> None:
        if self.wire is None or self.wire.broken:
            self.tally.reopened += self.wire is not None
            await super().connect()
        wire = self.wire
        assert wire is not None
        wire.write(self._question())
        status, fields = head(await wire.until(b"\r\n\r\n"))
        kept = self.options.keep_alive and fields.get("connection", "") != "close"
        if status not in _BODILESS:
            kept = await self._body(wire, fields) and kept
        self._answered_ns = wire.heard_ns
        if not kept and self.trouble() is None:
            self.close()
        if status != 200:
            raise Failed("wrong", f"GET {self.options.path}: status {status}")

    @property
    def answered_ns(self) -> int:
        return self._answered_ns

    def _question(self) -> bytes:
        connection = "keep-alive" if self.options.keep_alive else "close"
        lines = (
            f"GET {self.options.path} HTTP/1.1",
            f"Host: {self.setting.host}:{self.setting.port}",
            f"Connection: {connection}",
        )
        return "\r\n".join((*lines, "", "")).encode()

    async def _body(self, wire: Wire, fields: Mapping[str, str]) -> bool:
        """Read the body; whether the connection is good for another request."""
        if fields.get("transfer-encoding", "identity") != "identity":
            while size_bytes := int((await wire.until(b"\r\n")).partition(b";")[0], 16):
                await self._read(wire, size_bytes)
                if await wire.until(b"\r\n"):
                    raise ValueError(f"a chunk is longer than {size_bytes} bytes")
            while await wire.until(b"\r\n"):
                pass  # trailers
            return True
        if "content-length" in fields:
            await self._read(wire, int(fields["content-length"]))
            return True
        count = await wire.rest()
        self.tally.received_bytes += count
        return False

    async def _read(self, wire: Wire, missing_bytes: int) -> None:
        while missing_bytes > 0:
            piece = await wire.some(missing_bytes)
            missing_bytes -= len(piece)
            self.tally.received_bytes += len(piece)


def head(text: bytes) -> tuple[int, dict[str, str]]:
    """(status, header fields in lower case) of an answer; ValueError if it is none."""
    first, *lines = text.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"{first[:60]!r}")
    fields = {name.strip().lower(): value.strip().lower() for name, _, value in _split(lines)}
    if version == "HTTP/1.0":  # there, a connection is closed unless both sides say otherwise
        fields.setdefault("connection", "close")
    return int(rest[:3]), fields


def _split(lines: list[str]) -> list[tuple[str, str, str]]:
    return [line.partition(":") for line in lines]
