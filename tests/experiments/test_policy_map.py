"""The policy map: what is in a contest, who wins it, where the border is; and a small run."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from experiments import policy_map
from experiments.policy_map import Grid, figures, report
from experiments.policy_map.__main__ import main

METRIC = "latency_mean_ms"
SMALL = Grid((1_000.0, 30_000.0), (0.1, 300.0), ("1 Gbit/s",))


def table_of(cells):
    """(policy, hazard) -> (latencies, throughput): a table of one link and dirty rate."""
    rows = []
    for (policy, hazard), (latencies, throughput) in cells.items():
        place = (np.nan, np.nan) if policy == "none" else (1e9, 1000.0)
        for i, latency in enumerate(latencies):
            rows.append((policy, *place, hazard, i, METRIC, "ms", latency))
            rows.append((policy, *place, hazard, i, "throughput_per_s", "1/s", throughput))
    columns = ["policy", *policy_map.CELL, "replication", "metric", "unit", "value"]
    return pd.DataFrame(rows, columns=columns)


def made(colo, remus, hybrid=None, answered=100.0):
    """Policies over two divergence rates, four replications each."""
    cells = {
        ("none", np.nan): ([1.0] * 4, 100.0),
        ("remus", np.nan): (remus, 100.0),
    }
    for hazard, latencies in zip((1.0, 10.0), colo, strict=True):
        cells["colo", hazard] = (latencies, answered)
        if hybrid:
            cells["hybrid", hazard] = (hybrid, 100.0)
    return table_of(cells)


NEAR = [20.0, 21.0, 20.5, 20.2]


def test_the_least_mean_wins_and_the_border_lies_between():
    table = made(([2.0, 2.1, 1.9, 2.2], [40.0, 42.0, 41.0, 39.0]), NEAR)
    won = policy_map.cells(table, METRIC)
    assert list(won["policy"]) == ["colo", "remus"]
    assert (won["confidence"] > 0.99).all()
    [line] = policy_map.border(table, METRIC).to_dict("records")
    assert (line["sure_to_per_s"], line["sure_from_per_s"]) == (1.0, 10.0)


def test_what_paired_differences_do_not_tell_is_not_decided():
    table = made(([2.0, 2.1, 1.9, 2.2], [19.0, 23.0, 20.0, 21.0]), NEAR)
    won = policy_map.cells(table, METRIC)
    assert won["confidence"].iloc[1] < policy_map.SURE
    [line] = policy_map.border(table, METRIC).to_dict("records")
    assert line["sure_to_per_s"] == 1.0
    assert np.isnan(line["sure_from_per_s"])
    texts = dict(report.maps(table, METRIC))["1 Gbit/s"]
    assert texts["10/s"].item().endswith("?")
    assert not texts["1/s"].item().endswith("?")


def test_who_does_not_keep_up_looks_quick_and_does_not_compete():
    table = made(([1.1] * 4, [1.1] * 4), NEAR, answered=50.0)
    assert set(policy_map.cells(table, METRIC)["policy"]) == {"remus"}
    alone = table[table["policy"] != "remus"]
    assert policy_map.cells(alone, METRIC)["policy"].isna().all()
    assert set(report.border(policy_map.border(table, METRIC)).iloc[0]) == {"none to 1/s"}


def test_hybrid_that_is_colo_is_told_as_colo():
    colo = [2.0, 2.1, 1.9, 2.2]
    table = made((colo, [5.0, 5.2, 5.1, 4.9]), NEAR, hybrid=colo)
    won = policy_map.cells(table, METRIC)
    assert list(won["policy"]) == ["colo", "hybrid"]
    assert won["runner_up"].iloc[0] == "remus"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("map")


@pytest.fixture(scope="module")
def small(out):
    return policy_map.run(out, SMALL, replications=2, jobs=1)


def test_every_policy_is_in_every_cell(small):
    counts = small.groupby("policy")["value"].size() / (2 * 3)
    assert counts.to_dict() == {"none": 1, "remus": 2, "microcheckpoint": 2, "colo": 4, "hybrid": 4}


def test_what_is_there_is_not_run_again(small, out, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a cell was run again")

    monkeypatch.setattr("colosim.sweeps.working.run_replication", refuse)
    again = policy_map.run(out, SMALL, replications=2, jobs=1)
    pd.testing.assert_frame_equal(small, again)


def test_guests_that_agree_are_for_colo_and_a_storm_is_not(small):
    won = policy_map.cells(small, METRIC).set_index([policy_map.DIRTY, policy_map.DIVERGENCE])
    assert won.loc[(1_000.0, 0.1), "policy"] == "colo"
    assert won.loc[(1_000.0, 300.0), "policy"] != "colo"


def test_a_cell_of_nobody_is_grey(small):
    """Where nobody answers but hybrid and colo at 300 differences a second."""
    throughput = small["metric"] == policy_map.THROUGHPUT
    none = small.loc[throughput & (small["policy"] == "none"), "value"].mean()
    idle = (small[policy_map.DIRTY] == 30_000) & (small[policy_map.DIVERGENCE] != 300)
    table = small.assign(value=small["value"].mask(throughput, none).mask(throughput & idle, 0))
    won = policy_map.cells(table, METRIC)
    assert won["policy"].isna().sum() == 1
    chart = figures.draw(table, METRIC)
    grey: Any
    [grey] = chart.axes[0].patches
    assert grey.get_path().get_extents(grey.get_patch_transform()).min.tolist() == [-0.5, 0.5]
    assert "nobody keeps up" in {text.get_text() for text in chart.legends[0].get_texts()}


def test_command(small, tmp_path, monkeypatch):
    asked = []

    def run(*arguments):
        asked.append(arguments[1])
        return small

    monkeypatch.setattr(policy_map, "run", run)
    for full in ([], ["--full"]):
        done = CliRunner().invoke(main, ["--out", str(tmp_path), *full])
        assert done.exit_code == 0, done.output
    assert asked == [policy_map.QUICK, policy_map.FULL]
    figures_of = itertools.product(policy_map.METRICS, ("svg", "png"))
    written = {path.name for path in tmp_path.iterdir()}
    assert {f"{name}.{kind}" for name, kind in figures_of} <= written
    assert "1000 | " in (tmp_path / "policy_map.md").read_text("utf-8")


def test_a_directory_of_another_run_is_refused_in_one_line(tmp_path):
    (tmp_path / "runs" / "none").mkdir(parents=True)
    (tmp_path / "runs" / "none" / "letter.txt").write_text("mine")
    done = CliRunner().invoke(main, ["--out", str(tmp_path), "--replications", "2"])
    assert done.exit_code == 2
    assert "give a new or empty one" in done.output
    assert "Traceback" not in done.output
