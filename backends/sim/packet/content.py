"""What requests and responses say, and how a client knows that it was said right.

A response begins with who asked what, and is otherwise bytes that look random and are the same for
whoever makes them, but for one field: what differs between two guests that have parted, such as a
time or an identifier.  The field says whose it is, with a checksum, so a response that is half one
guest's and half the other's is recognised.
"""

from __future__ import annotations

from functools import cache
from hashlib import shake_256
from struct import Struct
from zlib import crc32

_HEAD = Struct(">III")  # client, request, size
_FIELD = Struct(">II")  # mark, checksum of whose response it is
_DATAGRAM = Struct(">IHH")  # request, which of how many
HEAD_BYTES = _HEAD.size
DATAGRAM_HEAD_BYTES = _DATAGRAM.size
#: the smallest response: its head and the field
LEAST_BYTES = HEAD_BYTES + _FIELD.size
_PATTERN_BYTES = 1 << 18
_STEP = 40_503  # odd: neighbours begin far from each other


@cache
def _pattern() -> bytes:
    return shake_256(b"colosim").digest(_PATTERN_BYTES)


def _filler(client: int, request: int, size: int) -> bytes:
    at = (client * 7919 + request) * _STEP % _PATTERN_BYTES
    pattern = _pattern()
    if at + size <= _PATTERN_BYTES:
        return pattern[at : at + size]
    return (pattern * (2 + size // _PATTERN_BYTES))[at : at + size]


def request_of(client: int, request: int, size: int) -> bytes:
    """What a client asks."""
    return _HEAD.pack(client, request, size) + _filler(client, request, size - HEAD_BYTES)


def asked(data: bytes) -> tuple[int, int]:
    """(client, request) of what a client asks."""
    client, request, _ = _HEAD.unpack_from(data)
    return client, request


def response_of(client: int, request: int, size: int, at: int, mark: int) -> bytes:
    """What a guest answers; ``at``: where its field is; ``mark``: 0, or how it has parted."""
    data = _HEAD.pack(client, request, size) + _filler(client, request, size - HEAD_BYTES)
    return data[:at] + _field(client, request, mark) + data[at + _FIELD.size :]


def is_right(data: bytes, client: int, request: int, size: int, at: int) -> bool:
    """Whether this is the whole answer, and one guest's."""
    if len(data) != size:
        return False
    mark, _ = _FIELD.unpack_from(data, at)
    return data == response_of(client, request, size, at, mark)


def field_at(u: float, size: int) -> int:
    """Where the field of a response begins; ``u`` is uniform in [0, 1)."""
    return HEAD_BYTES + int(u * (size - LEAST_BYTES + 1))


def _field(client: int, request: int, mark: int) -> bytes:
    return _FIELD.pack(mark, crc32(_HEAD.pack(client, request, mark)))


def datagrams_of(request: int, data: bytes, count: int) -> list[bytes]:
    """A response as the payloads of ``count`` datagrams."""
    size = -(-len(data) // count)
    return [
        _DATAGRAM.pack(request, i, count) + data[i * size : (i + 1) * size] for i in range(count)
    ]


def datagram(payload: bytes) -> tuple[int, int, int, bytes]:
    """(request, which, of how many, data) of one of `datagrams_of`."""
    return *_DATAGRAM.unpack_from(payload), payload[DATAGRAM_HEAD_BYTES:]
