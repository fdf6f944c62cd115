"""PLOVER: scenarios of every published number that can be simulated, and rows of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from colosim.analysis.stats import Interval, interval
from colosim.scenario import ClosedService, Scenario
from experiments.published.plover2018 import fits
from experiments.published.plover2018.fits import (
    COLO,
    EPOCHS_MS,
    LINEAR,
    MC,
    NONE,
    POWER,
    SERVICES,
    Fit,
)
from experiments.published.rows import Row, estimated
from experiments.published.simulation import Outcome, simulate
from experiments.published.study import Findings, Study
from experiments.published.table import each, reading, select, told

if TYPE_CHECKING:
    from colosim.analysis.plots import Chart

_MC_25 = "mc-25ms (STR)"
#: as the shipped table calls a system -> its epoch
_EPOCHS_MS = {MC: 100, _MC_25: 25, COLO: 100}
_WORDS = {NONE: "unprotected", MC: "MC 100 ms", _MC_25: "MC 25 ms", COLO: "COLO"}

_LINE_NOTE = (
    "Simulated. Pause and transfer are a line each over dirty pages, the same for all services, "
    "fitted to the 25 ms rows of the five services that the table does not call anomalous (least "
    "squares of relative errors); the rest is predicted, from the published pages."
)
_PAGES_NOTE = (
    "Simulated; pages over time are a power law through both published points, so what differs is "
    "only that an epoch of the simulation is not just as long as its name: the guest stands for a "
    "part of it, and it lasts longer where the transfer does."
)
_NONE_NOTE = (
    "Simulated: clients that wait and think, four servers; service and think time fitted to the "
    "fewest clients and to the peak. Nothing in the model makes more clients slower, so a decline "
    "beyond the peak is missed."
)
_MC_NOTE = (
    "Simulated: all answers wait for the commit. How much slower the guest is beside its pauses is "
    "fitted to the peak; the cause is not modelled (pauses alone explain a small part of it)."
)
_PIPELINED_NOTE = (
    "As for the other services; but a client of this store has many requests under way, which is "
    "fitted to the fewest clients."
)
_COLO_NOTE = (
    "Simulated: guests part at a constant rate, fitted to the peak in closed form; a checkpoint "
    "stops both for what the lines of pause and transfer say."
)
_TOMCAT_NOTE = (
    "Its throughput without protection is not in the table, so under each system it is taken for "
    "a service of its own: fitted to the peak, COLO's to the fewest clients too."
)
_LATENCY_NOTE = (
    "Simulated mean latency over that without protection, at the clients of its published peak. "
    "By Little's law it is about the reciprocal of the throughput's ratio, in any system where "
    "clients wait: published values that are not contradict the published throughputs."
)
_BANDWIDTH_NOTE = (
    "Simulated: state of checkpoints on the link, at the clients of the unprotected peak. Nothing "
    "is fitted to a bandwidth."
)
_COLO_BANDWIDTH_NOTE = (
    "Simulated: state of checkpoints. How often they are follows from the throughput at the peak; "
    "how large, from pages over times below 25 ms, which are not published: a power law, or (the "
    "other end of the range) linear."
)
_STR_NOTE = (
    "The guest is as much slower beside its pauses as with epochs of 100 ms, which is assumed. "
)
_UNKNOWN_NOTE = "Not modelled: its latency and throughput without protection are not in the table."


class Effort(NamedTuple):
    """About how many responses and at least how many epochs a replication has.

    cycles: and from one request of a client to its next, at least so often.
    """

    responses: int
    epochs: int
    replications: int
    cycles: float = 2.0


FULL = Effort(1500, 60, 3)
QUICK = Effort(300, 15, 2)
_LONGEST_S = 60.0


class Key(NamedTuple):
    """One simulation: service, system, published clients, epoch, form of pages over time."""

    name: str
    system: str
    clients: float
    epoch_ms: int = 100
    form: str = POWER


@dataclass(frozen=True)
class Result:
    """What was fitted, and the rows that came of it."""

    fits: Mapping[str, Fit]
    rows: Sequence[Row]


def scenarios(
    published: pd.DataFrame, fitted: Mapping[str, Fit], file: Path, effort: Effort
) -> dict[Key, Scenario]:
    """Every published throughput, and both epochs at the clients of the unprotected peak."""
    base = fits.base_scenario(fitted, file).replace({"replications": effort.replications})
    keys: list[Key] = []
    for name, fit in fitted.items():
        for system, values in fits.throughputs(published, name).items():
            keys += [Key(name, system, float(str(clients))) for clients in values.index]
        keys.append(Key(name, MC, peak(fit), 25))
        if fit.hazard_per_s:
            keys.append(Key(name, COLO, peak(fit), 100, LINEAR))

    def scenario(key: Key) -> Scenario:
        fit = fitted[key.name]
        per_s = fit.about_per_s(key.system, key.clients)
        return _lasting(fit.scenario(base, *key[1:]), per_s, effort)

    return {key: scenario(key) for key in keys}


def peak(fit: Fit) -> float:
    """Clients of the unprotected peak; of MC's where that is not published."""
    return fit.peaks.get(NONE, fit.peaks[MC])


