"""Closed forms of distinct pages against brute force, and against a real guest's toucher."""

import math
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colosim.model.errors import ModelError
from colosim.model.memory import MeasuredCurve, SequentialTouch, UniformTouch, ZipfTouch

SECOND = 1_000_000_000
ZIPF_EXPONENT = 0.99
"""Fitted, not recorded with the measurement: see test_the_zipf_exponent_is_fitted."""


def brute_force(chances, touches, repetitions, seed=1):
    """Distinct pages of every repetition: touch page after page and count."""
    rng = np.random.default_rng(seed)
    pages = rng.choice(len(chances), size=(repetitions, touches), p=chances)
    return np.array([np.unique(row).size for row in pages])


def zipf_chances(size, exponent):
    weights = np.arange(1, size + 1) ** -float(exponent)
    return weights / weights.sum()


MODELS = {
    "uniform": (UniformTouch(60, 1.0), zipf_chances(60, 0)),
    "zipf": (ZipfTouch(60, 0.9, 1.0), zipf_chances(60, 0.9)),
    "steep zipf": (ZipfTouch(60, 2.0, 1.0), zipf_chances(60, 2.0)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("touches", [1, 2, 10, 60, 150, 600])
def test_saturation_against_brute_force(name, touches):
    model, chances = MODELS[name]
    seen = brute_force(chances, touches, 4_000)
    mean, deviation = model.distinct(touches)
    # Four standard errors of the brute force; the interpolation of zipf is far finer.
    assert mean == pytest.approx(seen.mean(), abs=4 * seen.std() / math.sqrt(seen.size) + 1e-9)
    # The uniform variance is exact; zipf's keeps the leading terms for many touches.
    slack = 0.1 if name == "uniform" else 0.2
    assert deviation == pytest.approx(seen.std(), rel=slack, abs=0.02 if touches > 2 else 0.25)


def test_uniform_variance_by_hand():
    # 3 touches of 2 pages: 1 page with chance 1/4, 2 pages with chance 3/4.
    mean, deviation = UniformTouch(2, 1.0).distinct(3)
    assert [mean, deviation**2] == pytest.approx([1.75, 3 / 16])
    # 2 touches of 3 pages: the same page with chance 1/3.
    mean, deviation = UniformTouch(3, 1.0).distinct(2)
    assert [mean, deviation**2] == pytest.approx([5 / 3, 2 / 9])


@pytest.mark.parametrize("touches", [3, 100, 1_000, 5_000, 50_000])
def test_zipf_interpolation_error(touches):
    chances = zipf_chances(2_000, 0.99)
    exact = (1 - (1 - chances) ** touches).sum()
    assert ZipfTouch(2_000, 0.99, 1.0).distinct(touches)[0] == pytest.approx(exact, rel=1e-4)


@given(st.integers(1, 3_000), st.floats(0, 1e6))
def test_zipf_of_exponent_zero_is_uniform(size, touches):
    zipf = ZipfTouch(size, 0.0, 1.0, guest_pages=3_000).distinct(touches)
    uniform = UniformTouch(size, 1.0, guest_pages=3_000).distinct(touches)
    assert zipf[0] == pytest.approx(uniform[0], rel=2e-3)
    if touches > 20:
        assert zipf[1] == pytest.approx(uniform[1], abs=0.1 * math.sqrt(size) + 0.5)


def any_touch(size, rate, per_request=0.0, background=None):
    return [
        UniformTouch(size, rate, per_request, background),
        ZipfTouch(size, 1.1, rate, per_request, background),
        SequentialTouch(size, rate, per_request, background),
    ]


@given(
    st.integers(1, 2_000), st.floats(0, 1e5), st.integers(0, 2 * SECOND), st.integers(0, 50),
    st.floats(1e-6, 1 - 1e-6), st.floats(1e-6, 1 - 1e-6),
)  # fmt: skip
def test_draws_are_possible_and_monotone_in_u(size, rate, exposure_ns, requests, u, v):
    for model in any_touch(size, rate, per_request=2.5):
        touches = rate * exposure_ns / SECOND + 2.5 * requests
        low, high = (model.draw(exposure_ns, requests, x).pages for x in sorted((u, v)))
        assert 0 <= low <= high <= min(size, math.ceil(touches))
        assert low >= 1 or touches < 1 + 1e-9
        mean = model.mean(exposure_ns, requests)
        assert mean <= min(size, touches) * (1 + 1e-9)
        assert mean <= model.mean(exposure_ns + 10_000_000, requests) * (1 + 1e-9)


@pytest.mark.parametrize("model", any_touch(400, 1_500.0), ids=lambda m: type(m).__name__)
def test_draws_average_to_the_mean(model):
    quantiles = (np.arange(4_000) + 0.5) / 4_000
    drawn = np.array([model.draw(173_456_789, 0, float(u)).pages for u in quantiles])
    mean, deviation = model.distinct(1_500 * 0.173456789)
    assert drawn.mean() == pytest.approx(mean, abs=0.05)
    assert drawn.std() == pytest.approx(deviation, abs=0.45)  # 0.45: rounding when deviation is 0


def test_requests_touch_too():
    model = SequentialTouch(1_000, 100.0, touches_per_request=7)
    assert model.mean(SECOND, 10) == 170
    assert UniformTouch(1_000, 0.0, touches_per_request=1).mean(5 * SECOND, 1) == 1


def test_background_is_added_and_passes_its_flag_on():
    idle = MeasuredCurve.named("idle", outside="extrapolate")
    for with_idle, alone in zip(
        any_touch(300, 9_000.0, background=idle), any_touch(300, 9_000.0), strict=True
    ):
        for exposure_ns, flag in ((100_000_000, False), (2 * SECOND, True)):
            drawn, background = with_idle.draw(exposure_ns, 0, 0.3), idle.draw(exposure_ns, 0, 0.3)
            assert drawn.pages == alone.draw(exposure_ns, 0, 0.3).pages + background.pages
            assert drawn.extrapolated is flag
            assert with_idle.mean(exposure_ns, 0) == pytest.approx(
                alone.mean(exposure_ns, 0) + idle.mean(exposure_ns, 0)
            )


def test_never_more_than_the_guest():
    idle = MeasuredCurve.named("idle")
    model = UniformTouch(300, 1e6, background=idle, guest_pages=310)
    assert model.draw(SECOND, 0, 0.9).pages == 310
    assert model.mean(SECOND, 0) == 310
    assert model.union(310, 309) == 310


# --- union of both guests ------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_union_of_independent_guests_against_brute_force(name):
    model, chances = MODELS[name]
    rng = np.random.default_rng(2)
    for here, there in ((40, 40), (25, 90)):
        primary = rng.choice(60, size=(3_000, here), p=chances)
        secondary = rng.choice(60, size=(3_000, there), p=chances)
        union = np.mean(
            [np.union1d(p, s).size for p, s in zip(primary, secondary, strict=True)]
        )  # fmt: skip
        sizes = (round(model.distinct(here)[0]), round(model.distinct(there)[0]))
        assert model.union(*sizes) == pytest.approx(union, abs=1.5)  # sizes and union are rounded


@given(st.integers(1, 500), st.integers(0, 600), st.integers(0, 600))
def test_union_is_between_the_larger_and_the_sum(size, primary, secondary):
    for model in any_touch(size, 1.0):
        union = model.union(primary, secondary)
        assert max(primary, secondary) <= union <= primary + secondary
        assert union == model.union(secondary, primary)
    assert SequentialTouch(size, 1.0).union(primary, secondary) == max(primary, secondary)


# --- the toucher in a real guest -----------------------------------------------------------------

TOUCHERS = {
    "touch-uniform": ("uniform W=2000 r=5000", UniformTouch, (2_000, 5_000.0)),
    "touch-zipf": ("zipf W=16000 r=20000", ZipfTouch, (16_000, ZIPF_EXPONENT, 20_000.0)),
    "touch-sequential": ("seq W=8000 r=10000", SequentialTouch, (8_000, 10_000.0)),
}


def toucher_rows(measured_rows, setting):
    return [row for row in measured_rows if row["setting"] == setting]


def medians(rows, value):
    """Median of ``value(row)`` and of the exposure (ns) at every interval."""
    intervals = sorted({float(row["interval_ms"]) for row in rows})
    for interval in intervals:
        group = [row for row in rows if float(row["interval_ms"]) == interval]
        exposure_ns = round(median(float(row["exposure_ms"]) for row in group) * 1e6)
        yield exposure_ns, median(map(value, group))


def test_the_zipf_exponent_is_fitted(measured_rows):
    """Fitted to ``truth_expected``: one degree of freedom, the exponent, on a grid of 0.01; the
    largest misfit is made least. 0.99 reproduces all 128 values to 0.005 pages, their rounding;
    its neighbours on the grid miss by 160 pages.
    """
    rows = toucher_rows(measured_rows, "zipf W=16000 r=20000")
    touches = np.array([float(row["truth_touches"]) for row in rows])
    expected = np.array([float(row["truth_expected"]) for row in rows])

    def misfit(exponent, every):
        log_missed = np.log1p(-zipf_chances(16_000, exponent))
        distinct = np.array([-np.expm1(n * log_missed).sum() for n in touches[::every]])
        return float(np.abs(distinct - expected[::every]).max())

    grid = [hundredths / 100 for hundredths in range(80, 121)]
    assert min(grid, key=lambda exponent: misfit(exponent, every=7)) == ZIPF_EXPONENT
    assert misfit(0.99, every=1) < 0.0051
    assert min(misfit(0.98, every=1), misfit(1.0, every=1)) > 160


@pytest.mark.parametrize("name", TOUCHERS)
def test_touched_pages_are_what_the_toucher_says(name, measured_rows):
    """Without background, from the touches it counted: the closed forms to their last digit."""
    setting, kind, parameters = TOUCHERS[name]
    model = kind(*parameters)
    for row in toucher_rows(measured_rows, setting):
        mean, deviation = model.distinct(float(row["truth_touches"]))
        assert mean == pytest.approx(float(row["truth_expected"]), rel=1e-4, abs=0.01)
        # What really happened lies within the spread (5 sigma: 384 samples).
        assert abs(float(row["truth_seq_distinct"]) - mean) <= 5 * deviation + 0.01


@pytest.mark.parametrize("name", TOUCHERS)
def test_dirty_pages_of_the_real_guest_with_idle_background(name, measured_rows):
    """Medians within 1.5 % at 100 ms and above; 35 pages at any exposure.

    An idle guest hardly wakes up: its background at 10 to 50 ms is 0 pages (median), that of a
    guest at work 21 to 24 (next test). So short exposures come out low by that much, and by the
    toucher's own unevenness: 221 zipf touches in 10.5 ms where its rate gives 209.
    """
    setting, kind, parameters = TOUCHERS[name]
    model = kind(*parameters, background=MeasuredCurve.named("idle", outside="extrapolate"))
    rows = toucher_rows(measured_rows, setting)
    for exposure_ns, dirty in medians(rows, lambda row: float(row["dirty_pages"])):
        predicted = model.draw(exposure_ns, 0, 0.5).pages
        assert predicted == pytest.approx(dirty, abs=35)
        if exposure_ns > 100_000_000:
            assert predicted == pytest.approx(dirty, rel=0.015)


@pytest.mark.parametrize("name", TOUCHERS)
def test_the_rest_is_the_background_of_a_guest_at_work(name, measured_rows):
    """Dirty pages less the closed form of the touches counted: the kernel of a guest at work,
    22 pages at 10 ms rising to 45 at 1,600 ms (live-recipes 5), whatever the pattern.
    """
    setting, kind, parameters = TOUCHERS[name]
    model = kind(*parameters)

    def background(row):
        return float(row["dirty_pages"]) - model.distinct(float(row["truth_touches"]))[0]

    rest = [pages for _, pages in medians(toucher_rows(measured_rows, setting), background)]
    # Medians of 16: the chance of the touches adds up to a quarter of the deviation.
    slack = 2.5 + model.distinct(parameters[0])[1] / 2
    assert rest[0] == pytest.approx(22, abs=2.5)
    assert rest[-1] == pytest.approx(45, abs=slack)
    assert all(19 <= pages <= 47 + slack for pages in rest)


# --- impossible values ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"working_set_pages": 0}, "working_set_pages"),
        ({"working_set_pages": 65_537}, "working_set_pages"),
        ({"touches_per_s": -1.0}, "touches_per_s"),
        ({"touches_per_s": math.nan}, "touches_per_s"),
        ({"touches_per_request": math.inf}, "touches_per_request"),
        ({"guest_pages": 0}, "guest_pages"),
    ],
)
def test_out_of_range(values, named):
    for kind, more in ((UniformTouch, {}), (SequentialTouch, {}), (ZipfTouch, {"exponent": 1.0})):
        with pytest.raises(ModelError, match=named):
            kind(**{"working_set_pages": 10, "touches_per_s": 1.0, **more, **values})


@pytest.mark.parametrize("exponent", [-0.1, 10.1, math.nan])
def test_zipf_exponent_out_of_range(exponent):
    with pytest.raises(ModelError, match="exponent"):
        ZipfTouch(10, exponent, 1.0)
