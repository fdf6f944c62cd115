"""Scenarios for the simulator's tests, and the closed forms they are held against.

Every statistical check states its false-alarm rate: the chance that a correct simulator fails it
for seeds chosen blindly.  Seeds are fixed, so one commit gives one answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from backends.sim import run_replication
from colosim.analysis.stats import interval
from colosim.model.results import RunRecord
from colosim.scenario import Scenario

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
FALSE_ALARM = 1e-3

#: every step of a checkpoint takes no time (a state of no bytes at all would be no state)
FREE: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("quiesce", "stop", "find_pages", "save_fixed", "save_per_page", "copy_fixed"),
            *("copy_per_page", "load_fixed", "load_per_page", "resume", "fence"),
        ),
        "0 s",
    ),
    "device_state": "1 B",
}
#: a message takes a nanosecond to send, the least there is
INSTANT: Mapping[str, str] = {"bandwidth": "1000000 Gbit/s", "delay": "0 s"}
#: the guests write nothing
NO_PAGES: Mapping[str, Any] = {"kind": "uniform", "working_set_pages": 1, "touches": "0 /s"}
#: heartbeats keep off the link
QUIET: Mapping[str, str] = {"heartbeat_interval": "1000 s", "heartbeat_timeout": "2000 s"}
#: both guests take the same time for the same request
EQUAL: Mapping[str, Any] = {"jitter": 0.0}


def scenario(workload: Mapping[str, Any], duration: str, **tables: Any) -> Scenario:
    """A scenario where protection costs nothing but what ``tables`` say."""
    return Scenario.from_mapping(
        {
            "name": "test",
            "duration": duration,
            "workload": workload,
            "memory": NO_PAGES,
            "cost": FREE,
            "link": INSTANT,
            "manager": QUIET,
            "execution": EQUAL,
            **tables,
        }
    )


def service(load: str, service_time: str, **fields: Any) -> dict[str, Any]:
    """A service whose clients sit next to it."""
    return {
        "kind": "service",
        "load": load,
        "service_time": service_time,
        "client_delay": "0 s",
        **fields,
    }


def poisson(rate_per_s: float, service_time: str = "1 us", **fields: Any) -> dict[str, Any]:
    """Open load on so many servers that nobody queues: responses are a Poisson process too."""
    fields = {"service_distribution": "deterministic", "vcpus": 10_000, **fields}
    return service("open", service_time, rate=f"{rate_per_s} /s", **fields)


def replicate(what: Scenario, policy: str, count: int, seed: int = 1) -> list[RunRecord]:
    return [run_replication(what, policy, seed, replication) for replication in range(count)]


def check_mean(values: Any, truth: float, within: float) -> None:
    """The confidence interval of the mean has the truth in it, and is no wider than said.

    ``within``: largest half width, as part of the truth; without it the check could hardly fail.
    """
    n, mean, low, high = interval(values, 1 - FALSE_ALARM)
    half = (high - low) / 2
    assert half <= within * truth, f"{n} values say too little: {mean:.6g} -+ {half:.3g}"
    assert low <= truth <= high, f"truth {truth:.6g}, measured {mean:.6g} -+ {half:.3g}"


# -- queues ------------------------------------------------------------------------------------


def waiting_s(arrival_per_s: float, service_s: float, servers: int, is_random: bool) -> float:
    """Mean time in the queue.

    M/M/c: Erlang C / (c mu - lambda).  M/D/1: half of M/M/1 (Pollaczek and Khinchine).
    """
    load = arrival_per_s * service_s
    terms = [load**n / math.factorial(n) for n in range(servers)]
    full = load**servers / math.factorial(servers) * servers / (servers - load)
    waiting = full / (sum(terms) + full) * service_s / (servers - load)
    if is_random:
        return waiting
    assert servers == 1
    return waiting / 2


def repairman_per_s(clients: int, think_s: float, service_s: float) -> float:
    """Throughput of N clients, exponential service on one server, thinking of any distribution.

    Product form (Baskett, Chandy, Muntz and Palacios 1975): p(n) ~ N! / (N - n)! (S / Z)^n.
    """
    weights = [math.perm(clients, n) * (service_s / think_s) ** n for n in range(clients + 1)]
    return (1 - weights[0] / sum(weights)) / service_s


# -- a checkpoint ------------------------------------------------------------------------------


class Timeline(NamedTuple):
    """When what happens in a checkpoint of the upstream dialect, ns since its start."""

    stopped_ns: float  # the primary's guest
    cut_ns: float
    committed_ns: float
    resumed_ns: float  # the primary's guest, and client input
    completed_ns: float
    secondary_ns: float  # the secondary's guest runs again


def timeline(what: Scenario, sent_bytes: int, pages: int, restored: int) -> Timeline:
    """Adds up one checkpoint, step by step (`qemu-colo.md` 2.3 and 2.4).

    A side stops its guest at once; that it knows of it takes ``stop``.  Messages are 4 bytes and
    their headers.  copy-then-send resumes the primary's guest before the state is sent.
    """
    cost, link = what.costs(), what.link

    def crossing_ns(size_bytes: int) -> float:
        return size_bytes * 8 / link.bandwidth_bps * NS_PER_S + link.delay_ns

    message_ns = crossing_ns(64 + 4)
    replied_ns = cost.quiesce_ns + message_ns + cost.stop_ns + message_ns
    cut_ns = replied_ns + cost.stop_ns
    early = what.transfer == "copy-then-send"
    taken_ns = cut_ns + (cost.copy_ns(pages) if early else cost.save_ns(pages))
    sending_ns = taken_ns + (cost.resume_ns if early else 0)
    received_ns = sending_ns + crossing_ns(sent_bytes)
    secondary_ns = received_ns + cost.load_ns(restored) + cost.resume_ns
    loaded_ns = secondary_ns + message_ns
    resumed_ns = sending_ns if early else loaded_ns + cost.resume_ns
    return Timeline(
        stopped_ns=replied_ns,
        cut_ns=cut_ns,
        committed_ns=loaded_ns if what.commit == "loaded" else received_ns + message_ns,
        resumed_ns=resumed_ns,
        completed_ns=max(loaded_ns, resumed_ns),
        secondary_ns=secondary_ns,
    )


# -- renewal -----------------------------------------------------------------------------------


class Renewal(NamedTuple):
    """Mean and variance of a number of events."""

    mean: float
    variance: float


def renewals(time_s: float, first_per_s: float, second_per_s: float) -> Renewal:
    """Renewals until ``time_s``, each an exponential time after an exponential time; exact.

    With a = first + second: the transform of the renewal density, f/(1 - f), is
    first second / (s (s + a)), so M(t) = first second / a (t - (1 - e^(-a t)) / a).
    E[N (N - 1)] = 2 M*M'(t), a convolution (Cox, Renewal Theory, 1962, 4.5); by transforms
    2 (first second)^2 / (s^3 (s + a)^2), inverted by partial fractions.
    """
    a, product = first_per_s + second_per_s, first_per_s * second_per_s
    t, gone = time_s, math.exp(-(first_per_s + second_per_s) * time_s)
    mean = product / a * (t - (1 - gone) / a)
    inverse = t**2 / (2 * a**2) - 2 * t / a**3 + 3 / a**4 - gone * (t / a**3 + 3 / a**4)
    return Renewal(mean, 2 * product**2 * inverse + mean - mean**2)


def asymptotic_renewals(time_s: float, mean_s: float, variance_s2: float) -> Renewal:
    """Renewals until a time much longer than a cycle (Cox, Renewal Theory, 4.2 and 4.5)."""
    mean = time_s / mean_s + (variance_s2 - mean_s**2) / (2 * mean_s**2)
    return Renewal(mean, time_s * variance_s2 / mean_s**3)


# -- records -----------------------------------------------------------------------------------


def latency_ns(record: RunRecord, from_ns: int, to_ns: int) -> np.ndarray:
    """Latency of the requests sent in [from, to); all of them must have been answered."""
    arrival, released = record.responses["arrival_ns"], record.responses["released_ns"]
    chosen = (arrival >= from_ns) & (arrival < to_ns)
    assert (released[chosen] >= 0).all()
    return (released - arrival)[chosen]


def seen(record: RunRecord, what: str, node: str | None = None) -> list[dict[str, Any]]:
    """The record's events of one kind, of one node if given."""
    return [e for e in record.events if e["what"] == what and node in (None, e["node"])]


