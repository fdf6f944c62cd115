"""What colo-compare does, one row each.

``P`` and ``S`` are frames of the primary and the secondary, ``CP`` is the checkpoint's flush.  The
outcome of a step are the numbers of the primary's frames that left, in order, counted from 1, and
``N`` for each checkpoint asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.conformance.frames import (
    ACK,
    AH,
    DCCP,
    ESP,
    FIN,
    GRE,
    RST,
    SCTP,
    SYN,
    UDPLITE,
    Flow,
    Ip,
    ethernet,
    icmp,
    ip,
    padded,
    tcp,
    udp,
)

WHERE = Flow(2, 1, 80, 40000)
OTHER = Flow(2, 1, 80, 40001)
DATA = bytes(range(256)) * 4
N = "N"
Outcome = tuple  # of numbers and N


@dataclass(frozen=True)
class P:
    frame: bytes


@dataclass(frozen=True)
class S:
    frame: bytes


class CP:
    pass


def u(text: bytes, where: Flow = WHERE, **header: Any) -> bytes:
    return udp(where, text, ip_header=Ip(**header))


def t(first: int, end: int, ack: int = 5, start: int = 1000, where: Flow = WHERE, **more) -> bytes:
    """Bytes [first, end) of a stream that starts at sequence number ``start``."""
    return tcp(where, start + first, ack, DATA[first:end], **more)


def w(first: int, end: int) -> bytes:
    """As `t`, of a stream whose byte 50 has sequence number 0."""
    return t(first, end, start=2**32 - 50)


def bare(ack: int, flags: int = ACK, at: int = 0) -> bytes:
    return tcp(WHERE, 1000 + at, ack, flags=flags)


LONG = bytes(4)
QINQ = Ip(tag=b"\x88\xa8\x00\x05")
QINQ_1 = Ip(tag=QINQ.tag, options=b"1111")
QINQ_2 = Ip(tag=QINQ.tag, options=b"2222")
QINQINQ = Ip(tag=b"\x88\xa8\x00\x05\x81\x00\x00\x06")
LATER = Ip(fragment=0x00B9)

ROWS: dict[str, tuple[tuple, list]] = {
    # -- datagrams
    "udp, the same": ((P(u(b"a")), S(u(b"a"))), [(), (1,)]),
    "udp, the secondary first": ((S(u(b"a")), P(u(b"a"))), [(), (1,)]),
    "udp, ident, ttl, tos and MACs differ": (
        (P(u(b"a")), S(u(b"a", ident=9, ttl=3, tos=4, macs=b"x" * 12))),
        [(), (1,)],
    ),
    "udp, differs, then the cut": (
        (P(u(b"a")), S(u(b"b")), CP(), P(u(b"b"))),
        [(), (N,), (1,), ()],
    ),
    "udp, sizes differ": ((P(u(b"a")), S(u(b"ab"))), [(), (N,)]),
    "udp, checksums differ": (
        (P(udp(WHERE, b"a", checksum=1)), S(udp(WHERE, b"a", checksum=2))),
        [(), (N,)],
    ),
    "udp, padding differs": ((P(u(b"a") + b"\0"), S(u(b"a") + b"\1")), [(), (N,)]),
    "udp, only one has options": ((P(u(b"a", options=LONG)), S(u(b"a"))), [(), (N,)]),
    "udp, options differ": (
        (P(u(b"a", options=b"1234")), S(u(b"a", options=b"4321"))),
        [(), (1,)],
    ),
    "icmp, the same": ((P(icmp(WHERE, b"a")), S(icmp(WHERE, b"a"))), [(), (1,)]),
    "icmp of two hosts is one connection": (
        (P(icmp(WHERE, b"a")), P(icmp(OTHER, b"b")), S(icmp(WHERE, b"a"))),
        [(), (), (N,)],
    ),
    "gre, the same": ((P(ip(GRE, WHERE, b"a")), S(ip(GRE, WHERE, b"a"))), [(), (1,)]),
    "gre, the whole frame is compared": (
        (P(ip(GRE, WHERE, b"a")), S(ip(GRE, WHERE, b"a", Ip(ident=1)))),
        [(), (N,)],
    ),
    "a lead of two is a difference, and is reversed": (
        (P(u(b"1")), P(u(b"2")), S(u(b"1")), S(u(b"2"))),
        [(), (), (N,), (2, 1)],
    ),
    "the secondary's order does not matter": (
        (S(u(b"2")), S(u(b"1")), P(u(b"1")), P(u(b"2"))),
        [(), (), (1,), (2,)],
    ),
    "said again with each frame": (
        (P(u(b"a")), S(u(b"b")), S(u(b"c")), P(u(b"d")), S(u(b"e"))),
        [(), (N,), (N,), (N,), (N,)],
    ),
    "other connections go on": (
        (P(u(b"a")), S(u(b"b")), P(u(b"x", OTHER)), S(u(b"x", OTHER))),
        [(), (N,), (), (2,)],
    ),
    "flushed as connections were made, newest first": (
        (P(u(b"1")), P(u(b"2", OTHER)), P(u(b"3")), P(u(b"4", OTHER)), CP()),
        [(), (), (), (), (3, 1, 4, 2)],
    ),
    "the cut drops the secondary's": ((S(u(b"a")), CP(), P(u(b"a"))), [(), (), ()]),
    # -- what is a connection
    **{
        f"protocol {protocol} has ports": (
            (P(ip(protocol, WHERE, b"1234a")), S(ip(protocol, WHERE, b"1235a"))),
            [(), ()],
        )
        for protocol in (DCCP, ESP, SCTP, UDPLITE)
    },
    "ah has its ports later": (
        (P(ip(AH, WHERE, b"11112222")), S(ip(AH, WHERE, b"33332222")), CP()),
        [(), (N,), (1,)],
    ),
    "gre has none": ((P(ip(GRE, WHERE, b"1234a")), S(ip(GRE, WHERE, b"1235a"))), [(), (N,)]),
    "a later fragment's first bytes are ports": (
        (P(ip(17, WHERE, b"1234a", LATER)), S(ip(17, WHERE, b"1235a", LATER))),
        [(), ()],
    ),
    "a later fragment is compared": (
        (P(ip(17, WHERE, b"1234a", LATER)), S(ip(17, WHERE, b"1234b", LATER))),
        [(), (N,)],
    ),
    "802.1ad is looked behind": (
        (P(udp(WHERE, b"a", ip_header=QINQ)), S(udp(WHERE, b"a", ip_header=QINQ))),
        [(), (1,)],
    ),
    "802.1ad and 802.1Q are looked behind": (
        (P(udp(WHERE, b"a", ip_header=QINQINQ)), S(udp(WHERE, b"a", ip_header=QINQINQ))),
        [(), (1,)],
    ),
    "behind 802.1ad the last four bytes of the IP header are compared": (
        (P(udp(WHERE, b"a", ip_header=QINQ_1)), S(udp(WHERE, b"a", ip_header=QINQ_2))),
        [(), (N,)],
    ),
    # -- what is not compared
    **{
        f"forwarded or dropped: {name}": ((P(frame), S(frame), CP()), [(1,), (), ()])
        for name, frame in {
            "arp": ethernet(b"\x08\x06", bytes(28)),
            "ipv6": ethernet(b"\x86\xdd", bytes(60)),
            "802.1Q": udp(WHERE, b"a", ip_header=Ip(tag=b"\x81\x00\x00\x05")),
            "802.1ad before something else": ethernet(b"\x88\xa8", b"\0\5\x08\x06" + bytes(28)),
            "17 bytes": u(b"a")[:17],
            "a cut IP header": u(b"a")[:33],
            "cut options": u(b"", options=LONG)[:37],
            "one byte": b"a",
        }.items()
    },
    "16 bits of a length are compared": (
        (P(u(bytes(66000))), S(u(bytes(65999) + b"\1"))),
        [(), (1,)],
    ),
    # -- tcp
    "tcp, the same": ((P(t(0, 100)), S(t(0, 100))), [(), (1,)]),
    "tcp, headers differ": (
        (
            P(t(0, 100, ack=7, flags=ACK | FIN, options=bytes(8), window=1)),
            S(t(0, 100, ack=5, ip_header=Ip(options=bytes(4), ttl=1))),
        ),
        [(), (1,)],
    ),
    "tcp, 300 against 100 and 200": ((P(t(0, 300)), S(t(0, 100)), S(t(100, 300))), [(), (), (1,)]),
    "tcp, 100 and 200 against 300": (
        (P(t(0, 100)), P(t(100, 300)), S(t(0, 300))),
        [(), (), (1, 2)],
    ),
    "tcp, 100 and 200 against 200 and 100": (
        (P(t(0, 100)), P(t(100, 300)), S(t(0, 200)), S(t(200, 300))),
        [(), (), (1,), (2,)],
    ),
    "tcp, the second half differs": (
        (P(t(0, 200)), S(t(0, 100)), S(tcp(WHERE, 1100, 5, bytes(100)))),
        [(), (), (N,)],
    ),
    "tcp, equal bytes at another place are a match": (
        (P(t(0, 100)), S(tcp(WHERE, 6000, 5, DATA[:100]))),
        [(), (1,)],
    ),
    "tcp, too far back: eaten, and a difference when more comes": (
        (P(t(0, 100)), S(t(0, 90, start=500)), S(t(0, 150))),
        [(), (), (N,)],
    ),
    "tcp, without payload waits for anything": (
        (P(bare(5)), P(bare(6)), S(bare(9)), S(t(0, 5))),
        [(), (), (1,), (2,)],
    ),
    **{
        f"tcp, flags {flags}: as without payload": ((P(bare(5, flags)), S(bare(6))), [(), (1,)])
        for flags in (SYN, SYN | ACK, FIN | ACK, RST)
    },
    "tcp, what the secondary said stays": (
        (P(bare(5)), S(t(0, 5)), P(t(0, 5))),
        [(), (1,), (2,)],
    ),
    "tcp, data is held while only an ACK came": (
        (P(t(0, 10)), S(bare(5)), S(t(0, 10))),
        [(), (), (1,)],
    ),
    "tcp, acknowledges more than the secondary": (
        (P(t(0, 10, ack=9)), S(t(0, 20, ack=5)), S(t(20, 30, ack=9))),
        [(), (N,), (1,)],
    ),
    "tcp, acknowledges as much": ((P(t(0, 10, ack=9)), S(t(0, 20, ack=9))), [(), (1,)]),
    "tcp, acknowledges less": ((P(t(0, 10, ack=5)), S(t(0, 20, ack=9))), [(), (1,)]),
    "tcp, the last acknowledgement is the highest": (
        (P(t(0, 10, ack=500)), S(t(20, 30, ack=500)), S(t(0, 20, ack=100))),
        [(), (N,), (N,)],
    ),
    "tcp, acknowledgements across zero": (
        (
            P(t(0, 10, ack=0xFFFFFFF0)),
            P(t(10, 20, ack=10)),
            S(t(0, 30, ack=0xFFFFFFF0)),
        ),
        [(), (), (1, 2)],
    ),
    "tcp, ours is longer and acknowledges more": (
        (P(t(0, 20, ack=9)), S(t(0, 10, ack=5)), S(t(10, 25, ack=5))),
        [(), (), (N,)],
    ),
    "tcp, repeated after it left": (
        (P(t(0, 10)), S(t(0, 10)), P(t(0, 10)), S(bare(5))),
        [(), (1,), (), (2,)],
    ),
    "tcp, the secondary repeats": (
        (P(t(0, 10)), S(t(0, 10)), S(t(0, 10)), P(t(10, 20)), S(t(10, 20))),
        [(), (1,), (), (), (2,)],
    ),
    "tcp, out of order, the secondary later": (
        (P(t(10, 20)), P(t(0, 10)), S(t(0, 10)), S(t(10, 20))),
        [(), (), (2,), (1,)],
    ),
    "tcp, out of order, the secondary waits": (
        (S(t(0, 10)), S(t(10, 20)), P(t(10, 20)), P(t(0, 10))),
        [(), (), (N,), (2, 1)],
    ),
    "tcp, a hole": ((P(t(10, 20)), S(t(0, 10))), [(), (N,)]),
    "tcp, wraps in a segment": ((P(w(0, 100)), S(w(0, 30)), S(w(30, 100))), [(), (), (1,)]),
    "tcp, wraps between segments": ((P(w(50, 100)), P(w(0, 50)), S(w(0, 100))), [(), (), (2, 1)]),
    "tcp, compared up to number 0 is not compared": (
        (P(w(0, 50)), S(w(0, 50)), P(w(0, 50)), S(bare(5)), S(tcp(WHERE, 0, 5, b"new"))),
        [(), (1,), (), (), (N,)],
    ),
    "tcp, compared up to number 2**32 - 1 is": (
        (P(w(0, 49)), S(w(0, 49)), P(w(0, 49)), S(tcp(WHERE, 0, 5, b"new"))),
        [(), (1,), (), (2,)],
    ),
    "tcp, the cut does not move on what was compared": (
        (P(t(0, 10)), CP(), S(t(0, 10)), P(t(10, 20)), S(t(10, 20))),
        [(), (1,), (), (N,), (N,)],
    ),
    "tcp, the cut keeps what was compared": (
        (P(t(0, 10)), S(t(0, 10)), CP(), P(t(0, 10)), S(bare(5))),
        [(), (1,), (), (), (2,)],
    ),
    "tcp, flushed in ascending order": (
        (P(t(20, 30)), P(t(0, 10)), P(t(10, 20)), CP()),
        [(), (), (), (2, 3, 1)],
    ),
    "tcp, padding is payload": ((P(padded(bare(5))), S(padded(bare(5)))), [(), (1,)]),
    "tcp, padding of one only": ((P(padded(bare(5))), S(bare(5))), [(), ()]),
    "tcp, after padding, that many bytes are not compared": (
        (P(padded(bare(5))), S(padded(bare(5))), P(t(0, 6)), S(tcp(WHERE, 1006, 5, b"other"))),
        [(), (1,), (), (2,)],
    ),
    "tcp, a header that says less than it is": (
        (P(t(0, 9, words=3)), S(t(0, 9, words=3, window=7))),
        [(), (N,)],
    ),
    "tcp, a header beyond the end, and an ACK": (
        (P(t(0, 9, words=15)), S(bare(5))),
        [(), ()],
    ),
}
