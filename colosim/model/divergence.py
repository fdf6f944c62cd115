"""When the secondary guest stops answering as the primary does.

Two causes, both memoryless. A response may differ although the state is equal (a date, a random
identifier): ``probability`` for each response, on its own. Or the state of the guests drifts
apart: a constant ``hazard_per_s`` of guest running time since the last synchronisation, after
which every response differs until the next one.
"""

from __future__ import annotations

from dataclasses import dataclass

from colosim.model.errors import check_range


@dataclass(frozen=True, slots=True)
class Divergence:
    """``probability`` in [0, 1] per response, ``hazard_per_s`` >= 0; else ModelError."""

    probability: float = 0.0
    hazard_per_s: float = 0.0

    def __post_init__(self) -> None:
        check_range("probability", self.probability, high=1.0)
        check_range("hazard_per_s", self.hazard_per_s)

    def response_differs(self, u: float) -> bool:
        """Whether a response differs on its own; ``u`` is a uniform variate in [0, 1)."""
        return u < self.probability

    def first_ns(self, e: float) -> int | None:
        """Nanoseconds from a synchronisation to the first difference of state, or None for never.

        ``e`` is an exponential variate of mean 1.
        """
        return round(e * 1e9 / self.hazard_per_s) if self.hazard_per_s else None
