"""What a result comes to, in a sentence or two, with intervals and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
from scipy.special import betaincinv

from colosim.analysis.failovers import happened
from colosim.analysis.stats import interval
from colosim.analysis.summary import differences, named, summarise
from colosim.analysis.winners import winners
from colosim.reporting.reading import Captures, Exploration, Run, Runs, Sweep, Years
from colosim.units import TIME, readable
from colosim.wording import (
    between,
    capital,
    is_told,
    lasting,
    listed,
    number,
    percent,
    plus_minus,
    sure,
)

_SURE = 0.95
_P99 = "latency_p99_ms"
_JOB = "completion_time_s"


class Survival(NamedTuple):
    """Of replications with a fault: how many, in how many clients had answers after it, ..."""

    tried: int
    served: int
    lost: float  # responses, in all replications together
    gap_ms: float  # longest silence, mean
    gap_half_ms: float

    def short(self) -> str:
        """Did it, and how often."""
        if self.served == self.tried:
            return "survived" if self.tried == 1 else f"survived {self.tried} of {self.tried} times"
        return f"did not survive {self.tried - self.served} of {self.tried} times"

    def words(self) -> str:
        """How often, how sure that is, and what clients saw."""
        if not self.tried:
            return "no fault was injected, so survival was not tried"
        low, high = proportion(self.served, self.tried)
        gap = f"longest silence {number(self.gap_ms)}{plus_minus(self.gap_half_ms)} ms"
        if math.isnan(self.gap_ms):
            gap = "there were no clients"
        lost = "no response lost" if self.lost == 0 else f"{self.lost:,.0f} responses lost"
        if math.isnan(self.lost):
            lost = "losses are not known"
        return (
            f"{self.short()} (chance of survival, 95 % interval: "
            f"{between(low, high, lambda part: percent(part, 0))}); {gap}, {lost}"
        )


def proportion(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a chance (Clopper and Pearson, Biometrika 26, 1934)."""
    low = float(betaincinv(successes, trials - successes + 1, 0.025)) if successes else 0.0
    high = (
        float(betaincinv(successes + 1, trials - successes, 0.975)) if successes < trials else 1.0
    )
    return low, high


def survival(run: Run) -> Survival:
    """What became of the replications of a run in which something failed."""
    events, responses = run.tables["events"], run.tables["responses"]
    faults = events[events["what"].isin(["fault"])]
    metrics = run.tables["metrics"].pivot(index="replication", columns="metric", values="value")
    first = faults.groupby("replication")["at_ns"].min()
    last = responses[responses["released_ns"] >= 0].groupby("replication")["released_ns"].max()
    if responses.empty:  # nobody asks it anything: then by who went on
        alone = events[events["what"].isin(["alone", "promoted"])]
        last = alone.groupby("replication")["at_ns"].max()
    served = [int(last.get(i, -1)) > at_ns for i, at_ns in first.items()]
    _, gap, low, _ = interval(_of(metrics, "longest_gap_ms").reindex(first.index))
    lost = _of(metrics, "lost_responses").reindex(first.index).sum(min_count=1)
    return Survival(len(first), sum(served), float(lost), gap, gap - low)


def _of(metrics: pd.DataFrame, name: str) -> pd.Series[float]:
    return metrics[name] if name in metrics else pd.Series(dtype=float)


# --------------------------------------------------------------------------------------------
# Sentences


def of_runs(runs: Runs) -> list[str]:
    """A comparison's costs over its baseline, who survived, who is best; or what one run was."""
    said = _of_one(runs.runs[0], runs.summary) if runs.baseline is None else _compared(runs)
    first, *rest = said
    return [first, *_interrupted(runs), *_broken(runs), *rest]


def _interrupted(runs: Runs) -> Iterator[str]:
    if runs.manifest.get("interrupted"):
        yield "It was interrupted: what follows is of what was finished until then."


