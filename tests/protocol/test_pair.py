"""Primary and secondary against each other, through whatever can go wrong.

10,000 sequences in `make test`, 40,000 in the campaign; each is checked by
`harness.problems`: nothing raises, every promise the design makes holds, under at most one fault
somebody serves and has answered everything, and a replay of the written trace does the same.

The second half shows that these checks can fail: each test there spoils one thing and demands
that the harness finds it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from random import Random
from zlib import crc32

import pytest
from hypothesis import HealthCheck, Phase, find, given, seed, settings
from hypothesis import strategies as st

from colosim.protocol import gate, manager, node
from colosim.protocol import types as t
from colosim.protocol.checkpoint import Do, Machine, P, Quirks, S, Transfer, Verb
from colosim.protocol.codec import Decoder, encode
from colosim.protocol.dialect import DIALECTS
from colosim.protocol.digests import DigestComparator
from colosim.protocol.manager import M, MDo, MVerb
from colosim.protocol.node import machine_of
from colosim.protocol.policies import POLICIES
from colosim.protocol.policies.hybrid import Hybrid
from tests.protocol.harness import (
    OVER,
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
    SwitchOver,
    World,
    all_setups,
    problems,
    run,
    story,
    violations,
)

SETUPS = tuple(all_setups())
EACH = max(375, settings().max_examples)
OPERATIONS = (
    *("Precopy", "Quiesce", "StopVm", "Drain", "Save", "Copy", "SendState", "Load", "StartVm"),
)


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
    dialect = DIALECTS[setup.dialect]
    messages = [encode(dialect, message) for message in dialect.values]
    lies = st.lists(st.sampled_from(messages), min_size=1, max_size=3).map(b"".join)
    slips = st.sampled_from((*OPERATIONS, *OPERATIONS, "AskVote", "Fence"))
    crash = st.builds(Crash, when, side, scope, st.booleans())
    return st.one_of(
        crash,
        crash,
        st.builds(Hang, when, side, scope, for_ns),
        st.builds(SwitchOver, when),
        st.builds(CutLink, when, st.booleans(), st.booleans()),
        st.builds(Junk, when, side, noise | lies),
        st.builds(Slip, side, slips, st.integers(1, 2), st.booleans()),
        st.builds(Mute, when, side, for_ns),
        st.builds(NoArbiter, when, side, for_ns),
    )


REQUESTS = st.lists(
    st.builds(
        Request,
        st.integers(0, 60),
        st.sampled_from(("s", "u")),
        st.sampled_from(("", "", "a", "b", "a+", "b+")),
    ),
    max_size=7,
).map(tuple)


def plans(setup: Setup, fault: st.SearchStrategy[Fault] | None = None) -> st.SearchStrategy[Plan]:
    """Sequences with up to three faults, most often one; or with just this one."""
    fault, numbers = (faults(setup), (1, 0, 1, 2, 2, 3)) if fault is None else (fault, (1,))
    return st.builds(
        Plan,
        requests=REQUESTS,
        faults=st.one_of(*(st.tuples(*(fault,) * n) for n in numbers)),
        tape=st.binary(min_size=48, max_size=48),
        raw=st.booleans(),
        gap_ns=st.sampled_from((0, 90)),
        slow=st.none() | st.tuples(st.sampled_from("ab"), st.sampled_from(OPERATIONS)),
    )


def check(world: World) -> None:
    found = problems(world)
    if found:
        pytest.fail(story(world, found), pytrace=False)


def test_enough_sequences() -> None:
    assert len(SETUPS) == 27
    assert len(SETUPS) * EACH >= 10_000


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_sequences(setup: Setup, record_property) -> None:
    tally: Counter[str] = Counter()

    @settings(max_examples=EACH, suppress_health_check=list(HealthCheck))
    @given(plans(setup))
    def sequence(plan: Plan) -> None:
        world = run(setup, plan)
        check(world)
        tally["sequences"] += 1
        tally["events"] += world.session.events
        tally[f"{min(len(world.fired), 2)} faults"] += 1
        tally["checkpoints"] += world.seen[t.Completed]
        tally["aborted"] += world.seen[t.Aborted]
        tally["unclaimed violations"] += len(violations(world)[1])
        tally["cancelled operations"] += sum(n.cancelled for n in world.session.nodes.values())
        for side in world.alone():
            tally[f"{side} alone"] += 1

    if settings().derandomize:  # the same sequences on every run, others for every setup
        seed(crc32(str(setup).encode()))(sequence)
    sequence()
    for name, count in sorted(tally.items()):
        record_property(name, count)
    assert tally["sequences"] >= EACH
    assert tally["checkpoints"] >= EACH / 2
    assert tally["a alone"] >= EACH / 20
    assert tally["b alone"] >= EACH / 20 or setup.dialect == "rfc2014"


TAPES = (b"\0", bytes(range(1, 250, 5)))  # calm and untidy
ASKED = tuple(Request(gap_ns, "s", diverges) for gap_ns, diverges in ((8, ""), (9, "a"), (60, "")))


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_end_of_anything_at_every_step(setup: Setup) -> None:
    """Guest, node or host of either side ends or hangs for ever when either side enters a step."""
    visited: set[tuple[str, str]] = set()
    steps = [AtStep(side, step, 1) for side, step in steps_of(setup) if step not in OVER]
    for when, side, scope, tape in product(steps, "ab", ("vm", "node", "host"), TAPES):
        for fault in (
            Crash(when, side, scope, told=True),
            Crash(when, side, scope, told=False),
            Hang(when, side, scope, for_ns=None),
        ):
            world = run(setup, Plan(ASKED, (fault,), tape, slow=("b", "Load")))
            check(world)
            visited.update(world.visits)
    assert visited == set(steps_of(setup))


# -- single sequences ------------------------------------------------------------------------

UPSTREAM = Setup("upstream", "remus", Transfer.STOP_AND_SEND, None, Quirks.NONE)


def serves(fault: Fault) -> list[list[str]]:
    return [run(UPSTREAM, Plan(ASKED, (fault,), tape)).alone() for tape in TAPES]


def test_guest_that_is_gone_while_its_state_is_sent_does_not_go_on() -> None:
    assert serves(Crash(AtStep("a", "send", 1), "a", "vm", told=True)) == [["b"], ["b"]]


def test_guest_that_is_not_saved_in_time_does_not_go_on() -> None:
    assert serves(Hang(AtStep("a", "save", 1), "a", "vm", for_ns=None)) == [["b"], ["b"]]


# -- the checks can fail ---------------------------------------------------------------------

COLO = Setup("upstream", "colo", Transfer.STOP_AND_SEND, None, Quirks.NONE)
# where a rare fault is needed: a primary only thought dead; a load that fails
SILENCE = st.builds(Mute, st.integers(0, 250).map(At), st.just("a"), st.none())
NO_LOAD = st.builds(Slip, st.just("b"), st.just("Load"), st.integers(1, 2), st.just(False))


def caught(
    complaint: str,
    setup: Setup = UPSTREAM,
    machines: dict[str, Machine] | None = None,
    world: type[World] = World,
    replayed: bool = False,
    fault: st.SearchStrategy[Fault] | None = None,
) -> None:
    """Demand that the sequences of `test_sequences` find a spoiled pair out, in these words."""

    def complains(plan: Plan) -> bool:
        found = problems(run(setup, plan, machines, world), replayed)
        return any(complaint in problem for problem in found)

    # what is drawn depends on all source text that is imported, so on each commit: some are rare
    quick = settings(
        max_examples=10_000,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    find(plans(setup, fault), complains, settings=quick, random=Random(0))


def spoiled(role: t.Role, rows: dict, setup: Setup = UPSTREAM) -> dict[str, Machine]:
    """This side's table with some rows replaced, or (None) deleted."""
    config = setup.config(role)
    machine = machine_of(config)
    table = {key: row for key, row in (machine.rows | rows).items() if row is not None}
    return {config.id: replace(machine, rows=table)}


