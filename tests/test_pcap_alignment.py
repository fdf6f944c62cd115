"""The secondary's frames as they would have been: moved, trimmed, and bounded in what is kept."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colosim.pcap import kept
from colosim.pcap.alignment import Alignment
from colosim.pcap.kept import Sent
from colosim.pcap.streams import Numbers
from colosim.protocol.packets import parse
from tests.captures import ACK, CLIENT, FIN, GUEST, RST, SYN, S, ethernet, ipv4, tcp, udp

TIMEOUT_NS = 3 * S


def segment6(seq: int, ack: int, flags: int, data: bytes = b"") -> bytes:
    """IPv6 behind two VLAN tags."""
    head = struct.pack("!HHIIBBHHH", 80, 40000, seq, ack, 0x50, flags, 64240, 0, 0)
    ip = struct.pack("!IHBB", 0x60000000, len(head) + len(data), 6, 64) + bytes(range(32))
    tags = bytes.fromhex("0007 8100 0008 86dd")
    return ethernet(tags + ip + head + data, kind=0x88A8)


def options4(seq: int, ack: int, flags: int, data: bytes = b"") -> bytes:
    """IPv4 and TCP with options, padded by Ethernet."""
    head = struct.pack("!HHIIBBHHH", 80, 40000, seq, ack, 0x80, flags, 64240, 0, 0)
    size = 24 + len(head) + 12 + len(data)
    ip = struct.pack(
        "!BBHHHBBH4s4s", 0x46, 0, size, 0, 0x4000, 64, 6, 0, b"\x0a\0\0\2", b"\x0a\0\0\1"
    )
    return ethernet(ip + bytes(4) + head + bytes([1] * 12) + data + b"padding")


def parts(frame: bytes) -> tuple[int, int, int, bytes]:
    """Sequence, acknowledgement, flags and payload, by the lengths that the headers say."""
    packet = parse(frame)
    assert packet is not None
    sequence, ack, words, flags = struct.unpack_from("!IIBB", frame, packet.at + 4)
    return sequence, ack, flags, frame[packet.at + (words >> 4) * 4 : packet.end]


@pytest.mark.parametrize("make", [tcp, segment6, options4])
def test_a_segment_is_moved_and_trimmed_whatever_it_is_wrapped_in(make):
    alignment = Alignment(Numbers.OWN, TIMEOUT_NS)
    alignment.primary(make(100, 1, SYN | ACK), 0)
    alignment.secondary(Sent(1, make(5_000, 1, SYN | ACK)), 0)
    alignment.primary(make(101, 50, ACK, b"0123456789"), 1)
    assert list(alignment.cut((), 2)) == []
    late = make(5_001, 50, ACK, b"0123456789")
    across = make(5_005, 50, ACK, b"456789abcdef")
    behind = make(5_017, 60, ACK | FIN, b"end")
    assert alignment.secondary(Sent(2, late), 3) == ()
    [moved] = alignment.secondary(Sent(3, across), 3)
    assert (moved.number, parts(moved.frame)) == (3, (111, 50, ACK, b"abcdef"))
    [moved] = alignment.secondary(Sent(4, behind), 3)
    assert parts(moved.frame) == (117, 60, ACK | FIN, b"end")


def test_a_late_segment_with_a_newer_acknowledgement_says_only_that():
    alignment = Alignment(Numbers.TRANSLATED, TIMEOUT_NS)
    alignment.primary(tcp(100, 7, ACK | FIN, b"data"), 0)
    alignment.cut((), 1)
    [left] = alignment.secondary(Sent(1, tcp(100, 8, ACK | FIN, b"data")), 2)
    assert parts(left.frame) == (105, 8, ACK, b"")
    assert alignment.counts.late == 0


def test_what_is_said_again_is_what_the_primary_has_not_said():
    alignment = Alignment(Numbers.TRANSLATED, TIMEOUT_NS)
    alignment.primary(tcp(100, 7, ACK), 0)
    alignment.secondary(Sent(1, tcp(100, 7, ACK, b"abcd")), 1)
    alignment.secondary(Sent(2, tcp(104, 7, ACK, b"efgh")), 2)
    alignment.secondary(Sent(3, tcp(108, 9, ACK)), 3)
    alignment.secondary(Sent(4, tcp(108, 9, RST)), 4)
    alignment.primary(tcp(100, 7, ACK, b"abcdef"), 5)
    again = alignment.cut((), 6)
    assert [each.number for each in again] == [2, 3, 4]
    assert parts(again[0].frame) == (106, 7, ACK, b"gh")
    assert [each.number for each in alignment.cut((2,), 7)] == [3, 4]
    assert alignment.cut((), 4 + TIMEOUT_NS) == []
    assert alignment.counts.again == 5


def test_the_room_for_what_is_kept_has_an_end(monkeypatch):
    monkeypatch.setattr(kept, "_BUDGET_BYTES", 50_000)
    alignment = Alignment(Numbers.AUTO, TIMEOUT_NS)
    for i in range(100):
        frames = (udp(b"%d" % i * 500, port=i + 1), tcp(i, 1, ACK, b"x" * 1000, port=i + 1))
        for frame in frames:
            assert alignment.secondary(Sent(i, frame), i) == (Sent(i, frame),)
    assert alignment.counts.not_kept > 100
    assert alignment._budget.used_bytes <= 50_000
    again = alignment.cut((), 200)
    assert 0 < sum(len(each.frame) for each in again) < 50_000


def test_forgotten_connections_give_back_their_room(monkeypatch):
    monkeypatch.setattr("colosim.pcap.alignment._CONNECTIONS_MOST", 10)
    alignment = Alignment(Numbers.AUTO, TIMEOUT_NS)
    for i in range(100):
        alignment.secondary(Sent(i, udp(b"x" * 1000, port=i + 1)), i)
        alignment.primary(udp(b"y" * 1000, port=i + 1), i)
    assert alignment._budget.used_bytes < 10 * 2_000
    assert len(alignment.cut((), 200)) == 10


FRAMES = st.builds(
    tcp,
    st.sampled_from([0, 1, 5, 9, 2**32 - 3, 2**31]),
    st.sampled_from([0, 3, 2**32 - 1]),
    st.sampled_from([ACK, SYN | ACK, SYN, ACK | FIN, RST, RST | ACK]),
    st.binary(max_size=6),
    st.integers(1, 2),
) | st.builds(udp, st.binary(max_size=1), st.integers(1, 2))


@given(
    st.sampled_from(list(Numbers)),
    st.lists(st.tuples(st.sampled_from("psc"), FRAMES, st.integers(0, S)), max_size=40),
)
def test_room_is_given_back_and_every_frame_is_given_or_waits(numbers, steps):
    """What comes out was put in, moved at most, and what is dropped in the end leaves nothing."""
    alignment = Alignment(numbers, TIMEOUT_NS)
    now_ns = 0
    for number, (who, frame, later_ns) in enumerate(steps):
        now_ns += later_ns
        if who == "p":
            given = alignment.primary(frame, now_ns)
        elif who == "s":
            given = alignment.secondary(Sent(number, frame), now_ns)
        else:
            given = alignment.cut((number - 1,), now_ns)
        for each in given:
            was = parse(steps[each.number][1])
            became = parse(each.frame)
            assert steps[each.number][0] == "s"
            assert was is not None
            assert became is not None
            assert became.key == was.key
            assert became.end - became.at <= was.end - was.at
    for connection in alignment._connections.values():
        connection.drop()
    assert alignment._budget.used_bytes == 0


def test_what_is_no_ip_and_fragments_pass():
    alignment = Alignment(Numbers.AUTO, TIMEOUT_NS)
    fragment = bytearray(ethernet(ipv4(17, b"x" * 40, "10.0.0.2", "10.0.0.1"), GUEST, CLIENT))
    fragment[20] = 0x20  # more to come
    for frame in (b"", b"short", ethernet(b"arp", kind=0x0806), bytes(fragment)):
        assert alignment.primary(frame, 0) == ()
        assert alignment.secondary(Sent(1, frame), 0) == (Sent(1, frame),)
    assert alignment.cut((), 1) == []
