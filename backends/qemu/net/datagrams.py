"""What a datagram is known by on both hosts, so that a survivor does not send it a second time.

TCP needs none of this: its clients say what they have (`acked`), and what comes twice does no harm.
"""

from __future__ import annotations

from hashlib import blake2b

MARK_BYTES = 8
_IPV4 = b"\x08\x00"
_IPV6 = b"\x86\xdd"
_TCP, _UDP = 6, 17


def mark(frame: bytes) -> bytes | None:
    """Equal for datagrams that a comparison calls equal; None for TCP and what is not IP."""
    if frame[12:14] == _IPV4 and len(frame) >= 34:
        protocol, ends = frame[23], frame[26:34]
        if protocol == _TCP:  # said at once: these are nearly all, and long
            return None
        header = (frame[14] & 15) * 4
        body = frame[14 + header : 14 + int.from_bytes(frame[16:18], "big")]
    elif frame[12:14] == _IPV6 and len(frame) >= 54:
        protocol, ends = frame[20], frame[22:54]
        body = frame[54 : 54 + int.from_bytes(frame[18:20], "big")]
    else:
        return None
    if protocol == _TCP:
        return None
    if protocol == _UDP:  # its checksum may be left to a device
        body = body[:6] + body[8:]
    return blake2b(body, digest_size=MARK_BYTES, key=ends).digest()


def marks(data: bytes) -> list[bytes]:
    """Marks that were joined."""
    return [data[at : at + MARK_BYTES] for at in range(0, len(data), MARK_BYTES)]
