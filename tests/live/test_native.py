"""The native engine without a QEMU: its tap on made streams, its shadow on a recorded pair.

``native/11.1-takeover.jsonl`` is what tap and monitors told of a genuine 11.1.3 pair under TCG:
three checkpoints, then the primary's SIGKILL and the secondary's failover.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.nodes import node_configs
from backends.qemu import qemu_log
from backends.qemu.errors import LiveError
from backends.qemu.genuine import CompareSettings
from backends.qemu.launch import Machine, Qemu
from backends.qemu.log_trace import trace_of
from backends.qemu.native import refuse
from backends.qemu.pair import Output
from backends.qemu.plan import HostPlan, LivePlan
from backends.qemu.proxy import Proxy, arguments
from backends.qemu.selftest import SCENARIO
from backends.qemu.shadow import CLOCK_NS, Difference, Shadow, as_shadow
from backends.qemu.tap import PRIMARY, SECONDARY, PrimaryStream, SecondaryStream, Seen, Tap
from backends.qemu.wire import RETURN_PATH, SHUT, ReturnPath
from colosim.protocol import types as t
from colosim.protocol.checkpoint import Do, P, S
from colosim.protocol.codec import RamBulk
from colosim.protocol.invariants import check
from colosim.protocol.node import Node, NodeConfig, machine_of
from colosim.protocol.trace import Line, decode_line, encode_line, replay
from colosim.scenario import Scenario
from tests.live.test_wire import BEFORE, RAM, in_chunks, name

LIMIT_S = 60.0
RECORDED = Path(__file__).parent / "native" / "11.1-takeover.jsonl"
LOGS = Path(__file__).parent / "qemu_logs"
CONFIGS = [
    as_shadow(config, 250_000_000)
    for config in node_configs(Scenario.from_mapping(SCENARIO), "remus")
]


def recorded() -> list[Seen]:
    return [Seen.from_json(line) for line in RECORDED.read_text().splitlines()]


class Hands:
    """Whoever asks for the vote gets it, and takes over at once."""

    shadow: Shadow

    def __init__(self) -> None:
        self.frames: list[tuple[str, int | None]] = []  # what output was asked for

    def made(self, node, before_ns):
        self.frames.append((node, before_ns))

    def perform(self, node, action, cause):
        match action:
            case t.AskVote(op):
                self.shadow.answer(node, t.VoteSeen(op, True), cause)
            case t.Fence(op):
                self.shadow.answer(node, t.Done(op), cause)
            case _:
                pass

    def take_over(self, node, op, cause):
        self.shadow.answer(node, t.Done(op), cause)

    def wake_at(self, node, when_ns):
        pass

    def hear(self, node, signal):
        pass


def lived(
    seen: list[Seen], nodes: list[Node] | None = None, why_asked: Any = None
) -> tuple[Shadow, list[Difference], list[Line]]:
    """Nodes that have lived through this."""
    lines: list[Line] = []
    found: list[Difference] = []
    hands = Hands()
    nodes = nodes or [Node(config) for config in CONFIGS]
    hands.shadow = shadow = Shadow(nodes, hands, [lines.append], found.append, why_asked)
    for each in seen:
        shadow.see(each)
    shadow.finish()
    assert shadow.differences >= len(found)
    return shadow, found, lines


# ------------------------------------------------------------------------------------- the shadow


def test_a_genuine_pair_does_what_our_tables_do():
    shadow, found, lines = lived(recorded())
    assert found == []
    assert shadow.counts == Counter({"stopped once more": 1})
    bodies = [line.body for line in lines]
    assert sum(isinstance(body, t.Committed) for body in bodies) == 3
    assert [line.node for line in lines if isinstance(line.body, t.Alone)] == [SECONDARY]
    assert replay(decode_line(encode_line(line)) for line in lines) == []
    assert check(lines) == []


def test_the_phases_are_what_was_seen():
    seen = recorded()
    shadow, _, _ = lived(seen)
    rows = [shadow.phases[number] for number in (1, 2, 3)]
    order = ["request_ns", "secondary_stop_ns", "reply_ns", "stop_ns", "send_ns", "ram_ns"]
    order += ["device_ns", "received_ns", "loaded_ns", "resume_ns"]
    for row in rows:
        times = [row[column] for column in order if column not in ("stop_ns", "resume_ns")]
        assert times == sorted(times)
        assert row["stop_ns"] < row["ram_ns"] < row["resume_ns"]
        assert row["pages"] * 4096 < row["ram_bytes"]
    stops = [each.at_ns for each in seen if (each.side, each.what) == (PRIMARY, "stop")]
    assert [row["stop_ns"] for row in rows] == stops[1:]


def test_output_is_the_cuts_that_was_read_before_reply_was_handed_on():
    shadow, _, _ = lived(recorded())
    hands = shadow.hands
    assert isinstance(hands, Hands)
    asked = [before_ns for node, before_ns in hands.frames if node == PRIMARY]
    assert asked == [shadow.phases[number]["reply_ns"] for number in (1, 2, 3)]


def compared(seen: list[Seen]) -> range:
    """The places in the recording that are COLO's, up to the kill."""
    first = next(n for n, each in enumerate(seen) if each.what == "synchronised") + 1
    return range(first, next(n for n, each in enumerate(seen) if each.what == "end"))


