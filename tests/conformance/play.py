"""A conversation through QEMU and through the model, compared after each step; and shrinking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from itertools import combinations
from random import Random

from colosim.protocol.compare_qemu import QemuComparator
from colosim.protocol.verdicts import CompareLimits, Differs, Late, Same
from tests.conformance.conversations import KINDS, Conversation, Do, Step
from tests.conformance.oracle import ROOM_FRAMES, Oracle, OracleError, Seen

_PAIRS_UP_TO = 30  # steps
_AGAIN = 3  # plays of a conversation in which QEMU ended
_OTHERS = 100  # conversations
_SHRUNK = 6

Model = Callable[[CompareLimits, bool], QemuComparator]


def model(limits: CompareLimits, vnet: bool) -> QemuComparator:
    return QemuComparator(limits, vnet=vnet)


@dataclass(slots=True)
class Watched:
    """A model, with the frames it was given, so that its verdicts can be seen as QEMU's are."""

    comparator: QemuComparator
    now_ns: int = 0
    frames: list[bytes] = field(default_factory=list)
    lost: int = 0

    def primary(self, *frames: bytes) -> None:
        first = len(self.frames)
        self.frames += frames
        self.comparator.primary(first, frames, self.now_ns)

    def secondary(self, *frames: bytes) -> None:
        self.comparator.secondary(0, frames, self.now_ns)

    def cut(self) -> Seen:
        released, notified = self.seen()
        held = self.comparator.cut(self.now_ns)
        return [*released, *(self.frames[number] for number in held)], notified

    def seen(self) -> Seen:
        """What its verdicts look like from outside."""
        released: list[bytes] = []
        notified = 0
        for verdict in self.comparator.verdicts():
            if isinstance(verdict, Same):
                released += [self.frames[number] for number in verdict.frames]
            elif isinstance(verdict, Differs | Late):
                notified += 1
            else:
                self.lost += len(verdict.frames)
        return released, notified


@dataclass(frozen=True, slots=True)
class Difference:
    """At the last step of ``conversation`` QEMU did something else than the model."""

    conversation: Conversation
    expected: Seen | None
    observed: Seen | None
    why: str = ""

    def story(self) -> str:
        """For people: every step, and at the end what differed."""
        given = self.conversation
        names: dict[bytes, str] = {}
        lines = [f"vnet headers: {given.vnet}, queue limit {given.queue_frames}"]
        for number, step in enumerate(given.steps, 1):
            names.setdefault(step.frame, f"step {number}'s frame")
            lines.append(f"{number:3} {step.words(given.vnet)}")

        def told(who: str, seen: Seen | None) -> str:
            if seen is None:
                return f"    {who}: {self.why}"
            frames = ", ".join(names.get(frame, "a fence") for frame in seen[0]) or "nothing"
            return f"    {who}: sent {frames}; asked {seen[1]} times for a checkpoint"

        return "\n".join([*lines, told("model", self.expected), told("QEMU ", self.observed)])


def play(
    oracle: Oracle, given: Conversation, count: Counter[str], make: Model = model
) -> Difference | None:
    """A fresh QEMU object and a fresh model, step by step; the first difference, if there is one.

    What QEMU leaves undefined is avoided and counted: a frame whose headers it reads beyond the end
    is left out, and before a comparison that reads on there the conversation ends.  So it does when
    so much is held that a flush would not come out in order.
    """
    limits = CompareLimits(queue_frames=given.queue_frames)
    oracle.fresh(vnet=given.vnet, max_queue_size=given.queue_frames)
    watched = Watched(make(limits, given.vnet))
    for number, step in enumerate(given.steps, 1):
        if _is_header_cut(step.frame, given.vnet):
            count["undefined headers"] += 1
            continue
        fence = oracle.fence() if step.do is Do.SECONDARY else b""
        expected = _expected(watched, step, fence)
        if watched.comparator.undefined:
            count["undefined comparisons"] += 1
            break
        if watched.comparator.held().primary_frames > ROOM_FRAMES:
            count["too much held"] += 1
            break
        try:
            observed, why = _observed(oracle, step, fence), ""
        except (OracleError, OSError) as error:
            observed, why = None, f"{error}; it said: {oracle.said()}"
        count["steps"] += 1
        count[step.do] += 1
        count["sent"] += len(expected[0]) - (step.do is Do.SECONDARY)
        count["notified"] += expected[1]
        if observed != expected:
            so_far = replace(given, steps=given.steps[:number])
            return Difference(so_far, expected, observed, why)
    count["conversations"] += 1
    count["lost"] += watched.lost
    return None


