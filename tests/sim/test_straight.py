"""Checkpoints in one go (`backends.sim.straight`) beside the same ones step by step.

Nobody observes these runs, so both ways are open; the fingerprint covers all that a run says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.sim import run_replication
from backends.sim.host import Host
from backends.sim.straight import Straight
from backends.sim.world import SimWorld
from colosim.model.results import HOW, RunRecord
from colosim.model.streams import Streams
from colosim.protocol import straight
from colosim.protocol.checkpoint import Do, Machine, P, Verb, primary_machine, secondary_machine
from colosim.protocol.dialect import UPSTREAM, Message
from colosim.protocol.types import Role, Transfer
from colosim.scenario import Scenario
from tests.sim.worlds import QUIET

BASE: dict[str, Any] = {
    "name": "straight",
    "duration": "600 ms",
    "workload": {
        "kind": "service",
        "load": "open",
        "rate": "40 /s",
        "service_time": "300 us",
        "retransmit": "20 ms",
    },
    "memory": {
        "kind": "uniform",
        "working_set_pages": 2_000,
        "touches": "5000 /s",
        "touches_per_request": 2.0,
    },
    "divergence": {"probability": 0.02},
    "policy": {
        "remus": {"interval": "15 ms"},
        "microcheckpoint": {"interval": "15 ms"},
        "colo": {"compare_timeout": "100 ms", "checkpoint_delay": "25 ms"},
        "hybrid": {"compare_timeout": "100 ms", "checkpoint_delay": "25 ms"},
    },
    "manager": {"heartbeat_interval": "40 ms", "heartbeat_timeout": "120 ms"},
}
POLICIES = ("remus", "microcheckpoint", "colo", "hybrid", "adaptive")


def small(**tables: Any) -> Scenario:
    """The base with changes: a table's fields are put over the base's."""
    merged = dict(BASE)
    for name, value in tables.items():
        known = BASE.get(name, {})
        merged[name] = {**known, **value} if isinstance(value, dict) else value
    if "clients" in merged["workload"]:
        merged["workload"]["load"] = "closed"
        del merged["workload"]["rate"]
    return Scenario.from_mapping(merged)


class Counted:
    """How many checkpoints went the whole way, and how many a part of it."""

    def __init__(self) -> None:
        self.whole = self.part = 0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counts = Counted()
    go, put_back = Straight.__call__, Straight._put_back

    def call(self: Straight, host: Host, op: int) -> bool:
        went = go(self, host, op)
        counts.whole += went
        return went

    def back(self: Straight, *args: Any) -> None:
        counts.whole -= 1
        counts.part += 1
        put_back(self, *args)

    monkeypatch.setattr(Straight, "__call__", call)
    monkeypatch.setattr(Straight, "_put_back", back)
    return counts


def run(what: Scenario, policy: str, is_straight: bool, seed: int = 1) -> tuple[str, SimWorld]:
    """Of a run that nobody watches, not even for its faults: all that it says, and its world."""
    patched = type("Way", (SimWorld,), {"_may_go_straight": is_straight})
    world = patched(what, policy, Streams(seed, 0))
    world.run()
    lost = world.output.lost_responses()  # first: a table may end what it is made from
    record = RunRecord(
        policy,
        seed,
        0,
        what.duration_ns,
        what.warm_up_ns,
        responses=world.network.table(),
        checkpoints=world.recorder.table(),
        events=world.recorder.events,
        flags=sorted(world.flags),
        counters={
            **world.recorder.counters,
            "lost": lost,
            "duplicates": world.network.duplicates,
            "bytes": world.link_bytes(),
        },
    )
    states = [
        (name, node.step, node.checkpointer.checkpoint, node.deadline_ns(), node.gave_up)
        for name, node in world.session.nodes.items()
    ]
    return f"{record.fingerprint()} {states}", world


def check_same(what: Scenario, policy: str, seed: int = 1) -> SimWorld:
    said, _ = run(what, policy, False, seed)
    now, world = run(what, policy, True, seed)
    assert now == said
    return world


FIDELITIES = ("response", "epoch")
SHAPES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "idle": {"workload": {"rate": "0.001 /s"}},
    "quiet": {"manager": QUIET},
    "busy": {"workload": {"rate": "1500 /s"}},
    "spreads": {"cost": {f"{step}_spread": 0.3 for step in ("stop", "save", "load", "resume")}},
    "own time to move": {"cost": {"transfer_fixed": "2 ms", "transfer_per_page": "1 us"}},
    "slow link": {"link": {"bandwidth": "200 Mbit/s", "delay": "1 ms"}},
    "slow resume": {"cost": {"resume": "5 ms"}, "link": {"delay": "10 us"}},
    "slow quiesce": {"cost": {"quiesce": "3 ms"}},
    "sleeping secondary": {"execution": {"executes": False}, "policy": {"name": "remus"}},
    "slow secondary": {"execution": {"secondary_speed": 0.5}},
    "clocks that differ": {"clocks": {"primary_rate": 1.001, "secondary_offset": "3 s"}},
    "a lease": {"manager": {"arbiter": "lease", "lease_term": "60 ms", "lease_renewal": "20 ms"}},
    "heartbeats on every state": {
        "manager": {"heartbeat_interval": "1 ms", "heartbeat_timeout": "3 ms"},
        "link": {"bandwidth": "200 Mbit/s"},
    },
    "heartbeats that fill the link": {
        "manager": {"heartbeat_interval": "1 ms", "heartbeat_timeout": "1001 us"},
        "link": {"bandwidth": "2 Mbit/s"},
        "memory": {"touches": "10 /s"},
        "limits": {"receive": "60 s", "send": "60 s", "received": "60 s"},
    },
    "lost heartbeats": {"link": {"heartbeat_loss": 0.2}},
    "blips": {"link": {"blips": "20 /s", "blip": "5 ms"}},
    "short limits": {"limits": {"loaded": "3 ms", "load": "3 ms"}},
    "switchover": {"manager": {"switchover_at": "303 ms"}},
    "secondary dies": {
        "fault": [{"target": "secondary", "scope": "host", "kind": "crash", "at": "203 ms"}]
    },
    "primary dies": {
        "fault": [{"target": "primary", "scope": "host", "kind": "crash", "at": "204 ms"}]
    },
    "protected again": {
        "manager": {"reprotect": True, "reprotect_delay": "10 ms"},
        "memory": {"guest_memory": "8 MiB", "working_set_pages": 1_000},
        "fault": [{"target": "primary", "scope": "host", "kind": "crash", "at": "204 ms"}],
    },
    "primary hangs": {
        "fault": [
            {
                "target": "primary",
                "scope": "vm",
                "kind": "hang",
                "at": "200 ms",
                "duration": "30 ms",
            }
        ]
    },
    "link is cut": {
        "fault": [{"target": "link", "kind": "cut", "at": "200 ms", "duration": "30 ms"}]
    },
}


#: at epoch nobody is protected again
BOTH = [(each, shape) for shape in SHAPES for each in FIDELITIES]
BOTH.remove(("epoch", "protected again"))


@pytest.mark.parametrize(("fidelity", "shape"), BOTH)
def test_both_ways_are_equal(fidelity: str, shape: str) -> None:
    what = small(fidelity=fidelity, **SHAPES[shape])
    for policy in POLICIES if what.execution.executes else ("remus", "adaptive"):
        check_same(what, policy)


@pytest.mark.parametrize(
    ("dialect", "commit"), [("upstream", "received"), ("upstream", "loaded"), ("rfc2014", "loaded")]
)
@pytest.mark.parametrize("transfer", ["stop-and-send", "copy-then-send"])
def test_every_table(dialect: str, transfer: str, commit: str, counted: Counted) -> None:
    for fidelity in FIDELITIES:
        what = small(fidelity=fidelity, dialect=dialect, transfer=transfer, commit=commit)
        check_same(what, "remus")
    assert counted.whole > 5


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(POLICIES),
    st.sampled_from(FIDELITIES),
    st.sampled_from(["stop-and-send", "copy-then-send"]),
    st.sampled_from([0, 5, 100, 1_000]),
    st.sampled_from(["0 s", "50 us", "2 ms"]),
    st.sampled_from(["20 us", "400 us", "4 ms"]),
    st.sampled_from(["40 ms", "4999 us", "700 us"]),
    st.sampled_from(["1 Gbit/s", "300 Mbit/s", "50 Mbit/s"]),
    st.integers(1, 1_000_000),
    st.sampled_from(["host", "node", "vm", None]),
    st.sampled_from(["primary", "secondary"]),
    st.integers(100_000_000, 300_000_000),
)
def test_anything(
    policy: str,
    fidelity: str,
    transfer: str,
    rate: int,
    delay: str,
    step: str,
    beat: str,
    bandwidth: str,
    seed: int,
    scope: str | None,
    target: str,
    at_ns: int,
) -> None:
    fault = {"target": target, "scope": scope, "kind": "crash", "at": f"{at_ns} ns"}
    what = small(
        duration="350 ms",
        fidelity=fidelity,
        transfer=transfer,
        workload={"rate": f"{rate + 0.001} /s"},
        link={"delay": delay, "bandwidth": bandwidth},
        manager={"heartbeat_interval": beat},
        cost={"stop": step, "resume": step, "load_fixed": step},
        fault=[fault] if scope else [],
    )
    check_same(what, policy, seed)


def test_most_go_straight_where_little_happens(counted: Counted) -> None:
    idle = small(workload={"rate": "0.001 /s"}, manager={"heartbeat_interval": "100 ms"})
    run(idle, "remus", True)
    assert counted.whole > 30
    assert not counted.part  # heartbeats are no reason
    run(small(workload={"rate": "400 /s"}), "remus", True)
    assert counted.part > 0


def test_who_looks_sees_every_step(counted: Counted) -> None:
    seen: list[Any] = []
    what = small()
    watched = run_replication(what, "remus", 1, 0, [seen.append])
    assert seen
    assert counted.whole == counted.part == 0
    alone = run_replication(what, "remus", 1, 0)
    assert counted.whole > 0
    assert alone.fingerprint() == watched.fingerprint()
    assert all(alone.counters[name] < watched.counters[name] for name in HOW)


# -- the way itself ----------------------------------------------------------------------------


def changed(machine: Machine, row: tuple[P, Verb], effects: Callable[[Any], Any]) -> Machine:
    was, state = machine.rows[row]
    return replace(machine, rows={**machine.rows, row: (tuple(effects(was)), state)})


def test_the_way_follows_the_tables() -> None:
    primary, secondary = primary_machine(UPSTREAM), secondary_machine(UPSTREAM)
    way = straight.walk(primary, secondary)
    assert way is not None
    commits = [i for i, each in enumerate(way) if Do.COMMIT in each.effects]
    assert [way[i].verb for i in commits] == [Verb.RECEIVED]
    late = straight.walk(primary_machine(UPSTREAM, commit=Message.LOADED), secondary)
    assert late is not None
    assert [each.verb for each in late if Do.COMMIT in each.effects] == [Verb.LOADED]
    assert [each.role for each in way].count(Role.SECONDARY) == 7


def test_what_the_tables_leave_open_is_no_way() -> None:
    primary, secondary = primary_machine(UPSTREAM), secondary_machine(UPSTREAM)
    assert straight.walk(primary_machine(UPSTREAM, Transfer.PRECOPY), secondary) is None
    row = (P.SAVE, Verb.DONE)
    silent = changed(primary, row, lambda effects: ())
    assert straight.walk(silent, secondary) is None
    leaves = changed(primary, row, lambda effects: (*effects, Do.CLOSE_LINK))
    assert straight.walk(leaves, secondary) is None
    missing = {k: v for k, v in secondary.rows.items() if k[1] is not Verb.SEND}
    assert straight.walk(primary, replace(secondary, rows=missing)) is None
