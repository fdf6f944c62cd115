"""Trace lines: written and read, merged by cause, replayed; and what happens to bad ones."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colosim.protocol import types as t
from colosim.protocol.checkpoint import Limits, Quirks, Transfer
from colosim.protocol.manager import ManagerConfig
from colosim.protocol.node import NodeConfig
from colosim.protocol.trace import (
    Line,
    TraceError,
    decode,
    decode_line,
    encode_line,
    merge,
    replay,
)
from tests.protocol.harness import AtStep, Crash, Plan, Request, Setup, run

VOCABULARY = (*t.Event.__args__, *t.Action.__args__, *t.Signal.__args__, NodeConfig)
INNER = (t.Range, t.Blob, t.State, Limits, ManagerConfig)


def values(cls: type) -> st.SearchStrategy[Any]:
    """Any value of a type, fields with defaults included."""
    hints = get_type_hints(cls)
    return st.builds(cls, **{name: st.from_type(hint) for name, hint in hints.items()})


for inner in INNER:
    st.register_type_strategy(inner, values(inner))


def lines(bodies: st.SearchStrategy[Any]) -> st.SearchStrategy[Line]:
    return st.builds(
        Line,
        node=st.text(),
        n=st.integers(),
        now_ns=st.integers(),
        kind=st.sampled_from(("node", "event", "signal", "action")),
        step=st.text(),
        body=bodies,
        cause=st.none() | st.tuples(st.text(), st.integers()),
    )


@cache
def recorded(*faults: Crash) -> tuple[Line, ...]:
    """The trace of a pair that makes checkpoints, and then perhaps of what a fault leads to."""
    setup = Setup("upstream", "colo", Transfer.STOP_AND_SEND, None, Quirks.NONE)
    requests = tuple(Request(60, "s", diverges) for diverges in ("", "a", "", "", "", "b", "", ""))
    return tuple(run(setup, Plan(requests, faults, bytes(range(40)))).lines())


def with_takeover() -> tuple[Line, ...]:
    return recorded(Crash(AtStep("a", "wait-loaded", 3), "a", "host", told=True))


# -- writing and reading ---------------------------------------------------------------------


@pytest.mark.parametrize("cls", VOCABULARY, ids=lambda cls: cls.__name__)
def test_every_type_is_read_as_it_was_written(cls: type) -> None:
    @given(lines(values(cls)))
    def round_trip(line: Line) -> None:
        text = encode_line(line)
        assert "\n" not in text
        assert decode_line(text) == line

    round_trip()


def test_a_line_reads_well() -> None:
    """The form of a line is a promise to whoever reads traces with other tools."""
    action = t.Release((t.Range("web", 0, 9),))
    assert json.loads(encode_line(Line("a", 7, 12, "action", "run", action))) == {
        "node": "a",
        "n": 7,
        "now_ns": 12,
        "kind": "action",
        "step": "run",
        "body": {"Release": {"ranges": [{"Range": {"stream": "web", "first": 0, "end": 9}}]}},
    }
    event = Line("b", 1, 0, "event", "idle", t.PeerBytes(b"\0\x01"), ("a", 3))
    assert json.loads(encode_line(event))["body"] == {"PeerBytes": {"data": {"hex": "0001"}}}
    assert json.loads(encode_line(event))["cause"] == ["a", 3]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("hex", "Release", "State", "NodeConfig", "Line", "x")),
            inner,
            max_size=2,
        )
    ),
    max_leaves=8,
)
GOOD = encode_line(Line("a", 7, 12, "event", "run", t.Done(3, None), ("b", 2)))


@st.composite
def nearly_lines(draw: st.DrawFn) -> str:
    """A good line with one part missing, or something else in its place."""
    raw = json.loads(GOOD)
    key = draw(st.sampled_from(sorted(raw)))
    if draw(st.booleans()):
        del raw[key]
    else:
        raw[key] = draw(JSON)
    return json.dumps(raw)


@given(
    st.text()
    | JSON.map(json.dumps)
    | nearly_lines()
    | st.integers(0, len(GOOD)).map(lambda length: GOOD[:length])
)
def test_whatever_is_read_is_a_line_or_a_trace_error(text: str) -> None:
    try:
        line = decode_line(text)
    except TraceError as error:
        said = str(error)
    else:
        said = ""
        assert isinstance(line, Line)
    assert len(said.splitlines()) <= 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0\x01\x02",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        '{"node": "a"}',
        GOOD[:-1],
        GOOD + "x",
        GOOD.replace("Done", "Gone"),
        GOOD.replace('"op"', '"po"'),
        GOOD.replace('["b",2]', "[]"),
        GOOD.replace('["b",2]', "5"),
        encode_line(Line("a", 0, 0, "event", "run", t.PeerBytes(b"\xab"))).replace("ab", "ax"),
    ],
    ids=lambda text: repr(text[:40]),
)
def test_garbage_is_an_error_that_names_its_line(text: str) -> None:
    with pytest.raises(TraceError, match=r"^not a trace line"):
        decode_line(text)
    with pytest.raises(TraceError, match=r"^line 3: not a trace line"):
        list(decode([GOOD, GOOD, text, GOOD]))


# -- merging ---------------------------------------------------------------------------------


def apart(trace: tuple[Line, ...]) -> list[list[Line]]:
    return [[line for line in trace if line.node == node] for node in ("a", "b")]


@pytest.mark.parametrize("trace", [recorded, with_takeover])
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("skew_ns", [0, -(10**9), 10**9])
def test_merge_puts_every_cause_first(trace, order: int, skew_ns: int) -> None:
    """In either order of the two traces, and however wrong one host's clock is."""
    a, b = apart(trace())
    b = [replace(line, now_ns=line.now_ns + skew_ns) for line in b]
    merged = merge([a, b][::order])
    place = {(line.node, line.n): index for index, line in enumerate(merged)}
    assert len(merged) == len(place) == len(a) + len(b)
    assert [line for line in merged if line.node == "a"] == a
    assert [line for line in merged if line.node == "b"] == b
    causes = [(line, line.cause) for line in merged if line.cause is not None]
    assert len(causes) > 20
    for line, cause in causes:
        assert place[cause] < place[line.node, line.n]
    assert replay(merged) == []


