"""The growth benchmark runs, and its fits are right where the truth is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from benchmarks import growth


def test_every_axis(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(growth, "VM_REQUESTS", 20)
    file, out = tmp_path / "growth.json", tmp_path / "out"
    arguments = ["--sizes", "3", "--rounds", "1", "--scale", "0.05"]
    growth.main([*arguments, "--json", str(file), "--out", str(out)])
    result = json.loads(file.read_text())
    assert [row["axis"] for row in result["rows"]] == [axis.name for axis in growth.AXES]
    for row in result["rows"]:
        first, second, third = row["sizes"]
        assert second == pytest.approx(2 * first)
        assert third == pytest.approx(4 * first)
        assert min(row["s"]) > 0
        assert min(row["peak_bytes"]) > 0
    assert {path.suffix for path in out.iterdir()} == {".svg", ".png"}
    assert capsys.readouterr().out.count("\n") == 1 + len(growth.AXES)


SIZES = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_is_that_beyond_the_start(power):
    y = 100.0 + 3.0 * (SIZES - SIZES[0]) ** power
    middle, low, high = growth.exponent(SIZES, y)
    assert low <= middle <= high
    assert middle == pytest.approx(power)


def test_what_is_quadratic_is_seen():
    middle, low, _ = growth.exponent(SIZES, 5.0 + 2.0 * SIZES**2)
    assert 1.5 < low < middle


def test_noise_above_the_growth_has_no_exponent():
    assert all(map(math.isnan, growth.exponent(SIZES, np.array([3.0, 2.0, 4.0, 5.0, 6.0, 7.0]))))


def test_the_cost_of_one_more():
    middle, low, high = growth.slope(SIZES, 7.0 + 4.0 * SIZES)
    assert (middle, low, high) == pytest.approx((4.0, 4.0, 4.0))


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("--sizes=2", "--sizes: 2: give a whole number, at least 3"),
        ("--rounds=0", "--rounds: 0: give a whole number, at least 1"),
        ("--rounds=many", "--rounds: many: give a whole number, at least 1"),
        ("--scale=0", "the scale is above 0"),
    ],
)
def test_what_gives_no_fit_is_refused(bad, why, capsys):
    with pytest.raises(SystemExit, match="2"):
        growth.main([bad])
    assert why in capsys.readouterr().err
