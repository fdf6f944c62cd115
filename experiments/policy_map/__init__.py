"""Which policy costs a service least, by how fast it dirties memory, how often its guests part, and
the link.

All policies meet the same requests (common random numbers), so they are compared by paired
differences (`colosim.analysis.winners`).  Not in a cell's contest are

* a policy that does not keep up: what is answered too late for the run is not counted, so it would
  look quicker than it is.  Where none keeps up the cell is nobody's.
* a policy that is as good as a simpler one: the paired difference is surely within `MARGIN` of it.
  Hybrid without a storm is COLO, to the nanosecond, and in a storm that lasts it is Remus.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from colosim import Scenario, load_scenario
from colosim.analysis.stats import paired
from colosim.analysis.winners import COLUMNS, winners
from experiments import output

#: those to whom it is all the same whether the guests differ, and those to whom it is not; each
#: from the simplest on
PERIODIC = ("remus", "microcheckpoint")
COMPARING = ("colo", "hybrid")
LINK, DIRTY, DIVERGENCE = CELL = (
    "link.bandwidth_bps",
    "memory.touches_per_s",
    "divergence.hazard_per_s",
)
METRICS = ("latency_mean_ms", "latency_p99_ms")
THROUGHPUT = "throughput_per_s"
SURE = 0.95
MARGIN = 0.02
#: a policy keeps up if it answers so much of what is answered without protection
KEEPS_UP = 0.98


class Grid(NamedTuple):
    """The cells: all combinations."""

    touches_per_s: Sequence[float]
    hazards_per_s: Sequence[float]
    bandwidths: Sequence[str]

    @property
    def axes(self) -> dict[str, list[str]]:
        """Link and dirty rate, as axes of a sweep."""
        return {
            "link.bandwidth": list(self.bandwidths),
            "memory.touches": [f"{each:g} /s" for each in self.touches_per_s],
        }


QUICK = Grid(
    (100, 300, 1_000, 3_000, 10_000, 30_000),
    (0.1, 1, 3, 10, 30, 100, 300),
    ("100 Mbit/s", "1 Gbit/s", "10 Gbit/s"),
)
FULL = Grid(
    tuple(float(f"{each:.2g}") for each in np.geomspace(100, 100_000, 13)),
    tuple(float(f"{each:.2g}") for each in np.geomspace(0.1, 1_000, 17)),
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
    """policy, the columns of `CELL`, replication, metric, unit, value; of `METRICS` and throughput.

    Where something does not concern a policy its column is null.  ``out`` keeps what has been run;
    a run that was stopped goes on there.  Raises `output.Unusable`, one line.
    """
    hazards = [f"{each:g} /s" for each in grid.hazards_per_s]
    parts: dict[str, tuple[Sequence[str], dict[str, list[str]]]] = {
        "none": (("none",), {}),
        "periodic": (PERIODIC, grid.axes),
        "comparing": (COMPARING, {**grid.axes, "divergence.hazard": hazards}),
    }
    tables = []
    for name, (policies, axes) in parts.items():
        table = output.swept(
            base(), policies, axes, out / name, replications=replications, seed=seed, jobs=jobs
        )
        table = table[table["metric"].isin([*METRICS, THROUGHPUT])].astype({"policy": object})
        wanted = ["policy", *CELL, "replication", "metric", "unit", "value"]
        tables.append(table.reindex(columns=wanted).astype(dict.fromkeys(CELL, float)))
    return pd.concat(tables, ignore_index=True)


def contest(table: pd.DataFrame, metric: str = METRICS[0]) -> pd.DataFrame:
    """The rows of those who compete in each cell for the lowest mean of a metric."""
    is_bare = (table["policy"] == "none") & (table["metric"] == THROUGHPUT)
    enough = KEEPS_UP * table.loc[is_bare, "value"].mean()
    everywhere = _everywhere(table[table["policy"] != "none"])
    answered = everywhere[everywhere["metric"] == THROUGHPUT]
    keeps_up = answered.groupby([*CELL, "policy"])["value"].mean() >= enough
    rows = everywhere[everywhere["metric"] == metric].set_index([*CELL, "policy"])
    rows = rows[keeps_up.reindex(rows.index).to_numpy()]
    out: set[tuple[Any, ...]] = set()
    for cell, here in rows.groupby(level=[*CELL]):
        by_policy = here.reset_index("policy").groupby("policy")
        of = {str(policy): _in_order(rows_of) for policy, rows_of in by_policy}
        able = {name: of[name] for name in (*PERIODIC, *COMPARING) if name in of}
        missing = {name for name, values in able.items() if np.isnan(values).any()}
        out |= {(*cell, name) for name in {*missing, *_as_good(able)}}
    return rows[~rows.index.isin(out)].reset_index()


def _everywhere(table: pd.DataFrame) -> pd.DataFrame:
    """With the rows of policies that divergence does not concern at each divergence rate."""
    rates = pd.DataFrame({DIVERGENCE: table[DIVERGENCE].dropna().unique()})
    is_for_all = table[DIVERGENCE].isna()
    spread = table[is_for_all].drop(columns=DIVERGENCE).merge(rates, "cross")
    return pd.concat([table[~is_for_all], spread], ignore_index=True)


def _as_good(of: Mapping[str, NDArray[np.float64]]) -> Iterator[str]:
    """Policies that a simpler one is surely about as good as."""
    names = list(of)
    for place, name in enumerate(names):
        for simpler in names[:place]:
            _, _, low, high = paired(of[name], of[simpler])
            if max(abs(low), abs(high)) <= MARGIN * of[simpler].mean():
                yield name


def _in_order(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Values of one policy, cell and metric, by replication."""
    return rows.sort_values("replication")["value"].to_numpy(dtype=float)


