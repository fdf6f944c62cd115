"""A capture file of Ethernet frames, with times in nanoseconds."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable
from pathlib import Path

from backends.qemu.errors import LiveError

_MAGIC_NS = 0xA1B23C4D
_ETHERNET = 1
_SNAP_BYTES = 1 << 18
_RECORD = struct.Struct("=IIII")
_BUFFER_BYTES = 1 << 18


class Capture:
    """Writes frames until the file has its largest size or cannot be written any more."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        try:
            self._file = path.open("wb", buffering=_BUFFER_BYTES)
        except OSError as error:
            raise LiveError(f"{path}: cannot capture frames here: {error.strerror}") from None
        self._left_bytes = limit_bytes
        self._file.write(struct.pack("=IHHiIII", _MAGIC_NS, 2, 4, 0, 0, _SNAP_BYTES, _ETHERNET))
        self.frames = 0
        self.left_out = 0
        self.why: str | None = None  # it is not complete

    def see(self, frames: Iterable[bytes]) -> None:
        """Frames that pass now."""
        seconds, ns = divmod(time.time_ns(), 1_000_000_000)
        parts: list[bytes] = []
        for frame in frames:
            self._left_bytes -= _RECORD.size + len(frame)
            if self.why is not None or self._left_bytes < 0:
                self.why = self.why or "the file has its largest size"
                self.left_out += 1
                continue
            parts += (_RECORD.pack(seconds, ns, len(frame), len(frame)), frame)
        self.frames += len(parts) // 2
        self._try(lambda: self._file.write(b"".join(parts)))

    def flush(self) -> None:
        self._try(self._file.flush)

    def close(self) -> None:
        self._try(self._file.close)

    def _try(self, do: object) -> None:
        assert callable(do)
        try:
            do()
        except OSError as error:
            self.why = f"it cannot be written: {error.strerror}"
