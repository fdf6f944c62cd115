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
        "colo": t.Output.WITNESS,
    }
    assert {name for name, policy in POLICIES.items() if not policy.protects()} == {"none"}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_parameters_say_what_they_are(policy):
    assert policy.summary
    assert is_dataclass(policy.Params)
    for parameter in fields(policy.Params):
        assert parameter.metadata["unit"] in {"time", "count"}
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
