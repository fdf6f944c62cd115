"""What nodes are told of the rows that guests made: which, as which range, and when.

They hear of output when it matters to them: at a difference, at a cut, at the end of a block; as
one range of rows, with its witness if it has met it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from backends.base import Cause
from backends.nodes import PRIMARY, SECONDARY
from backends.sim.epoch.guest import Rows
from backends.sim.epoch.host import EpochHost
from backends.sim.epoch.log import Log, Times
from backends.sim.epoch.meeting import Meeting
from backends.sim.epoch.traffic import runs
from colosim.protocol import types as t
from colosim.protocol.checkpoint import P

if TYPE_CHECKING:
    from backends.sim.world import SimWorld

#: the stream of rows; what a stream of its own is made of is a client's connection
STREAM = "responses"


class Telling:
    """Of the nodes of one world; what their guests make, all of it is settled before.

    leaving: rows that a node hears of right now, and when they may leave, each by itself.
    offer: the action by which the secondary's node sent its latest witness.
    """

    def __init__(
        self,
        world: SimWorld,
        hosts: Mapping[str, EpochHost],
        log: Log,
        meeting: Meeting,
        compares: bool,
        timeout_ns: int | None,
    ) -> None:
        """timeout_ns: for which a response waits for its witness; None for ever."""
        self._world = world
        self._clock = world.clock
        self._hosts = hosts
        self._log = log
        self._meeting = meeting
        self._compares = compares
        self._timeout_ns = timeout_ns
        self.leaving: tuple[int, int, Times] | None = None
        self.offer: Cause | None = None

    # -- when ------------------------------------------------------------------------------

    def differs_ns(self) -> int | None:
        """When the primary's node is to hear of a difference, as far as planned."""
        host = self._hosts[PRIMARY]
        if not (self._meeting.is_comparing and host.speaks):
            return None
        row = self._meeting.next_difference(host.told)
        return None if row is None else int(self._log.view("met", row, row + 1)[0])

    def complains_ns(self) -> int | None:
        """When the oldest response that one guest alone has made is too old, or sooner."""
        host = self._hosts[PRIMARY]
        if host.is_open or not host.speaks or self._timeout_ns is None:
            return None
        since_ns = self._alone_since_ns(host, host.told)
        return None if since_ns is None else since_ns + self._timeout_ns

    def _alone_since_ns(self, host: EpochHost, row: int) -> int | None:
        """When the node knows of the first of the two responses, or will."""
        since_ns = self._meeting.came_ns(row)
        if since_ns is None or since_ns <= host.hung_ns:
            return since_ns
        return max(since_ns, host.floor_ns)

    def is_routine(self, host: EpochHost, event: t.Event) -> bool:
        """The event changes nothing for what the guest has said and the node has not heard."""
        if self._waits(host):
            return True
        step = self._world.session.nodes[host.id].step
        goes_on = host.guest.running and step not in (P.EXITED, P.FROZEN)
        is_compared = host.id == PRIMARY and self._meeting.is_comparing
        return isinstance(event, t.Done) and goes_on and is_compared

    def _waits(self, host: EpochHost) -> bool:
        """It is a secondary whose responses its node hears of as they meet the primary's."""
        return host.id == SECONDARY != self._world.owner and not self._passes(host)

    def _passes(self, host: EpochHost) -> bool:
        """What its guest says goes to the gate as it is made, for no witness is waited for."""
        return host.is_open or not self._compares

    # -- of one guest ----------------------------------------------------------------------

    def hear_all(self) -> None:
        for host in self._hosts.values():
            self.hear(host)

    def hear(self, host: EpochHost) -> None:
        """Tell a node what matters to it of what its guest has made."""
        if not host.speaks:
            return
        if host.id == PRIMARY:
            self.compare()
        if self._waits(host):
            return
        # unless the primary's guest was stopped for a cut, they may yet meet their witnesses
        is_cut = not host.guest.running and not host.guest.dead
        if host.id == PRIMARY and not is_cut and not self._passes(host):
            return
        log, position = self._log, host.guest.lane.position
        skipped, host.skipped = host.skipped, []
        for row in skipped:
            if row < position:
                client, request = log.client(row), log.request(row)
                self._say_one(host, t.Range(str(client), request, request + 1), (row, row + 1))
        if host.told < position:
            rows, host.told = (host.told, position), position
            self._say_one(host, t.Range(STREAM, *rows), rows)

    def repeat(self, host: EpochHost, rows: Rows, now_ns: int) -> None:
        """The guest says again, through an open gate, what it had made."""
        self.leaving = (*rows, np.full(rows[1] - rows[0], now_ns))
        self._put(host, t.Range(STREAM, *rows), rows, "")
        self.leaving = None

    def _say_one(self, host: EpochHost, range_: t.Range, rows: Rows) -> None:
        """Rows of one guest that no witness waits for; through an open gate they leave as made."""
        if host.is_open:
            ends = self._log.view(host.made_in, *rows)
            self.leaving = (*rows, _not_before(host.floor_ns, ends))
        self._put(host, range_, rows, "")
        self.leaving = None

    def _put(self, host: EpochHost, range_: t.Range, rows: Rows, digest: str) -> None:
        host.held[range_.stream, range_.first] = rows
        self._world.tell(host.id, t.GuestOutput(range_, digest))

    # -- of both guests --------------------------------------------------------------------

    def compare(self) -> None:
        """Tell the primary's node of all rows that both guests have made by now."""
        host, log, meeting = self._hosts[PRIMARY], self._log, self._meeting
        if not host.speaks or host.is_open:
            return
        now_ns = self._clock.now_ns()
        while meeting.is_comparing:
            first, known = host.told, meeting.known()
            if first >= known:
                return
            end = first + int(log.view("met", first, known).searchsorted(now_ns, "right"))
            row = meeting.next_difference(first)
            until = end if row is None else min(end, row)
            if first < until:
                self._say_equal(host, first, until)
            if row is None or row >= end:
                return
            self._say_different(host, row)

    def complain(self) -> None:
        """Tell the primary's node of responses that have waited too long."""
        host, now_ns = self._hosts[PRIMARY], self._clock.now_ns()
        if not host.speaks:
            return
        row, stuck = host.told, self._meeting.stuck
        while self._timeout_ns is not None and not host.is_open:
            since_ns = self._alone_since_ns(host, row)
            if since_ns is None or since_ns + self._timeout_ns > now_ns:
                return
            client = self._log.client(row)
            if client not in stuck:
                stuck.add(client)
                request = self._log.request(row)
                stale = t.Stale(t.Range(str(client), request, request + 1))
                self._world.tell(host.id, t.Compared((stale,)))
            host.skipped.append(row)
            row += 1
            host.told = row

    def _say_equal(self, host: EpochHost, first: int, end: int) -> None:
        rows = [(first, end)]
        if self._meeting.stuck:
            clients = self._log.clients(first, end)
            stuck = np.zeros(end - first, np.bool_)
            for client in self._meeting.stuck:
                stuck |= clients == client
            host.skipped += (first + np.flatnonzero(stuck)).tolist()
            rows = runs(first + np.flatnonzero(~stuck))
        host.told = end
        for run in rows:
            self._say_both(host, STREAM, *run, *run, "")

    def _say_different(self, host: EpochHost, row: int) -> None:
        client, request = self._log.client(row), self._log.request(row)
        self._meeting.stuck.add(client)
        host.told = row + 1
        self._say_both(host, str(client), request, request + 1, row, row + 1, "!")

    def _say_both(
        self, host: EpochHost, stream: str, first: int, end: int, row: int, last: int, mark: str
    ) -> None:
        """Rows [row, last) of both guests; they meet at the primary."""
        parting = self._world.parting
        range_ = t.Range(stream, first, end)
        digest = mark and f"{mark}{parting.synchronisation}"
        cause = self._offered_by(range_, digest, row, last)
        self._put(host, range_, (row, last), "")
        when_ns = _not_before(host.floor_ns, self._log.view("met", row, last))
        self.leaving = (row, last, when_ns)
        self._world.tell(host.id, t.PeerOutput(range_, digest, parting.synchronisation), cause)
        self.leaving = None

    def _offered_by(self, range_: t.Range, digest: str, row: int, last: int) -> Cause | None:
        """The secondary's node hears of it too; the action by which it offers it."""
        host = self._hosts[SECONDARY]
        if not host.speaks or host.is_open or row < host.told:
            return None
        host.skipped += range(host.told, row)
        host.told = last
        self.offer = None
        self._put(host, range_, (row, last), digest)
        return self.offer


def _not_before(floor_ns: int, when_ns: Times) -> Times:
    return np.maximum(when_ns, floor_ns) if when_ns[0] < floor_ns else when_ns
