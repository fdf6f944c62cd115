"""Clients, and the network between them and the guests.

The `Network` is outside both hosts: it knows what clients sent and what reached them, and keeps
the order of requests, so that a guest that takes over reads on from where its state left off.
That one rule, a position in one log, is enough for mirroring (COLO), for keeping input back
(Remus) and for pausing it (quiesce).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from backends.sim.clock import Clock
from backends.sim.guest import Guest, slowed_ns
from colosim.model.results import RESPONSE_COLUMNS
from colosim.model.schedule import Schedule
from colosim.model.streams import Streams
from colosim.protocol.types import Range
from colosim.scenario import BatchJob, ClosedService, OpenService, Workload

NS_PER_S = 1_000_000_000


class Network:
    """The request log, the guests that read it, and what became of every request.

    Columns are one list each, a row per request in the order of arrival at the network.
    """

    def __init__(
        self,
        clock: Clock,
        delay_ns: int,
        jitter_ns: Callable[[int, int], int] = lambda client, request: 0,
    ) -> None:
        self._clock = clock
        self._delay_ns = delay_ns
        self._jitter_ns = jitter_ns
        #: from `answered` until what the client says then can be here
        self.round_trip_ns = 2 * delay_ns
        self._readers: list[Guest] = []
        self._paused = False
        self._row: dict[tuple[int, int], int] = {}
        self.client: list[int] = []
        self.request: list[int] = []
        self.arrival_ns: list[int] = []
        self.served_ns: list[int] = []
        self.released_ns: list[int] = []
        self.duplicates = 0
        self.answered: Callable[[int, int], None] = lambda client, request: None

    def send(self, client: int, request: int, due_ns: int | None = None) -> None:
        """A request that the client sent ``delay`` ago arrives; if late, ``due_ns`` says when it
        was due, and counts.
        """
        self._enter(client, request, due_ns)
        for guest in self._readers:
            self.catch_up(guest)

    def _enter(self, client: int, request: int, due_ns: int | None) -> None:
        self._row[client, request] = len(self.client)
        self.client.append(client)
        self.request.append(request)
        self.arrival_ns.append(self._clock.now_ns() - self._delay_ns if due_ns is None else due_ns)
        self.served_ns.append(-1)
        self.released_ns.append(-1)

    def read_by(self, guest: Guest) -> None:
        """From now on this guest gets client input."""
        if guest not in self._readers:
            self._readers.append(guest)
        self.catch_up(guest)

    def unread_by(self, guest: Guest) -> None:
        if guest in self._readers:
            self._readers.remove(guest)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        for guest in self._readers:
            self.catch_up(guest)

    def catch_up(self, guest: Guest) -> None:
        """Let a guest that can read have all it has not read yet."""
        if self._paused or not guest.running or guest.hung or guest not in self._readers:
            return
        while guest.input_position < len(self.client):
            row = guest.input_position
            guest.input_position += 1
            guest.request(self.client[row], self.request[row])

    def served(self, client: int, request: int) -> None:
        """The guest that clients talk to finished a request."""
        row = self._row[client, request]
        if self.served_ns[row] < 0:
            self.served_ns[row] = self._clock.now_ns()

    def release(self, ranges: tuple[Range, ...], late_ns: int = 0) -> None:
        """Answers leave for their clients, in ``late_ns``; one they have is ignored."""
        now_ns = self._clock.now_ns()
        for range_ in ranges:
            client = int(range_.stream)
            for request in range(range_.first, range_.end):
                row = self._row[client, request]
                if self.released_ns[row] >= 0:
                    self.duplicates += 1
                    continue
                more_ns = late_ns + self._jitter_ns(client, request)
                self.released_ns[row] = now_ns + more_ns + self._delay_ns
                if more_ns:
                    self._clock.after(more_ns, self._left, (client, request))
                else:
                    self.answered(client, request)

    def _left(self, answer: tuple[int, int]) -> None:
        self.answered(*answer)

    def has(self, client: int, request: int) -> bool:
        """Whether the client has its answer."""
        return self.released_ns[self._row[client, request]] >= 0

    def table(self) -> dict[str, NDArray[np.int64]]:
        """Columns for `RunRecord.responses`."""
        return {name: np.array(getattr(self, name), np.int64) for name in RESPONSE_COLUMNS}

    def unanswered(self) -> list[tuple[int, int, int]]:
        """(client, request, position in the log) of every request without an answer."""
        return [
            (self.client[row], self.request[row], row)
            for row, released_ns in enumerate(self.released_ns)
            if released_ns < 0
        ]


class Jitter:
    """What a response's way takes beyond the delay: (client, request) -> ns."""

    def __init__(self, mean_ns: int, streams: Streams) -> None:
        self._mean_ns = mean_ns
        self._streams = streams

    def __call__(self, client: int, request: int) -> int:
        if not self._mean_ns:
            return 0
        return round(self._mean_ns * self._streams.exponential("client-jitter", client).at(request))


