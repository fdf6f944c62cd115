"""What mode strict has to say of one TCP conversation, the slow way: all bytes ever said are kept.

Positions, not sequence numbers: whoever makes a conversation knows where its bytes are, so nothing
wraps here.  Everything is decided anew after each segment.  No SYN, one conversation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.protocol.frames import ACK, FIN, RST


@dataclass(frozen=True)
class Segment:
    position: int
    payload: bytes
    ack: int
    flags: int = ACK

    @property
    def end(self) -> int:
        return self.position + len(self.payload)


@dataclass
class PlainSpec:
    ours: dict[int, int] = field(default_factory=dict)  # byte by position
    theirs: dict[int, int] = field(default_factory=dict)
    before: int | None = None  # all before it is the same in both guests
    waiting: list[tuple[int, Segment, bool]] = field(default_factory=list)
    ack: int | None = None
    our_ack: int | None = None
    fins: list[int | None] = field(default_factory=lambda: [None, None])
    resets: list[bool] = field(default_factory=lambda: [False, False])
    stuck: bool = False
    committed: bool = True
    promised: tuple[int, int] | None = None  # positions that only the uncommitted checkpoint has
    promised_fin: bool = False
    promised_reset: bool = False
    commit_ack: int | None = None
    overtakes: bool = False  # the newest frame that waits repeats only what has left

    def primary(self, number: int, segment: Segment) -> tuple[list[int], bool]:
        """Frames that leave, and whether a difference is seen."""
        low, high = self.promised or (0, 0)
        repeats = not self.committed and (
            (segment.payload and segment.position < high and segment.end > low)
            or (segment.flags & FIN and self.promised_fin)
            or (segment.flags & RST and self.promised_reset)
        )
        held = {at for _, other, _ in self.waiting for at in range(other.position, other.end)}
        mine = set(range(segment.position, segment.end))
        self.overtakes = bool(
            mine
            and not repeats
            and not segment.flags & (FIN | RST)
            and not mine & held
            and all(self._alike(at) for at in mine)
        )
        self.waiting.append((number, segment, bool(repeats)))
        if not segment.flags & RST:
            self.our_ack = max(self.our_ack or 0, segment.ack)
        return self._say(0, segment)

    def secondary(self, segment: Segment) -> tuple[list[int], bool]:
        before = self.ack
        if not segment.flags & RST:
            self.ack = max(self.ack or 0, segment.ack)
        said = self._say(1, segment)
        if self.stuck:
            self.ack = before
        return said

    def cut(self) -> list[int]:
        held = [number for number, _, _ in self.waiting]
        mine = [self.before, *(position + 1 for position in self.ours)]
        end = max((x for x in mine if x is not None), default=None)
        segments = [segment for _, segment, _ in self.waiting]
        starts = [s.position for s in segments if s.payload]
        if not self.committed and self.promised and self.promised[0] < self.promised[1]:
            starts.append(self.promised[0])
        if end is not None:
            self.promised = (min([*starts, end]), end)
            self.before = end
        if self.committed:
            self.promised_fin = self.promised_reset = False
        self.promised_fin |= any(s.flags & FIN and not s.flags & RST for s in segments)
        self.promised_reset |= any(bool(s.flags & RST) for s in segments)
        self.committed = False
        self.waiting = []
        self.ours, self.theirs = {}, {}
        self.fins[1], self.resets[1] = self.fins[0], self.resets[0]
        self.commit_ack = self.our_ack
        if self.ack is not None and self.our_ack is not None:
            self.ack = min(self.ack, self.our_ack)
        self.stuck = False
        return held

    def commit(self) -> list[int]:
        self.committed = True
        if self.commit_ack is not None:
            self.ack = max(self.ack or 0, self.commit_ack)
        return [] if self.stuck else self._leave()

    def _say(self, side: int, segment: Segment) -> tuple[list[int], bool]:
        mine, other = (self.ours, self.theirs) if side == 0 else (self.theirs, self.ours)
        was = self.stuck
        if segment.flags & RST:
            self.resets[side] = True
        elif not was or side == 0:
            for at, byte in enumerate(segment.payload, segment.position):
                if self.before is not None and at < self.before:
                    continue
                if mine.setdefault(at, byte) != byte or other.get(at, byte) != byte:
                    self.stuck = True
            if segment.flags & FIN:
                if self.fins[side] not in (None, segment.end):
                    self.stuck = True
                self.fins[side] = segment.end
        self.stuck |= self._cannot_be()
        if self.stuck:
            return [], not was
        return self._leave(), False

    def _cannot_be(self) -> bool:
        ends = [
            max(said, default=-1) + 1 or (self.before or 0) for said in (self.ours, self.theirs)
        ]
        for one in (0, 1):
            fin = self.fins[one]
            if fin is not None and (self.fins[1 - one] not in (None, fin) or max(ends) > fin):
                return True
            if self.resets[one] and ends[one] and ends[1 - one] > ends[one]:
                return True
        return False

    def _leave(self) -> list[int]:
        left = []
        while self.waiting and self._may_leave(*self.waiting[0]):
            left.append(self.waiting.pop(0)[0])
        if self.waiting and self.overtakes and self._may_leave(*self.waiting[-1]):
            left.append(self.waiting.pop()[0])
            self.overtakes = False
        return left

    def _alike(self, at: int) -> bool:
        """Whether both have said this byte, or had it before."""
        before = self.before is not None and at < self.before
        return before or (at in self.theirs and at in self.ours)

    def _may_leave(self, number: int, segment: Segment, repeats: bool) -> bool:
        ended = self.fins[0] is not None and self.fins[0] == self.fins[1]
        alike = all(self._alike(at) for at in range(segment.position, segment.end))
        if repeats and not self.committed:
            return False
        if segment.flags & RST:
            return ended or self.resets[1]
        if segment.flags & FIN and self.fins[1] != segment.end:
            return False
        patience = 1 if ended and not segment.payload else 0
        return alike and self.ack is not None and segment.ack <= self.ack + patience
