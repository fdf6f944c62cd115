"""Metrics against values worked out by hand; a fingerprint that is stable and misses nothing."""

import json
import math
import os
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest

from colosim.model.results import CHECKPOINT_COLUMNS, RESPONSE_COLUMNS, RunRecord, together

MS = 1_000_000


def table(names, rows):
    """Columns from rows; names in _ns are given in ms."""
    return {
        name: [value * MS if name.endswith("_ns") and value != -1 else value for value in column]
        for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }


def tiny(**changes):
    """Two seconds, the first half warm-up: what is in the second half is worked out below."""
    responses = [
        # client, request, arrival, served, released (ms)
        (0, 0, 100, 110, 150),  # warm-up
        (1, 0, 990, 995, 1_040),  # arrives in the warm-up, answered in the window
        (0, 1, 1_000, 1_010, 1_020),  # 20 ms
        (1, 1, 1_100, 1_110, 1_140),  # 40 ms
        (0, 2, 1_200, 1_210, 1_290),  # 90 ms
        (1, 2, 1_990, 1_995, -1),  # no answer
    ]
    checkpoints = [
        # k, reason, started, stopped, cut, committed, resumed, completed, exposure, pages,
        # restored, sent
        (1, "interval", 500, 510, 512, 520, 525, 526, 500, 999, 999, 9_999_999),  # warm-up
        (2, "interval", 1_000, 1_010, 1_012, 1_020, 1_030, 1_031, 480, 100, 120, 1_000_000),
        (3, "mismatch", 1_500, 1_510, 1_512, 1_530, 1_550, 1_551, 470, 300, 320, 3_000_000),
        (4, "interval", 1_900, 1_910, 1_912, -1, -1, -1, 350, 700, -1, 500_000),  # cut short
    ]
    values = {
        "policy": "remus",
        "seed": 7,
        "replication": 2,
        "duration_ns": 2_000 * MS,
        "warm_up_ns": 1_000 * MS,
        "responses": table(RESPONSE_COLUMNS, responses),
        "checkpoints": table(CHECKPOINT_COLUMNS, checkpoints),
        "events": [
            {"at_ns": 1_912 * MS, "node": "a", "what": "fault", "detail": {"kind": "crash"}}
        ],
        "violations": ["two active sides"],
        "flags": ["memory-extrapolated"],
        "counters": {
            "mismatches": 3,
            "mismatches_in_warm_up": 1,
            "lost_responses": 1,
            "link_bytes": 5_000_000,
            "link_bytes_in_warm_up": 1_000_000,
        },
        **changes,
    }
    return RunRecord(**values)


def test_metrics_by_hand():
    assert tiny().metrics() == {
        "throughput_per_s": (pytest.approx(4.0), "1/s"),  # 1020, 1040, 1140, 1290
        "latency_mean_ms": (pytest.approx(50.0), "ms"),
        "latency_p50_ms": (pytest.approx(40.0), "ms"),
        "latency_p99_ms": (pytest.approx(89.0), "ms"),  # 40 + 0.98 * 50
        "checkpoints_per_s": (pytest.approx(2.0), "1/s"),  # the third was cut short
        "pause_mean_ms": (pytest.approx(30.0), "ms"),
        "pause_p99_ms": (pytest.approx(39.8), "ms"),  # 20 + 0.99 * 20
        "dirty_pages_mean": (pytest.approx(200.0), "pages"),
        "restored_pages_mean": (pytest.approx(220.0), "pages"),
        "replication_mbit_per_s": (pytest.approx(36.0), "Mbit/s"),  # 4.5 MB, sent if in vain
        "link_mbit_per_s": (pytest.approx(32.0), "Mbit/s"),  # 4 MB after the warm-up
        "mismatches_per_s": (pytest.approx(2.0), "1/s"),
        "completion_time_s": (pytest.approx(math.nan, nan_ok=True), "s"),
        "longest_gap_ms": (pytest.approx(710.0), "ms"),  # 1290 to the end
        "lost_responses": (1.0, "1"),
    }


