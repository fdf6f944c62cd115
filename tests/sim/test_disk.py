"""Replicated disks in the simulated world: times by hand, takeovers, the judge, failing disks.

Every kind of fault at every step is in `tests/exploration/test_grid.py`, base ``disk``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import colosim
from backends.sim import run_replication
from backends.sim.disk import GuestIo, PrimaryVolume, SecondaryVolume
from colosim.exploration.judging import judge
from colosim.exploration.running import run_point
from colosim.exploration.space import Point
from colosim.model.disk import BLOCK_BYTES, Overlaid
from colosim.model.results import RunRecord
from colosim.protocol.gate import Gate
from colosim.scenario import Scenario, ScenarioError
from tests.sim.test_faults import QUICK, strike
from tests.sim.worlds import FREE, INSTANT, NS_PER_MS, scenario, seen, service

PROTECTING = ("remus", "microcheckpoint", "colo", "hybrid", "adaptive")
US, MS = 1_000, NS_PER_MS
#: latencies by hand
PLAIN: dict[str, Any] = {
    "write_latency": "200 us",
    "read_latency": "100 us",
    "flush_latency": "1 ms",
    "latency_distribution": "deterministic",
    "bandwidth": "8 Gbit/s",
}
#: of runs that fail: much is written, to little room
BUSY: dict[str, Any] = {
    "reads_per_request": 1,
    "writes_per_request": 3,
    "write": "6 kB",
    "size_distribution": "exponential",
    "working_set": "512 KiB",
    "write_latency": "100 us",
    "flush_latency": "400 us",
    "timeout": "30 ms",
}


def busy(*faults: dict[str, Any], **changes: Any) -> Scenario:
    disk = {**BUSY, **changes.pop("disk", {})}
    tables = {**QUICK, "duration": "500 ms", "disk": disk, **changes}
    return Scenario.from_mapping({**tables, "fault": list(faults)})


def said(run: RunRecord) -> list[str]:
    """What the judge found, without time and place."""
    return [text.split(": ", 2)[2] for text in run.violations if text.startswith("Disk: ")]


def check_served(run: RunRecord) -> None:
    assert run.violations == []
    assert run.counters["lost_responses"] == 0
    assert (run.responses["released_ns"] > run.duration_ns - 100 * MS).any()


# -- what does not go together -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key", "text"),
    [
        ({"fidelity": "epoch"}, "fidelity", 'at fidelity "response" only'),
        ({"fidelity": "packet"}, "fidelity", 'at fidelity "response" only'),
        ({"workload": {"kind": "batch", "work": "1 ms"}}, "disk", "a batch job makes no requests"),
        ({"disk.writes_per_request": 0, "disk.reads_per_request": 0}, "disk", "nothing uses it"),
        ({"disk.cluster": "6 KiB"}, "disk.cluster", "give a multiple"),
        ({"disk.working_set": "64 KiB"}, "disk.working_set", "give more than read"),
        ({"disk.timeout": "100 ms"}, "disk.timeout", "less than limits.stop"),
        ({"disk.failover": "100 ms"}, "limits.resume", "more than disk.failover"),
        ({"disk.size": "4 KiB"}, "disk.size", "unknown key"),
        ({"fault": [strike("secondary", "full", "vm", at="1 ms")]}, "fault.0.kind", "full and"),
        ({"fault": [strike("secondary", "hang", "disk", at="1 ms")]}, "fault.0.kind", "full and"),
        ({"fault": [strike("primary", "error", "disk", at="1 ms")]}, "fault.0.target", "give sec"),
        (
            {"disk": None, "fault": [strike("secondary", "error", "disk", at="1 ms")]},
            "fault.0.scope",
            "add a table [disk]",
        ),
    ],
)
def test_what_makes_no_sense_is_told_in_a_line(changes, key, text):
    with pytest.raises(ScenarioError) as raised:
        busy().replace(changes)
    lines = [line for line in str(raised.value).splitlines() if f": {key}: " in line]
    assert len(lines) == 1
    assert text in lines[0]


# -- times, by hand ----------------------------------------------------------------------------


def one_client(**changes: Any) -> Scenario:
    disk = {**PLAIN, "reads_per_request": 1, "writes_per_request": 2, **changes.pop("disk", {})}
    workload = service(
        "closed",
        "500 us",
        service_distribution="deterministic",
        clients=changes.pop("clients", 1),
        think_time=changes.pop("think_time", "5 ms"),
    )
    return scenario(workload, "300 ms", disk=disk, **changes)


def test_a_request_reads_then_writes_then_flushes():
    """500 us of CPU, 4 KiB read, twice 4 KiB written beside each other, a flush."""
    run = run_replication(one_client(), "none", 1, 0)
    transfer_ns = BLOCK_BYTES  # at 1 B/ns
    expected = 500 * US + (transfer_ns + 100 * US) + (2 * transfer_ns + 200 * US) + MS
    took = run.responses["released_ns"] - run.responses["arrival_ns"]
    answered = run.responses["released_ns"] >= 0
    assert answered.sum() > 30
    assert set(took[answered]) == {expected}
    assert [*np.unique(run.disk["op"])] == ["flush", "read", "write"]
    assert (run.disk["op"] == "write").sum() == 2 * (run.disk["op"] == "flush").sum()


def test_a_replicated_write_is_done_when_both_have_it():
    """Its own disk; over the link; the old cluster copied; there; and back."""
    delay_ns, own_ns, cluster_ns = 50 * US, 30 * US, 65536
    what = one_client(
        disk={"reads_per_request": 0, "writes_per_request": 1, "replicate": "30 us"},
        link={"bandwidth": "1000 Gbit/s", "delay": "50 us"},
        policy={"remus": {"interval": "40 ms"}},
    )
    run = run_replication(what, "remus", 1, 0)
    wire_ns = (64 + 28 + 4096 + 64 + 16) * 8 / 1000
    landing_ns = own_ns + 2 * delay_ns + (BLOCK_BYTES + 200 * US) + wire_ns
    copied_ns = landing_ns + (cluster_ns + 100 * US) + (cluster_ns + 200 * US)
    took = (run.disk["done_ns"] - run.disk["begun_ns"])[run.disk["op"] == "write"]
    assert took == pytest.approx(copied_ns, abs=3)  # one write an epoch, so always a new cluster
    # few checkpoints, and a working set of two clusters: the other guest's own may be on the bus
    rare = what.replace({"disk.working_set": "128 KiB"})
    run = run_replication(rare, "colo", 1, 0)
    took = (run.disk["done_ns"] - run.disk["begun_ns"])[run.disk["op"] == "write"]
    assert landing_ns - 3 <= np.median(took) <= landing_ns + BLOCK_BYTES
    run = run_replication(what, "remus", 1, 0)
    flushes = (run.disk["done_ns"] - run.disk["begun_ns"])[run.disk["op"] == "flush"]
    assert np.ptp(flushes) <= 2
    assert flushes[0] == pytest.approx(own_ns + 2 * delay_ns + MS + (156 + 16) * 8 / 1000, abs=3)


def test_those_who_wait_share_a_flush():
    workload = service("closed", "10 us", clients=20, think_time="10 us", vcpus=4)
    counts = {}
    for flush in ("request", "group", "none"):
        what = scenario(workload, "100 ms", disk={**PLAIN, "flush": flush, "queue_depth": 1})
        run = run_replication(what, "none", 1, 0)
        ops = run.disk["op"]
        counts[flush] = ((ops == "flush").sum(), (run.responses["released_ns"] >= 0).sum())
    flushes, answers = counts["group"]
    assert answers > 3 * flushes > 0
    assert answers > 2 * counts["request"][1]
    assert counts["none"][0] == 0
    assert counts["none"][1] > answers


def test_a_guest_is_stopped_when_what_it_had_begun_has_ended():
    """A checkpoint's pause is longer with a slow disk, by up to what a request to it takes."""
    pauses = {}
    for latency in ("10 us", "4 ms"):
        what = one_client(
            disk={"write_latency": latency, "flush": "none", "reads_per_request": 0},
            policy={"remus": {"interval": "7 ms"}},
        )
        run = run_replication(what, "remus", 1, 0)
        columns = run.checkpoints
        whole = columns["resumed_ns"] >= 0
        pauses[latency] = (columns["resumed_ns"] - columns["stopped_ns"])[whole]
    # the last of a pause is the secondary's: emptying its overlays
    more = pauses["4 ms"].max() - pauses["10 us"].max()
    assert 2 * MS < more < 8 * MS + MS
    assert len(pauses["4 ms"]) > 10