def test_gate_that_releases_at_the_cut(monkeypatch) -> None:
    class Eager(gate.Gate):
        def _on_cut(self, signal, now_ns):
            super()._on_cut(signal, now_ns)
            self._on_committed(t.Committed(signal.checkpoint), now_ns)

    monkeypatch.setattr(node, "Gate", Eager)
    caught("OutputCommit")
    caught("told clients")


def test_gate_that_loses_output(monkeypatch) -> None:
    class Lossy(gate.Gate):
        def _on_committed(self, signal, now_ns):
            self._take(signal.checkpoint)

    monkeypatch.setattr(node, "Gate", Lossy)
    caught("does not release all")
    caught("no fault, but")


def test_gate_that_keeps_what_a_load_replaced(monkeypatch) -> None:
    class Keeping(gate.Gate):
        def _on_loaded(self, signal, now_ns):
            self._epoch = signal.checkpoint

    monkeypatch.setattr(node, "Gate", Keeping)
    caught("NoLoss", COLO)


HYBRID = replace(COLO, policy="hybrid", transfer=Transfer.COPY_THEN_SEND)


def test_gate_that_does_not_hear_that_output_waits_for_the_commit(monkeypatch) -> None:
    class Deaf(gate.Gate):
        def _on_output_rule(self, signal, now_ns):
            pass

    monkeypatch.setattr(node, "Gate", Deaf)
    caught("OutputCommit", HYBRID)


@pytest.mark.parametrize("signal", [t.Mismatch, t.Committed])
def test_policy_that_changes_its_mind_within_an_epoch(monkeypatch, signal) -> None:
    class Rash(Hybrid):
        def signal(self, heard, now_ns):
            if isinstance(heard, signal):
                self._active = self._colo if self._active is self._periodic else self._periodic
            return super().signal(heard, now_ns)

    monkeypatch.setitem(POLICIES, "hybrid", Rash)
    caught("in the middle of epoch", HYBRID)


def test_table_that_forgets_to_stop_precopying() -> None:
    rows = {(P.PRECOPY, Verb.DONE): ((Do.PRECOPY,), P.PRECOPY)}
    setup = replace(UPSTREAM, transfer=Transfer.PRECOPY)
    caught("no fault, but", setup, spoiled(t.Role.PRIMARY, rows, setup))


