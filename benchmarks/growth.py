"""How time and memory grow with requests, with VMs and with simulated hours.

    python -m benchmarks.growth [--sizes N] [--rounds N] [--scale X] [--out DIR] [--json FILE]

Along each axis the size doubles from run to run; rounds take turns over all sizes of all axes.
Time is CPU time.  Memory is the peak of what a run allocates (tracemalloc, in runs that are not
timed).  The exponent is that of what a run takes beyond the smallest run, for what it is larger:
the slope of the logarithms of both, with Student's t interval.  1 is linear, whatever a run takes
to start.  The cost of one more (request, VM, hour) is the slope of a straight line.  A VM here is a
protected pair with its clients: pairs share nothing, so several are several runs whose records are
kept.  Nothing here is a test.
"""

from __future__ import annotations

import gc
import math
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import linregress, t

from backends.sim import run_replication
from benchmarks.command import Command, write
from benchmarks.requests import scenario as requests_scenario
from benchmarks.rounds import context
from benchmarks.speed import aligned, measuring, service, timed
from colosim.analysis.plots import Chart, styled

NS_PER_S = 1_000_000_000
S_PER_HOUR = 3_600
MIB = 1 << 20
RATE_PER_S = 1_000
VM_RATE_PER_S, VM_REQUESTS = 200, 400
HOUR_RATE_PER_S = 1.0


@dataclass(frozen=True, slots=True)
class Axis:
    """What grows, in what unit, from which size on; run(size) returns what is kept of it."""

    name: str
    unit: str
    first: float
    run: Callable[[float], object]
    least: float = 0.0  # however small the scale


