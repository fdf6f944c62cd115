"""A small deterministic world that drives a pair of nodes through whatever can go wrong.

`run(setup, plan)` gives a finished `World`; `problems(world)` says in words what was wrong with
the run, and `story(world)` tells it line by line.  A `Plan` is data drawn by Hypothesis: client
requests, faults, and a `Tape` of small choices (delays, chunk boundaries, what a dying link still
delivers).  Zeros on the tape are the calm choices, so a shrunk plan is a plain story.

Guests are honest about content.  A guest answers request ``i`` of stream ``s`` with the digest
``s:i``, the same on both sides, unless the plan makes it diverge: then the digest gets a suffix
that no other run ever says.  All answers a guest has given are part of its state, so Save, Load
and takeover carry them, and at the end the survivor's own memory is held against every answer
that reached a client (`World.contradictions`).

Hosts are "a" (primary) and "b" (secondary).  Time is counted in ns like everywhere, only small.
"""

from __future__ import annotations

import heapq
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import cycle
from typing import Any

from colosim.protocol import invariants, trace
from colosim.protocol import types as t
from colosim.protocol.checkpoint import Limits, Quirks, Rounds, Transfer
from colosim.protocol.codec import EMPTY
from colosim.protocol.combinations import refusals
from colosim.protocol.dialect import DIALECTS, Message
from colosim.protocol.manager import ManagerConfig, Witness
from colosim.protocol.node import Node, NodeConfig
from colosim.protocol.trace import Line
from colosim.session import Cause, Session

OTHER = {"a": "b", "b": "a"}
STREAMS = {"s": 1, "u": 3}  # name -> length of one answer
SLOW_NS, LATE_NS = 60, 300  # within and beyond the limits of operations
HORIZON_NS = 3_000
MAX_EVENTS = 20_000  # a run that makes more does not come to rest

# Limits of waits are longer than all that the other side may rightly do meanwhile.
OWN_NS, WAIT_NS = 130, 200
LIMITS = Limits(
    ready_ns=WAIT_NS,
    quiesce_ns=OWN_NS,
    request_ns=WAIT_NS,
    stop_ns=OWN_NS,
    cut_ns=OWN_NS,
    save_ns=OWN_NS,
    send_ns=OWN_NS,
    received_ns=WAIT_NS,
    loaded_ns=WAIT_NS,
    resume_ns=OWN_NS,
    load_ns=OWN_NS,
    receive_ns=WAIT_NS,
    precopy_ns=2 * OWN_NS,  # of all rounds
)
MANAGER = ManagerConfig(
    heartbeat_interval_ns=50, heartbeat_timeout_ns=130, vote_timeout_ns=40, fence_timeout_ns=60
)
OVER = frozenset(("frozen", "exited", "failover", "takeover", "alone", "dead", "broken"))


# -- what is run -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setup:
    """How a pair is configured."""

    dialect: str
    policy: str
    transfer: Transfer
    commit: Message | None
    quirks: Quirks

    def __str__(self) -> str:
        commit = self.commit or "own"
        return f"{self.dialect}-{self.policy}-{self.transfer}-commit:{commit}-quirks:{self.quirks}"

    def choices(self) -> dict[str, str]:
        """As `refusals` wants them."""
        names = ("dialect", "policy", "transfer", "quirks")
        return {name: str(getattr(self, name)) for name in names}

    def config(self, role: t.Role, params: tuple[tuple[str, int], ...] = ()) -> NodeConfig:
        return NodeConfig(
            id="a" if role is t.Role.PRIMARY else "b",
            role=role,
            dialect=self.dialect,
            policy=self.policy,
            policy_params=params,
            limits=LIMITS,
            manager=MANAGER,
            transfer=self.transfer,
            quirks=self.quirks,
            commit=self.commit,
            rounds=Rounds(threshold_bytes=0, most=2),
        )


def all_setups() -> Iterator[Setup]:
    """Every combination that a scenario may ask for; of policies that share rules, some."""
    setups = [
        Setup(dialect, policy, transfer, commit, quirks)
        for policy in ("remus", "colo")
        for transfer in Transfer
        for dialect, commits, defects in (
            ("upstream", (None, Message.LOADED), tuple(Quirks)),
            ("rfc2014", (None,), (Quirks.NONE,)),
        )
        for commit in commits
        for quirks in defects
    ]
    setups += [
        Setup("upstream", policy, transfer, commit, Quirks.NONE)
        for policy, transfer, commit in (
            ("hybrid", Transfer.STOP_AND_SEND, None),
            ("hybrid", Transfer.COPY_THEN_SEND, Message.LOADED),
            ("adaptive", Transfer.PRECOPY, None),
        )
    ]
    return (setup for setup in setups if not [*refusals(setup.choices())])


