"""What a scenario says of machines and of the clients' network, made sure that it can be had."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path

from backends.nodes import PRIMARY, SECONDARY
from backends.qemu.accelerators import kvm_works
from backends.qemu.address import free_ports
from backends.qemu.asking import probe
from backends.qemu.clients import default_port
from backends.qemu.errors import LiveError
from backends.qemu.launch import Qemu
from backends.qemu.net.config import GATEWAY_IP, GUEST_IP
from backends.qemu.net.gateway import DEFAULT_TAP, check_tap
from backends.qemu.places import Remote, Say, asked
from backends.qemu.secret import read_secret
from colosim.scenario import Scenario


class Sites:
    """The machines of a scenario's hosts; `LiveError` where its secret cannot be used."""

    def __init__(self, scenario: Scenario) -> None:
        hosts, guest = scenario.hosts, scenario.guest
        self._at = {PRIMARY: hosts.primary, SECONDARY: hosts.secondary}
        self._qemu = {PRIMARY: guest.qemu, SECONDARY: guest.secondary_qemu or guest.qemu}
        self._accelerator = guest.accelerator
        self.remote: Remote | None = None
        if hosts.listen is not None and hosts.secret_file is not None:
            secret = read_secret(Path(hosts.secret_file).expanduser())
            self.remote = Remote(hosts.listen, secret, hosts.port or 0)

    def at(self, node: str) -> str | None:
        """Where the agent of a node's machine is; None: this machine."""
        return self._at[node]

    async def qemus(self, nodes: Sequence[str]) -> dict[str, Qemu]:
        """The QEMU of each node, as it is on its machine."""
        return {node: await self._probed(node) for node in nodes}

    async def _probed(self, node: str) -> Qemu:
        at, path = self._at[node], self._qemu[node]
        if at is None:
            return await probe(path)
        async with asked(at, self._secret()) as place:
            return await place.probe(path)

    async def accelerator(self, qemus: dict[str, Qemu], say: Say) -> str:
        """The one for both: ``auto`` is kvm only where it runs code on every machine.

        A kvm that was asked for is taken; where it does not run code, that is said.
        """
        if self._accelerator == "tcg":
            return "tcg"
        works = await asyncio.gather(*(self._kvm_works(node, qemus[node]) for node in qemus))
        if self._accelerator == "auto":
            return "kvm" if all(works) else "tcg"
        idle = [node for node, works_there in zip(qemus, works, strict=True) if not works_there]
        for where in dict.fromkeys(self._at[node] or "this machine" for node in idle):
            say(f"guest.accelerator: kvm runs no code on {where}, or more slowly than tcg")
        return "kvm"

    async def _kvm_works(self, node: str, qemu: Qemu) -> bool:
        at = self._at[node]
        if at is None:
            return Path("/dev/kvm").exists() and await kvm_works(qemu)
        async with asked(at, self._secret()) as place:
            return await place.kvm_works(qemu)

    def _secret(self) -> bytes:
        assert self.remote is not None  # the scenario was checked
        return self.remote.secret


def forward_of(scenario: Scenario) -> tuple[int, int]:
    """(port that clients use, port of the guest); the same by a TAP, which has the guest's own."""
    client = scenario.client
    guest_port = client.guest_port or default_port(client.kind, scenario.guest.services)
    if client.network == "tap":
        return guest_port, guest_port
    if client.host_port is None:
        [port] = free_ports()
        return port, guest_port
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.1", client.host_port))
        except OSError as error:
            raise LiveError(
                f"client.host_port: {client.host_port}: {error.strerror}; give a free one"
            ) from None
    return client.host_port, guest_port


def tap_of(scenario: Scenario) -> str | None:
    """The TAP that clients use, if it can be had."""
    client = scenario.client
    if client.network != "tap" or client.kind == "none":
        return None
    name = client.tap or DEFAULT_TAP
    check_tap(name, GATEWAY_IP, GUEST_IP)
    return name
