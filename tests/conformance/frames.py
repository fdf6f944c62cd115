"""Ethernet frames from their fields, and frames in words."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

ICMP, TCP, UDP, GRE, DCCP, ESP, AH, SCTP, UDPLITE = 1, 6, 17, 47, 33, 50, 51, 132, 136
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
_NAMES = {ICMP: "icmp", TCP: "tcp", UDP: "udp"}
_KINDS = {b"\x08\x06": "arp", b"\x86\xdd": "ipv6", b"\x81\x00": "802.1Q"}
MACS = bytes.fromhex("525400000002525400000001")
_U32 = 0xFFFFFFFF


class Flow(NamedTuple):
    """From where to where; the addresses' last bytes and the ports."""

    source: int
    target: int
    from_port: int
    to_port: int


@dataclass(frozen=True, slots=True)
class Ip:
    """What an IP header has beside addresses; ``tag`` goes before the Ethernet type."""

    ident: int = 0
    ttl: int = 64
    tos: int = 0
    fragment: int = 0  #: flags and offset
    options: bytes = b""
    tag: bytes = b""
    macs: bytes = MACS


PLAIN = Ip()


def ethernet(kind: bytes, body: bytes, macs: bytes = MACS) -> bytes:
    return macs + kind + body


def ip(protocol: int, flow: Flow, body: bytes, ip: Ip = PLAIN) -> bytes:
    words = 5 + len(ip.options) // 4
    header = struct.pack(
        ">BBHHHBBHBBBBBBBB",
        *(0x40 | words, ip.tos, 4 * words + len(body) & 0xFFFF, ip.ident, ip.fragment),
        *(ip.ttl, protocol, 0, 10, 0, 0, flow.source, 10, 0, 0, flow.target),
    )
    return ip.macs + ip.tag + b"\x08\x00" + header + ip.options + body


def tcp(
    flow: Flow,
    seq: int,
    ack: int,
    payload: bytes = b"",
    flags: int = ACK,
    options: bytes = b"",
    window: int = 1000,
    words: int | None = None,
    ip_header: Ip = PLAIN,
) -> bytes:
    """``words``: what the header says of its own length, if not the truth."""
    offset = 5 + len(options) // 4 if words is None else words
    header = struct.pack(
        ">HHIIBBHHH",
        *(flow.from_port, flow.to_port, seq & _U32, ack & _U32),
        *(offset << 4, flags, window, 0, 0),
    )
    return ip(TCP, flow, header + options + payload, ip_header)


def udp(flow: Flow, payload: bytes, checksum: int = 0, ip_header: Ip = PLAIN) -> bytes:
    header = struct.pack(">HHHH", flow.from_port, flow.to_port, 8 + len(payload) & 0xFFFF, checksum)
    return ip(UDP, flow, header + payload, ip_header)


def icmp(flow: Flow, payload: bytes, ip_header: Ip = PLAIN) -> bytes:
    return ip(ICMP, flow, b"\0\0\0\0" + payload, ip_header)


def padded(frame: bytes, filler: bytes = bytes(60)) -> bytes:
    """As a NIC does it: at least 60 bytes."""
    return frame + filler[len(frame) : 60]


def vnet(frame: bytes, header: bytes, said: int | None = None) -> bytes:
    """With a vnet header in front; ``said``: of its length, if not the truth."""
    return (len(header) if said is None else said).to_bytes(4) + header + frame


# --------------------------------------------------------------------------------------------
# In words


def words(frame: bytes, is_vnet: bool = False) -> str:
    """One line; never raises."""
    if is_vnet:
        size = int.from_bytes(frame[:4])
        return f"vnet {size}: {words(frame[4 + size :])}"
    text = f"{len(frame)} bytes: "
    at = 14
    while frame[at - 2 : at] == b"\x88\xa8":
        text += "802.1ad "
        at += 4
    kind = frame[at - 2 : at]
    if kind != b"\x08\x00" or len(frame) < at + 24:
        return text + _KINDS.get(kind, "") + " " + _short(frame)
    protocol, transport = frame[at + 9], at + 4 * (frame[at] & 15)
    source, target = (".".join(map(str, frame[i : i + 4])) for i in (at + 12, at + 16))
    text += f"{_NAMES.get(protocol, f'ip-{protocol}')} {source} > {target}"
    if frame[at + 6] & 0x3F or frame[at + 7]:
        text += " fragment"
    if protocol == TCP and len(frame) >= transport + 20:
        from_port, to_port, seq, ack, offset, flags = struct.unpack_from(
            ">HHIIBB", frame, transport
        )
        payload = frame[transport + 4 * (offset >> 4) :]
        names = "".join(name for i, name in enumerate("FSRPAU") if flags >> i & 1)
        return (
            f"{text} {from_port}>{to_port} {names or '-'} seq {seq}..{seq + len(payload) & _U32} "
            f"ack {ack} payload {_short(payload)}"
        )
    return f"{text} {_short(frame[transport:])}"


def _short(data: bytes) -> str:
    if len(data) <= 16:
        return f"[{len(data)}] {data.hex()}"
    return f"[{len(data)}] {data[:8].hex()}..{data[-4:].hex()}"
