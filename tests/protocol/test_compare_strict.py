"""Mode strict, rule by rule; where it differs from mode qemu, the defect beside the correction."""

from __future__ import annotations

import itertools

import pytest

from colosim.protocol.compare_strict import LINGER_NS, StrictComparator
from colosim.protocol.packets import describe, parse
from colosim.protocol.verdicts import CompareLimits, Differs, Late, Lost, Same, Why
from tests.protocol.frames import (
    ACK,
    CLIENT,
    FIN,
    GUEST,
    PSH,
    RST,
    SYN,
    ethernet,
    fragments4,
    fragments6,
    icmp_echo,
    ip4,
    ip6,
    tcp,
    tcp_body,
    udp,
)
from tests.protocol.talk import Talk

BOTH = SYN | ACK
#: Kept small, so that full queues are cheap to reach.
SMALL = CompareLimits(queue_frames=4, queue_bytes=4000, connections=8)


@pytest.fixture
def talk():
    return Talk()


@pytest.fixture(params=["strict", "qemu"])
def either(request):
    """A talk in each mode: tests of deviations say what both do."""
    if request.param == "strict":
        return Talk()
    module = pytest.importorskip("colosim.protocol.compare_qemu", reason="mode qemu is not here")
    return Talk(module.QemuComparator(CompareLimits()))


def is_strict(talk: Talk) -> bool:
    return isinstance(talk.comparator, StrictComparator)


def limited(talk: Talk, limits: CompareLimits) -> Talk:
    return Talk(type(talk.comparator)(limits))


def reasons(talk: Talk) -> list[Why]:
    """Why a checkpoint was asked for, each time it was."""
    return [verdict.why for verdict in talk.drain() if isinstance(verdict, Differs)]


def lost(talk: Talk) -> list[int]:
    return [n for verdict in talk.drain() if isinstance(verdict, Lost) for n in verdict.frames]


# --------------------------------------------------------------- deviations from mode qemu


def test_udp_burst_of_the_primary_is_no_difference(either):
    a, b = udp(b"a"), udp(b"b")
    assert either.p(a, b) == []
    if is_strict(either):
        assert either.s(a) == [0]
        assert either.s(b) == [1]
        assert reasons(either) == []
    else:
        left = either.s(a) + either.s(b)
        assert left == [1, 0]  # reversed
        assert len(reasons(either)) == 1  # and a checkpoint for nothing


def test_a_difference_is_said_once(either):
    either.p(udp(b"a"))
    either.s(udp(b"b"))
    for byte in b"cdef":
        either.p(udp(bytes((byte,))))
        either.s(udp(bytes((byte,))))
    assert len(reasons(either)) == (1 if is_strict(either) else 9)
    assert either.cut() == ([0, 1, 2, 3, 4] if is_strict(either) else [0])


def test_ipv6_is_compared(either):
    left = either.p(udp(b"a", six=True))
    assert left == ([] if is_strict(either) else [0])
    either.s(udp(b"b", six=True))
    assert reasons(either) == ([Why.CONTENT] if is_strict(either) else [])


def test_vlan_is_compared(either):
    left = either.p(tcp(1, b"a", vlans=(7,)))
    assert left == ([] if is_strict(either) else [0])
    either.s(tcp(1, b"b", vlans=(7,)))
    assert reasons(either) == ([Why.CONTENT] if is_strict(either) else [])


def test_vlans_do_not_mix(talk):
    assert talk.p(udp(b"a", vlans=(7,)), udp(b"b", vlans=(8,)), udp(b"c")) == []
    assert talk.s(udp(b"c"), udp(b"b", vlans=(8,)), udp(b"a", vlans=(7,))) == [2, 1, 0]


def test_vlan_priority_is_not_part_of_a_connection(talk):
    assert talk.p(udp(b"a", vlans=(0x2007,))) == []
    assert talk.s(udp(b"a", vlans=(0xE007,))) == [0]


def test_fragments_are_one_datagram(either):
    whole = udp(bytes(range(256)) * 10)
    ours, theirs = fragments4(whole, 1480, 7), fragments4(whole, 800, 9)
    either.p(*ours)
    left = either.s(*theirs)
    if is_strict(either):
        assert left == [0, 1]
        assert reasons(either) == []
    else:
        assert left == []
        assert reasons(either) != []


def test_equal_bytes_at_another_place_are_no_match(either):
    either.p(tcp(1000, b"same bytes"))
    left = either.s(tcp(6000, b"same bytes"))
    assert left == ([] if is_strict(either) else [0])


def test_each_bare_ack_leaves_when_the_secondary_has_acknowledged_as_much(either):
    assert either.p(tcp(1, ack=100), tcp(1, ack=200)) == []
    left = either.s(tcp(1, ack=200))
    assert left == ([0, 1] if is_strict(either) else [0])


def test_an_ack_that_the_secondary_has_not_given_is_held(either):
    either.p(tcp(1, b"data", ack=600))
    left = either.s(tcp(1, b"data", ack=500))
    assert left == ([] if is_strict(either) else [0])
    if is_strict(either):
        assert reasons(either) == []  # it may still come
        assert either.s(tcp(5, ack=600)) == [0]


def test_the_highest_ack_counts_not_the_last(either):
    either.p(tcp(1, b"half", ack=500))
    either.s(tcp(1, ack=500))
    left = either.s(tcp(1, b"half and half", ack=100))
    assert left == ([0] if is_strict(either) else [])
    assert len(reasons(either)) == (0 if is_strict(either) else 1)


def test_acks_wrap(either):
    either.p(tcp(1, b"ab", ack=0xFFFFFFF0), tcp(3, b"cd", ack=10))
    left = either.s(tcp(1, b"abcdef", ack=0xFFFFFFF0))
    assert left == ([0] if is_strict(either) else [0, 1])
    if is_strict(either):
        assert either.s(tcp(7, ack=10)) == [1]


