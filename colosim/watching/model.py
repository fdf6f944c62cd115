"""What is to be seen of a run: a reducer of what happened to what a front end shows.

`View.see` takes one `Moment` after the other. It reads no clock and does no I/O, so the same
moments give the same view, whether they come from a run that goes on, a run directory or a
simulation, and however fast they are played. A front end asks a `View` what to draw, at a time that
it names.

Two kinds of time: ``at_ns`` is a moment's place on the view's axis, which its source gives; how
long something took (a pause, a hold) is the difference of two times of one node's own clock. Clocks
of different hosts are never compared.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any

from colosim.protocol import types as t
from colosim.protocol.node import NodeConfig
from colosim.protocol.policies import POLICIES
from colosim.protocol.trace import Line

KEPT_CHECKPOINTS = 4096
KEPT_NOTES = 512
_KEPT_HOLDINGS = 4096
_LOOKED_BACK = 8  # checkpoints; their pages come when they are saved
#: `Told.what` of the run's begin, and of its end: what comes then ends its hosts, and is no failure
BEGIN, END = "begin", "end"
HELD_STEP_NS = 50_000_000  # how finely held output is remembered over time


@dataclass(frozen=True, slots=True)
class Told:
    """What the world says beside the traces: faults, processes that ended, fences."""

    node: str
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class Dirty:
    """How many pages a checkpoint of a primary had; traces know its bytes alone."""

    node: str
    checkpoint: int
    pages: int


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened, and its place on the view's axis."""

    at_ns: int
    what: Line | Told | Dirty


class Tone(StrEnum):
    """How a note is meant."""

    PLAIN = "plain"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Note:
    """A line for a person about a fault, a failover, or what else is rare."""

    at_ns: int
    node: str
    text: str
    tone: Tone = Tone.PLAIN


class Service(StrEnum):
    """How safe the service is."""

    UNPROTECTED = "unprotected"
    PROTECTED = "protected"
    TAKEOVER = "takeover"
    ALONE = "alone"


@dataclass(slots=True)
class Checkpoint:
    """One checkpoint of a primary; -1: not known, or not yet.

    at_ns: when it began, stopped_at_ns when its guest was to stop, by the view's axis.
    """

    node: str
    number: int
    reason: str
    at_ns: int
    stopped_at_ns: int = -1
    stopped_ns: int = -1  # by its node's clock
    pause_ns: int = -1
    pages: int = -1
    sent_bytes: int = -1
    is_committed: bool = False
    is_aborted: bool = False


@dataclass(slots=True)
class Totals:
    """Counts over the whole run, all pairs together."""

    checkpoints: int = 0
    committed: int = 0
    aborted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    pauses: int = 0
    pause_ns: int = 0
    longest_pause_ns: int = 0
    dirty_checkpoints: int = 0
    pages: int = 0
    sent_bytes: int = 0
    mismatches: int = 0
    stale: int = 0
    made: int = 0  # output of primaries and survivors
    released: Counter[str] = field(default_factory=Counter)  # by what let it go
    held_ns: int = 0  # of all that was released
    longest_hold_ns: int = 0
    heartbeats: int = 0
    takeovers: int = 0
    lines: int = 0

    @property
    def mean_pause_ns(self) -> float:
        """Of the checkpoints whose guest runs again; 0 if there is none."""
        return self.pause_ns / self.pauses if self.pauses else 0.0

    @property
    def mean_pages(self) -> float:
        """Of the checkpoints whose pages are known; 0 if there is none."""
        return self.pages / self.dirty_checkpoints if self.dirty_checkpoints else 0.0


class Holding:
    """Output that a node holds: ranges of streams, and when they were made."""

    def __init__(self) -> None:
        self._streams: dict[str, list[tuple[int, int, int]]] = {}  # (first, end, made_ns)
        self.count = 0

    def add(self, made: t.Range, now_ns: int) -> None:
        """It was made, by the node's clock."""
        held = self._streams.setdefault(made.stream, [])
        at = bisect_right(held, (made.first, made.end, now_ns))
        held.insert(at, (made.first, made.end, now_ns))
        self.count += made.end - made.first

    def take(self, gone: t.Range) -> Iterator[tuple[int, int]]:
        """Remove what is held of a range: (how many, made_ns) for each piece."""
        held = self._streams.get(gone.stream, [])
        at = max(0, bisect_right(held, (gone.first + 1,)) - 1)
        while at < len(held) and held[at][0] < gone.end:
            first, end, made_ns = held[at]
            low, high = max(first, gone.first), min(end, gone.end)
            if low >= high:
                at += 1
                continue
            rest = [(a, b, made_ns) for a, b in ((first, low), (high, end)) if a < b]
            held[at : at + 1] = rest
            at += len(rest)
            self.count -= high - low
            yield high - low, made_ns
        if not held:
            self._streams.pop(gone.stream, None)  # clients come and go

    def oldest_ns(self) -> int | None:
        """When the oldest of it was made."""
        return min((made for held in self._streams.values() for *_, made in held), default=None)


