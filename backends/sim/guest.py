"""A guest: serves requests while it runs, dirties memory, can be stopped, copied and loaded.

Its clock is *progress*: running time since the last cut, less what the first writes after the
cut cost (`Slowdown`).  Progress is the exposure that the memory model asks for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backends.sim.clock import Clock
from colosim.model.cost import Slowdown


@dataclass(slots=True)
class Job:
    """One request inside a guest; ``work_ns`` of guest time is left."""

    client: int
    request: int
    work_ns: int
    turn: int = 0  # a completion planned for an older turn is void


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a checkpoint keeps of a guest.

    jobs: (client, request, work left), those in service first.  input_position: how far it has
    read its input.  unanswered: (client, request) -> digest of what it made and no client is
    known to have.
    """

    jobs: tuple[tuple[int, int, int], ...]
    input_position: int
    pages: int
    unanswered: Mapping[tuple[int, int], str]


class Guest:
    """First come, first served on ``vcpus`` servers.

    work_of(client, request) gives the guest time a new request needs; finished(client, request)
    is called when it is served.
    """

    def __init__(
        self,
        clock: Clock,
        slowdown: Slowdown,
        vcpus: int,
        work_of: Callable[[int, int], int],
        finished: Callable[[int, int], None],
    ) -> None:
        self._clock = clock
        self._slowdown = slowdown
        self._vcpus = vcpus
        self._work_of = work_of
        self._finished = finished
        self.running = False
        self.hung = False
        self.dead = False
        self.input_position = 0
        self.served_since_cut = 0
        self._busy: list[Job] = []
        self._queue: deque[Job] = deque()
        self._turn = 0
        self._progress_ns = 0  # at `_since_ns`
        self._since_ns = 0

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
        done_ns = self._slowdown.progress_ns(self._progress_ns, elapsed_ns, self.served_since_cut)
        self._progress_ns += done_ns
        for job in self._busy:
            job.work_ns = max(0, job.work_ns - done_ns)

    # -- control ---------------------------------------------------------------------------

    def start(self) -> None:
        if self.running:
            return
        self._advance()
        self.running = True
        for job in self._busy:
            self._plan(job)

    def stop(self) -> None:
        self._advance()
        self.running = False
        self._void()

    def hang(self, is_hung: bool) -> None:
        """Freeze or thaw without anybody having asked."""
        self._advance()
        self.hung = is_hung
        self._void()
        if self.running and not is_hung:
            for job in self._busy:
                self._plan(job)

    def kill(self) -> None:
        self.stop()
        self.dead = True

    def cut(self) -> None:
        """Dirty tracking starts anew."""
        self._advance()
        self._progress_ns = 0
        self.served_since_cut = 0

    def snapshot(self, pages: int, unanswered: Mapping[tuple[int, int], str]) -> Snapshot:
        self._advance()
        jobs = tuple((job.client, job.request, job.work_ns) for job in (*self._busy, *self._queue))
        return Snapshot(jobs, self.input_position, pages, unanswered)

    def requests(self) -> list[tuple[int, int]]:
        """(client, request) of all that is in service or waits."""
        return [(job.client, job.request) for job in (*self._busy, *self._queue)]

    def load(self, snapshot: Snapshot) -> None:
        """Become the stopped guest that the snapshot was taken of."""
        self._busy.clear()
        self._queue.clear()
        self._void()
        self.input_position = snapshot.input_position
        for client, request, work_ns in snapshot.jobs:
            self._admit(Job(client, request, work_ns))
        self.cut()

    # -- requests --------------------------------------------------------------------------

    def request(self, client: int, request: int) -> None:
        """A request enters the running guest."""
        self._admit(Job(client, request, self._work_of(client, request)))

    def _admit(self, job: Job) -> None:
        if len(self._busy) < self._vcpus:
            self._advance()
            self._busy.append(job)
            self._plan(job)
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
        wall_ns = self._slowdown.wall_ns(self._progress_ns, job.work_ns, served)
        wall_ns += self._slowdown.request_ns(self._progress_ns, served)
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
        self._finished(job.client, job.request)