def test_a_commit_takes_by_the_size_of_the_overlays():
    """Read and written over the bus, after the fixed part, where nobody else uses the disk."""
    what = one_client(
        disk={"commit_fixed": "3 ms", "working_set": "8 MiB", "writes_per_request": 8},
        execution={"executes": False},
        clients=8,
        think_time="80 ms",
        manager={"heartbeat_interval": "5 ms", "heartbeat_timeout": "20 ms"},
        policy={"name": "remus", "remus": {"interval": "100 ms"}},
        fault=[strike("primary", "crash", "host", at="190 ms")],
    )
    run = run_replication(what, "remus", 3, 0)
    check = run.counters
    assert check["disk_committed_bytes"] > 10 * 65536
    assert check["disk_committed_bytes"] % 65536 == 0
    bus_ns = 2 * check["disk_committed_bytes"]  # 1 B/ns
    # beside it the survivor's guest repeats what was not committed, and copies clusters for that
    assert 3 * MS + bus_ns <= check["disk_commit_ns"] < 1.5 * (3 * MS + bus_ns)
    assert run.violations == []


def test_overlays_are_what_was_written_since_the_last_checkpoint():
    """Append: one cluster for 16 writes of 4 KiB; uniform: nearly one for each."""
    grown = {}
    for pattern in ("append", "uniform"):
        what = busy(disk={"pattern": pattern, "working_set": "256 MiB", "write": "4 KiB"})
        run = run_replication(what.replace({"policy.remus.interval": "60 ms"}), "remus", 1, 0)
        grown[pattern] = run.overlays["hidden_bytes"].mean()
        assert (run.overlays["active_bytes"] == 0).all()  # its guest gets no requests
        assert (run.overlays["empty_ns"] > 0).all()
        assert len(run.overlays["at_ns"]) > 5
        assert run.counters["overlay_peak_bytes"] >= run.overlays["hidden_bytes"].max()
    assert grown["uniform"] > 1.5 * grown["append"] > 0
    colo = run_replication(busy(), "colo", 1, 0)
    assert (colo.overlays["active_bytes"] > 0).any()


