"""Intervals against values worked out by hand, and against the truth many times over."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from colosim.analysis.stats import equivalence, holm, interval, not_above, paired


def test_three_values_by_hand():
    # t(2, 0.975) = 4.302653 (any table); s = 1; 4.302653 / sqrt(3) = 2.484138
    n, mean, low, high = interval([1.0, 2.0, 3.0])
    assert (n, mean) == (3, 2.0)
    assert low == pytest.approx(2 - 2.484138, abs=1e-6)
    assert high == pytest.approx(2 + 2.484138, abs=1e-6)


def test_another_confidence_by_hand():
    # t(3, 0.95) = 2.353363; s^2 = 20/3; 2.353363 * sqrt(20/3) / 2 = 3.038179
    assert interval([2.0, 4.0, 6.0, 8.0], 0.90).high == pytest.approx(5 + 3.038179, abs=1e-5)


@pytest.mark.parametrize(("values", "n", "mean"), [([], 0, math.nan), ([7.0], 1, 7.0)])
def test_too_few_values_have_no_interval(values, n, mean):
    found = interval(values)
    assert found.n == n
    assert found.mean == pytest.approx(mean, nan_ok=True)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_replications_with_nothing_to_measure_are_not_counted():
    assert interval([1.0, math.nan, 3.0]) == interval([1.0, 3.0])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, math.nan])
def test_a_confidence_that_is_none_is_refused(confidence):
    with pytest.raises(ValueError, match="between 0 and 1"):
        interval([1.0, 2.0], confidence)


def test_the_difference_of_pairs_by_hand():
    # differences 1, 2, 3
    assert paired([11.0, 22.0, 33.0], [10.0, 20.0, 30.0]) == interval([1.0, 2.0, 3.0])


def test_a_pair_that_misses_one_side_is_left_out():
    assert paired([1.0, math.nan, 5.0, 6.0], [0.0, 1.0, math.nan, 3.0]) == interval([1.0, 3.0])


def test_pairs_need_equal_numbers():
    with pytest.raises(ValueError, match="3 values cannot be paired with 2"):
        paired([1, 2, 3], [1, 2])


@pytest.mark.parametrize("n", [2, 10])
def test_intervals_cover_the_truth_as_often_as_they_say(n):
    """4,000 intervals: the standard error of the coverage is 0.34 %."""
    samples = np.random.default_rng(1).normal(5.0, 2.0, (4_000, n))
    covered = [low <= 5.0 <= high for _, _, low, high in map(interval, samples)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.0125)


def test_common_random_numbers_make_the_interval_of_a_difference_narrow():
    random = np.random.default_rng(2)
    shared = random.normal(0.0, 10.0, 20)
    first, second = (shared + random.normal(0.0, 1.0, 20) for _ in range(2))
    together = paired(first, second)
    alone = interval(first)
    assert together.high - together.low < (alone.high - alone.low) / 3


def test_two_one_sided_tests_are_scipys():
    """Beside scipy's one-sided t tests of the differences."""
    rng = np.random.default_rng(3)
    baseline = rng.normal(10, 1, 12)
    values = baseline + rng.normal(0.05, 0.1, 12)
    for margin in (0.005, 0.01, 0.02):
        bound = margin * baseline.mean()
        d = values - baseline
        upper = ttest_1samp(d, bound, alternative="less").pvalue
        lower = ttest_1samp(d, -bound, alternative="greater").pvalue
        assert equivalence(values, baseline, margin) == pytest.approx(max(upper, lower), rel=1e-9)


def test_differences_without_spread_decide_by_themselves():
    baseline = np.array([1.0, 2.0, 3.0])
    assert equivalence(baseline, baseline, 0.02) == 0.0
    assert equivalence(baseline + 0.5, baseline, 0.02) == 1.0
    assert np.isnan(equivalence([1.0], [1.0], 0.02))
    with pytest.raises(ValueError, match="margin"):
        equivalence(baseline, baseline, 0.0)


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03]), [0.06, 0.03, 0.06])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1.0, 1.0])


def test_one_sided_p_is_that_of_scipy_and_ties_are_said():
    one, two = [3.0, 5.0, 4.0, math.nan], [2.5, 4.0, 4.2, 9.0]
    expected = ttest_rel(one[:3], two[:3], alternative="greater").pvalue
    assert not_above(one, two) == pytest.approx(expected)
    assert not_above(two, one) == pytest.approx(1 - expected)
    assert not_above([2, 3], [1, 2]) == 0.0
    assert not_above([1, 2], [2, 3]) == 1.0
    assert (not_above([1, 2], [1, 2]), not_above([1, 2], [1, 2], tie=0.5)) == (1.0, 0.5)
    assert math.isnan(not_above([1.0, math.nan], [2.0, 3.0]))
    with pytest.raises(ValueError, match="cannot be paired"):
        not_above([1], [1, 2])
