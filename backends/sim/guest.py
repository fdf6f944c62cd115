"""A guest: serves requests while it runs, dirties memory, can be stopped, copied and loaded.

Its clock is *progress*: running time since the last cut, less what the first writes after the
cut cost (`Slowdown`).  Progress is the exposure that the memory model asks for.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from backends.sim.clock import Clock
from colosim.model.cost import Slowdown

if TYPE_CHECKING:
    from backends.sim.disk import GuestIo


def slowed_ns(work_ns: int, speed: float) -> int:
    """What the primary's work takes on a CPU of that speed (1: the primary's)."""
    return work_ns if speed == 1.0 else round(work_ns / speed)


class Processor(Protocol):
    """The CPUs that a guest shares with others; ``rate``: what each vCPU with work gets of one."""

    rate: float

    def want(self, guest: Guest, busy: int) -> None: ...


class Meter:
    """Adds up something over a guest's running time since its last cut.

    of(from_ns, to_ns, done_ns, busy) is what it grows by in a stretch of time: from when to when
    the guest ran, how far it got, and how many requests it served at the same time meanwhile.
    """

    __slots__ = ("of", "value")

    def __init__(self, of: Callable[[int, int, int, int], float]) -> None:
        self.of = of
        self.value = 0.0


@dataclass(slots=True)
class Job:
    """One request inside a guest; ``work_ns`` of guest time is left."""

    client: int
    request: int
    work_ns: int
    charged: bool = False  # its own first writes are part of the work
    turn: int = 0  # a completion planned for an older turn is void


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a checkpoint keeps of a guest.

    jobs: (client, request, work left, charged), those in service first.  done: (client, request)
    of those that only wait for an earlier one of their client.  input_position: how far it has
    read its input.  unanswered: (client, request) -> digest of what it made and no client is
    known to have.  io: (client, request, phase, what is left of it) of those that use the disk.
    """

    jobs: tuple[tuple[int, int, int, bool], ...]
    done: frozenset[tuple[int, int]]
    input_position: int
    pages: int
    unanswered: Mapping[tuple[int, int], str]
    io: tuple[tuple[int, int, int, tuple[int, ...]], ...] = field(default=(), kw_only=True)


