"""What is planned ahead at fidelity ``epoch``, and what intervenes.

What will happen is planned for a block of rows, as if nothing intervened.  Whatever does (a
checkpoint's steps, a fault) first brings the guests up to date, then their plans are made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from backends.nodes import PRIMARY, SECONDARY
from backends.sim.clock import Planned
from backends.sim.epoch.guest import EpochGuest
from backends.sim.epoch.horizon import Horizon
from backends.sim.epoch.host import EpochHost
from backends.sim.epoch.lane import Lane
from backends.sim.epoch.meeting import Meeting
from backends.sim.epoch.telling import Telling
from backends.sim.epoch.witnesses import WitnessLink
from backends.sim.foresight import Foresight
from backends.sim.host import Host
from colosim.protocol import types as t

if TYPE_CHECKING:
    from backends.sim.world import SimWorld

#: at these a node's gate, or what it waits for, may change for good
_MATTERS = (t.Done, t.Failed, t.VoteSeen, t.LinkLost, t.VmGone, t.PeerGone, t.HandOver)


class EpochForesight(Foresight):
    """Of the guests of one world, their witnesses, and what nodes are to hear of them by itself."""

    says_late = True

    def __init__(
        self,
        world: SimWorld,
        guests: Sequence[EpochGuest],
        hosts: Mapping[str, EpochHost],
        horizon: Horizon,
        link: WitnessLink,
        meeting: Meeting,
        telling: Telling,
        compares: bool,
        duration_ns: int,
    ) -> None:
        """compares: the secondary's guest runs beside the primary's."""
        self._world = world
        self._clock = world.clock
        self._guests = guests
        self._hosts = hosts
        self._horizon = horizon
        self._link = link
        self._meeting = meeting
        self._telling = telling
        self._compares = compares
        self._duration_ns = duration_ns
        #: a plan would only say what lanes do since they were disturbed: later it says the same
        self._may_owe = not (compares or horizon.feeds_back)
        self._owes_plan = False  # there was nothing to plan, and that may be over
        self._is_called = False  # a call to plan is under way
        #: calls that are planned, by their methods
        self._calls: dict[Callable[[object], None], Planned] = {}
        self._age_is_called = False  # the same of the look at the ages of responses

    # -- plans -----------------------------------------------------------------------------

    def changed(self) -> None:
        """Something intervened: plan anew, once all of it has happened."""
        self.is_planned = False
        if not self._is_called and not self.plans_wait:
            self._is_called = True
            self._clock.after(0, self._called)

    def trimmed(self) -> None:
        """A guest stopped, or takes no more rows: of those before them, all that is planned holds.

        But there may be others, beyond the horizon, and clients that wait go on from what is gone.
        """
        lanes = (guest.lane for guest in self._guests)
        is_short = any(lane.moves and lane.planned < lane.taken for lane in lanes)
        if is_short or self._horizon.feeds_back:
            self.changed()
            return
        self._call_off(self._ran_out)
        if self._compares:
            self._link.trim(self._clock.now_ns())
            self._expect_difference()

    def stop_comparing(self) -> None:
        """They do not run on the same state any more."""
        self._meeting.stop_comparing()
        self._call_off(self._differ)
        if self._compares:
            self._expect_age()

    def _called(self, _: object) -> None:
        self._is_called = False
        self.plan_anew()

    def plan_anew(self) -> None:
        if self.is_planned:
            return
        self.is_planned = True
        self._owes_plan = self.plans_wait and (self._may_owe or self._stands_still())
        if self._owes_plan:
            self._call_off(self._ran_out)
            self._call_off(self._differ)
        else:
            self._plan(ran_out=False)

    def plan_owed(self) -> None:
        if self._owes_plan:
            self._owes_plan = False
            self._plan(ran_out=False)

    def plans_go_on(self) -> None:
        super().plans_go_on()
        if self._owes_plan:
            self.is_planned = False
        self.plan_anew()

    def settle(self) -> None:
        self.plan_anew()
        for guest in self._guests:
            guest.settle()
        self._link.settle(self._clock.now_ns())

    def _stands_still(self) -> bool:
        """There is nothing to plan, whatever was planned."""
        return self._is_idle([guest.lane for guest in self._guests if guest.lane.moves])

    def _is_idle(self, moving: Sequence[Lane]) -> bool:
        link = self._link.lane
        return not moving and link.position >= link.taken and not self._horizon.feeds_back

    def _plan(self, ran_out: bool) -> None:
        now_ns, horizon, meeting = self._clock.now_ns(), self._horizon, self._meeting
        guests = self._guests
        for guest in guests:
            guest.settle()
        moving = [guest.lane for guest in guests if guest.lane.moves]
        horizon.begin(now_ns, moving, ran_out)
        if self._compares:
            self._link.follow(now_ns)
        if self._is_idle(moving):
            self._call_off(self._ran_out)
            self._call_off(self._differ)
            if self._compares:
                self._expect_age()
            return
        fresh = [guest.lane.plan(now_ns, horizon.end) for guest in guests]
        if meeting.is_comparing:
            meeting.plan(now_ns, self._hosts[PRIMARY].told, fresh)
        ends_ns = horizon.finish(now_ns, moving, ran_out)
        if ends_ns is not None:
            self._call(self._ran_out, ends_ns)
        if meeting.is_comparing:
            self._expect_difference()
        if self._compares:
            self._expect_age()

    # -- what is planned to happen by itself -----------------------------------------------

    def _call(self, what: Callable[[object], None], at_ns: int) -> None:
        """Plan a call, instead of the one that was planned; none after the run's end."""
        self._call_off(what)
        if at_ns < self._duration_ns:
            self._calls[what] = self._clock.after(at_ns - self._clock.now_ns(), what)

    def _call_off(self, what: Callable[[object], None]) -> None:
        planned = self._calls.pop(what, None)
        if planned is not None:
            self._clock.cancel(planned)

    def _ran_out(self, _: object) -> None:
        """The block's last row has arrived."""
        del self._calls[self._ran_out]
        self.settle()
        self._telling.hear_all()
        self._plan(ran_out=True)

    def _expect_difference(self) -> None:
        differs_ns = self._telling.differs_ns()
        if differs_ns is None:
            self._call_off(self._differ)
        else:
            self._call(self._differ, max(differs_ns, self._clock.now_ns()))

    def _differ(self, _: object) -> None:
        del self._calls[self._differ]
        self.settle()
        self._telling.compare()
        self._expect_difference()

    def _expect_age(self) -> None:
        complains_ns = None if self._age_is_called else self._telling.complains_ns()
        if complains_ns is not None:
            self._age_is_called = True
            wait_ns = max(0, complains_ns - self._clock.now_ns())
            self._clock.after(wait_ns, self._look_at_ages)

    def _look_at_ages(self, _: object) -> None:
        self._age_is_called = False
        self.settle()
        self._telling.compare()
        self._telling.complain()
        self._expect_difference()
        self._expect_age()

    # -- what intervenes -------------------------------------------------------------------

    def synchronised(self) -> None:
        self._meeting.synchronised()

    def disturbed(self) -> None:
        """Whether the link takes witnesses and moves them."""
        if not self._compares:
            return
        host, is_cut = self._hosts[SECONDARY], self._world.link.is_cut
        self._link.disturbed(self._clock.now_ns(), host.alive, host.speaks, is_cut)
        self.changed()

    def slowed(self) -> None:
        self._link.slowed(self._clock.now_ns(), *self._world.link.speed())
        self.changed()

    def hanging(self, host: Host, is_hung: bool) -> None:
        host = self._hosts[host.id]
        if is_hung:
            self.hear_out(host)
            host.hung_ns = self._clock.now_ns()
            return
        self.settle()
        host.floor_ns = self._clock.now_ns()
        if self._compares and host.hangs == 1:
            if host.id == SECONDARY:
                self._link.offer_rest()
            else:  # first of all it finds out how late it is
                host.backlog.insert(0, self._telling.complain)

    def hung(self, host: Host) -> None:
        self.disturbed()
        self.hear_out(host)
        self.changed()

    # -- who is to hear --------------------------------------------------------------------

    def hear_out(self, host: Host) -> None:
        """What was said before a fault was heard before it."""
        self.settle()
        self._telling.hear(self._hosts[host.id])

    def hear_before(self, host: Host, event: t.Event) -> None:
        """What a guest has said comes before what may decide over it."""
        if isinstance(event, _MATTERS) and not self._telling.is_routine(
            self._hosts[host.id], event
        ):
            self.hear_out(host)

    def hear_all(self) -> None:
        self.settle()
        self._telling.hear_all()
