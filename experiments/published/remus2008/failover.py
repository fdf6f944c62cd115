"""How long clients see nothing when the primary's host is lost, at 40 checkpoints a second."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

import pandas as pd

from colosim.analysis.stats import interval
from colosim.scenario import Scenario, load_scenario
from experiments.published.remus2008.pauses import Lines
from experiments.published.remus2008.rows import Row, estimated
from experiments.published.remus2008.simulation import Outcome

PART = "Failover"
TIMEOUTS_MS = (500, 200, 1000)  # silence after which the primary is suspected; the first is ours
_CRASHES_MS = (1000, 1021, 1042, 1063, 1084)  # spread over one heartbeat, at any phase of an epoch

#: (heartbeat time limit in ms, moment of the crash in ms)
Key = tuple[int, int]

_NOTE = (
    "Simulated: longest time without any response; ± over moments of the crash. A heartbeat time "
    f"limit of 500 ms is assumed, range: {min(TIMEOUTS_MS)} to {max(TIMEOUTS_MS)} ms. How soon "
    "Remus notices the loss is not among the numbers, and nearly all of the gap is that limit, so "
    "this row tests little. Not included: activating devices and disks of the backup, telling the "
    "network where the guest is now, back-off of clients' TCP."
)


def scenarios(lines: Lines) -> dict[Key, Scenario]:
    """One crash at each moment with each time limit."""
    base = load_scenario(Path(__file__).with_name("failover.toml")).replace(lines.changes())
    return {
        (timeout_ms, crash_ms): base.replace(
            {
                "manager.heartbeat_timeout": f"{timeout_ms} ms",
                "fault.0.at": f"{crash_ms} ms",
                "replications": 1,
            }
        )
        for timeout_ms, crash_ms in product(TIMEOUTS_MS, _CRASHES_MS)
    }


def rows(published: pd.DataFrame, outcomes: Mapping[Key, Outcome]) -> Iterator[Row]:
    """The gap, over the moments of the crash."""
    [published_s] = published.loc[published["metric"] == "failover_time", "value"]
    gaps_s = [
        interval([outcomes[limit, crash].of("longest_gap_ms").mean / 1e3 for crash in _CRASHES_MS])
        for limit in TIMEOUTS_MS
    ]
    yield Row(
        part=PART,
        quantity="failover time",
        condition="epochs of 25 ms",
        kind="predicted",
        unit="s",
        published=published_s,
        published_low=published_s,
        published_high=published_s,
        **estimated(gaps_s[0], (gap.mean for gap in gaps_s)),
        note=_NOTE,
    )
