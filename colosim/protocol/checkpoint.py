"""The checkpoint machines of primary and secondary, as tables.

How to read a table: ``{(state, verb): (effects, next state)}``.  A state is named after the one
operation that is outstanding in it; its value is the *step* name that traces, fault plans and
explorations use.  Effects are done in order; `Checkpointer` says what each means.

What the tables do not show, because it holds everywhere:

* Messages, faults and the end of the stream are read in order, and only in the states in
  ``Machine.reads``; elsewhere they wait.  QEMU's threads do the same: they read when they expect.
* A message that a reading state has no row for is a `Verb.PEER_FAULT`.
* Leaving a state cancels its operation, unless the next state still waits for it (RELAUNCH).
* `Rounds` decides if the end of a pre-copy round is `Verb.ROUND` (another one) or `Verb.DONE`.
* Every state that waits has a time limit (``Machine.limits``), whose end is `Verb.TIMEOUT`.

Sources: `qemu-colo.md` 1.2 (rfc2014), 2.3-2.5 and 2.10 (upstream), `live-recipes.md` 2-3 (the
order quiesce, request, stop, cut, save, send).  Deliberate differences to QEMU's own loop: the
state is saved *before* SEND goes out (the bytes on the wire are the same, and a peer that reads
RAM never waits for our save); a guest whose loop was already left is not stopped once more before
it goes on alone; the link is closed when the loop is left, not when the failover ends; and output
that LOADED commits is released with StartVm, in the same feed, not before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum

from colosim.protocol import types as t
from colosim.protocol.codec import Fault, Item, encode, encode_state
from colosim.protocol.dialect import Dialect, Message
from colosim.protocol.outbox import Outbox

#: among the types, because a policy may name its own
Transfer = t.Transfer


class Quirks(StrEnum):
    """Defects of a QEMU version that can be switched on."""

    NONE = "none"
    QEMU_7_2 = "qemu-7.2"


class Verb(StrEnum):
    """Inputs of the machines."""

    __hash__ = str.__hash__  # Enum has one in Python, and these are looked up all the time

    START = "start"
    TRIGGER = "trigger"
    READY = "ready"
    ROUND = "round"
    REQUEST = "request"
    REPLY = "reply"
    SEND = "send"
    STATE = "state"
    RECEIVED = "received"
    LOADED = "loaded"
    DONE = "done"
    FAILED = "failed"
    TIMEOUT = "timeout"
    LINK_LOST = "link-lost"
    PEER_FAULT = "peer-fault"
    VM_GONE = "vm-gone"
    PROMOTE = "promote"
    STEP_DOWN = "step-down"


class P(StrEnum):
    """States of the primary."""

    __hash__ = str.__hash__  # Enum has one in Python, and these are looked up all the time

    IDLE = "idle"
    WAIT_READY = "wait-ready"
    START = "start"
    RUN = "run"
    PRECOPY = "precopy"
    QUIESCE = "quiesce"
    REQUEST = "request"
    STOP = "stop"
    CUT = "cut"
    SAVE = "save"
    COPY = "copy"
    RESUME_EARLY = "resume-early"
    SEND = "send"
    WAIT_RECEIVED = "wait-received"
    WAIT_LOADED = "wait-loaded"
    RESUME = "resume"
    FROZEN = "frozen"  # QEMU 7.2: left the transaction without leaving the loop
    EXITED = "exited"
    FAILOVER = "failover"
    TAKEOVER = "takeover"
    ALONE = "alone"
    DEAD = "dead"


class S(StrEnum):
    """States of the secondary."""

    __hash__ = str.__hash__  # Enum has one in Python, and these are looked up all the time

    IDLE = "idle"
    START = "start"
    WAIT_REQUEST = "wait-request"
    STOP = "stop"
    CUT = "cut"
    WAIT_SEND = "wait-send"
    RECEIVE = "receive"
    LOAD = "load"
    RESUME = "resume"
    RELAUNCH = "relaunch"
    RELAUNCH_RESUME = "relaunch-resume"
    EXITED = "exited"
    FAILOVER = "failover"
    TAKEOVER = "takeover"
    ALONE = "alone"
    BROKEN = "broken"


class Do(Enum):
    """Effects; the names are those of `Checkpointer` methods."""

    __hash__ = object.__hash__

    # actions that take time
    PRECOPY = "precopy"
    QUIESCE = "quiesce"
    STOP_VM = "stop_vm"
    DRAIN = "drain"
    SAVE = "save"
    COPY = "copy"
    SEND_STATE = "send_state"
    LOAD = "load"
    START_VM = "start_vm"
    # actions that do not
    SEND_READY = "send_ready"
    SEND_REQUEST = "send_request"
    SEND_REPLY = "send_reply"
    SEND_RECEIVED = "send_received"
    SEND_LOADED = "send_loaded"
    CLOSE_LINK = "close_link"
    # signals
    PROTECTED = "protected"
    BEGIN = "begin"
    CUT = "cut"
    COMMIT = "commit"
    LOADED = "loaded"
    RESUMED = "resumed"
    COMPLETE = "complete"
    ABORT = "abort"
    EXIT = "exit"
    ALONE = "alone"
    GONE = "gone"
    # the trigger that came while a checkpoint was under way
    REMEMBER = "remember"


State = P | S
Row = tuple[tuple[Do, ...], State]
Rows = dict[tuple[State, Verb], Row]


@dataclass(frozen=True, slots=True)
class Limits:
    """Longest wait in each step, ns."""

    ready_ns: int
    quiesce_ns: int
    request_ns: int
    stop_ns: int
    cut_ns: int
    save_ns: int
    send_ns: int
    received_ns: int
    loaded_ns: int
    resume_ns: int
    load_ns: int
    receive_ns: int
    precopy_ns: int = 30_000_000_000


@dataclass(frozen=True, slots=True)
class Rounds:
    """When pre-copy ends: a round is the last if no more is left, or it is the last allowed.

    The idea is Clark et al.'s (NSDI 2005); the defaults are assumed: 64 pages take about as long on
    1 Gbit/s as stopping a guest and saving its devices.
    """

    threshold_bytes: int = 262_144
    most: int = 4


ROUNDS = Rounds()


@dataclass(frozen=True, slots=True)
class Machine:
    """A table and what is said of its states.

    reads: states that read from the stream.  ended: nothing is read any more.
    between: states that start a checkpoint at once if a trigger was remembered.
    limits: state -> field of `Limits`.
    survival: states in which the guest is not a clean survivor.
    """

    rows: Rows
    start: State
    reads: frozenset[State]
    ended: frozenset[State]
    between: frozenset[State]
    limits: Mapping[State, str]
    survival: Mapping[State, t.Survival]

    def survival_in(self, state: State) -> t.Survival:
        return self.survival.get(state, t.Survival.CLEAN)


def _each(states: Iterable[State], verbs: Iterable[Verb], row: Row) -> Rows:
    """The same row for several states and verbs; written out, so that each can be mutated."""
    verbs = tuple(verbs)
    return {(state, verb): row for state in states for verb in verbs}


def _stay(states: Iterable[State], verbs: Iterable[Verb], *effects: Do) -> Rows:
    """Rows that do not change the state."""
    verbs = tuple(verbs)
    return {(state, verb): (effects, state) for state in states for verb in verbs}


#: messages that may wait to be read; a peer in step never has more than two outstanding
MAX_UNREAD = 16

LOST = (Verb.LINK_LOST, Verb.PEER_FAULT)
BAD = (Verb.FAILED, Verb.TIMEOUT)


# -- primary ---------------------------------------------------------------------------------


_PRIMARY_LIMITS: Mapping[State, str] = {
    P.WAIT_READY: "ready_ns",
    P.START: "resume_ns",
    P.PRECOPY: "precopy_ns",
    P.QUIESCE: "quiesce_ns",
    P.REQUEST: "request_ns",
    P.STOP: "stop_ns",
    P.CUT: "cut_ns",
    P.SAVE: "save_ns",
    P.COPY: "save_ns",
    P.RESUME_EARLY: "resume_ns",
    P.SEND: "send_ns",
    P.WAIT_RECEIVED: "received_ns",
    P.WAIT_LOADED: "loaded_ns",
    P.RESUME: "resume_ns",
    P.FAILOVER: "stop_ns",
    P.TAKEOVER: "resume_ns",
}
_PRIMARY_READS: tuple[State, ...] = (
    P.WAIT_READY,
    P.RUN,
    P.REQUEST,
    P.WAIT_RECEIVED,
    P.WAIT_LOADED,
)


def primary_machine(
    dialect: Dialect,
    transfer: Transfer = Transfer.STOP_AND_SEND,
    quirks: Quirks = Quirks.NONE,
    commit: Message | None = None,
) -> Machine:
    """The primary's machine; ``commit`` overrides when the dialect calls a checkpoint safe."""
    rows = _Primary(dialect, transfer, commit or dialect.commit)
    return Machine(
        rows={
            **rows.path(),
            **rows.triggers(),
            **rows.peer_fails(),
            **rows.guest_fails(),
            **rows.goes_on_alone(),
            **rows.hands_over(),
            **(rows.qemu_7_2() if quirks is Quirks.QEMU_7_2 else {}),
        },
        start=P.IDLE,
        reads=frozenset(_PRIMARY_READS),
        ended=frozenset((P.FROZEN, P.EXITED, P.FAILOVER, P.TAKEOVER, P.ALONE, P.DEAD)),
        between=frozenset((P.RUN, P.FROZEN)),
        limits=_PRIMARY_LIMITS,
        survival={P.DEAD: t.Survival.BROKEN},
    )


