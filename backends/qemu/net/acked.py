"""What clients have acknowledged, so that a guest that takes over does not say it again.

Only plain IPv4 TCP without options in the IP header, which is what Linux guests make; of all else
nothing is known, and it is sent.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

_IPV4 = b"\x08\x00"
_PLAIN = 0x45  # version 4, a header of five words
_TCP = 6
_SYN_FIN_RST = 0x07
_ACK = 0x10
_MOST = 4096  # connections
_HALF = 1 << 31


class Acked:
    """The newest segment of each connection, as clients sent it."""

    def __init__(self) -> None:
        self._newest: dict[bytes, bytes] = {}

    def see(self, frames: Iterable[bytes]) -> None:
        """Frames from clients."""
        newest = self._newest
        for frame in frames:
            if frame[12:14] == _IPV4 and frame[14] == _PLAIN and frame[23] == _TCP:
                newest[frame[26:38]] = frame
        if len(newest) > _MOST:  # the oldest connections, by when they began
            for key in list(newest)[: len(newest) - _MOST]:
                del newest[key]

    def beyond(self, frames: Iterable[bytes]) -> list[bytes]:
        """A guest's frames without the data segments that were acknowledged whole."""
        return [frame for frame in frames if not self._has(frame)]

    def _has(self, frame: bytes) -> bool:
        if len(frame) < 54 or frame[12:14] != _IPV4 or frame[14] != _PLAIN or frame[23] != _TCP:
            return False
        if frame[47] & _SYN_FIN_RST:
            return False
        # addresses and ports the other way round
        key = frame[30:34] + frame[26:30] + frame[36:38] + frame[34:36]
        newest = self._newest.get(key)
        if newest is None or len(newest) < 54 or not newest[47] & _ACK:
            return False
        size = struct.unpack_from(">H", frame, 16)[0] - 20 - (frame[46] >> 4) * 4
        if size <= 0:
            return False
        end = struct.unpack_from(">I", frame, 38)[0] + size
        acked = struct.unpack_from(">I", newest, 42)[0]
        return bool((acked - end) % (1 << 32) < _HALF)
