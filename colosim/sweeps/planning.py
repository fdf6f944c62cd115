"""Plans: a sweep whose every point has been found possible, before any is run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from colosim import markup, store
from colosim.protocol.policies import POLICIES
from colosim.scenario import Scenario, load_scenario, read_toml, validated
from colosim.sweeps import derived, design
from colosim.sweeps.adaptive import Rule
from colosim.sweeps.columns import COMMON, Column, column
from colosim.sweeps.errors import SweepError
from colosim.sweeps.file import Adaptive, Design, SweepFile

_MOST_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Point:
    """One combination: ``axes`` holds the values that differ from the base scenario.

    ``baseline``: the number of the point that it is compared with, None for such points.
    """

    number: int
    axes: Mapping[str, Any]
    policy: str
    baseline: int | None = None

    def __str__(self) -> str:
        return ", ".join((self.policy, *(f"{key} = {value}" for key, value in self.axes.items())))

    def scenario(self, base: Scenario, where: str = "sweep") -> Scenario:
        """What is simulated; ScenarioError if that cannot be."""
        named = {"policy.name": self.policy} if POLICIES[self.policy].protects() else {}
        return base.replace({**named, **self.axes}, f"{where}: point {self}")


@dataclass(frozen=True)
class Plan:
    """A sweep: points are made of ``base``, and results of all of them have the same ``columns``.

    ``identity``: what must be equal for two runs to be the same sweep.
    ``rule``: where further replications go, None for as many of each point.
    """

    name: str
    base: Scenario
    columns: Sequence[Column]
    points: Sequence[Point]
    identity: Mapping[str, Any]
    derived: Sequence[derived.Metric] = ()
    rule: Rule | None = None
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        whole = json.dumps([self.identity, store.versions()], sort_keys=True)
        object.__setattr__(self, "digest", store.fingerprint(whole)[:32])

    def _repr_html_(self) -> str:
        """How much there is to run, and over what; the base scenario is folded."""
        runs = len(self.points) * self.base.replications
        policies = list(dict.fromkeys(point.policy for point in self.points))
        values: dict[str, list[str]] = {}
        for point in self.points:
            for name, value in point.axes.items():
                values.setdefault(name, []).append(str(value))
        rows = [(name, _few(list(dict.fromkeys(each)))) for name, each in values.items()]
        counted = "" if self.rule is None else "at least "
        about = f"{self.name}: {len(self.points)} points, {counted}{runs} runs"
        return "".join(
            [
                markup.verdict(about),
                markup.table([("policies", ", ".join(policies)), *rows]),
                markup.more("the scenario", self.base._repr_html_()),
            ]
        )


def _few(values: Sequence[str]) -> str:
    """The values of an axis, or their number and the ends of a long list."""
    if len(values) <= _MOST_SHOWN:
        return ", ".join(values)
    return f"{len(values)} values: {values[0]}, {values[1]} ... {values[-1]}"


def plan(source: str | Path | Mapping[str, Any], adaptive: bool = False) -> Plan:
    """Read a sweep (file, or mapping shaped like one) and check every point of it.

    In a mapping, ``scenario`` may also be a Scenario.  adaptive: as if it had a table [adaptive].
    Raises ScenarioError or `SweepError`.
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
    policies = file.policies or [base.policy.name]
    if len(set(policies)) < len(policies):
        raise SweepError(f"{where}: policies: has a name twice; leave one out")
    if file.baseline not in (None, *policies):
        raise SweepError(
            f"{where}: baseline: {file.baseline!r} is none of policies; "
            f"use one of {', '.join(policies)}"
        )
    axes = list(design.axes(file.axes, base, where))
    points = _points(policies, file.baseline or policies[0], axes, file, where)
    metrics = derived.metrics(file.derived, base, where)
    rule = _rule(file.adaptive or (Adaptive() if adaptive else None), base, metrics, points, where)
    identity = {
        "scenario": base.to_mapping(),
        "policies": policies,
        "baseline": file.baseline or policies[0],
        "design": file.design.model_dump(mode="json", by_alias=True, exclude_none=True),
        "axes": {axis.name: axis.values or _file_value(file.axes, axis.name) for axis in axes},
        "points": {"number": len(points), "sha256": _digest(points)},
        "derived": {each.name: [each.of, each.unit] for each in metrics},
        "adaptive": None if rule is None else rule.to_mapping(),
        "sha256": store.inputs(point.scenario(base, where) for point in points),
    }
    columns = [
        column(axis.name, axis.values or _seen(axis.name, points))
        for axis in axes
        if axis.name not in COMMON  # the seed is there anyway
    ]
    return Plan(base.name, base, columns, points, identity, metrics, rule)


