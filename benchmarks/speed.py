"""How many responses and checkpoints the simulator does per second, on one core, in one run.

    python -m benchmarks.speed [--json FILE]

Beside each run, a bare SimPy loop processes as many events as the run counted; the ratio of the
two says what the models and the protocol cost on top of SimPy.  Runs and bare loops take turns, so
that a slow moment of a shared machine meets both.  Times are CPU times of this process.  ``trace``
means that every trace line is encoded and written, and that the invariants are watched.

Nothing here is a test: a number that depends on the machine has no right value.
"""

from __future__ import annotations

import gc
import os
import platform
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import simpy

import colosim
from backends.sim import run_replication
from benchmarks.command import Command, write
from colosim.model.results import RunRecord
from colosim.protocol.trace import encode_line
from colosim.scenario import Scenario
from colosim.session import Observer

POLICIES = ("none", "remus", "colo")
RATES_PER_S = (100, 1_000, 5_000)
MEMORY_RATE_PER_S = 1_000
PENDING = 10  # events in the bare loop's queue at any time, about as many as in a world's


@dataclass(frozen=True, slots=True)
class Counts:
    """How much to run: ``responses`` and ``checkpoints`` a run, ``repetitions`` of each run."""

    responses: int = 10_000
    checkpoints: int = 1_000
    repetitions: int = 5


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to time; what counts are the rows of table ``counted`` that came to an end."""

    name: str
    counted: str
    policy: str
    scenario: Scenario

    def count(self, record: RunRecord) -> int:
        ended = {"responses": "served_ns", "checkpoints": "completed_ns"}[self.counted]
        return int((getattr(record, self.counted)[ended] >= 0).sum())


def service(rate_per_s: float, duration_ns: int) -> Scenario:
    """A service with Poisson arrivals at up to half of its capacity, and a small working set."""
    return Scenario.from_mapping(
        {
            "name": "speed",
            "duration": f"{duration_ns} ns",
            "policy": {"remus": {"interval": "50 ms"}},
            "workload": {
                "kind": "service",
                "load": "open",
                "rate": f"{rate_per_s} /s",
                "service_time": "100 us",
            },
            "memory": {"kind": "uniform", "working_set_pages": 2_000, "touches": "5000 /s"},
            "divergence": {"probability": 0.0005},
        }
    )


def responses_case(policy: str, rate_per_s: int, responses: int) -> Case:
    duration_ns = responses * 1_000_000_000 // rate_per_s
    scenario = service(rate_per_s, duration_ns)
    return Case(f"{policy}, {rate_per_s} requests/s", "responses", policy, scenario)


def checkpoints_case(checkpoints: int) -> Case:
    """Nothing but checkpoints: 100 a second, next to no load."""
    scenario = service(0.001, checkpoints * 10_000_000)
    scenario = scenario.replace({"policy.remus.interval": "10 ms"})
    return Case("remus, 100 checkpoints/s, idle", "checkpoints", "remus", scenario)


def cases(counts: Counts) -> list[Case]:
    return [
        checkpoints_case(counts.checkpoints),
        *(
            responses_case(policy, rate_per_s, counts.responses)
            for policy in POLICIES
            for rate_per_s in RATES_PER_S
        ),
    ]


# --------------------------------------------------------------------------------------------
# Running


@contextmanager
def measuring() -> Iterator[None]:
    """Keep this process on one core, where the system can do that.

    The collector leaves alone what is there already: how much that is has nothing to do with what
    is measured.
    """
    can_pin = hasattr(os, "sched_setaffinity")
    allowed = os.sched_getaffinity(0) if can_pin else set()
    gc.collect()
    gc.freeze()
    try:
        if can_pin:
            os.sched_setaffinity(0, {max(allowed)})
        yield
    finally:
        if can_pin:
            os.sched_setaffinity(0, allowed)
        gc.unfreeze()


@contextmanager
def trace_writer(is_on: bool) -> Iterator[list[Observer]]:
    """Observers of a run: none, or one that writes the trace to a file that goes away."""
    if not is_on:
        yield []
        return
    with tempfile.TemporaryFile("w") as file:
        yield [lambda line: print(encode_line(line), file=file)]


def bare_loop(events: int) -> int:
    """Let SimPy process ``events`` timeouts with a callback each; return how many it did."""
    env = simpy.Environment()
    done = planned = 0

    def plan() -> None:
        nonlocal planned
        planned += 1
        env.timeout(PENDING).callbacks.append(call)

    def call(event: simpy.Event) -> None:
        nonlocal done
        done += 1
        if planned < events:
            plan()

    for _ in range(min(PENDING, events)):
        plan()
    env.run()
    return done


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """(what it returns, seconds of CPU time)."""
    gc.collect()
    start_s = time.process_time()
    result = call()
    return result, time.process_time() - start_s


def run(case: Case, trace: bool) -> RunRecord:
    with trace_writer(trace) as observers:
        return run_replication(case.scenario, case.policy, 1, 0, observers)


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def time_case(case: Case, trace: bool, repetitions: int) -> Callable[[], dict[str, Any] | None]:
    """Returns a function to call ``repetitions`` times; the last call returns the row."""
    run_s: list[float] = []
    bare_s: list[float] = []

    def repeat() -> dict[str, Any] | None:
        record, seconds = timed(lambda: run(case, trace))
        run_s.append(seconds)
        events = record.counters["simulated_events"]
        bare_s.append(timed(lambda: bare_loop(events))[1])
        if len(run_s) < repetitions:
            return None
        count = case.count(record)
        return {
            "case": case.name,
            "policy": case.policy,
            "trace": trace,
            "counted": case.counted,
            "count": count,
            "simulated_events": events,
            "run_s": run_s,
            "bare_s": bare_s,
            "per_s": spread([count / each for each in run_s]),
            "ratio_to_bare": spread([a / b for a, b in zip(run_s, bare_s, strict=True)]),
        }

    return repeat


def memory_row(policy: str, trace: bool, responses: int) -> dict[str, Any]:
    """Memory that one more response takes: peak of a run twice as long, less that of a run."""

    def peak(count: int) -> tuple[int, int]:
        case = responses_case(policy, MEMORY_RATE_PER_S, count)
        gc.collect()
        tracemalloc.start()
        try:
            record = run(case, trace)
            return record.responses["client"].size, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    (few, low_bytes), (many, high_bytes) = peak(responses), peak(2 * responses)
    per_response = (high_bytes - low_bytes) / (many - few)
    return {"policy": policy, "trace": trace, "bytes_per_response": per_response}


def measure(counts: Counts, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Everything, as one mapping that JSON can hold.

    Keys: date (UTC), versions, machine, counts, rows (one a case and trace setting: count,
    simulated_events, run_s, bare_s, per_s and ratio_to_bare with median, min and max) and memory
    (bytes_per_response).
    """
    with measuring():
        run(responses_case("colo", MEMORY_RATE_PER_S, 100), True)  # imports and caches are warm
        repeats = [
            time_case(case, trace, counts.repetitions)
            for case in cases(counts)
            for trace in (False, True)
        ]
        rows: list[dict[str, Any] | None] = []
        for i in range(counts.repetitions):
            say(f"repetition {i + 1} of {counts.repetitions}")
            rows = [repeat() for repeat in repeats]
        say("memory")
        memory = [
            memory_row(policy, trace, counts.responses)
            for policy in POLICIES
            for trace in (False, True)
        ]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "colosim": colosim.__version__,
            "python": platform.python_version(),
            "simpy": version("simpy"),
            "numpy": version("numpy"),
        },
        "machine": processor(),
        "counts": {name: getattr(counts, name) for name in Counts.__slots__},
        "rows": rows,
        "memory": memory,
    }