@pytest.mark.parametrize("place", compared(recorded())[:-1])
def test_each_thing_that_is_missing_is_found(place):
    """But for the last before the kill, which may have come too early for it."""
    seen = recorded()
    _, found, _ = lived(seen[:place] + seen[place + 1 :])
    assert found, seen[place]


@pytest.mark.parametrize("place", compared(recorded()))
def test_each_thing_that_is_seen_twice_is_found(place):
    seen = recorded()
    _, found, _ = lived(seen[: place + 1] + seen[place:])
    assert found, seen[place]


@pytest.mark.parametrize("value", [*range(8), 70, 2**32 - 1])
def test_each_message_that_is_another_is_found(value):
    seen = recorded()
    for place in compared(seen):
        data = value.to_bytes(4, "big") + seen[place].data[4:]
        if seen[place].what == "message" and data != seen[place].data:
            altered = [*seen]
            altered[place] = replace(seen[place], data=data)
            _, found, _ = lived(altered)
            assert found, seen[place]


def test_another_size_is_found():
    seen = recorded()
    place = next(n for n, each in enumerate(seen) if len(each.data) == 12)
    seen[place] = replace(seen[place], data=seen[place].data[:-1] + b"\0")
    _, found, _ = lived(seen)
    assert "send a state" in found[0].expected


def test_neighbours_that_change_places_are_found():
    """Unless the two are of different QEMUs, which act beside each other; or times cannot tell."""
    seen = recorded()
    missed = set()
    for place in compared(seen)[:-1]:
        one, other = seen[place], seen[place + 1]
        if other.at_ns - one.at_ns <= CLOCK_NS:
            continue
        swapped = [*seen]
        swapped[place] = replace(other, at_ns=one.at_ns)
        swapped[place + 1] = replace(one, at_ns=other.at_ns)
        _, found, _ = lived(swapped)
        if not found:
            missed.add((one.side, one.what, other.side, other.what))
    assert missed <= {
        # a byte was written before it was read, perhaps before what was seen meanwhile
        (SECONDARY, "message", SECONDARY, "start"),
        (PRIMARY, "stop", PRIMARY, "message"),
        (PRIMARY, "message", PRIMARY, "stop"),
        # each of another QEMU
        (SECONDARY, "stop", PRIMARY, "stop"),
        (SECONDARY, "message", PRIMARY, "start"),
        (PRIMARY, "start", PRIMARY, "message"),
    }


def without(config, key, effect):
    machine = machine_of(config)
    effects, state = machine.rows[key]
    assert effect in effects
    kept = tuple(each for each in effects if each is not effect)
    return Node(config, replace(machine, rows={**machine.rows, key: (kept, state)}))


