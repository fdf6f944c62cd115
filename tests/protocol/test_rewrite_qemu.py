"""Each defect of filter-rewriter: seen in mode `qemu`, gone in the strict one.

That the mode does what the genuine filter does is for tests/conformance/test_rewriter.py.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colosim.protocol.rewrite import Rewriter, StrictRewriter
from colosim.protocol.rewrite_qemu import QemuRewriter
from tests.segments import (
    ACK,
    CLIENT6,
    FIN,
    GUEST6,
    RST,
    SYN,
    M,
    Ports,
    Segment,
    changed,
    inet_checksum,
    read,
    sack,
)

PORTS = Ports()
C, P, S = 1_000, 500_000, 90_000_000  # first numbers: client's, primary's, secondary's
BOTH = (QemuRewriter, StrictRewriter)


def inward(rewriter: Rewriter, segment: Segment) -> Segment:
    return read(rewriter.to_guest([segment.frame()])[0], len(segment.tags) // 4)


def outward(rewriter: Rewriter, segment: Segment) -> Segment:
    return read(rewriter.from_guest([segment.frame()])[0][0], len(segment.tags) // 4)


def opened(kind: type[Rewriter], ports: Ports = PORTS) -> Rewriter:
    rewriter = kind()
    rewriter.to_guest([ports.inward(C, 0, SYN).frame()])
    rewriter.from_guest([ports.outward(S, C + 1, SYN | ACK).frame()])
    rewriter.to_guest([ports.inward(C + 1, P + 1).frame()])
    return rewriter


def pair(kind_to_value) -> tuple:
    """What mode `qemu` and the strict one make of the same."""
    qemu, strict = map(kind_to_value, BOTH)
    return qemu, strict


def test_what_both_do_alike():
    for kind in BOTH:
        rewriter = opened(kind)
        assert inward(rewriter, PORTS.inward(C + 1, P + 1, payload=b"x")).ack == S + 1
        answer = outward(rewriter, PORTS.outward(S + 1, C + 2, payload=b"y"))
        assert (answer.seq, answer.harm) == (P + 1, 0)
        assert rewriter.translating() == 1
        rewriter.loaded()
        assert rewriter.translating() == 0


def test_reset_without_ack_keeps_the_guests_number():
    reset = PORTS.outward(S + 1, 0, RST)
    assert pair(lambda kind: outward(opened(kind), reset).seq) == (S + 1, P + 1)


def test_syn_ack_sent_again_keeps_the_guests_number():
    again = PORTS.outward(S, C + 1, SYN | ACK)
    assert pair(lambda kind: outward(opened(kind), again).seq) == (S, P)


def test_sack_blocks_keep_the_primarys_numbers():
    came = PORTS.inward(C + 1, P + 1, options=sack((P + 100, P + 200)))
    expected = sack((P + 100, P + 200)), sack((S + 100, S + 200))
    assert pair(lambda kind: inward(opened(kind), came).options) == expected


def test_client_that_acknowledges_before_the_guests_syn_ack():
    """filter-rewriter: the guest is told that number 1 arrived, and its data leave wrong."""

    def conversation(kind: type[Rewriter]) -> tuple[int, int]:
        rewriter = kind()
        rewriter.to_guest([PORTS.inward(C, 0, SYN).frame()])
        given = rewriter.to_guest([PORTS.inward(C + 1, P + 1).frame()])
        given += rewriter.from_guest([PORTS.outward(S, C + 1, SYN | ACK).frame()])[1]
        assert len(given) == 1
        return read(given[0]).ack, outward(rewriter, PORTS.outward(S + 1, C + 1)).seq

    assert pair(conversation) == ((1, S + P + 1), (S + 1, P + 1))


def test_handshake_that_a_checkpoint_interrupts():
    """filter-rewriter: the offset becomes minus the primary's number, until the next checkpoint."""

    def conversation(kind: type[Rewriter]) -> tuple[int, int]:
        rewriter = kind()
        rewriter.to_guest([PORTS.inward(C, 0, SYN).frame()])
        rewriter.from_guest([PORTS.outward(S, C + 1, SYN | ACK).frame()])
        rewriter.loaded()
        answer = inward(rewriter, PORTS.inward(C + 1, P + 1))
        return answer.ack, outward(rewriter, PORTS.outward(P + 1, C + 1)).seq

    assert pair(conversation) == ((1, 2 * P + 1), (P + 1, P + 1))


def test_syn_sent_again_on_an_open_connection():
    """filter-rewriter: the next acknowledgment subtracts the primary's number once more."""

    def conversation(kind: type[Rewriter]) -> int:
        rewriter = opened(kind)
        inward(rewriter, PORTS.inward(C, 0, SYN))
        return inward(rewriter, PORTS.inward(C + 1, P + 1)).ack

    assert pair(conversation) == ((S - P + 1) & M, S + 1)


def test_connection_opened_by_the_guest():
    def conversation(kind: type[Rewriter]) -> tuple[int, int]:
        rewriter = kind()
        outward(rewriter, PORTS.outward(S, 0, SYN))
        answer = inward(rewriter, PORTS.inward(C, P + 1, SYN | ACK))
        return answer.ack, outward(rewriter, PORTS.outward(S + 1, C + 1)).seq

    assert pair(conversation) == ((P + 1, S + 1), (S + 1, P + 1))


def test_reset_of_a_guest_that_has_no_answer_yet():
    """filter-rewriter: between SYN-ACK and answer the offset is the guest's whole number."""

    def conversation(kind: type[Rewriter]) -> int:
        rewriter = kind()
        rewriter.to_guest([PORTS.inward(C, 0, SYN).frame()])
        rewriter.from_guest([PORTS.outward(S, C + 1, SYN | ACK).frame()])
        return outward(rewriter, PORTS.outward(S + 1, C + 1, RST | ACK)).seq

    assert pair(conversation) == (1, S + 1)


