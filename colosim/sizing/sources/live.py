"""Live runs as a source: calibrated as a whole, or what can be said of too few."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from colosim.calibration import CalibrationError, MeasuredRun, calibrate, read_run
from colosim.calibration import costs as cost_fit
from colosim.calibration import divergence as divergence_fit
from colosim.calibration import lateness as lateness_fit
from colosim.calibration.divergence import exact_interval
from colosim.calibration.epochs import TIMEOUT
from colosim.model.memory import PAGE_BYTES, CurvePoint
from colosim.pcap import CaptureError, compare_pcap
from colosim.scenario import Scenario, Service
from colosim.sizing.basis import PROBABILITY, UNPROMPTED, Basis, Curve, exponents
from colosim.sizing.causes import Cause, causes_of
from colosim.sizing.errors import SizingError
from colosim.sizing.lab import quiet
from colosim.sizing.sources.pages import GUEST_BYTES, continue_curve, grouped, take_points
from colosim.units import SIZE, TIME, without_unit

_LEAST_SAMPLES = 12  # checkpoints that are a point of the curve of dirty pages


def live(basis: Basis, paths: Sequence[Path], place: Path) -> None:
    """All of what runs say if `colosim.calibrate` can be fitted to them, else what each part says.

    place: where the curve that was fitted goes.
    """
    runs = [read_run(path) for path in paths]
    protected = [run for run in runs if run.protects]
    bare = [run for run in runs if not run.protects]
    names = ", ".join(f"{run.name} ({run.policy})" for run in runs)
    kept: dict[str, Any] = {}
    if basis.sources:  # a scenario beside runs says over what link, and how policies are set
        kept = {key: basis.mapping[key] for key in ("link", "policy") if key in basis.mapping}
    basis.sources.append(f"live runs {names}")
    service = isinstance(runs[0].scenario.workload, Service)
    if protected and (bare or not service):
        try:
            found = calibrate(paths, place / "calibrated.toml")
        except CalibrationError as error:
            basis.notes.append(f"not calibrated as a whole: {error}")
        else:
            accelerator = protected[0].about.get("accelerator", "")
            _calibrated(basis, found.scenario, found.hazards, accelerator, names)
            basis.mapping |= kept
            basis.causes = _causes(protected, basis.notes)
            return
    _in_part(basis, runs, protected, names)
    basis.mapping |= kept
    basis.causes = _causes(protected, basis.notes)


def _calibrated(
    basis: Basis, scenario: Scenario, hazards: pd.DataFrame, accelerator: str, names: str
) -> None:
    basis.mapping = scenario.to_mapping()
    basis.knows |= {"memory", "load", "service", "costs", "link"}
    found = ("memory", "cost", "workload", "link", *(["execution"] if len(hazards) else []))
    for table in found:
        basis.forget(table)
        basis.say(table, "as colosim calibrate finds it", "fitted", names)
    _curve_of_file(basis)
    _starts(basis, len(hazards) > 0, accelerator, names)
    if len(hazards):
        _hazards(basis, hazards, names)


def _starts(basis: Basis, are_known: bool, accelerator: str, names: str) -> None:
    """Only runs in which guests were compared say how late the second one is."""
    if are_known:
        basis.knows.add("starts")
    elif accelerator == "tcg":
        basis.assume_late_starts(f"{names}: no run in which guests were compared")


def _curve_of_file(basis: Basis) -> None:
    """A measured curve of a file as a `Curve`, so that it can be continued and scaled."""
    memory = basis.mapping["memory"]
    if memory["kind"] != "measured" or "file" not in memory:
        return
    rows = pd.read_csv(memory["file"])
    rows = rows[(rows["workload"] == memory["workload"]) & (rows["setting"] == memory["setting"])]
    points = [
        CurvePoint(round(float(each["exposure_ms"].median()) * 1e6), tuple(each["dirty_pages"]))
        for _, each in rows.groupby("interval_ms")
    ]
    load = float(rows["load_ops"].sum() / rows["exposure_ms"].sum() * 1e3)
    guest = memory.get("guest_memory", f"{GUEST_BYTES} B")
    (below, least), (beyond, most) = exponents(points)
    curve = Curve(
        points, int(SIZE.parse(guest)) // PAGE_BYTES, below, beyond, load,
        memory.get("pages_per_request", 0.0),
    )  # fmt: skip
    basis.curve = curve
    continue_curve(basis, curve, least, most)


def _hazards(basis: Basis, hazards: pd.DataFrame, names: str) -> None:
    """What was found of why guests differ, as unknowns: sums by what they are per."""
    basis.forget("divergence")
    basis.mapping["divergence"] = {}
    basis.knows.add("divergence")
    chosen = hazards[hazards["chosen"].astype(bool)]
    keys = {
        "second": UNPROMPTED,
        "response": PROBABILITY,
        "connection": "divergence.connection_probability",
    }
    for per, rows in chosen.groupby("per"):
        events = int(rows["events"].sum())
        exposure = float(rows["exposure"].max())
        low, high = exact_interval(events, exposure, str(per))
        value = events / exposure if events else high / 2
        whys = ", ".join(f"{why} {n}" for why, n in zip(rows["why"], rows["events"], strict=True))
        source = f"{names}: {whys} in {exposure:.4g} {per}s"
        between = (low, high)
        what = f"differences a {per}" + ("" if events else ", none seen")
        basis.put(keys[str(per)], value, "measured", source, between, what)


def _causes(protected: Sequence[MeasuredRun], notes: list[str]) -> list[Cause]:
    """Of runs that compared, from the frames that they kept."""
    found: list[Cause] = []
    for run in protected:
        ours, theirs = (run.path / f"{host}.frames.pcap" for host in "ab")
        if not (run.compares and ours.exists() and theirs.exists()):
            continue
        timeout_s = run.scenario.policy_params(run.policy).compare_timeout_ns / 1e9
        try:
            compared = compare_pcap(ours, theirs, compare_timeout_s=timeout_s, progress=quiet)
        except CaptureError as error:
            notes.append(f"why the guests differed is not known: {error}")
            continue
        # a pair that checkpoints makes captures look late where it was not (docs/captures.md)
        was_late = TIMEOUT in set(run.epochs["why"])
        found += [each for each in causes_of(compared) if was_late or each.kind.name != "late"]
    return _merged(found)


def _merged(causes: Sequence[Cause]) -> list[Cause]:
    """Of several captures: equal ones as one."""
    total = max(sum(each.events for each in causes), 1)
    by_name: dict[str, list[Cause]] = {}
    for each in causes:
        by_name.setdefault(each.name, []).append(each)
    merged = [
        Cause(
            same[0].kind,
            same[0].where,
            (events := sum(each.events for each in same)),
            events / total,
            same[0].example,
        )
        for same in by_name.values()
    ]
    return sorted(merged, key=lambda each: -each.events)


def _in_part(
    basis: Basis, runs: Sequence[MeasuredRun], protected: Sequence[MeasuredRun], names: str
) -> None:
    """What runs say that are too few to calibrate on."""
    first = max(protected or runs, key=lambda run: len(run.checkpoints))
    mapping = first.scenario.to_mapping()
    for table in ("memory", "cost", "divergence"):
        mapping.pop(table, None)
    mapping["memory"] = {"guest_memory": f"{first.scenario.memory.guest_memory_bytes} B"}
    basis.mapping = mapping
    basis.knows |= {"load", "link"}
    for table in ("workload", "link"):
        basis.forget(table)
        basis.say(table, "as the run was", "measured", names)
    if isinstance(first.scenario.workload, Service):
        _answers(basis, first, names)
    else:
        basis.knows.add("service")
    if not protected:
        return
    _costs_of(basis, protected, names)
    _pages_of(basis, protected, names)
    compared = [run for run in protected if run.compares]
    if compared:
        _hazards(basis, divergence_fit.fit(compared).hazards, names)


def _answers(basis: Basis, run: MeasuredRun, names: str) -> None:
    """Service time and the network's part of one run's latency, which it cannot tell apart.

    What stays without checkpoints is halved between them; either may be a tenth to nine tenths.
    """
    if run.compares and len(run.matched):
        bare_ms = float(run.matched["latency_ms"].median())
    elif run.protects:
        bare_ms = float(np.quantile(run.latency_ms, 0.02))
    else:
        bare_ms = float(np.median(run.latency_ms))
    bare_ns = max(bare_ms * 1e6, 10_000.0)
    basis.knows.add("service")
    between = (0.1 * bare_ns, 0.9 * bare_ns)
    what = "CPU time of a request, of its latency"
    basis.put("workload.service_time_ns", bare_ns / 2, "assumed", names, between, what)
    basis.put("workload.client_delay_ns", bare_ns / 4, "assumed", f"{names}: the rest")
    if basis.mapping["workload"].get("load") == "open":
        basis.mapping["workload"]["pipelined"] = False


def _costs_of(basis: Basis, protected: Sequence[MeasuredRun], names: str) -> None:
    alike = [run for run in protected if run.transfer is protected[0].transfer]
    if not all(len(run.checkpoints) for run in alike):
        raise SizingError(f"{names}: no checkpoint was completed; run it longer")
    way_ns = round(float(_inside(basis, "workload.client_delay_ns")))
    compared = [run for run in alike if run.compares]
    late = lateness_fit.fit(compared) if compared else lateness_fit.Lateness()
    fitted = [*cost_fit.fit(alike, way_ns, late.witness), *(late.fitted() if compared else [])]
    for table in ("cost", *(["execution"] if compared else [])):
        basis.forget(table)
    for each in fitted:
        basis.put(each.key, float(each.value), "measured", f"{names}: {each.how}")
    basis.knows.add("costs")
    _starts(basis, bool(compared), alike[0].about.get("accelerator", ""), names)


def _inside(basis: Basis, key: str) -> float:
    """A value of the mapping in its inside unit, 0 where it has none."""
    place: Any = basis.mapping
    for part in without_unit(key).split("."):
        if part not in place:
            return 0.0
        place = place[part]
    return float(TIME.parse(place))


def _pages_of(basis: Basis, protected: Sequence[MeasuredRun], names: str) -> None:
    """Exposure and pages of all checkpoints; a dozen or more of like exposure are a point."""
    table = pd.concat([run.checkpoints for run in protected])[["exposure_ns", "pages"]]
    pairs = table[table["exposure_ns"] > 0].itertuples(index=False)
    points = grouped([(int(at_ns), float(pages)) for at_ns, pages in pairs], _LEAST_SAMPLES)
    take_points(basis, points, "measured", names)
