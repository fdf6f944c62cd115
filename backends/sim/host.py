"""A host of the simulated world: a failure domain with a guest and its node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from backends.sim.clock import Planned
from backends.sim.guest import Guest, Meter
from backends.sim.sharing import Cpu
from colosim.model.cost import Costs, varied_ns
from colosim.model.streams import Streams

#: where hosts are; the first primary's is the one that is preferred
SITES = ("a", "b")


@dataclass(slots=True)
class Ahead:
    """What went ahead of a checkpoint's state while the guest ran, all rounds together."""

    exposure_ns: int = 0
    written_ns: int = 0  # the same as the memory model takes it
    served: int = 0  # requests
    pages: int = 0  # sent; some of them more than once
    sent_bytes: int = 0


@dataclass(slots=True)
class Host:
    """A failure domain: a guest, its node, and what happens to them."""

    id: str
    guest: Guest
    peer: str
    pair: int = 1  # which of those that follow each other
    site: str = SITES[0]
    alive: bool = True
    ahead: Ahead = field(default_factory=Ahead)  # of the checkpoint under way
    rest_pages: int = 0  # of the state that was taken last
    hangs: int = 0  # of the node; hangs may overlap
    vm_hangs: int = 0
    loads: int = 0  # of states that are under way into the guest
    begun: int = 0  # how often its guest was told to start or stop
    touched: Meter | None = None  # running time by the rate of the guest's own writes
    cpu: Cpu | None = None  # shared with other VMs
    risk: Meter | None = None  # expected number of times that the guests have parted
    link_open: bool = True  # this end of the checkpoint stream
    backlog: list[Callable[[], None]] = field(default_factory=list)  # while the node hangs
    stuck: list[Callable[[], None]] = field(default_factory=list)  # while the guest hangs
    due_ns: int | None = None  # when its node wants Tick
    wake_ns: int | None = None  # when the wake-up call is planned, at or before due
    wake: Planned | None = None  # that call
    # what the guest made and nobody has: (client, request) -> digest
    owed: dict[tuple[int, int], str] = field(default_factory=dict)
    operations: dict[str, int] = field(default_factory=dict)  # the last number of each kind
    # stream -> when the last witness of it went to the link
    offered_ns: dict[str, int] = field(default_factory=dict)
    # what the loaded state had made and, for all it knows, nobody has: a guest repeats that
    repeats: dict[tuple[int, int], str] = field(default_factory=dict)

    @property
    def hung(self) -> bool:
        """The node does not run."""
        return self.hangs > 0

    def next_number(self, operation: str) -> int:
        """Of those of a kind, from 0: one more is begun."""
        number = self.operations[operation] = self.operations.get(operation, -1) + 1
        return number


class Durations:
    """How long a host's steps take, by the spreads that the scenario gives them."""

    def __init__(self, costs: Costs, streams: Streams) -> None:
        self._spreads = costs.spreads()
        self._streams = streams

    def of(self, host: Host, step: str, mean_ns: int) -> int:
        """This time."""
        spread = self._spreads.get(step)
        if spread is None:
            return mean_ns
        z = self._streams.normal(f"cost-{step}-{host.id}").at(host.next_number(step))
        return varied_ns(mean_ns, spread, z)
