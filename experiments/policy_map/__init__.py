"""Which policy costs a service least, by how fast it dirties memory, how often its guests part, and
the link.

All policies meet the same requests (common random numbers), so policies are compared by paired
differences.  A policy *wins* a cell if it is surely at most `MARGIN` dearer than every other
(indifference zone: Bechhofer, Ann. Math. Stat. 25, 1954; paired t intervals, corrected for all
pairs of policies of a cell after Bonferroni); of several it is the first of `POLICIES`, the simplest.
Where none is, the cell is *not decided*, and the best in the mean is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import colosim
from colosim import Scenario, load_scenario
from colosim.analysis.stats import paired

#: from the simplest on
POLICIES = ("remus", "microcheckpoint", "colo", "hybrid")
#: those to whom it is all the same whether the guests differ
_PERIODIC = ("remus", "microcheckpoint")
CELL = ["bandwidth_bps", "touches_per_s", "hazard_per_s"]
_COLUMNS = {
    "link.bandwidth_bps": "bandwidth_bps",
    "memory.touches_per_s": "touches_per_s",
    "divergence.hazard_per_s": "hazard_per_s",
}
METRICS = ("latency_mean_ms", "latency_p99_ms", "latency_p50_ms")
MARGIN = 0.02
#: a policy keeps up if it answers so much of what is answered without protection
KEEPS_UP = 0.98


class Grid(NamedTuple):
    """The cells: all combinations."""

    touches_per_s: Sequence[float]
    hazards_per_s: Sequence[float]
    bandwidths: Sequence[str]


QUICK = Grid(
    (100, 300, 1_000, 3_000, 10_000, 30_000),
    (0.1, 1, 3, 10, 30, 100, 300),
    ("100 Mbit/s", "1 Gbit/s", "10 Gbit/s"),
)
FULL = Grid(
    tuple(float(f"{each:.3g}") for each in np.geomspace(100, 100_000, 13)),
    tuple(float(f"{each:.3g}") for each in np.geomspace(0.1, 1_000, 17)),
    ("100 Mbit/s", "1 Gbit/s", "10 Gbit/s", "25 Gbit/s"),
)


def base() -> Scenario:
    """The service, before anything is varied."""
    return load_scenario(Path(__file__).parent / "policy_map.toml")


def run(
    out: Path,
    grid: Grid = QUICK,
    replications: int | None = None,
    seed: int = 1,
    jobs: int | None = None,
) -> pd.DataFrame:
    """policy, bandwidth_bps, touches_per_s, hazard_per_s, replication, metric, value; of `METRICS`
    and throughput_per_s.  Policy ``none`` is in no cell: its rows are of all.

    ``out`` keeps what has been run; a run that was stopped goes on there.
    """
    parts = {
        "none": (("none",), {}),
        "periodic": (_PERIODIC, _axes(grid)),
        "comparing": (
            tuple(each for each in POLICIES if each not in _PERIODIC),
            {**_axes(grid), "divergence.hazard": [f"{each:g} /s" for each in grid.hazards_per_s]},
        ),
    }
    tables = []
    for name, (policies, axes) in parts.items():
        plan: dict[str, Any] = {"scenario": base(), "policies": list(policies), "seed": seed}
        if replications is not None:
            plan["replications"] = replications
        table = colosim.sweep({**plan, "axes": axes}, out / name, jobs)
        table = table[table["metric"].isin([*METRICS, "throughput_per_s"])]
        if name == "periodic":
            hazards = pd.DataFrame({"divergence.hazard_per_s": grid.hazards_per_s}, dtype=float)
            table = table.merge(hazards, "cross")
        tables.append(table.rename(columns=_COLUMNS))
    wanted = ["policy", *CELL, "replication", "metric", "value"]
    return pd.concat([table.reindex(columns=wanted) for table in tables], ignore_index=True)


def _axes(grid: Grid) -> dict[str, list[str]]:
    return {
        "link.bandwidth": list(grid.bandwidths),
        "memory.touches": [f"{each:g} /s" for each in grid.touches_per_s],
    }


# --------------------------------------------------------------------------------------------
# Who wins


def cells(table: pd.DataFrame, metric: str = METRICS[0]) -> pd.DataFrame:
    """A row for each cell: its place (`CELL`), winner ("" where no policy keeps up), is_decided,
    value and added (of the winner; added: its mean paired difference from no protection, with
    added_low, added_high), second (the best of the others that keep up, or "") and by how much the
    winner is ahead of it (ahead, ahead_low, ahead_high; simultaneous intervals).
    """
    bare = table[table["policy"] == "none"]
    unprotected = _values(bare, metric)
    enough = KEEPS_UP * _values(bare, "throughput_per_s").mean()
    rows = []
    for cell, here in table[table["policy"] != "none"].groupby(CELL):
        of = {name: _values(here[here["policy"] == name], metric) for name in POLICIES}
        for name in POLICIES:  # what is late is not counted, so who does not keep up looks quick
            throughput = _values(here[here["policy"] == name], "throughput_per_s").mean()
            if throughput < enough or np.isnan(of[name]).any():
                del of[name]
        winner, is_decided = _winner(of)
        row: dict[str, Any] = dict(zip(CELL, cell, strict=True))
        row |= {"winner": winner, "is_decided": is_decided, "second": ""}
        if winner:
            _, added, low, high = paired(of[winner], unprotected)
            row |= {"value": of[winner].mean()}
            row |= {"added": added, "added_low": low, "added_high": high}
        if len(of) > 1:
            row["second"] = second = min(set(of) - {winner}, key=lambda name: of[name].mean())
            _, ahead, low, high = paired(of[second], of[winner], _CONFIDENCE)
            row |= {"ahead": ahead, "ahead_low": low, "ahead_high": high}
        rows.append(row)
    names = ["winner", "is_decided", "value", "added", "added_low", "added_high"]
    names += ["second", "ahead", "ahead_low", "ahead_high"]
    return pd.DataFrame(rows, columns=[*CELL, *names])


#: of one interval, so that all pairs of a cell together hold 95 %
_CONFIDENCE = 1 - 0.05 / (len(POLICIES) * (len(POLICIES) - 1) / 2)


def _winner(of: Mapping[str, NDArray[np.float64]]) -> tuple[str, bool]:
    """The first policy that surely costs at most `MARGIN` more than each other, and True; else
    the best in the mean, and False.
    """
    for policy, values in of.items():
        above = [paired(values, of[each], _CONFIDENCE).high for each in of if each != policy]
        if max(above, default=0.0) <= MARGIN * values.mean():
            return policy, True
    return min(of, key=lambda policy: of[policy].mean(), default=""), not of


def _values(rows: pd.DataFrame, metric: str) -> NDArray[np.float64]:
    """Of one policy and cell, in the order of replications."""
    chosen = rows[rows["metric"] == metric].sort_values("replication")
    return chosen["value"].to_numpy()


def border(
    table: pd.DataFrame,
    metric: str = METRICS[0],
    first: str = "colo",
    others: Sequence[str] = _PERIODIC,
) -> pd.DataFrame:
    """Up to which divergence rate ``first`` beats the best of ``others``: a row for each link and
    dirty rate: surely_to (the largest rate at which and below which it is surely better), surely_from
    (the smallest at which and above which it surely is not); per second, NaN where there is none.

    The border lies between the two.  Paired intervals, 95 % for each of the rates.
    """
    rows = []
    chosen = table[table["policy"].isin([first, *others])]
    for (bandwidth, touches), here in chosen.groupby(CELL[:2]):
        surely_to, surely_from, is_below, seen_above = np.nan, np.nan, True, False
        for hazard, cell in here.groupby("hazard_per_s"):
            of = {name: _values(rows_of, metric) for name, rows_of in cell.groupby("policy")}
            best = min((of[name] for name in others), key=lambda values: values.mean())
            _, _, low, high = paired(of[first], best)
            is_below = is_below and high < 0
            if is_below:
                surely_to = float(str(hazard))
            if low > 0 and not seen_above:
                surely_from, seen_above = float(str(hazard)), True
            elif low <= 0:
                surely_from, seen_above = np.nan, False
        rows.append((bandwidth, touches, surely_to, surely_from))
    return pd.DataFrame(rows, columns=[*CELL[:2], "surely_to_per_s", "surely_from_per_s"])