# -- takeovers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", PROTECTING)
def test_whoever_goes_on_has_what_clients_were_told_of(policy):
    for seed, (target, kind, scope, flush) in enumerate(
        [
            ("primary", "crash", "host", "request"),
            ("primary", "hang", "host", "group"),
            ("secondary", "crash", "host", "group"),
            ("link", "cut", None, "request"),
        ]
    ):
        fault = strike(target, kind, scope, at=f"{207 + 13 * seed} ms")
        what = busy(fault, disk={"flush": flush})
        run = run_replication(what, policy, seed, 0)
        check_served(run)
        assert len(seen(run, "alone")) == 1, fault


@pytest.mark.parametrize("transfer", ["stop-and-send", "copy-then-send", "precopy"])
def test_writes_that_come_before_the_checkpoint_is_loaded(transfer):
    """With copy-then-send the primary writes on; the secondary must be able to go back."""
    closed = ("clients", "think_time")
    workload = {key: value for key, value in QUICK["workload"].items() if key not in closed}
    workload |= {"load": "open", "rate": "400 /s", "connections": 8}
    for step in ("send", "wait-received"):
        what = busy(
            strike("primary", "crash", "host", step=step, occurrence=4),
            transfer=transfer,
            duration="600 ms",
            link={"delay": "3 ms"},
            workload=workload,
            execution={"executes": False},
            policy={"name": "remus", "remus": {"interval": "30 ms"}},
        )
        run = run_replication(what, "remus", 1, 0)
        check_served(run)
        assert [e["node"] for e in seen(run, "alone")] == ["secondary"]
        # with the state in hand only what was written since is to be undone
        undone = run.counters["disk_committed_bytes"]
        assert (undone > 0) == (step == "send" or transfer == "copy-then-send")


