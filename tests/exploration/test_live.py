"""The same points on real guests, judged by the same promises."""

from __future__ import annotations

import json
import os

import pytest

from colosim.exploration.live import explore_live, run_live_point
from colosim.exploration.space import Point, PointError, designs, live_point
from tests.live.pairs import needs_qemu

#: real runs of the campaign
POINTS = int(os.environ.get("COLOSIM_EXPLORE_POINTS", "200"))


@needs_qemu
def test_a_point_on_real_guests(tmp_path):
    """The primary's host dies while its state is sent; the text of the point is all it takes."""
    changes = "seed=1 base=live duration=8s"
    text = f"remus/upstream/stop-and-send/loaded {changes}: primary crash host @send#3"
    run, lines = run_live_point(Point.parse(text))
    assert run.struck == 1
    assert run.watcher.alone == ["secondary"]
    assert len(lines) > 100


@needs_qemu
@pytest.mark.campaign
def test_live_points(tmp_path, record_property):
    """Single faults, and each fourth time two."""
    found = explore_live(POINTS, out=tmp_path / "out", say=print)
    counts: dict[str, int] = {}
    for (_, _, outcome), count in found.found.counts.items():
        counts[outcome] = counts.get(outcome, 0) + count
    record_property("counted", f"live points: {counts}")
    body = json.loads((tmp_path / "out" / "report.json").read_text())
    assert body["violations"] == []
    assert found.found.violations == 0
    assert counts.get("not run", 0) <= POINTS // 20


def test_live_points_are_drawn_from_the_seed():
    chosen = [design for design in designs() if design.dialect == "upstream"]
    points = [live_point(number, 1, chosen) for number in range(40)]
    assert points == [live_point(number, 1, chosen) for number in range(40)]
    assert {len(point.faults) for point in points} == {1, 2}
    assert all(fault.kind != "corrupt" for point in points for fault in point.faults)


@pytest.mark.parametrize("designs", ["*/upstream/precopy/*", "*/by-lease"])
def test_what_the_live_world_does_not_have_is_not_tried(designs):
    with pytest.raises(PointError, match="live world has no"):
        explore_live(1, designs)
