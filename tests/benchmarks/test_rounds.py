"""Turns, ratios and their intervals, on rates that are known."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks.command import to_json
from benchmarks.rounds import Ratio, Row, markdown, ratio, rows, table, turns


def test_cases_take_turns():
    order = []

    def case(name):
        def run():
            order.append(name)
            return 10, 0.5

        return run

    rates = turns({"a": case("a"), "b": case("b")}, 3)
    assert order == ["a", "b"] * 3
    assert rates == {"a": [20.0] * 3, "b": [20.0] * 3}


def test_a_slow_moment_that_meets_both_is_not_in_the_ratio():
    found = ratio([8.0, 4.0, 80.0], [4.0, 2.0, 40.0])
    assert found.n == 3
    assert found.mean == pytest.approx(2.0)
    assert found.high - found.low == pytest.approx(0.0)


def test_the_inverse_has_the_inverse_interval():
    over, under = [3.0, 5.0, 4.0, 6.0], [1.0, 2.5, 1.5, 2.0]
    there, back = ratio(over, under), ratio(under, over)
    assert there.low < there.mean < there.high
    assert back.mean == pytest.approx(1 / there.mean)
    assert back.low == pytest.approx(1 / there.high)


def test_one_round_has_no_interval():
    found = ratio([3.0], [1.5])
    assert found.mean == pytest.approx(2.0)
    assert math.isnan(found.low)
    assert str(found) == "2.00"


def test_rows_have_ratios_to_peers_that_ran():
    found = rows({"ours": [4.0, 4.0], "peer": [2.0, 2.0]}, "events", ("peer", "absent"))
    assert [row.case for row in found] == ["ours", "peer"]
    assert {name: each.mean for name, each in found[0].ratios.items()} == {"peer": 2.0}
    assert found[1].ratios == {}
    assert table(found) == [
        ("case", "events a second (min to max)", "times peer"),
        ("ours", "4 (4 to 4)", "2.00 (2.00 to 2.00)"),
        ("peer", "2 (2 to 2)", ""),
    ]


def test_a_ratio_to_what_is_no_case_comes_first():
    row = Row("ours", "requests", (1.0, 1.0, 1.0), {"b": Ratio(1, 1, 1, 1), "a": Ratio(1, 2, 2, 2)})
    lines = table([row, Row("b", "requests", (1.0, 1.0, 1.0))])
    assert lines[0][2:] == ("times a", "times b")
    assert len({line.count("|") for line in markdown(lines).splitlines()}) == 1


def test_json_has_null_for_what_has_no_value():
    found = json.loads(to_json({"ratio": ratio([1.0], [1.0]), "list": [(1, "a")]}))
    assert found == {"ratio": {"n": 1, "mean": 1.0, "low": None, "high": None}, "list": [[1, "a"]]}
