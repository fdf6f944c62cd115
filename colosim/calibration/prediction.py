"""`validate`: what a calibrated scenario says of live runs, beside what they were."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit
from scipy.stats import nbinom

from colosim import api, store
from colosim.calibration.divergence import EXPOSURES
from colosim.calibration.epochs import ANY, TRIGGERED, epochs
from colosim.calibration.errors import CalibrationError
from colosim.calibration.fitting import sidecar
from colosim.calibration.runs import MeasuredRun, check_alike, check_long_enough, read_run
from colosim.scenario import Scenario, Service, load_scenario

if TYPE_CHECKING:
    from colosim.analysis.plots import Chart

#: metric -> what a table calls it
METRICS: Mapping[str, str] = {
    "pause_mean_ms": "pause (ms)",
    "dirty_pages_mean": "pages",
    "checkpoints_per_s": "checkpoints (1/s)",
    "throughput_per_s": "throughput (1/s)",
    "latency_p50_ms": "latency p50 (ms)",
    "latency_p99_ms": "latency p99 (ms)",
}
#: of a policy that compares, beside those
COMPARED: Mapping[str, str] = {
    "matched_hold_p50_ms": "hold, matched, p50 (ms)",
    "matched_hold_mean_ms": "hold, matched, mean (ms)",
    "matched_hold_p99_ms": "hold, matched, p99 (ms)",
    "committed_hold_mean_ms": "hold, committed, mean (ms)",
    "differences_per_s": "checkpoints by difference (1/s)",
}
_BY_REASON = re.compile(r"differences_(.+)_per_s")
#: events, below which a measured rate is compared with the interval alone
LEAST_EVENTS = 10
REPLICATIONS = 20
#: top-level keys and tables that a prediction takes from the run itself
_OF_THE_RUN = (
    *("duration", "warm_up", "seed", "dialect", "quirks", "transfer", "commit"),
    *("policy", "link", "limits", "manager", "execution", "compare", "packet"),
)
#: of `[execution]`: what is calibrated; all else is the run's
_CALIBRATED_EXECUTION = ("start_skew", "start_skew_spread")
#: of `[workload]`: what is calibrated; all else is the run's
_CALIBRATED_LOAD = (
    *("service_time", "service_distribution", "vcpus", "client_delay", "client_jitter"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """Predicted and measured, one row per run and metric, in ``table``.

    run, load, status (``predicted``; ``fitted`` if the run was calibrated on; ``unknown`` if
    nothing beside the scenario says), metric, predicted, low, high (where one run falls in 95 % of
    cases, if the model is right), measured, error (predicted / measured - 1; NaN where too few
    events were measured to say), inside, flags.
    """

    scenario: Path
    table: pd.DataFrame

    @property
    def median_error(self) -> float:
        """Median of the absolute relative errors of what was predicted; NaN if nothing was."""
        errors = self.table.loc[self.table["status"] == "predicted", "error"].abs()
        return float(errors.median())

    def median_errors(self) -> pd.DataFrame:
        """Status, metric, n, median_error, inside (part of them)."""
        grouped = self.table.assign(error=self.table["error"].abs()).groupby(
            ["status", "metric"], sort=False
        )
        found = grouped.agg(
            n=("error", "size"), median_error=("error", "median"), inside=("inside", "mean")
        )
        return found.reset_index()

    def plot(self) -> Chart:
        """Predicted over measured, a panel per metric."""
        from colosim.analysis.plots import agreement

        return agreement(self.table)

    def _repr_html_(self) -> str:
        return str(self.table.to_html(index=False))


def validate(
    scenario: str | Path,
    runs: Sequence[str | Path],
    out: str | Path | None = None,
    replications: int = REPLICATIONS,
    jobs: int | None = None,
) -> Validation:
    """Predict live runs from a calibrated scenario file, and compare.

    Each run's own policy, load, link and duration are put to the simulator; memory, costs and
    service times are the scenario's.  out: a directory for validation.csv and the figure.
    Raises CalibrationError for runs that the scenario says nothing about, and what `simulate` does.
    """
    path = Path(scenario)
    calibrated = load_scenario(path)
    if replications < 2:
        raise CalibrationError("one replication has no interval; give at least 2 replications")
    about = _sidecar(path)
    read = [read_run(each) for each in runs]
    for run in read:
        check_long_enough(run)
        if run.scenario.workload.kind != calibrated.workload.kind:
            kinds = f"is a {run.scenario.workload.kind}, and {path} a {calibrated.workload.kind}"
            raise CalibrationError(f"{run.name}: {kinds}; give a scenario calibrated on such runs")
    check_alike(read, about.get("traits"))
    _check_compared(path, read, about)
    if out is not None:
        with store.explained(out):
            Path(out).mkdir(parents=True, exist_ok=True)
    used = {each["fingerprint"] for each in about.get("runs", [])}
    rows: list[dict[str, Any]] = []
    for run in read:
        status = "unknown" if not about else "fitted" if run.fingerprint in used else "predicted"
        hazards = about.get("hazards", [])
        rows += _compared(calibrated, run, status, replications, jobs, hazards)
    validation = Validation(path, pd.DataFrame(rows))
    if out is not None:
        _write(validation, Path(out))
    return validation


def _sidecar(path: Path) -> dict[str, Any]:
    """What the scenario was made of; nothing if the file beside it is gone."""
    beside = sidecar(path)
    if not beside.exists():
        return {}
    try:
        found = json.loads(beside.read_text("utf-8"))
        return {
            "traits": dict(found["traits"]),
            "runs": list(found["runs"]),
            "hazards": list(found.get("hazards", [])),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CalibrationError(f"{beside}: cannot be read: {error}; calibrate again") from None


def _check_compared(path: Path, read: Sequence[MeasuredRun], about: Mapping[str, Any]) -> None:
    """Differences are known only of runs in which guests were compared."""
    for run in read:
        if run.compares and about and not about["hazards"]:
            raise CalibrationError(
                f"{run.name}: policy is {run.policy}, and {path} was calibrated on no such runs; "
                f"calibrate on runs of policy {run.policy} too"
            )


def prediction_of(calibrated: Scenario, run: MeasuredRun, replications: int) -> Scenario:
    """The scenario to simulate: the run's own question, the calibration's numbers."""
    mapping, own = calibrated.to_mapping(), run.scenario.to_mapping()
    late = {key: mapping["execution"][key] for key in _CALIBRATED_EXECUTION}
    for key in _OF_THE_RUN:
        mapping.pop(key, None)
        if key in own:
            mapping[key] = own[key]
    mapping["execution"] = dict(mapping.get("execution", {})) | late
    workload = dict(own["workload"])
    if isinstance(run.scenario.workload, Service):
        workload |= {key: mapping["workload"][key] for key in _CALIBRATED_LOAD}
        if workload["load"] == "open":
            workload["pipelined"] = False
    mapping |= {"workload": workload, "replications": replications, "name": own["name"]}
    if own["client"]["kind"] == "http" and not own["client"]["keep_alive"]:
        mapping["packet"]["requests_per_connection"] = 1
    if mapping["memory"]["kind"] == "measured":
        # where the load differs from the measured one, the model must know what a request adds
        mapping["memory"].setdefault("pages_per_request", 0.0)
    return Scenario.from_mapping(mapping, f"{run.name}, predicted")


def _compared(
    calibrated: Scenario,
    run: MeasuredRun,
    status: str,
    replications: int,
    jobs: int | None,
    hazards: Sequence[Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:
    predicted = prediction_of(calibrated, run, replications)
    result = api.simulate(
        predicted,
        jobs=jobs,
        trace="none",
        progress=lambda *_: None,
        watch_holds=run.compares,
    )
    common = {"run": run.name, "load": _load(run), "status": status}
    flags = " ".join(result.flags)
    found: dict[str, tuple[np.ndarray[Any, Any], float]] = {}
    for metric in METRICS:
        of_runs = result.metrics.loc[result.metrics["metric"] == metric, "value"].dropna()
        found[metric] = of_runs.to_numpy(dtype=float), run.metrics[metric]
    if run.compares:
        found |= _holds(result.holds, run.holds)
    for metric, (values, measured) in found.items():
        if values.size and _says_something(run, metric, measured):
            mean, half = float(values.mean()), _half(values)
            error = mean / measured - 1
            yield _row(common, metric, mean, mean - half, mean + half, measured, error, flags)
    if run.compares:
        yield from _differences(result, predicted, run, common, flags, hazards)


def _row(
    common: Mapping[str, str],
    metric: str,
    mean: float,
    low: float,
    high: float,
    measured: float,
    error: float,
    flags: str,
) -> dict[str, Any]:
    return {
        **common,
        "metric": metric,
        "predicted": mean,
        "low": low,
        "high": high,
        "measured": measured,
        "error": error,
        "inside": low <= measured <= high,
        "flags": flags,
    }


def _holds(
    simulated: pd.DataFrame, measured: pd.DataFrame
) -> dict[str, tuple[np.ndarray[Any, Any], float]]:
    """Metrics of how long output was held: of each replication, and measured."""
    took: dict[str, tuple[str, Callable[[np.ndarray[Any, Any]], float]]] = {
        "matched_hold_p50_ms": ("match", lambda each: float(np.median(each))),
        "matched_hold_mean_ms": ("match", lambda each: float(each.mean())),
        "matched_hold_p99_ms": ("match", lambda each: float(np.quantile(each, 0.99))),
        "committed_hold_mean_ms": ("commit", lambda each: float(each.mean())),
    }
    simulated = simulated[simulated["measured"].astype(bool)] if len(simulated) else simulated

    def each_ms(table: pd.DataFrame, how: str) -> np.ndarray[Any, Any]:
        own = table[table["how"] == how]
        return np.repeat(own["hold_ms"].to_numpy(dtype=float), own["frames"].to_numpy())

    found = {}
    for metric, (how, of) in took.items():
        seen = each_ms(measured, how)
        runs = [] if simulated.empty else [own for _, own in simulated.groupby("replication")]
        values = [of(each) for own in runs if (each := each_ms(own, how)).size]
        found[metric] = np.array(values), of(seen) if seen.size else math.nan
    return found


def _differences(
    result: api.Result,
    predicted: Scenario,
    run: MeasuredRun,
    common: Mapping[str, str],
    flags: str,
    hazards: Sequence[Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Checkpoints that differences made, all and by reason.

    The interval is that of the count of one run: the estimate has the error of its own count too,
    so it is a negative binomial (a Poisson count at a rate of which ``events`` were seen, Jeffreys'
    prior).
    """
    simulated = epochs_of(result, predicted)
    window_s = (run.scenario.duration_ns - run.scenario.warm_up_ns) / 1e9
    chosen = [each for each in hazards if each["chosen"]]
    events = sum(each["events"] for each in chosen) if chosen else None
    total = float(np.mean([(table["why"] != "").sum() for table in simulated]))
    rows = [("differences_per_s", events, total, int((run.epochs["why"] != "").sum()))]
    for each in chosen:
        if each["why"] != ANY:
            exposed = np.mean([table[EXPOSURES[each["per"]]].sum() for table in simulated])
            seen = int((run.epochs["why"] == each["why"]).sum())
            count = each["rate"] * float(exposed)
            rows.append((f"differences_{each['why']}_per_s", each["events"], count, seen))
    for metric, seen_before, count, seen in rows:
        low, high = _of_count(count, seen_before)
        few = seen < LEAST_EVENTS
        error = math.nan if few else count / seen - 1
        said = f"{flags} few".strip() if few else flags
        ends = low / window_s, high / window_s
        yield _row(common, metric, count / window_s, *ends, seen / window_s, error, said)


