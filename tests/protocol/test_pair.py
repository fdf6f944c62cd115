"""Primary and secondary against each other, through whatever can go wrong.

10,000 sequences in `make test`, 200,000 in the campaign; each is checked by
`harness.problems`: nothing raises, every promise the design makes holds, under at most one fault
somebody serves and has answered everything, and a replay of the written trace does the same.

The second half shows that these checks can fail: each test there spoils one thing and demands
that the harness finds it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from colosim.protocol import gate, manager, node
from colosim.protocol import types as t
from colosim.protocol.checkpoint import Do, Machine, P, Quirks, S, Transfer, Verb
from colosim.protocol.manager import M, MDo, MVerb
from colosim.protocol.node import machine_of
from tests.protocol.harness import (
    At,
    AtStep,
    Crash,
    CutLink,
    Fault,
    Hang,
    Junk,
    Mute,
    NoArbiter,
    Plan,
    Request,
    Setup,
    Slip,
    World,
    all_setups,
    problems,
    run,
    story,
    violations,
)

SETUPS = tuple(all_setups())
EACH = max(500, settings().max_examples)
OPERATIONS = ("Quiesce", "StopVm", "Drain", "Save", "Copy", "SendState", "Load", "StartVm")


def steps_of(setup: Setup) -> list[tuple[str, str]]:
    """Every (side, step) that a setup's tables know."""
    return [
        (side, step)
        for side, role in (("a", t.Role.PRIMARY), ("b", t.Role.SECONDARY))
        for step in sorted({state.value for state, _ in machine_of(setup.config(role)).rows})
    ]


def faults(setup: Setup) -> st.SearchStrategy[Fault]:
    side = st.sampled_from("ab")
    at_step = st.tuples(st.sampled_from(steps_of(setup)), st.integers(1, 2))
    when = st.integers(0, 250).map(At) | at_step.map(lambda s: AtStep(*s[0], s[1]))
    scope = st.sampled_from(("host", "node", "vm"))
    for_ns = st.sampled_from((None, 20, 80, 200))
    noise = st.binary(min_size=1, max_size=9).map(lambda data: bytes((data[0] | 0x80,)) + data[1:])
    lies = st.lists(
        st.sampled_from([b"\0\0\0" + bytes((n,)) for n in (*range(7), *range(70, 76))]),
        min_size=1,
        max_size=3,
    ).map(b"".join)
    slips = st.sampled_from((*OPERATIONS, *OPERATIONS, "AskVote", "Fence"))
    crash = st.builds(Crash, when, side, scope, st.booleans())
    return st.one_of(
        crash,
        crash,
        st.builds(Hang, when, side, scope, for_ns),
        st.builds(CutLink, when, st.booleans(), st.booleans()),
        st.builds(Junk, when, side, noise | lies),
        st.builds(Slip, side, slips, st.integers(1, 2), st.booleans()),
        st.builds(Mute, when, side, for_ns),
        st.builds(NoArbiter, when, side, for_ns),
    )


@st.composite
def plans(draw: st.DrawFn, setup: Setup, most: int = 3) -> Plan:
    """Sequences with up to ``most`` faults, most often one."""
    requests = st.builds(
        Request,
        st.integers(0, 60),
        st.sampled_from(("s", "u")),
        st.sampled_from(("", "", "a", "b", "a+", "b+")),
    )
    number = min(draw(st.sampled_from((1, 0, 1, 2, 2, 3))), most)
    return Plan(
        requests=tuple(draw(st.lists(requests, max_size=7))),
        faults=tuple(draw(faults(setup)) for _ in range(number)),
        tape=draw(st.binary(min_size=48, max_size=48)),
        raw=draw(st.booleans()),
        gap_ns=draw(st.sampled_from((0, 90))),
    )


def check(world: World) -> None:
    found = problems(world)
    if found:
        pytest.fail(story(world, found), pytrace=False)


def test_enough_sequences() -> None:
    assert len(SETUPS) == 20
    assert len(SETUPS) * EACH >= 10_000


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_pair(setup: Setup, record_property) -> None:
    tally: Counter[str] = Counter()
    visited: set[tuple[str, str]] = set()

    @settings(max_examples=EACH, suppress_health_check=list(HealthCheck))
    @given(plans(setup))
    def sequence(plan: Plan) -> None:
        world = run(setup, plan)
        check(world)
        visited.update(world.visits)
        tally["sequences"] += 1
        tally["events"] += world.session.events
        tally[f"{min(len(world.fired), 2)} faults"] += 1
        tally["checkpoints"] += world.seen[t.Completed]
        tally["aborted"] += world.seen[t.Aborted]
        tally["unclaimed violations"] += len(violations(world)[1])
        tally["cancelled operations"] += sum(n.cancelled for n in world.session.nodes.values())
        for side in world.alone():
            tally[f"{side} alone"] += 1

    sequence()
    for name, count in sorted(tally.items()):
        record_property(name, count)
    print(dict(sorted(tally.items())))
    print("never visited:", set(steps_of(setup)) - visited)
    assert tally["sequences"] >= EACH
