"""How many requests the simulator does per second at fidelity ``epoch``, on one core.

    python -m benchmarks.requests [--requests N] [--rounds N] [--peers PYTHON] [--json FILE]

Open arrivals at half of the server's capacity; 1 response in 10,000 differs, and Remus has a
checkpoint as often.  Beside it, in turns: the same scenario at fidelity ``response``, and a bare
M/M/1 (two processes and a queue, no statistics, nothing replicated) in SimPy, and in cimba and
salabim if PYTHON, which is this one by default, has them (PyPI).  Times are CPU times.  Nothing
here is a test.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

import simpy

from backends.sim import run_replication
from benchmarks.command import Command
from benchmarks.peers import add_peers
from benchmarks.rounds import Run, context, ratio, rows, show, turns
from benchmarks.speed import timed
from colosim.scenario import Scenario

RATE_PER_S = 200_000
POLICIES = ("none", "remus", "colo")
SIMPY = "SimPy, bare M/M/1"


def scenario(requests: int, fidelity: str) -> Scenario:
    return Scenario.from_mapping(
        {
            "name": "requests",
            "duration": f"{requests * 1_000_000_000 // RATE_PER_S} ns",
            "fidelity": fidelity,
            "policy": {"remus": {"interval": "50 ms"}},
            "workload": {
                "kind": "service",
                "load": "open",
                "rate": f"{RATE_PER_S} /s",
                "service_time": "2500 ns",
            },
            "memory": {"kind": "uniform", "working_set_pages": 2_000, "touches": "5000 /s"},
            "link": {"bandwidth": "10 Gbit/s"},
            "divergence": {"probability": 0.0001},
        }
    )


def simulated(requests: int, policy: str, fidelity: str) -> tuple[int, float]:
    """Requests that were made, and seconds of CPU time."""
    what = scenario(requests, fidelity)
    record, spent_s = timed(lambda: run_replication(what, policy, 1, 0))
    return record.responses["client"].size, spent_s


def simpy_mm1(requests: int) -> tuple[int, float]:
    """A bare M/M/1 of two processes."""
    env, draw = simpy.Environment(), Random(1)
    queue: simpy.Store = simpy.Store(env)

    def arrivals() -> Any:
        for request in range(requests):
            yield env.timeout(draw.expovariate(0.5))
            yield queue.put(request)

    def server() -> Any:
        for _ in range(requests):
            yield queue.get()
            yield env.timeout(draw.expovariate(1.0))

    env.process(arrivals())
    env.process(server())
    return requests, timed(env.run)[1]


def bare(peer: str) -> str:
    """The name of a peer's case."""
    return f"{peer}, bare M/M/1"


def measure(requests: int, rounds: int, python: str) -> dict[str, Any]:
    """Context, counts, ``rows``, and why a peer was ``skipped``."""
    few = max(1, requests // 100)  # of what is slower by as much
    cases: dict[str, Run] = {}
    for policy in POLICIES:
        cases[f"epoch, {policy}"] = partial(simulated, requests, policy, "epoch")
        cases[f"response, {policy}"] = partial(simulated, few, policy, "response")
        simulated(few, policy, "epoch")  # imports and caches are warm
    cases[SIMPY] = partial(simpy_mm1, few)
    counts = {"cimba": requests, "salabim": few}
    versions, skipped = add_peers(cases, python, "mm1", counts, bare)
    rates = turns(cases, rounds)
    found = rows(rates, "requests", (SIMPY, *map(bare, counts)))
    for row in found:  # each fidelity beside the other one of its policy
        slow = row.case.replace("epoch", "response")
        if slow != row.case:
            row.ratios["response"] = ratio(rates[row.case], rates[slow])
    return {
        **context(versions),
        "requests": requests,
        "rounds": rounds,
        "rows": found,
        "skipped": skipped,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the JSON if asked to."""
    parser = Command("requests", __doc__)
    parser.count("--requests", 2_000_000)
    parser.count("--rounds", 5)
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON")
    parser.offer_json()
    given = parser.parse_args(arguments)
    show(measure(given.requests, given.rounds, given.peers), given.json)


if __name__ == "__main__":
    main()
