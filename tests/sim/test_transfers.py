"""Ways of transfer and policies beyond Remus and COLO, against closed forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from backends.sim import run_replication
from colosim.model.results import CHECKPOINT_COLUMNS, RESPONSE_COLUMNS, RunRecord
from colosim.protocol import types as t
from colosim.protocol.trace import Line
from colosim.scenario import Scenario
from tests.sim.worlds import (
    FREE,
    NS_PER_MS,
    NS_PER_S,
    check_mean,
    poisson,
    scenario,
    timeline,
)

COSTS: Mapping[str, str] = {
    **FREE,
    "quiesce": "300 us",
    "stop": "500 us",
    "save_fixed": "2 ms",
    "save_per_page": "2 us",
    "copy_fixed": "400 us",
    "load_fixed": "3 ms",
    "resume": "200 us",
    "device_state": "100000 B",
}
LINK: Mapping[str, str] = {"bandwidth": "1 Gbit/s", "delay": "100 us"}
#: pages one after the other, so that how many are dirty is no matter of chance (but for rounding)
PAGES_PER_S = 8_000
WALK: Mapping[str, Any] = {
    "kind": "sequential",
    "working_set_pages": 60_000,
    "touches": f"{PAGES_PER_S} /s",
}
PAGE_BYTES = 4_096 + 8


def walking(**tables: Any) -> Scenario:
    given: dict[str, Any] = {"cost": COSTS, "link": LINK, "memory": WALK}
    return scenario(poisson(100), "2 s", **{**given, **tables})


def steps_of(run: RunRecord) -> dict[str, np.ndarray]:
    """Columns of the checkpoints that were completed; times since each one's start."""
    table = {
        name: column[run.checkpoints["completed_ns"] >= 0]
        for name, column in run.checkpoints.items()
    }
    return {
        name: column - table["started_ns"]
        if name.endswith("_ns") and name != "started_ns"
        else column
        for name, column in table.items()
    }


# -- pre-copy ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("threshold", "most"), [("64 KiB", 8), ("1 MiB", 8), ("1 B", 3)])
def test_stop_time_of_precopy(threshold, most):
    """Guest writes r pages/s, a page takes p on the link: rounds shrink by r p.

    Round k sends n_k, meanwhile n_k+1 = r p n_k become dirty.  The guest is stopped with what it
    dirtied in the last round and until it stops, and that is all that the pause depends on.
    """
    what = walking(
        transfer="precopy",
        stream={"precopy_threshold": threshold, "precopy_rounds": most},
        policy={"remus": {"interval": "100 ms"}},
    )
    run = run_replication(what, "remus", 1, 0)
    assert run.violations == []
    steps = steps_of(run)
    page_ns = PAGE_BYTES * 8  # at 1 Gbit/s
    started_ns = steps["started_ns"]
    stopped_ns = timeline(what, 0, 0, 0).stopped_ns  # from the end of the last round
    threshold_bytes = what.stream.precopy_threshold_bytes
    assert len(started_ns) > 10
    for k in range(1, len(started_ns)):
        run_ns = started_ns[k] - started_ns[k - 1] - steps["resumed_ns"][k - 1]
        pages = run_ns * PAGES_PER_S / NS_PER_S
        sent, rounds, ahead_ns = 0.0, 0, 0.0
        while True:
            sent, rounds, ahead_ns = sent + pages, rounds + 1, ahead_ns + pages * page_ns
            pages *= PAGES_PER_S * page_ns / NS_PER_S
            if pages * PAGE_BYTES <= threshold_bytes or rounds == most:
                break
        rest = pages + stopped_ns * PAGES_PER_S / NS_PER_S
        last = timeline(what, round(100_016 + rest * PAGE_BYTES), round(rest), 0)
        pause_ns = steps["resumed_ns"][k] - steps["stopped_ns"][k]
        assert abs(steps["pages"][k] - sent - rest) <= rounds + 1
        assert abs(pause_ns - (last.resumed_ns - last.stopped_ns)) <= 4 * page_ns
        assert abs(steps["stopped_ns"][k] - ahead_ns - stopped_ns) <= (rounds + 1) * 2 * page_ns
    sent_bytes = steps["sent_bytes"] - 100_016 - steps["pages"] * PAGE_BYTES
    assert not sent_bytes.any()


