"""What came out, in one sentence."""

from __future__ import annotations

import pandas as pd

from colosim.analysis import verdict


def summary_of(rows):
    """policy, metric, mean, half of its interval, mean difference, half of its interval."""
    found = [
        (policy, metric, 4, mean, mean - half, mean + half, diff, diff - wide, diff + wide)
        for policy, metric, mean, half, diff, wide in rows
    ]
    columns = ["policy", "metric", "n", "mean", "ci_low", "ci_high"]
    return pd.DataFrame(found, columns=[*columns, "diff", "diff_low", "diff_high"])


LATENCY = [
    ("none", "latency_mean_ms", 2.0, 0.5, float("nan"), float("nan")),
    ("remus", "latency_mean_ms", 30.0, 0.5, 28.0, 0.1),
    ("colo", "latency_mean_ms", 5.0, 0.5, 3.0, 0.1),
]
POLICIES = ["none", "remus", "colo"]


def test_the_least_dear_is_named_first_with_its_paired_difference():
    text = verdict.of_comparison(summary_of(LATENCY), "none", POLICIES, 0)
    assert text == (
        "colo costs least: mean latency +3.000 ± 0.100 ms over none; remus +28.00 ± 0.10 ms."
    )


def test_intervals_that_overlap_decide_nothing():
    rows = [*LATENCY[:1], LATENCY[1], ("colo", "latency_mean_ms", 29.0, 0.5, 27.0, 5.0)]
    assert "not decided" in verdict.of_comparison(summary_of(rows), "none", POLICIES, 0)


def test_another_baseline_is_told_by_means():
    text = verdict.of_comparison(summary_of(LATENCY[1:]), "remus", POLICIES[1:], 0)
    assert text == "colo costs least: mean latency 5.000 ± 0.500 ms; remus 30.00 ± 0.50 ms."


def test_a_baseline_that_was_not_run_leaves_means():
    summary = summary_of(LATENCY[1:]).assign(diff=float("nan"))
    text = verdict.of_comparison(summary, "none", POLICIES[1:], 0)
    assert text == "colo costs least: mean latency 5.000 ± 0.500 ms; remus 30.00 ± 0.50 ms."


def test_what_is_broken_comes_first():
    assert verdict.of_comparison(summary_of(LATENCY), "none", POLICIES, 2).startswith("2 broken")
    assert verdict.of_run(summary_of(LATENCY[2:]), "colo", 1).startswith("1 broken")


def test_one_policy_and_none():
    one = verdict.of_comparison(summary_of(LATENCY[:2]), "none", POLICIES[:2], 0)
    assert one == "remus: mean latency +28.00 ± 0.10 ms over none."
    assert "nothing" in verdict.of_comparison(summary_of(LATENCY[:1]), "none", ["none"], 0)


def test_a_job_is_told_by_its_time():
    rows = [
        ("remus", "latency_mean_ms", 68_000.0, 7.0, 0.0, 0.0),
        ("remus", "completion_time_s", 68.0, 0.5, 0.0, 0.0),
        ("remus", "pause_mean_ms", 2.9, 0.1, 0.0, 0.0),
    ]
    text = verdict.of_run(summary_of(rows), "remus", 0)
    assert text == "remus: job done in 68.00 ± 0.50 s; mean pause 2.900 ± 0.100 ms."
    assert verdict.of_run(summary_of([]), "remus", 0) == "remus: nothing was measured."
