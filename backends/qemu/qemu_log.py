"""What two genuine QEMUs logged of their own COLO: phases, and how it differs from our tables.

Start each with ``-D FILE -msg timestamp=on -trace enable=colo_* -trace
enable=migration_bitmap_sync_*``; ``-trace enable=runstate_set`` shows failovers too, and
``-trace enable=savevm_state_complete_precopy`` is exact where QEMU still has it (7.2).

A line is ``TID@SECONDS.MICROSECONDS:event args`` up to 10.0 and ``ISO-TIME event args`` from 11.1
(`live-recipes.md` 1).  Other lines of text are no events and are passed over; a last line without
its end was cut off by a SIGKILL and is too.

The survivor of a failover may log a second role: what it did as secondary, then what it does as
primary.  Each function reads the part of the role that it asks about.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from backends.qemu.errors import LiveError
from colosim.protocol import types as t
from colosim.protocol.checkpoint import (
    Checkpointer,
    Limits,
    Machine,
    P,
    S,
    Verb,
    primary_machine,
    secondary_machine,
)
from colosim.protocol.codec import encode
from colosim.protocol.dialect import FROM_PRIMARY, UPSTREAM, Message
from colosim.protocol.outbox import Outbox

#: COLOMessage of QEMU's qapi/migration.json
MESSAGES: Final = {
    "checkpoint-ready": Message.READY,
    "checkpoint-request": Message.REQUEST,
    "checkpoint-reply": Message.REPLY,
    "vmstate-send": Message.SEND,
    "vmstate-size": Message.SIZE,
    "vmstate-received": Message.RECEIVED,
    "vmstate-loaded": Message.LOADED,
}
_NAMES: Final = {message: name for name, message in MESSAGES.items()}

_LINE: Final = re.compile(
    r"(?:\d+@(?P<seconds>\d+)\.(?P<micros>\d{6}):"
    r"|(?P<iso>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(?:Z|[+-]\d\d:?\d\d)) )"
    r"(?P<name>[a-z][a-z0-9_]*)(?: (?P<args>.*))?"
)
_TIMELESS: Final = re.compile(r"colo_(?:send_message|receive_message|vm_state_change) ")
_MESSAGE: Final = re.compile(r"(?:Send|Receive) '([^']*)' message")
_CHANGE: Final = re.compile(r"Change '(run|stop)' => '(run|stop)'")
_RUNSTATE: Final = re.compile(r"current_run_state \d+ \(([^)]*)\) new_state \d+ \(([^)]*)\)")
_LINE_LIMIT_BYTES: Final = 1 << 16
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One trace event: when by the host's real-time clock, which, and its text."""

    at_ns: int
    name: str
    args: str


@dataclass(frozen=True, slots=True)
class Logged:
    """An event, where it stands, and what it says of the protocol if it does.

    what: "send REQUEST", "receive REPLY", "stop", "start" and so on; empty for others.
    """

    line: int
    event: LogEvent
    what: str
    message: Message | None = None
    role: t.Role | None = None


# ------------------------------------------------------------------------------------- the log


def read_log(path: Path) -> Iterator[LogEvent]:
    """The events of a log of QEMU's, in its order.  LiveError for what is no log of COLO's."""
    return (event for _, event in _numbered_events(path))


def _numbered_events(path: Path) -> Iterator[tuple[int, LogEvent]]:
    hint = "expected a QEMU log of -D FILE -msg timestamp=on -trace enable=colo_*"
    line, colo = 0, False
    try:
        with path.open("rb") as file:
            for line, raw in enumerate(iter(lambda: file.readline(_LINE_LIMIT_BYTES), b""), 1):
                whole = raw.endswith(b"\n")
                if not _is_text(raw, whole):
                    raise LiveError(f"{path}:{line}: binary data; {hint}")
                if not whole:
                    break
                text = raw.decode().rstrip("\r\n")
                event = event_of(text)
                if event is not None:
                    colo = colo or event.name.startswith("colo_")
                    yield line, event
                elif _TIMELESS.match(text):
                    raise LiveError(f"{path}:{line}: an event without a time; {hint}")
    except OSError as error:
        raise LiveError(f"{path}:1: {error.strerror or error}; {hint}") from None
    if not colo:
        what = "no colo event up to here" if line else "empty"
        raise LiveError(f"{path}:{max(line, 1)}: {what}; {hint}")


