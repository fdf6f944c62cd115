"""What a sizing stands on: a scenario, where each number of it is from, and what is not known.

Sources are laid over one another (`colosim.sizing.sources`), each replacing what it knows.  What no
source knows is assumed, and an assumption has a range: an `Unknown`.  So has a measurement with few
events.  `Basis.scenario` makes a scenario of any values of the unknowns.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from colosim.model.memory import PAGE_BYTES, CurvePoint
from colosim.scenario import Scenario
from colosim.sizing.causes import Cause
from colosim.units import dimension_of, readable, without_unit

Kind = Literal["measured", "fitted", "given", "assumed"]

#: where curves are continued to: no checkpoint is sooner or later
_SHORTEST_NS, _LONGEST_NS = 2_000_000, 128_000_000_000
#: exponents of pages over time, pages ~ time ** exponent: of the curves that come with colosim, the
#: median of all 49 pieces between neighbouring points, and about the least and the most
EXPONENTS = (0.6, 0.0, 1.0)
#: keys of unknowns that are no field of a scenario
COSTS, PAGES, BELOW, BEYOND = "cost", "memory", "memory.below", "memory.beyond"
#: seen under TCG, which translates a guest's code anew after each load (docs/calibration.md)
_LATEST_START_NS = 1e8
START_SKEW = "execution.start_skew_ns"
#: keys of what several sources say of why the guests differ
UNPROMPTED, PROBABILITY = "divergence.unprompted_per_s", "divergence.probability"
_SCALED_COSTS = (
    *("stop_ns", "find_pages_ns", "save_fixed_ns", "save_per_page_ns", "copy_fixed_ns"),
    *("copy_per_page_ns", "transfer_fixed_ns", "transfer_per_page_ns", "load_fixed_ns"),
    *("load_per_page_ns", "resume_ns", "quiesce_ns"),
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One number: dotted key or what it is, as text, and from where."""

    key: str
    value: str
    kind: Kind
    source: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A number that is not known exactly.

    key: dotted, with its unit last ("workload.rate_per_s"), or one of this module's.  value: what
    is taken; low, high: its range.  kind: "assumed": anything in the range is possible;
    "measured" or "fitted": the range is a 95 % interval.  what: for people.
    """

    key: str
    value: float
    low: float
    high: float
    kind: Kind
    what: str

    def at(self, u: float) -> float:
        """The value at quantile ``u``: uniform in the logarithm, or linear if the range begins
        at 0; of a measurement, normal in the same scale.
        """
        if self.low >= self.high:
            return self.value
        if self.kind != "assumed":
            from scipy.special import ndtri

            u = min(max(0.5 + float(ndtri(u)) / (2 * 1.96), -0.25), 1.25)
        if self.low > 0:
            return self.low * math.exp(math.log(self.high / self.low) * u)
        return max(self.low + (self.high - self.low) * u, 0.0)

    def shown(self, value: float) -> str:
        """A value with its unit."""
        return f"× {value:.3g}" if self.key in (COSTS, PAGES) else readable(self.key, value, 3)


@dataclass(frozen=True, slots=True)
class Curve:
    """Distinct dirty pages by exposure as measured, and how it goes on on either side.

    below, beyond: exponents of a power law before the first and after the last point.
    load_per_s, pages_per_request: as in `MeasuredCurve`; 0 pages: what they are at any load.
    """

    points: Sequence[CurvePoint]
    guest_pages: int
    below: float
    beyond: float
    load_per_s: float = 0.0
    pages_per_request: float = 0.0

    def table(self, factor: float = 1.0) -> pd.DataFrame:
        """Rows of a curve's file; factor: on all pages."""
        rows = [
            (point.exposure_ns, min(pages * factor, self.guest_pages))
            for point in self._continued()
            for pages in point.samples
        ]
        exposure_ms = [exposure_ns / 1e6 for exposure_ns, _ in rows]
        return pd.DataFrame(
            {
                "workload": "sized",
                "setting": "size",
                "interval_ms": exposure_ms,
                "exposure_ms": exposure_ms,
                "dirty_pages": [pages for _, pages in rows],
                "load_ops": [self.load_per_s * each / 1e3 for each in exposure_ms],
                "guest_ram_mb": self.guest_pages * PAGE_BYTES / 2**20,
            }
        )

    def _continued(self) -> Iterator[CurvePoint]:
        points = sorted(self.points)
        first, last = points[0], points[-1]
        at_ns = first.exposure_ns // 2
        while at_ns >= _SHORTEST_NS:
            yield _moved(first, at_ns, self.below)
            at_ns //= 2
        yield from points
        at_ns = last.exposure_ns * 2
        while at_ns <= _LONGEST_NS:
            yield _moved(last, at_ns, self.beyond)
            at_ns *= 2


