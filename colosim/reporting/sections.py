"""A result as a document: verdict, notes, figures, tables, provenance."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from colosim.analysis import pages, plots
from colosim.analysis.plots import Chart
from colosim.analysis.plots.style import name_of
from colosim.analysis.summary import LET_GO, holds_summary, label, named, phases_summary
from colosim.analysis.years import interval_of_year, label_of_year
from colosim.model.errors import ModelError
from colosim.protocol.trace import TraceError
from colosim.reporting import verdicts
from colosim.reporting.reading import Captures, Exploration, Run, Runs, Source, Sweep, Years
from colosim.scenario import Scenario, ScenarioError
from colosim.store import StoreError
from colosim.tomltext import toml
from colosim.units import readable, without_unit
from colosim.wording import between, capital, number

_MOST_ROWS = 500
_METRICS = ("throughput_per_s", "latency_mean_ms", "latency_p99_ms")
_OF_JOBS = ("completion_time_s", "pause_mean_ms", "checkpoints_per_s")


@dataclass(frozen=True)
class Figure:
    """A figure, what it shows in words, and what a reader should know of it."""

    chart: Chart
    alt: str
    caption: str
    is_wide: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells; a cell is (text, value to sort by)."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[tuple[str, float | str]]]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the document with a heading; closed: shown when it is asked for."""

    title: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    texts: Sequence[str] = ()
    is_closed: bool = False


@dataclass(frozen=True)
class Document:
    """All that a report says."""

    title: str
    kind: str
    verdict: Sequence[str]
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()  # what a reader of the verdict should know, and is no fault
    sections: Sequence[Section] = ()
    provenance: Sequence[tuple[str, str]] = ()
    commands: Sequence[str] = ()
    scenario: str = ""
    series: Sequence[str] = field(default_factory=tuple)  # that can be hidden in figures


def document(source: Source) -> Document:
    """What a report says of a result."""
    match source:
        case Runs():
            return _of_runs(source)
        case Sweep():
            return _of_sweep(source)
        case Years():
            return _of_years(source)
        case Captures():
            return _of_captures(source)
        case Exploration():
            return _of_exploration(source)


# --------------------------------------------------------------------------------------------
# Runs and comparisons


def _of_runs(runs: Runs) -> Document:
    first = runs.runs[0]
    name = str(first.scenario.get("name", "a run"))
    policies = [run.policy for run in runs.runs]
    world = "live" if first.is_live else "simulated"
    kind = (
        f"comparison of {', '.join(policies)}" if runs.baseline else f"{policies[0]}, {world} run"
    )
    clients = [*_client_figures(runs)]
    insides = [section for run in runs.runs if (section := _inside(run))]
    return Document(
        title=name,
        kind=kind,
        verdict=verdicts.of_runs(runs),
        warnings=_warnings(runs.manifest),
        sections=[
            Section("What clients see", clients, [_summary(runs)]),
            Section("What checkpoints cost", [*_checkpoint_figures(runs)], [*_phases(runs)]),
            *insides,
            Section("What happened", tables=[_events(runs.table("events"))], is_closed=True),
        ],
        provenance=[*_provenance(runs.manifest, first)],
        commands=[runs.command, *_further(first)],
        scenario=_as_toml(first.scenario),
        series=policies if len(policies) > 1 else (),
    )


def _warnings(manifest: Mapping[str, Any]) -> list[str]:
    return [
        *(f"Violation: {text}" for text in manifest.get("violations", ())),
        *(f"Flag: {text}" for text in manifest.get("flags", ())),
    ]