@dataclass(frozen=True, slots=True)
class At:
    """A fault's time."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class AtStep:
    """A fault's moment: when this side's node enters a step for the n-th time."""

    side: str
    step: str
    nth: int


When = At | AtStep


@dataclass(frozen=True, slots=True)
class Crash:
    """A guest, a node or a whole host ends; ``told``: the world can tell the peer, and does."""

    when: When
    side: str
    scope: str  # vm | node | host
    told: bool


@dataclass(frozen=True, slots=True)
class Hang:
    """A guest, a node or a whole host stands still, for a while or (None) for ever."""

    when: When
    side: str
    scope: str
    for_ns: int | None


@dataclass(frozen=True, slots=True)
class CutLink:
    """The checkpoint stream breaks, or with ``everything`` all between the hosts."""

    when: When
    told: bool
    everything: bool


@dataclass(frozen=True, slots=True)
class Junk:
    """Bytes that nobody sent appear in the stream to ``side``.

    At a message boundary a first byte of 0x80 or more is no message of either dialect.  Anything
    else may be a well-formed lie, which no receiver can tell from the truth (``forged``).
    """

    when: When
    side: str
    data: bytes

    @property
    def forged(self) -> bool:
        return self.data[0] < 0x80


@dataclass(frozen=True, slots=True)
class Slip:
    """The n-th action of this kind on this side fails or (``late``) takes too long."""

    side: str
    action: str
    nth: int
    late: bool


@dataclass(frozen=True, slots=True)
class Mute:
    """This side's heartbeats are lost, for a while or for ever."""

    when: When
    side: str
    for_ns: int | None


@dataclass(frozen=True, slots=True)
class NoArbiter:
    """The arbiter cannot be reached from this side, for a while or for ever."""

    when: When
    side: str
    for_ns: int | None


@dataclass(frozen=True, slots=True)
class SwitchOver:
    """No fault at all: somebody wants the secondary to go on."""

    when: When


Fault = SwitchOver | Crash | Hang | CutLink | Junk | Slip | Mute | NoArbiter


@dataclass(frozen=True, slots=True)
class Request:
    """A client asks; ``diverges``: none, or whose answer differs: this one, or all from here."""

    gap_ns: int
    stream: str
    diverges: str  # "" | a | b | a+ | b+


@dataclass(frozen=True, slots=True)
class Plan:
    """One sequence: everything that a run depends on."""

    requests: tuple[Request, ...] = ()
    faults: tuple[Fault, ...] = ()
    tape: bytes = b"\0"
    raw: bool = False  # bulk data crosses as bytes, not as Blobs
    gap_ns: int = 0  # colo's minimum_gap
    slow: tuple[str, str] | None = None  # (side, operation) that takes its time, within limits


class Tape:
    """Small choices out of a string of bytes, read round and round."""

    WAITS_NS = (0, 1, 2, 3, 5, 8, 13, 20)

    def __init__(self, data: bytes) -> None:
        self._bytes = cycle(data or b"\0")

    def upto(self, most: int) -> int:
        return next(self._bytes) % (most + 1)

    def yes(self) -> bool:
        return next(self._bytes) % 4 == 3

    def op_ns(self) -> int:
        return self.WAITS_NS[next(self._bytes) & 7]

    def transit_ns(self) -> int:
        return self.WAITS_NS[next(self._bytes) % 6]


# -- the parts of a world --------------------------------------------------------------------


@dataclass(slots=True)
class Guest:
    """A guest: what it has said, how much it was asked, and whether it runs."""

    said: dict[str, list[str]] = field(default_factory=lambda: {s: [] for s in STREAMS})
    asked: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))
    taint: str = ""  # what makes its answers differ from the other guest's
    base: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))
    running: bool = False
    hung: bool = False
    gone: bool = False
    life: int = 0  # changes when it stops, loads or hangs: work begun before is void

    def copy(self) -> Guest:
        said = {stream: list(answers) for stream, answers in self.said.items()}
        return Guest(said, dict(self.asked), self.taint)


class Channel:
    """First in, first out; each item is delivered after a wait of its own, or with the next."""

    def __init__(self, world: World, deliver: Callable[..., None]) -> None:
        self.items: deque[Any] = deque()
        self._world = world
        self._deliver = deliver

    def put(self, item: Any) -> None:
        self.items.append(item)
        self._world.after(self._world.tape.transit_ns(), self._next)

    def _next(self) -> None:
        if self.items:
            self._deliver(*self.items.popleft())


class Pipe(Channel):
    """One direction of the checkpoint stream: bytes in any chunking, blobs whole."""

    def _next(self) -> None:
        if not self.items:
            return
        chunk, cause = self.items.popleft()
        if isinstance(chunk, bytes):
            tape = self._world.tape
            if self.items and isinstance(self.items[0][0], bytes) and tape.yes():
                more, cause = self.items.popleft()
                chunk += more
            cut = tape.upto(255) * len(chunk) // 256
            if cut:
                self.items.appendleft((chunk[cut:], cause))
                self._world.after(tape.transit_ns(), self._next)
                chunk = chunk[:cut]
        self._deliver(chunk, cause)

    def inject(self, data: bytes) -> None:
        """Put bytes behind all that was sent, or a little before its end."""
        if self.items and isinstance(self.items[-1][0], bytes):
            last, cause = self.items.pop()
            cut = len(last) - self._world.tape.upto(len(last) - 1)
            self.put((last[:cut] + data + last[cut:], cause))
        else:
            self.put((data, None))

    def break_off(self) -> None:
        """Only some of what is on its way still arrives."""
        keep = self._world.tape.upto(len(self.items))
        while len(self.items) > keep:
            self.items.pop()


