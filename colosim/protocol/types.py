"""Events, actions, signals and roles: the whole vocabulary of the protocol core.

* An **event** is something the world tells a node (``Node.feed``).
* An **action** is something a node asks the world to do (``Node.actions``).
* A **signal** is something one part of a node tells the others; it is written to the trace as a
  derived line and never fed on replay.

All are values with slots (`colosim.protocol.values`), so that a trace line is exactly one of them.
Times are integer nanoseconds and always arguments, never fields: the core has no clock.
"""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum

from colosim.protocol.values import value

# --------------------------------------------------------------------------------------------
# Values


class ProtocolError(Exception):
    """The *world* broke the contract (fed what it must never feed).

    Never raised for anything a peer sends: a faulty peer is an event with rows in the tables.
    """


class Role(StrEnum):
    """Which side of the pair a node is."""

    PRIMARY = "primary"
    SECONDARY = "secondary"


class Output(StrEnum):
    """What a policy lets output wait for."""

    NONE = "none"
    COMMIT = "commit"
    WITNESS = "witness"


class Transfer(StrEnum):
    """How a checkpoint's state gets across."""

    STOP_AND_SEND = "stop-and-send"
    COPY_THEN_SEND = "copy-then-send"
    PRECOPY = "precopy"


class Arbiter(StrEnum):
    """Who says which side may go on alone (`colosim.protocol.manager`)."""

    WITNESS = "witness"
    LEASE = "lease"
    MESSAGES = "messages"
    NONE = "none"


class Survival(StrEnum):
    """What a checkpointer answers to "can your guest take over?" (architecture, manager)."""

    CLEAN = "clean"
    LOADING = "loading"
    BROKEN = "broken"


@value(frozen=True, slots=True)
class Blob:
    """Bulk data by name: the bytes themselves never enter the core."""

    id: str
    size: int
    digest: str


@value(frozen=True, slots=True)
class State:
    """One checkpoint's state in hand: RAM pages and device state, each a blob."""

    ram: Blob
    device: Blob


@value(frozen=True, slots=True)
class Range:
    """Output [first, end) of one stream: bytes of a TCP stream, or indices of responses."""

    stream: str
    first: int
    end: int


# --------------------------------------------------------------------------------------------
# Events (external; the only thing a replay feeds)


@value(frozen=True, slots=True)
class Start:
    """The first synchronisation is complete on this side (checkpoint 0 exists)."""


@value(frozen=True, slots=True)
class PeerBytes:
    """Bytes of the checkpoint stream, in any chunking."""

    data: bytes


@value(frozen=True, slots=True)
class PeerBlob:
    """Bulk part of the checkpoint stream, already digested by the world."""

    blob: Blob


@value(frozen=True, slots=True)
class GuestOutput:
    """This node's guest produced output; ``digest`` stands for its bytes.

    frames: the bytes themselves, where they are compared.  They are no part of a trace.
    """

    range: Range
    digest: str
    frames: tuple[bytes, ...] = field(default=(), compare=False, repr=False)


@value(frozen=True, slots=True)
class PeerOutput:
    """The secondary guest's output, offered as witness; ``epoch`` is its last loaded checkpoint."""

    range: Range
    digest: str
    epoch: int
    frames: tuple[bytes, ...] = field(default=(), compare=False, repr=False)


@value(frozen=True, slots=True)
class Compared:
    """Somebody else than this node compares, and found this."""

    found: tuple[Match | Mismatch | Stale, ...]


@value(frozen=True, slots=True)
class Done:
    """Operation ``op`` completed; ``state`` for Save and Copy."""

    op: int
    state: State | None = None


@value(frozen=True, slots=True)
class Precopied:
    """The round of operation ``op`` is over.

    sent_bytes: what it put on the link.  left_bytes: what the guest, which goes on, has made of
    new state meanwhile; so much the next round or the stopped guest's state has at the least.
    """

    op: int
    sent_bytes: int
    left_bytes: int


@value(frozen=True, slots=True)
class Failed:
    """Operation ``op`` failed."""

    op: int
    why: str


@value(frozen=True, slots=True)
class LinkLost:
    """The checkpoint stream ended or broke."""

    why: str


@value(frozen=True, slots=True)
class VmGone:
    """This node's own guest process ended or is known to be beyond use."""

    why: str


@value(frozen=True, slots=True)
class GuestOff:
    """The guest that clients talk to has switched itself off; its process is still there."""


