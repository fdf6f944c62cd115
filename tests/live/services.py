"""Scenarios of real guests that serve clients, run and judged."""

from __future__ import annotations

import asyncio
from typing import Any

from backends.qemu.live import LiveOutcome, run_live
from backends.qemu.selftest import SCENARIO
from colosim.protocol.trace import decode_line, encode_line, replay
from colosim.scenario import Scenario

SERVICE: dict[str, Any] = {
    **SCENARIO,
    "duration": "8 s",
    "workload": {
        "kind": "service",
        "load": "closed",
        "clients": 4,
        "think_time": "20 ms",
        "service_time": "1 ms",
    },
    "memory": {**SCENARIO["memory"], "guest_memory": "131080 KiB"},
    "guest": {"accelerator": "tcg"},
}
KILL = {"target": "primary", "kind": "crash"}


def ran(tmp_path, protect: str = "remus", limit_s: float = 120, **tables: Any) -> LiveOutcome:
    """One live run under the policy ``protect``; ``tables`` replace those of `SERVICE`."""
    scenario = Scenario.from_mapping({**SERVICE, **tables})
    outcome = asyncio.run(asyncio.wait_for(run_live(scenario, protect, tmp_path, print), limit_s))
    print(*outcome.record.events, sep="\n")
    assert outcome.record.violations == []
    assert replay(decode_line(encode_line(line)) for line in outcome.lines) == []
    return outcome


def check_served(outcome: LiveOutcome, end_s: float = 7.0) -> None:
    """No answer lost, wrong or doubled, and answers to the end."""
    counters = outcome.record.counters
    for what in ("lost", "wrong", "doubled"):
        assert counters[f"{what}_responses"] == 0, counters
    assert outcome.record.responses["released_ns"].max() > end_s * 1e9