def cells(table: pd.DataFrame, metric: str = METRICS[0]) -> pd.DataFrame:
    """A row for each cell, also of those that are nobody's: `CELL`, and what `winners` says."""
    chosen = contest(table, metric)
    grid = pd.MultiIndex.from_product([table[name].dropna().unique() for name in CELL], names=CELL)
    won = pd.DataFrame(columns=[*CELL, *COLUMNS])
    if len(chosen):
        won = winners(chosen, CELL, metric)
    return won.set_index([*CELL]).reindex(grid).sort_index().reset_index()


def border(table: pd.DataFrame, metric: str = METRICS[0], first: str = "colo") -> pd.DataFrame:
    """Where ``first`` stops to be better than the best periodic policy: a row for each link and
    dirty rate with ``sure_to_per_s``, the divergence rate up to which it surely is, and
    ``sure_from_per_s``, that from which it surely is not, NaN where there is none.  The border lies
    between them.

    Paired 95 % intervals at each rate.  Who does not keep up loses.
    """
    chosen = contest(table[table["policy"].isin(["none", first, *PERIODIC])], metric)
    rows = []
    for bandwidth, touches in _lines(table):
        here = chosen[(chosen[LINK] == bandwidth) & (chosen[DIRTY] == touches)]
        verdicts = []  # 1: better, -1: worse, 0: not decided
        for hazard in sorted(table[DIVERGENCE].dropna().unique()):
            of = here[here[DIVERGENCE] == hazard].groupby("policy")
            values = {str(name): _in_order(rows_of) for name, rows_of in of}
            own = values.pop(first, None)
            other = min(values.values(), key=np.mean, default=None)
            if own is None or other is None:
                verdicts.append((hazard, (own is not None) - (other is not None)))
            else:
                _, _, low, high = paired(own, other)
                verdicts.append((hazard, int(high < 0) - int(low > 0)))
        better = [hazard for hazard, _ in _while(verdicts, 1)]
        worse = [hazard for hazard, _ in _while(verdicts[::-1], -1)]
        if here.size:
            ends = better[-1] if better else np.nan, worse[-1] if worse else np.nan
            rows.append((bandwidth, touches, *ends))
    return pd.DataFrame(rows, columns=[LINK, DIRTY, "sure_to_per_s", "sure_from_per_s"])


def _lines(table: pd.DataFrame) -> Iterator[tuple[float, float]]:
    for bandwidth, touches in sorted(set(table[[LINK, DIRTY]].dropna().itertuples(index=False))):
        yield float(bandwidth), float(touches)


def _while(verdicts: Sequence[tuple[float, int]], wanted: int) -> Iterator[tuple[float, int]]:
    for each in verdicts:
        if each[1] != wanted:
            return
        yield each
