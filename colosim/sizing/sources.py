"""Sources of a sizing, each laid over what was known before it.

An order that lets each replace what it knows better: a scenario, live runs, logs of a genuine pair,
captures, dirty pages, what is set by hand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from colosim import store
from colosim.calibration import CalibrationError, MeasuredRun, calibrate, read_run
from colosim.calibration import costs as cost_fit
from colosim.calibration import divergence as divergence_fit
from colosim.calibration.divergence import exact_interval
from colosim.calibration.epochs import TIMEOUT
from colosim.model.memory import CurvePoint
from colosim.pcap import CaptureError, PcapComparison, compare_pcap
from colosim.protocol.types import Role
from colosim.scenario import Scenario, Service, load_scenario
from colosim.sizing import given
from colosim.sizing.basis import (
    BELOW,
    BEYOND,
    COSTS,
    EXPONENTS,
    PAGE_BYTES,
    Basis,
    Curve,
    Unknown,
    exponents,
    set_in,
)
from colosim.sizing.causes import Cause, causes_of
from colosim.sizing.errors import SizingError
from colosim.sizing.traffic import traffic_of
from colosim.units import SIZE, TIME, UnitError, without_unit

_CAPTURES = (".pcap", ".pcapng", ".cap")
_RIGHT = (
    "give a scenario (.toml), run directories of colosim live, two captures (.pcap), logs of a "
    "genuine pair (.log) or a directory of colosim import-qemu-log"
)
_GUEST_BYTES = 256 * 2**20
#: what a service is assumed to be where no source says it
_ASSUMED: Sequence[tuple[str, float, float, float, str]] = (
    ("workload.rate_per_s", 100.0, 30.0, 300.0, "load, requests a second"),
    ("workload.service_time_ns", 1e6, 3e5, 3e6, "CPU time of a request"),
)
_UNPROMPTED = "divergence.unprompted_per_s"
_PROBABILITY = "divergence.probability"
_SKELETON: Mapping[str, Any] = {
    "name": "sized",
    "description": "sized by colosim size",
    "duration": "30 s",
    "warm_up": "2 s",
    "workload": {"kind": "service", "load": "open"},
    "link": {"bandwidth": "1 Gbit/s", "delay": "50 us"},
}


@dataclass(frozen=True, slots=True)
class Given:
    """What to size from, sorted.  rates, table, measured: dirty pages, at most one of them."""

    scenario: Path | None = None
    runs: Sequence[Path] = ()
    logs: Sequence[Path] = ()
    captures: Sequence[Path] = ()
    rates: Sequence[str] = ()
    table: Path | None = None
    measured: Any = None
    memory: str | None = None
    link: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    offset: float | Literal["auto"] = "auto"
    guest: str | None = None
    compare: Mapping[str, Any] = field(default_factory=dict)


def sorted_sources(paths: Sequence[str | Path], **more: Any) -> Given:
    """What each path is; `SizingError` for one that is nothing to size from."""
    by_kind: dict[str, list[Path]] = {"scenario": [], "runs": [], "logs": [], "captures": []}
    for each in paths:
        path = Path(each)
        kind = _kind(path)
        by_kind[kind] += _logs_in(path) if kind == "logs" and path.is_dir() else [path]
    if len(by_kind["scenario"]) > 1:
        first, second = by_kind["scenario"][:2]
        raise SizingError(f"{second}: a scenario was given already, {first}; give one")
    if len(by_kind["captures"]) not in (0, 2):
        raise SizingError(f"{by_kind['captures'][0]}: give two captures, the primary's first")
    if len(by_kind["logs"]) > 2:
        raise SizingError(f"{by_kind['logs'][2]}: give one pair's logs, the primary's first")
    one = by_kind["scenario"][0] if by_kind["scenario"] else None
    return Given(one, by_kind["runs"], by_kind["logs"], by_kind["captures"], **more)


def _kind(path: Path) -> str:
    if path.is_dir():
        manifest = path / store.MANIFEST
        try:
            body = json.loads(manifest.read_text("utf-8"))
        except (OSError, ValueError):
            raise SizingError(f"{path}: is no run's directory; {_RIGHT}") from None
        world = body.get("world") if isinstance(body, dict) else None
        if world not in ("live", "log"):
            raise SizingError(f"{path}: is {world or body.get('kind', 'no')} run; {_RIGHT}")
        return "logs" if world == "log" else "runs"
    if not path.exists():
        raise SizingError(f"{path}: is not there; {_RIGHT}")
    kinds = {".toml": "scenario", ".log": "logs", **dict.fromkeys(_CAPTURES, "captures")}
    kind = kinds.get(path.suffix)
    if kind is None:
        raise SizingError(f"{path}: what it is cannot be told by its name; {_RIGHT}")
    return kind


def _logs_in(path: Path) -> list[Path]:
    """The logs that an imported pair was read from."""
    body = json.loads((path / store.MANIFEST).read_text("utf-8"))
    logs = [Path(each) for each in body.get("logs", [])]
    for log in logs:
        if not log.exists():
            raise SizingError(f"{path}: was read from {log}, which is gone; give the logs")
    return logs


def basis_of(given_: Given, place: Path, say: Callable[[str], None]) -> Basis:
    """Everything that the sources know, one over the other; files go to ``place``."""
    basis = _begin(given_.scenario)
    if given_.runs:
        say(f"{len(given_.runs)} live runs")
        _live(basis, given_.runs, place)
    if given_.logs:
        _log(basis, *given_.logs)
    if given_.captures:
        say("captures are compared")
        _captures(basis, given_)
    _memory(basis, given_)
    _by_hand(basis, given_)
    _assume(basis)
    return basis


# --------------------------------------------------------------------------------------------
# A scenario


def _begin(path: Path | None) -> Basis:
    if path is None:
        return Basis(json.loads(json.dumps(_SKELETON)))
    scenario = load_scenario(path)
    basis = Basis(scenario.to_mapping())
    basis.knows |= {"memory", "load", "service", "divergence", "link", "costs"}
    basis.sources.append(f"scenario {path}")
    for table in ("workload", "memory", "divergence", "link", "cost"):
        if table in basis.mapping:
            basis.say(table, f"as in {path.name}", "given", str(path))
    if "cost" not in scenario.model_fields_set:
        basis.knows.discard("costs")
    if "divergence" not in scenario.model_fields_set:
        basis.knows.discard("divergence")
    return basis


# --------------------------------------------------------------------------------------------
# Live runs


def _live(basis: Basis, paths: Sequence[Path], place: Path) -> None:
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
            _calibrated(basis, found.scenario, found.hazards, names)
            basis.mapping |= kept
            basis.causes = _causes(protected, basis.notes)
            return
    _in_part(basis, runs, protected, names)
    basis.mapping |= kept
    basis.causes = _causes(protected, basis.notes)


def _calibrated(basis: Basis, scenario: Scenario, hazards: pd.DataFrame, names: str) -> None:
    basis.mapping = scenario.to_mapping()
    basis.knows |= {"memory", "load", "service", "costs", "link"}
    for table in ("memory", "cost", "workload", "link"):
        basis.forget(table)
        basis.say(table, "as colosim calibrate finds it", "fitted", names)
    _curve_of_file(basis)
    if len(hazards):
        _hazards(basis, hazards, names)


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
    guest = memory.get("guest_memory", f"{_GUEST_BYTES} B")
    (below, least), (beyond, most) = exponents(points)
    curve = Curve(
        points, int(SIZE.parse(guest)) // PAGE_BYTES, below, beyond, load,
        memory.get("pages_per_request", 0.0),
    )  # fmt: skip
    basis.curve = curve
    _ends(basis, curve, least, most)


def _ends(basis: Basis, curve: Curve, least: float, most: float) -> None:
    first, last = min(curve.points), max(curve.points)
    for key, value, low, high, what in (
        (BELOW, curve.below, least, 1.0, f"dirty pages below {first.exposure_ns / 1e6:.4g} ms"),
        (BEYOND, curve.beyond, 0.0, most, f"dirty pages beyond {last.exposure_ns / 1e6:.4g} ms"),
    ):
        words = f"{what} (exponent over time)"
        basis.unknowns[key] = Unknown(key, value, low, high, "assumed", words)


def _hazards(basis: Basis, hazards: pd.DataFrame, names: str) -> None:
    """What was found of why guests differ, as unknowns: sums by what they are per."""
    basis.forget("divergence")
    basis.mapping["divergence"] = {}
    basis.knows.add("divergence")
    chosen = hazards[hazards["chosen"].astype(bool)]
    keys = {
        "second": _UNPROMPTED,
        "response": _PROBABILITY,
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
            compared = compare_pcap(ours, theirs, compare_timeout_s=timeout_s, progress=_quiet)
        except CaptureError as error:
            notes.append(f"why the guests differed is not known: {error}")
            continue
        # a pair that checkpoints makes captures look late where it was not (docs/captures.md)
        was_late = TIMEOUT in set(run.epochs["why"])
        found += [each for each in causes_of(compared) if was_late or each.kind.name != "late"]
    return _merged(found)


def _quiet(done: int, total: int) -> None:
    """No bar: there is one of the whole."""


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
    if run.compares and run.matched_ms.size:
        bare_ms = float(np.median(run.matched_ms))
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
    apart = divergence_fit.fit(compared) if compared else None
    fitted = cost_fit.fit(alike, way_ns, apart.witness if apart else (0.0, 0.0))
    basis.forget("cost")
    for each in fitted:
        basis.put(each.key, float(each.value), "measured", f"{names}: {each.how}")
    basis.knows.add("costs")


def _inside(basis: Basis, key: str) -> float:
    """A value of the mapping in its inside unit, 0 where it has none."""
    place: Any = basis.mapping
    for part in without_unit(key).split("."):
        if part not in place:
            return 0.0
        place = place[part]
    return float(TIME.parse(place))


def _pages_of(basis: Basis, protected: Sequence[MeasuredRun], names: str) -> None:
    """Exposure and pages of all checkpoints, in equal parts by exposure."""
    table = pd.concat([run.checkpoints for run in protected])[["exposure_ns", "pages"]]
    parts = min(6, max(len(table) // 12, 1))
    edges = np.unique(np.quantile(table["exposure_ns"], np.linspace(0, 1, parts + 1))[1:-1])
    points: list[CurvePoint] = []
    for _, rows in table.groupby(np.digitize(table["exposure_ns"], edges)):
        at_ns = round(float(rows["exposure_ns"].mean()))
        if at_ns and (not points or at_ns > points[-1].exposure_ns * 1.2):
            points.append(CurvePoint(at_ns, tuple(map(float, rows["pages"]))))
    guest_pages = protected[0].scenario.memory.guest_memory_bytes // PAGE_BYTES
    _take_points(basis, points, guest_pages, "measured", names)


def _take_points(
    basis: Basis,
    points: Sequence[CurvePoint],
    guest_pages: int,
    kind: Any,
    source: str,
    error: float = 0.0,
) -> None:
    """Measured points, and how the curve may go on."""
    if not points:
        raise SizingError(f"{source}: says nothing of dirty pages; add --dirty-rate or --qmp")
    capped = [
        CurvePoint(p.exposure_ns, tuple(min(each, guest_pages) for each in p.samples))
        for p in points
    ]
    (below, least), (beyond, most) = exponents(capped)
    if len(capped) == 1:
        below = beyond = EXPONENTS[0]
    curve = Curve(capped, guest_pages, below, beyond)
    basis.set_curve(curve, kind, source, error)
    _ends(basis, curve, least, most)


# --------------------------------------------------------------------------------------------
# Logs of a genuine pair


def _log(basis: Basis, primary: Path, secondary: Path | None = None) -> None:
    from backends.qemu import qemu_log

    table = pd.DataFrame(qemu_log.phases(primary, secondary))
    source = str(primary)
    basis.sources.append(f"QEMU's log {primary}, {len(table)} checkpoints")
    epochs = _logged_epochs(primary)
    usable = [each for each in epochs if each.pages is not None and each.exposure_ns > 0]
    if len(usable) < 2:
        raise SizingError(
            f"{primary}: has {len(usable)} whole checkpoints with their dirty pages; log a pair "
            "for longer, with -trace enable=colo_* -trace enable=migration_bitmap_sync_*"
        )
    guest_pages = _guest_bytes(basis) // PAGE_BYTES
    _logged_costs(basis, table, usable, source)
    points = _grouped([(each.exposure_ns, float(each.pages or 0)) for each in usable])
    _take_points(basis, points, guest_pages, "measured", source)
    _logged_differences(basis, epochs, source)
    if len(usable) < 30:
        basis.notes.append(f"{primary}: {len(usable)} checkpoints are few")


@dataclass(frozen=True, slots=True)
class _Epoch:
    """Of a logged checkpoint: from resume to stop before it, and its pages.

    spacing_ns: from request to request.
    """

    exposure_ns: int
    spacing_ns: int
    pages: int | None


def _logged_epochs(primary: Path) -> list[_Epoch]:
    from backends.qemu.qemu_log import part_of, sessions_of

    gained = _logged_pages(primary)
    found: list[_Epoch] = []
    for session in sessions_of(part_of(primary, Role.PRIMARY)):
        resumed_ns = session.ready.event.at_ns if session.ready else None
        asked_ns: int | None = None
        for exchange in session.checkpoints:
            stopped_ns = next((e.event.at_ns for e in exchange if e.what == "stop"), None)
            request_ns = exchange[0].event.at_ns
            counted = [gained[e.event.at_ns] for e in exchange if e.event.at_ns in gained]
            pages = sum(counted) if counted else None
            if resumed_ns is not None and stopped_ns is not None:
                spacing_ns = 0 if asked_ns is None else request_ns - asked_ns
                found.append(_Epoch(stopped_ns - resumed_ns, spacing_ns, pages))
            asked_ns = request_ns
            resumed_ns = next((e.event.at_ns for e in exchange if e.what == "start"), None)
    return found[1:]  # the first has what the first synchronisation left


def _logged_pages(primary: Path) -> dict[int, int]:
    """When QEMU looked at its dirty log -> pages that are new since it did before.

    It logs what came since it began to count, which it does anew at the first look more than a
    second later, after it has logged the number.
    """
    from backends.qemu.qemu_log import read_log

    gained: dict[int, int] = {}
    counted, since_ns = 0, None
    for event in read_log(primary):
        if event.name == "migration_bitmap_sync_start" and since_ns is None:
            since_ns = event.at_ns
        if event.name != "migration_bitmap_sync_end" or not event.args.startswith("dirty_pages "):
            continue
        total = int(event.args.split()[1])
        gained[event.at_ns] = total - counted if total >= counted else total
        counted = total
        if since_ns is None or event.at_ns > since_ns + 1_000_000_000:
            counted, since_ns = 0, event.at_ns
    return gained


def _grouped(pairs: Sequence[tuple[int, float]]) -> list[CurvePoint]:
    """Points of like exposures (within a fifth) together."""
    points: list[tuple[list[int], list[float]]] = []
    for exposure_ns, pages in sorted(pairs):
        if points and exposure_ns <= points[-1][0][0] * 1.2:
            points[-1][0].append(exposure_ns)
            points[-1][1].append(pages)
        else:
            points.append(([exposure_ns], [pages]))
    return [CurvePoint(round(float(np.mean(at))), tuple(pages)) for at, pages in points]


def _logged_costs(basis: Basis, table: pd.DataFrame, epochs: Sequence[_Epoch], source: str) -> None:
    """Phases of a genuine pair as costs: medians, for its pages are not those of each row."""
    median = table.filter(like="_ns").median()
    pages = max(float(np.median([each.pages for each in epochs if each.pages is not None])), 1.0)
    link_ns = float(TIME.parse(basis.mapping.get("link", {}).get("delay", "50 us")))
    rtt_ns = max(float(median["rtt_ns"]) - 2 * link_ns, 0.0)
    basis.forget("cost")
    rows = {
        "cost.quiesce_ns": (0.0, "in rtt"),
        "cost.stop_ns": (rtt_ns, "checkpoint-request to checkpoint-reply - the link"),
        "cost.find_pages_ns": (0.0, "in RAM's time"),
        "cost.save_fixed_ns": (float(median["device_save_ns"]), "device state"),
        "cost.save_per_page_ns": (float(median["ram_ns"]) / pages, "RAM's time over pages"),
        "cost.transfer_fixed_ns": (
            max(float(median["wait_received_ns"]) - link_ns, 0.0),
            "vmstate-size to vmstate-received",
        ),
        "cost.load_fixed_ns": (
            float(median["load_ns"]),
            "vmstate-received to vmstate-loaded",
        ),
        "cost.load_per_page_ns": (0.0, "in load"),
    }
    for key, (value, how) in rows.items():
        if math.isfinite(value):
            basis.put(key, value, "measured", f"{source}: {how}")
    parts = ("device_save_ns", "ram_ns", "wait_received_ns", "load_ns")
    rest_ns = float(median["pause_ns"]) - sum(float(median[part]) for part in parts)
    if math.isfinite(rest_ns):
        basis.put("cost.resume_ns", max(rest_ns, 0.0), "measured", f"{source}: rest of the pause")
    basis.knows.add("costs")
    basis.unknowns[COSTS] = Unknown(
        COSTS, 1.0, 0.8, 1.25, "assumed", "costs of a checkpoint, cut otherwise in QEMU's log"
    )


def _logged_differences(basis: Basis, epochs: Sequence[_Epoch], source: str) -> None:
    """Checkpoints sooner than the longest spacing, if that is one of several alike: were asked for.

    x-checkpoint-delay is the longest time between two; a log does not say what it is.
    """
    spacings = [each.spacing_ns for each in epochs if each.spacing_ns > 0]
    seconds = sum(each.exposure_ns for each in epochs) / 1e9
    longest = max(spacings, default=0)
    by_delay = sum(each > 0.95 * longest for each in spacings)
    asked = len(spacings) - by_delay if by_delay > 1 else len(spacings)
    low, high = exact_interval(asked, seconds, "second")
    value = asked / seconds if asked else high / 2
    how = f"{asked} of {len(spacings)} checkpoints came before {longest / 1e6:.4g} ms"
    basis.forget("divergence")
    basis.mapping["divergence"] = {}
    what = "differences a second" + ("" if asked else ", none seen")
    basis.put(_UNPROMPTED, value, "measured", f"{source}: {how}", (low, high), what)
    basis.knows.add("divergence")


# --------------------------------------------------------------------------------------------
# Captures


def _captures(basis: Basis, given_: Given) -> None:
    primary, secondary = given_.captures
    options = dict(given_.compare)
    try:
        found = compare_pcap(
            primary, secondary, offset_s=given_.offset, guest=given_.guest, **options
        )
    except CaptureError as error:
        if given_.offset != "auto":
            raise
        basis.notes.append(f"clocks are taken as one: {error}")
        found = compare_pcap(primary, secondary, guest=given_.guest, **options)
    basis.sources.append(f"captures {primary} and {secondary}")
    basis.notes += found.notes
    basis.causes = causes_of(found)
    traffic = traffic_of(found)
    source = f"{primary.name} and {secondary.name}"
    if traffic.answers:
        _traffic(basis, traffic, source)
    elif "load" not in basis.knows:
        basis.notes.append(f"{primary}: holds no requests, so load and service are assumed")
    _differences(basis, found, traffic.answers, source)
    _witness(basis, found, source)


def _traffic(basis: Basis, traffic: Any, source: str) -> None:
    """Load and service of a capture; a service in the scenario keeps its CPU time."""
    basis.forget("workload")
    table = basis.mapping.setdefault("workload", {})
    if table.get("load", "open") != "open" or table.get("kind", "service") != "service":
        basis.notes.append("the load is the scenario's, not the captures': it is closed or a job")
        return
    knew = "service" in basis.knows
    basis.put("workload.rate_per_s", traffic.requests / traffic.seconds, "measured", source)
    size = max(round(traffic.answer_bytes / traffic.answers), 1)
    basis.put("workload.response_bytes", size, "measured", source)
    connections = min(max(traffic.connections, 1), 100_000)
    basis.put("workload.connections", connections, "measured", source)
    table["connections"] = connections
    if not knew:
        took_ns = max(traffic.median_ns, 1_000.0)
        how = f"{source}: from request to answer"
        between = (took_ns / 4, took_ns)
        what = "CPU time of a request, of the time to its answer"
        basis.put("workload.service_time_ns", took_ns / 2, "assumed", how, between, what)
        basis.put("workload.client_delay_ns", took_ns / 4, "assumed", f"{how}: the rest")
    basis.knows |= {"load", "service"}


def _differences(basis: Basis, found: PcapComparison, answers: int, source: str) -> None:
    """Chances and rates, from the causes: what grows with answers, and what with time."""
    counted = sum(each.events for each in basis.causes)
    by_per = {
        per: sum(each.events for each in basis.causes if each.kind.per == per)
        for per in ("response", "second")
    }
    if not answers:
        by_per = {"response": 0, "second": counted}
    basis.forget("divergence")
    basis.mapping["divergence"] = {}
    basis.knows.add("divergence")
    for per, key, exposure in (
        ("response", _PROBABILITY, float(answers)),
        ("second", _UNPROMPTED, found.duration_s),
    ):
        events = by_per[per]
        if exposure <= 0 or (not events and per == "response"):
            continue
        low, high = exact_interval(events, exposure, per)
        if not events and by_per["response"]:
            high, value = high / 3, 0.0
        else:
            value = events / exposure if events else high / 2
        how = f"{source}: {events} in {exposure:.4g} {per}s"
        what = f"differences a {per}" + ("" if events else ", none seen")
        basis.put(key, value, "measured", how, (low, high), what)


def _witness(basis: Basis, found: PcapComparison, source: str) -> None:
    """How late the secondary's output was, where clients' frames tell the clocks."""
    frames = found.frames
    equal = frames[frames["outcome"] == "equal"]["hold_s"]
    if len(equal) < 30 or "costs" in basis.knows:
        return
    late_ns = float(equal.median()) * 1e9
    between = (late_ns / 2, max(late_ns * 2, 1e5))
    what = "how late the secondary's output is"
    basis.put("cost.witness_ns", late_ns, "measured", source, between, what)


# --------------------------------------------------------------------------------------------
# Dirty pages, what is set by hand, and what nobody said


def _guest_bytes(basis: Basis) -> int:
    text = basis.mapping.get("memory", {}).get("guest_memory")
    return int(SIZE.parse(text)) if text else _GUEST_BYTES


def _memory(basis: Basis, given_: Given) -> None:
    """How many pages are dirtied, from rates, a table or QEMU itself."""
    ways = [given_.rates, given_.table, given_.measured]
    if sum(bool(each) for each in ways) > 1:
        raise SizingError("dirty pages are given twice; give one of --dirty-rate, a CSV or --qmp")
    if given_.memory is not None:
        try:
            size = int(SIZE.parse(given_.memory))
        except UnitError as error:
            raise SizingError(f"memory {given_.memory!r}: {error}") from None
        if size < PAGE_BYTES:
            raise SizingError(f"memory {given_.memory!r}: is less than a page")
        set_in(basis.mapping, "memory.guest_memory", f"{size} B")
        basis.say("memory.guest_memory", SIZE.format(size), "given", "--memory")
        if basis.curve is not None:
            basis.curve = replace(basis.curve, guest_pages=size // PAGE_BYTES)
    if given_.measured is not None:
        _by_qemu(basis, given_)
    elif given_.rates or given_.table:
        source = str(given_.table) if given_.table else "--dirty-rate"
        points = (
            given.table(given_.table)
            if given_.table
            else [given.dirty_rate(each) for each in given_.rates]
        )
        if len({p.exposure_ns for p in points}) < len(points):
            raise SizingError(f"{source}: two rates over the same time; give one for each time")
        guest_pages = _guest_bytes(basis) // PAGE_BYTES
        for point in points:
            if max(point.samples) > guest_pages:
                raise SizingError(
                    f"{source}: {max(point.samples):,.0f} pages in {point.exposure_ns / 1e9:g} s "
                    f"are more than the guest's {guest_pages:,}; give its --memory"
                )
        basis.sources.append(f"dirty pages: {source}")
        _take_points(basis, points, guest_pages, "given", source)


def _by_qemu(basis: Basis, given_: Given) -> None:
    """What `backends.qemu.dirty_rate` measured of the user's own VM."""
    found = given_.measured
    source = f"QEMU {found.version}, calc-dirty-rate, {found.mode}"
    if given_.memory is None:
        set_in(basis.mapping, "memory.guest_memory", f"{found.memory_bytes} B")
        basis.say("memory.guest_memory", SIZE.format(found.memory_bytes), "measured", source)
    points = [CurvePoint(each.interval_ns, (each.pages,)) for each in found.points]
    unsure = max((each.high / max(each.pages, 1.0) for each in found.points), default=1.0) - 1
    basis.sources.append(f"dirty pages: {source}")
    guest_pages = _guest_bytes(basis) // PAGE_BYTES
    _take_points(basis, points, guest_pages, "measured", source, min(max(unsure, 0.0), 10.0))


