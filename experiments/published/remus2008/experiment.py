"""All parts together: from the published table to rows, and what is written of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from colosim import Scenario
from experiments.published.remus2008 import failover, kernel_build, pauses, specweb
from experiments.published.remus2008.pauses import Lines
from experiments.published.remus2008.rows import Row, frame
from experiments.published.remus2008.simulation import Outcome, simulate


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

    ``published`` as from `published.load`.  ``out`` gets the pages that the web server's fit needs
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


def write(experiment: Experiment, out: Path) -> list[Path]:
    """Write table and figure; their paths."""
    from experiments.published.remus2008.figure import draw

    table = out / "table.csv"
    frame(experiment.rows).to_csv(table, index=False)
    return [table, *draw(experiment).save(out / "figure.png")]