def epochs_of(result: api.Result, predicted: Scenario) -> list[pd.DataFrame]:
    """Of each simulated replication, one without a checkpoint or an answer too."""
    found = []
    for record in result.records:
        checkpoints, responses = (
            table[table["replication"] == record.replication]
            for table in (result.checkpoints, result.responses)
        )
        found.append(epochs(checkpoints, responses, _whys(checkpoints), predicted))
    return found


def _whys(checkpoints: pd.DataFrame) -> dict[int, str]:
    """Of a simulated run: a difference is a difference."""
    own = checkpoints[checkpoints["reason"].isin(TRIGGERED)]
    return dict.fromkeys(own["checkpoint"].astype(int), ANY)


def _of_count(mean: float, events: int | None) -> tuple[float, float]:
    """Where a count falls in 95 % of cases; ``events``: what its mean was estimated from."""
    if mean <= 0:
        return 0.0, 0.0
    if events is None:  # not estimated here: taken as known
        shape, mean_count = 1e9, mean
    else:  # without an event the rate is the upper bound of the rule of three
        shape = events + 0.5
        mean_count = mean * shape / (events or 3)
    at = shape / (shape + mean_count)
    low, high = nbinom.ppf((0.025, 0.975), shape, at)
    return min(float(low), mean), max(float(high), mean)