class Demand:
    """Guest time that each request needs, the same for whoever asks.

    speed: of the secondary's CPU, times the primary's.
    """

    def __init__(
        self, workload: Workload, streams: Streams, jitter: float, speed: float = 1.0
    ) -> None:
        self._workload = workload
        self._streams = streams
        self._speed = speed
        self._sigma = math.sqrt(math.log1p(jitter**2))  # jitter: relative standard deviation

    def primary_ns(self, client: int, request: int) -> int:
        workload = self._workload
        if isinstance(workload, BatchJob):
            return workload.work_ns
        if workload.service_distribution == "deterministic":
            return workload.service_time_ns
        draw = self._streams.exponential("service", client).at(request)
        return max(1, round(workload.service_time_ns * draw))

    def secondary_ns(self, client: int, request: int) -> int:
        """The same work at that CPU's speed, a little faster or slower: lognormal with mean 1."""
        work_ns = self.primary_ns(client, request)
        if not self._sigma:
            return max(1, slowed_ns(work_ns, self._speed))
        z = self._streams.normal("jitter", client).at(request)
        factor = math.exp(self._sigma * z - self._sigma**2 / 2)
        return max(1, round(work_ns * factor / self._speed))


class Thinking:
    """When clients that think ask.  Phases change at the clients, a delay away from the network."""

    def __init__(self, workload: ClosedService, streams: Streams, schedule: Schedule) -> None:
        self._mean_ns = workload.think_time_ns
        self._delay_ns = workload.client_delay_ns
        self._streams = streams
        self._changes = [schedule.load(client) for client in range(workload.clients)]

    def arrives_ns(self, client: int, request: int, soonest_ns: int) -> int:
        """When a request is at the network; ``soonest_ns``: if the client did not think."""
        think_ns = round(self._mean_ns * self._streams.exponential("think", client).at(request))
        change = self._changes[client]
        if change is None:
            return soonest_ns + think_ns
        from_ns = soonest_ns - self._delay_ns
        ends_ns = round(change.when(change.done(from_ns) + think_ns))
        return max(ends_ns + self._delay_ns, soonest_ns)


def start_clients(
    workload: Workload,
    clock: Clock,
    streams: Streams,
    network: Network,
    schedule: Schedule,
) -> None:
    """Set the clients of a workload going."""
    match workload:
        case BatchJob():
            network.send(0, 0)
        case OpenService():
            _Open(workload, clock, streams, network, schedule)
        case ClosedService():
            _Closed(workload, clock, streams, network, schedule)


class _Open:
    """Poisson arrivals, dealt to the connections in turn."""

    def __init__(
        self,
        workload: OpenService,
        clock: Clock,
        streams: Streams,
        network: Network,
        schedule: Schedule,
    ) -> None:
        self._clock = clock
        self._network = network
        self._delay_ns = workload.client_delay_ns
        #: client -> (request, when due) that wait for the answer to the one before; None: pipelined
        self._waiting: dict[int, deque[tuple[int, int]]] | None = None
        if not workload.pipelined:
            self._waiting = {}  # of those that have asked and have no answer
            network.answered = self._answered
        self._connections = workload.connections
        self._mean_ns = NS_PER_S / workload.rate_per_s
        self._gaps = streams.exponential("arrival")
        self._next = 0
        self._at_ns = float(workload.client_delay_ns)
        self._change = schedule.load()
        self._plan()

    def _plan(self) -> None:
        self._at_ns += self._mean_ns * self._gaps.at(self._next)
        at_ns = self._at_ns
        if self._change is not None:
            at_ns = self._change.when(at_ns - self._delay_ns) + self._delay_ns
        self._clock.after(max(0, round(at_ns) - self._clock.now_ns()), self._arrive)

    def _arrive(self, _: object) -> None:
        request, client = divmod(self._next, self._connections)
        self._next += 1
        self._plan()
        if self._waiting is not None:
            if client in self._waiting:
                due_ns = self._clock.now_ns() - self._delay_ns
                self._waiting[client].append((request, due_ns))
                return
            self._waiting[client] = deque()
        self._network.send(client, request)

    def _answered(self, client: int, request: int) -> None:
        """The answer left for its client, who sends what waited for it."""
        assert self._waiting is not None
        if waiting := self._waiting[client]:
            due = waiting.popleft()
            self._clock.after(self._network.round_trip_ns, self._send_late, (client, *due))
        else:
            self._clock.after(self._network.round_trip_ns, self._free, client)

    def _send_late(self, late: tuple[int, int, int]) -> None:
        self._network.send(*late)

    def _free(self, client: int) -> None:
        """Its next request, sent from now on, arrives from now on."""
        assert self._waiting is not None
        if waiting := self._waiting[client]:
            self._network.send(client, *waiting.popleft())
        else:
            del self._waiting[client]


class _Closed:
    """Each client waits for its answer, thinks, and asks again."""

    def __init__(
        self,
        workload: ClosedService,
        clock: Clock,
        streams: Streams,
        network: Network,
        schedule: Schedule,
    ) -> None:
        self._clock = clock
        self._thinking = Thinking(workload, streams, schedule)
        self._network = network
        network.answered = self._answered
        for client in range(workload.clients):
            self._think(client, 0, workload.client_delay_ns)

    def _answered(self, client: int, request: int) -> None:
        self._think(client, request + 1, self._network.round_trip_ns)

    def _think(self, client: int, request: int, delay_ns: int) -> None:
        now_ns = self._clock.now_ns()
        at_ns = self._thinking.arrives_ns(client, request, now_ns + delay_ns)
        self._clock.after(at_ns - now_ns, self._send, (client, request))

    def _send(self, what: tuple[int, int]) -> None:
        self._network.send(*what)
