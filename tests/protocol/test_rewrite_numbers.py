"""A survivor that is protected again: what its rewriter knows goes with its state."""

from __future__ import annotations

import struct

import pytest

from colosim.protocol.rewrite import StrictRewriter
from tests.protocol.frames import ACK, CLIENT, GUEST, SYN, ethernet, ip4, tcp, tcp_body

CLIENT_ISN, PRIMARY_ISN, SECONDARY_ISN = 7_000, 100_000, 4_000_000_000


def from_client(seq: int, ack: int | None, flags: int = ACK, payload: bytes = b"") -> bytes:
    body = tcp_body(seq, payload, ack, flags, sport=40000, dport=80, source=CLIENT, target=GUEST)
    return ethernet(0x0800, ip4(6, body, source=CLIENT, target=GUEST))


def seq_of(frame: bytes) -> int:
    return int(struct.unpack_from(">I", frame, 38)[0])


def ack_of(frame: bytes) -> int:
    return int(struct.unpack_from(">I", frame, 42)[0])


def opened() -> StrictRewriter:
    """Of a secondary's guest that took a connection part, and was promoted."""
    rewriter = StrictRewriter()
    rewriter.to_guest([from_client(CLIENT_ISN, None, SYN)])
    rewriter.from_guest([tcp(SECONDARY_ISN, ack=CLIENT_ISN + 1, flags=SYN | ACK)])
    rewriter.to_guest([from_client(CLIENT_ISN + 1, PRIMARY_ISN + 1)])
    rewriter.promoted()
    return rewriter


def translated(rewriter: StrictRewriter) -> tuple[int, int]:
    """What becomes of the guest's next byte, and of the client's acknowledgement of it."""
    [out], [] = rewriter.from_guest([tcp(SECONDARY_ISN + 1, b"x", ack=CLIENT_ISN + 1)])
    [within] = rewriter.to_guest([from_client(CLIENT_ISN + 1, PRIMARY_ISN + 2)])
    return seq_of(out), ack_of(within)


def test_both_guests_of_the_new_pair_say_what_clients_know():
    survivor, fresh = opened(), StrictRewriter()
    assert translated(survivor) == (PRIMARY_ISN + 1, SECONDARY_ISN + 2)
    fresh.loaded(survivor.numbers())
    assert translated(fresh) == translated(survivor)
    fresh.promoted()  # and once more
    third = StrictRewriter()
    third.loaded(fresh.numbers())
    assert translated(third) == translated(survivor)


def test_without_them_it_would_say_something_else():
    fresh = StrictRewriter()
    fresh.loaded()
    assert translated(fresh) == (SECONDARY_ISN + 1, PRIMARY_ISN + 2)


def test_a_load_without_them_ends_the_translation():
    fresh = StrictRewriter()
    fresh.loaded(opened().numbers())
    fresh.loaded()
    assert translated(fresh) == (SECONDARY_ISN + 1, PRIMARY_ISN + 2)
    assert fresh.numbers() == b""


@pytest.mark.parametrize("cut", range(1, 32))
def test_numbers_that_are_cut_off_do_no_harm(cut):
    numbers = opened().numbers()
    assert len(numbers) == 32
    fresh = StrictRewriter()
    fresh.loaded(numbers[:cut] + numbers)
    fresh.loaded(numbers[:cut])
