"""What notebooks and the command line call: simulate, compare, sweep, live, replay.

Replications are independent and numbered; the same scenario, policy, seed and number give the same
record, whichever process simulates it and whatever else runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from html import escape
from math import nan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import pandas as pd

from colosim import holds, markup, parallel, phases, store
from colosim.analysis import backlog
from colosim.analysis import summary as tables
from colosim.model.results import HOLD_COLUMNS, PHASE_COLUMNS, RunRecord, columns
from colosim.progress import Looker, Progress, Watch, watcher
from colosim.protocol import invariants
from colosim.protocol import trace as protocol_trace
from colosim.protocol.policies import POLICIES
from colosim.scenario import Scenario, ScenarioError, load_scenario
from colosim.sweeps import sweep

if TYPE_CHECKING:
    from colosim.analysis.plots import Chart

__all__ = [
    "Comparison",
    "Interrupted",
    "Replay",
    "Result",
    "compare",
    "live",
    "replay",
    "run_live",
    "simulate",
    "sweep",
]

AnyScenario = Scenario | Mapping[str, Any] | str | Path
Traced = Literal["none", "first", "all"]


# --------------------------------------------------------------------------------------------
# Results


class _Outcome:
    """What one policy's replications and a comparison's have in common."""

    if TYPE_CHECKING:  # given by those who inherit

        @property
        def records(self) -> Sequence[RunRecord]: ...
        @property
        def summary(self) -> pd.DataFrame: ...
        @property
        def title(self) -> str: ...
        @property
        def fingerprint(self) -> str: ...
        @property
        def verdict(self) -> str: ...

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """policy, replication, metric, value, unit."""
        return tables.metrics_table(self.records)

    @cached_property
    def responses(self) -> pd.DataFrame:
        """One row per request: times in ns (-1: never), measured (not warm-up), latency_ms."""
        return tables.responses_table(self.records)

    @cached_property
    def checkpoints(self) -> pd.DataFrame:
        """One row per checkpoint: times in ns (-1: never), pages, bytes, measured, pause_ms."""
        return tables.checkpoints_table(self.records)

    @cached_property
    def phases(self) -> pd.DataFrame:
        """One row per step of a checkpoint: checkpoint, phase, start_ns, duration_ns, measured.

        Of live runs, and of simulated replications that were traced; else empty.
        """
        return tables.phases_table(self.records)

    @property
    def phase_summary(self) -> pd.DataFrame:
        """policy, phase, n, median_ms, p95_ms, p99_ms of the phases after the warm-up."""
        return tables.phases_summary(self.phases)

    @cached_property
    def holds(self) -> pd.DataFrame:
        """How long frames were held: made_ns, hold_ns, frames, how, measured, hold_ms.

        Of live runs whose policy compares packets, and of simulated replications at fidelity packet
        that were traced; else empty.
        """
        return tables.holds_table(self.records)

    @property
    def hold_summary(self) -> pd.DataFrame:
        """policy, how, frames, median_ms, p95_ms, p99_ms of the frames after the warm-up."""
        return tables.holds_summary(self.holds)

    @cached_property
    def disk(self) -> pd.DataFrame:
        """Reads, writes and flushes: op, begun_ns, done_ns, size_bytes, measured, took_ms.

        Of simulations with a table [disk], of the guest that clients talk to; else empty.
        """
        return tables.disk_table(self.records)

    @cached_property
    def overlays(self) -> pd.DataFrame:
        """A row for each checkpoint that emptied the overlays of the secondary's disk, else empty:
        checkpoint, at_ns, active_bytes, hidden_bytes, empty_ns, measured.
        """
        return tables.overlays_table(self.records)

    @cached_property
    def events(self) -> pd.DataFrame:
        """Faults, exits and takeovers: at_ns, node, what, detail."""
        return tables.events_table(self.records)

    @property
    def flags(self) -> list[str]:
        """What a reader must know, such as "memory-extrapolated", or that a queue grew."""
        flags = {flag for record in self.records for flag in record.flags}
        return sorted({*flags, *backlog.overloads(self.records)})

    @property
    def violations(self) -> list[str]:
        """Broken invariants, each with the policy and replication it was seen in."""
        return [
            f"{record.policy}, replication {record.replication}: {violation}"
            for record in self.records
            for violation in record.violations
        ]

    def plot_latency(self) -> Chart:
        """Distribution of latency, with 95 % bands."""
        from colosim.analysis import plots

        return plots.latency_cdf(self.responses)

    def plot_pauses(self) -> Chart:
        """Distribution of checkpoint pauses, with 95 % bands."""
        from colosim.analysis import plots

        return plots.pause_cdf(self.checkpoints)

    def plot_metrics(self, *metrics: str) -> Chart:
        """Bars with 95 % intervals; throughput, mean and 99 % latency unless metrics are named."""
        from colosim.analysis import plots

        return plots.comparison(self.summary, *([metrics] if metrics else []))

    def plot_timeline(self, replication: int = 0, **stretch: float) -> Chart:
        """Checkpoints of one replication; ``start_s`` and ``length_s`` choose the stretch."""
        from colosim.analysis import plots

        return plots.timeline(self.checkpoints, replication, **stretch)

    def plot_throughput(self, bin_s: float | None = None) -> Chart:
        """Answers over time, with 95 % bands; faults and takeovers are marked."""
        from colosim.analysis import plots

        return plots.throughput(self.responses, self.events, bin_s)

    def report(self, path: str | Path = "report.html") -> Path:
        """Write one self-contained HTML file: verdict, figures, tables, provenance."""
        from colosim.reporting import report

        return report(self, path)  # type: ignore[arg-type]

    def readable(self) -> list[pd.DataFrame]:
        """The summary as text for people: metrics as rows, policies as columns."""
        return [tables.readable(self.summary)]

    def notes(self) -> list[str]:
        """Violations and flags, a line each."""
        return [
            *(f"VIOLATION: {violation}" for violation in self.violations),
            *(f"flag: {flag}" for flag in self.flags),
        ]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.title}>"

    def _repr_html_(self) -> str:
        """The verdict, what must be known of it, the main numbers, a figure; the rest is folded."""
        whole, *differences = self.readable()
        names = [tables.label(*each) for each in zip(*_MAIN, strict=True)]
        main = whole.loc[[name for name in names if name in whole.index]]
        parts = [markup.verdict(self.verdict), *map(markup.line, self.notes()), _html(main)]
        if svg := self._figure():
            parts.append(markup.figure(svg, f"distribution of latency, {self.title}"))
        folded = [("All metrics", whole), *(("Paired differences", each) for each in differences)]
        parts += [markup.more(title, _html(table)) for title, table in folded]
        about = f"{escape(self.title)}<br><code>{self.fingerprint}</code>"
        return "".join([*parts, f"<p><small>{about}</small></p>"])

    def _figure(self) -> str:
        """Latency, or pauses where nobody was answered, as SVG; nothing where there is neither."""
        for table, column, draw in (
            (self.responses, "latency_ms", self.plot_latency),
            (self.checkpoints, "pause_ms", self.plot_pauses),
        ):
            measured = table.loc[table["measured"].astype(bool), column]
            if measured.count() > len(self.records):  # one each is the end of a batch job
                return draw()._repr_svg_()
        return ""


def _verdict(result: Result | Comparison) -> str:
    from colosim.reporting import verdict

    return verdict(result)


#: what a notebook shows at first: metrics, and their units
_MAIN = (
    (
        *("throughput_per_s", "latency_mean_ms", "latency_p99_ms", "completion_time_s"),
        *("pause_mean_ms", "checkpoints_per_s", "link_mbit_per_s", "longest_gap_ms"),
    ),
    ("1/s", "ms", "ms", "s", "ms", "1/s", "Mbit/s", "ms"),
)


def _html(table: pd.DataFrame) -> str:
    rows = [
        (str(name), *map(str, row)) for name, row in zip(table.index, table.values, strict=True)
    ]
    return markup.table(rows, ["", *map(str, table.columns)])


@dataclass(eq=False, repr=False)
class Result(_Outcome):
    """One policy's replications, in their order; if ``interrupted``, only the finished ones."""

    scenario: Scenario
    policy: str
    records: Sequence[RunRecord]
    interrupted: bool = False
    inputs: Mapping[str, str] = field(default_factory=dict)  # file it was given -> its SHA-256
    about: Mapping[str, str] = field(default_factory=lambda: {"world": "simulated"})

    @cached_property
    def summary(self) -> pd.DataFrame:
        """policy, metric, unit, n, mean, ci_low, ci_high: 95 % intervals over replications."""
        return tables.summarise(self.metrics)

    @property
    def title(self) -> str:
        return _title(self.scenario, [self.policy], len(self.records))

    @property
    def verdict(self) -> str:
        """What came out, in a few sentences."""
        return _verdict(self)

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Every parameter of the run as in a scenario file."""
        return store.parameters(self.scenario, self.policy)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over parameters, policy, seed and all records; no path and no time enters."""
        records = [record.fingerprint() for record in self.records]
        return store.run_fingerprint(self.scenario, self.policy, records)

    def manifest(self) -> dict[str, Any]:
        """What the result says of itself; `manifest.json` has it, too."""
        return {
            "kind": "run",
            "policy": self.policy,
            "seed": self.scenario.seed,
            "replications": self.scenario.replications,
            "interrupted": self.interrupted,
            **self.about,
            "fingerprint": self.fingerprint,
            "flags": self.flags,
            "violations": self.violations,
            "finished": [
                {
                    "replication": record.replication,
                    "fingerprint": record.fingerprint(),
                    "counters": record.counters,
                }
                for record in self.records
            ],
            "scenario": self.parameters,
            "sha256": self.inputs,
        }

    def _write(self, directory: Path) -> None:
        contents = {
            "metrics.csv": self.metrics,
            "summary.csv": self.summary,
            "responses.parquet": self.responses,
            "checkpoints.parquet": self.checkpoints,
            "events.csv": self.events,
        }
        if len(self.phases):
            contents["phases.csv"] = self.phases
        if len(self.holds):
            contents["holds.parquet"] = self.holds
        if len(self.disk):
            contents["disk.parquet"] = self.disk
        if len(self.overlays):
            contents["overlays.csv"] = self.overlays
        store.write(directory, self.manifest(), contents)


