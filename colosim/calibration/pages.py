"""Dirty pages over exposure: which of the memory models fits what live runs show.

Every model is scored by leaving a run out: fitted to the others, how far off is it there, at the
checkpoints that served few requests and at those that served many? Runs at the shortest and the
longest interval are never left out: a model is used within what was measured. The mean of those
relative errors is its score. The best is taken, but a simpler one if it is as good within half a
percent, the measured curve first, for it assumes least. A model with more parameters than intervals
are left has no score; where nothing can be scored, the measured curve is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from colosim.calibration.errors import CalibrationError
from colosim.calibration.runs import MeasuredRun
from colosim.model.memory import (
    PAGE_BYTES,
    CurvePoint,
    MeasuredCurve,
    MemoryModel,
    SequentialTouch,
    UniformTouch,
    ZipfTouch,
)
from colosim.scenario import ClosedService, OpenService

_MEASURED = "measured"
_AS_GOOD = 0.005
#: checkpoints that differences make, by exposure: into how many parts, of how many at least
_PARTS, _LEAST_IN_PART = 6, 12
#: of a model: so many intervals must be left for its fit
_PARAMETERS = {"uniform": 2, "sequential": 2, "zipf": 3}


class Point(NamedTuple):
    """Means of some of a run's checkpoints: what a model must give back."""

    run: str
    interval_ns: int
    exposure_ns: float
    requests: float
    pages: float


@dataclass(frozen=True, slots=True)
class PagesFit:
    """The chosen model.

    memory: keys of `[memory]`, without guest_memory.  candidates: model, score (mean relative
    error at a run that was left out; NaN where too few tell), chosen.
    curve: rows of the measured curve's CSV file if that is the model, else None.
    per_request: further pages of a request, and the standard error of that number.
    """

    memory: Mapping[str, Any]
    candidates: pd.DataFrame
    curve: pd.DataFrame | None
    per_request: tuple[float, float]

    @property
    def said(self) -> str:
        """Which, and how well, in words."""
        ranked = self.candidates.sort_values("score").itertuples(index=False, name=None)
        rows = [(str(model), float(score), bool(chosen)) for model, score, chosen in ranked]
        [(model, score)] = [row[:2] for row in rows if row[2]]
        if np.isnan(score):
            return f"{_MEASURED}: too few intervals to say how well it fits between them"
        text = f"{model}: off by {score:.1%} at a run left out of the fit"
        second, next_score = next(row[:2] for row in rows if not row[2])
        return text if np.isnan(next_score) else f"{text} ({second}: {next_score:.1%})"


def fit(runs: Sequence[MeasuredRun]) -> PagesFit:
    """Choose and fit a model; `CalibrationError` unless the runs have two intervals or more."""
    tables = _tables(runs)
    table = pd.concat(tables, ignore_index=True)
    if table["interval_ns"].nunique() < 2:
        given = runs[0].interval_ns / 1e6
        raise CalibrationError(
            f"{runs[0].name}: every run checkpoints every {given:g} ms; dirty pages over exposure "
            "need runs at two intervals or more"
        )
    per_request = _per_request(table)
    guest_pages = runs[0].scenario.memory.guest_memory_bytes // PAGE_BYTES
    points = [
        point
        for run, own in zip(runs, tables, strict=True)
        for interval_ns, rows in own.groupby("interval_ns")
        for point in _points(run.name, int(str(interval_ns)), rows)
    ]
    forms: dict[str, _Form] = {_MEASURED: _measured(per_request[0])}
    forms |= dict(_closed_forms(any(point.requests for point in points)))
    scores = {name: _score(name, form, points, guest_pages) for name, form in forms.items()}
    best = _best(scores)
    candidates = pd.DataFrame(
        {"model": list(scores), "score": list(scores.values())}, columns=["model", "score"]
    )
    candidates["chosen"] = candidates["model"] == best
    if best == _MEASURED:
        curve = _curve(table, per_request[0], guest_pages)
        memory: Mapping[str, Any] = {
            "kind": "measured",
            "outside": "extrapolate",
            "pages_per_request": round(per_request[0], 4),
        }
        return PagesFit(memory, candidates, curve, per_request)
    memory = forms[best](points, guest_pages)[1]
    return PagesFit(memory, candidates, None, per_request)


