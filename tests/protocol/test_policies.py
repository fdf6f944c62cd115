"""Policies: when they ask for a checkpoint, and that one file is all a new one needs."""

import shutil
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import colosim.protocol
from colosim.protocol import types as t
from colosim.protocol.dialect import DIALECTS, MS, SECOND
from colosim.protocol.node import Node
from colosim.protocol.policies import POLICIES
from tests.protocol.script import Player, config_of, text

MISMATCH, STALE = t.Mismatch(t.Range("a", 0, 1), "content"), t.Stale(t.Range("a", 0, 1))


def policy_of(name, **params):
    policy = POLICIES[name]
    return policy(policy.Params(**params))


# --------------------------------------------------------------------------------------- registry


def test_registry():
    assert {name: policy.output for name, policy in POLICIES.items()} == {
        "none": t.Output.NONE,
        "remus": t.Output.COMMIT,
        "microcheckpoint": t.Output.COMMIT,
        "adaptive": t.Output.COMMIT,
        "colo": t.Output.WITNESS,
        "hybrid": t.Output.WITNESS,
    }
    assert [*POLICIES] == sorted(POLICIES)
    assert {name for name, policy in POLICIES.items() if not policy.protects()} == {"none"}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_parameters_say_what_they_are(policy):
    assert policy.summary
    assert is_dataclass(policy.Params)
    for parameter in fields(policy.Params):
        assert parameter.metadata["unit"] in {"time", "count", "percent"}
        assert parameter.metadata["help"]
        assert parameter.default >= parameter.metadata["minimum"]
        assert parameter.name.endswith("_ns") == (parameter.metadata["unit"] == "time")


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_a_dialects_own_values_fit(dialect):
    for name, params in dialect.policy_defaults.items():
        assert policy_of(name, **params).params


def test_reference_values():
    """`qemu-colo.md` 2.7 and 3.3 (upstream), 1.1 patch 17 and 1.3 (rfc2014), Cully 2008."""
    colo, remus = POLICIES["colo"].Params(), POLICIES["remus"].Params()
    assert (colo.checkpoint_delay_ns, colo.compare_timeout_ns) == (20 * SECOND, 3 * SECOND)
    assert colo.minimum_gap_ns == 0
    assert remus.interval_ns == 100 * MS
    own = DIALECTS["rfc2014"].policy_defaults
    assert own["remus"] == {"interval_ns": 500 * MS}
    assert own["colo"]["checkpoint_delay_ns"] == 10 * SECOND


NEW_POLICY = """
from dataclasses import dataclass
from colosim.protocol.policies.base import Policy, parameter
from colosim.protocol.types import Output, Protected


@dataclass(frozen=True, slots=True)
class OnceParams:
    after_ns: int = parameter(7, "time", "one checkpoint so long after protection")


class Once(Policy):
    name = "once"
    output = Output.COMMIT
    summary = "one checkpoint"
    Params = OnceParams
    due_ns = None

    def signal(self, signal, now_ns):
        if isinstance(signal, Protected):
            self.due_ns = now_ns + self.params.after_ns

    def deadline_ns(self):
        return self.due_ns

    def tick(self, now_ns):
        self.due_ns = None
        return "once"
"""
USE_IT = """
from dataclasses import replace
from tests.protocol.script import Player, config_of
from colosim.protocol.types import Role
config = config_of("upstream", Role.PRIMARY)
player = Player(replace(config, policy="once", policy_params=(("after_ns", 5),)))
for what in ("start", "bytes 00000000", "done StartVm"):
    player.feed(what)
print(player.node.deadline_ns())
player.feed("tick")
print(player.node.step)
"""