@dataclass(eq=False, repr=False)
class Comparison(_Outcome):
    """Several policies on one scenario, seed and stream of draws.

    Differences are taken from ``baseline``, the first that was asked for; there are none if it was
    interrupted before it had a record.
    """

    results: dict[str, Result]
    baseline: str

    @property
    def records(self) -> list[RunRecord]:
        return [record for result in self.results.values() for record in result.records]

    @property
    def interrupted(self) -> bool:
        """Ctrl-C came before all replications of all policies were done."""
        return any(result.interrupted for result in self.results.values())

    @cached_property
    def summary(self) -> pd.DataFrame:
        """policy, metric, unit, n, mean, ci_low, ci_high, diff, diff_low, diff_high.

        The last three are the mean paired difference from the baseline and its 95 % interval.
        """
        summary = tables.summarise(self.metrics)
        if self.baseline not in self.results:
            return summary.assign(diff=nan, diff_low=nan, diff_high=nan)
        differences = tables.differences(self.metrics, self.baseline)
        return summary.merge(differences, "left", ["policy", "metric"])

    @property
    def title(self) -> str:
        scenario = next(iter(self.results.values())).scenario
        fewest = min(len(result.records) for result in self.results.values())
        return _title(scenario, [*self.results], fewest)

    @property
    def verdict(self) -> str:
        """What each policy costs, who survived and which is best, in a few sentences."""
        return _verdict(self)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the fingerprints of the results."""
        return store.fingerprint(*(result.fingerprint for result in self.results.values()))

    def readable(self) -> list[pd.DataFrame]:
        """The metrics and, if there are any, the paired differences from the baseline."""
        values = tables.readable(self.summary)
        if self.summary["diff"].isna().all():
            return [values]
        differences = tables.readable(self.summary, "diff", "diff_low", "diff_high")
        return [values, differences.add_suffix(f" - {self.baseline}")]

    def manifest(self) -> dict[str, Any]:
        """What the comparison says of itself; `manifest.json` has it, too."""
        return {
            "kind": "comparison",
            "policies": list(self.results),
            "baseline": self.baseline,
            "interrupted": self.interrupted,
            "fingerprint": self.fingerprint,
            "flags": self.flags,
            "violations": self.violations,
        }

    def _write(self, directory: Path) -> None:
        for policy, result in self.results.items():
            result._write(directory / policy)
        store.write(directory, self.manifest(), {"summary.csv": self.summary})


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; ``result`` holds what was finished, None if that is nothing.

    is_written: it is in the directory that was asked for, if one was.
    """

    def __init__(self, text: str, result: Any = None, is_written: bool = True) -> None:
        super().__init__(f"interrupted: {text}")
        self.result = result
        self.is_written = is_written