class Host:
    """One side: a node, its guest, and what connects them."""

    def __init__(self, world: World, side: str) -> None:
        self.side = side
        self.guest = Guest()
        self.node_up = True
        self.node_hung = False
        self.mailbox: list[tuple[t.Event, Cause | None]] = []  # for a node that hangs
        self.ops: deque[t.Action] = deque()  # operations on the guest, in order
        self.deferred: list[Callable[[], None]] = []  # what a hung guest has yet to finish
        self.start_ns = world.tape.transit_ns()
        self.reaped_ns = 0  # when the guest's end becomes known
        self.wake_ns: int | None = None
        self.output = Channel(world, lambda event: world.tell(side, event))
        self.witness = Channel(world, lambda event, cause: world.tell(side, event, cause))
        self.inlet = Pipe(world, partial(world.arrive, side))


class World:
    """The world: an event queue, two hosts, one stream between them, clients and an arbiter.

    ``machines`` replaces the table of a side's node.
    """

    def __init__(self, setup: Setup, plan: Plan, machines: dict[str, Any] | None = None) -> None:
        self.setup, self.plan = setup, plan
        self.tape = Tape(plan.tape)
        self.now = 0
        self.tale: list[Line | str] = []
        self.error = ""
        self.fired: list[Fault] = []
        self.steps = {"a": "", "b": ""}
        self.visits: Counter[tuple[str, str]] = Counter()
        self.seen: Counter[type] = Counter()  # signals and actions of both sides
        self.log: dict[str, list[str]] = {stream: [] for stream in STREAMS}  # requests so far
        self.made: dict[tuple[str, t.Range], str] = {}
        self.reached: list[tuple[str, t.Range, str]] = []  # what clients got: side, range, digest
        self.dropped: list[tuple[str, t.Range]] = []
        self.hosts = {side: Host(self, side) for side in OTHER}
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._library: dict[tuple[str, str], Guest] = {}
        self._bulk: dict[str, bytes] = {}
        self._arbiter = Witness()
        self._held: set[str] = set()  # sides that hold client input back
        self._promoted = ""
        self._open, self._silent, self._parted = True, False, False
        self._muted = dict.fromkeys(OTHER, 0)
        self._deaf = dict.fromkeys(OTHER, 0)
        self._tries: Counter[tuple[str, str]] = Counter()
        self._disturbed_ns = 0
        self._busy_until_ns = 0
        self._performers: dict[type, Callable[..., None]] = {
            t.Precopy: self._precopy,
            t.Quiesce: self._quiesce,
            t.Drain: self._drain,
            t.SendMessage: self._send_message,
            t.SendState: self._send_state,
            t.CloseLink: self._close_link,
            t.OfferWitness: self._offer_witness,
            t.Release: self._release,
            t.Drop: self._drop,
            t.Heartbeat: self._heartbeat,
            t.AskVote: self._ask_vote,
            t.Fence: self._fence,
            t.Promote: self._promote,
            t.Report: lambda host, action, cause: None,
            **dict.fromkeys((t.StopVm, t.Save, t.Copy, t.Load, t.StartVm), self._guest_op),
        }
        self._strikes: dict[type, Callable[..., None]] = {
            SwitchOver: lambda fault: self.tell("a", t.HandOver()),
            Crash: self._crash,
            Hang: self._hang,
            CutLink: self._cut_link,
            Junk: self._junk,
            Mute: lambda fault: self._shut(self._muted, fault),
            NoArbiter: lambda fault: self._shut(self._deaf, fault),
        }
        colo = (
            ("checkpoint_delay_ns", 150),
            ("compare_timeout_ns", 60),
            ("minimum_gap_ns", plan.gap_ns),
        )
        params: dict[str, tuple[tuple[str, int], ...]] = {
            "remus": (("interval_ns", 70),),
            "microcheckpoint": (("interval_ns", 70),),
            "adaptive": (("minimum_interval_ns", 30), ("maximum_interval_ns", 150)),
            "colo": colo,
            "hybrid": (
                *colo,
                ("interval_ns", 50),
                ("storm_checkpoints", 1),
                ("storm_window_ns", 400),
                ("calm_epochs", 1),
            ),
        }
        configs = [setup.config(role, params[setup.policy]) for role in t.Role]
        tables = machines or {}
        nodes = [Node(config, tables.get(config.id)) for config in configs]
        self._slip_faults = [f for f in plan.faults if isinstance(f, Slip)]
        self._at_step: dict[When, list[Fault]] = {}
        for fault in plan.faults:
            if not isinstance(fault, Slip):
                self._at_step.setdefault(fault.when, []).append(fault)
        self.session = Session(nodes, self, (self._see,))

    # -- the queue -------------------------------------------------------------------------

    def after(self, wait_ns: int, what: Callable[[], None], first: bool = False) -> None:
        self._count += 1
        rank = -self._count if first else self._count
        heapq.heappush(self._queue, (self.now + wait_ns, rank, what))

    def run(self) -> None:
        """Until all that the plan holds has happened and its consequences are over."""
        for side, host in self.hosts.items():
            self.after(host.start_ns, partial(self._start, side))
        at_ns = 0
        for request in self.plan.requests:
            at_ns += request.gap_ns
            self.after(at_ns, partial(self._request, request))
        for fault in self.plan.faults:
            if not isinstance(fault, Slip) and isinstance(fault.when, At):
                self.after(fault.when.at_ns, partial(self._strike, fault))
                at_ns = max(at_ns, fault.when.at_ns)
        self._busy_until_ns = at_ns
        queue = self._queue
        rest_ns = 0
        try:
            while queue and queue[0][0] <= HORIZON_NS:
                self.now, _, what = heapq.heappop(queue)
                if self.now >= rest_ns:
                    if self._at_rest():
                        break
                    rest_ns = self.now + 20
                what()
                if self.session.events > MAX_EVENTS:
                    raise RuntimeError(f"more than {MAX_EVENTS} events: it never comes to rest")
        except Exception:
            self.error = traceback.format_exc(limit=-6)

    def _start(self, side: str) -> None:
        if not self.hosts[side].guest.gone:  # else there is nothing to synchronise
            self.tell(side, t.Start())

    def _at_rest(self) -> bool:
        if self.now <= self._busy_until_ns:
            return False
        quiet_ns = self.now - max(self._disturbed_ns, self._busy_until_ns)
        alone = self.alone()
        if not self.fired:
            return self.seen[t.Completed] > 0 and self.served("a")
        if alone:
            return quiet_ns > 200 and self.served(alone[0])
        lasting = any(is_lasting(fault) for fault in self.fired)
        if not lasting and self.intact() and self.served("a"):
            return quiet_ns > 500
        return quiet_ns > 1_000

    # -- the contract of a world -----------------------------------------------------------

    def now_ns(self) -> int:
        return self.now

    def perform(self, node_id: str, action: t.Action, cause: Cause) -> None:
        self._performers[type(action)](self.hosts[node_id], action, cause)

    def wake_at(self, node_id: str, when_ns: int | None) -> None:
        host = self.hosts[node_id]
        if when_ns != host.wake_ns:
            host.wake_ns = when_ns
            if when_ns is not None:
                wait_ns = max(when_ns - self.now, 0)
                self.after(wait_ns, partial(self._wake, host, when_ns))

    def _wake(self, host: Host, when_ns: int) -> None:
        if host.wake_ns == when_ns:
            host.wake_ns = None
            self.tell(host.side, t.Tick())

    def tell(self, side: str, event: t.Event, cause: Cause | None = None) -> None:
        """Feed an event, unless the node is beyond hearing it."""
        host = self.hosts[side]
        if host.node_hung:
            host.mailbox.append((event, cause))
        elif host.node_up:
            self.session.pump(side, event, cause)

    def _see(self, line: Line) -> None:
        self.tale.append(line)
        if line.kind in ("signal", "action"):
            self.seen[type(line.body)] += 1
        if line.step != self.steps[line.node]:
            self.steps[line.node] = line.step
            self.visits[line.node, line.step] += 1
            entry = AtStep(line.node, line.step, self.visits[line.node, line.step])
            for fault in self._at_step.get(entry, ()):
                self.after(0, partial(self._strike, fault), first=True)

    # -- clients and guests ----------------------------------------------------------------

    def _request(self, request: Request) -> None:
        self.log[request.stream].append(request.diverges)
        self._busy_until_ns = max(self._busy_until_ns, self.now + 20)
        for host in self.hosts.values():
            self._let_input_flow(host)

    def _let_input_flow(self, host: Host) -> None:
        guest = host.guest
        if self._promoted not in ("", host.side) or (self._held and not self._promoted):
            return
        if guest.running and not guest.gone:
            for stream, log in self.log.items():
                guest.asked[stream] = len(log)
                self._work(host, stream)

    def _work(self, host: Host, stream: str) -> None:
        guest = host.guest
        if len(guest.said[stream]) < guest.asked[stream]:
            self.after(self.tape.op_ns(), partial(self._answer, host, stream, guest.life))

    def _answer(self, host: Host, stream: str, life: int) -> None:
        guest, answers = host.guest, host.guest.said[stream]
        able = guest.life == life and guest.running and not guest.gone and not guest.hung
        if not able or len(answers) >= guest.asked[stream]:
            return
        index = len(answers)
        diverges = self.log[stream][index]
        once = ""
        if diverges[:1] == host.side:
            unique = f"~{host.side}{self._count}"
            if diverges.endswith("+"):
                guest.taint = unique
            else:
                once = unique
        answers.append(f"{stream}:{index}{guest.taint}{once}")
        length = STREAMS[stream]
        range_ = t.Range(stream, index * length, (index + 1) * length)
        self.made[host.side, range_] = answers[-1]
        host.output.put((t.GuestOutput(range_, answers[-1]),))
        self._work(host, stream)

    # -- operations ------------------------------------------------------------------------

    def _op_ns(self, host: Host, action: t.Action, slip: Slip | None) -> int:
        if slip is not None and slip.late:
            return LATE_NS
        slow = self.plan.slow == (host.side, type(action).__name__)
        return SLOW_NS if slow else self.tape.op_ns()

    def _slips(self, host: Host, action: t.Action) -> Slip | None:
        kind = (host.side, type(action).__name__)
        self._tries[kind] += 1
        for slip in self._slip_faults:
            if (slip.side, slip.action) == kind and slip.nth == self._tries[kind]:
                self._note(slip)
                return slip
        return None

    def _end(self, host: Host, op: int, why: str = "", state: t.State | None = None) -> None:
        event: t.Event = t.Failed(op, why) if why else t.Done(op, state)
        self.after(self.tape.upto(3), partial(self.tell, host.side, event))

    def _guest_op(self, host: Host, action: t.Action, cause: Cause) -> None:
        host.ops.append(action)
        if len(host.ops) == 1:
            self._begin(host)

    def _begin(self, host: Host) -> None:
        slip = self._slips(host, host.ops[0])
        wait_ns = self._op_ns(host, host.ops[0], slip)
        fails = slip is not None and not slip.late
        self.after(wait_ns, partial(self._finish, host, fails))

    def _finish(self, host: Host, fails: bool) -> None:
        guest = host.guest
        if guest.hung:
            host.deferred.append(partial(self._finish, host, fails))
            return
        action: Any = host.ops.popleft()
        why, state = "", None
        if guest.gone:
            why = "no such guest"
        elif isinstance(action, t.Load):
            why = self._load(host, action, fails)
        elif fails:
            why = "it did not work"
        elif isinstance(action, t.StopVm):
            guest.running = False
            guest.life += 1
        elif isinstance(action, t.StartVm):
            self._held.discard(host.side)
            guest.running = True
            for each in self.hosts.values():
                self._let_input_flow(each)
        else:
            state = self._state_of(guest)
        known_ns = max(host.reaped_ns - self.now, 0) if guest.gone else 0
        self.after(known_ns, partial(self._end, host, action.op, why, state))
        if host.ops:
            self._begin(host)

    def _state_of(self, guest: Guest) -> t.State:
        """A snapshot, filed under the digests by which either form of transport names it."""
        payload = repr((self._count, guest.said)).encode()[:1_000]
        ram = b"\x08\0\0" + len(payload).to_bytes(2, "big") + payload + b"\0"
        device = b"devices of %d" % self._count
        snapshot = guest.copy()
        self._library["", digest(ram + device)] = snapshot
        self._library[digest(ram), digest(device)] = snapshot
        self._bulk |= {digest(part): part for part in (ram, device)}
        return t.State(blob("ram", ram), blob("state", device))

    def _load(self, host: Host, action: t.Load, fails: bool) -> str:
        state = action.state
        ram = "" if state.ram == EMPTY else state.ram.digest
        snapshot = self._library.get((ram, state.device.digest))
        life = host.guest.life + 1
        if fails or snapshot is None:  # half loaded: whatever it says now is wrong
            host.guest.taint, host.guest.life = "~garbage", life
            return "half loaded"
        host.guest = snapshot.copy()
        host.guest.life = life
        host.guest.base = {stream: len(said) for stream, said in host.guest.said.items()}
        return ""

    def _precopy(self, host: Host, action: t.Precopy, cause: Cause) -> None:
        slip = self._slips(host, action)
        wait_ns = self._op_ns(host, action, slip)
        fails = slip is not None and not slip.late
        self.after(wait_ns, partial(self._precopied, host, action.op, fails))

    def _precopied(self, host: Host, op: int, fails: bool) -> None:
        guest = host.guest
        if guest.gone or fails:
            known_ns = max(host.reaped_ns - self.now, 0) if guest.gone else 0
            self.after(known_ns, partial(self._end, host, op, "broken pipe"))
        else:
            over = t.Precopied(op, 100, self.tape.upto(1))
            self.after(self.tape.upto(3), partial(self.tell, host.side, over))

    def _quiesce(self, host: Host, action: t.Quiesce, cause: Cause) -> None:
        self._held.add(host.side)
        self._plain_op(host, action, action.op)

    def _drain(self, host: Host, action: t.Drain, cause: Cause) -> None:
        self._plain_op(host, action, action.op)

    def _plain_op(self, host: Host, action: t.Action, op: int) -> None:
        """An operation that needs no guest."""
        slip = self._slips(host, action)
        wait_ns = self._op_ns(host, action, slip)
        why = "it did not work" if slip and not slip.late else ""
        self.after(wait_ns, partial(self._plain_end, host, op, why))

    def _plain_end(self, host: Host, op: int, why: str) -> None:
        if host.output.items:  # Done of Drain comes after the output; for others it is no harm
            self.after(1, partial(self._plain_end, host, op, why))
        else:
            self._end(host, op, why)

    # -- the stream ------------------------------------------------------------------------

    def _send_message(self, host: Host, action: t.SendMessage, cause: Cause) -> None:
        self._write(host, action.data, cause)

    def _send_state(self, host: Host, action: t.SendState, cause: Cause) -> None:
        chunks = list(action.chunks)
        if self.plan.raw:
            chunks = [c if isinstance(c, bytes) else self._bulk[c.digest] for c in chunks]
        slip = self._slips(host, action)
        fails = slip is not None and not slip.late
        if fails:
            chunks = chunks[: self.tape.upto(len(chunks) - 1)]
        step_ns = LATE_NS // len(chunks) if slip and slip.late else self.tape.upto(3)
        for index, chunk in enumerate(chunks):
            self.after(index * step_ns, partial(self._write, host, chunk, cause))
        self.after(len(chunks) * step_ns, partial(self._sent, host, action.op, fails))

    def _sent(self, host: Host, op: int, fails: bool) -> None:
        if self._silent and self.tape.yes():  # TCP gives up at last
            self.after(LATE_NS, partial(self._end, host, op, "timed out"))
        else:
            broken = fails or not (self._open or self._silent)
            self._end(host, op, "broken pipe" if broken else "")

    def _write(self, host: Host, chunk: bytes | t.Blob, cause: Cause) -> None:
        if self._open and host.node_up:
            self.hosts[OTHER[host.side]].inlet.put((chunk, cause))

    def arrive(self, side: str, chunk: bytes | t.Blob | None, cause: Cause | None) -> None:
        """The stream's next piece, or None for its end."""
        if chunk is None:
            self.tell(side, t.LinkLost("the stream ended"), cause)
        elif isinstance(chunk, bytes):
            self.tell(side, t.PeerBytes(chunk), cause)
        else:
            self.tell(side, t.PeerBlob(chunk), cause)

    def _close_link(self, host: Host, action: t.CloseLink, cause: Cause) -> None:
        if self._open:
            self._open = False
            self.hosts[OTHER[host.side]].inlet.put((None, cause))
            host.inlet.items.clear()
            if self.tape.yes():
                host.inlet.put((None, None))

    def _lose_link(self, told: tuple[str, ...]) -> None:
        if self._open:
            self._open = False
            self._silent = not told
            for side, host in self.hosts.items():
                host.inlet.break_off()
                if side in told:
                    host.inlet.put((None, None))

    # -- output, heartbeats, arbitration ---------------------------------------------------

    def _offer_witness(self, host: Host, action: t.OfferWitness, cause: Cause) -> None:
        if not self._parted:
            event = t.PeerOutput(action.range, action.digest, action.epoch)
            self.hosts[OTHER[host.side]].witness.put((event, cause))

    def _release(self, host: Host, action: t.Release, cause: Cause) -> None:
        for range_ in action.ranges:
            said = self.made.get((host.side, range_), "nothing")
            self.reached.append((host.side, range_, said))

    def _drop(self, host: Host, action: t.Drop, cause: Cause) -> None:
        self.dropped += [(host.side, range_) for range_ in action.ranges]

    def _heartbeat(self, host: Host, action: t.Heartbeat, cause: Cause) -> None:
        if not self._parted and self.now >= self._muted[host.side]:
            beat = partial(self.tell, OTHER[host.side], t.HeartbeatSeen(), cause)
            self.after(self.tape.transit_ns(), beat)

    def _ask_vote(self, host: Host, action: t.AskVote, cause: Cause) -> None:
        slip = self._slips(host, action)
        if slip is None or slip.late:
            wait_ns = LATE_NS if slip else self.tape.transit_ns()
            self.after(wait_ns, partial(self._vote, host.side, action.op))

    def _vote(self, side: str, op: int) -> None:
        if self.now >= self._deaf[side]:
            granted = self.arbitrate(side)
            self.after(self.tape.transit_ns(), partial(self._answer_vote, side, op, granted))

    def arbitrate(self, side: str) -> bool:
        return self._arbiter.ask(side)

    def _answer_vote(self, side: str, op: int, granted: bool) -> None:
        if self.now >= self._deaf[side]:
            self.tell(side, t.VoteSeen(op, granted))

    def _fence(self, host: Host, action: t.Fence, cause: Cause) -> None:
        slip = self._slips(host, action)
        wait_ns = self._op_ns(host, action, slip)
        fails = slip is not None and not slip.late
        self.after(wait_ns, partial(self._fenced, host, action.op, fails))

    def _fenced(self, host: Host, op: int, fails: bool) -> None:
        if not fails:
            self.fence(self.hosts[OTHER[host.side]])
        self._end(host, op, "no answer from the power switch" if fails else "")

    def fence(self, host: Host) -> None:
        """Switch a host off, which is what fencing claims."""
        self.tale.append(f"host {host.side} is switched off")
        self._kill(host, "host")
        self._lose_link(tuple(OTHER[host.side]) if self.tape.yes() else ())

    def _promote(self, host: Host, action: t.Promote, cause: Cause) -> None:
        self._promoted = host.side
        self._let_input_flow(host)

    # -- faults ----------------------------------------------------------------------------

    def _strike(self, fault: Fault) -> None:
        if isinstance(fault, (Crash, Hang)) and not self.hosts[fault.side].node_up:
            return  # no more harm to be done there
        self._note(fault)
        self._strikes[type(fault)](fault)

    def _note(self, fault: Fault) -> None:
        self.fired.append(fault)
        self.tale.append(f"fault: {fault}")
        self._disturbed_ns = self.now + (getattr(fault, "for_ns", 0) or 0)

    def _crash(self, fault: Crash) -> None:
        host, side = self.hosts[fault.side], fault.side
        self._kill(host, fault.scope)
        peer = OTHER[side]
        if fault.scope == "vm":
            # Whoever reaps a guest says so before the node may hear what else comes of it: else
            # it would ask for the right to go on with a guest that is no more.
            gone_ns = self.tape.op_ns()
            host.reaped_ns = self.now + gone_ns
            self.after(gone_ns, partial(self.tell, side, t.VmGone("killed")))
            if fault.told:
                self.after(gone_ns, partial(self._lose_link, (side, peer)))
        else:
            self._lose_link((peer,) if fault.told else ())
            if fault.told:
                wait_ns = max(self.tape.op_ns(), self.hosts[peer].start_ns - self.now)
                self.after(wait_ns, partial(self.tell, peer, t.PeerGone("reaped")))

    def _kill(self, host: Host, scope: str) -> None:
        if scope != "vm":
            host.node_up = host.node_hung = False
        if scope != "node":
            guest = host.guest
            guest.gone, guest.hung, guest.running = True, False, False
            self._go_on(host)
            if scope == "host":
                host.output.items.clear()

    def _hang(self, fault: Hang) -> None:
        host = self.hosts[fault.side]
        if fault.scope != "vm":
            host.node_hung = True
        if fault.scope != "node":
            host.guest.hung = True
            host.guest.life += 1
        if fault.for_ns is not None:
            self.after(fault.for_ns, partial(self._unhang, host))

    def _unhang(self, host: Host) -> None:
        host.guest.hung = False
        self._go_on(host)
        for stream in STREAMS:
            self._work(host, stream)
        if host.node_hung:
            host.node_hung = False
            mail, host.mailbox = host.mailbox, []
            for event, cause in mail:
                self.tell(host.side, event, cause)

    def _go_on(self, host: Host) -> None:
        deferred, host.deferred = host.deferred, []
        for what in deferred:
            self.after(0, what)

    def _cut_link(self, fault: CutLink) -> None:
        self._parted = self._parted or fault.everything
        self._lose_link(tuple(OTHER) if fault.told else ())

    def _junk(self, fault: Junk) -> None:
        if self._open:
            self.hosts[fault.side].inlet.inject(fault.data)

    def _shut(self, until_ns: dict[str, int], fault: Mute | NoArbiter) -> None:
        until_ns[fault.side] = HORIZON_NS if fault.for_ns is None else self.now + fault.for_ns

    # -- how it ended ----------------------------------------------------------------------

    def lines(self) -> list[Line]:
        return [line for line in self.tale if isinstance(line, Line)]

    def alone(self) -> list[str]:
        """Sides that serve alone: node and guest are well and know it."""
        return [side for side in OTHER if self.steps[side] == "alone" and self._well(side)]

    def _well(self, side: str) -> bool:
        host = self.hosts[side]
        broken = host.node_hung or host.guest.gone or host.guest.hung
        return host.node_up and not broken

    def intact(self) -> bool:
        """Both sides are well and the pair is still in step."""
        return all(self._well(side) and self.steps[side] not in OVER for side in OTHER)

    def served(self, side: str) -> bool:
        """This side has answered every request, and all that it made has reached the clients.

        What a secondary made before its last load was never its own to release.
        """
        guest = self.hosts[side].guest
        out = {range_ for who, range_, _ in self.reached if who == side}
        return all(
            len(guest.said[stream]) == len(log)
            and all(
                t.Range(stream, index * length, (index + 1) * length) in out
                for index in range(guest.base[stream], len(log))
            )
            for (stream, length), log in zip(STREAMS.items(), self.log.values(), strict=True)
        )

    def contradictions(self) -> list[str]:
        """Answers that reached clients and that a side which now serves remembers otherwise."""
        found = []
        for side in self.alone():
            said = self.hosts[side].guest.said
            for who, range_, answer in self.reached:
                index = range_.first // STREAMS[range_.stream]
                answers = said[range_.stream]
                if index < len(answers) and answers[index] != answer:
                    found.append(f"{who} told clients {answer}, {side} says {answers[index]}")
        return found


