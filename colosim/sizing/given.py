"""What is given by hand, as text: dirty rates, tables of dirty pages, changes of a scenario."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from colosim.model.memory import PAGE_BYTES, CurvePoint
from colosim.sizing.errors import SizingError
from colosim.units import SIZE, TIME, UnitError

_SECOND_NS = 1_000_000_000
_RIGHT = 'give a rate and over how long, such as "40 MiB/s" (over 1 s) or "90 MiB/s over 100 ms"'
#: columns of a table -> factor to ns, to pages; the first of each that is there is taken
_TIMES = {"interval_ns": 1.0, "interval_ms": 1e6, "interval_s": 1e9, "exposure_ms": 1e6}
_PAGES = {"dirty_pages": 1.0, "pages": 1.0, "dirty_mib": 2**20 / PAGE_BYTES}
_ROWS_MOST = 100_000


def dirty_rate(text: str) -> CurvePoint:
    """A dirty rate: distinct bytes a second, over 1 s if no time is given."""
    rate, _, over = text.partition(" over ")
    if not rate.strip().endswith("/s"):
        raise SizingError(f"dirty rate {text!r}: has no unit a second; {_RIGHT}")
    try:
        per_s = float(SIZE.parse(rate.strip().removesuffix("/s")))
        over_ns = int(TIME.parse(over)) if over.strip() else _SECOND_NS
    except UnitError as error:
        raise SizingError(f"dirty rate {text!r}: {error}; {_RIGHT}") from None
    if not over_ns:
        raise SizingError(f"dirty rate {text!r}: over no time; {_RIGHT}")
    return CurvePoint(over_ns, (per_s * over_ns / _SECOND_NS / PAGE_BYTES,))


def table(path: Path) -> list[CurvePoint]:
    """Distinct dirty pages by interval, of a CSV file."""
    names = f"a time ({', '.join(_TIMES)}) and pages ({', '.join(_PAGES)})"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            there = reader.fieldnames or ()
            time = next((name for name in _TIMES if name in there), None)
            pages = next((name for name in _PAGES if name in there), None)
            if time is None or pages is None:
                raise SizingError(f"{path}: needs columns for {names}")
            by_time: dict[int, list[float]] = {}
            for row in reader:
                at_ns = round(_number(path, reader.line_num, time, row) * _TIMES[time])
                value = _number(path, reader.line_num, pages, row) * _PAGES[pages]
                if at_ns <= 0:
                    raise SizingError(f"{path}: line {reader.line_num}: {time} must be above 0")
                by_time.setdefault(at_ns, []).append(value)
                if reader.line_num > _ROWS_MOST:
                    raise SizingError(f"{path}: has more than {_ROWS_MOST:,} lines")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SizingError(f"{path}: cannot be read: {why}") from None
    if not by_time:
        raise SizingError(f"{path}: has no rows; give {names}")
    return [CurvePoint(at_ns, tuple(values)) for at_ns, values in sorted(by_time.items())]


def _number(path: Path, line: int, name: str, row: dict[str, Any]) -> float:
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        raise SizingError(f"{path}: line {line}: {name} is no number") from None
    if not (math.isfinite(value) and value >= 0):
        raise SizingError(f"{path}: line {line}: {name} must be finite and not negative")
    return value


def changes(texts: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE, as in a scenario file: numbers and truth are such, all else is text."""
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise SizingError(f'{text!r} sets nothing; write KEY=VALUE, "workload.rate=200 /s"')
        found[key.strip()] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float | bool) else text
