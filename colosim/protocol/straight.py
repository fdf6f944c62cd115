"""A checkpoint in which nothing intervenes, read off the tables.

`walk` plays the machines of a pair against each other, with operations that succeed and messages
that arrive, and notes every input in order.  A world that can tell when each of them would come can
do the whole of it in one go, with the effects that the rows name; nothing here knows the path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from colosim.protocol.checkpoint import Do, Machine, P, S, State, Verb
from colosim.protocol.types import Role, Survival

#: what an effect brings about: the input, and whether it is an input of the peer
_BRINGS: Mapping[Do, tuple[tuple[Verb, bool], ...]] = {
    Do.QUIESCE: ((Verb.DONE, False),),
    Do.STOP_VM: ((Verb.DONE, False),),
    Do.DRAIN: ((Verb.DONE, False),),
    Do.SAVE: ((Verb.DONE, False),),
    Do.COPY: ((Verb.DONE, False),),
    Do.LOAD: ((Verb.DONE, False),),
    Do.START_VM: ((Verb.DONE, False),),
    Do.SEND_REQUEST: ((Verb.REQUEST, True),),
    Do.SEND_REPLY: ((Verb.REPLY, True),),
    Do.SEND_STATE: ((Verb.DONE, False), (Verb.SEND, True), (Verb.STATE, True)),
    Do.SEND_RECEIVED: ((Verb.RECEIVED, True),),
    Do.SEND_LOADED: ((Verb.LOADED, True),),
}
_SIGNALS = frozenset((Do.BEGIN, Do.CUT, Do.COMMIT, Do.LOADED, Do.RESUMED, Do.COMPLETE))
#: where a pair is between two checkpoints
_BETWEEN: Mapping[Role, State] = {Role.PRIMARY: P.RUN, Role.SECONDARY: S.WAIT_REQUEST}
_PEER = {Role.PRIMARY: Role.SECONDARY, Role.SECONDARY: Role.PRIMARY}
_MOST = 64  # inputs; a longer walk would not end


@dataclass(frozen=True, slots=True)
class Input:
    """One input of the walk.

    cause, by: which earlier input's effect brought it about; -1 and None for the trigger.
    effects: of its row.  state: the next one.  survival: said anew if it is not None.
    """

    role: Role
    verb: Verb
    cause: int
    by: Do | None
    effects: tuple[Do, ...]
    state: State
    survival: Survival | None


def walk(primary: Machine, secondary: Machine) -> tuple[Input, ...] | None:
    """The inputs of one checkpoint in the order in which they come if nothing takes any time.

    None if the tables leave it open: a row is missing, an effect's outcome depends on data (rounds
    of pre-copy), or the pair does not come back to where it began.
    """
    machines = {Role.PRIMARY: primary, Role.SECONDARY: secondary}
    states = dict(_BETWEEN)
    due: deque[tuple[Role, Verb, int, Do | None]] = deque()
    due.append((Role.PRIMARY, Verb.TRIGGER, -1, None))
    inputs: list[Input] = []
    while due and len(inputs) < _MOST:
        role, verb, cause, by = due.popleft()
        machine, before = machines[role], states[role]
        row = machine.rows.get((before, verb))
        if row is None:
            return None
        effects, after = row
        for effect in effects:
            if effect not in _SIGNALS and effect not in _BRINGS:
                return None
            for brought, to_peer in _BRINGS.get(effect, ()):
                due.append((_PEER[role] if to_peer else role, brought, len(inputs), effect))
        safe = Do.COMMIT in effects or Do.LOADED in effects  # a Takeover names the last safe one
        survival = machine.survival_in(after)
        says = safe or survival is not machine.survival_in(before)
        inputs.append(Input(role, verb, cause, by, effects, after, survival if says else None))
        states[role] = after
    return tuple(inputs) if states == _BETWEEN and not due else None
