"""Both our nodes live through what a genuine pair is seen to do; where they differ, it is said.

A `Shadow` is the world of two real nodes that command nothing while the pair is in COLO: what they
want of their guests and of the stream is *expected* of the QEMUs.  What a QEMU is seen to do
(`tap.Seen`) must be the next thing that its node wants; then the node is told that it is done.
What no one can see from outside (quiesce, drain, save, load) is done as soon as something is seen
that cannot come before its end.

Nothing is passed over.  Each thing seen is used up by one want, or is a `Difference`; each want is
met within the node's own time limit, or the node leaves the loop, and that its QEMU did not is a
difference.  Two things are taken otherwise, and counted under their names:

* ``stopped once more``: QEMU stops a running guest before it goes on alone, our tables do not
  (`colosim/protocol/checkpoint.py`).
* ``after the end``: what a QEMU does after its node left the loop, such as a request to a peer
  that has just died, which QEMU notices later than the tap.

Two channels tell of a QEMU: the tap, and its monitor, whose events carry QEMU's own time.  What
the tap read from a QEMU was done by then, perhaps before; what it hands to it arrives then, perhaps
later.  An order that these times exclude is a difference; they exclude none where something that
was read comes before something on the monitor.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from backends.base import Cause, Session
from backends.qemu.tap import PRIMARY, SECONDARY, Seen
from colosim.protocol import types as t
from colosim.protocol.checkpoint import P, S
from colosim.protocol.codec import encode
from colosim.protocol.dialect import UPSTREAM, Message
from colosim.protocol.node import Node, NodeConfig
from colosim.protocol.trace import Line

MS = 1_000_000
#: How far the two channels' times may be off: microseconds, and two clocks read one after the other
CLOCK_NS = 100_000
#: How much before its timer a checkpoint may be seen to begin, and still be the timer's: QEMU
#: counts whole milliseconds, from a moment that the tap saw somewhat later
TIMER_NS = 20 * MS
#: Longest wait for what another channel may still tell
PATIENCE_NS = 2_000 * MS
_MOST_DIFFERENCES = 20

_NAMES = {encode(UPSTREAM, message): message.value for message in Message}
_REQUEST, _SEND, _SIZE = (
    encode(UPSTREAM, each) for each in (Message.REQUEST, Message.SEND, Message.SIZE)
)
_REPLY = encode(UPSTREAM, Message.REPLY)
_PEER = {PRIMARY: SECONDARY, SECONDARY: PRIMARY}
_MONITOR = ("stop", "start", "exit", "gone", "silent")
_ASKED = ("failover", "alone")
#: policy's parameter -> what a shadow has for it where QEMU's x-checkpoint-delay is this
_SHADOWED: Mapping[str, Callable[[int], int]] = {
    "interval_ns": lambda delay_ns: 1,
    "checkpoint_delay_ns": lambda delay_ns: max(1, delay_ns - TIMER_NS),
}
_AFTER_STATES = (P.TAKEOVER, S.TAKEOVER)
_FAILOVER_STATES = (P.FAILOVER, S.FAILOVER)


#: (node, what it was seen to do) -> column of the row of its checkpoint, monotonic ns
_COLUMNS = {
    (PRIMARY, "request"): "request_ns",
    (PRIMARY, "receive reply"): "reply_ns",
    (PRIMARY, "stop"): "stop_ns",
    (PRIMARY, "send"): "send_ns",
    (PRIMARY, "ram"): "ram_ns",
    (PRIMARY, "device"): "device_ns",
    (PRIMARY, "receive received"): "received_ns",
    (PRIMARY, "receive loaded"): "loaded_ns",
    (PRIMARY, "start"): "resume_ns",
    (SECONDARY, "stop"): "secondary_stop_ns",
    (SECONDARY, "start"): "secondary_resume_ns",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """A place where a QEMU did something else than its node wanted."""

    at_ns: int
    node: str
    step: str
    expected: str
    seen: str

    def __str__(self) -> str:
        return f"{self.node} in step {self.step}: expected {self.expected}, seen {self.seen}"


def as_shadow(config: NodeConfig, delay_ns: int) -> NodeConfig:
    """A node's configuration for shadowing a QEMU whose x-checkpoint-delay is this.

    QEMU decides when to checkpoint.  Policy `remus` wants the next one at once, and its quiesce
    ends when QEMU begins.  Policy `colo` has a timer as QEMU's is, which each trigger winds up:
    what begins before it has run out was asked for.  A trigger that comes while QEMU waits for
    RECEIVED is absorbed, so two delays may pass (`qemu-colo.md` 2.3); what is later than these and
    the step's own limit is too late.  A QEMU that hangs is noticed by its silent monitor before
    that.
    """
    params = tuple(
        (name, _SHADOWED[name](delay_ns) if name in _SHADOWED else value)
        for name, value in config.policy_params
    )
    quiesce_ns = 2 * delay_ns + config.limits.quiesce_ns + 2 * config.manager.heartbeat_timeout_ns
    limits = replace(config.limits, quiesce_ns=quiesce_ns)
    return replace(config, policy_params=params, limits=limits)


class Hands(Protocol):
    """What is really done while nodes shadow a pair: output, arbitration, going on alone."""

    def made(self, node: str, before_ns: int | None) -> tuple[t.Range, str] | None:
        """Output of the guest that was read before this time and not yet told; its digest."""

    def perform(self, node: str, action: t.Action, cause: Cause) -> None:
        """Release, Drop, AskVote, Fence, Promote, Report, CloseLink."""

    def take_over(self, node: str, op: int, cause: Cause) -> None:
        """Let this node's guest leave COLO and go on alone; ends in Done or Failed."""

    def wake_at(self, node: str, when_ns: int | None) -> None:
        """Call `Shadow.tick` when it is so late and what was seen before it is in."""

    def hear(self, node: str, signal: t.Signal) -> None:
        """A signal of the node's checkpointer: Loaded, Completed, Protected, Exit, Alone."""


