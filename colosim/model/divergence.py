"""When the secondary guest stops answering as the primary does.

Four causes are drawn, all memoryless. A response may differ although the state is equal (a random
identifier): ``probability`` for each response, on its own. The first response of a connection may
differ (a session's key): ``connection_probability``. The state of the guests drifts apart: a
constant ``hazard_per_s`` of guest running time since the last synchronisation, after which every
response differs until the next one. And the guests say different things that nobody asked for (a
timer's, a stack's own): ``unprompted_per_s`` of running time, whatever the load.

States part by scheduling, too: two requests that are served at the same time, on two vCPUs, may
reach what they share in another order in the other guest. With b being served the rate is

    hazard_per_s + pair_hazard_per_s b (b - 1) / 2

one chance for each pair. That conflicts grow as the pairs of what runs at once is the argument of
Gray, Helland, O'Neil and Shasha (The Dangers of Replication and a Solution, SIGMOD 1996); that it
holds for divergence of guests is an assumption, and the rate has to be fitted.

A fifth follows from when things happen. A part ``timed`` of the responses says what time it is, in
steps of ``clock_resolution_ns``: the guests differ if a step of the clock lies between their two
readings. The secondary's clock is ``clock_offset_ns`` ahead. Readings that are d apart (offset and
lateness together), at a phase that is uniform in the step r, differ with chance min(1, d / r).
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
    timed: float = 0.0
    clock_offset_ns: int = 0
    clock_resolution_ns: int = 1_000_000_000
    pair_hazard_per_s: float = 0.0

    def __post_init__(self) -> None:
        check_range("probability", self.probability, high=1.0)
        check_range("hazard_per_s", self.hazard_per_s)
        check_range("connection_probability", self.connection_probability, high=1.0)
        check_range("unprompted_per_s", self.unprompted_per_s)
        check_range("timed", self.timed, high=1.0)
        check_range("pair_hazard_per_s", self.pair_hazard_per_s)
        check_range("clock_offset_ns", self.clock_offset_ns)
        check_range("clock_resolution_ns", self.clock_resolution_ns, 1)

    def response_differs(self, u: float, opens: bool = False, factor: float = 1.0) -> bool:
        """Whether a response differs on its own; ``u`` is a uniform variate in [0, 1).

        opens: it is the first of its connection, so it differs by either cause.
        factor: on both chances, each of which stays at most 1.
        """
        chance = min(self.probability * factor, 1.0)
        if opens:
            chance += (1 - chance) * min(self.connection_probability * factor, 1.0)
        return u < chance

    def time_said(self, u: float, now_ns: int, is_ahead: bool) -> int | None:
        """The time that a response says, in steps; None if it says none.

        ``u`` is a uniform variate in [0, 1), the same for both guests. is_ahead: by the
        secondary's clock.
        """
        if u >= self.timed:
            return None
        return (now_ns + is_ahead * self.clock_offset_ns) // self.clock_resolution_ns

    def first_ns(self, e: float) -> int | None:
        """Nanoseconds from a synchronisation to the first difference of state, or None for never.

        ``e`` is an exponential variate of mean 1.
        """
        return _at_ns(self.hazard_per_s, e)

    def partings(self, running_ns: float, busy: int = 0) -> float:
        """How often the states part in so much running time, if they are equal; a mean.

        busy: so many requests are being served meanwhile, each on a vCPU of its own.
        """
        rate_per_s = self.hazard_per_s + self.pair_hazard_per_s * (busy * (busy - 1) / 2)
        return rate_per_s * running_ns / 1e9

    def unprompted_ns(self, e: float) -> int | None:
        """The same to the first thing that nobody asked for and that differs."""
        return _at_ns(self.unprompted_per_s, e)


def _at_ns(rate_per_s: float, e: float) -> int | None:
    return round(e * 1e9 / rate_per_s) if rate_per_s else None