def _broken(runs: Runs) -> Iterator[str]:
    if broken := runs.manifest.get("violations"):
        yield f"{len(broken)} broken invariants: the protocol did what it must not. See below."


def _of_one(run: Run, summary: pd.DataFrame) -> Iterator[str]:
    values = summary.set_index("metric")
    cells = {
        name: _cell(values.loc[name])
        for name in values.index
        if not math.isnan(float(values.loc[name, "mean"]))
    }
    n = int(values["n"].max()) if len(values) else 0
    parts = []
    if _JOB in cells:  # it asks for nothing but its end
        parts.append(f"was done after {cells[_JOB]} s")
    elif "throughput_per_s" in cells and len(run.tables["responses"]):
        parts.append(f"answered {cells['throughput_per_s']} requests a second")
        parts += [f"99 % of them within {cells[_P99]} ms"] if _P99 in cells else []
    if "checkpoints_per_s" in cells and "pause_mean_ms" in cells:
        parts.append(
            f"stood for {cells['pause_mean_ms']} ms at each of {cells['checkpoints_per_s']} "
            "checkpoints a second"
        )
    world = "The live guest" if run.is_live else "The guest"
    found = survival(run)
    parts += (
        [f"{found.short()} the fault" if found.tried == 1 else found.short()] if found.tried else []
    )
    yield f"{world} under {run.policy} {listed(parts) or 'had nothing to measure'}."
    yield f"Fault: it {found.words()}." if found.tried else f"{capital(found.words())}."
    if run.is_live:
        table = run.tables["metrics"]
        metrics = dict(zip(table["metric"], table["value"], strict=True))
        yield f"{capital(happened(run.tables['events'], metrics))}."
    if n < 2:
        yield "This is one run, so there is no interval: another one may differ."
    else:
        yield f"Intervals are 95 %, over {n} replications."


def _compared(runs: Runs) -> Iterator[str]:
    """What each policy costs and whether it survived; then the details."""
    baseline = str(runs.baseline)
    tried = {run.policy: survival(run) for run in runs.runs}
    fault = any(each.tried for each in tried.values())
    metrics = _until_fault(runs) if fault else runs.table("metrics")
    summary = _with_differences(metrics, baseline) if fault else runs.summary
    rows = _rows(summary)
    parts = []
    for policy, found in tried.items():
        if policy == baseline:
            continue
        of_a_job = _relative(rows, policy, baseline, _JOB)
        of_clients = [
            _relative(rows, policy, baseline, "throughput_per_s"),
            _absolute(rows, policy, _P99),
        ]
        costs = [
            *([of_a_job] if of_a_job else of_clients),
            found.short() if found.tried else "",
        ]
        parts.append(f"{_who(policy)} {listed([x for x in costs if x]) or 'cannot be compared'}")
    if (found := tried.get(baseline, Survival(0, 0, 0, 0, 0))).tried:
        parts.append(f"{_who(baseline)} {found.short()}")
    yield f"{capital('; '.join(parts))}."
    yield from _best(metrics, [policy for policy in tried if policy != "none"])
    for policy, found in tried.items():
        if found.tried:
            yield f"{capital(_who(policy))} {found.words()}."
    if not fault:
        yield "No fault was injected, so survival was not tried."
    n = int(summary["n"].max()) if len(summary) else 0
    until = "until the fault, " if fault else ""
    yield (
        f"Costs are {until}against {_who(baseline)}; in brackets 95 % intervals of paired "
        f"differences over {n} replications."
    )


