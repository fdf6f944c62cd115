"""One TCP conversation as two guests hold it: their byte streams, compared where both are known.

The rules are in `colosim.protocol.compare_strict`; this is the state they work on.  A conversation
is one direction, guest to client.  Both guests' bytes are put at their sequence numbers, unfolded
to numbers that never wrap.  A byte that both have said alike is done and its memory is free; what
only one has said waits in pieces.  Nothing here knows of time, verdicts or other conversations.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from colosim.protocol.packets import ACK, FIN, RST, SYN
from colosim.protocol.ranges import BEFORE_ALL, Piece, Pieces, Ranges
from colosim.protocol.verdicts import Why

PRIMARY, SECONDARY = 0, 1

#: Beside the flags of TCP: says what an uncommitted checkpoint covers, so waits for the commit.
COVERED = 0x100
#: The same: repeats bytes that have left, and nothing else, so need not wait for those before it.
REPEATED = 0x200

MASK = 0xFFFFFFFF
HALF = 0x80000000
_TURN = 1 << 32
#: No window is larger, so a segment farther away is of another stream.
_REACH = 1 << 24
_BACK = 1 << 30
_LOOKED_AT = 256  # frames in a line that are looked at to get back into step
SHOWN = 16

#: number, start, end, acknowledgement or -1, flags, frame and its payload's place (fast path only)
Entry = tuple[int, int, int, int, int, bytes, int]


class Found(NamedTuple):
    """A difference; the fields are those of `Differs`."""

    why: Why
    primary: int | None = None
    secondary: int | None = None
    offset: int | None = None
    ours: bytes = b""
    theirs: bytes = b""


def first_difference(ours: bytes, theirs: bytes) -> int:
    """Index of the first byte that differs; the shorter one's size where there is none."""
    for index, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return index
    return min(len(ours), len(theirs))


class Half:
    """What one guest has said.

    isn: initial sequence number as on the wire (the secondary's own is not the primary's).
    near: where it was last, for unfolding; low: where it was first seen; end: of its payload.
    fin: where its FIN is; rsts: how many resets; ack: its highest acknowledgement, as on the wire.
    line: its frames that wait, in order of arrival; taken: how many have left the line.
    marked: up to which frame ages are kept; kept: bytes of whole frames in the line.
    """

    __slots__ = (
        "ack",
        "end",
        "fin",
        "isn",
        "kept",
        "line",
        "low",
        "marked",
        "near",
        "pieces",
        "rsts",
        "taken",
    )

    def __init__(self) -> None:
        self.isn: int | None = None
        self.near: int | None = None
        self.low: int | None = None
        self.end: int | None = None
        self.fin: int | None = None
        self.rsts = 0
        self.ack: int | None = None
        self.pieces = Pieces()
        self.line: deque[Entry] = deque()
        self.taken = 0
        self.marked = 0
        self.kept = 0

    @property
    def spoke(self) -> bool:
        return self.near is not None or self.isn is not None or self.rsts > 0

    @property
    def bytes(self) -> int:
        return self.pieces.bytes + self.kept

    def acknowledge(self, ack: int) -> None:
        if self.ack is None or (ack - self.ack) & MASK < HALF:
            self.ack = ack

    def empty(self) -> None:
        """Forget all that waits."""
        self.taken += len(self.line)
        self.line.clear()
        self.pieces.clear()
        self.kept = 0


