"""When the secondary guest stops answering as the primary does.

Four causes, all memoryless. A response may differ although the state is equal (a date, a random
identifier): ``probability`` for each response, on its own. The first response of a connection may
differ (a session's key): ``connection_probability``. The state of the guests drifts apart: a
constant ``hazard_per_s`` of guest running time since the last synchronisation, after which every
response differs until the next one. And the guests say different things that nobody asked for (a
timer's, a stack's own): ``unprompted_per_s`` of running time, whatever the load.
"""

from __future__ import annotations

from dataclasses import dataclass

from colosim.model.errors import check_range


@dataclass(frozen=True, slots=True)
class Divergence:
    """Probabilities in [0, 1] per response; rates >= 0 per second; else ModelError."""

    probability: float = 0.0
    hazard_per_s: float = 0.0
    connection_probability: float = 0.0
    unprompted_per_s: float = 0.0

    def __post_init__(self) -> None:
        check_range("probability", self.probability, high=1.0)
        check_range("hazard_per_s", self.hazard_per_s)
        check_range("connection_probability", self.connection_probability, high=1.0)
        check_range("unprompted_per_s", self.unprompted_per_s)

    def response_differs(self, u: float, opens: bool = False) -> bool:
        """Whether a response differs on its own; ``u`` is a uniform variate in [0, 1).

        opens: it is the first of its connection, so it differs by either cause.
        """
        chance = self.probability
        if opens:
            chance += (1 - chance) * self.connection_probability
        return u < chance

    def first_ns(self, e: float) -> int | None:
        """Nanoseconds from a synchronisation to the first difference of state, or None for never.

        ``e`` is an exponential variate of mean 1.
        """
        return _at_ns(self.hazard_per_s, e)

    def unprompted_ns(self, e: float) -> int | None:
        """The same to the first thing that nobody asked for and that differs."""
        return _at_ns(self.unprompted_per_s, e)


def _at_ns(rate_per_s: float, e: float) -> int | None:
    return round(e * 1e9 / rate_per_s) if rate_per_s else None