def _points(
    policies: Sequence[str],
    baseline: str,
    axes: Sequence[design.Axis],
    file: SweepFile,
    where: str,
) -> list[Point]:
    """Every policy at every row of the design, without the parameters of other policies, which
    change nothing: no point is run under two names.
    """
    points: list[Point] = []
    numbers: dict[str, int] = {}  # of the baseline's points
    order = [baseline, *(policy for policy in policies if policy != baseline)]
    by_policy = {policy: _cells(policy, axes, file.design, where) for policy in order}
    design.check_number(sum(map(len, by_policy.values())), where)
    shared = [axis.name for axis in axes if _is_of(baseline, axis.name)]
    for policy in policies:
        for cell in by_policy[policy]:
            points.append(Point(len(points), cell, policy))
            if policy == baseline:
                numbers.setdefault(_key(cell, shared), len(points) - 1)
    return [
        point
        if point.policy == baseline
        else Point(point.number, point.axes, point.policy, numbers.get(_key(point.axes, shared)))
        for point in points
    ]


def _cells(
    policy: str, axes: Sequence[design.Axis], of: Design, where: str
) -> list[dict[str, Any]]:
    mine = [axis for axis in axes if _is_of(policy, axis.name)]
    if of.kind == "grid":
        names, rows = [axis.name for axis in mine], design.rows(of, mine, where)
        return [dict(zip(names, row, strict=True)) for row in rows]
    keep = {axis.name for axis in mine}
    names, rows = [axis.name for axis in axes], design.rows(of, axes, where)
    cells = [
        {name: value for name, value in zip(names, row, strict=True) if name in keep}
        for row in rows
    ]
    if len(mine) == len(axes):
        return cells
    return list({_key(cell, keep): cell for cell in reversed(cells)}.values())[::-1]


def _is_of(policy: str, axis: str) -> bool:
    return not axis.startswith("policy.") or axis.startswith(f"policy.{policy}.")


def _key(cell: Mapping[str, Any], names: Any) -> str:
    return json.dumps({name: cell.get(name) for name in names}, sort_keys=True)


def _seen(name: str, points: Sequence[Point]) -> list[Any]:
    return [point.axes[name] for point in points if name in point.axes]


def _file_value(table: Mapping[str, Any], name: str) -> Any:
    """What a file says of an axis, whether its name is quoted or tables of tables."""
    if name in table:
        return table[name]
    for key, below in table.items():
        if name.startswith(f"{key}.") and isinstance(below, Mapping):
            return _file_value(below, name.removeprefix(f"{key}."))
    raise AssertionError(name)


def _digest(points: Sequence[Point]) -> str:
    return store.fingerprint([[point.policy, dict(point.axes)] for point in points])


def _rule(
    given: Adaptive | None,
    base: Scenario,
    metrics: Sequence[derived.Metric],
    points: Sequence[Point],
    where: str,
) -> Rule | None:
    if given is None:
        return None
    known = [*derived.known_metrics(base), *(each.name for each in metrics)]
    for name in given.metrics:
        if name not in known:
            raise SweepError(
                f"{where}: adaptive.metrics: there is no metric {name!r}; known: {', '.join(known)}"
            )
    try:
        return Rule.of(given, base.replications, len(points))
    except SweepError as error:
        raise SweepError(f"{where}: {error}") from None
