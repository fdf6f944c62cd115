"""passt: ordinary host sockets as Ethernet frames, in a process that outlives either guest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from backends.qemu.address import check_path
from backends.qemu.errors import LiveError

GATEWAY_MAC = "52:55:0a:00:00:01"


def passt_argv(
    path: Path,
    forwards: Sequence[tuple[int, int]],
    *,
    guest_ip: str = "10.0.0.2",
    gateway_ip: str = "10.0.0.1",
    address: str = "127.0.0.1",
) -> list[str]:
    """The command line of passt with its stream socket at ``path``.

    forwards are pairs (port of this host, port of the guest), for TCP and UDP, at ``address`` only.
    The directory must be writable for the user who runs passt.
    """
    program = shutil.which("passt")
    if program is None:
        raise LiveError("passt is not on PATH; apt-get install passt (Debian 12 has it)")
    check_path(path)
    for number in (number for pair in forwards for number in pair):
        if not 0 < number < 65536:
            raise LiveError(f"port {number}: a port is between 1 and 65535")
    hosts = [host for host, _ in forwards]
    if len(set(hosts)) < len(hosts):
        raise LiveError(f"ports {hosts}: two forwards have the same port of this host")
    argv = [program, "--foreground", "--quiet", "--stderr", "--socket", str(path)]
    argv += ["--address", guest_ip, "--netmask", "255.255.255.0", "--gateway", gateway_ip]
    argv += ["--mac-addr", GATEWAY_MAC, "--mtu", "1500", "--ipv4-only"]
    argv += ["--no-dhcp", "--no-ndp", "--no-ra", "--no-dhcpv6"]
    ports = ",".join(f"{host}:{guest}" for host, guest in forwards)
    where = f"{address}/{ports}" if ports else "none"
    argv += ["--tcp-ports", where, "--udp-ports", where]
    if os.geteuid() == 0:  # it would become nobody, who may not write to the directory
        argv += ["--runas", "0:0"]
    return argv
