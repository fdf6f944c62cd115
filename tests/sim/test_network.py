"""Frames that are lost, doubled or late between clients and guests."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pytest

from backends.sim.clock import Clock
from backends.sim.packet.way import Way
from colosim.model.errors import ModelError
from colosim.model.network import Impairments
from colosim.model.results import RunRecord
from colosim.model.streams import Streams
from colosim.scenario import Scenario, ScenarioError
from tests.sim.test_packets import check_right, packets, run
from tests.sim.worlds import NS_PER_MS, check_mean, poisson, replicate, scenario, service

ROUGH = {
    "loss": 0.02,
    "burst_begins": 0.005,
    "burst_ends": 0.6,  # a burst of five lost frames is a TCP that waits for six seconds
    "duplicated": 0.03,
    "reordered": 0.05,
    "reorder_delay": "2 ms",
}

# -- the chain ---------------------------------------------------------------------------------


def sent(
    harm: Impairments, frames: int, seed: int = 1, clients: int = 1
) -> tuple[Way, list[bytes]]:
    """So many frames of each client, one every ms; which of them arrived, in that order."""
    clock = Clock()
    arrived: list[bytes] = []
    way = Way("in", harm, Streams(seed, 0), clock, lambda frame: frame[0], arrived.extend)
    for i in range(frames):
        each = [bytes([client]) + i.to_bytes(4) for client in range(clients)]
        clock.after(i * NS_PER_MS, way.send, each)
    clock.run(10**12)
    return way, arrived


@pytest.mark.parametrize(
    "harm",
    [
        Impairments(loss=0.1),
        Impairments(burst_begins=0.02, burst_ends=0.2),
        Impairments(loss=0.01, burst_begins=0.05, burst_ends=0.4, burst_loss=0.6),
    ],
    ids=["bernoulli", "gilbert", "elliott"],
)
def test_the_mean_loss(harm):
    lost = [sent(harm, 3_000, seed)[0].counts["lost"] / 3_000 for seed in range(20)]
    check_mean(lost, harm.mean_loss, within=0.12)


def test_gilberts_bursts_last_as_long_as_they_should():
    """Runs of lost frames are geometric with mean 1 / r; Bernoulli's with 1 / (1 - loss)."""
    for harm, mean in (
        (Impairments(burst_begins=0.02, burst_ends=0.25), 4.0),
        (Impairments(loss=0.2), 1.25),
    ):
        _, arrived = sent(harm, 30_000)
        there = {int.from_bytes(frame[1:]) for frame in arrived}
        runs = [
            len(list(group))
            for is_there, group in groupby(range(30_000), there.__contains__)
            if not is_there
        ]
        check_mean(runs, mean, within=0.25)
        # geometric: the variance of the length is (1 - q) / q^2 with q = 1 / mean
        assert np.var(runs) == pytest.approx((1 - 1 / mean) * mean**2, rel=0.4)


def test_every_frame_arrives_is_lost_or_is_doubled():
    harm = Impairments(loss=0.1, duplicated=0.2, reordered=0.3, reorder_delay_ns=5 * NS_PER_MS)
    way, arrived = sent(harm, 4_000, clients=3)
    counts = way.counts
    assert counts["sent"] == 12_000
    assert counts["sent"] - counts["lost"] + counts["doubled"] == len(arrived)
    assert len(set(arrived)) == counts["sent"] - counts["lost"]
    survivors = counts["sent"] - counts["lost"]
    assert counts["doubled"] / survivors == pytest.approx(0.2, abs=0.02)
    assert counts["late"] / survivors == pytest.approx(0.3, abs=0.02)
    numbers = [int.from_bytes(frame[1:]) for frame in arrived]
    assert any(b < a for a, b in pairwise(numbers))


def test_what_happens_to_a_frame_is_drawn_by_client_and_number():
    """Whatever other clients send, and in whatever batches."""
    harm = Impairments(loss=0.3, burst_begins=0.1, burst_ends=0.5, burst_loss=0.9)
    _, alone = sent(harm, 500)
    _, among = sent(harm, 500, clients=4)
    assert [frame for frame in among if frame[0] == 0] == alone


@pytest.mark.parametrize("wrong", [{"loss": 1.5}, {"burst_ends": -0.1}, {"reorder_delay_ns": -1}])
def test_impossible_chances_are_refused(wrong):
    with pytest.raises(ModelError):
        Impairments(**wrong)


# -- whole runs --------------------------------------------------------------------------------