def digest(data: bytes) -> str:
    return blake2b(data, digest_size=8).hexdigest()


def blob(name: str, data: bytes) -> t.Blob:
    return t.Blob(f"{name}-{digest(data)}", len(data), digest(data))


def run(
    setup: Setup, plan: Plan, machines: dict[str, Any] | None = None, kind: type[World] = World
) -> World:
    """Run one plan to its end."""
    world = kind(setup, plan, machines)
    world.run()
    return world


# -- what must hold --------------------------------------------------------------------------


def is_lasting(fault: Fault) -> bool:
    """A fault after which the pair cannot go on as a pair."""
    match fault:
        case Crash():
            return True
        case Hang(for_ns=for_ns):
            return for_ns is None
        case _:
            return isinstance(fault, CutLink)


def problems(world: World, replayed: bool = True) -> list[str]:
    """Everything that was wrong with a run, within the scope of what the design claims."""
    if world.error:
        return [f"raised: {world.error}"]
    found = [str(violation) for violation in violations(world)[0]]
    if not any(isinstance(fault, Junk) and fault.forged for fault in world.fired):
        found += [f"nonsense reached clients: {r}" for r in world.reached if "garbage" in r[2]]
        found += [f"dropped by the primary: {r}" for side, r in world.dropped if side == "a"]
        if len(world.fired) <= 1:
            found += world.contradictions()
            found += _service(world)
    if replayed:
        found += _replay(world)
    return found