def test_merge_keeps_what_an_event_led_to_together() -> None:
    """Found by exploring real guests: a Load that was asked for beside RECEIVED came after the
    release that RECEIVED made happen, as if the state had not been in hand.
    """
    state = t.State(t.Blob("ram", 1, "r"), t.Blob("device", 1, "d"))
    secondary = [
        Line("b", 0, 0, "event", "load", t.PeerBlob(state.device)),
        Line("b", 1, 0, "action", "load", t.SendMessage(b"RECEIVED")),
        Line("b", 2, 0, "action", "load", t.Load(1, state, 1)),
        Line("b", 3, 9, "event", "load", t.Tick()),
    ]
    primary = [
        Line("a", 0, 5, "event", "wait-loaded", t.PeerBytes(b"RECEIVED"), ("b", 1)),
        Line("a", 1, 5, "action", "wait-loaded", t.Release(())),
    ]
    assert merge([primary, secondary]) == [*secondary[:3], *primary, secondary[3]]


def test_merge_says_which_line_has_no_cause() -> None:
    a, b = apart(recorded())
    orphan = next(line for line in b if line.cause is not None)
    assert orphan.cause is not None
    kept = [line for line in a if line.n < orphan.cause[1]]
    with pytest.raises(TraceError, match=rf"line {orphan.n} of node 'b'"):
        merge([kept, b])


def test_merge_refuses_a_circle() -> None:
    body = t.Tick()
    a = Line("a", 0, 0, "event", "run", body, ("b", 0))
    b = Line("b", 0, 0, "event", "run", body, ("a", 0))
    with pytest.raises(TraceError, match="cause that never comes"):
        merge([[a], [b]])


# -- replay ----------------------------------------------------------------------------------


