"""Failure detection, arbitration, fencing and promotion: one manager per node.

The order is always the same: suspect the peer, ask the own checkpointer whether its guest can
take over, get the right to go on alone from the arbiter, fence the other side, promote.  A guest
that is beyond use never asks.  Fencing that fails means no takeover, and is reported.

A planned switchover is a takeover that the primary asks for: it makes a checkpoint (one under way
will do: what its guest does after the cut has not left), stops talking once the other side has
loaded it, and comes back only if nobody takes over.  A guest that switches itself
off is no failure of its host, but the other side would take it for one and go on from before; so
its end, like any output, becomes final only when the other side can do nothing any more.

QEMU has none of this ("whoever gets x-colo-lost-heartbeat takes over", `qemu-colo.md` 2.10e);
the order is that of `qemu-colo.md` 4.7 and 7.2.
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
    SWITCHING = "switching"  # a planned switchover waits for a checkpoint to be complete
    SWITCHED = "switched"  # the other side's turn
    VOTING = "voting"
    FENCING = "fencing"
    PROMOTING = "promoting"
    ACTIVE = "active"
    YIELDED = "yielded"
    STRANDED = "stranded"


class MVerb(StrEnum):
    """Inputs of a manager."""

    PROTECTED = "protected"
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
    ALONE = "alone"


class MDo(Enum):
    """Effects of a manager's rows."""

    WATCH = "watch"
    ASK_VOTE = "ask_vote"
    FENCE = "fence"
    PROMOTE = "promote"
    CHECKPOINT = "checkpoint"
    STEP_DOWN = "step_down"
    SAY_OFF = "say_off"
    SAY_NOT_TAKEN = "say_not_taken"
    SAY_UNFIT = "say_unfit"
    SAY_DENIED = "say_denied"
    SAY_NO_ARBITER = "say_no_arbiter"
    SAY_NOT_FENCED = "say_not_fenced"
    SAY_LOST = "say_lost"


MRows = dict[tuple[M, MVerb], tuple[tuple[MDo, ...], M]]

_PAIRED = (M.IDLE, M.WATCH, M.SWITCHING)

MANAGER_ROWS: MRows = {
    (M.IDLE, MVerb.PROTECTED): ((MDo.WATCH,), M.WATCH),
    **{(state, MVerb.SUSPECT): ((MDo.ASK_VOTE,), M.VOTING) for state in _PAIRED},
    **{(state, MVerb.UNFIT): ((MDo.SAY_UNFIT,), M.YIELDED) for state in _PAIRED},
    **{(state, MVerb.OFF): ((MDo.SAY_OFF, MDo.ASK_VOTE), M.VOTING) for state in _PAIRED},
    (M.WATCH, MVerb.HAND_OVER): ((MDo.CHECKPOINT,), M.SWITCHING),
    (M.SWITCHING, MVerb.COMPLETED): ((MDo.STEP_DOWN,), M.SWITCHED),
    (M.SWITCHED, MVerb.TIMEOUT): ((MDo.SAY_NOT_TAKEN, MDo.ASK_VOTE), M.VOTING),
    (M.SWITCHED, MVerb.UNFIT): ((MDo.SAY_UNFIT,), M.YIELDED),
    (M.VOTING, MVerb.GRANTED): ((MDo.FENCE,), M.FENCING),
    (M.VOTING, MVerb.DENIED): ((MDo.SAY_DENIED,), M.YIELDED),
    (M.VOTING, MVerb.TIMEOUT): ((MDo.SAY_NO_ARBITER, MDo.ASK_VOTE), M.VOTING),
    (M.VOTING, MVerb.UNFIT): ((MDo.SAY_UNFIT,), M.YIELDED),
    (M.FENCING, MVerb.FENCED): ((MDo.PROMOTE,), M.PROMOTING),
    (M.FENCING, MVerb.NOT_FENCED): ((MDo.SAY_NOT_FENCED,), M.STRANDED),
    (M.FENCING, MVerb.TIMEOUT): ((MDo.SAY_NOT_FENCED,), M.STRANDED),
    (M.FENCING, MVerb.UNFIT): ((MDo.SAY_LOST,), M.STRANDED),
    (M.PROMOTING, MVerb.ALONE): ((), M.ACTIVE),
    (M.PROMOTING, MVerb.UNFIT): ((MDo.SAY_LOST,), M.STRANDED),
    (M.ACTIVE, MVerb.UNFIT): ((MDo.SAY_LOST,), M.STRANDED),
    (M.ACTIVE, MVerb.OFF): ((MDo.SAY_OFF,), M.ACTIVE),
}
#: verbs without a row mean nothing in that state and change nothing

