"""The view is what the record says, whoever ran it and however it is played."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

import colosim
from backends.sim import run_replication
from colosim.holds import Holds
from colosim.model.results import RunRecord
from colosim.protocol import types as t
from colosim.protocol.trace import Line
from colosim.scenario import Scenario
from colosim.watching.facts import lanes
from colosim.watching.model import Dirty, Holding, Moment, Service, Told, View
from colosim.watching.playing import Player, play, to_end
from colosim.watching.sources import Causal, recording

QUICK: dict[str, Any] = {
    "name": "quick",
    "duration": "1500 ms",
    "workload": {
        "kind": "service",
        "load": "open",
        "rate": "300 /s",
        "service_time": "1 ms",
    },
    "memory": {
        "kind": "uniform",
        "working_set_pages": 400,
        "touches": "4000 /s",
        "guest_memory": "8 MB",
    },
    "divergence": {"probability": 0.05},
    "policy": {"name": "remus", "remus": {"interval": "50 ms"}},
    "manager": {
        "heartbeat_interval": "10 ms",
        "heartbeat_timeout": "50 ms",
        "reprotect": True,
        "reprotect_delay": "50 ms",
    },
}
CRASH = {"target": "primary", "kind": "crash", "scope": "host", "at": "500 ms"}


def check_same(view: View, record: RunRecord, holds: Counter[str]) -> None:
    """Every count of the view is the record's."""
    rows, sums = record.checkpoints, view.totals
    paused = (rows["stopped_ns"] >= 0) & (rows["resumed_ns"] >= 0)
    pauses_ns = (rows["resumed_ns"] - rows["stopped_ns"])[paused]
    saved = rows["pages"] >= 0
    assert sums.checkpoints == len(rows["checkpoint"])
    assert sums.reasons == Counter(rows["reason"])
    assert sums.committed == (rows["committed_ns"] >= 0).sum()
    assert (sums.pauses, sums.pause_ns) == (paused.sum(), pauses_ns.sum())
    assert sums.longest_pause_ns == pauses_ns.max(initial=0)
    assert (sums.dirty_checkpoints, sums.pages) == (saved.sum(), rows["pages"][saved].sum())
    assert sums.sent_bytes == rows["sent_bytes"][rows["sent_bytes"] > 0].sum()
    assert sums.mismatches == record.counters["mismatches"]
    assert sums.stale == record.counters["compare_timeouts"]
    assert sums.released == holds
    exits = [event for event in record.events if event["what"] == "exit"]
    assert sum("left the checkpoint loop" in note.text for note in view.notes) == len(exits)


def watched(scenario: Scenario, policy: str) -> tuple[View, RunRecord, Counter[str]]:
    """A simulation with a view among its observers; pages as its record has them."""
    view, held = View(), Holds(digests=True)
    lines: list[Line] = []
    record = run_replication(scenario, policy, 1, 0, [lines.append, held.see])
    rows = iter(zip(*(record.checkpoints[each] for each in ("checkpoint", "pages")), strict=True))
    for line in lines:
        view.see(Moment(line.now_ns, line))
        if isinstance(line.body, t.CheckpointStarted) and line.node.startswith("primary"):
            number, pages = next(rows)
            if pages >= 0:
                view.see(Moment(line.now_ns, Dirty(line.node, int(number), int(pages))))
    counted: Counter[str] = Counter()
    for hold in held.found:
        counted[hold.how] += hold.frames
    return view, record, counted


@pytest.mark.parametrize("fault", [[], [CRASH]], ids=["", "crash"])
@pytest.mark.parametrize("policy", ["none", "remus", "colo", "hybrid", "microcheckpoint"])
def test_all_counts_are_those_of_the_record(policy, fault):
    view, record, holds = watched(Scenario.from_mapping({**QUICK, "fault": fault}), policy)
    check_same(view, record, holds)
    if policy == "none":
        assert (view.totals.checkpoints, view.service) == (0, Service.UNPROTECTED)
        return
    assert view.totals.checkpoints > 5
    assert view.service is Service.PROTECTED  # again, if there was a fault
    assert (view.serving, view.pair) == (("primary.2", 2) if fault else ("primary", 1))
    services = [service for _, service in view.services]
    if fault:
        assert services[-4:] == ["protected", "takeover", "alone", "protected"]
        assert view.nodes["primary"].gone == "fenced"
        assert view.totals.takeovers == 1


def test_a_precopy_and_frames_that_are_compared_are_counted_too():
    scenario = Scenario.from_mapping({**QUICK, "transfer": "precopy"})
    check_same(*watched(scenario, "remus"))
    frames = {"fidelity": "packet", "duration": "700 ms", "manager": {}}
    view, record, holds = watched(Scenario.from_mapping({**QUICK, **frames}), "colo")
    check_same(view, record, holds)
    assert holds["match"] > 50


def test_a_secondary_that_dies_leaves_its_primary_alone():
    fault = [{**CRASH, "target": "secondary"}]
    manager = {**QUICK["manager"], "reprotect": False}
    scenario = Scenario.from_mapping({**QUICK, "manager": manager, "fault": fault})
    view, _, _ = watched(scenario, "remus")
    assert view.service is Service.ALONE
    assert view.serving == "primary"
    assert view.nodes["secondary"].gone == "fenced"
    assert view.totals.takeovers == 0


# -- the recorded live run -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The recorded run's directory, and its result."""
    out = tmp_path_factory.mktemp("recorded") / "run"
    return out, colosim.recorded_run(out)