def test_precopy_restores_distinct_pages_and_stops_shorter_than_stop_and_send():
    """Pages written again in a later round are sent again, and restored once."""
    memory = {"kind": "uniform", "working_set_pages": 600, "touches": "20000 /s"}
    runs = {
        transfer: run_replication(walking(transfer=transfer, memory=memory), "remus", 1, 0)
        for transfer in ("stop-and-send", "precopy")
    }
    stops, ahead = (steps_of(runs[each]) for each in ("stop-and-send", "precopy"))
    assert (ahead["pages"] > 600).all()
    assert (ahead["restored_pages"] <= 600).all()
    assert ahead["restored_pages"].mean() >= stops["restored_pages"].mean() - 5
    pause = {
        name: (steps["resumed_ns"] - steps["stopped_ns"]).mean()
        for name, steps in (("stops", stops), ("ahead", ahead))
    }
    assert pause["ahead"] < pause["stops"]


def test_precopy_waits_for_its_limit_only():
    what = walking(transfer="precopy", limits={"precopy": "5 ms"}, link={"bandwidth": "100 Mbit/s"})
    run = run_replication(what, "remus", 1, 0)
    (exits,) = [event for event in run.events if event["what"] == "exit"][:1]
    assert exits["detail"] == "time limit of step precopy"
    assert run.violations == []


# -- channels and compression ------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 8])
@pytest.mark.parametrize("transfer", ["stop-and-send", "copy-then-send"])
def test_time_of_a_state_on_several_channels(channels, transfer):
    """Pages go at n times a channel's speed until that is the link's; devices on one channel."""
    what = walking(
        transfer=transfer,
        link={"bandwidth": "4 Gbit/s", "delay": "100 us"},
        stream={"channels": channels, "channel_bandwidth": "1 Gbit/s"},
    )
    steps = steps_of(run_replication(what, "remus", 1, 0))
    for k in range(1, len(steps["pages"])):
        pages = int(steps["pages"][k])
        rest = timeline(what, 0, pages, 0)
        ram_ns = pages * PAGE_BYTES * 8 / min(channels, 4)
        devices_ns = (100_000 + 16) * 8
        messages_ns = 4 * 68 * 8 * (1 - 1 / 4)  # REQUEST, REPLY, RECEIVED: on one channel too
        wanted_ns = rest.committed_ns + ram_ns + devices_ns
        assert wanted_ns - 50 <= steps["committed_ns"][k] <= wanted_ns + messages_ns + 50


def test_channels_change_nothing_but_the_time():
    one, several = (run_replication(walking(stream={"channels": n}), "remus", 1, 0) for n in (1, 5))
    for name in ("pages", "sent_bytes"):
        assert (one.checkpoints[name] == several.checkpoints[name]).all()
    difference_ns = np.abs(one.checkpoints["committed_ns"] - several.checkpoints["committed_ns"])
    assert difference_ns.max() <= 50


@pytest.mark.parametrize("transfer", ["stop-and-send", "copy-then-send", "precopy"])
def test_delta_compression(transfer):
    cost = {
        **COSTS,
        "delta_ratio": 0.25,
        "delta_spread": 0.0,
        "delta_per_page": "5 us",
        "delta_load_per_page": "3 us",
    }
    plain, delta = (
        walking(transfer=transfer, cost=cost, stream={"compression": how})
        for how in ("none", "delta")
    )
    before, after = (steps_of(run_replication(what, "remus", 1, 0)) for what in (plain, delta))
    costs = delta.costs()
    pages, sent_bytes = after["pages"], after["sent_bytes"]
    assert np.abs(sent_bytes - 16 - 100_000 - pages * (1_024 + 8)).max() <= 2
    if transfer == "precopy":  # the times of its rounds change what there is to send
        return
    k, pages_k = 0, int(after["pages"][0])
    assert pages_k == before["pages"][0]
    last = timeline(delta, int(sent_bytes[0]), pages_k, pages_k)
    both_ns = last.committed_ns + costs.delta_per_page_ns * pages_k
    assert abs(after["committed_ns"][k] - both_ns) <= 8
    assert abs(after["completed_ns"][k] - last.completed_ns - 8_000 * pages_k) <= 8
    if transfer == "copy-then-send":  # a copy is compressed when it is sent
        assert after["resumed_ns"][k] == before["resumed_ns"][k]


