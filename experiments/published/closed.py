"""Clients that wait for their answers: closed forms to fit with, which the simulator is then given.

Without protection it is the machine repairman with several servers; under periodic checkpoints all
clients wait for the same commit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq


@dataclass(frozen=True, slots=True)
class Service:
    """``servers`` in the guest; a request takes ``service_s``, a client thinks ``think_s``."""

    service_s: float
    think_s: float
    servers: int

    @property
    def capacity_per_s(self) -> float:
        """Most requests a second."""
        return self.servers / self.service_s

    def throughput_per_s(self, clients: float) -> float:
        """Requests a second without protection."""
        return throughput_per_s(clients, self.think_s, self.service_s, self.servers)

    def latency_s(self, clients: float) -> float:
        """Mean time from request to answer, by Little's law."""
        return clients / self.throughput_per_s(clients) - self.think_s


def throughput_per_s(clients: float, think_s: float, service_s: float, servers: int) -> float:
    """Of exponential service and thinking of any distribution, by the product form.

    p(n) ~ N! / (N - n)! (S / Z)^n / prod min(i, c) (Baskett, Chandy, Muntz and Palacios 1975).  A
    number of clients that is not whole is taken for the mixture of its neighbours.
    """
    whole = math.floor(clients)
    if clients > whole:
        low, high = (throughput_per_s(n, think_s, service_s, servers) for n in (whole, whole + 1))
        return low + (clients - whole) * (high - low)
    if not whole:
        return 0.0
    busy = np.minimum(np.arange(1, whole + 1), servers)
    steps = np.log(np.arange(whole, 0, -1)) + math.log(service_s) - math.log(think_s) - np.log(busy)
    logs = np.concatenate(([0.0], np.cumsum(steps)))
    weights = np.exp(logs - logs.max())
    return float((weights[1:] * busy).sum() / weights.sum() / service_s)


def fit(few: tuple[float, float], most: tuple[float, float], servers: int) -> Service:
    """The service with the throughputs of a few clients and at the peak: (clients, per_s) each.

    Two values, two parameters.  Raises ValueError if there is none.
    """

    def service_s(think_s: float) -> float:
        clients, wanted = most
        return _solve(
            lambda log: math.log(
                throughput_per_s(clients, think_s, math.exp(log), servers) / wanted
            ),
            math.log(servers / wanted) - 5,
            math.log(servers / wanted) + 1e-9,
        )

    def surplus(log: float) -> float:
        think_s = math.exp(log)
        return throughput_per_s(few[0], think_s, service_s(think_s), servers) / few[1] - 1

    longest = math.log(min(clients / per_s for clients, per_s in (few, most)) * (1 - 1e-6))
    think_s = _solve(surplus, longest - 12, longest)
    return Service(service_s(think_s), think_s, servers)


def _solve(function, low: float, high: float) -> float:  # type: ignore[no-untyped-def]
    """E to the root of ``function`` between two logarithms."""
    if function(low) * function(high) > 0:
        raise ValueError("no clients that wait have these throughputs")
    return math.exp(brentq(function, low, high, xtol=1e-10))


def epochs_of_cycle(period_s: float, commit_s: float, think_s: float) -> float:
    """Mean number of epochs from one answer of a client to its next, if nobody queues.

    Checkpoints start every ``period_s`` and commit ``commit_s`` later; then all answers leave.  The
    client thinks an exponential time and its next request waits for the first checkpoint after
    it: E[ceil((commit + think) / period)].
    """
    if think_s <= 0:
        return 1.0
    first = math.exp(-max(period_s - commit_s, 0.0) / think_s)
    return 1 + first / -math.expm1(-period_s / think_s)
