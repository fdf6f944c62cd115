"""What is given by hand, and how a curve of dirty pages goes on."""

import math

import pytest

from colosim.model.memory import CurvePoint, MeasuredCurve
from colosim.sizing import SizingError, given
from colosim.sizing.basis import Curve, Unknown, exponents


@pytest.mark.parametrize(
    ("text", "over_ns", "pages"),
    [
        ("40 MiB/s", 10**9, 10_240),
        ("90 MiB/s over 100 ms", 10**8, 2_304),
        ("4096 B/s over 2 s", 2 * 10**9, 2),
    ],
)
def test_a_dirty_rate(text, over_ns, pages):
    assert given.dirty_rate(text) == CurvePoint(over_ns, (pages,))


@pytest.mark.parametrize(
    "text", ["40", "40 MiB", "40 pages/s", "40 MiB/s over", "1 MiB/s over 0 s", ""]
)
def test_a_dirty_rate_that_is_none_says_what_is_right(text):
    with pytest.raises(SizingError, match=r"40 MiB/s") as error:
        given.dirty_rate(text)
    assert "\n" not in str(error.value)


def test_a_table_of_dirty_pages(tmp_path):
    path = tmp_path / "pages.csv"
    path.write_text("interval_ms,dirty_pages\n100,50\n100,70\n1000,200\n")
    points = given.table(path)
    assert points == [CurvePoint(10**8, (50.0, 70.0)), CurvePoint(10**9, (200.0,))]
    path.write_text("interval_s,dirty_mib\n1,2\n")
    assert given.table(path) == [CurvePoint(10**9, (512.0,))]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a,b\n1,2\n", "needs columns"),
        ("interval_ms,dirty_pages\n", "no rows"),
        ("interval_ms,dirty_pages\n1,x\n", "line 2"),
        ("interval_ms,dirty_pages\n0,3\n", "line 2"),
        ("interval_ms,dirty_pages\n5,-3\n", "line 2"),
        ("interval_ms,dirty_pages\n5,nan\n", "line 2"),
    ],
)
def test_a_table_that_is_none_names_the_line(tmp_path, text, where):
    path = tmp_path / "pages.csv"
    path.write_text(text)
    with pytest.raises(SizingError, match=where):
        given.table(path)


def test_changes_are_read_as_in_a_file():
    assert given.changes(["workload.rate=200 /s", "divergence.probability=0.1", "a=true"]) == {
        "workload.rate": "200 /s",
        "divergence.probability": 0.1,
        "a": True,
    }
    with pytest.raises(SizingError, match="KEY=VALUE"):
        given.changes(["workload.rate"])


def test_a_curve_goes_on_by_its_exponents(tmp_path):
    curve = Curve([CurvePoint(10**8, (100.0,)), CurvePoint(10**9, (400.0,))], 10_000, 1.0, 0.5)
    path = tmp_path / "pages.csv"
    curve.table().to_csv(path, index=False)
    model = MeasuredCurve.from_csv(path, "sized", "size", outside="extrapolate")
    assert model.mean(10**8, 0) == pytest.approx(100)
    assert model.mean(0.5 * 10**8, 0) == pytest.approx(50)
    assert model.mean(4 * 10**9, 0) == pytest.approx(800)
    assert curve.table(2.0)["dirty_pages"].max() <= 10_000


def test_exponents_follow_from_the_points():
    points = [CurvePoint(10**8, (100.0,)), CurvePoint(10**9, (10**2.5,))]
    (below, least), (beyond, most) = exponents(points)
    assert (below, least) == pytest.approx((0.75, 0.5))
    assert (beyond, most) == pytest.approx((0.25, 0.5))


def test_an_unknown_is_drawn_from_its_range():
    assumed = Unknown("workload.rate_per_s", 10.0, 1.0, 100.0, "assumed", "load")
    assert [assumed.at(u) for u in (0.0, 0.5, 1.0)] == pytest.approx([1, 10, 100])
    measured = Unknown("workload.rate_per_s", 10.0, 1.0, 100.0, "measured", "load")
    assert measured.at(0.975) == pytest.approx(100, rel=0.01)
    assert measured.at(0.5) == pytest.approx(10)
    none = Unknown("divergence.unprompted_per_s", 0.0, 0.0, 0.3, "measured", "none seen")
    assert none.at(0.0001) == 0.0
    assert math.isfinite(none.at(0.9999))
    assert assumed.shown(30.0) == "30 /s"
    assert Unknown("cost.stop_ns", 1, 1, 2, "assumed", "").shown(1_234_567) == "1.23 ms"
