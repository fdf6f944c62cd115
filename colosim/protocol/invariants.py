"""Observers of a merged trace that say when a promise was broken.

Each sees every line and keeps its own books: none asks a node what it thinks.  `Scope` says when
a promise is made at all (architecture, "Invariants have a scope"): designs that do not make it
report violations as results, not as defects.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from colosim.protocol import types as t
from colosim.protocol.dialect import DIALECTS, Message
from colosim.protocol.digests import DIGESTS
from colosim.protocol.manager import ManagerConfig
from colosim.protocol.node import NodeConfig
from colosim.protocol.policies import POLICIES
from colosim.protocol.trace import Line


class Scope(StrEnum):
    """When a promise holds."""

    ALWAYS = "under any faults"
    SINGLE_FAULT = "under any single fault"


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise and where it was seen."""

    invariant: str
    node: str
    n: int
    now_ns: int
    text: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.text} (node {self.node}, line {self.n}, {self.now_ns} ns)"


class Invariant:
    """Base of all observers."""

    scope = Scope.ALWAYS

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def see(self, line: Line) -> None:
        raise NotImplementedError

    def _broken(self, line: Line, text: str) -> None:
        name = type(self).__name__
        self.violations.append(Violation(name, line.node, line.n, line.now_ns, text))


class OneActiveSide(Invariant):
    """Once a side is promoted, no other side's output reaches clients, ever."""

    def __init__(self) -> None:
        super().__init__()
        self._promoted: str | None = None

    def see(self, line: Line) -> None:
        match line.body:
            case t.Promote():
                if self._promoted not in (None, line.node):
                    self._broken(line, f"both {self._promoted} and {line.node} were promoted")
                self._promoted = line.node
            case t.Release(ranges) if self._promoted not in (None, line.node):
                self._broken(line, f"{len(ranges)} range(s) left after {self._promoted} took over")
            case _:
                pass


class OutputCommit(Invariant):
    """Nothing leaves a protected primary that is neither committed nor witnessed.

    Committed: the range was made before Cut(k), and the other side has what the dialect asks for
    (upstream: all of state k in hand; rfc2014 and ``commit = loaded``: state k loaded).
    Witnessed: the same range with the same digest arrived from the run that state k began.  Of
    frames, which two guests cut differently: the comparison said so since that cut.  What a side
    that is silent then could not let out stays witnessed.  A policy that changes what output waits
    for does so before anything of the epoch is made, and while it says commit, no witness will do.
    """

    def __init__(self) -> None:
        super().__init__()
        self._configs: dict[str, NodeConfig] = {}
        self._alone: set[str] = set()
        self._made: dict[str, dict[t.Range, tuple[str, int]]] = {}  # digest, checkpoint
        self._witnessed: dict[str, set[tuple[t.Range, str]]] = {}
        self._matched: dict[str, set[t.Range]] = {}
        self._cut: dict[str, int] = {}
        self._rule: dict[str, t.Output] = {}
        self._silent: set[str] = set()
        self._due: dict[str, set[t.Range]] = {}  # witnessed before a cut, and kept by silence
        self._in_hand = 0  # newest state complete on the secondary
        self._loaded = 0

    def see(self, line: Line) -> None:
        node = line.node
        match line.body:
            case NodeConfig() as config:
                self._configs[node] = config
                self._made[node], self._witnessed[node], self._cut[node] = {}, set(), 0
                self._matched[node], self._due[node] = set(), set()
                self._rule[node] = POLICIES[config.policy].output
                if config.manager.arbiter is t.Arbiter.LEASE:
                    self._silent.add(node)  # until it has one
            case t.GuestOutput() | t.PeerOutput() | t.Match() as said:
                self._said(node, said)
            case t.Cut() | t.Silenced() | t.OutputRule() as turned:
                self._turned(line, turned)
            case t.Load(_, _, checkpoint):
                self._in_hand = checkpoint
            case t.Loaded(checkpoint):
                self._loaded = checkpoint
            case t.Alone():
                self._alone.add(node)
            case t.Release(ranges):
                for piece in self._pieces(node, ranges):
                    self._left(line, piece)
            case t.Drop(ranges) if self._by_frame(node):
                for piece in self._pieces(node, ranges):
                    self._made[node].pop(piece, None)
            case _:
                pass

    def _turned(self, line: Line, turned: t.Cut | t.Silenced | t.OutputRule) -> None:
        """What may leave is another from here on."""
        node = line.node
        match turned:
            case t.Silenced(is_silent):
                (self._silent.add if is_silent else self._silent.discard)(node)
            case t.OutputRule(output):
                self._ruled(line, output)
            case t.Cut(checkpoint):
                if node in self._silent and self._rule[node] is t.Output.WITNESS:
                    self._due[node] |= {
                        piece
                        for piece, (digest, _) in self._made[node].items()
                        if self._is_witnessed(node, piece, digest)
                    }
                self._cut[node] = checkpoint
                self._witnessed[node].clear()
                self._matched[node].clear()

    def _ruled(self, line: Line, output: t.Output) -> None:
        self._rule[line.node] = output
        begun = self._cut[line.node] + 1
        if any(checkpoint == begun for _, checkpoint in self._made[line.node].values()):
            self._broken(line, f"waits for {output} in the middle of epoch {begun}")

    def _said(self, node: str, said: t.GuestOutput | t.PeerOutput | t.Match) -> None:
        """By a guest, or of both by the comparison."""
        match said:
            case t.GuestOutput(range_, digest):
                for piece in self._pieces(node, (range_,)):
                    self._made[node][piece] = (digest, self._cut[node] + 1)
            case t.PeerOutput(range_, digest, epoch) if epoch == self._cut[node]:
                self._witnessed[node].add((range_, digest))
            case t.Match(range_) if self._by_frame(node):
                self._matched[node].update(self._pieces(node, (range_,)))
            case _:
                pass

    def _by_frame(self, node: str) -> bool:
        return self._configs[node].compare != DIGESTS

    def _pieces(self, node: str, ranges: Iterable[t.Range]) -> Iterable[t.Range]:
        """What of them leaves by itself."""
        if not self._by_frame(node):
            return ranges
        return (
            t.Range(range_.stream, at, at + 1)
            for range_ in ranges
            for at in range(range_.first, range_.end)
        )

    def _left(self, line: Line, range_: t.Range) -> None:
        config = self._configs[line.node]
        output = self._rule[line.node]
        made = self._made[line.node].pop(range_, None)
        if made is None:
            self._broken(line, f"{range_} left and was never made")
        elif output is not t.Output.NONE and line.node not in self._alone:
            digest, checkpoint = made
            commit = config.commit or DIALECTS[config.dialect].commit
            safe = self._loaded if commit is Message.LOADED else self._in_hand
            witnessed = range_ in self._due[line.node] or (
                output is t.Output.WITNESS and self._is_witnessed(line.node, range_, digest)
            )
            if checkpoint > safe and not witnessed:
                self._broken(line, f"{range_} of checkpoint {checkpoint} left; safe is {safe}")

    def _is_witnessed(self, node: str, piece: t.Range, digest: str) -> bool:
        return (piece, digest) in self._witnessed[node] or piece in self._matched[node]


