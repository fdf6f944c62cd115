"""Gate and comparator by themselves: what leaves when, and who says that two outputs agree."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colosim.protocol.digests import DigestComparator
from colosim.protocol.gate import Gate
from colosim.protocol.outbox import Outbox
from colosim.protocol.types import (
    Alone,
    Committed,
    Cut,
    Drop,
    GuestOutput,
    Loaded,
    Match,
    Mismatch,
    OfferWitness,
    Output,
    PeerOutput,
    Range,
    Release,
    Role,
    Stale,
)


class Bench:
    """A part alone: say things to it, take what it wants."""

    def __init__(self, make):
        self.out = Outbox()
        self.part = make(self.out)

    def hear(self, signal, now_ns=0):
        self.part.hears()[type(signal)](signal, now_ns)
        return self.actions()

    def output(self, stream, first, end, digest="d"):
        self.part.guest_output(GuestOutput(Range(stream, first, end), digest), 0)
        return self.actions()

    def actions(self):
        actions, self.out.actions = self.out.actions, []
        return actions

    def signals(self):
        signals, self.out.signals = list(self.out.signals), deque()
        return signals


def gate(role, output):
    return Bench(lambda out: Gate(role, output, out))


A, B, C = Range("a", 0, 5), Range("b", 0, 9), Range("a", 5, 7)

# ------------------------------------------------------------------------------------------- gate


def test_without_protection_output_leaves_at_once():
    bench = gate(Role.PRIMARY, Output.NONE)
    assert bench.output("a", 0, 5) == [Release((A,))]


@pytest.mark.parametrize("output", [Output.COMMIT, Output.WITNESS])
def test_output_waits_for_its_commit(output):
    bench = gate(Role.PRIMARY, output)
    assert bench.output("a", 0, 5) == []
    assert bench.output("b", 0, 9) == []
    assert bench.hear(Cut(1)) == []
    assert bench.output("a", 5, 7) == []  # fills epoch 2 while 1 is in flight
    assert bench.hear(Committed(1)) == [Release((A, B))]
    assert bench.hear(Committed(1)) == []
    assert bench.hear(Cut(2)) == []
    assert bench.hear(Committed(2)) == [Release((C,))]


def test_a_match_releases_its_stream_only():
    bench = gate(Role.PRIMARY, Output.WITNESS)
    for stream, first, end in (("a", 0, 5), ("b", 0, 9), ("a", 5, 7)):
        bench.output(stream, first, end)
    assert bench.hear(Match(A)) == [Release((A,))]
    assert bench.hear(Match(A)) == []
    bench.hear(Cut(1))
    assert bench.hear(Committed(1)) == [Release((B, C))]


def test_a_match_releases_what_it_names_and_no_more():
    bench = gate(Role.PRIMARY, Output.WITNESS)
    bench.output("a", 0, 5)
    bench.output("a", 5, 7)
    assert bench.hear(Match(C)) == [Release((C,))]
    assert bench.hear(Match(Range("a", 0, 7))) == [Release((A,))]


def test_what_is_held_leaves_when_the_guest_goes_on_alone():
    bench = gate(Role.PRIMARY, Output.COMMIT)
    bench.output("a", 0, 5)
    bench.hear(Cut(1))
    bench.output("b", 0, 9)
    assert bench.hear(Alone()) == [Release((A, B))]
    assert bench.output("a", 5, 7) == [Release((C,))]


def test_the_secondary_offers_keeps_and_drops():
    bench = gate(Role.SECONDARY, Output.WITNESS)
    assert bench.output("a", 0, 5, "x") == [OfferWitness(A, "x", 0)]
    assert bench.hear(Loaded(1)) == [Drop((A,))]
    assert bench.output("b", 0, 9, "y") == [OfferWitness(B, "y", 1)]
    assert bench.output("a", 5, 7, "z") == [OfferWitness(C, "z", 1)]
    assert bench.hear(Alone()) == [Release((B, C))]
    assert bench.output("a", 7, 8) == [Release((Range("a", 7, 8),))]


def test_the_secondary_rewinds_at_a_load():
    """It says again what it said, in other words perhaps, from where the checkpoint was."""
    bench = gate(Role.SECONDARY, Output.WITNESS)
    bench.output("a", 0, 5)
    bench.hear(Loaded(1))
    bench.output("a", 0, 3)
    assert bench.hear(Alone()) == [Release((Range("a", 0, 3),))]


@pytest.mark.parametrize("output", [Output.COMMIT, Output.NONE])
def test_a_secondary_that_is_not_asked_for_witnesses_stays_silent(output):
    bench = gate(Role.SECONDARY, output)
    assert bench.output("a", 0, 5) == []
    assert bench.hear(Loaded(1)) == [Drop((A,))]
    assert bench.hear(Loaded(2)) == []


class Ledger:
    """The same promises, written the slow way."""

    def __init__(self):
        self.held = []  # (checkpoint, range), in the order made
        self.next = 1

    def leave(self, leaves):
        left = tuple(range_ for entry in self.held if leaves(entry) for range_ in entry[1:])
        self.held = [entry for entry in self.held if not leaves(entry)]
        return [Release(left)] if left else []


steps = st.lists(
    st.tuples(st.just("output"), st.sampled_from("abc"), st.integers(1, 9))
    | st.tuples(st.just("match"), st.integers(0, 9), st.none())
    | st.tuples(st.sampled_from(["cut", "commit"]), st.none(), st.none()),
    max_size=60,
)


@given(steps)
def test_gate_does_as_the_ledger(script):
    bench, ledger = gate(Role.PRIMARY, Output.WITNESS), Ledger()
    ends = dict.fromkeys("abc", 0)
    committed = 0
    for what, which, size in script:
        if what == "output":
            first, ends[which] = ends[which], ends[which] + size
            assert bench.output(which, first, ends[which]) == []
            ledger.held.append((ledger.next, Range(which, first, ends[which])))
        elif what == "match" and ledger.held:
            target = ledger.held[which % len(ledger.held)][1]
            assert bench.hear(Match(target)) == ledger.leave(lambda e, t=target: e[1] == t)
        elif what == "cut" and committed == ledger.next - 1:  # one checkpoint at a time
            assert bench.hear(Cut(ledger.next)) == []
            ledger.next += 1
        elif what == "commit" and committed < ledger.next - 1:
            committed += 1
            expected = ledger.leave(lambda e, k=committed: e[0] <= k)
            assert bench.hear(Committed(committed)) == expected
    assert bench.hear(Alone()) == ledger.leave(lambda e: True)


def numbers(actions):
    """Every frame that is released, in order."""
    return [n for action in actions for range_ in action.ranges for n in range(*ends(range_))]


def ends(range_):
    return range_.first, range_.end


frame_steps = st.lists(
    st.tuples(st.just("output"), st.integers(1, 9), st.none())
    | st.tuples(st.just("match"), st.integers(0, 60), st.integers(1, 9))
    | st.tuples(st.sampled_from(["cut", "commit"]), st.none(), st.none()),
    max_size=60,
)


@given(frame_steps)
def test_by_frame_each_leaves_once_and_with_its_checkpoint(script):
    bench = Bench(lambda out: Gate(Role.PRIMARY, Output.WITNESS, out, by_frame=True))
    held: dict[int, int] = {}  # frame -> checkpoint
    made, cut, committed = 0, 0, 0
    for what, which, size in script:
        leave: list[int] = []
        said = []
        if what == "output":
            held.update(dict.fromkeys(range(made, made + which), cut + 1))
            assert bench.output("a", made, made + which) == []
            made += which
        elif what == "match":
            leave = [n for n in range(which, which + size) if n in held]
            said = bench.hear(Match(Range("a", which, which + size)))
        elif what == "cut" and committed == cut:
            cut += 1
            assert bench.hear(Cut(cut)) == []
        elif what == "commit" and committed < cut:
            committed += 1
            leave = [n for n, checkpoint in held.items() if checkpoint <= committed]
            said = bench.hear(Committed(committed))
        assert numbers(said) == leave
        for n in leave:
            del held[n]
    assert numbers(bench.hear(Alone())) == list(held)


def test_released_entries_do_not_pile_up():
    bench = gate(Role.PRIMARY, Output.WITNESS)
    for index in range(100):
        bench.output("a", index, index + 1)
        bench.hear(Match(Range("a", index, index + 1)))
    assert len(bench.part._ledger) == 0


# ------------------------------------------------------------------------------------- comparator

TIMEOUT_NS = 3_000


def comparator():
    return Bench(lambda out: DigestComparator(TIMEOUT_NS, out))


def say(bench, side, range_, digest, now_ns=0, epoch=0):
    if side == "primary":
        bench.part.primary_output(GuestOutput(range_, digest), now_ns)
    else:
        bench.part.witness(PeerOutput(range_, digest, epoch), now_ns)
    return bench.signals()


@pytest.mark.parametrize(("first", "second"), [("primary", "witness"), ("witness", "primary")])
def test_match_and_mismatch(first, second):
    bench = comparator()
    assert say(bench, first, A, "x") == []
    assert say(bench, second, A, "x") == [Match(A)]
    assert say(bench, first, C, "x") == []
    assert say(bench, second, C, "y") == [Mismatch(C, "content")]


def test_another_position_is_a_mismatch():
    bench = comparator()
    say(bench, "primary", A, "x")
    assert say(bench, "witness", Range("a", 0, 4), "x") == [Mismatch(A, "position")]


def test_silent_after_a_difference_until_the_cut_but_for_other_streams():
    bench = comparator()
    say(bench, "primary", A, "x")
    say(bench, "witness", A, "y")
    assert say(bench, "primary", C, "z") == []
    assert say(bench, "witness", C, "z") == []
    assert bench.part.deadline_ns() is None
    say(bench, "primary", B, "x")
    assert say(bench, "witness", B, "x") == [Match(B)]
    bench.hear(Cut(1))
    after = Range("a", 7, 9)
    say(bench, "primary", after, "q")
    assert say(bench, "witness", after, "q", epoch=1) == [Match(after)]


@pytest.mark.parametrize("side", ["primary", "witness"])
def test_output_of_one_guest_alone_grows_stale(side):
    bench = comparator()
    say(bench, side, A, "x", now_ns=100)
    say(bench, side, C, "x", now_ns=200)
    assert bench.part.deadline_ns() == 100 + TIMEOUT_NS
    bench.part.tick(100 + TIMEOUT_NS)
    assert bench.signals() == [Stale(A)]
    assert bench.part.deadline_ns() is None  # one checkpoint answers for the stream


def test_compared_output_does_not_grow_stale():
    bench = comparator()
    say(bench, "primary", A, "x", now_ns=100)
    say(bench, "primary", C, "x", now_ns=200)
    say(bench, "witness", A, "x", now_ns=300)
    assert bench.part.deadline_ns() == 200 + TIMEOUT_NS
    bench.part.tick(200 + TIMEOUT_NS - 1)
    assert bench.signals() == []
    say(bench, "witness", C, "x", now_ns=400)
    assert bench.part.deadline_ns() is None


def test_a_cut_forgives_what_waits():
    bench = comparator()
    say(bench, "primary", A, "x")
    bench.hear(Cut(1))
    assert bench.part.deadline_ns() is None
    assert say(bench, "witness", A, "x", epoch=1) == []  # compared with nothing of before


def test_a_witness_of_a_run_that_was_replaced_is_not_listened_to():
    bench = comparator()
    bench.hear(Cut(1))
    say(bench, "primary", A, "x")
    assert say(bench, "witness", A, "y", epoch=0) == []
    assert bench.part.old_witnesses == 1
    assert say(bench, "witness", A, "x", epoch=1) == [Match(A)]


@given(st.lists(st.integers(1, 3), max_size=8), st.lists(st.integers(1, 3), max_size=8), st.data())
def test_verdicts_do_not_depend_on_who_speaks_first(primary, secondary, data):
    """The common beginning matches, in order; then one mismatch, if both went on."""
    sides = {"primary": deque(enumerate(primary)), "witness": deque(enumerate(secondary))}
    bench, seen = comparator(), []
    while sides["primary"] or sides["witness"]:
        side = data.draw(st.sampled_from([name for name, rest in sides.items() if rest]))
        index, word = sides[side].popleft()
        seen += say(bench, side, Range("a", index, index + 1), str(word))
    pairs = list(zip(primary, secondary, strict=False))
    alike = next((i for i, (p, q) in enumerate(pairs) if p != q), len(pairs))
    expected: list = [Match(Range("a", i, i + 1)) for i in range(alike)]
    if alike < len(pairs):
        expected.append(Mismatch(Range("a", alike, alike + 1), "content"))
    assert seen == expected