def test_a_retransmission_of_what_has_left_leaves_at_once(either):
    either.p(tcp(1, b"data"))
    assert either.s(tcp(1, b"data")) == [0]
    left = either.p(tcp(1, b"data"))
    assert left == ([1] if is_strict(either) else [])


def test_out_of_order_segments_are_no_difference(either):
    either.s(tcp(1, b"first"), tcp(6, b"second"))
    left = either.p(tcp(6, b"second"))
    left += either.p(tcp(1, b"first"))
    if is_strict(either):
        assert left == [0, 1]  # as the primary's guest sent them
        assert reasons(either) == []
    else:
        assert reasons(either) != []


def test_a_hole_waits(either):
    either.p(tcp(6, b"second"))
    either.s(tcp(1, b"first"))
    assert len(reasons(either)) == (0 if is_strict(either) else 1)
    if is_strict(either):
        assert either.s(tcp(6, b"second")) == [0]


def test_a_segment_that_ends_at_zero_is_compared_once(either):
    at = 2**32 - 4
    either.p(tcp(at, b"data"))
    assert either.s(tcp(at, b"data")) == [0]
    either.p(tcp(at, b"data"))
    either.s(tcp(at + 4, b"more"))
    assert len(reasons(either)) == (0 if is_strict(either) else 1)


def test_the_cut_moves_both_guests_to_the_primarys_place(either):
    either.p(tcp(1, b"before"))
    assert either.cut() == [0]
    either.s(tcp(1, b"BEFORE"))  # late, from the run that the checkpoint has replaced
    either.p(tcp(7, b"after"))
    left = either.s(tcp(7, b"after"))
    assert left == ([1] if is_strict(either) else [])
    assert len(reasons(either)) == (0 if is_strict(either) else 2)


def test_a_cut_is_in_order_of_arrival(either):
    either.p(udp(b"a", dport=1), udp(b"b", dport=2), udp(b"c", dport=1))
    either.p(tcp(9, b"x"), tcp(1, b"y"))
    covered = either.cut()
    assert covered == ([0, 1, 2, 3, 4] if is_strict(either) else [2, 0, 1, 4, 3])


def test_padding_is_not_payload(either):
    assert either.p(tcp(1, pad=6)) == []
    left = either.s(tcp(1))
    assert left == ([0] if is_strict(either) else [])


def test_padding_cannot_hide_a_difference(either):
    either.p(tcp(1, pad=6))
    either.s(tcp(1, pad=6))
    either.s(tcp(1, b"theirs"))
    left = either.p(tcp(1, b"ours.."))
    assert left == ([] if is_strict(either) else [1])
    assert reasons(either) == ([Why.CONTENT] if is_strict(either) else [])


@pytest.mark.parametrize("make", [lambda n: udp(bytes((n,))), lambda n: tcp(n, bytes((n,)))])
def test_a_full_queue_loses_nothing(either, make):
    talk = limited(either, SMALL)
    frames = [make(n) for n in range(8)]
    for frame in frames:
        talk.p(frame)
    if is_strict(talk):
        assert reasons(talk) == [Why.LIMIT]
        assert talk.comparator.held().bytes == 0
        assert talk.cut() == list(range(8))
    else:
        assert lost(talk) == [5, 6, 7]


def test_a_full_table_loses_nothing(either):
    talk = limited(either, SMALL)
    for port in range(12):
        talk.p(udp(b"x", dport=port))
    if is_strict(talk):
        assert reasons(talk) == [Why.LIMIT]
        assert talk.comparator.held().connections == 8
        assert talk.cut() == list(range(12))
    else:
        assert lost(talk) == list(range(9))


def test_what_is_late_is_said_when_it_is(either):
    talk = limited(either, CompareLimits(timeout_ns=1_000, scan_ns=300))
    talk.now_ns = 1
    talk.p(udp(b"x"))
    talk.wait(1_000)
    found = talk.drain()
    if is_strict(talk):
        assert found == [Late("udp 10.0.0.2:53 > 10.0.0.1:5000", 0)]
        talk.wait(10_000)
        assert talk.drain() == []  # once
    else:
        assert found == []
        talk.wait(1_000)
        assert len(talk.drain()) > 1  # late, and again with each scan


def test_an_empty_frame_is_harmless(either):
    """It ends a genuine QEMU."""
    left = either.p(b"")
    either.s(b"")
    assert left == ([0] if is_strict(either) else [])
    assert either.p(udp(b"x")) + either.s(udp(b"x")) == [1]


@pytest.mark.parametrize(
    "other",
    [
        udp(b"data", check=0),
        udp(b"data", pad=9),
        udp(b"data", options=b"\1\1\1\1"),
    ],
    ids=["checksum", "padding", "options"],
)
def test_of_a_datagram_only_what_clients_see_is_compared(either, other):
    either.p(udp(b"data"))
    left = either.s(other)
    assert left == ([0] if is_strict(either) else [])


def test_other_protocols_are_compared_without_the_ip_header(either):
    either.p(ethernet(0x0800, ip4(47, b"gre", ident=1)))
    left = either.s(ethernet(0x0800, ip4(47, b"gre", ident=2)))
    assert left == ([0] if is_strict(either) else [])


def test_a_longer_segment_waits_for_the_rest(either):
    either.p(tcp(1, b"firstsecond", ack=700))
    either.s(tcp(1, b"first", ack=500))
    left = either.s(tcp(6, b"second", ack=500))
    assert left == []
    assert len(reasons(either)) == (0 if is_strict(either) else 1)
    if is_strict(either):
        assert either.s(tcp(12, ack=700)) == [0]


@pytest.mark.parametrize("flags", [SYN, FIN | ACK, RST])
def test_control_segments_need_their_like(either, flags):
    either.p(tcp(1, flags=flags, ack=1000 if flags & ACK else None))
    left = either.s(tcp(1, ack=1000))
    assert left == ([] if is_strict(either) else [0])


