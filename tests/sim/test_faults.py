"""Faults in the simulated world: who goes on, what is lost, what is reported.

Every kind of fault at every step of every design is in `tests/exploration/`; here the campaign
strikes at more occurrences and seeds, and with default-sized times.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from backends.sim import SimWorld, run_replication
from backends.sim.guest import Guest
from colosim.model.results import RunRecord
from colosim.protocol.manager import Witness
from colosim.protocol.trace import Line, decode_line, encode_line, replay
from colosim.scenario import Limits, Scenario
from tests.sim.worlds import NS_PER_MS, seen

PROTECTING = ("remus", "colo")
#: those that share the rules of the former
OTHERS = ("hybrid", "adaptive", "microcheckpoint")
TRANSFERS = ("stop-and-send", "copy-then-send")
COMMITS = ("received", "loaded")
END_NS = 800 * NS_PER_MS
SETTLED_NS = 700 * NS_PER_MS  # whatever struck before the middle of the run is over by then

#: a run in which a failure is noticed within 100 ms
QUICK: dict[str, Any] = {
    "name": "faults",
    "duration": "800 ms",
    "workload": {
        "kind": "service",
        "load": "closed",
        "clients": 10,
        "think_time": "10 ms",
        "service_time": "500 us",
        "retransmit": "20 ms",
    },
    "memory": {
        "kind": "measured",
        "curve": "redis",
        "outside": "extrapolate",
        "pages_per_request": 0.5,
    },
    "divergence": {"probability": 0.02},
    "limits": dict.fromkeys((name.removesuffix("_ns") for name in Limits.model_fields), "100 ms"),
    "manager": {
        "heartbeat_interval": "20 ms",
        "heartbeat_timeout": "100 ms",
        "vote_timeout": "100 ms",
    },
    "policy": {
        "remus": {"interval": "30 ms"},
        "colo": {"compare_timeout": "100 ms", "checkpoint_delay": "200 ms"},
        "microcheckpoint": {"interval": "30 ms"},
        "adaptive": {"minimum_interval": "10 ms", "maximum_interval": "60 ms"},
        "hybrid": {  # turns to and fro
            "compare_timeout": "100 ms",
            "checkpoint_delay": "200 ms",
            "interval": "30 ms",
            "storm_checkpoints": 2,
            "calm_epochs": 1,
        },
    },
}


def plan(*faults: dict[str, Any], **tables: Any) -> Scenario:
    return Scenario.from_mapping({**QUICK, **tables, "fault": list(faults)})


def strike(target: str, kind: str, scope: str | None = None, **when: Any) -> dict[str, Any]:
    return {"target": target, "kind": kind, **({"scope": scope} if scope else {}), **when}


def watched(what: Scenario, policy: str, seed: int = 1) -> RunRecord:
    """A replication whose trace, written and read again, replays to the same actions."""
    lines: list[Line] = []
    run = run_replication(what, policy, seed, 0, [lines.append])
    assert replay([decode_line(encode_line(line)) for line in lines]) == []
    return run


def unanswered(run: RunRecord, before_ns: int = SETTLED_NS) -> int:
    """Requests sent before a moment that have no answer at the end, whatever the world says."""
    columns = run.responses
    return int(((columns["released_ns"] < 0) & (columns["arrival_ns"] < before_ns)).sum())


def check_survived(run: RunRecord) -> None:
    """No promise broken, and all clients served to the end."""
    assert run.violations == []
    assert run.counters["lost_responses"] == 0
    assert unanswered(run, run.duration_ns - END_NS + SETTLED_NS) == 0
    assert (run.responses["released_ns"] > run.duration_ns - 50 * NS_PER_MS).any()


def check_one_goes_on(run: RunRecord, target: str) -> None:
    """Exactly one side, and not the one that was hit, serves alone and forgets nothing."""
    assert len(seen(run, "fault")) == 1, "the fault never struck"
    check_survived(run)
    (alone,) = seen(run, "alone")
    assert alone["node"] != target
    assert len(seen(run, "promoted")) == 1


# -- the grid ----------------------------------------------------------------------------------

PRIMARY_STEPS = {
    "stop-and-send": (
        *("run", "quiesce", "request", "stop", "cut", "save", "send"),
        *("wait-received", "wait-loaded", "resume"),
    ),
    "copy-then-send": (
        *("run", "quiesce", "request", "stop", "cut", "copy", "resume-early", "send"),
        *("wait-received", "wait-loaded"),
    ),
    "precopy": (
        *("run", "precopy", "quiesce", "request", "stop", "cut", "save", "send"),
        *("wait-received", "wait-loaded", "resume"),
    ),
}
SECONDARY_STEPS = ("wait-request", "stop", "cut", "wait-send", "receive", "load", "resume")
FIRST_STEPS = {"primary": ("wait-ready", "start"), "secondary": ("start",)}
FAULTS = [
    *product(("primary", "secondary"), ("crash", "hang"), ("vm", "node", "host")),
    ("link", "cut", None),
]


def when(target: str, transfer: str, occurrence: int) -> list[tuple[str, int]]:
    """Every (step, occurrence) at which a fault of this target can strike."""
    side = "secondary" if target == "secondary" else "primary"
    later = SECONDARY_STEPS if side == "secondary" else PRIMARY_STEPS[transfer]
    return [(step, 1) for step in FIRST_STEPS[side]] + [(step, occurrence) for step in later]


OTHER_WAYS = [
    *(("remus", "precopy", 3, *fault) for fault in FAULTS),
    *(("hybrid", "copy-then-send", 1, *fault) for fault in FAULTS if fault[1] == "crash"),
]


@pytest.mark.parametrize(("policy", "transfer", "channels", "target", "kind", "scope"), OTHER_WAYS)
def test_a_single_fault_at_every_step_of_other_ways(
    policy, transfer, channels, target, kind, scope
):
    """Pre-copy on several channels, compressed; and a policy that turns to and fro."""
    stream = {"channels": channels, "compression": "delta", "precopy_threshold": "16 KiB"}
    for number, (step, occurrence) in enumerate(when(target, transfer, 3)):
        fault = strike(target, kind, scope, step=step, occurrence=occurrence)
        commit = COMMITS[number % 2]
        what = plan(fault, transfer=transfer, commit=commit, stream=stream)
        check_one_goes_on(watched(what, policy), target)


#: half a second to notice a silent peer, limits of 300 ms.  COLO notices a hung guest by its
#: compare timeout, then by the limit on the stop; upstream's 3 s would outlast the run.
LONG: dict[str, Any] = {
    "duration": "2500 ms",
    "workload": {
        "kind": "service",
        "load": "closed",
        "clients": 20,
        "think_time": "20 ms",
        "service_time": "1 ms",
    },
    "divergence": {"probability": 0.005},
    "limits": dict.fromkeys(QUICK["limits"], "300 ms"),
    "manager": {},
    "policy": {
        "remus": {"interval": "50 ms"},
        "colo": {"compare_timeout": "300 ms", "checkpoint_delay": "500 ms"},
    },
}


@pytest.mark.campaign
@pytest.mark.parametrize(("target", "kind", "scope"), FAULTS)
@pytest.mark.parametrize("commit", COMMITS)
@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("policy", PROTECTING)
def test_the_whole_grid(policy, transfer, commit, target, kind, scope):
    """Both commits, more occurrences and seeds, and the longer scenario."""
    quick: list[tuple[dict, int, int]] = [({}, seed, n) for seed in (1, 2, 3) for n in (1, 3, 6)]
    for tables, seed, nth in [*quick, (LONG, 1, 3)]:
        for step, occurrence in when(target, transfer, nth):
            fault = strike(target, kind, scope, step=step, occurrence=occurrence)
            what = plan(fault, **tables, transfer=transfer, commit=commit)
            check_one_goes_on(watched(what, policy, seed), target)


# -- any fault ---------------------------------------------------------------------------------


def faults(transfer: str) -> st.SearchStrategy[dict[str, Any]]:
    """A fault of any length, at any time of the first half or any step."""
    return st.sampled_from(FAULTS).flatmap(lambda kind: _faults_of(transfer, *kind))


def _faults_of(transfer: str, target: str, kind: str, scope: str | None):
    steps = SECONDARY_STEPS if target == "secondary" else PRIMARY_STEPS[transfer]
    at = {"at": _nanoseconds(0, END_NS // 2)}
    step = {"step": st.sampled_from(steps), "occurrence": st.integers(1, 5)}
    lasting = {} if kind == "crash" else {"duration": _nanoseconds(1, 250 * NS_PER_MS)}
    when = st.fixed_dictionaries(at, optional=lasting) | st.fixed_dictionaries(
        step, optional=lasting
    )
    return when.map(lambda when: strike(target, kind, scope, **when))


def _nanoseconds(low: int, high: int) -> st.SearchStrategy[str]:
    return st.integers(low, high).map("{} ns".format)


@st.composite
def plans(draw, count: int) -> tuple[Scenario, str]:
    policy = draw(st.sampled_from((*PROTECTING, *OTHERS)))
    ways = ("copy-then-send",) if policy == "microcheckpoint" else (*TRANSFERS, "precopy")
    transfer = draw(st.sampled_from(ways))
    struck = [draw(faults(transfer)) for _ in range(count)]
    note(f"{policy}, {transfer}: {struck}")
    stream = {"channels": draw(st.sampled_from((1, 3)))}
    commit = draw(st.sampled_from(COMMITS))
    return plan(*struck, transfer=transfer, commit=commit, stream=stream), policy


@given(plans(1), st.integers(1, 10**6))
def test_any_single_fault(case, seed):
    """It may pass unnoticed, heal, or end in a takeover; clients get their answers all the same."""
    what, policy = case
    run = watched(what, policy, seed)
    check_survived(run)
    assert len(seen(run, "alone")) <= 1


@given(plans(2), st.integers(1, 10**6))
def test_any_two_faults(case, seed):
    """Service may end; but never do two sides serve, and nothing leaves that is not safe."""
    what, policy = case
    run = watched(what, policy, seed)
    assert [v for v in run.violations if not v.startswith("NoLoss")] == []
    assert len(seen(run, "alone")) <= 1


# -- faults that end ---------------------------------------------------------------------------


@pytest.mark.parametrize("policy", PROTECTING)
@pytest.mark.parametrize(
    ("target", "kind", "scope"), [fault for fault in FAULTS if fault[1] != "crash"]
)
def test_a_short_fault_passes(policy, target, kind, scope):
    """Over before anybody counts it as a failure: the pair goes on, protected as before."""
    for step in ("run", "wait-received") if target != "secondary" else ("wait-request", "load"):
        fault = strike(target, kind, scope, step=step, occurrence=3, duration="30 ms")
        run = watched(plan(fault), policy)
        check_survived(run)
        assert [each["what"] for each in run.events] == ["fault", "healed"]
        assert run.checkpoints["completed_ns"].max() > SETTLED_NS


@pytest.mark.parametrize("policy", PROTECTING)
@pytest.mark.parametrize(
    ("target", "kind", "scope"), [fault for fault in FAULTS if fault[1] != "crash"]
)
def test_what_comes_back_too_late_stays_out(policy, target, kind, scope):
    """The other side has taken over by then; the fence makes sure that only it is heard."""
    for step in ("run", "wait-received") if target != "secondary" else ("wait-request", "load"):
        fault = strike(target, kind, scope, step=step, occurrence=3, duration="400 ms")
        run = watched(plan(fault), policy)
        check_one_goes_on(run, target)
        (healed,) = seen(run, "healed")
        (alone,) = seen(run, "alone")
        assert alone["at_ns"] < healed["at_ns"] < SETTLED_NS


# -- arbitration and fencing -------------------------------------------------------------------

CUT = strike("link", "cut", at="300 ms")


@pytest.mark.parametrize("policy", PROTECTING)
@pytest.mark.parametrize("seed", range(1, 6))
def test_a_cut_link_leaves_one_side(policy, seed):
    """Both suspect the other and both ask; the witness says yes once."""
    run = watched(plan(CUT), policy, seed)
    check_one_goes_on(run, "link")
    (promoted,) = seen(run, "promoted")
    for report in seen(run, "report"):
        assert report["node"] != promoted["node"]
        assert report["detail"] == "no takeover here: the arbiter chose the other side"


@pytest.mark.parametrize("policy", PROTECTING)
@pytest.mark.parametrize(("at", "winner"), [("300 ms", "primary"), ("300500 us", "secondary")])
def test_the_witness_grants_whoever_asks_first(policy, at, winner):
    """Each side can win: the one that heard its last heartbeat earlier asks earlier.

    The secondary beats 0.33 ms after every 20 ms, the primary, which starts later, after 0.70 ms.
    A cut between the two beats lets only the secondary's through.
    """
    run = watched(plan({**CUT, "at": at}), policy)
    check_one_goes_on(run, "link")
    assert [each["node"] for each in seen(run, "promoted")] == [winner]


@pytest.mark.parametrize("policy", PROTECTING)
@pytest.mark.parametrize(
    ("fault", "survivor"),
    [
        (strike("primary", "crash", "host", at="300 ms"), "secondary"),
        (strike("secondary", "crash", "host", at="300 ms"), "primary"),
        (CUT, None),
    ],
)
def test_a_fence_that_fails_means_no_takeover(policy, fault, survivor):
    """It is reported, and nobody serves: better no answer than two."""
    run = watched(plan(fault, manager={**QUICK["manager"], "fence_fails": True}), policy)
    assert run.violations == []
    assert not seen(run, "promoted")
    assert not seen(run, "alone")
    assert run.responses["released_ns"].max() < 301 * NS_PER_MS
    text = "no takeover: the other side could not be fenced"
    (report,) = [each for each in seen(run, "report") if each["detail"] == text]
    assert survivor in (None, report["node"])


def test_these_checks_find_two_active_sides(monkeypatch):
    """With a witness that grants everybody and a fence that only says that it did."""
    monkeypatch.setattr(Witness, "ask", lambda self, node: True)
    monkeypatch.setattr(SimWorld, "kill_host", lambda self, host: None)
    run = watched(plan(CUT), "colo")
    assert any(each.startswith("OneActiveSide") for each in run.violations)
    assert len(seen(run, "alone")) == 2


# -- output ------------------------------------------------------------------------------------

#: output of the epoch that was just cut is in the state that goes across, and not released yet
UNRELEASED = [("received", "wait-received"), ("loaded", "wait-loaded")]


@pytest.mark.parametrize("policy", PROTECTING)
@pytest.mark.parametrize(("commit", "step"), UNRELEASED)
def test_output_that_waited_for_the_commit_is_repeated(monkeypatch, policy, commit, step):
    """It died with the primary; the guest that takes over finds it unacknowledged.

    The same run without that repetition loses responses, so the count can tell.
    """
    what = plan(strike("primary", "crash", "host", step=step, occurrence=3), commit=commit)
    check_one_goes_on(watched(what, policy), "primary")

    snapshot = Guest.snapshot
    monkeypatch.setattr(Guest, "snapshot", lambda self, pages, _: snapshot(self, pages, {}))
    run = watched(what, policy)
    assert run.counters["lost_responses"] > 0
    assert unanswered(run) >= run.counters["lost_responses"]


def test_an_unprotected_guest_takes_everything_with_it():
    run = watched(plan(strike("primary", "crash", "vm", at="300 ms")), "none")
    assert run.counters["lost_responses"] == unanswered(run, END_NS) == 10  # one of each client
    assert run.responses["released_ns"].max() < 301 * NS_PER_MS


def test_faults_of_a_secondary_that_is_not_there_do_nothing():
    """A comparison may include designs without one."""
    run = watched(plan(strike("secondary", "crash", "host", at="300 ms")), "none")
    assert run.events == []
    check_survived(run)


# -- QEMU 7.2, and 2014 ------------------------------------------------------------------------


def late(quirks: str, step: str, delay: str) -> RunRecord:
    """COLO whose secondary's process ends at its second ``step``; heartbeats do not help."""
    return watched(
        plan(
            strike("secondary", "crash", "node", step=step, occurrence=2),
            duration="2 s",
            quirks=quirks,
            divergence={},
            manager={"heartbeat_interval": "20 ms", "heartbeat_timeout": "5 s"},
            policy={"colo": {"checkpoint_delay": delay}},
        ),
        "colo",
    )