def _client_figures(runs: Runs) -> Iterator[Figure]:
    responses, events = runs.table("responses"), runs.table("events")
    there = set(runs.summary.loc[runs.summary["mean"].notna(), "metric"])
    is_job = _OF_JOBS[0] in there
    metrics = [name for name in (_OF_JOBS if is_job else _METRICS) if name in there]
    if runs.baseline is not None and metrics:
        yield Figure(
            plots.comparison(runs.summary, metrics),
            f"Bars of {', '.join(metrics)} for each policy with 95 % intervals.",
            "Means over replications; whiskers are 95 % intervals."
            if runs.summary["ci_low"].notna().any()
            else "One replication, so there are no intervals.",
            is_wide=True,
        )
    if not is_job and len(responses) and (responses["released_ns"] >= 0).any():
        yield Figure(
            plots.throughput(responses, events),
            "Answers a second over the time of the run, a panel for each policy; faults and "
            "takeovers are vertical lines.",
            "Answers that reached clients. Vertical lines are faults and takeovers.",
            is_wide=True,
        )
        yield Figure(
            plots.latency_cdf(responses),
            f"Cumulative distribution of latency. {_quantiles(responses, 'latency_ms')}",
            "How many responses were there within which time; further left is better.",
        )
    holds = runs.table("holds")
    if len(holds):
        yield Figure(
            plots.hold_cdf(holds),
            "Cumulative distribution of the time that frames were held, by what let them go.",
            "How long output waited before it left.",
        )


def _quantiles(table: pd.DataFrame, column: str) -> str:
    measured = table[table["measured"].astype(bool) & table[column].notna()]
    return " ".join(
        f"{policy}: median {number(float(values.median()))} ms, "
        f"99 % within {number(float(values.quantile(0.99)))} ms."
        for policy, values in measured.groupby("policy", sort=False)[column]
    )


def _checkpoint_figures(runs: Runs) -> Iterator[Figure]:
    checkpoints = runs.table("checkpoints")
    if checkpoints.empty:
        return
    yield Figure(
        plots.timeline(checkpoints),
        "When checkpoints start and why, how long the guest stands, and how long its output is at "
        "risk, for each policy.",
        "One replication. Dark: the guest stands; light: cut, not committed yet.",
        is_wide=True,
    )
    if checkpoints["pause_ms"].notna().any():
        yield Figure(
            plots.pause_cdf(checkpoints),
            f"Cumulative distribution of pauses. {_quantiles(checkpoints, 'pause_ms')}",
            "How long the guest stands at a checkpoint.",
        )
    seen = pages.points(checkpoints)
    if len(seen):
        yield Figure(
            plots.dirty_pages(seen, _curves(runs, seen)),
            f"Dirty pages of {len(seen)} checkpoints over exposure, with curves.",
            "Each checkpoint's dirty pages over the time the guest ran since the last cut. Bands: "
            "95 % of the model's draws; of a fit, 95 % interval of its mean (bootstrap).",
        )


def _curves(runs: Runs, seen: pd.DataFrame) -> dict[str, pd.DataFrame]:
    first = runs.runs[0]
    low, high = seen["exposure_ms"].min(), seen["exposure_ms"].max()
    places = [low * (high / low) ** (i / 40) for i in range(41)]
    if not first.is_live:
        try:
            scenario = Scenario.from_mapping(dict(first.scenario), "the run's scenario")
            curve = pages.model_curve(scenario.memory_model(), places, _requests_per_s(runs))
        except (ModelError, ScenarioError, AttributeError):  # its file may be elsewhere by now
            curve = None
        if curve is not None:
            return {f"model of the scenario ({scenario.memory.kind})": curve}
    fitted = pages.fitted_curve(seen)
    return {} if fitted is None else {"fit: W (1 − exp(−r t / W))": fitted}


def _requests_per_s(runs: Runs) -> float:
    rates = runs.summary.loc[runs.summary["metric"] == "throughput_per_s", "mean"].dropna()
    return float(rates.mean()) if len(rates) else 0.0


