"""When two guests part that run on the same state, and what their responses then differ in.

Everything is drawn anew at each point of synchronisation.  A mark on a response is all that is
said about it: ``!k`` where it differs since synchronisation k, ``@n`` for the time that it tells.
"""

from __future__ import annotations

from backends.nodes import SECONDARY, role_of
from backends.sim.guest import Meter
from backends.sim.host import Host
from colosim.model.divergence import Divergence
from colosim.model.streams import Streams
from colosim.scenario import Scenario


class Parting:
    """Of the guests of the pair that there is."""

    def __init__(self, scenario: Scenario, streams: Streams) -> None:
        self._streams = streams
        self._divergence = divergence = Divergence(**scenario.divergence.model_dump())
        self._apart = scenario.schedule().divergence()
        hazards = (divergence.hazard_per_s, divergence.pair_hazard_per_s)
        self._may_part = self._apart is not None or any(hazards)
        self._is_timed = divergence.timed > 0
        self._per_connection = scenario.packet.requests_per_connection
        self._pair = 1
        self._risk_taken = 0.0  # the expected number at which they part, this time
        #: the checkpoint since which nothing was synchronised
        self.synchronisation = 0
        #: exposure at which they part, this time; None for never
        self.hazard_at_ns: int | None = None

    def watch(self, host: Host) -> None:
        """Have the risk added up while a secondary's guest runs, where it changes in time."""
        apart, divergence = self._apart, self._divergence
        if role_of(host.id) != SECONDARY or not (apart or divergence.pair_hazard_per_s):
            return

        def risk(from_ns: int, to_ns: int, done_ns: int, busy: int) -> float:
            ran = done_ns / (to_ns - from_ns)
            running_ns = (apart.done(to_ns) - apart.done(from_ns)) * ran if apart else done_ns
            return divergence.partings(running_ns, busy)

        host.risk = Meter(risk)
        host.guest.meters.append(host.risk)

    def synchronised(self, pair: int, checkpoint: int) -> None:
        """Both guests are equal now; draw when their state will differ."""
        self._pair, self.synchronisation = pair, checkpoint
        if self._may_part:
            e = self._streams.exponential("hazard", pair - 1).at(checkpoint)
            self.hazard_at_ns = self._divergence.first_ns(e)
            self._risk_taken = e

    def mark(self, host: Host, client: int, request: int, now_ns: int) -> str:
        """How a response of now differs; nothing where it says what the other guest's says."""
        mark = ""
        if role_of(host.id) == SECONDARY and self._differs(host, client, request, now_ns):
            mark = f"!{self.synchronisation}"
        return mark + self._time_said(host, client, request, now_ns) if self._is_timed else mark

    def _differs(self, host: Host, client: int, request: int, now_ns: int) -> bool:
        if self._has_drifted(host):
            return True
        u = self._streams.uniform("divergence", client).at(request)
        each = self._per_connection
        opens = request % each == 0 if each else request == 0
        factor = 1.0 if self._apart is None else self._apart.factor(now_ns)
        return self._divergence.response_differs(u, opens, factor)

    def _has_drifted(self, host: Host) -> bool:
        """The guests' states are not the same any more."""
        if host.risk is not None:
            host.guest.catch_up()
            return host.risk.value >= self._risk_taken
        return self.hazard_at_ns is not None and host.guest.exposure_ns >= self.hazard_at_ns

    def _time_said(self, host: Host, client: int, request: int, now_ns: int) -> str:
        """What a response says of the time, as a mark on it."""
        u = self._streams.uniform("timed", client).at(request)
        said = self._divergence.time_said(u, now_ns, role_of(host.id) == SECONDARY)
        return "" if said is None else f"@{said}"

    def unprompted_ns(self, now_ns: int) -> int | None:
        """In how long both will say different things that nobody asked for; None for never."""
        e = self._streams.exponential("unprompted", self._pair - 1).at(self.synchronisation)
        wait_ns = self._divergence.unprompted_ns(e)
        if wait_ns is not None and self._apart is not None:
            return round(self._apart.when(self._apart.done(now_ns) + wait_ns)) - now_ns
        return wait_ns
