"""Who is chosen, and how sure that is said to be, from tables whose truth is known."""

import math
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from colosim.scenario import Scenario
from colosim.sizing.basis import Basis, Curve
from colosim.sizing.candidates import candidates
from colosim.sizing.changes import changes
from colosim.sizing.choosing import choose
from colosim.sizing.lab import quiet
from colosim.sizing.needs import link
from colosim.sizing.report import _gains, _sure
from colosim.sizing.sources.pages import grouped
from colosim.sizing.trials import QUICK, Trials, behind, best_of
from tests.report.conftest import SMALL


@pytest.fixture
def trials(tmp_path):
    return Trials(Basis(dict(SMALL), has_length=True), tmp_path, "p99", QUICK, 1, quiet, print)


def table(**rows: Any) -> pd.DataFrame:
    """p99 latency and throughput of three replications, by candidate."""
    return pd.DataFrame(
        [
            {
                "key": (label.replace("_", " "),),
                "replication": i,
                "latency_p99_ms": p99 + 0.1 * i * i,
                "throughput_per_s": per_s,
            }
            for label, (p99, per_s) in rows.items()
            for i in range(3)
        ]
    )


@pytest.fixture
def known(trials):
    return candidates(trials.scenario, ["remus", "colo"], ["25 ms", "100 ms"])[0]


def test_the_least_is_chosen_and_the_best_of_each_way_is_looked_at(trials, known):
    found = choose(
        trials,
        table(none=(1, 100), remus_25_ms=(30, 100), remus_100_ms=(110, 100), colo=(50, 100)),
        known,
    )
    assert (found.label, found.runner_up) == ("remus 25 ms", "colo")
    assert found.certain == 1.0
    assert list(found.tried) == ["none", "remus 25 ms", "colo", "remus 100 ms"]


def test_who_does_not_keep_up_has_no_say_in_how_sure_it_is(trials, known):
    """Its latency may be the least: most of its answers did not come."""
    found = choose(
        trials,
        table(none=(1, 100), remus_25_ms=(5, 20), remus_100_ms=(110, 100), colo=(50, 100)),
        known,
    )
    assert (found.label, found.certain, found.keeps_up) == ("colo", 1.0, True)


def test_where_nobody_keeps_up_nothing_is_said_of_how_sure_it_is(trials, known):
    found = choose(
        trials,
        table(none=(1, 100), remus_25_ms=(5, 20), remus_100_ms=(110, 70), colo=(50, 60)),
        known,
    )
    assert found.label == "remus 100 ms"
    assert math.isnan(found.certain)
    assert not found.keeps_up
    said = SimpleNamespace(
        certain=found.certain, runner_up="", best=(0, 0, math.nan, math.nan), undone=()
    )
    assert _sure(said).startswith("None keeps up")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("score", "least", "late"),
    [(10, 10, 0), (12, 10, 0.2), (0, 0, 0), (0.1, 0, math.inf), (math.inf, 10, math.inf)],
)
def test_how_far_behind(score, least, late):
    assert behind(score, least) == pytest.approx(late)


def test_where_nobody_keeps_up_nobody_is_the_best():
    assert best_of({"a": math.inf, "b": 2.0, "c": 2.0}) == "b"
    assert best_of({"a": math.inf, "b": math.inf}) == ""
    assert behind(math.inf, math.inf) == math.inf


def test_a_link_is_enough_if_all_wider_ones_are(trials, known, monkeypatch):
    goals = {3_906_250: 50.0, 15_625_000: 10.5, 62_500_000: 14.0}  # the second by chance

    def run(tasks, what):
        return pd.DataFrame(
            [
                {
                    "key": task.key,
                    "latency_p99_ms": goals.get(int(task.key[0]), 10.0),
                    "link_mbit_per_s": 1.0,
                    "throughput_per_s": 100.0,
                }
                for task in tasks
            ]
        )

    monkeypatch.setattr(trials, "run", run)
    found = link(trials, known["colo"])
    assert found["bandwidth_bps"].is_monotonic_increasing
    assert found["enough"].tolist() == [False, False, False, True, True, True, True]


def test_what_helps_most_is_no_change_of_which_nothing_is_known():
    rows = {
        "what": ["a", "b", "all of these"],
        "p99_gain_ms": [2.0, math.nan, 9.0],
        "gain_low": [1.0, math.nan, 8.0],
        "p99_ms": [3.0, 4.0, 1.0],
        "checkpoints_per_s": [1.0, 2.0, 0.0],
    }
    frame = pd.DataFrame(rows)
    frame.attrs |= {"candidate": "colo", "before": 4.0}
    [said] = _gains(SimpleNamespace(changes=frame))  # type: ignore[arg-type]
    assert "would help colo most: a out" in said


def test_a_job_has_nothing_to_change_in_its_answers(tmp_path, known):
    job = {**SMALL, "warm_up": "0 s", "workload": {"kind": "batch", "work": "1 s"}}
    trials = Trials(Basis(job, has_length=True), tmp_path, "p99", QUICK, 1, quiet, print)
    assert trials.metric == "completion_time_s"
    assert changes(trials, known, "colo").empty


def test_points_of_like_exposure_are_one_and_no_checkpoint_is_lost():
    pairs = [(100 + i, float(i)) for i in range(12)] + [(150 + i, 1.0) for i in range(20)]
    assert [len(point.samples) for point in grouped(pairs)] == [12, 20]
    many = grouped([(i, 1.0) for i in range(1, 101)], 12)
    assert sum(len(point.samples) for point in many) == 100
    assert min(len(point.samples) for point in many) >= 12
    times = [point.exposure_ns for point in many]
    assert times == sorted(set(times))


def test_a_basis_makes_a_scenario_of_its_curve(tmp_path):
    mapping = {key: value for key, value in SMALL.items() if key != "memory"}
    curve = Curve([(grouped([(10**8, 50.0)]))[0]], 1000, 0.6, 0.6)
    scenario = Basis(mapping, curve=curve).scenario(tmp_path)
    assert isinstance(scenario, Scenario)
    assert scenario.memory.guest_memory_bytes == 1000 * 4096