def _is_header_cut(frame: bytes, vnet: bool) -> bool:
    """Would QEMU read a header of it that is not there?"""
    if not frame or len(frame) > 128:
        return False
    alone = QemuComparator(CompareLimits(), vnet=vnet)
    alone.primary(0, [frame], 0)
    return alone.undefined > 0


def _expected(watched: Watched, step: Step, fence: bytes) -> Seen:
    match step.do:
        case Do.PRIMARY:
            watched.primary(step.frame)
        case Do.SECONDARY:
            watched.secondary(step.frame, fence)
            watched.primary(fence)
        case Do.CUT:
            return watched.cut()
        case Do.QUEUE:
            comparator = watched.comparator
            comparator.limits = replace(comparator.limits, queue_frames=step.limit)
    return watched.seen()


def _observed(oracle: Oracle, step: Step, fence: bytes) -> Seen:
    match step.do:
        case Do.PRIMARY:
            return oracle.primary([step.frame])
        case Do.SECONDARY:
            return oracle.secondary([step.frame], fence)
        case Do.CUT:
            return oracle.cut()
        case Do.QUEUE:
            oracle.set(max_queue_size=step.limit)
    return [], 0


# --------------------------------------------------------------------------------------------
# Many, and the short form of one that differs


def conversation_of(kind: str, seed: int) -> Conversation:
    return KINDS[kind](Random(f"{kind} {seed}"))


def run(
    oracle: Oracle, kind: str, steps: int, first: int = 0, make: Model = model
) -> tuple[Counter[str], Difference | None]:
    """Conversations from seed ``first`` on until there were ``steps``; stops at a difference.

    A QEMU that ends is one only if it does so again: 11.1.3 did, once in 3 million steps, in a
    memcmp beyond the end of what it had allocated, and not in those conversations again.
    """
    count: Counter[str] = Counter()
    seed = first
    while count["steps"] < steps:
        given = conversation_of(kind, seed)
        difference = play(oracle, given, count, make)
        if difference is not None and difference.observed is None:
            count["QEMU ended"] += 1
            again = (play(oracle, given, Counter(), make) for _ in range(_AGAIN))
            difference = next((each for each in again if each is not None), None)
        if difference is not None:
            return count, difference
        seed += 1
    return count, None


def shrunk(fails: Callable[[Conversation], Difference | None], found: Difference) -> Difference:
    """Leave out ever shorter runs of steps, and at last pairs, while something still differs."""

    def without(indices: Collection[int]) -> bool:
        nonlocal found
        steps = found.conversation.steps
        fewer = tuple(step for i, step in enumerate(steps) if i not in indices)
        smaller = fails(replace(found.conversation, steps=fewer)) if fewer else None
        found = smaller or found
        return smaller is not None

    size = len(found.conversation.steps) // 2
    while size:
        at = 0
        while at < len(found.conversation.steps):
            if not without(range(at, at + size)):
                at += size
        size //= 2
    while len(found.conversation.steps) <= _PAIRS_UP_TO and any(
        map(without, combinations(range(len(found.conversation.steps)), 2))
    ):
        pass
    return found


def shortest(
    oracle: Oracle, kind: str, found: Difference, first: int = 0, make: Model = model
) -> Difference:
    """The shortest of what ``found`` and other conversations that differ shrink to."""

    def fails(given: Conversation) -> Difference | None:
        return play(oracle, given, Counter(), make)

    others = (fails(conversation_of(kind, first + i)) for i in range(_OTHERS))
    differences = [found, *(other for other in others if other is not None)]
    differences.sort(key=lambda each: len(each.conversation.steps))
    small = (shrunk(fails, each) for each in differences[:_SHRUNK])
    return min(small, key=lambda each: len(each.conversation.steps))
