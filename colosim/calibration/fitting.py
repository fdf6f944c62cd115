"""`calibrate`: live runs in, a scenario file for the simulator out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from colosim import store
from colosim.calibration import costs, divergence, latency, lateness, pages, text
from colosim.calibration.costs import Fitted
from colosim.calibration.divergence import DivergenceFit
from colosim.calibration.errors import CalibrationError
from colosim.calibration.lateness import Lateness
from colosim.calibration.runs import (
    MeasuredRun,
    check_alike,
    check_long_enough,
    read_run,
    traits,
)
from colosim.scenario import Scenario, Service, load_scenario
from colosim.tomltext import toml
from colosim.units import TIME, dimension_of, without_unit

_HEAD = "Calibrated on live runs by `colosim calibrate`"
_REPLICATIONS = 10
_CURVE = ".pages.csv"
_SIDECAR = ".calibration.json"


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What `calibrate` found and wrote.

    path: the scenario file.  numbers: key, value, how; every one that was fitted.  runs: what was
    used, one row each.  memory: models of dirty pages, with the mean relative error of each at
    a run left out of its fit.  hazards: of runs whose policy compares, why they checkpointed, by
    reason (`colosim.calibration.divergence.DivergenceFit`); else empty.
    """

    path: Path
    scenario: Scenario
    numbers: pd.DataFrame
    runs: pd.DataFrame
    memory: pd.DataFrame
    hazards: pd.DataFrame

    def __repr__(self) -> str:
        return f"<Calibration {self.path} of {len(self.runs)} runs>"


def calibrate(runs: Sequence[str | Path], out: str | Path) -> Calibration:
    """Turn live runs into the scenario file ``out``, which the simulator can run.

    runs: directories that `colosim live --out` wrote: at two checkpoint intervals or more, and for
    a service one with policy none.  Beside ``out`` go ``NAME.calibration.json``, which says which
    runs and numbers, and for a measured curve ``NAME.pages.csv``.  Raises CalibrationError, one
    line, if the runs do not fit together or say too little; StoreError if nothing can be written.
    """
    path = _free(Path(out))
    read = [read_run(each) for each in runs]
    protected = [run for run in read if run.protects]
    bare = [run for run in read if not run.protects]
    _check(read, protected, bare)
    compared = [run for run in protected if run.compares]
    apart = divergence.fit(compared) if compared else None
    late = lateness.fit(compared) if compared else None
    base = protected[0]
    memory = pages.fit(protected)
    service = None
    if isinstance(base.scenario.workload, Service):
        service = _service(protected, bare, memory, apart, late)
    fitted = _costs(protected, bare, 0 if service is None else service.way_ns, late)
    mapping = _scenario(base, memory, fitted, service, path, apart)
    notes = _notes(protected, bare, memory, fitted, service, apart, late)
    scenario = _write(path, mapping, notes, memory, read, apart)
    return Calibration(
        path,
        scenario,
        pd.DataFrame([(each.key, each.value, each.how) for each in fitted], columns=_NUMBERS),
        _runs(read),
        memory.candidates,
        pd.DataFrame() if apart is None else apart.hazards,
    )


_NUMBERS = ["key", "value", "how"]


def _free(path: Path) -> Path:
    """The file to write, if nothing but an older calibration is lost; else `CalibrationError`."""
    if path.suffix != ".toml":
        raise CalibrationError(f"{path}: is no scenario file; give a name that ends in .toml")
    with store.explained(path):
        if path.exists() and not path.read_text("utf-8", "replace").startswith(f"# {_HEAD}"):
            raise CalibrationError(f"{path}: was not written by colosim calibrate; give a new name")
    return path


def _check(
    read: Sequence[MeasuredRun], protected: Sequence[MeasuredRun], bare: Sequence[MeasuredRun]
) -> None:
    if not protected:
        raise CalibrationError("no run was protected; give live runs with policy remus or colo")
    for run in read:
        check_long_enough(run)
    check_alike(read)
    transfers = {run.transfer: run.name for run in protected}
    if len(transfers) > 1:
        found = ", ".join(f"{how} in {name}" for how, name in transfers.items())
        raise CalibrationError(f"transfer differs: {found}; give runs of one kind")
    if isinstance(protected[0].scenario.workload, Service) and not bare:
        raise CalibrationError(
            "no run without protection, so latency without it is not known; "
            "give one with policy none too"
        )


