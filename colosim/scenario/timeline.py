"""The lists ``[[fault]]`` and ``[[phase]]``: what happens in the course of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from colosim.protocol.checkpoint import P, S
from colosim.section import Bandwidth, Count, Duration, OneOf, Section, Time, number, option


class Fault(Section):
    """One fault, at a time or when a step is entered for the nth time."""

    target: Literal["primary", "secondary", "link", "arbiter"] = option(..., "what fails")
    scope: Literal["vm", "node", "host", "disk"] | None = option(
        None,
        "how much of it: the guest's process, the node, the whole host, or in simulation its disk; "
        "not for link",
    )
    kind: Literal["crash", "hang", "cut", "slow", "corrupt", "full", "error"] = option(
        ...,
        "crash (for ever) or hang of primary or secondary; cut, slow or corrupt of the link; in "
        "simulation cut of the way to the arbiter, and the secondary's disk is full (its overlays "
        "cannot grow), or has an error at every request",
    )
    at_ns: Time | None = option(None, "when, from the start of the run; instead of step")
    step: Annotated[str, OneOf(tuple(dict.fromkeys((*P, *S))))] | None = option(
        None, "in which step of the target's checkpoint (link: of side's); instead of at"
    )
    occurrence: Count = option(1, "which time that step is entered")
    duration_ns: Duration | None = option(
        None, "how long a hang, cut, slow link or full disk lasts; default for ever"
    )
    bandwidth_bps: Bandwidth | None = option(
        None, "of a slow link, each direction; default as it was"
    )
    delay_ns: Time | None = option(None, "of a slow link, one way; default as it was")
    part: Literal["framing", "payload"] | None = option(
        None,
        "in simulation, of a corrupt link: one byte of the next control bytes of the checkpoint "
        "stream is another one, or one of the next state, where no checksum notices",
    )
    sender: Literal["primary", "secondary"] | None = option(
        None, "of a corrupt link: whose bytes; default the primary's"
    )
    side: Literal["primary", "secondary"] | None = option(
        None,
        "of an arbiter's cut: whose way to it; default both; of a link's fault in a step: whose "
        "step; default the primary's",
    )

    @property
    def steps_of(self) -> str:
        """Whose steps it waits for, if it waits for one."""
        if self.target == "link":
            return self.side or "primary"
        return "primary" if self.target == "arbiter" else self.target


_Factor = Annotated[float, number("factor", high=1e6)]


class Phase(Section):
    """A time in which rates are others: factors on those of the scenario."""

    duration_ns: Duration = option(..., "how long it lasts")
    load: _Factor = option(
        1.0, "of arrivals, or of the rate at which clients end their thinking; 0: nobody asks"
    )
    clients: Annotated[int, number("clients")] | None = option(
        None, "closed load: how many of the clients ask, the others' thinking stands; default all"
    )
    touches: _Factor = option(1.0, "of memory.touches")
    divergence: _Factor = option(
        1.0, "of all rates and chances of divergence but the clocks'; a chance stays at most 1"
    )
