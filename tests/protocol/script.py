"""Expected traces as text: a small language, and the player that holds a node against it.

A script says what a node is told and all that must come of it, line by line::

    < bytes 00000002   > StopVm   ~ Cut 1   @stop

``<`` one input, ``>`` the actions, ``~`` the signals, both complete and in order, ``@`` the step
afterwards (left out: the step stays).  A line that begins with ``>``, ``~`` or ``@`` continues the
one before.  Actions and signals are written as their name and their fields in order, without
operation ids; trailing fields may be left out.  All bytes are hexadecimal, spaces do not count.

Around the lines::

    == upstream primary        a section: holds for every configuration with these tags
    path NAME [from STEP]      a script; later ones in the file may begin at the steps it reaches
    at STEP                    each paragraph that follows is a script that begins at STEP
    [qemu-7.2] < ...           a line for configurations with these tags only ([!tag]: without)

Time stands still but for ``tick +12s`` (the next deadline is exactly then; it is reached) and
``late 90s`` (so much time passes unattended).  Every input is followed by the ticks that are due.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from colosim.protocol import types as t
from colosim.protocol.checkpoint import Limits, Machine, Quirks, Rounds, Transfer
from colosim.protocol.codec import encode, encode_state
from colosim.protocol.combinations import refusals
from colosim.protocol.dialect import DIALECTS, SECOND, Message
from colosim.protocol.manager import ManagerConfig
from colosim.protocol.node import Node, NodeConfig

# ------------------------------------------------------------------------------ configurations

#: every limit differs, so that a script tells them apart
LIMITS = Limits(
    ready_ns=11 * SECOND,
    quiesce_ns=12 * SECOND,
    request_ns=13 * SECOND,
    stop_ns=14 * SECOND,
    cut_ns=15 * SECOND,
    save_ns=16 * SECOND,
    send_ns=17 * SECOND,
    received_ns=18 * SECOND,
    loaded_ns=19 * SECOND,
    resume_ns=20 * SECOND,
    load_ns=21 * SECOND,
    receive_ns=22 * SECOND,
    precopy_ns=23 * SECOND,
)
ROUNDS = Rounds(threshold_bytes=4_096, most=3)
MANAGER = ManagerConfig(
    vote_timeout_ns=30 * SECOND,
    fence_timeout_ns=40 * SECOND,
    heartbeat_interval_ns=50 * SECOND,
    heartbeat_timeout_ns=60 * SECOND,
)
COLO = (("compare_timeout_ns", 70 * SECOND), ("checkpoint_delay_ns", 90 * SECOND))

#: what `done Save` carries and `blob NAME` is
BLOBS = {"ram": t.Blob("ram", 8_192, "r"), "device": t.Blob("device", 105_007, "d")}
STATE = t.State(ram=BLOBS["ram"], device=BLOBS["device"])


def config_of(
    dialect: str,
    role: t.Role,
    transfer: Transfer = Transfer.STOP_AND_SEND,
    quirks: Quirks = Quirks.NONE,
    commit: Message | None = None,
) -> NodeConfig:
    return NodeConfig(
        id="n",
        role=role,
        dialect=dialect,
        policy="colo",
        policy_params=COLO,
        limits=LIMITS,
        manager=MANAGER,
        transfer=transfer,
        quirks=quirks,
        commit=commit,
        rounds=ROUNDS,
    )


def configurations() -> Iterator[NodeConfig]:
    """Every configuration that has a table of its own, and that scenarios allow."""
    commits = (Message.RECEIVED, Message.LOADED)
    for transfer, quirks, commit in product(Transfer, Quirks, commits):
        if not [*refusals({"transfer": transfer, "quirks": quirks})]:
            yield config_of("upstream", t.Role.PRIMARY, transfer, quirks, commit)
    for transfer in Transfer:
        if not [*refusals({"transfer": transfer, "dialect": "rfc2014"})]:
            yield config_of("rfc2014", t.Role.PRIMARY, transfer)
    for dialect in DIALECTS:
        yield config_of(dialect, t.Role.SECONDARY)


#: what a manager may be set to, and the tag of scripts that hold for it alone
MANAGERS: Mapping[str, ManagerConfig] = {
    "patient": replace(
        MANAGER, heartbeat_grace_ns=25 * SECOND, fence_retries=2, fence_backoff_ns=10 * SECOND
    ),
    "lease": replace(
        MANAGER,
        arbiter=t.Arbiter.LEASE,
        lease_term_ns=12 * SECOND,
        lease_renewal_ns=5 * SECOND,
    ),
    "unfenced": replace(
        MANAGER, arbiter=t.Arbiter.MESSAGES, fencing=False, heartbeat_grace_ns=25 * SECOND
    ),
    "none": replace(MANAGER, arbiter=t.Arbiter.NONE, fencing=False),
}


def manager_configurations() -> Iterator[NodeConfig]:
    """Every configuration of a manager that has scripts of its own, on both sides."""
    for role, manager in product(t.Role, MANAGERS.values()):
        yield replace(config_of("upstream", role), manager=manager)


def tags_of(config: NodeConfig) -> frozenset[str]:
    """What sections and guards of scripts select by."""
    for name, manager in MANAGERS.items():
        if config.manager == manager:
            return frozenset((name, config.role.value))
    tags = {config.dialect, config.role.value}
    if config.role is t.Role.PRIMARY:
        commit = config.commit or DIALECTS[config.dialect].commit
        tags |= {config.transfer.value, config.quirks.value, commit.value}
        if config.transfer is not Transfer.COPY_THEN_SEND:
            tags.add("stopped")  # the guest stands still while its last state is sent
    return frozenset(tags)


def name_of(config: NodeConfig) -> str:
    """A short name, for test ids."""
    order = ("dialect", "role", "transfer", "quirks", "commit")
    values = [str(value) for name in order if (value := getattr(config, name)) is not None]
    return "-".join([*values, *(name for name, m in MANAGERS.items() if m == config.manager)])


# -------------------------------------------------------------------------------------- parsing


class ScriptError(Exception):
    """A script that cannot be read."""


@dataclass
class Line:
    """One input and what must come of it."""

    where: str
    guard: tuple[str, ...]
    input: str
    actions: list[str] = field(default_factory=list)
    signals: list[str] = field(default_factory=list)
    step: str | None = None

    def holds_for(self, tags: frozenset[str]) -> bool:
        return all((tag.lstrip("!") in tags) != tag.startswith("!") for tag in self.guard)


@dataclass
class Block:
    """A path, or a paragraph below ``at``."""

    file: str
    name: str
    tags: frozenset[str]
    start: str
    is_path: bool
    lines: list[Line] = field(default_factory=list)


@dataclass(frozen=True)
class Script:
    """What one configuration plays: lines from the beginning of the node's life."""

    name: str
    lines: tuple[Line, ...]


