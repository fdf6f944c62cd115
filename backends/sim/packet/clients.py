"""Clients that talk packets, and the network between them and the guests.

As at fidelity ``response`` the network keeps one log of what clients sent, here of frames, and a
guest reads it from where its state left off.

A client's time is the network's, ``client_delay`` later: what leaves a guest reaches the client's
end one round trip later, and what that end says is at the network at once.  For whoever only sees
frames at the network this is the same as half of it each way, and costs half the events.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from backends.sim.clock import Clock
from backends.sim.guest import Guest
from backends.sim.packet import content
from backends.sim.packet.frames import (
    NOBODY_IP,
    TCP,
    Path,
    client_ip,
    client_of,
    read,
    turned,
)
from backends.sim.packet.guest import PacketGuest
from backends.sim.packet.server import (
    FIRST_PORT,
    PORTS,
    Service,
    connection_key,
    frames_of,
)
from backends.sim.packet.tcp import Connection, Nature, Phase
from backends.sim.packet.timers import Timers
from backends.sim.traffic import Network

_TRIM_FRAMES = 4096


@dataclass(slots=True)
class _Socket:
    """A connection of a client; ``waiting``: requests without an answer, in order."""

    connection: Connection
    path: Path
    asked: int = 0
    waiting: deque[int] = field(default_factory=deque)
    unread: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class _Question:
    """A request by datagram: what came of its answer, and when it is asked again."""

    due_ns: int
    parts: dict[int, bytes] = field(default_factory=dict)


class Clients:
    """All clients' ends.

    send(frames): to the guests.  answered(client, request): all of it is here, and right.
    field_at(client, request): where the guests may differ.
    """

    def __init__(
        self,
        clock: Clock,
        service: Service,
        nature: Nature,
        send: Callable[[list[bytes]], None],
        answered: Callable[[int, int], None],
        field_at: Callable[[int, int], int],
    ) -> None:
        self._clock = clock
        self._service = service
        self._nature = nature
        self._send = send
        self._answered = answered
        self._field_at = field_at
        self._sockets: dict[bytes, _Socket] = {}
        self._current: dict[int, _Socket] = {}  # by client: the one that takes the next request
        self._numbers: dict[int, int] = {}  # by client: how many connections it has opened
        self._questions: dict[tuple[int, int], _Question] = {}
        self._paths: dict[int, Path] = {}
        self._timers = Timers()
        self._wake_ns: int | None = None
        self._turn = 0
        self.given_up: set[tuple[int, int]] = set()  # requests whose connection was reset
        self.resets = 0
        self.wrong = 0  # answers that are not what a guest would say
        self.damaged = 0  # frames with a wrong checksum
        self.repeated = 0  # datagrams that had come before
        self._sent_again = 0  # by connections that are over, and requests by datagram

    def ask(self, client: int, request: int) -> None:
        """A client asks."""
        if self._service.is_udp:
            self._ask_by_datagram(client, request)
        else:
            self._ask_by_stream(client, request)
        self._plan()

    def receive(self, frames: Iterable[bytes]) -> None:
        """What the guest said, at the clients' end."""
        out: list[bytes] = []
        now_ns = self._clock.now_ns()
        for frame in frames:
            arrived = read(frame)
            if arrived is None:
                self.damaged += 1
                continue
            if arrived.key[4:8] == NOBODY_IP:
                continue
            if arrived.protocol != TCP:
                self._datagram(client_of(frame[30:34]), arrived.data)
                continue
            key, _, seq, ack, flags, data = arrived
            key = turned(key)
            socket = self._sockets.get(key)
            if socket is None:
                continue  # its last acknowledgement is under way
            socket.connection.receive(seq, ack, flags, data, now_ns)
            self._read(key, socket, now_ns)
            self._flush(key, socket, out)
        if out:
            self._send(out)
        self._plan()

    def sent_again(self) -> int:
        """Segments, and requests by datagram, that clients had to repeat."""
        sockets = self._sockets.values()
        return self._sent_again + sum(socket.connection.retransmitted for socket in sockets)

    # -- TCP -------------------------------------------------------------------------------

    def _ask_by_stream(self, client: int, request: int) -> None:
        now_ns = self._clock.now_ns()
        socket = self._current.get(client)
        if socket is None or socket.connection.phase is Phase.CLOSED or socket.connection.fin_got:
            socket = self._open(client, now_ns)
        socket.connection.write(
            content.request_of(client, request, self._service.request_bytes), now_ns
        )
        socket.waiting.append(request)
        socket.asked += 1
        if socket.asked == self._service.requests_per_connection:
            del self._current[client]
        out: list[bytes] = []
        self._flush(socket.path.key, socket, out)
        if out:
            self._send(out)

    def _open(self, client: int, now_ns: int) -> _Socket:
        number = self._numbers.get(client, -1) + 1
        self._numbers[client] = number
        key = connection_key(client_ip(client), FIRST_PORT + number % PORTS)
        opened = Connection.opened(self._service.limits, self._nature, client, number, now_ns)
        socket = _Socket(opened, Path(key, is_outward=False))
        self._sockets[key] = self._current[client] = socket
        return socket

    def _read(self, key: bytes, socket: _Socket, now_ns: int) -> None:
        connection, unread, size = socket.connection, socket.unread, self._service.response_bytes
        for data in connection.got:
            unread += data
        connection.got.clear()
        client = connection.client
        while len(unread) >= size and socket.waiting:
            request = socket.waiting.popleft()
            self._complete(client, request, bytes(unread[:size]))
            del unread[:size]
        if unread and not socket.waiting:
            self.wrong += 1  # nobody has asked for that
            unread.clear()
        service = self._service
        all_asked = socket.asked == service.requests_per_connection and not socket.waiting
        if connection.fin_got or (all_asked and not service.guest_closes):
            connection.close(now_ns)

    def _flush(self, key: bytes, socket: _Socket, out: list[bytes]) -> None:
        connection = socket.connection
        if connection.out:
            out += frames_of(socket.path, connection, self._service.limits)
        if connection.phase is Phase.CLOSED:
            self._sent_again += connection.retransmitted
            self.resets += connection.was_reset
            self.given_up.update((connection.client, request) for request in socket.waiting)
            del self._sockets[key]
            if self._current.get(connection.client) is socket:
                del self._current[connection.client]
        else:
            self._timers.want(key, connection.due_ns())

    # -- UDP -------------------------------------------------------------------------------

    def _ask_by_datagram(self, client: int, request: int) -> None:
        due_ns = self._clock.now_ns() + self._service.retry_ns
        question = self._questions.setdefault((client, request), _Question(due_ns))
        question.due_ns = due_ns
        self._timers.want(client.to_bytes(4) + request.to_bytes(4), due_ns)
        path = self._paths.get(client)
        if path is None:
            key = connection_key(client_ip(client), FIRST_PORT)
            path = self._paths[client] = Path(key, is_outward=False)
        self._send([path.udp(content.request_of(client, request, self._service.request_bytes))])

    def _datagram(self, client: int, payload: bytes) -> None:
        request, which, count, data = content.datagram(payload)
        question = self._questions.get((client, request))
        if question is None or which in question.parts:
            self.repeated += 1
            return
        question.parts[which] = data
        if len(question.parts) == count:
            del self._questions[client, request]
            whole = b"".join(question.parts[i] for i in sorted(question.parts))
            self._complete(client, request, whole)

    # -- both ------------------------------------------------------------------------------

    def _complete(self, client: int, request: int, data: bytes) -> None:
        at = self._field_at(client, request)
        if not content.is_right(data, client, request, self._service.response_bytes, at):
            self.wrong += 1
        self._answered(client, request)

    def _plan(self) -> None:
        due_ns = self._timers.due_ns()
        if due_ns is not None and (self._wake_ns is None or due_ns < self._wake_ns):
            self._turn += 1
            self._wake_ns = due_ns
            self._clock.after(max(0, due_ns - self._clock.now_ns()), self._wake, self._turn)

    def _wake(self, turn: int) -> None:
        if turn != self._turn:
            return
        self._wake_ns = None
        now_ns = self._clock.now_ns()
        out: list[bytes] = []
        for key in self._timers.due(now_ns):
            if len(key) == 8:
                self._again(int.from_bytes(key[:4]), int.from_bytes(key[4:]), now_ns)
            elif (socket := self._sockets.get(key)) is not None:
                socket.connection.tick(now_ns)
                self._flush(key, socket, out)
        if out:
            self._send(out)
        self._plan()

    def _again(self, client: int, request: int, now_ns: int) -> None:
        """A client that still waits for an answer asks again."""
        question = self._questions.get((client, request))
        if question is None:
            return
        if question.due_ns <= now_ns:
            self._sent_again += 1
            self._ask_by_datagram(client, request)
        else:
            self._timers.want(client.to_bytes(4) + request.to_bytes(4), question.due_ns)