@dataclass(slots=True)
class NodeView:
    """One host's node. Times without ``at`` are its own clock's."""

    config: NodeConfig
    began_ns: int
    now_ns: int  # of its last line
    at_ns: int  # the same on the view's axis
    step: str = ""
    gone: str = ""  # why it is no more, if that is known
    is_alone: bool = False
    stopped_ns: int = -1  # since when its guest stands still
    stopped_at_ns: int = -1
    starts: int = -1  # operation that starts the guest
    fences: int = -1  # operation that fences the other side
    beats_sent: int = 0
    beats_heard: int = 0
    heard_at_ns: int = -1
    holding: Holding = field(default_factory=Holding)
    lets_go: str = "match"  # what the event that is looked at let go

    @property
    def id(self) -> str:
        return self.config.id

    @property
    def role(self) -> t.Role:
        return self.config.role

    @property
    def pair(self) -> int:
        return self.config.pair


class View:
    """What is to be seen.

    name, duration_ns (0: not known): for people. begin_ns: where on the axis the run proper begins;
    None: when it is told.
    """

    def __init__(self, name: str = "", duration_ns: int = 0, begin_ns: int | None = 0) -> None:
        self.name = name
        self.duration_ns = duration_ns
        self.begin_ns = begin_ns
        self.at_ns = 0  # of the last moment
        self.nodes: dict[str, NodeView] = {}
        self.pair = 0
        self.serving = ""  # the node whose guest clients talk to
        self.totals = Totals()
        self.checkpoints: deque[Checkpoint] = deque(maxlen=KEPT_CHECKPOINTS)
        self.notes: deque[Note] = deque(maxlen=KEPT_NOTES)
        self.services: list[tuple[int, Service]] = []  # since when
        #: the most output held in each step of time: [number of the step, count]
        self.held: deque[list[int]] = deque(maxlen=_KEPT_HOLDINGS)
        self.last_difference = ""
        self.is_over = False
        self._open: dict[str, Checkpoint] = {}  # a primary's latest
        self._see: dict[type, Callable[[NodeView, Any, Moment], None]] = {
            t.CheckpointStarted: self._checkpoint_started,
            t.StopVm: self._stop,
            t.StartVm: self._start,
            t.Resumed: self._resumed,
            t.Committed: self._committed,
            t.Aborted: self._aborted,
            t.SendState: self._sent,
            t.Precopied: self._precopied,
            t.Done: self._done,
            t.Failed: self._failed,
            t.GuestOutput: self._made,
            t.Release: self._released,
            t.Drop: self._dropped,
            t.Mismatch: self._mismatch,
            t.Stale: self._stale,
            t.Heartbeat: self._beat,
            t.HeartbeatSeen: self._heard,
            t.Protected: self._protected,
            t.Exit: self._exit,
            t.Fence: self._fence,
            t.Promote: self._promote,
            t.Alone: self._alone,
            **dict.fromkeys(_NOTED, self._noted),
        }

    # -- what a front end asks ---------------------------------------------------------------

    def since_begin_ns(self, at_ns: int) -> int:
        """A time of the axis as people count: from the begin of the run proper."""
        return at_ns - (self.begin_ns or 0)

    @property
    def shown(self) -> list[NodeView]:
        """The nodes of the present pair, the primary first."""
        present = [node for node in self.nodes.values() if node.pair == self.pair]
        return sorted(present, key=lambda node: node.role is t.Role.SECONDARY)

    @property
    def service(self) -> Service:
        """How safe the service is now."""
        return self.services[-1][1] if self.services else Service.UNPROTECTED

    @property
    def policy(self) -> str:
        """Of the first node; empty before there is one."""
        return next((node.config.policy for node in self.nodes.values()), "")

    @property
    def last(self) -> Checkpoint | None:
        """The latest checkpoint."""
        return self.checkpoints[-1] if self.checkpoints else None

    # -- what happens ------------------------------------------------------------------------

    def see(self, moment: Moment) -> None:
        """Take what happened; nothing counts any more once the run is over."""
        if self.is_over:
            return
        self.at_ns = max(self.at_ns, moment.at_ns)
        match moment.what:
            case Line() as line:
                self._line(line, moment)
            case Told() as told:
                self._told(told, moment.at_ns)
            case Dirty(name, number, pages):
                self._dirty(name, number, pages)

    def _line(self, line: Line, moment: Moment) -> None:
        self.totals.lines += 1
        if isinstance(line.body, NodeConfig):
            self._node(line, moment.at_ns)
            return
        node = self.nodes.get(line.node)
        if node is None:
            return  # its header is to come, or was lost
        node.now_ns, node.at_ns, node.step = line.now_ns, moment.at_ns, line.step
        if line.kind == "event":
            self._remember(node, moment.at_ns)  # as it stood: an open gate holds nothing
            node.lets_go = "alone" if node.is_alone else "match"
        see = self._see.get(type(line.body))
        if see is not None:
            see(node, line.body, moment)

    def _node(self, line: Line, at_ns: int) -> None:
        config = line.body
        self.nodes[config.id] = NodeView(config, line.now_ns, line.now_ns, at_ns)
        self.pair = max(self.pair, config.pair)
        if config.role is t.Role.PRIMARY:
            self.serving = config.id
            if not self.services:
                self._now(at_ns, Service.UNPROTECTED)

    def _told(self, told: Told, at_ns: int) -> None:
        if told.what == END:
            self.is_over = True
        elif told.what == BEGIN:
            self.begin_ns = at_ns
        tone = _TONES.get(told.what)
        if tone is None:
            return
        text = (
            told.detail
            if told.what == "says"
            else ": ".join(filter(None, (told.what, told.detail)))
        )
        self._note(at_ns, told.node, text, tone)
        struck = self._struck(told)
        if struck is not None and not struck.gone:
            struck.gone = told.what if told.what in _ENDS else told.detail
            if struck.pair == self.pair:
                self._fails(at_ns)

    def _struck(self, told: Told) -> NodeView | None:
        """Whom it ends: a fault of the simulator names a role, all else a node."""
        if told.what in _ENDS:
            return self.nodes.get(told.node)
        if told.what == "fault" and told.detail.split()[:2] in _CRASHES:
            role = told.node.partition(".")[0]
            return next((node for node in self.shown if node.role == role), None)
        return None

    def _dirty(self, name: str, number: int, pages: int) -> None:
        for checkpoint in islice(reversed(self.checkpoints), _LOOKED_BACK):
            if (checkpoint.node, checkpoint.number) == (name, number) and checkpoint.pages < 0:
                checkpoint.pages = pages
                self.totals.dirty_checkpoints += 1
                self.totals.pages += pages

    def _now(self, at_ns: int, service: Service) -> None:
        if not self.services or self.service is not service:
            self.services.append((at_ns, service))

    def _fails(self, at_ns: int) -> None:
        """Something that protection needs is no more, or is thought to be."""
        if self.service is Service.PROTECTED:
            self._now(at_ns, Service.TAKEOVER)

    def _note(self, at_ns: int, node: str, text: str, tone: Tone) -> None:
        self.notes.append(Note(at_ns, node, text, tone))

    # checkpoints

    def _checkpoint_started(
        self, node: NodeView, body: t.CheckpointStarted, moment: Moment
    ) -> None:
        if node.role is not t.Role.PRIMARY:
            return
        begun = Checkpoint(node.id, body.checkpoint, body.reason, moment.at_ns)
        self._open[node.id] = begun
        self.checkpoints.append(begun)
        self.totals.checkpoints += 1
        self.totals.reasons[body.reason] += 1

    def _stop(self, node: NodeView, body: t.StopVm, moment: Moment) -> None:
        node.stopped_ns, node.stopped_at_ns = node.now_ns, moment.at_ns
        checkpoint = self._open.get(node.id)
        if checkpoint is not None and checkpoint.stopped_ns < 0:
            checkpoint.stopped_ns, checkpoint.stopped_at_ns = node.now_ns, moment.at_ns

    def _start(self, node: NodeView, body: t.StartVm, moment: Moment) -> None:
        node.starts = body.op

    def _resumed(self, node: NodeView, body: t.Resumed, moment: Moment) -> None:
        node.stopped_ns = node.stopped_at_ns = -1
        checkpoint = self._open.get(node.id)
        if checkpoint is None or checkpoint.stopped_ns < 0 or checkpoint.pause_ns >= 0:
            return
        pause_ns = checkpoint.pause_ns = node.now_ns - checkpoint.stopped_ns
        self.totals.pauses += 1
        self.totals.pause_ns += pause_ns
        self.totals.longest_pause_ns = max(self.totals.longest_pause_ns, pause_ns)

    def _committed(self, node: NodeView, body: t.Committed, moment: Moment) -> None:
        node.lets_go = "commit"
        checkpoint = self._open.get(node.id)
        if checkpoint is not None and not checkpoint.is_committed:
            checkpoint.is_committed = True
            self.totals.committed += 1

    def _aborted(self, node: NodeView, body: t.Aborted, moment: Moment) -> None:
        checkpoint = self._open.get(node.id)
        if checkpoint is not None and not checkpoint.is_aborted:
            checkpoint.is_aborted = True
            self.totals.aborted += 1
            self._note(moment.at_ns, node.id, f"checkpoint {body.checkpoint} aborted", Tone.WARN)

    def _sent(self, node: NodeView, body: t.SendState, moment: Moment) -> None:
        size = sum(c.size if isinstance(c, t.Blob) else len(c) for c in body.chunks)
        self._add_sent(node, size)

    def _precopied(self, node: NodeView, body: t.Precopied, moment: Moment) -> None:
        self._add_sent(node, body.sent_bytes)

    def _add_sent(self, node: NodeView, size: int) -> None:
        self.totals.sent_bytes += size
        checkpoint = self._open.get(node.id)
        if checkpoint is not None:
            checkpoint.sent_bytes = max(checkpoint.sent_bytes, 0) + size

    def _done(self, node: NodeView, body: t.Done, moment: Moment) -> None:
        if body.op == node.starts:
            node.starts = node.stopped_ns = node.stopped_at_ns = -1
        elif body.op == node.fences:
            node.fences = -1
            for other in self.nodes.values():
                if other.pair == node.pair and other is not node:
                    other.gone = other.gone or "fenced"
            self._note(moment.at_ns, node.id, "the other side is fenced", Tone.PLAIN)

    def _failed(self, node: NodeView, body: t.Failed, moment: Moment) -> None:
        self._note(moment.at_ns, node.id, f"failed: {body.why}", Tone.WARN)

    # output

    def _made(self, node: NodeView, body: t.GuestOutput, moment: Moment) -> None:
        node.holding.add(body.range, node.now_ns)
        if self._serves(node):
            self.totals.made += body.range.end - body.range.first

    def _released(self, node: NodeView, body: t.Release, moment: Moment) -> None:
        for range_ in body.ranges:
            for count, made_ns in node.holding.take(range_):
                hold_ns = node.now_ns - made_ns
                self.totals.released[node.lets_go] += count
                self.totals.held_ns += count * hold_ns
                self.totals.longest_hold_ns = max(self.totals.longest_hold_ns, hold_ns)

    def _dropped(self, node: NodeView, body: t.Drop, moment: Moment) -> None:
        for range_ in body.ranges:
            for _ in node.holding.take(range_):
                pass

    def _serves(self, node: NodeView) -> bool:
        return node.id == self.serving

    def _remember(self, node: NodeView, at_ns: int) -> None:
        """How much is held."""
        if not self._serves(node):
            return
        step = at_ns // HELD_STEP_NS
        count = node.holding.count
        if self.held and self.held[-1][0] == step:
            self.held[-1][1] = max(self.held[-1][1], count)
        else:
            self.held.append([step, count])

    def _mismatch(self, node: NodeView, body: t.Mismatch, moment: Moment) -> None:
        self.totals.mismatches += 1
        self.last_difference = f"{body.why}: {body.detail}" if body.detail else body.why

    def _stale(self, node: NodeView, body: t.Stale, moment: Moment) -> None:
        self.totals.stale += 1
        self.last_difference = (
            f"one guest alone: {body.detail}" if body.detail else "one guest alone"
        )

    # who is there

    def _beat(self, node: NodeView, body: t.Heartbeat, moment: Moment) -> None:
        node.beats_sent += 1
        self.totals.heartbeats += 1

    def _heard(self, node: NodeView, body: t.HeartbeatSeen, moment: Moment) -> None:
        node.beats_heard += 1
        node.heard_at_ns = moment.at_ns

    def _protected(self, node: NodeView, body: t.Protected, moment: Moment) -> None:
        if node.role is t.Role.PRIMARY and POLICIES[node.config.policy].protects():
            self._now(moment.at_ns, Service.PROTECTED)
            self._note(moment.at_ns, node.id, "protected: both guests run in step", Tone.GOOD)

    def _exit(self, node: NodeView, body: t.Exit, moment: Moment) -> None:
        self._fails(moment.at_ns)
        self._note(moment.at_ns, node.id, f"left the checkpoint loop: {body.why}", Tone.WARN)

    def _fence(self, node: NodeView, body: t.Fence, moment: Moment) -> None:
        node.fences = body.op
        self._note(moment.at_ns, node.id, "fences the other side", Tone.PLAIN)

    def _promote(self, node: NodeView, body: t.Promote, moment: Moment) -> None:
        if not self._serves(node):
            self.totals.made += node.holding.count  # from now on it is a survivor's
        self.serving = node.id
        self.totals.takeovers += node.role is t.Role.SECONDARY
        self._note(moment.at_ns, node.id, "promoted: clients talk to its guest", Tone.GOOD)

    def _alone(self, node: NodeView, body: t.Alone, moment: Moment) -> None:
        node.is_alone, node.lets_go = True, "alone"
        self._now(moment.at_ns, Service.ALONE)
        self._note(moment.at_ns, node.id, "serves alone", Tone.GOOD)

    def _noted(self, node: NodeView, body: Any, moment: Moment) -> None:
        if isinstance(body, t.VmGone | t.PeerGone | t.AskVote):
            self._fails(moment.at_ns)
        text, tone = _NOTED[type(body)]
        self._note(moment.at_ns, node.id, text(body), tone)


