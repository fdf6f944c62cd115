"""Distinct dirty pages of a guest as a function of exposure.

Exposure is the time the guest has *run* since the last cut. A page written ten times is one dirty
page, so the curve bends; how it bends decides what a longer epoch saves. First of all a measured
curve (:class:`MeasuredCurve`); then three closed forms for theory, or for lack of a measurement
(:class:`UniformTouch`, :class:`ZipfTouch`, :class:`SequentialTouch`).

The models are pure functions: the random variate ``u`` in (0, 1) is an argument and is the
quantile, so more pages for a larger ``u``. Time in ns, memory in pages.
"""

from __future__ import annotations

import csv
import io
import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from statistics import NormalDist, fmean, median
from typing import Literal, NamedTuple, Protocol

import numpy as np

from colosim.model.errors import ModelError, check_range

PAGE_BYTES = 4096  # of x86-64, in which everything was measured
DEFAULT_GUEST_PAGES = 65_536
"""256 MiB in pages of 4 KiB: the guest of the measured curves."""

Outside = Literal["refuse", "extrapolate"]

_STANDARD_NORMAL = NormalDist()


class Pages(NamedTuple):
    """A number of distinct dirty pages, and whether it lies outside what was measured."""

    pages: int
    extrapolated: bool


class MemoryModel(Protocol):
    """What a world asks of a memory model."""

    def draw(self, exposure_ns: int, requests: int, u: float) -> Pages:
        """Distinct dirty pages at quantile ``u``; ``requests`` were served in the exposure."""

    def mean(self, exposure_ns: float, requests: float) -> float:
        """Expected distinct dirty pages: continuous, for the slow-down at first write."""

    def union(self, primary: int, secondary: int) -> int:
        """Pages the secondary restores: dirty on the primary, on the secondary or on both."""


def _whole(pages: float, u: float, most: int) -> int:
    """Round ``pages`` with ``u``: grows with ``u``, right on average, to the nearest at 0.5."""
    return min(max(math.floor(pages + u), 0), most)


# --- measured curves -----------------------------------------------------------------------------


class CurvePoint(NamedTuple):
    """Repeated measurements at one exposure: the pages of each sample, in any order."""

    exposure_ns: int
    samples: tuple[float, ...]


