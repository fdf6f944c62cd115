"""A guest's own half of its disk: it begins requests while it runs, and takes note of their end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backends.sim.clock import Clock
from backends.sim.disk.requests import FLUSH, READ, WRITE, Requests, Then, Volume
from backends.sim.guest import Guest
from colosim.model.disk import (
    Piece,
    Write,
)

if TYPE_CHECKING:
    pass

_PHASES = (READ, WRITE, FLUSH)


@dataclass(slots=True)
class Run:
    """A guest's writes since it began or was loaded."""

    number: int
    writes: list[Write] = field(default_factory=list)
    flushes: int = 0  # that have ended
    unsafe: list[Write] = field(default_factory=list)  # done, and no flush has begun since


@dataclass(slots=True, eq=False)
class _Asked:
    """A request between its CPU time and its answer: what is left to do of its phase."""

    client: int
    request: int
    reads: tuple[Piece, ...]
    writes: tuple[Piece, ...]
    phase: int
    left: list[int]
    begun: set[int] = field(default_factory=set)


class GuestIo:
    """A guest's own half: it begins requests while it runs, and takes note of their end.

    Writes that overlap one under way wait for it, as a file system makes them.
    """

    def __init__(
        self,
        clock: Clock,
        guest: Guest,
        requests: Requests,
        volume: Volume,
        flush: str,
        new_run: Callable[[], int],
        record: Callable[[str, int, int], None],
    ) -> None:
        """record(op, begun_ns, size_bytes) is called when a request has ended."""
        self._clock = clock
        self._guest = guest
        self._requests = requests
        self._volume = volume
        self._flush = flush
        self._new_run = new_run
        self._record = record
        self.run = Run(new_run())
        self._open: dict[tuple[int, int], _Asked] = {}
        self._under_way = 0
        self._locked: set[int] = set()  # blocks of writes under way
        self._blocked: list[tuple[_Asked, int]] = []  # writes that wait for those
        self._group: list[_Asked] = []  # that wait for the next common flush
        self._is_flushing = False
        self._stuck: list[Then] = []  # ends that a hung guest has not noticed
        self._drained: list[Then] = []

    # -- what the guest does -----------------------------------------------------------------

    def begin(self, client: int, request: int) -> None:
        """A request has had its CPU time."""
        asked = self._asked(client, request, 0, [])
        asked.left = self._parts(asked)
        self._proceed(asked)

    def start(self) -> None:
        """The guest runs, or no longer hangs."""
        stuck, self._stuck = self._stuck, []
        for end in stuck:
            end()
        self._retry()
        for asked in list(self._open.values()):
            self._proceed(asked)

    def stop(self) -> None:
        """Nothing more is begun: what waits is begun again by `start`."""
        self._group.clear()
        self._blocked.clear()

    def kill(self) -> None:
        """Whoever waits for it to come to rest learns that it has ended."""
        waiting, self._drained = self._drained, []
        for then in waiting:
            then()

    def drain(self, then: Then) -> None:
        """``then`` when nothing is under way, at once if so, or when the guest is dead."""
        if self._under_way and not self._guest.dead:
            self._drained.append(then)
        else:
            then()

    def state(self) -> tuple[tuple[int, int, int, tuple[int, ...]], ...]:
        """(client, request, phase, what is left of it) of each request that is not answered."""
        return tuple((a.client, a.request, a.phase, tuple(a.left)) for a in self._open.values())

    def load(self, state: Sequence[tuple[int, int, int, tuple[int, ...]]]) -> None:
        """Become the guest with that state; its own past is void."""
        self.stop()
        self._locked.clear()
        self._stuck.clear()
        self._under_way, self._is_flushing = 0, False
        self.run = Run(self._new_run())
        self._open.clear()
        for client, request, phase, left in state:
            self._asked(client, request, phase, list(left))

    # -- one request -------------------------------------------------------------------------

    def _asked(self, client: int, request: int, phase: int, left: list[int]) -> _Asked:
        requests = self._requests
        reads, writes = requests.reads_of(client, request), requests.writes_of(client, request)
        asked = self._open[client, request] = _Asked(client, request, reads, writes, phase, left)
        return asked

    def _parts(self, asked: _Asked) -> list[int]:
        """What its phase consists of, numbered."""
        flushes = 1 if asked.writes and self._flush != "none" else 0
        return list(range((len(asked.reads), len(asked.writes), flushes)[asked.phase]))

    @property
    def _runs(self) -> bool:
        return self._guest.running and not self._guest.hung

    def _proceed(self, asked: _Asked) -> None:
        """Begin what comes next; the answer, if nothing does."""
        while self._runs:
            if asked.left:
                for part in [part for part in asked.left if part not in asked.begun]:
                    self._begin(asked, part)
                return
            if asked.phase + 1 == len(_PHASES):
                del self._open[asked.client, asked.request]
                self._guest.answer(asked.client, asked.request)
                return
            asked.phase += 1
            asked.left = self._parts(asked)

    def _begin(self, asked: _Asked, part: int) -> None:
        client, request = asked.client, asked.request
        phase = _PHASES[asked.phase]
        if phase == READ:
            pieces = asked.reads
            end = self._beginning(READ, [asked], part, pieces[part].size_bytes)
            self._volume.read(pieces[part], (client, request * len(pieces) + part), end)
        elif phase == WRITE:
            self._begin_write(asked, part)
        elif self._flush == "request":
            self._begin_flush([asked])
        elif asked not in self._group:
            self._group.append(asked)
            self._begin_group()

    def _beginning(
        self,
        op: str,
        asking: Sequence[_Asked],
        part: int,
        size_bytes: int,
        ended: Then = lambda: None,
    ) -> Then:
        """Count a request to the disk that begins; the result is to be called at its end."""
        for asked in asking:
            asked.begun.add(part)
        self._under_way += 1
        run, begun_ns = self.run, self._clock.now_ns()

        def end() -> None:
            if run is not self.run or self._guest.dead:
                return
            if self._guest.hung:
                self._stuck.append(end)
                return
            self._under_way -= 1
            self._record(op, begun_ns, size_bytes)
            for asked in asking:
                asked.begun.discard(part)
                asked.left.remove(part)
            ended()
            for asked in asking:
                if not asked.left:
                    self._proceed(asked)
            self._settle()

        return end

    def _settle(self) -> None:
        if not self._under_way:
            waiting, self._drained = self._drained, []
            for then in waiting:
                then()

    def _begin_write(self, asked: _Asked, part: int) -> None:
        pieces = asked.writes
        piece, run = pieces[part], self.run
        if not self._locked.isdisjoint(piece.blocks):
            if (asked, part) not in self._blocked:
                self._blocked.append((asked, part))
            return
        self._locked.update(piece.blocks)
        number = len(run.writes)
        write = Write(run.number, number, asked.client, asked.request, part, piece, run.flushes)
        run.writes.append(write)

        def ended() -> None:
            write.done = True
            run.unsafe.append(write)
            self._locked.difference_update(piece.blocks)
            self._retry()

        end = self._beginning(WRITE, [asked], part, piece.size_bytes, ended)
        self._volume.write(write, (asked.client, asked.request * len(pieces) + part), end)

    def _retry(self) -> None:
        """Begin those writes that had to wait for others."""
        if self._blocked and self._runs:
            blocked, self._blocked = self._blocked, []
            for asked, part in blocked:
                self._begin_write(asked, part)

    def _begin_group(self) -> None:
        """The next common flush, when the last one has ended."""
        if self._group and not self._is_flushing and self._runs:
            self._is_flushing = True
            asking, self._group = self._group, []
            self._begin_flush(asking)

    def _begin_flush(self, asking: Sequence[_Asked]) -> None:
        """One flush for all who ask; what was done before it began is safe when it ends."""
        run, first = self.run, asking[0]
        covered, run.unsafe = run.unsafe, []

        def ended() -> None:
            run.flushes += 1
            for write in covered:
                write.durable = run.flushes
            self._is_flushing = False
            self._begin_group()

        end = self._beginning(FLUSH, asking, 0, 0, ended)
        self._volume.flush((first.client, first.request), end)
