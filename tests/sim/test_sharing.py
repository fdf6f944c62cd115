"""Several VMs on the same hosts: processor sharing, a shared link, what each and all get."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.sim import run_replication
from backends.sim.clock import Clock
from backends.sim.sharing import Cpu
from colosim import api
from colosim.model.results import VM_CHECKPOINTS
from colosim.model.streams import Streams
from colosim.scenario import Scenario, ScenarioError
from tests.sim.worlds import (
    FREE,
    NS_PER_MS,
    check_mean,
    poisson,
    replicate,
    scenario,
    service,
    waiting_s,
)

LINK = {"bandwidth": "100 Mbit/s", "delay": "0 s"}

# -- the CPUs ----------------------------------------------------------------------------------


def test_steps_share_by_hand():
    """Three steps on one CPU: 3 ms at once, 1 ms at once, 2 ms that begins at 2 ms."""
    clock, done = Clock(), {}
    cpu = Cpu(clock, 1.0)

    def begin(step: tuple[str, int]) -> None:
        name, ms = step
        cpu.work(ms * NS_PER_MS, lambda: done.update({name: clock.now_ns() / NS_PER_MS}))

    for step in (("a", 3), ("b", 1)):
        clock.after(0, begin, step)
    clock.after(2 * NS_PER_MS, begin, ("c", 2))
    clock.run(10**9)
    # b has its 1 ms at 2 ms; a has 2 ms left then, as c; both end at 6 ms
    assert done == pytest.approx({"b": 2, "a": 6, "c": 6}, abs=1e-5)
    assert cpu.rate == 1.0


@pytest.mark.parametrize("distribution", ["exponential", "deterministic"])
@pytest.mark.parametrize("load", [0.4, 0.7])
def test_processor_sharing_of_two_vms(distribution, load):
    """M/G/1-PS: S / (1 - load) on average, whatever the distribution (Kleinrock II, 4.4).

    Two VMs with half of the load each and more vCPUs than requests; one CPU. First come, first
    served would be a third faster for the deterministic one at 0.7.
    """
    workload = service(
        "open",
        "1 ms",
        rate=f"{load * 1000 / 2} /s",
        service_distribution=distribution,
        vcpus=10_000,
    )
    what = scenario(workload, "4 s", warm_up="500 ms", sharing={"vms": 2, "cpus": 1.0})
    runs = replicate(what, "none", 8)
    means = [run.metrics()["latency_mean_ms"][0] for run in runs]
    check_mean(means, 1 / (1 - load), within=0.35)


def test_several_cpus_are_a_queue_with_several_servers():
    """With min(1, c / n) of a CPU each, the number in the system is that of M/M/c."""
    workload = service("open", "1 ms", rate="350 /s", vcpus=10_000)
    what = scenario(workload, "3 s", warm_up="500 ms", sharing={"vms": 4, "cpus": 2.0})
    runs = replicate(what, "none", 8)
    means = [run.metrics()["latency_mean_ms"][0] for run in runs]
    check_mean(means, 1 + 1e3 * waiting_s(1400, 1e-3, 2, is_random=True), within=0.25)


def test_work_is_kept():
    """Jobs on one CPU are all done when all their work is: neither lost nor done for nothing."""
    what = scenario({"kind": "batch", "work": "100 ms"}, "2 s", sharing={"vms": 5, "cpus": 1.0})
    (run,) = replicate(what, "none", 1)
    assert run.completion_ns == pytest.approx(500 * NS_PER_MS, abs=100)
    assert [vm.completion_ns for vm in run.vms] == pytest.approx([500 * NS_PER_MS] * 5, abs=100)
    halves = what.replace({"sharing.cpus": 2.5})
    (run,) = replicate(halves, "none", 1)
    assert run.completion_ns == pytest.approx(200 * NS_PER_MS, abs=100)


def test_checkpoints_of_all_vms_share_the_cpu():
    """N saves of 2 ms at once on one CPU take N times as long, and so do the loads of 1 ms."""
    cost = {**FREE, "save_fixed": "2 ms", "load_fixed": "1 ms"}
    for vms in (1, 4):
        what = scenario(
            poisson(10),
            "300 ms",
            cost=cost,
            sharing={"vms": vms, "cpus": 1.0},
            policy={"remus": {"interval": "50 ms"}},
        )
        (run,) = replicate(what, "remus", 1)
        pause_ns = run.checkpoints["resumed_ns"] - run.checkpoints["stopped_ns"]
        pause_ns = pause_ns[run.checkpoints["resumed_ns"] > 0]
        assert len(pause_ns) >= 4 * vms
        # a request of 1 us may come in between
        assert pause_ns == pytest.approx(np.full(len(pause_ns), 3e6 * vms), rel=0.002)


def test_a_guest_slows_while_another_is_copied():
    """A job of 100 ms beside a VM whose copy takes 5 of every 20 ms, with one CPU for both."""
    cost = {**FREE, "save_fixed": "5 ms"}
    what = scenario(
        {"kind": "batch", "work": "100 ms"},
        "2 s",
        cost=cost,
        sharing={"vms": 1, "cpus": 1.0},
        policy={"remus": {"interval": "20 ms"}},
    )
    alone = run_replication(what, "remus", 1, 0)
    two = run_replication(what.replace({"sharing.vms": 2}), "remus", 1, 0)
    assert alone.completion_ns > 120 * NS_PER_MS  # its own pauses
    # all of both: 200 ms of work, and 5 ms of saving for each checkpoint of both
    saves = (two.checkpoints["cut_ns"] > 0).sum()
    assert two.completion_ns >= 200 * NS_PER_MS + (saves - 2) * 5 * NS_PER_MS


# -- the link ----------------------------------------------------------------------------------


def shipping(vms: int, link: str, **tables: Any) -> Scenario:
    """States of 125,000 B, 10 ms of the link, one after the other as fast as they go."""
    return scenario(
        poisson(10),
        "2 s",
        transfer="copy-then-send",
        cost={**FREE, "device_state": "125000 B"},
        link=LINK,
        sharing={"vms": vms, "link": link} if vms > 1 else {},
        policy={"remus": {"interval": "1 us"}},
        **tables,
    )


@pytest.mark.parametrize("link", ["fair", "fifo"])
@pytest.mark.parametrize("vms", [2, 5])
def test_what_vms_send_sums_to_the_link(vms, link):
    (run,) = replicate(shipping(vms, link), "remus", 1)
    metrics = run.metrics()
    assert metrics["link_mbit_per_s"][0] == pytest.approx(100, rel=0.03)
    each = [vm.metrics()["replication_mbit_per_s"][0] for vm in run.vms]
    assert sum(each) == pytest.approx(100, rel=0.03)
    assert each == pytest.approx([100 / vms] * vms, rel=0.05)


def test_two_states_at_once_by_hand():
    """Of two states of 10 ms each: fair, both are there after 20 ms; in a queue, one after 10."""
    for link, expected in (("fair", [20, 20]), ("fifo", [10, 20])):
        what = shipping(2, link).replace({"policy.remus.interval": "100 ms"})
        (run,) = replicate(what, "remus", 1)
        took_ms = []
        for vm in run.vms:
            table = vm.checkpoints
            took_ms.append((table["committed_ns"][1] - table["started_ns"][1]) / NS_PER_MS)
        assert took_ms == pytest.approx(expected, abs=0.1)


def test_epochs_that_are_set_apart_do_not_meet():
    what = shipping(
        2, "fair", manager={"heartbeat_interval": "1000 s"} | {"heartbeat_timeout": "2000 s"}
    ).replace({"policy.remus.interval": "100 ms", "sharing.stagger": "50 ms"})
    (run,) = replicate(what, "remus", 1)
    for vm in run.vms:
        table = vm.checkpoints
        took = (table["committed_ns"] - table["started_ns"])[1:-1] / NS_PER_MS
        assert took == pytest.approx(np.full(len(took), 10), abs=0.1)


# -- what there is of each, and of all ---------------------------------------------------------

COMMON: dict[str, Any] = {
    "cost": {},
    "memory": {"kind": "uniform", "working_set_pages": 500, "touches": "5000 /s"},
    "divergence": {"probability": 0.02, "hazard": "1 /s"},
    "policy": {"remus": {"interval": "30 ms"}},
    "manager": {},
}


@pytest.mark.parametrize("policy", ["none", "remus", "colo"])
@pytest.mark.parametrize("fidelity", ["response", "packet"])
def test_vms_that_want_nothing_of_each_other_are_as_if_alone(policy, fidelity):
    """CPUs for all, a link without end: each VM is its own, and the first is that of one alone.

    But for the nanoseconds of messages that three of them send at one moment.
    """
    workload = service("open", "500 us", rate="300 /s")
    one = scenario(workload, "500 ms", fidelity=fidelity, **COMMON)
    three = one.replace({"sharing.vms": 3, "sharing.cpus": 100.0})
    alone, run = (run_replication(what, policy, 2, 1) for what in (one, three))
    first = run.vms[0]
    for table in ("responses", "checkpoints"):
        for name, column in getattr(alone, table).items():
            if name.endswith("_ns"):
                np.testing.assert_allclose(getattr(first, table)[name], column, rtol=0, atol=200)
            else:
                assert getattr(first, table)[name].tolist() == column.tolist(), name
    assert len({vm.responses["arrival_ns"].tobytes() for vm in run.vms}) == 3
    assert len(run.responses["client"]) == sum(len(vm.responses["client"]) for vm in run.vms)
    pairs = set(zip(run.responses["client"], run.responses["request"], strict=True))
    assert len(pairs) == len(run.responses["client"])
    numbers = run.checkpoints["checkpoint"]
    assert len(set(numbers)) == len(numbers)
    assert set(numbers // VM_CHECKPOINTS) <= {0, 1, 2}


@pytest.mark.parametrize("policy", ["remus", "colo"])
def test_the_aggregate_is_all_of_them(policy):
    workload = service("closed", "500 us", clients=5, think_time="5 ms")
    what = scenario(workload, "500 ms", sharing={"vms": 3, "cpus": 1.5}, **COMMON)
    run = run_replication(what, policy, 2, 1)
    metrics, each = run.metrics(), [vm.metrics() for vm in run.vms]
    for name in ("throughput_per_s", "checkpoints_per_s", "replication_mbit_per_s"):
        assert metrics[name][0] == pytest.approx(sum(vm[name][0] for vm in each))
    answered = [vm["throughput_per_s"][0] for vm in each]
    assert [metrics[f"vm{i}_throughput_per_s"][0] for i in range(3)] == answered
    for name in ("mismatches", "lost_responses", "link_bytes", "node_events"):
        assert run.counters[name] == sum(vm.counters[name] for vm in run.vms)
    assert run.fingerprint() == run_replication(what, policy, 2, 1).fingerprint()
    assert run.fingerprint() != run_replication(what, policy, 3, 1).fingerprint()


def test_rows_say_which_vm_they_are_of():
    what = scenario(poisson(100), "500 ms", sharing={"vms": 3}, **COMMON)
    result = api.simulate(what, "remus", replications=2, jobs=1)
    for name, own in (("responses", "served_ns"), ("checkpoints", "stopped_ns")):
        table = getattr(result, name)
        for record in result.records:
            for i, vm in enumerate(record.vms):
                rows = table[(table["replication"] == record.replication) & (table["vm"] == i)]
                assert rows[own].tolist() == getattr(vm, name)[own].tolist()
    alone = api.simulate(what.replace({"sharing.vms": 1}), "remus", replications=1, jobs=1)
    assert "vm" not in alone.checkpoints
    assert "vm" not in alone.responses


def test_a_trace_is_the_first_vms():
    what = scenario(poisson(100), "200 ms", **{**COMMON, "sharing": {"vms": 2}})
    lines: list[Any] = []
    seen = run_replication(what, "remus", 1, 0, [lines.append])
    assert lines
    assert seen.violations == []
    assert seen.fingerprint() == run_replication(what, "remus", 1, 0).fingerprint()


def test_each_vm_has_draws_of_its_own():
    draws = [Streams(1, 0, vm).uniform("x").at(0) for vm in range(3)]
    assert len(set(draws)) == 3
    assert draws[0] == Streams(1, 0).uniform("x").at(0)


# -- what makes no sense -----------------------------------------------------------------------

CRASH = {"target": "primary", "scope": "host", "kind": "crash", "at": "100 ms"}


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"sharing": {"vms": 2}, "fidelity": "epoch"}, "sharing: "),
        ({"sharing": {"vms": 2}, "fault": [CRASH]}, "sharing: "),
        ({"sharing": {"link": "fifo"}}, "sharing.vms"),
        ({"sharing": {"vms": 2, "link": "fifo"}, "stream": {"channels": 2}}, "sharing.link"),
        ({"sharing": {"vms": 4, "stagger": "400 ms"}}, "sharing.stagger"),
        ({"sharing": {"vms": 0}}, "sharing.vms"),
        ({"sharing": {"cpus": 0.0}}, "sharing.cpus"),
    ],
)
def test_what_makes_no_sense_is_refused(tables, says):
    with pytest.raises(ScenarioError) as told:
        scenario(poisson(10, vcpus=1), "1 s", **tables)
    (line,) = str(told.value).splitlines()
    assert says in line
    assert ";" in line