class MeasuredCurve:
    """Pages as measured: a table of exposures, interpolated, with the spread of its samples.

    At a point, quantile ``u`` runs through the sorted samples (Hazen positions: 0.5 is the median,
    and the average over ``u`` is the mean of the samples). Between points it is linear in the
    logarithm of the exposure; below the first point linear in the exposure, from no pages at 0.
    Beyond the last point ``outside="refuse"`` raises ModelError; ``"extrapolate"`` continues the
    mean slope of the last segment (in the logarithm) and marks the result.

    Another load than the measured one: ``D(t, n) = D(t) + pages_per_request (n - load_per_s t)``.
    ``pages_per_request=None`` means that the load is the measured one, so ``n`` is not looked at.

    ``secondary_overlap`` in [0, 1]: the part of the smaller of both guests' sets of pages that
    both have; 1 because both run the same program on the same input.
    ``deltas``: (exposure in ns, what is left of a page as a difference), by exposure; for
    `colosim.model.delta`.
    Results stay within 0 and ``guest_pages``. Raises ModelError for an impossible table or value.
    """

    def __init__(
        self,
        points: Iterable[CurvePoint],
        *,
        load_per_s: float = 0.0,
        pages_per_request: float | None = None,
        outside: Outside = "refuse",
        guest_pages: int = DEFAULT_GUEST_PAGES,
        secondary_overlap: float = 1.0,
        label: str = "measured curve",
        deltas: Sequence[tuple[int, float]] = (),
    ) -> None:
        table = sorted(points)
        if len(table) < 2:
            raise ModelError(f"{label}: a curve needs at least 2 exposures, this has {len(table)}")
        if outside not in ("refuse", "extrapolate"):
            raise ModelError(f"outside is {outside!r}; it must be 'refuse' or 'extrapolate'")
        check_range("load_per_s", load_per_s)
        check_range("guest_pages", guest_pages, 1)
        check_range("secondary_overlap", secondary_overlap, high=1.0)
        if pages_per_request is not None:
            check_range("pages_per_request", pages_per_request)
        last_ns = 0
        for exposure_ns, samples in table:
            if exposure_ns <= last_ns or not samples:
                raise ModelError(f"{label}: exposures must be above 0, distinct and with samples")
            for pages in samples:
                check_range(f"{label}: dirty pages at {exposure_ns} ns", pages, high=guest_pages)
            last_ns = exposure_ns

        self.deltas = tuple(deltas)
        self.label = label
        self.load_per_s = load_per_s
        self.pages_per_request = pages_per_request
        self.outside = outside
        self.guest_pages = guest_pages
        self.secondary_overlap = secondary_overlap
        self.shortest_ns = table[0].exposure_ns
        self.longest_ns = last_ns
        self.points = tuple(table)
        # The origin is a point of its own; its logarithm is never used.
        self._exposures = [0.0] + [float(point.exposure_ns) for point in table]
        self._logs = [-math.inf] + [math.log(point.exposure_ns) for point in table]
        self._sorted = [[0.0]] + [sorted(map(float, point.samples)) for point in table]
        self._means = _non_decreasing(
            [0.0] + [fmean(point.samples) for point in table],
            [1] + [len(point.samples) for point in table],
        )
        self._slope = (self._means[-1] - self._means[-2]) / (self._logs[-1] - self._logs[-2])

    @classmethod
    def named(
        cls,
        name: str,
        *,
        pages_per_request: float | None = None,
        outside: Outside = "refuse",
        guest_pages: int | None = None,
        secondary_overlap: float = 1.0,
    ) -> MeasuredCurve:
        """A curve shipped with colosim; :func:`curve_names` lists them."""
        if name not in _NAMED:
            raise ModelError(f"no measured curve {name!r}; there are {', '.join(_NAMED)}")
        return cls._from_table(
            _shipped(_NAMED[name]),
            name,
            pages_per_request=pages_per_request,
            outside=outside,
            guest_pages=guest_pages,
            secondary_overlap=secondary_overlap,
        )

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        workload: str,
        setting: str,
        *,
        pages_per_request: float | None = None,
        outside: Outside = "refuse",
        guest_pages: int | None = None,
        secondary_overlap: float = 1.0,
    ) -> MeasuredCurve:
        """A curve of your own: the rows of ``path`` with this ``workload`` and ``setting``.

        Needs the columns workload, setting, interval_ms (rows of one value are samples of one
        point), exposure_ms and dirty_pages; ``load_ops`` (requests in the exposure) gives the load,
        ``guest_ram_mb`` the guest's size, and ``delta_ratio`` what is left of a page as a
        difference. Raises ModelError, one line with the file's name.
        """
        curves = _read_curves(_text_of(Path(path)), str(path))
        found = curves.get((workload, setting))
        if found is None:
            there = "; ".join(f"{w!r} with {s!r}" for w, s in curves)
            raise ModelError(f"{path}: no rows of {workload!r} with {setting!r}; it has {there}")
        return cls._from_table(
            found,
            f"{path}: {workload}, {setting}",
            pages_per_request=pages_per_request,
            outside=outside,
            guest_pages=guest_pages,
            secondary_overlap=secondary_overlap,
        )

    @classmethod
    def _from_table(
        cls,
        table: _Table,
        label: str,
        *,
        pages_per_request: float | None,
        outside: Outside,
        guest_pages: int | None,
        secondary_overlap: float,
    ) -> MeasuredCurve:
        return cls(
            table.points,
            load_per_s=table.load_per_s,
            pages_per_request=pages_per_request,
            outside=outside,
            guest_pages=table.guest_pages if guest_pages is None else guest_pages,
            secondary_overlap=secondary_overlap,
            label=label,
            deltas=table.deltas,
        )

    def draw(self, exposure_ns: int, requests: int, u: float) -> Pages:
        """Distinct dirty pages at quantile ``u``; ModelError outside the table if refused."""
        extrapolated = exposure_ns > self.longest_ns
        if extrapolated:
            pages = _quantile(self._sorted[-1], u) + self._beyond(exposure_ns)
        else:
            upper, weight = self._locate(exposure_ns)
            low = _quantile(self._sorted[upper - 1], u)
            pages = low + weight * (_quantile(self._sorted[upper], u) - low)
        pages += self._load_correction(exposure_ns, requests)
        return Pages(_whole(pages, u, self.guest_pages), extrapolated)

    def mean(self, exposure_ns: float, requests: float) -> float:
        """Expected pages. Never falls as the exposure grows at the measured load: where the means
        of two neighbouring points fall (noise), both take their common mean.
        """
        means = self._means
        if exposure_ns > self.longest_ns:
            pages = means[-1] + self._beyond(exposure_ns)
        else:
            upper, weight = self._locate(exposure_ns)
            pages = means[upper - 1] + weight * (means[upper] - means[upper - 1])
        pages += self._load_correction(exposure_ns, requests)
        return min(max(pages, 0.0), float(self.guest_pages))

    def union(self, primary: int, secondary: int) -> int:
        """|A or B| = |A| + |B| - overlap * the smaller, at most the guest."""
        both = self.secondary_overlap * min(primary, secondary)
        return min(round(primary + secondary - both), self.guest_pages)

    def _locate(self, exposure_ns: float) -> tuple[int, float]:
        """The point at or after the exposure, and its weight against the point before it."""
        if exposure_ns <= self.shortest_ns:
            return 1, max(exposure_ns, 0.0) / self.shortest_ns
        upper = bisect_left(self._exposures, exposure_ns)
        logs = self._logs
        low = logs[upper - 1]
        return upper, (math.log(exposure_ns) - low) / (logs[upper] - low)

    def _beyond(self, exposure_ns: float) -> float:
        """Mean pages gained since the last point."""
        if self.outside == "refuse":
            raise ModelError(
                f"{self.label} is measured up to {self.longest_ns / 1e6:.6g} ms of exposure, not "
                f'{exposure_ns / 1e6:.6g} ms; checkpoint earlier or set outside = "extrapolate"'
            )
        return self._slope * (math.log(exposure_ns) - self._logs[-1])

    def _load_correction(self, exposure_ns: float, requests: float) -> float:
        if self.pages_per_request is None:
            return 0.0
        return self.pages_per_request * (requests - self.load_per_s * exposure_ns * 1e-9)


