"""A process of failures and recoveries, as a table of named states.

A `Process` holds what `colosim.model.markov` solves exactly and `colosim.model.rare` simulates.
In each state failures come at constant rates, and **clocks** run: a repair, a detection, a boot.
The first of them to happen moves the process on.  A clock that also runs in the next state keeps
the time it has left; a new one is drawn from its `Law`.

The process begins anew each time that it enters its first state, where no clock runs: the times
from one such entry to the next, its cycles, are independent and alike (Smith 1955; Ross,
"Stochastic Processes", 2nd ed., 3.7).  Times are in seconds, as floats: they reach from
milliseconds to centuries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import gamma

from colosim.model.errors import ModelError, check_range

Floats = NDArray[np.float64]
Shape = Literal["exponential", "deterministic", "lognormal", "weibull"]

YEAR_S = 365.25 * 86_400
#: a mean of 0 is this, for a rate must be finite
SHORTEST_S = 1e-9


@dataclass(frozen=True)
class Law:
    """Distribution of a time: its mean, its shape, and for two shapes its relative deviation.

    samples_s: instead of a shape, times that were seen; each is drawn with equal chance.
    """

    mean_s: float
    shape: Shape = "exponential"
    spread: float = 1.0
    samples_s: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_range("a mean time (s)", self.mean_s)
        check_range("spread", self.spread, 0.0, 100.0)
        if self.shape not in get_args(Shape):
            raise ModelError(f"shape is {self.shape!r}; it must be {', '.join(get_args(Shape))}")

    @classmethod
    def seen(cls, samples_s: Sequence[float]) -> Law:
        """The times of a measurement; `ModelError` if there are none."""
        if not samples_s:
            raise ModelError("there is no sample of a time; it must be at least one")
        return cls(float(np.mean(samples_s)), "deterministic", 0.0, tuple(samples_s))

    def draw(self, generator: np.random.Generator, count: int) -> Floats:
        """``count`` times, s."""
        if self.samples_s:
            return generator.choice(np.asarray(self.samples_s), count)
        if self.spread == 0 and self.shape in ("lognormal", "weibull"):
            return np.full(count, self.mean_s)
        return _DRAW[self.shape](self, generator, count)


def weibull_exponent(spread: float) -> float:
    """The k of a Weibull distribution with this relative deviation (0.01 to 100)."""

    def excess(k: float) -> float:
        return float(gamma(1 + 2 / k) / gamma(1 + 1 / k) ** 2 - 1 - spread**2)

    return float(brentq(excess, 0.08, 200.0))


def _exponential(law: Law, generator: np.random.Generator, count: int) -> Floats:
    return generator.exponential(law.mean_s, count)


def _deterministic(law: Law, generator: np.random.Generator, count: int) -> Floats:
    return np.full(count, law.mean_s)


def _lognormal(law: Law, generator: np.random.Generator, count: int) -> Floats:
    variance = math.log1p(law.spread**2)
    factors = np.exp(math.sqrt(variance) * generator.standard_normal(count) - variance / 2)
    return np.asarray(law.mean_s * factors)


def _weibull(law: Law, generator: np.random.Generator, count: int) -> Floats:
    k = weibull_exponent(law.spread)
    return np.asarray(law.mean_s / float(gamma(1 + 1 / k)) * generator.weibull(k, count))


_DRAW: Mapping[Shape, Callable[[Law, np.random.Generator, int], Floats]] = {
    "exponential": _exponential,
    "deterministic": _deterministic,
    "lognormal": _lognormal,
    "weibull": _weibull,
}


@dataclass(frozen=True)
class Branch:
    """Where an event leads, with which chance among the event's branches, and what it costs.

    loses: the guest's state is lost.
    lost_responses: requests under way that nobody will ever answer.
    moves: clock of the next state -> clock of this one whose remaining time it takes over; clocks
    of one name in both states keep theirs.
    """

    to: str
    probability: float = 1.0
    loses: bool = False
    lost_responses: float = 0.0
    moves: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A failure that comes at a constant rate while a state lasts."""

    cause: str
    rate_per_s: float
    branches: tuple[Branch, ...]


@dataclass(frozen=True)
class Clock:
    """A recovery that runs while a state lasts, and what its end leads to."""

    law: Law
    branches: tuple[Branch, ...]


@dataclass(frozen=True)
class State:
    """What the process is in: does it serve, what can fail, which clocks run.

    kind: word for a group of states, such as "taking over".
    exposed: a single further failure would lose the guest's state.
    diverging: work done here is thrown away later, whoever has seen it.
    """

    name: str
    kind: str
    serves: bool
    failures: tuple[Failure, ...] = ()
    clocks: Mapping[str, Clock] = field(default_factory=dict)
    exposed: bool = False
    diverging: bool = False


@dataclass(frozen=True)
class Process:
    """States that can be reached from the first, in which no clock runs.

    failure_exponent: the k of a Weibull distribution for the time from the start of a cycle to its
    first failure; 1 is exponential.  Its mean is not changed by k.  Later failures of the cycle
    follow the same hazard, which falls from the cycle's start on if k < 1.

    Raises `ModelError` if the first state has a clock or no failure, if a state does not end, or
    if a branch leads nowhere.
    """

    states: tuple[State, ...]
    failure_exponent: float = 1.0

    def __post_init__(self) -> None:
        check_range("failure_exponent", self.failure_exponent, 0.1, 10.0)
        known = {state.name: state for state in self.states}
        reached = [self.states[0].name]
        for name in reached:
            state = known[name]
            for branch in _branches(state):
                if branch.to not in known:
                    raise ModelError(f"{name} leads to {branch.to}; it must be a state")
                if branch.to not in reached:
                    reached.append(branch.to)
            if not state.clocks and not any(f.rate_per_s > 0 for f in state.failures):
                raise ModelError(f"{name} would last for ever; it must have a failure or a clock")
        first = self.states[0]
        if first.clocks:
            raise ModelError(f"{first.name} has a clock; the first state must have none")
        object.__setattr__(self, "states", tuple(known[name] for name in reached))

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Number of each state."""
        return {state.name: i for i, state in enumerate(self.states)}

    @cached_property
    def first_failure_s(self) -> float:
        """Mean time that the first state lasts."""
        return 1 / sum(failure.rate_per_s for failure in self.states[0].failures)


def events_of(state: State) -> list[tuple[str, float, Branch]]:
    """(cause of a failure or "", rate in 1/s if all times were exponential, branch), above 0."""
    found = [
        *((each.cause, each.rate_per_s, each.branches) for each in state.failures),
        *(("", 1 / max(each.law.mean_s, SHORTEST_S), each.branches)
          for each in state.clocks.values()),
    ]  # fmt: skip
    return [
        (cause, rate * branch.probability, branch)
        for cause, rate, branches in found
        for branch in branches
        if rate * branch.probability > 0
    ]


def _branches(state: State) -> list[Branch]:
    return [branch for _, _, branch in events_of(state)]