def _title(scenario: Scenario, policies: Sequence[str], replications: int) -> str:
    count = f"{replications} of {scenario.replications}"
    used = dict.fromkeys(scenario.transfer_of(name).value for name in policies)
    how = f"{', '.join(used)}; seed {scenario.seed}, {count} replications"
    return f"{scenario.name}: {', '.join(policies)}; {how}"


# --------------------------------------------------------------------------------------------
# Running


def simulate(
    scenario: AnyScenario,
    policy: str | None = None,
    seed: int | None = None,
    replications: int | None = None,
    out: str | Path | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    trace: Traced = "first",
    watch_holds: bool = False,
    fidelity: str | None = None,
) -> Result:
    """Simulate a scenario (object, mapping or path of a file) under one policy.

    policy, seed, replications, fidelity: instead of the scenario's own.
    out: directory to write; must be new, empty or an older run.  None writes nothing.
    jobs: processes, None for as many as are worth it; the result is the same.
    progress: called with (done, total); None draws a bar on stderr if that is a terminal.
    trace: replications to write traces of, where there is ``out``.
    watch_holds: collect how long output was held in every replication, of responses too.

    Raises ScenarioError, ModelError or StoreError, each with one line for each problem; Ctrl-C
    raises `Interrupted`, which keeps what was finished, and so does ``out``.  If ``out`` cannot be
    written any more, `store.Unwritten` keeps it.
    """
    loaded = scenario_of(scenario, seed, replications, fidelity)
    [name] = policies_of([loaded.policy.name if policy is None else policy], loaded)
    plan = _Plan(loaded, {name: "."}, trace, watch_holds)
    return _run(plan, lambda results: results[0], out, jobs, progress)


