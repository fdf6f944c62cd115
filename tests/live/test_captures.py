"""Captures of a live pair, compared afterwards, say what the pair's own comparator said."""

from __future__ import annotations

import colosim
from colosim.protocol import types as t
from tests.live.pairs import needs_qemu
from tests.live.services import Going, check_served, ran
from tests.live.test_colo import COLO, found


@needs_qemu
def test_captures_tell_the_differences_that_the_pair_found(tmp_path):
    async def story(going: Going) -> None:
        await going.told(t.Mismatch, 8)
        await going.served()

    outcome = ran(
        tmp_path,
        "colo",
        story,
        client={"kind": "work", "size": "1 KiB"},
        divergence={"probability": 0.02},
        **COLO,
    )
    check_served(outcome)
    after = colosim.compare_pcap(
        tmp_path / "a.frames.pcap", tmp_path / "b.frames.pcap", compare_timeout_s=0.3
    )
    ours = after.verdicts.query("what == 'differs' and primary_frame.notna()")
    sides = "{connection}: byte {offset}: {ours} here, {theirs} there"
    afterwards = {
        row["primary_frame"] - 1: (row["why"], sides.format_map(row))
        for row in ours.to_dict("records")
    }
    made = [each.range for each in found(outcome, t.GuestOutput)]
    at_once = {
        each.range.first: (each.why, each.detail)
        for each in found(outcome, t.Mismatch)
        if each.range.stream == "a.frames"
    }
    print(after.reasons, after.notes, at_once, sep="\n")
    assert len(after.frames) == max(each.end for each in made if each.stream == "a.frames")
    assert len(at_once) >= 3
    outcomes = dict(zip(after.frames["frame"] - 1, after.frames["outcome"], strict=True))
    same = [frame for frame in at_once if afterwards.get(frame) == at_once[frame]]
    assert len(same) > len(at_once) / 2
    # The pair's cuts come later than those assumed, so another checkpoint may have covered it.
    assert {outcomes[frame] for frame in at_once} == {"checkpoint"}
    # While the pair made a checkpoint it said nothing of other differences.
    assert len(afterwards) <= 2 * len(at_once)
    assert set(outcomes.values()) <= {"equal", "checkpoint", "held"}
