"""What is counted as compared, from tables of a few answers."""

from __future__ import annotations

import pandas as pd
import pytest

from colosim.calibration.epochs import epochs
from colosim.scenario import Scenario

MS = 1_000_000
SCENARIO = Scenario.from_mapping(
    {
        "name": "four",
        "duration": "400 ms",
        "policy": {"name": "colo"},
        "workload": {"kind": "service", "load": "open", "rate": "20 /s", "service_time": "1 ms"},
        "memory": {"kind": "uniform", "working_set_pages": 10, "touches": "1 /s"},
    }
)
CHECKPOINTS = pd.DataFrame(
    {
        "checkpoint": [1, 2, 3],
        "started_ns": [100 * MS, 200 * MS, 300 * MS],
        "committed_ns": [110 * MS, 210 * MS, 310 * MS],
        "resumed_ns": [112 * MS, 212 * MS, 312 * MS],
        "completed_ns": [112 * MS, 212 * MS, 312 * MS],
    }
)


def responses(*came: tuple[int, int]) -> pd.DataFrame:
    """When each was asked for and when it came, in ms."""
    rows = [(0, n, asked * MS, released * MS) for n, (asked, released) in enumerate(came)]
    return pd.DataFrame(rows, columns=["client", "request", "arrival_ns", "released_ns"])


def holds(*left: tuple[int, str]) -> pd.DataFrame:
    """When each frame left, in ms, and how."""
    rows = [(at * MS, 0, 1, how) for at, how in left]
    return pd.DataFrame(rows, columns=["made_ns", "hold_ns", "frames", "how"])


@pytest.mark.parametrize(
    ("came", "left", "counted"),
    [
        # asked for, made and equal in one epoch
        ([(20, 31), (130, 141)], [(30, "match"), (140, "match")], [1, 1, 0, 0]),
        # left with the commit at 110, and came soon, or 40 ms later than others do
        ([(50, 111), (60, 151)], [(110, "commit"), (110, "commit")], [0, 0, 0, 0]),
        # one of those that came late was equal after the checkpoint
        (
            [(50, 111), (60, 151), (70, 152)],
            [(110, "commit"), (110, "commit"), (150, "match")],
            [0, 1, 0, 0],
        ),
    ],
)
def test_what_left_with_a_commit_is_not_compared_however_late_it_comes(came, left, counted):
    found = epochs(CHECKPOINTS, responses(*came), {}, SCENARIO, holds(*left))
    assert found["responses"].tolist() == counted
    assert found["why"].tolist() == [""] * 4


def test_the_one_that_differs_is_of_those_compared():
    """Its epoch ends with it: it leaves with the commit that it caused."""
    came, left = responses((130, 141), (150, 211)), holds((140, "match"), (210, "commit"))
    found = epochs(CHECKPOINTS, came, {2: "content"}, SCENARIO, left)
    assert found["responses"].tolist() == [0, 2, 0, 0]
    assert found["why"].tolist() == ["", "content", "", ""]