@pytest.mark.parametrize("transfer", ["stop-and-send", "copy-then-send"])
def test_emptying_takes_by_what_is_emptied(transfer):
    """Not by what the primary writes for the checkpoint after this one."""
    scenario = busy(transfer=transfer)
    assert scenario.disk is not None
    table = run_replication(scenario, "remus", 1, 0).overlays
    clusters = (table["active_bytes"] + table["hidden_bytes"]) // scenario.disk.cluster_bytes
    per_ns = scenario.disk.empty_per_cluster_ns
    assert (table["empty_ns"] == scenario.disk.empty_fixed_ns + per_ns * clusters).all()
    assert len(clusters) > 10


def test_none_has_a_disk_too():
    run = run_replication(busy(), "none", 1, 0)
    check_served(run)
    assert "overlay_peak_bytes" not in run.counters
    assert len(run.overlays["at_ns"]) == 0


def test_a_slow_link_is_no_failure_while_it_answers_in_time():
    what = busy(strike("link", "slow", at="300 ms", duration="100 ms", delay="5 ms"))
    run = run_replication(what, "remus", 1, 0)
    check_served(run)
    assert seen(run, "disk-parted") == []
    begun, took = run.disk["begun_ns"], run.disk["done_ns"] - run.disk["begun_ns"]
    slow = (begun > 305 * MS) & (begun < 380 * MS) & (run.disk["op"] == "write")
    assert took[slow].min() > 10 * MS > np.median(took[begun < 295 * MS])


def test_a_hung_secondary_holds_the_primarys_writes_until_the_timeout():
    hung = strike("secondary", "hang", "vm", at="300 ms")
    run = run_replication(busy(hung), "colo", 1, 0)
    check_served(run)
    (parted,) = seen(run, "disk-parted")
    assert "does not answer" in parted["detail"]
    assert 320 * MS < parted["at_ns"] < 345 * MS
    assert [e["node"] for e in seen(run, "alone")] == ["primary"]
    # the primary's own node hangs too, and acts on it late
    both = [hung, strike("primary", "hang", "node", at="310 ms", duration="45 ms")]
    (parted,) = seen(run_replication(busy(*both), "colo", 1, 0), "disk-parted")
    assert parted["at_ns"] == 355 * MS
    # a short one is not noticed but by those who wait
    run = run_replication(busy({**hung, "duration": "15 ms"}), "colo", 1, 0)
    check_served(run)
    assert seen(run, "disk-parted") == seen(run, "alone") == []


def test_the_side_that_gives_the_other_disk_up_asks_for_the_vote_first():
    """Its guest is still to be stopped and its state to be taken, and the other node is awake."""
    design = "remus/upstream/copy-then-send/loaded"
    text = f"{design} seed=1 base=disk: secondary hang vm @wait-send#3"
    run = run_point(Point.parse(text))
    assert judge(run).violations == ()
    assert run.watcher.promoted == run.watcher.alone == ["primary"]