def _is_text(raw: bytes, whole: bool) -> bool:
    if b"\0" in raw or len(raw) == _LINE_LIMIT_BYTES:
        return False
    try:
        raw.decode()
    except UnicodeDecodeError:
        return not whole  # a kill may have cut a character
    return True


def event_of(text: str) -> LogEvent | None:
    """The event that a line of a log is, if it is one."""
    found = _LINE.fullmatch(text)
    if found is None:
        return None
    if found["iso"] is None:
        at_us = int(found["seconds"]) * 1_000_000 + int(found["micros"])
    else:
        try:
            at_us = (datetime.fromisoformat(found["iso"]) - _EPOCH) // timedelta(microseconds=1)
        except ValueError:  # the 61st second of the 13th month
            return None
    return LogEvent(at_us * 1000, found["name"], (found["args"] or "").rstrip())


def _understood(line: int, event: LogEvent) -> Logged:
    """An event with what it says of the protocol."""
    if event.name in ("colo_send_message", "colo_receive_message"):
        verb = "send" if event.name == "colo_send_message" else "receive"
        found = _MESSAGE.fullmatch(event.args)
        message = MESSAGES.get(found[1]) if found else None
        if message is None:
            return Logged(line, event, f"{verb} {found[1] if found else event.args}")
        primary = (message in FROM_PRIMARY) == (verb == "send")
        role = t.Role.PRIMARY if primary else t.Role.SECONDARY
        return Logged(line, event, f"{verb} {_NAMES[message]}", message, role)
    what = ""
    if event.name == "colo_vm_state_change" and (found := _CHANGE.fullmatch(event.args)):
        what = {"run": "start", "stop": "stop"}[found[2]]
    elif event.name == "runstate_set" and (found := _RUNSTATE.fullmatch(event.args)):
        what = {"running": "start", "colo": "stop"}.get(found[2], "")
    return Logged(line, event, what)


def part_of(path: Path, role: t.Role) -> list[Logged]:
    """The events of one role; what is no message belongs to what is around it."""
    events = [_understood(line, event) for line, event in _numbered_events(path)]
    roles = [event.role for event in events]
    if role not in roles:
        other = next((event for event in events if event.role is not None), events[-1])
        seen = f"a {other.role}'s log ({other.what})" if other.role else "no COLO message"
        raise LiveError(f"{path}:{other.line}: {seen}; expected the log of the {role}'s QEMU")
    # a secondary may become a primary, never the other way round
    if role is t.Role.PRIMARY:
        return events[roles.index(role) :]
    return events[: roles.index(t.Role.PRIMARY)] if t.Role.PRIMARY in roles else events


# ---------------------------------------------------------------------------------- the phases


def phases(primary: Path, secondary: Path | None) -> list[dict[str, int | None]]:
    """One row per checkpoint, None where one of the events is missing.

    The definitions are those of `qemu-colo.md` 5, "Phase timing"; t(x) is when x was logged.

    * checkpoint: counts from 1 in the primary's log.
    * request_ns: t(send checkpoint-request), since 1970 by the primary's clock.
    * rtt_ns: t(receive checkpoint-reply) - request_ns.
    * pause_ns: t('stop' => 'run') - t('run' => 'stop').
    * device_save_ns: t(savevm_state_complete_precopy) - t(send vmstate-send).
    * ram_ns: t(send vmstate-size) - t(savevm_state_complete_precopy).
    * wait_received_ns: t(receive vmstate-received) - t(send vmstate-size).
    * load_ns: t(receive vmstate-loaded) - t(receive vmstate-received).

    QEMU 10.0 and 11.1 have no savevm_state_complete_precopy: there, the first
    migration_bitmap_sync_start after vmstate-send stands for it, which is what follows it (3 and
    13 us later in 7.2.22, which logs both).  ram_ns contains the synchronisation either way.

    The secondary's, by its own clock:

    * stop_ns: t(send checkpoint-reply) - t('run' => 'stop').
    * receive_ns: t(receive vmstate-size) - t(receive vmstate-send).
    * flush_pages: dirty_pages of colo_flush_ram_cache_begin.
    * flush_ns: t(colo_flush_ram_cache_end) - t(colo_flush_ram_cache_begin).
    * resume_ns: t('stop' => 'run') - t(colo_flush_ram_cache_end): device load and start.

    Checkpoints of the two logs are paired by their number since READY, so both must have logged
    it.  Of a primary's several READYs that of the nearest time is taken.
    """
    sessions = sessions_of(part_of(primary, t.Role.PRIMARY))
    theirs: dict[int, list[Logged]] = {}  # by number in the primary's log
    if secondary is not None:
        theirs = _paired(primary, sessions, secondary)
    rows: list[dict[str, int | None]] = []
    for exchange in (one for session in sessions for one in session.checkpoints):
        number = len(rows) + 1
        rows.append({"checkpoint": number, **_primary_row(exchange)})
        if secondary is not None:
            rows[-1].update(_secondary_row(theirs.get(number, [])))
    return rows