@value(frozen=True, slots=True)
class HandOver:
    """Somebody wants the secondary to go on instead (planned switchover); told to the primary."""


@value(frozen=True, slots=True)
class HeartbeatSeen:
    """The peer's manager is alive."""


@value(frozen=True, slots=True)
class PeerGone:
    """The world knows, without a time-out, that the peer is gone (its process was reaped)."""

    why: str


@value(frozen=True, slots=True)
class VoteSeen:
    """The arbiter's answer to the vote asked for by operation ``op``."""

    op: int
    granted: bool


@value(frozen=True, slots=True)
class PeerClaimed:
    """In the total order of claims the peer's came first: it goes on, this side must not."""


@value(frozen=True, slots=True)
class LeaseSeen:
    """The lock service's answer to the renewal of operation ``op``."""

    op: int
    held: bool


@value(frozen=True, slots=True)
class Tick:
    """``now_ns`` reached ``deadline_ns()``; there are no other timers."""


Event = (
    Start
    | PeerBytes
    | PeerBlob
    | GuestOutput
    | PeerOutput
    | Compared
    | Done
    | Precopied
    | Failed
    | LinkLost
    | VmGone
    | GuestOff
    | HandOver
    | HeartbeatSeen
    | PeerGone
    | VoteSeen
    | PeerClaimed
    | LeaseSeen
    | Tick
)

# --------------------------------------------------------------------------------------------
# Actions (those with ``op`` take time and end in Done or Failed; AskVote ends in VoteSeen, Precopy
# in Precopied or Failed, RenewLease in LeaseSeen or nothing)


@value(frozen=True, slots=True)
class Precopy:
    """Send what the running guest has dirtied since the last cut or round, to wait over there.

    It becomes part of the guest there with the next `Load`, below the state that `Save` then has,
    and is worth nothing without it.  Like `SendState` it is the host's own work: a guest that hangs
    does not keep it, and is noticed when it is to stop.
    """

    op: int
    checkpoint: int
    round: int


@value(frozen=True, slots=True)
class Quiesce:
    """Hold client input back from both guests until this node's next StartVm."""

    op: int


@value(frozen=True, slots=True)
class StopVm:
    """Pause the guest."""

    op: int


@value(frozen=True, slots=True)
class Drain:
    """Feed every GuestOutput the guest made before it stopped, then Done."""

    op: int


@value(frozen=True, slots=True)
class Save:
    """Take device state and dirty pages of the stopped guest; Done carries the State.

    Pages that went in a round of `Precopy` and were not written since are no part of it.
    """

    op: int
    checkpoint: int


@value(frozen=True, slots=True)
class Copy:
    """As Save, but into a buffer the guest cannot touch, so that it may run during the send."""

    op: int
    checkpoint: int


@value(frozen=True, slots=True)
class SendMessage:
    """Write control bytes to the checkpoint stream."""

    data: bytes


@value(frozen=True, slots=True)
class SendState:
    """Write one checkpoint's state, control bytes and blobs in wire order."""

    op: int
    chunks: tuple[bytes | Blob, ...]


@value(frozen=True, slots=True)
class Load:
    """Apply a received state to this node's guest; a failure leaves it half loaded."""

    op: int
    state: State
    checkpoint: int


@value(frozen=True, slots=True)
class StartVm:
    """Run the guest; on the side that quiesced, client input flows again when it is done."""

    op: int


@value(frozen=True, slots=True)
class CloseLink:
    """Shut the checkpoint stream in both directions."""


@value(frozen=True, slots=True)
class OfferWitness:
    """Carry the secondary guest's output to the primary's node as PeerOutput."""

    range: Range
    digest: str
    epoch: int


@value(frozen=True, slots=True)
class Release:
    """Let this output reach clients."""

    ranges: tuple[Range, ...]


@value(frozen=True, slots=True)
class Drop:
    """This output will never be needed again."""

    ranges: tuple[Range, ...]


@value(frozen=True, slots=True)
class Heartbeat:
    """Tell the peer's manager that this one is alive."""


@value(frozen=True, slots=True)
class AskVote:
    """Ask the arbiter for the right to go on alone."""

    op: int


@value(frozen=True, slots=True)
class RenewLease:
    """Ask the lock service for the lease, from now on for its whole term."""

    op: int