@dataclass(slots=True)
class _Item:
    """Something seen, as one node meets it.

    heard: it is the peer that did it.  cause: the trace line of the peer's action; it is known
    when ``settled``.
    """

    seen: Seen
    came_ns: int
    heard: bool = False
    said: _Item | None = None
    cause: Cause | None = None
    settled: bool = False

    @property
    def was_read(self) -> bool:
        """Read by the tap from this QEMU, which did it at that time or before."""
        return not self.heard and self.seen.what not in _MONITOR


class _Follower:
    """One node, what it wants, and what was seen and not yet used up."""

    def __init__(self, shadow: Shadow, node: Node) -> None:
        self.node = node
        self.id = node.config.id
        self.now_ns = 0  # of this node; never goes back
        self.last_ns = 0  # what is used up next was done after this
        self.is_down = False  # its host has failed: nothing is fed
        self.is_over = False  # it has left the loop
        self.exited_ns: int | None = None  # when its QEMU left the loop
        self.over_ns: int | None = None
        self.over_why = ""
        self.wanted: deque[tuple[t.Action, Cause]] = deque()
        self.tap: deque[_Item] = deque()
        self.monitor: deque[_Item] = deque()
        self.ended = False  # its QEMU's stream, on the tap
        self.is_gone = False
        self.parts: list[_Item] = []  # of the state that passes
        self.leaving: tuple[int, Cause] | None = None  # the operation by which it goes on alone
        self._shadow = shadow

    # -- choosing --------------------------------------------------------------------------

    def step(self, now_ns: int) -> bool:
        """Use up one thing that was seen, if its time has come; whether it did."""
        heads = [channel for channel in (self.tap, self.monitor) if channel]
        if not heads:
            return False
        if self.is_down:
            for channel in heads:
                while channel:
                    channel.popleft().settled = True
            self._let_go()
            return False
        heads.sort(key=lambda channel: channel[0].seen.at_ns)
        for channel in heads:
            item = channel[0]
            if item.said is not None and not item.said.settled:
                # What causes it comes first; unless that waits for a state that does not end.
                if not self.parts or now_ns - item.came_ns < PATIENCE_NS:
                    return False
                self.differs(item, "the rest of a state")
                self._let_go()
                return True
            use = self._use_of(item)
            if use is None:
                continue
            if channel is not heads[0] and not item.was_read:
                self._check_order(heads[0][0], item.seen.at_ns)
            self._check_order(item, self.last_ns)
            channel.popleft()
            self._use(item, use)
            return True
        item = heads[0][0]
        if len(heads) < 2 and now_ns - item.came_ns < PATIENCE_NS:
            return False  # the other channel may still tell what comes before it
        heads[0].popleft()
        self.differs(item, self._expected())
        if item.heard:
            self._feed_heard(item)  # the core judges it as it would any peer's
        item.settled = True
        return True

    def unstick(self, peer: _Follower) -> None:
        """What it heard was never sent, or is part of a state that did not end: a run may."""
        item = self.tap[0]
        assert item.said is not None
        if item.said in peer.parts:
            peer._let_go()
        else:
            self.differs(item, f"that the {peer.id} sent it")
            item.said.settled = True

    def _check_order(self, item: _Item, after_ns: int) -> None:
        """Complain if it must have been done before this time."""
        by_ns = after_ns - item.seen.at_ns
        if by_ns > CLOCK_NS and not self.is_over:
            self.differs(item, f"{by_ns / MS:.3f} ms later what was seen")

    def _use(self, item: _Item, use: Callable[[_Item], None]) -> None:
        if not item.was_read:
            self.last_ns = max(self.last_ns, item.seen.at_ns)
        self.now_ns = max(self.now_ns, item.seen.at_ns)
        if not self.is_over:
            self._shadow.note(self.id, item)
        use(item)
        if item not in self.parts:
            item.settled = True

    def differs(self, item: _Item, expected: str) -> None:
        seen = item.seen
        self._shadow.differ(Difference(seen.at_ns, self.id, self.node.step, expected, _name(item)))

    def _expected(self) -> str:
        if self.wanted:
            return _wish(self.wanted[0][0])
        return "nothing" if self.is_over else f"nothing but what ends step {self.node.step}"

    # -- what may be used up now, and how ----------------------------------------------------

    def _use_of(self, item: _Item) -> Callable[[_Item], None] | None:
        """How to use it up; None if it is not its turn."""
        what = item.seen.what
        if what in _ASKED:
            return self._asked
        if what in ("gone", "silent", "end", "fault"):
            return self._end_of(item)
        if self.is_over:
            return self._after
        if item.heard:
            return None if self.wanted else self._feed_heard
        if what == "exit":
            return None  # in the loop nothing of ours asks for it
        return {
            "message": self._message,
            "ram": self._part,
            "device": self._part,
            "stop": self._stopped,
            "start": self._started,
        }[what](item)

    def _message(self, item: _Item) -> Callable[[_Item], None] | None:
        data = item.seen.data
        if self._saving():
            expected = _SEND if not self.parts else _SIZE
            right = data[:4] == expected and len(self.parts) in (0, 2)
            return self._keep if right else None
        if data == _REQUEST and self.node.config.role is t.Role.PRIMARY:
            self._trigger(item.seen.at_ns)
            if self._next(t.Quiesce):
                return self._requested
        action = self._next(t.SendMessage)
        return self._said if action is not None and action.data == data else None

    def _part(self, item: _Item) -> Callable[[_Item], None] | None:
        place = {"ram": 1, "device": 3}[item.seen.what]
        return self._keep if self._saving() and len(self.parts) == place else None

    def _stopped(self, item: _Item) -> Callable[[_Item], None] | None:
        return self._done if self._next(t.StopVm) else None

    def _started(self, item: _Item) -> Callable[[_Item], None] | None:
        if self._next(t.Load):
            return self._loaded
        return self._done if self._next(t.StartVm) else None

    def _end_of(self, item: _Item) -> Callable[[_Item], None] | None:
        seen = item.seen
        if seen.what == "gone":
            # Whatever it still did is on the tap, up to the end of its stream.
            waits = not self.ended and self._shadow.now_ns() - item.came_ns < PATIENCE_NS
            return None if waits and not self._shadow.is_final else self._gone
        if seen.what == "silent":
            return self._gone
        if item.heard:  # the peer's stream
            return self._link_lost
        return self._own_end

    def _next(self, kind: type) -> Any:
        """The next want, if it is of this kind."""
        return self.wanted[0][0] if self.wanted and isinstance(self.wanted[0][0], kind) else None

    def _saving(self) -> bool:
        return self._next(t.Save) is not None

    # -- using up ----------------------------------------------------------------------------

    def _done(self, item: _Item, state: t.State | None = None) -> None:
        action, cause = self.wanted.popleft()
        self.feed(t.Done(action.op, state), cause)  # type: ignore[union-attr]

    def _said(self, item: _Item) -> None:
        _, item.cause = self.wanted.popleft()
        self.settle()

    def _requested(self, item: _Item) -> None:
        self._done(item)  # quiesce ends when QEMU begins
        action = self._next(t.SendMessage)
        if action is None or action.data != item.seen.data:
            self.differs(item, self._expected())
        else:
            self._said(item)

    def _keep(self, item: _Item) -> None:
        """A part of the state that passes: SEND, memory, SIZE, devices.

        Our save ends when all of it has passed, for QEMU says SEND before it saves.
        """
        self.parts.append(item)
        if len(self.parts) < 4:
            return
        send, ram, size, device = (part.seen for part in self.parts)
        self._done(item, t.State(ram.blob, device.blob))
        action = self._next(t.SendState)
        if action is None or action.chunks != (send.data, ram.blob, size.data, device.blob):
            self.differs(item, self._expected())
            self._let_go()
            return
        self._let_go(self.wanted[0][1])
        self._done(item)

    def _let_go(self, cause: Cause | None = None) -> None:
        """The parts of a state reach the peer's node."""
        parts, self.parts = self.parts, []
        for part in parts:
            part.cause, part.settled = cause, True

    def _loaded(self, item: _Item) -> None:
        self._shadow.tell_output(self, None)  # what it made of the state before is void
        self._done(item)  # the load
        if self._next(t.StartVm):
            self._done(item)
        else:
            self.differs(item, self._expected())

    def _feed_heard(self, item: _Item) -> None:
        seen = item.seen
        assert item.said is not None
        if seen.what == "message":
            if seen.data == _REPLY:  # output read before the primary could stop is the cut's
                self._shadow.tell_output(self, seen.at_ns)
            self.feed(t.PeerBytes(seen.data), item.said.cause)
        else:
            self.feed(t.PeerBlob(seen.blob), item.said.cause)

    def _gone(self, item: _Item) -> None:
        self.is_gone = True
        self.now_ns = max(self.now_ns, self._shadow.now_ns())  # it may have waited
        self._let_go()
        self.feed(t.VmGone(item.seen.why or "its process ended"))
        self._shadow.gone(self)

    def _link_lost(self, item: _Item) -> None:
        why = item.seen.why or f"the {_PEER[self.id]}'s side ended the stream"
        self.feed(t.LinkLost(why))

    def _own_end(self, item: _Item) -> None:
        self.ended = True
        if item.seen.what == "fault":
            self.differs(item, "a COLO stream")
        if not self.is_over and not self.is_gone:
            # its process may have ended, which its monitor tells; else it left by itself
            gone = Seen(item.seen.at_ns, self.id, "closed")
            self._shadow.closed(self, gone)

    def _asked(self, item: _Item) -> None:
        """Of a log: a failover was asked for, or is over; logs do not tell of COLO_EXIT."""
        self.exited_ns = item.seen.at_ns
        if item.seen.what == "failover":
            self.feed(t.PeerGone("a failover was asked for"))
        elif self.leaving is not None:
            (op, cause), self.leaving = self.leaving, None
            self.feed(t.Done(op), cause)

    def _after(self, item: _Item) -> None:
        """What it does when its node has left the loop: only how it goes on alone matters."""
        what = item.seen.what
        if what == "exit":
            self.exited_ns = item.seen.at_ns
        elif what == "stop":
            self._shadow.counts["stopped once more"] += 1
        elif what != "start" and not item.heard:
            self._shadow.counts["after the end"] += 1

    def _trigger(self, at_ns: int) -> None:
        """QEMU begins a checkpoint: our policy's time has come (`as_shadow`), or it was asked."""
        while self.node.step == P.RUN.value:
            due_ns = self.node.deadline_ns()
            if due_ns is None or due_ns > at_ns:
                break
            self.now_ns = max(self.now_ns, due_ns)
            self.feed(t.Tick())
        if self.node.step == P.RUN.value and self._shadow.why_asked is not None:
            self.now_ns = max(self.now_ns, at_ns)
            self.feed(t.Compared((self._shadow.why_asked(at_ns),)))

    # -- feeding -----------------------------------------------------------------------------

    def feed(self, event: t.Event, cause: Cause | None = None) -> None:
        self._shadow.pump(self, event, cause)
        self.settle()

    def settle(self) -> None:
        """End what needs nothing to be seen."""
        while self.wanted:
            action, cause = self.wanted[0]
            state = self.node.checkpointer.state
            op = getattr(action, "op", None)
            event: t.Event | None = None
            if self.is_gone:
                event = None if op is None else t.Failed(op, "its process ended")
            elif state in _AFTER_STATES and isinstance(action, t.StartVm):
                self.leaving = (action.op, cause)
                self._shadow.hands.take_over(self.id, action.op, cause)
            elif state in _AFTER_STATES or (
                state in _FAILOVER_STATES and not isinstance(action, t.StopVm)
            ):
                event = None if op is None else t.Failed(op, "given up for the failover")
            elif isinstance(action, t.Drain) or state in _FAILOVER_STATES:
                assert isinstance(action, t.Drain | t.StopVm)  # QEMU's failover stops it
                event = t.Done(action.op)
            else:
                return
            self.wanted.popleft()
            if event is not None:
                self._shadow.pump(self, event, cause)