_GUARD = re.compile(r"\[([^]]*)\]\s*(.*)")
_MARKED = re.compile(r"(?:^|\s+)([<>~@])\s*")


def parse(text: str, file: str) -> list[Block]:
    """The blocks of one file, in order."""
    blocks: list[Block] = []
    tags: frozenset[str] = frozenset()
    start: str | None = None  # of paragraphs
    block: Block | None = None
    for number, raw in enumerate(text.splitlines(), 1):
        where = f"{file}:{number}"
        line = raw.split("#", 1)[0].strip()
        if not line:
            if not raw.strip() and (block is None or not block.is_path):
                block = None  # an empty line ends a paragraph
        elif line.startswith("== "):
            tags, start, block = frozenset(line[3:].split()), None, None
        elif line.startswith("path "):
            name, _, origin = line[5:].partition(" from ")
            block = Block(file, f"{where} {name}", tags, origin or "idle", is_path=True)
            blocks.append(block)
        elif line.startswith("at "):
            start, block = line[3:], None
        else:
            if block is None:
                if start is None:
                    raise ScriptError(f"{where}: a line outside of any path or paragraph")
                block = Block(file, f"{where} at {start}", tags, start, is_path=False)
                blocks.append(block)
            _add(block, line, where)
    return blocks


def _add(block: Block, text: str, where: str) -> None:
    guard: tuple[str, ...] = ()
    if match := _GUARD.fullmatch(text):
        guard, text = tuple(match[1].split()), match[2]
    before, *marked = _MARKED.split(text)
    if before:
        raise ScriptError(f"{where}: cannot read {before!r}")
    for mark, body in zip(marked[::2], marked[1::2], strict=True):
        if mark == "<":
            block.lines.append(Line(where, guard, body))
        elif not block.lines or (guard and not text.startswith("<")):
            raise ScriptError(f"{where}: nothing to continue")
        elif mark == "@":
            block.lines[-1].step = body
        else:
            line = block.lines[-1]
            (line.actions if mark == ">" else line.signals).append(_plain(body))


def scripts(blocks: Iterable[Block], tags: frozenset[str]) -> list[Script]:
    """What a configuration with these tags must play."""
    found: list[Script] = []
    reached: dict[tuple[str, str], tuple[Line, ...]] = {}  # (file, step): the way there
    for block in blocks:
        own = [line for line in block.lines if line.holds_for(tags)]
        if not block.tags <= tags or not own:
            continue
        reached.setdefault((block.file, "idle"), ())
        if (block.file, block.start) not in reached:
            raise ScriptError(f"{block.name}: nothing before it reaches {block.start!r}")
        lines = (*reached[block.file, block.start], *own)
        found.append(Script(block.name, lines))
        if block.is_path:
            for count, line in enumerate(lines, 1):
                if line.step is not None:
                    reached.setdefault((block.file, line.step), lines[:count])
    return found