class _Primary:
    """The primary's rows, a method for each kind of thing that can happen."""

    def __init__(self, dialect: Dialect, transfer: Transfer, commit: Message) -> None:
        self.failover = dialect.failover
        self.commit = commit
        #: the guest runs while its state is sent
        self.early = transfer is Transfer.COPY_THEN_SEND
        #: most of the state is sent before the guest stops
        self.rounds = transfer is Transfer.PRECOPY
        self.first: State = P.PRECOPY if self.rounds else P.QUIESCE
        self.saving: State = P.COPY if self.early else P.SAVE
        # states of a checkpoint, split by whether leaving them aborts it
        self.in_flight: tuple[State, ...] = (
            *((P.PRECOPY,) if self.rounds else ()),
            P.QUIESCE,
            P.REQUEST,
            P.STOP,
            P.CUT,
            self.saving,
            *((P.RESUME_EARLY,) if self.early else ()),
            P.SEND,
            P.WAIT_RECEIVED,
        )
        self.after: tuple[State, ...] = (
            (P.WAIT_LOADED,) if self.early else (P.WAIT_LOADED, P.RESUME)
        )
        self.before: tuple[State, ...] = (P.WAIT_READY, P.START, P.RUN)
        self.committed_late = commit is Message.LOADED
        # Leaving the loop: stop talking and let the managers decide.  rfc2014 knows none: the
        # master goes on alone.
        self.leave: tuple[Do, ...] = (Do.CLOSE_LINK, Do.EXIT)
        self.left: State = P.EXITED
        if not self.failover:
            self.leave, self.left = (*self.leave, Do.START_VM), P.TAKEOVER

    def abort(self, state: State) -> tuple[Do, ...]:
        """What leaving a state early does to the checkpoint under way."""
        pending = state in self.in_flight or (self.committed_late and state is P.WAIT_LOADED)
        return (Do.ABORT,) if pending else ()

    def dead(self, state: State) -> Row:
        """The guest is beyond use."""
        return (*self.abort(state), Do.CLOSE_LINK, Do.EXIT), P.DEAD

    def path(self) -> Rows:
        """From the start through a checkpoint and back, where nothing fails."""
        at_received = () if self.committed_late else (Do.COMMIT,)
        at_loaded = (Do.COMMIT,) if self.committed_late else ()
        rows: Rows = {
            (P.IDLE, Verb.START): ((), P.WAIT_READY),
            (P.WAIT_READY, Verb.READY): ((Do.START_VM,), P.START),
            (P.START, Verb.DONE): ((Do.PROTECTED,), P.RUN),
            **self.begins(),
            (P.QUIESCE, Verb.DONE): ((Do.SEND_REQUEST,), P.REQUEST),
            (P.REQUEST, Verb.REPLY): ((Do.STOP_VM,), P.STOP),
            (P.STOP, Verb.DONE): ((Do.DRAIN,), P.CUT),
            (P.SEND, Verb.DONE): ((), P.WAIT_RECEIVED),
            (P.WAIT_RECEIVED, Verb.RECEIVED): (at_received, P.WAIT_LOADED),
        }
        if self.early:
            return rows | {
                (P.CUT, Verb.DONE): ((Do.CUT, Do.COPY), P.COPY),
                (P.COPY, Verb.DONE): ((Do.START_VM,), P.RESUME_EARLY),
                (P.RESUME_EARLY, Verb.DONE): ((Do.RESUMED, Do.SEND_STATE), P.SEND),
                (P.WAIT_LOADED, Verb.LOADED): ((*at_loaded, Do.COMPLETE), P.RUN),
            }
        return rows | {
            (P.CUT, Verb.DONE): ((Do.CUT, Do.SAVE), P.SAVE),
            (P.SAVE, Verb.DONE): ((Do.SEND_STATE,), P.SEND),
            (P.WAIT_LOADED, Verb.LOADED): ((*at_loaded, Do.START_VM), P.RESUME),
            (P.RESUME, Verb.DONE): ((Do.RESUMED, Do.COMPLETE), P.RUN),
        }

    def begins(self) -> Rows:
        """From the trigger to where client input is held back."""
        if not self.rounds:
            return {(P.RUN, Verb.TRIGGER): ((Do.BEGIN, Do.QUIESCE), P.QUIESCE)}
        return {
            (P.RUN, Verb.TRIGGER): ((Do.BEGIN, Do.PRECOPY), P.PRECOPY),
            (P.PRECOPY, Verb.ROUND): ((Do.PRECOPY,), P.PRECOPY),
            (P.PRECOPY, Verb.DONE): ((Do.QUIESCE,), P.QUIESCE),
        }

    def triggers(self) -> Rows:
        """Triggers that come while no checkpoint can start.

        Those from before the cut are answered by the checkpoint under way.  A stopped guest makes
        no others until RECEIVED, where upstream clears them; a running one does.  Those from
        before the guest runs start the first checkpoint (`qemu-colo.md` 3.5).
        """
        late: tuple[State, ...] = (P.IDLE, P.WAIT_READY, P.START, *self.after)
        if self.early:
            late = (*late, P.RESUME_EARLY, P.SEND, P.WAIT_RECEIVED)
        answered = [state for state in self.in_flight if state not in late]
        ended = (P.EXITED, P.FAILOVER) if self.failover else ()
        return {
            **_stay(answered, (Verb.TRIGGER,)),
            **_stay(late, (Verb.TRIGGER,), Do.REMEMBER),
            # and not when alone: then the policy is silent
            **_stay((*ended, P.TAKEOVER, P.DEAD), (Verb.TRIGGER,)),
        }

    def peer_fails(self) -> Rows:
        """The link ends, the peer is silent or talks nonsense: the guest stays as it is."""
        rows: Rows = {}
        for state in _PRIMARY_READS:
            lost: Row = ((*self.abort(state), *self.leave), self.left)
            timeout = () if state is P.RUN else (Verb.TIMEOUT,)
            rows |= _each((state,), (Verb.LINK_LOST, *timeout), lost)
            # a master of 2014 dies of a wrong message
            killed = ((*self.abort(state), Do.CLOSE_LINK, Do.EXIT, Do.STOP_VM), P.DEAD)
            rows[state, Verb.PEER_FAULT] = lost if self.failover else killed
        if not self.failover:  # the operation that such a death leaves behind
            rows |= _stay((P.DEAD,), (Verb.DONE, Verb.FAILED))
        return rows

    def guest_fails(self) -> Rows:
        """An operation of ours fails or never ends, or the guest's process ends."""
        own: tuple[State, ...] = (P.QUIESCE, P.CUT, self.saving, P.SEND)
        if self.rounds:
            own = (P.PRECOPY, *own)
        rows = _each(own, BAD, ((Do.ABORT, *self.leave), self.left))
        # A guest that neither stops nor starts is beyond use, and so is one whose save never ends
        # or whose last output never comes: the peer is well, and this side must not fence it.
        resume = P.RESUME_EARLY if self.early else P.RESUME
        asked: tuple[State, ...] = (P.START, P.STOP, resume)
        for state in asked:
            rows |= _each((state,), BAD, self.dead(state))
        if self.failover:
            rows[self.saving, Verb.TIMEOUT] = self.dead(self.saving)
            rows |= _each((P.CUT,), BAD, self.dead(P.CUT))
        for state in (*self.before, *self.in_flight, *self.after):
            rows[state, Verb.VM_GONE] = self.dead(state)
        if not self.early:
            # State already in hand still gets across (`live-recipes.md` 3); this side says at
            # once that it cannot go on, and StartVm ends it.
            rows |= _stay((P.SEND, P.WAIT_RECEIVED, P.WAIT_LOADED), (Verb.VM_GONE,), Do.GONE)
        rows[P.IDLE, Verb.VM_GONE] = ((Do.EXIT,), P.DEAD)
        return rows | _stay((P.DEAD,), (Verb.VM_GONE,))

    def goes_on_alone(self) -> Rows:
        rows = _alone(P.TAKEOVER, P.ALONE, P.DEAD)
        if self.failover:
            rows |= _failover(P.EXITED, P.FAILOVER, P.TAKEOVER, P.ALONE, P.DEAD)
            for state in (P.IDLE, *self.before, *self.in_flight, *self.after):
                effects = (*self.abort(state), Do.CLOSE_LINK, Do.STOP_VM)
                rows[state, Verb.PROMOTE] = (effects, P.FAILOVER)
        return rows

    def hands_over(self) -> Rows:
        """The other side has it all: leave it the service.  The policy may just have begun again.

        The guest is not stopped: what it still does waits for a commit that never comes, and if
        the other side does not take over, it goes on as if nothing had been.
        """
        if not self.failover:
            return {}
        rows: Rows = {
            (state, Verb.STEP_DOWN): ((*self.abort(state), *self.leave), self.left)
            for state in (P.RUN, self.first)
        }
        return rows | _stay((P.EXITED,), (Verb.STEP_DOWN,))  # the stream had just ended by itself

    def qemu_7_2(self) -> Rows:
        """`qemu-colo.md` 2.3: failures after the device state was saved look like success.

        Up to RECEIVED the trigger is still set, so the next transaction starts at once, fails on
        REQUEST and only then leaves; after it, the loop sleeps with the guest frozen until the
        next trigger, up to x-checkpoint-delay later.
        """
        again = (Do.SEND_REQUEST, Do.CLOSE_LINK, Do.EXIT)
        return {
            **_each((P.SEND,), (Verb.FAILED,), ((Do.ABORT, *again), P.EXITED)),
            **_each((P.WAIT_RECEIVED,), LOST, ((Do.ABORT, *again), P.EXITED)),
            **_each((P.WAIT_LOADED,), LOST, (self.abort(P.WAIT_LOADED), P.FROZEN)),
            (P.FROZEN, Verb.TRIGGER): (again, P.EXITED),
            (P.FROZEN, Verb.PROMOTE): ((Do.CLOSE_LINK, Do.STOP_VM), P.FAILOVER),
            (P.FROZEN, Verb.VM_GONE): ((Do.CLOSE_LINK, Do.EXIT), P.DEAD),
        }


