"""Metrics computed of others: expressions of numbers, names and the operators of the table below.

Nothing else is evaluated, whatever a file says: no attribute, no index, no call but of `_CALLS`.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colosim.model.results import RunRecord
from colosim.scenario import Scenario, validated
from colosim.sweeps.errors import SweepError
from colosim.sweeps.file import Derived

Numbers = NDArray[np.float64]

_LONGEST = 500
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
    ast.UAdd: np.positive,
    ast.USub: np.negative,
}
#: name -> (function, number of arguments)
_CALLS: dict[str, tuple[Callable[..., Any], int]] = {
    "abs": (np.abs, 1),
    "exp": (np.exp, 1),
    "log": (np.log, 1),
    "sqrt": (np.sqrt, 1),
    "min": (np.minimum, 2),
    "max": (np.maximum, 2),
}


@dataclass(frozen=True)
class Metric:
    """A derived metric: its name, expression and unit."""

    name: str
    of: str
    unit: str

    def value(self, metrics: Mapping[str, float]) -> float:
        """Of one replication; NaN where that is no finite number."""
        with np.errstate(all="ignore"):
            found = float(_value(_parsed(self.of), metrics))
        return found if np.isfinite(found) else float("nan")


def metrics(table: Mapping[str, Any], base: Scenario, where: str) -> tuple[Metric, ...]:
    """The derived metrics of a file, each of those that runs have or that stand before it."""
    known = set(known_metrics(base))
    found = []
    for name, given in table.items():
        told = f"{where}: derived.{name}"
        if not (name.isidentifier() and name.isascii()):
            raise SweepError(f"{told}: is no name; use letters, digits and _")
        if name in known or name in _CALLS:
            raise SweepError(f"{told}: there is such a metric already; give another name")
        section = validated(Derived, {"of": given} if isinstance(given, str) else given, told)
        unknown = sorted(_names(section.of, told) - known)
        if unknown:
            raise SweepError(
                f"{told}: there is no metric {unknown[0]}; known: {', '.join(sorted(known))}"
            )
        known.add(name)
        found.append(Metric(name, section.of, section.unit))
    return tuple(found)


def known_metrics(base: Scenario) -> list[str]:
    """Names of the metrics that a run of such a scenario has."""

    def record(**more: Any) -> RunRecord:
        return RunRecord("none", 0, 0, base.duration_ns, 0, **more)

    disk = {"op": ["read"], "begun_ns": [0], "done_ns": [0], "size_bytes": [0]}
    vms = base.sharing.vms
    more = {"disk": disk} if base.disk is not None else {}
    return [*record(vms=[record()] * vms if vms > 1 else [], **more).metrics()]


@cache
def _parsed(text: str) -> ast.expr:
    return ast.parse(text.strip(), mode="eval").body


def _names(text: str, told: str) -> set[str]:
    """The metrics that an expression takes; `SweepError` for anything that is not allowed."""
    if len(text) > _LONGEST:
        raise SweepError(f"{told}: more than {_LONGEST} characters; make it shorter")
    try:
        return set(_allowed(_parsed(text)))
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        why = str(error).split(" (<")[0]
        raise SweepError(f"{told}: {text!r} cannot be read: {why}") from None


def _allowed(node: ast.AST) -> list[str]:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            float(value)  # OverflowError
            return []
        case ast.Name():
            return [node.id]
        case ast.BinOp() if type(node.op) in _OPERATORS:
            return [*_allowed(node.left), *_allowed(node.right)]
        case ast.UnaryOp() if type(node.op) in _OPERATORS:
            return _allowed(node.operand)
        case ast.Call(func=ast.Name(), keywords=[]) if node.func.id in _CALLS:  # type: ignore[attr-defined]
            name = node.func.id  # type: ignore[attr-defined]
            if len(node.args) != _CALLS[name][1]:
                raise ValueError(f"{name} takes {_CALLS[name][1]}")
            return [each for below in node.args for each in _allowed(below)]
    calls = ", ".join(_CALLS)
    raise ValueError(f"use metrics, numbers, + - * / ** ( ) and {calls}")


def _value(node: ast.AST, metrics: Mapping[str, float]) -> Any:
    match node:
        case ast.Constant():
            return np.float64(node.value)  # type: ignore[arg-type]
        case ast.Name():
            return np.float64(metrics.get(node.id, math.nan))  # a disk's, of a run without requests
        case ast.BinOp():
            sides = (_value(node.left, metrics), _value(node.right, metrics))
            return _OPERATORS[type(node.op)](*sides)
        case ast.UnaryOp():
            return _OPERATORS[type(node.op)](_value(node.operand, metrics))
        case ast.Call(func=ast.Name() as func):
            return _CALLS[func.id][0](*(_value(each, metrics) for each in node.args))
    raise AssertionError(node)