@cache
def expected_blocks() -> tuple[Block, ...]:
    """All scripts in ``expected/``."""
    folder = Path(__file__).parent / "expected"
    files = sorted(folder.glob("*.txt"))
    return tuple(block for path in files for block in parse(path.read_text("utf-8"), path.name))


def expected_scripts(config: NodeConfig) -> list[Script]:
    return scripts(expected_blocks(), tags_of(config))


# ---------------------------------------------------------------------------------------- player


class Unexpected(AssertionError):
    """The node did something else than the script says."""


class Player:
    """One node and the hand that feeds it."""

    def __init__(self, config: NodeConfig, machine: Machine | None = None) -> None:
        self.node = Node(config, machine)
        self.now_ns = 0
        self.ops: dict[str, list[int]] = {}  # by name of the action, oldest first
        self.actions: list[t.Action] = []  # of the last input
        self.signals: list[t.Signal] = []
        self._cut = 0

    def play(self, lines: Iterable[Line]) -> None:
        for line in lines:
            step = line.step or self.node.step
            self.feed(line.input)
            self._compare(line, "actions", line.actions, [text(a) for a in self.actions])
            self._compare(line, "signals", line.signals, [text(s) for s in self.signals])
            if self.node.step != step:
                raise Unexpected(f"{line.where}: step {self.node.step}, expected {step}")

    @staticmethod
    def _compare(line: Line, what: str, expected: list[str], seen: list[str]) -> None:
        alike = len(expected) == len(seen) and all(
            has.startswith(want) and not has[len(want) : len(want) + 1].isalnum()
            for want, has in zip(expected, seen, strict=True)
        )
        if not alike:
            raise Unexpected(
                f"{line.where}: < {line.input}\n  {what}  {seen}\n  expected {expected}"
            )

    def feed(self, text: str) -> None:
        """Feed one input and the ticks that are due; fill ``actions`` and ``signals``."""
        self.actions, self.signals = [], []
        for event in self._events(text.split()):
            self._feed(event)
            for _ in range(10):
                due_ns = self.node.deadline_ns()
                if due_ns is None or due_ns > self.now_ns:
                    break
                self._feed(t.Tick())
            else:
                raise Unexpected(f"< {text}: the node is never done with its deadlines")

    def _feed(self, event: t.Event) -> None:
        self.node.feed(event, self.now_ns)
        actions, signals = self.node.actions(), self.node.signals()
        self.actions += actions
        self.signals += signals
        for action in actions:
            if (op := getattr(action, "op", None)) is not None:
                self.ops.setdefault(type(action).__name__, []).append(op)
        for signal in signals:
            if isinstance(signal, t.Cut):
                self._cut = signal.checkpoint

    def _events(self, words: list[str]) -> Iterator[t.Event]:
        for length in (2, 1):  # "link lost", "bytes ..."
            make = self._INPUTS.get(" ".join(words[:length]))
            if make is not None:
                yield from make(self, *words[length:])
                return
        raise ScriptError(f"unknown input {' '.join(words)!r}")

    def _bytes(self, *digits: str) -> Iterator[t.Event]:
        yield t.PeerBytes(bytes.fromhex("".join(digits)))

    def _blob(self, name: str) -> Iterator[t.Event]:
        yield t.PeerBlob(BLOBS[name])

    def _state(self, dialect: str) -> Iterator[t.Event]:
        """All that follows the message SEND."""
        for chunk in encode_state(DIALECTS[dialect], STATE):
            if isinstance(chunk, t.Blob):
                yield t.PeerBlob(chunk)
            else:
                yield t.PeerBytes(chunk.removeprefix(encode(DIALECTS[dialect], Message.SEND)))

    def _output(self, stream: str, interval: str, digest: str) -> Iterator[t.Event]:
        yield t.GuestOutput(_range(stream, interval), digest)

    def _witness(self, stream: str, interval: str, digest: str, epoch: str) -> Iterator[t.Event]:
        yield t.PeerOutput(_range(stream, interval), digest, int(epoch))

    def _mismatch(self, stream: str) -> Iterator[t.Event]:
        yield t.GuestOutput(t.Range(stream, 0, 1), "p")
        yield t.PeerOutput(t.Range(stream, 0, 1), "s", self._cut)

    def _done(self, name: str) -> Iterator[t.Event]:
        yield t.Done(self._op(name), STATE if name in {"Save", "Copy"} else None)

    def _round(self, sent: str, left: str) -> Iterator[t.Event]:
        yield t.Precopied(self._op("Precopy"), int(sent), int(left))

    def _failed(self, name: str) -> Iterator[t.Event]:
        yield t.Failed(self._op(name), f"{name} failed")

    def _vote(self, verdict: str, number: str = "0") -> Iterator[t.Event]:
        """The answer to the last question, or to one by its number."""
        self._op("AskVote")
        yield t.VoteSeen(self.ops["AskVote"][int(number) - 1], verdict == "granted")

    def _lease(self, verdict: str, number: str = "0") -> Iterator[t.Event]:
        """The answer to the last renewal, or to one by its number."""
        self._op("RenewLease")
        yield t.LeaseSeen(self.ops["RenewLease"][int(number) - 1], verdict == "held")

    def _promotion(self) -> Iterator[t.Event]:
        yield t.PeerGone("peer gone")
        yield t.VoteSeen(self._op("AskVote"), granted=True)
        yield t.Done(self._op("Fence"))

    def _tick(self, after: str | None = None) -> Iterator[t.Event]:
        due_ns = self.node.deadline_ns()
        if due_ns is None or (after is not None and due_ns != self.now_ns + _seconds(after)):
            raise Unexpected(f"deadline {due_ns}, now {self.now_ns}, expected {after}")
        self.now_ns = due_ns
        yield t.Tick()

    def _late(self, by: str) -> Iterator[t.Event]:
        self.now_ns += _seconds(by)
        yield t.Tick()

    def _quiet(self) -> Iterator[t.Event]:
        if (due_ns := self.node.deadline_ns()) is not None:
            raise Unexpected(f"deadline {due_ns}, expected none")
        return iter(())

    def _op(self, name: str) -> int:
        if name not in self.ops:
            raise Unexpected(f"{name} was never asked for")
        return self.ops[name][-1]

    _INPUTS: ClassVar[dict[str, Callable[..., Iterator[t.Event]]]] = {
        "start": lambda _: iter((t.Start(),)),
        "bytes": _bytes,
        "blob": _blob,
        "state": _state,
        "output": _output,
        "witness": _witness,
        "mismatch": _mismatch,
        "done": _done,
        "round": _round,
        "failed": _failed,
        "link lost": lambda _: iter((t.LinkLost("link lost"),)),
        "vm gone": lambda _: iter((t.VmGone("vm gone"),)),
        "guest off": lambda _: iter((t.GuestOff(),)),
        "hand over": lambda _: iter((t.HandOver(),)),
        "heartbeat": lambda _: iter((t.HeartbeatSeen(),)),
        "peer gone": lambda _: iter((t.PeerGone("peer gone"),)),
        "vote": _vote,
        "claimed": lambda _: iter((t.PeerClaimed(),)),
        "lease": _lease,
        "promotion": _promotion,
        "tick": _tick,
        "late": _late,
        "quiet": _quiet,
    }


