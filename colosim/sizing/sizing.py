"""`size`: what protection costs a service, which policy to choose, how sure, what to change.

1. Sources make a scenario, and a range for what they do not say (`colosim.sizing.sources`).
2. All candidates are simulated with common random numbers; the best by the goal is chosen.
3. How sure: by chance alone, from paired differences; and with all that is not known drawn from its
   ranges at once (Latin hypercube), as the share of draws in which the choice is still the best.
4. What the choice hangs on: each unknown at both ends of its range, the others as taken; where the
   choice changes, the border is looked for.
5. What to change: each reason for which the guests differed is taken out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any
from weakref import finalize

import numpy as np
import pandas as pd
from scipy.special import stdtr
from scipy.stats import qmc

from colosim import api, parallel, store, tomltext
from colosim.analysis.stats import interval, paired
from colosim.calibration.divergence import exact_interval
from colosim.calibration.text import compact
from colosim.progress import Progress
from colosim.protocol.policies import POLICIES
from colosim.protocol.types import Output
from colosim.scenario import BatchJob, OpenService, Scenario, ScenarioError, Service
from colosim.sizing import lab
from colosim.sizing.basis import Basis, Unknown
from colosim.sizing.causes import Cause
from colosim.sizing.errors import SizingError
from colosim.sizing.given import changes as texts
from colosim.sizing.lab import Candidate, Task
from colosim.sizing.sources import basis_of, sorted_sources
from colosim.units import BANDWIDTH, TIME, UnitError, without_unit

NONE = "none"
POLICIES_TRIED = ("remus", "microcheckpoint", "adaptive", "colo", "hybrid")
INTERVALS = ("25 ms", "100 ms", "400 ms")
#: goal -> the metric that is to be small, of services and of jobs
GOALS: Mapping[str, str] = {
    "p99": "latency_p99_ms",
    "p50": "latency_p50_ms",
    "capacity": "stopped_share",
}
_OF_A_JOB = "completion_time_s"
#: a candidate that answers less than this part of what is asked has no latency worth the name
_LEAST_THROUGHPUT = 0.95
AS_GOOD = 0.05
_CONTENDERS = 3
_BISECTIONS = 3
_LINK_FACTORS = (1 / 256, 1 / 64, 1 / 16, 1 / 4, 1 / 2, 1.0, 4.0)
_LINK_ENOUGH = 1.1
_OVERLOAD = 1.5
_CAUSES_MOST = 6
#: keys of [divergence] -> (what the guests differ by, what to do)
_DIVERGENCE: Mapping[str, tuple[str, str]] = {
    "probability": ("answers that differ, each on its own", "times and identifiers in answers"),
    "connection_probability": ("first answers of connections", "session keys, TLS in the guest"),
    "unprompted_per_s": ("output that nobody asked for", "services that timers prompt"),
    "hazard_per_s": ("states that part by scheduling", "fewer worker threads or vCPUs"),
    "pair_hazard_per_s": ("states that part by two vCPUs", "fewer vCPUs"),
    "timed": ("answers that say what time it is", "a Date field; clocks that are apart"),
}


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


@dataclass(frozen=True, eq=False, repr=False)
class Sizing:
    """The answer.

    choice: the candidate's label.  policies: a row per candidate (`POLICY_COLUMNS`).  facts: key,
    value, kind, source.  sensitivity: unknown, kind, value, low, high, at_low, at_high (goal of the
    choice there, or what is chosen instead), border.  draws: a row per draw of all unknowns.
    changes: what to change: cause, events, share, advice and what it gains.  link: bandwidth by
    bandwidth.  memory: where, what, bytes.
    certain: how sure by chance alone; (best, draws, low, high): in how many draws it is the best,
    with an exact interval; regret: how much worse it is in the others, relative, at most.
    """

    scenario: Scenario
    goal: str
    choice: str
    runner_up: str
    policies: pd.DataFrame
    facts: pd.DataFrame
    sensitivity: pd.DataFrame
    draws: pd.DataFrame
    changes: pd.DataFrame
    link: pd.DataFrame
    memory: pd.DataFrame
    certain: float
    best: tuple[int, int, float, float]
    regret: float
    notes: Sequence[str]
    sources: Sequence[str]
    left_out: Mapping[str, str]
    options: Mapping[str, Any]
    basis: Basis = field(repr=False)
    candidates: Mapping[str, Candidate] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The answer in a few sentences."""
        from colosim.sizing import report

        return report.verdict(self)

    def row(self, label: str | None = None) -> Mapping[str, Any]:
        """One candidate's row of ``policies``; None: the choice."""
        rows = self.policies[self.policies["candidate"] == (label or self.choice)]
        return {str(key): value for key, value in rows.iloc[0].items()}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the scenario (files by name), the candidates and all numbers."""
        mapping = self.scenario.to_mapping()
        if file := mapping["memory"].get("file"):
            mapping["memory"]["file"] = Path(file).name
        tables = (self.policies, self.sensitivity, self.draws, self.changes, self.link)
        rows = [table.to_csv(index=False, float_format="%.12g") for table in tables]
        return store.fingerprint(mapping, self.goal, self.choice, rows)

    def to_mapping(self) -> dict[str, Any]:
        """All of it for JSON."""
        from colosim.sizing import report

        return report.mapping(self)

    def readable(self) -> str:
        """All of it as text for people."""
        from colosim.sizing import report

        return report.plain(self)

    def _repr_html_(self) -> str:
        from colosim.sizing import report

        return report.html(self)

    def __repr__(self) -> str:
        return f"<Sizing {self.choice} of {len(self.policies)} candidates>"


def size(
    *sources: str | Path,
    dirty_rate: str | Sequence[str] = (),
    dirty_csv: str | Path | None = None,
    qmp: str | Path | None = None,
    qmp_mode: str = "page-sampling",
    qmp_times_s: Sequence[float] = (1.0, 2.0, 4.0),
    memory: str | None = None,
    link: str | None = None,
    changes: Mapping[str, Any] | Sequence[str] = (),
    goal: str = "p99",
    policies: Sequence[str] = POLICIES_TRIED,
    intervals: Sequence[str] = INTERVALS,
    quick: bool = False,
    seed: int | None = None,
    replications: int | None = None,
    out: str | Path | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
    **compare: Any,
) -> Sizing:
    """What protection will cost a service.

    sources: a scenario file; directories of live runs; logs of a genuine QEMU pair, or the
    directory that they were imported to; two captures, the primary's first.  Several are laid over
    one another.
    dirty_rate: distinct bytes written, "40 MiB/s" (over 1 s) or "90 MiB/s over 100 ms".
    dirty_csv: the same as a table.  qmp: socket of a running VM, which is asked by calc-dirty-rate
    in that mode over each of these times.
    memory, link: the guest's RAM; the link's bandwidth, and delay after a comma.
    changes: fields of the scenario, as in a file: {"workload.rate": "200 /s"}.
    goal: what is to be small: "p99", "p50" or "capacity" (the time that the guest stands still).
    policies, intervals: what is tried; intervals are those of remus and microcheckpoint.
    quick: fewer and shorter runs.  replications: of each candidate.
    out: directory to write; must be new, empty or an older one.
    compare: options of `colosim.compare_pcap`.

    Raises SizingError, ScenarioError, CalibrationError, CaptureError, LiveError or StoreError, a
    line each.
    """
    effort = QUICK if quick else Effort()
    if replications is not None:
        if replications < 2:
            raise SizingError("replications: 2 or more, or nothing can be said of how sure it is")
        effort = replace(effort, replications=replications)
    _check(goal, policies, intervals)
    parallel.check_jobs(jobs)
    given = sorted_sources(
        sources,
        rates=[dirty_rate] if isinstance(dirty_rate, str) else dirty_rate,
        table=None if dirty_csv is None else Path(dirty_csv),
        measured=None if qmp is None else _asked(Path(qmp), qmp_times_s, qmp_mode, say),
        memory=memory,
        link=link,
        changes=changes if isinstance(changes, Mapping) else texts(changes),
        **_of_captures(compare),
    )
    place = Path(mkdtemp(prefix="colosim-"))
    try:
        with nullcontext() if out is None else store.new_directory(out) as directory:
            basis = basis_of(given, place, say)
            work = _Work(basis, place, goal, effort, seed, jobs, progress, say)
            found = work.answer(policies, intervals)
            if directory is not None:
                from colosim.sizing import report

                report.write(found, directory)
    except BaseException:
        rmtree(place, ignore_errors=True)
        raise
    finalize(found, rmtree, place, True)  # its scenario's curve is there
    return found


def _asked(socket: Path, times_s: Sequence[float], mode: str, say: Callable[[str], None]) -> Any:
    import asyncio

    from backends.qemu.dirty_rate import measure

    return asyncio.run(measure(socket, times_s, mode, say))


def _of_captures(compare: Mapping[str, Any]) -> dict[str, Any]:
    known = {"mode", "compare_timeout_s", "numbers", "checkpoint_pause_s", "offset_s", "guest"}
    for name in compare:
        if name not in known:
            raise SizingError(f"{name}: no such option; captures have {', '.join(sorted(known))}")
    rest = {key: value for key, value in compare.items() if key not in ("offset_s", "guest")}
    return {
        "offset": compare.get("offset_s", "auto"),
        "guest": compare.get("guest"),
        "compare": rest,
    }


def _check(goal: str, policies: Sequence[str], intervals: Sequence[str]) -> None:
    if goal not in GOALS:
        raise SizingError(f"goal {goal!r} is unknown; use one of {', '.join(GOALS)}")
    for name in policies:
        if name not in POLICIES or name == NONE:
            known = ", ".join(each for each in POLICIES if each != NONE)
            raise SizingError(f"policy {name!r} protects nothing or is unknown; use {known}")
    if not policies:
        raise SizingError("no policy is given; leave --policies out to try all")
    for each in intervals:
        try:
            TIME.parse(each)
        except UnitError as error:
            raise SizingError(f"interval {each!r}: {error}") from None


def candidates(
    scenario: Scenario, policies: Sequence[str], intervals: Sequence[str]
) -> tuple[dict[str, Candidate], dict[str, str]]:
    """What is possible with a scenario by its label, and why the rest is not."""
    found = {NONE: Candidate(NONE, NONE, {"policy.name": NONE})}
    left_out: dict[str, str] = {}
    for name in policies:
        for each in _variants(scenario, name, intervals):
            try:
                api.policies_of([name], scenario.replace(each.changes))
            except ScenarioError as error:
                left_out[each.label] = str(error).splitlines()[0]
            else:
                found.setdefault(each.label, each)
    if len(found) == 1:
        raise SizingError(f"no policy is possible: {next(iter(left_out.values()))}")
    return found, left_out


def _variants(scenario: Scenario, name: str, intervals: Sequence[str]) -> Iterator[Candidate]:
    changes: dict[str, Any] = {"policy.name": name}
    if name == "microcheckpoint":
        changes["transfer"] = None  # its own: a copy is sent while the guest runs
    if not hasattr(scenario.policy_params(name), "interval_ns") or name == "hybrid":
        yield Candidate(name, name, changes)
        return
    for text_ in intervals:
        label = f"{name} {TIME.format(int(TIME.parse(text_)))}"
        yield Candidate(label, name, changes | {f"policy.{name}.interval": text_})


class _Work:
    """One sizing under way."""

    def __init__(
        self,
        basis: Basis,
        place: Path,
        goal: str,
        effort: Effort,
        seed: int | None,
        jobs: int | None,
        progress: Progress | None,
        say: Callable[[str], None],
    ) -> None:
        self._basis, self._place, self._effort = basis, place, effort
        self._jobs, self._progress, self._say = jobs, progress, say
        self._goal = goal
        basis.mapping.setdefault("seed", 1)
        if seed is not None:
            basis.mapping["seed"] = seed
        scenario = basis.scenario(place)
        self._is_job = isinstance(scenario.workload, BatchJob)
        self._metric = _OF_A_JOB if self._is_job else GOALS[goal]
        self._length(scenario)
        self._scenario = basis.scenario(place)

    def _length(self, scenario: Scenario) -> None:
        """How long a run is: so many requests, 20 to 60 s; a scenario's own length stays."""
        mapping, effort = self._basis.mapping, self._effort
        self._short: dict[str, str] = {}
        if self._is_job:
            return
        rate = _load_per_s(scenario)
        mapping["replications"] = effort.replications
        if not any(each.startswith("scenario ") for each in self._basis.sources):
            length_s = min(max(effort.requests / rate, 20.0), 60.0)
            if effort.requests < Effort().requests:
                length_s = min(length_s, 20.0)
            mapping["duration"] = f"{math.ceil(length_s)} s"
            mapping["warm_up"] = "2 s"
        duration_ns = int(TIME.parse(mapping["duration"]))
        warm_up_ns = int(TIME.parse(mapping.get("warm_up", "0 s")))
        short_s = min(max(effort.short_requests / rate, 8.0), 20.0)
        short_ns = warm_up_ns + round(short_s * 1e9)
        if short_ns < duration_ns:
            self._short = {"duration": TIME.format(short_ns)}

    # -- running -------------------------------------------------------------------------------

    def _at(self, values: Mapping[str, float], short: bool = True) -> Scenario:
        scenario = self._basis.scenario(self._place, values)
        return scenario.replace(self._short) if short and self._short else scenario

    def _task(self, name: tuple[str, ...], scenario: Scenario, each: Candidate, n: int) -> Task:
        changed = scenario.replace(each.changes)
        return Task((*name, each.label), changed, each.policy, n)

    def _run(self, tasks: Sequence[Task], what: str) -> pd.DataFrame:
        self._say(f"{what}: {sum(task.replications for task in tasks)} runs")
        return lab.run(tasks, self._jobs, self._progress, what)

    def _scores(
        self, table: pd.DataFrame, name: tuple[str, ...], labels: Sequence[str]
    ) -> dict[str, float]:
        """The goal under each candidate; infinite where too little is answered, or nothing."""
        keys = [(*name, label) for label in labels]
        values = lab.means(table, keys, self._metric)
        scores = {
            label: math.inf if math.isnan(value) else value
            for label, value in zip(labels, values, strict=True)
        }
        if not self._is_job:
            answered = lab.means(table, keys, "throughput_per_s")
            asked = lab.means(table, [(*name, NONE)], "throughput_per_s")[0]
            if isinstance(self._scenario.workload, OpenService) and asked > 0:
                for label, rate in zip(labels, answered, strict=True):
                    if not rate >= _LEAST_THROUGHPUT * asked:
                        scores[label] = math.inf
        return scores

    # -- the answer ----------------------------------------------------------------------------

    def answer(self, policies: Sequence[str], intervals: Sequence[str]) -> Sizing:
        known, left_out = candidates(self._scenario, policies, intervals)
        labels = [label for label in known if label != NONE]
        n = self._effort.replications
        table = self._run(
            [self._task((), self._scenario, each, n) for each in known.values()], "candidates"
        )
        capacity = self._capacity(known)
        scores = self._scores(table, (), labels)
        order = sorted(labels, key=lambda label: (scores[label], labels.index(label)))
        choice = order[0]
        notes = [*self._basis.notes]
        if math.isinf(scores[choice]):
            choice = self._least_bad(table, labels)
            order = [choice, *(label for label in order if label != choice)]
            notes.insert(
                0, "no candidate keeps up with the load: the one that answers most is shown"
            )
        contenders = self._contenders(order, known)
        tried = {NONE: known[NONE], **{label: known[label] for label in contenders}}
        sensitivity = self._sensitivity(tried, choice)
        draws, best, regret = self._draws(tried, choice)
        return Sizing(
            scenario=self._scenario,
            goal=self._metric,
            choice=choice,
            runner_up=order[1] if len(order) > 1 else "",
            policies=self._policies(table, capacity, known),
            facts=self._facts(),
            sensitivity=sensitivity,
            draws=draws,
            changes=self._changes(tried, choice),
            link=self._link(known[choice], tried[NONE]),
            memory=self._memory(table, known[choice]),
            certain=self._certain(table, choice, [each for each in order if each != choice]),
            best=best,
            regret=regret,
            notes=notes,
            sources=self._basis.sources,
            left_out=left_out,
            options={"seed": self._scenario.seed, "replications": n, "goal": self._goal},
            basis=self._basis,
            candidates=known,
        )

    def _least_bad(self, table: pd.DataFrame, labels: Sequence[str]) -> str:
        metric = _OF_A_JOB if self._is_job else "throughput_per_s"
        values = lab.means(table, [(label,) for label in labels], metric)
        ranked = [-math.inf if math.isnan(each) else each for each in values]
        return labels[int(np.argmax(ranked))]

    def _contenders(self, order: Sequence[str], known: Mapping[str, Candidate]) -> list[str]:
        """The best few, and of each way to treat output the best."""
        found = list(order[:2])
        for output in (Output.COMMIT, Output.WITNESS):
            own = [each for each in order if POLICIES[known[each].policy].output is output]
            found += own[:1]
        found += order[2:]
        return list(dict.fromkeys(found))[:_CONTENDERS]

    def _certain(self, table: pd.DataFrame, choice: str, others: Sequence[str]) -> float:
        """Chance that the choice's mean is the least, at least: Bonferroni over paired t tests."""
        mine = table[table["key"] == (choice,)][self._metric].to_numpy(float)
        wrong = 0.0
        for label in others:
            theirs = table[table["key"] == (label,)][self._metric].to_numpy(float)
            difference = theirs - mine
            difference = difference[~np.isnan(difference)]
            if difference.size < 2:
                continue
            error = float(difference.std(ddof=1)) / math.sqrt(difference.size)
            mean = float(difference.mean())
            if error == 0:
                wrong += 0.5 if mean == 0 else float(mean < 0)
            else:
                wrong += float(stdtr(difference.size - 1, -mean / error))
        return max(1 - wrong, 0.0)

    # -- capacity ------------------------------------------------------------------------------

    def _capacity(self, known: Mapping[str, Candidate]) -> pd.DataFrame:
        """What is answered when more is asked than the guest can: key, replication, per_s.

        Of services with several clients that wait, the load is turned into one that does not.
        """
        workload = self._scenario.workload
        if not isinstance(workload, Service):
            return pd.DataFrame(columns=["key", "replication", "throughput_per_s"])
        most_per_s = workload.vcpus / (workload.service_time_ns / 1e9)
        asked_per_s = _OVERLOAD * most_per_s
        seconds = min(max(self._effort.short_requests / most_per_s, 2.0), 20.0)
        mapping = self._scenario.to_mapping()
        mapping["workload"] = {
            key: value
            for key, value in mapping["workload"].items()
            if key not in ("clients", "think_time", "rate", "load", "pipelined")
        } | {"load": "open", "rate": f"{asked_per_s:.6g} /s", "pipelined": True}
        mapping.pop("phase", None)
        mapping |= {"warm_up": f"{seconds / 4:.3f} s", "duration": f"{seconds * 1.25:.3f} s"}
        scenario = Scenario.from_mapping(mapping)
        n = max(self._effort.short, 2)
        tasks = [self._task((), scenario, each, n) for each in known.values()]
        return self._run(tasks, "capacity")

    # -- tables --------------------------------------------------------------------------------

    def _policies(
        self, table: pd.DataFrame, capacity: pd.DataFrame, known: Mapping[str, Candidate]
    ) -> pd.DataFrame:
        rows = []
        for label in known:
            own, base = table[table["key"] == (label,)], table[table["key"] == (NONE,)]
            row: dict[str, Any] = {"candidate": label, "policy": known[label].policy}
            for name, metric in _ADDED.items():
                found = paired(own[metric].to_numpy(), base[metric].to_numpy())
                row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
            lost = self._lost(capacity, label)
            row |= {"capacity_lost": lost.mean, "capacity_lost_low": lost.low}
            row["capacity_lost_high"] = lost.high
            for metric in _SHOWN:
                found = interval(own[metric].to_numpy(float))
                row |= {
                    metric: found.mean,
                    f"{metric}_low": found.low,
                    f"{metric}_high": found.high,
                }
            for metric in ("held_bytes_max", "state_bytes_max", "overlay_bytes_max"):
                row[metric] = float(own[metric].max())
            flags = {flag for each in own["flags"] for flag in each.split(", ") if flag}
            row["flags"] = ", ".join(sorted(flags))
            rows.append(row)
        return pd.DataFrame(rows)

    def _lost(self, capacity: pd.DataFrame, label: str) -> Any:
        own = capacity[capacity["key"] == (label,)]["throughput_per_s"].to_numpy(float)
        base = capacity[capacity["key"] == (NONE,)]["throughput_per_s"].to_numpy(float)
        return interval(1 - own / base if base.size else np.array([]))

    def _facts(self) -> pd.DataFrame:
        rows = [(f.key, f.value, f.kind, f.source) for f in self._basis.facts.values()]
        return pd.DataFrame(rows, columns=["key", "value", "kind", "source"])

    def _memory(self, table: pd.DataFrame, choice: Candidate) -> pd.DataFrame:
        """Bytes that protection needs beside the guest's own, by host."""
        own = table[table["key"] == (choice.label,)]
        guest = self._scenario.memory.guest_memory_bytes
        state = float(own["state_bytes_max"].max())
        held = float(own["held_bytes_max"].max())
        overlays = float(own["overlay_bytes_max"].max())
        compares = POLICIES[choice.policy].output is Output.WITNESS
        rows = [
            ("secondary", "the second guest's RAM", guest),
            ("secondary", "genuine QEMU: COLO's cache of the primary's RAM", guest),
            ("secondary", "a checkpoint until it is whole (largest seen)", state),
            ("primary", "a checkpoint until it is sent (largest seen)", state),
            ("primary", "output that is held (most seen)", held),
        ]
        if compares:
            rows.append(("primary", "the secondary's output, to be compared (as much)", held))
        if self._scenario.disk is not None:
            rows.append(("secondary", "overlays of the disk (largest seen)", overlays))
        return pd.DataFrame(rows, columns=["host", "what", "bytes"])

    # -- what is not known ---------------------------------------------------------------------

    def _unknowns(self) -> list[Unknown]:
        return [each for each in self._basis.unknowns.values() if each.low < each.high]

    def _sensitivity(self, tried: Mapping[str, Candidate], choice: str) -> pd.DataFrame:
        unknowns = self._unknowns()
        labels = [label for label in tried if label != NONE]
        tasks = [
            self._task((str(i), end), self._at({each.key: value}), candidate, self._effort.short)
            for i, each in enumerate(unknowns)
            for end, value in (("low", each.low), ("high", each.high))
            for candidate in tried.values()
        ]
        columns = [*("what", "key", "kind", "value", "low", "high"), "goal_at_low", "goal_at_high"]
        columns += ["best_at_low", "best_at_high", "border"]
        if not tasks:
            return pd.DataFrame(columns=columns)
        table = self._run(tasks, "what is not known, one by one")
        rows = []
        for i, each in enumerate(unknowns):
            ends = {end: self._scores(table, (str(i), end), labels) for end in ("low", "high")}
            best = {end: _best(scores) for end, scores in ends.items()}
            goals = [scores[choice] for scores in ends.values()]
            border = ""
            if best["low"] != best["high"]:
                border = self._border(each, tried, best["low"])
            shown = (each.shown(each.value), each.shown(each.low), each.shown(each.high))
            rows.append(
                (each.what, each.key, each.kind, *shown, *goals, best["low"], best["high"], border)
            )
        return pd.DataFrame(rows, columns=columns)

    def _border(self, each: Unknown, tried: Mapping[str, Candidate], first: str) -> str:
        """Between which values what is best at the low end is no more."""
        labels = [label for label in tried if label != NONE]
        low, high = each.low, each.high
        for step in range(_BISECTIONS):
            middle = math.sqrt(low * high) if low > 0 else (low + high) / 2
            scenario = self._at({each.key: middle})
            name = (f"border {step}",)
            tasks = [self._task(name, scenario, one, self._effort.short) for one in tried.values()]
            scores = self._scores(lab.run(tasks, self._jobs, lab.quiet, ""), name, labels)
            if _best(scores) == first:
                low = middle
            else:
                high = middle
        return f"{each.shown(low)} to {each.shown(high)}"

    def _draws(
        self, tried: Mapping[str, Candidate], choice: str
    ) -> tuple[pd.DataFrame, tuple[int, int, float, float], float]:
        unknowns = self._unknowns()
        labels = [label for label in tried if label != NONE]
        if not unknowns or len(labels) < 2:
            return pd.DataFrame(), (0, 0, math.nan, math.nan), 0.0
        n = self._effort.draws
        sample = qmc.LatinHypercube(len(unknowns), rng=self._scenario.seed).random(n)
        values = [
            {each.key: each.at(float(u)) for each, u in zip(unknowns, row, strict=True)}
            for row in sample
        ]
        tasks = [
            self._task((str(i),), self._at(drawn), candidate, self._effort.per_draw)
            for i, drawn in enumerate(values)
            for candidate in tried.values()
        ]
        table = self._run(tasks, "what is not known, drawn")
        rows, wins, regret = [], 0, 0.0
        for i, drawn in enumerate(values):
            scores = self._scores(table, (str(i),), labels)
            best = _best(scores)
            least = scores[best]
            behind = scores[choice] / least - 1 if least > 0 and not math.isinf(least) else 0.0
            wins += behind <= AS_GOOD
            regret = max(regret, behind)
            added = scores[choice] - lab.means(table, [(str(i), NONE)], self._metric)[0]
            rows.append({**drawn, "best": best, "behind": behind, "added": added, **scores})
        low, high = exact_interval(wins, float(n), "response")
        return pd.DataFrame(rows), (wins, n, low, high), regret

    # -- what to change ------------------------------------------------------------------------

    def _changes(self, tried: Mapping[str, Candidate], choice: str) -> pd.DataFrame:
        columns = [
            *("what", "events", "share", "advice", "example_primary", "example_secondary"),
            *("checkpoints_per_s", "p99_ms", "p99_gain_ms", "gain_low", "gain_high", "best"),
        ]
        compared = [
            label for label, each in tried.items()
            if POLICIES[each.policy].output is Output.WITNESS
        ]  # fmt: skip
        removals = list(self._removals())
        if not compared or not removals or self._is_job:
            return pd.DataFrame(columns=columns)
        one = choice if choice in compared else compared[0]
        labels = [label for label in tried if label != NONE]
        n = max(self._effort.short, 3)
        tasks = [self._task(("",), self._at({}), each, n) for each in tried.values()]
        tasks += [
            self._task((str(i),), self._at(values), each, n)
            for i, (_, values) in enumerate(removals)
            for each in tried.values()
        ]
        table = self._run(tasks, "what to change")
        before = table[table["key"] == ("", one)]
        rows = []
        for i, (row, _) in enumerate(removals):
            after = table[table["key"] == (str(i), one)]
            metric = "latency_p99_ms"
            gain = paired(before[metric].to_numpy(float), after[metric].to_numpy(float))
            best = _best(self._scores(table, (str(i),), labels))
            checkpoints = float(after["checkpoints_per_s"].mean())
            p99 = float(after[metric].mean())
            rows.append((*row, checkpoints, p99, gain.mean, gain.low, gain.high, best))
        found = pd.DataFrame(rows, columns=columns)
        found.attrs["candidate"] = one
        found.attrs["before"] = float(before["checkpoints_per_s"].mean())
        return found

    def _removals(self) -> Iterator[tuple[tuple[Any, ...], dict[str, float]]]:
        """(row of what it is) and the values of the unknowns without it."""
        causes = self._basis.causes[:_CAUSES_MOST]
        if causes:
            for each in causes:
                row = (each.name, each.events, each.share, each.kind.advice, *each.example)
                yield row, self._without([each])
            if len(causes) > 1:
                events = sum(each.events for each in causes)
                share = sum(each.share for each in causes)
                yield ("all of these", events, share, "", "", ""), self._without(causes)
            return
        table = self._scenario.divergence
        there = [key for key in _DIVERGENCE if getattr(table, key)]
        for key in there:
            what, advice = _DIVERGENCE[key]
            yield (what, None, None, advice, "", ""), {f"divergence.{key}": 0.0}
        if len(there) > 1:
            values = {f"divergence.{key}": 0.0 for key in there}
            yield ("all of these", None, None, "", "", ""), values

    def _without(self, removed: Sequence[Cause]) -> dict[str, float]:
        """Chances and rates of differences without some causes, by their part of the events.

        Each cause counts for what it grows with; where only one of both is known, for that.
        """
        table = self._scenario.divergence
        keys = {
            "response": ("probability", "connection_probability"),
            "second": ("unprompted_per_s", "hazard_per_s"),
        }
        values = {}
        for per, names in keys.items():
            own = [each for each in self._basis.causes if each.kind.per == per]
            other = [each for each in self._basis.causes if each.kind.per != per]
            counterpart = [n for key, rest in keys.items() if key != per for n in rest]
            if not own or not other or not any(getattr(table, name) for name in counterpart):
                own = self._basis.causes
            total = sum(each.events for each in own)
            gone = sum(each.events for each in removed if each in own)
            for name in names:
                if value := getattr(table, name):
                    values[f"divergence.{name}"] = value * (1 - gone / max(total, 1))
        return values

    # -- the link ------------------------------------------------------------------------------

    def _link(self, choice: Candidate, none: Candidate) -> pd.DataFrame:
        """The choice over narrower and wider links."""
        own = self._scenario.link.bandwidth_bps
        base = self._scenario.replace(self._short) if self._short else self._scenario
        rates = [max(round(own * factor), 1_000_000) for factor in _LINK_FACTORS]
        tasks = [
            self._task(
                (str(rate),),
                base.replace({"link.bandwidth": BANDWIDTH.format(rate)}),
                choice,
                self._effort.short,
            )
            for rate in dict.fromkeys(rates)
        ]
        table = self._run(tasks, "the link")
        rows = []
        for rate in dict.fromkeys(rates):
            name = (str(rate),)
            key = [(*name, choice.label)]
            [goal] = lab.means(table, key, self._metric)
            [used] = lab.means(table, key, "link_mbit_per_s")
            [answered] = lab.means(table, key, "throughput_per_s")
            rows.append((rate, goal, used, answered, rate == own))
        columns = ["bandwidth_bps", "goal", "used_mbit_per_s", "throughput_per_s", "own"]
        found = pd.DataFrame(rows, columns=columns)
        last = found.iloc[-1]
        enough = found["goal"] <= _LINK_ENOUGH * last["goal"]
        if not self._is_job:
            enough &= found["throughput_per_s"] >= 0.98 * last["throughput_per_s"]
        return found.assign(enough=enough)