class Shadow:
    """Two nodes and what they make of a genuine pair.

    nodes: the primary's and the secondary's.  differed is called for each difference; after
    `_MOST_DIFFERENCES` no more are told, all are counted.  why_asked says what the pair's proxy
    asked a checkpoint for, where there is one and our policy wanted none.
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        hands: Hands,
        observers: Iterable[Callable[[Line], None]] = (),
        differed: Callable[[Difference], None] = lambda difference: None,
        why_asked: Callable[[int], t.Mismatch | t.Stale] | None = None,
    ) -> None:
        self.hands = hands
        self.why_asked = why_asked
        self.differences = 0
        self.counts: Counter[str] = Counter()
        self.phases: dict[int, dict[str, Any]] = {}
        self.is_final = False
        self._differed = differed
        self._current: _Follower | None = None
        self._clock_ns = 0
        nodes = list(nodes)
        self._followers = {node.config.id: _Follower(self, node) for node in nodes}
        self._session = Session(nodes, _World(self), observers, self._ears())
        self._checkpoint = 0
        self._is_working = False
        self._has_begun = False
        self._closed: list[tuple[_Follower, Seen]] = []
        self._queued: deque[tuple[_Follower, int, t.Event, Cause]] = deque()

    def _ears(self) -> dict[type, Callable[[str, Any], None]]:
        def exited(node: str, signal: t.Exit) -> None:
            follower = self._followers[node]
            follower.is_over = True
            follower.over_ns, follower.over_why = follower.now_ns, signal.why
            follower.wanted.clear()
            follower._let_go()
            self.hands.hear(node, signal)

        def started(node: str, signal: t.CheckpointStarted) -> None:
            if node == PRIMARY:
                self._checkpoint = signal.checkpoint
                self.phases[signal.checkpoint] = {"checkpoint": signal.checkpoint}

        kinds = (t.Protected, t.Loaded, t.Completed, t.Alone)
        return {
            t.Exit: exited,
            t.CheckpointStarted: started,
            **dict.fromkeys(kinds, self.hands.hear),
        }

    # -- what the pair's manager does ----------------------------------------------------------

    def now_ns(self) -> int:
        """The latest time that is known here."""
        return self._clock_ns

    def see(self, seen: Seen) -> None:
        """Something was seen; what follows from it is fed.

        Both nodes begin when the first migration has passed; what was seen before is not COLO's.
        """
        self._clock_ns = max(self._clock_ns, seen.at_ns)
        if seen.what == "synchronised":
            self.begin(dict.fromkeys(self._followers, seen.at_ns))
            return
        own, peer = self._followers[seen.side], self._followers[_PEER[seen.side]]
        item = _Item(seen, self._clock_ns)
        if seen.what in _MONITOR:
            own.monitor.append(item)
        else:
            own.tap.append(item)
            peer.tap.append(_Item(seen, self._clock_ns, heard=True, said=item))
        self.work(self._clock_ns)

    def begin(self, times_ns: Mapping[str, int]) -> None:
        """The first synchronisation is complete on these sides, each by its own clock."""
        self._has_begun = True
        for name, at_ns in times_ns.items():
            follower = self._followers[name]
            while follower.monitor and follower.monitor[0].seen.at_ns < at_ns:
                follower.monitor.popleft()
            follower.now_ns = max(follower.now_ns, at_ns)
            follower.feed(t.Start())
        self.work(self._clock_ns)

    def logged(self, node: str, each: Iterable[tuple[Seen, bool]]) -> None:
        """What one QEMU logged, in its order: what it did, and (True) what it heard.

        Give both logs, if there are two, before `work`; what was heard and never said, as in a
        log alone, has no cause.
        """
        own, peer = self._followers[node], self._followers[_PEER[node]]
        own.tap.extend(_Item(seen, 0, heard) for seen, heard in each)
        for listener, speaker in ((own, peer), (peer, own)):
            said = deque(item for item in speaker.tap if not item.heard)
            for item in listener.tap:
                if not item.heard:
                    continue
                item.said = _Item(item.seen, 0, settled=True)
                places = [n for n, one in enumerate(said) if _same(one.seen, item.seen)]
                if places:
                    item.said = said[places[0]]
                    for _ in range(places[0] + 1):
                        said.popleft()

    def answer(self, node: str, event: t.Event, cause: Cause) -> None:
        """Feed this to the node as soon as it is not at work."""
        follower = self._followers[node]
        self._queued.append((follower, follower.now_ns, event, cause))

    def tell(self, node: str, event: t.Event, cause: Cause | None = None) -> None:
        """Feed an event that no QEMU made, now."""
        follower = self._followers[node]
        if not follower.is_down:
            follower.now_ns = max(follower.now_ns, self._clock_ns)
            follower.feed(event, cause)
            self.work(self._clock_ns)

    def down(self, node: str) -> None:
        """The node's host has failed, the node with it."""
        self._followers[node].is_down = True

    def tick(self, node: str, until_ns: int) -> None:
        """It is later than this, and what was seen up to then is in: feed a deadline that passed.

        A node whose QEMU is gone has nothing to decide any more.
        """
        self.work(until_ns)
        follower = self._followers[node]
        due_ns = follower.node.deadline_ns()
        if due_ns is None or due_ns > until_ns or follower.is_down or follower.is_gone:
            return
        follower.now_ns = max(follower.now_ns, until_ns)
        follower.feed(t.Tick())
        self.work(until_ns)

    def work(self, now_ns: int) -> None:
        """Use up what can be; also what has waited long enough."""
        self._clock_ns = max(self._clock_ns, now_ns)
        if self._is_working or not self._has_begun:
            return
        self._is_working = True
        try:
            while any(each.step(self._clock_ns) for each in self._followers.values()):
                self._feed_queued()
            self._feed_queued()
            self._end_the_closed()
        finally:
            self._is_working = False

    def _feed_queued(self) -> None:
        while self._queued:
            follower, at_ns, event, cause = self._queued.popleft()
            if not follower.is_down:
                follower.now_ns = max(follower.now_ns, at_ns)
                follower.feed(event, cause)

    def beat(self, node: str, at_ns: int, cause: Cause) -> None:
        """A node's heartbeat is under way to its peer: both are in this process."""
        self._queued.append((self._followers[_PEER[node]], at_ns, t.HeartbeatSeen(), cause))

    def _end_the_closed(self) -> None:
        for follower, seen in list(self._closed):
            waits = self._clock_ns - seen.at_ns < PATIENCE_NS and not self.is_final
            if follower.is_gone or follower.is_over or not waits:
                self._closed.remove((follower, seen))
                if not (follower.is_gone or follower.is_over or follower.is_down):
                    follower.now_ns = max(follower.now_ns, self._clock_ns)
                    follower.feed(t.LinkLost("its own QEMU closed the stream"))

    def finish(self, end_ns: int | None = None) -> None:
        """Nothing more will be seen: what was seen by ``end_ns`` and not used up differs.

        A want that was not met is no difference: a run may end at any moment.
        """
        if not self._has_begun:  # there was no pair to compare
            return
        for follower in self._followers.values():
            for channel in (follower.tap, follower.monitor):
                while end_ns is not None and channel and channel[-1].seen.at_ns > end_ns:
                    channel.pop()
        self.is_final = True
        self.work(self._clock_ns + PATIENCE_NS)
        while stuck := [each for each in self._followers.values() if each.tap]:
            stuck[0].unstick(self._followers[_PEER[stuck[0].id]])
            self.work(self._clock_ns + PATIENCE_NS)
        for follower in self._followers.values():
            lost = follower.over_ns is not None and follower.exited_ns is None
            if lost and not (follower.is_gone or follower.is_down) and follower.node.step != "dead":
                seen = f"no COLO_EXIT of its QEMU ({follower.over_why})"
                assert follower.over_ns is not None
                self.differ(
                    Difference(follower.over_ns, follower.id, follower.node.step, "one", seen)
                )

    # -- what followers do ---------------------------------------------------------------------

    def pump(self, follower: _Follower, event: t.Event, cause: Cause | None) -> None:
        before, self._current = self._current, follower
        self._session.pump(follower.id, event, cause)
        self._current = before

    def tell_output(self, follower: _Follower, before_ns: int | None) -> None:
        """Tell the node of output that was read before this time."""
        made = self.hands.made(follower.id, before_ns)
        if made is not None:
            self.pump(follower, t.GuestOutput(*made), None)

    def note(self, node: str, item: _Item) -> None:
        """Keep what a checkpoint's row of times and sizes is made of."""
        seen = item.seen
        row = self.phases.get(self._checkpoint)
        word = ("receive " if item.heard else "") + (
            _NAMES.get(seen.data[:4], "?") if seen.what == "message" else seen.what
        )
        column = _COLUMNS.get((node, word))
        if row is None or column is None:
            return
        row.setdefault(column, seen.at_ns)
        if seen.what == "ram":
            row |= {"pages": seen.pages, "zero_pages": seen.zeros, "ram_bytes": seen.size_bytes}
        elif seen.what == "device":
            row["device_bytes"] = seen.size_bytes

    def differ(self, difference: Difference) -> None:
        self.differences += 1
        if self.differences <= _MOST_DIFFERENCES:
            self._differed(difference)

    def gone(self, follower: _Follower) -> None:
        """The peer's manager need not wait for its own stream to end, or for a time-out."""
        peer = self._followers[_PEER[follower.id]]
        if not peer.is_down:
            peer.now_ns = max(peer.now_ns, follower.now_ns)
            peer.feed(t.PeerGone(f"the {follower.id}'s QEMU ended"))

    @property
    def waits(self) -> bool:
        """Something was seen and not used up: `work` must be called when its patience ends."""
        return bool(self._closed) or any(
            each.tap or each.monitor for each in self._followers.values()
        )

    def closed(self, follower: _Follower, seen: Seen) -> None:
        self._closed.append((follower, seen))

    @property
    def current(self) -> _Follower | None:
        return self._current

    def follower(self, node: str) -> _Follower:
        return self._followers[node]


