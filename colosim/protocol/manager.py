"""Failure detection, arbitration, fencing and promotion: one manager per node.

The order is always the same: suspect the peer, ask the own checkpointer whether its guest can
take over, get the right to go on alone from the arbiter, fence the other side, promote.  A guest
that is beyond use never asks.  Fencing that fails means no takeover, and is reported.

A planned switchover is a takeover that the primary asks for: it makes a checkpoint (one under way
will do: what its guest does after the cut has not left), stops talking once the other side has
loaded it, and comes back only if nobody takes over.  A guest that switches itself
off is no failure of its host, but the other side would take it for one and go on from before; so
its end, like any output, becomes final only when the other side can do nothing any more.

Who has the right to go on is said by an arbiter (`colosim.protocol.arbiters`).  One that grants a
lease grants the primary the right to speak for a term at a time, too: the primary is silent from
the moment when, by its own clock, its term is over, counted from when it *asked* for it (Gray and
Cheriton, SOSP 1989).  So the other side may go on unfenced once the term and a bound on how much
clocks differ have passed.  Without an arbiter each side grants itself the right, and a design that
does not fence takes the other side for fenced: the rows are the same.

Silence alone may be a short blip: for ``heartbeat_grace_ns`` more the peer is only doubted.  A
fence that fails is tried again, if the design says so, after a time that doubles with each try.

QEMU has none of this ("whoever gets x-colo-lost-heartbeat takes over", `qemu-colo.md` 2.10e);
the order is that of `qemu-colo.md` 4.7 and 7.2, and so is arbitration by the first claim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum

from colosim.protocol import types as t
from colosim.protocol.outbox import Outbox


class M(StrEnum):
    """States of a manager."""

    IDLE = "idle"
    WATCH = "watch"
    DOUBT = "doubt"  # silent, but that may be a blip
    SWITCHING = "switching"  # a planned switchover waits for a checkpoint to be complete
    SWITCHED = "switched"  # the other side's turn
    VOTING = "voting"
    FENCING = "fencing"
    BACKING_OFF = "backing-off"  # until the fence that failed is tried again
    PROMOTING = "promoting"
    ACTIVE = "active"
    YIELDED = "yielded"
    STRANDED = "stranded"


class MVerb(StrEnum):
    """Inputs of a manager."""

    PROTECTED = "protected"
    SILENT = "silent"
    HEARD = "heard"
    SUSPECT = "suspect"
    UNFIT = "unfit"  # the own guest is beyond use
    OFF = "off"  # the own guest has switched itself off
    HAND_OVER = "hand-over"
    COMPLETED = "completed"
    GRANTED = "granted"
    DENIED = "denied"
    TIMEOUT = "timeout"
    FENCED = "fenced"
    NOT_FENCED = "not-fenced"
    NOT_FENCED_YET = "not-fenced-yet"  # and there are tries left
    ALONE = "alone"


class MDo(Enum):
    """Effects of a manager's rows."""

    WATCH = "watch"
    DOUBT = "doubt"
    LISTEN = "listen"
    ASK_VOTE = "ask_vote"
    FENCE = "fence"
    BACK_OFF = "back_off"
    SILENCE = "silence"
    PROMOTE = "promote"
    CHECKPOINT = "checkpoint"
    STEP_DOWN = "step_down"
    SAY_SILENT = "say_silent"
    SAY_HEARD = "say_heard"
    SAY_NOT_NOW = "say_not_now"
    SAY_OFF = "say_off"
    SAY_NOT_TAKEN = "say_not_taken"
    SAY_UNFIT = "say_unfit"
    SAY_DENIED = "say_denied"
    SAY_NO_ARBITER = "say_no_arbiter"
    SAY_NOT_FENCED = "say_not_fenced"
    SAY_FENCE_AGAIN = "say_fence_again"
    SAY_LOST = "say_lost"


MRows = dict[tuple[M, MVerb], tuple[tuple[MDo, ...], M]]

_PAIRED = (M.IDLE, M.WATCH, M.DOUBT, M.SWITCHING)

