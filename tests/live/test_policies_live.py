"""Policies `hybrid` and `adaptive` on real guests: the same core decides by what real guests do."""

from __future__ import annotations

import numpy as np
import pytest

from colosim.protocol import types as t
from tests.live.pairs import needs_qemu
from tests.live.services import Going, check_served, loses, ran


@needs_qemu
def test_hybrid_turns_periodic_and_its_guest_is_taken_over(tmp_path):
    """A compare timeout of 1 ms is a storm; then all output waits for the commit."""
    policy = {"compare_timeout": "1 ms", "storm_checkpoints": 2, "storm_window": "10 s"}

    async def story(going: Going) -> None:
        await going.told(t.OutputRule, 1)
        await loses(checkpoints=going.run.checkpoints + 4)(going)

    outcome = ran(
        tmp_path,
        "hybrid",
        story,
        client={"kind": "echo"},
        policy={"name": "hybrid", "hybrid": {**policy, "interval": "200 ms"}},
    )
    check_served(outcome)
    rules = [line.body.output for line in outcome.lines if isinstance(line.body, t.OutputRule)]
    assert rules[:1] == [t.Output.COMMIT]
    reasons = set(outcome.record.checkpoints["reason"])
    assert "interval" in reasons
    assert {"mismatch", "compare-timeout"} & reasons
    assert [e["node"] for e in outcome.record.events if e["what"] == "promoted"] == ["secondary"]


@needs_qemu
@pytest.mark.campaign
def test_adaptive_follows_what_checkpoints_take(tmp_path):
    policy = {"minimum_interval": "50 ms", "maximum_interval": "2 s", "busy_percent": 10}
    outcome = ran(
        tmp_path,
        "adaptive",
        client={"kind": "echo"},
        policy={"name": "adaptive", "adaptive": policy},
    )
    check_served(outcome, 7)
    table = outcome.record.checkpoints
    gaps_ns = np.diff(table["started_ns"])
    busy_ns = (table["committed_ns"] - table["started_ns"])[2:-1]
    assert len(gaps_ns) > 3
    assert gaps_ns.min() >= 50_000_000
    # a tenth, but for how much checkpoints differ
    assert 0.02 < np.median(busy_ns) / np.median(gaps_ns[2:]) < 0.5
