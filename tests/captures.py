"""Captures for tests, written from the specifications alone: no code of colosim, no library."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

GUEST, CLIENT = "52:54:00:12:34:56", "52:55:0a:00:00:01"
SERVER_IP, CLIENT_IP = "10.0.0.2", "10.0.0.1"
SYN, ACK, PSH, FIN, RST = 2, 16, 8, 1, 4
MS, S = 1_000_000, 1_000_000_000
START_NS = 1_700_000_000 * S


# -- frames --------------------------------------------------------------------------------------


def ethernet(body: bytes, source: str = GUEST, target: str = CLIENT, kind: int = 0x0800) -> bytes:
    macs = bytes.fromhex((target + source).replace(":", ""))
    return macs + kind.to_bytes(2, "big") + body


def ipv4(protocol: int, body: bytes, source: str, target: str, ident: int = 0) -> bytes:
    addresses = bytes(int(part) for part in f"{source}.{target}".split("."))
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), ident, 0x4000, 64, protocol, 0)
    return head + addresses + body


def tcp(
    seq: int,
    ack: int,
    flags: int,
    data: bytes = b"",
    port: int = 40000,
    *,
    from_client: bool = False,
    service: int = 80,
    ident: int = 0,
) -> bytes:
    ports = (port, service) if from_client else (service, port)
    head = struct.pack("!HHIIBBHHH", *ports, seq % 2**32, ack % 2**32, 0x50, flags, 64240, 0, 0)
    if from_client:
        return ethernet(ipv4(6, head + data, CLIENT_IP, SERVER_IP, ident), CLIENT, GUEST)
    return ethernet(ipv4(6, head + data, SERVER_IP, CLIENT_IP, ident))


def udp(data: bytes, port: int = 5000, ident: int = 0, checksum: int = 0) -> bytes:
    head = struct.pack("!HHHH", 53, port, 8 + len(data), checksum)
    return ethernet(ipv4(17, head + data, SERVER_IP, CLIENT_IP, ident))


# -- files ---------------------------------------------------------------------------------------

Timed = tuple[int, bytes]  # ns since 1970, frame


def pcap(
    frames: list[Timed],
    *,
    order: str = "<",
    nano: bool = True,
    link: int = 1,
    snap: int = 65536,
    modified: bool = False,
) -> bytes:
    """The format of libpcap; ``modified`` is Kuznetzov's, with eight more bytes a record."""
    magic = 0xA1B2CD34 if modified else 0xA1B23C4D if nano else 0xA1B2C3D4
    unit_ns = 1 if nano and not modified else 1000
    out = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snap, link)]
    for time_ns, frame in frames:
        seconds, rest_ns = divmod(time_ns, S)
        kept = frame[:snap]
        out.append(struct.pack(order + "IIII", seconds, rest_ns // unit_ns, len(kept), len(frame)))
        if modified:
            out.append(struct.pack(order + "IHBB", 2, 0x0800, 0, 0))
        out.append(kept)
    return b"".join(out)


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def option(order: str, code: int, data: bytes) -> bytes:
    return struct.pack(order + "HH", code, len(data)) + data + bytes(-len(data) % 4)


def section(order: str) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(
    order: str, link: int = 1, resolution: int | None = None, offset_s: int | None = None
) -> bytes:
    """``resolution``: the octet of if_tsresol."""
    body = struct.pack(order + "HHI", link, 0, 0)
    if resolution is not None:
        body += option(order, 9, bytes([resolution]))
    if offset_s is not None:
        body += option(order, 14, struct.pack(order + "q", offset_s))
    return block(order, 1, body + option(order, 0, b""))


def packet(order: str, ticks: int, frame: bytes, which: int = 0, *, old: bool = False) -> bytes:
    """Enhanced packet block with a comment, or the obsolete packet block."""
    sizes = struct.pack(order + "IIII", ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
    data = frame + bytes(-len(frame) % 4)
    if old:
        return block(order, 2, struct.pack(order + "HH", which, 0xFFFF) + sizes + data)
    more = option(order, 1, b"comment \xff") + option(order, 0, b"")
    return block(order, 6, struct.pack(order + "I", which) + sizes + data + more)


def pcapng(frames: list[Timed], *, order: str = "<") -> bytes:
    """One section, one interface, nanoseconds."""
    blocks = [section(order), interface(order, resolution=9)]
    return b"".join(blocks + [packet(order, time_ns, frame) for time_ns, frame in frames])


# -- two guests ----------------------------------------------------------------------------------


@dataclass
class Pair:
    """What two guests send, in ms from the start; ``lag_ms``: how far the secondary is behind."""

    lag_ms: float = 2.0
    primary: list[Timed] = field(default_factory=list)
    secondary: list[Timed] = field(default_factory=list)

    def ours(self, at_ms: float, *frames: bytes) -> None:
        self.primary += [(START_NS + round(at_ms * MS), frame) for frame in frames]

    def theirs(self, at_ms: float, *frames: bytes) -> None:
        self.secondary += [(START_NS + round(at_ms * MS), frame) for frame in frames]

    def both(self, at_ms: float, *frames: bytes) -> None:
        self.ours(at_ms, *frames)
        self.theirs(at_ms + self.lag_ms, *frames)

    def write(self, directory: Path) -> tuple[Path, Path]:
        """In order of time."""
        paths = directory / "p.pcap", directory / "s.pcap"
        for path, frames in zip(paths, (self.primary, self.secondary), strict=True):
            path.write_bytes(pcap(sorted(frames, key=lambda each: each[0])))
        return paths