def _costs(
    protected: Sequence[MeasuredRun],
    bare: Sequence[MeasuredRun],
    way_ns: int,
    late: Lateness | None,
) -> list[Fitted]:
    """Of `[cost]`, and of `[execution]` where guests were compared."""
    if late is None:
        return costs.fit(protected, way_ns)
    more_ms = math.nan
    if bare:
        more_ms = late.latency_ms - float(np.median(_longest(bare).latency_ms))
    release_ns = 0.0 if math.isnan(more_ms) else max(more_ms * 1e6, 0.0)
    return [*costs.fit(protected, way_ns, late.witness, release_ns), *late.fitted()]


def _service(
    protected: Sequence[MeasuredRun],
    bare: Sequence[MeasuredRun],
    memory: pages.PagesFit,
    apart: DivergenceFit | None,
    late: Lateness | None,
) -> latency.ServiceFit:
    held = _most_often(protected)
    with TemporaryDirectory(prefix="colosim-") as place:
        path = Path(place, "tried.toml")
        curve = path.with_suffix(_CURVE)
        if memory.curve is not None:
            memory.curve.to_csv(curve, index=False)

        def question(tried: latency.ServiceFit) -> Scenario:
            fitted = _costs(protected, bare, tried.way_ns, late)
            mapping = _scenario(held, memory, fitted, tried, path, apart)
            if memory.curve is not None:
                mapping["memory"]["file"] = str(curve)
            return Scenario.from_mapping(mapping)

        return latency.fit(_longest(bare), held, question)


def _most_often(protected: Sequence[MeasuredRun]) -> MeasuredRun:
    """The protected run that is stopped most often."""
    return max(protected, key=lambda run: (run.metrics["checkpoints_per_s"], -run.interval_ns))


def _longest(bare: Sequence[MeasuredRun]) -> MeasuredRun:
    """The run without protection that says most."""
    return max(bare, key=lambda run: len(run.latency_ms))


def _scenario(
    base: MeasuredRun,
    memory: pages.PagesFit,
    fitted: Sequence[Fitted],
    service: latency.ServiceFit | None,
    path: Path,
    apart: DivergenceFit | None,
) -> dict[str, Any]:
    mapping = base.scenario.to_mapping()
    mapping["replications"] = _REPLICATIONS
    mapping["description"] = "calibrated on live runs by colosim calibrate"
    mapping["memory"] = {"guest_memory": mapping["memory"]["guest_memory"], **memory.memory}
    if memory.curve is not None:
        mapping["memory"] |= {
            "file": path.with_suffix(_CURVE).name,
            "workload": "live",
            "setting": "calibrated",
        }
    mapping["cost"] = {}
    for each in fitted:
        table, name = each.key.split(".")
        mapping.setdefault(table, {})[without_unit(name)] = _shown(name, each.value)
    if service is not None:
        mapping["workload"] |= service.keys(base.scenario)
    if apart is not None:
        mapping["divergence"] = apart.keys()
    return mapping


def _shown(name: str, value: Any) -> Any:
    dimension = dimension_of(name)
    return value if dimension is None else dimension.format(value)