def test_metrics_are_plain_floats():
    assert {type(value) for value, _ in tiny().metrics().values()} == {float}


def test_gap_at_the_start_and_between():
    late = {**tiny().responses, "released_ns": np.array([-1, -1, -1, 1_700, 1_950, -1]) * MS}
    assert tiny(responses=late).metrics()["longest_gap_ms"][0] == pytest.approx(700)
    between = {**late, "released_ns": np.array([-1, -1, 1_010, -1, 1_950, 1_960]) * MS}
    assert tiny(responses=between).metrics()["longest_gap_ms"][0] == pytest.approx(940)
    never = {**late, "released_ns": np.full(6, -1)}
    metrics = tiny(responses=never).metrics()
    assert metrics["longest_gap_ms"][0] == pytest.approx(1_000)
    assert metrics["throughput_per_s"][0] == 0.0
    assert math.isnan(metrics["latency_mean_ms"][0])


def test_an_answer_after_the_end_is_not_throughput():
    late = {**tiny().responses, "released_ns": np.array([-1, -1, 2_001, -1, -1, -1]) * MS}
    metrics = tiny(responses=late).metrics()
    assert metrics["throughput_per_s"][0] == 0.0


def test_a_batch_job_without_protection():
    record = RunRecord("none", 1, 0, 10_000 * MS, 0, completion_ns=4_000 * MS)
    metrics = record.metrics()
    assert metrics["completion_time_s"] == (4.0, "s")
    undefined = {name for name, (value, _) in metrics.items() if math.isnan(value)}
    assert undefined == {
        "latency_mean_ms", "latency_p50_ms", "latency_p99_ms", "pause_mean_ms", "pause_p99_ms",
        "dirty_pages_mean", "restored_pages_mean", "link_mbit_per_s", "mismatches_per_s",
        "longest_gap_ms", "lost_responses",
    }  # fmt: skip


def test_rates_of_a_batch_job_end_with_the_job():
    metrics = tiny(completion_ns=1_600 * MS).metrics()
    assert metrics["checkpoints_per_s"][0] == pytest.approx(2 / 0.6)
    assert metrics["mismatches_per_s"][0] == pytest.approx(2 / 0.6)


def test_nothing_after_the_warm_up():
    metrics = tiny(warm_up_ns=2_000 * MS).metrics()
    assert math.isnan(metrics["throughput_per_s"][0])
    assert math.isnan(metrics["checkpoints_per_s"][0])


# --- fingerprint ---------------------------------------------------------------------------------

OTHER = {
    "policy": "colo",
    "seed": 8,
    "replication": 3,
    "duration_ns": 2_000 * MS + 1,
    "warm_up_ns": 1_000 * MS + 1,
    "events": [],
    "flags": ["memory-extrapolated", ""],
    "counters": {"mismatches": 3, "lost_responses": 2},
    "completion_ns": 0,
}


def test_the_fingerprint_sees_every_field():
    record = tiny()
    seen = {record.fingerprint()}
    for each in fields(RunRecord):
        if each.name == "violations":  # seen only where somebody watches, so they must not count
            assert replace(record, violations=[]).fingerprint() in seen
            continue
        if each.name == "vms":  # the same rows as in the other tables
            assert replace(record, vms=[record]).fingerprint() in seen
            continue
        if each.name in OTHER:
            seen.add(replace(record, **{each.name: OTHER[each.name]}).fingerprint())
            continue
        columns = getattr(record, each.name)
        for name, column in columns.items():
            for row in range(column.size):
                other = column.copy()
                other[row] = "timeout" if name == "reason" else other[row] + 1
                changed = replace(record, **{each.name: {**columns, name: other}})
                seen.add(changed.fingerprint())
        shorter = {name: column[:-1] for name, column in columns.items()}
        seen.add(replace(record, **{each.name: shorter}).fingerprint())
        seen.add(replace(record, **{each.name: {}}).fingerprint())
    cells = 5 * 6 + 12 * 4
    assert len(seen) == 1 + len(OTHER) + cells + 2 * 2


