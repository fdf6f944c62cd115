"""A node: the parts of one host, composed.  The unit of feed, trace and replay.

``feed`` puts one external event in, lets the parts exchange signals in one fixed order until none
is left, and leaves actions to be drained.  Nodes share nothing; primary and secondary talk only
by messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

from colosim.protocol import types as t
from colosim.protocol.checkpoint import (
    ROUNDS,
    Checkpointer,
    Limits,
    Machine,
    Quirks,
    Rounds,
    primary_machine,
    secondary_machine,
)
from colosim.protocol.codec import Decoder
from colosim.protocol.compare import (
    ELSEWHERE,
    Comparison,
    Found,
    ToldComparison,
    comparison_of,
)
from colosim.protocol.dialect import DIALECTS, Message
from colosim.protocol.digests import DIGESTS, DigestComparator
from colosim.protocol.gate import Gate
from colosim.protocol.manager import M, Manager, ManagerConfig
from colosim.protocol.outbox import Outbox
from colosim.protocol.policies import POLICIES, Policy
from colosim.protocol.verdicts import CompareLimits


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything that decides how a node behaves; the header of its trace.

    policy_params: values of the policy's own parameters by name.
    commit: message after which a checkpoint counts as safe, or None for the dialect's own.
    compare: how both guests' output is compared, where output waits for that: a mode of
    `colosim.protocol.compare`, "colo-compare" where QEMU does it, or "digests" where there are no
    frames.  compare_queue_frames: most
    frames of one connection and guest that are held.  compare_scan_ns: how often colo-compare, and
    mode "qemu", look for what is older than the compare timeout; None: as each does by itself.
    rounds: when pre-copy ends, with that transfer.
    pair: which of a run's pairs it belongs to: a survivor that is protected again is a new node,
    because checkpoints, held output and votes are counted anew.
    """

    id: str
    role: t.Role
    dialect: str
    policy: str
    policy_params: tuple[tuple[str, int], ...]
    limits: Limits
    manager: ManagerConfig
    transfer: t.Transfer = t.Transfer.STOP_AND_SEND
    quirks: Quirks = Quirks.NONE
    commit: Message | None = None
    pair: int = 1
    compare: str = DIGESTS
    compare_queue_frames: int = 1024
    compare_scan_ns: int | None = None
    rounds: Rounds = ROUNDS


def machine_of(config: NodeConfig) -> Machine:
    """The checkpoint table that a configuration selects."""
    if config.role is t.Role.SECONDARY:
        return _secondary(config.dialect)
    return _primary(config.dialect, config.transfer, config.quirks, config.commit)


# A table has hundreds of rows, which nobody changes: every node with it has the same one.


@cache
def _primary(dialect: str, transfer: t.Transfer, quirks: Quirks, commit: Message | None) -> Machine:
    return primary_machine(DIALECTS[dialect], transfer, quirks, commit)


@cache
def _secondary(dialect: str) -> Machine:
    return secondary_machine(DIALECTS[dialect])


def _comparison(config: NodeConfig, timeout_ns: int, told: bool, out: Outbox) -> Comparison:
    if config.compare == DIGESTS:
        return DigestComparator(timeout_ns, out)
    if told or config.compare == ELSEWHERE:
        return ToldComparison(out)
    limits = CompareLimits(timeout_ns=timeout_ns, queue_frames=config.compare_queue_frames)
    if config.compare_scan_ns is not None:
        limits = replace(limits, scan_ns=config.compare_scan_ns)
    return comparison_of(config.compare, limits, out)


#: hears a signal, at a time in ns
Hear = Callable[[Any, int], None]


class _Part(Protocol):
    """What every part of a node with a sense of time offers."""

    def hears(self) -> dict[type, Callable[..., None]]: ...
    def deadline_ns(self) -> int | None: ...
    def tick(self, now_ns: int) -> None: ...


