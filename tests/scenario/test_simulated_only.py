"""What only the simulator has is refused for a live run, before anything is started."""

from __future__ import annotations

import asyncio

import pytest

from backends.qemu.errors import LiveError
from backends.qemu.live import plan_of
from colosim.scenario import Scenario

BASE = {
    "name": "live",
    "duration": "1 s",
    "workload": {"kind": "service", "load": "open", "rate": "10 /s", "service_time": "1 ms"},
    "memory": {"kind": "uniform", "working_set_pages": 100, "touches": "0 /s"},
}


@pytest.mark.parametrize(
    ("tables", "key"),
    [
        ({"phase": [{"duration": "1 s", "load": 2.0}]}, "phase"),
        ({"sharing": {"vms": 2}}, "sharing"),
        ({"sharing": {"cpus": 1.0}}, "sharing"),
        ({"fidelity": "packet", "network": {"loss": 0.1}}, "network"),
    ],
)
def test_it_is_refused_in_one_line(tables, key):
    what = Scenario.from_mapping({**BASE, **tables})
    with pytest.raises(LiveError, match=f"^live: {key}: .*; leave it out$"):
        asyncio.run(plan_of(what, "remus", lambda text: None))
