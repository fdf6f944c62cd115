"""Clients that wait for their answers: who asks when follows from what the plan says leaves when.

Their rows cannot be made before the plan, so the plan makes them, one after the other, in the order
of arrival: what has arrived stays, the rest is made anew whenever something intervenes.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from backends.sim.epoch.log import KEPT, WINDOW, Log, Times
from backends.sim.traffic import Demand, Jitter, Thinking
from colosim.model.schedule import CONSTANT, Schedule
from colosim.model.streams import Streams
from colosim.scenario import ClosedService

#: of each row: whose it is; the client's row before it; when it leaves, -1 where that is not known
_MORE_KEPT = ("client", "request")
_MORE_WINDOW = ("before", "leaves")


class FeedbackLog(Log):
    """Rows of clients that think after each answer; `ask` says when the next one arrives."""

    def __init__(
        self,
        workload: ClosedService,
        streams: Streams,
        jitter: float,
        probability: float,
        paired: bool,
        speed: float = 1.0,
        schedule: Schedule = CONSTANT,
    ) -> None:
        self._streams = streams
        self._probability = probability if paired else 0.0
        self._demand = Demand(workload, streams, jitter if paired else 0.0, speed)
        self._jitter_ns = Jitter(workload.client_jitter_ns, streams)
        self._thinking = Thinking(workload, streams, schedule)
        self._delay_ns = workload.client_delay_ns
        self._has_jitter = workload.client_jitter_ns > 0
        self.late_ns = 0  # of what leaves, behind its moment
        self.size = self._forgotten = self._base = self._least_rows = 0
        self._kept = {name: np.empty(0, np.int64) for name in (*KEPT, *_MORE_KEPT)}
        self._window = {name: np.empty(0, np.int64) for name in (*WINDOW, *_MORE_WINDOW)}
        self._differing: list[int] = []
        self.last = [-1] * workload.clients  # row of each client
        # of each client the answer that was asked about last, and when its next request arrives
        self._asked: list[tuple[int, int, int]] = [(-2, 0, 0)] * workload.clients

    @property
    def has_jitter(self) -> bool:
        return self._has_jitter

    def arrived(self, now_ns: int) -> int:
        return int(self._kept["at"][: self.size].searchsorted(now_ns, "right"))

    def ensure(self, size: int) -> None:
        """They are made by the plan."""

    def client(self, row: int) -> int:
        return int(self._kept["client"][row])

    def request(self, row: int) -> int:
        return int(self._kept["request"][row])

    def clients(self, first: int, end: int) -> Times:
        return self.view("client", first, end)

    def table(self, end_ns: int, delay_ns: int) -> dict[str, Times]:
        rows = int(self._kept["at"][: self.size].searchsorted(end_ns, "left"))
        return {
            "client": self.view("client", 0, rows),
            "request": self.view("request", 0, rows),
            "arrival_ns": self.view("at", 0, rows) - delay_ns,
            "served_ns": self.view("served", 0, rows),
            "released_ns": self.view("released", 0, rows),
        }

    # -- making rows -----------------------------------------------------------------------

    def cut(self, now_ns: int) -> None:
        """Forget the rows that have not arrived."""
        size = self.arrived(now_ns)
        for client, before in zip(
            self.view("client", size, self.size)[::-1].tolist(),
            self.view("before", size, self.size)[::-1].tolist(),
            strict=True,
        ):
            self.last[client] = before
        del self._differing[bisect_left(self._differing, size) :]
        self.size = size

    def ask(self, client: int, request: int, leaves_ns: int) -> int:
        """When the request after the answer to ``request`` arrives; -1: the first one."""
        asked = self._asked[client]
        if asked[:2] != (request, leaves_ns):
            asked = (request, leaves_ns, self._arrives_ns(client, request, leaves_ns))
            self._asked[client] = asked
        return asked[2]

    def _arrives_ns(self, client: int, request: int, leaves_ns: int) -> int:
        soonest_ns = self._delay_ns
        if request >= 0:
            more_ns = self.late_ns + self._jitter_ns(client, request)
            soonest_ns = leaves_ns + more_ns + 2 * self._delay_ns
        return self._thinking.arrives_ns(client, request + 1, soonest_ns)

    def works(self, client: int, request: int) -> tuple[int, int]:
        return self._demand.primary_ns(client, request), self._demand.secondary_ns(client, request)

    def differs(self, client: int, request: int) -> bool:
        if not self._probability:
            return False
        return self._streams.uniform("divergence", client).at(request) < self._probability

    def append(self, columns: dict[str, list[int]], differing: list[int]) -> None:
        """Add rows; columns not given hold nothing yet."""
        count = len(columns["at"])
        self._make_room(count)
        first, self.size = self.size, self.size + count
        for name in ("served", "released"):
            self.view(name, first, self.size).fill(-1)
        for name, values in columns.items():
            self.view(name, first, first + len(values))[:] = values
        if self._has_jitter:
            asked = zip(columns["client"], columns["request"], strict=True)
            self.view("jitter", first, self.size)[:] = [self._jitter_ns(c, r) for c, r in asked]
        self._differing += differing
