"""Quantities with units: text outside ("50 ms", "1 Gbit/s"), one plain number inside.

Inside the program a time is an integer in nanoseconds, a size an integer in bytes, a bandwidth an
integer in bits per second and a rate a float per second; names carry that unit last.  A
`Dimension` reads such text and writes it back so that reading it again gives the same number.

    >>> TIME.parse("50 ms")
    50000000
    >>> TIME.format(1_500_000)
    '1500 us'
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

# Bounded, so that no text can ask for a number of a billion digits.
_QUANTITY = re.compile(
    r"([+-]?(?:\d{1,25}(?:\.\d{0,25})?|\.\d{1,25})(?:[eE][+-]?\d{1,3})?)\s*(\D*)", re.ASCII
)
_LEAST = 0.01  # of a rate as people read it, in any but the smallest unit
_WORDS = re.compile(r"[+-]?(nan|inf|infinity)\b", re.IGNORECASE)


class UnitError(ValueError):
    """A quantity that cannot be read; the text says what is wrong and what would be right."""


@dataclass(frozen=True, eq=False)
class Dimension:
    """One kind of quantity.

    name: what it is, for messages.
    suffix: last part of the Python names that hold it, without the leading underscore.
    units: {unit as written: its size in the inside unit}.
    example: text that would be right.
    whole: inside it is an integer (rounded to the nearest, at most ``limit``), else a float.
    limit: the largest value, in the inside unit.
    """

    name: str
    suffix: str
    units: Mapping[str, Decimal]
    example: str
    whole: bool = True
    limit: int = 2**63 - 1

    def parse(self, text: object) -> int | float:
        """Number in the inside unit of ``text``; `UnitError` unless it is finite and >= 0."""
        right = (
            f'write a number with a unit ({", ".join(self.units)}), for example "{self.example}"'
        )
        if isinstance(text, int | float) and not isinstance(text, bool):
            raise UnitError(f"a {self.name} needs a unit; {right}")
        if not isinstance(text, str):
            raise UnitError(f"not a {self.name}; {right}")
        if _WORDS.match(text.strip()):
            raise UnitError(f"not a finite number; {right}")
        match = _QUANTITY.fullmatch(text.strip())
        if match is None:
            raise UnitError(f"not a {self.name}; {right}")
        number, unit = match.groups()
        if unit not in self.units:
            wrong = f"unknown unit {unit.strip()[:20]!r}" if unit else f"a {self.name} needs a unit"
            raise UnitError(f"{wrong}; {right}")
        value = Decimal(number) * self.units[unit]
        if value < 0:
            raise UnitError(f"a {self.name} must not be negative; {right}")
        if value > self.limit:
            raise UnitError(f"too large; a {self.name} is at most {self.format(self.limit)}")
        return round(value) if self.whole else float(value)

    def format(self, value: int | float) -> str:
        """Text that `parse` reads as exactly ``value``, in the largest unit that fits evenly; of a
        float in the inside unit.  Fingerprints are made of it.
        """
        unit = next(iter(self.units))  # its size is 1
        if not self.whole:
            return f"{float(value)!r} {unit}".replace(".0 ", " ")
        if value:
            fitting = (unit for unit, size in self.units.items() if Decimal(value) % size == 0)
            unit = max(fitting, key=self.units.__getitem__)
        return f"{value // int(self.units[unit])} {unit}"

    def readable(self, value: float, digits: int = 4) -> str:
        """Short text for people: exactly where that has no more than three digits, else with so
        many in the largest unit that it has once.
        """
        if not self.whole:
            return self._readable_float(value, digits)
        exact = self.format(int(value))
        if len(exact.split()[0]) <= 3:
            return exact
        fitting = {unit: float(size) for unit, size in self.units.items() if size <= int(value)}
        unit = max(fitting, key=fitting.__getitem__)
        return f"{value / fitting[unit]:.{digits}g} {unit}"

    def _readable_float(self, value: float, digits: int) -> str:
        small = self._small_units()
        for unit, size in small:
            text = f"{value / float(size):.3g}"
            if len(text) <= 4 and float(Decimal(text) * size) == value:
                return f"{text} {unit}"
        sizes = [(unit, value / float(size)) for unit, size in small]
        unit, number = next((each for each in sizes if each[1] >= _LEAST), sizes[0])
        is_long = number == round(number) and number >= 10**digits
        return f"{number:,.0f} {unit}" if is_long else f"{number:.{digits}g} {unit}"

    def _small_units(self) -> list[tuple[str, Decimal]]:
        """The inside unit and those below it, the largest first."""
        small = [(unit, size) for unit, size in self.units.items() if size <= 1]
        return sorted(small, key=lambda each: each[1], reverse=True)


_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


def _sizes(**units: int) -> dict[str, Decimal]:
    return {unit: Decimal(size) for unit, size in units.items()}


TIME = Dimension(
    "time",
    "ns",
    _sizes(ns=1, us=10**3, ms=10**6, s=10**9, min=60 * 10**9, h=3600 * 10**9),
    "50 ms",
)
SIZE = Dimension(
    "size",
    "bytes",
    _sizes(B=1, kB=10**3, KiB=2**10, MB=10**6, MiB=2**20, GB=10**9, GiB=2**30),
    "16 KiB",
)
BANDWIDTH = Dimension(
    "bandwidth",
    "bps",
    {f"{prefix}bit/s": Decimal(size) for prefix, size in _DECIMAL.items()},
    "1 Gbit/s",
)
RATE = Dimension(
    "rate",
    "per_s",
    {
        "/s": Decimal(1),
        "/ms": Decimal(1000),
        "/min": 1 / Decimal(60),
        "/h": 1 / Decimal(3600),
        "/year": 1 / Decimal(31_557_600),  # of 365.25 days
    },
    "300 /s",
    whole=False,
)

#: every dimension, by the suffix that Python names carry
DIMENSIONS: Mapping[str, Dimension] = {d.suffix: d for d in (TIME, SIZE, BANDWIDTH, RATE)}


def dimension_of(name: str) -> Dimension | None:
    """The dimension that a Python name carries ("service_time_ns" is a time), or None."""
    return next((d for d in DIMENSIONS.values() if name.endswith(f"_{d.suffix}")), None)


def without_unit(name: str) -> str:
    """The name as written in files: "service_time_ns" is "service_time"."""
    dimension = dimension_of(name)
    return name if dimension is None else name.removesuffix(f"_{dimension.suffix}")


def readable(name: str, value: object, digits: int = 4) -> str:
    """What a Python name holds, as short text: ``bandwidth_bps`` of 2.5e9 is "2.5 Gbit/s"."""
    if isinstance(value, str):
        return value
    number = float(value)  # type: ignore[arg-type]
    dimension = dimension_of(name)
    return f"{number:.{digits}g}" if dimension is None else dimension.readable(number, digits)
