"""Witnesses at fidelity ``epoch``: the secondary's rows on their way over the link."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backends.sim.epoch.guest import EpochGuest
from backends.sim.epoch.lane import Lane
from backends.sim.epoch.log import Log
from backends.sim.link import NS_PER_S


class WitnessLink:
    """The link as witnesses have it, as if nothing else crossed it.

    lane: they leave one after the other.  delay_ns: of each, until it arrives.
    witness_ns: what one takes of the link.
    arrived_ns: none is there before then: it would overtake others.
    offered: rows that were sent.
    """

    def __init__(
        self,
        log: Log,
        guests: Sequence[EpochGuest],
        witness_bytes: int,
        bandwidth_bps: float,
        delay_ns: int,
        is_used: bool,
    ) -> None:
        def mirrored_by(now_ns: int) -> int:
            guest = guests[-1]
            guest.settle()
            return guest.lane.position

        self._log = log
        self._guests = guests  # the secondary's is the last one
        self._witness_bytes = witness_bytes
        self.delay_ns = delay_ns
        self.witness_ns = self._alone_ns(bandwidth_bps)
        self.arrived_ns = self.offered = 0
        self.lane = Lane(log, "mirrored", self.witness_ns, "left", mirrored_by)
        self.lane.moves = self.lane.reads = is_used

    def _alone_ns(self, bandwidth_bps: float) -> int:
        return -int(-self._witness_bytes * 8 // (bandwidth_bps / NS_PER_S))

    @property
    def sent_bytes(self) -> int:
        return self.offered * self._witness_bytes

    def settle(self, now_ns: int) -> None:
        """Bring it up to date."""
        if self.lane.settle(now_ns):
            self._no_sooner_than(self.lane.position)

    # -- plans -----------------------------------------------------------------------------

    def plan(self, now_ns: int) -> int | None:
        """When they leave, and when they arrive: one never overtakes another; the first one that
        is new.
        """
        lane, log = self.lane, self._log
        self.settle(now_ns)
        first = lane.plan(now_ns, self._guests[-1].lane.planned)
        if first is not None:
            left = log.view("left", first, lane.planned)
            arrives = log.view("witnessed", first, lane.planned)
            np.add(left, self.delay_ns, out=arrives)
            if self.arrived_ns > arrives[0]:
                np.maximum(arrives, self.arrived_ns, out=arrives)
        return first

    def follow(self, now_ns: int) -> None:
        """What is planned does not hold if what it waits for does not."""
        lane = self.lane
        if lane.planned > self._guests[-1].lane.planned:
            self.settle(now_ns)
            lane.disturb(now_ns)

    def trim(self, now_ns: int) -> None:
        """The same if the guest only has fewer rows to come."""
        self.settle(now_ns)
        self.lane.trim(self._guests[-1].lane.planned)

    # -- what intervenes -------------------------------------------------------------------

    def offer_rest(self) -> None:
        """What the guest made while its node hung is sent after all."""
        self.offered += self._guests[-1].lane.position - self.lane.taken

    def disturbed(self, now_ns: int, is_alive: bool, takes: bool, is_cut: bool) -> None:
        """is_alive: the secondary's host.  takes: its node offers what it hears."""
        lane = self.lane
        lane.disturb(now_ns)
        if not is_alive:
            lane.put(lane.position, lane.position, -1)  # what has not left is gone
        lane.moves = is_alive and not is_cut
        lane.reads = takes

    def slowed(self, now_ns: int, bandwidth_bps: float, delay_ns: int) -> None:
        """After `settle`."""
        lane = self.lane
        self.delay_ns = delay_ns
        self.witness_ns = lane.work = self._alone_ns(bandwidth_bps)
        lane.disturb(now_ns)

    def go_on_from(self, position: int, now_ns: int) -> None:
        """Both guests are equal, and make that row next."""
        lane = self.lane
        self.settle(now_ns)
        if lane.position < lane.taken <= lane.planned:  # the link has old ones to send yet
            lane.free_ns = int(self._log.view("left", lane.taken - 1, lane.taken)[0])
            self._no_sooner_than(lane.taken)
        lane.put(position, position, -1)

    def _no_sooner_than(self, end: int) -> None:
        """What is to come arrives behind the last of the rows before ``end``."""
        self.arrived_ns = int(self._log.view("witnessed", end - 1, end)[0])
