"""The requests of a run as columns, made in blocks from the draws of fidelity ``response``.

A row is a request, in the order of arrival at the network.  A draw that a block takes is never
taken again: where an epoch is cut, its rows are used by the next one.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from colosim.model.schedule import TimeChange
from colosim.model.streams import Draws, Streams
from colosim.scenario import OpenService

Times = NDArray[np.int64]
Reals = NDArray[np.float64]

NS_PER_S = 1_000_000_000
_FIRST_ROWS = 1_024
_LARGEST_ROWS = 32768
#: numbers between the draws of two clients: else a round's would all be in one set of the cache
_APART = 8
#: columns that are kept for the record, and those that only rows in work need
KEPT = ("at", "served", "released")
WINDOW = (
    *("primary_work", "secondary_work", "jitter"),
    *("made", "mirrored", "left", "witnessed", "met"),
)


class Log:
    """Rows [0, size) exist; `view` gives a column's rows as an array that can be written.

    Kept: ``at`` (arrival at the network), ``served``, ``released``, -1 for never.
    In a window that `forget` moves on: ``primary_work`` and ``secondary_work`` (guest time),
    ``jitter`` (of the way to the client), ``made`` and ``mirrored`` (when the primary's and the
    secondary's guest answer), ``left`` and ``witnessed`` (when the secondary's answer has left it
    and when it is at the primary), and ``met`` (when both are there); if nothing intervenes.
    """

    def __init__(
        self,
        workload: OpenService,
        duration_ns: int,
        streams: Streams,
        jitter: float,
        probability: float,
        paired: bool,
        speed: float = 1.0,
        change: TimeChange | None = None,
        mirrored: bool = True,
    ) -> None:
        """change: of the rate of arrivals.  mirrored: the secondary's guest serves all rows, so its
        work is made with them; else only once somebody asks, as after a takeover.
        """
        self._speed = speed
        self._change = change
        self._workload = workload
        self._duration_ns = duration_ns
        self._streams = streams
        self._sigma = math.sqrt(math.log1p(jitter**2)) if paired else 0.0
        self._probability = probability if paired and mirrored else 0.0
        self.connections = workload.connections
        self._mean_ns = NS_PER_S / workload.rate_per_s
        self._at_ns = float(workload.client_delay_ns)  # of the last row made
        self._gaps = streams.exponential("arrival")
        self._sources: dict[str, list[Draws]] = {}
        self.size = 0
        self._over: int | None = None  # so many arrived; the run is over
        self._forgotten = 0
        self._base = 0  # first row of the window
        expected = int(workload.rate_per_s * duration_ns / NS_PER_S * 1.01) + _FIRST_ROWS
        self._kept = {name: np.empty(min(expected, 1 << 24), np.int64) for name in KEPT}
        self._least_rows = min(expected, 3 * _LARGEST_ROWS)  # of the window, so it rarely grows
        late = () if mirrored else ("secondary_work",)
        columns = [name for name in WINDOW if self._has(name) and name not in late]
        self._window = {name: np.empty(0, np.int64) for name in columns}
        # memory that is touched for the first time is slow
        most = max(_LARGEST_ROWS, self.connections)
        self._row_buffer = np.empty(most)
        rounds = most // self.connections + _APART
        self._draw_buffers = np.empty((2, self.connections, rounds))
        #: rows whose responses differ on their own, in order
        self._differing: list[int] = []

    def _has(self, name: str) -> bool:
        """Whether a column is needed; equal work is in one column."""
        own_work = bool(self._sigma) or self._speed != 1.0
        return {"secondary_work": own_work, "jitter": self.has_jitter}.get(name, True)

    @property
    def has_jitter(self) -> bool:
        """Whether responses take a time of their own to their clients."""
        return self._workload.client_jitter_ns > 0

    @property
    def window_rows(self) -> int:
        """For how many rows the window has memory."""
        return self._window["made"].size

    # -- rows ------------------------------------------------------------------------------

    def view(self, name: str, first: int, end: int) -> Times:
        """Rows [first, end) of a column."""
        if name in self._kept:
            return self._kept[name][first:end]
        if name not in self._window:
            name = self._column_for(name)
        return self._window[name][first - self._base : end - self._base]

    def _column_for(self, name: str) -> str:
        """Where that is which has no column: in the primary's if it is equal, else one is made."""
        if not self._has(name):
            return "primary_work"
        self._make_second()
        return name

    def arrived(self, now_ns: int) -> int:
        """How many rows have arrived by now; all of them are made.  After `table`: in all."""
        if self._over is not None:
            return self._over
        while not self.size or self._kept["at"][self.size - 1] <= now_ns:
            self._extend()
        return int(self._kept["at"][: self.size].searchsorted(now_ns, "right"))

    def ensure(self, size: int) -> None:
        """Make rows until there are ``size``."""
        while self.size < size:
            self._extend()

    def forget(self, first: int) -> None:
        """Rows before ``first`` are needed for the record alone."""
        self._forgotten = max(self._forgotten, first)

    def differing(self, first: int) -> int | None:
        """The next row whose response differs on its own, among those made."""
        index = bisect_left(self._differing, first)
        return self._differing[index] if index < len(self._differing) else None

    # -- clients ---------------------------------------------------------------------------

    def client(self, row: int) -> int:
        return row % self.connections

    def request(self, row: int) -> int:
        return row // self.connections

    def clients(self, first: int, end: int) -> Times:
        """Whose the rows [first, end) are."""
        return np.arange(first, end, dtype=np.int64) % self.connections

    def table(self, end_ns: int, delay_ns: int) -> dict[str, Times]:
        """Columns for `RunRecord.responses`: what arrived before the end.

        They are the log's own, for memory that is touched for the first time is slow.
        """
        kept, each = self._kept, self.connections
        if self._over is None:
            self.arrived(end_ns)
            self._over = int(kept["at"][: self.size].searchsorted(end_ns, "left"))
            kept["at"][: self._over] -= delay_ns
        rows = self._over
        rounds = -(-rows // each)
        return {
            "client": _filled((rounds, each), np.arange(each))[:rows],
            "request": _filled((rounds, each), np.arange(rounds)[:, None])[:rows],
            "arrival_ns": kept["at"][:rows],
            "served_ns": kept["served"][:rows],
            "released_ns": kept["released"][:rows],
        }

    # -- making rows -----------------------------------------------------------------------

    def _extend(self) -> None:
        """Make the next block of rows: whole rounds of the connections, so that draws fit."""
        rounds = max(1, min(max(self.size, _FIRST_ROWS), _LARGEST_ROWS) // self.connections)
        first, count = self.size, rounds * self.connections
        self._make_room(count)
        self.size += count
        self._arrivals(self.view("at", first, self.size))
        for name in ("served", "released"):
            self.view(name, first, self.size).fill(-1)
        self._services(first, rounds)
        if self.has_jitter:
            draws = self._by_client("client-jitter", self._streams.exponential, rounds)
            draws *= self._workload.client_jitter_ns
            self._put(np.rint(draws, out=draws), "jitter", first)
        if self._probability:
            u = self._by_client("divergence", self._streams.uniform, rounds)
            client, request = np.nonzero(u < self._probability)
            rows = np.sort(first + request * self.connections + client)
            self._differing.extend(rows.tolist())

    def _make_room(self, count: int) -> None:
        """For more rows; those of the window that are not needed any more make room."""
        for name, column in self._kept.items():
            if self.size + count > column.size:
                self._kept[name] = _larger(column, self.size + count, self.size)
        base = max(self._base, min(self.size, self._forgotten))
        stays, moved = self.size - base, base - self._base
        for name, column in self._window.items():
            if moved:
                column[:stays] = column[moved : moved + stays]
            if stays + count > column.size:
                least = max(stays + count, self._least_rows)
                self._window[name] = _larger(column, least, stays)
        del self._differing[: bisect_left(self._differing, base)]
        self._base = base

    def _arrivals(self, out: Times) -> None:
        """Poisson, the sums in the order in which one by one makes them: the same to the bit."""
        at = self._row_buffer[: out.size]
        self._gaps.fill(at)
        at *= self._mean_ns
        at[0] += self._at_ns
        np.cumsum(at, out=at)
        self._at_ns = float(at[-1])
        if self._change is not None:
            delay_ns = self._workload.client_delay_ns
            at -= delay_ns
            at = self._change.when_each(at)
            at += delay_ns
        np.rint(at, out=out, casting="unsafe")

    def _services(self, first: int, rounds: int) -> None:
        workload = self._workload
        work: Reals | int = workload.service_time_ns
        if workload.service_distribution == "deterministic":
            self.view("primary_work", first, self.size).fill(workload.service_time_ns)
        else:
            work = self._by_client("service", self._streams.exponential, rounds)
            work *= workload.service_time_ns
            self._put(_whole(work), "primary_work", first)
        if "secondary_work" in self._window:
            self._put(self._second_work(rounds, work), "secondary_work", first)

    def _second_work(self, rounds: int, work: Reals | int) -> Reals:
        """What the next rounds take the secondary's guest, by client.  work: the same of the
        primary's; it may be overwritten.
        """
        if self._sigma:
            draws = self._by_client("jitter", self._streams.normal, rounds, 1)
            draws *= self._sigma
            draws -= self._sigma**2 / 2
            np.exp(draws, out=draws)
            draws *= work
        else:
            draws = self._draw_buffers[1, :, :rounds]
            draws[:] = work
        if self._speed != 1.0:
            draws /= self._speed
        return _whole(draws)

    def _make_second(self) -> None:
        """The secondary's work of all rows that there are; those before the window only draw."""
        each = self.connections
        self._window["secondary_work"] = np.empty_like(self._window["primary_work"])
        most = self._draw_buffers.shape[2]
        for round_ in range(0, self.size // each, most):
            rounds = min(most, self.size // each - round_)
            first, end = round_ * each, (round_ + rounds) * each
            kept = min(max(first, self._base), end)
            work = np.ones(end - first)
            work[kept - first :] = self.view("primary_work", kept, end)
            second = self._second_work(rounds, work.reshape(rounds, each).T)
            self.view("secondary_work", kept, end)[:] = second.T.reshape(-1)[kept - first :]

    def _put(self, draws: Reals, name: str, first: int) -> None:
        """Whole numbers by client into a column's last rows, in the order of rows."""
        self.view(name, first, self.size).reshape(draws.T.shape)[:] = draws.T

    def _by_client(
        self, purpose: str, kind: Callable[[str, int], Draws], rounds: int, buffer: int = 0
    ) -> Reals:
        """The next draws of every client, a row each; they hold until the buffer's next use."""
        sources = self._sources.get(purpose)
        if sources is None:
            self._streams.expect(purpose, self.connections)
            sources = [kind(purpose, client) for client in range(self.connections)]
            self._sources[purpose] = sources
        draws = self._draw_buffers[buffer, :, :rounds]
        for source, out in zip(sources, draws, strict=True):
            source.fill(out)
        return draws


def _whole(work: Reals) -> Reals:
    """Work in whole nanoseconds, at least one; in place."""
    np.rint(work, out=work)
    return np.maximum(work, 1.0, out=work)


def _larger(column: Times, least: int, used: int) -> Times:
    larger = np.empty(max(least, column.size * 3 // 2), np.int64)
    larger[:used] = column[:used]
    return larger


def _filled(shape: tuple[int, int], values: Times) -> Times:
    """The values, repeated to that shape, row by row."""
    out = np.empty(shape, np.int64)
    out[:] = values
    return out.reshape(-1)
