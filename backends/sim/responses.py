"""The fidelity ``response``: one object per response, the readable specification."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from backends.base import Cause
from backends.nodes import PRIMARY, SECONDARY, peer_of, role_of
from backends.sim.guest import Guest, Snapshot
from backends.sim.host import Host
from backends.sim.link import WITNESS
from backends.sim.output import Output
from backends.sim.traffic import Demand, Jitter, Network, start_clients
from colosim.model.streams import Streams
from colosim.protocol import types as t
from colosim.protocol.node import NodeConfig
from colosim.scenario import Scenario, Service

if TYPE_CHECKING:
    from backends.sim.world import SimWorld

_UNPROMPTED = "unprompted"  # the stream of what no client asked for


class OneByOne(Output):
    """Guests serve each request by itself, and say what they say as they say it."""

    def __init__(self, world: SimWorld, scenario: Scenario, policy: str, streams: Streams) -> None:
        super().__init__(world, scenario, policy, streams)
        workload, execution = scenario.workload, scenario.execution
        service = workload if isinstance(workload, Service) else None
        self._vcpus = service.vcpus if service else 1
        self._jitter = Jitter(service.client_jitter_ns if service else 0, streams)
        self._demand = Demand(workload, streams, execution.jitter, execution.secondary_speed)
        self._witness_ns = scenario.costs().witness_ns

    def start_clients(self) -> None:
        scenario = self._scenario
        schedule = scenario.schedule()
        start_clients(scenario.workload, self._clock, self._streams, self.network, schedule)

    def _of_role(self, role: str) -> tuple[Callable[[int, int], int], Callable[[int, int], None]]:
        """What a guest's requests take, and what is to be done when it has served one."""
        if role == PRIMARY:
            return self._demand.primary_ns, self._primary_finished
        return self._demand.secondary_ns, self._secondary_finished

    # -- what guests say -------------------------------------------------------------------

    def _primary_finished(self, client: int, request: int) -> None:
        self._finished(self._world.pair.hosts[PRIMARY], client, request)

    def _secondary_finished(self, client: int, request: int) -> None:
        self._finished(self._world.pair.hosts[SECONDARY], client, request)

    def _finished(self, host: Host, client: int, request: int) -> None:
        mark = self._world.parting.mark(host, client, request, self._clock.now_ns())
        if host.id == self._world.owner:
            self.network.served(client, request)
        self._answer(host, client, request, mark)

    @abstractmethod
    def _answer(self, host: Host, client: int, request: int, mark: str) -> None:
        """A guest has served a request; the mark says how it differs from the other's."""

    def pair_runs(self) -> None:
        """Both may say different things that nobody asked for."""
        if not self.compares:
            return
        wait_ns = self._world.parting.unprompted_ns(self._clock.now_ns())
        if wait_ns is not None:
            now = self._world.parting.synchronisation
            self._clock.after(wait_ns, self._speak_unprompted, now)

    def _speak_unprompted(self, synchronisation: int) -> None:
        world = self._world
        hosts = world.pair.hosts.values()
        both = all(host.alive and host.guest.running and not host.guest.hung for host in hosts)
        is_now = synchronisation == world.parting.synchronisation
        if both and is_now and world.owner == world.pair.hosts[PRIMARY].id:
            for host in hosts:
                self._say_unprompted(host, synchronisation)

    @abstractmethod
    def _say_unprompted(self, host: Host, number: int) -> None:
        """A guest says what nobody asked for."""

    # -- witnesses -------------------------------------------------------------------------

    def _witness_of(self, host: Host, size_bytes: int, event: t.PeerOutput, cause: Cause) -> None:
        """Put a witness on the link, after the time that the host needs for it; in order."""
        link, mean_ns = self._world.link, self._witness_ns
        if not mean_ns:
            link.post(host, WITNESS, size_bytes, event, cause)
            return
        now_ns, stream = self._clock.now_ns(), event.range.stream
        due_ns = now_ns + self._world.durations.of(host, "witness", mean_ns)
        due_ns = host.offered_ns[stream] = max(due_ns, host.offered_ns.get(stream, 0))

        def put(_: object) -> None:
            if host.alive:
                link.post(host, WITNESS, size_bytes, event, cause)

        self._clock.after(due_ns - now_ns, put)