def test_two_pings_do_not_mix(either):
    ours = [icmp_echo(1, 1), icmp_echo(2, 1)]
    either.p(*ours)
    either.s(*ours[::-1])
    assert len(reasons(either)) == 0
    assert sorted(either.left) == [0, 1]
    either.p(icmp_echo(1, 2, b"a"))
    either.s(icmp_echo(2, 2, b"b"))
    assert len(reasons(either)) == (0 if is_strict(either) else 1)


# --------------------------------------------------------------- rules 1 to 5: what is compared

ARP = ethernet(0x0806, bytes(28))
NOT_COMPARED = {
    "arp": ARP,
    "lldp": ethernet(0x88CC, bytes(20)),
    "802.3": ethernet(0x0026, bytes(38)),
    "no ethertype": udp(b"x")[:13],
    "cut IP header": udp(b"x")[:30],
    "cut behind the IP header": udp(b"x")[:36],
    "total length beyond the frame": udp(b"x" * 9)[:45],
    "IP version 5": udp(b"x")[:14] + b"\x55" + udp(b"x")[15:],
    "header length 4 words": udp(b"x")[:14] + b"\x44" + udp(b"x")[15:],
    "cut IPv6": udp(b"x", six=True)[:50],
    "cut UDP header": ethernet(0x0800, ip4(17, b"1234567")),
    "cut TCP header": ethernet(0x0800, ip4(6, tcp_body(1)[:19])),
    "TCP offset 4 words": ethernet(0x0800, ip4(6, tcp_body(1)[:12] + b"\x40" + tcp_body(1)[13:])),
    "TCP offset beyond": ethernet(0x0800, ip4(6, tcp_body(1)[:12] + b"\xf0" + tcp_body(1)[13:])),
    "extension cut": ethernet(0x86DD, ip6(0, bytes(7))),
    "extensions without end": ethernet(0x86DD, ip6(0, bytes(8 * 20))),
    "neighbour solicitation": ethernet(0x86DD, ip6(58, bytes((135,)) + bytes(23))),
    "router advertisement": ethernet(0x86DD, ip6(58, bytes((134,)) + bytes(23))),
    "cut tag": ethernet(0x0800, b"", vlans=(5,))[:16],
    "five tags": udp(b"x", vlans=(1, 2, 3, 4, 5)),
}


@pytest.mark.parametrize("frame", NOT_COMPARED.values(), ids=NOT_COMPARED)
def test_rule_1_what_is_not_compared(talk, frame):
    assert talk.s(frame) == []
    assert talk.comparator.deadline_ns() is None
    assert talk.p(frame) == [0]
    assert talk.comparator.held() == type(talk.comparator.held())(0, 0, 0, 0)
    assert reasons(talk) == []


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("vlans", [(), (5,), (5, 6), (1, 2, 3, 4)])
def test_rule_2_addresses_tags_and_names(six, vlans):
    packet = parse(tcp(1, b"x", vlans=vlans, six=six))
    assert packet is not None
    ends = "[fd00::2]:80 > [fd00::1]:40000" if six else f"{GUEST}:80 > {CLIENT}:40000"
    assert describe(packet.key) == f"tcp {ends}" + "".join(f" vlan {v}" for v in vlans)


NO_YES = (False, True)


def test_rule_2_keys_are_distinct():
    frames = [
        make(b"x", dport=port, vlans=vlans, six=six)
        for make in (udp, lambda data, **more: tcp(1, data, **more))
        for port in (1, 2)
        for vlans in ((), (1,), (2,), (1, 2))
        for six in (False, True)
    ]
    frames += [icmp_echo(n, 1, reply=r, six=s) for n in (1, 2) for r in NO_YES for s in NO_YES]
    frames += [ethernet(0x0800, ip4(p, bytes(8))) for p in (2, 47, 50, 51, 89)]
    keys = [packet.key for packet in map(parse, frames) if packet is not None]
    assert len(set(keys)) == len(frames)
    assert len({describe(key) for key in keys}) == len(frames)


def test_rule_2_ipv6_extension_headers_are_skipped(talk):
    body = udp(b"data", six=True)[54:]
    hop, target = (0, b"\0" + bytes(6)), (60, b"\1" + bytes(14))
    assert talk.p(ethernet(0x86DD, ip6(17, body, extensions=(hop, target)))) == []
    assert talk.s(ethernet(0x86DD, ip6(17, body))) == [0]
    atomic = (44, b"\0\0\0\0\0\0\7")  # a whole datagram that could have been cut
    assert talk.p(ethernet(0x86DD, ip6(17, body, extensions=(hop, atomic)))) == []
    assert talk.s(ethernet(0x86DD, ip6(17, body))) == [1]


@pytest.mark.parametrize("cut", [fragments4, fragments6])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_rule_3_fragments_in_any_order_and_twice(talk, cut, order):
    whole = udp(bytes(range(200)) * 15, six=cut is fragments6)
    ours = cut(whole, 1200, 7)
    theirs = [ours[n] for n in order]
    assert talk.p(*theirs[:2], theirs[0]) == []
    assert talk.p(theirs[2]) == []
    assert talk.s(*theirs) == [0, 1, 2, 3]  # together, the repeated one too
    assert talk.comparator.held().bytes == 0


def test_rule_3_fragments_of_tcp(talk):
    whole = tcp(1, bytes(3000))
    assert talk.p(*fragments4(whole, 1480, 3)) == []
    assert talk.s(tcp(1, bytes(1000)), tcp(1001, bytes(1000)), tcp(2001, bytes(1000))) == [0, 1, 2]


@pytest.mark.parametrize("lead", ["p", "s"])
def test_rule_3_a_fragment_in_step_is_still_a_fragment(talk, lead):
    greet(talk)
    pieces = fragments4(tcp(101, bytes(3000)), 1480, 3)
    say, answer = (talk.p, talk.s) if lead == "p" else (talk.s, talk.p)
    assert say(*pieces) == []
    assert answer(pieces[0]) == []
    assert len(answer(*pieces[1:])) == 3
    assert talk.drain() == []