@dataclass(slots=True)
class LoggedSession:
    """From READY on; ready is None for what was logged without its beginning."""

    ready: Logged | None
    checkpoints: list[list[Logged]]


def sessions_of(events: Iterable[Logged]) -> list[LoggedSession]:
    """A QEMU's pairs: a survivor may have been protected again."""
    sessions = [LoggedSession(None, [])]
    for event in events:
        if event.message is Message.READY:
            sessions.append(LoggedSession(event, []))
        elif event.message is Message.REQUEST:
            sessions[-1].checkpoints.append([event])
        elif sessions[-1].checkpoints:
            sessions[-1].checkpoints[-1].append(event)
    return [one for one in sessions if one.ready is not None or one.checkpoints]


def _paired(
    primary: Path, sessions: list[LoggedSession], secondary: Path
) -> dict[int, list[Logged]]:
    """The secondary's checkpoints by their numbers in the primary's log."""
    theirs = sessions_of(part_of(secondary, t.Role.SECONDARY))
    readies: list[tuple[int, int]] = []  # when, and checkpoints before it
    before = 0
    for session in sessions:
        if session.ready is not None:
            readies.append((session.ready.event.at_ns, before))
        before += len(session.checkpoints)
    ready = theirs[0].ready if theirs else None
    for path, lacks in ((primary, not readies), (secondary, ready is None)):
        if lacks:
            raise LiveError(
                f"{path}:1: no checkpoint-ready in this log, so its checkpoints cannot be paired"
                " with the peer's; log from QEMU's start"
            )
    assert ready is not None
    at_ns = ready.event.at_ns
    _, before = min(readies, key=lambda one: abs(one[0] - at_ns))
    return dict(enumerate(theirs[0].checkpoints, start=before + 1))


class _Times:
    """When each thing was first seen in a checkpoint."""

    def __init__(self, exchange: Iterable[Logged]) -> None:
        self._at: dict[str, int] = {}
        for event in exchange:
            if event.event.name == "runstate_set":  # colo_vm_state_change says it
                continue
            key = event.what or event.event.name
            if key == "migration_bitmap_sync_start" and "send vmstate-send" not in self._at:
                continue
            if key == "start" and "stop" not in self._at:
                continue
            self._at.setdefault(key, event.event.at_ns)
        flush = self._at.get("migration_bitmap_sync_start")
        if flush is not None:
            self._at.setdefault("savevm_state_complete_precopy", flush)

    def since(self, first: str, last: str) -> int | None:
        first_ns, last_ns = self._at.get(first), self._at.get(last)
        return None if first_ns is None or last_ns is None else last_ns - first_ns


def _primary_row(exchange: list[Logged]) -> dict[str, int | None]:
    since = _Times(exchange).since
    flush = "savevm_state_complete_precopy"
    return {
        "request_ns": exchange[0].event.at_ns,
        "rtt_ns": since("send checkpoint-request", "receive checkpoint-reply"),
        "pause_ns": since("stop", "start"),
        "device_save_ns": since("send vmstate-send", flush),
        "ram_ns": since(flush, "send vmstate-size"),
        "wait_received_ns": since("send vmstate-size", "receive vmstate-received"),
        "load_ns": since("receive vmstate-received", "receive vmstate-loaded"),
    }


