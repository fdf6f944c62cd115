"""VMware FT records what the primary does and replays it; colosim has no such thing.

Nothing is predicted.  A log's size and what recording costs follow from the guest's inputs and
interrupts, of which colosim has no model and the table no number.  Beside the published ratios
stands what is left when both are free: COLO whose guests never differ, where output waits for the
other guest's.  It is an upper bound, and how far it is from 1 is what the wait for output costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from colosim.analysis.stats import interval
from colosim.scenario import Scenario, load_scenario
from experiments.published.rows import Row, estimated
from experiments.published.simulation import Outcome, simulate
from experiments.published.study import Findings, Study
from experiments.published.table import one, told

if TYPE_CHECKING:
    from colosim.analysis.plots import Chart

JOB, SERVICE = "job", "service"
#: what of a published workload is simulated; all others are services
_SHAPES = {"kernel compile": JOB}
_RATIO_NOTE = (
    "Not predicted: colosim has no record and replay. Beside it, simulated: COLO whose guests "
    "never differ, an upper bound in which recording and replaying are free."
)
_LOG_NOTE = (
    "Not predicted: the log holds inputs and the times of interrupts, which colosim does not "
    "model. It is no state of a checkpoint and no comparison of output."
)


def scenarios(quick: bool) -> dict[tuple[str, str], Scenario]:
    """(shape, policy)."""
    base = load_scenario(Path(__file__).with_name("service.toml"))
    base = base.replace({"replications": 2, "duration": "6 s"} if quick else {})
    job = base.replace(
        {
            "workload": {"kind": "batch", "work": "2 s"},
            "warm_up": None,
            "replications": 2,
        }
    )
    return {
        (shape, policy): scenario.replace({"policy.name": policy})
        for shape, scenario in ((SERVICE, base), (JOB, job))
        for policy in ("none", "colo")
    }


def ratios(outcomes: Mapping[tuple[str, str], Outcome]) -> dict[str, Any]:
    """Shape -> throughput under COLO, of that without protection, with its interval."""
    per_s = [outcomes[SERVICE, policy].values["throughput_per_s"] for policy in ("colo", "none")]
    seconds = [outcomes[JOB, policy].values["completion_time_s"] for policy in ("none", "colo")]
    return {
        shape: estimated(interval(above / below))
        for shape, (above, below) in ((SERVICE, per_s), (JOB, seconds))
    }


def rows(published: pd.DataFrame, outcomes: Mapping[tuple[str, str], Outcome]) -> Iterator[Row]:
    """Every published number, none of them predicted."""
    bounds = ratios(outcomes)
    for workload in dict.fromkeys(published["workload"]):
        ratio, log = (
            one(published, workload=workload, metric=metric)
            for metric in ("throughput_relative", "replication_bandwidth")
        )
        yield Row(
            part="Record and replay",
            quantity="throughput, of unprotected",
            condition=workload,
            kind="unmodelled",
            unit="1",
            **told(ratio),
            **bounds[_SHAPES.get(workload, SERVICE)],
            note=_RATIO_NOTE,
        )
        yield Row(
            part="Record and replay",
            quantity="log",
            condition=workload,
            kind="unmodelled",
            unit="Mb/s",
            **told(log),
            note=_LOG_NOTE,
        )


def solve(published: pd.DataFrame, out: Path, quick: bool, jobs: int | None) -> Findings:
    """Simulate the bound and stand it beside what is published."""
    outcomes = simulate(scenarios(quick), jobs)
    return Findings(list(rows(published, outcomes)), _draw)


def _draw(rows: Sequence[Row]) -> Chart:
    from colosim.analysis.plots import COLOURS
    from experiments.published.figures import panels

    chart, (axes,) = panels(1, 1, 6.4, 3.8)
    ratio = {row.condition: row for row in rows if row.unit == "1"}
    log = {row.condition: row for row in rows if row.unit == "Mb/s"}
    for name, row in ratio.items():
        x = log[name].published
        axes.plot(x, row.published, "o", color="black", markerfacecolor="white")
        axes.annotate(name, (x, row.published), (6, -3), textcoords="offset points", fontsize=8)
        axes.plot(x, row.model, "s", color=COLOURS[0])
    axes.plot([], [], "o", color="black", markerfacecolor="white", label="published, not predicted")
    axes.plot([], [], "s", color=COLOURS[0], label="COLO whose guests never differ (bound)")
    axes.set(xlabel="Published log (Mb/s)", ylabel="Throughput, of unprotected", ylim=(0.9, 1.02))
    axes.set_title("The loss does not follow the log", loc="left", fontsize="medium")
    axes.legend(fontsize="small", frameon=False, loc="lower left")
    return chart


STUDY = Study("vmwareft2010", "Scales et al., VMware FT, OSR 2010", solve)