def compare(
    scenario: AnyScenario,
    policies: Sequence[str] = ("none", "remus", "colo"),
    seed: int | None = None,
    replications: int | None = None,
    out: str | Path | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    trace: Traced = "first",
    fidelity: str | None = None,
) -> Comparison:
    """Simulate a scenario under several policies, which meet the same random draws.

    The first is the baseline of the paired differences.  Otherwise like `simulate`; ``out`` holds
    one run for each policy.
    """
    loaded = scenario_of(scenario, seed, replications, fidelity)
    plan = _Plan(loaded, {name: name for name in policies_of(policies, loaded)}, trace)

    def compared(results: Sequence[Result]) -> Comparison:
        return Comparison({result.policy: result for result in results}, policies[0])

    return _run(plan, compared, out, jobs, progress)


@dataclass(frozen=True)
class _Plan:
    """What to run; ``places``: policy -> its directory below ``out``; ``inputs``: of a `Result`."""

    scenario: Scenario
    places: Mapping[str, str]
    trace: Traced
    watch_holds: bool = False
    inputs: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        if self.trace not in get_args(Traced):
            known = ", ".join(get_args(Traced))
            raise ScenarioError(f"trace {self.trace!r} is unknown; use one of {known}")
        object.__setattr__(self, "inputs", store.inputs([self.scenario]))

    def tasks(self, directory: Path | None) -> list[tuple[Scenario, str, int, Path | None, bool]]:
        """Arguments of `_replicate`; all policies of one replication before the next."""
        traced = {"none": 0, "first": 1, "all": self.scenario.replications}[self.trace]
        return [
            (
                self.scenario,
                policy,
                i,
                directory / place / f"trace-{i}.jsonl.gz" if directory and i < traced else None,
                self.watch_holds,
            )
            for i in range(self.scenario.replications)
            for policy, place in self.places.items()
        ]