@pytest.mark.parametrize("delay_ms", [300, 500])
def test_qemu_7_2_freezes_until_the_next_trigger(delay_ms):
    """`qemu-colo.md` 2.3: a failure between RECEIVED and LOADED looks like success.

    The loop sleeps with the guest stopped until the timer, which was armed as this checkpoint was
    triggered, so COLO_EXIT comes up to x-checkpoint-delay late.
    """
    frozen = late("qemu-7.2", "load", f"{delay_ms} ms")
    row = {name: column[1] for name, column in frozen.checkpoints.items()}
    (fault,) = seen(frozen, "fault")
    (exited,) = seen(frozen, "exit", "primary")
    assert exited["at_ns"] == row["started_ns"] + delay_ms * NS_PER_MS
    assert exited["at_ns"] - fault["at_ns"] > 0.8 * delay_ms * NS_PER_MS
    served, released = (frozen.responses[name] for name in ("served_ns", "released_ns"))
    assert not ((served > row["stopped_ns"]) & (served < exited["at_ns"])).any()
    # the checkpoint itself is committed, so its output leaves; then there is nothing
    assert not ((released > row["committed_ns"] + NS_PER_MS) & (released < exited["at_ns"])).any()
    check_one_goes_on(frozen, "secondary")

    prompt = late("none", "load", f"{delay_ms} ms")
    (exited,) = seen(prompt, "exit", "primary")
    assert exited["at_ns"] - seen(prompt, "fault")[0]["at_ns"] < NS_PER_MS
    check_one_goes_on(prompt, "secondary")


