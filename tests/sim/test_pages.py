"""What the pages of a state are, and what that takes: zeros, doubles, differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.sim import run_replication
from colosim.model import delta
from colosim.model.memory import MeasuredCurve, UniformTouch
from colosim.scenario import Scenario, ScenarioError
from tests.sim.worlds import FREE, poisson, scenario

FRAMES = 16  # three words and a size, of the checkpoint stream
COSTS = {**FREE, "save_per_page": "1 us", "device_state": "1000 B"}
WALK = {"kind": "sequential", "working_set_pages": 50_000, "touches": "10000 /s"}


def walking(cost: dict[str, Any], **tables: Any) -> Scenario:
    """A guest that dirties 200 pages in each epoch of 20 ms."""
    return scenario(
        poisson(100),
        "500 ms",
        memory=WALK,
        cost={**COSTS, **cost},
        policy={"remus": {"interval": "20 ms"}},
        **tables,
    )


def epochs_of(what: Scenario) -> dict[str, np.ndarray]:
    run = run_replication(what, "remus", 1, 0)
    whole = run.checkpoints["resumed_ns"] >= 0
    return {name: column[whole] for name, column in run.checkpoints.items()}


@pytest.mark.parametrize("transfer", ["stop-and-send", "copy-then-send", "precopy"])
def test_bytes_and_time_of_zeros_and_doubles(transfer):
    """A fifth zeros, three tenths doubles: 1 B, 8 B and whole pages; the rest of the pause is free.

    Only half of the pages are encoded, zeros at half the cost; the others but zeros are looked at.
    """
    parts = {"zero_pages": 0.2, "duplicate_pages": 0.3, "zero_page_cost": 0.5}
    look = {"find_duplicate": "2 us"}
    plain = epochs_of(walking({}, transfer=transfer))
    less = epochs_of(walking({**parts, **look}, transfer=transfer))
    pages = less["pages"]
    sent = less["sent_bytes"] - 1000 - FRAMES
    assert np.abs(sent / pages - (8 + 0.5 * 4096 + 0.3 * 8 + 0.2)).max() < 4096 * 2 / pages.min()
    if transfer != "stop-and-send":
        return
    pause_us = (less["resumed_ns"] - less["stopped_ns"]) / 1e3
    assert pause_us == pytest.approx(pages * (0.5 + 0.2 * 0.5 + 0.8 * 2), rel=0.03)
    was_us = (plain["resumed_ns"] - plain["stopped_ns"]) / 1e3
    assert was_us == pytest.approx(plain["pages"] * 1.0, rel=0.03)


def test_zeros_and_doubles_are_not_compressed():
    half = {"zero_pages": 0.25, "duplicate_pages": 0.25, "find_duplicate": "0 s"}
    delta = {"delta_per_page": "10 us", "delta_load_per_page": "5 us", "delta_spread": 0.0}
    stream = {"compression": "delta"}
    run = epochs_of(walking({**half, **delta, "delta_ratio": 0.1}, stream=stream))
    pause_us = (run["resumed_ns"] - run["stopped_ns"]) / 1e3
    # encoded and compressed, and decompressed before the secondary's answer
    each_us = 0.5 * 1 + 0.25 * 1 + 0.5 * (10 + 5)
    assert pause_us == pytest.approx(run["pages"] * each_us, rel=0.03)


def test_a_copy_is_looked_through_while_the_guest_runs():
    doubles = {"duplicate_pages": 0.5, "find_duplicate": "10 us"}
    run = epochs_of(walking(doubles, transfer="copy-then-send"))
    assert (run["resumed_ns"] - run["stopped_ns"]).max() < 1_000
    took_us = (run["committed_ns"] - run["resumed_ns"]) / 1e3
    assert took_us == pytest.approx(run["pages"] * 10, rel=0.03)


@pytest.mark.parametrize(
    ("cost", "says"),
    [
        ({"zero_pages": 0.6, "duplicate_pages": 0.5}, "cost.duplicate_pages"),
        ({"zero_pages": 1.5}, "cost.zero_pages"),
        ({"zero_page_cost": 2.0}, "cost.zero_page_cost"),
    ],
)
def test_impossible_parts_are_refused(cost, says):
    with pytest.raises(ScenarioError) as told:
        walking(cost)
    (line,) = str(told.value).splitlines()
    assert says in line
    assert ";" in line


DELTA: dict[str, Any] = {"compression": "delta"}
QUICK: dict[str, Any] = {"delta_per_page": "0 s", "delta_load_per_page": "0 s", "delta_spread": 0.0}
UNIFORM = {
    "kind": "uniform",
    "working_set_pages": 300,
    "touches": "20000 /s",
    "touches_per_request": 5.0,
}
REDIS = {
    "kind": "measured",
    "curve": "redis",
    "outside": "extrapolate",
    "pages_per_request": 0.0,
}


@pytest.mark.parametrize("interval_ms", [10, 40, 160])
@pytest.mark.parametrize(("size", "memory"), [("writes", UNIFORM), ("age", REDIS)])
def test_differences_grow_with_the_age_of_the_state(size, memory, interval_ms):
    what = scenario(
        poisson(1e-3),
        "1 s",
        memory=memory,
        cost={**COSTS, **QUICK},
        stream={**DELTA, "delta_size": size},
        policy={"remus": {"interval": f"{interval_ms} ms"}},
    )
    run = epochs_of(what)
    left = (run["sent_bytes"] - 1000 - FRAMES) / run["pages"] - 8
    if size == "writes":
        model = delta.by_writes(UniformTouch(300, 20_000, 5.0), 64, 4096)
    else:
        model = delta.by_age(MeasuredCurve.named("redis"))
    expected = [4096 * model(int(exposure), 0) for exposure in run["exposure_ns"]]
    assert left == pytest.approx(np.array(expected), rel=0.01)
    assert len(left) > 4


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"stream": {"delta_size": "writes"}, "memory": UNIFORM}, "stream.delta_size"),
    ({"stream": {**DELTA, "delta_size": "age"}, "memory": UNIFORM}, "stream.delta_size"),
    ({"stream": {**DELTA, "delta_size": "writes"}, "memory": REDIS}, "stream.delta_size"),
    (
        {
            "stream": {**DELTA, "delta_size": "writes"},
            "memory": {**UNIFORM, "background": "idle"},
        },
        "stream.delta_size",
    ),
    ({"cost": {"delta_write": "5000 B"}}, "cost.delta_write"),
]


@pytest.mark.parametrize(("tables", "says"), REFUSED)
def test_sizes_that_nobody_knows_are_refused(tables, says):
    with pytest.raises(ScenarioError) as told:
        scenario(poisson(10), "1 s", **tables)
    (line,) = str(told.value).splitlines()
    assert says in line
    assert ";" in line


def test_a_curve_without_differences_is_refused(tmp_path):
    file = tmp_path / "own.csv"
    rows = ["workload,setting,interval_ms,exposure_ms,dirty_pages", "a,b,1,1,5", "a,b,9,9,20"]
    file.write_text("\n".join(rows))
    memory: dict[str, Any] = {"kind": "measured", "file": str(file), "pages_per_request": 0.0}
    memory |= {"workload": "a", "setting": "b"}
    with pytest.raises(ScenarioError, match="no column delta_ratio"):
        scenario(poisson(10), "1 s", memory=memory, stream={**DELTA, "delta_size": "age"})
