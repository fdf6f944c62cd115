"""Epochs of a run under a policy that compares: how long guests were compared, and what ended it.

An epoch lasts from when both guests run again to the start of the next checkpoint, or to the end of
the run.  The same definitions hold for live and for simulated runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from colosim import store
from colosim.protocol import types as t
from colosim.protocol.compare import Found
from colosim.scenario import Scenario

#: reasons of this module, beside those of `colosim.protocol.verdicts.Why`
ANY, TIMEOUT = "any", "timeout"
#: reason of a checkpoint -> whether the comparison wanted it
TRIGGERED = ("mismatch", "compare-timeout")
_SOON_NS = 50e6


def epochs(
    checkpoints: pd.DataFrame,
    responses: pd.DataFrame,
    whys: Mapping[int, str],
    scenario: Scenario,
    holds: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """A row per epoch of the measured time: seconds, responses, connections, why.

    checkpoints, responses, holds: of one run, as in its tables, the warm-up's too.  why: what ended
    it, "" if it was nothing that the comparison found.  responses: those that were compared.  One
    is compared in an epoch if it was asked for after the checkpoint before had started, or came
    later than what left with that checkpoint, and left before the next one; the one that differs is
    one of them.  Some that left with that checkpoint are late on their way to clients and look
    alike, so there are no more than frames that left by equal output; without ``holds`` (a
    simulation's answers are all as long on their way) that is not looked at.  connections: of these
    responses the first of their connections.
    """
    table = checkpoints[checkpoints["completed_ns"] >= 0]
    started = table["started_ns"].to_numpy(float)
    resumed = np.append(0.0, table["resumed_ns"].to_numpy(float))
    begins = np.maximum(resumed, scenario.warm_up_ns)
    ends = np.append(started, scenario.duration_ns)
    asked_from = np.append(0.0, started)
    committed = np.append(table["committed_ns"].to_numpy(float), math.inf)
    way_ns = way_to_clients_ns(table, responses)
    left_by = np.minimum(ends + way_ns, committed)
    answered = responses[responses["released_ns"] >= 0]
    arrival, released = (answered[key].to_numpy(float) for key in ("arrival_ns", "released_ns"))
    first = opens(scenario, answered)
    equal_ns = None if holds is None else _equal_ns(holds)
    found = [whys.get(int(number), "") for number in table["checkpoint"]] + [""]
    rows = []
    for i, why in enumerate(found):
        if ends[i] <= begins[i]:
            continue
        compared = (arrival >= asked_from[i]) | (released > resumed[i] + way_ns)
        own = compared & (released > begins[i]) & (released <= left_by[i])
        count, opened = int(own.sum()), int(first[own].sum())
        if equal_ns is not None:
            since, until = np.searchsorted(equal_ns, (begins[i], committed[i]))
            count = min(count, int(until - since))
            opened = min(opened, count)
        if why:  # the one that differs is of those that wait for the commit
            waits = (arrival >= asked_from[i]) & (arrival <= ends[i]) & (released > left_by[i])
            count, opened = count + 1, opened + int(first[waits].any())
        rows.append(((ends[i] - begins[i]) / 1e9, count, opened, why))
    return pd.DataFrame(rows, columns=["seconds", "responses", "connections", "why"])


def _equal_ns(holds: pd.DataFrame) -> NDArray[np.float64]:
    """When each frame that equal output let go left, in order."""
    equal = holds[holds["how"] == "match"]
    left = (equal["made_ns"] + equal["hold_ns"]).to_numpy(float)
    return np.sort(np.repeat(left, equal["frames"].to_numpy()))


def matched(checkpoints: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
    """Measured responses that no checkpoint had a part in: asked for, made and left in one epoch,
    by equal output.  latency_ms, and when they were asked for (`since_start`).
    """
    table = checkpoints[checkpoints["completed_ns"] >= 0]
    ends = np.append(table["started_ns"].to_numpy(float), math.inf)
    own = responses[responses["measured"].astype(bool) & (responses["released_ns"] >= 0)]
    found = since_start(own["arrival_ns"], checkpoints).assign(latency_ms=own["latency_ms"])
    whole = own["released_ns"].to_numpy(float) < ends[found["start"].to_numpy() + 1]
    kept: pd.DataFrame = found[whole]
    return kept


def since_start(at_ns: pd.Series[Any], checkpoints: pd.DataFrame) -> pd.DataFrame:
    """start: the completed checkpoint after which the guests ran on, by its place in the table, -1
    before the first; since_ns: since then, or since the run began.
    """
    table = checkpoints[checkpoints["completed_ns"] >= 0]
    begins = np.append(0.0, table["resumed_ns"].to_numpy(float))
    place = np.maximum(np.searchsorted(begins, at_ns.to_numpy(float), "right") - 1, 0)
    return pd.DataFrame({"start": place - 1, "since_ns": at_ns - begins[place]}, index=at_ns.index)


def opens(scenario: Scenario, responses: pd.DataFrame) -> NDArray[np.bool_]:
    """Which responses are the first of their connections."""
    each = scenario.packet.requests_per_connection
    if scenario.client.kind == "http" and not scenario.client.keep_alive:
        each = 1
    request = responses["request"].to_numpy()
    return np.asarray(request % each == 0 if each else request == 0)


def way_to_clients_ns(checkpoints: pd.DataFrame, responses: pd.DataFrame) -> float:
    """Median time from a commit to the first answer that a client gets then, 0 if there is none."""
    committed = checkpoints["committed_ns"].to_numpy(float)
    released = np.sort(responses.loc[responses["released_ns"] >= 0, "released_ns"].to_numpy(float))
    if not released.size or not committed.size:
        return 0.0
    place = np.searchsorted(released, committed, "right")
    committed, place = committed[place < released.size], place[place < released.size]
    took = released[place] - committed
    soon = took[took < _SOON_NS]
    return float(np.median(soon)) if soon.size else 0.0


def what_ended(trace: Path) -> dict[int, str]:
    """Checkpoint -> what the comparison found first, of those that it wanted; from a trace."""
    ended: dict[int, str] = {}
    found: list[Found] = []
    for line in store.read_trace(trace):
        match line.body:
            case t.Mismatch() | t.Stale():
                found.append(line.body)
            case t.CheckpointStarted(checkpoint, reason) if reason in TRIGGERED:
                kind = t.Mismatch if reason == "mismatch" else t.Stale
                first = next((each for each in found if isinstance(each, kind)), None)
                ended[checkpoint] = first.why if isinstance(first, t.Mismatch) else TIMEOUT
            case t.Cut():
                found.clear()
            case _:
                pass
    return ended