def mutants() -> list:
    """The pair's nodes with one visible effect of one row on the main path left out."""
    visible = {
        *(Do.SEND_READY, Do.SEND_REQUEST, Do.SEND_REPLY, Do.SEND_RECEIVED, Do.SEND_LOADED),
        *(Do.STOP_VM, Do.START_VM, Do.SEND_STATE),
    }
    path: set[P | S] = {P.WAIT_READY, P.QUIESCE, P.REQUEST, P.SAVE, P.WAIT_LOADED}
    path |= {S.IDLE, S.START, S.WAIT_REQUEST, S.CUT, S.RECEIVE, S.LOAD, S.RESUME}
    well = ("done", "start", "ready", "request", "reply", "state", "loaded")
    return [
        pytest.param(index, key, effect, id=f"{key[0]}-{key[1]}-{effect.value}")
        for index, config in enumerate(CONFIGS)
        for key, (effects, _) in machine_of(config).rows.items()
        for effect in effects
        if effect in visible and key[0] in path and key[1].value in well
    ]


@pytest.mark.parametrize(("index", "key", "effect"), mutants())
def test_each_mutated_table_is_found(index, key, effect):
    nodes = [Node(config) for config in CONFIGS]
    nodes[index] = without(CONFIGS[index], key, effect)
    _, found, _ = lived(recorded(), nodes)
    assert found


def test_mutants_are_many():
    assert len(mutants()) >= 12


def test_a_secondary_that_answers_before_it_stops_is_found():
    seen = recorded()
    stops = [n for n, each in enumerate(seen) if (each.side, each.what) == (SECONDARY, "stop")]
    late = replace(seen[stops[1]], at_ns=seen[stops[1]].at_ns + 5_000_000)
    rest = seen[: stops[1]] + seen[stops[1] + 1 :]
    _, found, _ = lived(sorted([*rest, late], key=lambda each: each.at_ns))
    assert found


def test_an_exit_in_the_loop_is_a_difference():
    seen = recorded()
    place = compared(seen)[-1]
    exit_ = Seen(seen[place].at_ns, PRIMARY, "exit", why="error")
    _, found, _ = lived([*seen[:place], exit_, *seen[place:]])
    assert any(each.seen == "exit error" for each in found)


def test_a_node_that_leaves_where_its_qemu_does_not_is_a_difference():
    seen = [each for each in recorded() if each.what != "exit"]
    _, found, _ = lived(seen)
    assert [each.seen.split(" (")[0] for each in found] == ["no COLO_EXIT of its QEMU"]


# ---------------------------------------------------------------------------------------- the tap

TAIL = b"\x04" + bytes(range(1, 200)) * 3 + b"\0\x06" + struct.pack(">I", 15) + b'{"devices": []}'
PAGE = b"\x5a" * 4096


def record(offset: int, page: bytes | None, block: str | None = "ram0") -> bytes:
    flags = (8 if page else 2) | (0 if block else 0x20)
    head = struct.pack(">Q", offset | flags) + (name(block) if block else b"")
    return head + (page or b"\0")


def section(kind: int, *records: bytes) -> bytes:
    end = struct.pack(">Q", 0x10) + b"\x7e" + struct.pack(">I", 2)
    return bytes([kind]) + struct.pack(">I", 2) + b"".join(records) + end


SWITCHOVER = b"\x08\x00\x0b\x00\x00"
FIRST = (
    BEFORE["commands"]
    + RAM
    + struct.pack(">Q", 0x10)
    + b"\x7e"
    + struct.pack(">I", 2)
    + section(2, record(0, PAGE), record(4096, None, None))
    + SWITCHOVER
    + section(3, record(8192, PAGE, None))
    + TAIL
)
MEMORY = section(3, record(4096, PAGE), record(0, None, None)) + b"\0"
DEVICES = bytes(range(251)) * 7
CHECKPOINT = (
    b"\0\0\0\1"
    + b"\0\0\0\3"
    + MEMORY
    + b"\0\0\0\4"
    + struct.pack(">Q", len(DEVICES))
    + DEVICES
    + b"\0\0\0\1"
)