#: what the world says that the traces do not, and how it is meant; all else is in the traces
_TONES: dict[str, Tone] = {
    **dict.fromkeys(("fault", "ended", "lost", "trouble", "guest beyond use"), Tone.BAD),
    **dict.fromkeys(
        ("not protected", "no fault", "no switchover", "undetected", "corrupted", "fenced"),
        Tone.WARN,
    ),
    **dict.fromkeys(("healed", "protected", "paired"), Tone.GOOD),
    **dict.fromkeys(
        (
            *("re-protection", "reprotect", "switchover", "failback", "guest off", "guest reset"),
            *("disk merged", "disk-committed", "disk-parted", "disk-failed", "says"),
        ),
        Tone.PLAIN,
    ),
}
#: of these, what ends a node
_ENDS = frozenset(("ended", "fenced", "lost"))
_CRASHES = (["host", "crash"], ["vm", "crash"], ["node", "crash"])

#: rare events, signals and actions: what is said of them
_NOTED: dict[type, tuple[Callable[[Any], str], Tone]] = {
    t.LinkLost: (lambda body: f"the stream ended: {body.why}", Tone.WARN),
    t.VmGone: (lambda body: f"its guest is gone: {body.why}", Tone.BAD),
    t.GuestOff: (lambda body: "the guest has switched itself off", Tone.PLAIN),
    t.PeerGone: (lambda body: f"the other side is gone: {body.why}", Tone.WARN),
    t.PeerClaimed: (lambda body: "the other side's claim came first", Tone.WARN),
    t.HandOver: (lambda body: "asked to hand over", Tone.PLAIN),
    t.AskVote: (lambda body: "asks the arbiter", Tone.PLAIN),
    t.VoteSeen: (
        lambda body: "the arbiter says yes" if body.granted else "the arbiter says no",
        Tone.PLAIN,
    ),
    t.Report: (lambda body: body.text, Tone.WARN),
    t.SteppedDown: (lambda body: "steps down: the other side has its state", Tone.PLAIN),
    t.Silenced: (
        lambda body: "silent: nothing leaves" if body.is_silent else "may speak again",
        Tone.WARN,
    ),
}