def _inside(run: Run) -> Section | None:
    """Both sides of one run, from its trace."""
    trace = run.trace
    if trace is None:
        return None
    try:
        visits = trace.visits
    except TraceError as error:
        raise StoreError(f"{run.directory}: the trace cannot be replayed: {error}") from None
    if visits["state"].nunique() < 2:  # nothing was protected
        return None
    counts = visits.groupby("node", sort=False).size()
    said = ", ".join(f"{node} {count} stays" for node, count in counts.items())
    figures = [
        Figure(
            plots.both_sides(visits),
            "Steps of both checkpointers over the time of one checkpoint, with the time that each "
            "guest stands.",
            "The checkpoint of middling length, step by step on both sides.",
            is_wide=True,
        ),
        Figure(
            plots.state_diagram(visits),
            f"States of checkpointers and managers that were visited, with counts: {said}.",
            "Replication 0: states in the order of their first visit. A box: visits and median "
            "time; an arrow: how often that way was taken.",
            is_wide=True,
        ),
    ]
    return Section(f"Inside {run.policy}: both sides of the pair", figures, is_closed=True)


def _summary(runs: Runs) -> Table:
    rows = runs.summary[runs.summary["mean"].notna()]
    has_difference = "diff" in rows and rows["diff"].notna().any()
    columns = ["Metric", "Policy", "Mean", "95 % interval", "n"]
    if has_difference:
        columns += [f"Difference from {runs.baseline}", "95 % interval of it"]
    body = []
    for row in rows.to_dict("records"):
        cells = [
            _text(label(str(row["metric"]), str(row["unit"]))),
            _text(str(row["policy"])),
            _number(row["mean"]),
            _between(row["ci_low"], row["ci_high"]),
            _number(row["n"], whole=True),
        ]
        if has_difference:
            cells += [_number(row["diff"]), _between(row["diff_low"], row["diff_high"])]
        body.append(cells)
    note = "Intervals are Student's t over replications; differences are paired."
    if rows["ci_low"].isna().all():
        note = "One replication, so there are no intervals."
    return Table("All metrics", columns, body, note)


def _phases(runs: Runs) -> Iterator[Table]:
    phases = runs.table("phases")
    if len(phases):
        yield _of_frame("Steps of a checkpoint", phases_summary(phases), "Of what was traced.")
    holds = runs.table("holds")
    if len(holds):
        found = holds_summary(holds)
        found["how"] = found["how"].map(LET_GO).fillna(found["how"])
        yield _of_frame(
            "How long frames were held", found.rename(columns={"how": "what let them go"})
        )


def _events(events: pd.DataFrame) -> Table:
    columns = ["Time (s)", "Policy", "Replication", "Where", "What", "Detail"]
    rows = [
        [
            (f"{row['at_ns'] / 1e9:.6f}", row["at_ns"] / 1e9),
            _text(str(row["policy"])),
            _number(row["replication"], whole=True),
            _text(str(row["node"])),
            _text(str(row["what"])),
            _text(row["detail"] if isinstance(row["detail"], str) else ""),
        ]
        for row in events[:_MOST_ROWS].to_dict("records")
    ]
    note = f"The first {_MOST_ROWS} of {len(events):,}." if len(events) > _MOST_ROWS else ""
    return Table("Faults, exits and takeovers", columns, rows, note or ("" if rows else "None."))


# --------------------------------------------------------------------------------------------
# Sweeps and explorations


def _of_sweep(sweep: Sweep) -> Document:
    metric = verdicts.metric_of(sweep.table)
    base = sweep.manifest.get("scenario", {})
    name = str(base.get("name", "sweep")) if isinstance(base, Mapping) else "sweep"
    points = sweep.table.groupby([*sweep.axes, "policy"], dropna=False).ngroups
    axes = ", ".join(map(without_unit, sweep.axes)) or "policies"
    figures = [*_maps(sweep, metric)]
    return Document(
        title=name,
        kind=f"sweep over {axes}: {points} points",
        verdict=verdicts.of_sweep(sweep),
        sections=[
            Section("Which policy wins where", figures)
            if figures
            else Section(
                "Which policy wins where", texts=["A map needs two axes and two policies."]
            ),
            Section("Points", tables=[_points(sweep, metric)]),
        ],
        provenance=[*_versions(sweep.manifest)],
        commands=["colosim sweep sweep.toml --out DIR"],
        scenario=_as_toml(base) if isinstance(base, Mapping) else "",
    )