def test_a_new_policy_is_one_new_file(tmp_path):
    package = Path(colosim.protocol.__file__).parent
    (tmp_path / "colosim").mkdir()
    (tmp_path / "colosim" / "__init__.py").touch()
    shutil.copytree(package, tmp_path / "colosim" / "protocol")
    (tmp_path / "tests" / "protocol").mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "script.py", tmp_path / "tests" / "protocol")
    (tmp_path / "colosim" / "protocol" / "policies" / "once.py").write_text(NEW_POLICY)
    done = subprocess.run(
        [sys.executable, "-c", USE_IT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout.split(), done.stderr) == (["5", "quiesce"], "")


# ------------------------------------------------------------------------------------------- none


def test_none_is_one_guest_and_nobody_else():
    node = Node(replace(config_of("upstream", t.Role.PRIMARY), policy="none", policy_params=()))
    node.feed(t.Start(), 0)
    node.feed(t.GuestOutput(t.Range("a", 0, 5), "p"), 1)
    assert node.actions() == [t.Release((t.Range("a", 0, 5),))]
    assert node.deadline_ns() is None
    assert (node.step, node.signals()) == ("idle", [])


# ------------------------------------------------------------------------------------------ remus


@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.integers(0, 199), st.integers(0, 400)), min_size=1, max_size=20),
)
def test_remus_asks_at_the_interval_or_at_the_commit_whichever_is_later(interval_ns, epochs):
    """Next start = max(start + interval, previous committed); an epoch: (start late by, commit)."""
    policy = policy_of("remus", interval_ns=interval_ns)
    assert policy.deadline_ns() is None
    policy.signal(t.Protected(), 0)
    asked_ns, by_itself = interval_ns, True
    for k, (late_ns, commit_ns) in enumerate(epochs, 1):
        if by_itself:
            assert policy.deadline_ns() == asked_ns
            assert policy.tick(asked_ns) == "interval"
        start_ns = asked_ns + late_ns % interval_ns  # the checkpointer may have been busy
        assert policy.signal(t.CheckpointStarted(k, "interval"), start_ns) is None
        assert policy.signal(t.Cut(k), start_ns) is None
        assert policy.deadline_ns() is None  # one epoch at a time
        committed_ns = start_ns + commit_ns
        asked_ns, by_itself = max(start_ns + interval_ns, committed_ns), commit_ns < interval_ns
        reason = policy.signal(t.Committed(k), committed_ns)
        assert reason == (None if by_itself else "interval")


def test_remus_asks_again_after_an_aborted_checkpoint():
    policy = policy_of("remus", interval_ns=100)
    policy.signal(t.Protected(), 0)
    policy.tick(100)
    policy.signal(t.CheckpointStarted(1, "interval"), 100)
    assert policy.signal(t.Aborted(1), 150) is None
    assert policy.deadline_ns() == 200


def test_remus_releases_at_the_commit_only():
    """Nobody compares: a secondary's output says nothing, equal or not."""

    def remus(role):
        params = (("interval_ns", 5 * SECOND),)
        return Player(replace(config_of("upstream", role), policy="remus", policy_params=params))

    player = remus(t.Role.PRIMARY)
    for what in ("start", "bytes 00000000", "done StartVm", "output web 0-5 p"):
        player.feed(what)
    player.feed("witness web 0-5 p 0")
    assert player.actions == []
    player.feed("tick +5s")
    assert [text(signal) for signal in player.signals] == [
        "CheckpointNow interval",
        "CheckpointStarted 1 interval",
    ]
    for what in ("done Quiesce", "bytes 00000002", "done StopVm", "done Drain", "done Save"):
        player.feed(what)
    player.feed("done SendState")
    assert player.actions == []
    player.feed("bytes 00000005")
    assert [text(action) for action in player.actions] == ["Release web 0-5"]

    player = remus(t.Role.SECONDARY)
    for what in ("start", "done StartVm", "output web 0-5 p"):
        player.feed(what)
    assert player.actions == []


# ------------------------------------------------------------------------------------------- colo


def colo(delay_ns=1_000, gap_ns=0):
    policy = policy_of("colo", checkpoint_delay_ns=delay_ns, minimum_gap_ns=gap_ns)
    policy.signal(t.Protected(), 0)
    return policy


@pytest.mark.parametrize(("signal", "reason"), [(MISMATCH, "mismatch"), (STALE, "compare-timeout")])
def test_colo_asks_when_outputs_differ_and_rearms_its_timer_at_the_trigger(signal, reason):
    policy = colo(delay_ns=1_000)
    assert policy.deadline_ns() == 1_000
    assert policy.signal(signal, 400) == reason
    assert policy.deadline_ns() == 1_400
    for other in (t.CheckpointStarted(1, reason), t.Cut(1), t.Committed(1), t.Completed(1)):
        assert policy.signal(other, 900) is None
    assert policy.deadline_ns() == 1_400  # from the trigger, not from the completion
    assert policy.tick(1_400) == "checkpoint-delay"
    assert policy.deadline_ns() == 2_400