def _lasting(scenario: Scenario, per_s: float, effort: Effort) -> Scenario:
    """With a duration that has enough of all, the first part of which is left out."""
    assert isinstance(scenario.workload, ClosedService)
    cycle_s = scenario.workload.clients / per_s
    measured_s = min(effort.responses / per_s, _LONGEST_S)
    epoch_s = {"none": 0.0, "colo": 1 / (scenario.divergence.hazard_per_s or math.inf)}
    measured_s = max(measured_s, effort.epochs * epoch_s.get(scenario.policy.name, 0.1))
    measured_s = max(measured_s, effort.cycles * cycle_s)
    warm_up_s = max(0.2 * measured_s, 0.75 * effort.cycles * cycle_s)
    return scenario.replace(
        {"duration": f"{measured_s + warm_up_s:.6f} s", "warm_up": f"{warm_up_s:.6f} s"}
    )


def run(published: pd.DataFrame, out: Path, effort: Effort, jobs: int | None = None) -> Result:
    """Fit, simulate, compare; ``out`` gets the pages over time that simulations read."""
    fitted = fits.fit(published)
    outcomes = simulate(scenarios(published, fitted, out / "pages.csv", effort), jobs)
    rows = [row for name in SERVICES for row in _rows(published, fitted[name], outcomes)]
    return Result(fitted, rows)


def _rows(published: pd.DataFrame, fit: Fit, outcomes: Mapping[Key, Outcome]) -> Iterator[Row]:
    row = partial(Row, part=fit.name)
    yield from _checkpoint_rows(row, published, fit, outcomes)
    yield from _throughput_rows(row, published, fit, outcomes)
    yield from _peak_rows(row, published, fit, outcomes)


def _checkpoint_rows(
    row: Any, published: pd.DataFrame, fit: Fit, outcomes: Mapping[Key, Outcome]
) -> Iterator[Row]:
    """Pages, pause and transfer of both epochs."""
    used = fits.clean(published)["line"].tolist()
    for epoch_ms in EPOCHS_MS:
        outcome = outcomes[Key(fit.name, MC, peak(fit), epoch_ms)]
        for quantity, metric, simulated, unit in (
            ("dirty pages", "dirty_pages", "dirty_pages_mean", "pages"),
            ("pause", "copy_paused", "pause_mean_ms", "ms"),
            ("transfer", "transfer", "transmit_mean_ms", "ms"),
        ):
            value = reading(select(published, fit.name, metric, "mc"), epoch_ms)
            n = fit.lines.pause.n
            kind: dict[str, Any] = {"kind": "predicted"}
            if metric == "dirty_pages":
                kind = {"kind": "fitted", "n": 2, "parameters": 2}
            elif value["line"] in used:
                kind = {"kind": "fitted", "n": n, "parameters": 2}
            yield row(
                quantity=quantity,
                condition=f"MC, {epoch_ms} ms",
                x=epoch_ms,
                unit=unit,
                **kind,
                **value,
                **estimated(outcome.of(simulated)),
                note=_PAGES_NOTE if metric == "dirty_pages" else _LINE_NOTE,
            )