def test_several_vms_together():
    """Rows of all, with numbers of their own; sums of counters, but events of the one clock."""
    first, second = tiny(), tiny(seed=7, completion_ns=900 * MS)
    first.counters["simulated_events"] = second.counters["simulated_events"] = 50
    both = together([first, second])
    rows = len(first.responses["client"])
    assert both.responses["served_ns"].tolist() == [*first.responses["served_ns"]] * 2
    clients = both.responses["client"]
    assert set(clients[:rows]).isdisjoint(clients[rows:])
    assert (clients[rows:] - clients[:rows] == first.responses["client"].max() + 1).all()
    numbers = both.checkpoints["checkpoint"]
    assert len(set(numbers)) == 2 * len(first.checkpoints["checkpoint"])
    assert both.counters["mismatches"] == 2 * first.counters["mismatches"]
    assert both.counters["simulated_events"] == 50
    assert both.completion_ns == -1  # one of them has not ended
    assert both.vms == [first, second]
    metrics = both.metrics()
    of_first = first.metrics()
    assert metrics["throughput_per_s"][0] == 2 * of_first["throughput_per_s"][0]
    assert metrics["vm0_pause_mean_ms"] == of_first["pause_mean_ms"]
    if both.events:
        assert {event["node"].partition(".")[0] for event in both.events} == {"vm0", "vm1"}


def test_columns_do_not_run_into_each_other():
    """The same bytes, divided otherwise, are another record."""
    swapped = dict(tiny().responses)
    swapped["client"], swapped["request"] = swapped["request"], swapped["client"]
    assert tiny(responses=swapped).fingerprint() != tiny().fingerprint()
    assert tiny(flags=["ab"]).fingerprint() != tiny(flags=["a", "b"]).fingerprint()


def test_the_fingerprint_ignores_what_is_not_content():
    record = tiny()
    columns = dict(reversed(record.responses.items()))
    columns["client"] = columns["client"].astype(np.int16)
    columns["arrival_ns"] = np.repeat(columns["arrival_ns"], 2)[::2].astype(">i8")
    same = tiny(
        responses=columns,
        counters=dict(reversed({**tiny().counters, "lost_responses": np.int64(1)}.items())),
        events=[dict(reversed(event.items())) for event in record.events],
    )
    assert same.fingerprint() == record.fingerprint()


def test_the_fingerprint_is_the_same_in_other_processes():
    script = (
        "import json, sys; from colosim.model.results import RunRecord;"
        "print(RunRecord(**json.load(sys.stdin)).fingerprint())"
    )
    record = tiny()
    content = {each.name: getattr(record, each.name) for each in fields(record)}
    text = json.dumps(content, default=lambda column: column.tolist())

    def run(hash_seed):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(
            [sys.executable, "-c", script],
            input=text, env=environment, capture_output=True, check=True, text=True,
        ).stdout.strip()  # fmt: skip

    assert run("1") == run("31337") == record.fingerprint()


# --- tables --------------------------------------------------------------------------------------


def test_empty_tables_have_all_columns():
    record = RunRecord("none", 1, 0, 1, 0)
    assert tuple(record.responses) == RESPONSE_COLUMNS
    assert tuple(record.checkpoints) == CHECKPOINT_COLUMNS


def test_tables_are_checked():
    columns = tiny().responses
    without = {name: column for name, column in columns.items() if name != "client"}
    for wrong, message in (
        (without, "missing or unknown column client"),
        ({**columns, "colour": columns["client"]}, "missing or unknown column colour"),
        ({**columns, "client": columns["client"][:-1]}, "unequal length"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny(responses=wrong)


def test_an_event_that_cannot_be_written_down_is_an_error():
    with pytest.raises(TypeError, match="cannot hold a object"):
        tiny(events=[{"detail": object()}]).fingerprint()
