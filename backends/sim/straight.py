"""Checkpoints in which nothing intervenes, in one go.

A checkpoint is some thirty events and twenty inputs of two nodes, and mostly nothing else happens
between them.  Then the clock may as well be put forward: what the tables say is done at the moments
at which it would be done, by the same checkpointers and the same halves of the world's operations,
but without an event, a message or a completion in between.

The way is read off the tables (`colosim.protocol.straight.walk`).  Before each step it is looked
whether anything else is due before the next one.  If so, what is under way is put back into the
hands of the world, and all goes on as ever.  Tests hold both ways equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from backends.base import Session
from backends.nodes import PRIMARY, SECONDARY
from backends.sim.beats import Beats, OneWay
from backends.sim.clock import Clock
from backends.sim.host import Host
from backends.sim.link import Direction
from colosim.protocol import types as t
from colosim.protocol.checkpoint import Checkpointer, Do, S, State, Verb
from colosim.protocol.codec import encode, encode_state
from colosim.protocol.dialect import DIALECTS, Dialect, Message
from colosim.protocol.node import NodeConfig, machine_of
from colosim.protocol.straight import Input, walk

if TYPE_CHECKING:
    from backends.sim.world import SimWorld

_CAUSE = (PRIMARY, -1)  # of what is put back; nobody traces it
_MESSAGES = {
    Do.SEND_REQUEST: Message.REQUEST,
    Do.SEND_REPLY: Message.REPLY,
    Do.SEND_RECEIVED: Message.RECEIVED,
    Do.SEND_LOADED: Message.LOADED,
}
_SIGNALS = frozenset((Do.BEGIN, Do.CUT, Do.COMMIT, Do.LOADED, Do.RESUMED, Do.COMPLETE))
#: effects that do nothing else than to say so
_SAYS = {Do.CUT: t.Cut, Do.RESUMED: t.Resumed}
#: what a state brings about: its sender's end of sending, and its two parts at the other side
_STATE_COMES = (Verb.DONE, Verb.SEND, Verb.STATE)


@dataclass(slots=True)
class _Side:
    """A host as the way needs it.

    state: where its checkpointer is since then, if that is not shown yet: nobody looks meanwhile.
    """

    host: Host
    checkpointer: Checkpointer
    settle: Callable[[int], None]
    out: Direction
    way: OneWay | None = None  # with its heartbeats
    state: State | None = None
    since_ns: int = 0

    def show(self) -> None:
        if self.state is not None:
            self.checkpointer.enter(self.state, self.since_ns)
            self.state = None


@dataclass(frozen=True, slots=True)
class _Step:
    """One input, or the three of a state that comes.

    waits: the states of both sides before it.  enters: the one that it leads to.
    under_way: inputs that are brought about already and not here, this one first.
    """

    index: int
    comes_ns: Callable[[_Step, int, int], int | None]
    side: _Side
    sender: _Side
    waits: tuple[State, State]
    enters: State
    signals: tuple[Callable[[], None], ...]
    # operations, and the input that will end each
    begins: tuple[tuple[Callable[[_Side, int], int], int], ...]
    # of the message that it is, or of a state's parts: those that are control bytes, -1 for RAM,
    # -2 for devices
    sizes_bytes: tuple[int, ...]
    finishes: bool  # an operation's end does something in the world
    hears_out: bool  # what the guest said until it stopped is heard first
    under_way: tuple[int, ...]
    others: tuple[int, ...]  # operations among them that do not end by this step


class Straight:
    """The way of one world; call it when client input is held back for a checkpoint."""

    def __init__(
        self, world: SimWorld, session: Session, inputs: tuple[Input, ...], message_bytes: int
    ) -> None:
        self._world = world
        self._operations = world.operations
        self._foresight = world.foresight
        self._session = session
        self._clock: Clock = world.clock
        self._inputs = inputs
        self._sides = {
            t.Role(role): _Side(
                host,
                session.nodes[host.id].checkpointer,
                session.settles(host.id),
                world.link.direction_of(host.id),
            )
            for role, host in world.pair.hosts.items()
        }
        self._primary = self._sides[t.Role.PRIMARY]
        self._secondary = self._sides[t.Role.SECONDARY]
        config = session.nodes[self._primary.host.id].config
        self._dialect: Dialect = DIALECTS[config.dialect]
        self._begin: dict[Do, Callable[[_Side, int], int]] = {
            Do.STOP_VM: self._begin_stop,
            Do.DRAIN: self._begin_drain,
            Do.SAVE: self._begin_save,
            Do.COPY: self._begin_save,
            Do.LOAD: self._begin_load,
            Do.START_VM: self._begin_start,
            Do.SEND_STATE: self._begin_send,
        }
        self._ends_ns = [0] * len(inputs)  # of operations, by the input that ends them
        self._finish: list[Callable[[], t.State | None]] = [lambda: None] * len(inputs)
        self._state: t.State | None = None
        self._sent: State = inputs[0].state  # the sender's, once the last bit has left
        self._latest_ns = 0  # from then on a limit may end a wait of this checkpoint
        both = self._sides.values()
        self._least_limit_ns = min(side.checkpointer.least_limit_ns for side in both)
        self._message_bytes = message_bytes
        self._beats = Beats.of(world, session, message_bytes) if world.beats_are_regular else None
        if self._beats is not None:
            for side in both:
                side.way = self._beats.ways[side.host.id]
        self._framing = self._framing_bytes()
        self._steps = tuple(self._steps_of())

    @classmethod
    def of(cls, world: SimWorld, session: Session, message_bytes: int) -> Straight | None:
        """None if the tables say nothing that can be done so."""
        hosts = world.pair.hosts
        configs = (session.nodes[hosts[role].id].config for role in (PRIMARY, SECONDARY))
        inputs = _inputs_of(*configs)
        return cls(world, session, inputs, message_bytes) if inputs and _is_simple(inputs) else None

    # -- made once -------------------------------------------------------------------------

    def _framing_bytes(self) -> tuple[int, ...]:
        """Sizes of what a state is sent as: of control bytes, and -1 for RAM, -2 for devices."""
        ram, device = t.Blob("ram", 1, ""), t.Blob("device", 1, "")
        marks = {ram: -1, device: -2}
        chunks = encode_state(self._dialect, t.State(ram, device))
        return tuple(len(c) if isinstance(c, bytes) else marks[c] for c in chunks)

    def _steps_of(self) -> list[_Step]:
        """From the end of holding input back on."""
        inputs, steps, i = self._inputs, [], 1
        states = {t.Role.PRIMARY: inputs[0].state, t.Role.SECONDARY: S.WAIT_REQUEST}
        while i < len(inputs):
            is_state = inputs[i].by is Do.SEND_STATE
            together = inputs[i : i + len(_STATE_COMES)] if is_state else inputs[i : i + 1]
            waits = (states[t.Role.PRIMARY], states[t.Role.SECONDARY])
            states |= {each.role: each.state for each in together}
            last = i + len(together) - 1
            each, side = inputs[last], self._sides[inputs[last].role]
            message = _MESSAGES.get(each.by) if each.by else None
            sizes: tuple[int, ...] = ()
            comes_ns = self._is_held_back if i == 1 else self._is_done
            if is_state:
                sizes, comes_ns = self._framing, self._is_in
                self._sent = inputs[i].state
            elif message is not None:
                sizes = (self._message_bytes + len(encode(self._dialect, message)),)
                comes_ns = self._arrives
            steps.append(
                _Step(
                    last,
                    comes_ns,
                    side,
                    self._sides[inputs[each.cause].role],
                    waits,
                    each.state,
                    tuple(self._signals_of(side, each)),
                    tuple(self._operations_of(last)),
                    sizes,
                    each.by in (Do.SAVE, Do.COPY, Do.LOAD, Do.START_VM),
                    Do.CUT in each.effects and self._foresight.says_late,
                    tuple(n for n in range(i, len(inputs)) if inputs[n].cause < i),
                    tuple(n for n in range(last + 1, len(inputs)) if inputs[n].cause < i),
                )
            )
            i = last + 1
        return steps

    def _signals_of(self, side: _Side, each: Input) -> list[Callable[[], None]]:
        own, heard = side.checkpointer, self._session.is_heard
        begin = partial(own.begin, f"message {each.verb}")  # the primary's was its own input
        called = [
            begin if do is Do.BEGIN else own.effect(do)
            for do in each.effects
            if do in _SIGNALS and (do not in _SAYS or heard(side.host.id, _SAYS[do]))
        ]
        return called if each.survival is None else [*called, partial(own.says, each.survival)]

    def _operations_of(self, i: int) -> list[tuple[Callable[[_Side, int], int], int]]:
        return [
            (
                self._begin[do],
                next(n for n, one in enumerate(self._inputs) if (one.cause, one.by) == (i, do)),
            )
            for do in self._inputs[i].effects
            if do in self._begin
        ]

    # -- operations ------------------------------------------------------------------------

    def _begin_stop(self, side: _Side, n: int) -> int:
        return self._operations.begin_stop(side.host)

    def _begin_drain(self, side: _Side, n: int) -> int:
        return 0

    def _begin_save(self, side: _Side, n: int) -> int:
        delay_ns, state = self._operations.begin_save(side.host, side.checkpointer.checkpoint)
        self._state, self._finish[n] = state, lambda: state
        return delay_ns

    def _begin_send(self, side: _Side, n: int) -> int:
        return self._operations.begin_send(side.host)

    def _begin_load(self, side: _Side, n: int) -> int:
        assert self._state is not None
        checkpoint = side.checkpointer.checkpoint
        delay_ns, self._finish[n] = self._operations.begin_load(side.host, self._state, checkpoint)
        return delay_ns

    def _begin_start(self, side: _Side, n: int) -> int:
        self._finish[n] = partial(self._operations.started, side.host)
        return self._operations.begin_start(side.host)

    # -- the way ---------------------------------------------------------------------------

    def __call__(self, host: Host, op: int) -> bool:
        """Client input is held back, by that operation; False if the way is not open at all."""
        primary, secondary = self._primary, self._secondary
        foresight, clock = self._foresight, self._clock
        if not (
            host is primary.host
            and primary.checkpointer.state is self._inputs[0].state
            and primary.checkpointer.owns(op)
            and secondary.checkpointer.state is S.WAIT_REQUEST
            and self._is_well(primary.host)
            and self._is_well(secondary.host)
        ):
            return False
        ends_ns = self._ends_ns
        ends_ns[1] = now_ns = clock.now_ns()
        self._latest_ns = now_ns + self._least_limit_ns
        foresight.plans_wait = True
        planned, free_ns = -1, 0  # nothing else comes before then, unless something is planned
        for step in self._steps:
            if clock.events != planned or not foresight.is_planned:
                free_ns, planned = min(self._next_ns(), self._latest_ns), clock.events
            at_ns = step.comes_ns(step, now_ns, free_ns)
            if at_ns is None:
                self._put_back(step, clock.now_ns())
                return True
            if at_ns > now_ns:
                now_ns = clock.put_forward(at_ns)
            side = step.side
            side.state, side.since_ns = step.enters, now_ns
            if step.finishes and (saved := self._finish[step.index]()) is not None:
                side.checkpointer.holds(saved)
            if step.signals or step.hears_out:
                if side is primary:  # whose policy may want the next one
                    side.show()
                if step.hears_out:
                    foresight.hear_out(side.host)
                for say in step.signals:
                    say()
                side.settle(now_ns)
            for begin, n in step.begins:
                ends_ns[n] = now_ns + begin(side, n)
        self._show()
        primary.checkpointer.rest(now_ns)
        primary.settle(now_ns)
        self._foresight.plans_go_on()
        self._session.wake(host.id)
        return True

    def _show(self) -> None:
        """Let both checkpointers be where they are: somebody may look."""
        self._primary.show()
        self._secondary.show()

    def takes_beat(self, host: Host) -> bool:
        """A heartbeat is due; whether those of the pair, this one first, need no more care."""
        return self._beats is not None and self._beats.begin(host.id)

    def catch_up(self) -> None:
        """Bring the links up to date."""
        if self._beats is not None:
            self._beats.catch_up()

    def end(self) -> None:
        """All that happens from now on happens step by step."""
        if self._beats is not None:
            self._beats.end()

    @staticmethod
    def _is_well(host: Host) -> bool:
        guest = host.guest
        return host.alive and host.link_open and not (host.hung or guest.hung or guest.dead)

    # -- when a step comes; None if something else may come before -------------------------

    def _is_held_back(self, step: _Step, now_ns: int, free_ns: int) -> int | None:
        """The first of all: it is now."""
        return now_ns

    def _is_done(self, step: _Step, now_ns: int, free_ns: int) -> int | None:
        """An operation of a host: what else happens until then may, if it does not concern us."""
        at_ns = self._ends_ns[step.index]
        if at_ns < free_ns and not step.others:
            return at_ns
        if at_ns >= free_ns:
            next_ns = self._next_ns()
            while next_ns < at_ns or next_ns == now_ns:
                if not self._others_first(step, next_ns):
                    return None
                next_ns = self._next_ns()
        return at_ns if self._is_next(step, at_ns, free_ns) else None

    def _arrives(self, step: _Step, now_ns: int, free_ns: int) -> int | None:
        """A message that is sent now."""
        if free_ns <= now_ns and not self._others_first(step, now_ns):
            return None
        crossing = self._crossing(step, now_ns, now_ns, step.sizes_bytes, free_ns)
        return None if crossing is None else crossing[1]

    def _is_in(self, step: _Step, now_ns: int, free_ns: int) -> int | None:
        """A state that is sent now, or a moment later, has arrived."""
        if free_ns <= now_ns and not self._others_first(step, now_ns):
            return None
        state, sender = self._state, step.sender
        assert state is not None
        parts = (state.ram.size, state.device.size)
        sizes = tuple(parts[~size] if size < 0 else size for size in step.sizes_bytes)
        begins_ns = self._ends_ns[step.under_way[0]]
        crossing = self._crossing(step, now_ns, begins_ns, sizes, free_ns)
        if crossing is None:
            return None
        sender.checkpointer.sends()
        left_ns, there_ns = crossing
        sender.state, sender.since_ns = self._sent, left_ns
        self._world.recorder.sent(sum(sizes) + sender.host.ahead.sent_bytes)
        return there_ns

    def _crossing(
        self, step: _Step, now_ns: int, begins_ns: int, sizes_bytes: tuple[int, ...], free_ns: int
    ) -> tuple[int, int] | None:
        """Messages are sent then, one after the other: when their last bit has left, and when it is
        there.  None if something else is on the link, or comes before the last of them does.
        """
        out, way, met = step.sender.out, step.sender.way, None
        if way is not None and out.lent is not None:
            left_ns = way.alone_ns(now_ns, begins_ns, sizes_bytes)
            if left_ns is None:
                left_ns, _, met = way.together(begins_ns, sizes_bytes)
        elif out.is_idle:
            left_ns = out.alone_ns(begins_ns, sizes_bytes)
        else:
            return None
        there_ns = out.there_ns(left_ns)
        if (step.others or there_ns >= free_ns) and not self._is_next(step, there_ns, free_ns):
            return None
        if way is not None and met is not None:
            way.meet(met)
        out.passed(sum(sizes_bytes), there_ns)
        return left_ns, there_ns

    def _next_ns(self) -> int:
        """When something else comes, as far as anybody knows now."""
        if not self._foresight.is_planned:
            self._foresight.plan_anew()
        return self._clock.next_ns()

    def _others_first(self, step: _Step, until_ns: int) -> bool:
        """What is due by then happens; whether both sides are as they were before."""
        self._show()
        self._foresight.plan_owed()
        clock = self._clock
        while clock.next_ns() <= until_ns:
            clock.step()
        return self._stands(step)

    def _is_next(self, step: _Step, at_ns: int, free_ns: int) -> bool:
        """Nothing comes before it, no other operation ends, and no limit is near."""
        if at_ns >= free_ns:
            if at_ns >= self._latest_ns:
                return False
            if self._next_ns() <= at_ns:
                for side in self._sides.values():
                    self._world.wake_exactly(side.host)
                if self._clock.next_ns() <= at_ns:
                    return False
        return not step.others or all(self._ends_ns[n] > at_ns for n in step.others)

    def _stands(self, step: _Step) -> bool:
        """Both sides are as they were before others had their turn."""
        primary, secondary = self._primary, self._secondary
        return (
            (primary.checkpointer.state, secondary.checkpointer.state) == step.waits
            and self._is_well(primary.host)
            and self._is_well(secondary.host)
        )

    def _put_back(self, step: _Step, now_ns: int) -> None:
        """What is under way is the world's again."""
        self._show()
        self._foresight.plans_go_on()
        self.end()
        inputs = self._inputs
        for n in step.under_way:
            each = inputs[n]
            sender = self._sides[inputs[each.cause].role]
            waiting = inputs[each.cause].state
            assert each.by is not None
            if each.by is Do.SEND_STATE:
                if each.verb is Verb.DONE:
                    self._send(sender, waiting, self._ends_ns[n] - now_ns)
            elif each.by in _MESSAGES:
                sender.checkpointer.effect(each.by)()
                sender.settle(now_ns)
            else:
                op = sender.checkpointer.awaits(waiting)
                left_ns = self._ends_ns[n] - now_ns
                self._operations.takes(sender.host, op, _CAUSE, left_ns, self._finish[n])
        for side in self._sides.values():
            self._session.wake(side.host.id)

    def _send(self, sender: _Side, waiting: State, delay_ns: int) -> None:
        assert self._state is not None
        sender.checkpointer.sends()
        op = sender.checkpointer.awaits(waiting)
        action = t.SendState(op, encode_state(self._dialect, self._state))
        self._operations.send_after(delay_ns, sender.host, action, _CAUSE)


@lru_cache(maxsize=16)
def _inputs_of(primary: NodeConfig, secondary: NodeConfig) -> tuple[Input, ...] | None:
    """The same for all replications."""
    return walk(machine_of(primary), machine_of(secondary))


def _is_simple(inputs: tuple[Input, ...]) -> bool:
    """Begins with client input held back; and while a message or a state is under way, nothing
    else comes.
    """
    if len(inputs) < 2 or (inputs[1].verb, inputs[1].by) != (Verb.DONE, Do.QUIESCE):
        return False
    for i, each in enumerate(inputs):
        if each.by in _MESSAGES and each.cause != i - 1:
            return False
        if each.by is Do.SEND_STATE and each.verb is Verb.DONE:
            comes = inputs[i : i + len(_STATE_COMES)]
            if tuple(one.verb for one in comes) != _STATE_COMES or each.cause != i - 1:
                return False
            if any(one.effects for one in comes[:-1]):
                return False
    return True
