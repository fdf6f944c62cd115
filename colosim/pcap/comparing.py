"""Two captures through a comparator, as if the primary had been protected by the secondary."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from colosim.pcap.alignment import Alignment
from colosim.pcap.kept import Sent
from colosim.protocol.verdicts import Differs, FrameComparator, Late, Lost, Same

#: findings, and checkpoints, that are kept; all are counted
KEPT_MOST = 100_000
_GROUP_MOST = 256
_NEVER = -1

#: time, number in the capture and bytes
Frame = tuple[int, int, bytes]


class Outcome(IntEnum):
    """What became of a frame of the primary."""

    HELD = 0  #: nothing yet, when the captures ended
    EQUAL = 1  #: left because the secondary said the same
    CHECKPOINT = 2  #: left with a checkpoint
    LOST = 3  #: never left (a full queue or table of mode ``qemu``)


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict that is no `Same`; times in ns, frames as numbered in their captures."""

    time_ns: int
    what: str
    why: str
    connection: str
    primary_frame: int | None
    secondary_frame: int | None
    offset: int | None
    ours: bytes
    theirs: bytes
    hold_ns: int | None
    checkpoint: int | None
    is_first: bool


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An assumed checkpoint; ``is_first``: its connection had caused none before."""

    time_ns: int
    why: str
    connection: str
    frames: int
    is_first: bool


class Comparing:
    """Feeds a comparator and keeps what it said; 25 bytes for each frame of the primary.

    pause_ns: from the cut of a checkpoint to its commit.  Meanwhile both guests stand still, so
    what the captures have then counts as said at the commit.
    """

    def __init__(self, comparator: FrameComparator, alignment: Alignment, pause_ns: int) -> None:
        self.now_ns = 0
        self.frame_numbers = array("I")
        self.made_ns = array("q")
        self.released_ns = array("q")
        self.outcomes = array("b")
        self.checkpoint_of = array("i")
        self.checkpoints: list[Checkpoint] = []
        self.reasons: Counter[tuple[str, bool]] = Counter()  # of all checkpoints, with is_first
        self.findings: list[Finding] = []
        self.finding_count = 0
        self._comparator = comparator
        self._alignment = alignment
        self._pause_ns = pause_ns
        self._given = array("I")  # to the comparator: numbers in the secondary's capture
        self._seen: set[str] = set()  # connections that have differed

    def run(self, primary: Iterator[Frame], secondary: Iterator[Frame]) -> None:
        """All frames of both captures, in order of time."""
        for is_primary, time_ns, frames in merged(primary, secondary):
            self._advance(time_ns)
            if is_primary:
                self._primary(time_ns, frames)
            else:
                sent = (Sent(number, frame) for _, number, frame in frames)
                self._say(
                    each for one in sent for each in self._alignment.secondary(one, self.now_ns)
                )

    def _advance(self, until_ns: int) -> None:
        """Time passes, and deadlines with it; during a pause nothing moves."""
        comparator = self._comparator
        while (due_ns := comparator.deadline_ns()) is not None and due_ns <= until_ns:
            self.now_ns = max(self.now_ns, due_ns)
            comparator.tick(self.now_ns)
            self._hear()
            if comparator.deadline_ns() == due_ns:  # not done by its own time
                comparator.tick(until_ns)
                self._hear()
                break
        self.now_ns = max(self.now_ns, until_ns)

    def _primary(self, time_ns: int, frames: Sequence[Frame]) -> None:
        first = len(self.made_ns)
        waited: list[Sent] = []
        for _, number, frame in frames:
            self.frame_numbers.append(number)
            self.made_ns.append(time_ns)
            self.released_ns.append(_NEVER)
            self.outcomes.append(Outcome.HELD)
            self.checkpoint_of.append(_NEVER)
            waited += self._alignment.primary(frame, self.now_ns)
        self._comparator.primary(first, [frame for _, _, frame in frames], self.now_ns)
        self._hear()
        if waited:
            self._say(waited)

    def _say(self, sent: Iterable[Sent], *, again: bool = True) -> None:
        """The secondary's frames to the comparator, under numbers that never go back."""
        first = len(self._given)
        frames = []
        for number, frame in sent:
            self._given.append(number)
            frames.append(frame)
        if frames:
            self._comparator.secondary(first, frames, self.now_ns)
            self._hear(again=again)

    # -- what it says --------------------------------------------------------------------------

    def _hear(self, *, again: bool = True) -> None:
        """Note what was found; after a difference, checkpoint."""
        causes: list[Differs | Late] = []
        for verdict in self._comparator.verdicts():
            match verdict:
                case Same(frames):
                    for i in frames:
                        self.released_ns[i] = self.now_ns
                        self.outcomes[i] = Outcome.EQUAL
                case Lost(frames):
                    for i in frames:
                        self.outcomes[i] = Outcome.LOST
                    self._find(Late("", frames[0]), "lost", why=f"{len(frames)} frames")
                case _:
                    causes.append(verdict)
        if causes:
            self._checkpoint(causes, again=again)

    def _checkpoint(self, causes: Sequence[Differs | Late], *, again: bool) -> None:
        number = self.reasons.total()
        cut_ns = self.now_ns
        cause = causes[0]
        is_first = cause.connection not in self._seen
        for each in causes:
            what = "late" if isinstance(each, Late) else "differs"
            self._find(each, what, why=_why(each), checkpoint=number)
        held = self._comparator.cut(cut_ns)
        self.now_ns = cut_ns + self._pause_ns
        for i in held:
            self.released_ns[i] = self.now_ns
            self.outcomes[i] = Outcome.CHECKPOINT
            self.checkpoint_of[i] = number
        self._comparator.committed(self.now_ns)
        self.reasons[_why(cause), is_first] += 1
        if number < KEPT_MOST:
            self.checkpoints.append(
                Checkpoint(cut_ns, _why(cause), cause.connection, len(held), is_first)
            )
        different = {self._given[n] for each in causes if (n := each.secondary) is not None}
        repeated = self._alignment.cut(different, cut_ns)
        if again:  # once: what is said again must not make the next checkpoint say it again
            self._say(repeated, again=False)

    def _find(
        self, verdict: Differs | Late, what: str, *, why: str, checkpoint: int | None = None
    ) -> None:
        self.finding_count += 1
        is_first = verdict.connection not in self._seen
        if len(self.findings) >= KEPT_MOST:
            return
        if what != "lost":
            self._seen.add(verdict.connection)
        ours, theirs = verdict.primary, verdict.secondary
        differs = verdict if isinstance(verdict, Differs) else None
        self.findings.append(
            Finding(
                time_ns=self.now_ns,
                what=what,
                why=why,
                connection=verdict.connection,
                primary_frame=None if ours is None else self.frame_numbers[ours],
                secondary_frame=None if theirs is None else self._given[theirs],
                offset=None if differs is None else differs.offset,
                ours=b"" if differs is None else differs.ours,
                theirs=b"" if differs is None else differs.theirs,
                hold_ns=None if ours is None else self.now_ns - self.made_ns[ours],
                checkpoint=checkpoint,
                is_first=is_first,
            )
        )


def _why(cause: Differs | Late) -> str:
    return "late" if isinstance(cause, Late) else cause.why.value


def merged(
    primary: Iterator[Frame], secondary: Iterator[Frame]
) -> Iterator[tuple[bool, int, list[Frame]]]:
    """Frames of both in order of time, some of one side and one time together, primary's first."""
    ours, theirs = next(primary, None), next(secondary, None)
    while ours is not None or theirs is not None:
        if ours is not None and (theirs is None or ours[0] <= theirs[0]):
            time_ns, group = ours[0], [ours]
            while (ours := next(primary, None)) is not None and ours[0] == time_ns:
                if len(group) == _GROUP_MOST:
                    break
                group.append(ours)
            yield True, time_ns, group
        elif theirs is not None:
            time_ns, group = theirs[0], [theirs]
            while (theirs := next(secondary, None)) is not None and theirs[0] == time_ns:
                if len(group) == _GROUP_MOST:
                    break
                group.append(theirs)
            yield False, time_ns, group
