"""The driver: requests at the times that the simulator's clients send theirs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

from backends.qemu.clients.alarm import Alarm
from backends.qemu.clients.base import Protocol, Setting, Tally
from backends.qemu.clients.protocols import PROTOCOLS
from backends.qemu.clients.wire import Failed
from backends.qemu.errors import LiveError
from colosim.guest import Client
from colosim.model.results import RESPONSE_COLUMNS
from colosim.model.streams import Streams
from colosim.scenario import ClosedService, OpenService
from colosim.units import SIZE

_NS_PER_S = 1_000_000_000
_PAUSE_S = 0.1
_STOP_LIMIT_S = 2.0
_NEVER = -1
#: kinds of failure where an answer came
_ANSWERED = ("wrong", "doubled")


class Load:
    """The clients of a live run, from `start` to `stop`; afterwards `table` and `tally`.

    port: where on ``host`` the guest's port can be reached.  start_ns: moment of CLOCK_MONOTONIC
    (`time.monotonic_ns`) that all times count from; the first connections are made before it if
    there is time.  diverge: chance that an answer of kind work differs between two guests.

    An open load's request counts from when it was due: one that waits because its connection is
    still busy, or broken, is late, not forgotten.  A client whose connection or answer fails
    makes a new connection and goes on with its next request.
    """

    def __init__(
        self,
        workload: OpenService | ClosedService,
        options: Client,
        streams: Streams,
        port: int,
        start_ns: int,
        *,
        host: str = "127.0.0.1",
        diverge: float = 0.0,
    ) -> None:
        self._kind = PROTOCOLS[options.kind]
        sizes = self._kind.sizes
        if options.size_bytes not in sizes:
            raise LiveError(
                f"client.size: {SIZE.format(options.size_bytes)}: kind {options.kind} takes"
                f" {SIZE.format(sizes[0])} to {SIZE.format(sizes[-1])}"
            )
        self._times: _Times
        if isinstance(workload, OpenService):
            self._times = _Open(workload, streams, start_ns)
        else:
            self._times = _Closed(workload, streams, start_ns)
        self._setting = Setting(
            options,
            host,
            port,
            self._times.clients,
            _demand(workload, streams),
            lambda what, client, number: streams.uniform(what, client).at(number),
            diverge,
        )
        clients = 1 if self._kind.once else self._times.clients
        self._protocols = [self._kind(self._setting) for _ in range(clients)]
        self.tally: Tally = self._setting.tally
        #: open load: requests that were due and could not be sent before the end
        self.unsent = 0
        #: longest time that a client which was free woke up after its request was due
        self.late_ns = 0
        self._start_ns = start_ns
        self._rows: list[list[int]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._alarm: Alarm | None = None
        self._stop_ns: int | None = None

    def start(self) -> None:
        """Set the clients going, in the running event loop."""
        self._alarm = Alarm()
        run = self._run_once if self._kind.once else self._run_client
        self._tasks = [
            asyncio.create_task(run(protocol, self._alarm, client), name=f"client {client}")
            for client, protocol in enumerate(self._protocols)
        ]

    async def stop(self) -> None:
        """End all clients now; requests under way stay without an answer.

        Raises what a client raised that is no failure of its connection: an error of ours.
        """
        if self._alarm is None:
            return
        self._stop_ns = time.monotonic_ns()
        for task in self._tasks:
            task.cancel()
        try:
            await asyncio.wait(self._tasks, timeout=_STOP_LIMIT_S)
        finally:
            self._alarm.close()
            self._alarm = None
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    def table(self) -> dict[str, NDArray[np.int64]]:
        """Columns for `RunRecord.responses`, in the order of arrival; served_ns is not known."""
        rows = np.array(sorted(self._rows, key=lambda row: (row[2], row[0], row[1])), np.int64)
        rows = rows.reshape(-1, len(RESPONSE_COLUMNS))
        return {name: rows[:, i].copy() for i, name in enumerate(RESPONSE_COLUMNS)}

    def counters(self) -> dict[str, int]:
        """The tally as counters of a run."""
        tally = self.tally
        failures = {f"client_{kind}_failures": f.count for kind, f in tally.failures.items()}
        return {
            "lost_responses": tally.lost,
            "wrong_responses": tally.wrong,
            "doubled_responses": tally.doubled,
            "unsent_requests": self.unsent,
            "received_bytes": tally.received_bytes,
            "reopened_connections": tally.reopened,
            **failures,
        }

    # One client

    async def _run_client(self, protocol: Protocol, alarm: Alarm, client: int) -> None:
        idle, number, free_ns = True, 0, self._start_ns
        due_ns = self._times.due_ns(client, number, free_ns)
        try:
            await self._connect(protocol)
            while True:
                await self._wait(alarm, due_ns)
                if trouble := protocol.trouble():
                    await self._repair(protocol, trouble)
                    continue
                idle = False
                row = self._sent(client, number, due_ns)
                try:
                    await protocol.limited_request(client, number)
                except Failed as failed:
                    await self._repair(protocol, failed)
                    free_ns = time.monotonic_ns()
                else:
                    free_ns = protocol.answered_ns
                    row[-1] = free_ns - self._start_ns
                idle = True
                number += 1
                due_ns = self._times.due_ns(client, number, free_ns)
        finally:
            if idle and (trouble := protocol.trouble()):
                self._count(trouble)
            protocol.close()
            self._leave_unsent(client, number + (not idle))

    async def _run_once(self, protocol: Protocol, alarm: Alarm, client: int) -> None:
        await alarm.until(self._start_ns)
        try:
            await protocol.request(client, 0)
        except Failed as failed:
            self._count(failed, lost=False)

    async def _wait(self, alarm: Alarm, due_ns: int) -> None:
        if due_ns > time.monotonic_ns():
            await alarm.until(due_ns)
            self.late_ns = max(self.late_ns, time.monotonic_ns() - due_ns)

    async def _connect(self, protocol: Protocol) -> None:
        while True:
            try:
                await protocol.limited_connect()
                return
            except Failed as failed:
                self._count(failed, lost=False)
                protocol.close()
                await asyncio.sleep(_PAUSE_S)

    async def _repair(self, protocol: Protocol, failed: Failed) -> None:
        """Count a failure and make a new connection after a pause."""
        self._count(failed)
        protocol.close()
        await asyncio.sleep(_PAUSE_S)
        await self._connect(protocol)

    # What is recorded

    def _sent(self, client: int, number: int, due_ns: int) -> list[int]:
        sent_ns = due_ns if self._times.is_open else time.monotonic_ns()
        row = [client, number, sent_ns - self._start_ns, _NEVER, _NEVER]
        self._rows.append(row)
        return row

    def _leave_unsent(self, client: int, number: int) -> None:
        """Record an open load's requests that were due when the run ended."""
        if not self._times.is_open or self._stop_ns is None:
            return
        while (due_ns := self._times.due_ns(client, number, 0)) <= self._stop_ns:
            self._sent(client, number, due_ns)
            self.unsent += 1
            number += 1

    def _count(self, failed: Failed, *, lost: bool = True) -> None:
        self.tally.failed(failed, time.monotonic_ns() - self._start_ns)
        self.tally.lost += lost and failed.kind not in _ANSWERED
        self.tally.wrong += failed.kind == "wrong"
        self.tally.doubled += failed.kind == "doubled"


