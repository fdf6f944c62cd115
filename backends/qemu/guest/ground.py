"""The host's view of `ground`, the guest's program: its options, what it must answer, and its
memory as it lies in a RAM file. The line protocol is described in ground.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

LINE_PORT = 5000
STREAM_PORT = 5001
ECHO_PORT = 7
PAGE_BYTES = 4096
HEADER_MAGIC = b"COLOSIMGROUND1\0\0"
_PAGE_TAG = 0x45474150444E5247
_STEP = 0x9E3779B97F4A7C15
_LETTERS = np.frombuffer(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", dtype=np.uint8
)
_U64 = 2**64 - 1

Pattern = Literal["uniform", "zipf", "sequential"]


@dataclass(frozen=True, slots=True)
class GroundOptions:
    """What `ground` is started with; as text, the value of ``colosim.ground=``."""

    pages: int = 2_000
    rate: float = 5_000.0
    pattern: Pattern = "uniform"
    exponent: float = 1.0
    seed: int = 1
    fill_bytes: int = PAGE_BYTES - 64
    vm: str = ""

    def __str__(self) -> str:
        words = [
            f"pages={self.pages}",
            f"rate={self.rate!r}",
            f"pattern={self.pattern}",
            f"exponent={self.exponent!r}",
            f"seed={self.seed}",
            f"fill={self.fill_bytes}",
        ]
        return ",".join(words + [f"vm={self.vm}"] * bool(self.vm))


class GroundHeader(NamedTuple):
    """The header page: where it lies in the RAM file and what it says."""

    offset: int
    generation: int
    touches: int
    pages: int
    seed: int
    fill_bytes: int
    whole: bool
    """Whether it was not caught while being written."""


def mix(x: int) -> int:
    """One step of splitmix64, which `ground` draws everything from."""
    x = (x + _STEP) & _U64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _U64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _U64
    return x ^ (x >> 31)


def _mixed(start: int, count: int) -> NDArray[np.uint64]:
    """Return mix(start), mix(start + 1), ..."""
    x = np.arange(count, dtype=np.uint64) + np.uint64(start) + np.uint64(_STEP)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def stream(size_bytes: int, start: int = 0) -> bytes:
    """Return ``size_bytes`` of what port 5001 sends after "get N", from byte ``start`` on."""
    first = start // 8
    words = _mixed(first, (start + size_bytes + 7) // 8 - first)
    return words.astype("<u8").tobytes()[start - first * 8 :][:size_bytes]


def work_answer(identity: str, size_bytes: int) -> str:
    """Return what ``work bytes=SIZE id=IDENTITY`` answers, unless it diverges."""
    words = _mixed(_hash(identity), (size_bytes + 9) // 10)
    shifts = np.arange(0, 60, 6, dtype=np.uint64)
    digits = (words[:, None] >> shifts[None, :]) & np.uint64(63)
    return bytes(_LETTERS[digits.reshape(-1)[:size_bytes]]).decode()


def diverges(identity: str, chance: float) -> bool:
    """Whether the answer to ``work diverge=CHANCE id=IDENTITY`` differs between two guests."""
    return (mix(_hash(identity) ^ _STEP) >> 11) * 2.0**-53 < chance


def _hash(text: str) -> int:
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & _U64
    return mix(value)


def find_headers(ram: bytes | memoryview | NDArray[np.uint8]) -> Iterator[GroundHeader]:
    """Yield the header pages in a guest's RAM: one, if `ground` runs."""
    pages = np.frombuffer(ram, dtype="<u8").reshape(-1, PAGE_BYTES // 8)
    low, high = struct.unpack("<QQ", HEADER_MAGIC)
    for i in np.flatnonzero((pages[:, 0] == low) & (pages[:, 1] == high)):
        generation, touches, count, seed, fill_bytes, check = (int(x) for x in pages[i, 2:8])
        expected = mix(touches ^ mix(count ^ mix(seed ^ mix(generation))))
        yield GroundHeader(
            int(i) * PAGE_BYTES, generation, touches, count, seed, fill_bytes, check == expected
        )


def find_page(ram: bytes | memoryview | NDArray[np.uint8], index: int) -> int | None:
    """Return where page ``index`` of the working set lies in the RAM, in bytes."""
    pages = np.frombuffer(ram, dtype="<u8").reshape(-1, PAGE_BYTES // 8)
    found = np.flatnonzero(
        (pages[:, 0] == np.uint64(_PAGE_TAG)) & (pages[:, 1] == np.uint64(index))
    )
    return int(found[0]) * PAGE_BYTES if len(found) else None
