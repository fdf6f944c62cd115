"""A guest's network stack and the service on it, as one state that can be copied.

Everything a checkpoint must carry of them is here: connections, half-read requests, who waits for
which answer, datagrams that are still to be sent, timers.  What belongs to the machine and not to
its state, its `Nature`, is given anew to a copy.  Times are the guest's, which stand while it does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from backends.sim.packet import content, tcp
from backends.sim.packet.frames import (
    ACK,
    GUEST_IP,
    RST,
    SERVICE_PORT,
    SYN,
    TCP,
    Arrived,
    Path,
    client_of,
    read,
    turned,
)
from backends.sim.packet.tcp import Connection, Phase
from backends.sim.packet.timers import Timers

#: the first port of a client; its connections take one after the other
FIRST_PORT = 32_768
PORTS = 28_000


@dataclass(frozen=True, slots=True)
class Service:
    """What clients and guests have agreed upon.

    requests_per_connection: 0 for as many as there are.  guest_closes: who closes first.
    datagrams, gap_ns: of a response over UDP, and the guest's time from one to the next.
    """

    limits: tcp.Limits
    is_udp: bool
    request_bytes: int
    response_bytes: int
    requests_per_connection: int = 0
    guest_closes: bool = False
    datagrams: int = 1
    gap_ns: int = 0
    retry_ns: int = tcp.NS_PER_S


class Nature(tcp.Nature, Protocol):
    """What differs between two guests that run the same service."""

    def split_at(self, client: int, request: int, size: int) -> int: ...


@dataclass(slots=True)
class _Peer:
    """A connection of the service."""

    connection: Connection
    path: Path
    unread: bytes = b""
    answered: int = 0

    def copy(self, nature: Nature) -> _Peer:
        return _Peer(self.connection.copy(nature), self.path, self.unread, self.answered)


@dataclass(slots=True)
class _Flow:
    """Datagrams to a client that are still to be sent, and when the next one is."""

    path: Path
    due_ns: int
    waiting: deque[bytes] = field(default_factory=deque)

    def copy(self) -> _Flow:
        return _Flow(self.path, self.due_ns, self.waiting.copy())


def connection_key(ip: bytes, port: int) -> bytes:
    """Addresses and ports of a client's frames."""
    return ip + GUEST_IP + port.to_bytes(2) + SERVICE_PORT.to_bytes(2)