def _notes(
    protected: Sequence[MeasuredRun],
    bare: Sequence[MeasuredRun],
    memory: pages.PagesFit,
    fitted: Sequence[Fitted],
    service: latency.ServiceFit | None,
    apart: DivergenceFit | None,
    late: Lateness | None,
) -> dict[str, str]:
    """Dotted key or table -> where it comes from."""
    count = sum(len(run.checkpoints) for run in protected)
    intervals = ", ".join(
        TIME.format(each) for each in sorted({run.interval_ns for run in protected})
    )
    where = f"{count} checkpoints of {len(protected)} runs, intervals {intervals}"
    _, error = memory.per_request
    notes = {
        "memory": f"{memory.said}; {where}",
        "memory.pages_per_request": f"± {error:.2g}, from requests and pages at equal intervals",
        "cost": f"means over {where}",
        **{without_unit(each.key): each.how for each in fitted},
        "link": f"as configured in {protected[0].name}",
    }
    if apart is not None:
        count = sum(run.compares for run in protected)
        notes |= {"divergence": f"of {count} runs; {apart.summary()}", **apart.notes()}
    if late is not None:
        notes["cost.witness"] += f", {late.frames} frames made when the guests were abreast"
    if service is not None:
        used, held = _longest(bare), _most_often(protected)
        quantiles = ", ".join(
            f"{quantile:.0%} {simulated:.3g} for {measured:.3g}"
            for quantile, simulated, measured in zip(
                latency.QUANTILES, service.simulated_ms, service.measured_ms, strict=True
            )
        )
        notes["workload"] = (
            f"service_time, service_distribution, client_delay, client_jitter: "
            f"{len(used.latency_ms)} answers of {used.name}, which had no protection, and "
            f"{len(held.latency_ms)} of {held.name}; without protection, simulated for measured, "
            f"ms: {quantiles}"
        )
    return notes


def _write(
    path: Path,
    mapping: Mapping[str, Any],
    notes: Mapping[str, str],
    memory: pages.PagesFit,
    read: Sequence[MeasuredRun],
    apart: DivergenceFit | None,
) -> Scenario:
    with store.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        curve = path.with_suffix(_CURVE)
        if memory.curve is not None:
            memory.curve.to_csv(curve, index=False)
        else:
            curve.unlink(missing_ok=True)  # of an older calibration
    absolute = dict(mapping)
    if memory.curve is not None:
        file = str(path.parent.absolute() / mapping["memory"]["file"])
        absolute["memory"] = mapping["memory"] | {"file": file}
    scenario = Scenario.from_mapping(absolute, str(path))
    compared = () if apart is None else ("divergence", "execution")
    whole = ("cost", "memory", "workload", "link", *compared)
    written = text.compact(scenario, whole)
    if memory.curve is not None:
        written["memory"]["file"] = mapping["memory"]["file"]
    head = [
        f"{_HEAD}; numbers that were fitted say from what.",
        *(f"{run.name}: {_kind(run)}" for run in read),
        *(f"{key}: {value}" for key, value in read[0].about.items()),
    ]
    body = {
        "colosim": store.versions(),
        "traits": {key: value for run in read for key, value in traits(run).items()},
        "runs": _runs(read).to_dict("records"),
        "memory": json.loads(memory.candidates.to_json(orient="records")),
        "hazards": []
        if apart is None
        else json.loads(apart.hazards.to_json(orient="records", double_precision=15)),
    }
    with store.explained(path):
        path.write_text(toml(written, notes, head), "utf-8")
        sidecar(path).write_text(json.dumps(body, indent=2) + "\n", "utf-8")
    return load_scenario(path)


def _kind(run: MeasuredRun) -> str:
    """A run in words."""
    if not run.protects:
        return f"policy {run.policy}, {len(run.latency_ms)} answers"
    interval = TIME.format(run.interval_ns)
    most = "at most every" if run.compares else "interval"
    return f"policy {run.policy}, {most} {interval}, {len(run.checkpoints)} checkpoints"


def _runs(read: Sequence[MeasuredRun]) -> pd.DataFrame:
    rows = [
        (
            run.name,
            run.fingerprint,
            run.policy,
            run.interval_ns,
            len(run.checkpoints),
            len(run.latency_ms),
        )
        for run in read
    ]
    names = ["run", "fingerprint", "policy", "interval_ns", "checkpoints", "answers"]
    return pd.DataFrame(rows, columns=names)


def sidecar(path: Path) -> Path:
    """The file beside a calibrated scenario that says what it was made of."""
    return path.with_suffix(_SIDECAR)