def check_counts(record: RunRecord) -> None:
    """What got through is what was sent, less what was lost, and what was doubled."""
    counters = record.counters
    for way, got in (("in", "frames_to_guests"), ("out", "frames_to_clients")):
        sent, lost, doubled, late = (
            counters[f"network_{way}_{what}"] for what in ("sent", "lost", "doubled", "late")
        )
        through = sent - lost + doubled
        # what is late may still be under way at the end
        assert through - late - doubled <= counters[got] <= through
        assert lost > 0


@pytest.mark.parametrize("policy", ["none", "remus", "colo"])
@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"packet": {"requests_per_connection": 2}},
        {"packet": {"requests_per_connection": 3, "closes": "guest", "split": 0.5}},
        {"packet": {"transport": "udp", "datagrams": 6, "retry": "100 ms"}},
    ],
    ids=["kept", "short", "guest closes", "udp"],
)
def test_everything_is_answered_rightly_all_the_same(policy, tables):
    """TCP and asking again make up for it: nothing wrong, nothing reset, and clients go on."""
    what = packets(duration="3 s", network=ROUGH, **tables)
    record = run(what, policy)
    counters = record.counters
    wrong = ("wrong_responses", "damaged_frames", "resets", "lost_responses")
    assert {name: counters[name] for name in wrong} == dict.fromkeys(wrong, 0)
    check_counts(record)
    assert counters["client_retransmissions"] > 0
    released = record.responses["released_ns"]
    # clients still get answers at the end; one may sit out a lost SYN, twice: three seconds
    late = record.responses["client"][released > 2_000 * NS_PER_MS]
    assert len(set(late)) >= 3
    if policy == "colo" and "packet" not in tables:
        assert counters["mismatches"] == 0


def test_a_client_asks_again_until_request_and_answer_arrive():
    """Each try is alone: r (1 - s) / s more than without loss, s = (1 - p)^2."""
    loss, retry_ms = 0.2, 20.0
    workload = service(
        "open",
        "100 us",
        rate="300 /s",
        service_distribution="deterministic",
        vcpus=1000,
        connections=1000,
        client_delay="1 ms",
        response="500 B",
    )
    what = scenario(
        workload,
        "4 s",
        fidelity="packet",
        packet={"transport": "udp", "retry": "20 ms"},
        network={"loss": loss},
    )
    means = []
    for record in replicate(what, "none", 5):
        arrival, released = record.responses["arrival_ns"], record.responses["released_ns"]
        chosen = arrival < 3_400 * NS_PER_MS
        assert (released[chosen] >= 0).all()  # thirty tries
        means.append(((released - arrival)[chosen] / NS_PER_MS).mean() - 2.1)
    chance = (1 - loss) ** 2
    check_mean(means, retry_ms * (1 - chance) / chance, within=0.2)


def test_a_network_that_does_no_harm_changes_nothing():
    plain = packets(duration="300 ms")
    still = packets(duration="300 ms", network={"reorder_delay": "5 ms"})
    assert run(plain, "colo").fingerprint() == run(still, "colo").fingerprint()
    check_right(run(still, "colo"))
    harmed = packets(duration="300 ms", network={"reordered": 0.1})
    assert run(harmed, "colo").fingerprint() != run(plain, "colo").fingerprint()


def test_a_takeover_in_rough_weather():
    fault = {"target": "primary", "scope": "host", "kind": "crash", "at": "1 s"}
    what = packets(
        duration="5 s",
        network=ROUGH,
        manager={"heartbeat_interval": "20 ms", "heartbeat_timeout": "100 ms"},
        fault=[fault],
    )
    for policy in ("remus", "colo"):
        record = run(what, policy)
        assert record.counters["wrong_responses"] == record.counters["lost_responses"] == 0
        assert (record.responses["released_ns"] > 3_000 * NS_PER_MS).sum() > 20


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"loss": 0.1}, "response", "network: "),
    ({"duplicated": 0.1}, "epoch", "network: "),
    ({"burst_begins": 0.1, "burst_ends": 0.0}, "packet", "network.burst_ends"),
    ({"burst_loss": 0.5}, "packet", "network.burst_loss"),
    ({"loss": 1.1}, "packet", "network.loss"),
]


@pytest.mark.parametrize(("network", "fidelity", "says"), REFUSED)
def test_what_makes_no_sense_is_refused(network, fidelity, says):
    mapping = scenario(poisson(10, vcpus=1), "1 s").to_mapping()
    with pytest.raises(ScenarioError) as told:
        Scenario.from_mapping({**mapping, "fidelity": fidelity, "network": network})
    (line,) = str(told.value).splitlines()
    assert says in line
    assert ";" in line