class _World:
    """The session's view: wants are kept, the rest is given to the hands."""

    _EXPECTED = (
        *(t.Quiesce, t.StopVm, t.Drain, t.Save, t.SendMessage, t.SendState, t.Load, t.StartVm),
    )

    def __init__(self, shadow: Shadow) -> None:
        self._shadow = shadow

    def now_ns(self) -> int:
        current = self._shadow.current
        return 0 if current is None else current.now_ns

    def perform(self, node_id: str, action: t.Action, cause: Cause) -> None:
        if isinstance(action, self._EXPECTED):
            self._shadow.follower(node_id).wanted.append((action, cause))
        elif isinstance(action, t.Heartbeat):
            self._shadow.beat(node_id, self.now_ns(), cause)
        else:
            self._shadow.hands.perform(node_id, action, cause)

    def wake_at(self, node_id: str, when_ns: int | None) -> None:
        self._shadow.hands.wake_at(node_id, when_ns)


def _same(one: Seen, other: Seen) -> bool:
    return (one.what, one.data) == (other.what, other.data)


def _name(item: _Item) -> str:
    seen = item.seen
    verb = "receive" if item.heard else "send"
    if seen.what == "message":
        name = _NAMES.get(seen.data[:4])
        return f"{verb} {name or seen.data.hex()}"
    if seen.what in ("ram", "device"):
        return f"{verb} {seen.what} of {seen.size_bytes} bytes"
    return f"{seen.what} {seen.why}".rstrip()


def _wish(action: t.Action) -> str:
    match action:
        case t.SendMessage(data):
            return f"send {_NAMES[data]}"
        case t.SendState(_, chunks):
            return f"send a state of {len(chunks)} parts"
        case t.StopVm():
            return "stop"
        case t.StartVm():
            return "start"
        case _:
            return type(action).__name__.lower()