def _moved(point: CurvePoint, at_ns: int, exponent: float) -> CurvePoint:
    """What a power law through a point says at another exposure."""
    factor = (at_ns / point.exposure_ns) ** exponent
    return CurvePoint(at_ns, tuple(pages * factor for pages in point.samples))


@dataclass(slots=True)
class Basis:
    """What is known; sources change it, one after the other.

    mapping: the scenario, as in a file.  curve: dirty pages, if they are not in the mapping.
    causes: why the guests differed, from captures.  knows: which kinds of thing some source said.
    has_length: a scenario says how long a run is.
    """

    mapping: dict[str, Any]
    has_length: bool = False
    facts: dict[str, Fact] = field(default_factory=dict)
    unknowns: dict[str, Unknown] = field(default_factory=dict)
    curve: Curve | None = None
    causes: list[Cause] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    knows: set[str] = field(default_factory=set)
    sources: list[str] = field(default_factory=list)

    def put(
        self,
        key: str,
        value: float,
        kind: Kind,
        source: str,
        between: tuple[float, float] | None = None,
        what: str = "",
    ) -> None:
        """Set one field, by its dotted key with its unit last, in the inside unit."""
        text = shown(key, value)
        set_in(self.mapping, without_unit(key), text)
        self.say(without_unit(key), text, kind, source)
        self.unknowns.pop(key, None)
        if between is not None:
            low, high = between
            self.unknowns[key] = Unknown(key, value, low, high, kind, what or without_unit(key))

    def say(self, key: str, value: Any, kind: Kind, source: str) -> None:
        """Note where a value is from."""
        self.facts[key] = Fact(key, str(value), kind, source)

    def assume_late_starts(self, source: str) -> None:
        """No run under a policy that compares says how late the second guest is then."""
        if "starts" not in self.knows:
            what = "how late the second guest is after a checkpoint, TCG"
            self.put(START_SKEW, 0.0, "assumed", source, (0.0, _LATEST_START_NS), what)

    def set_curve(self, curve: Curve, kind: Kind, source: str, error: float = 0.0) -> None:
        """Dirty pages as a curve; error: relative, of all of it."""
        self.curve = curve
        self.forget("memory")
        self.knows.add("memory")
        points = ", ".join(
            f"{sum(p.samples) / len(p.samples):.0f} in {p.exposure_ns / 1e6:.4g} ms"
            for p in sorted(curve.points)
        )
        self.say("memory", f"distinct pages: {points}", kind, source)
        if error:
            what = "dirty pages, as measured"
            low, high = 1 / (1 + error), 1 + error
            self.unknowns[PAGES] = Unknown(PAGES, 1.0, low, high, "measured", what)

    def forget(self, table: str) -> None:
        """No unknowns and facts of a table any more: a source says it anew."""
        for key in [*self.facts, *self.unknowns]:
            if key == table or key.startswith(f"{table}."):
                self.facts.pop(key, None)
                self.unknowns.pop(key, None)

    def scenario(self, place: Path, values: Mapping[str, float] | None = None) -> Scenario:
        """The scenario with such values of unknowns; files of it go to ``place``."""
        given = {key: each.value for key, each in self.unknowns.items()} | dict(values or {})
        mapping = copy.deepcopy(self.mapping)
        for key, value in given.items():
            if key == COSTS:
                self._scale_costs(mapping, value)
            elif key == PAGES:
                _scale_touches(mapping, value)
            elif key not in (BELOW, BEYOND):
                set_in(mapping, without_unit(key), shown(key, value))
        if self.curve is not None:
            curve = replace(
                self.curve,
                below=given.get(BELOW, self.curve.below),
                beyond=given.get(BEYOND, self.curve.beyond),
            )
            factor = given.get(PAGES, 1.0)
            name = f"pages-{factor:.6g}-{curve.below:.6g}-{curve.beyond:.6g}.csv"
            path = place / name
            if not path.exists():
                curve.table(factor).to_csv(path, index=False)
            mapping["memory"] = {
                "guest_memory": mapping.get("memory", {}).get("guest_memory")
                or f"{curve.guest_pages * PAGE_BYTES} B",
                "kind": "measured",
                "file": str(path),
                "workload": "sized",
                "setting": "size",
                "outside": "extrapolate",
                "pages_per_request": curve.pages_per_request,
            }
        return Scenario.from_mapping(mapping)

    def _scale_costs(self, mapping: dict[str, Any], factor: float) -> None:
        table = mapping.setdefault("cost", {})
        base = Scenario.from_mapping({**_SMALLEST, "cost": dict(table)}).cost
        for name in _SCALED_COSTS:
            table[without_unit(name)] = shown(name, getattr(base, name) * factor)