def test_comparator_that_looks_at_nothing(monkeypatch) -> None:
    class Blind(DigestComparator):
        def primary_output(self, event, now_ns):
            self._out.signal(t.Match(event.range))

    monkeypatch.setattr(node, "DigestComparator", Blind)
    caught("OutputCommit", COLO)


def test_table_that_commits_before_received() -> None:
    rows = {
        (P.SEND, Verb.DONE): ((Do.COMMIT,), P.WAIT_RECEIVED),
        (P.WAIT_RECEIVED, Verb.RECEIVED): ((), P.WAIT_LOADED),
    }
    caught("OutputCommit", machines=spoiled(t.Role.PRIMARY, rows))


def test_table_that_commits_without_a_cut() -> None:
    rows = {(P.CUT, Verb.DONE): ((Do.SAVE,), P.SAVE)}
    caught("CheckpointOrder", machines=spoiled(t.Role.PRIMARY, rows))


def test_table_that_goes_on_with_a_half_loaded_guest() -> None:
    rows = {(S.LOAD, Verb.FAILED): ((Do.ABORT, Do.CLOSE_LINK, Do.EXIT), S.EXITED)}
    machines = spoiled(t.Role.SECONDARY, rows)
    caught("nonsense reached clients", machines=machines, fault=NO_LOAD)


@pytest.mark.parametrize(
    ("role", "row"),
    [
        (t.Role.PRIMARY, (P.WAIT_RECEIVED, Verb.LINK_LOST)),
        (t.Role.PRIMARY, (P.REQUEST, Verb.PEER_FAULT)),
        (t.Role.SECONDARY, (S.WAIT_REQUEST, Verb.PROMOTE)),
    ],
)
def test_table_without_a_row(role, row) -> None:
    caught("ProtocolError", machines=spoiled(role, {row: None}))


def test_promotion_without_fencing(monkeypatch) -> None:
    """Then a primary that was only thought dead goes on releasing what is matched just now."""
    row = ((MDo.PROMOTE,), M.PROMOTING)
    monkeypatch.setitem(manager.MANAGER_ROWS, (M.VOTING, MVerb.GRANTED), row)
    caught("OneActiveSide", COLO, fault=SILENCE)


def test_fencing_that_lies() -> None:
    class Lying(World):
        def fence(self, host):
            pass

    caught("OneActiveSide", COLO, world=Lying, fault=SILENCE)


def test_arbiter_that_grants_both() -> None:
    class Generous(World):
        def arbitrate(self, side):
            return True

    caught("after one fault 0 sides serve", world=Generous)


def test_manager_that_never_promotes(monkeypatch) -> None:
    monkeypatch.setitem(manager.MANAGER_ROWS, (M.FENCING, MVerb.FENCED), ((), M.STRANDED))
    caught("after one fault 0 sides serve")


def test_decoder_that_raises(monkeypatch) -> None:
    class Strict(Decoder):
        def _fault(self, why):
            raise ValueError(why)

    monkeypatch.setattr(node, "Decoder", Strict)
    caught("ValueError")


def test_clock_that_never_moves_on(monkeypatch) -> None:
    monkeypatch.setattr(manager.Manager, "deadline_ns", lambda self: 0)
    caught("never comes to rest")


def test_node_with_a_memory_of_its_own(monkeypatch) -> None:
    class Remembering(gate.Gate):
        releases = 0

        def _on_committed(self, signal, now_ns):
            Remembering.releases += 1
            if Remembering.releases % 2:
                super()._on_committed(signal, now_ns)

    monkeypatch.setattr(node, "Gate", Remembering)
    caught("replay differs", replayed=True)


def test_a_lie_on_the_wire_is_counted_and_not_blamed() -> None:
    lie = Junk(AtStep("a", "wait-received", 1), "a", b"\0\0\0\x05")
    world = run(UPSTREAM, Plan(ASKED, (lie,), TAPES[1]))
    claimed, others = violations(world)
    assert not claimed
    assert {violation.invariant for violation in others} == {"OutputCommit"}
    assert not problems(world)


def test_the_story_is_short_and_says_why() -> None:
    """What a failed sequence prints: why, the plan, and what happened, one thing a line."""
    rows = {(S.LOAD, Verb.FAILED): ((Do.ABORT, Do.CLOSE_LINK, Do.EXIT), S.EXITED)}
    machines = spoiled(t.Role.SECONDARY, rows)

    def nonsense(plan: Plan) -> bool:
        found = problems(run(UPSTREAM, plan, machines), replayed=False)
        return any("nonsense" in problem for problem in found)

    minimal = settings(max_examples=500, database=None)
    plan = find(plans(UPSTREAM, NO_LOAD), nonsense, settings=minimal, random=Random(0))
    world = run(UPSTREAM, plan, machines)
    told = story(world, problems(world, replayed=False)).splitlines()
    assert "nonsense" in told[0]
    assert any("*** fault: Slip(side='b', action='Load'" in line for line in told)
    assert any("load            -> Load" in line for line in told)
    assert len(told) < 100
    print("\n".join(told))