# -- disks that fail ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "error"])
@pytest.mark.parametrize("policy", PROTECTING)
def test_the_pair_parts_and_the_primary_goes_on(policy, kind):
    fault = strike("secondary", kind, "disk", at="211 ms")
    what = busy(fault, disk={"working_set": "16 MiB"}, duration="400 ms")
    run = run_replication(what, policy, 1, 0)
    check_served(run)
    (failed,) = seen(run, "disk-failed")
    assert failed["detail"].startswith(kind)
    assert 211 * MS <= failed["at_ns"] < 230 * MS
    (alone,) = seen(run, "alone")
    assert alone["node"] == "primary"
    assert alone["at_ns"] < failed["at_ns"] + 30 * MS  # nobody waits for a timeout


def test_a_full_disk_fails_where_an_overlay_has_to_grow():
    """Not at writes to clusters that are in it; and not when there is room again."""
    small = {"working_set": "128 KiB", "cluster": "64 KiB"}
    rare = {"policy": {"colo": {"checkpoint_delay": "150 ms"}}, "divergence": {}}
    fault = strike("secondary", "full", "disk", at="220 ms", duration="60 ms")
    run = run_replication(busy(fault, disk=small, **rare), "colo", 1, 0)
    started = run.checkpoints["started_ns"]
    assert not ((started > 180 * MS) & (started < 290 * MS)).any()
    begun = run.disk["begun_ns"][run.disk["op"] == "write"]
    assert ((begun > 220 * MS) & (begun < 280 * MS)).sum() > 20
    check_served(run)
    assert seen(run, "disk-failed") == seen(run, "alone") == []
    run = run_replication(busy({**fault, "kind": "error"}, disk=small, **rare), "colo", 1, 0)
    assert len(seen(run, "disk-failed")) == 1


# -- the judge can fail ------------------------------------------------------------------------

DIES = strike("primary", "crash", "host", at="331 ms")


