from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colosim.units import (
    BANDWIDTH,
    DIMENSIONS,
    RATE,
    SIZE,
    TIME,
    Dimension,
    UnitError,
    dimension_of,
    without_unit,
)

WHOLE = [each for each in DIMENSIONS.values() if each.whole]


@pytest.mark.parametrize(
    ("dimension", "text", "value"),
    [
        (TIME, "50 ms", 50_000_000),
        (TIME, "0.1us", 100),
        (TIME, " 1.5e3  s ", 1_500_000_000_000),
        (TIME, "2 min", 120_000_000_000),
        (TIME, "1 h", 3_600_000_000_000),
        (TIME, "+.5 ns", 0),  # half to even
        (TIME, "1.5 ns", 2),
        (TIME, "9223372036854775807 ns", 2**63 - 1),
        (SIZE, "16 KiB", 16_384),
        (SIZE, "16 kB", 16_000),
        (SIZE, "1 GiB", 2**30),
        (BANDWIDTH, "1 Gbit/s", 10**9),
        (BANDWIDTH, "2.5 Mbit/s", 2_500_000),
        (RATE, "300 /s", 300.0),
        (RATE, "0.1 /s", 0.1),
        (RATE, "1 /ms", 1000.0),
        (RATE, "90 /min", 1.5),
        (RATE, "3600 /h", 1.0),
        (RATE, "31557600 /year", 1.0),
    ],
)
def test_reads(dimension: Dimension, text: str, value: float) -> None:
    assert dimension.parse(text) == value
    assert isinstance(dimension.parse(text), int) is dimension.whole


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 ns"), (100, "100 ns"), (1_500_000, "1500 us"), (10**9, "1 s"), (9 * 10**10, "90 s")],
)
def test_writes_in_the_largest_unit_that_fits(value: int, text: str) -> None:
    assert TIME.format(value) == text


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (50, "needs a unit"),
        (0, "needs a unit"),
        (0.5, "needs a unit"),
        (math.nan, "needs a unit"),
        ("50", "needs a unit"),
        (True, "not a time"),
        (None, "not a time"),
        (["50 ms"], "not a time"),
        ("", "not a time"),
        ("ms", "not a time"),
        ("fast", "not a time"),
        ("1 2 ms", "not a time"),
        ("٣ ms", "not a time"),
        ("5 MS", "unknown unit 'MS'"),
        ("5 sec", "unknown unit 'sec'"),
        ("5 /s", "unknown unit '/s'"),
        ("-5 ms", "must not be negative"),
        ("nan ms", "not a finite number"),
        ("-inf s", "not a finite number"),
        ("Infinity", "not a finite number"),
        ("9223372036854775808 ns", "too large"),
        ("1e999 h", "too large"),
        ("1e9999999999 s", "not a time"),
        ("9" * 10_000 + " s", "not a time"),
    ],
)
def test_refuses_and_says_what_would_be_right(text: object, wrong: str) -> None:
    with pytest.raises(UnitError, match=wrong) as raised:
        TIME.parse(text)
    said = str(raised.value)
    assert said.isprintable()
    assert "for example" in said or "at most" in said


@given(dimension=st.sampled_from(WHOLE), value=st.integers(0, 2**63 - 1))
def test_whole_numbers_come_back_exactly(dimension: Dimension, value: int) -> None:
    assert dimension.parse(dimension.format(value)) == value


@given(
    dimension=st.sampled_from(WHOLE),
    value=st.integers(1, 10**6),
    size=st.sampled_from([10**3, 2**10, 10**6, 2**20, 10**9]),
)
def test_round_numbers_come_back_exactly(dimension: Dimension, value: int, size: int) -> None:
    assert dimension.parse(dimension.format(value * size)) == value * size


@given(st.floats(0, 2**62))
def test_rates_come_back_exactly(value: float) -> None:
    assert RATE.parse(RATE.format(value)) == value


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("300 /s", "300 /s"),
        ("0.05 /s", "0.05 /s"),
        ("90 /min", "1.5 /s"),
        ("1 /min", "1 /min"),
        ("0.5 /year", "0.5 /year"),
        ("1.2345678 /year", "1.235 /year"),
        ("12345678 /s", "12,345,678 /s"),
        ("0 /s", "0 /s"),
    ],
)
def test_a_rate_is_shown_in_a_unit_in_which_it_is_short(given: str, shown: str) -> None:
    assert RATE.readable(RATE.parse(given)) == shown


@given(
    dimension=st.sampled_from(list(DIMENSIONS.values())),
    text=st.one_of(
        st.text(),
        st.from_regex(r"[-+]?[0-9]*\.?[0-9]*([eE][-+]?[0-9]+)? ?[a-zA-Z/]*"),
        st.floats(),
        st.integers(),
        st.binary(),
        st.none(),
    ),
)
def test_junk_is_a_unit_error_or_a_number_in_range(dimension: Dimension, text: Any) -> None:
    try:
        value = dimension.parse(text)
    except UnitError:
        return
    assert 0 <= value <= dimension.limit


def test_names_carry_their_dimension() -> None:
    assert dimension_of("service_time_ns") is TIME
    assert dimension_of("rate_per_s") is RATE
    assert dimension_of("clients") is None
    assert dimension_of("touches_per_request") is None
    assert without_unit("bandwidth_bps") == "bandwidth"
    assert without_unit("guest_memory_bytes") == "guest_memory"
    assert without_unit("pages_per_request") == "pages_per_request"
