"""How small a state gets as differences: beside zlib, and beside the measured table."""

from __future__ import annotations

import random
import zlib

import pytest

from colosim.model import delta
from colosim.model.errors import ModelError
from colosim.model.memory import CurvePoint, MeasuredCurve, SequentialTouch, UniformTouch, ZipfTouch

PAGE = 4096


def compressed(hits: list[int], write_bytes: int, rng: random.Random) -> float:
    """What zlib leaves of the pages that are hit, each hit changing bytes at a random place."""
    pages: dict[int, bytearray] = {}
    for page in hits:
        at = rng.randrange(PAGE - write_bytes + 1)
        data = pages.setdefault(page, bytearray(PAGE))
        data[at : at + write_bytes] = rng.randbytes(write_bytes)
    sizes = [min(len(zlib.compress(bytes(each), 1)), PAGE) for each in pages.values()]
    return sum(sizes) / (PAGE * len(sizes))


@pytest.mark.parametrize("touches_a_page", [0.2, 1, 4, 16, 64])
@pytest.mark.parametrize("write_bytes", [4, 16, 64, 256])
def test_uniform_writes_beside_zlib(write_bytes, touches_a_page):
    rng = random.Random(7)
    pages, touches = 150, round(150 * touches_a_page)
    truth = compressed([rng.randrange(pages) for _ in range(touches)], write_bytes, rng)
    ratio = delta.by_writes(UniformTouch(pages, 1.0), write_bytes, PAGE)
    assert ratio(touches * 10**9, 0) == pytest.approx(truth, rel=0.12)
    assert delta.by_writes(UniformTouch(pages, 0.0, 2.0), write_bytes, PAGE)(
        5, touches // 2
    ) == pytest.approx(truth, rel=0.12)


@pytest.mark.parametrize("write_bytes", [16, 128])
def test_writes_that_prefer_some_pages_beside_zlib(write_bytes):
    """A page that is hit a hundred times is not a hundred times as large."""
    rng = random.Random(8)
    pages, touches = 400, 3_000
    weights = [1 / (i + 1) for i in range(pages)]
    hits = rng.choices(range(pages), weights, k=touches)
    truth = compressed(hits, write_bytes, rng)
    ratio = delta.by_writes(ZipfTouch(pages, 1.0, 1.0), write_bytes, PAGE)
    assert ratio(touches * 10**9, 0) == pytest.approx(truth, rel=0.15)


def test_older_pages_have_changed_more():
    ratio = delta.by_writes(UniformTouch(1000, 1000.0), 64, PAGE)
    ratios = [ratio(round(ms * 1e6), 0) for ms in (1, 10, 100, 1_000, 10_000, 1e6)]
    assert ratios == sorted(ratios)
    assert 0.03 > ratios[0] > 51 / PAGE
    assert ratios[-1] == 1.0


def test_no_touches_leave_nothing():
    assert delta.by_writes(SequentialTouch(10, 0.0), 64, PAGE)(10**9, 0) == 0


def test_measured_ages():
    """The medians of the shipped table; redis grows with the logarithm of the exposure."""
    ratio = delta.by_age(MeasuredCurve.named("redis"))
    assert ratio(10_500_000, 0) == pytest.approx(0.0404, rel=0.02)
    assert ratio(1_600_500_000, 0) == pytest.approx(0.0806, rel=0.02)
    assert ratio(1, 0) == ratio(10_000_000, 0)
    assert ratio(10**13, 0) == ratio(1_700_000_000, 0)
    between = ratio(150_000_000, 0)
    assert 0.0571 - 1e-3 <= between <= 0.0574 + 1e-3
    assert delta.by_age(MeasuredCurve.named("idle"))(10**6, 0) == pytest.approx(0.03, abs=0.005)


def test_linear_in_the_logarithm():
    points = [CurvePoint(1_000, (5,)), CurvePoint(100_000, (9,))]
    curve = MeasuredCurve(points, deltas=[(1_000, 0.1), (100_000, 0.3)])
    assert delta.by_age(curve)(10_000, 0) == pytest.approx(0.2)


def test_what_was_not_measured_is_refused():
    curve = MeasuredCurve([CurvePoint(1_000, (5,)), CurvePoint(100_000, (9,))])
    with pytest.raises(ModelError, match="delta_ratio"):
        delta.by_age(curve)
    with pytest.raises(ModelError, match="write_bytes"):
        delta.by_writes(UniformTouch(10, 1.0), 0, PAGE)
    with pytest.raises(ModelError, match="delta_ratio"):
        delta.constant(1.5)