@settings(max_examples=40)
@given(
    cuts=st.lists(st.integers(0, len(FIRST) - 1), max_size=40),
    more=st.lists(st.integers(0, len(CHECKPOINT) - 1), max_size=40),
)
def test_the_primary_is_understood_in_any_chunks(cuts, more):
    pages: dict[int, bytes | None] = {}

    def store(block, offset, page):
        assert block == "ram0"
        pages[offset] = None if page is None else bytes(page)

    stream = PrimaryStream(store)
    seen = [each for chunk in in_chunks(FIRST, cuts) for each in stream.feed(chunk, 1)]
    assert [(each.what, each.size_bytes, each.pages) for each in seen] == [
        ("synchronised", len(FIRST), 3)
    ]
    assert pages == {0: PAGE, 4096: None, 8192: PAGE}
    seen = [each for chunk in in_chunks(CHECKPOINT, more) for each in stream.feed(chunk, 2)]
    assert [each.what for each in seen] == ["message"] * 2 + ["ram"] + ["message", "device"] + [
        "message"
    ]
    ram, device = seen[2], seen[4]
    bulk = RamBulk()
    assert bulk.feed(memoryview(MEMORY)) == len(MEMORY)
    assert ram.blob == bulk.blob()
    assert (ram.pages, ram.zeros) == (2, 1)
    assert device.size_bytes == len(DEVICES)
    assert pages == {0: None, 4096: PAGE, 8192: PAGE}


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        (b"GET / HTTP/1.1\r\n", "begins with"),
        (FIRST.replace(SWITCHOVER, b"\x05"), "section type 0x05 among memory's"),
        (FIRST + b"\0\0\0\1\0\0\0\x07", "00000007 is no COLO message"),
        (FIRST + b"\0\0\0\3\x07", "section type 0x07 in its memory"),
        (FIRST + b"\0\0\0\3\x03\0\0\0\x09", "section 9 is not memory"),
        (FIRST + b"\0\0\0\4" + b"\xff" * 8, "device state of"),
        (FIRST + b"\0\0\0\3\x03\0\0\0\x02" + struct.pack(">Q", 0x140), "flags 0x140"),
    ],
)
def test_what_cannot_be_read_is_said_once(stream, says):
    reader = PrimaryStream()
    seen = [each for byte in stream for each in reader.feed(bytes([byte]), 0)]
    assert seen[-1].what == "fault"
    assert says in seen[-1].why
    assert reader.feed(stream, 0) == []


@given(cuts=st.lists(st.integers(0, 40), max_size=20))
def test_the_secondary_is_understood_in_any_chunks(cuts):
    said = b"".join(number.to_bytes(4, "big") for number in (0, 2, 5, 6, 9))
    stream = SecondaryStream(ReturnPath(RETURN_PATH))
    seen = [each for chunk in in_chunks(SHUT + said, cuts) for each in stream.feed(chunk, 3)]
    assert [each.what for each in seen] == ["message"] * 5 + ["fault"]
    assert b"".join(each.data for each in seen) == said
    assert stream.feed(b"\0\0", 3) == []


def test_seen_goes_through_json():
    each = Seen(5, PRIMARY, "ram", b"\1\2", 7, "ab", 4, 3, 2, "why")
    assert Seen.from_json(each.to_json()) == each


class Relayed:
    """A tap at work between two sockets of ours."""

    def __init__(self) -> None:
        pairs = [socket.socketpair() for _ in range(3)]
        (self.primary, p), (self.secondary, s), (self.report, r) = pairs
        tap = Tap(p, s, r, path=False)
        self._thread = threading.Thread(target=tap.run, daemon=True)
        self._thread.start()

    def wait(self) -> bool:
        self._thread.join(LIMIT_S)
        return not self._thread.is_alive()

    def until(self, what: str) -> None:
        """It has told of this; nothing is taken from its report."""
        self.report.settimeout(LIMIT_S)
        end_s = time.monotonic() + LIMIT_S
        while f'"{what}"'.encode() not in self.report.recv(1 << 16, socket.MSG_PEEK):
            assert time.monotonic() < end_s
            time.sleep(0.01)

    def seen(self) -> list[Seen]:
        self.report.settimeout(LIMIT_S)
        text = b""
        while text.count(b'"end"') < 2:
            text += self.report.recv(1 << 16)
        return [Seen.from_json(line) for line in text.splitlines()]


