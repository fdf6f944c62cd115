"""The time change: F, its inverse, and what a schedule makes of phases."""

from __future__ import annotations

import numpy as np
import pytest

from colosim.model.errors import ModelError
from colosim.model.schedule import NEVER_NS, Phase, Schedule, TimeChange

PIECES = [(10, 2.0), (20, 0.5), (5, 0.0), (15, 1.0)]  # 20, 10, 0 and 15: 45 in 50


@pytest.mark.parametrize(
    ("t_ns", "repeating", "staying"),
    [(0, 0, 0), (5, 10, 10), (10, 20, 20), (30, 30, 30), (34, 30, 30), (50, 45, 45), (55, 55, 50)],
)
def test_the_integral(t_ns, repeating, staying):
    assert TimeChange(PIECES, repeats=True).done(t_ns) == repeating
    assert TimeChange(PIECES, repeats=False).done(t_ns) == staying
    assert TimeChange(PIECES, repeats=True).done(t_ns + 5_000) == repeating + 4_500


@pytest.mark.parametrize("repeats", [True, False])
def test_the_inverse(repeats):
    change = TimeChange(PIECES, repeats)
    assert change.when(30) == 35  # nothing happens in between
    rng = np.random.default_rng(1)
    done = rng.uniform(0, 1_000, 2_000)
    back = np.array([change.done(change.when(each)) for each in done])
    np.testing.assert_allclose(back, done, rtol=1e-12)


@pytest.mark.parametrize("repeats", [True, False])
@pytest.mark.parametrize("pieces", [PIECES, [(7, 1 / 3)], [(3, 1.0), (4, 0.0)], [(3, 0.0)]])
def test_arrays_are_the_same_to_the_bit(pieces, repeats):
    change = TimeChange(pieces, repeats)
    done = np.concatenate((np.arange(0, 300, 0.5), np.random.default_rng(2).uniform(0, 1e15, 5000)))
    assert change.when_each(done).tolist() == [change.when(each) for each in done]


def test_what_never_comes():
    assert TimeChange([(3, 1.0), (4, 0.0)], repeats=False).when(3.5) == NEVER_NS
    assert TimeChange([(3, 0.0)], repeats=True).when(1) == NEVER_NS


def test_the_factor():
    change = TimeChange(PIECES, repeats=True)
    assert [change.factor(t) for t in (0, 9, 10, 30, 35, 49, 50)] == [2, 2, 0.5, 0, 1, 1, 2]
    assert TimeChange(PIECES, repeats=False).factor(1_000) == 1


def test_a_schedule_that_changes_nothing_is_none():
    schedule = Schedule((Phase(10, touches=2.0), Phase(10, clients=3)))
    assert schedule.load() is None
    assert schedule.load(2) is None
    assert schedule.divergence() is None
    late, touches = schedule.load(3), schedule.touches()
    assert late is not None
    assert touches is not None
    assert (late.done(20), touches.done(20)) == (10, 30)


@pytest.mark.parametrize("pieces", [[], [(0, 1.0)], [(5, -1.0)]])
def test_what_makes_no_sense_is_refused(pieces):
    with pytest.raises(ModelError):
        TimeChange(pieces, repeats=True)


@pytest.mark.parametrize("quiet_first", [True, False])
def test_the_inverse_at_the_end_of_a_round_is_not_lost_to_rounding(quiet_first):
    """A little less than so many rounds may be rounded into a phase where nothing is done."""
    pieces = [(1_000_000_000, 0.0), (123_456_789, 0.7)]
    change = TimeChange(pieces if quiet_first else pieces[::-1], True)
    whole_ns = sum(length_ns for length_ns, _ in pieces)
    whole = change.done(whole_ns)
    ends = np.array([np.nextafter(number * whole, 0.0) for number in range(1, 500)])
    whens = [change.when(float(done)) for done in ends]
    assert max(whens) < 501 * whole_ns
    assert (np.diff(whens) > 0).all()
    assert (change.when_each(ends) == whens).all()