def _maps(sweep: Sweep, metric: str) -> Iterator[Figure]:
    rivals = [policy for policy in pd.unique(sweep.table["policy"]) if policy != "none"]
    varied = [axis for axis in sweep.axes if sweep.table[axis].nunique() > 1]
    if len(rivals) < 2 or len(varied) < 2:
        return
    x, y, *more = varied
    panels = more[0] if more and sweep.table[more[0]].nunique() <= 6 else None
    yield Figure(
        plots.policy_map(sweep.table, x, y, metric, panels, rivals),
        f"Grid of {x} and {y}; each cell has the policy with the lowest mean {metric}.",
        "Winner of each cell, how far ahead it is, and where that is not sure."
        + (f" Other axes ({', '.join(more[1:] if panels else more)}) are averaged over."
           if len(more) > (1 if panels else 0) else ""),
        is_wide=True,
    )  # fmt: skip


def _points(sweep: Sweep, metric: str) -> Table:
    from colosim.analysis.summary import summarise

    rows = sweep.table[sweep.table["metric"] == metric]
    found = summarise(rows, [*sweep.axes, "policy"])
    body = [
        [
            *(_at(axis, row[axis]) for axis in sweep.axes),
            _text(str(row["policy"])),
            _number(row["mean"]),
            _between(row["ci_low"], row["ci_high"]),
            _number(row["n"], whole=True),
        ]
        for row in found[:_MOST_ROWS].to_dict("records")
    ]
    unit = str(rows["unit"].iloc[0]) if len(rows) else ""
    axes = map(name_of, sweep.axes)
    columns = [*axes, "Policy", label(metric, unit), "95 % interval", "n"]
    note = f"The first {_MOST_ROWS} of {len(found):,}." if len(found) > _MOST_ROWS else ""
    return Table(f"{label(metric, unit)} of each point", columns, body, note)


def _of_exploration(found: Exploration) -> Document:
    violations = found.found.get("violations", [])
    texts = [json.dumps(each, indent=2, ensure_ascii=False) for each in violations]
    broken = [Section("What was broken", texts=texts)] if texts else []
    return Document(
        title=str(found.found.get("title", "exploration")),
        kind="exploration of failures",
        verdict=verdicts.of_exploration(found),
        sections=[*broken, Section("Outcomes", tables=[_of_frame("Points", found.outcomes)])],
        provenance=[*_versions(found.manifest)],
        commands=["colosim explore --what " + str(found.manifest.get("what", "singles"))],
    )


# --------------------------------------------------------------------------------------------
# Years of availability, and captures


def _of_years(years: Years) -> Document:
    manifest = years.manifest
    scenario = dict(manifest["scenario"])
    policies = [str(policy) for policy in manifest["policies"]]
    cycles = int(years.cycles["cycles"].max())
    figure = Figure(
        plots.downtime(years.summary, years.causes),
        "Downtime in seconds a year: by policy with 95 % intervals, and by what began the outages. "
        + " ".join(verdicts.of_years(years)[:1]),
        "Filled: exactly, as if all times were exponential (markov). Open: by simulated cycles "
        "with the scenario's distributions (monte carlo).",
        is_wide=True,
    )
    return Document(
        title=str(scenario.get("name", "availability")),
        kind=f"a year of {', '.join(policies)}",
        verdict=verdicts.of_years(years),
        warnings=_warnings(manifest),
        sections=[
            Section("What a year comes to", [figure], [_year(years.summary)]),
            Section("What begins the outages", tables=[_of_frame("Causes", years.causes)]),
            Section(
                "Where the year is spent",
                tables=[_of_frame("States", years.states)],
                is_closed=True,
            ),
            Section(
                "What clients saw of each fault",
                tables=[*_takeovers(years.takeovers)],
                is_closed=True,
            ),
        ],
        provenance=[
            *_of_manifest(manifest, ("fingerprint", "created", "seed", "fault_runs")),
            *_versions(manifest),
            *_digests(manifest),
        ],
        commands=[
            f"colosim availability scenario.toml --policies {','.join(policies)} "
            f"--seed {manifest['seed']} --cycles {cycles} --out DIR"
        ],
        scenario=_as_toml(scenario),
    )