def _by_hand(basis: Basis, given_: Given) -> None:
    if given_.link is not None:
        bandwidth, _, delay = (part.strip() for part in given_.link.partition(","))
        basis.mapping["link"] = {**basis.mapping.get("link", {}), "bandwidth": bandwidth}
        if delay:
            basis.mapping["link"]["delay"] = delay
        basis.say("link", given_.link, "given", "--link")
        basis.knows.add("link")
    for key, value in given_.changes.items():
        set_in(basis.mapping, key, value)
        for unknown in [each for each in basis.unknowns if without_unit(each) == key]:
            basis.unknowns.pop(unknown)
        basis.say(key, value, "given", "--set")
        table = key.partition(".")[0]
        if table == "divergence":
            basis.knows.add("divergence")
        if key.startswith("workload."):
            basis.knows.add({"rate": "load", "service_time": "service"}.get(key[9:], key))


def _assume(basis: Basis) -> None:
    """What nobody said, with its range."""
    if "memory" not in basis.knows:
        raise SizingError(
            "nothing says how many pages the guest dirties; add --dirty-rate, --dirty-csv or --qmp,"
            " or a live run that was protected"
        )
    if basis.curve is not None and "guest_memory" not in basis.mapping.get("memory", {}):
        basis.say("memory.guest_memory", "256 MiB", "assumed", "give --memory")
    needs = {"workload.rate_per_s": "load", "workload.service_time_ns": "service"}
    for key, value, low, high, what in _ASSUMED:
        if needs[key] not in basis.knows:
            basis.put(key, value, "assumed", "no source says it", (low, high), what)
    if "divergence" not in basis.knows:
        what = "differences of the guests a second"
        source = "no source says it"
        basis.put(_UNPROMPTED, 0.3, "assumed", source, (0.01, 10.0), what)
    if "costs" not in basis.knows:
        what = "costs of a checkpoint: colosim's own machine, TCG"
        basis.unknowns[COSTS] = Unknown(COSTS, 1.0, 0.5, 2.0, "assumed", what)
        basis.say(COSTS, "defaults of the schema", "assumed", "no source says it")
    if "link" not in basis.knows:
        table = basis.mapping.get("link", {})
        text = f"{table.get('bandwidth', '1 Gbit/s')}, {table.get('delay', '50 us')}"
        basis.say("link", text, "assumed", "give --link")
