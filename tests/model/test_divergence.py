import math

import pytest

from colosim.model.divergence import Divergence
from colosim.model.errors import ModelError
from colosim.model.streams import Streams


def test_a_response_differs_with_its_probability():
    draws = Streams(5, 0).uniform("differs")
    divergence = Divergence(probability=0.03)
    count = 40_000
    differing = sum(divergence.response_differs(draws.at(i)) for i in range(count))
    assert differing / count == pytest.approx(0.03, abs=4 * math.sqrt(0.03 * 0.97 / count))


def test_certain_and_impossible():
    assert not Divergence(probability=0.0).response_differs(0.0)
    assert Divergence(probability=1.0).response_differs(1 - 2**-53)


def test_first_divergence_is_exponential():
    assert Divergence(hazard_per_s=4.0).first_ns(1.0) == 250_000_000
    draws = Streams(5, 0).exponential("state")
    divergence = Divergence(hazard_per_s=20.0)
    times = [divergence.first_ns(draws.at(i)) for i in range(20_000)]
    assert sum(t is not None and t > 50_000_000 for t in times) / 20_000 == pytest.approx(
        math.exp(-1), abs=0.015
    )


def test_no_hazard_means_never():
    assert Divergence().first_ns(1e-9) is None
    assert Divergence().unprompted_ns(1e-9) is None


def test_the_first_response_of_a_connection_differs_by_either_cause():
    divergence = Divergence(probability=0.2, connection_probability=0.5)
    assert not divergence.response_differs(0.2)
    assert divergence.response_differs(0.6 - 1e-9, opens=True)
    assert not divergence.response_differs(0.6 + 1e-9, opens=True)


def test_what_nobody_asked_for_comes_at_its_rate():
    assert Divergence(unprompted_per_s=4.0).unprompted_ns(2.0) == 500_000_000


@pytest.mark.parametrize(
    "values",
    [{"probability": -0.1}, {"probability": 1.1}, {"probability": math.nan},
     {"hazard_per_s": -1.0}, {"hazard_per_s": math.inf}, {"connection_probability": 1.1},
     {"unprompted_per_s": -1.0}],
)  # fmt: skip
def test_out_of_range(values):
    with pytest.raises(ModelError, match=next(iter(values))):
        Divergence(**values)