AnyOutcome = TypeVar("AnyOutcome", Result, Comparison)


def _run(
    plan: _Plan,
    make: Callable[[Sequence[Result]], AnyOutcome],
    out: str | Path | None,
    jobs: int | None,
    progress: Progress | None,
) -> AnyOutcome:
    """Run and write; ``make`` makes the outcome of the results that there are."""
    parallel.check_jobs(jobs)
    records: dict[tuple[str, int], RunRecord] = {}
    total = len(plan.places) * plan.scenario.replications
    try:
        with nullcontext() if out is None else store.new_directory(out) as directory:
            _replicate_all(plan, directory, records, jobs, progress)
            outcome = make(_results(plan, records))
            if directory:
                outcome._write(directory)
    except (store.StoreError, KeyboardInterrupt) as ended:
        if not records:
            raise
        finished = f"{len(records)} of {total} replications were finished"
        raise unwritten(ended, finished, make(_results(plan, records))) from None
    if outcome.interrupted:
        where = "" if out is None else f" in {out}"
        raise Interrupted(f"kept {len(records)} of {total} replications{where}", outcome)
    return outcome


def _replicate_all(
    plan: _Plan,
    directory: Path | None,
    records: dict[tuple[str, int], RunRecord],
    jobs: int | None,
    progress: Progress | None,
) -> None:
    """Add the records of all replications; Ctrl-C ends it, if there are any by then."""
    if directory:
        for place in plan.places.values():
            (directory / place).mkdir(exist_ok=True)
    tasks = plan.tasks(directory)
    try:
        for record in parallel.run(_replicate, tasks, jobs, progress, plan.scenario.name):
            records[record.policy, record.replication] = record
    except KeyboardInterrupt:
        if not records:
            raise Interrupted("no replication was finished, nothing is kept") from None
    for _, policy, replication, trace, _ in tasks:
        if trace and (policy, replication) not in records:
            trace.unlink(missing_ok=True)


def unwritten(ended: BaseException, finished: str, result: Any) -> BaseException:
    """What to raise with a result whose writing ended with an error, or by Ctrl-C."""
    if isinstance(ended, KeyboardInterrupt):
        return Interrupted(f"{finished}, nothing was written", result, is_written=False)
    return store.Unwritten(f"{ended}; {finished}", result)


def _results(plan: _Plan, records: Mapping[tuple[str, int], RunRecord]) -> list[Result]:
    """One for each policy that has records."""
    results = []
    interrupted = len(records) < len(plan.places) * plan.scenario.replications
    for policy in plan.places:
        own = [records[key] for key in sorted(records) if key[0] == policy]
        if own:
            results.append(Result(plan.scenario, policy, own, interrupted, plan.inputs))
    return results


def _replicate(
    scenario: Scenario, policy: str, replication: int, trace: Path | None, watch_holds: bool
) -> RunRecord:
    from backends.sim import run_replication

    if trace is None and not watch_holds:
        return run_replication(scenario, policy, scenario.seed, replication)
    collector, held = phases.Phases(), holds.Holds(digests=watch_holds)
    watchers: list[Callable[[protocol_trace.Line], None]] = [collector.see, held.see]
    with nullcontext() if trace is None else store.trace_writer(trace) as write:
        if write is not None:
            watchers.insert(0, write)
        record = run_replication(scenario, policy, scenario.seed, replication, watchers)
    return record.with_seen(
        columns(collector.found, PHASE_COLUMNS), columns(held.found, HOLD_COLUMNS)
    )


def scenario_of(
    given: object,
    seed: int | None = None,
    replications: int | None = None,
    fidelity: str | None = None,
) -> Scenario:
    """The scenario that was given as an object, a mapping or a file, with such changes."""
    if isinstance(given, Mapping):
        given = Scenario.from_mapping(given)
    elif isinstance(given, str | Path):
        given = load_scenario(given)
    elif not isinstance(given, Scenario):
        what = f"a {type(given).__name__} is no scenario"
        raise ScenarioError(f"{what}; give a Scenario, a mapping or the path of a file")
    changes = {"seed": seed, "replications": replications, "fidelity": fidelity}
    return given.replace({key: value for key, value in changes.items() if value is not None})


