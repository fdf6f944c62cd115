"""Does a service keep up with what it is asked, or does a queue grow as long as the run lasts?

Where it grows, every latency is one of the run's length, and says nothing of the service.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from colosim.model.results import RunRecord

#: a queue grows if more is unanswered at the end than the longest wait of the first half explains.
#: With a load that is too high from the start on it is 2 times as much, else about 1.
_GROWTH = 1.5
#: and if so much of what came in the second half was not answered in it
_MISSED = 0.05
#: fewer that wait say little: the spread of such a count is 18 %
_FEWEST = 30


class Load(NamedTuple):
    """Of the second half of a run: what was asked, and answered, per second; does a queue grow?"""

    asked_per_s: float
    answered_per_s: float
    grows: bool


def load_of(record: RunRecord) -> Load:
    """What requests say of a run; a load that waits for its answers never grows."""
    asked, answered = record.responses["arrival_ns"], record.responses["released_ns"]
    end_ns, half_ns = record.duration_ns, record.duration_ns / 2
    came = np.count_nonzero((asked >= half_ns) & (asked < end_ns))
    left = np.count_nonzero((answered >= half_ns) & (answered <= end_ns))
    early = (answered >= 0) & (answered < half_ns)
    # nothing was answered in the first half: an interval as long as the run, or no service
    longest_ns = (answered - asked)[early].max(initial=0) or end_ns
    waiting = np.count_nonzero((asked < end_ns) & ((answered < 0) | (answered > end_ns)))
    explained = came / half_ns * longest_ns
    grows = waiting > max(_GROWTH * explained, _FEWEST) and left < (1 - _MISSED) * came
    return Load(came / (half_ns / 1e9), left / (half_ns / 1e9), bool(grows))


def overloads(records: Iterable[RunRecord]) -> Iterator[str]:
    """A line for each policy under which a queue grew in most replications.

    Not of those in which something failed: what came while nobody served waits, too.
    """
    of: dict[str, list[Load]] = {}
    for record in records:
        if not record.events:
            of.setdefault(record.policy, []).append(load_of(record))
    for policy, loads in of.items():
        if sum(load.grows for load in loads) > len(loads) / 2:
            asked, answered, _ = np.mean(loads, axis=0)
            yield (
                f"{policy}: the service does not keep up: in the second half {asked:,.4g} "
                f"requests/s came and {answered:,.4g} were answered; "
                "latencies grow with the length of the run"
            )
