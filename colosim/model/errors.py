"""The one error of the models: a parameter or a question the model has no answer to."""

from __future__ import annotations

import math


class ModelError(ValueError):
    """A parameter out of range, or a question outside what was measured; one clear line."""


def check_range(
    name: str, value: float, low: float = 0.0, high: float = math.inf, *, above: bool = False
) -> None:
    """Raise :class:`ModelError` unless ``low <= value <= high`` (``low < value`` if ``above``).

    NaN and infinity are always refused.
    """
    if math.isfinite(value) and low <= value <= high and not (above and value == low):
        return
    wanted = f"{'above' if above else 'at least'} {low:g}"
    if high < math.inf:
        wanted += f" and at most {high:g}"
    raise ModelError(f"{name} is {value:g}; it must be {wanted}")
