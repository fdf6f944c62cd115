"""Random draws addressed by (seed, replication, purpose, key, index).

A draw is found by its address, never by the order of asking, so two policies with one seed meet
the same draws: request ``j`` of client ``c`` takes ``streams.exponential("service", c).at(j)``
whatever happened before. Variates are standard (mean 1, [0, 1), or N(0, 1)); the caller scales
them, so scenarios with different parameters share random numbers too.

Whoever needs a stream's variates from the first on, in blocks, takes them with ``fill``: the same
variates, not kept.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from colosim.model.seeding import generators

_FIRST_BLOCK = 64
_LARGEST_BLOCK = 16_384
_WORD = 2**32

_Sampler = Callable[[np.random.Generator, NDArray[np.float64]], None]


def _exponential(generator: np.random.Generator, out: NDArray[np.float64]) -> None:
    generator.standard_exponential(out=out)


def _uniform(generator: np.random.Generator, out: NDArray[np.float64]) -> None:
    generator.random(out=out)
    # Zero (probability 2^-53) has no normal quantile; keep the interval open.
    np.maximum(out, 2.0**-54, out=out)


def _normal(generator: np.random.Generator, out: NDArray[np.float64]) -> None:
    generator.standard_normal(out=out)


class Draws:
    """An endless sequence of variates with random access; ``at(i)`` costs about a list index."""

    __slots__ = ("_filled", "_generator", "_sampler", "_values")

    def __init__(self, generator: np.random.Generator, sampler: _Sampler) -> None:
        self._generator = generator
        self._sampler = sampler
        self._values = array("d")  # a list of numbers takes four times as much
        self._filled = False

    def at(self, i: int) -> float:
        """Return variate ``i`` (counted from 0). Raises IndexError if ``i`` is negative."""
        if i < 0:
            raise IndexError(f"draw {i}: draws are counted from 0")
        try:
            return self._values[i]
        except IndexError:
            self._extend(i)
            return self._values[i]

    def fill(self, out: NDArray[np.float64]) -> None:
        """Write the variates that follow those of the last call into ``out``, the first ones first.

        ``out`` is contiguous.  ValueError if `at` was asked before, and from `at` afterwards: a
        stream is read in one of the two ways.
        """
        if self._values:
            raise ValueError("these draws are read one by one; they cannot be taken in blocks too")
        self._filled = True
        self._sampler(self._generator, out)

    def _extend(self, i: int) -> None:
        if self._filled:
            raise ValueError("these draws are taken in blocks; they cannot be read one by one too")
        # A generator yields the same sequence whatever the block sizes, so they are free to grow.
        values = self._values
        while len(values) <= i:
            count = min(max(len(values), _FIRST_BLOCK), _LARGEST_BLOCK)
            block = np.empty(count)
            self._sampler(self._generator, block)
            values.frombytes(block.tobytes())


class Streams:
    """All random draws of one replication; of several VMs in it each has its own (0: the first).

    ``seed``: 0 <= seed < 2**64. ``replication`` and every ``key``: 0 <= x < 2**32, one 32-bit word
    each, so that no two addresses give numpy's SeedSequence the same words.
    A purpose belongs to one distribution: asking for another one raises ValueError, because the
    two would share their random bits. So does a purpose whose checksum is already taken.
    """

    def __init__(self, seed: int, replication: int, vm: int = 0) -> None:
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed is {seed}; it must be from 0 to 2**64 - 1")
        if not 0 <= replication < _WORD:
            raise ValueError(f"replication is {replication}; it must be from 0 to 2**32 - 1")
        if not 0 <= vm < _WORD:
            raise ValueError(f"vm is {vm}; it must be from 0 to 2**32 - 1")
        self._vm = (vm,) if vm else ()
        self.seed = seed
        self.replication = replication
        self._draws: dict[tuple[str, int], Draws] = {}
        self._expected: dict[str, list[np.random.PCG64]] = {}  # by purpose; keys from 0 on
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

    def expect(self, purpose: str, count: int) -> None:
        """Keys 0 to count - 1 will be asked for: their generators are seeded together."""
        address = (self.replication, crc32(purpose.encode()))
        self._expected[purpose] = generators(self.seed, address, count, self._vm)

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
        expected = self._expected.get(purpose, ())
        if key < len(expected):
            bits = expected[key]
        else:
            address = (self.replication, checksum, key, *self._vm)
            bits = np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=address))
        draws = Draws(np.random.Generator(bits), sampler)
        self._draws[purpose, key] = draws
        return draws
