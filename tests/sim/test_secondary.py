"""A secondary that is not the primary's equal: another speed, a late start, another clock."""

from __future__ import annotations

import pytest

from backends.sim import run_replication
from tests.sim.test_epoch import WATCHED, check_same, epochs
from tests.sim.worlds import check_mean, replicate, scenario, service, waiting_s

# -- speed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_clients_of_colo_wait_for_the_slower_guest(speed):
    """Both guests are M/M/1 queues with the same arrivals and draws, so the slower is always last.

    A response leaves when the slower guest has made it: M/M/1 with the mean time of that guest.
    """
    workload = service("open", "1 ms", rate="350 /s")
    what = scenario(
        workload,
        "6 s",
        warm_up="1 s",
        execution={"jitter": 0.0, "secondary_speed": speed},
        policy={"colo": {"compare_timeout": "10 s"}},
    )
    slower_s = 1e-3 / min(speed, 1.0)
    truth_s = waiting_s(350, slower_s, 1, is_random=True) + slower_s
    runs = replicate(what, "colo", 10)
    assert all(len(run.checkpoints["checkpoint"]) == 0 for run in runs)
    check_mean([run.metrics()["latency_mean_ms"][0] / 1e3 for run in runs], truth_s, within=0.2)


def test_work_left_takes_longer_on_a_slow_survivor():
    """A job whose host fails has R left at the last commit; then R / speed from the takeover on."""
    what = scenario(
        {"kind": "batch", "work": "300 ms"},
        "3 s",
        manager={"heartbeat_interval": "10 ms", "heartbeat_timeout": "50 ms"},
        policy={"name": "remus", "remus": {"interval": "20 ms"}},
        fault=[{"target": "primary", "scope": "host", "kind": "crash", "at": "105 ms"}],
    )

    def completion_ns(speed: float) -> int:
        changed = what.replace({"execution.secondary_speed": speed})
        return run_replication(changed, "remus", 1, 0).completion_ns

    full, half, quarter = map(completion_ns, (1.0, 0.5, 0.25))
    left_ns = half - full
    assert 190e6 < left_ns < 210e6  # 300 ms less the 100 ms that were committed, at most
    assert quarter - full == pytest.approx(3 * left_ns, abs=4)


@pytest.mark.parametrize("policy", ["remus", "colo"])
@pytest.mark.parametrize("jitter", [0.0, 0.3])
@pytest.mark.parametrize("workload", [{}, {"clients": 10, "think_time": "3 ms"}])
def test_fidelity_epoch_has_the_same_speed(policy, jitter, workload):
    for fault in ([], [{"target": "primary", "kind": "crash", "scope": "host", "at": "300 ms"}]):
        what = epochs(
            workload=workload,
            execution={"jitter": jitter, "secondary_speed": 0.7},
            fault=fault,
            manager=WATCHED,
        )
        plain = run_replication(what.replace({"fidelity": "response"}), policy, 1, 0)
        now = run_replication(what, policy, 1, 0)
        check_same(plain, now, within_ns=5_000 if policy == "colo" else 0)
        usual = run_replication(what.replace({"execution.secondary_speed": 1.0}), policy, 1, 0)
        differs = bool(fault) or policy == "colo"  # else nobody hears of the secondary
        assert (usual.fingerprint() != now.fingerprint()) == differs