def test_rule_3_fragments_of_different_datagrams_do_not_mix(talk):
    one, two = udp(b"1" * 2000), udp(b"2" * 2000)
    a, b = fragments4(one, 1200, 1), fragments4(two, 1200, 2)
    assert talk.p(a[0], b[0], b[1], a[1]) == []
    assert talk.s(b[1], b[0]) == [1, 2]  # its place in the order is where it was complete
    assert talk.s(*a) == [0, 3]


def test_rule_3_fragments_that_contradict_each_other_never_leave(talk):
    ours = fragments4(udp(b"a" * 2000), 1200, 7)
    other = fragments4(udp(b"b" * 2000), 1200, 7)
    talk.p(ours[0], other[0], ours[1])
    talk.s(*ours)
    assert talk.left == []
    talk.wait(CompareLimits().timeout_ns)
    assert talk.drain()[0] == Late("fragments", 0)
    assert talk.cut() == [0, 1, 2]


def test_rule_3_a_fragment_that_misses_the_others_is_late(talk):
    talk.p(fragments4(udp(b"a" * 2000), 1200, 7)[0])
    talk.now_ns += 5
    assert talk.comparator.deadline_ns() == CompareLimits().timeout_ns
    talk.wait(CompareLimits().timeout_ns)
    assert talk.drain() == [Late("fragments", 0)]
    assert talk.comparator.deadline_ns() is None
    assert talk.cut() == [0]


def test_rule_3_fragments_of_the_secondary_expire(talk):
    talk.s(fragments4(udp(b"a" * 2000), 1200, 7)[0])
    assert talk.comparator.held().bytes > 1200
    talk.wait(CompareLimits().timeout_ns)
    talk.p(ARP)
    assert talk.comparator.held().bytes == 0
    assert talk.drain() == []


def test_rule_3_too_many_fragments_are_a_limit(either):
    talk = Talk(limits=SMALL)
    for ident in range(6):
        talk.p(fragments4(udp(b"a" * 2000), 1200, ident)[0])
        talk.s(fragments4(udp(b"a" * 2000), 1200, ident)[0])
    assert reasons(talk) == [Why.LIMIT]
    assert talk.comparator.held().bytes <= SMALL.queue_bytes
    assert talk.cut() == list(range(6))
    assert talk.p(*fragments4(udp(b"a" * 2000), 1200, 9)) == []  # and all is well again
    assert talk.s(*fragments4(udp(b"a" * 2000), 1200, 9)) == [6, 7]


@pytest.mark.parametrize(
    ("ours", "theirs", "why", "offset", "shown"),
    [
        (b"0123456789", b"01234x6789", Why.CONTENT, 5, (b"56789", b"x6789")),
        (b"0123456789", b"0123456789a", Why.LENGTH, 10, (b"", b"a")),
        (b"x" * 40, b"x" + b"y" * 39, Why.CONTENT, 1, (b"x" * 16, b"y" * 16)),
    ],
)
@pytest.mark.parametrize("primary_first", [True, False])
def test_rule_4_datagrams_that_differ(talk, ours, theirs, why, offset, shown, primary_first):
    talk.p(udp(b"same"))
    talk.s(udp(b"same"))
    said = [lambda: talk.p(udp(ours)), lambda: talk.s(udp(theirs))]
    for say in said if primary_first else said[::-1]:
        say()
    (differs,) = talk.drain()
    assert (differs.why, differs.offset) == (why, offset)
    assert (differs.ours, differs.theirs) == shown
    assert (differs.primary, differs.secondary) == (1, 1)
    assert differs.connection == "udp 10.0.0.2:53 > 10.0.0.1:5000"
    assert talk.cut() == [1]


def test_rule_4_udp_length_field_is_compared(talk):
    frame = bytearray(udp(b"data"))
    frame[39] -= 1
    talk.p(udp(b"data"))
    assert talk.s(bytes(frame)) == []
    assert reasons(talk) == [Why.LENGTH]


@pytest.mark.parametrize("lead", [1, 2, 100, 1024])
def test_rule_4_either_guest_may_lead(talk, lead):
    frames = [udp(n.to_bytes(2)) for n in range(lead)]
    talk.p(*frames)
    assert talk.s(*frames) == list(range(lead))
    talk.s(*frames)
    assert talk.p(*frames) == list(range(lead, 2 * lead))
    assert talk.drain() == []


# --------------------------------------------------------------- rules 6 to 13: TCP


def greet(talk: Talk, ours: int = 100, theirs: int = 900, ack: int = 1000, **more) -> None:
    """SYN-ACK of both; the next byte is at ours + 1."""
    first = len(talk.frames)
    talk.p(tcp(ours, flags=BOTH, ack=ack, **more))
    assert talk.s(tcp(theirs, flags=BOTH, ack=ack, **more)) == [first]


def test_rule_6_an_ack_behind_held_data_waits(talk):
    greet(talk)
    assert talk.p(tcp(101, b"data"), tcp(105, ack=1000)) == []
    assert talk.s(tcp(101, ack=1000)) == []
    assert talk.s(tcp(101, b"data")) == [1, 2]


def test_rule_6_what_has_left_is_repeated_at_once(talk):
    greet(talk)
    talk.s(tcp(101, b"old"))
    assert talk.p(tcp(101, b"old")) == [1]
    assert talk.p(tcp(104, b"new")) == []
    assert talk.p(tcp(101, b"old")) == [3]  # the client lost it: it overtakes what is held
    assert talk.p(tcp(101, b"oldn")) == []  # a byte of this has not left
    assert talk.p(tcp(104, b"new")) == []  # nor this, which is held itself
    assert talk.s(tcp(104, b"new")) == [2, 4, 5]