def _year(summary: pd.DataFrame) -> Table:
    rows = [
        [
            _text(capital(label_of_year(str(row["metric"]), str(row["unit"])))),
            _text(str(row["policy"])),
            _text(str(row["method"])),
            _short(float(row["value"])),
            _wide(interval_of_year(row["low"], row["high"], _small), row["high"] - row["low"]),
        ]
        for row in summary.to_dict("records")
    ]
    note = "Of markov: what the simulated takeovers leave open. –: too narrow to be seen."
    columns = ["Metric", "Policy", "Method", "Value", "95 % interval"]
    return Table("All figures", columns, rows, note)


def _takeovers(takeovers: pd.DataFrame) -> Iterator[Table]:
    if takeovers.empty:
        return
    seen = takeovers.groupby(["policy", "fault"], sort=False)
    table = pd.DataFrame(
        {
            "runs": seen.size(),
            "taken over": seen["recovered"].sum(),
            "silence, median (ms)": seen["gap_ms"].median(),
            "silence, longest (ms)": seen["gap_ms"].max(),
            "of it until it was noticed, median (ms)": seen["detecting_ms"].median(),
            "lost responses": seen["lost_responses"].sum(),
        }
    )
    yield _of_frame("Simulated runs, one fault in each", table.reset_index())


def _of_captures(captures: Captures) -> Document:
    manifest = captures.manifest
    settings = manifest["settings"]
    names = [str(manifest[side]).rpartition("/")[2] for side in ("primary", "secondary")]
    figure = Figure(
        plots.hold_times(captures.frames, captures.checkpoints),
        "How long each frame was held, over time; below it when checkpoints came, by reason. "
        + " ".join(verdicts.of_captures(captures)[-1:]),
        "From when a frame was captured until it would have left.",
        is_wide=True,
    )
    options = {
        "compare-timeout": f"{settings['compare_timeout_s']:.9g} s",
        "offset": f"{settings['offset_s']:.9g} s",
        "checkpoint-pause": f"{settings['checkpoint_pause_s']:.9g} s",
    }
    given = " ".join(f"--{name} '{value}'" for name, value in options.items())
    return Document(
        title=" and ".join(names),
        kind=f"captures compared, mode {settings['mode']}",
        verdict=verdicts.of_captures(captures),
        notes=[capital(str(note)) for note in manifest["notes"]],
        sections=[
            Section("Frames and checkpoints", [figure], [_counts(captures.summary)]),
            Section("What differed", tables=[_of_frame("Verdicts", captures.verdicts)]),
            Section(
                "Checkpoints",
                tables=[_of_frame("Assumed checkpoints", captures.checkpoints)],
                is_closed=True,
            ),
        ],
        provenance=[
            *_of_manifest(manifest, ("primary", "secondary", "guest", "created")),
            *((_named(name), str(value)) for name, value in settings.items()),
            *_versions(manifest),
        ],
        commands=[
            f"colosim compare-pcap PRIMARY SECONDARY --mode {settings['mode']} "
            f"--secondary-numbers {settings['numbers']} --guest {manifest['guest']} {given} "
            "--out DIR"
        ],
    )


def _counts(summary: pd.DataFrame) -> Table:
    rows = [
        [
            _text(capital(named(str(row["metric"]), str(row["unit"])))),
            _any(row["value"]),
            _text(str(row["unit"])),
        ]
        for row in summary.to_dict("records")
    ]
    return Table("Summary", ["What", "Value", "Unit"], rows)


# --------------------------------------------------------------------------------------------
# Cells and provenance

_Cell = tuple[str, float | str]


def _text(text: str) -> _Cell:
    return text, text


def _number(value: Any, whole: bool = False) -> _Cell:
    figure = float(value)
    if math.isnan(figure):
        return "–", ""
    return (f"{figure:,.0f}" if whole else number(figure)), figure


