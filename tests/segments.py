"""TCP segments in Ethernet frames, made and read by plain arithmetic: no code under test here."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
M = 0xFFFFFFFF

CLIENT4, GUEST4 = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
CLIENT6 = bytes.fromhex("fd00000000000000000000000000000a")
GUEST6 = bytes.fromhex("fd00000000000000000000000000000b")
MACS = bytes.fromhex("525400000002525400000001")


def inet_checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo_header(source: bytes, target: bytes, protocol: int, length: int) -> bytes:
    if len(source) == 4:
        return source + target + struct.pack(">BBH", 0, protocol, length)
    return source + target + struct.pack(">IxxxB", length, protocol)


@dataclass(frozen=True)
class Segment:
    """One segment; ``harm`` is added to its TCP checksum (0: the checksum is right)."""

    source: bytes
    target: bytes
    source_port: int
    target_port: int
    seq: int
    ack: int = 0
    flags: int = ACK
    payload: bytes = b""
    options: bytes = b""
    tags: bytes = b""  # VLAN tags, each with its type
    ip_options: bytes = b""  # of IPv4; for IPv6 a whole chain of extension headers (see `chain`)
    chain: tuple[int, ...] = ()  # next-header numbers of those extension headers
    window: int = 64240
    harm: int = 0
    fragment: int = 0  # IPv4 flags and fragment offset
    trailer: bytes = b""

    def tcp(self) -> bytes:
        words = 5 + len(self.options) // 4
        head = struct.pack(
            ">HHIIBBHHH",
            self.source_port,
            self.target_port,
            self.seq,
            self.ack,
            words << 4,
            self.flags,
            self.window,
            0,
            0,
        )
        body = head + self.options + self.payload
        checksum = inet_checksum(pseudo_header(self.source, self.target, 6, len(body)) + body)
        checksum = (checksum + self.harm) & 0xFFFF
        return body[:16] + struct.pack(">H", checksum) + body[18:]

    def ip(self) -> bytes:
        body = self.tcp()
        if len(self.source) == 16:
            first = self.chain[0] if self.chain else 6
            rest = self.ip_options + body
            return (
                struct.pack(">IHBB", 6 << 28, len(rest), first, 64)
                + self.source
                + self.target
                + rest
            )
        words = 5 + len(self.ip_options) // 4
        head = (
            struct.pack(
                ">BBHHHBBH4s4s",
                0x40 | words,
                0,
                4 * words + len(body),
                7,
                self.fragment,
                64,
                6,
                0,
                self.source,
                self.target,
            )
            + self.ip_options
        )
        return head[:10] + struct.pack(">H", inet_checksum(head)) + head[12:] + body

    def frame(self) -> bytes:
        kind = b"\x08\x00" if len(self.source) == 4 else b"\x86\xdd"
        return MACS + self.tags + kind + self.ip() + self.trailer

    @property
    def length(self) -> int:
        """How many sequence numbers it takes."""
        return len(self.payload) + bool(self.flags & SYN) + bool(self.flags & FIN)


def read(frame: bytes, tags: int = 0, extensions: int = 0) -> Segment:
    """The segment in a frame with ``tags`` VLAN tags; ``harm`` is 0 exactly if its sum is right.

    extensions: bytes of IPv6 extension headers.
    """
    ip = 14 + 4 * tags
    if frame[ip] >> 4 == 4:
        at = ip + (frame[ip] & 15) * 4
        end = ip + struct.unpack_from(">H", frame, ip + 2)[0]
        source, target = frame[ip + 12 : ip + 16], frame[ip + 16 : ip + 20]
        ip_options, fragment = frame[ip + 20 : at], struct.unpack_from(">H", frame, ip + 6)[0]
        assert inet_checksum(frame[ip:at]) == 0
    else:
        at = ip + 40 + extensions
        end = ip + 40 + struct.unpack_from(">H", frame, ip + 4)[0]
        source, target = frame[ip + 8 : ip + 24], frame[ip + 24 : ip + 40]
        ip_options, fragment = frame[ip + 40 : at], 0
    body = frame[at:end]
    sport, dport, seq, ack, words, flags, window, _, _ = struct.unpack_from(">HHIIBBHHH", body)
    data = at + (words >> 4) * 4
    return Segment(
        source,
        target,
        sport,
        dport,
        seq,
        ack,
        flags,
        frame[data:end],
        frame[at + 20 : data],
        frame[12 : 12 + 4 * tags],
        ip_options,
        (),
        window,
        inet_checksum(pseudo_header(source, target, 6, len(body)) + body),
        fragment,
        frame[end:],
    )


def sack(*blocks: tuple[int, int], before: bytes = b"\1\1") -> bytes:
    """A SACK option; ``before`` are options in front of it; padded to whole words."""
    edges = b"".join(struct.pack(">II", left & M, right & M) for left, right in blocks)
    options = before + bytes((5, 2 + len(edges))) + edges
    return options + b"\0" * (-len(options) % 4)


@dataclass(frozen=True)
class Ports:
    """A connection's two ends; makes segments of each."""

    client: bytes = CLIENT4
    guest: bytes = GUEST4
    client_port: int = 40000
    guest_port: int = 80
    tags: bytes = b""

    def inward(self, seq: int, ack: int = 0, flags: int = ACK, payload: bytes = b"", **more):
        """The client's segment."""
        return Segment(
            self.client,
            self.guest,
            self.client_port,
            self.guest_port,
            seq & M,
            ack & M,
            flags,
            payload,
            tags=self.tags,
            **more,
        )

    def outward(self, seq: int, ack: int = 0, flags: int = ACK, payload: bytes = b"", **more):
        """The guest's segment."""
        return Segment(
            self.guest,
            self.client,
            self.guest_port,
            self.client_port,
            seq & M,
            ack & M,
            flags,
            payload,
            tags=self.tags,
            **more,
        )


def changed(segment: Segment, **fields) -> Segment:
    return replace(segment, **fields)
