"""The figure of hold times says what the tables say, with many frames, with few and with none."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

from colosim.analysis.plots import holds


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def hold_times(frames, checkpoints) -> Any:
    """The chart, of whose parts matplotlib's types say little."""
    return holds.hold_times(frames, checkpoints)


def table(holds_s, outcomes="equal"):
    n = len(holds_s)
    return pd.DataFrame(
        {"made_s": np.arange(n) / 100, "hold_s": holds_s, "outcome": outcomes}
    ).astype({"made_s": float, "hold_s": float})


def checkpoints(*rows):
    return pd.DataFrame(rows, columns=["time_s", "why"]).astype({"time_s": float, "why": object})


def test_each_held_frame_is_a_point_and_each_checkpoint_a_tick():
    frames = table(
        [0, 0.002, 0.004, np.nan, 0.5], ["equal", "equal", "equal", "held", "checkpoint"]
    )
    chart = hold_times(frames, checkpoints((0.02, "content"), (0.03, "late"), (0.04, "content")))
    upper, lower = chart.axes
    assert upper.get_title() == "frames: 5, left at once: 1, held: 3, never left: 1"
    equal, covered = upper.collections
    np.testing.assert_allclose(equal.get_offsets(), [(0.01, 2), (0.02, 4)])
    np.testing.assert_allclose(covered.get_offsets(), [(0.04, 500)])
    assert [text.get_text() for text in lower.get_yticklabels()] == ["content (2)", "late (1)"]
    assert [list(ticks.get_positions()) for ticks in lower.collections] == [[0.02, 0.04], [0.03]]
    [legend] = chart.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["equal output of the secondary", "left with a checkpoint"]


def test_many_frames_are_median_and_longest_of_stretches():
    holds_s = np.tile([0.001, 0.003, 0.002, 0.1], 2_500)
    upper, _ = hold_times(table(holds_s), checkpoints()).axes
    [line] = upper.get_lines()
    assert len(line.get_xdata()) == 200
    np.testing.assert_allclose(line.get_ydata(), 2.5)
    [band] = upper.collections
    [path] = band.get_paths()
    assert path.vertices[:, 1].max() == pytest.approx(100)


@pytest.mark.parametrize("holds_s", [[], [0, 0], [np.nan]])
def test_nothing_was_held(holds_s, tmp_path):
    chart = hold_times(table(holds_s), checkpoints())
    upper, lower = chart.axes
    assert [text.get_text() for text in upper.texts] == ["no frame left after waiting"]
    assert [text.get_text() for text in lower.get_yticklabels()] == ["none"]
    assert chart.legends == []
    assert all(path.stat().st_size for path in chart.save(tmp_path / "none"))