def test_how_well_states_compress_varies_as_it_is_said():
    cost = {**COSTS, "delta_ratio": 0.1, "delta_spread": 0.2}
    policy = {"remus": {"interval": "20 ms"}}
    what = walking(cost=cost, stream={"compression": "delta"}, policy=policy)
    runs = [run_replication(what, "remus", seed, 0) for seed in range(4)]
    steps = [steps_of(run) for run in runs]
    ratio = np.concatenate([((s["sent_bytes"] - 100_016) / s["pages"] - 8) / 4_096 for s in steps])
    assert len(ratio) > 300
    assert abs(ratio.mean() - 0.1) < 5 * 0.02 / len(ratio) ** 0.5
    assert 0.015 < ratio.std() < 0.025
    certain = walking(cost={**COSTS, "delta_ratio": 1.0}, stream={"compression": "delta"})
    sent = steps_of(run_replication(certain, "remus", 1, 0))
    assert (sent["sent_bytes"] <= 100_016 + sent["pages"] * PAGE_BYTES).all()  # never more


# -- microcheckpoint ---------------------------------------------------------------------------


def test_microcheckpoint_is_remus_with_copy_then_send():
    remus = run_replication(walking(transfer="copy-then-send"), "remus", 3, 0)
    micro = run_replication(walking(), "microcheckpoint", 3, 0)
    for name in RESPONSE_COLUMNS:
        assert (remus.responses[name] == micro.responses[name]).all()
    for name in CHECKPOINT_COLUMNS:
        assert (remus.checkpoints[name] == micro.checkpoints[name]).all()


# -- adaptive ----------------------------------------------------------------------------------


@pytest.mark.parametrize("transfer", ["stop-and-send", "copy-then-send"])
@pytest.mark.parametrize("percent", [35, 45])
def test_adaptive_settles_where_a_checkpoint_takes_its_part_of_the_interval(transfer, percent):
    """I = c(I) 100 / percent, c(I) by the timeline of a checkpoint of r (I - pause) pages.

    Writing takes 26 % of the link, and encoding 2 % of the time: more than that settles.
    """
    policy = {"adaptive": {"busy_percent": percent, "minimum_interval": "2 ms"}}
    what = walking(transfer=transfer, policy=policy)
    run = run_replication(what, "adaptive", 1, 0)
    interval_ns = 2.0 * NS_PER_MS
    for _ in range(200):
        # what a checkpoint of that interval takes; its pause depends on its pages, those on it
        pages = interval_ns * PAGES_PER_S / NS_PER_S
        for _ in range(50):
            steps = timeline(what, round(100_016 + pages * PAGE_BYTES), round(pages), 0)
            pause_ns = steps.resumed_ns - steps.stopped_ns
            pages = (interval_ns - pause_ns) * PAGES_PER_S / NS_PER_S
        interval_ns = min(max(steps.committed_ns * 100 / percent, 2e6), 1e9)
    gaps_ns = np.diff(run.checkpoints["started_ns"])
    assert 5 * NS_PER_MS < interval_ns < 100 * NS_PER_MS
    settled_ns = gaps_ns[-5:]
    assert np.abs(settled_ns / interval_ns - 1).max() < 0.02
    committed_ns = steps_of(run)["committed_ns"][-5:]
    assert np.abs(committed_ns / interval_ns * 100 - percent).max() < 1


def test_adaptive_ends_at_its_maximum_where_the_link_is_too_slow():
    what = walking(
        link={"bandwidth": "500 Mbit/s"},
        transfer="copy-then-send",
        policy={"adaptive": {"maximum_interval": "150 ms"}},
    )
    gaps_ns = np.diff(run_replication(what, "adaptive", 1, 0).checkpoints["started_ns"])
    assert abs(gaps_ns[-1] - 150 * NS_PER_MS) <= 1