def _alone(takeover: State, alone: State, dead: State) -> Rows:
    """The last steps of going on without a peer."""
    rows: Rows = {
        (takeover, Verb.DONE): ((Do.ALONE,), alone),
        (alone, Verb.VM_GONE): ((), dead),
    }
    rows |= _each((takeover,), (*BAD, Verb.VM_GONE), ((), dead))
    return rows


def _failover(exited: State, failover: State, takeover: State, alone: State, dead: State) -> Rows:
    """From the loop's end to going on alone, the same on both sides (`qemu-colo.md` 2.5)."""
    rows: Rows = {
        (exited, Verb.PROMOTE): ((Do.START_VM,), takeover),
        (exited, Verb.VM_GONE): ((), dead),
        (failover, Verb.DONE): ((Do.EXIT, Do.START_VM), takeover),
    }
    rows |= _each((failover,), (*BAD, Verb.VM_GONE), ((Do.EXIT,), dead))
    return rows


# -- secondary -------------------------------------------------------------------------------


def secondary_machine(dialect: Dialect) -> Machine:
    """The secondary's machine."""
    rows: Rows = {
        (S.WAIT_REQUEST, Verb.REQUEST): ((Do.BEGIN, Do.STOP_VM), S.STOP),
        (S.STOP, Verb.DONE): ((Do.DRAIN,), S.CUT),
        (S.CUT, Verb.DONE): ((Do.CUT, Do.SEND_REPLY), S.WAIT_SEND),
        (S.WAIT_SEND, Verb.SEND): ((), S.RECEIVE),
        (S.RECEIVE, Verb.STATE): ((Do.SEND_RECEIVED, Do.LOAD), S.LOAD),
    }
    if dialect.start_before_ready:
        rows[S.IDLE, Verb.START] = ((Do.START_VM,), S.START)
        rows[S.START, Verb.DONE] = ((Do.SEND_READY, Do.PROTECTED), S.WAIT_REQUEST)
    else:
        rows[S.IDLE, Verb.START] = ((Do.SEND_READY, Do.START_VM), S.START)
        rows[S.START, Verb.DONE] = ((Do.PROTECTED,), S.WAIT_REQUEST)
    if dialect.start_before_loaded:
        rows[S.LOAD, Verb.DONE] = ((Do.LOADED, Do.START_VM), S.RESUME)
        rows[S.RESUME, Verb.DONE] = ((Do.RESUMED, Do.SEND_LOADED), S.WAIT_REQUEST)
    else:
        rows[S.LOAD, Verb.DONE] = ((Do.LOADED, Do.SEND_LOADED, Do.START_VM), S.RESUME)
        rows[S.RESUME, Verb.DONE] = ((Do.RESUMED,), S.WAIT_REQUEST)

    begun = (S.STOP, S.CUT, S.WAIT_SEND, S.RECEIVE, S.LOAD)

    def abort(state: State) -> tuple[Do, ...]:
        return (Do.ABORT,) if state in begun else ()

    # Before the load the secondary's own run is intact: it may take over from it.  After a
    # failed load there is no run to go on with.  In rfc2014 the slave's process just exits.
    if dialect.failover:
        leave: tuple[Do, ...] = (Do.CLOSE_LINK, Do.EXIT)
        left = S.EXITED
    else:
        leave, left = (Do.CLOSE_LINK, Do.EXIT, Do.STOP_VM), S.BROKEN
    for state in (S.WAIT_REQUEST, S.WAIT_SEND, S.RECEIVE):
        timeout = () if state is S.WAIT_REQUEST else (Verb.TIMEOUT,)
        rows |= _each((state,), (*LOST, *timeout), ((*abort(state), *leave), left))
    asked: tuple[S, ...] = (S.START, S.STOP, S.LOAD, S.RESUME)
    if dialect.failover:
        asked = (*asked, S.CUT)  # whose last output never comes is as hung as one that never stops
    else:
        rows |= _each((S.CUT,), BAD, ((Do.ABORT, *leave), left))
    for state in asked:
        rows |= _each((state,), BAD, ((*abort(state), Do.CLOSE_LINK, Do.EXIT), S.BROKEN))
    for state in (S.START, S.WAIT_REQUEST, *begun, S.RESUME):
        rows[state, Verb.VM_GONE] = ((*abort(state), Do.CLOSE_LINK, Do.EXIT), S.BROKEN)
    rows[S.IDLE, Verb.VM_GONE] = ((Do.EXIT,), S.BROKEN)

    rows |= _stay((S.BROKEN,), (Verb.VM_GONE,))
    if dialect.failover:
        rows |= _alone(S.TAKEOVER, S.ALONE, S.BROKEN)
        rows |= _failover(S.EXITED, S.FAILOVER, S.TAKEOVER, S.ALONE, S.BROKEN)
        for state in (S.START, S.WAIT_REQUEST, *begun, S.RESUME):
            rows[state, Verb.PROMOTE] = ((*abort(state), Do.CLOSE_LINK, Do.STOP_VM), S.FAILOVER)
        rows |= {
            # caught while the state is loading: finish it, then fail over from it
            (S.LOAD, Verb.PROMOTE): ((), S.RELAUNCH),
            (S.RELAUNCH, Verb.DONE): ((Do.LOADED, Do.START_VM), S.RELAUNCH_RESUME),
            (S.RELAUNCH_RESUME, Verb.DONE): (
                (Do.RESUMED, Do.CLOSE_LINK, Do.STOP_VM),
                S.FAILOVER,
            ),
        }
        rows |= _each(
            (S.RELAUNCH,),
            (*BAD, Verb.VM_GONE),
            ((Do.ABORT, Do.CLOSE_LINK, Do.EXIT), S.BROKEN),
        )
        rows |= _each(
            (S.RELAUNCH_RESUME,), (*BAD, Verb.VM_GONE), ((Do.CLOSE_LINK, Do.EXIT), S.BROKEN)
        )
    else:
        rows |= _stay((S.BROKEN,), (Verb.DONE, Verb.FAILED))
    limits: dict[State, str] = {
        S.START: "resume_ns",
        S.STOP: "stop_ns",
        S.CUT: "cut_ns",
        S.WAIT_SEND: "receive_ns",
        S.RECEIVE: "receive_ns",
        S.LOAD: "load_ns",
        S.RESUME: "resume_ns",
        S.RELAUNCH: "load_ns",
        S.RELAUNCH_RESUME: "resume_ns",
        S.FAILOVER: "stop_ns",
        S.TAKEOVER: "resume_ns",
    }
    return Machine(
        rows=rows,
        start=S.IDLE,
        reads=frozenset((S.WAIT_REQUEST, S.WAIT_SEND, S.RECEIVE)),
        ended=frozenset((S.EXITED, S.FAILOVER, S.TAKEOVER, S.ALONE, S.BROKEN)),
        between=frozenset(),
        limits=limits,
        survival={
            S.IDLE: t.Survival.BROKEN,  # nothing complete to go on with yet
            S.LOAD: t.Survival.LOADING,
            S.RELAUNCH: t.Survival.LOADING,
            S.BROKEN: t.Survival.BROKEN,
        },
    )


