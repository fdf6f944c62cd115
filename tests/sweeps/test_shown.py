"""What a notebook shows of a plan and of how a sweep ended."""

from __future__ import annotations

import tomllib
from pathlib import Path

from colosim import Scenario, sweeps
from colosim.sweeps import Outcome
from tests.small import SCENARIO


def plan_of(values):
    axes = {"link.bandwidth": values, "policy.remus.interval": ["25 ms", "50 ms"]}
    base = Scenario.from_mapping(tomllib.loads(SCENARIO))
    return sweeps.plan(
        {"scenario": base, "policies": ["none", "remus"], "replications": 3, "axes": axes}
    )


def test_a_plan_says_how_much_there_is_to_run_and_over_what():
    html = plan_of(["1 Gbit/s", "2 Gbit/s"])._repr_html_()
    assert "6 points, 18 runs" in html
    shown, folded = html.split("<details>", 1)
    assert "1 Gbit/s, 2 Gbit/s" in shown
    assert "25 ms, 50 ms" in shown
    assert "none, remus" in shown
    assert "workload.kind" in folded


def test_an_adaptive_plan_says_what_it_begins_with():
    base = Scenario.from_mapping(tomllib.loads(SCENARIO))
    plan = sweeps.plan({"scenario": base, "replications": 5}, adaptive=True)
    assert "1 points, at least 5 runs" in plan._repr_html_()


def test_a_long_axis_is_shortened():
    html = plan_of([f"{n} Gbit/s" for n in range(1, 21)])._repr_html_()
    assert "20 values: 1 Gbit/s, 2 Gbit/s ... 20 Gbit/s" in html


def test_an_outcome_says_how_far_it_came_and_what_failed():
    outcome = Outcome(Path("out/x"), 5, reused=1, finished=3, runs=9)
    outcome.failures["remus, a = <1>"] = "ValueError: no"
    html = outcome._repr_html_()
    assert "4 of 5 points are there; 1 failed" in html
    assert "3 points, 9 replications" in html
    assert "remus, a = &lt;1&gt;" in html
    whole = Outcome(Path("out/x"), 2, reused=2, interrupted=True)._repr_html_()
    assert "interrupted, 2 of 2 points are there" in whole
    assert "<details>" not in whole
