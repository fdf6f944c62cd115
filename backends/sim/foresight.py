"""What a world tells to whoever plans ahead what guests will say, and what they ask of it."""

from __future__ import annotations

from backends.sim.host import Host
from colosim.protocol import types as t


class Foresight:
    """Of output that is told as it is made: what the world tells is of no consequence.

    says_late: a node hears of what its guest said later than it was said.
    is_planned: what was planned ahead holds.
    plans_wait: a new plan may wait until somebody looks.
    """

    says_late = False
    is_planned = True
    plans_wait = False

    # -- plans -----------------------------------------------------------------------------

    def plan_anew(self) -> None:
        """What was planned ahead and does not hold any more; while `plans_wait`, only if asked."""

    def plan_owed(self) -> None:
        """While `plans_wait`: what was put off is planned, for somebody is about to look."""

    def plans_go_on(self) -> None:
        """Whatever changes is planned anew without being asked."""
        self.plans_wait = False

    # -- what intervenes -------------------------------------------------------------------

    def synchronised(self) -> None:
        """Both guests are equal."""

    def settle(self) -> None:
        """Everything that moves is brought up to date, for what moves it is about to change."""

    def disturbed(self) -> None:
        """A host, or the link, does not work as before."""

    def slowed(self) -> None:
        """The link has got another speed."""

    def hanging(self, host: Host, is_hung: bool) -> None:
        """Its node is about to hang, or to go on."""

    def hung(self, host: Host) -> None:
        """It does."""

    # -- who is to hear --------------------------------------------------------------------

    def hear_out(self, host: Host) -> None:
        """What its guest has said the node hears now, for something is about to end."""

    def hear_before(self, host: Host, event: t.Event) -> None:
        """Where it `says_late`: the same, if the node is to decide over it by that event."""

    def hear_all(self) -> None:
        """The same of all hosts, for somebody is about to count."""
