"""Guest mechanics: work is conserved whatever stops a guest, and first writes cost what they cost.

Most tests here drive a `Guest` by hand; the last ones let the simulator do it and hold the result
against a closed form.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from backends.sim.clock import Clock
from backends.sim.guest import Guest
from colosim.model.cost import Slowdown
from colosim.model.memory import SequentialTouch, UniformTouch
from tests.sim.worlds import FREE, NS_PER_MS, NS_PER_S, replicate, scenario, service

FOREVER_NS = 10**12


class Bench:
    """A guest on its own; the only request of client j takes ``works[j]``."""

    def __init__(self, works, vcpus=1, slowdown=None, clock=None):
        self.clock = clock or Clock()
        self.finished: dict[int, int] = {}
        self.guest = Guest(
            self.clock,
            slowdown or Slowdown(SequentialTouch(1, 0.0), 0),
            vcpus,
            lambda client, request: works[client],
            lambda client, request: self.finished.update({client: self.clock.now_ns()}),
        )

    def at(self, when_ns, call, *arguments):
        self.clock.after(when_ns - self.clock.now_ns(), lambda _: call(*arguments))

    def ask(self, clients):
        for client in clients:
            self.guest.request(client, 0)

    def run(self, until_ns=FOREVER_NS):
        self.clock.run(until_ns)
        return self.finished


works = st.lists(st.integers(1, 1_000), min_size=1, max_size=8)
pauses = st.lists(  # (after, how long, by a hang instead of a stop)
    st.tuples(st.integers(1, 800), st.integers(1, 800), st.booleans()), max_size=5
)


def test_first_come_first_served():
    bench = Bench([100, 50, 10, 200], vcpus=2)
    bench.guest.start()
    bench.ask(range(4))
    assert bench.run() == {1: 50, 2: 60, 0: 100, 3: 260}


def test_a_client_is_answered_in_the_order_it_asked():
    """Its later request is done first, and waits; a snapshot keeps that."""
    clock, order = Clock(), []
    works = [100, 50, 10]

    def guest():
        answered = lambda client, request: order.append((clock.now_ns(), request))  # noqa: E731
        slowdown = Slowdown(SequentialTouch(1, 0.0), 0)
        return Guest(clock, slowdown, 2, lambda client, request: works[request], answered)

    first, second = guest(), guest()
    first.start()
    for request in range(3):
        first.request(0, request)

    def take_over(_):
        first.stop()
        second.load(first.snapshot(0, {}))
        second.start()

    clock.after(70, take_over)
    clock.run(FOREVER_NS)
    assert order == [(100, 0), (100, 1), (100, 2)]
    assert not second.requests()


@given(works, pauses, st.integers(1, 3))
def test_a_pause_delays_and_changes_nothing_else(works, pauses, vcpus):
    """A request finishes at the time it would have finished at, in time that the guest runs."""
    plain = Bench(works, vcpus)
    plain.guest.start()
    plain.ask(range(len(works)))
    plain.run()

    bench = Bench(works, vcpus)
    bench.guest.start()
    bench.ask(range(len(works)))
    now_ns, gaps = 0, []
    for after_ns, for_ns, is_hang in pauses:
        begin_ns, now_ns = now_ns + after_ns, now_ns + after_ns + for_ns
        gaps.append((begin_ns, for_ns))
        if is_hang:
            bench.at(begin_ns, bench.guest.hang, True)
            bench.at(now_ns, bench.guest.hang, False)
        else:
            bench.at(begin_ns, bench.guest.stop)
            bench.at(now_ns, bench.guest.start)
    bench.run()
    for request, at_ns in bench.finished.items():
        paused_ns = sum(min(max(at_ns - begin_ns, 0), for_ns) for begin_ns, for_ns in gaps)
        assert at_ns - paused_ns == plain.finished[request]
    assert len(bench.finished) == len(works)
    assert bench.guest.exposure_ns == FOREVER_NS - sum(for_ns for _, for_ns in gaps)


@given(works, st.integers(0, 3_000), st.integers(1, 3))
def test_a_loaded_guest_goes_on_where_the_snapshot_was_taken(works, cut_ns, vcpus):
    first = Bench(works, vcpus)
    second = Bench(works, vcpus, clock=first.clock)
    first.guest.start()
    first.guest.input_position = 7
    first.ask(range(len(works)))
    second.guest.start()
    second.ask([0])  # what it did before is forgotten

    def hand_over():
        first.guest.stop()
        second.guest.stop()
        second.finished.clear()
        snapshot = first.guest.snapshot(pages=3, unanswered={(0, 9): "x"})
        assert (snapshot.pages, snapshot.unanswered) == (3, {(0, 9): "x"})
        second.guest.load(snapshot)
        assert second.guest.input_position == 7
        assert second.guest.exposure_ns == 0

    first.at(cut_ns, hand_over)
    first.at(5_000, first.guest.start)
    first.at(5_000, second.guest.start)
    done_before = {request: at_ns for request, at_ns in first.run(4_999).items() if at_ns < 4_999}
    first.run()
    rest = {request: at_ns for request, at_ns in first.finished.items() if at_ns > 4_999}
    assert second.finished == rest
    assert len(done_before) + len(rest) == len(works)


def test_requests_are_known_until_they_are_served():
    bench = Bench([100, 100, 100])
    bench.guest.start()
    bench.ask(range(3))
    bench.run(150)
    assert bench.guest.requests() == [(1, 0), (2, 0)]


def test_a_dead_guest_serves_nothing():
    bench = Bench([100, 100])
    bench.guest.start()
    bench.ask(range(2))
    bench.at(150, bench.guest.kill)
    assert bench.run() == {0: 100}
    assert bench.guest.dead
    assert bench.guest.requests() == [(1, 0)]


def test_a_hang_while_stopped_ends_with_both():
    """The order of thaw and start does not matter; it runs once neither holds it."""
    for stop_ends_ns, hang_ends_ns in ((500, 900), (900, 500)):
        bench = Bench([100])
        bench.guest.start()
        bench.ask([0])
        bench.at(40, bench.guest.stop)
        bench.at(60, bench.guest.hang, True)
        bench.at(stop_ends_ns, bench.guest.start)
        bench.at(hang_ends_ns, bench.guest.hang, False)
        assert bench.run() == {0: 960}


# -- first writes ------------------------------------------------------------------------------


def test_first_writes_lengthen_a_job():
    """A million pages a second in order, 2 us each: three times as long, until all are dirty."""
    slowdown = Slowdown(SequentialTouch(1_000, 1e6), 2_000)
    bench = Bench([3 * NS_PER_MS], slowdown=slowdown)
    bench.guest.start()
    bench.ask([0])
    assert bench.run() == {0: (3 + 1_000 * 0.002) * NS_PER_MS}


def test_a_cut_makes_writes_first_again():
    """Work of 1 ms takes 3 ms up to the cut; after it all 1,000 pages are clean again."""
    slowdown = Slowdown(SequentialTouch(1_000, 1e6), 2_000)
    bench = Bench([4 * NS_PER_MS], slowdown=slowdown)
    bench.guest.start()
    bench.ask([0])
    for step in (bench.guest.stop, bench.guest.cut, bench.guest.start):
        bench.at(3 * NS_PER_MS, step)  # 1 ms of work is done, and every page is dirty
    assert bench.run() == {0: (4 + 2 * 1_000 * 0.002) * NS_PER_MS}


def test_progress_is_not_wall_time():
    slowdown = Slowdown(SequentialTouch(1_000, 1e6), 2_000)
    bench = Bench([NS_PER_S], slowdown=slowdown)
    bench.guest.start()
    bench.run(900_000)
    assert bench.guest.exposure_ns == 300_000
    bench.run(10 * NS_PER_MS)
    assert bench.guest.exposure_ns == 8 * NS_PER_MS


def test_each_request_pays_for_the_pages_it_writes_first():
    """Ten pages a request at 1 us each, and nothing by time."""
    slowdown = Slowdown(SequentialTouch(1_000, 0.0, 10.0), 1_000)
    bench = Bench([5_000, 5_000, 5_000], slowdown=slowdown)
    bench.guest.start()
    bench.ask(range(3))
    assert bench.run() == {0: 15_000, 1: 30_000, 2: 45_000}


@pytest.mark.parametrize("first_write", ["0 s", "2 us", "40 us"])
@pytest.mark.parametrize("pause", ["0 s", "3 ms"])
def test_a_job_under_periodic_checkpoints_takes_longer_by_its_first_writes(first_write, pause):
    """Remus, interval I, pause P, uniform touching: D(t) = W (1 - (1 - 1/W)^(r t)) pages.

    An epoch of the guest is I - P of running time, in which it does the work p that solves
    p + f D(p) = I - P.  A job of w = n p + rest is served after n epochs and rest + f D(rest)
    more; its answer leaves with the next checkpoint.  (The first epoch has no pause before it.)
    The link, where nothing else costs time, adds up to 50 ns a checkpoint.
    """
    work_ns, interval_ns = 700 * NS_PER_MS, 50 * NS_PER_MS
    pages, touches_per_s = 1_000, 40_000.0
    what = scenario(
        {"kind": "batch", "work": "700 ms"},
        "5 s",
        memory={"kind": "uniform", "working_set_pages": pages, "touches": f"{touches_per_s} /s"},
        cost={**FREE, "save_fixed": pause, "first_write": first_write},
        policy={"remus": {"interval": "50 ms"}},
    )
    (run,) = replicate(what, "remus", 1)
    pause_ns, first_write_ns = what.costs().save_fixed_ns, what.costs().first_write_ns

    def running_ns(work_ns):
        distinct = pages * (1 - (1 - 1 / pages) ** (touches_per_s * work_ns / NS_PER_S))
        return work_ns + first_write_ns * distinct

    def work_in(epoch_ns):
        return brentq(lambda work_ns: running_ns(work_ns) - epoch_ns, 0, epoch_ns + 1)

    done_ns, now_ns, epoch_ns = 0, 0, interval_ns
    while done_ns + work_in(epoch_ns) < work_ns:
        done_ns += work_in(epoch_ns)
        now_ns += epoch_ns + pause_ns
        epoch_ns = interval_ns - pause_ns
    served_ns = now_ns + running_ns(work_ns - done_ns)
    epochs = len(run.checkpoints["checkpoint"])
    assert run.responses["served_ns"][0] == pytest.approx(served_ns, abs=50 * epochs)
    committed_ns = served_ns + interval_ns - served_ns % interval_ns + pause_ns
    assert run.completion_ns == pytest.approx(committed_ns, abs=50 * epochs)

    # the same in the record's own words: work, pauses, and a first write for each distinct page
    model = UniformTouch(pages, touches_per_s)
    exposure_ns = [*run.checkpoints["exposure_ns"][:-1], work_ns - done_ns]
    writes_ns = sum(first_write_ns * model.mean(each, 0) for each in exposure_ns)
    total_ns = work_ns + pause_ns * (epochs - 1) + writes_ns
    assert run.responses["served_ns"][0] == pytest.approx(total_ns, abs=50 * epochs)
    if first_write_ns == 40_000:
        assert writes_ns > 0.5 * work_ns


def test_nobody_pays_for_tracking_without_a_reader():
    what = scenario(
        {"kind": "batch", "work": "700 ms"},
        "5 s",
        memory={"kind": "uniform", "working_set_pages": 1_000, "touches": "40000 /s"},
        cost={**FREE, "first_write": "40 us"},
    )
    (run,) = replicate(what, "none", 1)
    assert run.completion_ns == 700 * NS_PER_MS


# -- clients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["none", "remus", "colo"])
def test_closed_clients_ask_one_thing_at_a_time(policy):
    """A client's next request comes after its answer, and in order."""
    what = scenario(
        service("closed", "2 ms", clients=7, think_time="3 ms", client_delay="200 us"),
        "600 ms",
        divergence={"probability": 0.02},
        cost={**FREE, "save_fixed": "2 ms"},
        policy={"remus": {"interval": "15 ms"}},
    )
    (run,) = replicate(what, policy, 1)
    columns = run.responses
    assert len(columns["client"]) > 7 * 10
    for client in range(7):
        mine = columns["client"] == client
        assert list(columns["request"][mine]) == list(range(mine.sum()))
        arrival, released = columns["arrival_ns"][mine], columns["released_ns"][mine]
        assert (arrival[1:] >= released[:-1]).all()
        assert (released[:-1] - arrival[:-1] >= 2 * 200_000).all()
