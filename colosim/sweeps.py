"""Sweeps: a grid over any scenario fields and policies, as a dataset that can be resumed.

A sweep file::

    scenario = "webserver.toml"          # relative to this file
    policies = ["none", "remus"]         # without it, the scenario's own
    replications = 20                    # and seed: instead of the scenario's own

    [axes]                               # any fields of the scenario, by their dotted names
    "link.bandwidth" = ["1 Gbit/s", "10 Gbit/s"]
    "policy.remus.interval" = ["25 ms", "100 ms"]      # varied for remus only

The dataset is a directory with one Parquet file per point, which appears complete or not at all:
what is there is not run again.  ``pandas.read_parquet(directory)`` reads it too.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from colosim import parallel, store
from colosim.progress import Progress
from colosim.protocol.policies import POLICIES
from colosim.scenario import Scenario, load_scenario, read_toml, validated
from colosim.section import OneOf, Section, option
from colosim.units import DIMENSIONS, UnitError

if TYPE_CHECKING:
    import pandas as pd

_MOST_POINTS = 100_000
_MANIFEST = "_sweep.json"  # readers of datasets skip names that begin with _ or .
_COLUMNS = {
    "policy": "string",
    "seed": "int64",
    "replication": "int64",
    "metric": "string",
    "value": "float64",
    "unit": "string",
    "fingerprint": "string",
    "flags": "string",
    "violations": "int64",
}


class SweepError(ValueError):
    """A sweep that cannot be run, or a directory that holds another one; one line."""


class SweepFile(Section):
    """The file of a sweep."""

    scenario: str = option(..., "scenario file, relative to this one")
    policies: list[Annotated[str, OneOf(tuple(POLICIES))]] | None = option(
        None, "policies; default the scenario's own"
    )
    seed: int | None = option(None, "seed; default the scenario's own")
    replications: int | None = option(None, "runs of each point; default the scenario's own")
    axes: dict[str, Any] = option({}, "field of the scenario = [values]")


@dataclass(frozen=True)
class Point:
    """One cell of the grid: ``axes`` holds the values that differ from the base scenario."""

    number: int
    axes: Mapping[str, Any]
    policy: str
    scenario: Scenario

    def __str__(self) -> str:
        return _described(self.policy, self.axes)

    @property
    def file(self) -> str:
        """Name of its part of the dataset; in the order of the grid."""
        return f"part-{self.number:05}.parquet"


@dataclass(frozen=True)
class Plan:
    """A sweep whose every point has been found possible."""

    name: str
    axes: Mapping[str, Sequence[Any]]
    points: Sequence[Point]
    identity: Mapping[str, Any]  # what must be equal for two runs to be the same sweep


@dataclass
class Outcome:
    """How a run of a sweep ended: numbers of points, and what went wrong with those that failed."""

    out: Path
    points: int
    reused: int
    finished: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


# --------------------------------------------------------------------------------------------
# Planning


def plan(source: str | Path | Mapping[str, Any]) -> Plan:
    """Read a sweep (file, or mapping shaped like one) and check every point of it.

    In a mapping, ``scenario`` may also be a Scenario.  Raises ScenarioError or `SweepError`.
    """
    base: Scenario | None = None
    if isinstance(source, Mapping):
        mapping, where, folder = dict(source), "sweep", Path()
        if isinstance(mapping.get("scenario"), Scenario):
            base = mapping["scenario"]
            mapping["scenario"] = base.name
    else:
        folder = Path(source).parent
        mapping, where = read_toml(Path(source), "sweep")
    file = validated(SweepFile, mapping, where)
    base = base or load_scenario(folder / file.scenario)
    own = {"seed": file.seed, "replications": file.replications}
    base = base.replace({key: value for key, value in own.items() if value is not None}, where)
    axes = dict(_axes(file.axes, where))
    policies = file.policies or [base.policy.name]
    if len(set(policies)) < len(policies):
        raise SweepError(f"{where}: policies: has a name twice; leave one out")
    points = list(_points(base, policies, axes, where))
    identity = {
        "scenario": base.to_mapping(),
        "policies": policies,
        "axes": axes,
        "sha256": store.inputs(point.scenario for point in points),
    }
    return Plan(base.name, axes, points, identity)


def _axes(table: Mapping[str, Any], where: str, above: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Dotted names and their values, whether the names are quoted or tables of tables."""
    for key, given in table.items():
        name, value = above + key, given.tolist() if isinstance(given, np.ndarray) else given
        if isinstance(value, Mapping):
            yield from _axes(value, where, f"{name}.")
        elif not isinstance(value, list) or not value:
            raise SweepError(f"{where}: axes.{name}: is no list of values; write [first, second]")
        elif any(each in value[:i] for i, each in enumerate(value)):
            raise SweepError(f"{where}: axes.{name}: has a value twice; leave one out")
        elif name in ("policy", "policy.name"):
            raise SweepError(f"{where}: axes.{name}: is no axis; list them in policies")
        else:
            yield name, value


def _points(
    base: Scenario, policies: Sequence[str], axes: Mapping[str, Sequence[Any]], where: str
) -> Iterator[Point]:
    grids = [(policy, _axes_of(policy, axes)) for policy in policies]
    if sum(math.prod(map(len, mine.values())) for _, mine in grids) > _MOST_POINTS:
        raise SweepError(f"{where}: more than {_MOST_POINTS} points; give fewer values")
    cells = ((policy, mine, each) for policy, mine in grids for each in product(*mine.values()))
    for number, (policy, mine, values) in enumerate(cells):
        chosen = dict(zip(mine, values, strict=True))
        named = {"policy.name": policy} if POLICIES[policy].protects() else {}
        told = f"{where}: point {_described(policy, chosen)}"
        yield Point(number, chosen, policy, base.replace({**named, **chosen}, told))