def test_rule_6_a_repetition_keeps_to_the_other_rules(talk):
    greet(talk)
    talk.s(tcp(101, b"old"))
    talk.p(tcp(101, b"old"), tcp(104, b"new"))
    assert talk.p(tcp(101, b"old", ack=2000)) == []  # the secondary has not acknowledged that
    assert talk.s(tcp(104, ack=2000)) == [3]
    talk.cut(commit=False)
    assert talk.p(tcp(104, b"new")) == []  # that is the checkpoint's, and has not left
    assert talk.p(tcp(101, b"old")) == [5]  # this has
    assert talk.commit() == [4]


def test_rule_6_connections_do_not_wait_for_each_other(talk):
    talk.p(tcp(1, b"a", dport=1), tcp(1, b"b", dport=2))
    assert talk.s(tcp(1, b"b", dport=2)) == [1]
    assert talk.s(tcp(1, b"a", dport=1)) == [0]


def test_rule_7_any_segmentation(talk):
    talk.p(tcp(1, b"0123"), tcp(5, b"456789"), tcp(11, b"ab"))
    assert talk.s(tcp(1, b"01")) == []
    assert talk.s(tcp(3, b"23456")) == [0]
    assert talk.s(tcp(8, b"789ab")) == [1, 2]


def test_rule_7_overlapping_retransmissions(talk):
    talk.p(tcp(1, b"0123"), tcp(3, b"2345"), tcp(1, b"0123456789"))
    assert talk.s(tcp(5, b"45")) == []
    assert talk.s(tcp(2, b"1234")) == []
    assert talk.s(tcp(1, b"0")) == [0, 1]
    assert talk.s(tcp(1, b"0123456789")) == [2]


@pytest.mark.parametrize("side", ["p", "s"])
def test_rule_7_a_guest_that_contradicts_itself(talk, side):
    say = getattr(talk, side)
    say(tcp(1, b"0123"))
    say(tcp(3, b"2x"))
    (differs,) = talk.drain()
    assert differs.why is Why.CONTENT
    assert (differs.primary, differs.secondary) == ((1, None) if side == "p" else (None, 1))
    assert (differs.ours if side == "p" else differs.theirs) == b"x"


def test_rule_7_the_start_may_move_back(talk):
    """The comparator begins in the middle, with a later segment first."""
    talk.p(tcp(500, b"later"))
    talk.p(tcp(100, b"earlier"))
    assert talk.s(tcp(500, b"later")) == [0]
    assert talk.s(tcp(100, b"earlier")) == [1]


def test_rule_7_what_only_the_secondary_repeats_from_before_is_not_late(talk):
    talk.s(tcp(100, b"old"))
    talk.p(tcp(103, b"new"))
    assert talk.s(tcp(103, b"new")) == [0]
    talk.wait(10 * CompareLimits().timeout_ns)
    assert talk.drain() == []


def test_rule_8_the_ack_rule_is_modular(talk):
    talk.p(tcp(1, ack=5))
    assert talk.s(tcp(1, ack=2**32 - 5)) == []
    assert talk.s(tcp(1, ack=5)) == [0]
    assert talk.p(tcp(1, ack=2**32 - 5)) == [1]


def test_rule_8_window_updates_keep_alives_and_duplicate_acks_leave_at_once(talk):
    greet(talk)
    assert talk.s(tcp(101, ack=1200)) == []
    assert talk.p(tcp(101, ack=1200)) == [1]
    assert talk.p(tcp(101, ack=1200, window=9)) == [2]  # window update
    assert talk.p(tcp(100, ack=1200)) == [3]  # keep-alive: one before
    assert talk.p(tcp(100, b"\0", ack=1200)) == [4]  # keep-alive of the old kind
    assert talk.p(tcp(101, ack=1100)) == [5]


@pytest.mark.parametrize("opened_by_guest", [False, True])
def test_rule_9_initial_numbers_may_differ(talk, opened_by_guest):
    flags, ack = (SYN, None) if opened_by_guest else (BOTH, 1000)
    assert talk.p(tcp(100, flags=flags, ack=ack)) == []
    assert talk.s(tcp(900, flags=flags, ack=ack)) == [0]
    assert talk.p(tcp(100, flags=flags, ack=ack)) == [1]  # said again
    assert talk.p(tcp(101, b"x")) == []
    assert talk.s(tcp(101, b"x")) == [2]


def test_rule_9_the_secondary_may_be_first(talk):
    assert talk.s(tcp(900, flags=BOTH)) == []
    assert talk.comparator.deadline_ns() == CompareLimits().timeout_ns
    assert talk.p(tcp(100, flags=BOTH)) == [0]
    assert talk.comparator.deadline_ns() is None


def test_rule_9_a_syn_ack_acknowledges_no_more_than_the_secondarys(talk):
    talk.p(tcp(100, flags=BOTH, ack=2000))
    assert talk.s(tcp(900, flags=BOTH, ack=1000)) == []
    assert talk.s(tcp(901, flags=BOTH, ack=2000)) == []


@pytest.mark.parametrize("secondary_first", [False, True])
@pytest.mark.parametrize("theirs", [b"hello", b"hellO"])
def test_rule_9_payload_of_a_syn_is_compared(talk, secondary_first, theirs):
    ours = tcp(100, b"hello", flags=SYN, ack=None)
    other = tcp(900, theirs, flags=SYN, ack=None)
    said = [lambda: talk.p(ours), lambda: talk.s(other)]
    left = [n for say in (said[::-1] if secondary_first else said) for n in say()]
    assert left == ([0] if theirs == b"hello" else [])
    assert reasons(talk) == ([] if theirs == b"hello" else [Why.CONTENT])


