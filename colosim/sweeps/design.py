"""Designs: which combinations of the axes' values are points.

Samples are those of scipy.stats.qmc.  Latin hypercube: McKay, Beckman and Conover, Technometrics 21
(1979).  Sobol': Zh. Vych. Mat. 7 (1967), scrambled as by Owen and Matousek, in blocks of a power of
two, without which it loses its balance (Owen, "On dropping the first Sobol' point", 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from colosim.scenario import Scenario, ScenarioError, validated
from colosim.sweeps.errors import SweepError
from colosim.sweeps.file import MOST_POINTS, Design, Range
from colosim.units import DIMENSIONS, UnitError

#: of a value taken from a range; two that are closer are the same point
_DIGITS = 6

Values = Sequence[Any]
#: the value of an axis at a place from 0 to 1
Place = Callable[[float], Any]


@dataclass(frozen=True)
class Axis:
    """A field of the scenario and what it takes; ``values`` is None for a range without steps."""

    name: str
    values: Values | None
    at: Place


def axes(table: Mapping[str, Any], base: Scenario, where: str, above: str = "") -> Iterator[Axis]:
    """Axes of a file, whether their names are quoted or tables of tables; `SweepError`."""
    for key, given in table.items():
        name, value = above + key, given.tolist() if isinstance(given, np.ndarray) else given
        told = f"{where}: axes.{name}"
        if isinstance(value, Mapping):
            if value.keys() & {"from", "to"}:
                yield _ranged(name, validated(Range, value, told), base, told)
            else:
                yield from axes(value, base, where, f"{name}.")
        elif not isinstance(value, list) or not value:
            raise SweepError(
                f"{told}: is no list of values; write [first, second] or a range {{ from, to }}"
            )
        elif name in ("policy", "policy.name"):
            raise SweepError(f"{told}: is no axis; list them in policies")
        else:
            values = [each.item() if isinstance(each, np.generic) else each for each in value]
            yield Axis(name, values, _pick(values))


def _pick(values: Values) -> Place:
    return lambda u: values[min(int(u * len(values)), len(values) - 1)]


def rows(design: Design, axes: Sequence[Axis], where: str) -> list[tuple[Any, ...]]:
    """The values of all axes at each point of the design, in its order; `SweepError`."""
    if design.kind in ("grid", "list"):
        if design.points is not None:
            raise SweepError(f"{where}: design.points: a {design.kind} has its own; leave it out")
        for axis in axes:
            if axis.values is None:
                raise SweepError(
                    f"{where}: axes.{axis.name}: a {design.kind} takes single values; give steps"
                )
    return _ROWS[design.kind](design, axes, where)


def _grid(design: Design, axes: Sequence[Axis], where: str) -> list[tuple[Any, ...]]:
    for axis in axes:
        if _has_twice(axis.values or ()):
            raise SweepError(f"{where}: axes.{axis.name}: has a value twice; leave one out")
    check_number(prod(len(axis.values or ()) for axis in axes), where)
    return list(product(*(axis.values or () for axis in axes)))


def _has_twice(values: Values) -> bool:
    """Whether two are equal; most values are text or numbers, and there may be very many."""
    try:
        return len(set(values)) < len(values)
    except TypeError:  # lists
        return any(each in values[:i] for i, each in enumerate(values))


def _list(design: Design, axes: Sequence[Axis], where: str) -> list[tuple[Any, ...]]:
    lengths = {axis.name: len(axis.values or ()) for axis in axes}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} has {count}" for name, count in lengths.items())
        raise SweepError(f"{where}: axes: a list takes as many values of each: {counts}")
    check_number(max(lengths.values(), default=1), where)
    return list(zip(*(axis.values or () for axis in axes), strict=True)) if axes else [()]


def _sampled(design: Design, axes: Sequence[Axis], where: str) -> list[tuple[Any, ...]]:
    from scipy.stats import qmc

    if not axes:
        raise SweepError(f"{where}: design.kind: a {design.kind} needs axes; give some")
    if design.points is None:
        raise SweepError(f"{where}: design.points: missing; give it: the number of samples")
    if design.kind == "sobol":
        power = design.points.bit_length() - 1
        if design.points != 1 << power:
            near = f"{1 << power} or {2 << power}"
            raise SweepError(
                f"{where}: design.points: {design.points} is no power of 2, which keeps the sample "
                f"balanced; give {near}"
            )
        unit = qmc.Sobol(len(axes), rng=design.seed).random_base2(power)
    else:
        unit = qmc.LatinHypercube(len(axes), rng=design.seed).random(design.points)
    return [tuple(axis.at(float(u)) for axis, u in zip(axes, row, strict=True)) for row in unit]


_ROWS = {"grid": _grid, "list": _list, "latin-hypercube": _sampled, "sobol": _sampled}


def check_number(points: int, where: str) -> None:
    """`SweepError` for more points than anybody waits for."""
    if points > MOST_POINTS:
        raise SweepError(f"{where}: more than {MOST_POINTS} points; give fewer values")


# --------------------------------------------------------------------------------------------
# Ranges


def _ranged(name: str, given: Range, base: Scenario, told: str) -> Axis:
    low, high, written = _ends(given, told)
    if not low < high:
        raise SweepError(f"{told}: from {given.low} is not below to {given.high}; exchange them")
    if given.scale == "log" and not low > 0:
        raise SweepError(f"{told}: from {given.low} has no logarithm; give more than 0")

    def between(u: float) -> float:
        value = low * (high / low) ** u if given.scale == "log" else low + (high - low) * u
        return min(max(float(f"{value:.{_DIGITS}g}"), low), high)

    def even(u: float) -> Any:
        return written(between(u))

    def even_whole(u: float) -> Any:
        return round(between(u))

    at: Place = even
    stepped: Place = even
    whole = isinstance(given.low, int) and isinstance(given.high, int)
    if whole and not _takes_fractions(base, name, low, high):
        # of whole numbers each has the same share, the first and the last too
        stepped = even_whole
        at = _pick(range(given.low, given.high + 1)) if given.scale == "linear" else even_whole
    if given.steps is None:
        return Axis(name, None, at)
    values = [stepped(i / (given.steps - 1)) for i in range(given.steps)]
    if len(set(values)) < len(values):
        raise SweepError(f"{told}: steps: more than there are values; give fewer")
    return Axis(name, values, at)


def _ends(given: Range, told: str) -> tuple[float, float, Callable[[float], Any]]:
    """Both ends as numbers, and how a number between them is written."""
    for dimension in DIMENSIONS.values():
        with suppress(UnitError):
            low, high = dimension.parse(given.low), dimension.parse(given.high)

            def written(value: float, dimension: Any = dimension) -> str:
                return str(dimension.format(round(value) if dimension.whole else value))

            return low, high, written
    ends = (given.low, given.high)
    if all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
        return float(given.low), float(given.high), float
    raise SweepError(
        f"{told}: from {given.low!r} to {given.high!r} is no range; give two numbers, or two "
        'quantities of one kind, for example { from = "10 ms", to = "200 ms" }'
    )


def _takes_fractions(base: Scenario, name: str, low: float, high: float) -> bool:
    """Whether a field given by whole numbers takes others too, which its type knows."""
    middle = (low + high) / 2
    try:
        base.replace({name: middle if middle % 1 else middle + 0.25})
    except ScenarioError as error:
        return "is not a whole number" not in str(error)
    return True