def _secondary_row(exchange: list[Logged]) -> dict[str, int | None]:
    since = _Times(exchange).since
    begin, end = "colo_flush_ram_cache_begin", "colo_flush_ram_cache_end"
    pages = [
        int(found[1])
        for one in exchange
        if one.event.name == begin and (found := re.fullmatch(r"dirty_pages (\d+)", one.event.args))
    ]
    return {
        "stop_ns": since("stop", "send checkpoint-reply"),
        "receive_ns": since("receive vmstate-send", "receive vmstate-size"),
        "flush_pages": pages[0] if pages else None,
        "flush_ns": since(begin, end),
        "resume_ns": since(end, "start"),
    }


# ----------------------------------------------------------------------------- the differences


def differences(primary: Path, secondary: Path) -> list[str]:
    """Where the sequence of messages, stops and starts is not that of our upstream tables.

    Each log drives the checkpointer of its role: what the log received, and that a checkpoint was
    started or a failover asked for, is fed; what it sent, stopped and started must be what the
    checkpointer asks for, in its order.  A lost link is in no log, so the guest's way to a
    failover is that of a failover asked for in the step the log stopped in.

    After a difference the comparison starts afresh at the next checkpoint (or READY): one line
    each.  A log that just ends, as that of a killed QEMU does, is no difference.
    """
    return [
        line
        for path, role in ((primary, t.Role.PRIMARY), (secondary, t.Role.SECONDARY))
        for line in _compared(path, part_of(path, role), role)
    ]


def _compared(path: Path, events: list[Logged], role: t.Role) -> Iterator[str]:
    checkpoint, lost = 0, False
    driver = _Driver(role)
    for one in events:
        checkpoint += one.message is Message.REQUEST
        if driver.over and one.message is Message.READY:
            driver = _Driver(role)  # a survivor that is protected once more
        if one.event.name == "colo_failover_set_state":
            if not lost and one.event.args == "new state require":
                driver.promote()
            continue
        if not one.what:
            continue
        if one.message is None and one.what in ("start", "stop"):
            # only runstate_set shows what a failover does, only the other what the loop does
            shown = "runstate_set" if driver.promoted else "colo_vm_state_change"
            if one.event.name != shown or driver.alone:
                continue
        afresh = one.message in (Message.READY, Message.REQUEST)
        if lost and not afresh:
            continue
        if lost:
            driver, lost = _Driver(role, before=one.message), False
        expected = driver.see(one)
        if expected is None:
            continue
        yield (
            f"{path}:{one.line}: {role}, checkpoint {checkpoint}, step {driver.step}:"
            f" expected {expected}, seen {one.what}"
        )
        lost = True
        if afresh:
            driver, lost = _Driver(role, before=one.message), False
            lost = driver.see(one) is not None


_LIMITS: Final = Limits(**{field.name: 1 << 62 for field in fields(Limits)})  # never reached
_BLOB: Final = t.Blob("logged", 0, "")
_STATE: Final = t.State(_BLOB, _BLOB)
_OF_WIRE: Final = {encode(UPSTREAM, message): message for message in Message}
#: what a log calls an input of the tables
_READS: Final = {
    Verb.READY: Message.READY,
    Verb.REQUEST: Message.REQUEST,
    Verb.REPLY: Message.REPLY,
    Verb.SEND: Message.SEND,
    Verb.STATE: Message.SIZE,  # logged when the RAM is in and the device state begins
    Verb.RECEIVED: Message.RECEIVED,
    Verb.LOADED: Message.LOADED,
}


def _send(message: Message) -> str:
    return f"send {_NAMES[message]}"