@contextmanager
def released_at_once() -> Iterator[None]:
    """As without protection: output leaves as it is made, and waits for nobody."""
    init = Gate.__init__

    def opened(self: Gate, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self._open = True

    with patch.object(Gate, "__init__", opened):
        yield


def test_the_judge_fails_when_output_is_released_at_once():
    """A client has an answer, and what it was told of died with the primary."""
    for policy in ("remus", "colo"):
        check_served(run_replication(busy(DIES), policy, 1, 0))
    with released_at_once():
        run = run_replication(busy(DIES), "remus", 1, 0)
    found = said(run)
    assert any("acknowledged to a client and not on" in text for text in found)
    lost = next(text for text in found if "acknowledged" in text)
    assert int(lost.split(": ")[1].split()[0]) > 3


def _forgets_hidden() -> Any:
    return patch.object(Overlaid, "keep", lambda self, blocks, checkpoint: None)


def _keeps_active() -> Any:
    def empty(self: Overlaid, checkpoint: int) -> None:
        for layer in [each for each in self.hidden if each <= checkpoint]:
            del self.hidden[layer], self.hidden_clusters[layer]

    return patch.object(Overlaid, "empty", empty)


@contextmanager
def _one_layer() -> Iterator[None]:
    """QEMU's, which does not know copy-then-send."""
    original = PrimaryVolume.write

    def write(self: PrimaryVolume, *args: Any) -> None:
        self.checkpoint = 1_000_000
        original(self, *args)

    def empty(self: Overlaid, checkpoint: int) -> None:
        self.hidden.clear()
        self.hidden_clusters.clear()

    with patch.object(PrimaryVolume, "write", write), patch.object(Overlaid, "empty", empty):
        yield


def _stops_at_once() -> Any:
    """The guest counts as stopped while its writes are under way."""
    return patch.object(GuestIo, "drain", lambda self, then: then())


def _drops_every_tenth_landing() -> Any:
    original = SecondaryVolume.receive

    def receive(
        self: SecondaryVolume, write: Any, checkpoint: int, address: Any, reply: Any
    ) -> None:
        if write.number % 10:
            original(self, write, checkpoint, address, reply)
        else:
            reply()

    return patch.object(SecondaryVolume, "receive", receive)


def _goes_on_checkpointing_without_the_disk() -> Any:
    def lost(self: PrimaryVolume, why: str) -> None:
        self.drop()

    return patch.object(PrimaryVolume, "lost", lost)


@pytest.mark.parametrize(
    ("defect", "policy", "changes", "text"),
    [
        (_forgets_hidden, "remus", {}, "of a past that the survivor's guest does not have"),
        (_keeps_active, "colo", {}, "blocks are not as the primary's were at cut"),
        (_one_layer, "microcheckpoint", {}, "of a past that the survivor's guest does not have"),
        (
            _stops_at_once,
            "remus",
            {"disk": {**BUSY, "write_latency": "4 ms"}},
            "are not as the primary's were",
        ),
        (_drops_every_tenth_landing, "remus", {}, "acknowledged to a client and not on"),
        (
            _goes_on_checkpointing_without_the_disk,
            "remus",
            {"fault": [strike("link", "slow", at="100 ms", delay="16 ms"), DIES]},
            "are not as the primary's were at cut",
        ),
    ],
)
def test_the_judge_finds_what_is_wrong_with_a_disk(defect, policy, changes, text):
    what = busy(DIES).replace({"link.bandwidth": "200 Mbit/s"})
    what = Scenario.from_mapping({**what.to_mapping(), **changes})
    assert said(run_replication(what, policy, 2, 0)) == []
    with defect():
        run = run_replication(what, policy, 2, 0)
    assert any(text in each for each in said(run)), said(run)


# -- results -----------------------------------------------------------------------------------


def test_results_have_tables_of_disks(tmp_path):
    what = busy().replace({"duration": "300 ms"})
    result = colosim.simulate(what, policy="colo", replications=2, out=tmp_path / "run", jobs=1)
    assert set(result.disk["op"]) == {"read", "write", "flush"}
    assert (result.disk["took_ms"] > 0).all()
    assert {"checkpoint", "active_bytes", "hidden_bytes", "measured"} <= set(result.overlays)
    metrics = set(result.metrics["metric"])
    assert {"disk_write_p99_ms", "hidden_overlay_mean_KiB", "active_overlay_mean_KiB"} <= metrics
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"disk.parquet", "overlays.csv"} <= names
    # and nobody else has
    plain = colosim.simulate(what.replace({"disk": None}), policy="colo", replications=1, jobs=1)
    assert not len(plain.disk)
    assert not any("disk" in name or "overlay" in name for name in plain.metrics["metric"])


def test_the_same_seed_gives_the_same_disks():
    one, two, other = (run_replication(busy(DIES), "colo", seed, 0) for seed in (1, 1, 2))
    assert one.fingerprint() == two.fingerprint() != other.fingerprint()


def test_a_disk_of_no_time_changes_nothing_that_clients_see():
    """The same draws, the same answers at the same times as without one."""
    nothing = dict.fromkeys(
        (
            *("read_latency", "write_latency", "flush_latency", "empty_fixed"),
            *("empty_per_cluster", "failover", "detach", "commit_fixed"),
        ),
        "0 s",
    )
    workload = service("closed", "500 us", clients=3, think_time="2 ms")
    tables = {"cost": FREE, "link": INSTANT}
    disk = {**nothing, "bandwidth": "1000000 Gbit/s", "latency_distribution": "deterministic"}
    for policy in ("none",):
        with_disk = run_replication(scenario(workload, "200 ms", disk=disk, **tables), policy, 1, 0)
        without = run_replication(scenario(workload, "200 ms", **tables), policy, 1, 0)
        released = [run.responses["released_ns"] for run in (with_disk, without)]
        assert np.abs(released[0] - released[1]).max() <= 100  # bytes take a nanosecond