def _described(policy: str, axes: Mapping[str, Any]) -> str:
    return ", ".join((policy, *(f"{key} = {value}" for key, value in axes.items())))


def _axes_of(policy: str, axes: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """Without other policies' parameters, which change nothing: no point is run under two names."""
    return {
        key: values
        for key, values in axes.items()
        if not key.startswith("policy.") or key.startswith(f"policy.{policy}.")
    }


# --------------------------------------------------------------------------------------------
# Running


def run(
    sweep: Plan,
    out: str | Path,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Run the points that ``out`` does not hold yet; a point that fails does not end the sweep.

    Ctrl-C ends it with ``interrupted`` set.  Raises `SweepError` or StoreError if ``out`` cannot
    be written, is in use, or holds another sweep, or one of other code or input files.
    """
    parallel.check_jobs(jobs)
    out = Path(out)
    with store.resumable(out, _MANIFEST, "sweep", sweep.identity, SweepError):
        for leftover in out.glob(".part-*"):
            leftover.unlink(missing_ok=True)
        todo = [point for point in sweep.points if not (out / point.file).exists()]
        outcome = Outcome(out, len(sweep.points), len(sweep.points) - len(todo))
        tasks = [(point, sweep.axes, out) for point in todo]
        try:
            for point, failure in parallel.run(_run_point, tasks, jobs, progress, sweep.name):
                if failure:
                    outcome.failures[point] = failure
                else:
                    outcome.finished += 1
        except KeyboardInterrupt:
            outcome.interrupted = True
    return outcome


def read(out: str | Path) -> pd.DataFrame:
    """A sweep's dataset as one tidy table, in the order of its grid.

    A column per axis: quantities as numbers in the unit that ends their name ("link.bandwidth_bps",
    "policy.remus.interval_ns"), null where an axis is not of that policy; then policy, seed,
    replication, metric, value, unit, fingerprint, flags, violations (their number).
    """
    import pandas as pd

    return pd.read_parquet(out)


def sweep(
    source: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Run a sweep (file, or mapping shaped like one) and return its dataset; see `read`.

    out: directory of the dataset; one that holds part of this sweep is gone on with.  None keeps
    the dataset only in what is returned.  jobs, progress: as for `simulate`.

    Points that fail are missing, with a warning each.  Raises ScenarioError, `SweepError` or
    StoreError; Ctrl-C raises KeyboardInterrupt and leaves the finished points in ``out``.
    """
    planned = plan(source)
    with TemporaryDirectory(prefix="colosim-") as temporary:
        outcome = run(planned, out or Path(temporary, "sweep"), jobs, progress)
        for point, failure in outcome.failures.items():
            warnings.warn(f"point {point} failed: {failure}", RuntimeWarning, stacklevel=2)
        if outcome.interrupted:
            raise KeyboardInterrupt
        if len(outcome.failures) == outcome.points:
            raise SweepError("every point failed; the warnings say why")
        return read(outcome.out)


def _run_point(point: Point, axes: Mapping[str, Sequence[Any]], out: Path) -> tuple[str, str]:
    """Write one part; returns the point, and what went wrong or nothing."""
    from colosim.api import simulate  # which imports this module

    try:
        result = simulate(point.scenario, point.policy, jobs=1, progress=lambda done, total: None)
        table = result.metrics.assign(
            seed=point.scenario.seed,
            fingerprint=result.fingerprint,
            flags=";".join(result.flags),
            violations=len(result.violations),
        )
        _write_part(table, point, axes, out)
    except Exception as error:  # of whatever kind: it must not end the sweep
        return str(point), f"{type(error).__name__}: {error}"
    return str(point), ""


def _write_part(
    table: pd.DataFrame, point: Point, axes: Mapping[str, Sequence[Any]], out: Path
) -> None:
    """All parts have the same columns and types, whichever axes are of the point's policy."""
    import pyarrow as pa
    from pyarrow import parquet

    columns: dict[str, str] = {}
    for name, values in axes.items():
        column, kind, convert = _column(name, values)
        columns[column] = kind
        table[column] = convert(point.axes[name]) if name in point.axes else None
    schema = pa.schema(list({**columns, **_COLUMNS}.items()))
    fresh = out / f".{point.file}.{os.getpid()}"
    parquet.write_table(pa.Table.from_pandas(table, schema, preserve_index=False), fresh)
    fresh.replace(out / point.file)


def _column(name: str, values: Sequence[Any]) -> tuple[str, str, Callable[[Any], Any]]:
    """Column of an axis, its type and what makes it of a value: quantities become numbers."""
    for dimension in DIMENSIONS.values():
        with suppress(UnitError):
            for value in values:
                dimension.parse(value)
            kind = "int64" if dimension.whole else "float64"
            return f"{name}_{dimension.suffix}", kind, dimension.parse
    types = {type(value) for value in values}
    for of_types, kind in (({bool}, "bool"), ({int}, "int64"), ({int, float}, "float64")):
        if types <= of_types:
            return name, kind, lambda value: value
    return name, "string", lambda value: value if isinstance(value, str) else json.dumps(value)