# -- queues, whole distributions and servers that stop ---------------------------------------------


def served_by(t_s: float, arrival_per_s: float, service_s: float, is_random: bool) -> float:
    """Chance that a request has left M/M/1 or M/D/1 (first come, first served) after ``t_s``.

    M/M/1: exponential of rate mu - lambda.  M/D/1: the service, after a wait that ends by t with
    chance (1 - rho) sum over k <= t / D of (-x)^k e^x / k!, x = lambda (t - k D) (Erlang 1909;
    Crommelin 1932).  Its terms alternate: exact enough while lambda t is below some 20.
    """
    if is_random:
        return -math.expm1(-(1 / service_s - arrival_per_s) * t_s)
    wait_s = t_s - service_s
    if wait_s < 0:
        return 0.0
    total = 0.0
    for k in range(math.floor(wait_s / service_s + 1e-9) + 1):
        x = arrival_per_s * (wait_s - k * service_s)
        total += (-x) ** k * math.exp(x) / math.factorial(k)
    return (1 - arrival_per_s * service_s) * total


def interrupted_s(
    arrival_per_s: float, service_s: float, distribution: str, stops_per_s: float, stopped_s: float
) -> float:
    """Mean time in M/G/1 whose server stops at rate ``stops_per_s`` while it runs, busy or not.

    Each time for ``stopped_s``; a service goes on where it was (Avi-Itzhak and Naor, "Some Queuing
    Problems with the Service Station Subject to Breakdown", Operations Research 11(3), 1963, model
    A; or, as a queue with vacations, by the decomposition of Fuhrmann and Cooper 1985).  With
    B = service and the stops in it:  E[B] + lambda E[B^2] / 2 (1 - lambda E[B]), and what one who
    finds an idle server stopped waits for: stops E[R^2] / 2 (1 + stops E[R]).
    """
    longer = 1 + stops_per_s * stopped_s
    second = service_s**2 * (2 if distribution == "exponential" else 1)
    whole_s = service_s * longer
    whole_s2 = second * longer**2 + service_s * stops_per_s * stopped_s**2
    load = arrival_per_s * whole_s
    waiting_s = arrival_per_s * whole_s2 / (2 * (1 - load))
    return whole_s + waiting_s + stops_per_s * stopped_s**2 / (2 * longer)


def delayed_renewals(time_s: float, first_s: float, mean_s: float, variance_s2: float) -> Renewal:
    """`asymptotic_renewals` where the first cycle has another mean (Cox, 4.2 and 4.5)."""
    ordinary = asymptotic_renewals(time_s, mean_s, variance_s2)
    return ordinary._replace(mean=ordinary.mean + 1 - first_s / mean_s)