def _throughput_rows(
    row: Any, published: pd.DataFrame, fit: Fit, outcomes: Mapping[Key, Outcome]
) -> Iterator[Row]:
    for system in fit.peaks:
        points = select(published, fit.name, "throughput", system)
        few = float(points.index.min())
        used = {fit.peaks[system]}
        if system == NONE or (not fit.is_measured_bare and system == COLO):
            used.add(few)
        if system == MC and fit.lump > 1:
            used.add(few)
        for clients in points.index:
            bare = system == NONE or (not fit.is_measured_bare and system == COLO)
            closed_form = {}
            if bare:
                per_s = fit.lump * fit.base.throughput_per_s(fit.clients(clients))
                closed_form = {"closed_form": per_s}
            yield row(
                quantity=f"throughput, {_WORDS[system]}",
                condition=f"{clients:.0f} clients",
                x=clients,
                unit="1/s",
                **(
                    {"kind": "fitted", "n": len(used), "parameters": len(used)}
                    if clients in used
                    else {"kind": "predicted"}
                ),
                **reading(points, clients),
                **estimated(
                    _scaled(
                        outcomes[Key(fit.name, system, clients)].of("throughput_per_s"), fit.lump
                    )
                ),
                **closed_form,
                note=_note(fit, system),
            )


def _note(fit: Fit, system: str) -> str:
    if not fit.is_measured_bare:
        return _TOMCAT_NOTE
    if system == MC and fit.lump > 1:
        return f"{_MC_NOTE} {_PIPELINED_NOTE}"
    return {NONE: _NONE_NOTE, MC: _MC_NOTE, COLO: _COLO_NOTE}[system]


def _peak_rows(
    row: Any, published: pd.DataFrame, fit: Fit, outcomes: Mapping[Key, Outcome]
) -> Iterator[Row]:
    """Latency and bandwidth at the unprotected peak."""
    rows = published[published["workload"] == fit.name]
    for metric, quantity, unit in (
        ("latency_relative", "latency, of unprotected", "%"),
        ("replication_bandwidth", "replication bandwidth", "Gb/s"),
    ):
        for point in each(rows[rows["metric"] == metric]):
            system = str(point["system"])
            key = Key(fit.name, COLO if system == COLO else MC, peak(fit), _EPOCHS_MS[system])
            common = {
                "quantity": quantity,
                "condition": _WORDS[system],
                "x": list(_EPOCHS_MS).index(system),
                "unit": unit,
                **told(point),
            }
            if metric == "replication_bandwidth":
                values = [_bandwidth(outcomes[key])]
                note = _BANDWIDTH_NOTE
                if system == COLO:
                    values.append(_bandwidth(outcomes[key._replace(form=LINEAR)]))
                    note = _COLO_BANDWIDTH_NOTE
                among = [each.mean for each in values] if system == COLO else []
                yield row(
                    kind="predicted",
                    **common,
                    **estimated(values[0], among),
                    note=note + (f" {_STR_NOTE}" if system == _MC_25 else ""),
                )
            elif fit.is_measured_bare:
                bare = outcomes[Key(fit.name, NONE, peak(fit))].values["latency_mean_ms"]
                latency = interval(100 * outcomes[key].values["latency_mean_ms"] / bare)
                note = (_STR_NOTE if system == _MC_25 else "") + _LATENCY_NOTE
                yield row(kind="predicted", **common, **estimated(latency), note=note)
            else:
                yield row(kind="unmodelled", **common, note=_UNKNOWN_NOTE)


def _bandwidth(outcome: Outcome) -> Interval:
    return _scaled(outcome.of("replication_mbit_per_s"), 1e-3)


def _scaled(value: Interval, factor: float) -> Interval:
    n, *rest = value
    return Interval(n, *(factor * each for each in rest))


def solve(published: pd.DataFrame, out: Path, quick: bool, jobs: int | None) -> Findings:
    """`run`, and its figure."""
    result = run(published, out, QUICK if quick else FULL, jobs)

    def draw(rows: Sequence[Row]) -> Chart:
        from experiments.published.plover2018.figure import draw

        return draw(replace(result, rows=rows))

    return Findings(result.rows, draw)


STUDY = Study("plover2018", "Wang et al., PLOVER, NSDI 2018", solve)
