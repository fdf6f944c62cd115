"""What guests say, from the requests that they get until their responses leave: a world's fidelity.

The world asks the same of every fidelity (`Output`) and does everything else itself.
`backends.sim.responses` is ``response``, one object each; `backends.sim.packet.output` has frames,
`backends.sim.epoch.output` has arrays, which are planned ahead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from backends.base import Cause
from backends.nodes import PRIMARY, node_configs
from backends.sim.foresight import Foresight
from backends.sim.guest import Snapshot
from backends.sim.host import Host
from backends.sim.link import MESSAGE_BYTES
from backends.sim.traffic import Network
from colosim.model.cost import Slowdown
from colosim.model.streams import Streams
from colosim.protocol import types as t
from colosim.protocol.node import NodeConfig
from colosim.protocol.policies import POLICIES
from colosim.scenario import Scenario, Service
from colosim.session import Ear

if TYPE_CHECKING:
    from backends.sim.world import SimWorld


class Output(ABC):
    """Of the guests of one world; the base of all fidelities."""

    goes_straight = True  # checkpoints in which nothing intervenes may (`backends.sim.straight`)
    sends_witnesses = True  # over the link, one by one

    network: Network

    def __init__(self, world: SimWorld, scenario: Scenario, policy: str, streams: Streams) -> None:
        self._world = world
        self._clock = world.clock
        self._scenario = scenario
        self._policy = policy
        self._streams = streams
        #: the guests get the same input, and what both say is compared
        self.compares = POLICIES[policy].output is t.Output.WITNESS
        costs = scenario.costs()
        is_protected = POLICIES[policy].protects()
        self._memory = scenario.memory_model()
        # nobody tracks writes without a reader, and nothing is held: what output takes is part of
        # the service
        self._first_write_ns = costs.first_write_ns if is_protected else 0
        self._release_ns = costs.release_ns if is_protected else 0
        service = scenario.workload if isinstance(scenario.workload, Service) else None
        self._client_delay_ns = service.client_delay_ns if service else 0
        self._response_bytes = service.response_bytes if service else MESSAGE_BYTES
        self._retransmit_ns = service.retransmit_ns if service else 0
        #: who is to know of whatever intervenes
        self.foresight = Foresight()

    # -- parts -----------------------------------------------------------------------------

    def configs(self) -> list[NodeConfig]:
        """The nodes that the scenario asks for."""
        return node_configs(self._scenario, self._policy)

    @abstractmethod
    def host(self, name: str, peer: str) -> Host:
        """A host of that name, with a guest."""

    def next_primary(self, survivor: Host, config: NodeConfig) -> Host:
        """The host that survived a pair, as the primary of the next one."""
        raise NotImplementedError  # so says the scenario

    def ears(self, known: Mapping[type, Ear]) -> dict[type, Ear]:
        """What is heard of nodes, beside what is known to be heard."""
        return dict(known)

    @abstractmethod
    def start_clients(self) -> None:
        """All parts are there, and the run begins."""

    def _slowdown(self) -> Slowdown:
        return Slowdown(self._memory, self._first_write_ns)

    def _speed(self, name: str) -> float:
        """Of a host's CPU."""
        return 1.0 if name == PRIMARY else self._scenario.execution.secondary_speed

    # -- what nodes want -------------------------------------------------------------------

    @abstractmethod
    def offer_witness(self, host: Host, action: t.OfferWitness, cause: Cause) -> None:
        """A secondary's output goes to the other node, to be compared."""

    @abstractmethod
    def release(self, host: Host, action: t.Release, cause: Cause) -> None:
        """Output leaves for the clients."""

    @abstractmethod
    def drop(self, host: Host, action: t.Release | t.Drop, cause: Cause) -> None:
        """Output will never leave."""

    def _late_ns(self, host: Host) -> int:
        """What output that was held takes to leave, this time."""
        mean_ns = self._release_ns
        return self._world.durations.of(host, "release", mean_ns) if mean_ns else 0

    # -- checkpoints and takeover ----------------------------------------------------------

    @abstractmethod
    def stopping(self, host: Host) -> None:
        """Its guest is to be stopped."""

    @abstractmethod
    def snapshot(self, host: Host, pages: int) -> Snapshot:
        """What a state of so many pages keeps of its guest."""

    @abstractmethod
    def loaded(self, host: Host, snapshot: Snapshot) -> None:
        """Its guest is what the snapshot was taken of."""

    @abstractmethod
    def pair_runs(self) -> None:
        """The primary's guest runs, and the secondary's beside it."""

    @abstractmethod
    def promoted(self, host: Host) -> None:
        """Clients talk to its guest from now on."""

    @abstractmethod
    def alone(self, host: Host) -> None:
        """Its guest runs without another one; what died with that it says again."""

    # -- the end ---------------------------------------------------------------------------

    @abstractmethod
    def lost_responses(self) -> int:
        """Requests that nobody will ever answer.

        Not lost: what the guest that clients talk to has served and still holds, works on, or
        has yet to read.  Where the run ends with nobody serving, everything open is lost, also
        if a takeover was under way.
        """

    def witness_bytes(self) -> int:
        """Of witnesses that crossed the link, but not one by one."""
        return 0

    def counters(self) -> dict[str, int]:
        """What else is counted at this fidelity."""
        return {}
