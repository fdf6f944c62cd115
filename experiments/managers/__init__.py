"""Managers: how soon a failure is noticed against how often none is, and split brain by design.

Three parts, all simulated by the core that runs live:

* `detection`: one blip of the link (exponential length) or one crash of the primary in each run,
  by heartbeat interval, time-out and grace.  All settings meet the same blips at the same moments.
* `losses`: heartbeats are lost one by one, at random; how long until a healthy peer is suspected.
* `arbiters`: each way to arbitrate, fenced and not, against each fault: do two sides speak, and how
  long do clients wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from backends.sim import run_replication
from colosim import Scenario, load_scenario, parallel
from colosim.model.results import RunRecord
from colosim.model.streams import Streams
from colosim.protocol import types as t
from colosim.protocol.trace import Line
from colosim.units import TIME

INTERVALS_MS = (50, 100, 200)
#: in intervals; between two heartbeats, so that it does not matter which of two things is first
TIMEOUTS = (1.5, 2.5, 4.5, 8.5)
GRACES_MS = (0, 300)
BLIP_MS = 200.0
#: lengths of blips: exponential, or Pareto with this index and the same mean (infinite variance)
TAILS = ("exponential", "pareto")
PARETO_INDEX = 2.0
BLIPS_PER_H = 6.0
LOSSES = (0.1, 0.3)
LOSS_TIMEOUTS = (2.5, 3.5, 4.5, 6.5)
_STRUCK_MS = 1_000  # when a fault strikes, at the earliest
_MS = 1_000_000


class Setting(NamedTuple):
    """Of detection; times in ms."""

    interval_ms: int
    timeout_ms: float
    grace_ms: int = 0

    @property
    def silence_ms(self) -> float:
        """What a peer may be silent."""
        return self.timeout_ms + self.grace_ms

    @property
    def changes(self) -> dict[str, Any]:
        """What it makes of the scenario."""
        return {
            "manager.heartbeat_interval": f"{self.interval_ms} ms",
            "manager.heartbeat_timeout": f"{self.timeout_ms:g} ms",
            "manager.heartbeat_grace": f"{self.grace_ms} ms",
        }


def settings(
    intervals_ms: Sequence[int] = INTERVALS_MS,
    timeouts: Sequence[float] = TIMEOUTS,
    graces_ms: Sequence[int] = GRACES_MS,
) -> list[Setting]:
    """All combinations."""
    return [
        Setting(interval, interval * timeout, grace)
        for interval in intervals_ms
        for timeout in timeouts
        for grace in graces_ms
    ]


def base(policy: str, changes: Mapping[str, Any]) -> Scenario:
    """The scenario, changed."""
    path = Path(__file__).parent / "managers.toml"
    return load_scenario(path).replace({"policy.name": policy, **changes})


# --------------------------------------------------------------------------------------------
# Detection


def detection(
    runs: int = 200,
    chosen: Sequence[Setting] | None = None,
    seed: int = 1,
    jobs: int | None = None,
    tail: str = TAILS[0],
) -> pd.DataFrame:
    """A row for each setting and run: interval_ms, timeout_ms, grace_ms, run, blip_ms (its length),
    is_false (the blip brought about a takeover), detection_ms (of a crash at the same moment).

    tail: one of `TAILS`.
    """
    pieces = [(each, run, runs, seed, tail) for each in chosen or settings() for run in range(runs)]
    found = parallel.run(_detect, pieces, jobs, what="detection")
    rows = sorted(found)
    columns = [*Setting._fields, "run", "blip_ms", "is_false", "detection_ms"]
    return pd.DataFrame([(*setting, *rest) for setting, *rest in rows], columns=columns)


def _detect(
    setting: Setting, run: int, runs: int, seed: int, tail: str
) -> tuple[Setting, int, float, bool, float]:
    streams = Streams(seed, run)
    # the same moments and lengths whatever the setting; of the lengths one from each of `runs`
    # equally likely parts, so that few runs have the tail that they should have
    at_ns = round((_STRUCK_MS + 200 * streams.uniform("strike").at(0)) * _MS)
    quantile = (run + streams.uniform("length").at(0)) / runs
    blip_ns = max(1, round(_length_ms(quantile, tail) * _MS))
    patience_ns = round(setting.silence_ms * _MS) + 500 * _MS
    blip = {"target": "link", "kind": "cut", "duration": TIME.format(blip_ns)}
    record, _ = _struck(setting, blip, at_ns, blip_ns + patience_ns, seed, run)
    is_false = any(event["what"] == "promoted" for event in record.events)
    crash = {"target": "primary", "scope": "host", "kind": "crash"}
    _, asked_ns = _struck(setting, crash, at_ns, patience_ns, seed, run)
    return setting, run, blip_ns / _MS, is_false, (asked_ns[0] - at_ns) / _MS


def _struck(
    setting: Setting, fault: dict[str, Any], at_ns: int, then_ns: int, seed: int, run: int
) -> tuple[RunRecord, list[int]]:
    """A run with one fault; its record, and when votes were asked for."""
    changes = {
        **setting.changes,
        "duration": TIME.format(at_ns + then_ns),
        "fault": [{**fault, "at": TIME.format(at_ns)}],
    }
    asked: list[int] = []
    scenario = base("remus", changes)
    return run_replication(scenario, "remus", seed, run, [_when_asked(asked)]), asked


def _length_ms(quantile: float, tail: str) -> float:
    if tail == "pareto":
        return float(_SHORTEST_MS * (1 - quantile) ** (-1 / PARETO_INDEX))
    return -math.log1p(-quantile) * BLIP_MS


_SHORTEST_MS = BLIP_MS * (PARETO_INDEX - 1) / PARETO_INDEX


def _longer(than_ms: float, tail: str) -> float:
    """The chance that a blip is longer."""
    if tail == "pareto":
        return min(1.0, (_SHORTEST_MS / than_ms) ** PARETO_INDEX) if than_ms > 0 else 1.0
    return math.exp(-than_ms / BLIP_MS)


def curve(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each setting: silence_ms, detection (mean, low, high, ms), false failovers an hour
    (mean, low, high) at `BLIPS_PER_H`, runs.  The intervals are those of independent runs; lengths
    are stratified, so they are wider than they need be.
    """
    from colosim.analysis.stats import interval

    rows = []
    for setting, here in by_setting(table):
        n, mean, low, high = interval(here["detection_ms"])
        count = int(here["is_false"].sum())
        bounds = wilson(count, n)
        share = count / n
        rows.append(
            (
                *setting,
                setting.silence_ms,
                *(mean, low, high),
                *(BLIPS_PER_H * each for each in (share, *bounds)),
                n,
            )
        )
    names = ("detection_ms", "detection_low", "detection_high")
    false = ("false_per_h", "false_low", "false_high")
    return pd.DataFrame(rows, columns=[*Setting._fields, "silence_ms", *names, *false, "runs"])


