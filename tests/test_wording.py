"""Numbers and lists as people read them; values of columns with their units."""

import math

import pytest

from colosim.units import readable
from colosim.wording import between, is_told, listed, number, percent, plus_minus, sure


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1234.5, "1,234"),
        (12.345, "12.3"),
        (0.012345, "0.0123"),
        (-2.5, "−2.50"),
        (math.nan, "?"),
        (math.inf, "∞"),
    ],
)
def test_numbers_have_three_digits_that_count(value, text):
    assert number(value) == text


def test_parts_intervals_and_lists():
    assert [percent(each) for each in (0.25, 0.1234, -0.05, -0.0001)] == [
        *("25 %", "12.3 %", "−5 %", "0 %")
    ]
    assert (sure(0.99991), sure(0.953)) == ("more than 99.9 %", "95.3 %")
    assert (plus_minus(0.1234), plus_minus(math.nan)) == (" ± 0.12", "")
    assert between(0.1, 0.25, percent) == "10 % to 25 %"
    assert [listed(["a", "b", "c"][:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert (is_told(0.1, 2), is_told(-1, 2), is_told(-2, -1)) == (True, False, True)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("link.bandwidth_bps", 1_000_000_000, "1 Gbit/s"),
        ("link.bandwidth_bps", 2_512_345_678, "2.512 Gbit/s"),
        ("policy.remus.interval_ns", 50_000_000, "50 ms"),
        ("policy.remus.interval_ns", 1_234_567, "1.235 ms"),
        ("memory.touches_per_s", 1234.56, "1235 /s"),
        ("memory.guest_memory_bytes", 256 * 2**20, "256 MiB"),
        ("divergence.probability", 0.001, "0.001"),
        ("memory.kind", "uniform", "uniform"),
    ],
)
def test_a_value_of_a_column_has_the_unit_of_its_name(name, value, text):
    assert readable(name, value) == text
