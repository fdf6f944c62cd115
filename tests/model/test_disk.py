"""The disk model: queues against closed forms, overlays against whole copies, the judge's rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colosim.model.disk import (
    BLOCK_BYTES,
    Device,
    Image,
    Lineage,
    Overlaid,
    Piece,
    Queue,
    Version,
    Write,
    judge,
    put,
)
from colosim.model.errors import ModelError
from tests.sim.worlds import check_mean, waiting_s

FAST = Device(
    read_ns=100, write_ns=200, flush_ns=300, law="deterministic", bandwidth_bps=8e9, queue_depth=1
)


# -- durations ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [("write_ns", -1), ("spread", math.nan), ("bandwidth_bps", 0), ("queue_depth", 0)],
)
def test_what_no_device_can_be_is_refused(field, value):
    with pytest.raises(ModelError, match=field):
        replace(FAST, **{field: value})
    with pytest.raises(ModelError, match="one of deterministic"):
        replace(FAST, law="guess")


@pytest.mark.parametrize(("law", "deviation"), [("exponential", 1.0), ("lognormal", 0.4)])
def test_a_latency_has_its_mean_and_deviation(law, deviation):
    device = replace(FAST, law=law, spread=0.4)
    draws = np.random.default_rng(5)
    draw = draws.standard_exponential if law == "exponential" else draws.standard_normal
    values = [device.latency_ns(1_000_000, draw()) for _ in range(20_000)]
    check_mean(values, 1e6, within=0.03)
    assert np.std(values) / 1e6 == pytest.approx(deviation, rel=0.1)


@pytest.mark.parametrize(
    ("law", "servers"), [("exponential", 1), ("exponential", 3), ("deterministic", 1)]
)
def test_requests_wait_as_in_a_queue_with_so_many_places(law, servers):
    """M/M/1, M/M/3 and M/D/1 at load 0.7; false alarms 1e-3 each."""
    service_s, rate_per_s = 1e-3, 0.7 * servers / 1e-3
    device = replace(FAST, law=law, queue_depth=servers)
    waits = []
    for seed in range(30):
        draws, queue, now_ns, total = np.random.default_rng(seed), Queue(device), 0.0, 0.0
        for _ in range(4000):
            now_ns += draws.exponential(1e9 / rate_per_s)
            latency_ns = device.latency_ns(1_000_000, draws.standard_exponential())
            total += queue.admit(round(now_ns), latency_ns, 0) - now_ns - latency_ns
        waits.append(total / 4000 / 1e9)
    check_mean(waits, waiting_s(rate_per_s, service_s, servers, law == "exponential"), within=0.15)


def test_the_bus_is_shared_and_latencies_are_not():
    queue = Queue(replace(FAST, queue_depth=8))  # 1 B/ns
    assert [queue.admit(0, 500, 1000) for _ in range(3)] == [1500, 2500, 3500]
    assert queue.admit(10_000, 500, 1000) == 11_500


# -- overlays ----------------------------------------------------------------------------------

BLOCKS = 6


def write(run: int, number: int, first: int, length: int = 1) -> Write:
    blocks = range(first, min(first + length, BLOCKS))
    return Write(run, number, run, number, 0, Piece(blocks, BLOCK_BYTES * len(blocks)), 0)


def marks(see: Callable[[int], object]) -> list[object]:
    return [getattr(see(block), "mark", None) for block in range(BLOCKS)]


PIECES = st.tuples(st.integers(0, BLOCKS - 1), st.integers(1, 3))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("primary"), PIECES),
        st.tuples(st.just("own"), PIECES),
        st.tuples(st.just("cut"), st.none()),
        st.tuples(st.just("load"), st.none()),
    ),
    max_size=40,
)


@given(STEPS)
def test_the_secondary_sees_the_last_checkpoint_and_its_own_writes(steps):
    """Beside whole copies of disks, whatever comes between: also cuts ahead of loads."""
    chain, theirs = Overlaid(2), Image()
    cuts: list[tuple[int, Image]] = []  # taken and not loaded yet
    next_cut, own_view, runs = 1, Image(), 1
    for number, (kind, piece) in enumerate(steps):
        if kind == "primary":
            each = write(0, number, *piece)
            put(theirs, each, theirs)
            chain.new_hidden(each.piece.blocks, next_cut)
            chain.land(each, next_cut)
        elif kind == "own":
            each = write(runs, number, *piece)
            put(own_view, each, own_view)
            chain.new_active(each.piece.blocks)
            chain.write(each)
        elif kind == "cut":
            cuts.append((next_cut, dict(theirs)))
            next_cut += 1
        elif cuts:
            checkpoint, own_view = cuts.pop(0)
            chain.empty(checkpoint)
            runs += 1
        assert marks(chain.view) == marks(own_view.get)
        assert marks(chain.disk.get) == marks(theirs.get)
    assert marks(chain.whole_view().get) == marks(own_view.get)
    chain.commit()
    assert marks(chain.disk.get) == marks(own_view.get)
    assert chain.sizes() == (0, 0)


def test_overlays_grow_by_clusters_and_once_each():
    chain = Overlaid(4)
    assert chain.new_hidden(range(3, 5), 1) == [0, 1]
    assert chain.new_hidden(range(8), 1) == []
    assert chain.new_hidden(range(1), 2) == [0]  # the layer of the next checkpoint
    assert chain.new_active(range(8, 9)) == [2]
    assert chain.sizes() == (4 * BLOCK_BYTES, 3 * 4 * BLOCK_BYTES)
    assert chain.sizes(1) == (4 * BLOCK_BYTES, 2 * 4 * BLOCK_BYTES)  # what this one empties
    chain.empty(1)
    assert chain.sizes() == (0, 4 * BLOCK_BYTES)
    chain.commit()
    assert chain.new_active(range(8, 9)) == []


# -- the judge ---------------------------------------------------------------------------------


def history() -> tuple[Image, Lineage, list[list[Write]], list[tuple[int, int, int]]]:
    """A right one: the primary's first two writes, then the survivor's own."""
    theirs = [write(0, 0, 0, 2), write(0, 1, 1), write(0, 2, 2)]
    own = [write(1, 0, 1), write(1, 1, 4, 2)]
    theirs[0].durable, theirs[1].after = 1, 1
    own[0].durable, own[1].after = 1, 1
    image = Image()
    for each in (*theirs, *own):
        each.done = True
        if each is not theirs[2]:  # after the cut
            put(image, each, image)
    promised = [theirs[0].key, theirs[1].key, own[0].key]
    return image, Lineage({0: 2, 1: None}), [theirs, own], promised


def without(image: Image, gone: Write, only: set[int] | None = None) -> Image:
    """The image as it would be had that write never been made, or not to all of its blocks."""
    fresh = Image()
    for block, version in image.items():
        for each in reversed([*version.writes()]):
            if each is not gone or (only is not None and block not in only):
                put(fresh, replace(each, piece=Piece(range(block, block + 1), 0)), fresh)
    # the same writes, not copies of them
    by_name = {(w.run, w.number): w for v in image.values() for w in v.writes()}
    for version in fresh.values():
        below: Version | None = version
        while below is not None:
            below.write = by_name[below.write.run, below.write.number]
            below = below.older
    return fresh


def test_a_right_disk_is_right():
    assert judge(*history()) == []


def test_writes_that_a_client_was_told_of_must_be_there():
    image, lineage, runs, promised = history()
    (text, *_) = judge(without(image, runs[0][0]), lineage, runs, promised)
    assert (
        text == "1 writes acknowledged to a client and not on the survivor's disk, 0.0.0 the first"
    )
    # whoever made it: the survivor did the same request itself
    runs[1][0].client = runs[1][0].request = 0
    assert not any("acknowledged" in each for each in judge(image, lineage, runs, [(0, 0, 0)]))


def test_a_write_is_not_there_in_part():
    image, lineage, runs, _ = history()
    found = judge(without(image, runs[1][1], only={5}), lineage, runs, [])
    assert any(text.startswith("1 writes only partly there, 1.1.0") for text in found)


def test_what_is_there_implies_what_was_flushed_before_it():
    image, lineage, runs, _ = history()
    runs[0][0].done = False  # so that nothing else is wrong
    found = judge(without(image, runs[0][0]), lineage, runs, [])
    assert found == [
        "1 writes missing although a later one, past a flush, is there, 0.0.0 the first"
    ]
    runs[0][0].durable = 2  # by a flush that had not ended when the later one began
    assert judge(without(image, runs[0][0]), lineage, runs, []) == []


def test_what_the_survivor_has_not_come_from_is_not_there():
    image, lineage, runs, _ = history()
    put(image, runs[0][2], image)
    put(image, replaced := write(7, 0, 3), image)
    found = judge(image, lineage, [*runs, [replaced]], [])
    assert found == [
        "2 writes there, of a past that the survivor's guest does not have, 0.2.0 the first"
    ]


def test_what_was_done_is_there_flushed_or_not():
    image, lineage, runs, _ = history()
    found = judge(without(image, runs[1][1]), lineage, runs, [])
    assert found == ["1 writes done by the survivor's guest and not there, 1.1.0 the first"]