@value(frozen=True, slots=True)
class GiveUpLease:
    """Tell the lock service that this side needs the lease no more."""


@value(frozen=True, slots=True)
class Fence:
    """Make sure that the other side's host can no longer reach clients or disks."""

    op: int


@value(frozen=True, slots=True)
class Promote:
    """From now on this node's guest is the one clients talk to."""


@value(frozen=True, slots=True)
class Report:
    """Something a person must know (no takeover, fencing failed, ...)."""

    text: str


Action = (
    Precopy
    | Quiesce
    | StopVm
    | Drain
    | Save
    | Copy
    | SendMessage
    | SendState
    | Load
    | StartVm
    | CloseLink
    | OfferWitness
    | Release
    | Drop
    | Heartbeat
    | AskVote
    | RenewLease
    | GiveUpLease
    | Fence
    | Promote
    | Report
)

# --------------------------------------------------------------------------------------------
# Signals (between the parts of one node)


@value(frozen=True, slots=True)
class Protected:
    """The pair runs in step: READY was exchanged and the guest is running."""


@value(frozen=True, slots=True)
class CheckpointNow:
    """Policy: start a checkpoint."""

    reason: str


@value(frozen=True, slots=True)
class OutputRule:
    """Policy: output made from now on waits for this; said with a `Cut`, when that changes."""

    output: Output


@value(frozen=True, slots=True)
class CheckpointStarted:
    """Checkpointer: checkpoint ``checkpoint`` began; triggers up to here are answered by it."""

    checkpoint: int
    reason: str


@value(frozen=True, slots=True)
class Cut:
    """The state of checkpoint ``checkpoint`` is fixed: all output so far belongs to it."""

    checkpoint: int


@value(frozen=True, slots=True)
class Committed:
    """Checkpoint ``checkpoint`` is safe on the other side (the dialect says when).

    sent_bytes: size of all the state that was sent for it.  It is no part of a trace, whose events
    say what each state was.
    """

    checkpoint: int
    sent_bytes: int = field(default=0, compare=False, repr=False)


@value(frozen=True, slots=True)
class Loaded:
    """Secondary: the guest now *is* checkpoint ``checkpoint``."""

    checkpoint: int


@value(frozen=True, slots=True)
class Resumed:
    """The guest runs again after checkpoint ``checkpoint``."""

    checkpoint: int


@value(frozen=True, slots=True)
class Completed:
    """Primary: the exchange of checkpoint ``checkpoint`` is over, the next may begin."""

    checkpoint: int


@value(frozen=True, slots=True)
class Aborted:
    """Checkpoint ``checkpoint`` will never be committed."""

    checkpoint: int


@value(frozen=True, slots=True)
class Exit:
    """The checkpoint loop was left (upstream's COLO_EXIT)."""

    why: str


@value(frozen=True, slots=True)
class Takeover:
    """Answer to "can your guest take over?": from which checkpoint, and how surely."""

    survival: Survival
    checkpoint: int


@value(frozen=True, slots=True)
class Match:
    """Comparator: both guests produced this range."""

    range: Range


@value(frozen=True, slots=True)
class Mismatch:
    """Comparator: the guests differ at this range; ``detail`` is for people."""

    range: Range
    why: str
    detail: str = ""


@value(frozen=True, slots=True)
class Stale:
    """Comparator: one guest produced this range and the other did not, for too long."""

    range: Range
    detail: str = ""


@value(frozen=True, slots=True)
class Forgone:
    """Comparator: this output will never leave (mode ``qemu``: a full queue or table)."""

    range: Range


@value(frozen=True, slots=True)
class Silenced:
    """Manager: nothing of this side's may reach clients, or now it may again."""

    is_silent: bool


@value(frozen=True, slots=True)
class SteppedDown:
    """Manager: the other side has all of this guest's state and is to go on."""


@value(frozen=True, slots=True)
class Promoted:
    """Manager: this node goes on alone."""


@value(frozen=True, slots=True)
class Alone:
    """Checkpointer: the promoted guest runs."""


Signal = (
    Protected
    | CheckpointNow
    | OutputRule
    | CheckpointStarted
    | Cut
    | Committed
    | Loaded
    | Resumed
    | Completed
    | Aborted
    | Exit
    | Takeover
    | Match
    | Mismatch
    | Stale
    | Forgone
    | Silenced
    | SteppedDown
    | Promoted
    | Alone
)
