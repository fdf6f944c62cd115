"""The generators of many streams at once: seeded as by numpy's `SeedSequence`, all keys together.

A stream of its own for every client costs little but its seed: numpy works out one in some 20 us,
most of it the calls.  Here the same words are worked out for all keys together, as arrays.  The
algorithm is that of O'Neill's ``randutils`` (2015) as numpy has it (NEP 19 and the documentation of
`numpy.random.SeedSequence`); a test holds both equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import PCG64
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

Words = NDArray[np.uint32]

_POOL = 4
_BITS = 32
_MASK = 0xFFFF_FFFF
_SHIFT = np.uint32(16)
_HASH, _HASH_TIMES = 0x43B0D7E5, 0x931E8875
_STATE, _STATE_TIMES = 0x8B51F9DD, 0x58F38DED
_LEFT, _RIGHT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)


class _Hash:
    """Each word is hashed with a constant of its own, which follows from the one before."""

    def __init__(self, constant: int, times: int) -> None:
        self._constant, self._times = constant, times

    def __call__(self, words: Words) -> Words:
        words = words ^ np.uint32(self._constant)
        self._constant = self._constant * self._times & _MASK
        words *= np.uint32(self._constant)
        words ^= words >> _SHIFT
        return words


class _Seed(ISeedSequence):
    """What a `PCG64` asks its seed for, there already: four words of 64 bits."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        assert (n_words, dtype) == (self._words.size, self._words.dtype)
        return self._words


def generators(seed: int, address: Sequence[int], count: int, rest: Sequence[int]) -> list[PCG64]:
    """``PCG64(SeedSequence(seed, spawn_key=(*address, key, *rest)))`` for keys 0 to count - 1.

    seed below 2**64; address and rest: words of 32 bits.
    """
    own = [seed & _MASK, seed >> _BITS, 0, 0]  # filled up, for keys follow
    keys = np.arange(count, dtype=np.uint32)
    entropy = [
        *(np.full(count, word, np.uint32) for word in (*own, *address)),
        keys,
        *(np.full(count, word, np.uint32) for word in rest),
    ]
    hashed = _Hash(_HASH, _HASH_TIMES)
    pool = [hashed(words) for words in entropy[:_POOL]]
    for source in range(_POOL):
        for to in range(_POOL):
            if source != to:
                pool[to] = _mixed(pool[to], hashed(pool[source]))
    for words in entropy[_POOL:]:
        for to in range(_POOL):
            pool[to] = _mixed(pool[to], hashed(words))
    hashed = _Hash(_STATE, _STATE_TIMES)
    halves = [hashed(pool[i % _POOL]).astype(np.uint64) for i in range(2 * _POOL)]
    low, high = np.array(halves[::2]), np.array(halves[1::2])
    words = np.ascontiguousarray((low | high << np.uint64(_BITS)).T)
    # numpy's stubs know no seed but its own; its documentation does
    return [PCG64(_Seed(each)) for each in words]  # type: ignore[arg-type]


def _mixed(left: Words, right: Words) -> Words:
    mixed = left * _LEFT - right * _RIGHT
    mixed ^= mixed >> _SHIFT
    return mixed