@pytest.mark.parametrize("trace", [recorded, with_takeover])
def test_replay_of_a_whole_trace_does_the_same(trace) -> None:
    assert replay(trace()) == []
    assert replay(decode(map(encode_line, trace()))) == []


@pytest.mark.parametrize("node", ["a", "b"])
def test_replay_of_one_node_needs_no_other(node: str) -> None:
    assert replay(line for line in with_takeover() if line.node == node) == []


def altered(body: Any) -> Any:
    """The same action or signal with one thing in it changed."""
    hints = get_type_hints(type(body))
    name, value = next((name, getattr(body, name)) for name in hints)
    other: Any = {
        int: lambda: value + 1,
        str: lambda: value + "!",
        bytes: lambda: value + b"!",
    }.get(type(value), lambda: None)()
    return replace(body, **{name: other})


def consequences(trace: tuple[Line, ...]) -> list[int]:
    return [index for index, line in enumerate(trace) if line.kind in ("signal", "action")]


def test_replay_notices_every_altered_action_and_signal() -> None:
    trace = with_takeover()
    noticed = 0
    for index in consequences(trace):
        line = trace[index]
        if not get_type_hints(type(line.body)):
            continue  # nothing in it to alter
        spoiled = (*trace[:index], replace(line, body=altered(line.body)), *trace[index + 1 :])
        [difference] = replay(spoiled)
        assert (difference.node, difference.n) == (line.node, line.n)
        assert difference.recorded == repr(altered(line.body))
        assert difference.replayed == repr(line.body)
        noticed += 1
    assert noticed > 100


def test_replay_notices_every_missing_action_and_signal() -> None:
    trace = with_takeover()
    for index in consequences(trace):
        assert replay((*trace[:index], *trace[index + 1 :])), trace[index]


def test_replay_notices_an_action_too_many() -> None:
    trace = recorded()
    extra = replace(trace[-1], kind="action", body=t.Promote())
    assert replay((*trace, extra))


def test_replay_notices_a_dropped_event() -> None:
    """Every event that had a consequence, then or later; a heartbeat in time has none."""
    trace = with_takeover()
    missed = [
        type(line.body).__name__
        for index, line in enumerate(trace)
        if line.kind == "event" and not replay((*trace[:index], *trace[index + 1 :]))
    ]
    events = sum(line.kind == "event" for line in trace)
    print(f"{events} events, without consequence: {sorted(missed)}")
    assert set(missed) <= {"HeartbeatSeen", "PeerGone"}
    assert len(missed) < events / 4


def test_replay_notices_another_time() -> None:
    """Times are part of what happened: a tick too early is one that did nothing."""
    trace = recorded()
    for index, line in enumerate(trace):
        follows = trace[index + 1 : index + 2]
        if isinstance(line.body, t.Tick) and follows and follows[0].kind == "signal":
            early = replace(line, now_ns=line.now_ns - 1)
            assert replay((*trace[:index], early, *trace[index + 1 :]))
            return
    pytest.fail("no tick with a consequence in this trace")


def test_replay_reports_what_a_node_must_never_be_fed() -> None:
    trace = list(recorded())
    never = Line("a", trace[-1].n + 1, trace[-1].now_ns, "event", "run", t.Done(10_000))
    [difference] = replay([*trace, never])
    assert "never asked for" in difference.replayed


def test_replay_needs_a_header() -> None:
    with pytest.raises(TraceError, match="no header"):
        replay(line for line in recorded() if line.kind != "node")


def test_replay_needs_a_header_that_a_node_can_have() -> None:
    trace = recorded()
    for what in ("policy", "dialect"):
        odd = replace(trace[0], body=replace(trace[0].body, **{what: "odd"}))
        with pytest.raises(TraceError, match=f"header of node 'a': {what} 'odd' is unknown"):
            replay((odd, *trace[1:]))
    odd = replace(trace[0], body=replace(trace[0].body, policy_params=(("odd", 1),)))
    with pytest.raises(TraceError, match="header of node 'a': TypeError"):
        replay((odd, *trace[1:]))
