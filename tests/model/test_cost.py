import pytest
from hypothesis import given
from hypothesis import strategies as st

from colosim.model.cost import Costs, Slowdown
from colosim.model.errors import ModelError
from colosim.model.memory import MeasuredCurve, MemoryModel, SequentialTouch, UniformTouch

MS = 1_000_000


def test_durations_and_sizes_by_hand():
    costs = Costs(
        find_pages_ns=7, save_fixed_ns=100, save_per_page_ns=3, copy_fixed_ns=50,
        copy_per_page_ns=2, load_fixed_ns=10, load_per_page_ns=5,
        page_bytes=4096, page_header_bytes=8, device_state_bytes=1000,
    )  # fmt: skip
    assert costs.save_ns(10) == 7 + 100 + 30
    assert costs.copy_ns(10) == 70
    assert costs.load_ns(10) == 60
    assert costs.state_bytes(10) == 1000 + 41_040
    assert (costs.save_ns(0), costs.copy_ns(0), costs.load_ns(0)) == (107, 50, 10)
    assert costs.state_bytes(0) == 1000


def test_parts_of_the_pages_by_hand():
    costs = Costs(
        find_pages_ns=7, save_fixed_ns=100, save_per_page_ns=3, page_bytes=1000,
        page_header_bytes=8, device_state_bytes=500, zero_pages=0.2, duplicate_pages=0.3,
        duplicate_bytes=16, zero_page_cost=0.5, find_duplicate_ns=11, delta_per_page_ns=50,
    )  # fmt: skip
    assert costs.parts(10) == (2, 3, 5)
    assert costs.save_ns(10) == 107 + 3 * 5 + 3  # doubles are not encoded
    assert costs.encode_ns(10, is_delta=False) == 11 * 8  # zeros are not looked for
    assert costs.encode_ns(10, is_delta=True) == 11 * 8 + 50 * 5
    assert costs.state_bytes(10) == 500 + 80 + 2 + 3 * 16 + 5000
    assert costs.state_bytes(10, 0.1) == 500 + 80 + 2 + 3 * 16 + 500


@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1))
def test_parts_are_all_of_the_pages(pages, zero, duplicate):
    parts = Costs(zero_pages=zero, duplicate_pages=(1 - zero) * duplicate).parts(pages)
    assert sum(parts) == pages
    assert min(parts) >= 0
    assert abs(parts.zero - zero * pages) <= 0.5
    assert abs(parts.duplicate - (1 - zero) * duplicate * pages) <= 1


def test_no_duplicates_cost_nothing():
    assert Costs().encode_ns(1000, is_delta=False) == 0


def test_measured_defaults_are_the_medians_of_the_shipped_table(measured_rows):
    def median_ns(column):
        values = sorted(float(row[column]) for row in measured_rows)
        return values[len(values) // 2] * MS

    costs = Costs()
    assert costs.stop_ns == pytest.approx(median_ns("stop_ms"), rel=0.05)
    assert costs.save_fixed_ns == pytest.approx(median_ns("save_ms"), rel=0.05)
    assert costs.resume_ns == pytest.approx(median_ns("cont_ms"), rel=0.05)
    assert {row["devstate_bytes"] for row in measured_rows} == {str(costs.device_state_bytes)}


@pytest.mark.parametrize(
    "values",
    [
        {"stop_ns": -1},
        {"page_bytes": 0},
        {"duplicate_pages": 0.6, "zero_pages": 0.5},
        {"zero_page_cost": 1.1},
    ],
)
def test_costs_out_of_range(values):
    with pytest.raises(ModelError, match=next(iter(values))):
        Costs(**values)


def test_slowdown_by_hand():
    # 1,000 pages/s of guest time, every first write 100 us: 10 % slower until all 50 are written.
    slowdown = Slowdown(SequentialTouch(50, 1_000), 100_000)
    assert slowdown.wall_ns(0, 10 * MS) == 11 * MS
    assert slowdown.wall_ns(0, 80 * MS) == 85 * MS
    assert slowdown.wall_ns(45 * MS, 10 * MS) == 10 * MS + 500_000
    assert slowdown.wall_ns(60 * MS, 10 * MS) == 10 * MS
    assert slowdown.progress_ns(0, 11 * MS) == 10 * MS
    assert slowdown.progress_ns(45 * MS, 10 * MS + 500_000) == 10 * MS


def test_a_request_pays_for_its_own_pages():
    slowdown = Slowdown(SequentialTouch(50, 0.0, touches_per_request=20), 1_000)
    assert [slowdown.request_ns(0, n) for n in (0, 1, 2, 3)] == [20_000, 20_000, 10_000, 0]


MEMORIES: dict[str, MemoryModel] = {
    "uniform": UniformTouch(500, 20_000, 3.0),
    "sequential": SequentialTouch(500, 20_000),
    "curve": MeasuredCurve.named("redis", outside="extrapolate"),
    "scaled": MeasuredCurve.named("nginx", pages_per_request=1.0, outside="extrapolate"),
    "absurdly scaled": MeasuredCurve.named("nginx", pages_per_request=60.0, outside="extrapolate"),
}
work = st.integers(0, 2_000 * MS)


@given(st.sampled_from(sorted(MEMORIES)), work, work, st.integers(0, 400), st.floats(0, 80_000))
def test_progress_is_the_inverse_of_wall(name, progress0, wall, requests, first_write_ns):
    slowdown = Slowdown(MEMORIES[name], first_write_ns)
    done = slowdown.progress_ns(progress0, wall, requests)
    assert 0 <= done <= wall
    # The most work that fits: it fits, and a nanosecond more does not.
    assert slowdown.wall_ns(progress0, done, requests) <= wall
    assert slowdown.wall_ns(progress0, done + 1, requests) > wall


@given(
    st.sampled_from(["uniform", "sequential", "curve"]), work, work, work, st.floats(0, 80_000)
)  # fmt: skip
def test_pieces_add_up(name, progress0, first, second, first_write_ns):
    slowdown = Slowdown(MEMORIES[name], first_write_ns)
    whole = slowdown.wall_ns(progress0, first + second)
    pieces = slowdown.wall_ns(progress0, first) + slowdown.wall_ns(progress0 + first, second)
    assert pieces == whole
    assert whole >= first + second


@given(work, work)
def test_no_first_write_cost_no_slowdown(progress0, piece):
    slowdown = Slowdown(MeasuredCurve.named("redis"), 0)  # not even a question to the curve
    assert slowdown.wall_ns(progress0 + 10**12, piece) == piece
    assert slowdown.progress_ns(progress0 + 10**12, piece) == piece
    assert slowdown.request_ns(progress0 + 10**12, 5) == 0


def test_slowdown_out_of_range():
    with pytest.raises(ModelError, match="first_write_ns"):
        Slowdown(MEMORIES["curve"], -1)
