"""A draw is found by its address: never by the order of asking, the process or the policy."""

import json
import os
import subprocess
import sys
from unittest.mock import create_autospec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colosim.model import streams as streams_module
from colosim.model.seeding import generators
from colosim.model.streams import Streams

KINDS = ("exponential", "uniform", "normal")
addresses = st.tuples(
    st.sampled_from(KINDS), st.integers(0, 5), st.integers(0, 300)
)  # distribution (also the purpose), key, index


def value(streams, address):
    kind, key, index = address
    return getattr(streams, kind)(f"purpose of {kind}", key).at(index)


@given(st.lists(addresses, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_order_of_access_does_not_matter(wanted, random):
    forward, shuffled = Streams(7, 3), Streams(7, 3)
    expected = {address: value(forward, address) for address in wanted}
    random.shuffle(wanted)
    assert {address: value(shuffled, address) for address in wanted} == expected


SCRIPT = """
import json
from colosim.model.streams import Streams
s = Streams(2**63 - 1, 4)
draws = [s.normal("jitter", 2), s.exponential("service", 9), s.uniform("differs")]
print(json.dumps([[d.at(i) for i in (5000, 0, 77)] for d in draws]))
"""


def test_same_draws_in_other_processes():
    def run(hash_seed):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, check=True
        )
        return json.loads(done.stdout)

    streams = Streams(2**63 - 1, 4)
    here = [
        [draws.at(i) for i in (0, 77, 5000)]
        for draws in (
            streams.normal("jitter", 2),
            streams.exponential("service", 9),
            streams.uniform("differs"),
        )
    ]
    assert run("0") == run("4242") == [[late, first, mid] for first, mid, late in here]


def test_blocks_are_one_sequence_of_the_documented_generator():
    streams = Streams(11, 2)
    draws = streams.exponential("service", 5)
    from_blocks = [draws.at(i) for i in range(40_000)]
    # crc32(b"service") is 3785202386; the address is (replication, checksum, key).
    sequence = np.random.SeedSequence(11, spawn_key=(2, 3785202386, 5))
    at_once = np.random.Generator(np.random.PCG64(sequence)).standard_exponential(40_000)
    assert from_blocks == at_once.tolist()


@given(
    st.integers(0, 2**64 - 1),
    st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2),
    st.lists(st.integers(1, 2**32 - 1), max_size=1),
)
def test_generators_seeded_together_are_those_of_numpy(seed, address, rest):
    for key, bits in enumerate(generators(seed, address, 5, rest)):
        sequence = np.random.SeedSequence(seed, spawn_key=(*address, key, *rest))
        assert bits.state == np.random.PCG64(sequence).state


def test_keys_that_were_expected_have_the_same_draws():
    expected, others = Streams(7, 3, 2), Streams(7, 3, 2)
    expected.expect("service", 3)
    for key in range(4):  # one more than was expected
        assert expected.normal("service", key).at(9) == others.normal("service", key).at(9)


@given(
    st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1),
    st.sampled_from(["seed", "replication", "key", "purpose"]),
)  # fmt: skip
def test_every_part_of_the_address_matters(seed, replication, key, part):
    def draws(seed, replication, purpose, key):
        found = Streams(seed, replication).uniform(purpose, key)
        return [found.at(0), found.at(1)]

    parts = {"seed": seed, "replication": replication, "key": key, "purpose": "arrival"}
    other = {"purpose": "service"} if part == "purpose" else {part: parts[part] ^ 1}
    assert draws(**parts) != draws(**{**parts, **other})


@pytest.mark.parametrize(
    ("kind", "mean", "variance"),
    [("exponential", 1, 1), ("uniform", 0.5, 1 / 12), ("normal", 0, 1)],
)
def test_standard_moments_within_and_across_keys(kind, mean, variance):
    streams = Streams(1, 0)
    count = 20_000
    one_key = [getattr(streams, kind)("within").at(i) for i in range(count)]
    first_of_each_key = [getattr(streams, kind)("across", key).at(0) for key in range(count // 10)]
    for sample in (np.array(one_key), np.array(first_of_each_key)):
        assert sample.mean() == pytest.approx(mean, abs=4 * (variance / sample.size) ** 0.5)
        assert sample.var() == pytest.approx(variance, rel=0.15)


def test_draws_are_plain_floats():
    streams = Streams(1, 0)
    assert {type(getattr(streams, kind)(kind).at(3)) for kind in KINDS} == {float}


def test_uniform_is_never_zero():
    generator = create_autospec(np.random.Generator, instance=True)
    generator.random.side_effect = lambda out: out.fill(0.0)
    out = np.ones(2)
    streams_module._uniform(generator, out)
    assert 0 < out.max() < 1e-15


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_any_size_have_the_same_draws(kind):
    one_by_one = getattr(Streams(5, 1), kind)("purpose", 3)
    in_blocks = getattr(Streams(5, 1), kind)("purpose", 3)
    first = 0
    for size in (1, 64, 7, 1000, 30_000):
        out = np.empty(size)
        in_blocks.fill(out)
        assert out.tolist() == [one_by_one.at(first + i) for i in range(size)]
        first += size


def test_draws_are_taken_in_one_of_the_two_ways():
    streams = Streams(5, 1)
    streams.uniform("singly").at(0)
    with pytest.raises(ValueError, match="one by one"):
        streams.uniform("singly").fill(np.empty(3))
    streams.uniform("blocks").fill(np.empty(3))
    with pytest.raises(ValueError, match="in blocks"):
        streams.uniform("blocks").at(0)


def test_a_purpose_has_one_distribution():
    streams = Streams(1, 0)
    streams.uniform("service", 1)
    with pytest.raises(ValueError, match="share the random bits of 'service'"):
        streams.normal("service", 2)
    with pytest.raises(ValueError, match="share the random bits of 'service'"):
        streams.normal("service", 1)


def test_two_purposes_with_one_checksum_are_refused():
    streams = Streams(1, 0)
    streams.uniform("plumless")
    with pytest.raises(ValueError, match="share the random bits of 'plumless'"):
        streams.uniform("buckeroo")  # a well-known crc32 collision


@pytest.mark.parametrize(("seed", "replication"), [(-1, 0), (2**64, 0), (0, -1), (0, 2**32)])
def test_seed_and_replication_out_of_range(seed, replication):
    with pytest.raises(ValueError, match="must be from 0"):
        Streams(seed, replication)


@pytest.mark.parametrize("key", [-1, 2**32])
def test_key_out_of_range(key):
    with pytest.raises(ValueError, match="must be from 0"):
        Streams(1, 0).uniform("service", key)


def test_negative_index_is_an_error_not_the_last_draw():
    draws = Streams(1, 0).uniform("service")
    draws.at(10)
    with pytest.raises(IndexError):
        draws.at(-1)