def policies_of(names: Sequence[str], scenario: Scenario) -> Sequence[str]:
    """The names, if there are such policies and the scenario is possible with them."""
    known = ", ".join(POLICIES)
    for name in names:
        if name not in POLICIES:
            close = get_close_matches(name, POLICIES, 1)
            guess = f"did you mean {close[0]}? " if close else ""
            raise ScenarioError(f"policy {name!r} is unknown; {guess}use one of {known}")
        if POLICIES[name].protects():  # without a secondary, its faults just do not happen
            scenario.replace({"policy.name": name}, f"{scenario.name}, policy {name}")
    if not names or len(set(names)) < len(names):
        raise ScenarioError(f"name each policy once, of {known}")
    return names


# --------------------------------------------------------------------------------------------
# Live


async def run_live(
    scenario: AnyScenario,
    policy: str | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    watch: Watch | None = None,
    looker: Looker | None = None,
) -> Result:
    """Put a scenario to two real QEMU guests; for a loop that runs already, as in a notebook.

    One run in real time; `live` is the form that blocks.  say: called with what goes on.
    watch: called twice a second with (seconds, seconds in all, a few words); None draws a bar on
    stderr if that is a terminal.  looker: looks at the run as it goes on, such as a
    `colosim.watch()`; then there is no bar.  Otherwise like `simulate`.  ``out`` also gets the
    guests' consoles and logs.  Raises besides `LiveError`, one line, for what cannot be done on
    this machine.
    """
    from backends.qemu.live import run_live as run

    loaded = scenario_of(scenario, seed, 1)
    [name] = policies_of([loaded.policy.name if policy is None else policy], loaded)
    inputs = store.inputs([loaded])
    result: Result | None = None
    try:
        with ExitStack() as stack:
            if out is None:
                directory = Path(stack.enter_context(TemporaryDirectory(prefix="colosim-")))
            else:
                directory = stack.enter_context(store.new_directory(out))
            if looker is not None:
                stack.enter_context(looker.looking(directory, loaded.name, loaded.duration_ns))
                watch = watch or (lambda elapsed_s, duration_s, words: None)
            shown = stack.enter_context(watcher(watch, loaded.name))
            heard = None if looker is None else looker.told
            found = await run(loaded, name, directory, say, shown, heard)
            result = Result(loaded, name, [found.record], found.interrupted, inputs, found.about)
            if out is not None:
                if found.lines:
                    with store.trace_writer(directory / "trace-0.jsonl.gz") as write:
                        for line in found.lines:
                            write(line)
                result._write(directory)
    except store.StoreError as ended:
        if result is None:
            raise
        raise unwritten(ended, "the run was finished", result) from None
    if result.interrupted:
        where = "" if out is None else f" in {out}"
        raise Interrupted(f"kept what was run until then{where}", result)
    return result


def live(
    scenario: AnyScenario,
    policy: str | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    looker: Looker | None = None,
) -> Result:
    """Like `run_live`, for code without a loop: returns when the run is over."""
    import asyncio

    return asyncio.run(run_live(scenario, policy, seed, out, say, looker=looker))


# --------------------------------------------------------------------------------------------
# Replay


@dataclass(frozen=True)
class Replay:
    """One trace fed to new nodes: what they did differently, and which invariants broke."""

    trace: Path
    lines: int
    differences: Sequence[protocol_trace.Difference]
    violations: Sequence[invariants.Violation]


def replay(directory: str | Path) -> list[Replay]:
    """Replay every trace below a directory.

    Raises StoreError, one line, if there is none or one is empty, damaged, or not whole.
    """
    return [_replay(trace) for trace in store.traces(directory)]


def _replay(trace: Path) -> Replay:
    try:
        kinds = Counter(line.kind for line in store.read_trace(trace))
        if not kinds["event"]:
            raise store.StoreError(f"{trace}: cannot be replayed: holds no event")
        return Replay(
            trace,
            kinds.total(),
            protocol_trace.replay(store.read_trace(trace)),
            invariants.check(store.read_trace(trace)),
        )
    except store.StoreError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise store.StoreError(f"{trace}: cannot be replayed: {error}") from None
