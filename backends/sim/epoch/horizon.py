"""How far ahead fidelity ``epoch`` plans, where rows come whatever leaves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from backends.nodes import PRIMARY
from backends.sim.epoch.guest import EpochGuest
from backends.sim.epoch.host import EpochHost
from backends.sim.epoch.lane import Lane
from backends.sim.epoch.log import Log, Times
from backends.sim.epoch.meeting import Meeting

LEAST_BLOCK = 64
_LARGEST_BLOCK = 32_768
_BEYOND = 32  # rows planned after one that differs


class Horizon(ABC):
    """Rows before ``end`` are to be planned.

    feeds_back: what comes follows from what leaves, and so from the plan.
    moving, where it is given: the lanes of guests that run.  ran_out: all of the last plan held.
    """

    feeds_back = False
    end = 0

    @abstractmethod
    def begin(self, now_ns: int, moving: Sequence[Lane], ran_out: bool) -> None:
        """Find how far, before lanes are planned."""

    @abstractmethod
    def finish(self, now_ns: int, moving: Sequence[Lane], ran_out: bool) -> int | None:
        """Make what follows from what was planned; when the plan is over, None for when it was to
        be already.
        """

    def left(self, first: int, end: int, when_ns: Times | int, now_ns: int) -> bool:
        """Rows leave then; whether what comes is not what was planned."""
        return False


class OpenHorizon(Horizon):
    """Of rows that come by themselves: blocks, each as long as the last one lets expect."""

    def __init__(
        self,
        log: Log,
        guests: Sequence[EpochGuest],
        hosts: Mapping[str, EpochHost],
        meeting: Meeting,
        needed_from: Callable[[], int],
        duration_ns: int,
    ) -> None:
        """needed_from: the oldest row that anybody needs."""
        self._log = log
        self._guests = guests
        self._hosts = hosts
        self._meeting = meeting
        self._needed_from = needed_from
        self._duration_ns = duration_ns
        #: rows of a block while all guests run and while one does, which is soon over
        self._blocks = {True: LEAST_BLOCK, False: LEAST_BLOCK}
        self._is_whole = True  # the last block was of the first kind
        self._block_first = 0

    def begin(self, now_ns: int, moving: Sequence[Lane], ran_out: bool) -> None:
        """Twice as far as the last plan held, or to the next difference.

        From the row on that the guests have reached: others may wait behind it.
        """
        if not moving:
            return
        log, kind, reached = self._log, self._is_whole, max(lane.position for lane in moving)
        used, planned = reached - self._block_first, self.end - self._block_first
        if ran_out or 2 * used > planned:
            self._blocks[kind] = min(2 * self._blocks[kind], _LARGEST_BLOCK)
        elif used > LEAST_BLOCK:
            self._blocks[kind] = min(2 * used, _LARGEST_BLOCK)
        self._is_whole = len(moving) == len(self._guests)
        self._block_first = reached
        end = reached + self._blocks[self._is_whole]
        if log.size <= end:
            log.forget(self._needed_from())
            log.ensure(end + 1)
        if self._meeting.is_comparing:
            row = log.differing(max(reached, self._hosts[PRIMARY].told))
            if row is not None:
                end = min(end, row + _BEYOND)
        self.end = end

    def finish(self, now_ns: int, moving: Sequence[Lane], ran_out: bool) -> int | None:
        """When the first row that is not planned arrives, or a guest that has it comes to it."""
        if not moving:
            return None
        arrives_ns = int(self._log.view("at", self.end, self.end + 1)[0])
        ends_ns = [
            arrives_ns if lane.reads and arrives_ns > now_ns else lane.free_from(now_ns)
            for lane in moving
            if lane.reads or lane.planned < lane.taken
        ]
        end_ns = min(ends_ns) if ends_ns else self._duration_ns
        return max(end_ns, now_ns)  # plans that were owed may be over already