def test_the_recorded_live_run_ends_as_its_result_says(recorded):
    out, result = recorded
    found = recording(out)
    view = to_end(View(found.name, found.duration_ns), found.moments())
    holds: Counter[str] = Counter()
    for how, frames in zip(*(result.records[0].holds[c] for c in ("how", "frames")), strict=True):
        holds[how] += int(frames)
    check_same(view, result.records[0], holds)
    assert view.is_over
    assert (view.serving, view.service) == ("primary.2", Service.PROTECTED)
    assert view.nodes["primary"].gone == "host crash"
    told = Counter(note.text.partition(":")[0] for note in view.notes)
    assert told["fault"] == told["fenced"] == told["serves alone"] == 1


def test_moments_are_where_the_record_has_them(recorded):
    out, result = recorded
    moments = list(recording(out).moments())
    started = [
        each.at_ns
        for each in moments
        if isinstance(each.what, Line)
        and isinstance(each.what.body, t.CheckpointStarted)
        and each.what.node.startswith("primary")
    ]
    assert started == result.records[0].checkpoints["started_ns"].tolist()
    at_ns = [each.at_ns for each in moments]
    assert at_ns == sorted(at_ns)
    [exits] = [event for event in result.records[0].events if event["what"] == "exit"]
    [left] = [
        each.at_ns
        for each in moments
        if isinstance(each.what, Line) and isinstance(each.what.body, t.Exit)
    ]
    assert abs(left - exits["at_ns"]) < 5_000_000  # the other host's: by happens-before alone


@pytest.mark.parametrize("speed", [0.5, 10.0, 1000.0, math.inf])
def test_however_fast_it_is_played_it_ends_the_same(recorded, speed):
    found = recording(recorded[0])
    whole = to_end(View(), found.moments())
    player = Player(View(), found.moments(), speed, found.begin_ns)
    now_s, shown = 0.0, []

    def sleep(length_s: float) -> None:
        nonlocal now_s
        now_s += length_s

    def clock() -> float:
        nonlocal now_s
        now_s += 1e-3  # looking takes time
        return now_s

    play(player, lambda view, now_ns: shown.append(now_ns), clock, sleep)
    assert asdict(player.view.totals) == asdict(whole.totals)
    assert list(player.view.notes) == list(whole.notes)
    assert player.view.services == whole.services
    assert shown == sorted(shown)
    assert shown[-1] == found.end_ns
    if speed < 100:
        assert now_s == pytest.approx((found.end_ns - found.begin_ns) / 1e9 / speed, rel=0.05)


def test_a_moment_in_the_middle_shows_who_is_gone_and_what_is_held(recorded):
    place, result = recorded
    found = recording(place)
    at_ns = result.events.query("what == 'vote'")["at_ns"].item() + 1_000_000
    view = Player(View(), found.moments(), from_ns=at_ns).view
    primary, secondary = view.shown
    assert primary.gone == "host crash"
    assert secondary.step == "exited"
    holds = result.holds.query("how == 'alone'")
    held = holds["made_ns"].le(at_ns) & (holds["made_ns"] + holds["hold_ns"]).gt(at_ns)
    assert secondary.holding.count == holds.loc[held, "frames"].sum() > 5
    assert view.service is Service.TAKEOVER
    pieces = lanes(view, 0, at_ns, 81)
    pauses = result.checkpoints["resumed_ns"].between(0, at_ns).sum()
    assert sum(pause > 0 for pause in pieces.pause_ms) == pauses > 2
    assert [i for i, is_fault in enumerate(pieces.faults) if is_fault] == [80]


# -- parts ---------------------------------------------------------------------------------------


def test_after_its_end_nothing_counts_any_more():
    view = View()
    view.see(Moment(5, Told("run", "end", "")))
    view.see(Moment(6, Told("primary", "fault", "host crash")))
    assert (view.is_over, list(view.notes), view.at_ns) == (True, [], 5)


@pytest.mark.parametrize("what", ["off", "beyond use", "reset"])  # of `backends.qemu.guests.Fate`
def test_what_befalls_a_guest_by_itself_is_noted(what):
    view = View()
    view.see(Moment(5, Told("secondary", f"guest {what}", "why")))
    assert [note.text for note in view.notes] == [f"guest {what}: why"]


@given(
    st.lists(st.integers(1, 5), max_size=8),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=8),
)
def test_holding_counts_as_a_set_would(sizes, taken):
    holding, held, first = Holding(), {}, 0
    for now_ns, size in enumerate(sizes):
        holding.add(t.Range("s", first, first + size), now_ns)
        held.update(dict.fromkeys(range(first, first + size), now_ns))
        first += size
    for at, length in taken:
        gone = [held.pop(i) for i in range(at, at + length) if i in held]
        found = [made for n, made in holding.take(t.Range("s", at, at + length)) for _ in range(n)]
        assert sorted(found) == sorted(gone)
        assert holding.count == len(held)
        assert holding.oldest_ns() == min(held.values(), default=None)


def test_streams_that_hold_nothing_any_more_are_forgotten():
    holding = Holding()
    for i in range(100):
        holding.add(t.Range(f"client {i}", 0, 2), i)
        assert [*holding.take(t.Range(f"client {i}", 0, 2))] == [(2, i)]
    assert not holding._streams


def test_a_node_is_placed_by_what_caused_it_whatever_its_clock_says():
    place = Causal({"primary": -1000})
    ahead = 7_000_000

    def line(node: str, n: int, now_ns: int, kind: str, cause: Any = None) -> int:
        return place.at_ns(Line(node, n, now_ns, kind, "", t.Tick(), cause))

    assert line("primary", 0, 1000, "node") == 0
    assert line("secondary", 0, ahead, "node") == 0  # nothing is known of it yet
    assert line("primary", 1, 1100, "action") == 100
    assert line("secondary", 1, ahead + 120, "event", ("primary", 1)) == 100
    assert line("secondary", 2, ahead + 150, "action") == 130
    assert line("primary", 2, 1200, "event", ("secondary", 2)) == 200