def _quantile(ordered: Sequence[float], u: float) -> float:
    """Hazen quantile of a sorted sample: piecewise linear through ((k + 1/2) / n, value k)."""
    position = u * len(ordered) - 0.5
    if position <= 0.0:
        return ordered[0]
    k = int(position)
    if k >= len(ordered) - 1:
        return ordered[-1]
    return ordered[k] + (position - k) * (ordered[k + 1] - ordered[k])


def _non_decreasing(values: Sequence[float], weights: Sequence[int]) -> list[float]:
    """Least-squares non-decreasing fit (pool adjacent violators; Barlow et al. 1972)."""
    pools: list[tuple[float, int, int]] = []  # weighted sum, weight, length
    for value, weight in zip(values, weights, strict=True):
        pool = (value * weight, weight, 1)
        while pools and pools[-1][0] * pool[1] > pool[0] * pools[-1][1]:
            total, heavy, length = pools.pop()
            pool = (total + pool[0], heavy + pool[1], length + pool[2])
        pools.append(pool)
    return [total / weight for total, weight, length in pools for _ in range(length)]


# --- tables of measured curves -------------------------------------------------------------------

_COLUMNS = ("workload", "setting", "interval_ms", "exposure_ms", "dirty_pages")
_LARGEST_FILE_BYTES = 16 * 2**20
_SHIPPED_FILE = "dirty-pages-measured.csv"
_NAMED: Mapping[str, tuple[str, str]] = {
    "redis": ("redis", "500/s 50% set 20k keys 512B"),
    "nginx": ("nginx", "200/s 16KiB x64 files"),
    "idle": ("idle", "no service"),
    "idle-services": ("idle", "4 services idle"),
    "touch-uniform": ("memtouch", "uniform W=2000 r=5000"),
    "touch-zipf": ("memtouch", "zipf W=16000 r=20000"),
    "touch-sequential": ("memtouch", "seq W=8000 r=10000"),
}


