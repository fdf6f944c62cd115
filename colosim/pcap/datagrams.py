"""What is not TCP, of one pair of ends: frames of both guests are twins if their content is equal.

What the primary sent and the secondary has not is late when a cut comes; what the secondary sent
and the primary has not is ahead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from colosim.pcap.kept import Budget, Kept, Sent

_MOST = 1_024


class Datagrams:
    """One direction between two ends."""

    __slots__ = ("_budget", "_is_udp", "_late", "_ours", "_theirs", "_timeout_ns", "cuts")

    def __init__(self, budget: Budget, timeout_ns: int, cuts: int, *, is_udp: bool) -> None:
        self.cuts = cuts
        self._is_udp = is_udp
        self._budget = budget
        self._timeout_ns = timeout_ns
        # digests of content, with the time of each
        self._ours: deque[tuple[int, int]] = deque()
        self._late: deque[tuple[int, int]] = deque()
        self._theirs: deque[tuple[int, Kept]] = deque()

    def _digest(self, frame: bytes, at: int, end: int) -> int:
        if self._is_udp:  # but its checksum, which hardware may have been meant to fill in
            return hash(frame[at : at + 6] + frame[at + 8 : end])
        return hash(frame[at:end])

    def primary(self, frame: bytes, at: int, end: int, now_ns: int) -> Sequence[Sent]:
        digest = self._digest(frame, at, end)
        for i, (theirs, kept) in enumerate(self._theirs):
            if theirs == digest:
                del self._theirs[i]
                self._budget.give(len(kept.sent.frame))
                return ()
        self._append(self._ours, digest, now_ns)
        return ()

    def secondary(self, sent: Sent, at: int, end: int, now_ns: int) -> Sequence[Sent]:
        digest = self._digest(sent.frame, at, end)
        self._forget(self._late, now_ns - self._timeout_ns)
        if self._remove(self._late, digest):
            self._budget.counts.late += 1
            return ()
        if not self._remove(self._ours, digest):
            if len(self._theirs) == _MOST:
                self._budget.give(len(self._theirs.popleft()[1].sent.frame))
            if self._budget.take(len(sent.frame)):
                self._theirs.append((digest, Kept(now_ns, sent)))
        return (sent,)

    def pass_cut(self, cuts: int) -> None:
        """There were cuts since this was seen last; what that means `cut` has done."""
        self.cuts = cuts

    def cut(self, different: Collection[int], since_ns: int) -> list[Kept]:
        """What is ahead, but not what is older or different."""
        self._forget(self._late, since_ns)
        self._forget(self._ours, since_ns)
        self._late.extend(self._ours)
        self._ours.clear()
        while len(self._late) > _MOST:
            self._late.popleft()
            self._budget.give()
        gone, self._theirs = self._theirs, deque()
        for entry in gone:
            kept = entry[1]
            if kept.since_ns > since_ns and kept.sent.number not in different:
                self._theirs.append(entry)
            else:
                self._budget.give(len(kept.sent.frame))
        return [kept for _, kept in self._theirs]

    def keeps(self) -> bool:
        """A cut would change something here."""
        return bool(self._ours or self._theirs)

    def expire(self, since_ns: int) -> None:
        """Forget what was covered so long ago that its twin will not come any more."""
        self._forget(self._late, since_ns)

    def drop(self) -> None:
        """This is forgotten, with all that it keeps."""
        for _ in range(len(self._ours) + len(self._late)):
            self._budget.give()
        for _, kept in self._theirs:
            self._budget.give(len(kept.sent.frame))

    def _append(self, queue: deque[tuple[int, int]], digest: int, now_ns: int) -> None:
        if len(queue) == _MOST:
            queue.popleft()
            self._budget.give()
        if self._budget.take():
            queue.append((digest, now_ns))

    def _remove(self, queue: deque[tuple[int, int]], digest: int) -> bool:
        for i, (other, _) in enumerate(queue):
            if other == digest:
                del queue[i]
                self._budget.give()
                return True
        return False

    def _forget(self, queue: deque[tuple[int, int]], since_ns: int) -> None:
        while queue and queue[0][1] <= since_ns:
            queue.popleft()
            self._budget.give()