WATCHING = frozenset(_PAIRED)
BEATING = frozenset((*_PAIRED, M.VOTING, M.FENCING, M.PROMOTING))


@dataclass(frozen=True, slots=True)
class ManagerConfig:
    """Times of detection and arbitration, ns."""

    heartbeat_interval_ns: int
    heartbeat_timeout_ns: int
    vote_timeout_ns: int
    fence_timeout_ns: int


class Manager:
    """Runs `MANAGER_ROWS`; the only part that emits Heartbeat, AskVote, Fence and Promote.

    grace_ns: how much later than a time-out the peer's first heartbeat may come: a secondary is
    protected before its primary's guest, and so its manager, has started.  A busy machine takes
    long for that, and a primary that is only slow must not be fenced.
    """

    def __init__(
        self,
        config: ManagerConfig,
        out: Outbox,
        survival: t.Survival = t.Survival.CLEAN,
        grace_ns: int = 0,
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

    def owns(self, op: int) -> bool:
        return op == self._op

    def done(self, now_ns: int) -> None:
        self._input(MVerb.FENCED, now_ns)

    def failed(self, now_ns: int) -> None:
        self._input(MVerb.NOT_FENCED, now_ns)

    def deadline_ns(self) -> int | None:
        return min(
            (d for d in (self._limit_ns, self._silence_ns, self._beat_ns) if d is not None),
            default=None,
        )

    def tick(self, now_ns: int) -> None:
        if self._beat_ns is not None and now_ns >= self._beat_ns:
            self._out.act(t.Heartbeat())
            self._beat_ns = now_ns + self._config.heartbeat_interval_ns
        if self._silence_ns is not None and now_ns >= self._silence_ns:
            self._silence_ns = None
            self._suspect(now_ns)
        if self._limit_ns is not None and now_ns >= self._limit_ns:
            self._input(MVerb.TIMEOUT, now_ns)

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
        effects, self.state = row
        self._limit_ns = None
        for effect in effects:
            self._do[effect](now_ns)
        if self.state not in WATCHING:
            self._silence_ns = None
        if self.state not in BEATING:
            self._beat_ns = None

    def _watch(self, now_ns: int) -> None:
        self._silence_ns = now_ns + self._config.heartbeat_timeout_ns + self._grace_ns
        self._beat_ns = now_ns

    def _ask_vote(self, now_ns: int) -> None:
        op = self._out.new_op()
        self._ops.add(op)
        self._limit_ns = now_ns + self._config.vote_timeout_ns
        self._out.act(t.AskVote(op))

    def _fence(self, now_ns: int) -> None:
        self._op = self._out.new_op()
        self._limit_ns = now_ns + self._config.fence_timeout_ns
        self._out.act(t.Fence(self._op))

    def _promote(self, now_ns: int) -> None:
        self._out.act(t.Promote())
        self._out.signal(t.Promoted())

    def _checkpoint(self, now_ns: int) -> None:
        self._out.signal(t.CheckpointNow("switchover"))

    def _step_down(self, now_ns: int) -> None:
        # longer than it takes the other side to miss the heartbeats and to be granted the vote
        config = self._config
        self._limit_ns = now_ns + config.heartbeat_timeout_ns + config.vote_timeout_ns
        self._out.signal(t.SteppedDown())

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
