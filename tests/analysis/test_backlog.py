"""Whether a service keeps up with what it is asked."""

import numpy as np
import pytest

import colosim
from colosim.analysis.backlog import load_of, overloads
from colosim.model.results import RunRecord
from tests.small import SCENARIO

MS = 1_000_000
END_NS = 4_000 * MS


def record(arrival_ns, released_ns, **more):
    arrival_ns, released_ns = np.asarray(arrival_ns), np.asarray(released_ns)
    numbers = np.arange(arrival_ns.size)
    released_ns = np.where(released_ns > END_NS, -1, released_ns)
    columns = {"client": numbers * 0, "request": numbers, "arrival_ns": arrival_ns}
    columns |= {"served_ns": released_ns, "released_ns": released_ns}
    return RunRecord("remus", 1, 0, END_NS, 1_000 * MS, columns, **more)


def test_a_queue_that_grows_is_told_with_what_came_and_what_was_answered():
    asked = np.arange(0, END_NS, MS)
    slow = record(asked, 2 * np.arange(1, asked.size + 1) * MS)
    asked_per_s, answered_per_s, grows = load_of(slow)
    assert (asked_per_s, grows) == (1_000, True)
    assert answered_per_s == pytest.approx(500, abs=1)
    [said] = overloads([slow])
    assert said.startswith("remus: the service does not keep up: in the second half 1,000 requests")


@pytest.mark.parametrize("interval", [1, 100, 400, 1_500, 3_999])
def test_output_that_is_held_for_long_is_no_queue_that_grows(interval):
    asked = np.arange(MS // 2, END_NS, MS)
    held = (asked // (interval * MS) + 1) * interval * MS + 5 * MS
    assert not load_of(record(asked, held)).grows


def test_what_waited_for_a_takeover_is_no_overload():
    asked = np.arange(0, END_NS, MS)
    dead = record(asked, np.where(asked < 1_900 * MS, asked + MS, -1))
    assert load_of(dead).grows
    fault = {"at_ns": 1_900 * MS, "node": "primary", "what": "fault", "detail": "host crash"}
    struck = record(asked, dead.responses["released_ns"], events=[fault])
    assert list(overloads([struck])) == []


def test_nobody_asks():
    assert load_of(record([], [])) == (0, 0, False)


def test_more_work_than_cpus_is_a_flag_of_each_policy(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO)
    base = colosim.load_scenario(path).replace({"fidelity": "epoch", "duration": "2 s"})
    base = base.replace({"workload.rate": "400 /s", "workload.service_time": "1 ms"})
    policies = ["none", "remus"]
    assert colosim.compare(base, policies, replications=2, jobs=1).flags == []
    busy = base.replace({"workload.service_time": "4 ms"})
    found = colosim.compare(busy, policies, replications=2, jobs=1)
    assert [flag.split(":")[0] for flag in found.flags] == policies
    assert found.manifest()["flags"] == found.flags
