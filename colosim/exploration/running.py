"""Runs points: one, or very many in all processes, with what is known kept as it comes.

Memory is bounded: batches of points are made where they are run, and what comes back is a row a
point, which is counted, written and forgotten; only violations are kept.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from backends.sim import run_replication
from colosim import parallel
from colosim.exploration.judging import Claim, EndlessTalk, Run, Verdict, Watcher, claim_of, judge
from colosim.exploration.space import (
    ARBITER,
    Design,
    Entered,
    Point,
    followed,
    singles,
    swarm_point,
)
from colosim.model.errors import ModelError
from colosim.model.results import RunRecord
from colosim.progress import Progress
from colosim.protocol.trace import Line, decode_line, encode_line, replay
from colosim.units import TIME

_BATCH = 20
#: violations that are kept whole; more are only counted
MOST_KEPT = 1000


def run_point(
    point: Point,
    replays: bool = False,
    observers: Sequence[Callable[[Line], None]] = (),
    stepped: Callable[[str, str], None] | None = None,
) -> Run:
    """Simulate a point.  replays: write its trace, read it again and feed it to new nodes.

    A core that raises is a finding like others.  Raises ScenarioError for what cannot be run.
    """
    scenario, lines = point.scenario(), list[Line]()
    watcher = Watcher(point, scenario)
    watching = [watcher.see, *([lines.append] if replays else []), *observers]
    try:
        record = run_replication(scenario, point.design.policy, point.seed, 0, watching, stepped)
    except (ModelError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a defect of the core makes of a run
        kind = "" if isinstance(error, EndlessTalk) else f"{type(error).__name__}: "
        return Run(point, scenario, watcher, None, f"{kind}{error}")
    found = replay([decode_line(encode_line(line)) for line in lines]) if replays else ()
    differences = tuple(
        f"node {d.node}, line {d.n}: recorded {d.recorded}, replayed {d.replayed}" for d in found
    )
    run = Run(point, scenario, watcher, record, "", differences)
    if run.is_late and claim_of(point) >= Claim.SURVIVES:
        return replace(run, longer=_continued(run))
    return run


def _continued(run: Run) -> RunRecord | None:
    """The same run for twice as long, less a fault that has not struck; nothing if that fails."""
    point = run.point if run.struck else replace(run.point, faults=())
    twice = {"duration": TIME.format(2 * run.scenario.duration_ns)}
    try:
        scenario = point.scenario().replace(twice)
        return run_replication(scenario, point.design.policy, point.seed, 0)
    except Exception:  # such a defect is for a point of that length to find
        return None


def entered_after(point: Point, replays: bool = False) -> tuple[Verdict, Entered]:
    """A point's verdict, and every step that was entered since its fault struck."""
    log: list[tuple[int, str, str, int]] = []
    seen: dict[tuple[str, str], int] = {}
    now_ns = 0

    def see(line: Line) -> None:
        nonlocal now_ns
        now_ns = line.now_ns

    def stepped(node: str, step: str) -> None:
        seen[node, step] = seen.get((node, step), 0) + 1
        log.append((now_ns, node, step, seen[node, step]))

    run = run_point(point, replays, [see], stepped)
    record = run.record
    struck = [] if record is None else [e["at_ns"] for e in record.events if e["what"] == "fault"]
    if not struck:
        return judge(run), ()
    return judge(run), [entry[1:] for entry in log if entry[0] >= struck[0]]


# --------------------------------------------------------------------------------------------
# Many


