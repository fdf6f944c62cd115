"""Sobol indices: of a function whose indices are known, and of COLO at small counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from colosim.store import StoreError
from experiments import sensitivity
from experiments.sensitivity.__main__ import main

N = 8


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("sensitivity")


@pytest.fixture(scope="module")
def table(out):
    return sensitivity.run(out, N, replications=2, jobs=1)


def test_indices_of_a_function_that_are_known():
    """4 a + 2 b + 3 (c - 1/2)(d - 1/2): variances 16/12, 4/12 and 9/144, the last one shared."""
    design = sensitivity.sample(512)
    a, b, c, d = design[:, :4].T
    y = 4 * a + 2 * b + 3 * (c - 0.5) * (d - 0.5)
    table = pd.DataFrame({"point": range(len(y)), "replication": 0, "stopped": y})
    found = sensitivity.indices(table, ["stopped"]).set_index("input")
    whole = 16 / 12 + 4 / 12 + 9 / 144
    names = [each.name for each in sensitivity.INPUTS]
    first = dict(zip(names, [16 / 12 / whole, 4 / 12 / whole, 0, 0, 0, 0, 0], strict=True))
    alone = 9 / 144 / whole
    more = dict(zip(names, [0, 0, alone, alone, 0, 0, 0], strict=True))
    for name in names:
        row = found.loc[name]
        assert row["first"] == pytest.approx(first[name], abs=0.03)
        assert row["total"] == pytest.approx(first[name] + more[name], abs=0.03)
        assert row["first_low"] - 1e-9 <= row["first"] <= row["first_high"] + 1e-9
        assert row["total_low"] - 1e-9 <= row["total"] <= row["total_high"] + 1e-9


def test_the_design_is_a_then_b_then_a_with_a_column_of_b():
    design = sensitivity.sample(N)
    d = len(sensitivity.INPUTS)
    a, b, *mixed = np.split(design, d + 2)
    for i, part in enumerate(mixed):
        assert (part[:, i] == b[:, i]).all()
        assert (np.delete(part, i, axis=1) == np.delete(a, i, axis=1)).all()


def test_a_point_is_within_its_ranges_and_a_scenario():
    for u in (0.0, 1.0):
        point = np.full(len(sensitivity.INPUTS), u)
        made = sensitivity.base().replace(sensitivity.changes(point))
        assert made.divergence.hazard_per_s == pytest.approx((0.05, 20)[int(u)])
        assert made.execution.jitter == (0.0, 0.3)[int(u)]


def test_every_point_is_there_and_plausible(table):
    assert len(table) == 2 * N * (len(sensitivity.INPUTS) + 2)
    assert table.notna().all(axis=None)
    assert table["stopped"].between(0, 1).all()
    assert (table["slowdown"] > 0).mean() > 0.9


def test_what_is_there_is_not_run_again_and_another_design_is_refused(table, out, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a point was run again")

    monkeypatch.setattr(sensitivity, "_measure", refuse)
    pd.testing.assert_frame_equal(sensitivity.run(out, N, replications=2, jobs=1), table)
    with pytest.raises(StoreError, match="another"):
        sensitivity.run(out, N, replications=3, jobs=1)


def test_command(table, tmp_path, monkeypatch):
    monkeypatch.setattr(sensitivity, "run", lambda *arguments: table)
    done = CliRunner().invoke(main, ["--out", str(tmp_path), "--points", str(N)])
    assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.iterdir()} == {
        *("sensitivity.md", "points.csv", "indices.csv"),
        *("indices.svg", "indices.png", "effects.svg", "effects.png"),
    }


def test_points_are_a_power_of_two(tmp_path):
    done = CliRunner().invoke(main, ["--out", str(tmp_path), "--points", "100"])
    assert done.exit_code == 2
    assert "give 64 or 128" in done.output