class ResponseOutput(OneByOne):
    """What guests say are responses, one object each."""

    def __init__(self, world: SimWorld, scenario: Scenario, policy: str, streams: Streams) -> None:
        super().__init__(world, scenario, policy, streams)
        self.network = Network(self._clock, self._client_delay_ns, self._jitter)

    def host(self, name: str, peer: str) -> Host:
        guest = Guest(
            self._clock,
            self._slowdown(),
            self._vcpus,
            *self._of_role(role_of(name)),
            self._speed(name),
        )
        return Host(name, guest, peer)

    def next_primary(self, survivor: Host, config: NodeConfig) -> Host:
        guest = survivor.guest
        guest.become(*self._of_role(PRIMARY))
        host = Host(config.id, guest, peer_of(config), config.pair, survivor.site)
        host.owed, host.vm_hangs = survivor.owed, survivor.vm_hangs
        host.touched = survivor.touched
        return host

    def _answer(self, host: Host, client: int, request: int, mark: str) -> None:
        self._say(host, client, request, f"{client}.{request}{mark}")

    def _say(self, host: Host, client: int, request: int, digest: str) -> None:
        host.owed[client, request] = digest
        range_ = t.Range(str(client), request, request + 1)
        self._world.tell(host.id, t.GuestOutput(range_, digest))

    def _say_unprompted(self, host: Host, number: int) -> None:
        range_ = t.Range(_UNPROMPTED, number, number + 1)
        self._world.tell(host.id, t.GuestOutput(range_, f"{number} of {host.id}"))

    # -- what nodes want -------------------------------------------------------------------

    def offer_witness(self, host: Host, action: t.OfferWitness, cause: Cause) -> None:
        event = t.PeerOutput(action.range, action.digest, action.epoch)
        self._witness_of(host, self._response_bytes, event, cause)

    def release(self, host: Host, action: t.Release, cause: Cause) -> None:
        self.drop(host, action, cause)
        answers = tuple(range_ for range_ in action.ranges if range_.stream != _UNPROMPTED)
        self.network.release(answers, self._late_ns(host))

    def drop(self, host: Host, action: t.Release | t.Drop, cause: Cause) -> None:
        for range_ in action.ranges:
            if range_.stream == _UNPROMPTED:
                continue
            for request in range(range_.first, range_.end):
                host.owed.pop((int(range_.stream), request), None)

    # -- checkpoints and takeover ----------------------------------------------------------

    def stopping(self, host: Host) -> None:
        """What it has said its node has heard."""

    def snapshot(self, host: Host, pages: int) -> Snapshot:
        return host.guest.snapshot(pages, {**host.repeats, **host.owed})

    def loaded(self, host: Host, snapshot: Snapshot) -> None:
        host.guest.load(snapshot)
        host.repeats = dict(snapshot.unanswered)

    def promoted(self, host: Host) -> None:
        """Its responses are the same as the other's."""

    def alone(self, host: Host) -> None:
        """The guest that took over repeats what was made before its state was cut.

        Output that waited for the commit died with the other host; the guest's TCP, which was
        copied with everything else, finds it unacknowledged and sends it again.
        """

        def repeat(_: object) -> None:
            repeats, host.repeats = host.repeats, {}
            for (client, request), digest in repeats.items():
                if not host.guest.dead and not self.network.has(client, request):
                    self._say(host, client, request, digest)

        self._clock.after(self._retransmit_ns, repeat)

    # -- the end ---------------------------------------------------------------------------

    def lost_responses(self) -> int:
        world = self._world
        unanswered = self.network.unanswered()
        if not world.serves():
            return len(unanswered)
        owner = world.hosts[world.owner]
        due = {*owner.owed, *owner.repeats, *owner.guest.requests()}
        read = owner.guest.input_position
        return sum(row < read and (c, request) not in due for c, request, row in unanswered)
