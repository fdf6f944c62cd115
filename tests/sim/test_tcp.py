"""The simulated TCP by itself: two ends and a network that loses, repeats and reorders."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.sim.packet.frames import Path, read, turned
from backends.sim.packet.server import connection_key, frames_of
from backends.sim.packet.tcp import Connection, Limits, Phase
from tests import segments

MS = 1_000_000
CLIENT = bytes((10, 1, 0, 0))
LIMITS = Limits(mss=100, window=1000, rto_ns=200 * MS)


@dataclass
class Nature:
    """First numbers that wrap soon, and acknowledgements in time."""

    first: int = 2**32 - 150

    def isn(self, client: int, number: int) -> int:
        return self.first

    def ack_delay_ns(self, client: int, number: int, ack: int) -> int:
        return 0


@dataclass
class End:
    """A connection, what it is to say, and all it heard; it closes when it has said that."""

    path: Path
    says: bytes
    connection: Connection | None = None
    heard: bytearray = field(default_factory=bytearray)

    def act(self, now_ns: int) -> list[bytes]:
        """Read, say, close; the frames that makes."""
        connection = self.connection
        if connection is None:
            return []
        self.heard += b"".join(connection.got)
        connection.got.clear()
        if self.says:
            connection.write(self.says, now_ns)
            self.says = b""
            connection.close(now_ns)
        return frames_of(self.path, connection, LIMITS)


class Conversation:
    """Both ends; ``fate(n)`` says when the n-th frame arrives, each of its copies: none is lost."""

    def __init__(self, upload: bytes, download: bytes, fate) -> None:
        key = connection_key(CLIENT, 40_000)
        self.client = End(Path(key, is_outward=False), upload)
        self.guest = End(Path(turned(key), is_outward=True), download)
        self.client.connection = Connection.opened(LIMITS, Nature(), 0, 0, 0)
        self.fate = fate
        self.n = 0
        self.now_ns = 0
        self.under_way: list[tuple[int, int, End, bytes]] = []
        self.frames: list[bytes] = []

    def run(self, limit_ns: int = 10_000_000 * MS) -> None:
        for end in (self.client, self.guest):
            self._post(end)
        while self.now_ns < limit_ns:
            connections = [e.connection for e in (self.client, self.guest) if e.connection]
            due = [c.due_ns() for c in connections]
            times = [t for t in due if t is not None] + [w[0] for w in self.under_way]
            if not times:
                return
            self.now_ns = max(self.now_ns, min(times))
            for connection in connections:
                if (at := connection.due_ns()) is not None and at <= self.now_ns:
                    connection.tick(self.now_ns)
            for each in sorted(w for w in self.under_way if w[0] <= self.now_ns):
                self.under_way.remove(each)
                self._deliver(each[2], each[3])
            for end in (self.client, self.guest):
                self._post(end)

    def _post(self, sender: End) -> None:
        to = self.guest if sender is self.client else self.client
        while frames := sender.act(self.now_ns):
            for frame in frames:
                self.frames.append(frame)
                self.n += 1
                for delay_ns in self.fate(self.n):
                    self.under_way.append((self.now_ns + delay_ns, self.n, to, frame))

    def _deliver(self, to: End, frame: bytes) -> None:
        arrived = read(frame)
        assert arrived is not None
        _, _, seq, ack, flags, data = arrived
        if to.connection is None:
            if flags & segments.SYN:
                made = Connection.accepted(LIMITS, Nature(77), 0, 0, seq, self.now_ns)
                to.connection = made
            return
        to.connection.receive(seq, ack, flags, data, self.now_ns)

    def repeated(self) -> int:
        """Segments that were sent again."""
        ends = (self.client.connection, self.guest.connection)
        return sum(end.retransmitted for end in ends if end is not None)

    def check(self, upload: bytes, download: bytes) -> None:
        assert bytes(self.guest.heard) == upload
        assert bytes(self.client.heard) == download
        for end in (self.client, self.guest):
            assert end.connection is not None
            assert end.connection.phase is Phase.CLOSED
            assert not end.connection.was_reset


def said(size: int, salt: int) -> bytes:
    return bytes((i * i + salt * i + (i >> 8)) & 0xFF for i in range(size))


@pytest.mark.parametrize("sizes", [(1, 1), (100, 5000), (5000, 1), (12_345, 54_321)])
def test_a_conversation_without_loss(sizes):
    upload, download = said(sizes[0], 1), said(sizes[1], 2)
    talk = Conversation(upload, download, lambda n: [MS])
    talk.run()
    talk.check(upload, download)
    assert talk.repeated() == 0


@given(
    st.integers(1, 6000),
    st.integers(1, 6000),
    st.lists(st.lists(st.integers(MS // 10, 30 * MS), max_size=2), max_size=150),
)
def test_streams_are_whole_whatever_the_network_does(up, down, fates):
    """The first frames are lost, repeated and reordered at will, those behind are not."""
    upload, download = said(up, 1), said(down, 2)
    talk = Conversation(upload, download, lambda n: fates[n - 1] if n <= len(fates) else [MS])
    talk.run()
    # whoever leaves TIME-WAIT early may leave the other end to its timer: let that be
    assert bytes(talk.guest.heard) == upload
    assert bytes(talk.client.heard) == download


@pytest.mark.parametrize("lost", range(1, 40))
def test_any_one_frame_may_be_lost(lost):
    upload, download = said(700, 1), said(2500, 2)
    talk = Conversation(upload, download, lambda n: [] if n == lost else [MS])
    talk.run()
    talk.check(upload, download)


def test_a_lost_segment_is_sent_again_when_three_acknowledgements_ask_for_it():
    """Long before the timer, which is the only thing that mends a loss at the end."""
    took_ns = []
    for lost in (8, None):
        talk = Conversation(b"?", said(900, 2), lambda n, lost=lost: [] if n == lost else [MS])
        talk.run()
        talk.check(b"?", said(900, 2))
        took_ns.append(talk.now_ns)
    assert talk.repeated() == 0
    assert took_ns[0] - took_ns[1] < 20 * MS


def test_the_timer_backs_off():
    """Nobody answers: 1 s, 2 s, 4 s, up to a minute (RFC 6298, 5.5)."""
    lonely = Connection.opened(Limits(), Nature(), 0, 0, 0)
    times = []
    for _ in range(9):
        due_ns = lonely.due_ns()
        assert due_ns is not None
        times.append(due_ns / 1e9)
        lonely.tick(due_ns)
    assert times == [1, 3, 7, 15, 31, 63, 123, 183, 243]
    assert lonely.retransmitted == 9


def test_acknowledgements_are_delayed_but_for_every_second_segment():
    """One segment waits 40 ms for its acknowledgement; the second gets one at once."""
    end = Connection.accepted(Limits(), Nature(), 0, 0, 1000, 0)
    end.receive(1001, end.iss + 1, segments.ACK, b"", 0)
    end.out.clear()
    end.receive(1001, end.iss + 1, segments.ACK, b"a" * 100, 5 * MS)
    assert end.out == []
    assert end.due_ns() == 45 * MS
    end.tick(45 * MS)
    assert [segment.ack for segment in end.out] == [1101]
    end.out.clear()
    for i, at_ns in enumerate((50 * MS, 51 * MS)):
        assert end.out == []
        end.receive(1101 + 100 * i, end.iss + 1, segments.ACK, b"b" * 100, at_ns)
    assert [segment.ack for segment in end.out] == [1301]


def test_a_copy_goes_on_by_itself():
    """What happens to one does not happen to the other."""
    end = Connection.accepted(Limits(mss=10), Nature(), 0, 0, 1000, 0)
    end.receive(1001, end.iss + 1, segments.ACK, b"abc", 0)
    end.write(b"x" * 25, 0)
    other = end.copy(Nature())
    for each in (end, other):
        assert [len(segment.data) for segment in each.out] == [0, 10, 10, 5]
        each.out.clear()
    end.receive(1004, end.iss + 26 & 0xFFFF_FFFF, segments.ACK, b"def", 1 * MS)
    assert end.due_ns() == 41 * MS  # only the acknowledgement
    assert other.due_ns() == 200 * MS  # its handshake took no time
    other.tick(200 * MS)
    assert [segment.data for segment in other.out] == [b"x" * 10]
    assert end.got == [b"abc", b"def"]
    assert other.got == [b"abc"]


# -- frames ------------------------------------------------------------------------------------


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 63),
    st.binary(max_size=64),
)
def test_frames_are_what_plain_arithmetic_says(seq, ack, flags, data):
    """Headers and checksums, by code that knows nothing of this one."""
    path = Path(turned(connection_key(CLIENT, 40_000)), is_outward=True)
    frame = path.tcp(seq, ack, flags, 65_535, data)
    segment = segments.read(frame)
    assert segment.harm == 0
    assert (segment.seq, segment.ack, segment.flags) == (seq, ack, flags)
    assert (segment.payload, segment.window) == (data, 65_535)
    assert (segment.source, segment.target) == (bytes((10, 0, 0, 2)), CLIENT)
    assert (segment.source_port, segment.target_port) == (80, 40_000)


@given(st.binary(max_size=64), st.integers(14, 200), st.integers(1, 255), st.booleans())
def test_a_damaged_frame_is_not_read(data, at, harm, is_udp):
    path = Path(connection_key(CLIENT, 40_000), is_outward=False)
    frame = path.udp(data) if is_udp else path.tcp(5, 6, 16, 7, data)
    assert read(frame) is not None
    at = min(at, len(frame) - 1)
    if at in (16, 17):  # another length: what is behind it is not there
        return
    damaged = bytearray(frame)
    damaged[at] ^= harm
    assert read(bytes(damaged)) is None
