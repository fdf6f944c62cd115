"""Long-run figures of a `Process` by simulated cycles, made so that rare failures are seen.

A second failure within the seconds or hours that the first one leaves the guest unprotected may
come once in a million cycles.  So in a part of the cycles failures are made likely, and each such
cycle counts with its likelihood ratio (importance sampling):

* **forcing** (Lewis and Böhm, "Monte Carlo simulation of Markov unreliability models", Nuclear
  Engineering and Design 77, 1984): where a clock runs, a failure comes before it with at least
  the chance `Bias.failure`; its moment is drawn from what is left of its distribution.  This needs
  no exponential recovery.
* **balanced failure biasing** (Shahabuddin, "Importance sampling for the simulation of highly
  reliable Markovian systems", Management Science 40, 1994): which failure comes is then drawn
  with equal chances, in the first state too, so that no cause is rare.  A rare branch of
  an event, such as fencing that fails, gets the same chance.  With a bound on the number of biased
  steps the relative error stays bounded as rates go to 0.
* The biasing stops in a cycle that has lost the guest, or had `Bias.most` failures
  (Goyal, Shahabuddin, Heidelberger, Nicola and Glynn, "A unified framework for simulating Markovian
  models of highly dependable systems", IEEE Transactions on Computers 41, 1992).
* The mean length of a cycle, which is the other part of the ratio, is not rare, nor is the time
  exposed: both come from cycles of their own that are not biased (the same paper: measure-specific
  dynamic importance sampling).

The review by Nicola, Shahabuddin and Nakayama, "Techniques for fast simulation of models of highly
dependable systems", IEEE Transactions on Reliability 50, 2001, has all of this.

All cycles of a part go on side by side, as numpy arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import gamma, ndtri

from colosim.model.errors import ModelError
from colosim.model.markov import MEASURES
from colosim.model.process import Branch, Floats, Process, State

#: what nearly every cycle has: biased cycles would only add noise
_FREQUENT = frozenset({"exposed"})
_MOST_STEPS = 10_000  # of a cycle; one that takes more is not rare but endless


@dataclass(frozen=True)
class Bias:
    """How failures are made likely.

    failure: least chance of a failure before the clocks of a state; 0: cycles as they come.
    most: failures of a cycle, after its first, that are made likely.
    plain: part of the cycles that are not biased, for the mean length.
    """

    failure: float = 0.2
    most: int = 3
    plain: float = 0.25

    def __post_init__(self) -> None:
        if not (0 <= self.failure < 1 and self.most >= 0 and 0 < self.plain < 1):
            raise ModelError(f"{self} will not do; chances must be below 1, plain above 0 too")


@dataclass(frozen=True)
class Estimate:
    """A figure for each second of the long run, and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Simulated:
    """What simulated cycles say.

    measures: what was wanted.  effective_cycles: (sum of weights)^2 / sum of their squares, of the
    biased cycles (Kish, "Survey Sampling", 1965).  mean_weight: of these; its expectation is 1.
    """

    measures: Mapping[str, Estimate]
    cycles: int
    effective_cycles: float
    mean_weight: float


@dataclass(frozen=True)
class Cycles:
    """What each of many cycles came to: weighted length (s), weighted rewards, final weight."""

    length: Floats
    rewards: Mapping[str, Floats]
    weight: Floats


#: measure by measure
_EACH: Mapping[str, Mapping[str, float]] = {name: {name: 1.0} for name in MEASURES}


