"""Sections of a scenario that only a live run looks at: the real guest, its clients, machines."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from colosim.section import Count, Duration, Quantity, Rate, Ratio, Section, Size, number, option
from colosim.units import SIZE


class Ground(Section):
    """The ground-truth program: touches pages of its own and can verify them."""

    pages: Annotated[int, number("pages", 1, 2**24)] = option(2_000, "pages of its working set")
    touches_per_s: Rate = option("5000 /s", "pages written while the guest runs")
    pattern: Literal["uniform", "zipf", "sequential"] = option("uniform", "which pages")
    exponent: Annotated[float, number("exponent", high=10.0)] = option(1.0, "of zipf")


class Volume(Section):
    """A disk that the guest writes to and that is replicated with it (virtio, serial "colosim").

    The primary's writes go to its own disk and, by NBD, to the secondary's; the secondary's guest
    sees them from the next checkpoint on.
    """

    size_bytes: Annotated[int, Quantity(SIZE, minimum=8 << 20)] = option(
        "64 MiB", "of a new, empty ext4; the guest image mounts it at /disk"
    )
    image: str | None = option(None, "instead, a raw image of your own, of which a copy is used")
    transport: Literal["unix", "tcp"] = option(
        "unix", "how the primary's writes reach the secondary: a unix socket, or TCP on loopback"
    )
    directory: str | None = option(
        None,
        "where disks and overlays are while the run lasts; {host} stands for the host; "
        "default with the guests' memory",
    )


class Guest(Section):
    """What a live run boots, twice; its RAM is ``memory.guest_memory``."""

    engine: Literal["wire", "native"] = option(
        "wire",
        "wire: our primary speaks COLO to a genuine secondary; native: QEMU on both sides runs it",
    )
    qemu: str = option("qemu-system-x86_64", "program of the primary, by name or path")
    secondary_qemu: str | None = option(
        None, "program of the secondary, if of another version; then name a versioned machine"
    )
    machine: str = option("pc", "machine type, versioned or not")
    accelerator: Literal["auto", "kvm", "tcg"] = option(
        "auto", "kvm where it boots the guest within its limit, else tcg"
    )
    services: Annotated[
        tuple[Literal["ground", "redis", "nginx", "lighttpd", "memcached", "httpd"], ...],
        Field(strict=False),
    ] = option(("ground",), "what runs in the guest image that colosim builds")
    ground: Ground = option(Ground(), "options of the service ground")
    kernel: str | None = option(None, "a kernel of your own, instead of colosim's guest image")
    initrd: str | None = option(None, "an initramfs of your own, for your kernel")
    disk: str | None = option(
        None, "a disk image of your own, raw or qcow2, which both guests get read-only"
    )
    volume: Volume | None = option(None, "a replicated disk; default none")
    append: str = option("console=ttyS0", "command line of your kernel")
    ready: str = option("colosim: ready", "text on the serial console that means: has booted")
    boot_limit_ns: Duration = option("120 s", "longest wait for that text")
    arguments: Annotated[tuple[str, ...], Field(strict=False)] = option(
        (), "further arguments for both QEMUs; {host} stands for the host: a, b, then c ..."
    )


class Client(Section):
    """Who talks to a live guest, at the load of ``[workload]``."""

    kind: Literal[
        "none", "http", "redis", "memcached", "echo", "udp", "download", "work", "store", "command"
    ] = option("none", "built-in client, or a command of your own")
    guest_port: Annotated[int, number("port", 1, 65535)] | None = option(
        None, "port in the guest; default that of the service"
    )
    host_port: Annotated[int, number("port", 1, 65535)] | None = option(
        None, "port on 127.0.0.1 that leads there, with passt; default a free one"
    )
    network: Literal["passt", "tap"] = option(
        "passt", "how clients reach the guest: by passt, or, as root, by its own address at a TAP"
    )
    tap: str | None = option(
        None, "name of that TAP: one that is there, or one to make; default one to make"
    )
    command: str | None = option(
        None, "for kind command: run by sh, with the port in the environment as COLOSIM_PORT"
    )
    path: str = option("/", "for http: what to get")
    keep_alive: bool = option(True, "for http: one connection for many requests")
    size_bytes: Size = option("1 KiB", "bytes of a value, an echo, an answer or a download")
    set_ratio: Ratio = option(0.5, "for redis and memcached: part of the requests that write")
    keys: Count = option(10_000, "for redis and memcached: how many different keys")
    timeout_ns: Duration = option("10 s", "longest wait for one answer")


def endpoint(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, ValueError; an IPv6 address is in brackets."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([^\s:/\[\]]+)):(\d{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError("no address and port; 10.0.0.2:7070 or [fd00::2]:7070 would be right")
    return match[1] or match[2], int(match[3])


def _endpoint(text: str) -> str:
    endpoint(text)
    return text


Endpoint = Annotated[str, AfterValidator(_endpoint)]


class Hosts(Section):
    """The machines of the two hosts, where it is not this one: each runs ``colosim agent``."""

    primary: Endpoint | None = option(
        None, "address and port of the agent of the primary's machine; default this machine"
    )
    secondary: Endpoint | None = option(
        None, "address and port of the agent of the secondary's machine; default this machine"
    )
    listen: str | None = option(
        None, "address of this machine that those machines connect to, without port"
    )
    port: Annotated[int, number("port", 1, 65534)] | None = option(
        None, "first of the two ports for that; default two free ones"
    )
    secret_file: str | None = option(
        None, "file with the secret that the agents were started with; nobody else may read it"
    )
