"""Dirty pages: what is given of them, and how points become a curve, whoever measured them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from colosim.model.memory import PAGE_BYTES, CurvePoint
from colosim.sizing import given
from colosim.sizing.basis import (
    BELOW,
    BEYOND,
    EXPONENTS,
    Basis,
    Curve,
    Kind,
    Unknown,
    exponents,
    set_in,
)
from colosim.sizing.errors import SizingError
from colosim.units import SIZE, UnitError

if TYPE_CHECKING:
    from backends.qemu.dirty_rate import Measured

#: the guest's RAM where no source says it
GUEST_BYTES = 256 * 2**20


def take_memory(basis: Basis, text: str) -> None:
    """The guest's RAM, as given."""
    try:
        size = int(SIZE.parse(text))
    except UnitError as error:
        raise SizingError(f"memory {text!r}: {error}") from None
    if size < PAGE_BYTES:
        raise SizingError(f"memory {text!r}: is less than a page")
    _set_memory(basis, size, "given", "--memory")


def _set_memory(basis: Basis, size: int, kind: Kind, source: str) -> None:
    set_in(basis.mapping, "memory.guest_memory", f"{size} B")
    basis.say("memory.guest_memory", SIZE.format(size), kind, source)


def take_rates(basis: Basis, rates: Sequence[str], table: Path | None) -> None:
    """Dirty rates that are given, one by one or as a table."""
    source = "--dirty-rate" if table is None else str(table)
    points = [given.dirty_rate(each) for each in rates] if table is None else given.table(table)
    if len({point.exposure_ns for point in points}) < len(points):
        raise SizingError(f"{source}: two rates over the same time; give one for each time")
    basis.sources.append(f"dirty pages: {source}")
    take_points(basis, points, "given", source)


def take_measured(basis: Basis, found: Measured) -> None:
    """What `backends.qemu.dirty_rate` measured of the user's own VM."""
    source = f"QEMU {found.version}, calc-dirty-rate, {found.mode}"
    points = [CurvePoint(each.interval_ns, (each.pages,)) for each in found.points]
    unsure = max((each.high / max(each.pages, 1.0) for each in found.points), default=1.0) - 1
    basis.sources.append(f"dirty pages: {source}")
    take_points(basis, points, "measured", source, min(max(unsure, 0.0), 10.0))
    _set_memory(basis, found.memory_bytes, "measured", source)


# --------------------------------------------------------------------------------------------
# Curves


def grouped(pairs: Sequence[tuple[int, float]], least: int = 1) -> list[CurvePoint]:
    """Exposure and pages of checkpoints: those of like exposure (within a fifth) are a point, and
    so are at least so many; what is left at the end goes to the last.
    """
    points: list[tuple[list[int], list[float]]] = []
    for exposure_ns, pages in sorted(pairs):
        if points and (len(points[-1][0]) < least or exposure_ns <= points[-1][0][0] * 1.2):
            points[-1][0].append(exposure_ns)
            points[-1][1].append(pages)
        else:
            points.append(([exposure_ns], [pages]))
    if len(points) > 1 and len(points[-1][0]) < least:
        times, samples = points.pop()
        points[-1][0].extend(times)
        points[-1][1].extend(samples)
    return [CurvePoint(round(float(np.mean(at))), tuple(pages)) for at, pages in points]


def take_points(
    basis: Basis, points: Sequence[CurvePoint], kind: Kind, source: str, error: float = 0.0
) -> None:
    """Measured points, and how the curve may go on; error: relative, of all pages."""
    if not points:
        raise SizingError(f"{source}: says nothing of dirty pages; add --dirty-rate or --qmp")
    (below, least), (beyond, most) = exponents(points)
    if len(points) == 1:
        below = beyond = EXPONENTS[0]
    curve = Curve(points, guest_bytes(basis) // PAGE_BYTES, below, beyond)
    basis.set_curve(curve, kind, source, error)
    continue_curve(basis, curve, least, most)


def continue_curve(basis: Basis, curve: Curve, least: float, most: float) -> None:
    """How it goes on is not known: its exponents have ranges, as `exponents` gives their ends."""
    first, last = min(curve.points), max(curve.points)
    for key, value, low, high, what in (
        (BELOW, curve.below, least, 1.0, f"dirty pages below {first.exposure_ns / 1e6:.4g} ms"),
        (BEYOND, curve.beyond, 0.0, most, f"dirty pages beyond {last.exposure_ns / 1e6:.4g} ms"),
    ):
        words = f"{what} (exponent over time)"
        basis.unknowns[key] = Unknown(key, value, low, high, "assumed", words)


def guest_bytes(basis: Basis) -> int:
    """The guest's RAM, as far as the sources have said it."""
    text = basis.mapping.get("memory", {}).get("guest_memory")
    try:
        return int(SIZE.parse(text)) if text is not None else GUEST_BYTES
    except UnitError as error:
        raise SizingError(f"memory.guest_memory {text!r}: {error}") from None


def fit_to_memory(basis: Basis) -> None:
    """The curve within the guest's RAM, when all have said what they know of it."""
    curve = basis.curve
    if curve is None:
        return
    pages = guest_bytes(basis) // PAGE_BYTES
    most = max(curve.points, key=lambda point: max(point.samples))
    if max(most.samples) > pages:
        raise SizingError(
            f"{basis.facts['memory'].source}: {max(most.samples):,.0f} pages in "
            f"{most.exposure_ns / 1e9:g} s are more than the guest's {pages:,}; give its --memory"
        )
    basis.curve = replace(curve, guest_pages=pages)