CLOSES = {
    "client first": (
        ("in", PORTS.inward(C + 1, P + 1, FIN | ACK)),
        ("out", PORTS.outward(S + 1, C + 2, FIN | ACK)),
        ("in", PORTS.inward(C + 2, P + 2)),
    ),
    "guest first": (
        ("out", PORTS.outward(S + 1, C + 1, FIN | ACK)),
        ("in", PORTS.inward(C + 1, P + 2, FIN | ACK)),
        ("out", PORTS.outward(S + 2, C + 2)),
    ),
    "reset by the client": (("in", PORTS.inward(C + 1, P + 1, RST | ACK)),),
    "reset by the guest": (("out", PORTS.outward(S + 1, C + 1, RST | ACK)),),
}


@pytest.mark.parametrize("close", CLOSES)
def test_closed_connections_count_as_translated(close):
    """So filter-rewriter never stops looking at new connections after a failover."""

    def conversation(kind: type[Rewriter]) -> int:
        rewriter = opened(kind)
        for side, segment in CLOSES[close]:
            (inward if side == "in" else outward)(rewriter, segment)
        return rewriter.translating()

    assert pair(conversation) == (1, 0)


@pytest.mark.parametrize(
    "ports",
    [Ports(CLIENT6, GUEST6), Ports(tags=b"\x81\x00\x00\x07")],
    ids=["IPv6", "VLAN"],
)
def test_ipv6_and_vlan(ports):
    def conversation(kind: type[Rewriter]) -> int:
        return outward(opened(kind, ports), ports.outward(S + 1, C + 1)).seq

    assert pair(conversation) == (S + 1, P + 1)


def test_wrong_checksum_becomes_right():
    wrong = PORTS.outward(S + 1, C + 1, payload=b"damaged", harm=7)
    assert pair(lambda kind: outward(opened(kind), wrong).harm != 0) == (False, True)


def test_first_fragment_gets_no_new_checksum():
    first = PORTS.outward(S + 1, C + 1, payload=bytes(44), fragment=0x2000)
    assert pair(lambda kind: outward(opened(kind), first).seq) == (P + 1, P + 1)
    assert pair(lambda kind: outward(opened(kind), first).harm == 0) == (False, True)


@pytest.mark.parametrize(
    ("words", "hit"), [(1, "flags"), (2, "ack"), (3, "seq"), (4, "source_port")]
)
def test_ip_options_make_the_checksum_land_elsewhere(words, hit):
    came = PORTS.outward(S + 1, C + 1, payload=bytes(60), ip_options=b"\1" * 4 * words)
    seen = outward(opened(QemuRewriter), came)
    assert seen.harm != 0
    correct = outward(opened(StrictRewriter), came)
    assert correct == changed(came, seq=P + 1)
    assert getattr(seen, hit) != getattr(correct, hit)


def test_icmp_errors_quote_a_number_that_the_guest_never_sent():
    quoted = PORTS.outward(P + 1, C + 1).ip()
    body = struct.pack(">BBHI", 3, 4, 0, 1400) + quoted
    body = body[:2] + struct.pack(">H", inet_checksum(body)) + body[4:]
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 7, 0, 64, 1, 0) + bytes(8)
    frame = bytes(12) + b"\x08\x00" + head + body

    def conversation(kind: type[Rewriter]) -> int:
        new = opened(kind).to_guest([frame])[0]
        return int(struct.unpack_from(">I", new, 34 + 8 + 24)[0])

    assert pair(conversation) == (P + 1, S + 1)


def test_all_connections_are_forgotten_at_once():
    def conversation(kind: type[Rewriter]) -> int:
        rewriter = opened(kind)
        for port in range(16385):
            other = Ports(client_port=port)
            rewriter.to_guest([other.inward(C, 0, SYN).frame()])
        return outward(rewriter, PORTS.outward(S + 1, C + 1)).seq

    assert pair(conversation) == (S + 1, P + 1)


class TestFailover:
    def test_mode_is_entered_when_nothing_is_translated(self):
        rewriter = QemuRewriter()
        rewriter.promoted()
        frame = PORTS.inward(C, 0, SYN).frame()
        assert rewriter.to_guest([frame]) == [frame]
        assert rewriter.connections() == 0

    def test_mode_is_not_entered_otherwise(self):
        rewriter = opened(QemuRewriter)
        rewriter.promoted()
        inward(rewriter, Ports(client_port=1).inward(C, 0, SYN))
        assert isinstance(rewriter, QemuRewriter)
        assert rewriter.connections() == 2


@given(
    frames=st.lists(
        st.tuples(
            st.booleans(),
            st.one_of(
                st.binary(max_size=100),
                st.builds(
                    lambda kind, rest: bytes(12) + kind + rest,
                    st.sampled_from(
                        [b"\x08\x00", b"\x81\x00", b"\x88\xa8\x00\x07\x81\x00\x00\x09"]
                    ),
                    st.binary(max_size=100),
                ),
                st.builds(
                    lambda head, rest: bytes(12) + b"\x08\x00" + head + bytes(8) + b"\6" + rest,
                    st.integers(0x40, 0x4F).map(lambda byte: bytes((byte,))),
                    st.binary(max_size=100),
                ),
            ),
        ),
        max_size=30,
    )
)
def test_anything_at_all(frames):
    rewriter = QemuRewriter()
    for is_inward, frame in frames:
        out = rewriter.to_guest([frame]) if is_inward else rewriter.from_guest([frame])[0]
        assert [len(each) for each in out] == [len(frame)]