def by_setting(table: pd.DataFrame) -> Iterator[tuple[Setting, pd.DataFrame]]:
    """The rows of each setting."""
    for key, here in table.groupby(list(Setting._fields)):
        interval_ms, timeout_ms, grace_ms = (float(str(each)) for each in key)
        yield Setting(int(interval_ms), timeout_ms, int(grace_ms)), here


def wilson(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share."""
    from scipy.stats import binomtest

    found = binomtest(count, n).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def foreseen_per_h(
    silence_ms: float, interval_ms: float, tail: str = TAILS[0]
) -> tuple[float, float]:
    """False failovers an hour, by hand: a blip longer than what is left of the silence allowed.

    At the moment of the blip up to an interval of it has passed.  Low: none of it; high: all.
    """
    return (
        BLIPS_PER_H * _longer(silence_ms, tail),
        BLIPS_PER_H * _longer(max(silence_ms - interval_ms, 0), tail),
    )


# --------------------------------------------------------------------------------------------
# Heartbeats that are lost one by one


def losses(
    runs: int = 24,
    duration_s: int = 600,
    chances: Sequence[float] = LOSSES,
    timeouts: Sequence[float] = LOSS_TIMEOUTS,
    seed: int = 1,
    jobs: int | None = None,
) -> pd.DataFrame:
    """A row for each chance of loss and time-out (in intervals of 100 ms): false_per_h with its
    interval (low, high), failovers seen, hours watched, and foreseen_per_h.
    """
    pieces = [
        (chance, timeout, duration_s, seed, run)
        for chance in chances
        for timeout in timeouts
        for run in range(runs)
    ]
    found = pd.DataFrame(
        list(parallel.run(_lose, pieces, jobs, what="losses")),
        columns=["loss", "timeouts", "run", "is_false", "hours"],
    )
    rows = []
    for key, here in found.groupby(["loss", "timeouts"]):
        loss, timeout = (float(str(each)) for each in key)
        count, hours = int(here["is_false"].sum()), float(here["hours"].sum())
        low, high = (each / hours for each in _poisson(count))
        rows.append(
            (loss, timeout, count / hours, low, high, count, hours, lost_in_row(loss, timeout))
        )
    columns = ["loss", "timeouts", "false_per_h", "low", "high", "failovers", "hours"]
    return pd.DataFrame(rows, columns=[*columns, "foreseen_per_h"])


def _lose(
    chance: float, timeout: float, duration_s: int, seed: int, run: int
) -> tuple[float, float, int, bool, float]:
    """One run, watched until somebody is suspected."""
    changes = {
        **Setting(100, 100 * timeout).changes,
        "link.heartbeat_loss": chance,
        "duration": f"{duration_s} s",
        "workload.clients": 1,
        "workload.think_time": "5 s",
    }
    asked: list[int] = []
    record = run_replication(base("remus", changes), "remus", seed, run, [_when_asked(asked)])
    watched_ns = asked[0] if asked else record.duration_ns
    return chance, timeout, run, bool(asked), watched_ns / 3.6e12


def _when_asked(asked: list[int]) -> Callable[[Line], None]:
    def watch(line: Line) -> None:
        if isinstance(line.body, t.AskVote):
            asked.append(line.now_ns)

    return watch


def _poisson(count: int) -> tuple[float, float]:
    """The exact interval of a Poisson count (Garwood, Biometrika 28, 1936)."""
    from scipy.stats import chi2

    low = float(chi2.ppf(0.025, 2 * count) / 2) if count else 0.0
    return low, float(chi2.ppf(0.975, 2 * count + 2) / 2)


def lost_in_row(loss: float, timeouts: float) -> float:
    """False failovers an hour, by hand: so many heartbeats in a row are lost, on either side; if
    that is rare.

    The mean wait for k losses in a row is (p^-k - 1) / (1 - p) heartbeats (Feller I, XIII.7).
    """
    k = math.floor(timeouts)
    beats = (loss**-k - 1) / (1 - loss)
    return 2 * 36_000 / beats


# --------------------------------------------------------------------------------------------
# Arbiters


class Design(NamedTuple):
    """Who says which side goes on, and whether the other is fenced."""

    name: str
    changes: Mapping[str, Any]


_LEASE = {"manager.arbiter": "lease", "manager.fencing": False}
DESIGNS = (
    Design("witness, fence", {}),
    Design("witness, no fence", {"manager.fencing": False}),
    Design("messages, fence", {"manager.arbiter": "messages"}),
    Design("messages, no fence", {"manager.arbiter": "messages", "manager.fencing": False}),
    Design("lease, no fence", _LEASE),
    Design("lease, clock too slow", {**_LEASE, "clocks.primary_rate": 0.3}),
    Design("nobody, fence", {"manager.arbiter": "none"}),
    Design("nobody, no fence", {"manager.arbiter": "none", "manager.fencing": False}),
)
_CRASH = {"target": "primary", "scope": "host", "kind": "crash"}
_CUT = {"target": "link", "kind": "cut"}
_AWAY = {"target": "arbiter", "kind": "cut"}
FAULTS: Mapping[str, tuple[dict[str, Any], ...]] = {
    "primary crashes": (_CRASH,),
    "link cut": (_CUT,),
    "link cut for 2.5 s": ({**_CUT, "duration": "2500 ms"},),
    "primary cut off for 2.5 s": (
        {**_CUT, "duration": "2500 ms"},
        {**_AWAY, "side": "primary"},
    ),
    "primary hangs for 2.5 s": (
        {"target": "primary", "scope": "node", "kind": "hang", "duration": "2500 ms"},
    ),
    "arbiter cut": (_AWAY,),
    "arbiter cut, primary crashes": (_AWAY, _CRASH),
}
#: faults of fencing: with a crash of the primary, for designs that fence
FENCES: Mapping[str, Mapping[str, Any]] = {
    "crash, fence fails half the time": {"manager.fence_failure": 0.5},
    "the same, tried again": {
        "manager.fence_failure": 0.5,
        "manager.fence_retries": 5,
        "manager.fence_backoff": "100 ms",
    },
}


def arbiters(
    runs: int = 40, policy: str = "colo", seed: int = 1, jobs: int | None = None
) -> pd.DataFrame:
    """A row for each design, fault and run: is_split (a second side let output out or was
    promoted), is_down (no answer at the end), outage_ms (the longest time without an answer).
    """
    pieces = [
        (policy, design, fault, run, seed)
        for design in DESIGNS
        for fault in (*FAULTS, *FENCES)
        if _is_possible(design, fault)
        for run in range(runs)
    ]
    found = list(parallel.run(_arbitrate, pieces, jobs, what="arbiters"))
    order = {design.name: n for n, design in enumerate(DESIGNS)}
    faults = {name: n for n, name in enumerate((*FAULTS, *FENCES))}
    found.sort(key=lambda row: (order[row[0]], faults[row[1]], row[2]))
    columns = ["design", "fault", "run", "is_split", "is_down", "outage_ms"]
    return pd.DataFrame(found, columns=columns)


def _is_possible(design: Design, fault: str) -> bool:
    if fault in FENCES:
        return "manager.fencing" not in design.changes
    needs_arbiter = any(each["target"] == "arbiter" for each in FAULTS[fault])
    return not (needs_arbiter and design.changes.get("manager.arbiter") == "none")


def _arbitrate(
    policy: str, design: Design, fault: str, run: int, seed: int
) -> tuple[str, str, int, bool, bool, float]:
    at_ns = round((_STRUCK_MS + 500 * Streams(seed, run).uniform("strike").at(0)) * _MS)
    struck = [{**each, "at": TIME.format(at_ns)} for each in FAULTS.get(fault, (_CRASH,))]
    changes = {**design.changes, **FENCES.get(fault, {}), "fault": struck}
    record = run_replication(base(policy, changes), policy, seed, run)
    released = np.sort(record.responses["released_ns"])
    released = released[(released >= at_ns) & (released <= record.duration_ns)]
    edges = np.concatenate(([at_ns], released, [record.duration_ns]))
    return (
        design.name,
        fault,
        run,
        any(each.startswith("OneActiveSide") for each in record.violations),
        bool(record.duration_ns - edges[-2] > 1_000 * _MS),
        float(np.diff(edges).max() / _MS),
    )


def table_of(found: pd.DataFrame) -> pd.DataFrame:
    """A row for each design and fault: runs, split share with its interval, down share, and the
    mean outage of the runs in which it ended, with its interval (ms).
    """
    from colosim.analysis.stats import interval

    rows = []
    for (design, fault), here in found.groupby(["design", "fault"], sort=False):
        n, splits = len(here), int(here["is_split"].sum())
        ended = here.loc[~here["is_down"], "outage_ms"]
        _, mean, low, high = interval(ended)
        rows.append(
            (
                *(design, fault, n, splits / n, *wilson(splits, n)),
                *(float(here["is_down"].mean()), mean, low, high),
            )
        )
    columns = ["design", "fault", "runs", "split", "split_low", "split_high", "down"]
    return pd.DataFrame(rows, columns=[*columns, "outage_ms", "outage_low", "outage_high"])