def send(sock: socket.socket, data: bytes) -> threading.Thread:
    def work() -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def everything(sock: socket.socket) -> bytes:
    sock.settimeout(LIMIT_S)
    pieces = []
    while piece := sock.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def test_the_tap_changes_no_byte_and_passes_both_ends_on():
    """Also of a stream that it does not understand, and of more than it keeps."""
    relayed = Relayed()
    there = CHECKPOINT + os.urandom(80 << 20)
    back = os.urandom(3 << 20)
    relayed.primary.sendall(FIRST)  # and a primary is silent until READY
    assert relayed.secondary.recv(len(FIRST), socket.MSG_WAITALL) == FIRST
    relayed.until("synchronised")
    threads = [send(relayed.primary, there), send(relayed.secondary, back)]
    got: dict[str, bytes] = {}
    reader = threading.Thread(target=lambda: got.update(back=everything(relayed.primary)))
    reader.start()
    assert everything(relayed.secondary) == there
    reader.join(LIMIT_S)
    assert got["back"] == back
    seen = relayed.seen()
    assert relayed.wait()
    assert [each.what for each in seen if each.side == PRIMARY][:3] == [
        "synchronised",
        "message",
        "message",
    ]
    assert [each.side for each in seen if each.what == "end"].count(PRIMARY) == 1
    for thread in threads:
        thread.join(LIMIT_S)


def test_the_tap_closes_the_stream_when_told_and_tells_of_it():
    relayed = Relayed()
    relayed.secondary.sendall(b"\0\0\0\0")
    assert relayed.primary.recv(4) == b"\0\0\0\0"
    relayed.report.sendall(b"\n")
    assert everything(relayed.primary) == b""
    assert everything(relayed.secondary) == b""
    seen = relayed.seen()
    assert [each.what for each in seen] == ["message", "end", "end"]
    assert relayed.wait()


def test_the_tap_ends_with_its_reader():
    relayed = Relayed()
    relayed.report.close()
    assert relayed.wait()
    assert everything(relayed.primary) == b""


# ------------------------------------------------------------------------------------- the output


class Port:
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, frames):
        self.sent += frames


def test_output_leaves_when_its_node_says_so(monkeypatch):
    times = iter([10, 20, 30])
    monkeypatch.setattr("backends.qemu.pair.time.monotonic_ns", lambda: next(times))
    port = Port()
    output = Output("a")
    output.port = port  # type: ignore[assignment]
    output.passes = True
    output.read([b"0"])
    assert port.sent == [b"0"]
    output.passes = False
    output.read([b"1", b"2"])
    output.read([b"3"])
    assert output.made(10) is None
    made = output.made(20)
    assert made is not None
    assert made[0] == t.Range("a.frames", 0, 2)
    later = output.made(None)
    assert later is not None
    assert later[0] == t.Range("a.frames", 2, 3)
    assert port.sent == [b"0"]
    output.release((made[0],))
    assert port.sent == [b"0", b"1", b"2"]
    output.drop((later[0],))
    assert port.sent == [b"0", b"1", b"2"]


# ------------------------------------------------------------------------------------- the proxy

COLO: dict[str, Any] = {
    "policy": {"name": "colo"},
    "commit": "received",
    "compare": {"mode": "colo-compare", "rewriter": "qemu"},
}


def colo_nodes(**changes) -> list[NodeConfig]:
    return node_configs(Scenario.from_mapping({**SCENARIO, **COLO, **changes}), "colo", True)


def reasons(delay_ms: int, why_asked: Any = None) -> tuple[list[str], list[Line]]:
    """Why the recorded pair's checkpoints began, if its x-checkpoint-delay was this."""
    delay = {"policy": {"name": "colo", "colo": {"checkpoint_delay": f"{delay_ms} ms"}}}
    nodes = [Node(as_shadow(each, delay_ms * 1_000_000)) for each in colo_nodes(**delay)]
    _, found, lines = lived(recorded(), nodes, why_asked)
    assert found == []
    assert replay(decode_line(encode_line(line)) for line in lines) == []
    assert check(lines) == []
    ours = [line.body for line in lines if line.node == PRIMARY]
    started = [body for body in ours if isinstance(body, t.CheckpointStarted)]
    return [each.reason for each in started], lines


def test_what_begins_when_its_timer_has_run_out_was_not_asked_for():
    """The recorded pair had a delay of 250 ms and nothing that compares."""

    def nobody(at_ns: int) -> t.Mismatch:
        raise AssertionError(f"asked at {at_ns}")

    assert reasons(250, nobody)[0] == ["checkpoint-delay"] * 3