def test_colo_asks_before_protection_too_but_its_timer_waits():
    """`qemu-colo.md` 3.5: a notify from before READY is remembered (by the checkpointer)."""
    policy = policy_of("colo", checkpoint_delay_ns=1_000)
    assert policy.deadline_ns() is None
    assert policy.signal(MISMATCH, 5) == "mismatch"
    assert policy.deadline_ns() is None
    policy.signal(t.Protected(), 10)
    assert policy.deadline_ns() == 1_010


def test_colo_keeps_the_minimum_gap():
    policy = colo(delay_ns=1_000, gap_ns=100)
    assert policy.signal(MISMATCH, 0) == "mismatch"
    policy.signal(t.CheckpointStarted(1, "mismatch"), 10)
    policy.signal(t.Cut(1), 20)
    assert policy.signal(MISMATCH, 50) is None
    assert policy.signal(STALE, 60) is None
    assert policy.deadline_ns() == 110
    assert policy.tick(110) == "compare-timeout"  # the last of them, once
    assert policy.deadline_ns() == 1_110


def test_a_trigger_from_before_the_cut_does_not_outlive_it():
    policy = colo(delay_ns=1_000, gap_ns=100)
    policy.signal(MISMATCH, 0)
    policy.signal(t.CheckpointStarted(1, "mismatch"), 10)
    assert policy.signal(MISMATCH, 15) is None
    policy.signal(t.Cut(1), 20)
    assert policy.deadline_ns() == 1_000


def test_a_timer_shorter_than_the_gap_waits_for_it():
    policy = colo(delay_ns=30, gap_ns=100)
    assert policy.tick(30) == "checkpoint-delay"
    policy.signal(t.CheckpointStarted(1, "checkpoint-delay"), 30)
    policy.signal(t.Cut(1), 40)
    assert policy.deadline_ns() == 60
    assert policy.tick(60) is None
    assert policy.deadline_ns() == 130
    assert policy.tick(130) == "checkpoint-delay"


@given(
    st.integers(1, 50),
    st.integers(0, 80),
    st.lists(st.tuples(st.integers(1, 30), st.sampled_from(["mismatch", "stale", "cut"]))),
)
def test_colo_never_asks_within_the_gap_and_never_forgets_its_timer(delay_ns, gap_ns, script):
    policy = colo(delay_ns, gap_ns)
    now_ns, asked = 0, []

    def ask(reason):
        if reason is not None:
            asked.append(now_ns)
            policy.signal(t.CheckpointStarted(len(asked), reason), now_ns)

    for after_ns, what in script:
        until_ns = now_ns + after_ns
        while (due_ns := policy.deadline_ns()) <= until_ns:
            now_ns = max(now_ns, due_ns)
            ask(policy.tick(now_ns))
        now_ns = until_ns
        signal = {"mismatch": MISMATCH, "stale": STALE, "cut": t.Cut(len(asked))}[what]
        ask(policy.signal(signal, now_ns))
    starts = [0, *asked, now_ns]
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert all(gap >= gap_ns for gap in gaps[1:-1])
    assert all(gap <= max(delay_ns, gap_ns) + delay_ns for gap in gaps)


# -------------------------------------------------------------------------------- microcheckpoint


def test_microcheckpoint_is_remus_with_a_transfer_of_its_own():
    assert POLICIES["microcheckpoint"].transfer is t.Transfer.COPY_THEN_SEND
    assert POLICIES["remus"].transfer is t.Transfer.STOP_AND_SEND
    two = [policy_of(name, interval_ns=100) for name in ("remus", "microcheckpoint")]
    script = (
        (t.Protected(), 0),
        (t.CheckpointStarted(1, "interval"), 100),
        (t.Cut(1), 110),
        (t.Committed(1), 250),
        (t.CheckpointStarted(2, "interval"), 250),
        (t.Aborted(2), 260),
    )
    for signal, now_ns in script:
        said = {(each.signal(signal, now_ns), each.deadline_ns()) for each in two}
        assert len(said) == 1