class _Table(NamedTuple):
    points: tuple[CurvePoint, ...]
    load_per_s: float
    guest_pages: int
    deltas: tuple[tuple[int, float], ...]


class CurveInfo(NamedTuple):
    """A shipped curve: what was measured, its load (requests/s) and its range of exposures."""

    name: str
    workload: str
    setting: str
    load_per_s: float
    shortest_ns: int
    longest_ns: int


def curve_names() -> list[CurveInfo]:
    """The curves shipped with colosim, in the order of their names in the documentation."""
    infos = []
    for name, (workload, setting) in _NAMED.items():
        table = _shipped((workload, setting))
        first_ns, last_ns = table.points[0].exposure_ns, table.points[-1].exposure_ns
        infos.append(CurveInfo(name, workload, setting, table.load_per_s, first_ns, last_ns))
    return infos


@cache
def _shipped_curves() -> dict[tuple[str, str], _Table]:
    text = files("colosim").joinpath("data", _SHIPPED_FILE).read_text("utf-8")
    return _read_curves(text, _SHIPPED_FILE)


def _shipped(key: tuple[str, str]) -> _Table:
    return _shipped_curves()[key]


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise ModelError(f"{path}: larger than {_LARGEST_FILE_BYTES >> 20} MiB, not a curve")
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"{path}: not a text file in UTF-8") from None
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None


def _read_curves(text: str, where: str) -> dict[tuple[str, str], _Table]:
    """All curves of a CSV text; see :meth:`MeasuredCurve.from_csv`."""
    reader = csv.DictReader(io.StringIO(text))
    groups: dict[tuple[str, str], list[_Row]] = {}
    try:
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"no column {', '.join(missing)}")
        for record in reader:
            row = _Row.parse(record)
            groups.setdefault((record["workload"], record["setting"]), []).append(row)
    except (csv.Error, ValueError) as error:
        raise ModelError(f"{where}: line {max(reader.line_num, 1)}: {error}") from None
    return {key: _table(rows) for key, rows in groups.items()}


class _Row(NamedTuple):
    interval_ms: float
    exposure_ms: float
    dirty_pages: float
    load_ops: float
    guest_ram_mb: float
    delta_ratio: float

    @classmethod
    def parse(cls, record: Mapping[str, str | None]) -> _Row:
        """Numbers of one line. The columns that may be missing or empty count as 0."""
        values = []
        for name in cls._fields:
            text = record.get(name)
            if not text and name in _COLUMNS:
                raise ModelError(f"{name} is empty")
            value = float(text or 0.0)
            check_range(name, value)
            values.append(value)
        return cls(*values)


def _table(rows: Sequence[_Row]) -> _Table:
    by_interval: dict[float, list[_Row]] = {}
    for row in rows:
        by_interval.setdefault(row.interval_ms, []).append(row)
    points = [
        CurvePoint(
            round(median(row.exposure_ms for row in group) * 1e6),
            tuple(row.dirty_pages for row in group),
        )
        for group in by_interval.values()
    ]
    exposure_s = sum(row.exposure_ms for row in rows) / 1e3
    load_per_s = sum(row.load_ops for row in rows) / exposure_s if exposure_s else 0.0
    guest_pages = round(rows[0].guest_ram_mb * 256) or DEFAULT_GUEST_PAGES
    deltas = [
        (point.exposure_ns, median(ratios))
        for point, group in zip(points, by_interval.values(), strict=True)
        if (ratios := [row.delta_ratio for row in group if row.delta_ratio])
    ]
    return _Table(tuple(sorted(points)), load_per_s, guest_pages, tuple(sorted(deltas)))


# --- closed forms --------------------------------------------------------------------------------


