"""Mode ``qemu`` without QEMU: what colo-compare was seen to do, one row each.

`tests/conformance` shows that QEMU does the same.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colosim.protocol.compare_qemu import QemuComparator
from colosim.protocol.verdicts import CompareLimits, Differs, Held, Late, Lost, Same, Why
from tests.conformance.frames import AH, GRE, icmp, ip, tcp, vnet
from tests.conformance.rows import CP, DATA, OTHER, ROWS, WHERE, N, Outcome, P, S, bare, t, u


def outcome(comparator: QemuComparator) -> Outcome:
    found: list = []
    for verdict in comparator.verdicts():
        if isinstance(verdict, Same):
            found += verdict.frames
        elif isinstance(verdict, Lost):
            found.append(("lost", *verdict.frames))
        else:
            found.append(N)
    return tuple(found)


def played(*steps, limits: CompareLimits | None = None, is_vnet: bool = False) -> list[Outcome]:
    """Each step's outcome; the primary's frames are counted from 1."""
    comparator = QemuComparator(limits or CompareLimits(), vnet=is_vnet)
    primaries = secondaries = 0
    found = []
    for step in steps:
        if isinstance(step, P):
            primaries += 1
            comparator.primary(primaries, [step.frame], 0)
        elif isinstance(step, S):
            secondaries += 1
            comparator.secondary(secondaries, [step.frame], 0)
        else:
            found.append(comparator.cut(0))
            assert outcome(comparator) == ()
            continue
        found.append(outcome(comparator))
    return found


@pytest.mark.parametrize("name", ROWS)
def test_what_was_seen(name):
    steps, wanted = ROWS[name]
    assert played(*steps) == wanted


@pytest.mark.parametrize("frame", [b"", bytes(69633)], ids=["empty", "too large"])
def test_what_qemu_does_not_survive_is_ignored(frame):
    assert played(P(frame), S(frame), CP()) == [(("lost", 1),), (), ()]


# -- limits ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "flushed"),
    [(lambda i: u(bytes([i])), (5, 4, 3, 2, 1)), (lambda i: t(i, i + 1), (1, 2, 3, 4, 5))],
    ids=["udp", "tcp"],
)
def test_a_queue_holds_one_more_than_its_limit_and_loses_the_newest(build, flushed):
    limits = CompareLimits(queue_frames=4)
    steps = [P(build(i)) for i in range(7)]
    assert played(*steps, CP(), limits=limits) == [
        *[()] * 5,
        (("lost", 6),),
        (("lost", 7),),
        flushed,
    ]


def test_the_secondarys_excess_is_dropped_and_what_pends_is_said_again():
    limits = CompareLimits(queue_frames=1)
    steps = [P(u(b"0")), *(S(u(bytes([i]))) for i in range(1, 5)), CP()]
    assert played(*steps, limits=limits) == [(), (N,), (N,), (N,), (N,), (1,)]


def test_a_full_table_is_cleared():
    limits = CompareLimits(connections=3)
    flows = [WHERE._replace(from_port=i) for i in range(5)]
    steps = [P(u(b"a", flow)) for flow in flows]
    assert played(*steps, S(u(b"a", flows[0])), S(u(b"a", flows[4])), limits=limits) == [
        *[()] * 4,
        (("lost", 1, 2, 3, 4),),
        (),
        (5,),
    ]


def test_limits_may_be_changed():
    comparator = QemuComparator(CompareLimits(queue_frames=1))
    comparator.primary(1, [u(b"1"), u(b"2"), u(b"3")], 0)
    comparator.limits = CompareLimits(queue_frames=2)
    comparator.primary(4, [u(b"4"), u(b"5")], 0)
    assert comparator.verdicts() == [Lost((3,)), Lost((5,))]
    assert comparator.cut(0) == (4, 2, 1)


# -- vnet headers ----------------------------------------------------------------------------


def test_vnet_headers_are_not_compared_but_by_other_protocols():
    for build in (lambda: u(b"a"), lambda: t(0, 9), lambda: icmp(WHERE, b"a")):
        one, two = vnet(build(), b"1" * 12), vnet(build(), b"2" * 12)
        assert played(P(one), S(two), is_vnet=True) == [(), (1,)]
    one, two = vnet(ip(GRE, WHERE, b"a"), b"1" * 12), vnet(ip(GRE, WHERE, b"a"), b"2" * 12)
    assert played(P(one), S(two), is_vnet=True) == [(), (1,)]


def test_vnet_headers_of_different_lengths():
    """Sizes are those of header and frame together; for TCP only payload counts."""
    one, two = (vnet(u(b"a"), bytes(size)) for size in (10, 12))
    assert played(P(one), S(two), is_vnet=True) == [(), (N,)]
    one, two = (vnet(t(0, 9), bytes(size)) for size in (10, 12))
    assert played(P(one), S(two), is_vnet=True) == [(), (1,)]


@pytest.mark.parametrize("said", [21, 40, 0xFFFFFFFF])
def test_a_vnet_length_that_cannot_be(said):
    frame = vnet(u(b"a"), bytes(12), said)
    assert played(P(frame), S(frame), is_vnet=True) == [(1,), ()]


# -- time ------------------------------------------------------------------------------------


def ms(number: int) -> int:
    return number * 1_000_000


def test_one_late_a_scan_until_the_cut():
    limits = CompareLimits(timeout_ns=ms(300), scan_ns=ms(100))
    comparator = QemuComparator(limits, start_ns=ms(50))
    assert comparator.deadline_ns() is None
    comparator.secondary(7, [u(b"a")], ms(120))
    comparator.primary(1, [u(b"b", OTHER)], ms(120))
    found = []
    while (due_ns := comparator.deadline_ns()) is not None and due_ns <= ms(700):
        comparator.tick(due_ns)
        found.append((due_ns // ms(1), comparator.verdicts()))
    late = Late("udp 10.0.0.2:80 > 10.0.0.1:40000", secondary=7)
    assert found == [
        *((at, []) for at in (150, 250, 350)),
        *((at, [late]) for at in (450, 550, 650)),
    ]
    comparator.cut(ms(700))
    assert comparator.deadline_ns() is None
    comparator.tick(ms(900))
    assert comparator.verdicts() == []


def test_as_old_as_the_timeout_is_not_late():
    comparator = QemuComparator(CompareLimits(timeout_ns=ms(100), scan_ns=ms(100)))
    comparator.primary(1, [t(0, 5)], 0)
    comparator.tick(ms(100))
    assert comparator.verdicts() == []
    comparator.tick(ms(200))
    assert comparator.verdicts() == [Late("tcp 10.0.0.2:80 > 10.0.0.1:40000", primary=1)]


def test_scans_keep_their_beat_while_nothing_is_held():
    comparator = QemuComparator(CompareLimits(timeout_ns=ms(10), scan_ns=ms(100)), start_ns=ms(7))
    comparator.primary(1, [u(b"a")], ms(5020))
    assert comparator.deadline_ns() == ms(5107)
    comparator.tick(ms(5290))  # late: one scan
    assert len(comparator.verdicts()) == 1
    assert comparator.deadline_ns() == ms(5307)


# -- what is said ----------------------------------------------------------------------------


def said(*steps) -> list:
    comparator = QemuComparator(CompareLimits())
    for number, step in enumerate(steps, 1):
        side = comparator.primary if isinstance(step, P) else comparator.secondary
        side(number, [step.frame], 0)
    return comparator.verdicts()


def test_content_differs():
    theirs = DATA[:20] + b"X" + DATA[21:100]
    assert said(P(t(0, 100)), S(t(0, 10)), S(tcp(WHERE, 1010, 5, theirs[10:]))) == [
        Differs(
            Why.CONTENT,
            "tcp 10.0.0.2:80 > 10.0.0.1:40000",
            primary=1,
            secondary=3,
            offset=20,
            ours=DATA[20:36],
            theirs=b"X" + DATA[21:36],
        )
    ]


def test_a_datagrams_difference_is_counted_from_behind_the_ip_header():
    (verdict,) = said(P(u(b"abc")), S(u(b"abd")))
    assert (verdict.why, verdict.offset, verdict.ours, verdict.theirs) == (
        Why.CONTENT,
        8 + 2,
        b"c",
        b"d",
    )


def test_beside_a_frame_of_its_size():
    (verdict,) = said(S(u(b"a")), S(u(b"bc")), P(u(b"bd")))
    assert (verdict.why, verdict.primary, verdict.secondary) == (Why.CONTENT, 3, 2)


def test_length_and_acknowledgement():
    assert [each.why for each in said(P(u(b"a")), S(u(b"ab")))] == [Why.LENGTH]
    assert [each.why for each in said(P(t(0, 5, ack=9)), S(t(0, 9, ack=5)))] == [Why.ACK]


def test_names_of_connections():
    assert [each.connection for each in said(P(icmp(WHERE, b"a")), S(icmp(WHERE, b"b")))] == [
        "icmp 10.0.0.2 > 10.0.0.1"
    ]
    assert [each.connection for each in said(P(ip(GRE, WHERE, b"a")), S(ip(GRE, WHERE, b"b")))] == [
        "ip-47 10.0.0.2 > 10.0.0.1"
    ]


def test_one_verdict_a_batch():
    frames = [t(10 * i, 10 * i + 10) for i in range(64)]
    comparator = QemuComparator(CompareLimits())
    comparator.primary(100, frames, 0)
    comparator.secondary(0, frames, 0)
    assert comparator.verdicts() == [Same(tuple(range(100, 164)))]
    assert comparator.verdicts() == []


# -- what QEMU leaves undefined --------------------------------------------------------------


def test_a_comparison_beyond_the_end_is_a_difference_and_counted():
    comparator = QemuComparator(CompareLimits())
    # the end of the secondary's is later, but so is its start: it has too few bytes
    comparator.primary(1, [t(0, 100)], 0)
    comparator.secondary(1, [tcp(WHERE, 1090, 5, DATA[:50])], 0)
    connection = "tcp 10.0.0.2:80 > 10.0.0.1:40000"
    assert comparator.verdicts() == [Differs(Why.POSITION, connection, primary=1, secondary=1)]
    assert comparator.undefined == 1


def test_a_difference_within_is_one_whatever_is_beyond():
    comparator = QemuComparator(CompareLimits())
    comparator.primary(1, [t(0, 100)], 0)
    comparator.secondary(1, [tcp(WHERE, 1090, 5, DATA[:30] + b"X")], 0)
    assert len(comparator.verdicts()) == 1
    assert comparator.undefined == 0


@pytest.mark.parametrize(
    ("frame", "times"),
    [
        (u(b"")[:38], 0),  # the ports are there
        (u(b"")[:37], 1),
        (bare(5)[:47], 0),  # up to the data offset
        (bare(5)[:46], 1),
        (ip(AH, WHERE, b"11112222"), 0),
        (ip(AH, WHERE, b"1111222"), 1),
        (ip(GRE, WHERE, b""), 0),
        (b"\x08".join((bytes(12), b"\0\x41")) + bytes(10), 1),  # a 4-byte IP header, and no more
    ],
)
def test_headers_beyond_the_end_are_counted(frame, times):
    comparator = QemuComparator(CompareLimits())
    comparator.primary(1, [frame], 0)
    assert comparator.undefined == times


# -- whatever comes --------------------------------------------------------------------------

BASES = st.sampled_from(
    [
        u(b"abcdef"),
        u(b"x", options=bytes(8)),
        t(0, 20),
        bare(5),
        icmp(WHERE, b"abc"),
        u(b"a", OTHER),
    ]
)


@st.composite
def any_frame(draw) -> bytes:
    base = draw(st.one_of(BASES, st.binary(max_size=80)))
    changed = bytearray(base)
    for _ in range(draw(st.integers(0, 2)) if base else 0):
        changed[draw(st.integers(0, len(base) - 1))] = draw(st.integers(0, 255))
    return bytes(changed[: draw(st.integers(0, len(base)))] if draw(st.booleans()) else changed)


ACTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("ps"), st.lists(any_frame(), max_size=5)),
        st.tuples(st.sampled_from("ct"), st.just([])),
    ),
    max_size=30,
)


@given(ACTS, st.booleans())
def test_nothing_raises_all_is_bounded_and_accounted_for(acts, is_vnet):
    limits = CompareLimits(timeout_ns=5, scan_ns=2, queue_frames=3, connections=4)
    comparator = QemuComparator(limits, vnet=is_vnet)
    given_frames = 0
    gone: list[int] = []
    for now_ns, (act, frames) in enumerate(acts):
        if act == "p":
            comparator.primary(given_frames, frames, now_ns)
            given_frames += len(frames)
        elif act == "s":
            comparator.secondary(0, frames, now_ns)
        elif act == "c":
            gone += comparator.cut(now_ns)
        else:
            comparator.tick(now_ns)
        for verdict in comparator.verdicts():
            if isinstance(verdict, Same | Lost):
                gone += verdict.frames
        held = comparator.held()
        assert len(gone) == len(set(gone))
        assert len(gone) + held.primary_frames == given_frames
        assert held.connections <= limits.connections + 1
        assert max(held.primary_frames, held.secondary_frames) <= 4 * held.connections
        assert (comparator.deadline_ns() is None) == (
            not (held.primary_frames + held.secondary_frames)
        )


def test_what_is_held_is_counted():
    comparator = QemuComparator(CompareLimits())
    comparator.primary(1, [u(b"a"), t(0, 5)], 0)
    comparator.secondary(1, [u(b"b", OTHER)], 0)
    assert comparator.held() == Held(2, 1, 43 + 59 + 43, 3)