# --------------------------------------------------------------------------------------- adaptive


def adaptive(**params):
    given = {"minimum_interval_ns": 100, "maximum_interval_ns": 10_000, "busy_percent": 25}
    policy = policy_of("adaptive", **{**given, **params})
    policy.signal(t.Protected(), 0)
    return policy


def epochs(policy, takes, count):
    """Play checkpoints that take ``takes(interval)`` = (bytes, ns); the intervals between them."""
    now_ns, starts, asks = 0, [0], False
    for k in range(1, count + 1):
        if not asks:
            now_ns = policy.deadline_ns()
            assert policy.tick(now_ns) == "interval"
        starts.append(now_ns)
        policy.signal(t.CheckpointStarted(k, "interval"), now_ns)
        assert policy.deadline_ns() is None  # one epoch at a time
        sent_bytes, busy_ns = takes(now_ns - starts[-2])
        now_ns += busy_ns
        policy.signal(t.Cut(k), now_ns)
        asks = policy.signal(t.Committed(k, sent_bytes), now_ns) == "interval"
        assert asks == (busy_ns >= policy.interval_ns)
    return [later - earlier for earlier, later in pairwise(starts)]


def test_adaptive_comes_to_the_interval_that_its_formula_says():
    """A checkpoint that takes c(I) = 30 + I/20 ns: I = 4 c(I) at I = 150."""
    gaps = epochs(adaptive(), lambda interval_ns: (1_000, 30 + interval_ns // 20), 40)
    assert gaps[0] == 100  # the minimum, for nothing is known yet
    assert gaps == sorted(gaps)  # no overshoot: distinct pages are concave
    assert abs(gaps[-1] - 150) <= 4  # whole ns, times four


@pytest.mark.parametrize(
    ("busy_ns", "percent", "interval_ns"),
    [(10, 25, 100), (50, 25, 200), (50, 50, 100), (400, 1, 10_000), (9_000, 100, 9_000)],
)
def test_adaptive_stays_within_its_bounds(busy_ns, percent, interval_ns):
    gaps = epochs(adaptive(busy_percent=percent), lambda _: (500, busy_ns), 20)
    assert set(gaps[2:]) == {interval_ns}


def test_adaptive_hears_a_burst_of_writes_at_once_and_a_slow_link_by_and_by():
    usual, burst, slow = (1_000, 50), (4_000, 200), (1_000, 200)
    script = [*[usual] * 8, burst]
    policy = adaptive(window=8)
    epochs(policy, lambda _: script.pop(0), 9)
    assert policy.interval_ns == 800
    script = [*[usual] * 8, slow]
    policy = adaptive(window=8)
    epochs(policy, lambda _: script.pop(0), 9)
    assert policy.interval_ns == (7 * 50 + 200) // 8 * 4  # 1/8 of the window


@given(
    st.integers(1, 300),
    st.integers(0, 300),
    st.integers(1, 100),
    st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 900)), min_size=1, max_size=12),
)
def test_adaptive_asks_within_its_bounds_whatever_happens(least_ns, more_ns, percent, takes):
    most_ns = least_ns + more_ns
    policy = adaptive(
        minimum_interval_ns=least_ns, maximum_interval_ns=most_ns, busy_percent=percent
    )
    script = list(takes)
    gaps = epochs(policy, lambda _: script.pop(0), len(takes))
    busies = [0, *(busy_ns for _, busy_ns in takes)]
    for gap_ns, busy_ns in zip(gaps, busies, strict=False):
        assert max(least_ns, busy_ns) <= gap_ns <= max(most_ns, busy_ns)


# ----------------------------------------------------------------------------------------- hybrid


def hybrid(**params):
    given = {
        "checkpoint_delay_ns": 10_000,
        "interval_ns": 100,
        "storm_checkpoints": 3,
        "storm_window_ns": 1_000,
        "calm_epochs": 2,
    }
    policy = policy_of("hybrid", **{**given, **params})
    policy.signal(t.Protected(), 0)
    return policy


