"""What is in an Ethernet frame, as far as a comparison of two guests needs to know.

`parse` names the connection of a frame and says where its transport begins and ends.  The end is
the end of the IP datagram, never that of the frame: Ethernet padding belongs to nobody.  A frame
is not parsed, and `parse` says None, when it is no IP, when a header is cut short or contradicts
the length, or when it is IPv6 neighbour discovery, which is about the link and not about clients.

A connection is one direction between two ends, so its key has protocol, addresses, ports and VLAN
tags in the order of the frame.  IPv4 TCP without tags, the usual case, has the twelve bytes of
addresses and ports as they are in the frame, which a fast path can cut out by itself.

Sources: RFC 791, 792, 768, 9293, 8200, 4443, 4861; IEEE 802.1Q.  Nothing here raises.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import NamedTuple

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16

#: Names of protocols for people.
NAMES = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMP6: "icmpv6", 33: "dccp", 132: "sctp"}
NAMES |= {136: "udplite"}

_ETHERNET = 14
_IPV4, _IPV6 = 0x0800, 0x86DD
_TAGS = frozenset((0x8100, 0x88A8, 0x9100))  # 802.1Q, 802.1ad and its forerunner
_TAGS_MAX = 4
_PORTS = frozenset((TCP, UDP, 33, 132, 136))  # begin with two ports: DCCP, SCTP, UDP-Lite too
_L4_LEAST = {TCP: 20, UDP: 8}
_ECHOES = {ICMP: (0, 8), ICMP6: (128, 129)}
_REQUESTS = (8, 128)
_NEIGHBOUR_DISCOVERY = range(133, 138)
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60
_SKIPPED = frozenset((_HOP_BY_HOP, _ROUTING, _DESTINATION))
_EXTENSIONS_MAX = 8

_u16 = Struct("!H").unpack_from
_tcp = Struct("!IIBB").unpack_from


class Fragment(NamedTuple):
    """A piece of a datagram.

    id: of the datagram, with everything that must be the same in all its pieces.
    offset: of this piece, in bytes; more: there is one behind it.
    head: end of the headers that the whole datagram keeps.
    network: where the IP header begins.
    next_at: where the number of the transport protocol goes (IPv6; 0 for IPv4).
    """

    id: bytes
    offset: int
    more: bool
    head: int
    network: int
    next_at: int


class Packet(NamedTuple):
    """One IP datagram in a frame: ``frame[at:end]`` is what is behind the IP header."""

    key: bytes
    protocol: int
    at: int
    end: int
    fragment: Fragment | None = None


def parse(frame: bytes) -> Packet | None:
    """The datagram in a frame, or None where there is none to compare."""
    size = len(frame)
    if size < _ETHERNET:
        return None
    (kind,) = _u16(frame, 12)
    at = _ETHERNET
    tags = b""
    while kind in _TAGS:
        if at + 4 > size or len(tags) == 4 * _TAGS_MAX:
            return None
        # the priority bits may differ from frame to frame, the VLAN may not
        tags += frame[at - 2 : at] + bytes((frame[at] & 0x0F, frame[at + 1]))
        (kind,) = _u16(frame, at + 2)
        at += 4
    if kind == _IPV4:
        return _ipv4(frame, at, tags)
    if kind == _IPV6:
        return _ipv6(frame, at, tags)
    return None


def _ipv4(frame: bytes, at: int, tags: bytes) -> Packet | None:
    size = len(frame) - at
    if size < 20 or frame[at] >> 4 != 4:
        return None
    header = (frame[at] & 15) * 4
    (total,) = _u16(frame, at + 2)
    if not 20 <= header <= total <= size:
        return None
    (field,) = _u16(frame, at + 6)
    protocol = frame[at + 9]
    addresses = frame[at + 12 : at + 20]
    transport, end = at + header, at + total
    if field & 0x3FFF:
        same = b"4" + tags + frame[at + 4 : at + 6] + bytes((protocol,)) + addresses
        offset = (field & 0x1FFF) * 8
        fragment = Fragment(same, offset, bool(field & 0x2000), transport, at, 0)
        return Packet(same, protocol, transport, end, fragment)
    return _transport(frame, protocol, addresses, transport, end, tags)


def _ipv6(frame: bytes, at: int, tags: bytes) -> Packet | None:
    size = len(frame) - at
    if size < 40 or frame[at] >> 4 != 6:
        return None
    end = at + 40 + _u16(frame, at + 4)[0]
    if end > len(frame):
        return None
    addresses = frame[at + 8 : at + 40]
    next_at, protocol = at + 6, frame[at + 6]
    transport = at + 40
    for _ in range(_EXTENSIONS_MAX):
        if protocol in _SKIPPED:
            if transport + 8 > end:
                return None
            next_at, protocol = transport, frame[transport]
            transport += 8 * (frame[transport + 1] + 1)
            if transport > end:
                return None
        elif protocol == _FRAGMENT:
            if transport + 8 > end:
                return None
            (field,) = _u16(frame, transport + 2)
            protocol = frame[transport]
            if field & 0xFFF9:
                same = b"6" + tags + frame[transport + 4 : transport + 8] + addresses
                offset, more = field & 0xFFF8, bool(field & 1)
                fragment = Fragment(same, offset, more, transport, at, next_at)
                return Packet(same, protocol, transport + 8, end, fragment)
            next_at = transport  # a whole datagram that only says that it could be one
            transport += 8
        else:
            return _transport(frame, protocol, addresses, transport, end, tags)
    return None


def _transport(
    frame: bytes, protocol: int, addresses: bytes, at: int, end: int, tags: bytes
) -> Packet | None:
    size = end - at
    if size < _L4_LEAST.get(protocol, 0):
        return None
    if protocol == TCP:
        if not 20 <= (frame[at + 12] >> 4) * 4 <= size:
            return None
        if len(addresses) == 8 and not tags:
            return Packet(addresses + frame[at : at + 4], TCP, at, end)
    which = b""
    if protocol in _PORTS:
        which = frame[at : at + 4] if size >= 4 else b""
    elif protocol in _ECHOES and size:
        if protocol == ICMP6 and frame[at] in _NEIGHBOUR_DISCOVERY:
            return None
        if frame[at] in _ECHOES[protocol] and size >= 8:  # two pings are two connections
            which = frame[at : at + 1] + frame[at + 4 : at + 6]
    # An address' length before it and a port's behind it: no two connections have one key.
    key = bytes((len(addresses), protocol, len(which))) + addresses + which + tags
    return Packet(key, protocol, at, end)


def tcp_header(frame: bytes, at: int) -> tuple[int, int, int, int]:
    """Sequence, acknowledgement, flags and first payload byte of a parsed TCP segment."""
    sequence, acknowledged, offset, flags = _tcp(frame, at + 4)
    return sequence, acknowledged, flags, at + (offset >> 4) * 4


def describe(key: bytes) -> str:
    """A connection for people, such as ``tcp 10.0.0.2:80 > 10.0.0.1:40312``."""
    if len(key) == 12:
        key = bytes((8, TCP, 4)) + key
    if len(key) < 3 or key[0] not in (8, 32):
        return key.hex()
    width, protocol, more = key[0] // 2, key[1], key[2]
    rest = key[3:]
    source, target = _address(rest[:width]), _address(rest[width : 2 * width])
    which = rest[2 * width : 2 * width + more]
    tags = rest[2 * width + more :]
    name = NAMES.get(protocol, f"protocol {protocol}")
    if len(which) == 4:
        source += f":{_u16(which, 0)[0]}"
        target += f":{_u16(which, 2)[0]}"
    elif len(which) == 3:
        name += f" echo {'request' if which[0] in _REQUESTS else 'reply'} {_u16(which, 1)[0]}"
    vlans = "".join(f" vlan {_u16(tags, i + 2)[0]}" for i in range(0, len(tags), 4))
    return f"{name} {source} > {target}{vlans}"


def _address(octets: bytes) -> str:
    return str(IPv4Address(octets)) if len(octets) == 4 else f"[{IPv6Address(octets)}]"
