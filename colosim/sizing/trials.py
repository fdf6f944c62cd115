"""Candidates tried on the basis of a sizing: how long a run is, how many there are, who is best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pandas as pd

from colosim.progress import Progress
from colosim.scenario import BatchJob, OpenService, Scenario
from colosim.sizing import lab
from colosim.sizing.basis import Basis, Unknown
from colosim.sizing.candidates import GOALS, NONE, OF_A_JOB, Candidate
from colosim.sizing.lab import Task
from colosim.units import TIME

T = TypeVar("T")

#: a candidate that answers less than this part of what is asked has no latency worth the name
_LEAST_THROUGHPUT = 0.95


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is simulated.

    replications: of each candidate.  draws: of all that is not known at once; per_draw: their
    replications.  short: those of each end of a range and of each change.  requests: of a run, at
    least about; short_requests: of all those but the first.
    """

    replications: int = 10
    draws: int = 24
    short: int = 3
    per_draw: int = 2
    requests: int = 6_000
    short_requests: int = 2_000


QUICK = Effort(3, 8, 2, 1, 1_500, 600)


class Trials:
    """What all parts of one sizing simulate with.

    scenario: with all unknowns as they are taken.  metric: what is to be small.  undone: what
    Ctrl-C left undone, in words.
    """

    def __init__(
        self,
        basis: Basis,
        place: Path,
        goal: str,
        effort: Effort,
        jobs: int | None,
        progress: Progress | None,
        say: Callable[[str], None],
    ) -> None:
        """place: for files of scenarios.  say: is told what is run next."""
        self.basis, self.effort = basis, effort
        self._place = place
        self._jobs, self._progress, self._say = jobs, progress, say
        scenario = basis.scenario(place)
        self.is_job = isinstance(scenario.workload, BatchJob)
        self.metric = OF_A_JOB if self.is_job else GOALS[goal]
        self._short = {} if self.is_job else self._set_length(scenario)
        self.scenario = basis.scenario(place)
        self.undone: list[str] = []

    def _set_length(self, scenario: Scenario) -> dict[str, str]:
        """How long a run is: so many requests, 20 to 60 s; a scenario's own length stays.

        Returns what makes a run short.
        """
        mapping, effort = self.basis.mapping, self.effort
        rate = _load_per_s(scenario)
        mapping["replications"] = effort.replications
        if not self.basis.has_length:
            length_s = min(max(effort.requests / rate, 20.0), 60.0)
            if effort.requests < Effort().requests:
                length_s = min(length_s, 20.0)
            mapping["duration"] = f"{math.ceil(length_s)} s"
            mapping["warm_up"] = "2 s"
        duration_ns = int(TIME.parse(mapping["duration"]))
        warm_up_ns = int(TIME.parse(mapping.get("warm_up", "0 s")))
        short_s = min(max(effort.short_requests / rate, 8.0), 20.0)
        short_ns = warm_up_ns + round(short_s * 1e9)
        return {"duration": TIME.format(short_ns)} if short_ns < duration_ns else {}

    @property
    def unknowns(self) -> list[Unknown]:
        """What has a range."""
        return [each for each in self.basis.unknowns.values() if each.low < each.high]

    def at(self, values: Mapping[str, float]) -> Scenario:
        """The scenario with other values of unknowns, for short runs."""
        return self.short(self.basis.scenario(self._place, values))

    def short(self, scenario: Scenario) -> Scenario:
        """The same for a short run."""
        return scenario.replace(self._short) if self._short else scenario

    def task(self, key: tuple[str, ...], scenario: Scenario, each: Candidate, n: int) -> Task:
        """N replications of a candidate; their rows are called (*key, its label)."""
        return Task((*key, each.label), scenario.replace(each.changes), each.policy, n)

    def unless_stopped(self, what: str, part: Callable[[], T], instead: T) -> T:
        """A part of the answer, or what stands for it once Ctrl-C came."""
        if not self.undone:
            with suppress(KeyboardInterrupt):
                return part()
        self.undone.append(what)
        return instead

    def run(self, tasks: Sequence[Task], what: str, is_quiet: bool = False) -> pd.DataFrame:
        """See `lab.run`; is_quiet: without a word, for what is run many times."""
        if is_quiet:
            return lab.run(tasks, self._jobs, lab.quiet, "")
        self._say(f"{what}: {sum(task.replications for task in tasks)} runs")
        return lab.run(tasks, self._jobs, self._progress, what)

    def scores(
        self, table: pd.DataFrame, key: tuple[str, ...], labels: Sequence[str]
    ) -> dict[str, float]:
        """The goal under each candidate; infinite where too little is answered, or nothing."""
        keys = [(*key, label) for label in labels]
        values = lab.means(table, keys, self.metric)
        scores = {
            label: math.inf if math.isnan(value) else value
            for label, value in zip(labels, values, strict=True)
        }
        if isinstance(self.scenario.workload, OpenService):
            answered = lab.means(table, keys, "throughput_per_s")
            [asked] = lab.means(table, [(*key, NONE)], "throughput_per_s")
            for label, rate in zip(labels, answered, strict=True):
                if asked > 0 and not rate >= _LEAST_THROUGHPUT * asked:
                    scores[label] = math.inf
        return scores


def best_of(scores: Mapping[str, float]) -> str:
    """Who has the least, of equal ones the first; empty if nobody keeps up."""
    label = min(scores, key=lambda each: scores[each])
    return "" if math.isinf(scores[label]) else label


def behind(score: float, least: float) -> float:
    """By how much a score is worse than the least one, relative; infinite if it does not keep up,
    or if the least is 0 and it is not.
    """
    if score == least and not math.isinf(score):
        return 0.0
    return score / least - 1 if 0 < least < math.inf else math.inf


def _load_per_s(scenario: Scenario) -> float:
    """Requests a second, about."""
    workload = scenario.workload
    if isinstance(workload, OpenService):
        return max(workload.rate_per_s, 0.01)
    clients = getattr(workload, "clients", 1)
    think_ns = getattr(workload, "think_time_ns", 0)
    service_ns = getattr(workload, "service_time_ns", 1_000_000)
    per_s = 1e9 * clients / max(think_ns + service_ns, 1)
    return max(min(per_s, getattr(workload, "vcpus", 1) * 1e9 / max(service_ns, 1)), 0.01)
