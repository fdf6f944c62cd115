"""Numbers and lists as people read them, the same in every verdict, report and table.

>>> number(1234.5), number(0.012345), percent(0.25), between(1.5, 2.0, number)
('1,234', '0.0123', '25 %', '1.50 to 2.00')
>>> listed(["a", "b", "c"])
'a, b and c'
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def number(value: float, digits: int = 3) -> str:
    """So many digits that count, and no more decimals than that; "?" for what is not known."""
    if math.isnan(value):
        return "?"
    if value == 0 or math.isinf(value):
        return "0" if value == 0 else "∞" if value > 0 else "−∞"
    decimals = min(max(digits - 1 - math.floor(math.log10(abs(value))), 0), 6)
    return f"{value:,.{decimals}f}".replace("-", "−")


def percent(part: float, decimals: int = 1) -> str:
    """Of a part; a decimal that is 0 is left out."""
    text = f"{100 * part:,.{decimals}f}".removesuffix(".0")
    return f"{'0' if text == '-0' else text.replace('-', '−')} %"


def sure(confidence: float) -> str:
    """A confidence, never more than 99.9 %."""
    return "more than 99.9 %" if confidence > 0.999 else percent(confidence)


def plus_minus(half: float) -> str:
    """Half an interval, to stand behind its mean; nothing where there is none (NaN)."""
    return "" if math.isnan(half) else f" ± {number(half, 2)}"


def between(low: float, high: float, shown: Callable[[float], str] = number) -> str:
    """An interval, in the words of a number."""
    return f"{shown(low)} to {shown(high)}"


_TIMES = ((172_800, 86_400, "d"), (7200, 3600, "h"), (120, 60, "min"), (1, 1, "s"))


def lasting(time_s: float, beside_s: float | None = None) -> str:
    """A time in the unit that suits it, or the longest of those that it stands beside."""
    suits_s = time_s if beside_s is None else beside_s
    found = ((unit_s, unit) for least_s, unit_s, unit in _TIMES if suits_s >= least_s)
    unit_s, unit = next(found, (1e-3, "ms"))
    return f"{number(time_s / unit_s)} {unit}"


def is_told(low: float, high: float) -> bool:
    """An interval of a difference, if there is one, tells it from chance."""
    return not low <= 0 <= high


def listed(parts: Sequence[str]) -> str:
    """a, b and c."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def capital(text: str) -> str:
    """The first letter large."""
    return text[:1].upper() + text[1:]
