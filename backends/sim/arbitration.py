"""Arbiters in the simulated world: who is asked, what can be reached, and when the answer is there.

The core's arbiters (`colosim.protocol`) decide; here is the way to them and back, ``vote_delay`` in
all.  What would arrive while a side's way to its arbiter is cut is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from backends.base import Cause
from backends.nodes import PRIMARY, SECONDARY, role_of
from backends.sim.host import Host
from colosim.protocol import types as t
from colosim.protocol.arbiters import Claims, LockService, connected
from colosim.protocol.manager import Witness

if TYPE_CHECKING:
    from backends.sim.world import SimWorld
    from colosim.scenario import Manager


class Arbitration:
    """A witness: a third party that both sides ask; the base of the others."""

    def __init__(self, world: SimWorld, manager: Manager) -> None:
        self._world = world
        self._manager = manager
        self._there_ns = manager.vote_delay_ns // 2
        self._back_ns = manager.vote_delay_ns - self._there_ns
        self._cuts: Counter[str] = Counter()  # by role; cuts may overlap
        self._witness = Witness()

    def anew(self) -> Arbitration:
        """The same for a new pair: nothing is decided, and what is cut is cut."""
        following = type(self)(self._world, self._manager)
        following._cuts = self._cuts
        return following

    def cut(self, role: str, is_cut: bool) -> None:
        """A side's way to its arbiter is cut, or mended."""
        self._cuts[role] += 1 if is_cut else -1

    def ask(self, host: Host, op: int, cause: Cause) -> None:
        def decide() -> None:
            self._answer(host, t.VoteSeen(op, self._witness.ask(host.id)), cause)

        self._arrives(host, decide)

    def renew(self, host: Host, op: int, cause: Cause) -> None:
        """Only a lock service has leases."""

    def give_up(self, host: Host) -> None:
        """Only a lock service has leases."""

    def _arrives(self, host: Host, effect: Callable[[], None]) -> None:
        """After the way there, if there is one then."""

        def there(_: object) -> None:
            if not self._cuts[role_of(host.id)]:
                effect()

        self._world.clock.after(self._there_ns, there)

    def _answer(self, host: Host, event: t.Event, cause: Cause) -> None:
        def back(_: object) -> None:
            if not self._cuts[role_of(host.id)]:
                self._world.tell(host.id, event, cause)

        self._world.clock.after(self._back_ns, back)


class ByLease(Arbitration):
    """A lock service; a question that comes too early waits there until the lease has run out."""

    def __init__(self, world: SimWorld, manager: Manager) -> None:
        super().__init__(world, manager)
        self._service = LockService(manager.lease_term_ns, manager.lease_drift_bound)

    def ask(self, host: Host, op: int, cause: Cause) -> None:
        def decide(_: object = None) -> None:
            now_ns = self._world.now_ns()
            granted = self._service.ask(host.id, now_ns)
            if granted is None:
                self._world.clock.after(self._service.free_ns - now_ns, decide)
            else:
                self._answer(host, t.VoteSeen(op, granted), cause)

        self._arrives(host, decide)

    def renew(self, host: Host, op: int, cause: Cause) -> None:
        def decide() -> None:
            held = self._service.renew(host.id, self._world.now_ns())
            self._answer(host, t.LeaseSeen(op, held), cause)

        self._arrives(host, decide)

    def give_up(self, host: Host) -> None:
        self._arrives(host, lambda: self._service.give_up(host.id))


class ByMessages(Arbitration):
    """Totally ordered claims among both hosts and further members that have no guest.

    A member is who is alive, does not hang and is reached, over other members too.  Who is not
    reached when the first claim is ordered learns of it by claiming.
    """

    def __init__(self, world: SimWorld, manager: Manager) -> None:
        super().__init__(world, manager)
        self._others = manager.further_members
        self._claims = Claims(2 + self._others)

    def ask(self, host: Host, op: int, cause: Cause) -> None:
        def order(_: object) -> None:
            reached = self._reached(host)
            others = self._others if _OTHERS in reached else 0
            granted = self._claims.claim(host.id, len(reached - {_OTHERS}) + others)
            if granted is None:
                return
            self._delivered(host, t.VoteSeen(op, granted), cause)
            peer = self._world.hosts[host.peer]
            if granted and peer.id in reached:
                self._delivered(peer, t.PeerClaimed(), cause)

        self._world.clock.after(self._there_ns, order)

    def _delivered(self, host: Host, event: t.Event, cause: Cause) -> None:
        self._world.clock.after(
            self._back_ns,
            lambda _: self._world.tell(host.id, event, cause),
        )

    def _reached(self, host: Host) -> frozenset[str]:
        world = self._world
        hosts = world.pair.hosts.items()
        up = {role: each.id for role, each in hosts if each.alive and not each.hung}
        links = [(up[role], _OTHERS) for role in up if self._others and not self._cuts[role]]
        if not world.link.is_cut and len(up) == len(hosts):
            links.append((up[PRIMARY], up[SECONDARY]))
        return connected(host.id, links)


#: the further members, who always reach each other
_OTHERS = "others"

ARBITRATION: dict[t.Arbiter, type[Arbitration]] = {
    t.Arbiter.WITNESS: Arbitration,
    t.Arbiter.LEASE: ByLease,
    t.Arbiter.MESSAGES: ByMessages,
    t.Arbiter.NONE: Arbitration,  # nobody asks it
}