def test_rule_10_fin_needs_the_same_place(talk):
    greet(talk)
    assert talk.p(tcp(101, b"bye", flags=FIN | ACK)) == []
    assert talk.s(tcp(101, b"bye")) == []
    assert talk.s(tcp(104, flags=FIN | ACK)) == [1]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (tcp(101, b"bye", flags=FIN | ACK), tcp(101, b"by", flags=FIN | ACK)),
        (tcp(101, b"byebye"), tcp(101, b"bye", flags=FIN | ACK)),
        (tcp(101, b"bye", flags=FIN | ACK), tcp(101, b"byebye")),
        (tcp(101, b"byebye"), tcp(101, flags=RST)),
        (tcp(101, flags=RST), tcp(101, b"byebye")),
    ],
)
@pytest.mark.parametrize("primary_first", [True, False])
def test_rule_14_one_guest_ends_where_the_other_goes_on(talk, ours, theirs, primary_first):
    greet(talk)
    said = [lambda: talk.p(ours), lambda: talk.s(theirs)]
    for say in said if primary_first else said[::-1]:
        say()
    assert talk.left == [0]
    assert reasons(talk) == [Why.CONTROL]


def test_rule_11_rst_needs_a_rst(talk):
    greet(talk)
    assert talk.p(tcp(101, flags=RST | ACK, ack=5000)) == []
    assert talk.s(tcp(777, flags=RST, ack=None)) == [1]


def test_rule_11_rst_waits_behind_data(talk):
    greet(talk)
    talk.p(tcp(101, b"x"), tcp(102, flags=RST))
    assert talk.s(tcp(101, b"x"), tcp(102, flags=RST)) == [1, 2]


def test_rule_11_where_nothing_listens_one_for_one(talk):
    refusal = tcp(0, flags=RST | ACK, ack=1001)
    assert talk.p(refusal, refusal) == []
    assert talk.s(refusal) == [0]
    assert talk.s(refusal) == [1]
    assert talk.s(refusal) == []
    assert talk.p(refusal) == [2]
    assert talk.comparator.held().connections == 0


def end(talk: Talk) -> None:
    greet(talk)
    talk.p(tcp(101, flags=FIN | ACK))
    assert talk.s(tcp(101, flags=FIN | ACK)) == [1]


def test_rule_11_rst_of_only_one_guest_after_both_fins(talk):
    end(talk)
    assert talk.p(tcp(102, flags=RST, ack=None)) == [2]
    talk.s(tcp(102, flags=RST, ack=None), tcp(102, flags=RST, ack=None))
    talk.wait(10**10)
    assert talk.drain() == []


def test_rule_11_rst_of_only_the_secondary_after_both_fins_is_not_late(talk):
    end(talk)
    talk.s(tcp(102, flags=RST, ack=None))
    talk.wait(10**10)
    assert talk.drain() == []


def test_rule_12_the_last_ack_of_only_one_guest(talk):
    end(talk)
    assert talk.p(tcp(102, ack=1001)) == [2]
    assert talk.p(tcp(102, ack=1500)) == []  # but no more: a half-closed client goes on sending
    assert talk.s(tcp(102, ack=1500)) == [3]


def test_rule_13_ports_are_used_again(talk):
    end(talk)
    for start in (5000, 2**32 - 2, 70_000):
        first = len(talk.frames)
        greet(talk, ours=start, theirs=start + 77, ack=start + 5)
        assert talk.p(tcp(start + 1, b"again", ack=start + 5)) == []
        assert talk.s(tcp(start + 1, b"again", ack=start + 5)) == [first + 1]
    assert talk.drain() == []


def test_rule_13_the_secondary_may_begin_first(talk):
    end(talk)
    assert talk.s(tcp(333, flags=BOTH, ack=9)) == []
    assert talk.p(tcp(102, ack=1001)) == [2]  # the primary is still in the old one
    assert talk.p(tcp(5000, flags=BOTH, ack=9)) == [3]
    assert talk.p(tcp(5001, b"x", ack=9)) == []
    assert talk.s(tcp(5001, b"x", ack=9)) == [4]
    assert talk.drain() == []


def test_rule_13_the_secondary_may_repeat_the_syn_that_it_began_with(talk):
    end(talk)
    again = tcp(333, flags=BOTH, ack=9)
    assert talk.s(again, tcp(5001, b"x", ack=9), again) == []
    assert talk.p(tcp(5000, flags=BOTH, ack=9)) == [2]
    assert talk.p(tcp(5001, b"x", ack=9)) == [3]


def test_rule_13_frames_of_the_old_conversation_do_not_disturb_the_new(talk):
    end(talk)
    talk.p(tcp(0x70000000, flags=BOTH, ack=0x60000000))
    talk.s(tcp(102, ack=1001), tcp(101, flags=FIN | ACK))  # stragglers
    assert talk.s(tcp(55, flags=BOTH, ack=0x60000000)) == [2]
    assert talk.p(tcp(0x70000001, b"x", ack=0x60000000)) == []
    assert talk.s(tcp(0x70000001, b"x", ack=0x60000000)) == [3]
    assert talk.drain() == []


def test_rule_13_a_new_conversation_over_held_frames(talk):
    greet(talk)
    talk.p(tcp(101, b"held"))
    talk.p(tcp(5000, flags=BOTH, ack=9))
    assert reasons(talk) == [Why.CONTROL]
    assert talk.p(tcp(5001, b"more", ack=9)) == []
    assert talk.cut() == [1, 2, 3]
    assert talk.p(tcp(5005, b"on", ack=9)) == []
    assert talk.s(tcp(5005, b"on", ack=9)) == [4]


# --------------------------------------------------------------- rules 14 to 18


def test_rule_14_first_differing_byte_in_the_primarys_payload(talk):
    talk.p(tcp(1, b"0123456789"), tcp(11, b"abcdefghijklmnopqrstuvwxyz"))
    assert talk.s(tcp(1, b"012345678")) == []
    assert talk.s(tcp(10, b"9abcXefghijklmnopqrstuvwxyz")) == []
    (differs,) = talk.drain()
    assert (differs.why, differs.primary, differs.secondary, differs.offset) == (
        Why.CONTENT,
        1,
        1,
        3,
    )
    assert (differs.ours, differs.theirs) == (b"defghijklmnopqrs", b"Xefghijklmnopqrs")