@pytest.mark.parametrize(
    ("signal", "reason"),
    [
        (t.Mismatch(t.Range("a.frames", 0, 0), "asked"), "mismatch"),
        (t.Stale(t.Range("a.frames", 0, 0), "by its log"), "compare-timeout"),
    ],
)
def test_what_begins_before_that_was_asked_for(signal, reason):
    found, lines = reasons(2000, lambda at_ns: signal)
    assert found == [reason] * 3
    assert [line.body for line in lines if line.body == signal] == [signal] * 3


def log_line(at_ns: int, event: str) -> str:
    real_ns = at_ns + time.time_ns() - time.monotonic_ns()
    seconds, micros = divmod(real_ns // 1000, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{micros:06d}Z {event}\n"


def test_the_log_tells_what_was_too_old_since_the_last_flush(tmp_path):
    log = tmp_path / "log"
    proxy = Proxy(tmp_path, colo_nodes()[0], log)
    assert isinstance(proxy.why_asked(1_000_000_000), t.Mismatch)  # no log yet
    too_old = log_line(2_000_000_000, "colo_old_packet_check_found 1795985709205")
    log.write_text(too_old[:-5])
    assert isinstance(proxy.why_asked(2_001_000_000), t.Mismatch)  # no whole line yet
    log.write_text(too_old + "warning: something else\n")
    assert isinstance(proxy.why_asked(2_001_000_000), t.Stale)
    proxy.flushed(2_010_000_000)
    assert isinstance(proxy.why_asked(2_100_000_000), t.Mismatch)
    with log.open("a") as more:
        more.write(log_line(2_200_000_000, "colo_compare_drop_packet colo_insert_packet"))
        more.write(log_line(2_200_000_000, "colo_old_packet_check_found 1795985709205"))
    assert isinstance(proxy.why_asked(2_201_000_000), t.Stale)
    assert proxy.counts == Counter({"frames that a full queue of colo-compare lost": 1})


def test_the_log_has_no_event_of_every_frame(tmp_path):
    assert [word for word in arguments(tmp_path / "log") if word.startswith("enable=")] == [
        "enable=colo_old_packet_check_found",
        "enable=colo_compare_drop_packet",
    ]


def test_colo_compare_is_told_what_the_scenario_says():
    [node, _] = colo_nodes(policy={"name": "colo", "colo": {"compare_timeout": "300 ms"}})
    assert CompareSettings.of(node) == CompareSettings(300_000_000, 75_000_000, 1024)
    compare = {**COLO["compare"], "queue_frames": 7, "scan_cycle": "50 ms"}
    [node, _] = colo_nodes(compare=compare)
    told = CompareSettings.of(node).object("c", outdev="out")
    numbers = {"compare_timeout": 3000, "expired_scan_cycle": 50, "max_queue_size": 7}
    assert told == {"qom-type": "colo-compare", "id": "c", "outdev": "out", **numbers}


# ------------------------------------------------------------------------------------ the scenario


def plan(version=(11, 1, 3), other=None) -> LivePlan:
    hosts = tuple(
        HostPlan(host, config, Qemu("qemu", each))
        for host, config, each in zip("ab", CONFIGS, (version, other or version), strict=True)
    )
    return LivePlan(Machine("pc", "tcg", 128 << 20, None, None, ""), hosts)


def scenario(**changes) -> Scenario:
    return Scenario.from_mapping({**SCENARIO, **changes})


def fault(**given) -> dict[str, list[dict[str, str]]]:
    return {"fault": [{"target": "primary", "scope": "vm", "kind": "crash", "at": "1 s"} | given]}


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ((7, 2, 22), "hangs at the first checkpoint"),
        ((10, 0, 13), "hangs at the first checkpoint"),
        ((10, 0, 2), "never enters it"),
        ((10, 1, 0), "never enters it"),
    ],
)
def test_releases_known_to_be_broken_are_refused(version, says):
    with pytest.raises(LiveError, match=says) as caught:
        refuse(scenario(), plan(version))
    assert "\n" not in str(caught.value)
    assert 'engine = "wire"' in str(caught.value)