def _between(low: Any, high: Any) -> _Cell:
    low, high = float(low), float(high)
    return _wide("" if math.isnan(low) else between(low, high), high - low)


def _wide(text: str, width: float) -> _Cell:
    """An interval, sorted by its width; a dash where there is none."""
    return (text, float(width)) if text else ("–", "")


def _at(axis: str, value: Any) -> _Cell:
    """A value of a sweep's axis, with its unit; nothing where it does not concern a policy."""
    if value is None or pd.isna(value):
        return "–", ""
    return readable(axis, value), value if isinstance(value, str) else float(value)


def _any(value: Any) -> _Cell:
    if isinstance(value, str) or value is None or value is pd.NA:
        return _text("–" if not isinstance(value, str) else value)
    if pd.isna(value):
        return "–", ""
    is_whole = float(value).is_integer()
    return (f"{value:,.0f}" if is_whole else number(float(value))), float(value)


def _short(value: Any) -> _Cell:
    """Of numbers of any size, such as parts of a year."""
    if isinstance(value, bool | np.bool_):
        return _text("yes" if value else "no")
    if isinstance(value, float) and 0 < abs(value) < 0.001:
        return f"{value:.3g}", value
    return _any(value)


def _small(value: float) -> str:
    return _short(float(value))[0]


def _moment(value: float) -> _Cell:
    return f"{value:.6f}", value


#: endings of columns -> their unit; what comes first counts
_UNITS = {"_s_per_year": "s/year", "_per_year": "1/year", "_ms": "ms", "_s": "s"}


def _named(column: str) -> str:
    """A column for people: "median_ms" is "median (ms)"."""
    ending = next((each for each in _UNITS if column.endswith(each)), "")
    name = column.removesuffix(ending).replace("_", " ")
    return f"{name} ({_UNITS[ending]})" if ending else name


def _heading(column: str) -> str:
    """The same at the head of a table; a symbol such as n or p99 stays small."""
    name = _named(column)
    return name if len(name) == 1 or name[1].isdigit() else capital(name)


#: columns -> how their cells are written, where a type does not tell
_CELLS: Mapping[str, Callable[[Any], _Cell]] = {"time_s": _moment}


def _of_frame(title: str, frame: pd.DataFrame, note: str = "") -> Table:
    ways = [_CELLS.get(str(name), _short) for name in frame]
    rows = [
        [way(cell) for way, cell in zip(ways, row, strict=True)]
        for row in frame[:_MOST_ROWS].itertuples(index=False)
    ]
    columns = [_heading(str(name)) for name in frame]
    if len(frame) > _MOST_ROWS:
        note = f"{note} The first {_MOST_ROWS} of {len(frame):,}.".strip()
    return Table(title, columns, rows, note)


def _provenance(manifest: Mapping[str, Any], first: Run) -> Iterator[tuple[str, str]]:
    yield from _of_manifest(manifest, ("fingerprint", "created"))
    for key in ("seed", "replications"):
        yield key, str(first.manifest[key])
    yield from _versions(manifest)
    for key, value in first.manifest.items():
        if key.startswith(("qemu of ", "machine of ")) or key in _ABOUT:
            yield key, str(value)
    yield from _digests(first.manifest)


def _of_manifest(manifest: Mapping[str, Any], keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    for key in keys:
        if key in manifest:
            yield key.replace("_", " "), str(manifest[key])


def _digests(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for file, digest in manifest.get("sha256", {}).items():
        yield f"SHA-256 of {file}", str(digest)


_ABOUT = (
    "world", "engine", "accelerator", "processor", "dirty pages found by", "replicated disk",
)  # fmt: skip


def _versions(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, version in manifest.get("versions", {}).items():
        yield ("digest of colosim's code" if name == "code" else f"version of {name}"), str(version)


def _further(first: Run) -> Iterable[str]:
    yield "colosim replay DIR"
    if first.directory is not None:
        yield "colosim report DIR"


def _as_toml(mapping: Mapping[str, Any]) -> str:
    return toml(mapping, {}, []) if mapping else ""