# --------------------------------------------------------------------------------------------
# When requests are sent: as in the simulator


class _Times(Interface):
    clients: int
    is_open: bool

    def due_ns(self, client: int, number: int, free_ns: int) -> int:
        """When a client's request is due; free_ns: when it was done with the one before."""


class _Open:
    """Poisson arrivals, dealt to the connections in turn."""

    is_open = True

    def __init__(self, workload: OpenService, streams: Streams, start_ns: int) -> None:
        self.clients = workload.connections
        self._start_ns = start_ns
        self._delay_ns = workload.client_delay_ns
        self._mean_ns = _NS_PER_S / workload.rate_per_s
        self._gaps = streams.exponential("arrival")
        self._at_ns = float(workload.client_delay_ns)  # added up as the simulator does
        self._due_ns: list[int] = []

    def due_ns(self, client: int, number: int, free_ns: int) -> int:
        index = number * self.clients + client
        for i in range(len(self._due_ns), index + 1):
            self._at_ns += self._mean_ns * self._gaps.at(i)
            self._due_ns.append(self._start_ns + round(self._at_ns) - self._delay_ns)
        return self._due_ns[index]


class _Closed:
    """Each client waits for its answer, thinks, and asks again."""

    is_open = False

    def __init__(self, workload: ClosedService, streams: Streams, start_ns: int) -> None:
        self.clients = workload.clients
        self._start_ns = start_ns
        self._think_time_ns = workload.think_time_ns
        self._streams = streams

    def due_ns(self, client: int, number: int, free_ns: int) -> int:
        draw = self._streams.exponential("think", client).at(number)
        return max(free_ns, self._start_ns) + round(self._think_time_ns * draw)


def _demand(workload: OpenService | ClosedService, streams: Streams) -> Callable[[int, int], int]:
    """CPU time of a client's request: as the simulator's guest takes it."""
    if workload.service_distribution == "deterministic":
        return lambda client, number: workload.service_time_ns

    def demand_ns(client: int, number: int) -> int:
        draw = streams.exponential("service", client).at(number)
        return max(1, round(workload.service_time_ns * draw))

    return demand_ns
