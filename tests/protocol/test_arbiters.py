"""The lock service and ordered claims, by themselves and with managers whose clocks differ."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colosim.protocol.arbiters import Claims, LockService, connected, held_ns
from colosim.protocol.types import Arbiter, Protected, RenewLease
from tests.protocol.test_manager import CONFIG, Bench

TERM_NS, BOUND = 1_000_000, 0.05
LEASE = replace(CONFIG, arbiter=Arbiter.LEASE, lease_term_ns=TERM_NS, lease_renewal_ns=300_000)


# ------------------------------------------------------------------------------------------ lease


def test_a_lease_is_one_sides_at_a_time():
    service = LockService(TERM_NS, BOUND)
    assert service.renew("primary", 0)
    assert not service.renew("secondary", held_ns(TERM_NS, BOUND) - 1)
    assert service.renew("secondary", held_ns(TERM_NS, BOUND))
    assert not service.renew("primary", held_ns(TERM_NS, BOUND))


def test_the_right_to_go_on_waits_for_the_lease_and_is_for_good():
    service = LockService(TERM_NS, BOUND)
    service.renew("primary", 0)
    assert service.ask("secondary", 10) is None
    assert service.free_ns == held_ns(TERM_NS, BOUND)
    assert service.ask("secondary", service.free_ns) is True
    assert not service.renew("primary", service.free_ns)
    assert service.ask("primary", 10**12) is False
    assert service.ask("secondary", 10**12) is True


def test_the_holder_need_not_wait_and_who_gives_up_lets_nobody_wait():
    service = LockService(TERM_NS, BOUND)
    service.renew("primary", 0)
    assert service.ask("primary", 1) is True
    assert service.renew("primary", 2)
    service = LockService(TERM_NS, BOUND)
    service.renew("primary", 0)
    service.give_up("secondary")
    assert service.ask("secondary", 1) is None
    service.give_up("primary")
    assert service.ask("secondary", 1) is True


def test_the_service_waits_for_the_slowest_clock():
    assert held_ns(1_000, 0.0) == 1_001
    assert held_ns(1_000, 0.5) == 2_001


class Primary:
    """A primary's manager on a clock of its own, and the lock service that has the true one."""

    def __init__(self, rate: Fraction, offset_ns: int) -> None:
        self.bench = Bench(config=LEASE, serves=True)
        self.service = LockService(TERM_NS, BOUND)
        self._rate, self._offset_ns = rate, offset_ns
        self.bench.hear(Protected(), self.local_ns(0))

    def local_ns(self, true_ns: int) -> int:
        return int(true_ns * self._rate) + self._offset_ns

    def renewals(self, true_ns: int) -> list[int]:
        """What it asks at a moment at which it is awake."""
        actions = self.bench.tick(self.local_ns(true_ns))
        return [action.op for action in actions if isinstance(action, RenewLease)]

    def is_silent(self) -> bool:
        return self.bench.manager._is_silent


def two_speak(rate: Fraction, offset_ns: int, steps: list[tuple[int, int, int]]) -> bool:
    """Whether the secondary was told to go on while the primary might speak.

    steps: (time until the primary is awake again, the way of its question, the way back), where a
    way of 0 is no way at all.
    """
    primary, now_ns = Primary(rate, offset_ns), 0
    answers: list[tuple[int, int, bool]] = []  # (when, op, held)
    for wait_ns, there_ns, back_ns in steps:
        now_ns += wait_ns
        for op in primary.renewals(now_ns):
            if there_ns:
                held = primary.service.renew("primary", now_ns + there_ns)
                if back_ns:
                    answers.append((now_ns + there_ns + back_ns, op, held))
        for when_ns, op, held in [each for each in answers if each[0] <= now_ns]:
            answers.remove((when_ns, op, held))
            primary.bench.manager.lease_seen(op, held, primary.local_ns(now_ns))
        primary.bench.actions()
    asked_ns = max(now_ns, primary.service.free_ns)
    assert primary.service.ask("secondary", asked_ns) is True
    primary.bench.tick(primary.local_ns(asked_ns))  # what is due is done first
    return not primary.is_silent()


ways = st.integers(0, 400_000)


@given(
    st.fractions(Fraction(95, 100), Fraction(3, 2), max_denominator=1_000),
    st.integers(0, 10**12),
    st.lists(st.tuples(st.integers(1, 400_000), ways, ways), max_size=30),
)
def test_within_the_bound_never_two_speak(rate, offset_ns, steps):
    assert not two_speak(rate, offset_ns, steps)


@pytest.mark.parametrize(("rate", "two"), [("19/20", False), ("47/50", True)])
def test_beyond_the_bound_two_speak(rate, two):
    """So the check above can fail."""
    assert two_speak(Fraction(rate), 0, [(1, 1, 1), (5, 0, 0)]) is two


# ----------------------------------------------------------------------------------------- claims


def test_the_first_claim_wins_and_a_minority_orders_none():
    claims = Claims(3)
    assert claims.claim("secondary", 1) is None
    assert claims.claim("primary", 2) is True
    assert claims.claim("secondary", 3) is False
    assert claims.claim("primary", 2) is True


def test_two_members_need_each_other():
    assert Claims(2).claim("primary", 1) is None
    assert Claims(2).claim("primary", 2) is True
    assert Claims(4).claim("primary", 2) is None


def test_members_are_reached_over_others():
    links = [("primary", "third"), ("third", "secondary")]
    assert connected("primary", links) == {"primary", "third", "secondary"}
    assert connected("primary", links[1:]) == {"primary"}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sets(st.sampled_from("abc"))), max_size=20))
def test_two_parts_never_order_two_first_claims(asked):
    """Whatever each reaches at the time."""
    claims, first = Claims(3), set()
    for node, others in asked:
        if claims.claim(node, len({node, *others})):
            first.add(node)
    assert len(first) <= 1
