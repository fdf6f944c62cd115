"""The entries: explore a space, look at one point; as an object, a directory and text."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from html import escape
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from colosim import store
from colosim.exploration import report, running, space
from colosim.exploration.judging import Verdict, judge
from colosim.exploration.running import Found, Plan, run_point
from colosim.exploration.shrinking import shrink
from colosim.exploration.space import Point, PointError
from colosim.progress import Progress
from colosim.protocol.trace import Line

if TYPE_CHECKING:
    import pandas as pd

_MANIFEST = "_explore.json"
_VERDICTS = "verdicts.csv"
_COLUMNS = ("batch", "of_batch", "point", "outcome", "struck", "violations")

_MOST_TOLD = 5

WHATS = ("singles", "pairs", "swarm")


@dataclass(frozen=True)
class Violation:
    """A broken promise: as it was found, and the smallest point that still breaks it."""

    found: Verdict
    minimal: Verdict
    trace: str
    is_live: bool = False

    @property
    def command(self) -> str:
        """Runs the minimal point again, and shows the same trace."""
        live = "--live " if self.is_live else ""
        return f"colosim explore {live}--point '{self.minimal.point}'"

    def lines(self) -> Iterator[str]:
        """All of it, for people."""
        for promise, wrong in self.minimal.violations:
            yield f"VIOLATION: {promise}: {wrong}"
        yield f"found at:  {self.found.point}"
        yield f"minimal:   {self.minimal.point}"
        yield f"replay it: {self.command}"
        yield ""
        yield self.trace


@dataclass
class Exploration:
    """What was explored and found; ``violations``: the first of each promise and policy, shrunk."""

    plan: Plan
    found: Found
    violations: list[Violation] = field(default_factory=list)

    @property
    def interrupted(self) -> bool:
        """Ctrl-C came before all points were run."""
        return self.found.interrupted

    @cached_property
    def table(self) -> pd.DataFrame:
        """design, faults, outcome, points."""
        return report.outcomes(self.found.counts)

    def summary(self, rows: str = "policy") -> pd.DataFrame:
        """Points by outcome; rows: "policy", "design" or "faults"."""
        return report.summary(self.table, rows)

    @property
    def title(self) -> str:
        count, broken = self.found.points, self.found.violations
        return f"{self.plan.what}: {count} points, {broken} violated; seed {self.plan.seed}"

    def __repr__(self) -> str:
        return f"<Exploration of {self.title}>"

    def _repr_html_(self) -> str:
        parts = [f"<p>{escape(self.title)}</p>", self.summary("design").to_html()]
        parts += [f"<pre>{escape(chr(10).join(each.lines()))}</pre>" for each in self.violations]
        return "".join(parts)


def explore(
    what: str = "singles",
    designs: Sequence[str] | str = "*",
    scenario: str | Path = "quick",
    *,
    runs: int = 10_000,
    seed: int = 1,
    occurrence: int = 3,
    replays: bool = False,
    per_first: int | None = None,
    out: str | Path | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Exploration:
    """Run every fault that is asked for, judge each run, and make what is violated small.

    what: "singles", every kind of fault at every step of both sides; "pairs", each of those with
    every second fault at every step that was still entered; "swarm", ``runs`` points of one to
    three faults and other settings, drawn from ``seed``.
    designs: one pattern or several, such as ``"colo/*"`` or ``"*/rfc2014/*"``.
    scenario: the base that faults are added to: "quick", or the path of a scenario file.
    occurrence: which time a step is entered, where it is entered again and again.
    replays: hold that each run's trace replays to the same decisions, not only each hundredth's.
    per_first: of pairs, so many second faults of each first one, drawn from ``seed``; None: all.
    out: directory to write; one that holds part of this exploration is gone on with.
    jobs, progress: as for `colosim.simulate`.

    Ctrl-C returns what was found until then, with ``interrupted`` set.  Raises PointError,
    ScenarioError or StoreError, one line each.
    """
    if what not in WHATS:
        raise PointError(f"{what}: cannot be explored; give one of {', '.join(WHATS)}")
    patterns = [designs] if isinstance(designs, str) else designs
    plan = plan_of(what, patterns, str(scenario), runs, seed, occurrence, replays, per_first)
    place = None if out is None else Path(out)
    with kept(place, plan) as (done, keep):
        found = Found(plan)
        for verdict in chain.from_iterable(done.values()):
            found.add(verdict)
        running.explore(found, frozenset(done), keep, jobs, progress)
        told = [_explained(verdict) for verdict in _first_of_each(found.violated)]
        result = Exploration(plan, found, told)
        if place is not None:
            write(place, result)
    return result


def plan_of(
    what: str,
    patterns: Sequence[str] = ("*",),
    base: str = "quick",
    runs: int = 10_000,
    seed: int = 1,
    occurrence: int = 3,
    replays: bool = False,
    per_first: int | None = None,
) -> Plan:
    """A plan of what is asked for, if there is such a thing."""
    for name, value in (("runs", runs), ("occurrence", occurrence), ("per_first", per_first)):
        if value is not None and value < 1:
            raise PointError(f"{name}: {value} is too small; give 1 or more")
    every = space.all_designs()
    for pattern in patterns:
        if not any(fnmatchcase(str(design), pattern) for design in every):
            policies = ", ".join(dict.fromkeys(design.policy for design in every))
            raise PointError(
                f"{pattern}: no such design; write POLICY/DIALECT/TRANSFER/COMMIT[/QUIRKS], "
                f"such as {every[0]} or colo/*; policies are {policies}"
            )
    chosen = tuple(d for d in every if any(fnmatchcase(str(d), each) for each in patterns))
    for design in chosen:
        space.base_scenario(base).replace(design.changes, f"{base}, design {design}")
    return Plan(what, chosen, seed, runs, base, occurrence, replays, per_first)


def _first_of_each(violated: Sequence[Verdict]) -> list[Verdict]:
    first: dict[tuple[str, str], Verdict] = {}
    # few faults are understood first
    for verdict in sorted(violated, key=lambda verdict: len(verdict.point.faults)):
        key = (verdict.violations[0][0], verdict.point.design.policy)
        first.setdefault(key, verdict)
    return list(first.values())[:_MOST_TOLD]


def _explained(verdict: Verdict) -> Violation:
    minimal = shrink(verdict)
    _, _, trace = look(minimal.point)
    return Violation(verdict, minimal, trace)


def look(point: Point) -> tuple[Verdict, int, str]:
    """Run one point: its verdict, how many trace lines it has, and its readable trace."""
    lines: list[Line] = []
    run = run_point(point, replays=True, observers=[lines.append])
    return judge(run), len(lines), report.trace_text(run, lines)


# --------------------------------------------------------------------------------------------
# The directory


#: the verdicts of each complete batch
_Done = dict[int, list[Verdict]]


@contextmanager
def kept(place: Path | None, plan: Plan) -> Iterator[tuple[_Done, Any]]:
    """A directory to fill: the batches it holds, and what keeps another one."""
    if place is None:
        yield {}, lambda number, verdicts: None
        return
    identity = {**asdict(plan), "base": _identity_of(plan.base)}
    identity["designs"] = [str(design) for design in plan.designs]
    with store.resumable(place, _MANIFEST, "exploration", identity):
        path = place / _VERDICTS
        done = _read(path)
        with store.explained(place):
            fresh = path.with_name(f".part-{_VERDICTS}")
            with fresh.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(_COLUMNS)
                for number, verdicts in done.items():
                    _append(file, number, verdicts)
            fresh.replace(path)
            with path.open("a", newline="", encoding="utf-8") as file:
                yield done, lambda number, verdicts: _append(file, number, verdicts)


def _identity_of(base: str) -> Any:
    return base if base in space.ALL_BASES else space.base_scenario(base).to_mapping()


def _append(file: IO[str], number: int, verdicts: Sequence[Verdict]) -> None:
    """All rows of a batch at once; each says how many there are, so half a batch can be told."""
    text = StringIO()
    csv.writer(text).writerows(
        (number, len(verdicts), v.point, v.outcome, v.struck, json.dumps(v.violations))
        for v in verdicts
    )
    file.write(text.getvalue())
    file.flush()


def _read(path: Path) -> _Done:
    rows: _Done = {}
    sizes: dict[int, int] = {}
    if not path.exists():
        return rows
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                verdict = Verdict(
                    Point.parse(row["point"]),
                    row["outcome"],
                    int(row["struck"]),
                    tuple((name, wrong) for name, wrong in json.loads(row["violations"])),
                )
                number, size = int(row["batch"]), int(row["of_batch"])
            except (ValueError, TypeError, KeyError):
                continue  # the last row of a run that was killed
            rows.setdefault(number, []).append(verdict)
            sizes[number] = size
    return {number: found for number, found in rows.items() if len(found) == sizes[number]}


def write(place: Path, result: Exploration) -> None:
    """The tables, and what was violated."""
    with store.explained(place):
        result.table.to_csv(place / "outcomes.csv", index=False)
        body = {
            "title": result.title,
            "interrupted": result.interrupted,
            "points": result.found.points,
            "violated": result.found.violations,
            "violations": [as_mapping(each) for each in result.violations],
        }
        text = json.dumps(body, indent=2, allow_nan=False)
        (place / "report.json").write_text(text + "\n", "utf-8")


def as_mapping(violation: Violation) -> dict[str, Any]:
    """For JSON."""
    return {
        "found": str(violation.found.point),
        "minimal": str(violation.minimal.point),
        "violations": [list(each) for each in violation.minimal.violations],
        "command": violation.command,
        "trace": violation.trace.splitlines(),
    }