class Checkpoints:
    """Plays checkpoints that take no time."""

    def __init__(self, policy):
        self.policy, self.count = policy, 0

    def __call__(self, reason, now_ns):
        self.count += 1
        for signal in (
            t.CheckpointStarted(self.count, reason),
            t.Cut(self.count),
            t.Committed(self.count),
            t.Completed(self.count),
        ):
            assert self.policy.signal(signal, now_ns) is None


def stormy(policy, at_ns=(200, 400, 600)):
    """Three mismatches; returns what plays further checkpoints."""
    checkpoint = Checkpoints(policy)
    for now_ns in at_ns:
        assert policy.waits_for() is t.Output.WITNESS
        assert policy.signal(MISMATCH, now_ns) == "mismatch"
        checkpoint("mismatch", now_ns)
    return checkpoint


def test_hybrid_turns_periodic_with_the_cut_of_the_checkpoint_that_makes_a_storm():
    policy = hybrid()
    for k, now_ns in ((1, 200), (2, 400)):
        assert policy.signal(MISMATCH, now_ns) == "mismatch"
        policy.signal(t.CheckpointStarted(k, "mismatch"), now_ns)
        policy.signal(t.Cut(k), now_ns)
        policy.signal(t.Committed(k), now_ns)
    assert policy.signal(STALE, 600) == "compare-timeout"
    policy.signal(t.CheckpointStarted(3, "compare-timeout"), 600)
    assert policy.waits_for() is t.Output.WITNESS  # what is held is of the epoch that ends
    policy.signal(t.Cut(3), 610)
    assert policy.waits_for() is t.Output.COMMIT
    assert policy.signal(MISMATCH, 620) is None  # it waits for the commit like all the rest
    assert policy.deadline_ns() is None  # of which the last is still under way
    assert policy.signal(t.Committed(3), 650) is None
    assert policy.deadline_ns() == 700
    assert policy.tick(700) == "interval"


@pytest.mark.parametrize(
    "at_ns",
    [(200, 400, 1_201), (200, 900, 1_600, 2_300)],
)
def test_hybrid_stays_with_colo_while_differences_are_rare(at_ns):
    assert stormy(hybrid(), at_ns).policy.waits_for() is t.Output.WITNESS


def test_hybrid_counts_checkpoints_in_a_row():
    policy = hybrid()
    checkpoint = stormy(policy, (200, 400))
    checkpoint("checkpoint-delay", 500)
    policy.signal(MISMATCH, 600)
    checkpoint("mismatch", 600)
    assert policy.waits_for() is t.Output.WITNESS


def test_hybrid_returns_after_calm_epochs_in_a_row_and_arms_its_timer_anew():
    policy = hybrid()
    checkpoint = stormy(policy)
    checkpoint("interval", 700)  # calm
    policy.signal(MISMATCH, 750)
    checkpoint("interval", 800)  # not calm: from the beginning
    checkpoint("interval", 900)
    assert policy.waits_for() is t.Output.COMMIT
    checkpoint("interval", 1_000)
    assert policy.waits_for() is t.Output.WITNESS
    assert policy.deadline_ns() == 11_000
    stormy_again = Checkpoints(policy)
    for now_ns in (1_100, 1_200, 1_300):  # what was before does not count
        assert policy.waits_for() is t.Output.WITNESS
        assert policy.signal(MISMATCH, now_ns) == "mismatch"
        stormy_again("mismatch", now_ns)
    assert policy.waits_for() is t.Output.COMMIT


