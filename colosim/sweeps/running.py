"""Runs what a dataset does not hold yet, whoever is the scheduler, and keeps each piece at once."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from colosim import markup, store
from colosim.progress import Progress, reporter
from colosim.sweeps import schedulers
from colosim.sweeps.adaptive import Rule, Values
from colosim.sweeps.dataset import MANIFEST, Dataset, Piece, read
from colosim.sweeps.errors import SweepError
from colosim.sweeps.planning import Plan, Point, plan
from colosim.sweeps.schedulers import Scheduler, WorkerLost
from colosim.sweeps.working import Done, Job, packed, run_pieces

if TYPE_CHECKING:
    import pandas as pd

#: work of a task: enough that handing it over does not count, little enough to lose
_TASK_S = 0.5


@dataclass
class Outcome:
    """How a run of a sweep ended: numbers of points, and what went wrong with those that failed.

    ``reused``: points that were all there; ``finished``: others that are now.
    ``runs``: replications that were run now.  ``violations``: broken invariants among them.
    ``wide``: of an adaptive sweep, points with an interval that is wider than wanted.
    ``unwritten``: why it ended before its time, if ``out`` could not be written any more.
    """

    out: Path
    points: int
    reused: int = 0
    finished: int = 0
    runs: int = 0
    violations: int = 0
    wide: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    unwritten: str = ""

    def _repr_html_(self) -> str:
        """How far it came, what failed and why, and where the dataset is."""
        there = self.reused + self.finished
        state = "interrupted, " if self.interrupted else ""
        state += f"{self.unwritten}, " if self.unwritten else ""
        told = [f"{state}{there} of {self.points} points are there"]
        told += [f"{len(self.failures)} failed"] if self.failures else []
        told += [f"{self.violations} broken invariants"] if self.violations else []
        told += [f"{self.wide} with wide intervals"] if self.wide else []
        rows = [
            ("run now", f"{self.finished} points, {self.runs} replications"),
            ("were there", f"{self.reused} points"),
            ("dataset", str(self.out)),
        ]
        failed = markup.more("What failed", markup.table(self.failures.items()))
        whole = markup.verdict("; ".join(told)) + markup.table(rows)
        return whole + (failed if self.failures else "")


def run(
    sweep: Plan,
    out: str | Path,
    jobs: int | None = None,
    progress: Progress | None = None,
    scheduler: str = "processes",
) -> Outcome:
    """Run the points that ``out`` does not hold yet; a point that fails does not end the sweep.

    scheduler: "processes" (``jobs`` of them), "tcp://HOST:PORT" of a Dask scheduler, "ray" or
    "ray://HOST:PORT".  Ctrl-C ends it with ``interrupted`` set, a full disk with ``unwritten``;
    what was finished is there.  Raises `SweepError` or StoreError if ``out`` cannot be made, is in
    use, or holds another sweep, or one of other code or input files; and if the scheduler cannot be
    used, or was lost.
    """
    schedulers.check(scheduler, jobs)
    out = Path(out)
    outcome = Outcome(out, len(sweep.points))
    with store.resumable(out, MANIFEST, "sweep", sweep.identity, SweepError):
        dataset = Dataset(out, sweep.digest)
        try:
            with ExitStack() as stack:
                runner = _Runner(sweep, dataset, outcome, stack, scheduler, jobs, progress)
                runner.run()
        except KeyboardInterrupt:
            outcome.interrupted = True
        except store.StoreError as error:
            outcome.unwritten = str(error)
        try:
            dataset.write_summary()
        except store.StoreError as error:
            outcome.unwritten = outcome.unwritten or str(error)
    return outcome


def sweep(
    source: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    scheduler: str = "processes",
    adaptive: bool = False,
) -> pd.DataFrame:
    """Run a sweep (file, or mapping shaped like one) and return its dataset; see `read`.

    out: directory of the dataset; one that holds part of this sweep is gone on with.  None keeps
    the dataset only in what is returned.  jobs, progress: as for `simulate`.
    scheduler: who runs it: "processes", a Dask scheduler's "tcp://HOST:PORT", "ray" or
    "ray://HOST:PORT".  adaptive: further replications where intervals are wide, as with a table
    [adaptive].

    Points that fail are missing, with a warning each.  Raises ScenarioError, `SweepError` or
    StoreError; Ctrl-C raises KeyboardInterrupt and leaves the finished points in ``out``.
    """
    planned = plan(source, adaptive)
    with TemporaryDirectory(prefix="colosim-") as temporary:
        outcome = run(planned, out or Path(temporary, "sweep"), jobs, progress, scheduler)
        for point, failure in outcome.failures.items():
            warnings.warn(f"point {point} failed: {failure}", RuntimeWarning, stacklevel=2)
        if outcome.interrupted:
            raise KeyboardInterrupt
        if outcome.unwritten:
            raise store.StoreError(outcome.unwritten)
        if len(outcome.failures) == outcome.points:
            raise SweepError("every point failed; the warnings say why")
        return read(outcome.out)


@dataclass
class _Runner:
    """One run of a sweep."""

    plan: Plan
    dataset: Dataset
    outcome: Outcome
    stack: ExitStack
    scheduler: str
    jobs: int | None
    progress: Progress | None
    _opened: Scheduler | None = None
    _missing: set[int] = field(default_factory=set)  # points that were not all there
    _open: set[int] = field(default_factory=set)  # those of them that are not yet, or failed

    def run(self) -> None:
        """All pieces, round by round: without a rule there is one round."""
        first = self.plan.base.replications
        pieces = [Piece(point.number, 0, first) for point in self.plan.points]
        values: dict[int, Values] = {}
        rule = self.plan.rule
        number = 0
        while pieces:
            self._round([piece for piece in pieces if not self.dataset.has(piece)], number)
            if rule is None:
                break
            for piece in pieces:
                self._learn(rule, piece, values)
            pieces = [Piece(*batch) for batch in rule.further(values)]
            number += 1
        if rule is not None:
            self.outcome.wide = rule.wide(values)

    def _learn(self, rule: Rule, piece: Piece, values: dict[int, Values]) -> None:
        """Add what a piece found; a point with a piece that failed is not gone on with."""
        import numpy as np

        if not self.dataset.has(piece):
            values.pop(piece.point, None)
            return
        found = self.dataset.values(piece, rule.metrics)
        before = values.get(piece.point)
        values[piece.point] = found if before is None else np.concatenate((before, found))

    def _round(self, todo: Sequence[Piece], number: int) -> None:
        """Run these pieces, and count how far it came, however it ends."""
        self._missing.update(piece.point for piece in todo)
        try:
            if todo:
                self._run_all(todo, number)
        finally:
            self._open.update(piece.point for piece in todo if not self.dataset.has(piece))
            self.outcome.finished = len(self._missing - self._open)
            self.outcome.reused = self.outcome.points - len(self._missing)

    def _run_all(self, todo: Sequence[Piece], number: int) -> None:
        if self._opened is None:
            self._opened = self.stack.enter_context(schedulers.opened(self.scheduler, self.jobs))
        what = f"{self.plan.name}, round {number + 1}" if self.plan.rule else self.plan.name
        with reporter(self.progress, what, len(todo)) as report:
            report(0, len(todo))
            for count, done in enumerate(self._results(self._opened, todo), 1):
                self._keep(done)
                report(count, len(todo))

    def _keep(self, done: Done) -> None:
        if done.failure:
            point = str(self.plan.points[done.piece.point])
            self.outcome.failures[point] = done.failure
            return
        self.dataset.write(done.piece, done.part)
        self.outcome.runs += done.piece.count
        self.outcome.violations += done.violations

    def _results(self, scheduler: Scheduler, pieces: Iterable[Piece]) -> Iterator[Done]:
        """Every piece, as they end.  What was lost with a worker is run again, alone, so that it is
        known whose fault it was.
        """
        plan = self.plan
        job = Job(plan.base, plan.columns, plan.derived, plan.digest)
        versions = store.versions()
        todo, suspects = deque(pieces), deque[Piece]()
        outstanding: dict[Any, list[Piece]] = {}
        alone: Piece | None = None
        pace = _Pace()

        def submit(chunk: list[Piece]) -> None:
            given: list[tuple[Point, Piece]] = [(plan.points[each.point], each) for each in chunk]
            outstanding[scheduler.submit(run_pieces, versions, packed(job, given))] = chunk

        while todo or suspects or outstanding:
            if suspects and not outstanding:
                alone = suspects.popleft()
                submit([alone])
            while todo and not suspects and alone is None and len(outstanding) < scheduler.slots:
                size = pace.size(len(todo), scheduler.workers)
                submit([todo.popleft() for _ in range(size)])
            for handle in scheduler.wait(list(outstanding)):
                chunk = outstanding.pop(handle)
                try:
                    results: list[Done] = scheduler.result(handle)
                except WorkerLost as lost:
                    if alone is None:
                        suspects.extend(chunk)
                        continue
                    why = f"its worker was lost, twice ({lost})"
                    results = [Done(alone, b"", why, 0, 0.0)]
                alone = None
                for done in results:
                    pace.saw(done)
                    yield done


@dataclass
class _Pace:
    """How many pieces make a task, by how long pieces took."""

    _s: float = 0.0
    _pieces: int = 0

    def saw(self, done: Done) -> None:
        self._s += done.took_s
        self._pieces += 1

    def size(self, left: int, workers: int) -> int:
        """One until something is known; and at the end no worker waits long for another."""
        if not self._pieces:
            return 1
        worth = int(_TASK_S * self._pieces / max(self._s, 1e-9))
        return max(1, min(worth, left // (4 * workers)))
