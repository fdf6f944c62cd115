"""The table of protocols: one more client is one more line here."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from backends.qemu.clients.base import Protocol
from backends.qemu.clients.command import Command
from backends.qemu.clients.datagrams import Udp
from backends.qemu.clients.ground import Download, Echo, Store, Work
from backends.qemu.clients.stores import Memcached, Redis
from backends.qemu.clients.web import Http
from backends.qemu.errors import LiveError

#: by client.kind
PROTOCOLS: Mapping[str, type[Protocol]] = {
    "http": Http,
    "redis": Redis,
    "memcached": Memcached,
    "echo": Echo,
    "udp": Udp,
    "download": Download,
    "work": Work,
    "store": Store,
    "command": Command,
}


def default_port(kind: str, services: Collection[str] = ()) -> int:
    """The guest's port that a client of this kind talks to.

    services: what runs in the guest; none if it is a guest of the user's own.  `LiveError` if no
    service there speaks the protocol, or if there is no telling.
    """
    ports = PROTOCOLS[kind].ports
    if not ports:
        raise LiveError(f"client.guest_port: kind {kind} has no port of its own; give the guest's")
    for name, port in ports.items():
        if name in services or not services:
            return port
    raise LiveError(
        f"client.kind: {kind} is spoken by {' or '.join(ports)}, and none of them runs in the"
        f" guest ({', '.join(services)}); add one to guest.services or give client.guest_port"
    )