def test_qemu_7_2_leaves_at_once_before_received():
    """There the trigger is still set: the next transaction starts, fails and exits."""
    for quirks in ("none", "qemu-7.2"):
        run = late(quirks, "receive", "300 ms")
        (exited,) = seen(run, "exit", "primary")
        # 18 ms of state have to cross before the primary looks
        assert exited["at_ns"] - seen(run, "fault")[0]["at_ns"] < 25 * NS_PER_MS
        check_one_goes_on(run, "secondary")


@pytest.mark.parametrize("policy", PROTECTING)
@pytest.mark.parametrize(("scope", "kind"), [("vm", "crash"), ("node", "crash"), ("host", "hang")])
def test_rfc2014_master_goes_on_alone(policy, scope, kind):
    """`qemu-colo.md` 1: without failover the master just resumes; nobody is asked or fenced."""
    run = watched(plan(strike("secondary", kind, scope, at="300 ms"), dialect="rfc2014"), policy)
    check_survived(run)
    (alone,) = seen(run, "alone")
    assert alone["node"] == "primary"
    assert not seen(run, "promoted")


@pytest.mark.parametrize("policy", PROTECTING)
@pytest.mark.parametrize("scope", ["vm", "node"])
def test_rfc2014_slave_exits(policy, scope):
    """It cannot take over: the service ends with the master, and its process with it."""
    run = watched(plan(strike("primary", "crash", scope, at="300 ms"), dialect="rfc2014"), policy)
    assert run.violations == []
    assert [each["node"] for each in seen(run, "exit") if each["node"] == "secondary"]
    assert not seen(run, "alone")
    assert run.responses["released_ns"].max() < 301 * NS_PER_MS
    assert run.counters["lost_responses"] == unanswered(run, END_NS) > 0


def test_rfc2014_fault_free_run_is_protected():
    run = watched(plan(dialect="rfc2014"), "remus")
    check_survived(run)
    assert run.events == []
    assert np.diff(run.checkpoints["started_ns"]).min() >= 30 * NS_PER_MS