class _Driver:
    """A checkpointer that lives through a log.

    An operation that a log does not show (quiesce, drain, save, load) is done as soon as something
    is seen that cannot come before its end.
    """

    def __init__(self, role: t.Role, before: Message | None = None) -> None:
        self._machine: Machine = (
            primary_machine(UPSTREAM) if role is t.Role.PRIMARY else secondary_machine(UPSTREAM)
        )
        self._out = Outbox()
        self._core = Checkpointer(self._machine, UPSTREAM, _LIMITS, self._out)
        self._ears = self._core.hears()
        self._wanted: deque[tuple[str, int | None]] = deque()  # to be seen; done with it
        self._unseen: int | None = None  # operation under way that no log shows
        self._runs = False
        self.promoted = False
        self._core.start(0)
        self._collect()
        if before is Message.REQUEST:  # as if all that comes before it had been seen
            if role is t.Role.PRIMARY:
                self._core.peer(Message.READY, 0)
                self._collect()
            while self._wanted:
                self._pop()
        elif before is Message.READY and role is t.Role.SECONDARY:
            while self._next() != _send(before):
                self._pop()

    @property
    def step(self) -> str:
        return self._core.state.value

    @property
    def over(self) -> bool:
        return self._core.state in self._machine.ended

    @property
    def alone(self) -> bool:
        """The failover is over: whoever stops and starts the guest now, COLO does not."""
        return self._core.state in (P.ALONE, S.ALONE)

    def promote(self) -> None:
        """A failover was asked for; once more at its end if it came while the state loaded."""
        if not self.promoted and (self._core.state, Verb.PROMOTE) in self._machine.rows:
            self.promoted = True
            self._wanted.clear()
            self._unseen = None if self._core.state is not S.LOAD else self._unseen
            self._ears[t.Promoted](t.Promoted(), 0)
            self._collect()

    def see(self, one: Logged) -> str | None:
        """Take what was logged; return what was expected instead, or None."""
        if one.what == _send(Message.REQUEST) and self._core.state is P.RUN:
            self._ears[t.CheckpointNow](t.CheckpointNow("logged"), 0)
            self._collect()
        self._catch_up()
        if self.promoted and one.what == "start" and self._next() == "stop" and not self._runs:
            self._pop()  # a stopped guest is not stopped once more
            self._catch_up()
        if self._next() is not None:
            if one.what != self._next():
                return self._next()
            self._pop()
            return None
        if self._core.state in self._machine.reads and one.what.startswith("receive "):
            for verb, message in _READS.items():
                if message is one.message and (self._core.state, verb) in self._machine.rows:
                    self._core.peer(_STATE if verb is Verb.STATE else message, 0)
                    self._collect()
                    return None
        return self._readable()

    def _readable(self) -> str:
        rows, state = self._machine.rows, self._core.state
        can = [
            f"receive {_NAMES[message]}"
            for verb, message in _READS.items()
            if (state, verb) in rows and state in self._machine.reads
        ]
        if state is P.RUN:
            can.append(_send(Message.REQUEST))
        return " or ".join(can) or "nothing more"

    def _next(self) -> str | None:
        return self._wanted[0][0] if self._wanted else None

    def _catch_up(self) -> None:
        while not self._wanted and self._unseen is not None:
            op, self._unseen = self._unseen, None
            self._done(op)

    def _done(self, op: int) -> None:
        self._core.done(_STATE if self._core.state is P.SAVE else None, 0)
        self._collect()

    def _pop(self) -> None:
        what, op = self._wanted.popleft()
        if what in ("start", "stop"):
            self._runs = what == "start"
        if op is not None:
            self._done(op)

    def _collect(self) -> None:
        """Sort what the checkpointer asked for into what a log shows and what it does not."""
        actions, self._out.actions = self._out.actions, []
        self._out.signals.clear()
        for action in actions:
            match action:
                case t.SendMessage(data):
                    self._wanted.append((_send(_OF_WIRE[data]), None))
                case t.SendState(op):
                    self._wanted.append((_send(Message.SEND), None))
                    self._wanted.append((_send(Message.SIZE), op))
                case t.StopVm(op):
                    self._wanted.append(("stop", op))
                case t.StartVm(op):
                    self._wanted.append(("start", op))
                case t.Quiesce(op) | t.Drain(op) | t.Save(op) | t.Load(op):
                    self._unseen = op
                case _:
                    pass