def simulate(
    process: Process,
    cycles: int,
    seed: int,
    bias: Bias | None = None,
    wanted: Mapping[str, Mapping[str, float]] = _EACH,
) -> Simulated:
    """Estimate the long run from so many cycles, with 95 % intervals of the ratio estimator.

    wanted: figures as sums of `MEASURES` with these factors.

    With independent cycles for both parts, ``mean(reward) / mean(length)`` has the variance of the
    delta method; without bias both come from the same cycles, and their covariance enters
    (Iglehart 1975; Law, "Simulation Modeling and Analysis", 5th ed., 9.5.3).
    Raises ModelError for fewer than 10 cycles.
    """
    if cycles < 10:
        raise ModelError(f"cycles is {cycles}; it must be at least 10")
    bias = bias or Bias()
    generator = np.random.default_rng(seed)
    if bias.failure == 0:
        plain = seen = run_cycles(process, cycles, generator, bias)
    else:
        count = max(2, round(bias.plain * cycles))
        plain = run_cycles(process, count, generator, Bias(0.0))
        seen = run_cycles(process, cycles - count, generator, bias)
    measures = {
        name: _ratio(_summed(plain, of), plain.length, shared=True)
        if seen is plain or set(of) <= _FREQUENT
        else _ratio(_controlled(_summed(seen, of), seen.weight), plain.length, shared=False)
        for name, of in wanted.items()
    }
    weights = seen.weight
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    return Simulated(measures, cycles, effective, float(weights.mean()))


def _ratio(rewards: Floats, lengths: Floats, shared: bool) -> Estimate:
    reward, length = float(rewards.mean()), float(lengths.mean())
    value = reward / length
    if shared:
        variance = float(np.var(rewards - value * lengths, ddof=1)) / len(rewards)
    else:
        variance = float(np.var(rewards, ddof=1)) / len(rewards)
        variance += value**2 * float(np.var(lengths, ddof=1)) / len(lengths)
    half = float(ndtri(0.975)) * math.sqrt(variance) / length
    return Estimate(value, value - half, value + half)


def _summed(cycles: Cycles, factors: Mapping[str, float]) -> Floats:
    return np.asarray(sum(factor * cycles.rewards[name] for name, factor in factors.items()))


def _controlled(rewards: Floats, weights: Floats) -> Floats:
    """Rewards less what the weights, whose mean is known to be 1, explain of their noise.

    A regression on a control variate (Law, 5th ed., 11.4).  It matters most for what nearly every
    cycle has, such as one outage, whose weighted count is hardly more than the weight.
    """
    variance = float(np.var(weights))
    if variance == 0:
        return rewards
    slope = float(np.mean((rewards - rewards.mean()) * (weights - weights.mean()))) / variance
    return np.asarray(rewards - slope * (weights - 1))


def run_cycles(process: Process, count: int, generator: np.random.Generator, bias: Bias) -> Cycles:
    """Simulate cycles side by side, biased if ``bias.failure`` is above 0."""
    return _Run(process, count, generator, bias).run()