def _until_fault(runs: Runs) -> pd.DataFrame:
    """Throughput and p99 latency from the warm-up to the first fault, as a table of metrics.

    With what a fault did to the baseline in it, the difference would not be the cost of protection.
    """
    warm_up_ns = TIME.parse(runs.runs[0].scenario["warm_up"])
    events, responses = runs.table("events"), runs.table("responses")
    first = events[events["what"] == "fault"].groupby("replication")["at_ns"].min()
    rows = []
    for (policy, replication), own in responses.groupby(["policy", "replication"], sort=False):
        until_ns = first.get(replication)
        if until_ns is None or until_ns <= warm_up_ns:
            continue
        released = own["released_ns"]
        count = int(released.between(warm_up_ns, until_ns, inclusive="left").sum())
        per_s = count / (until_ns - warm_up_ns) * 1e9
        rows.append((policy, replication, "throughput_per_s", per_s, "1/s"))
        begun = own["arrival_ns"].between(warm_up_ns, until_ns, inclusive="left")
        waited = own.loc[begun & (released >= 0) & (released < until_ns), "latency_ms"]
        p99 = float(waited.quantile(0.99)) if len(waited) else math.nan
        rows.append((policy, replication, _P99, p99, "ms"))
    return pd.DataFrame(rows, columns=["policy", "replication", "metric", "value", "unit"])


def _with_differences(metrics: pd.DataFrame, baseline: str) -> pd.DataFrame:
    found = summarise(metrics)
    if baseline not in set(metrics["policy"]):
        return found.assign(diff=math.nan, diff_low=math.nan, diff_high=math.nan)
    return found.merge(differences(metrics, baseline), "left", ["policy", "metric"])


_Rows = Mapping[tuple[str, str], Mapping[Any, Any]]


def _rows(summary: pd.DataFrame) -> _Rows:
    return {(row["policy"], row["metric"]): row for row in summary.to_dict("records")}


def _who(policy: str) -> str:
    return "the unprotected guest" if policy == "none" else policy


def _relative(rows: _Rows, policy: str, baseline: str, metric: str) -> str:
    """The difference as a part of the baseline: throughput that is lost, or time that is added."""
    if (policy, metric) not in rows or (baseline, metric) not in rows:
        return ""
    row, base = rows[policy, metric], float(rows[baseline, metric]["mean"])
    mean, low, high = (
        float(row[name]) / base if base else math.nan for name in ("diff", "diff_low", "diff_high")
    )
    if math.isnan(mean):
        return ""
    if metric.startswith("throughput"):
        mean, low, high = -mean, -high, -low
        worse, better, none = "costs {} of throughput", "has {} more throughput", "throughput"
    else:
        worse, better, none = "takes {} longer to finish", "takes {} less to finish", "time"
    text = worse if mean >= 0 else better
    if math.isnan(low):
        return f"{text.format(percent(abs(mean)))} (no interval)"
    if percent(low) == percent(high) == percent(0):
        return f"costs no {none}"
    if not is_told(low, high):
        return f"costs no {none} that can be told ({between(low, high, percent)})"
    low, high = (low, high) if mean >= 0 else (-high, -low)
    return f"{text.format(percent(abs(mean)))} ({between(low, high, percent)})"


def _absolute(rows: _Rows, policy: str, metric: str) -> str:
    if (policy, metric) not in rows:
        return ""
    mean, low, high = (float(rows[policy, metric][x]) for x in ("diff", "diff_low", "diff_high"))
    if math.isnan(mean):
        return ""
    if math.isnan(low):
        return f"adds {number(mean)} ms to p99 latency (no interval)"
    if not is_told(low, high):
        return f"adds no p99 latency that can be told ({between(low, high)} ms)"
    verb, where = ("adds", "to") if mean > 0 else ("takes", "off")
    low, high = (low, high) if mean > 0 else (-high, -low)
    return f"{verb} {number(abs(mean))} ms {where} p99 latency ({between(low, high)} ms)"


