"""Exact long-run figures of a `Process` whose times are all exponential.

The generator matrix is made of the table's rates.  Its stationary distribution comes from the
elimination of Grassmann, Taksar and Heyman ("Regenerative analysis and steady state distributions
for Markov chains", Operations Research 33, 1985), which never subtracts: rates that differ by
twelve powers of ten cost no digit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from colosim.model.process import Floats, Process, events_of

#: what both solutions say, each in units a second of the long run
MEASURES = ("down", "outages", "losses", "lost_responses", "diverging", "exposed")


@dataclass(frozen=True)
class Cause:
    """Outages that one cause begins: how often a second, how long each (s), how many losses."""

    cause: str
    outages_per_s: float
    outage_s: float
    losses_per_s: float

    @property
    def down(self) -> float:
        """Part of all time that is down because of it."""
        return self.outages_per_s * self.outage_s


@dataclass(frozen=True)
class Exact:
    """Long-run figures.

    measures: of `MEASURES`, for each second.  Part of the time that is down; outages; losses of the
    guest's state; requests lost under way; parts of the time diverging and exposed.
    states: part of the time in each state, by name.
    causes: what begins outages, the longest downtime first.
    """

    measures: Mapping[str, float]
    states: Mapping[str, float]
    causes: tuple[Cause, ...]


def generator_matrix(process: Process) -> Floats:
    """Rates (1/s) from row to column; the diagonal makes rows sum to 0."""
    size = len(process.states)
    matrix = np.zeros((size, size))
    for row, state in enumerate(process.states):
        for _, rate, branch in events_of(state):
            matrix[row, process.index[branch.to]] += rate
    np.fill_diagonal(matrix, 0.0)  # to where it came from is no change
    np.fill_diagonal(matrix, -matrix.sum(axis=1))
    return matrix


def stationary(generator: Floats) -> Floats:
    """Stationary distribution of an irreducible generator matrix (rows to columns)."""
    rates = np.array(generator, dtype=float)
    size = len(rates)
    for last in range(size - 1, 0, -1):
        rates[:last, last] /= rates[last, :last].sum()
        rates[:last, :last] += np.outer(rates[:last, last], rates[last, :last])
    weights = np.ones(size)
    for state in range(1, size):
        weights[state] = weights[:state] @ rates[:state, state]
    return np.asarray(weights / weights.sum())


def solve(process: Process) -> Exact:
    """The long run, if every time of the table were exponential with its mean."""
    share = stationary(generator_matrix(process))
    states = process.states
    serves = np.array([state.serves for state in states])
    measures = dict.fromkeys(MEASURES, 0.0)
    measures["down"] = float(share[~serves].sum())
    measures["diverging"] = float(share[[state.diverging for state in states]].sum())
    measures["exposed"] = float(share[[state.exposed for state in states]].sum())
    for row, state in enumerate(states):
        for _, rate, branch in events_of(state):
            flow = float(share[row] * rate)
            measures["losses"] += flow * branch.loses
            measures["lost_responses"] += flow * branch.lost_responses
            measures["outages"] += flow * _begins(process, row, branch.to)
    return Exact(
        measures,
        {state.name: float(part) for state, part in zip(states, share, strict=True)},
        _causes(process, share),
    )


def _begins(process: Process, row: int, to: str) -> bool:
    """Whether going there from this state begins an outage."""
    return process.states[row].serves and not process.states[process.index[to]].serves


def _causes(process: Process, share: Floats) -> tuple[Cause, ...]:
    """Outages by what began them; the rest of an outage is charged to that too."""
    lasts_s, losses = _until_served(process)
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for row, state in enumerate(process.states):
        for cause, rate, branch in events_of(state):
            if _begins(process, row, branch.to):
                flow, to = float(share[row] * rate), process.index[branch.to]
                lost = losses[to] + branch.loses
                for i, value in enumerate((1.0, lasts_s[to], lost)):
                    found[cause][i] += flow * value
    causes = (Cause(cause, flow, down / flow, lost) for cause, (flow, down, lost) in found.items())
    return tuple(sorted(causes, key=lambda each: -each.down))


def _until_served(process: Process) -> tuple[Floats, Floats]:
    """For each state that does not serve: time until one does (s), losses on the way; else 0."""
    down = [i for i, state in enumerate(process.states) if not state.serves]
    times, losses = np.zeros(len(process.states)), np.zeros(len(process.states))
    if down:
        rates = generator_matrix(process)[np.ix_(down, down)]
        losing = np.zeros(len(down))
        for i, row in enumerate(down):
            losing[i] = sum(rate * b.loses for _, rate, b in events_of(process.states[row]))
        times[down] = np.linalg.solve(-rates, np.ones(len(down)))
        losses[down] = np.linalg.solve(-rates, losing)
    return times, losses
