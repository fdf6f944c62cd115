"""The tables have a row for all that can happen, and no row for what cannot.

First by the rules that say what can happen in a state, then by trying: a node is led through every
sequence of events that a world may feed it, up to states that differ in nothing that matters.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import pytest

from colosim.protocol import types as t
from colosim.protocol.checkpoint import Do, Machine, P, S, State, Verb
from colosim.protocol.codec import encode
from colosim.protocol.dialect import DIALECTS, Message
from colosim.protocol.node import machine_of
from tests.protocol.script import LIMITS, Player, Recorder, config_of, configurations, name_of

CONFIGURATIONS = list(configurations())

OPERATIONS = {
    Do.PRECOPY, Do.QUIESCE, Do.STOP_VM, Do.DRAIN, Do.SAVE, Do.COPY, Do.SEND_STATE, Do.LOAD,
    Do.START_VM,
}  # fmt: skip
MESSAGES = {
    Verb.READY, Verb.REQUEST, Verb.REPLY, Verb.SEND, Verb.STATE, Verb.RECEIVED, Verb.LOADED,
}  # fmt: skip


def states_of(machine: Machine) -> set[State]:
    """All that can be reached."""
    found, todo = {machine.start}, [machine.start]
    while todo:
        state = todo.pop()
        for (before, _), (_, after) in machine.rows.items():
            if before is state and after not in found:
                found.add(after)
                todo.append(after)
    return found


def after_promotion(machine: Machine) -> set[State]:
    """A side is promoted once: where it goes then knows no other promotion."""
    found = {after for (_, verb), (_, after) in machine.rows.items() if verb is Verb.PROMOTE}
    while more := {a for (b, _), (_, a) in machine.rows.items() if b in found} - found:
        found |= more
    return found


def busy(machine: Machine) -> set[State]:
    """States in which an operation is outstanding."""
    begun = {after for effects, after in machine.rows.values() if OPERATIONS & set(effects)}
    return begun | ({S.RELAUNCH} & states_of(machine))  # the load goes on


@pytest.mark.parametrize("config", CONFIGURATIONS, ids=name_of)
def test_every_state_has_the_rows_it_needs_and_no_others(config):
    machine = machine_of(config)
    promoted = after_promotion(machine)
    needed = {(machine.start, Verb.START)}
    for state in states_of(machine):
        can_happen = {
            Verb.VM_GONE: True,
            Verb.DONE: state in busy(machine),
            Verb.FAILED: state in busy(machine),
            Verb.TIMEOUT: state in machine.limits,
            Verb.LINK_LOST: state in machine.reads,
            Verb.PEER_FAULT: state in machine.reads,
            # a node that goes on alone does not ask its policy any more
            Verb.TRIGGER: config.role is t.Role.PRIMARY and state is not P.ALONE,
            Verb.PROMOTE: DIALECTS[config.dialect].failover
            and state not in promoted
            and machine.survival_in(state) is not t.Survival.BROKEN,
            # at the completion of a checkpoint, when the policy may have begun the next
            Verb.STEP_DOWN: DIALECTS[config.dialect].failover
            and config.role is t.Role.PRIMARY
            and state in (P.RUN, machine.rows[P.RUN, Verb.TRIGGER][1], P.EXITED),
            Verb.ROUND: state is P.PRECOPY,
        }
        needed |= {(state, verb) for verb, can in can_happen.items() if can}
    assert {row for row in machine.rows if row[1] not in MESSAGES} == needed
    assert {state for state, verb in machine.rows if verb in MESSAGES} <= machine.reads


@pytest.mark.parametrize("config", CONFIGURATIONS, ids=name_of)
def test_every_state_is_reached_and_whoever_waits_has_a_limit(config):
    machine = machine_of(config)
    states = states_of(machine)
    assert {state for state, _ in machine.rows} == states
    assert all(hasattr(LIMITS, field) for field in machine.limits.values())
    # a side that is beyond use waits for a last stop, but for nobody's sake
    assert busy(machine) - machine.limits.keys() <= {P.DEAD, S.BROKEN}
    # between checkpoints there is no hurry
    assert machine.reads & states - machine.limits.keys() <= {P.RUN, S.WAIT_REQUEST}


def test_the_dialects_own_commit_is_the_default():
    for dialect in DIALECTS.values():
        own = config_of(dialect.name, t.Role.PRIMARY)
        named = config_of(dialect.name, t.Role.PRIMARY, commit=dialect.commit)
        assert machine_of(own) == machine_of(named)


# ------------------------------------------------------------------------------------- by trying


def shape(player: Player) -> tuple:
    """What decides how a node goes on, but for times, numbers and operations nobody waits for."""
    node, part = player.node, player.node.checkpointer
    manager, decoder = node.manager, node._decoder
    return (
        part.state,
        part._op is None,
        part._wish is None,
        part._vm_gone,
        part.state is P.PRECOPY and part._round,
        tuple(verb for verb, _, _ in part._inbox),
        decoder.faulty,
        decoder._expect,
        bytes(decoder._field),
        decoder._bulk and (decoder._size, decoder._bulk.taken),
        manager and (manager.state, manager._survival, "AskVote" in player.ops),
    )


def inputs(player: Player, fed: tuple[str, ...]) -> Iterator[str]:
    """What a world may feed next."""
    node = player.node
    dialect = DIALECTS[node.config.dialect]
    if not {"start", "vm gone", "done Fence"} & set(fed):
        yield "start"
    if "link lost" not in fed:
        yield "link lost"
        if not node.checkpointer._inbox:  # one that waits shows what two would
            for value in (*dialect.values.values(), 99):
                yield f"bytes {value:0{2 * dialect.width}x}"
            # but for the last two of a checkpoint: what comes behind them meets the next step
            last = (Message.RECEIVED, Message.LOADED)
            yield "bytes " + "".join(encode(dialect, message).hex() for message in last)
            if node.config.role is t.Role.SECONDARY:
                yield f"state {dialect.name}"
    for name in player.ops:
        if name == "AskVote":
            yield from ("vote granted", "vote denied")
        elif name == "Precopy":
            yield from ("round 9 0", "round 9 9999", "failed Precopy")
        else:
            yield from (f"done {name}", f"failed {name}")
    yield from ("vm gone", "peer gone", "heartbeat", f"mismatch {len(fed)}")
    yield "guest off"
    if node.config.role is t.Role.PRIMARY:
        yield "hand over"
    if node.deadline_ns() is not None:
        yield "tick"


@pytest.mark.parametrize("config", CONFIGURATIONS, ids=name_of)
def test_nothing_that_a_world_may_feed_raises(config):
    """... and every row is used somewhere."""
    machine = machine_of(config)
    rows = Recorder(machine.rows)

    def lead(fed: tuple[str, ...]) -> Player:
        player = Player(config, replace(machine, rows=rows))
        for text in fed:
            player.feed(text)
        return player

    seen = {shape(lead(()))}
    todo: deque[tuple[str, ...]] = deque([()])
    while todo:
        fed = todo.popleft()
        for text in inputs(lead(fed), fed):
            further = (*fed, text)
            if (found := shape(lead(further))) not in seen:
                seen.add(found)
                todo.append(further)
    assert rows.used == machine.rows.keys()