_ADDED = {
    "added_p50_ms": "latency_p50_ms",
    "added_p99_ms": "latency_p99_ms",
    "added_time_s": "completion_time_s",
}
_SHOWN = (
    *("throughput_per_s", "latency_p50_ms", "latency_p99_ms", "completion_time_s"),
    *("stopped_share", "checkpoints_per_s", "pause_mean_ms", "dirty_pages_mean"),
    "link_mbit_per_s",
)


def _best(scores: Mapping[str, float]) -> str:
    """The least; the first of equal ones."""
    return min(scores, key=lambda label: scores[label])


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


def scenario_text(found: Sizing, curve_file: str | None) -> str:
    """The scenario that was simulated, with the choice as its policy, as a file."""
    choice = found.candidates[found.choice]
    scenario = found.scenario.replace(choice.changes)
    tables = ("cost", "memory", "workload", "link", "divergence")
    mapping = copy.deepcopy(compact(scenario, tables))
    if curve_file is not None:
        mapping["memory"]["file"] = curve_file
    notes = {
        fact.key: f"{fact.kind}: {fact.source}"
        for fact in found.basis.facts.values()
        if "\n" not in fact.source
    }
    for unknown in found.basis.unknowns.values():
        if unknown.low < unknown.high:
            key = without_unit(unknown.key)
            between = f"{unknown.shown(unknown.low)} to {unknown.shown(unknown.high)}"
            notes[key] = f"{notes.get(key, unknown.kind)}; {between}"
    head = [
        "Sized by `colosim size`; every number says where it is from.",
        *found.sources,
        f"Chosen: {found.choice}. Go on with: colosim compare FILE --policies none,remus,colo",
    ]
    return tomltext.toml(mapping, notes, head)
