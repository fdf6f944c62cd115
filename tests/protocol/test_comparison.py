"""The comparison of frames as a part of a node: what it hears and says, and its replay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backends.nodes import node_configs
from colosim.protocol import types as t
from colosim.protocol.checkpoint import P
from colosim.protocol.compare import ELSEWHERE, MODES, FrameComparison, runs
from colosim.protocol.gate import Gate
from colosim.protocol.invariants import check
from colosim.protocol.node import Node, NodeConfig
from colosim.protocol.outbox import Outbox
from colosim.protocol.trace import Line, decode_line, encode_line, replay
from colosim.protocol.verdicts import CompareLimits
from colosim.scenario import Scenario
from tests.protocol.frames import tcp, udp

SCENARIO = {
    "name": "frames",
    "duration": "1 s",
    "policy": {"name": "colo", "colo": {"compare_timeout": "100 ms"}},
    "workload": {"kind": "batch", "work": "1 s"},
    "memory": {"kind": "uniform", "working_set_pages": 10, "touches": "10 /s"},
}
MS = 1_000_000


def frames_of(*payloads: bytes) -> tuple[bytes, ...]:
    return tuple(udp(payload) for payload in payloads)


def ours(first: int, *payloads: bytes) -> t.GuestOutput:
    frames = frames_of(*payloads)
    return t.GuestOutput(t.Range("a.frames", first, first + len(frames)), "d", frames)


def theirs(first: int, *payloads: bytes, epoch: int = 0) -> t.PeerOutput:
    frames = frames_of(*payloads)
    return t.PeerOutput(t.Range("b.frames", first, first + len(frames)), "e", epoch, frames)


class Comparing:
    """The part alone."""

    def __init__(self, mode: str = "strict") -> None:
        self.out = Outbox()
        limits = CompareLimits(timeout_ns=100 * MS)
        self.part = FrameComparison(MODES[mode](limits), self.out)

    def said(self):
        said = list(self.out.signals)
        self.out.signals.clear()
        return said


def test_equal_frames_are_ranges():
    bench = Comparing()
    bench.part.primary_output(ours(0, b"one", b"two", b"three"), 0)
    assert bench.said() == []
    bench.part.witness(theirs(7, b"one", b"two"), 1)
    assert bench.said() == [t.Match(t.Range("a.frames", 0, 2))]


def test_a_difference_names_the_place_and_both_sides():
    bench = Comparing()
    bench.part.primary_output(ours(0, b"abcdef"), 0)
    bench.part.witness(theirs(0, b"abXdef"), 1)
    [mismatch] = bench.said()
    assert (mismatch.range, mismatch.why) == (t.Range("a.frames", 0, 1), "content")
    assert "63 64 65 66 here, 58 64 65 66 there" in mismatch.detail


def test_output_of_one_guest_alone_is_stale_at_its_time():
    bench = Comparing()
    bench.part.witness(theirs(4, b"only there"), 5)
    assert bench.part.deadline_ns() == 5 + 100 * MS
    bench.part.tick(5 + 100 * MS)
    [stale] = bench.said()
    assert stale.range == t.Range("b.frames", 4, 5)
    assert stale.detail.endswith("of the secondary alone")


def test_a_run_that_a_cut_has_replaced_is_no_witness():
    bench = Comparing()
    bench.part.hears()[t.Cut](t.Cut(1), 0)
    bench.part.primary_output(ours(0, b"x"), 1)
    bench.part.witness(theirs(0, b"x", epoch=0), 2)
    assert bench.said() == []
    assert bench.part.old_witnesses == 1
    bench.part.witness(theirs(1, b"x", epoch=1), 3)
    assert bench.said() == [t.Match(t.Range("a.frames", 0, 1))]


def test_alone_there_is_nothing_to_compare():
    bench = Comparing()
    bench.part.hears()[t.Alone](t.Alone(), 0)
    bench.part.primary_output(ours(0, b"x"), 1)
    bench.part.witness(theirs(0, b"y"), 1)
    assert bench.said() == []
    assert bench.part.deadline_ns() is None


def test_a_full_queue_of_mode_qemu_is_forgone():
    bench = Comparing("qemu")
    bench.part.primary_output(ours(0, *(b"%d" % n for n in range(1026))), 0)
    assert t.Forgone(t.Range("a.frames", 1025, 1026)) in bench.said()


def test_runs():
    assert list(runs("s", (3, 4, 5, 9, 1, 2))) == [
        t.Range("s", 3, 6),
        t.Range("s", 9, 10),
        t.Range("s", 1, 3),
    ]
    assert list(runs("s", ())) == []


# ------------------------------------------------------------------------------------------- gate


def test_the_gate_releases_frames_by_number():
    out = Outbox()
    gate = Gate(t.Role.PRIMARY, t.Output.WITNESS, out, by_frame=True)
    gate.guest_output(t.GuestOutput(t.Range("a", 0, 4), "d"), 0)
    gate.guest_output(t.GuestOutput(t.Range("a", 4, 6), "d"), 0)
    hears = gate.hears()
    hears[t.Match](t.Match(t.Range("a", 3, 5)), 0)
    hears[t.Forgone](t.Forgone(t.Range("a", 1, 2)), 0)
    hears[t.Match](t.Match(t.Range("a", 3, 5)), 0)  # has left
    hears[t.Cut](t.Cut(1), 0)
    gate.guest_output(t.GuestOutput(t.Range("a", 6, 7), "d"), 0)
    hears[t.Committed](t.Committed(1), 0)
    assert out.actions == [
        t.Release((t.Range("a", 3, 5),)),
        t.Drop((t.Range("a", 1, 2),)),
        t.Release((t.Range("a", 0, 1), t.Range("a", 2, 3), t.Range("a", 5, 6))),
    ]


# ------------------------------------------------------------------------------------------- node


class Told:
    """A primary node that runs in step, with the lines of its trace."""

    def __init__(self, compare: str, config: NodeConfig | None = None) -> None:
        [usual, _] = node_configs(Scenario.from_mapping(SCENARIO), "colo", packets=True)
        self.config = config or replace(usual, compare=compare)
        self.node = Node(self.config)
        self.lines = [Line("primary", 0, 0, "node", "", self.config)]
        self.feed(t.Start())
        ready = (0).to_bytes(4, "big")  # COLO_MESSAGE_CHECKPOINT_READY
        self.feed(t.PeerBytes(ready))
        while self.node.step != P.RUN:
            last = [line.body.op for line in self.lines if hasattr(line.body, "op")][-1]
            self.feed(t.Done(last))

    def feed(self, event, now_ns=0):
        self.node.feed(event, now_ns)
        added = [("event", event)]
        added += [("signal", each) for each in self.node.signals()]
        actions = self.node.actions()
        added += [("action", each) for each in actions]
        for kind, body in added:
            self.lines.append(Line("primary", len(self.lines), now_ns, kind, self.node.step, body))
        return actions

    def replayed(self):
        return replay([decode_line(encode_line(line)) for line in self.lines])


@pytest.mark.parametrize("mode", sorted(MODES))
def test_a_trace_without_frames_replays(mode):
    told = Told(mode)
    assert told.feed(ours(0, b"one"), 1) == []
    assert told.feed(theirs(0, b"one"), 2) == [t.Release((t.Range("a.frames", 0, 1),))]
    assert told.feed(ours(1, b"two"), 3) == []
    actions = told.feed(theirs(1, b"other"), 3)
    assert any(isinstance(action, t.Quiesce) for action in actions)  # a checkpoint begins
    assert "frames" not in encode_line(told.lines[-1])
    assert all("hex" not in encode_line(line) for line in told.lines if "frames" in str(line.body))
    assert told.replayed() == []
    assert check(told.lines) == []


def test_a_replay_sees_that_the_gate_does_something_else():
    told = Told("strict")
    told.feed(ours(0, b"one"), 1)
    told.feed(theirs(0, b"one"), 2)
    *before, release = told.lines
    assert isinstance(release.body, t.Release)
    told.lines = [*before, replace(release, body=t.Release((t.Range("a.frames", 0, 2),)))]
    assert told.replayed() != []


def test_what_was_not_matched_may_not_leave():
    told = Told("strict")
    told.feed(ours(0, b"one", b"two"), 1)
    told.feed(theirs(0, b"one"), 2)
    *before, release = told.lines
    told.lines = [*before, replace(release, body=t.Release((t.Range("a.frames", 0, 2),)))]
    [violation] = check(told.lines)
    assert violation.invariant == "OutputCommit"


def test_somebody_else_compares():
    told = Told(ELSEWHERE)
    assert told.feed(ours(0, b"one", b"two"), 1) == []
    assert told.feed(theirs(0, b"one", b"two"), 2) == []
    match = t.Match(t.Range("a.frames", 1, 2))
    assert told.feed(t.Compared((match,)), 3) == [t.Release((t.Range("a.frames", 1, 2),))]
    asked = t.Mismatch(t.Range("a.frames", 0, 2), "asked")
    assert any(isinstance(each, t.Quiesce) for each in told.feed(t.Compared((asked,)), 4))
    assert told.replayed() == []
    assert check(told.lines) == []


def test_somebody_else_finds_output_too_old():
    told = Told(ELSEWHERE)
    stale = t.Stale(t.Range("a.frames", 0, 0), "it says so")
    assert any(isinstance(each, t.Quiesce) for each in told.feed(t.Compared((stale,)), 1))
    started = [line.body for line in told.lines if isinstance(line.body, t.CheckpointStarted)]
    assert [each.reason for each in started] == ["compare-timeout"]
    assert told.replayed() == []


@pytest.mark.parametrize(("scan_cycle", "late_ms"), [("30 ms", 120), (None, 1000)])
def test_mode_qemu_looks_for_old_output_as_often_as_it_is_told(scan_cycle, late_ms):
    """A frame that was made after 1 ms is too old after 101 ms; whole cycles from the start."""
    compare = {"mode": "qemu"} | ({"scan_cycle": scan_cycle} if scan_cycle else {})
    scenario = Scenario.from_mapping({**SCENARIO, "compare": compare})
    [config, _] = node_configs(scenario, "colo", packets=True)
    told = Told("qemu", config)
    told.feed(ours(0, b"one"), 1 * MS)
    while not any(isinstance(line.body, t.Stale) for line in told.lines):
        due_ns = told.node.deadline_ns()
        assert due_ns is not None
        told.feed(t.Tick(), due_ns)
    assert told.lines[-1].now_ns == late_ms * MS


def test_what_the_secondary_has_not_acknowledged_is_held():
    bench = Comparing()
    frame = tcp(100, b"data", ack=5000)
    bench.part.primary_output(t.GuestOutput(t.Range("a.frames", 0, 1), "d", (frame,)), 0)
    early = tcp(100, b"data", ack=4000)
    bench.part.witness(t.PeerOutput(t.Range("b.frames", 0, 1), "d", 0, (early,)), 1)
    assert bench.said() == []
    later = tcp(104, b"", ack=5000)
    bench.part.witness(t.PeerOutput(t.Range("b.frames", 1, 2), "d", 0, (later,)), 2)
    assert bench.said() == [t.Match(t.Range("a.frames", 0, 1))]