class Touched(ABC):
    """``touches_per_s`` and ``touches_per_request`` writes into a working set, plus a background.

    The number of touches N is fixed by exposure and requests; chance decides which pages they hit.
    Draws are normal with the mean and standard deviation of the number of distinct pages. One
    ``u`` moves touched and background pages together, which slightly overstates their spread.
    """

    def __init__(
        self,
        working_set_pages: int,
        touches_per_s: float,
        touches_per_request: float = 0.0,
        background: MemoryModel | None = None,
        guest_pages: int = DEFAULT_GUEST_PAGES,
    ) -> None:
        check_range("guest_pages", guest_pages, 1)
        check_range("working_set_pages", working_set_pages, 1, guest_pages)
        check_range("touches_per_s", touches_per_s)
        check_range("touches_per_request", touches_per_request)
        self.working_set_pages = working_set_pages
        self.touches_per_s = touches_per_s
        self.touches_per_request = touches_per_request
        self.background = background
        self.guest_pages = guest_pages

    def draw(self, exposure_ns: int, requests: int, u: float) -> Pages:
        """Distinct dirty pages at quantile ``u``, background included."""
        touches = self.touches(exposure_ns, requests)
        mean, deviation = self.distinct(touches)
        if deviation:  # the first touch always finds a clean page
            mean = max(mean + deviation * _STANDARD_NORMAL.inv_cdf(u), 1.0)
        pages = _whole(mean, u, min(self.working_set_pages, math.ceil(touches)))
        if self.background is None:
            return Pages(pages, False)
        more = self.background.draw(exposure_ns, requests, u)
        return Pages(min(pages + more.pages, self.guest_pages), more.extrapolated)

    def mean(self, exposure_ns: float, requests: float) -> float:
        """Expected distinct dirty pages, background included."""
        pages, _ = self.distinct(self.touches(exposure_ns, requests))
        if self.background is not None:
            pages += self.background.mean(exposure_ns, requests)
        return min(pages, float(self.guest_pages))

    def union(self, primary: int, secondary: int) -> int:
        """Pages of both guests together.

        The counts do not say which pages are background, so all count as touched as far as the
        working set reaches; beyond it they are the same pages on both sides. With independent
        touches that overstates the union by less than the background's pages.
        """
        size = self.working_set_pages
        touched = self._together(min(primary, size), min(secondary, size))
        return min(round(touched) + max(primary - size, secondary - size, 0), self.guest_pages)

    @abstractmethod
    def distinct(self, touches: float) -> tuple[float, float]:
        """Mean and standard deviation of the distinct pages of ``touches`` writes.

        Touched pages only, without the background.
        """

    @abstractmethod
    def _together(self, primary: int, secondary: int) -> float:
        """Expected union of two sets of touched pages, each within the working set."""

    def touches(self, exposure_ns: float, requests: float) -> float:
        """How many writes there are."""
        return self.touches_per_s * exposure_ns * 1e-9 + self.touches_per_request * requests


class UniformTouch(Touched):
    """Every touch hits any page of the working set with equal chance.

    N touches of W pages: the classical occupancy problem (Feller, Introduction to Probability
    Theory I, II.5). With q = (1 - 1/W)^N, mean W (1 - q) and variance
    W q (1 - q) + W (W - 1) ((1 - 2/W)^N - q^2). Guests touch independently of each other.
    """

    def __init__(
        self,
        working_set_pages: int,
        touches_per_s: float,
        touches_per_request: float = 0.0,
        background: MemoryModel | None = None,
        guest_pages: int = DEFAULT_GUEST_PAGES,
    ) -> None:
        super().__init__(
            working_set_pages, touches_per_s, touches_per_request, background, guest_pages
        )
        size = working_set_pages
        self._log_miss = math.log1p(-1 / size) if size > 1 else -math.inf
        # log((1 - 2/W) / (1 - 1/W)^2): with it the variance does not cancel in floating point.
        self._log_pair = math.log1p(-1 / (size - 1) ** 2) if size > 2 else -math.inf

    def distinct(self, touches: float) -> tuple[float, float]:
        """Mean and standard deviation of the distinct pages of ``touches`` writes."""
        if touches <= 1.0:
            return touches, 0.0
        size = self.working_set_pages
        hit = -math.expm1(touches * self._log_miss)
        missed = 1.0 - hit
        pairs = size * (size - 1) * missed * missed * math.expm1(touches * self._log_pair)
        return size * hit, math.sqrt(max(size * missed * hit + pairs, 0.0))

    def _together(self, primary: int, secondary: int) -> float:
        return primary + secondary - primary * secondary / self.working_set_pages


