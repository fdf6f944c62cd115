"""Ethernet frames for tests, with right checksums.  Written apart from the code under test."""

from __future__ import annotations

import ipaddress
import struct

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16

GUEST, CLIENT = "10.0.0.2", "10.0.0.1"
GUEST6, CLIENT6 = "fd00::2", "fd00::1"
_MACS = bytes.fromhex("52550a000001" + "525400123456")


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(kind: int, payload: bytes, vlans: tuple[int, ...] = (), pad: int = 0) -> bytes:
    tags = b"".join(struct.pack("!HH", 0x8100, vlan) for vlan in vlans)
    return _MACS + tags + struct.pack("!H", kind) + payload + b"\xee" * pad


def ip4(
    protocol: int,
    body: bytes,
    source: str = GUEST,
    target: str = CLIENT,
    ident: int = 0,
    options: bytes = b"",
    ttl: int = 64,
    tos: int = 0,
    field: int = 0x4000,
) -> bytes:
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45 + len(options) // 4,
        tos,
        20 + len(options) + len(body),
        ident,
        field,
        ttl,
        protocol,
        0,
        ipaddress.IPv4Address(source).packed,
        ipaddress.IPv4Address(target).packed,
    )
    header += options
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + body


def ip6(
    protocol: int,
    body: bytes,
    source: str = GUEST6,
    target: str = CLIENT6,
    extensions: tuple[tuple[int, bytes], ...] = (),
) -> bytes:
    """``extensions``: (type, bytes behind the next-header byte), outermost first."""
    kinds = [kind for kind, _ in extensions] + [protocol]
    chain = b"".join(
        bytes((after,)) + data for (_, data), after in zip(extensions, kinds[1:], strict=True)
    )
    return (
        struct.pack("!IHBB", 6 << 28, len(chain) + len(body), kinds[0], 64)
        + ipaddress.IPv6Address(source).packed
        + ipaddress.IPv6Address(target).packed
        + chain
        + body
    )


def pseudo(protocol: int, size: int, source: str, target: str) -> bytes:
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
    return ends + struct.pack("!II", size, protocol)


def tcp_body(
    seq: int,
    payload: bytes = b"",
    ack: int | None = 1000,
    flags: int = ACK,
    sport: int = 80,
    dport: int = 40000,
    window: int = 502,
    options: bytes = b"",
    source: str = GUEST,
    target: str = CLIENT,
) -> bytes:
    if ack is None:
        flags &= ~ACK
    header = struct.pack(
        "!HHIIBBHHH",
        sport,
        dport,
        seq & 0xFFFFFFFF,
        (ack or 0) & 0xFFFFFFFF,
        (20 + len(options)) << 2,
        flags,
        window,
        0,
        0,
    )
    body = header + options + payload
    total = checksum(pseudo(6, len(body), source, target) + body)
    return body[:16] + struct.pack("!H", total) + body[18:]


def tcp(
    seq: int,
    payload: bytes = b"",
    ack: int | None = 1000,
    flags: int = ACK,
    *,
    dport: int = 40000,
    sport: int = 80,
    ident: int = 0,
    window: int = 502,
    options: bytes = b"",
    vlans: tuple[int, ...] = (),
    pad: int = 0,
    six: bool = False,
) -> bytes:
    source, target = (GUEST6, CLIENT6) if six else (GUEST, CLIENT)
    body = tcp_body(seq, payload, ack, flags, sport, dport, window, options, source, target)
    if six:
        return ethernet(0x86DD, ip6(6, body), vlans, pad)
    return ethernet(0x0800, ip4(6, body, ident=ident), vlans, pad)


def udp(
    payload: bytes,
    *,
    dport: int = 5000,
    sport: int = 53,
    ident: int = 0,
    check: int | None = None,
    ttl: int = 64,
    options: bytes = b"",
    vlans: tuple[int, ...] = (),
    pad: int = 0,
    six: bool = False,
) -> bytes:
    source, target = (GUEST6, CLIENT6) if six else (GUEST, CLIENT)
    body = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    if check is None:
        check = checksum(pseudo(17, len(body), source, target) + body) or 0xFFFF
    body = body[:6] + struct.pack("!H", check) + body[8:]
    if six:
        return ethernet(0x86DD, ip6(17, body), vlans, pad)
    return ethernet(0x0800, ip4(17, body, ident=ident, options=options, ttl=ttl), vlans, pad)


def icmp_echo(
    ident: int, sequence: int, payload: bytes = b"ping", *, reply: bool = True, six: bool = False
) -> bytes:
    kind = (129 if reply else 128) if six else (0 if reply else 8)
    body = struct.pack("!BBHHH", kind, 0, 0, ident, sequence) + payload
    total = checksum((pseudo(58, len(body), GUEST6, CLIENT6) if six else b"") + body)
    body = body[:2] + struct.pack("!H", total) + body[4:]
    return ethernet(0x86DD, ip6(58, body)) if six else ethernet(0x0800, ip4(1, body))


def fragments4(frame: bytes, size: int, ident: int) -> list[bytes]:
    """An untagged IPv4 frame without options, cut into pieces of ``size`` bytes."""
    header, body = frame[14:34], frame[34:]
    found = []
    for at in range(0, len(body), size):
        part = body[at : at + size]
        more = 0x2000 if at + size < len(body) else 0
        source = str(ipaddress.IPv4Address(header[12:16]))
        target = str(ipaddress.IPv4Address(header[16:20]))
        whole = ip4(header[9], part, source, target, ident=ident, field=more | at // 8)
        found.append(ethernet(0x0800, whole))
    return found


def fragments6(frame: bytes, size: int, ident: int) -> list[bytes]:
    """An untagged IPv6 frame without extensions, cut into pieces of ``size`` bytes."""
    protocol, body = frame[20], frame[54:]
    found = []
    for at in range(0, len(body), size):
        part = body[at : at + size]
        more = 1 if at + size < len(body) else 0
        extension = b"\0" + struct.pack("!HI", at | more, ident)
        found.append(ethernet(0x86DD, ip6(protocol, part, extensions=((44, extension),))))
    return found