class _PolicyPart:
    """Gives a policy, which only returns reasons, the shape of a part.

    A node that goes on alone has nothing to checkpoint to: its policy is not asked any more.
    """

    def __init__(self, policy: Policy, out: Outbox) -> None:
        self._policy = policy
        self._out = out
        self._over = False
        self._rule = policy.waits_for()

    def deadline_ns(self) -> int | None:
        return None if self._over else self._policy.deadline_ns()

    def hears(self) -> dict[type, Callable[..., None]]:
        return {**dict.fromkeys(self._policy.hears, self._on_signal), t.Alone: self._on_alone}

    def tick(self, now_ns: int) -> None:
        self._wants(self._policy.tick(now_ns))

    def _on_signal(self, signal: t.Signal, now_ns: int) -> None:
        if not self._over:
            self._wants(self._policy.signal(signal, now_ns))

    def _on_alone(self, signal: t.Alone, now_ns: int) -> None:
        self._over = True

    def _wants(self, reason: str | None) -> None:
        if (rule := self._policy.waits_for()) is not self._rule:
            self._rule = rule
            self._out.signal(t.OutputRule(rule))
        if reason is not None:
            self._out.signal(t.CheckpointNow(reason))


class Node:
    """One host's protocol: `feed` events, drain `actions`, mind `deadline_ns`.

    ``machine`` replaces the configured table (tests mutate it); nothing else should.  A ``told``
    node has no frames to compare: what was found is said to it (`tell`).
    """

    def __init__(
        self, config: NodeConfig, machine: Machine | None = None, told: bool = False
    ) -> None:
        self.config = config
        self.cancelled = 0  # completions of operations nobody waits for any more
        self._out = Outbox()
        self._heard: list[t.Signal] = []
        dialect = DIALECTS[config.dialect]
        primary = config.role is t.Role.PRIMARY
        policy = POLICIES[config.policy]
        params = policy.Params(**dict(config.policy_params))
        self._protects = policy.protects()
        self._decoder = Decoder(dialect, t.Role.SECONDARY if primary else t.Role.PRIMARY)
        machine = machine or machine_of(config)
        self.checkpointer = Checkpointer(machine, dialect, config.limits, self._out, config.rounds)
        by_frame = config.compare != DIGESTS and policy.output is t.Output.WITNESS
        serves = primary and self._protects
        leased = serves and dialect.failover and config.manager.arbiter is t.Arbiter.LEASE
        self._gate = Gate(config.role, policy.output, self._out, by_frame, is_silent=leased)
        self._comparator: Comparison | None = None
        if primary and policy.output is t.Output.WITNESS:
            self._comparator = _comparison(config, params.compare_timeout_ns, told, self._out)
        self.manager = (
            Manager(
                config.manager,
                self._out,
                machine.survival_in(machine.start),
                grace_ns=0 if primary else config.limits.ready_ns + config.limits.resume_ns,
                serves=serves,
            )
            if dialect.failover
            else None
        )
        self._parts: list[_Part] = [self.checkpointer]
        if primary:
            self._parts.append(_PolicyPart(policy(params), self._out))
        if self._comparator is not None:
            self._parts.append(self._comparator)
        if self.manager is not None:
            self._parts.append(self.manager)
        self._feeders: dict[type, Callable[[Any, int], None]] = {
            t.Start: self._on_start,
            t.PeerBytes: self._on_peer_bytes,
            t.PeerBlob: self._on_peer_blob,
            t.GuestOutput: self._on_guest_output,
            t.PeerOutput: self._on_peer_output,
            t.Compared: self._on_compared,
            t.Done: self._on_done,
            t.Precopied: self._on_precopied,
            t.Failed: self._on_failed,
            t.LinkLost: self._on_link_lost,
            t.VmGone: self._on_vm_gone,
            t.GuestOff: self._on_guest_off,
            t.HandOver: self._on_hand_over,
            t.HeartbeatSeen: self._on_heartbeat_seen,
            t.PeerGone: self._on_peer_gone,
            t.VoteSeen: self._on_vote_seen,
            t.PeerClaimed: self._on_peer_claimed,
            t.LeaseSeen: self._on_lease_seen,
            t.Tick: self._on_tick,
        }
        self._deadlines = tuple(part.deadline_ns for part in self._parts)
        self._ears = self._wire()

    # -- the interface of a world ----------------------------------------------------------

    @property
    def step(self) -> str:
        """The checkpointer's current step, for traces and fault plans."""
        return self.checkpointer.state.value

    @property
    def manager_state(self) -> str | None:
        """The manager's current state; None where the dialect knows no failover."""
        return None if self.manager is None else self.manager.state.value

    @property
    def gave_up(self) -> bool:
        """Its manager suspected the peer and will not go on alone: what is held stays held."""
        return self.manager is not None and self.manager.state in (M.YIELDED, M.STRANDED)

    def tell(self, found: Iterable[Found]) -> None:
        """What the comparison finds in the next event, to a node that is told."""
        if isinstance(self._comparator, ToldComparison):
            self._comparator.tell(found)

    def feed(self, event: t.Event, now_ns: int) -> None:
        """Take one external event; raises ProtocolError only if the world broke the contract."""
        self.checkpointer.entered.clear()
        self._feeders[type(event)](event, now_ns)
        if self._out.signals:
            self.route(now_ns)

    def route(self, now_ns: int) -> None:
        """Let the parts hear signals until there are none."""
        signals, ears, heard = self._out.signals, self._ears, self._heard
        while signals:
            signal = signals.popleft()
            heard.append(signal)
            for hear in ears.get(type(signal), ()):
                hear(signal, now_ns)

    def settle(self, now_ns: int, ears: Mapping[type, Sequence[Hear]]) -> list[t.Action]:
        """Let the parts hear signals that nobody keeps; what is wanted then.

        ears: who hears which signal, parts and others (`hearing`).
        """
        signals = self._out.signals
        while signals:
            signal = signals.popleft()
            for hear in ears.get(type(signal), ()):
                hear(signal, now_ns)
        return self.actions() if self._out.actions else []

    def hearing(self, others: Mapping[type, Hear]) -> dict[type, tuple[Hear, ...]]:
        """Who hears which signal: the parts, in their order, and then others."""
        more = {kind: (hear,) for kind, hear in others.items()}
        kinds = {**self._ears, **more}
        return {kind: (*self._ears.get(kind, ()), *more.get(kind, ())) for kind in kinds}

    def actions(self) -> list[t.Action]:
        """Drain the actions wanted since the last call, in order."""
        actions, self._out.actions = self._out.actions, []
        return actions

    def signals(self) -> list[t.Signal]:
        """Drain the signals exchanged since the last call, for the trace."""
        heard, self._heard = self._heard, []
        return heard

    def entered(self) -> list[str]:
        """The steps entered in the last feed, those that it only passed through too."""
        return [state.value for state in self.checkpointer.entered]

    def deadline_ns(self) -> int | None:
        """When to feed Tick, or None."""
        nearest_ns = None
        for deadline_ns in self._deadlines:  # asked after every event, so plainly
            due_ns = deadline_ns()
            if due_ns is not None and (nearest_ns is None or due_ns < nearest_ns):
                nearest_ns = due_ns
        return nearest_ns

    # -- wiring ----------------------------------------------------------------------------

    def _wire(self) -> dict[type, tuple[Callable[..., None], ...]]:
        """Who hears which signal, in the one fixed order of the parts, the gate last."""
        ears: dict[type, list[Callable[..., None]]] = {}
        heard = [*(part.hears() for part in self._parts), self._gate.hears()]
        for table in heard:
            for signal, hear in table.items():
                ears.setdefault(signal, []).append(hear)
        return {signal: tuple(hearers) for signal, hearers in ears.items()}

    # -- events ----------------------------------------------------------------------------

    def _on_start(self, event: t.Start, now_ns: int) -> None:
        if self._protects:
            self.checkpointer.start(now_ns)

    def _on_peer_bytes(self, event: t.PeerBytes, now_ns: int) -> None:
        for item in self._decoder.feed(event.data):
            self.checkpointer.peer(item, now_ns)

    def _on_peer_blob(self, event: t.PeerBlob, now_ns: int) -> None:
        for item in self._decoder.feed(event.blob):
            self.checkpointer.peer(item, now_ns)

    def _on_guest_output(self, event: t.GuestOutput, now_ns: int) -> None:
        self._gate.guest_output(event, now_ns)
        if self._comparator is not None:
            self._comparator.primary_output(event, now_ns)

    def _on_peer_output(self, event: t.PeerOutput, now_ns: int) -> None:
        if self._comparator is not None:
            self._comparator.witness(event, now_ns)

    def _on_compared(self, event: t.Compared, now_ns: int) -> None:
        for found in event.found:
            self._out.signal(found)

    def _on_done(self, event: t.Done, now_ns: int) -> None:
        if self.checkpointer.owns(event.op):
            self.checkpointer.done(event.state, now_ns)
        elif self.manager is not None and self.manager.owns(event.op):
            self.manager.done(now_ns)
        else:
            self._cancelled(event.op)

    def _on_precopied(self, event: t.Precopied, now_ns: int) -> None:
        if self.checkpointer.owns(event.op):
            self.checkpointer.precopied(event.sent_bytes, event.left_bytes, now_ns)
        else:
            self._cancelled(event.op)

    def _on_failed(self, event: t.Failed, now_ns: int) -> None:
        if self.checkpointer.owns(event.op):
            self.checkpointer.failed(event.why, now_ns)
        elif self.manager is not None and self.manager.owns(event.op):
            self.manager.failed(now_ns)
        else:
            self._cancelled(event.op)

    def _cancelled(self, op: int) -> None:
        if not 0 < op <= self._out.last_op:
            raise t.ProtocolError(f"completion of operation {op}, which was never asked for")
        self.cancelled += 1

    def _on_link_lost(self, event: t.LinkLost, now_ns: int) -> None:
        self.checkpointer.link_lost(event.why, now_ns)

    def _on_vm_gone(self, event: t.VmGone, now_ns: int) -> None:
        self.checkpointer.vm_gone(event.why, now_ns)

    def _on_guest_off(self, event: t.GuestOff, now_ns: int) -> None:
        if self._protects and self.manager is not None:
            self.manager.guest_off(now_ns)

    def _on_hand_over(self, event: t.HandOver, now_ns: int) -> None:
        if self.manager is not None:
            self.manager.hand_over(now_ns)

    def _on_heartbeat_seen(self, event: t.HeartbeatSeen, now_ns: int) -> None:
        if self.manager is not None:
            self.manager.heartbeat_seen(now_ns)

    def _on_peer_gone(self, event: t.PeerGone, now_ns: int) -> None:
        if self.manager is not None:
            self.manager.peer_gone(now_ns)

    def _on_vote_seen(self, event: t.VoteSeen, now_ns: int) -> None:
        if self.manager is not None:
            self.manager.vote(event.op, event.granted, now_ns)

    def _on_peer_claimed(self, event: t.PeerClaimed, now_ns: int) -> None:
        if self.manager is not None:
            self.manager.peer_claimed(now_ns)

    def _on_lease_seen(self, event: t.LeaseSeen, now_ns: int) -> None:
        if self.manager is not None:
            self.manager.lease_seen(event.op, event.held, now_ns)

    def _on_tick(self, event: t.Tick, now_ns: int) -> None:
        for part in self._parts:
            due_ns = part.deadline_ns()
            if due_ns is not None and due_ns <= now_ns:
                part.tick(now_ns)
                self.route(now_ns)  # or the manager might act on what is no longer so