class _Run:
    """The state of all cycles: arrays with one entry, or row, for each."""

    def __init__(
        self, process: Process, count: int, generator: np.random.Generator, bias: Bias
    ) -> None:
        self._process = process
        self._generator = generator
        self._bias = bias
        names = dict.fromkeys(name for state in process.states for name in state.clocks)
        self._slots = {name: i for i, name in enumerate(names)}
        self._plans = [_Plan(state, self._slots, bias.failure) for state in process.states]
        self._state = np.zeros(count, dtype=np.int64)
        self._age = np.zeros(count)
        self._left = np.full((count, len(names)), np.inf)
        self._hot = np.full(count, bias.failure > 0)
        self._failures = np.zeros(count, dtype=np.int64)
        self._weight = np.ones(count)
        self._length = np.zeros(count)
        self._rewards = {name: np.zeros(count) for name in MEASURES}

    def run(self) -> Cycles:
        active = np.arange(len(self._state))
        for _ in range(_MOST_STEPS):
            now = self._state[active]
            for number in np.unique(now):
                self._step(int(number), active[now == number])
            active = active[self._state[active] != 0]
            if not active.size:
                return Cycles(self._length, self._rewards, self._weight)
        raise ModelError(
            f"a cycle of failure and recovery took more than {_MOST_STEPS} steps; "
            "failures must be rarer than recoveries"
        )

    def _step(self, number: int, cycles: NDArray[np.int64]) -> None:
        """The next event of those cycles that are in one state."""
        plan, state = self._plans[number], self._process.states[number]
        hot = self._hot[cycles]
        left = self._left[np.ix_(cycles, plan.slots)]
        if plan.slots.size:
            ends = left.argmin(axis=1)
            fails, lasts = self._race(plan, cycles, hot, left.min(axis=1))
        else:
            ends = np.zeros(len(cycles), dtype=np.int64)
            fails = np.ones(len(cycles), dtype=bool)
            lasts = self._until_failure(plan, cycles, self._generator.exponential(size=len(cycles)))
            if number == 0 and self._process.failure_exponent == 1:
                # nothing depends on it, so its mean will do: no noise in the length of a cycle
                lasts = np.full(len(cycles), self._process.first_failure_s)
        event = np.where(fails, self._pick(plan.rates, hot, cycles, fails), ends + len(plan.rates))
        if number:
            self._failures[cycles] += fails
        picked = [
            (which, cycles[here], lasts[here])
            for which in np.unique(event)
            for here in [event == which]
        ]
        for which, chosen, took in picked:
            self._branch(plan, state, plan.events[int(which)], chosen, took)
        self._hot[cycles] &= self._failures[cycles] < self._bias.most

    def _race(
        self, plan: _Plan, cycles: NDArray[np.int64], hot: NDArray[np.bool_], first_s: Floats
    ) -> tuple[NDArray[np.bool_], Floats]:
        """Failure or clock, and when: forced where ``hot``, and weighed."""
        if not plan.rates.size:
            return np.zeros(len(cycles), dtype=bool), first_s
        age = self._age[cycles]
        hazard = plan.rate * self._operational(age, first_s)
        chance = -np.expm1(-hazard)
        forced = np.where(hot & (chance > 0), np.maximum(chance, self._bias.failure), chance)
        fails = self._generator.random(len(cycles)) < forced
        self._weight[cycles] *= np.where(
            fails, _over(chance, forced), _over(np.exp(-hazard), 1 - forced)
        )
        u = self._generator.random(len(cycles))
        until = self._until_failure(plan, cycles, -np.log1p(-u * chance))
        return fails, np.where(fails, np.minimum(until, first_s), first_s)

    def _pick(
        self,
        rates: Floats,
        hot: NDArray[np.bool_],
        cycles: NDArray[np.int64],
        fails: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """Which failure: all alike where ``hot``, and weighed."""
        if not rates.size:
            return np.zeros(len(cycles), dtype=np.int64)
        chances = rates / rates.sum()
        alike = np.full(len(rates), 1 / len(rates))
        picked = self._choose(chances, alike, hot)
        ratio = np.where(hot & fails, chances[picked] * len(rates), 1.0)
        self._weight[cycles] *= ratio
        return picked

    def _choose(self, chances: Floats, biased: Floats, hot: NDArray[np.bool_]) -> NDArray[np.int64]:
        u = self._generator.random(len(hot))
        plain = np.searchsorted(np.cumsum(chances)[:-1], u, side="right")
        forced = np.searchsorted(np.cumsum(biased)[:-1], u, side="right")
        return np.where(hot, forced, plain)

    def _branch(
        self,
        plan: _Plan,
        state: State,
        event: _Event,
        cycles: NDArray[np.int64],
        lasts: Floats,
    ) -> None:
        """Which branch of one event, and what it changes."""
        hot = self._hot[cycles]
        picked = self._choose(event.chances, event.biased, hot)
        ratio = event.chances[picked] / event.biased[picked]
        self._weight[cycles] *= np.where(hot, ratio, 1.0)
        weighted = self._weight[cycles] * lasts
        self._length[cycles] += weighted
        for measure, counts in (
            ("down", not state.serves),
            ("diverging", state.diverging),
            ("exposed", state.exposed),
        ):
            if counts:
                self._rewards[measure][cycles] += weighted
        self._age[cycles] += lasts
        for which in np.unique(picked):
            here = picked == which
            branch = event.branches[int(which)]
            self._go(plan, state, event, branch, cycles[here], lasts[here])

    def _go(
        self,
        plan: _Plan,
        state: State,
        event: _Event,
        branch: Branch,
        cycles: NDArray[np.int64],
        lasts: Floats,
    ) -> None:
        """Enter the next state: clocks go on or are drawn."""
        number = self._process.index[branch.to]
        to = self._process.states[number]
        weight = self._weight[cycles]
        self._rewards["outages"][cycles] += weight * (state.serves and not to.serves)
        self._rewards["losses"][cycles] += weight * branch.loses
        self._rewards["lost_responses"][cycles] += weight * branch.lost_responses
        if branch.loses:
            self._hot[cycles] = False
        old = self._left[cycles] - lasts[:, None]
        self._left[cycles] = np.inf
        for name, clock in to.clocks.items():
            source = branch.moves.get(name, name)
            goes_on = source in state.clocks and source != event.clock
            self._left[cycles, self._slots[name]] = (
                np.maximum(old[:, self._slots[source]], 0.0)
                if goes_on
                else clock.law.draw(self._generator, len(cycles))
            )
        self._state[cycles] = number

    # -- the hazard of failures over a cycle's age ---------------------------------------------

    @cached_property
    def _scale(self) -> float:
        k = self._process.failure_exponent
        return float(gamma(1 + 1 / k)) / self._process.first_failure_s

    def _operational(self, age: Floats, further: Floats) -> Floats:
        """Time that passes for failures, which come at constant rates in it, s."""
        k = self._process.failure_exponent
        if k == 1:
            return further
        grows = (self._scale * (age + further)) ** k - (self._scale * age) ** k
        return np.asarray(grows * self._process.first_failure_s)

    def _until_failure(self, plan: _Plan, cycles: NDArray[np.int64], hazard: Floats) -> Floats:
        """Time until the hazard of this state's failures has grown by so much, s."""
        k = self._process.failure_exponent
        if k == 1:
            return np.asarray(hazard / plan.rate)
        age = self._age[cycles]
        grown = (self._scale * age) ** k + hazard / plan.rate / self._process.first_failure_s
        return np.asarray(np.maximum(grown ** (1 / k) / self._scale - age, 0.0))


def _over(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient; 0 where the case cannot happen."""
    return np.divide(numerator, denominator, np.zeros_like(numerator), where=denominator > 0)


@dataclass(frozen=True)
class _Event:
    """A failure or the end of a clock: its branches, their chances, and what biasing makes them."""

    branches: tuple[Branch, ...]
    clock: str
    chances: Floats
    biased: Floats


class _Plan:
    """A state as arrays: failures first, then clocks."""

    def __init__(self, state: State, slots: Mapping[str, int], bias: float) -> None:
        failures = [failure for failure in state.failures if failure.rate_per_s > 0]
        self.rates = np.array([failure.rate_per_s for failure in failures])
        self.rate = float(self.rates.sum())
        self.slots = np.array([slots[name] for name in state.clocks], dtype=np.int64)
        self.events = [
            *(_event(failure.branches, "", bias) for failure in failures),
            *(_event(clock.branches, name, bias) for name, clock in state.clocks.items()),
        ]


def _event(branches: tuple[Branch, ...], clock: str, bias: float) -> _Event:
    kept = tuple(branch for branch in branches if branch.probability > 0)
    chances = np.array([branch.probability for branch in kept])
    likeliest = int(chances.argmax())
    rare = max(bias, 1 - chances[likeliest]) if len(kept) > 1 else 0.0
    biased = np.full(len(kept), rare / max(len(kept) - 1, 1))
    biased[likeliest] = 1 - rare
    return _Event(kept, clock, chances, biased)