MANAGER_ROWS: MRows = {
    (M.IDLE, MVerb.PROTECTED): ((MDo.WATCH,), M.WATCH),
    **{(state, MVerb.SUSPECT): ((MDo.ASK_VOTE,), M.VOTING) for state in _PAIRED},
    **{(state, MVerb.UNFIT): ((MDo.SAY_UNFIT,), M.YIELDED) for state in _PAIRED},
    **{(state, MVerb.OFF): ((MDo.SAY_OFF, MDo.ASK_VOTE), M.VOTING) for state in _PAIRED},
    (M.WATCH, MVerb.SILENT): ((MDo.SAY_SILENT, MDo.DOUBT), M.DOUBT),
    (M.DOUBT, MVerb.HEARD): ((MDo.SAY_HEARD, MDo.LISTEN), M.WATCH),
    (M.DOUBT, MVerb.TIMEOUT): ((MDo.ASK_VOTE,), M.VOTING),
    (M.DOUBT, MVerb.HAND_OVER): ((MDo.SAY_NOT_NOW,), M.DOUBT),
    **{
        (state, MVerb.DENIED): ((MDo.SAY_DENIED, MDo.SILENCE), M.YIELDED)
        for state in (*_PAIRED, M.SWITCHED, M.VOTING)
    },
    (M.WATCH, MVerb.HAND_OVER): ((MDo.CHECKPOINT,), M.SWITCHING),
    (M.SWITCHING, MVerb.COMPLETED): ((MDo.STEP_DOWN,), M.SWITCHED),
    (M.SWITCHED, MVerb.TIMEOUT): ((MDo.SAY_NOT_TAKEN, MDo.ASK_VOTE), M.VOTING),
    (M.SWITCHED, MVerb.UNFIT): ((MDo.SAY_UNFIT,), M.YIELDED),
    (M.VOTING, MVerb.GRANTED): ((MDo.FENCE,), M.FENCING),
    (M.VOTING, MVerb.TIMEOUT): ((MDo.SAY_NO_ARBITER, MDo.ASK_VOTE), M.VOTING),
    (M.VOTING, MVerb.UNFIT): ((MDo.SAY_UNFIT,), M.YIELDED),
    (M.FENCING, MVerb.FENCED): ((MDo.PROMOTE,), M.PROMOTING),
    (M.FENCING, MVerb.NOT_FENCED): ((MDo.SAY_NOT_FENCED,), M.STRANDED),
    (M.FENCING, MVerb.NOT_FENCED_YET): ((MDo.SAY_FENCE_AGAIN, MDo.BACK_OFF), M.BACKING_OFF),
    (M.BACKING_OFF, MVerb.TIMEOUT): ((MDo.FENCE,), M.FENCING),
    (M.BACKING_OFF, MVerb.FENCED): ((MDo.PROMOTE,), M.PROMOTING),  # later than it was waited for
    **{
        (state, MVerb.UNFIT): ((MDo.SAY_LOST,), M.STRANDED)
        for state in (M.FENCING, M.BACKING_OFF, M.PROMOTING, M.ACTIVE)
    },
    (M.PROMOTING, MVerb.ALONE): ((), M.ACTIVE),
    (M.ACTIVE, MVerb.OFF): ((MDo.SAY_OFF,), M.ACTIVE),
}
#: verbs without a row mean nothing in that state and change nothing

WATCHING = frozenset(_PAIRED)
BEATING = frozenset((*_PAIRED, M.VOTING, M.FENCING, M.BACKING_OFF, M.PROMOTING))
#: where a lease is of use: before there is the right to go on for good, or none to go on
LEASED = frozenset((M.WATCH, M.DOUBT, M.SWITCHING, M.VOTING, M.FENCING, M.BACKING_OFF))
#: back-offs double up to so many times the first
LONGEST_BACK_OFF = 64


@dataclass(frozen=True, slots=True)
class ManagerConfig:
    """Times of detection and arbitration, ns, and how a side comes by the right to go on.

    heartbeat_grace_ns: how long a silent peer is only doubted.  fencing: the other side is fenced
    before this one goes on.  fence_retries: how often a fence that fails is tried again, first
    after fence_backoff_ns.  lease_term_ns, lease_renewal_ns: with arbiter lease, how long one
    lasts, and how often it is renewed.
    """

    heartbeat_interval_ns: int
    heartbeat_timeout_ns: int
    vote_timeout_ns: int
    fence_timeout_ns: int
    heartbeat_grace_ns: int = 0
    arbiter: t.Arbiter = t.Arbiter.WITNESS
    fencing: bool = True
    fence_retries: int = 0
    fence_backoff_ns: int = 0
    lease_term_ns: int = 0
    lease_renewal_ns: int = 0