@dataclass(frozen=True, slots=True)
class Plan:
    """What to explore.

    what: "singles", every fault at every step; "pairs", each of those with every second fault at
    every step that was still entered; "swarm", drawn from the seed.  runs: how many of a swarm.
    replays: every run's trace must replay to the same decisions; always so of each hundredth run.
    per_first: of pairs, so many second faults of each first one, drawn from the seed; None: all.
    """

    what: str
    designs: tuple[Design, ...]
    seed: int = 1
    runs: int = 10_000
    base: str = "quick"
    occurrence: int = 3
    replays: bool = False
    per_first: int | None = None

    def batches(self) -> list[tuple[Plan, int]]:
        """(this plan, number of the batch); a batch is made by whoever runs it."""
        return [(self, number) for number in range(-(-self.size // self.per_batch))]

    @property
    def per_batch(self) -> int:
        """Pieces of work of a batch: a pair's piece is its first fault, with all that follows."""
        return 1 if self.what == "pairs" else _BATCH

    @property
    def size(self) -> int:
        """How many pieces of work there are."""
        return self.runs if self.what == "swarm" else len(self._singles())

    def points(self, batch: int) -> list[Point]:
        """The points of one batch; of pairs, their first faults."""
        first = batch * self.per_batch
        if self.what != "swarm":
            return list(self._singles()[first : first + self.per_batch])
        numbers = range(first, min(first + self.per_batch, self.runs))
        return [swarm_point(number, self.seed, self.designs, self.base) for number in numbers]

    def drawn(self, first: Point, pairs: Sequence[Point]) -> Sequence[Point]:
        """Those to run of the pairs that there are with a first fault, in their order."""
        if self.per_first is None or len(pairs) <= self.per_first:
            return pairs
        draw = random.Random(f"{self.seed}/{first}")
        return [pairs[n] for n in sorted(draw.sample(range(len(pairs)), self.per_first))]

    def _singles(self) -> Sequence[Point]:
        found = _singles(self.designs, self.base, self.seed, self.occurrence)
        if self.what == "pairs":
            return [point for point in found if point.faults and point.design.protects]
        return found


@cache
def _singles(designs: tuple[Design, ...], base: str, seed: int, occurrence: int) -> Sequence[Point]:
    """Made once a process."""
    return tuple(singles(designs, base, seed, occurrence))


def run_batch(plan: Plan, number: int) -> tuple[int, list[Verdict]]:
    """Everything of one batch, judged."""
    verdicts = []

    def replays(place: int) -> bool:
        return plan.replays or place % 100 == 0

    for place, point in enumerate(plan.points(number), number * plan.per_batch):
        if plan.what == "pairs":
            verdict, entered = entered_after(point, replays(place))
            verdicts.append(verdict)
            pairs = plan.drawn(point, list(followed(point, entered)))
            verdicts += [judge(run_point(p, replays(n))) for n, p in enumerate(pairs, place + 1)]
        else:
            verdicts.append(judge(run_point(point, replays(place))))
    return number, verdicts


@dataclass
class Found:
    """What an exploration has found: counts, and the violations themselves."""

    plan: Plan
    counts: dict[tuple[str, str, str], int] = field(default_factory=dict)
    violated: list[Verdict] = field(default_factory=list)
    violations: int = 0
    interrupted: bool = False

    def add(self, verdict: Verdict) -> None:
        point = verdict.point
        key = (str(point.design), kinds_of(point), verdict.outcome)
        self.counts[key] = self.counts.get(key, 0) + 1
        if verdict.violations:
            self.violations += 1
            if len(self.violated) < MOST_KEPT:
                self.violated.append(verdict)

    @property
    def points(self) -> int:
        return sum(self.counts.values())


def kinds_of(point: Point) -> str:
    """Its faults without their times, in alphabetical order: "link cut + primary crash host"."""
    words = (
        " ".join(
            filter(
                None,
                (
                    *(f.target, f.kind, f.scope, f.part),
                    f.sender and f"of {f.sender}",
                    f"of {f.side}" if f.target == ARBITER and f.side else None,
                ),
            )
        )
        for f in point.faults
    )
    return " + ".join(sorted(words)) or "no fault"


def explore(
    found: Found,
    done: Collection[int] = (),
    keep: Callable[[int, list[Verdict]], None] = lambda number, verdicts: None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Run all batches of ``found.plan`` but those ``done``, and add what is found.

    ``keep`` is called with each batch as it ends.  Ctrl-C sets ``interrupted`` and ends it.
    """
    parallel.check_jobs(jobs)
    plan = found.plan
    todo = [task for task in plan.batches() if task[1] not in done]
    try:
        for number, verdicts in parallel.run(run_batch, todo, jobs, progress, plan.what):
            keep(number, verdicts)
            for verdict in verdicts:
                found.add(verdict)
    except KeyboardInterrupt:
        found.interrupted = True