# -- the machine at work ---------------------------------------------------------------------

_VERB_OF_MESSAGE = {
    Message.READY: Verb.READY,
    Message.REQUEST: Verb.REQUEST,
    Message.REPLY: Verb.REPLY,
    Message.SEND: Verb.SEND,
    Message.RECEIVED: Verb.RECEIVED,
    Message.LOADED: Verb.LOADED,
}
_FROM_PEER = frozenset((*_VERB_OF_MESSAGE.values(), Verb.STATE))


class Checkpointer:
    """Runs one `Machine`: does the effects of its rows and keeps what they need.

    The only part that emits Quiesce, StopVm, Drain, Save, Copy, SendMessage, SendState, Load,
    StartVm and CloseLink.
    """

    def __init__(
        self,
        machine: Machine,
        dialect: Dialect,
        limits: Limits,
        out: Outbox,
        rounds: Rounds = ROUNDS,
    ) -> None:
        self.state: State = machine.start
        self.entered: list[State] = []  # in this feed, which may pass several
        self._machine = machine
        self._dialect = dialect
        self._limits: dict[State, int] = {
            state: getattr(limits, name) for state, name in machine.limits.items()
        }
        self._out = out
        self._rounds = rounds
        self._round = 0  # of this checkpoint's pre-copy, begun
        self._sent_bytes = 0  # of this checkpoint
        self._deadline_ns: int | None = None
        self._inbox: deque[tuple[Verb, t.State | None, str]] = deque()
        self._op: int | None = None
        self._checkpoint = 0  # the one under way or, between two, the last
        self._safe = 0  # primary: last committed; secondary: last loaded
        self._in_hand: t.State | None = None  # state to send or to load
        self._vm_gone = False  # a state that does not end by it must not forget it
        self._wish: str | None = None  # the remembered trigger
        self._why = ""  # of the input being handled
        self._said = t.Takeover(machine.survival_in(machine.start), 0)
        self._do: dict[Do, Callable[[], None]] = {do: getattr(self, f"_{do.value}") for do in Do}

    # -- inputs ----------------------------------------------------------------------------

    def hears(self) -> dict[type, Callable[..., None]]:
        return {
            t.CheckpointNow: self._on_checkpoint_now,
            t.Promoted: self._on_promoted,
            t.SteppedDown: self._on_stepped_down,
        }

    def start(self, now_ns: int) -> None:
        self._input(Verb.START, now_ns)

    def peer(self, item: Item, now_ns: int) -> None:
        """What the decoder understood."""
        if len(self._inbox) == MAX_UNREAD:
            self._inbox[-1] = (Verb.PEER_FAULT, None, "the peer talks without waiting for answers")
        elif isinstance(item, Fault):
            self._inbox.append((Verb.PEER_FAULT, None, item.why))
        elif isinstance(item, t.State):
            self._inbox.append((Verb.STATE, item, ""))
        else:
            self._inbox.append((_VERB_OF_MESSAGE[item], None, f"message {item}"))
        self._settle(now_ns)

    def link_lost(self, why: str, now_ns: int) -> None:
        self._inbox.append((Verb.LINK_LOST, None, why))
        self._settle(now_ns)

    def vm_gone(self, why: str, now_ns: int) -> None:
        self._input(Verb.VM_GONE, now_ns, why)

    def owns(self, op: int) -> bool:
        return op == self._op

    def done(self, state: t.State | None, now_ns: int) -> None:
        if self.state in (P.SAVE, P.COPY):
            if state is None:
                raise t.ProtocolError(f"Done without a state in step {self.state}")
            self._in_hand = state
        self._input(Verb.DONE, now_ns)

    def precopied(self, sent_bytes: int, left_bytes: int, now_ns: int) -> None:
        if self.state is not P.PRECOPY:
            raise t.ProtocolError(f"Precopied in step {self.state}")
        self._sent_bytes += sent_bytes
        enough = left_bytes <= self._rounds.threshold_bytes or self._round >= self._rounds.most
        self._input(Verb.DONE if enough else Verb.ROUND, now_ns)

    def failed(self, why: str, now_ns: int) -> None:
        self._input(Verb.FAILED, now_ns, why)

    def deadline_ns(self) -> int | None:
        return self._deadline_ns

    def tick(self, now_ns: int) -> None:
        self._input(Verb.TIMEOUT, now_ns, f"time limit of step {self.state}")

    def _on_checkpoint_now(self, signal: t.CheckpointNow, now_ns: int) -> None:
        self._input(Verb.TRIGGER, now_ns, signal.reason)

    def _on_promoted(self, signal: t.Promoted, now_ns: int) -> None:
        self._input(Verb.PROMOTE, now_ns, "promoted")

    def _on_stepped_down(self, signal: t.SteppedDown, now_ns: int) -> None:
        self._input(Verb.STEP_DOWN, now_ns, "planned switchover")

    # -- the engine ------------------------------------------------------------------------

    def _input(self, verb: Verb, now_ns: int, why: str = "") -> None:
        self._step(verb, now_ns, why)
        self._settle(now_ns)

    def _step(self, verb: Verb, now_ns: int, why: str) -> None:
        rows, before = self._machine.rows, self.state
        row = rows.get((before, verb))
        if row is None and verb in _FROM_PEER:
            why = f"unexpected {why or verb} in step {before}"
            row = rows.get((before, Verb.PEER_FAULT))
        if row is None:
            raise t.ProtocolError(f"{verb} must not happen in step {before}")
        effects, after = row
        self._why = why or self._why  # an operation that is done changes no reason
        if after is not before:
            self.enter(after, now_ns)
        for effect in effects:
            self._do[effect]()
        self.say_survival()

    def enter(self, state: State, now_ns: int) -> None:
        """Wait there, as long as its limit allows."""
        self.state = state
        self.entered.append(state)
        limit = self._limits.get(state)
        self._deadline_ns = None if limit is None else now_ns + limit
        if state is not S.RELAUNCH:  # which waits for the load that is under way
            self._op = None

    def say_survival(self) -> None:
        self.says(self._machine.survival_in(self.state))

    def says(self, survival: t.Survival) -> None:
        """What its state says about its guest, if that or the last safe checkpoint is new."""
        if self._vm_gone:
            survival = t.Survival.BROKEN
        said = self._said
        if survival is not said.survival or self._safe != said.checkpoint:
            self._said = said = t.Takeover(survival, self._safe)
            self._out.signal(said)

    def _settle(self, now_ns: int) -> None:
        """Read what can be read; then start a remembered checkpoint if nothing else is on."""
        machine = self._machine
        while True:
            if self.state in machine.ended:
                self._inbox.clear()
            if self._inbox and self.state in machine.reads:
                verb, state, why = self._inbox.popleft()
                if state is not None:
                    self._in_hand = state
                self._step(verb, now_ns, why)
            elif self._wish is not None and self.state in machine.between:
                wish, self._wish = self._wish, None
                self._step(Verb.TRIGGER, now_ns, wish)
            else:
                return

    # -- a checkpoint in one go (`colosim.protocol.straight`) --------------------------------

    @property
    def checkpoint(self) -> int:
        """The one under way or, between two, the last."""
        return self._checkpoint

    @property
    def least_limit_ns(self) -> int:
        """No wait may be longer than its own limit, and none of those is shorter."""
        return min(self._limits.values())

    def effect(self, do: Do) -> Callable[[], None]:
        """What an effect of a row does here."""
        return self._do[do]

    def begin(self, why: str) -> None:
        """The effect of that name, with its reason."""
        self._why = why
        self._begin()

    def holds(self, state: t.State) -> None:
        """What was saved, to be sent."""
        self._in_hand = state

    def sends(self) -> None:
        """What it holds goes out."""
        assert self._in_hand is not None
        self._sent_bytes += self._in_hand.ram.size + self._in_hand.device.size

    def awaits(self, state: State) -> int:
        """The number of a new operation that ends the wait in that state, if this is one."""
        return self._new_op() if self.state is state else self._out.new_op()

    def rest(self, now_ns: int) -> None:
        """Between two checkpoints: start the one that was remembered."""
        self._settle(now_ns)

    # -- effects: actions ------------------------------------------------------------------

    def _new_op(self) -> int:
        self._op = self._out.new_op()
        return self._op

    def _precopy(self) -> None:
        self._round += 1
        self._out.act(t.Precopy(self._new_op(), self._checkpoint, self._round))

    def _quiesce(self) -> None:
        self._out.act(t.Quiesce(self._new_op()))

    def _stop_vm(self) -> None:
        self._out.act(t.StopVm(self._new_op()))

    def _drain(self) -> None:
        self._out.act(t.Drain(self._new_op()))

    def _save(self) -> None:
        self._out.act(t.Save(self._new_op(), self._checkpoint))

    def _copy(self) -> None:
        self._out.act(t.Copy(self._new_op(), self._checkpoint))

    def _send_state(self) -> None:
        self.sends()
        assert self._in_hand is not None
        chunks = encode_state(self._dialect, self._in_hand)
        self._out.act(t.SendState(self._new_op(), chunks))

    def _load(self) -> None:
        assert self._in_hand is not None
        self._out.act(t.Load(self._new_op(), self._in_hand, self._checkpoint))

    def _start_vm(self) -> None:
        self._out.act(t.StartVm(self._new_op()))

    def _send(self, message: Message) -> None:
        self._out.act(t.SendMessage(encode(self._dialect, message)))

    def _send_ready(self) -> None:
        self._send(Message.READY)

    def _send_request(self) -> None:
        self._send(Message.REQUEST)

    def _send_reply(self) -> None:
        self._send(Message.REPLY)

    def _send_received(self) -> None:
        self._send(Message.RECEIVED)

    def _send_loaded(self) -> None:
        self._send(Message.LOADED)

    def _close_link(self) -> None:
        self._out.act(t.CloseLink())

    # -- effects: signals ------------------------------------------------------------------

    def _protected(self) -> None:
        self._out.signal(t.Protected())

    def _begin(self) -> None:
        self._checkpoint += 1
        self._round = self._sent_bytes = 0
        self._out.signal(t.CheckpointStarted(self._checkpoint, self._why))

    def _cut(self) -> None:
        self._out.signal(t.Cut(self._checkpoint))

    def _commit(self) -> None:
        self._safe = self._checkpoint
        self._out.signal(t.Committed(self._checkpoint, self._sent_bytes))

    def _loaded(self) -> None:
        self._safe = self._checkpoint
        self._out.signal(t.Loaded(self._checkpoint))

    def _resumed(self) -> None:
        self._out.signal(t.Resumed(self._checkpoint))

    def _complete(self) -> None:
        self._in_hand = None
        self._out.signal(t.Completed(self._checkpoint))

    def _abort(self) -> None:
        self._out.signal(t.Aborted(self._checkpoint))

    def _exit(self) -> None:
        self.say_survival()  # first: at Exit the manager asks for the vote, or must not
        self._out.signal(t.Exit(self._why))

    def _alone(self) -> None:
        self._out.signal(t.Alone())

    def _gone(self) -> None:
        self._vm_gone = True

    def _remember(self) -> None:
        self._wish = self._wish or self._why