def test_what_a_native_pair_cannot_do_is_refused():
    refuse(scenario(**fault()), plan())
    with pytest.raises(LiveError, match="one version"):
        refuse(scenario(), plan((11, 1, 3), (11, 0, 0)))
    with pytest.raises(LiveError, match="transfer"):
        refuse(scenario(transfer="copy-then-send"), plan())
    step = {"fault": [{"target": "primary", "scope": "vm", "kind": "crash", "step": "send"}]}
    with pytest.raises(LiveError, match="fault 1: at step send"):
        refuse(scenario(**step), plan())
    with pytest.raises(LiveError, match="scope node"):
        refuse(scenario(**fault(scope="node")), plan())
    with pytest.raises(LiveError, match="cut of the link"):
        refuse(scenario(fault=[{"target": "link", "kind": "cut", "at": "1 s"}]), plan())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"compare": {"rewriter": "qemu"}}, 'compare.mode: strict.* give "colo-compare"'),
        ({"compare": {"mode": "qemu", "rewriter": "qemu"}}, "compare.mode: qemu"),
        ({"compare": {"mode": "colo-compare"}}, 'compare.rewriter: strict.* give "qemu"'),
        ({"commit": "loaded"}, 'commit: loaded.* give "received"'),
        (
            {"policy": {"name": "colo", "colo": {"minimum_gap": "100 ms"}}},
            'policy.colo.minimum_gap: 100 ms.* give "0 ns"',
        ),
    ],
)
def test_what_qemus_own_proxy_does_not_do_is_refused(changes, says):
    hosts = [replace(h, node=n) for h, n in zip(plan().hosts, colo_nodes(), strict=True)]
    compares = replace(plan(), hosts=tuple(hosts), rewriter="qemu")
    refuse(scenario(**COLO), compares)
    with pytest.raises(LiveError, match=says) as caught:
        refuse(scenario(**{**COLO, **changes}), compares)
    assert "\n" not in str(caught.value)
    refuse(scenario(**changes), plan())  # nothing is compared under remus


# --------------------------------------------------------------------------------- traces of logs


@pytest.mark.parametrize("version", ["7.2", "10.0", "11.1"])
@pytest.mark.parametrize("both", [True, False])
def test_a_log_becomes_a_trace_that_replays(version, both):
    primary, secondary = (LOGS / f"{version}-{role}.log" for role in ("primary", "secondary"))
    found = trace_of(primary, secondary if both else None)
    assert found.differences == []
    assert replay(decode_line(encode_line(line)) for line in found.lines) == []
    assert check(found.lines) == []
    committed = [line for line in found.lines if isinstance(line.body, t.Committed)]
    rows = qemu_log.phases(primary, secondary)
    whole = [row for row in rows if row["wait_received_ns"] is not None]
    assert len(committed) == len(whole)
    assert {line.node for line in found.lines} == {PRIMARY, *([SECONDARY] if both else [])}
    first = next(line for line in found.lines if isinstance(line.body, t.SendMessage))
    assert first.now_ns > 1_700_000_000_000_000_000  # by the log's own clock


def test_a_failover_in_a_log_is_one_in_the_trace():
    found = trace_of(LOGS / "11.1-takeover-primary.log", None)
    assert found.differences == []
    assert sum(isinstance(line.body, t.Alone) for line in found.lines) == 1
    assert replay(found.lines) == []


def test_a_missing_line_of_a_log_is_a_difference_in_the_trace(tmp_path):
    whole = (LOGS / "11.1-primary.log").read_text().splitlines(keepends=True)
    places = [n for n, line in enumerate(whole) if "colo_send_message" in line]
    for place in places:
        log = tmp_path / "log"
        log.write_text("".join(whole[:place] + whole[place + 1 :]))
        assert trace_of(log, LOGS / "11.1-secondary.log").differences, whole[place]


def test_a_log_without_its_beginning_has_no_trace(tmp_path):
    lines = (LOGS / "11.1-primary.log").read_text().splitlines(keepends=True)
    log = tmp_path / "log"
    log.write_text("".join(line for line in lines if "checkpoint-ready" not in line))
    with pytest.raises(LiveError, match="log from QEMU's start"):
        trace_of(log, None)
