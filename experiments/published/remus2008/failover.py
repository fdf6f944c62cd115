"""How long clients see nothing when the primary's host is lost, at 40 checkpoints a second."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from colosim.scenario import Scenario, load_scenario
from experiments.published import silence
from experiments.published.remus2008.pauses import Lines
from experiments.published.rows import Row
from experiments.published.silence import Key
from experiments.published.simulation import Outcome
from experiments.published.table import one

PART = "Failover"


def scenarios(lines: Lines) -> dict[Key, Scenario]:
    """One crash at each moment with each time limit."""
    base = load_scenario(Path(__file__).with_name("failover.toml"))
    return silence.scenarios(base.replace(lines.changes()))


def rows(published: pd.DataFrame, outcomes: Mapping[Key, Outcome]) -> Iterator[Row]:
    """The gap, over the moments of the crash."""
    point = one(published, metric="failover_time")
    yield silence.row(point, outcomes, 1, part=PART, condition="epochs of 25 ms", unit="s")