# -- hybrid ------------------------------------------------------------------------------------


def ruled(what: Scenario, seed: int = 1) -> tuple[RunRecord, list[tuple[int, t.Output, int]]]:
    """A run, and (when, what output waits for, checkpoint with whose cut) of each change."""
    cuts: list[int] = [0]
    changes: list[tuple[int, t.Output, int]] = []

    def see(line: Line) -> None:
        match line.body:
            case t.Cut(checkpoint) if line.node == "primary":
                cuts.append(checkpoint)
            case t.OutputRule(output):
                changes.append((line.now_ns, output, cuts[-1]))

    run = run_replication(what, "hybrid", seed, 0, [see])
    assert run.violations == []
    return run, changes


@pytest.mark.parametrize("transfer", ["stop-and-send", "copy-then-send", "precopy"])
def test_hybrid_bounds_the_rate_of_checkpoints_in_a_storm(transfer):
    """Every second response differs: COLO checkpoints all the time, hybrid four times and then
    once an interval, each time that it has turned.
    """
    what = scenario(
        poisson(500),
        "2 s",
        cost=COSTS,
        link=LINK,
        transfer=transfer,
        divergence={"probability": 0.5},
        policy={"hybrid": {"interval": "100 ms"}},
    )
    run, changes = ruled(what)
    assert [output for _, output, _ in changes] == [t.Output.COMMIT]
    ((turned_ns, _, checkpoint),) = changes
    assert checkpoint == 4
    assert abs(len(run.checkpoints["checkpoint"]) - 4 - (2 * NS_PER_S - turned_ns) / 1e8) <= 1
    assert set(run.checkpoints["reason"][:4]) == {"mismatch"}
    assert set(run.checkpoints["reason"][4:]) == {"interval"}
    colo = run_replication(what, "colo", 1, 0)
    assert len(colo.checkpoints["checkpoint"]) > 4 * len(run.checkpoints["checkpoint"])
    latency = {r.policy: r.metrics()["latency_mean_ms"][0] for r in (colo, run)}
    assert run.metrics()["throughput_per_s"][0] == pytest.approx(500, rel=0.15)
    assert latency["hybrid"] < 200


def test_hybrid_returns_after_as_many_epochs_as_a_run_of_calm_ones_takes():
    """Differences are a Poisson process of rate m; an epoch of length I is calm with p = e^-mI.

    The first run of c calm epochs is over after (1 - p^c) / (p^c (1 - p)) epochs on average
    (Feller I, XIII.7).  False alarm: `worlds.FALSE_ALARM`.
    """
    calm, per_s, interval_s = 3, 10.0, 0.05
    what = scenario(
        poisson(per_s / 0.5),
        "20 s",
        divergence={"probability": 0.5},
        policy={
            "hybrid": {
                "interval": "50 ms",
                "storm_checkpoints": 1,
                "calm_epochs": calm,
                "checkpoint_delay": "1000 s",
            }
        },
    )
    means = []
    for seed in range(8):
        _, changes = ruled(what, seed)
        turned = {output: [c for _, o, c in changes if o is output] for output in t.Output}
        away, back = turned[t.Output.COMMIT], turned[t.Output.WITNESS]
        epochs = [there - here for here, there in zip(away, back, strict=False)]
        assert len(epochs) > 8
        means.append(float(np.mean(epochs)))
    p = np.exp(-per_s * interval_s)
    check_mean(means, (1 - p**calm) / (p**calm * (1 - p)), within=0.3)


def test_hybrid_in_calm_weather_is_colo():
    tables: dict[str, Any] = {"divergence": {"probability": 0.001}}
    runs = [run_replication(walking(**tables), name, 2, 0) for name in ("colo", "hybrid")]
    assert runs[0].counters["mismatches"] > 0
    for name in RESPONSE_COLUMNS:
        assert (runs[0].responses[name] == runs[1].responses[name]).all()
