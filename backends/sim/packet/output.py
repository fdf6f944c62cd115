"""Output at fidelity ``packet``: what guests say are frames, as in the live world."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast
from zlib import crc32

from backends.base import Cause
from backends.nodes import SECONDARY, node_configs
from backends.qemu.net.acked import Acked
from backends.sim.guest import Snapshot
from backends.sim.host import Host
from backends.sim.packet import content
from backends.sim.packet.clients import Clients, PacketNetwork
from backends.sim.packet.frames import GUEST_IP, NOBODY_IP, Path, client_of
from backends.sim.packet.guest import PacketGuest, PacketSnapshot
from backends.sim.packet.server import Service, Stack
from backends.sim.packet.tcp import Limits
from backends.sim.packet.way import Way
from backends.sim.responses import OneByOne
from colosim.model.streams import Streams
from colosim.protocol import types as t
from colosim.protocol.node import NodeConfig
from colosim.protocol.rewrite import StrictRewriter
from colosim.scenario import Scenario
from colosim.scenario import Service as ServiceWorkload
from colosim.session import Ear

if TYPE_CHECKING:
    from backends.sim.world import SimWorld

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


class PacketOutput(OneByOne):
    """What guests say are frames; clients have a TCP, or send datagrams."""

    network: PacketNetwork

    goes_straight = False  # frames are under way all the time

    def __init__(self, world: SimWorld, scenario: Scenario, policy: str, streams: Streams) -> None:
        super().__init__(world, scenario, policy, streams)
        self._service = service_of(scenario)
        self._acked = Acked()
        self.network = PacketNetwork(
            self._clock, self._client_delay_ns, self._jitter, self._needed_from
        )
        harm = scenario.impairments()
        self._ways: dict[str, Way] = {}
        if harm.harm:
            for name, sender, goes_on in (
                ("in", slice(26, 30), self._arrived),
                ("out", slice(30, 34), self.network.leave),
            ):
                self._ways[name] = Way(
                    name, harm, streams, self._clock, _client_at(sender), goes_on
                )
        self.network.clients = self.clients = Clients(
            self._clock,
            self._service,
            self._nature("client"),
            self._from_clients,
            self.network.complete,
            self._field_at,
        )

    # -- parts -----------------------------------------------------------------------------

    def configs(self) -> list[NodeConfig]:
        return node_configs(self._scenario, self._policy, packets=self.compares)

    def host(self, name: str, peer: str) -> Host:
        nature = self._nature(name)
        guest = PacketGuest(
            self._clock,
            self._slowdown(),
            self._vcpus,
            *self._of_role(name),
            Stack(self._service, nature),
            nature,
            lambda frames: self._said(self._of(name), frames),
            StrictRewriter() if name == SECONDARY and self.compares else None,
            self._speed(name),
        )
        return PacketHost(name, guest, peer)

    def ears(self, known: Mapping[type, Ear]) -> dict[type, Ear]:
        mismatch, recorder = known[t.Mismatch], self._world.recorder

        def by_reason(node: str, signal: t.Mismatch) -> None:
            mismatch(node, signal)
            recorder.count(f"mismatches_{signal.why}")

        return {**known, t.Mismatch: by_reason}

    def _nature(self, name: str) -> Nature:
        packet = self._scenario.packet
        return Nature(name, self._streams, packet.split, packet.ack_jitter_ns)

    def _of(self, name: str) -> PacketHost:
        return cast(PacketHost, self._world.hosts[name])

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
        states = self._world.operations.snapshots.values()
        positions = [state.input_position for state in states]
        guests = [host.guest for host in self._world.hosts.values()]
        positions += [guest.input_position for guest in guests if not guest.dead]
        return min(positions, default=sys.maxsize)

    # -- output ----------------------------------------------------------------------------

    def _field_at(self, client: int, request: int) -> int:
        """Where the guests' answers may differ."""
        u = self._streams.uniform("divergence-at", client).at(request)
        return content.field_at(u, self._service.response_bytes)

    def _answer(self, host: Host, client: int, request: int, mark: str) -> None:
        at, size = self._field_at(client, request), self._service.response_bytes
        data = content.response_of(client, request, size, at, _number(mark))
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
        compared = tuple(frames) if self.compares else ()
        self._world.tell(host.id, t.GuestOutput(made, _digest(frames), compared))

    def offer_witness(self, host: Host, action: t.OfferWitness, cause: Cause) -> None:
        host = self._of(host.id)
        range_ = action.range
        frames = tuple(host.held[n] for n in range(range_.first, range_.end))
        event = t.PeerOutput(range_, action.digest, action.epoch, frames)
        self._witness_of(host, sum(map(len, frames)), event, cause)
        while host.held_bytes > _RETAIN_LIMIT_BYTES:
            host.held_bytes -= len(host.held.pop(next(iter(host.held))))

    def release(self, host: Host, action: t.Release, cause: Cause) -> None:
        host = self._of(host.id)
        frames = self._take(host, action.ranges)
        if host.id == SECONDARY:  # what both said left from the other, and most of it has arrived
            frames = self._acked.beyond(frames)
        if frames:
            self._leave(host, frames, self._late_ns(host))

    def drop(self, host: Host, action: t.Release | t.Drop, cause: Cause) -> None:
        host = self._of(host.id)
        gone = self._take(host, action.ranges)
        if host.id == self._world.owner:  # the comparison will never release them
            self._world.recorder.count("frames_lost", len(gone))

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
        now_ns = self._clock.now_ns()
        host.leaves_ns = at_ns = max(now_ns + late_ns, host.leaves_ns)
        if at_ns == now_ns:
            self._to_clients(frames)
        else:
            self._clock.after(at_ns - now_ns, lambda _: self._left(host, frames))

    def _left(self, host: PacketHost, frames: list[bytes]) -> None:
        if host.alive:
            self._to_clients(frames)

    # -- checkpoints and takeover ----------------------------------------------------------

    def stopping(self, host: Host) -> None:
        if host.id != self._world.owner:
            self._of(host.id).covered = ()  # the primary goes on, so they have left

    def snapshot(self, host: Host, pages: int) -> Snapshot:
        taken = self._guest(host).snapshot(pages, {})
        held = self._of(host.id).held if self.compares else {}
        return replace(taken, covered=tuple(held.values()))

    def loaded(self, host: Host, snapshot: Snapshot) -> None:
        host.guest.load(snapshot)
        self._of(host.id).covered = cast(PacketSnapshot, snapshot).covered

    def promoted(self, host: Host) -> None:
        rewriter = self._guest(host).rewriter
        if rewriter is not None:
            rewriter.promoted()

    def alone(self, host: Host) -> None:
        """The guest that took over goes on with its connections.

        What its state covers and had not left goes with the state, and leaves now, before what the
        guest has made since.  What else died with the other host its TCP sends again.
        """
        host = self._of(host.id)
        covered, host.covered = host.covered, ()
        if frames := self._acked.beyond(covered):
            self._leave(host, frames, 0)

    # -- the end ---------------------------------------------------------------------------

    def lost_responses(self) -> int:
        """Where somebody serves, only those whose connection was reset: all others are sent again
        until there is an answer.
        """
        unanswered = self.network.unanswered()
        if not self._world.serves():
            return len(unanswered)
        given_up = self.clients.given_up
        return sum((client, request) in given_up for client, request, _ in unanswered)

    def counters(self) -> dict[str, int]:
        clients, hosts = self.clients, self._world.hosts
        stacks = [self._guest(host).stack for host in hosts.values()]
        return {
            "frames_to_guests": self.network.to_guests,
            "frames_to_clients": self.network.to_clients,
            **{f"frames_of_{name}": self._of(name).made for name in hosts},
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


def _number(mark: str) -> int:
    """How a response has parted, as a number that it holds; 0: not at all."""
    if "@" in mark:  # it says what time it is
        return crc32(mark.encode()) | 1 << 31
    return int(mark[1:]) + 1 if mark else 0


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
