"""What pauses and pages explain of the overhead of micro-checkpointing.

The interval is not stated, so it is assumed: 100 ms, the default of micro-checkpointing's patches;
25 and 50 ms are the range.  Pauses alone explain a small part of any of the three overheads.  What
is missing is charged to the first write of each page after a checkpoint: fitted to one program
(Swaptions), predicted for the other two.  Pauses are inputs there; besides, each pause is
predicted by the line over pages through the other two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from colosim.analysis.stats import interval
from colosim.scenario import Scenario, load_scenario
from experiments.published.rows import Row, estimated
from experiments.published.simulation import Outcome, simulate
from experiments.published.study import Findings, Study
from experiments.published.table import one, told

if TYPE_CHECKING:
    from colosim.analysis.plots import Chart

FITTED = "Swaptions"
NOMINAL_MS = 100
INTERVALS_MS = (NOMINAL_MS, 25, 50)
_ALONE, _WITH = "pauses alone", "pauses and first writes"
_EARLY = 0.05  # of an interval: by then all pages of the epoch are written
_ASSUMED = (
    f"The interval is assumed: {NOMINAL_MS} ms; range: {min(INTERVALS_MS)} to {NOMINAL_MS} ms."
)
_ALONE_NOTE = f"Simulated with the published pause; nothing is fitted. {_ASSUMED}"
_WITH_NOTE = (
    "Simulated with the published pause and pages; the cost of a page's first write after a "
    f"checkpoint is fitted to {FITTED} alone, for each interval. {_ASSUMED}"
)
_SERVER_NOTE = " A server's overhead is a loss of throughput; it is taken for that of a busy CPU."
_PAUSE_NOTE = (
    "Not simulated: the line over dirty pages through the other two programs (two values, two "
    "parameters); its own value is not used."
)


class Program(NamedTuple):
    """What is published of one, as rows of the table."""

    overhead: pd.Series[Any]
    pause: pd.Series[Any]
    pages: pd.Series[Any]

    @property
    def pause_ms(self) -> float:
        return float(self.pause["value"])

    @property
    def share(self) -> float:
        """Part of the time under protection that is lost."""
        overhead = float(self.overhead["value"]) / 100
        return overhead / (1 + overhead)

    @property
    def page_count(self) -> int:
        return int(self.pages["value"])


#: (program, what is charged, interval in ms)
Key = tuple[str, str, int]


def programs(published: pd.DataFrame) -> dict[str, Program]:
    """By name."""
    return {
        name: Program(
            *(
                one(published, workload=name, metric=metric)
                for metric in ("overhead", "pause", "dirty_pages")
            )
        )
        for name in dict.fromkeys(published["workload"])
    }


def first_write_ms(program: Program, interval_ms: float) -> float:
    """What a first write must cost for the published overhead: I = work + pause + f pages."""
    return (interval_ms * program.share - program.pause_ms) / program.page_count


def overhead(program: Program, interval_ms: float, write_ms: float) -> float:
    """Percent, in closed form."""
    lost_ms = program.pause_ms + write_ms * program.page_count
    return 100 * lost_ms / (interval_ms - lost_ms)


def scenarios(found: Mapping[str, Program], quick: bool) -> dict[Key, Scenario]:
    """Every program with and without the missing term at every interval."""
    base = load_scenario(Path(__file__).with_name("job.toml"))
    base = base.replace({"workload.work": "2 s" if quick else "10 s"})
    return {
        (name, what, ms): base.replace(
            {
                "policy.microcheckpoint.interval": f"{ms} ms",
                "cost.copy_fixed": f"{program.pause_ms:.6f} ms",
                "cost.first_write": f"{_write_ms(found, what, ms):.6f} ms",
                "memory.working_set_pages": program.page_count,
                "memory.touches": f"{program.page_count / (_EARLY * ms / 1e3):.3f} /s",
            }
        )
        for (name, program), what, ms in product(found.items(), (_ALONE, _WITH), INTERVALS_MS)
    }


def _write_ms(found: Mapping[str, Program], what: str, interval_ms: int) -> float:
    return first_write_ms(found[FITTED], interval_ms) if what == _WITH else 0.0


def pause_by_others(found: Mapping[str, Program], name: str) -> float:
    """The pause of one program by the line through the others."""
    others = [program for other, program in found.items() if other != name]
    slope, fixed = np.polyfit([p.page_count for p in others], [p.pause_ms for p in others], 1)
    return float(fixed + slope * found[name].page_count)


def rows(
    found: Mapping[str, Program], outcomes: Mapping[Key, Outcome], quick: bool
) -> Iterator[Row]:
    """Pages, pause and overheads of every program."""
    work_s = 2.0 if quick else 10.0
    writes_us = [1e3 * first_write_ms(found[FITTED], ms) for ms in INTERVALS_MS]
    for name, program in found.items():
        yield Row(
            part=name,
            quantity="dirty pages",
            condition="",
            x=program.page_count,
            kind="measured",
            unit="pages",
            **told(program.pages),
        )
        yield Row(
            part=name,
            quantity="pause",
            condition="",
            x=program.page_count,
            kind="predicted",
            unit="ms",
            **told(program.pause),
            model=pause_by_others(found, name),
            note=_PAUSE_NOTE,
        )
        if name == FITTED:
            yield Row(
                part=name,
                quantity="cost of a first write",
                condition=f"{NOMINAL_MS} ms",
                kind="fitted",
                unit="us",
                model=writes_us[0],
                low=min(writes_us),
                high=max(writes_us),
                n=1,
                parameters=1,
                note=_WITH_NOTE,
            )
        for what, note in ((_ALONE, _ALONE_NOTE), (_WITH, _WITH_NOTE)):
            simulated = [
                interval(100 * (outcomes[name, what, ms].values["last_served_s"] / work_s - 1))
                for ms in INTERVALS_MS
            ]
            kind: dict[str, Any] = {"kind": "predicted"}
            if what == _WITH and name == FITTED:
                kind = {"kind": "fitted", "n": 1, "parameters": 1}
            yield Row(
                part=name,
                quantity=f"overhead, {what}",
                condition="",
                x=list(found).index(name),
                unit="%",
                **kind,
                **told(program.overhead),
                **estimated(simulated[0], (each.mean for each in simulated)),
                closed_form=overhead(program, NOMINAL_MS, _write_ms(found, what, NOMINAL_MS)),
                note=note + (_SERVER_NOTE if name == "SSDB" else ""),
            )


def solve(published: pd.DataFrame, out: Path, quick: bool, jobs: int | None) -> Findings:
    """Fit, simulate, compare."""
    found = programs(published)
    outcomes = simulate(scenarios(found, quick), jobs)
    return Findings(list(rows(found, outcomes, quick)), _draw)


def _draw(rows: Sequence[Row]) -> Chart:
    from colosim.analysis.plots import COLOURS
    from experiments.published.figures import beside, panels

    chart, (pauses, *both) = panels(1, 3, 10.8, 3.4)
    chosen = [row for row in rows if row.quantity == "pause"]
    beside(pauses, chosen, [f"{row.part}\n{row.x:.0f} pages" for row in chosen], COLOURS[0])
    pauses.set(ylabel="Pause (ms)")
    pauses.set_title("Pause, by the other two", loc="left", fontsize="medium")
    for axes, what in zip(both, (_ALONE, _WITH), strict=True):
        chosen = [row for row in rows if row.quantity == f"overhead, {what}"]
        beside(axes, chosen, [row.part for row in chosen], COLOURS[1])
        axes.set(ylabel="Overhead (%)")
        axes.set_title(f"Overhead, {what}", loc="left", fontsize="medium")
    for axes in (pauses, *both):
        axes.legend(fontsize="small", frameon=False)
    return chart


STUDY = Study("nilicon2020", "Zhou and Tamir, NiLiCon, IPDPS 2020", solve)
