"""Columns of a sweep's dataset: those of the axes, and those of every dataset."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from colosim.units import DIMENSIONS, Dimension, UnitError

#: name -> Arrow's type
COMMON = {
    "policy": "string",
    "seed": "int64",
    "replication": "int64",
    "metric": "string",
    "value": "float64",
    "unit": "string",
    "fingerprint": "string",
    "flags": "string",
    "violations": "int64",
}


@dataclass(frozen=True)
class Column:
    """The column of an axis: the field, the column's name and Arrow's type."""

    axis: str
    name: str
    kind: str

    def convert(self, value: Any) -> Any:
        """What the column holds of a value of the axis: quantities are numbers."""
        return _CONVERT.get(self.name.removeprefix(self.axis), _CONVERT[""])(value, self.kind)


def column(axis: str, values: Sequence[Any]) -> Column:
    """The column that has room for all values of an axis."""
    for suffix, dimension in DIMENSIONS.items():
        with suppress(UnitError):
            for value in values:
                dimension.parse(value)
            return Column(axis, f"{axis}_{suffix}", "int64" if dimension.whole else "float64")
    types = {type(value) for value in values}
    for of_types, kind in (({bool}, "bool"), ({int}, "int64"), ({int, float}, "float64")):
        if types <= of_types:
            return Column(axis, axis, kind)
    return Column(axis, axis, "string")


def _plain(value: Any, kind: str) -> Any:
    return value if kind != "string" or isinstance(value, str) else json.dumps(value)


def _quantity(dimension: Dimension) -> Callable[[Any, str], Any]:
    return lambda value, kind: dimension.parse(value)


_CONVERT: dict[str, Callable[[Any, str], Any]] = {
    "": _plain,
    **{f"_{suffix}": _quantity(dimension) for suffix, dimension in DIMENSIONS.items()},
}