class Stack:
    """Frames in, frames and requests out."""

    def __init__(self, service: Service, nature: Nature) -> None:
        self._service = service
        self._nature = nature
        self._peers: dict[bytes, _Peer] = {}
        self._flows: dict[bytes, _Flow] = {}
        self._timers = Timers()
        self._work: dict[tuple[int, int], bytes] = {}  # who waits for which answer
        self.damaged = 0  # frames with a wrong checksum

    def copy(self, nature: Nature) -> Stack:
        """The same state in another machine."""
        made = Stack(self._service, nature)
        made._peers = {key: peer.copy(nature) for key, peer in self._peers.items()}
        made._flows = {key: flow.copy() for key, flow in self._flows.items()}
        made._timers = self._timers.copy()
        made._work = self._work.copy()
        return made

    def receive(
        self, frames: Iterable[bytes], now_ns: int
    ) -> tuple[list[bytes], list[tuple[int, int]]]:
        """Clients' frames; what to send at once, and (client, request) that are asked for."""
        out: list[bytes] = []
        requests: list[tuple[int, int]] = []
        for frame in frames:
            arrived = read(frame)
            if arrived is None:
                self.damaged += 1
            elif arrived.protocol == TCP:
                self._segment(arrived, now_ns, out, requests)
            else:
                request = content.asked(arrived.data)
                if request not in self._work:  # else it was only asked again
                    self._work[request] = arrived.key
                    requests.append(request)
        return out, requests

    def respond(self, client: int, request: int, data: bytes, now_ns: int) -> list[bytes]:
        """Answer a request; what to send at once."""
        key = self._work.pop((client, request))
        out: list[bytes] = []
        if self._service.is_udp:
            self._burst(key, request, data, now_ns, out)
            return out
        peer = self._peers.get(key)
        if peer is None:  # the client has reset it
            return out
        at = self._nature.split_at(client, request, len(data))
        for part in (data[:at], data[at:]):
            if part:
                peer.connection.write(part, now_ns)
        peer.answered += 1
        if self._service.guest_closes and peer.answered == self._service.requests_per_connection:
            peer.connection.close(now_ns)
        self._flush(key, peer, out)
        return out

    def due_ns(self) -> int | None:
        return self._timers.due_ns()

    def tick(self, now_ns: int) -> list[bytes]:
        """Time has passed; what to send."""
        out: list[bytes] = []
        for key in self._timers.due(now_ns):
            if (flow := self._flows.get(key)) is not None:
                self._pace(key, flow, now_ns, out)
            elif (peer := self._peers.get(key)) is not None:
                peer.connection.tick(now_ns)
                self._flush(key, peer, out)
        return out

    # -- TCP -------------------------------------------------------------------------------

    def _segment(
        self,
        arrived: Arrived,
        now_ns: int,
        out: list[bytes],
        requests: list[tuple[int, int]],
    ) -> None:
        key, _, seq, ack, flags, data = arrived
        peer = self._peers.get(key)
        if peer is None or (flags & (SYN | ACK) == SYN and _is_over(peer.connection)):
            if flags & (SYN | ACK | RST) != SYN:
                self._refuse(arrived, out)
                return
            client, number = client_of(key[:4]), int.from_bytes(key[8:10]) - FIRST_PORT
            limits = self._service.limits
            made = Connection.accepted(limits, self._nature, client, number, seq, now_ns)
            peer = self._peers[key] = _Peer(made, Path(turned(key), is_outward=True))
        else:
            peer.connection.receive(seq, ack, flags, data, now_ns)
        self._read(key, peer, requests, now_ns)
        self._flush(key, peer, out)

    def _refuse(self, arrived: Arrived, out: list[bytes]) -> None:
        """There is no such connection: say so (RFC 9293, 3.5.2)."""
        if arrived.flags & RST:
            return
        path = Path(turned(arrived.key), is_outward=True)
        if arrived.flags & ACK:
            out.append(path.tcp(arrived.ack, 0, RST, 0, b""))
        else:
            after = arrived.seq + len(arrived.data) & 0xFFFF_FFFF
            out.append(path.tcp(0, after, RST | ACK, 0, b""))

    def _read(self, key: bytes, peer: _Peer, requests: list[tuple[int, int]], now_ns: int) -> None:
        """What the service reads: whole requests."""
        connection, size = peer.connection, self._service.request_bytes
        if connection.got:
            unread = b"".join((peer.unread, *connection.got))
            connection.got.clear()
            whole = len(unread) - len(unread) % size
            for at in range(0, whole, size):
                request = content.asked(unread[at : at + size])
                self._work[request] = key
                requests.append(request)
            peer.unread = unread[whole:]
        if connection.fin_got and not connection.fin_sent:
            connection.close(now_ns)  # a client closes when it has all its answers

    def _flush(self, key: bytes, peer: _Peer, out: list[bytes]) -> None:
        connection = peer.connection
        if connection.out:
            limits = self._service.limits
            out += frames_of(peer.path, connection, limits)
        if connection.phase is Phase.CLOSED:
            del self._peers[key]
        else:
            self._timers.want(key, connection.due_ns())

    # -- UDP -------------------------------------------------------------------------------

    def _burst(self, key: bytes, request: int, data: bytes, now_ns: int, out: list[bytes]) -> None:
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = _Flow(Path(turned(key), is_outward=True), now_ns)
        flow.waiting.extend(content.datagrams_of(request, data, self._service.datagrams))
        self._pace(key, flow, now_ns, out)

    def _pace(self, key: bytes, flow: _Flow, now_ns: int, out: list[bytes]) -> None:
        """Send what is due, a gap between any two."""
        while flow.waiting and flow.due_ns <= now_ns:
            out.append(flow.path.udp(flow.waiting.popleft()))
            flow.due_ns = now_ns + self._service.gap_ns
        if flow.waiting:
            self._timers.want(key, flow.due_ns)
        elif flow.due_ns <= now_ns:
            del self._flows[key]
        else:
            self._timers.want(key, flow.due_ns)  # until then the next burst has to wait


def frames_of(path: Path, connection: Connection, limits: tcp.Limits) -> list[bytes]:
    """What a connection wants to send, which it then has sent."""
    segments, connection.out = connection.out, []
    mss = b"\x02\x04" + limits.mss.to_bytes(2)
    return [
        path.tcp(seq, ack, flags, limits.window, data, mss if flags & SYN else b"")
        for seq, ack, flags, data in segments
    ]


def _is_over(connection: Connection) -> bool:
    return connection.phase is Phase.TIME_WAIT
