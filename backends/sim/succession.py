"""How pairs follow each other: a switchover that is asked for, protection again, and fail-back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.nodes import PRIMARY, node_id
from backends.sim.host import SITES, Host
from backends.sim.link import STATE
from colosim.protocol import types as t
from colosim.protocol.manager import LONGEST_BACK_OFF
from colosim.scenario import Scenario

if TYPE_CHECKING:
    from backends.sim.world import SimWorld


class Succession:
    """When a survivor is protected again, and when a pair is ended on purpose."""

    def __init__(self, world: SimWorld, scenario: Scenario) -> None:
        self._world = world
        self._clock = world.clock
        self._recorder = world.recorder
        self._manager = scenario.manager
        self._costs = scenario.costs()
        self._received_ns = scenario.limits.received_ns
        self._pages = scenario.memory.guest_memory_bytes // self._costs.page_bytes
        self._hasty = 0  # pairs in a row, but the first, that did not last
        self._ends_as_planned = False  # the present pair

    def start(self) -> None:
        """The first pair begins."""
        if (at_ns := self._manager.switchover_at_ns) is not None:
            self._clock.after(at_ns, lambda _: self._hand_over("switchover"))

    def _hand_over(self, why: str) -> None:
        primary = self._world.pair.hosts[PRIMARY].id
        self._ends_as_planned = True
        self._recorder.event(primary, why, "asked for")
        self._world.tell(primary, t.HandOver())

    def alone(self) -> None:
        """A host goes on without its peer.  It is protected again, where the scenario says so.

        Later and later if pairs do not last: a bad link would copy all memory for nothing.
        """
        manager, pair = self._manager, self._world.pair
        if not manager.reprotect:
            return
        lasted_ns = self._clock.now_ns() - pair.began_ns
        is_short = pair.number > 1 and lasted_ns < manager.reprotect_stable_ns
        is_hasty = is_short and not self._ends_as_planned
        self._hasty = self._hasty + 1 if is_hasty else 0
        self._protect_later()

    def _protect_later(self) -> None:
        longer = min(2**self._hasty, LONGEST_BACK_OFF)
        delay_ns = self._manager.reprotect_delay_ns * longer
        self._clock.after(delay_ns, self._protect, self._world.pair.number)

    def _protect(self, pair: int) -> None:
        """Copy all of the survivor's memory to a fresh secondary while its guest stands still."""
        world, costs, pages = self._world, self._costs, self._pages
        survivor, link = world.hosts[world.owner], world.link
        if survivor.guest.dead or not survivor.alive:
            return
        if survivor.hung or survivor.guest.hung or link.is_cut:
            self._fails("the link or the guest does not answer")
            return
        self._recorder.event(survivor.id, "reprotect", f"copying {pages} pages")
        survivor.guest.stop()
        primary = node_id(t.Role.PRIMARY, pair + 1)
        link.lead_from(primary)
        given_up = False

        def give_up(_: object) -> None:
            nonlocal given_up
            if world.pair.number == pair and not survivor.guest.dead:
                given_up = True
                link.forget(primary)
                survivor.guest.start()
                world.network.catch_up(survivor.guest)
                self._fails("the copy took too long")

        def loaded(_: object) -> None:
            if not (given_up or survivor.guest.dead or survivor.hung or survivor.guest.hung):
                self._pair_up(survivor)

        def arrived() -> None:
            self._clock.after(costs.load_ns(pages), loaded)

        link.send(primary, STATE, costs.state_bytes(pages), arrived)
        self._clock.after(self._received_ns, give_up)

    def _fails(self, why: str) -> None:
        self._recorder.event(self._world.owner, "reprotect", f"failed: {why}")
        self._hasty += 1
        self._protect_later()

    def _pair_up(self, survivor: Host) -> None:
        """The survivor is the primary of a new pair; it may be where no primary is to stay."""
        self._ends_as_planned = False
        self._world.pair_up(survivor, self._pages)
        back_ns = self._manager.failback_after_ns
        if back_ns is not None and survivor.site != SITES[0]:
            self._clock.after(back_ns, self._fail_back, self._world.pair.number)

    def _fail_back(self, pair: int) -> None:
        """A planned switchover to the site that is preferred, if the pair is still there."""
        world = self._world
        if world.pair.number == pair and world.owner == world.pair.hosts[PRIMARY].id:
            self._hand_over("failback")