def _best(scores: Mapping[str, float]) -> str:
    """The lowest score; of those about as good the first, which are listed simplest first."""
    if np.isnan(scores[_MEASURED]):
        return _MEASURED
    limit = float(np.nanmin(list(scores.values()))) + _AS_GOOD
    return next(name for name, score in scores.items() if score <= limit)


_ROW = ("exposure_ns", "requests", "pages")


def _points(name: str, interval_ns: int, table: pd.DataFrame) -> list[Point]:
    """A run's checkpoints at an interval in halves, those with few and with many requests.

    So a model also has to say what requests do at one interval, where nothing else differs.
    """
    many = table["requests"] > table["requests"].median()
    parts = [table[~many], table[many]] if many.any() else [table]
    return [
        Point(name, interval_ns, *(float(part[column].mean()) for column in _ROW)) for part in parts
    ]


def _tables(runs: Sequence[MeasuredRun]) -> list[pd.DataFrame]:
    """A table for each run.  What stands for an interval where differences make checkpoints too:

    the mean exposure of an equal part of all of those runs' checkpoints.
    """
    tables = [_rows(run) for run in runs]
    compared = [i for i, run in enumerate(runs) if run.compares]
    if compared:
        exposures = np.concatenate([tables[i]["exposure_ns"].to_numpy(float) for i in compared])
        parts = min(_PARTS, max(exposures.size // _LEAST_IN_PART, 1))
        edges = np.unique(np.quantile(exposures, np.linspace(0, 1, parts + 1))[1:-1])
        places = np.digitize(exposures, edges)
        means_ns = {place: round(float(exposures[places == place].mean())) for place in set(places)}
        for i in compared:
            own = np.digitize(tables[i]["exposure_ns"].to_numpy(float), edges)
            tables[i]["interval_ns"] = [means_ns[place] for place in own]
    return tables


def _rows(run: MeasuredRun) -> pd.DataFrame:
    workload = run.scenario.workload
    load = 0.0
    if isinstance(workload, OpenService):
        load = workload.rate_per_s
    elif isinstance(workload, ClosedService):
        load = float(workload.clients)
    return run.checkpoints[list(_ROW)].assign(interval_ns=run.interval_ns, load=load)


def _per_request(table: pd.DataFrame) -> tuple[float, float]:
    """Slope of pages over requests at equal intervals, at least 0; and its standard error.

    Between runs of different load if there are such, else between checkpoints: their requests
    differ little, and one that is served just before a stop has its pages on either side of it, so
    that slope is too small.
    """
    grouped = table.groupby(["interval_ns", "load"])
    means = grouped[["requests", "pages"]].mean()
    variance = (grouped["pages"].var() / grouped.size()).fillna(0.0)  # of one checkpoint: unknown
    by_interval = means.groupby("interval_ns")
    if by_interval.size().max() < 2:
        means = table.set_index("interval_ns")[["requests", "pages"]]
        by_interval = means.groupby("interval_ns")
        left = means["pages"] - by_interval["pages"].transform("mean")
        variance = left**2
    x = (means["requests"] - by_interval["requests"].transform("mean")).to_numpy(dtype=float)
    y = (means["pages"] - by_interval["pages"].transform("mean")).to_numpy(dtype=float)
    square = float(x @ x)
    if not square:
        return 0.0, 0.0
    error = float(np.sum(variance.to_numpy(dtype=float) * x**2)) ** 0.5 / square
    return max(float(x @ y) / square, 0.0), error


def _curve(table: pd.DataFrame, per_request: float, guest_pages: int) -> pd.DataFrame:
    """Rows of a curve's file, each sample moved to the load of all of them together."""
    load = float(table["requests"].sum() / table["exposure_ns"].sum())
    usual = load * table["exposure_ns"]
    pages = table["pages"] - per_request * (table["requests"] - usual)
    return pd.DataFrame(
        {
            "workload": "live",
            "setting": "calibrated",
            "interval_ms": table["interval_ns"] / 1e6,
            "exposure_ms": table["exposure_ns"] / 1e6,
            "dirty_pages": pages.clip(0, guest_pages).round(1),
            "load_ops": usual.round(3),
            "guest_ram_mb": guest_pages / 256,
        }
    )


# --------------------------------------------------------------------------------------------
# Candidates: points -> a model and its table in a scenario

_Form = Callable[[Sequence[Point], int], tuple[MemoryModel, Mapping[str, Any]]]


def _measured(per_request: float) -> _Form:
    def make(points: Sequence[Point], guest_pages: int) -> tuple[MemoryModel, Mapping[str, Any]]:
        frame = pd.DataFrame(points)
        load = float(frame["requests"].sum() / frame["exposure_ns"].sum())
        frame["pages"] -= per_request * (frame["requests"] - load * frame["exposure_ns"])
        curve = [
            CurvePoint(round(rows["exposure_ns"].mean()), (max(float(rows["pages"].mean()), 0.0),))
            for _, rows in frame.groupby("interval_ns")
        ]
        options: dict[str, Any] = {"outside": "extrapolate", "guest_pages": guest_pages}
        model = MeasuredCurve(
            curve, load_per_s=load * 1e9, pages_per_request=per_request, **options
        )
        return model, {}

    return make


def _closed_forms(has_load: bool) -> Iterator[tuple[str, _Form]]:
    drivers = {"": "touches_per_s"}
    if has_load:
        drivers[" by request"] = "touches_per_request"
    kinds = ("uniform", "zipf", "sequential")
    for kind, (word, driver), background in product(kinds, drivers.items(), ("none", "idle")):
        more = "" if background == "none" else f" + {background}"
        yield f"{kind}{word}{more}", _closed(kind, driver, background)


def _closed(kind: str, driver: str, background: str) -> _Form:
    """A closed form with the least sum of squared relative errors at the points."""

    def make(points: Sequence[Point], guest_pages: int) -> tuple[MemoryModel, Mapping[str, Any]]:
        def build(logs: Sequence[float]) -> tuple[MemoryModel, dict[str, Any]]:
            size = min(max(round(float(np.exp(min(logs[0], 30.0)))), 1), guest_pages)
            rate = float(np.exp(min(logs[1], 30.0)))
            exponent = min(max(float(logs[2]), 0.0), 5.0) if kind == "zipf" else 0.0
            return _model(kind, size, exponent, {driver: rate}, background, guest_pages)

        def loss(logs: Sequence[float]) -> float:
            model, _ = build(logs)
            return sum(_error(model, point) ** 2 for point in points)

        most = max(point.pages for point in points)
        first = min(points, key=lambda point: point.exposure_ns)
        unit = first.exposure_ns * 1e-9 if driver == "touches_per_s" else max(first.requests, 1e-3)
        start = [np.log(1.5 * most + 1), np.log(1.2 * first.pages / unit + 1e-3)]
        start += [1.0] if kind == "zipf" else []
        options = {"maxiter": 300, "xatol": 1e-3, "fatol": 1e-8}
        return build(minimize(loss, start, method="Nelder-Mead", options=options).x)

    return make


def _model(
    kind: str,
    size: int,
    exponent: float,
    touches: Mapping[str, float],
    background: str,
    guest_pages: int,
) -> tuple[MemoryModel, dict[str, Any]]:
    below = None
    if background != "none":
        below = MeasuredCurve.named(background, outside="extrapolate", guest_pages=guest_pages)
    per_s = touches.get("touches_per_s", 0.0)
    rest = (per_s, touches.get("touches_per_request", 0.0), below, guest_pages)
    memory: dict[str, Any] = {
        "kind": kind,
        "working_set_pages": size,
        "touches": f"{per_s:.6g} /s",
        "touches_per_request": round(rest[1], 4),
        "background": background,
    }
    if kind == "zipf":
        return ZipfTouch(size, exponent, *rest), memory | {"exponent": round(exponent, 4)}
    touch = UniformTouch if kind == "uniform" else SequentialTouch
    return touch(size, *rest), memory


def _error(model: MemoryModel, point: Point) -> float:
    """Relative error of a model at a point."""
    return model.mean(point.exposure_ns, point.requests) / max(point.pages, 1.0) - 1


def _score(name: str, form: _Form, points: Sequence[Point], guest_pages: int) -> float:
    """Mean relative error at a run that was left out; NaN where too few are left."""
    ends = min(points, key=_interval).interval_ns, max(points, key=_interval).interval_ns
    errors = []
    for run in dict.fromkeys(point.run for point in points if point.interval_ns not in ends):
        rest = [point for point in points if point.run != run]
        if len({point.interval_ns for point in rest}) >= _PARAMETERS.get(name.partition(" ")[0], 2):
            model, _ = form(rest, guest_pages)
            errors += [abs(_error(model, point)) for point in points if point.run == run]
    return float(np.mean(errors)) if errors else float("nan")


def _interval(point: Point) -> int:
    return point.interval_ns
