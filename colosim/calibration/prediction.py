"""`validate`: what a calibrated scenario says of live runs, beside what they were."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from colosim import api, store
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
REPLICATIONS = 20
#: top-level keys and tables that a prediction takes from the run itself
_OF_THE_RUN = (
    *("duration", "warm_up", "seed", "dialect", "quirks", "transfer", "commit"),
    *("policy", "link", "limits", "manager", "execution"),
)
#: of `[workload]`: what is calibrated; all else is the run's
_CALIBRATED_LOAD = (
    *("service_time", "service_distribution", "vcpus", "client_delay", "client_jitter"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """Predicted and measured, one row per run and metric, in ``table``.

    run, load, status (``predicted``; ``fitted`` if the run was calibrated on; ``unknown`` if
    nothing beside the scenario says), metric, predicted, low, high (where one run falls in 95 % of
    cases, if the model is right), measured, error (predicted / measured - 1), inside, flags.
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
        from colosim.analysis.agreement import agreement

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
    if out is not None:
        with store.explained(out):
            Path(out).mkdir(parents=True, exist_ok=True)
    used = {each["fingerprint"] for each in about.get("runs", [])}
    rows: list[dict[str, Any]] = []
    for run in read:
        status = "unknown" if not about else "fitted" if run.fingerprint in used else "predicted"
        rows += _compared(calibrated, run, status, replications, jobs)
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
        return {"traits": dict(found["traits"]), "runs": list(found["runs"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CalibrationError(f"{beside}: cannot be read: {error}; calibrate again") from None


def prediction_of(calibrated: Scenario, run: MeasuredRun, replications: int) -> Scenario:
    """The scenario to simulate: the run's own question, the calibration's numbers."""
    mapping, own = calibrated.to_mapping(), run.scenario.to_mapping()
    for key in _OF_THE_RUN:
        mapping.pop(key, None)
        if key in own:
            mapping[key] = own[key]
    workload = dict(own["workload"])
    if isinstance(run.scenario.workload, Service):
        workload |= {key: mapping["workload"][key] for key in _CALIBRATED_LOAD}
        if workload["load"] == "open":
            workload["pipelined"] = False
    mapping |= {"workload": workload, "replications": replications, "name": own["name"]}
    if mapping["memory"]["kind"] == "measured":
        # where the load differs from the measured one, the model must know what a request adds
        mapping["memory"].setdefault("pages_per_request", 0.0)
    return Scenario.from_mapping(mapping, f"{run.name}, predicted")


def _compared(
    calibrated: Scenario, run: MeasuredRun, status: str, replications: int, jobs: int | None
) -> Iterator[dict[str, Any]]:
    predicted = prediction_of(calibrated, run, replications)
    result = api.simulate(predicted, jobs=jobs, trace="none", progress=lambda *_: None)
    for metric in METRICS:
        values = result.metrics.loc[result.metrics["metric"] == metric, "value"].dropna()
        measured = run.metrics[metric]
        if values.empty or not _says_something(run, metric, measured):
            continue
        mean, half = float(values.mean()), _half(values.to_numpy(dtype=float))
        yield {
            "run": run.name,
            "load": _load(run),
            "status": status,
            "metric": metric,
            "predicted": mean,
            "low": mean - half,
            "high": mean + half,
            "measured": measured,
            "error": mean / measured - 1,
            "inside": abs(measured - mean) <= half,
            "flags": " ".join(result.flags),
        }


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
    words = [own["policy"].get(run.policy, {}).get("interval", run.policy)]
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
            "what": [METRICS[each] for each in table["metric"]],
            "status": table["status"],
            "predicted": [f"{each:.4g}" for each in table["predicted"]],
            "measured": [f"{each:.4g}" for each in table["measured"]],
            "95 % of runs": [
                f"{low:.4g} to {high:.4g}"
                for low, high in zip(table["low"], table["high"], strict=True)
            ],
            "error": [f"{each:+.1%}" for each in table["error"]],
        }
    )


def _write(validation: Validation, out: Path) -> None:
    with store.explained(out):
        validation.table.to_csv(out / "validation.csv", index=False)
        validation.plot().save(out / "validation")