def violations(world: World) -> tuple[list[invariants.Violation], list[invariants.Violation]]:
    """Broken promises: those that the design makes, and those that it does not make.

    Not promised: anything after a well-formed lie on the wire; a single story under two faults;
    and, in rfc2014, which has no failover and no fencing, one active side and no loss.
    """
    claimed: list[invariants.Violation] = []
    others: list[invariants.Violation] = []
    lied = any(isinstance(fault, Junk) and fault.forged for fault in world.fired)
    for violation in invariants.check(world.lines()):
        kind = getattr(invariants, violation.invariant)
        beyond = kind.scope is invariants.Scope.SINGLE_FAULT and len(world.fired) > 1
        pair = kind in (invariants.OneActiveSide, invariants.NoLoss)
        unclaimed = pair and not DIALECTS[world.setup.dialect].failover
        (others if lied or beyond or unclaimed else claimed).append(violation)
    return claimed, others


def _service(world: World) -> list[str]:
    """Under at most one fault somebody serves, and everything asked was answered."""
    alone, intact = world.alone(), world.intact()
    state = f"a is {world.steps['a']}, b is {world.steps['b']}"
    if not world.fired:
        done = world.seen[t.Completed] > 0
        return [] if done and intact and world.served("a") else [f"no fault, but {state}"]
    [fault] = world.fired
    # Without failover only the loss of the secondary is survived: its primary goes on alone.
    lost_secondary = isinstance(fault, Crash) and (fault.side, fault.scope) == ("b", "host")
    if not (DIALECTS[world.setup.dialect].failover or lost_secondary):
        return []
    if len(alone) != 1 and (is_lasting(fault) or alone or not intact):
        return [f"after one fault {len(alone)} sides serve: {state}"]
    side = alone[0] if alone else "a"
    return [] if world.served(side) else [f"{side} does not release all: {state}"]


