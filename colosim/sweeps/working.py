"""What a worker does: runs pieces of a sweep and hands back parts of its dataset.

A worker may be this process, another one here, or one on another machine, which is why everything
that it needs comes as one blob, and nothing is read from or written to disk.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from backends.sim import run_replication
from colosim import store
from colosim.scenario import Scenario
from colosim.sweeps.columns import Column
from colosim.sweeps.dataset import Piece, encode
from colosim.sweeps.derived import Metric
from colosim.sweeps.errors import SweepError
from colosim.sweeps.planning import Point


class OtherCode(SweepError):
    """A worker's code or libraries are not those of the process that runs the sweep."""


@dataclass(frozen=True)
class Job:
    """What all points have in common; ``sweep``: digest of the sweep."""

    base: Scenario
    columns: Sequence[Column]
    derived: Sequence[Metric]
    sweep: str


@dataclass(frozen=True, slots=True)
class Done:
    """A piece that was run: its part, or why there is none; and how long it took."""

    piece: Piece
    part: bytes
    failure: str
    violations: int
    took_s: float


def packed(job: Job, pieces: Sequence[tuple[Point, Piece]]) -> bytes:
    """What `run_pieces` takes.  Other code need not be able to read it."""
    return pickle.dumps((job, list(pieces)))


def run_pieces(versions: Mapping[str, str], blob: bytes) -> list[Done]:
    """Run some pieces; one that fails is told and does not end the others.

    Raises `OtherCode`, one line, if this process has other versions than it should.
    """
    mine = store.versions()
    if differing := [name for name in versions if mine.get(name) != versions[name]]:
        there = ", ".join(f"{name} {mine.get(name)}" for name in differing)
        here = ", ".join(f"{name} {versions[name]}" for name in differing)
        raise OtherCode(
            f"a worker has other code: {there} there and {here} here; "
            "install the same on all machines and restart the workers"
        )
    job, pieces = pickle.loads(blob)
    if multiprocessing.parent_process() is not None:
        _keep_modules()
    return [_run(job, point, piece) for point, piece in pieces]


@cache
def _keep_modules() -> None:
    """What a worker process has loaded by now it keeps; looking through it for garbage, again and
    again, took a twentieth of its time.
    """
    gc.freeze()


def _run(job: Job, point: Point, piece: Piece) -> Done:
    start_s = time.monotonic()
    part, failure, violations = b"", "", 0
    try:
        part, violations = _part(job, point, piece)
    except Exception as error:  # of whatever kind: it must not end the sweep
        failure = " ".join(f"{type(error).__name__}: {error}".split())
    return Done(piece, part, failure, violations, time.monotonic() - start_s)


def _part(job: Job, point: Point, piece: Piece) -> tuple[bytes, int]:
    scenario = point.scenario(job.base)
    seed, policy = scenario.seed, point.policy
    found: list[dict[str, float]] = []
    units: dict[str, str] = {}
    fingerprints: list[str] = []
    flags: set[str] = set()
    violations = 0
    for replication in range(piece.first, piece.first + piece.count):
        record = run_replication(scenario, policy, seed, replication)
        metrics = record.metrics()
        units |= {name: unit for name, (_, unit) in metrics.items()}
        values = {name: value for name, (value, _) in metrics.items()}
        for each in job.derived:
            values[each.name] = each.value(values)
        found.append(values)
        fingerprints.append(record.fingerprint())
        flags.update(record.flags)
        violations += len(record.violations)
    units |= {each.name: each.unit for each in job.derived}
    rows = {
        "policy": policy,
        "seed": seed,
        "replication": [piece.first + i for i in range(piece.count) for _ in units],
        "metric": [*units] * piece.count,
        "value": [values.get(name, math.nan) for values in found for name in units],
        "unit": [*units.values()] * piece.count,
        "fingerprint": store.run_fingerprint(scenario, policy, fingerprints),
        "flags": ";".join(sorted(flags)),
        "violations": violations,
    }
    footer = {
        "sweep": job.sweep,
        "versions": store.versions(),
        "point": piece.point,
        "baseline": point.baseline,
        "first": piece.first,
        "replications": piece.count,
    }
    columns = {
        column: column.convert(point.axes[column.axis]) if column.axis in point.axes else None
        for column in job.columns
    }
    return encode(columns, rows, footer), violations
