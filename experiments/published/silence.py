"""How long clients see nothing when the primary's host is lost."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import pandas as pd

from colosim.analysis.stats import Interval, interval
from colosim.scenario import Scenario
from experiments.published.rows import Row, estimated
from experiments.published.simulation import Outcome
from experiments.published.table import told

TIMEOUTS_MS = (500, 200, 1000)  # silence after which the primary is suspected; the first is ours
_CRASHES_MS = (1000, 1021, 1042, 1063, 1084)  # spread over one heartbeat, at any phase of an epoch

#: (heartbeat time limit in ms, moment of the crash in ms)
Key = tuple[int, int]

NOTE = (
    "Simulated: longest time without any response; ± over moments of the crash. A heartbeat time "
    f"limit of 500 ms is assumed, range: {min(TIMEOUTS_MS)} to {max(TIMEOUTS_MS)} ms. How soon the "
    "loss is noticed is not among the numbers, and nearly all of the gap is that limit, so this "
    "row tests little. Not included: activating devices and disks of the backup, telling the "
    "network where the guest is now, back-off of clients' TCP."
)


def scenarios(base: Scenario) -> dict[Key, Scenario]:
    """One crash at each moment with each time limit; ``base`` has a crash as its first fault."""
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


def row(point: pd.Series[Any], outcomes: Mapping[Key, Outcome], per_s: float, **fields: Any) -> Row:
    """The gap, over the moments of the crash; ``per_s``: the row's unit in a second (ms: 1000)."""

    def gap(limit: int) -> Interval:
        gaps_ms = [outcomes[limit, crash].of("longest_gap_ms").mean for crash in _CRASHES_MS]
        return interval([gap_ms / 1e3 * per_s for gap_ms in gaps_ms])

    gaps = [gap(limit) for limit in TIMEOUTS_MS]
    return Row(
        quantity="failover time",
        kind="predicted",
        **told(point),
        **estimated(gaps[0], (each.mean for each in gaps)),
        note=NOTE,
        **fields,
    )