def _replay(world: World) -> list[str]:
    lines = world.lines()
    again = list(trace.decode(trace.encode_line(line) for line in lines))
    if again != lines:
        return ["a line changes when it is written and read"]
    return [f"replay differs: {difference}" for difference in trace.replay(again)]


# -- telling it ------------------------------------------------------------------------------


def story(world: World, found: list[str]) -> str:
    """What happened, one thing a line; heartbeats and idle ticks are left out."""
    plan = world.plan
    head = [*found, "", str(world.setup), *(f"  {fault}" for fault in plan.faults)]
    head += [f"  {request}" for request in plan.requests]
    head.append(f"  raw={plan.raw} gap_ns={plan.gap_ns} slow={plan.slow} tape={plan.tape.hex()}")
    body: list[str] = []
    block: list[Line] = []

    def close_block() -> None:
        dull = (t.Tick, t.HeartbeatSeen, t.Heartbeat)
        if not all(isinstance(line.body, dull) for line in block):
            body.extend(_told(line) for line in block)
        block.clear()

    for entry in world.tale:
        if isinstance(entry, str):
            close_block()
            body.append(f"       *** {entry}")
        else:
            if entry.kind in ("event", "node"):
                close_block()
            if entry.kind != "node":
                block.append(entry)
    close_block()
    return "\n".join((*head, *body))


_ARROWS = {"event": "<-", "signal": "..", "action": "->"}


def _told(line: Line) -> str:
    cause = f"   ({line.cause[0]}#{line.cause[1]})" if line.cause else ""
    what = f"{line.now_ns:5} {line.node}#{line.n:<4} {line.step:15}"
    return f"{what} {_ARROWS[line.kind]} {_short(line.body)}{cause}"


def _short(value: Any) -> str:
    match value:
        case bytes():
            return value.hex() if len(value) <= 16 else f"{value[:8].hex()}..({len(value)})"
        case t.Range():
            return f"{value.stream}[{value.first},{value.end})"
        case t.Blob():
            return value.id[:10]
        case tuple():
            return " ".join(_short(item) for item in value)
    names = getattr(value, "__slots__", None)
    if isinstance(value, str) or not names:
        return str(value)
    return " ".join((type(value).__name__, *(_short(getattr(value, name)) for name in names)))