class Manager:
    """Runs `MANAGER_ROWS`; the only part that emits Heartbeat, AskVote, Fence and Promote.

    grace_ns: how much later than a time-out the peer's first heartbeat may come: a secondary is
    protected before its primary's guest, and so its manager, has started.  A busy machine takes
    long for that, and a primary that is only slow must not be fenced.
    serves: clients talk to this side's guest; a lease is needed for that, from the beginning.
    """

    def __init__(
        self,
        config: ManagerConfig,
        out: Outbox,
        survival: t.Survival = t.Survival.CLEAN,
        grace_ns: int = 0,
        serves: bool = False,
    ) -> None:
        self.state = M.IDLE
        self._grace_ns = grace_ns
        self._config = config
        self._out = out
        self._survival = survival  # until the first Takeover says another
        self._op: int | None = None
        self._ops: set[int] = set()  # votes asked for; a late answer to any of them counts
        self._limit_ns: int | None = None  # of voting or fencing
        self._silence_ns: int | None = None  # when the peer counts as silent
        self._beat_ns: int | None = None  # when to beat next
        self._fences = 0  # tried
        self._leases = serves and config.arbiter is t.Arbiter.LEASE
        self._renewals: dict[int, int] = {}  # operation -> when it was asked for
        self._renew_ns: int | None = None  # when to ask next
        self._lease_ns: int | None = None  # when the lease is over
        self._is_silent = self._leases  # until the first lease is granted
        self._next: MVerb | None = None  # what a row has brought about by itself
        self._do: dict[MDo, Callable[[int], None]] = {
            do: getattr(self, f"_{do.value}") for do in MDo
        }

    def hears(self) -> dict[type, Callable[..., None]]:
        return {
            t.Protected: self._on_protected,
            t.Exit: self._on_exit,
            t.Takeover: self._on_takeover,
            t.Alone: self._on_alone,
            t.Completed: self._on_completed,
        }

    # -- inputs ----------------------------------------------------------------------------

    def heartbeat_seen(self, now_ns: int) -> None:
        if self._silence_ns is not None:
            self._silence_ns = now_ns + self._config.heartbeat_timeout_ns
        self._input(MVerb.HEARD, now_ns)

    def peer_gone(self, now_ns: int) -> None:
        self._suspect(now_ns)

    def guest_off(self, now_ns: int) -> None:
        if self._survival is not t.Survival.BROKEN:
            self._input(MVerb.OFF, now_ns)

    def hand_over(self, now_ns: int) -> None:
        self._input(MVerb.HAND_OVER, now_ns)

    def vote(self, op: int, granted: bool, now_ns: int) -> None:
        if op in self._ops:
            self._input(MVerb.GRANTED if granted else MVerb.DENIED, now_ns)

    def peer_claimed(self, now_ns: int) -> None:
        self._input(MVerb.DENIED, now_ns)

    def lease_seen(self, op: int, held: bool, now_ns: int) -> None:
        asked_ns = self._renewals.pop(op, None)
        if asked_ns is None or not self._leases:
            return
        if not held:
            self._input(MVerb.DENIED, now_ns)
        elif (over_ns := asked_ns + self._config.lease_term_ns) > now_ns:
            self._lease_ns = max(over_ns, self._lease_ns or 0)
            self._mute(False)

    def owns(self, op: int) -> bool:
        return op == self._op

    def done(self, now_ns: int) -> None:
        self._input(MVerb.FENCED, now_ns)

    def failed(self, now_ns: int) -> None:
        self._input(self._not_fenced(), now_ns)

    def deadline_ns(self) -> int | None:
        nearest_ns = None  # asked after every event, so plainly
        for due_ns in (
            self._limit_ns,
            self._silence_ns,
            self._beat_ns,
            self._renew_ns,
            self._lease_ns,
        ):
            if due_ns is not None and (nearest_ns is None or due_ns < nearest_ns):
                nearest_ns = due_ns
        return nearest_ns

    def tick(self, now_ns: int) -> None:
        if self._lease_ns is not None and now_ns >= self._lease_ns:
            self._lease_ns = None
            self._out.act(t.Report("the lease has run out: output is held"))
            self._mute(True)
        if self._renew_ns is not None and now_ns >= self._renew_ns:
            self._renew(now_ns)
        if self._beat_ns is not None and now_ns >= self._beat_ns:
            self._out.act(t.Heartbeat())
            self._beat_ns = now_ns + self._config.heartbeat_interval_ns
        if self._silence_ns is not None and now_ns >= self._silence_ns:
            self._silence_ns = None
            if self.state is M.WATCH and self._config.heartbeat_grace_ns:
                self._input(MVerb.SILENT, now_ns)
            else:
                self._suspect(now_ns)
        if self._limit_ns is not None and now_ns >= self._limit_ns:
            self._input(
                self._not_fenced() if self.state is M.FENCING else MVerb.TIMEOUT,
                now_ns,
            )

    # -- heartbeats in one go (`backends.sim.beats`) -----------------------------------------

    @property
    def only_beats(self) -> bool:
        """Nothing is due but heartbeats, its own and the peer's."""
        is_regular = self.state is M.WATCH and self._limit_ns is None and not self._leases
        return is_regular and self._beat_ns is not None and self._silence_ns is not None

    def lend_beats(self) -> tuple[int, int]:
        """When it beats next, and when the peer counts as silent: the world sees to both."""
        assert self._beat_ns is not None
        assert self._silence_ns is not None
        lent, self._beat_ns, self._silence_ns = (self._beat_ns, self._silence_ns), None, None
        return lent

    def take_beats(self, beat_ns: int, silence_ns: int) -> None:
        """As they are by now; what is over in its state stays over."""
        self._beat_ns = beat_ns if self.state in BEATING else None
        self._silence_ns = silence_ns if self.state in WATCHING else None

    # -- signals ---------------------------------------------------------------------------

    def _on_protected(self, signal: t.Protected, now_ns: int) -> None:
        self._input(MVerb.PROTECTED, now_ns)

    def _on_exit(self, signal: t.Exit, now_ns: int) -> None:
        self._suspect(now_ns)

    def _on_takeover(self, signal: t.Takeover, now_ns: int) -> None:
        self._survival = signal.survival
        if signal.survival is t.Survival.BROKEN:
            self._input(MVerb.UNFIT, now_ns)

    def _on_alone(self, signal: t.Alone, now_ns: int) -> None:
        self._input(MVerb.ALONE, now_ns)

    def _on_completed(self, signal: t.Completed, now_ns: int) -> None:
        self._input(MVerb.COMPLETED, now_ns)

    def _suspect(self, now_ns: int) -> None:
        unfit = self._survival is t.Survival.BROKEN
        self._input(MVerb.UNFIT if unfit else MVerb.SUSPECT, now_ns)

    # -- the engine and its effects --------------------------------------------------------

    def _input(self, verb: MVerb, now_ns: int) -> None:
        row = MANAGER_ROWS.get((self.state, verb))
        if row is None:
            return
        effects, target = row
        if target is not self.state:
            self.state, self._limit_ns = target, None
        for effect in effects:
            self._do[effect](now_ns)
        if self.state not in WATCHING:
            self._silence_ns = None
        if self.state not in BEATING:
            self._beat_ns = None
        if self._renew_ns is not None and self.state not in LEASED:
            self._end_lease(now_ns)
        if self._next is not None:
            verb, self._next = self._next, None
            self._input(verb, now_ns)

    def _watch(self, now_ns: int) -> None:
        self._silence_ns = now_ns + self._config.heartbeat_timeout_ns + self._grace_ns
        self._beat_ns = now_ns
        if self._leases:
            self._renew_ns = now_ns

    def _doubt(self, now_ns: int) -> None:
        self._limit_ns = now_ns + self._config.heartbeat_grace_ns

    def _listen(self, now_ns: int) -> None:
        self._silence_ns = now_ns + self._config.heartbeat_timeout_ns

    def _renew(self, now_ns: int) -> None:
        op = self._out.new_op()
        oldest_ns = now_ns - self._config.lease_term_ns
        self._renewals = {o: asked for o, asked in self._renewals.items() if asked > oldest_ns}
        self._renewals[op] = now_ns
        self._renew_ns = now_ns + self._config.lease_renewal_ns
        self._out.act(t.RenewLease(op))

    def _end_lease(self, now_ns: int) -> None:
        """The right to go on is for good, or this side will not: the other need not wait."""
        self._renew_ns = self._lease_ns = None
        self._renewals.clear()
        if self.state is not M.PROMOTING:
            self._mute(True)
            self._out.act(t.GiveUpLease())

    def _silence(self, now_ns: int) -> None:
        """A side that was denied: the other will fence it, or else it must see to that itself."""
        if not self._config.fencing:
            self._mute(True)

    def _mute(self, is_silent: bool) -> None:
        if is_silent is not self._is_silent:
            self._is_silent = is_silent
            self._out.signal(t.Silenced(is_silent))

    def _ask_vote(self, now_ns: int) -> None:
        if self._config.arbiter is t.Arbiter.NONE:
            self._next = MVerb.GRANTED
            return
        op = self._out.new_op()
        self._ops.add(op)
        self._limit_ns = now_ns + self._config.vote_timeout_ns
        self._out.act(t.AskVote(op))

    def _not_fenced(self) -> MVerb:
        is_last = self._fences > self._config.fence_retries
        return MVerb.NOT_FENCED if is_last else MVerb.NOT_FENCED_YET

    def _back_off(self, now_ns: int) -> None:
        longer = min(2 ** (self._fences - 1), LONGEST_BACK_OFF)
        self._limit_ns = now_ns + self._config.fence_backoff_ns * longer

    def _fence(self, now_ns: int) -> None:
        if not self._config.fencing:
            self._next = MVerb.FENCED
            return
        self._fences += 1
        self._op = self._out.new_op()
        self._limit_ns = now_ns + self._config.fence_timeout_ns
        self._out.act(t.Fence(self._op))

    def _promote(self, now_ns: int) -> None:
        self._out.act(t.Promote())
        self._out.signal(t.Promoted())
        self._mute(False)

    def _checkpoint(self, now_ns: int) -> None:
        self._out.signal(t.CheckpointNow("switchover"))

    def _step_down(self, now_ns: int) -> None:
        # longer than it takes the other side to miss the heartbeats and to be granted the vote
        config = self._config
        self._limit_ns = now_ns + config.heartbeat_timeout_ns + config.vote_timeout_ns
        self._out.signal(t.SteppedDown())

    def _say_silent(self, now_ns: int) -> None:
        self._out.act(t.Report("the other side is silent: waiting a little longer"))

    def _say_heard(self, now_ns: int) -> None:
        self._out.act(t.Report("the other side is heard again"))

    def _say_not_now(self, now_ns: int) -> None:
        self._out.act(t.Report("no switchover now: the other side is silent"))

    def _say_off(self, now_ns: int) -> None:
        self._out.act(t.Report("the guest has switched itself off"))

    def _say_not_taken(self, now_ns: int) -> None:
        self._out.act(t.Report("nobody took over: this side wants the service back"))

    def _say_unfit(self, now_ns: int) -> None:
        self._out.act(t.Report("no takeover here: this guest is beyond use"))

    def _say_denied(self, now_ns: int) -> None:
        self._out.act(t.Report("no takeover here: the arbiter chose the other side"))

    def _say_no_arbiter(self, now_ns: int) -> None:
        self._out.act(t.Report("no takeover yet: the arbiter does not answer; asking again"))

    def _say_not_fenced(self, now_ns: int) -> None:
        self._out.act(t.Report("no takeover: the other side could not be fenced"))

    def _say_fence_again(self, now_ns: int) -> None:
        self._out.act(t.Report("no takeover yet: the other side is not fenced; trying again"))

    def _say_lost(self, now_ns: int) -> None:
        self._out.act(t.Report("service lost: the guest that was to go on is beyond use"))


class Witness:
    """The simple arbiter: a third party that grants one side, once, and remembers."""

    def __init__(self) -> None:
        self._winner: str | None = None

    def ask(self, node: str) -> bool:
        """True for the first side that asks, and for that side again."""
        if self._winner is None:
            self._winner = node
        return self._winner == node
