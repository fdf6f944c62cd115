"""Our trace of somebody else's pair, from what its QEMUs logged (`qemu_log`).

Our nodes live through the logs as they do through a pair that is seen (`shadow`), so the trace is
like any other: it replays, and invariants can watch it.  Each node's times are those of its own
QEMU's log.  A log tells no sizes and no contents: they are 0 and empty.  It tells of a failover
that was asked for, but not why: the node is told that its peer is gone, and gets the vote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from backends.base import Cause
from backends.qemu.errors import LiveError
from backends.qemu.qemu_log import Logged, part_of, sessions_of
from backends.qemu.shadow import Difference, Shadow
from backends.qemu.tap import PRIMARY, SECONDARY, Seen
from colosim.protocol import types as t
from colosim.protocol.checkpoint import Limits
from colosim.protocol.codec import encode
from colosim.protocol.dialect import UPSTREAM, Message
from colosim.protocol.manager import ManagerConfig
from colosim.protocol.node import Node, NodeConfig
from colosim.protocol.trace import Line, merge

_NEVER_NS = 1 << 62
_LIMITS = Limits(**{field.name: _NEVER_NS for field in fields(Limits)})
_MANAGER = ManagerConfig(_NEVER_NS, _NEVER_NS, _NEVER_NS, _NEVER_NS)
_NOTHING = hashlib.blake2b(digest_size=8).hexdigest()
_SIZE = encode(UPSTREAM, Message.SIZE) + bytes(8)


@dataclass(frozen=True, slots=True)
class LogTrace:
    """Lines of the nodes whose logs were given, and where these differ from our tables."""

    lines: list[Line]
    differences: list[Difference]


def trace_of(primary: Path, secondary: Path | None) -> LogTrace:
    """The trace of the pair that two logs tell of, or of its primary alone.

    Of several pairs in the primary's log it is that of the secondary's log, or the last one.
    Raises `LiveError` where a log does not begin with its pair.
    """
    logs = {PRIMARY: _session(primary, t.Role.PRIMARY, secondary)}
    if secondary is not None:
        logs[SECONDARY] = _session(secondary, t.Role.SECONDARY, None)
    return _lived(logs)


def _session(path: Path, role: t.Role, peer: Path | None) -> list[Logged]:
    """One pair's events of a log."""
    events = part_of(path, role)
    sessions = [one for one in sessions_of(events) if one.ready is not None]
    if not sessions:
        raise LiveError(
            f"{path}:1: no checkpoint-ready in this log, so there is no trace of it;"
            " log from QEMU's start"
        )
    chosen = sessions[0 if role is t.Role.SECONDARY else -1]
    if peer is not None:
        [theirs, *_] = [one for one in sessions_of(part_of(peer, t.Role.SECONDARY)) if one.ready]
        assert theirs.ready is not None
        at_ns = theirs.ready.event.at_ns
        chosen = min(sessions, key=lambda one: abs(_ready_ns(one.ready) - at_ns))
    assert chosen.ready is not None
    begin = 0 if role is t.Role.SECONDARY else events.index(chosen.ready)
    later = [one.ready for one in sessions if one.ready and events.index(one.ready) > begin + 1]
    ends = [events.index(one) for one in later if one is not chosen.ready]
    return events[begin : min(ends, default=len(events))]


def _ready_ns(ready: Logged | None) -> int:
    assert ready is not None
    return ready.event.at_ns


class _Bystander:
    """Hands of a shadow that looks at what is long over: whoever asks for the vote got it."""

    shadow: Shadow

    def made(self, node: str, before_ns: int | None) -> tuple[t.Range, str] | None:
        return None

    def perform(self, node: str, action: t.Action, cause: Cause) -> None:
        match action:
            case t.AskVote(op):
                self.shadow.answer(node, t.VoteSeen(op, True), cause)
            case t.Fence(op):
                self.shadow.answer(node, t.Done(op), cause)
            case _:
                pass

    def take_over(self, node: str, op: int, cause: Cause) -> None:
        pass  # the log tells when that was done

    def wake_at(self, node: str, when_ns: int | None) -> None:
        pass

    def hear(self, node: str, signal: t.Signal) -> None:
        pass


def _lived(logs: dict[str, list[Logged]]) -> LogTrace:
    """Nodes that have lived through the logs."""
    lines: dict[str, list[Line]] = {PRIMARY: [], SECONDARY: []}
    differences: list[Difference] = []
    hands = _Bystander()
    nodes = [Node(_config(node)) for node in lines]
    shadow = Shadow(nodes, hands, [lambda line: lines[line.node].append(line)], differences.append)
    hands.shadow = shadow
    for node in set(lines) - set(logs):
        shadow.down(node)
    for node, log in logs.items():
        shadow.logged(node, _seen(node, log))
    shadow.begin({node: log[0].event.at_ns for node, log in logs.items()})
    shadow.finish()
    return LogTrace(merge(lines[node] for node in logs), differences)


def _seen(node: str, log: Iterable[Logged]) -> Iterator[tuple[Seen, bool]]:
    """What a log tells, and whether its QEMU heard it."""
    failed_over = False
    for one in log:
        at_ns, name = one.event.at_ns, one.event.name
        heard = one.what.startswith("receive ")
        side = node if not heard else SECONDARY if node == PRIMARY else PRIMARY
        if name == "colo_failover_set_state" and one.event.args == "new state require":
            failed_over = True
            yield Seen(at_ns, node, "failover"), False
        elif name == "runstate_set" and failed_over and one.what == "start":
            yield Seen(at_ns, node, "alone"), False
        elif name == "colo_vm_state_change" and one.what:
            yield Seen(at_ns, node, one.what), False
        elif one.message is Message.SIZE:
            # the memory has passed; devices of no bytes end with their size
            yield Seen(at_ns, side, "ram"), heard
            yield Seen(at_ns, side, "message", data=_SIZE), heard
            if not heard:
                yield Seen(at_ns, side, "device", digest=_NOTHING), heard
        elif one.message is not None:
            yield Seen(at_ns, side, "message", data=encode(UPSTREAM, one.message)), heard
        elif one.what.startswith(("send ", "receive ")):
            yield Seen(at_ns, side, "message", data=one.what.encode()), heard


def _config(node: str) -> NodeConfig:
    return NodeConfig(
        id=node,
        role=t.Role(node),
        dialect=UPSTREAM.name,
        policy="remus",
        policy_params=(("interval_ns", 1),),  # QEMU decides when
        limits=_LIMITS,
        manager=_MANAGER,
    )