def _best(metrics: pd.DataFrame, policies: Sequence[str]) -> Iterator[str]:
    """Who is the best of those that protect and are done, or answer anybody."""
    metric = metric_of(metrics)
    measured = metrics[(metrics["metric"] == metric) & metrics["value"].notna()]
    policies = [policy for policy in policies if policy in set(measured["policy"])]
    if len(policies) < 2:
        return
    won = winners(metrics.assign(everywhere=0), ["everywhere"], metric, policies)
    if won.empty:
        return
    [row] = won.to_dict("records")
    if row["margin"] == 0:
        yield (
            f"Of those that protect, {row['policy']} and {row['runner_up']} have the same "
            f"{_called(metric)}, the lowest."
        )
        return
    confidence = float(row["confidence"])
    is_one = math.isnan(confidence)
    how = "one replication, so not sure" if is_one else f"{sure(confidence)} sure"
    yield (
        f"Of those that protect, {row['policy']} has the lowest {_called(metric)}, "
        f"{percent(float(row['margin']), 0)} below {row['runner_up']} ({how})."
    )


def of_sweep(sweep: Sweep) -> list[str]:
    """Which policy wins in how many points; or between what a metric lies."""
    table = sweep.table
    metric = metric_of(table)
    rows = table[table["metric"] == metric]
    unit = str(rows["unit"].iloc[0]) if len(rows) else "1"
    name = _called(metric, unit)
    rivals = [policy for policy in pd.unique(table["policy"]) if policy != "none"]
    if sweep.axes and len(rivals) > 1:
        won = winners(table, sweep.axes, metric, rivals)
        said = []
        for policy, of_policy in won.groupby("policy", sort=False):
            certain = int((of_policy["confidence"] >= _SURE).sum())
            how = f"{certain} of them at least {percent(_SURE, 0)} sure"
            tied = int((of_policy["margin"] == 0).sum())
            how += f", {tied} tied" if tied else ""
            said.append(f"{policy} in {len(of_policy)} ({how})")
        where = f"Of {len(won)} combinations, the lowest {name} has {listed(said)}."
        return [where, *_broken_at(table)]
    means = rows.groupby([*sweep.axes, "policy"], dropna=False)["value"].mean().dropna()
    if means.empty:
        return [f"No point has a {name}.", *_broken_at(table)]
    least, most = (means.min(), means.idxmin()), (means.max(), means.idxmax())
    ends = (
        f"{number(value)}{'' if unit == '1' else f' {unit}'} ({_place(at, sweep.axes)})"
        for value, at in (least, most)
    )
    return [
        f"Mean {name} goes from {' to '.join(ends)} over {len(means)} points.",
        *_broken_at(table),
    ]


def _broken_at(table: pd.DataFrame) -> Iterator[str]:
    if broken := int(table.loc[table["violations"] > 0, "point"].nunique()):
        yield f"Invariants were broken at {broken} of {table['point'].nunique()} points."


def _place(key: Any, axes: Sequence[str]) -> str:
    """Of a point: its values with their units, and the policy."""
    *values, policy = key if isinstance(key, tuple) else (key,)
    there = [(axis, value) for axis, value in zip(axes, values, strict=True) if pd.notna(value)]
    return ", ".join([*(readable(axis, value) for axis, value in there), str(policy)])


def metric_of(table: pd.DataFrame) -> str:
    """What policies are judged by: the time of a job, p99 latency of a service, else what is first.

    (A job has a latency, too: of its last output.)
    """
    measured = table[table["value"].notna()]
    there = list(pd.unique(measured["metric"]))
    return next((name for name in (_JOB, _P99) if name in there), there[0] if there else _P99)


def _called(metric: str, unit: str = "s") -> str:
    """A metric within a sentence."""
    return "p99 latency" if metric == _P99 else named(metric, unit)


def of_exploration(found: Exploration) -> list[str]:
    """How many points, and whether any broke a promise."""
    points, broken = int(found.found["points"]), int(found.found["violated"])
    if broken:
        first = f"{broken} of {points:,} points broke a promise; the smallest of each are below."
    else:
        high = proportion(0, points)[1] if points else 1.0
        first = (
            f"None of {points:,} points broke a promise of its design (if points were drawn alike, "
            f"at most {percent(high, 2)} of all would, 95 % sure)."
        )
    partly = ["It was interrupted."] if found.found.get("interrupted") else []
    return [first, *partly]