class PacketNetwork(Network):
    """The log of clients' frames, the guests that read it, and what became of every request.

    keeps_from(): the oldest position in the log that anybody may yet read from.
    """

    def __init__(
        self,
        clock: Clock,
        delay_ns: int,
        jitter_ns: Callable[[int, int], int],
        keeps_from: Callable[[], int],
    ) -> None:
        super().__init__(clock, delay_ns, jitter_ns)
        self.round_trip_ns = 0  # a client's end sees an answer when it has arrived
        self._journey_ns = 2 * delay_ns
        self._keeps_from = keeps_from
        self._frames: list[bytes] = []
        self._first = 0  # position of the first frame that is kept
        self.clients: Clients | None = None
        self.to_guests = 0
        self.to_clients = 0

    def send(self, client: int, request: int, due_ns: int | None = None) -> None:
        self._enter(client, request, due_ns)
        assert self.clients is not None
        self.clients.ask(client, request)

    def put(self, frames: list[bytes]) -> None:
        """Frames of clients, for whoever reads."""
        self.to_guests += len(frames)
        self._frames += frames
        for guest in self._readers:
            self.catch_up(guest)
        if len(self._frames) > _TRIM_FRAMES:
            keep = max(self._first, min(self._keeps_from(), self._end))
            del self._frames[: keep - self._first]
            self._first = keep

    @property
    def _end(self) -> int:
        return self._first + len(self._frames)

    def read_by(self, guest: Guest) -> None:
        if guest not in self._readers:
            self._readers.append(guest)
        self._soon(guest)

    def resume(self) -> None:
        self._paused = False
        for guest in self._readers:
            self._soon(guest)

    def _soon(self, guest: Guest) -> None:
        """Not in the middle of what a node is doing: a guest may answer at once."""
        self._clock.after(0, self.catch_up, guest)

    def catch_up(self, guest: Guest) -> None:
        if self._paused or not guest.running or guest.hung or guest not in self._readers:
            return
        assert isinstance(guest, PacketGuest)
        frames = self._frames[guest.input_position - self._first :]
        guest.input_position = self._end
        if frames:
            guest.receive(frames)

    def leave(self, frames: list[bytes]) -> None:
        """Frames of a guest are on their way to the clients."""
        self.to_clients += len(frames)
        self._clock.after(self._journey_ns, self._arrive, frames)

    def _arrive(self, frames: list[bytes]) -> None:
        assert self.clients is not None
        self.clients.receive(frames)

    def complete(self, client: int, request: int) -> None:
        """A client has its whole answer; it reads it after its own delay."""
        row = self._row[client, request]
        if self.released_ns[row] >= 0:
            self.duplicates += 1
            return
        more_ns = self._jitter_ns(client, request)
        self.released_ns[row] = self._clock.now_ns() + more_ns - self._delay_ns
        if more_ns:
            self._clock.after(more_ns, self._left, (client, request))
        else:
            self.answered(client, request)