def test_rule_14_everything_of_a_connection_is_held_after_a_difference(talk):
    greet(talk)
    talk.p(tcp(101, b"a"))
    talk.s(tcp(101, b"b"))
    assert len(reasons(talk)) == 1
    talk.p(tcp(102, b"more"), tcp(106), tcp(106, flags=FIN | ACK))
    talk.s(tcp(102, b"more"), tcp(106), tcp(106, flags=FIN | ACK))
    talk.wait(10 * CompareLimits().timeout_ns)
    assert talk.drain() == []
    assert talk.comparator.deadline_ns() is None
    assert talk.comparator.held().bytes == 0
    assert talk.cut() == [1, 2, 3, 4]


def test_rule_14_numbers_out_of_reach(talk):
    greet(talk)
    assert talk.s(tcp(0x80000000, b"untranslated")) == []
    assert reasons(talk) == [Why.POSITION]


@pytest.mark.parametrize(
    ("frame", "late"),
    [
        (tcp(101, b"data"), True),
        (tcp(101, flags=FIN | ACK), True),
        (tcp(101, flags=RST), True),
        (tcp(7777, flags=BOTH), True),
        (tcp(101, ack=4000), False),
        (udp(b"x"), True),
        (icmp_echo(1, 1), True),
    ],
    ids=["data", "fin", "rst", "syn", "ack", "udp", "icmp"],
)
def test_rule_15_what_only_the_secondary_says(talk, frame, late):
    greet(talk)
    talk.now_ns = 5
    talk.s(frame)
    timeout_ns = CompareLimits().timeout_ns
    assert talk.comparator.deadline_ns() == (5 + timeout_ns if late else None)
    talk.wait(timeout_ns - 1)
    assert talk.drain() == []
    talk.wait(1)
    found = talk.drain()
    assert [(type(v), v.primary, v.secondary) for v in found] == [(Late, None, 1)] * late
    talk.wait(10 * timeout_ns)
    assert talk.drain() == []


def test_rule_15_what_was_late_still_leaves(talk):
    talk.p(tcp(1, b"data"))
    talk.wait(CompareLimits().timeout_ns)
    assert len(talk.drain()) == 1
    assert talk.s(tcp(1, b"data")) == [0]


def test_rule_15_each_frame_has_its_own_deadline(talk):
    timeout_ns = CompareLimits().timeout_ns
    talk.p(tcp(1, b"aa"))
    talk.wait(10)
    talk.p(tcp(3, b"bb"))
    assert talk.comparator.deadline_ns() == timeout_ns
    assert talk.s(tcp(1, b"aa")) == [0]
    assert talk.comparator.deadline_ns() == timeout_ns + 10
    assert talk.s(tcp(3, b"bb")) == [1]
    assert talk.comparator.deadline_ns() is None


def test_rule_15_what_waits_is_not_forgotten_among_what_does_not():
    """One frame waits while thousands of others come and go: its deadline stays, memory too."""
    comparator = StrictComparator(CompareLimits())
    comparator.primary(0, [udp(b"waits", dport=9)], 7)
    passing = udp(b"passes")
    for number in range(1, 5_000):
        comparator.primary(number, [passing], 7 + number)
        comparator.secondary(number, [passing], 7 + number)
        comparator.verdicts()
    assert len(comparator._ages) < 3_000
    due_ns = 7 + CompareLimits().timeout_ns
    assert comparator.deadline_ns() == due_ns
    comparator.tick(due_ns)
    assert comparator.verdicts() == [Late("udp 10.0.0.2:53 > 10.0.0.1:9", 0)]
    assert comparator.deadline_ns() is None


def test_rule_16_a_stuck_connection_goes_on_at_the_cut(talk):
    greet(talk)
    talk.p(tcp(101, b"ours"))
    talk.s(tcp(101, b"THEIRS"))
    talk.p(tcp(105, b" and more", ack=1300))
    assert talk.cut() == [1, 2]
    assert talk.p(tcp(114, b"on", ack=1300)) == []
    assert talk.s(tcp(114, b"on", ack=1300)) == [3]


def test_rule_16_the_secondarys_retransmission_of_what_the_cut_covers_is_ignored(talk):
    greet(talk)
    talk.p(tcp(101, b"ours"))
    talk.cut()
    assert talk.s(tcp(101, b"ours"), tcp(101, b"OURS")) == []
    assert talk.drain() == []
    assert talk.comparator.deadline_ns() is None


def test_rule_16_what_is_not_committed_is_not_repeated(talk):
    greet(talk)
    talk.p(tcp(101, b"left"))
    talk.s(tcp(101, b"left"))
    talk.p(tcp(105, b"held", ack=1400))
    talk.p(tcp(109, flags=FIN | ACK, ack=1400))
    assert talk.cut(commit=False) == [2, 3]
    assert talk.p(tcp(101, b"left")) == [4]  # has left: no secret
    assert talk.p(tcp(105, b"held")) == []
    assert talk.p(tcp(109, flags=FIN | ACK)) == []
    assert talk.s(tcp(105, b"held"), tcp(109, flags=FIN | ACK)) == []
    assert talk.commit() == [5, 6]


def test_rule_16_a_fin_that_is_not_committed_is_not_repeated(talk):
    greet(talk)
    talk.p(tcp(101, flags=FIN | ACK))
    assert talk.cut(commit=False) == [1]
    assert talk.p(tcp(101, flags=FIN | ACK)) == []
    assert talk.commit() == [2]