class Conversation:
    """Both halves of one connection, and what of them is known to be the same."""

    __slots__ = (
        "closing",
        "commit_ack",
        "counted",
        "covered_end",
        "done",
        "early",
        "first",
        "gone",
        "guard",
        "guard_flags",
        "half",
        "key",
        "late",
        "next",
        "open_flags",
        "open_guard",
        "resets_left",
        "straight",
        "stuck",
        "used_ns",
    )

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.straight = False  # the fast path may be taken
        self.half = (Half(), Half())
        self.done = Ranges()  # alike in both guests, or said before there was a second
        self.first: int | None = None  # where the stream begins, if its SYN was seen
        self.early: tuple[int, bytes] | None = None  # payload of the secondary's SYN, not placed
        self.stuck = False  # differs: silent until the cut, everything is held
        self.late = False  # said to be late, once until the cut
        self.next: Conversation | None = None  # the one that the secondary has already begun
        self.closing = False
        self.gone = False  # no longer in the table
        self.resets_left = 0
        self.used_ns = 0
        self.counted = (0, 0)
        # What the last cut covers and no commit has followed: [guard, covered_end), and flags.
        self.guard: int | None = None
        self.guard_flags = 0
        self.covered_end = BEFORE_ALL
        self.commit_ack: int | None = None
        # The same for the next cut, of frames that are held by number only.
        self.open_guard: int | None = None
        self.open_flags = 0

    # ------------------------------------------------------------------ what a segment says

    def take(
        self, side: int, number: int, sequence: int, ack: int, flags: int, data: bytes
    ) -> Found | None:
        """One segment of a guest that is not stuck; a difference, if there is one."""
        if self.half[PRIMARY].kept or self.half[SECONDARY].kept:
            self.spill()
        if flags & RST:
            return self._reset(side, number)
        if not flags & SYN:
            start = self.place(side, sequence)
            if self._stray(side, start, ack, flags):
                return None
            if start is None:
                return self._found(Why.POSITION, side, number)
            return self._bytes(side, number, start, ack, flags, data)
        start = self._opened(side, number, sequence, ack, data)
        if start is not None:
            return self._bytes(side, number, start, ack, flags & ~FIN, data)
        # the secondary's SYN came first: there is no place for its payload yet
        self._queue(side, number, 0, 0, ack, flags, owed=True)
        return None

    def _bytes(
        self, side: int, number: int, start: int, ack: int, flags: int, data: bytes
    ) -> Found | None:
        """A segment at its place."""
        me = self.half[side]
        end = start + len(data)
        me.near = start
        if me.low is None or start < me.low:
            me.low = start
        repeats = bool(data) and self.done.covers(start, end)
        found = self._fill(side, number, start, data)
        if found is not None:
            return found
        owed = bool(flags & SYN) or not self.done.covers(start, end)
        if data and (me.end is None or end > me.end):
            me.end = end
        if flags & FIN:
            if me.fin not in (None, end):
                return self._found(Why.CONTROL, side, number)
            owed = owed or me.fin is None
            me.fin = end
        if self._contradiction():
            return self._found(Why.CONTROL, side, number)
        if flags & ACK:
            me.acknowledge(ack)
        self._queue(side, number, start, end, ack, flags, owed=owed, repeats=repeats)
        return None

    def _stray(self, side: int, start: int | None, ack: int, flags: int) -> bool:
        """Whether a segment is of an older conversation on the same ports.

        Only the secondary's can be, while its SYN of this conversation is not here.
        """
        me, it = self.half[side], self.half[1 - side]
        if side == PRIMARY or me.isn is not None or it.isn is None:
            return False
        if start is None:
            return True
        if not flags & ACK or it.ack is None:
            return False
        return _REACH < (ack - it.ack) & MASK < _TURN - _REACH

    def place(self, side: int, sequence: int) -> int | None:
        """The position of a sequence number, or None if it cannot be of these streams."""
        me, it = self.half[side], self.half[1 - side]
        known = [x for x in (me.end, me.near, it.end, it.near) if x is not None]
        if not known:
            return sequence + _TURN
        near = known[0]
        position = near + ((sequence - near + HALF) & MASK) - HALF
        if position > max(known) + _REACH or position < near - _BACK:
            return None
        return position

    def _opened(self, side: int, number: int, isn: int, ack: int, data: bytes) -> int | None:
        """A SYN: where its payload begins; None while that cannot be known."""
        me, it = self.half[side], self.half[1 - side]
        if side == PRIMARY and me.isn is None:
            placed = self.place(side, (isn + 1) & MASK)
            self.first = placed if placed is not None else (isn + 1 & MASK) + _TURN
            me.isn = isn
            me.near = me.low = me.end = self.first
            self.done.add(BEFORE_ALL, self.first)
            it.pieces.remove(BEFORE_ALL, self.first)
            if it.isn is not None and it.end is None:
                it.end = self.first
            if self.early is not None:
                (other, early), self.early = self.early, None
                self._fill(SECONDARY, other, self.first, early)
        elif me.isn is None:
            me.isn = isn
            me.ack = ack
            if me.end is None:
                me.end = self.first
            if self.first is None and data:
                self.early = (number, data)
        return self.first

    def _reset(self, side: int, number: int) -> Found | None:
        me, it = self.half[side], self.half[1 - side]
        me.rsts += 1
        if self._contradiction():
            return self._found(Why.CONTROL, side, number)
        self._queue(side, number, me.rsts, me.rsts, -1, RST, owed=it.rsts < me.rsts)
        return None

    def _contradiction(self) -> bool:
        """Whether one guest has ended its stream where the other goes on."""
        for one, other in (self.half, self.half[::-1]):
            if one.fin is not None:
                if other.fin not in (None, one.fin):
                    return True
                if max(one.end or one.fin, other.end or one.fin) > one.fin:
                    return True
            if one.rsts and (other.end or 0) > (one.end or other.end or 0):
                return True
        return False

    def _fill(self, side: int, number: int, start: int, data: bytes) -> Found | None:
        """Put bytes at their place: equal to the other guest's, waiting for them, or different."""
        if not data:
            return None
        end = start + len(data)
        mine, theirs = self.half[side].pieces, self.half[1 - side].pieces
        for piece in mine.over(start, end):
            low, high = max(start, piece.start), min(end, piece.end)
            if piece.part(low, high) != data[low - start : high - start]:
                return self._contradicts_itself(side, number, start, data, piece)
        for low, high in [new for gap in self.done.gaps(start, end) for new in mine.gaps(*gap)]:
            at = low
            for piece in theirs.over(low, high):
                begin, stop = max(low, piece.start), min(high, piece.end)
                if piece.part(begin, stop) != data[begin - start : stop - start]:
                    return self._content(side, number, start, data, begin, piece)
                if at < begin:
                    mine.put(Piece(at, begin, data[at - start : begin - start], number, start))
                theirs.remove(begin, stop)
                self.done.add(begin, stop)
                at = stop
            if at < high:
                mine.put(Piece(at, high, data[at - start : high - start], number, start))
        return None

    def _content(
        self, side: int, number: int, start: int, data: bytes, begin: int, piece: Piece
    ) -> Found:
        said, heard = data[begin - start :], piece.part(begin, piece.end)
        at = begin + first_difference(said, heard)
        said, heard = data[at - start :][:SHOWN], piece.part(at, at + SHOWN)
        if side == PRIMARY:
            return Found(Why.CONTENT, number, piece.frame, at - start, said, heard)
        return Found(Why.CONTENT, piece.frame, number, at - piece.origin, heard, said)

    def _contradicts_itself(
        self, side: int, number: int, start: int, data: bytes, piece: Piece
    ) -> Found:
        """The same guest has said other bytes there before; only its side is shown."""
        begin = max(start, piece.start)
        at = begin + first_difference(piece.part(begin, piece.end), data[begin - start :])
        said = data[at - start :][:SHOWN]
        if side == PRIMARY:
            return Found(Why.CONTENT, number, None, at - start, said, b"")
        return Found(Why.CONTENT, None, number, None, b"", said)

    def _found(self, why: Why, side: int, number: int) -> Found:
        return Found(why, number) if side == PRIMARY else Found(why, None, number)

    # ------------------------------------------------------------------ lines

    def _queue(
        self,
        side: int,
        number: int,
        start: int,
        end: int,
        ack: int,
        flags: int,
        *,
        owed: bool,
        repeats: bool = False,
    ) -> None:
        """repeats: it has bytes, and all were the same in both guests before it came."""
        if side == SECONDARY:
            if owed:
                self.half[SECONDARY].line.append((number, start, end, -1, flags, b"", 0))
            return
        if self.guard is not None:
            covered = start < end and start < self.covered_end and end > self.guard
            if covered or flags & self.guard_flags:
                flags |= COVERED
        line = self.half[PRIMARY].line
        if (
            repeats
            and line
            and not flags & (SYN | FIN | COVERED)
            and not any(low < end and start < high for _, low, high, _, _, _, _ in line)
        ):
            flags |= REPEATED
        if not flags & ACK:
            ack = -1
        line.append((number, start, end, ack, flags, b"", 0))

    def may_leave(self, entry: Entry, *, committed: bool) -> bool:
        """The rules for a primary's frame that is the oldest of its conversation."""
        _, start, end, ack, flags, _, _ = entry
        ours, theirs = self.half
        if flags & COVERED and not committed:
            return False
        ended = ours.fin is not None and ours.fin == theirs.fin
        if flags & RST:
            return ended or theirs.rsts > (self.resets_left if self.passing else 0)
        if flags & SYN and theirs.isn is None:
            return False
        if flags & FIN and theirs.fin != end:
            return False
        if not self.done.covers(start, end):
            return False
        if ack < 0:
            return True
        if theirs.ack is None:
            return False
        ahead = (ack - theirs.ack) & MASK
        return ahead == 0 or ahead >= HALF or (ahead == 1 and ended and start == end)

    def owes(self, entry: Entry) -> bool:
        """Whether the primary has not yet said what this frame of the secondary says."""
        _, start, end, _, flags, _, _ = entry
        ours = self.half[PRIMARY]
        if flags & RST:
            return not self.ended and ours.rsts < (start if self.passing else 1)
        if flags & SYN and ours.isn is None:
            return True
        if flags & FIN and ours.fin is None:
            return True
        if ours.low is not None and end <= ours.low:
            return False  # from before the primary was first seen: it may never repeat that
        return not self.done.covers(start, end)

    def release(self, out: list[int], *, committed: bool) -> int:
        """Put what may leave to ``out``, oldest first; the flags of all that left."""
        ours = self.half[PRIMARY]
        line = ours.line
        flags = 0
        while line and self.may_leave(line[0], committed=committed):
            entry = line.popleft()
            ours.taken += 1
            flags |= entry[4]
            if entry[4] & RST:
                self.resets_left += 1
            out.append(entry[0])
        if line and line[-1][4] & REPEATED and self.may_leave(line[-1], committed=committed):
            out.append(line.pop()[0])
            ours.taken += 1
        return flags

    def trim(self) -> None:
        """Forget which frames of the secondary waited, as far as the primary has followed."""
        theirs = self.half[SECONDARY]
        line = theirs.line
        while line and not self.owes(line[0]):
            line.popleft()
            theirs.taken += 1

    def spill(self) -> None:
        """Take apart the frames that the fast path has left whole."""
        self.straight = False
        for side, half in enumerate(self.half):
            if not half.kept:
                continue
            half.kept = 0
            entries = list(half.line)
            half.line.clear()
            for number, start, end, ack, flags, frame, at in entries:
                if end > start and frame:
                    self._fill(side, number, start, frame[at : at + end - start])
                half.line.append((number, start, end, ack, flags, b"", 0))

    # ------------------------------------------------------------------ the fast path's own

    # While it is straight, the one that leads has its frames whole in its line, one behind the
    # other; of the first of them with payload, part may be done.

    def follows(self, frame: bytes, at: int, stop: int) -> bool:
        """A primary's payload [at, stop) of a frame, where the secondary leads: as far as both are.

        False: a byte differs, and the readable form shall say so.
        """
        theirs = self.half[SECONDARY]
        known = self.done.items[0]
        line = theirs.line
        while at < stop and line:
            _, start, end, _, _, other, there = line[0]
            there += known[1] - start
            size = min(end - known[1], stop - at)
            if frame[at : at + size] != other[there : there + size]:
                return False
            at += size
            known[1] += size
            if known[1] == end:
                line.popleft()
                theirs.taken += 1
                theirs.kept -= len(other)
        return True

    def is_followed(self, frame: bytes, at: int, stop: int, ack: int, out: list[int]) -> bool:
        """The same for the secondary, where the primary leads; what may leave is put to ``out``.

        False: a byte differs, or a frame that is alike must wait for an acknowledgement; nothing
        has changed then.
        """
        ours = self.half[PRIMARY]
        known = self.done.items[0]
        place = known[1]
        leave = 0
        for _, start, end, needs, _, other, there in ours.line:
            waits = (ack - needs) & MASK >= HALF
            if start < end:
                if at == stop:
                    break
                low = there + place - start
                size = min(end - place, stop - at)
                if frame[at : at + size] != other[low : low + size]:
                    return False
                at += size
                place += size
                if place < end:
                    break
                if waits:
                    return False
            elif waits:
                if at < stop:
                    return False
                break
            leave += 1
        for _ in range(leave):
            number, _, _, _, _, other, _ = ours.line.popleft()
            ours.kept -= len(other)
            out.append(number)
        ours.taken += leave
        known[1] = place
        return True

    # ------------------------------------------------------------------ state of the whole

    @property
    def passing(self) -> bool:
        """Nothing but resets: the answer to a client that knocks where nobody listens."""
        return all(half.near is None and half.isn is None for half in self.half)

    @property
    def ended(self) -> bool:
        ours, theirs = self.half
        return (ours.fin is not None and ours.fin == theirs.fin) or (
            ours.rsts > 0 and theirs.rsts > 0
        )

    @property
    def idle(self) -> bool:
        """It holds nothing and waits for nothing, so it may be forgotten."""
        ours, theirs = self.half
        return not (
            ours.line
            or theirs.line
            or ours.pieces.items
            or theirs.pieces.items
            or self.stuck
            or self.next
            or self.early
            or self.guard is not None
        )

    def look(self) -> None:
        """Whether both guests are in step, with nothing special: then the fast path is open."""
        self.trim()
        self.straight = self.idle and self._plain()

    def look_again(self) -> None:
        """The same where one guest leads: its frames lie one behind the other in its line.

        Its pieces go back to their frames in the line, or a guest that always leads by a little
        would never come into step again.
        """
        ours, theirs = self.half
        lead, other = (ours, theirs) if ours.line else (theirs, ours)
        line, pieces = lead.line, lead.pieces.items
        if not line or len(line) > _LOOKED_AT or other.line or other.pieces.items:
            return
        if self.next or self.early or self.guard is not None or not self._plain(lead):
            return
        place = self.done.items[0][1]
        entries: list[Entry] = []
        rest = iter(pieces)
        is_first = True  # of those with payload: part of it may be done
        for number, start, end, ack, flags, _, _ in line:
            if flags & (SYN | FIN | RST | COVERED):
                return
            if start > place or (start < place and not is_first):
                return
            data = b""
            if start < end:
                piece = next(rest, None)
                if piece is None or piece[:2] != (place, end):
                    return
                data = bytes(place - start) + piece.data
                is_first = False
                place = end
            entries.append((number, start, end, ack, flags, data, 0))
        if place != lead.end or next(rest, None) is not None or (lead is ours and not pieces):
            return
        lead.kept = sum(len(entry[5]) for entry in entries)
        lead.pieces.clear()
        line.clear()
        line.extend(entries)
        self.straight = True

    def _plain(self, lead: Half | None = None) -> bool:
        """No more than two streams of bytes, alike up to where they are, but for who leads."""
        ours, theirs = self.half
        known = self.done.items
        return (
            len(known) == 1
            and not self.stuck
            and (lead is ours or known[0][1] == ours.end)
            and (lead is theirs or known[0][1] == theirs.end)
            and (ours.isn is None) == (theirs.isn is None)
            and ours.fin is None
            and theirs.fin is None
            and not (ours.rsts or theirs.rsts)
            and theirs.ack is not None
        )

    def settle(self) -> tuple[int, int]:
        """After a batch: frames of the secondary that wait, and bytes of both that are kept."""
        ours, theirs = self.half
        size = ours.kept + theirs.kept
        if self.straight:
            return len(theirs.line), size
        self.trim()
        size += ours.pieces.bytes + theirs.pieces.bytes
        if self.early is not None:
            size += len(self.early[1])
        return len(theirs.line), size

    def over(self, frames: int, size: int) -> bool:
        """Whether it keeps more than that on one side."""
        ours, theirs = self.half
        return (
            max(len(ours.line), len(theirs.line), len(self.done.items)) > frames
            or max(len(ours.pieces), len(theirs.pieces)) > 2 * frames
            or max(ours.bytes, theirs.bytes) > size
        )

    def stop(self) -> list[int]:
        """It differs: forget all bytes; the primary's frames are held by number from now on."""
        self.stuck = True
        self.straight = False
        ours = self.half[PRIMARY]
        numbers = []
        for number, start, end, _, flags, _, _ in ours.line:
            numbers.append(number)
            self._uncover(start, end, flags)
        self.early = None
        for half in self.half:
            half.empty()
        self.done = Ranges()
        return numbers

    def follow(self, sequence: int, ack: int, flags: int, size: int) -> None:
        """A segment of the primary while stuck: only where the primary is matters, for the cut."""
        ours = self.half[PRIMARY]
        if flags & RST:
            ours.rsts += 1
            self._uncover(0, 0, flags)
            return
        if flags & SYN:
            flags &= ~FIN
            sequence = sequence + 1 & MASK
            if ours.isn != sequence - 1 & MASK:
                ours.fin = ours.ack = None
                ours.isn = sequence - 1 & MASK
                ours.near = ours.end = self.first = sequence + _TURN
        start = self.place(PRIMARY, sequence)
        if start is None:
            start = ours.end = sequence + _TURN
        end = start + size
        ours.near = start
        if size and (ours.end is None or end > ours.end):
            ours.end = end
        if flags & FIN:
            ours.fin = end
        if flags & ACK:
            ours.acknowledge(ack)
        self._uncover(start, end, flags)

    def _uncover(self, start: int, end: int, flags: int) -> None:
        """A held frame: the next cut covers it, and until the commit it must not be repeated."""
        self.open_flags |= flags & (SYN | FIN | RST)
        if start < end and (self.open_guard is None or start < self.open_guard):
            self.open_guard = start

    def cut(self) -> list[int]:
        """Both guests are where the primary is now: the numbers of its frames held here."""
        self.straight = False
        ours, old = self.half
        numbers = []
        for number, start, end, _, flags, _, _ in ours.line:
            numbers.append(number)
            self._uncover(start, end, flags)
        old_guard = self.guard if self.guard != self.covered_end else None  # it held nothing back
        starts = [x for x in (old_guard, self.open_guard, ours.end) if x is not None]
        self.guard = min(starts, default=BEFORE_ALL)
        self.covered_end = ours.end if ours.end is not None else BEFORE_ALL
        self.guard_flags |= self.open_flags
        self.open_guard, self.open_flags = None, 0
        ours.empty()
        theirs = Half()
        theirs.isn, theirs.near, theirs.end = ours.isn, ours.near, ours.end
        theirs.fin, theirs.rsts = ours.fin, ours.rsts
        # What only the primary has acknowledged is safe with the commit, not before; and what
        # only the secondary has is forgotten now, for it is the primary that it goes on from.
        self.commit_ack = ours.ack
        theirs.ack = old.ack
        if old.ack is not None and ours.ack is not None and (ours.ack - old.ack) & MASK >= HALF:
            theirs.ack = ours.ack
        self.half = (ours, theirs)
        self.done = Ranges()
        if ours.end is not None:
            self.done.add(BEFORE_ALL, ours.end)
        self.early = self.next = None
        self.stuck = self.late = False
        self.resets_left = 0
        return numbers

    def committed(self) -> None:
        """What the last cut covers has left."""
        self.guard = None
        self.guard_flags = 0
        if self.commit_ack is not None:
            self.half[SECONDARY].acknowledge(self.commit_ack)
        self.commit_ack = None
