"""A sweep of the web server: 1,000 points of 20 replications, each 60 s of simulated time.

    python -m benchmarks.sweeps [--points N] [--replications N] [--scheduler NAME] [--json FILE]

Says how long it takes by the clock; with --overhead, how much of the CPU's time is simulation and
how much the sweep itself (planning, metrics, fingerprints, Parquet); with --scheduler dask, how
well two workers of a local Dask cluster share the work: T1 / (2 T2), with T1 the time in this
process alone.  Two cores seldom do twice the work of one, least of all where others use them too.
So each round also has a peer: two processes that know nothing of each other and do half of it each.

The web server is ``experiments/scenarios/webserver-redis.toml`` at fidelity ``epoch``: at least
20,000 requests and 100 checkpoints a run.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from backends.sim import run_replication
from benchmarks.command import Command, write
from benchmarks.rounds import context, ratio
from benchmarks.speed import aligned
from colosim import store, sweeps
from colosim.scenario import load_scenario
from colosim.sweeps import working
from colosim.sweeps.dataset import Dataset, Piece
from colosim.sweeps.working import Job, packed, run_pieces

SCENARIO = Path(__file__).parents[1] / "experiments/scenarios/webserver-redis.toml"
#: values of the first axis; the second has the rest of the points
RATES = 10
LEAST_REQUESTS, LEAST_CHECKPOINTS = 20_000, 100
#: what the goal is of: runs, and cores that share them
RUNS, CORES = 1_000 * 20, 2


def sweep(points: int, replications: int) -> dict[str, Any]:
    """Remus at intervals that give 105 to 150 checkpoints, by rates of requests."""
    base = load_scenario(SCENARIO).replace(
        {"duration": "60 s", "warm_up": "5 s", "fidelity": "epoch", "policy.name": "remus"}
        | {"memory.pages_per_request": 0.5}  # half of them write; the curve is of 500 requests/s
    )
    steps = max(points // RATES, 2)
    return {
        "scenario": base,
        "replications": replications,
        "axes": {
            "workload.rate": {"from": "350 /s", "to": "700 /s", "steps": max(points // steps, 2)},
            "policy.remus.interval": {"from": "400 ms", "to": "550 ms", "steps": steps},
        },
    }


def measure(points: int, replications: int, scheduler: str) -> dict[str, Any]:
    """Seconds of everything; see the module."""
    start_s = time.perf_counter()
    plan = sweeps.plan(sweep(points, replications))
    planned_s = time.perf_counter() - start_s
    checked = _cost_of_runs(plan)
    runs = len(plan.points) * replications
    name = "processes" if scheduler == "here" else scheduler
    jobs = {"here": 1, "processes": os.cpu_count()}.get(scheduler)
    with tempfile.TemporaryDirectory() as folder:
        if jobs != 1:  # workers that have imported everything
            sweeps.run(sweeps.plan(sweep(4, 1)), Path(folder, "warm"), jobs, scheduler=name)
        start_s = time.perf_counter()
        outcome = sweeps.run(plan, Path(folder, "out"), jobs, scheduler=name)
        took_s = time.perf_counter() - start_s
        size = sum(path.stat().st_size for path in Path(folder, "out").glob("part-*"))
    if outcome.failures:
        raise RuntimeError(f"points failed: {outcome.failures}")
    return {
        "scheduler": scheduler,
        "points": len(plan.points),
        "replications": replications,
        "plan_s": planned_s,
        "took_s": took_s,
        "runs_per_s": runs / took_s,
        "dataset_bytes": size,
        **checked,
    }


def overhead(points: int, replications: int) -> dict[str, Any]:
    """CPU time of a sweep in this process, and how much of it is that of its runs.

    ``whole_s``: how long `RUNS` such runs would take `CORES` that have nothing else to do.
    """
    alone_s = 0.0

    def timed(*arguments: Any) -> Any:
        nonlocal alone_s
        begun_s = time.process_time()
        record = run_replication(*arguments)
        alone_s += time.process_time() - begun_s
        return record

    plan = sweeps.plan(sweep(points, replications))
    job = Job(plan.base, plan.columns, plan.derived, plan.digest)
    run_pieces(store.versions(), packed(job, [(plan.points[0], Piece(0, 0, 1))]))  # imports
    with tempfile.TemporaryDirectory() as folder, patch.object(working, "run_replication", timed):
        start_s = time.process_time()
        plan = sweeps.plan(sweep(points, replications))
        plan_s = time.process_time() - start_s
        dataset = Dataset(Path(folder), plan.digest)
        for point in plan.points:
            piece = Piece(point.number, 0, replications)
            for done in run_pieces(store.versions(), packed(job, [(point, piece)])):
                dataset.write(done.piece, done.part)
        begun_s = time.process_time()
        dataset.write_summary()
        summary_s = time.process_time() - begun_s
        whole_s = time.process_time() - start_s
    runs = len(plan.points) * replications
    return {
        "points": len(plan.points),
        "replications": replications,
        "run_ms": alone_s / runs * 1e3,
        "sweep_ms": (whole_s - alone_s) / runs * 1e3,
        "of_it_plan_ms": plan_s / runs * 1e3,
        "of_it_summary_ms": summary_s / runs * 1e3,
        "share": 1 - alone_s / whole_s,
        "whole_s": whole_s / runs * RUNS / CORES,
    }


def cluster(points: int, replications: int, rounds: int) -> dict[str, Any]:
    """Two Dask workers, this process alone, and two processes with half the replications each.

    efficiency, machine: T1 / (2 T2) of Dask and of the two processes; of_machine: their ratio.
    """
    from distributed import LocalCluster

    plan = sweeps.plan(sweep(points, replications))
    checked = _cost_of_runs(plan)
    halves = (replications // CORES, replications - replications // CORES)
    spawning = multiprocessing.get_context("spawn")
    with (
        LocalCluster(n_workers=CORES, threads_per_worker=1, dashboard_address=None) as dask,
        ProcessPoolExecutor(CORES, spawning) as pool,
    ):
        address = dask.scheduler_address

        def two(points: int, halves: Sequence[int]) -> None:
            list(pool.map(_whole, [points] * CORES, halves))

        ways: dict[str, Callable[[], None]] = {
            "here_s": partial(_whole, points, replications),
            "two_s": partial(two, points, halves),
            "dask_s": partial(_whole, points, replications, address),
        }
        _whole(4, 1, address)  # workers that have imported everything
        two(4, (1, 1))
        took_s: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds):
            for name in sorted(ways, reverse=bool(number % 2)):
                start_s = time.perf_counter()
                ways[name]()
                took_s[name].append(time.perf_counter() - start_s)
    of_all = {name: [CORES * each for each in found] for name, found in took_s.items()}
    return {
        "points": len(plan.points),
        "replications": replications,
        "rounds": rounds,
        **checked,
        **took_s,
        "efficiency": ratio(took_s["here_s"], of_all["dask_s"]),
        "machine": ratio(took_s["here_s"], of_all["two_s"]),
        "of_machine": ratio(took_s["two_s"], took_s["dask_s"]),
    }


def _whole(points: int, replications: int, scheduler: str = "processes") -> None:
    """The sweep, in this process unless there is a scheduler."""
    jobs = 1 if scheduler == "processes" else None
    with tempfile.TemporaryDirectory() as folder:
        plan = sweeps.plan(sweep(points, replications))
        outcome = sweeps.run(plan, Path(folder, "out"), jobs, scheduler=scheduler)
    if outcome.failures:
        raise RuntimeError(f"points failed: {outcome.failures}")


def _cost_of_runs(plan: sweeps.Plan) -> Mapping[str, Any]:
    """What the smallest of the runs has, and that it is enough."""
    counts = []
    for point in (plan.points[0], plan.points[len(plan.points) // 2], plan.points[-1]):
        record = run_replication(point.scenario(plan.base), point.policy, plan.base.seed, 0)
        counts.append((len(record.responses["client"]), len(record.checkpoints["checkpoint"])))
    requests, checkpoints = (min(each) for each in zip(*counts, strict=True))
    if requests < LEAST_REQUESTS or checkpoints < LEAST_CHECKPOINTS:
        raise RuntimeError(f"too little in a run: {requests} requests, {checkpoints} checkpoints")
    return {"least_requests": requests, "least_checkpoints": checkpoints}


def table(found: Mapping[str, Any]) -> Sequence[tuple[str, ...]]:
    """The result as rows of text."""
    return [
        (name, " ".join(map(_shown, value)) if isinstance(value, list) else _shown(value))
        for name, value in found.items()
    ]


def _shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = Command("sweeps", __doc__)
    parser.count("--points", 1_000)
    parser.count("--replications", 20)
    parser.add_argument(
        "--scheduler",
        default="processes",
        help="processes, here, dask (two local workers), tcp://HOST:PORT, ray",
    )
    parser.count("--rounds", 5, text="of --scheduler dask")
    parser.add_argument("--overhead", action="store_true", help="CPU time of the sweep itself")
    parser.offer_json()
    given = parser.parse_args(arguments)
    if given.overhead:
        found = overhead(given.points, given.replications)
    elif given.scheduler == "dask":
        if given.replications < CORES:
            parser.error(f"--replications: give at least {CORES}: two processes share them")
        found = cluster(given.points, given.replications, given.rounds)
    else:
        found = measure(given.points, given.replications, given.scheduler)
    print(aligned(table(found)))
    write({**context({}), **found}, given.json)


if __name__ == "__main__":
    main()