def test_rule_16_a_second_cut_does_not_commit_the_first(talk):
    greet(talk)
    talk.p(tcp(101, b"left"))
    talk.s(tcp(101, b"left"))
    talk.p(tcp(105, b"held"))
    assert talk.cut(commit=False) == [2]
    assert talk.p(tcp(109, b"new")) == []
    assert talk.s(tcp(109, b"new")) == [3]
    assert talk.cut(commit=False) == []
    assert talk.p(tcp(101, b"left")) == [4]
    assert talk.p(tcp(105, b"held")) == []
    assert talk.commit() == [5]


def test_rule_16_an_ack_that_only_the_checkpoint_has_waits_for_the_commit(talk):
    greet(talk)
    talk.p(tcp(101, ack=1400))
    assert talk.cut(commit=False) == [1]
    assert talk.p(tcp(101, ack=1400)) == []
    assert talk.p(tcp(101, ack=1000)) == []
    assert talk.commit() == [2, 3]


def test_rule_16_or_for_the_loaded_secondary(talk):
    greet(talk)
    talk.p(tcp(101, ack=1400))
    talk.cut(commit=False)
    assert talk.p(tcp(101, ack=1400)) == []
    assert talk.s(tcp(101, ack=1400)) == [2]


def test_rule_16_what_only_the_secondary_had_acknowledged_is_forgotten(talk):
    greet(talk)
    talk.p(tcp(101, ack=1100))
    assert talk.s(tcp(101, ack=1900)) == [1]
    talk.cut()
    assert talk.p(tcp(101, ack=1900)) == []  # the secondary has the primary's state now
    assert talk.s(tcp(101, ack=1900)) == [2]


def test_rule_16_a_handshake_over_a_cut(talk):
    talk.p(tcp(100, flags=BOTH))
    assert talk.cut() == [0]
    assert talk.s(tcp(100, flags=BOTH)) == []  # the primary's number: it has its state
    assert talk.p(tcp(100, flags=BOTH)) == [1]
    assert talk.p(tcp(101, b"x")) == []
    assert talk.s(tcp(101, b"x")) == [2]
    assert talk.drain() == []


def test_rule_16_datagrams_are_forgotten(talk):
    talk.p(udp(b"ours"))
    talk.s(udp(b"theirs", dport=7))
    assert talk.cut() == [0]
    assert talk.comparator.held() == type(talk.comparator.held())(0, 0, 0, 0)
    talk.wait(10**10)
    assert talk.drain() == []
    assert talk.s(udp(b"ours")) == []
    assert talk.p(udp(b"ours")) == [1]


def test_rule_16_a_cut_of_a_closing_conversation(talk):
    greet(talk)
    talk.p(tcp(101, flags=FIN | ACK, ack=1001))
    assert talk.cut() == [1]
    assert talk.p(tcp(101, flags=FIN | ACK, ack=1001)) == [2]
    assert talk.p(tcp(102, ack=1002)) == [3]
    talk.now_ns += 2 * LINGER_NS
    talk.p(ARP)
    assert talk.comparator.held().connections == 0


@pytest.mark.parametrize("side", ["p", "s"])
@pytest.mark.parametrize("kind", ["udp", "tcp", "holes"])
@pytest.mark.parametrize("what", ["frames", "bytes"])
def test_rule_17_a_full_queue_is_a_limit(side, kind, what):
    talk = Talk(limits=SMALL)
    size = 1 if what == "frames" else 1400
    say = getattr(talk, side)
    make = {
        "udp": lambda n: udp(bytes((n,)) * size),
        "tcp": lambda n: tcp(1 + n * size, bytes((n,)) * size),
        "holes": lambda n: tcp(1 + 2 * n * size, bytes((n,)) * size),
    }[kind]
    for n in range(12):
        say(make(n))
        assert talk.comparator.held().bytes <= SMALL.queue_bytes
    assert reasons(talk) == [Why.LIMIT]
    assert talk.comparator.held().bytes == 0
    assert talk.comparator.held().secondary_frames == 0
    assert talk.cut() == (list(range(12)) if side == "p" else [])
    assert talk.p(udp(b"x")) + talk.s(udp(b"x")) == [12 if side == "p" else 0]


def test_rule_17_ranges_that_were_compared_apart_are_bounded(talk):
    talk = Talk(limits=SMALL)
    for n in range(6):
        talk.p(tcp(1 + 2 * n, b"x"))
        talk.s(tcp(1 + 2 * n, b"x"))
    assert reasons(talk) == [Why.LIMIT]


def test_rule_18_ended_conversations_are_forgotten(talk):
    end(talk)
    assert talk.comparator.held().connections == 1
    talk.now_ns += LINGER_NS
    talk.p(ARP)
    assert talk.comparator.held().connections == 0


def test_rule_18_idle_conversations_make_room():
    talk = Talk(limits=SMALL)
    for port in range(50):
        greet(talk, dport=port)
        talk.now_ns += 1
    assert talk.drain() == []
    assert talk.comparator.held().connections == SMALL.connections
    assert talk.p(tcp(101, b"x", dport=0)) == []  # forgotten: its bytes need a witness as ever
    assert talk.s(tcp(101, b"x", dport=0)) == [50]


def test_batches_become_one_verdict():
    comparator = StrictComparator(CompareLimits())
    frames = [tcp(1 + n, b"x", flags=ACK | PSH) for n in range(64)]
    comparator.primary(0, frames, 0)
    comparator.secondary(0, frames, 0)
    comparator.primary(64, [ARP], 0)
    assert comparator.verdicts() == [Same(tuple(range(65)))]


def test_verdicts_are_in_order(talk):
    comparator = talk.comparator
    comparator.primary(0, [ARP, udp(b"a"), ARP], 0)
    comparator.secondary(0, [udp(b"b")], 0)
    comparator.primary(3, [ARP], 0)
    first, second, third = comparator.verdicts()
    assert (first, third) == (Same((0, 2)), Same((3,)))
    assert isinstance(second, Differs)