def processor() -> str:
    """The processor's name as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


# --------------------------------------------------------------------------------------------
# Showing


def _range(values: Mapping[str, float], digits: int) -> str:
    middle, low, high = (f"{values[key]:,.{digits}f}" for key in ("median", "min", "max"))
    return f"{middle} ({low} to {high})"


def table(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of text, the heading first; one row a case, the trace off and on beside each other."""
    heading = ("case", "a second", "times bare SimPy", "a second, trace", "times bare SimPy, trace")
    by_case: dict[str, list[str]] = {}
    for row in result["rows"]:
        name = f"{row['count']:,} {row['counted']}: {row['case']}"
        cells = (_range(row["per_s"], 0), _range(row["ratio_to_bare"], 1))
        by_case.setdefault(name, []).extend(cells)
    return [heading, *((name, *cells) for name, cells in by_case.items())]


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def markdown(result: Mapping[str, Any]) -> str:
    """The snippet for the README."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    heading, *rows = table(result)
    memory = ", ".join(
        f"{row['bytes_per_response']:,.0f} B for {row['policy']}"
        for row in result["memory"]
        if not row["trace"]
    )
    return "\n".join(
        [
            f"Measured on {result['date']}, one core of {result['machine']}, {versions}; median "
            f"(min to max) of {result['counts']['repetitions']} interleaved repetitions "
            "(`python -m benchmarks.speed`):",
            "",
            *(f"| {' | '.join(row)} |" for row in (heading, ("---",) * len(heading), *rows)),
            "",
            f"Memory a response: {memory}.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the JSON if asked to."""
    parser = Command("speed", __doc__)
    parser.offer_json()
    default = Counts()
    for name in Counts.__slots__:
        parser.count(f"--{name}", getattr(default, name))
    given = vars(parser.parse_args(arguments))
    file = given.pop("json")
    result = measure(Counts(**given), lambda text: print(text, file=sys.stderr))
    print(aligned(table(result)))
    print()
    for row in result["memory"]:
        trace = "on" if row["trace"] else "off"
        print(
            f"memory, {row['policy']}, trace {trace}: {row['bytes_per_response']:,.0f} B/response"
        )
    print(f"\n{markdown(result)}")
    write(result, file)


if __name__ == "__main__":
    main()