#: enough to read a table of costs with its defaults
_SMALLEST: Mapping[str, Any] = {
    "name": "costs",
    "duration": "1 s",
    "workload": {"kind": "batch", "work": "1 s"},
    "memory": {"kind": "uniform", "working_set_pages": 1, "touches": "0 /s"},
}


def _scale_touches(mapping: dict[str, Any], factor: float) -> None:
    """Of a closed form: so many times as many touches; a curve is scaled elsewhere."""
    table = mapping.get("memory", {})
    if "touches" in table:
        dimension = dimension_of("touches_per_s")
        assert dimension is not None
        table["touches"] = dimension.format(float(dimension.parse(table["touches"])) * factor)
    if "touches_per_request" in table:
        table["touches_per_request"] = float(table["touches_per_request"]) * factor


def shown(key: str, value: float) -> Any:
    """A value as a scenario file has it; key: its name, unit last."""
    dimension = dimension_of(key)
    if dimension is None:
        return float(f"{value:.6g}")
    if not dimension.whole:
        return dimension.format(float(f"{value:.6g}"))
    return dimension.format(round(value))


def set_in(mapping: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one value by its dotted key."""
    *tables, last = dotted.split(".")
    place = mapping
    for name in tables:
        place = place.setdefault(name, {})
    place[last] = value


def exponents(points: Iterable[CurvePoint]) -> tuple[tuple[float, float], tuple[float, float]]:
    """(at the short end, its range's low end) and (at the long end, its range's high end).

    Before the first point pages are taken to go as they do right after it. Anything from a fixed
    number, which every checkpoint brings along (nginx), to a straight line is possible. Beyond the
    last point curves of distinct pages bend down, so they grow at most as they did before it.
    """
    means = [
        (point.exposure_ns, max(sum(point.samples) / len(point.samples), 1e-9))
        for point in sorted(points)
    ]
    if len(means) < 2:
        return (EXPONENTS[0], EXPONENTS[1]), (EXPONENTS[0], EXPONENTS[2])
    slopes = [
        min(max(math.log(d2 / d1) / math.log(t2 / t1), 0.0), 1.0)
        for (t1, d1), (t2, d2) in pairwise(means)
    ]
    return (slopes[0], EXPONENTS[1]), (slopes[-1] / 2, slopes[-1])
