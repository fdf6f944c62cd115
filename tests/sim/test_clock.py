"""The clock: order of equal times, and where a run ends."""

from __future__ import annotations

import pytest

from backends.sim.clock import Clock


def test_equal_times_keep_the_order_of_asking():
    clock = Clock()
    seen: list = []
    for number in range(5):
        clock.after(10, seen.append, number)
    clock.after(5, lambda _: clock.after(5, seen.append, 5))
    clock.run(11)
    assert seen == [0, 1, 2, 3, 4, 5]
    assert clock.events == 7


def test_a_run_ends_before_its_last_moment():
    """Whether what happens then was asked for before the run or during it."""
    clock = Clock()
    seen: list = []
    clock.after(99, seen.append, "before")
    clock.after(100, seen.append, "at")
    clock.after(50, lambda _: clock.after(50, seen.append, "asked for later"))
    clock.run(100)
    assert seen == ["before"]
    assert clock.now_ns() == 100
    clock.run(101)
    assert seen == ["before", "at", "asked for later"]


def test_stop_ends_a_run():
    clock = Clock()
    seen: list = []
    clock.after(10, lambda _: clock.stop())
    clock.after(11, seen.append, "after")
    clock.run(100)
    assert clock.now_ns() == 10
    assert seen == []


@pytest.mark.parametrize("times", [1, 3])
def test_stop_may_be_asked_for_more_than_once(times):
    clock = Clock()
    for _ in range(times):
        clock.after(10, lambda _: clock.stop())
    clock.run(100)
    assert clock.now_ns() == 10
