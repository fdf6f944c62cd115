"""All parts together: from the published table to rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from colosim import Scenario
from experiments.published.remus2008 import failover, kernel_build, pauses, specweb
from experiments.published.remus2008.pauses import Lines
from experiments.published.rows import Row
from experiments.published.simulation import Outcome, simulate
from experiments.published.study import Findings, Study

if TYPE_CHECKING:
    from colosim.analysis.plots import Chart


class Effort(NamedTuple):
    """How much is simulated: part of the kernel build; runs and seconds of the web server."""

    share: float
    replications: int
    duration_s: int


FULL = Effort(share=0.05, replications=10, duration_s=30)
QUICK = Effort(share=0.01, replications=3, duration_s=10)


@dataclass(frozen=True)
class Experiment:
    """What was fitted, and the rows that came of it."""

    lines: Lines
    kernel: kernel_build.Study
    web: specweb.Study
    rows: Sequence[Row]


def run(
    published: pd.DataFrame, out: Path, effort: Effort = FULL, jobs: int | None = None
) -> Experiment:
    """Fit, simulate on ``jobs`` processes (None: all cores), and compare.

    ``published`` as from `table.load`.  ``out`` gets the pages that the web server's fit needs
    for its simulation; everything else is written by `write`.
    """
    lines = pauses.fit(published)
    kernel = kernel_build.Study.of(published, lines)
    web = specweb.Study.of(published, lines)
    scenarios: dict[tuple[str, Any], Scenario] = {
        (part, key): scenario
        for part, of_part in (
            (specweb.PART, web.scenarios(out / "specweb-pages.csv", *effort[1:])),
            (kernel_build.PART, kernel.scenarios(effort.share)),
            (failover.PART, failover.scenarios(lines)),
        )
        for key, scenario in of_part.items()
    }
    outcomes = simulate(scenarios, jobs)

    def of(part: str) -> dict[Any, Outcome]:
        return {key: outcome for (other, key), outcome in outcomes.items() if other == part}

    rows = [
        *pauses.rows(published, lines),
        *kernel.rows(of(kernel_build.PART), effort.share),
        *web.rows(of(specweb.PART)),
        *failover.rows(published, of(failover.PART)),
    ]
    return Experiment(lines, kernel, web, rows)


def solve(published: pd.DataFrame, out: Path, quick: bool, jobs: int | None) -> Findings:
    """`run`, and its figure."""
    result = run(published, out, QUICK if quick else FULL, jobs)

    def draw(rows: Sequence[Row]) -> Chart:
        from experiments.published.remus2008.figure import draw

        return draw(replace(result, rows=rows))

    return Findings(result.rows, draw)


STUDY = Study("remus2008", "Cully et al., Remus, NSDI 2008", solve)
