"""What a survivor need not send again."""

from __future__ import annotations

import pytest

from backends.qemu.net.acked import Acked
from tests.protocol.frames import ACK, CLIENT, FIN, GUEST, ethernet, ip4, tcp, tcp_body, udp


def from_client(ack: int | None, port: int = 40000) -> bytes:
    body = tcp_body(7, ack=ack, sport=port, dport=80, source=CLIENT, target=GUEST)
    return ethernet(0x0800, ip4(6, body, source=CLIENT, target=GUEST))


@pytest.mark.parametrize(
    ("frame", "ack", "is_sent"),
    [
        (tcp(100, b"x" * 50), 149, True),
        (tcp(100, b"x" * 50), 150, False),
        (tcp(100, b"x" * 50), 151, False),
        (tcp(2**32 - 10, b"x" * 50), 40, False),  # beyond the end of the numbers
        (tcp(2**32 - 10, b"x" * 50), 39, True),
        (tcp(100), 500, True),  # no data: an acknowledgement that the client may miss
        (tcp(100, b"x", flags=FIN | ACK), 500, True),
        (tcp(100, b"x" * 50, dport=40001), 500, True),  # another connection
        (tcp(100, b"x" * 50), None, True),
        (tcp(100, b"x" * 50, six=True), 500, True),
        (tcp(100, b"x" * 50, pad=4), 150, False),
        (udp(b"x"), 500, True),
        (b"", 500, True),
        (tcp(100, b"x" * 50)[:50], 500, True),
    ],
)
def test_what_was_acknowledged_is_not_sent_again(frame, ack, is_sent):
    acked = Acked()
    acked.see([from_client(1), from_client(ack)])
    assert acked.beyond([frame]) == ([frame] if is_sent else [])


def test_arbitrary_frames_do_no_harm():
    acked = Acked()
    acked.see([b"", b"\x08\x00", from_client(500)[:30]])
    acked.see(from_client(500, port) for port in range(10_000))
    assert len(acked._newest) == 4096
    assert acked.beyond([tcp(100, b"x", dport=9_999)]) == []