def _says_something(run: MeasuredRun, metric: str, measured: float) -> bool:
    """A batch job has no throughput, an unprotected guest no checkpoints."""
    if not run.protects and metric == "checkpoints_per_s":
        return False
    return not math.isnan(measured) and measured > 0


def _half(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Half of the interval in which one more value falls in 95 % of cases.

    t(n-1, 0.975) s sqrt(1 + 1/n) for a normal sample (Hahn and Meeker, "Statistical Intervals",
    1991, 4.7).
    """
    n = values.size
    if n < 2:
        return math.nan
    return float(stdtrit(n - 1, 0.975) * values.std(ddof=1) * math.sqrt(1 + 1 / n))


def _load(run: MeasuredRun) -> str:
    """Interval, load and link of a run in words."""
    own = run.scenario.to_mapping()
    workload = own["workload"]
    table = own["policy"].get(run.policy, {})
    words = [table.get("interval", table.get("checkpoint_delay", run.policy))]
    if workload.get("load") == "open":
        words.append(workload["rate"])
    elif workload.get("load") == "closed":
        words.append(f"{workload['clients']} clients")
    words.append(f"{own['link']['bandwidth']}, {own['link']['delay']}")
    return ", ".join(map(str, words))


def readable(validation: Validation) -> pd.DataFrame:
    """The table as text for people."""
    table = validation.table
    return pd.DataFrame(
        {
            "run": [Path(each).name for each in table["run"]],
            "load": table["load"],
            "what": [title(each) for each in table["metric"]],
            "status": table["status"],
            "predicted": [f"{each:.4g}" for each in table["predicted"]],
            "measured": [f"{each:.4g}" for each in table["measured"]],
            "95 % of runs": [
                f"{low:.4g} to {high:.4g}"
                for low, high in zip(table["low"], table["high"], strict=True)
            ],
            "error": ["few" if math.isnan(each) else f"{each:+.1%}" for each in table["error"]],
        }
    )


def title(metric: str) -> str:
    """What a table calls a metric."""
    reason = _BY_REASON.fullmatch(metric)
    return f"... by {reason[1]} (1/s)" if reason else {**METRICS, **COMPARED}[metric]


def _write(validation: Validation, out: Path) -> None:
    with store.explained(out):
        validation.table.to_csv(out / "validation.csv", index=False)
        validation.plot().save(out / "validation")