def _responses(size: float) -> object:
    what = service(RATE_PER_S, int(size * NS_PER_S) // RATE_PER_S)
    return run_replication(what, "colo", 1, 0)


def _requests(size: float) -> object:
    return run_replication(requests_scenario(int(size), "epoch"), "colo", 1, 0)


def _pairs(size: float) -> object:
    what = service(VM_RATE_PER_S, VM_REQUESTS * NS_PER_S // VM_RATE_PER_S)
    return [run_replication(what, "colo", 1, pair) for pair in range(int(size))]


def _hours(interval: str) -> Callable[[float], object]:
    def run(size: float) -> object:
        what = service(HOUR_RATE_PER_S, int(size * S_PER_HOUR * NS_PER_S))
        return run_replication(what.replace({"policy.remus.interval": interval}), "remus", 1, 0)

    return run


AXES = (
    Axis("requests, response, colo", "request", 1_000, _responses),
    Axis("requests, epoch, colo", "request", 200_000, _requests),
    Axis("VMs: pairs under colo, 400 requests each", "VM", 1, _pairs, least=1),
    Axis("hours, remus: 10 checkpoints/s, 1 request/s", "hour", 1 / 64, _hours("100 ms")),
    Axis("hours, remus: 1 checkpoint/s, 1 request/s", "hour", 1 / 32, _hours("1 s")),
)


# --------------------------------------------------------------------------------------------
# Running


def _peak_bytes(run: Callable[[float], object], size: float) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        kept = run(size)
        peak = tracemalloc.get_traced_memory()[1]
        del kept
        return peak
    finally:
        tracemalloc.stop()


def points(sizes: int, rounds: int, scale: float) -> list[dict[str, Any]]:
    """Of each axis and size: seconds by round, and peak bytes."""
    found: list[dict[str, Any]] = [
        {"axis": number, "size": max(axis.least, axis.first * scale) * 2**k, "s": []}
        for number, axis in enumerate(AXES)
        for k in range(sizes)
    ]
    with measuring():
        for point in found:  # imports and caches are warm after these
            point["peak_bytes"] = _peak_bytes(AXES[point["axis"]].run, point["size"])
        for _ in range(rounds):
            for point in found:
                run = partial(AXES[point["axis"]].run, point["size"])
                point["s"].append(timed(run)[1])
    return found


# --------------------------------------------------------------------------------------------
# Fits


def slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float]:
    """Of a straight line, with its 95 % interval."""
    fit = linregress(x, y)
    half = float(t.ppf(0.975, len(x) - 2)) * fit.stderr if len(x) > 2 else math.nan
    return float(fit.slope), float(fit.slope - half), float(fit.slope + half)


def exponent(size: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float]:
    """Of what is added beyond the smallest; NaN where noise is larger than that."""
    more, added = size[1:] - size[0], y[1:] - y[0]
    if not (added > 0).all():
        return (math.nan,) * 3
    return slope(np.log(more), np.log(added))


def fits(axis: Axis, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Exponents and costs of one more, of time and of memory; from the rounds' medians."""
    size = np.array([point["size"] for point in found])
    fitted: dict[str, Any] = {"axis": axis.name, "unit": axis.unit, "sizes": size.tolist()}
    fitted["s_rounds"] = [point["s"] for point in found]
    columns = {
        "s": np.array([float(np.median(point["s"])) for point in found]),
        "peak_bytes": np.array([float(point["peak_bytes"]) for point in found]),
    }
    for what, y in columns.items():
        fitted[what] = y.tolist()
        fitted[f"{what}_each"] = slope(size, y)
        fitted[f"{what}_exponent"] = exponent(size, y)
    return fitted


def measure(sizes: int, rounds: int, scale: float) -> dict[str, Any]:
    """Context, counts, and a row of fits for each axis."""
    found = points(sizes, rounds, scale)
    return {
        **context({}),
        "rounds": rounds,
        "rows": [
            fits(axis, [point for point in found if point["axis"] == number])
            for number, axis in enumerate(AXES)
        ],
    }


# --------------------------------------------------------------------------------------------
# Showing


def _with_interval(values: Sequence[float], factor: float = 1.0, digits: int = 2) -> str:
    middle, low, high = (f"{factor * value:,.{digits}f}" for value in values)
    return f"{middle} ({low} to {high})"


#: of one more of a unit: how many in a cell, what that is called; for time and for memory
_CELLS = {
    "request": ((1e6, "us a request"), (1, "B a request")),
    "VM": ((1e3, "ms a VM"), (1 / MIB, "MiB a VM")),
    "hour": ((1, "s an hour"), (1 / MIB, "MiB an hour")),
}


def table(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of text, the heading first."""
    lines: list[tuple[str, ...]] = [
        ("what grows", "sizes", "exponent of time", "exponent of memory", "time", "memory")
    ]
    for row in result["rows"]:
        (of_time, time_unit), (of_memory, memory_unit) = _CELLS[row["unit"]]
        lines.append(
            (
                row["axis"],
                f"{row['sizes'][0]:,.4g} to {row['sizes'][-1]:,.6g}",
                _with_interval(row["s_exponent"]),
                _with_interval(row["peak_bytes_exponent"]),
                f"{_with_interval(row['s_each'], of_time)} {time_unit}",
                f"{_with_interval(row['peak_bytes_each'], of_memory)} {memory_unit}",
            )
        )
    return lines


_SHOWN = {"request": (1e-3, "thousand requests"), "VM": (1, "VMs"), "hour": (1, "simulated hours")}


@styled
def figure(result: Mapping[str, Any]) -> Chart:
    """Time and memory over the size, an axis a column, with straight lines through the medians."""
    found = result["rows"]
    chart = Chart(figsize=(2.5 * len(found), 4.6))
    panels = chart.subplots(2, len(found), squeeze=False)
    labels = (("s", 1.0, "CPU time (s)"), ("peak_bytes", 1 / MIB, "Peak memory (MiB)"))
    for column, row in enumerate(found):
        scale, name = _SHOWN[row["unit"]]
        size = scale * np.array(row["sizes"])
        for axes, (what, factor, label) in zip(panels[:, column], labels, strict=True):
            y = factor * np.array(row[what])
            fit = linregress(size, y)
            line = np.array([0.0, size[-1]])
            axes.plot(line, fit.intercept + fit.slope * line, color="#B0B0B0", zorder=1)
            for each in zip(*row["s_rounds"], strict=True) if what == "s" else ():
                axes.plot(size, factor * np.array(each), ".", color="#56B4E9", markersize=4)
            axes.plot(size, y, "o", color="#0072B2", markersize=4)
            axes.set(xlim=(0, None), ylim=(0, None))
            if column == 0:
                axes.set_ylabel(label)
        panels[0, column].set_title("\n".join(row["axis"].replace(", ", ": ", 1).split(": ")))
        panels[1, column].set_xlabel(name)
        for axes in panels[:, column]:
            axes.locator_params(nbins=4)
    return chart


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, draw, and write the JSON if asked to."""
    parser = Command("growth", __doc__)
    parser.count("--sizes", 6, 3, "each twice the last")
    parser.count("--rounds", 3)
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="of all sizes")
    parser.add_argument("--out", type=Path, metavar="DIR", help="draw growth.svg and .png there")
    parser.offer_json()
    given = parser.parse_args(arguments)
    if not given.scale > 0:
        parser.error("the scale is above 0")
    result = measure(given.sizes, given.rounds, given.scale)
    print(aligned(table(result)))
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        figure(result).save(given.out / "growth")
    write(result, given.json)


if __name__ == "__main__":
    main()