@given(
    st.integers(1, 4),
    st.integers(1, 300),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 120), st.booleans()), min_size=1, max_size=60),
)
def test_hybrid_turns_at_cuts_only_and_by_its_rule(storm, window_ns, calm, script):
    """Against the rule said once more, over whole histories instead of counters."""
    policy = hybrid(storm_checkpoints=storm, storm_window_ns=window_ns, calm_epochs=calm)
    now_ns, differed, k = 0, False, 0
    begun, quiet, is_periodic = [], [], False  # since the last turn: starts, calm epochs

    def checkpoint(reason):
        nonlocal k, differed, is_periodic
        k += 1
        before = policy.waits_for()
        policy.signal(t.CheckpointStarted(k, reason), now_ns)
        assert policy.waits_for() is before
        policy.signal(t.Cut(k), now_ns)
        if is_periodic:
            quiet.append(not differed)
            turns = quiet[-calm:] == [True] * calm
        else:
            begun.append(now_ns if reason == "mismatch" else float("-inf"))
            last = begun[-storm:]
            turns = len(last) == storm and last[-1] - last[0] <= window_ns
        if turns:
            is_periodic = not is_periodic
            begun.clear()
            quiet.clear()
        differed = False
        assert (policy.waits_for() is t.Output.COMMIT) == is_periodic
        policy.signal(t.Committed(k), now_ns)

    for after_ns, differs in script:
        until_ns = now_ns + after_ns
        while (due_ns := policy.deadline_ns()) is not None and due_ns <= until_ns:
            now_ns = max(now_ns, due_ns)
            if (reason := policy.tick(now_ns)) is not None:
                checkpoint(reason)
        now_ns = until_ns
        if differs:
            differed = True
            reason = policy.signal(MISMATCH, now_ns)
            assert (reason is None) == is_periodic
            if reason is not None:
                checkpoint(reason)


def test_a_change_of_the_rule_is_said_with_the_cut_and_the_gate_follows():
    """Equal output leaves at once, then not, then again."""
    params = {
        "compare_timeout_ns": 70 * SECOND,
        "checkpoint_delay_ns": 90 * SECOND,
        "interval_ns": 5 * SECOND,
        "storm_checkpoints": 1,
        "calm_epochs": 1,
    }
    config = config_of("upstream", t.Role.PRIMARY)
    player = Player(replace(config, policy="hybrid", policy_params=tuple(params.items())))
    to_cut = ("done Quiesce", "bytes 00000002", "done StopVm", "done Drain")
    to_run = ("done Save", "done SendState", "bytes 00000005", "bytes 00000006", "done StartVm")

    def feed(*inputs):
        for what in inputs:
            player.feed(what)

    feed("start", "bytes 00000000", "done StartVm", "output web 0-5 p", "witness web 0-5 p 0")
    assert [text(action) for action in player.actions] == ["Release web 0-5"]
    feed("mismatch a", *to_cut)
    assert [text(signal) for signal in player.signals] == ["Cut 1", "OutputRule commit"]
    feed(*to_run, "output web 5-9 p", "witness web 5-9 p 1")
    assert [text(signal) for signal in player.signals] == ["Match web 5-9"]
    assert player.actions == []
    feed("tick +5s", *to_cut)
    assert [text(signal) for signal in player.signals] == ["Cut 2", "OutputRule witness"]
    feed(*to_run[:2], "output web 9-12 p", "witness web 9-12 p 2")
    assert [text(action) for action in player.actions] == ["Release web 9-12"]
    player.feed("bytes 00000005")
    assert [text(action) for action in player.actions] == ["Release web 5-9"]


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_looks_at_no_signal_but_those_that_it_says(name):
    """A node does not tell it of the others."""
    cls = POLICIES[name]
    policy = cls(cls.Params())
    for signal in (t.Protected(), t.CheckpointStarted(1, "interval"), t.Cut(1), t.Committed(1, 9)):
        policy.signal(signal, 5)
    before = repr(deep(policy))
    examples: dict[type, t.Signal] = {
        t.Loaded: t.Loaded(1),
        t.Resumed: t.Resumed(1),
        t.Completed: t.Completed(1),
        t.Aborted: t.Aborted(1),
        t.Takeover: t.Takeover(t.Survival.CLEAN, 1),
        t.Match: t.Match(t.Range("s", 0, 1)),
        t.Mismatch: t.Mismatch(t.Range("s", 0, 1), "content"),
        t.Stale: t.Stale(t.Range("s", 0, 1)),
        t.Cut: t.Cut(2),
        t.CheckpointStarted: t.CheckpointStarted(2, "interval"),
        t.Committed: t.Committed(2, 9),
        t.Protected: t.Protected(),
    }
    for kind, example in examples.items():
        if kind not in cls.hears:
            assert policy.signal(example, 10**12) is None
            assert repr(deep(policy)) == before, kind


def deep(value):
    """All that a policy knows, by name."""
    known = vars(value) if hasattr(value, "__dict__") else None
    return value if known is None else {name: deep(each) for name, each in known.items()}
