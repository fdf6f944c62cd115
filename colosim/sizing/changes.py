"""What to change in the service: each reason for which the guests differ is taken out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from colosim.analysis.stats import paired
from colosim.sizing.basis import Basis
from colosim.sizing.candidates import NONE, Candidate
from colosim.sizing.causes import Cause
from colosim.sizing.trials import Trials, best_of
from colosim.sizing.unknowns import NOBODY

ALL = "all of these"
_CAUSES_MOST = 6
_METRIC = "latency_p99_ms"
#: keys of [divergence] -> (what the guests differ by, what to do)
_DIVERGENCE: Mapping[str, tuple[str, str]] = {
    "probability": ("answers that differ, each on its own", "times and identifiers in answers"),
    "connection_probability": ("first answers of connections", "session keys, TLS in the guest"),
    "unprompted_per_s": ("output that nobody asked for", "services that timers prompt"),
    "hazard_per_s": ("states that part by scheduling", "fewer worker threads or vCPUs"),
    "pair_hazard_per_s": ("states that part by two vCPUs", "fewer vCPUs"),
    "timed": ("answers that say what time it is", "a Date field; clocks that are apart"),
}
#: what a cause's number grows with -> the keys of [divergence] that do
_GROW: Mapping[str, tuple[str, ...]] = {
    "response": ("probability", "connection_probability"),
    "second": ("unprompted_per_s", "hazard_per_s"),
}
COLUMNS = (
    *("what", "events", "share", "advice", "example_primary", "example_secondary"),
    *("checkpoints_per_s", "p99_ms", "p99_gain_ms", "gain_low", "gain_high", "best"),
)


def changes(trials: Trials, tried: Mapping[str, Candidate], choice: str) -> pd.DataFrame:
    """A row for each reason (`COLUMNS`): what it is, what to do, and what is gained without it by
    the choice if that compares, else by the best that does; ``best``: who is best then.

    Its attrs: candidate, and before: its checkpoints a second as it is.
    """
    compared = [label for label, each in tried.items() if each.compares]
    removals = list(_removals(trials.basis, trials.scenario.divergence))
    if not compared or not removals or trials.is_job:
        return pd.DataFrame(columns=list(COLUMNS))
    one = choice if choice in compared else compared[0]
    labels = [label for label in tried if label != NONE]
    n = max(trials.effort.short, 3)
    without = [("", {}), *((str(i), values) for i, (_, values) in enumerate(removals))]
    tasks = [
        trials.task((name,), trials.at(values), each, n)
        for name, values in without
        for each in tried.values()
    ]
    table = trials.run(tasks, "what to change")
    before = table[table["key"] == ("", one)]
    rows = []
    for i, (about, _) in enumerate(removals):
        after = table[table["key"] == (str(i), one)]
        gain = paired(before[_METRIC].to_numpy(), after[_METRIC].to_numpy())
        best = best_of(trials.scores(table, (str(i),), labels)) or NOBODY
        means = float(after["checkpoints_per_s"].mean()), float(after[_METRIC].mean())
        rows.append((*about, *means, gain.mean, gain.low, gain.high, best))
    found = pd.DataFrame(rows, columns=list(COLUMNS))
    found.attrs["candidate"] = one
    found.attrs["before"] = float(before["checkpoints_per_s"].mean())
    return found


def _removals(basis: Basis, table: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, float]]]:
    """What it is, the first columns of its row, and the values of [divergence] without it.

    table: the scenario's [divergence].
    """
    causes = basis.causes[:_CAUSES_MOST]
    if causes:
        for each in causes:
            row = (each.name, each.events, each.share, each.kind.advice, *each.example)
            yield row, _without(basis.causes, [each], table)
        if len(causes) > 1:
            events = sum(each.events for each in causes)
            share = sum(each.share for each in causes)
            yield (ALL, events, share, "", "", ""), _without(basis.causes, causes, table)
        return
    there = [key for key in _DIVERGENCE if getattr(table, key)]
    for key in there:
        what, advice = _DIVERGENCE[key]
        yield (what, None, None, advice, "", ""), {f"divergence.{key}": 0.0}
    if len(there) > 1:
        yield (ALL, None, None, "", "", ""), {f"divergence.{key}": 0.0 for key in there}


def _without(causes: Sequence[Cause], removed: Sequence[Cause], table: Any) -> dict[str, float]:
    """Chances and rates of differences without some causes, by their part of the events.

    Each cause counts for what it grows with; where only one of both is known, for that.
    """
    values = {}
    for per, names in _GROW.items():
        own = [each for each in causes if each.kind.per == per]
        other = [each for each in causes if each.kind.per != per]
        counterpart = [name for key, rest in _GROW.items() if key != per for name in rest]
        if not own or not other or not any(getattr(table, name) for name in counterpart):
            own = list(causes)
        total = sum(each.events for each in own)
        gone = sum(each.events for each in removed if each in own)
        for name in names:
            if value := getattr(table, name):
                values[f"divergence.{name}"] = value * (1 - gone / max(total, 1))
    return values