class Guest:
    """First come, first served on ``vcpus`` servers; each connection is answered in order.

    work_of(client, request) gives the guest time a new request needs; finished(client, request)
    is called when it is served.  speed: of its CPU, for the work left in states that it loads,
    which are the primary's.
    """

    def __init__(
        self,
        clock: Clock,
        slowdown: Slowdown,
        vcpus: int,
        work_of: Callable[[int, int], int],
        finished: Callable[[int, int], None],
        speed: float = 1.0,
    ) -> None:
        self._clock = clock
        self.speed = speed
        self.meters: list[Meter] = []
        self.cpu: Processor | None = None  # it has a CPU for each vCPU, unless others are there too
        self._slowdown = slowdown
        self._vcpus = vcpus
        self._work_of = work_of
        self._finished = finished
        self.io: GuestIo | None = None  # its disk, if it has one: where requests go after their CPU
        self.running = False
        self.hung = False
        self.dead = False
        self.input_position = 0
        self.served_since_cut = 0
        self._busy: list[Job] = []
        self._queue: deque[Job] = deque()
        # per client what it asked and has not been answered, oldest first; and which are done
        self._asked: dict[int, deque[int]] = {}
        self._done: set[tuple[int, int]] = set()
        self._turn = 0
        self._progress_ns = 0  # at `_since_ns`
        self._since_ns = 0

    def become(
        self, work_of: Callable[[int, int], int], finished: Callable[[int, int], None]
    ) -> None:
        """From now on requests are those of another role; those under way go on as they are."""
        self._work_of, self._finished = work_of, finished

    # -- time ------------------------------------------------------------------------------

    @property
    def exposure_ns(self) -> int:
        """Progress since the last cut, now."""
        self._advance()
        return self._progress_ns

    def _advance(self) -> None:
        """Bring progress and the work left up to date."""
        now_ns = self._clock.now_ns()
        elapsed_ns, self._since_ns = now_ns - self._since_ns, now_ns
        if not self.running or self.hung or not elapsed_ns:
            return
        given_ns = elapsed_ns
        if self.cpu is not None and self.cpu.rate < 1.0:
            given_ns = int(elapsed_ns * self.cpu.rate)
        done_ns = self._slowdown.progress_ns(self._progress_ns, given_ns, self.served_since_cut)
        self._progress_ns += done_ns
        for meter in self.meters:
            meter.value += meter.of(now_ns - elapsed_ns, now_ns, done_ns, len(self._busy))
        for job in self._busy:
            job.work_ns = max(0, job.work_ns - done_ns)

    # -- its host's CPUs -------------------------------------------------------------------

    def catch_up(self) -> None:
        """Bring it up to date."""
        self._advance()

    def plan_anew(self) -> None:
        """It has got more or less of a CPU."""
        for job in self._busy:
            self._plan(job)

    def _want(self, cpu: Processor) -> None:
        """Tell the host how many vCPUs have work."""
        cpu.want(self, len(self._busy) if self.running and not self.hung else 0)

    # -- control ---------------------------------------------------------------------------

    def start(self) -> None:
        if self.running:
            return
        self._advance()
        self.running = True
        for job in self._busy:
            self._plan(job)
        if self.cpu is not None:
            self._want(self.cpu)
        if self.io is not None and not self.hung:
            self.io.start()

    def stop(self) -> None:
        self._advance()
        self.running = False
        self._void()
        if self.cpu is not None:
            self._want(self.cpu)
        if self.io is not None:
            self.io.stop()

    def hang(self, is_hung: bool) -> None:
        """Freeze or thaw without anybody having asked."""
        self._advance()
        self.hung = is_hung
        self._void()
        if self.running and not is_hung:
            for job in self._busy:
                self._plan(job)
        if self.cpu is not None:
            self._want(self.cpu)
        if self.io is not None and not is_hung:
            self.io.start()

    def kill(self) -> None:
        self.stop()
        self.dead = True
        if self.io is not None:
            self.io.kill()

    def cut(self) -> None:
        """Dirty tracking starts anew."""
        self._advance()
        self._progress_ns = 0
        self.served_since_cut = 0
        for meter in self.meters:
            meter.value = 0.0

    def track_anew(self) -> None:
        """The same for a guest that may run: what it is at takes other first writes from now on."""
        was_running = self.running
        if was_running:
            self.stop()
        self.cut()
        if was_running:
            self.start()

    def snapshot(self, pages: int, unanswered: Mapping[tuple[int, int], str]) -> Snapshot:
        self._advance()
        jobs = tuple(
            (job.client, job.request, job.work_ns, job.charged)
            for job in (*self._busy, *self._queue)
        )
        io = () if self.io is None else self.io.state()
        return Snapshot(jobs, frozenset(self._done), self.input_position, pages, unanswered, io=io)

    def requests(self) -> list[tuple[int, int]]:
        """(client, request) of all that it has not answered."""
        return [(client, request) for client, asked in self._asked.items() for request in asked]

    def load(self, snapshot: Snapshot) -> None:
        """Become the stopped guest that the snapshot was taken of."""
        self._void()
        self._busy.clear()
        self._queue.clear()
        self._asked.clear()
        self._done = set(snapshot.done)
        self.input_position = snapshot.input_position
        busy = (job[:2] for job in (*snapshot.jobs, *snapshot.io))
        for client, request in sorted((*busy, *snapshot.done)):
            self._asked.setdefault(client, deque()).append(request)
        for client, request, work_ns, charged in snapshot.jobs:
            self._admit(Job(client, request, slowed_ns(work_ns, self.speed), charged))
        if self.io is not None:
            self.io.load(snapshot.io)
        self.cut()

    # -- requests --------------------------------------------------------------------------

    def request(self, client: int, request: int) -> None:
        """A request enters the running guest."""
        self._asked.setdefault(client, deque()).append(request)
        self._admit(Job(client, request, self._work_of(client, request)))

    def _admit(self, job: Job) -> None:
        if len(self._busy) < self._vcpus:
            self._advance()
            self._busy.append(job)
            self._plan(job)
            if self.cpu is not None:
                self._want(self.cpu)
        else:
            self._queue.append(job)

    def _void(self) -> None:
        for job in self._busy:
            job.turn = -1

    def _plan(self, job: Job) -> None:
        if not self.running or self.hung:
            return
        self._turn += 1
        job.turn = self._turn
        served = self.served_since_cut
        if not job.charged:  # once: a pause must not make it pay again
            job.work_ns += self._slowdown.request_ns(self._progress_ns, served)
            job.charged = True
        wall_ns = self._slowdown.wall_ns(self._progress_ns, job.work_ns, served)
        if self.cpu is not None and self.cpu.rate < 1.0:
            wall_ns = math.ceil(wall_ns / self.cpu.rate)
        self._clock.after(wall_ns, self._finish, (job, self._turn))

    def _finish(self, planned: tuple[Job, int]) -> None:
        job, turn = planned
        if job.turn != turn:
            return
        self._advance()
        self._busy.remove(job)
        self.served_since_cut += 1
        if self._queue:
            following = self._queue.popleft()
            self._busy.append(following)
            self._plan(following)
        if self.cpu is not None:
            self._want(self.cpu)
        if self.io is None:
            self.answer(job.client, job.request)
        else:
            self.io.begin(job.client, job.request)

    def answer(self, client: int, request: int) -> None:
        """Answer what is done and next in line: with several servers a later one may be first."""
        asked = self._asked[client]
        self._done.add((client, request))
        while asked and (client, asked[0]) in self._done:
            first = asked.popleft()
            self._done.remove((client, first))
            self._finished(client, first)
        if not asked:
            self._asked.pop(client, None)
