"""Framing: what goes over the sockets of passt, QEMU and the hub.

passt and QEMU: be32 length, Ethernet frame.  Hub and port: be32 length, u8 kind, payload; the
length counts the kind.  Both are the same outer framing, so one splitter serves both.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from typing import Any

from colosim.protocol.packets import ACK, RST, SYN, TCP, parse, tcp_header

FRAME = 0
MESSAGE = 1
LARGEST_BYTES = 1 << 17  # QEMU's and passt's own limits are a little over 64 KiB
SMALLEST_FRAME_BYTES = 14

_LENGTH = struct.Struct(">I")
_LENGTH_KIND = struct.Struct(">IB")


class FrameError(ValueError):
    """The other side's bytes are not frames."""


class Splitter:
    """Cuts a byte stream that comes in any chunks into what was framed."""

    def __init__(self, largest_bytes: int = LARGEST_BYTES) -> None:
        self._largest_bytes = largest_bytes
        self._rest = b""

    @property
    def rest_bytes(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are complete now; `FrameError` if a length is out of bounds."""
        if self._rest:
            data = self._rest + data
        frames: list[bytes] = []
        at, end = 0, len(data)
        while end - at >= 4:
            (length,) = _LENGTH.unpack_from(data, at)
            if length > self._largest_bytes:
                raise FrameError(f"a frame of {length} bytes; at most {self._largest_bytes}")
            after = at + 4 + length
            if after > end:
                break
            frames.append(data[at + 4 : after])
            at = after
        self._rest = data[at:]
        return frames


def pack(frames: Iterable[bytes]) -> bytes:
    """Frames for passt or QEMU."""
    parts: list[bytes] = []
    for frame in frames:
        parts += (_LENGTH.pack(len(frame)), frame)
    return b"".join(parts)


def pack_for_hub(frames: Iterable[bytes]) -> bytes:
    """Frames between hub and port."""
    parts: list[bytes] = []
    for frame in frames:
        parts += (_LENGTH_KIND.pack(len(frame) + 1, FRAME), frame)
    return b"".join(parts)


def pack_message(message: dict[str, Any]) -> bytes:
    """A message between hub and port."""
    body = json.dumps(message).encode()
    return _LENGTH_KIND.pack(len(body) + 1, MESSAGE) + body


def unpack(body: bytes) -> bytes | dict[str, Any]:
    """What came between hub and port: an Ethernet frame or a message."""
    if body[:1] == b"\0":
        return body[1:]
    if body[:1] != b"\1":
        raise FrameError(f"a frame of kind {body[:1].hex() or 'none'}; 0 or 1 would be right")
    try:
        message = json.loads(body[1:])
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise FrameError("a message that is no JSON object")
    return message


def is_arp_request(frame: bytes) -> bool:
    """Without VLAN tag."""
    return frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\1"


def opens(frame: bytes) -> bool:
    """A TCP SYN that answers none."""
    packet = parse(frame)
    if packet is None or packet.protocol != TCP or packet.fragment is not None:
        return False
    _, _, flags, _ = tcp_header(frame, packet.at)
    return flags & (SYN | RST | ACK) == SYN


def arp_request(mac: str, sender_ip: str, target_ip: str) -> bytes:
    """Who has ``target_ip``, tell ``sender_ip``: passt learns the guest's MAC from it."""
    source = bytes.fromhex(mac.replace(":", ""))
    sender, target = (bytes(map(int, ip.split("."))) for ip in (sender_ip, target_ip))
    ethernet = b"\xff" * 6 + source + b"\x08\x06"
    arp = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + source + sender + bytes(6) + target
    return (ethernet + arp).ljust(60, b"\0")