def of_years(years: Years) -> list[str]:
    """How long each policy is down in a year, what it loses, why, and how that is known."""
    values = {
        (row["policy"], row["method"], row["metric"]): row
        for row in years.summary.to_dict("records")
    }
    policies = [str(policy) for policy in pd.unique(years.summary["policy"])]

    def each(method: str, metric: str, words: Callable[[float], str]) -> str:
        return "; ".join(
            f"{_who(policy)} {_from_to(values[policy, method, metric], words)}"
            for policy in policies
        )

    table, asked = years.manifest, years.manifest["scenario"].get("availability", {})
    every = years.summary[years.summary["metric"] == "downtime_s_per_year"]
    in_one_unit = partial(lasting, beside_s=float(every["value"].max()))
    down = each("markov", "downtime_s_per_year", in_one_unit)
    simulated = each("monte carlo", "downtime_s_per_year", in_one_unit)
    losses = each("markov", "guest_losses_per_year", lambda value: f"{value:.3g}")
    said = [
        f"Down in a year: {down}.",
        f"How often a year the guest's state is lost: {losses}.",
        f"What the downtime begins with most: {'; '.join(_worst(years.causes))}.",
        f"With the scenario's distributions instead of exponential times, down: {simulated}.",
    ]
    if len(years.takeovers):
        runs = int(years.takeovers["run"].nunique())
        of = f" of {asked['fault_runs']}" if table.get("interrupted") else ""
        said.append(f"Takeovers are those of {runs}{of} simulated runs of each fault.")
    if table.get("interrupted"):
        said.insert(1, "It was interrupted: this is of what was finished until then.")
    return said


def _worst(causes: pd.DataFrame) -> Iterator[str]:
    """The cause with the largest share, of each policy."""
    for policy, rows in causes.groupby("policy", sort=False):
        row = rows.iloc[int(rows["share"].to_numpy().argmax())]
        yield f"{_who(str(policy))}, {row['cause']} ({percent(float(row['share']), 0)})"


def _from_to(row: Mapping[Any, Any], words: Callable[[float], str]) -> str:
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    if words(low) == words(high):  # so narrow that it is not to be seen
        return words(value)
    return f"{words(value)} ({between(low, high, words)})"


def of_captures(captures: Captures) -> list[str]:
    """What would have become of the guest's frames, how often it would be checkpointed, and why."""
    value = captures.summary.set_index("metric")["value"].astype(float).to_dict()
    reasons = captures.checkpoints["why"].value_counts()
    frames, count = value["frames"], value["checkpoints"]
    alone = value["frames_at_once"] + value["frames_after_waiting"]
    part = f" ({percent(alone / frames)})" if frames else ""
    said = [
        f"Of {frames:,.0f} frames of the guest {alone:,.0f}{part} would have left without a "
        f"checkpoint, {value['frames_at_once']:,.0f} of them at once."
    ]
    over_s = value["duration_s"]
    if count:
        why = listed([f"{n:,} by {name}" for name, n in reasons.items()])
        every = f", one each {lasting(over_s / count)}" if count > 1 else ""
        said.append(f"{count:,.0f} checkpoints in {lasting(over_s)}{every}: {why}.")
    else:
        said.append(f"No checkpoint in {lasting(over_s)}: the guests did not differ.")
    if not math.isnan(value["hold_p50_ms"]):
        median, p99, longest = (number(value[f"hold_{x}_ms"]) for x in ("p50", "p99", "max"))
        said.append(
            f"Frames were held {median} ms (median), 99 % at most {p99} ms, the longest "
            f"{longest} ms."
        )
    return said


def _cell(row: pd.Series) -> str:
    half = (float(row["ci_high"]) - float(row["ci_low"])) / 2
    return number(float(row["mean"])) + plus_minus(half)
