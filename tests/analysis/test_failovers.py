"""A live run's faults and takeovers in words."""

import math

import pandas as pd
import pytest

from colosim.analysis.failovers import happened


def told(*rows):
    table = pd.DataFrame(rows, columns=["at_ns", "node", "what", "detail"])
    return happened(table, {"longest_gap_ms": 333.4, "lost_responses": 0.0})


BEGIN = (0, "run", "begin", "")
CRASH = (4_003_998_116, "primary", "fault", "host crash")
VOTE = (4_037_863_872, "secondary", "vote", "granted")
PROMOTED = (4_050_347_235, "secondary", "promoted", "")


def test_a_takeover_is_told_with_its_time_and_what_clients_noticed():
    assert told(BEGIN, CRASH, VOTE, PROMOTED) == (
        "the primary's host crashed at 4.0 s; the secondary took over 46 ms later; "
        "longest gap 333 ms; no response lost"
    )


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([BEGIN], "no fault was injected, and nobody took over"),
        ([CRASH], "the primary's host crashed at 4.0 s; nobody took over"),
        (
            [(1e9, "secondary", "fault", "vm hang at load"), (2.5e9, "primary", "promoted", "")],
            "the secondary's QEMU hung at load at 1.0 s; the primary went on alone 1.5 s later",
        ),
        (
            [(1e9, "link", "fault", "link cut"), (2e9, "link", "healed", "link")],
            "the link was cut at 1.0 s; link healed at 2.0 s; nobody took over",
        ),
        ([PROMOTED], "the secondary took over at 4.1 s, without a fault"),
        (
            [(1e9, "primary", "switchover", "asked for"), (1.01e9, "secondary", "promoted", "")],
            "a switchover was asked for at 1.0 s; the secondary took over 10 ms later",
        ),
        (
            [
                CRASH,
                PROMOTED,
                (6e9, "secondary", "protected", "by host c"),
                (8e9, "primary.2", "fault", "node crash"),
                (8.2e9, "secondary.2", "promoted", ""),
            ],
            "the primary's host crashed at 4.0 s; the secondary took over 46 ms later; protected "
            "again at 6.0 s; the primary's node was killed at 8.0 s; the secondary took over "
            "200 ms later",
        ),
        (
            [CRASH, PROMOTED, (6e9, "secondary", "fault", "vm crash")],
            "the primary's host crashed at 4.0 s; the secondary took over 46 ms later; the "
            "survivor's QEMU was killed at 6.0 s; nobody took over",
        ),
        (
            [(1e9, "run", "no fault", "there is no secondary at this time")],
            "no fault: there is no secondary at this time",
        ),
    ],
)
def test_only_what_was_recorded_is_said(rows, says):
    assert told(*rows) == f"{says}; longest gap 333 ms; no response lost"


def test_without_clients_nothing_is_said_of_them():
    table = pd.DataFrame([CRASH], columns=["at_ns", "node", "what", "detail"])
    said = happened(table, {"longest_gap_ms": math.nan, "lost_responses": math.nan})
    assert said == "the primary's host crashed at 4.0 s; nobody took over"
    assert happened(table, {"longest_gap_ms": 1500.0, "lost_responses": 2.0}).endswith(
        "longest gap 1.5 s; 2 responses lost"
    )
