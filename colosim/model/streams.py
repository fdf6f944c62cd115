"""Random draws addressed by (seed, replication, purpose, key, index).

A draw is found by its address, never by the order of asking, so two policies with one seed meet
the same draws: request ``j`` of client ``c`` takes ``streams.exponential("service", c).at(j)``
whatever happened before. Variates are standard (mean 1, [0, 1), or N(0, 1)); the caller scales
them, so scenarios with different parameters share random numbers too.
"""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

_FIRST_BLOCK = 64
_LARGEST_BLOCK = 16_384
_WORD = 2**32

_Sampler = Callable[[np.random.Generator, int], NDArray[np.float64]]


def _exponential(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
    return generator.standard_exponential(count)


def _uniform(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
    # Zero (probability 2^-53) has no normal quantile; keep the interval open.
    return np.maximum(generator.random(count), 2.0**-54)


def _normal(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
    return generator.standard_normal(count)


class Draws:
    """An endless sequence of variates with random access; ``at(i)`` costs about a list index."""

    __slots__ = ("_generator", "_sampler", "_values")

    def __init__(self, generator: np.random.Generator, sampler: _Sampler) -> None:
        self._generator = generator
        self._sampler = sampler
        self._values: list[float] = []

    def at(self, i: int) -> float:
        """Return variate ``i`` (counted from 0). Raises IndexError if ``i`` is negative."""
        if i < 0:
            raise IndexError(f"draw {i}: draws are counted from 0")
        try:
            return self._values[i]
        except IndexError:
            self._extend(i)
            return self._values[i]

    def _extend(self, i: int) -> None:
        # A generator yields the same sequence whatever the block sizes, so they are free to grow.
        values = self._values
        while len(values) <= i:
            count = min(max(len(values), _FIRST_BLOCK), _LARGEST_BLOCK)
            values.extend(self._sampler(self._generator, count).tolist())


class Streams:
    """All random draws of one replication.

    ``seed``: 0 <= seed < 2**64. ``replication`` and every ``key``: 0 <= x < 2**32, one 32-bit word
    each, so that no two addresses give numpy's SeedSequence the same words.
    A purpose belongs to one distribution: asking for another one raises ValueError, because the
    two would share their random bits. So does a purpose whose checksum is already taken.
    """

    def __init__(self, seed: int, replication: int) -> None:
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed is {seed}; it must be from 0 to 2**64 - 1")
        if not 0 <= replication < _WORD:
            raise ValueError(f"replication is {replication}; it must be from 0 to 2**32 - 1")
        self.seed = seed
        self.replication = replication
        self._draws: dict[tuple[str, int], Draws] = {}
        self._owners: dict[int, tuple[str, _Sampler]] = {}

    def exponential(self, purpose: str, key: int = 0) -> Draws:
        """Exponential variates of mean 1."""
        return self._get(purpose, key, _exponential)

    def uniform(self, purpose: str, key: int = 0) -> Draws:
        """Uniform variates in (0, 1)."""
        return self._get(purpose, key, _uniform)

    def normal(self, purpose: str, key: int = 0) -> Draws:
        """Normal variates of mean 0 and standard deviation 1."""
        return self._get(purpose, key, _normal)

    def _get(self, purpose: str, key: int, sampler: _Sampler) -> Draws:
        draws = self._draws.get((purpose, key))
        if draws is not None and draws._sampler is sampler:
            return draws
        checksum = crc32(purpose.encode())
        owner = self._owners.setdefault(checksum, (purpose, sampler))
        if owner != (purpose, sampler):
            raise ValueError(f"draws for {purpose!r} would share the random bits of {owner[0]!r}")
        if not 0 <= key < _WORD:
            raise ValueError(f"key {key} of {purpose!r}: it must be from 0 to 2**32 - 1")
        sequence = np.random.SeedSequence(self.seed, spawn_key=(self.replication, checksum, key))
        draws = Draws(np.random.Generator(np.random.PCG64(sequence)), sampler)
        self._draws[purpose, key] = draws
        return draws
