"""The simulated world at fidelity ``packet``: what guests say are frames, as in the live world.

Everything that is not about output is `SimWorld`'s.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, cast
from zlib import crc32

from backends.base import Cause
from backends.nodes import PRIMARY, SECONDARY, node_configs
from backends.qemu.net.acked import Acked
from backends.sim.guest import Snapshot
from backends.sim.packet import content
from backends.sim.packet.clients import Clients, PacketNetwork
from backends.sim.packet.frames import GUEST_IP, NOBODY_IP, Path, client_of
from backends.sim.packet.guest import PacketGuest, PacketSnapshot
from backends.sim.packet.server import Service, Stack
from backends.sim.packet.tcp import Limits
from backends.sim.packet.way import Way
from backends.sim.sharing import Shared
from backends.sim.traffic import Jitter, Network
from backends.sim.world import Host, SimWorld
from colosim.model.cost import Slowdown
from colosim.model.streams import Streams
from colosim.protocol import types as t
from colosim.protocol.node import NodeConfig
from colosim.protocol.rewrite import StrictRewriter
from colosim.scenario import Scenario
from colosim.scenario import Service as ServiceWorkload
from colosim.session import Observer

_UNPROMPTED = Path(GUEST_IP + NOBODY_IP + (514).to_bytes(2) * 2, is_outward=True)  # like syslog
_RETAIN_LIMIT_BYTES = 16 << 20  # as live: what is older was released long ago, or is sent again


class Nature:
    """What differs between machines that run the same program; one of each for each machine."""

    def __init__(self, name: str, streams: Streams, split: float, ack_jitter_ns: int) -> None:
        self._name = name
        self._streams = streams
        self._split = split
        self._ack_jitter_ns = ack_jitter_ns

    def isn(self, client: int, number: int) -> int:
        """The first sequence number of a connection."""
        return int(self._streams.uniform(f"isn-{self._name}", client).at(number) * 2**32)

    def ack_delay_ns(self, client: int, number: int, ack: int) -> int:
        """How much longer than others it delays this acknowledgement."""
        if not self._ack_jitter_ns:
            return 0
        draw = self._streams.exponential(f"ack-{self._name}", client).at(64 * number + ack % 64)
        return round(self._ack_jitter_ns * draw)

    def split_at(self, client: int, request: int, size: int) -> int:
        """Where it divides what it says at once into two writes; ``size`` for not at all."""
        if not self._split:
            return size
        u = self._streams.uniform(f"split-{self._name}", client).at(request)
        return 1 + int(u / self._split * (size - 1)) if u < self._split else size


@dataclass(slots=True)
class PacketHost(Host):
    """A host whose guest's output is frames.

    held: frames that were made and neither released nor dropped, by number.
    covered: those that went with the state which the guest has.
    leaves_ns: when the last that were released leave.
    """

    made: int = 0
    held: dict[int, bytes] = field(default_factory=dict)
    held_bytes: int = 0
    covered: tuple[bytes, ...] = ()
    leaves_ns: int = 0


class PacketWorld(SimWorld):
    """One replication of one scenario under one policy."""

    network: PacketNetwork

    _may_go_straight = False  # frames are under way all the time

    def __init__(
        self,
        scenario: Scenario,
        policy: str,
        streams: Streams,
        observers: Iterable[Observer] = (),
        stepped: Callable[[str, str], None] | None = None,
        shared: Shared | None = None,
        vm: int = 0,
    ) -> None:
        self._service = service_of(scenario)
        self._acked = Acked()
        super().__init__(scenario, policy, streams, observers, stepped, shared, vm)
        harm = scenario.impairments()
        self._ways: dict[str, Way] = {}
        if harm.harm:
            for name, sender, goes_on in (
                ("in", slice(26, 30), self._arrived),
                ("out", slice(30, 34), self.network.leave),
            ):
                self._ways[name] = Way(name, harm, streams, self.clock, _client_at(sender), goes_on)
        self.network.clients = self.clients = Clients(
            self.clock,
            self._service,
            self._nature("client"),
            self._from_clients,
            self.network.complete,
            self._field_at,
        )

    # -- parts -----------------------------------------------------------------------------

    def _configs(self, scenario: Scenario, policy: str) -> list[NodeConfig]:
        return node_configs(scenario, policy, packets=self._mirrored)

    def _network(self, delay_ns: int, jitter: Jitter) -> Network:
        return PacketNetwork(self.clock, delay_ns, jitter, self._needed_from)

    def _host(self, name: str) -> Host:
        demand = self._demand()
        nature = self._nature(name)
        guest = PacketGuest(
            self.clock,
            Slowdown(self._memory, self._costs.first_write_ns if self._tracked else 0),
            self._vcpus,
            demand.primary_ns if name == PRIMARY else demand.secondary_ns,
            self._primary_finished if name == PRIMARY else self._secondary_finished,
            Stack(self._service, nature),
            nature,
            lambda frames: self._said(self._of(name), frames),
            StrictRewriter() if name == SECONDARY and self._mirrored else None,
            self._speed(name),
        )
        return PacketHost(name, guest, SECONDARY if name == PRIMARY else PRIMARY)

    def _ears(self) -> dict[type, Callable[[str, Any], None]]:
        ears = super()._ears()
        count = ears[t.Mismatch]

        def by_reason(node: str, signal: t.Mismatch) -> None:
            count(node, signal)
            name = f"mismatches_{signal.why}"
            self.recorder.counters[name] = self.recorder.counters.get(name, 0) + 1

        return {**ears, t.Mismatch: by_reason}

    def _nature(self, name: str) -> Nature:
        packet = self._scenario.packet
        return Nature(name, self._streams, packet.split, packet.ack_jitter_ns)

    def _of(self, name: str) -> PacketHost:
        return cast(PacketHost, self.hosts[name])

    def _guest(self, host: Host) -> PacketGuest:
        return cast(PacketGuest, host.guest)

    # -- input -----------------------------------------------------------------------------

    def _from_clients(self, frames: list[bytes]) -> None:
        if self._ways:
            self._ways["in"].send(frames)
        else:
            self._arrived(frames)

    def _arrived(self, frames: list[bytes]) -> None:
        self._acked.see(frames)
        self.network.put(frames)

    def _to_clients(self, frames: list[bytes]) -> None:
        if self._ways:
            self._ways["out"].send(frames)
        else:
            self.network.leave(frames)

    def _needed_from(self) -> int:
        """The oldest of clients' frames that somebody may yet read."""
        positions = [state.input_position for state in self._snapshots.values()]
        guests = [host.guest for host in self.hosts.values()]
        positions += [guest.input_position for guest in guests if not guest.dead]
        return min(positions, default=sys.maxsize)

    # -- output ----------------------------------------------------------------------------

    def _field_at(self, client: int, request: int) -> int:
        """Where the guests' answers may differ."""
        u = self._streams.uniform("divergence-at", client).at(request)
        return content.field_at(u, self._service.response_bytes)

    def _finished(self, host: Host, client: int, request: int, difference: str) -> None:
        if host.id == self._owner:
            self.network.served(client, request)
        mark = _mark(difference)
        at, size = self._field_at(client, request), self._service.response_bytes
        data = content.response_of(client, request, size, at, mark)
        self._guest(host).respond(client, request, data)

    def _say_unprompted(self, host: Host, number: int) -> None:
        text = f"{number} of {host.id:>9}"  # as long for both
        self._said(self._of(host.id), [_UNPROMPTED.udp(text.encode())])

    def _said(self, host: PacketHost, frames: list[bytes]) -> None:
        """A guest made frames."""
        if not host.alive:
            return
        first, host.made = host.made, host.made + len(frames)
        host.held.update(enumerate(frames, first))
        host.held_bytes += sum(map(len, frames))
        # frames of two guests are no one stream, so each has its own name
        made = t.Range(f"{host.id}.frames", first, host.made)
        compared = tuple(frames) if self._mirrored else ()
        self.tell(host.id, t.GuestOutput(made, _digest(frames), compared))

    def _offer_witness(self, host: Host, action: t.OfferWitness, cause: Cause) -> None:
        host = self._of(host.id)
        range_ = action.range
        frames = tuple(host.held[n] for n in range(range_.first, range_.end))
        event = t.PeerOutput(range_, action.digest, action.epoch, frames)
        self._witness_of(host, sum(map(len, frames)), event, cause)
        while host.held_bytes > _RETAIN_LIMIT_BYTES:
            host.held_bytes -= len(host.held.pop(next(iter(host.held))))

    def _release(self, host: Host, action: t.Release, cause: Cause) -> None:
        host = self._of(host.id)
        frames = self._take(host, action.ranges)
        if host.id == SECONDARY:  # what both said left from the other, and most of it has arrived
            frames = self._acked.beyond(frames)
        if frames:
            # without protection nothing was held: what output takes is part of the service
            mean_ns = self._costs.release_ns if self._tracked else 0
            self._leave(host, frames, self._cost_ns(host, "release", mean_ns) if mean_ns else 0)

    def _drop(self, host: Host, action: t.Release | t.Drop, cause: Cause) -> None:
        host = self._of(host.id)
        gone = self._take(host, action.ranges)
        if host.id == self._owner:  # the comparison will never release them
            self.recorder.counters["frames_lost"] += len(gone)

    @staticmethod
    def _take(host: PacketHost, ranges: Iterable[t.Range]) -> list[bytes]:
        """Each frame leaves or is dropped once."""
        held = host.held
        frames = [
            held.pop(n) for range_ in ranges for n in range(range_.first, range_.end) if n in held
        ]
        host.held_bytes -= sum(map(len, frames))
        return frames

    def _leave(self, host: PacketHost, frames: list[bytes], late_ns: int) -> None:
        """In ``late_ns``, but never before what was released earlier."""
        now_ns = self.now_ns()
        host.leaves_ns = at_ns = max(now_ns + late_ns, host.leaves_ns)
        if at_ns == now_ns:
            self._to_clients(frames)
        else:
            self.clock.after(at_ns - now_ns, lambda _: self._left(host, frames))

    def _left(self, host: PacketHost, frames: list[bytes]) -> None:
        if host.alive:
            self._to_clients(frames)

    # -- checkpoints and takeover ----------------------------------------------------------

    def _stop_vm(self, host: Host, action: t.StopVm, cause: Cause) -> None:
        if host.id != self._owner:
            self._of(host.id).covered = ()  # the primary goes on, so they have left
        super()._stop_vm(host, action, cause)

    def _snapshot(self, host: Host, pages: int) -> Snapshot:
        taken = self._guest(host).snapshot(pages, {})
        held = self._of(host.id).held if self._mirrored else {}
        return replace(taken, covered=tuple(held.values()))

    def _loaded(self, host: Host, snapshot: Snapshot) -> None:
        super()._loaded(host, snapshot)
        self._of(host.id).covered = cast(PacketSnapshot, snapshot).covered

    def _promote(self, host: Host, action: t.Promote, cause: Cause) -> None:
        super()._promote(host, action, cause)
        rewriter = self._guest(host).rewriter
        if rewriter is not None:
            rewriter.promoted()

    def _alone(self, node_id: str, signal: t.Signal) -> None:
        """The guest that took over goes on with its connections.

        What its state covers and had not left goes with the state, and leaves now, before what the
        guest has made since.  What else died with the other host its TCP sends again.
        """
        host = self._of(node_id)
        self.recorder.event(node_id, "alone", "")
        covered, host.covered = host.covered, ()
        if frames := self._acked.beyond(covered):
            self._leave(host, frames, 0)

    # -- the end ---------------------------------------------------------------------------

    def lost_responses(self) -> int:
        """Requests that nobody will ever answer.

        Where somebody serves, only those whose connection was reset: all others are sent again
        until there is an answer.
        """
        unanswered = self.network.unanswered()
        if not self._serves(self.hosts[self._owner]):
            return len(unanswered)
        given_up = self.clients.given_up
        return sum((client, request) in given_up for client, request, _ in unanswered)

    def counters(self) -> dict[str, int]:
        clients, stacks = self.clients, [self._guest(h).stack for h in self.hosts.values()]
        return {
            "frames_to_guests": self.network.to_guests,
            "frames_to_clients": self.network.to_clients,
            **{f"frames_of_{host}": self._of(host).made for host in self.hosts},
            "damaged_frames": clients.damaged + sum(stack.damaged for stack in stacks),
            "wrong_responses": clients.wrong,
            "resets": clients.resets,
            "repeated_datagrams": clients.repeated,
            "client_retransmissions": clients.sent_again(),
            **{
                f"network_{name}_{what}": count
                for name, way in self._ways.items()
                for what, count in way.counts.items()
            },
        }


