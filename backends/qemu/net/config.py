"""What the network process is started with, and the names of its sockets."""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.qemu.errors import LiveError

MIB = 1 << 20
CAPTURE_LIMIT_BYTES = 1024 * MIB

GATEWAY = "gw"
HUB = "hub"
CONTROL = "net-control"
LINK = "link"
GUEST_IP = "10.0.0.2"
GATEWAY_IP = "10.0.0.1"


@dataclass(frozen=True, slots=True)
class NetConfig:
    """The network process's configuration file.

    directory holds the sockets.  has_gateway is False for a run without clients: then nothing
    is connected at ``gw``.  tap: the name of a TAP, instead of passt.  listen, port: where hosts of
    other machines come in, with their keys (host, in hex).  The limits bound memory: what does not
    fit is dropped and counted (frames) or waits at its sender (link).
    """

    directory: Path
    hosts: tuple[str, ...] = ("a", "b")
    has_gateway: bool = True
    tap: str | None = None
    listen: str | None = None
    port: int = 0
    keys: tuple[tuple[str, str], ...] = dataclasses.field(default=(), repr=False)
    guest_mac: str = "52:54:00:12:34:56"
    guest_ip: str = GUEST_IP
    gateway_ip: str = GATEWAY_IP
    seed: int = 0
    capture: Path | None = None
    capture_limit_bytes: int = CAPTURE_LIMIT_BYTES
    connect_limit_s: float = 20.0
    hold_limit_bytes: int = 16 * MIB  # client frames while a quiesce is in force
    backlog_limit_bytes: int = 16 * MIB  # toward a reader that does not read
    queue_limit_bytes: int = MIB // 4  # frames that wait for the gateway's bandwidth
    link_window_bytes: int = 4 * MIB  # under way on the link, a connection and direction

    def path(self, name: str) -> Path:
        """The socket of this name."""
        return self.directory / name

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), default=str, indent=1)

    @staticmethod
    def read(path: Path) -> NetConfig:
        """From a file; `LiveError` says which field is wrong."""
        try:
            given = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise LiveError(f"{path}: no configuration of the network process: {error}") from None
        if not isinstance(given, dict):
            raise LiveError(f"{path}: a JSON object would be right, not {type(given).__name__}")
        try:
            return _from(given)
        except LiveError as error:
            raise LiveError(f"{path}: {error}") from None


_READERS: dict[Any, Any] = {
    Path: Path,
    Path | None: lambda value: None if value is None else Path(value),
    str | None: lambda value: value,
    tuple[str, ...]: tuple,
    tuple[tuple[str, str], ...]: lambda value: tuple((host, key) for host, key in value),
}
_JSON_TYPES: dict[Any, tuple[type, ...]] = {
    Path: (str,),
    Path | None: (str, type(None)),
    str | None: (str, type(None)),
    tuple[str, ...]: (list,),
    tuple[tuple[str, str], ...]: (list,),
    str: (str,),
    bool: (bool,),
    int: (int,),
    float: (int, float),
}


def _from(given: dict[str, Any]) -> NetConfig:
    kinds = typing.get_type_hints(NetConfig)
    if unknown := sorted(set(given) - set(kinds)):
        raise LiveError(f"there is no field {unknown[0]}; there are {', '.join(kinds)}")
    if "directory" not in given:
        raise LiveError("directory is missing")
    values = {}
    for name, value in given.items():
        kind = kinds[name]
        if not isinstance(value, _JSON_TYPES[kind]) or (kind is not bool and value is True):
            raise LiveError(f"{name}: {value!r} is not of the right type")
        values[name] = _READERS.get(kind, kind)(value)
    return NetConfig(**values)
