"""How many requests the simulator does per second at fidelity ``epoch``, on one core.

    python -m benchmarks.requests [--cimba PYTHON] [--json FILE]

Open arrivals at half of the server's capacity; 1 response in 10,000 differs, and Remus has a
checkpoint as often.  Beside it, in turns: the same scenario at fidelity ``response``, and a bare
M/M/1 (two processes and a queue, no statistics, nothing replicated) in SimPy and in cimba, if
PYTHON, which is this one by default, has it (PyPI).  Times are CPU times.  Nothing here is a test.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import simpy

from backends.sim import run_replication
from benchmarks.speed import aligned, one_core, processor, timed
from colosim.scenario import Scenario

RATE_PER_S = 200_000
POLICIES = ("none", "remus", "colo")
CIMBA_MODULE = "benchmarks.cimba_mm1"


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


def cimba_mm1(python: str, requests: int) -> tuple[float, str] | None:
    """Seconds of CPU time and cimba's version; None where there is none."""
    command = [python, "-m", CIMBA_MODULE, str(requests)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        if "No module named 'cimba'" in done.stderr:
            return None
        raise SystemExit(f"{python}: cimba does not run: {done.stderr.strip().splitlines()[-1]}")
    seconds, release = done.stdout.split()
    return float(seconds), release


def measure(requests: int, repetitions: int, python: str) -> dict[str, Any]:
    """Rows of JSON: case, requests a second (median, min, max), ratios to the bare M/M/1s."""
    few = max(1, requests // 100)  # of what is slower by as much
    cases: dict[str, Callable[[], tuple[int, float]]] = {}
    for policy in POLICIES:
        cases[f"epoch, {policy}"] = partial(simulated, requests, policy, "epoch")
        cases[f"response, {policy}"] = partial(simulated, few, policy, "response")
    cases["SimPy, bare M/M/1"] = partial(simpy_mm1, few)
    releases: dict[str, str] = {"cimba": ""}
    with one_core():
        if (first := cimba_mm1(python, few)) is not None:
            releases["cimba"] = first[1]

            def again() -> tuple[int, float]:
                found = cimba_mm1(python, requests)
                assert found is not None
                return requests, found[0]

            cases["cimba, bare M/M/1"] = again
        for policy in POLICIES:
            simulated(few, policy, "epoch")  # imports and caches are warm
        rates: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(repetitions):
            for name, run in cases.items():
                count, spent_s = run()
                rates[name].append(count / spent_s)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": processor(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "simpy": version("simpy"),
        "cimba": releases["cimba"],
        "requests": requests,
        "repetitions": repetitions,
        "rows": [_row(name, rates) for name in cases],
    }


def _row(name: str, rates: dict[str, list[float]]) -> dict[str, Any]:
    each = rates[name]
    peers = {
        "response": name.replace("epoch", "response"),
        "SimPy": "SimPy, bare M/M/1",
        "cimba": "cimba, bare M/M/1",
    }
    return {
        "case": name,
        "per_s": [median(each), min(each), max(each)],
        "ratios": {
            peer: median(a / b for a, b in zip(each, rates[other], strict=True))
            for peer, other in peers.items()
            if other in rates
        },
    }


def table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    peers = ("response", "SimPy", "cimba")
    heading = ("case", "requests a second (min to max)", *(f"times {peer}" for peer in peers))
    rows: list[tuple[str, ...]] = [heading]
    for row in result["rows"]:
        middle, low, high = (f"{each:,.0f}" for each in row["per_s"])
        ratios = (f"{row['ratios'][peer]:.2f}" if peer in row["ratios"] else "" for peer in peers)
        rows.append((row["case"], f"{middle} ({low} to {high})", *ratios))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the JSON if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.requests", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--requests", type=int, default=2_000_000, metavar="N")
    parser.add_argument("--repetitions", type=int, default=5, metavar="N")
    parser.add_argument("--cimba", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole result")
    given = parser.parse_args(arguments)
    if min(given.requests, given.repetitions) < 1:
        parser.error("counts are at least 1")
    result = measure(given.requests, given.repetitions, given.cimba)
    print(aligned(table(result)))
    if not result["cimba"]:
        print(f"{given.cimba} has no cimba; pip install cimba, or give --cimba PYTHON")
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
