"""What a 64-bit ELF file says about itself: the libraries and the loader that it needs, and which
modules a kernel module needs. Only reading, only little endian, only what an image needs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB = 1, 5


def is_elf(data: bytes) -> bool:
    """Whether this is a 64-bit little-endian ELF file."""
    return data[:6] == b"\x7fELF\x02\x01"


def needed(data: bytes) -> tuple[str, ...]:
    """Return the libraries that the file asks for, its loader first, in its own order.

    A static program or what is no ELF file needs none. Raises ValueError for a damaged file.
    """
    if not is_elf(data):
        return ()
    try:
        return tuple(_needed(data))
    except (struct.error, IndexError) as error:
        raise ValueError(f"damaged ELF file: {error}") from error


def _needed(data: bytes) -> Iterator[str]:
    segments = list(_segments(data))
    for kind, offset, _, size in segments:
        if kind == _PT_INTERP:
            yield _text(data, offset, size).rpartition("/")[2]
    for kind, offset, _, size in segments:
        if kind != _PT_DYNAMIC:
            continue
        tags = [struct.unpack_from("<qQ", data, at) for at in range(offset, offset + size, 16)]
        strings = [_in_file(segments, value) for tag, value in tags if tag == _DT_STRTAB]
        for tag, value in tags:
            if tag == _DT_NEEDED:
                yield _text(data, strings[0] + value)


def _segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield kind, place in the file, address and size of each segment."""
    (table,) = struct.unpack_from("<Q", data, 32)
    entry_bytes, count = struct.unpack_from("<HH", data, 54)
    for i in range(count):
        kind, _, offset, address, _, size = struct.unpack_from(
            "<IIQQQQ", data, table + i * entry_bytes
        )
        yield kind, offset, address, size


def _in_file(segments: list[tuple[int, int, int, int]], address: int) -> int:
    for kind, offset, start, size in segments:
        if kind == _PT_LOAD and start <= address < start + size:
            return offset + address - start
    raise IndexError(f"no segment holds address {address:#x}")


def _text(data: bytes, start: int, size: int | None = None) -> str:
    end = data.index(b"\0", start, None if size is None else start + size)
    return data[start:end].decode()


def module_depends(data: bytes) -> tuple[str, ...]:
    """Return the modules that a kernel module needs loaded first (its ``depends=`` note)."""
    note = b"\0depends="
    at = data.find(note)
    if at < 0:
        return ()
    start = at + len(note)
    names = data[start : data.index(b"\0", start)].decode()
    return tuple(name for name in names.split(",") if name)