class ZipfTouch(Touched):
    """The page of rank i is touched with a chance proportional to i^-exponent.

    Mean sum(1 - (1 - p_i)^N). Variance sum(q_i (1 - q_i)) - N (sum(p_i q_i))^2 with
    q_i = (1 - p_i)^N: its leading terms for many touches, after Gnedin, Hansen and Pitman, Notes on
    the occupancy problem with infinitely many boxes (Probability Surveys 4, 2007). Both are worked
    out at 32 values of N an octave, when first needed, and interpolated in log N (relative error of
    the mean below 1e-4). Independent guests: the union of N and M touches is the distinct pages of
    N + M touches. ``exponent`` from 0 (uniform) to 10.
    """

    _NODES_PER_OCTAVE = 32

    def __init__(
        self,
        working_set_pages: int,
        exponent: float,
        touches_per_s: float,
        touches_per_request: float = 0.0,
        background: MemoryModel | None = None,
        guest_pages: int = DEFAULT_GUEST_PAGES,
    ) -> None:
        super().__init__(
            working_set_pages, touches_per_s, touches_per_request, background, guest_pages
        )
        check_range("exponent", exponent, high=10.0)
        self.exponent = exponent
        weights = np.arange(1, working_set_pages + 1, dtype=np.float64) ** -exponent
        self._chances = weights / weights.sum()
        with np.errstate(divide="ignore"):  # one page alone is never missed: log 0
            self._log_misses = np.log1p(-self._chances)
        self._nodes: dict[int, tuple[float, float]] = {}

    def distinct(self, touches: float) -> tuple[float, float]:
        """Mean and standard deviation of the distinct pages of ``touches`` writes."""
        if touches <= 1.0:
            return touches, 0.0
        position = math.log2(touches) * self._NODES_PER_OCTAVE
        k = int(position)
        weight = position - k
        mean, deviation = self._node(k)
        next_mean, next_deviation = self._node(k + 1)
        return (
            mean + weight * (next_mean - mean),
            deviation + weight * (next_deviation - deviation),
        )

    def _node(self, k: int) -> tuple[float, float]:
        """Mean and standard deviation at 2^(k / nodes per octave) touches."""
        node = self._nodes.get(k)
        if node is None:
            touches = 2.0 ** (k / self._NODES_PER_OCTAVE)
            missed = np.exp(touches * self._log_misses)
            hit = -np.expm1(touches * self._log_misses)
            # Not @: with several BLAS threads its last bits depend on their number.
            variance = (missed * hit).sum() - touches * (self._chances * missed).sum() ** 2
            node = float(hit.sum()), math.sqrt(max(float(variance), 0.0))
            self._nodes[k] = node
        return node

    def _together(self, primary: int, secondary: int) -> float:
        if max(primary, secondary) >= self.working_set_pages:
            return self.working_set_pages
        return self.distinct(self._touches_for(primary) + self._touches_for(secondary))[0]

    def _touches_for(self, pages: int) -> float:
        """The number of touches whose mean is ``pages``: inverse of :meth:`distinct`."""
        if pages <= 1:
            return float(pages)
        high = 1
        while self._node(high)[0] < pages:
            high *= 2
        k = bisect_left(range(high), float(pages), key=lambda node: self._node(node)[0])
        low, up = self._node(k - 1)[0], self._node(k)[0]
        return float(2.0 ** ((k - 1 + (pages - low) / (up - low)) / self._NODES_PER_OCTAVE))


class SequentialTouch(Touched):
    """Touches walk through the working set in order, round and round: min(N, W) pages.

    Both guests start at the same page after a synchronisation, so the longer walk covers the other.
    """

    def distinct(self, touches: float) -> tuple[float, float]:
        """Mean and standard deviation (0) of the distinct pages of ``touches`` writes."""
        return min(touches, float(self.working_set_pages)), 0.0

    def _together(self, primary: int, secondary: int) -> float:
        return max(primary, secondary)
