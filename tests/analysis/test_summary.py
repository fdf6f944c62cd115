"""Tables of hand-made records: one row per thing, warm-up marked, intervals paired rightly."""

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from colosim.analysis import summary
from colosim.analysis.stats import interval


def test_one_row_per_metric_of_each_replication(make_record):
    records = [make_record(replication=0), make_record(replication=1)]
    table = summary.metrics_table(records)
    assert list(table) == ["policy", "replication", "metric", "value", "unit"]
    assert len(table) == 2 * len(records[0].metrics())
    [row] = table.query("replication == 1 and metric == 'latency_mean_ms'").to_dict("records")
    assert row == {
        "policy": "remus",
        "replication": 1,
        "metric": "latency_mean_ms",
        "value": 10.0,
        "unit": "ms",
    }


def test_responses_know_the_warm_up_and_their_latency(make_record):
    table = summary.responses_table([make_record(latency_ms=30)])
    assert list(table["measured"]) == [False, True, True]
    assert list(table["latency_ms"][:2]) == [30.0, 30.0]
    assert math.isnan(table["latency_ms"][2])  # never answered


def test_checkpoints_know_their_pause(make_record):
    table = summary.checkpoints_table([make_record()])
    assert list(table["reason"]) == ["interval", "mismatch"]
    assert table["pause_ms"][0] == 30.0
    assert math.isnan(table["pause_ms"][1])  # never resumed


def test_events_are_text(make_record):
    events = [{"at_ns": 5, "node": "primary", "what": "fault", "detail": {"kind": "crash"}}]
    table = summary.events_table([make_record(events=events), make_record("colo")])
    assert table.to_dict("records") == [
        {
            "policy": "remus",
            "replication": 0,
            "at_ns": 5,
            "node": "primary",
            "what": "fault",
            "detail": '{"kind": "crash"}',
        }
    ]


def metrics(rows):
    columns = ["policy", "replication", "metric", "value", "unit"]
    return pd.DataFrame([(*row, "ms") for row in rows], columns=columns)


def test_the_summary_holds_the_interval_over_replications():
    table = metrics([("none", i, "x", value) for i, value in enumerate([1.0, 2.0, 3.0])])
    [row] = summary.summarise(table).itertuples(index=False)
    assert tuple(row) == ("none", "x", "ms", *interval([1.0, 2.0, 3.0]))


def test_a_metric_without_values_stays_in_the_summary():
    [row] = summary.summarise(metrics([("none", 0, "x", math.nan)])).to_dict("records")
    assert row["n"] == 0
    assert math.isnan(row["mean"])


def test_a_summary_by_the_axes_of_a_sweep_keeps_points_without_an_axis():
    table = metrics([("none", 0, "x", 1.0), ("remus", 0, "x", 2.0), ("remus", 0, "x", 3.0)])
    table["interval_ns"] = [None, 25.0, 100.0]
    means = summary.summarise(table, ["policy", "interval_ns"])["mean"]
    assert list(means) == [1.0, 2.0, 3.0]


def test_differences_pair_equal_replications_whatever_the_order():
    rows = [("none", 0, "x", 1.0), ("none", 1, "x", 5.0), ("none", 2, "x", 9.0)]
    rows += [("colo", 2, "x", 12.0), ("colo", 0, "x", 2.0), ("colo", 1, "x", 7.0)]
    [row] = summary.differences(metrics(rows), "none").itertuples(index=False)
    assert tuple(row) == ("colo", "x", *interval([1.0, 2.0, 3.0])[1:])


def test_differences_leave_out_replications_that_one_policy_lacks():
    rows = [("none", i, "x", float(i)) for i in range(5)]
    rows += [("colo", 1, "x", 2.0), ("colo", 3, "x", 6.0)]
    [row] = summary.differences(metrics(rows), "none").itertuples(index=False)
    assert tuple(row[2:]) == interval([1.0, 3.0])[1:]


def test_differences_need_their_baseline():
    with pytest.raises(ValueError, match="no policy 'none' among colo"):
        summary.differences(metrics([("colo", 0, "x", 1.0)]), "none")


@pytest.mark.parametrize(
    ("metric", "unit", "words"),
    [
        ("latency_p99_ms", "ms", "Latency p99 (ms)"),
        ("throughput_per_s", "1/s", "Throughput (1/s)"),
        ("replication_mbit_per_s", "Mbit/s", "Replication (Mbit/s)"),
        ("dirty_pages_mean", "pages", "Dirty pages mean (pages)"),
        ("lost_responses", "1", "Lost responses (count)"),
    ],
)
def test_labels_are_words_and_a_unit(metric, unit, words):
    assert summary.label(metric, unit) == words


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (91.3071, 0.5912, "91.31 ± 0.59"),
        (1234567.0, 89.0, "1234567 ± 89"),
        (0.0123456, 0.001, "0.01235 ± 0.00100"),
        (-1.5, math.nan, "-1.500"),
        (0.0, 0.0, "0 ± 0"),
    ],
)
def test_readable_numbers(mean, half, text):
    table = pd.DataFrame(
        [("none", "x_ms", "ms", mean, mean - half, mean + half)],
        columns=["policy", "metric", "unit", "mean", "ci_low", "ci_high"],
    )
    assert summary.readable(table).loc["X (ms)", "none"] == text


def test_the_readable_table_keeps_the_order_and_shows_gaps():
    rows = [("none", 0, "z", 1.0), ("none", 0, "a", math.nan), ("colo", 0, "a", 2.0)]
    table = summary.readable(summary.summarise(metrics([*rows, ("colo", 0, "b", math.nan)])))
    assert list(table) == ["none", "colo"]
    assert list(table.index) == ["Z (ms)", "A (ms)"]  # nothing was measured of b
    assert table.loc["Z (ms)", "colo"] == "–"


def test_the_warm_up_of_one_pair_is_not_told_by_the_checkpoints_of_the_next(make_record):
    """Each pair numbers its checkpoints from 1."""
    phases = {
        "checkpoint": [1, 1, 2, 2, 1, 1, 2, 2],
        "phase": ["stop", "save"] * 4,
        "start_ns": [0] * 8,
        "duration_ns": [1] * 8,
    }
    record = make_record(phases=phases)
    columns: dict[str, Any] = {name: [*of, *of] for name, of in record.checkpoints.items()}
    columns["started_ns"] = [at * 1_000_000 for at in (50, 200, 700, 900)]
    table = summary.phases_table([replace(record, checkpoints=columns)])
    assert list(table["measured"]) == [False] * 2 + [True] * 6  # the warm-up is 100 ms