def _client_at(address: slice) -> Callable[[bytes], int]:
    """Whose a frame is, by that address of it."""
    return lambda frame: client_of(frame[address])


def _mark(difference: str) -> int:
    """How a response has parted, as a number that it holds; 0: not at all."""
    if "@" in difference:  # it says what time it is
        return crc32(difference.encode()) | 1 << 31
    return int(difference[1:]) + 1 if difference else 0


def _digest(frames: Iterable[bytes]) -> str:
    """Of what the guest said, for traces."""
    digest = 0
    for frame in frames:
        digest = crc32(frame, digest)
    return f"{digest:08x}"


def service_of(scenario: Scenario) -> Service:
    """What clients and guests have agreed upon."""
    workload, packet = scenario.workload, scenario.packet
    assert isinstance(workload, ServiceWorkload)  # so says the scenario
    return Service(
        Limits(
            mss=packet.mss_bytes,
            window=packet.window_bytes,
            delayed_ack_ns=packet.delayed_ack_ns,
            rto_ns=workload.retransmit_ns,
        ),
        is_udp=packet.transport == "udp",
        request_bytes=packet.request_bytes,
        response_bytes=workload.response_bytes,
        requests_per_connection=packet.requests_per_connection,
        guest_closes=packet.closes == "guest",
        datagrams=packet.datagrams,
        gap_ns=packet.gap_ns,
        retry_ns=packet.retry_ns,
    )
