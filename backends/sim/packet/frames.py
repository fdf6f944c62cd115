"""Ethernet frames of the simulated network: IPv4 with TCP or UDP, headers and checksums complete.

A `Path` is one direction between two ends; it keeps what is the same in all its frames.
Sources: RFC 791, 768, 9293, 1071.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

TCP, UDP = 6, 17
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
KEY = slice(26, 38)  # addresses and ports of a frame

GUEST_MAC = bytes.fromhex("525400000001")
CLIENT_MAC = bytes.fromhex("52550a000001")
GUEST_IP = bytes((10, 0, 0, 2))
_FIRST_CLIENT_IP = 0x0A01_0000
NOBODY_IP = b"\xff\xff\xff\xff"  # broadcast: no client listens
SERVICE_PORT = 80

_IP = Struct(">14sBBHHHBBH8s4s")
_TCP_HEAD = Struct(">IIBBHHH")
_UDP_HEAD = Struct(">HH")
_READ_IP = Struct(">16xH5xB")
_READ_TCP = Struct(">38xIIBB")
_DONT_FRAGMENT = 0x4000
_TTL = 64
_WORD = 0xFFFF


class Arrived(NamedTuple):
    """What a frame says; ``key`` is its addresses and ports in the order of the frame."""

    key: bytes
    protocol: int
    seq: int
    ack: int
    flags: int
    data: bytes


def client_ip(client: int) -> bytes:
    """Every client is a host of its own."""
    return (_FIRST_CLIENT_IP + client & 0xFFFF_FFFF).to_bytes(4)


def client_of(ip: bytes) -> int:
    """The inverse of `client_ip`."""
    return int.from_bytes(ip) - _FIRST_CLIENT_IP & 0xFFFF_FFFF


def turned(key: bytes) -> bytes:
    """The key of the frames in the other direction."""
    return key[4:8] + key[0:4] + key[10:12] + key[8:10]


class Path:
    """Makes the frames from one end to the other; ``key`` are addresses and ports, from, to."""

    __slots__ = ("_addresses", "_ethernet", "_ip_sum", "_ports", "_pseudo_sum", "key")

    def __init__(self, key: bytes, is_outward: bool) -> None:
        """is_outward: from the guest to a client."""
        macs = (CLIENT_MAC, GUEST_MAC) if is_outward else (GUEST_MAC, CLIENT_MAC)
        self.key = key
        self._ethernet = b"".join(macs) + b"\x08\x00"
        self._addresses, self._ports = key[:8], key[8:]
        addresses = int.from_bytes(self._addresses)
        self._ip_sum = addresses + 0x4500 + _DONT_FRAGMENT + (_TTL << 8)
        self._pseudo_sum = addresses + int.from_bytes(self._ports)

    def tcp(
        self, seq: int, ack: int, flags: int, window: int, data: bytes, options: bytes = b""
    ) -> bytes:
        words = 5 + len(options) // 4
        size = 4 * words + len(data)
        kind = words << 12 | flags
        body = options + data if options else data
        total = self._pseudo_sum + TCP + size + seq + ack + kind + window + _sum(body)
        return (
            self._network(TCP, size)
            + _TCP_HEAD.pack(seq, ack, words << 4, flags, window, _checksum(total), 0)
            + body
        )

    def udp(self, data: bytes) -> bytes:
        size = 8 + len(data)
        total = self._pseudo_sum + UDP + 2 * size + _sum(data)
        # zero says that there is none
        return self._network(UDP, size) + _UDP_HEAD.pack(size, _checksum(total) or _WORD) + data

    def _network(self, protocol: int, size: int) -> bytes:
        size += 20
        checksum = _checksum(self._ip_sum + protocol + size)
        return _IP.pack(
            self._ethernet,
            *(0x45, 0, size, 0, _DONT_FRAGMENT, _TTL, protocol, checksum),
            *(self._addresses, self._ports),
        )


def read(frame: bytes) -> Arrived | None:
    """What a frame of this network says; None if a checksum is wrong, as if it never came."""
    size, protocol = _READ_IP.unpack_from(frame)
    transport = frame[34 : 14 + size]
    total = int.from_bytes(frame[26:34]) + protocol + len(transport) + _sum(transport)
    if total % _WORD or int.from_bytes(frame[14:34]) % _WORD:
        return None
    if protocol == UDP:
        return Arrived(frame[KEY], protocol, 0, 0, 0, transport[8:])
    seq, ack, words, flags = _READ_TCP.unpack_from(frame)
    return Arrived(frame[KEY], protocol, seq, ack, flags, transport[(words >> 4) * 4 :])


def _sum(data: bytes) -> int:
    """Congruent, modulo 65535, to the sum of the data's 16-bit words."""
    number = int.from_bytes(data) % _WORD
    return number << 8 if len(data) & 1 else number


def _checksum(total: int) -> int:
    """The one's complement of a one's complement sum that is not all zeros."""
    return _WORD - (total % _WORD or _WORD)