class Recorder(dict):
    """A table that remembers which rows were used."""

    def __init__(self, rows: Mapping) -> None:
        super().__init__(rows)
        self.used: set = set()

    def get(self, key: Any, default: Any = None) -> Any:
        if key in self:
            self.used.add(key)
        return super().get(key, default)


def _range(stream: str, interval: str) -> t.Range:
    first, end = interval.split("-")
    return t.Range(stream, int(first), int(end))


def _seconds(text: str) -> int:
    return int(text.removeprefix("+").removesuffix("s")) * SECOND


def text(value: object) -> str:
    """An action or a signal as scripts write it."""
    match value:
        case t.Range(stream, first, end):
            return f"{stream} {first}-{end}"
        case t.Blob(name):
            return f"{{{name}}}"
        case t.State(ram, device):
            return f"{text(ram)} {text(device)}"
        case t.SendState(_, chunks):
            return _plain("SendState " + " ".join(map(text, chunks)))
        case bytes():
            return value.hex()
        case tuple():
            return ", ".join(map(text, value))
        case _ if is_dataclass(value):
            parts = (getattr(value, each.name) for each in fields(value) if each.name != "op")
            return " ".join([type(value).__name__, *map(text, parts)])
        case _:
            return str(value)


_BETWEEN_DIGITS = re.compile(r"(?<=\s)([0-9a-f]+)\s+(?=[0-9a-f]+(?:\s|$))")


def _plain(body: str) -> str:
    """One space between words, none between the bytes of a message."""
    body = " ".join(body.split())
    if body.startswith(("SendMessage", "SendState")):
        body = _BETWEEN_DIGITS.sub(r"\1", body)
    return body