class NoLoss(Invariant):
    """Whoever releases a range says the same as whoever released it before."""

    scope = Scope.SINGLE_FAULT

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[tuple[str, t.Range], str] = {}
        self._left: dict[t.Range, str] = {}

    def see(self, line: Line) -> None:
        match line.body:
            case t.GuestOutput(range_, digest):
                self._made[line.node, range_] = digest
            case t.Release(ranges):
                for range_ in ranges:
                    digest = self._made.pop((line.node, range_), "")
                    before = self._left.setdefault(range_, digest)
                    if before != digest:
                        self._broken(line, f"{range_} left as {before!r} and now as {digest!r}")
            case _:
                pass


class CheckpointOrder(Invariant):
    """Checkpoints are numbered without gaps, cut before committed, and loaded once, in order."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, type], int] = {}

    def see(self, line: Line) -> None:
        match line.body:
            case t.CheckpointStarted(checkpoint, _) | t.Cut(checkpoint) | t.Loaded(checkpoint):
                self._next(line, checkpoint)
            case t.Committed(checkpoint):
                self._next(line, checkpoint)
                if self._last.get((line.node, t.Cut), 0) != checkpoint:
                    self._broken(line, f"checkpoint {checkpoint} committed before its cut")
            case _:
                pass

    def _next(self, line: Line, checkpoint: int) -> None:
        key = (line.node, type(line.body))
        last = self._last.get(key, 0)
        if checkpoint != last + 1:
            self._broken(line, f"{key[1].__name__} of checkpoint {checkpoint} after {last}")
        self._last[key] = checkpoint


def promises_one_side(manager: ManagerConfig, drift_bound: float, slowest_rate: float) -> bool:
    """Whether `OneActiveSide` is promised; of other designs a violation is a result.

    A design that fences promises it whatever its arbiter says, and a lease as long as no clock runs
    slower, beside the lock service's, than its bound says.
    """
    is_within = slowest_rate >= 1 - drift_bound
    return manager.fencing or (manager.arbiter is t.Arbiter.LEASE and is_within)


ALL: tuple[type[Invariant], ...] = (OneActiveSide, OutputCommit, NoLoss, CheckpointOrder)


class EachPair:
    """All of them, of each pair by itself: checkpoints, output and promotions are counted anew."""

    def __init__(self) -> None:
        self._pair_of: dict[str, int] = {}
        self._observers: dict[int, list[Invariant]] = {}

    def see(self, line: Line) -> None:
        if isinstance(line.body, NodeConfig):
            self._pair_of[line.node] = line.body.pair
        pair = self._pair_of.get(line.node, 1)
        if pair not in self._observers:
            self._observers[pair] = [invariant() for invariant in ALL]
        for observer in self._observers[pair]:
            observer.see(line)

    @property
    def violations(self) -> list[Violation]:
        """By pair, then by invariant."""
        everyone = (observer for group in self._observers.values() for observer in group)
        return [violation for observer in everyone for violation in observer.violations]


def check(lines: Iterable[Line]) -> list[Violation]:
    """Every violation in a merged trace, in the order of their lines; each pair by itself."""
    observer = EachPair()
    for line in lines:
        observer.see(line)
    return sorted(observer.violations, key=lambda violation: violation.now_ns)
