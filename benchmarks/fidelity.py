"""How many packets the simulator does per second at fidelity ``packet``, on one core.

    python -m benchmarks.fidelity [--repetitions N]

A packet is a frame that the primary's guest made; its clients' frames and the secondary's come on
top of that.  Times are CPU times of this process.  Beside it, the same scenario at fidelity
``response``: what packets cost.  Nothing here is a test.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

from backends.sim import run_replication
from benchmarks.command import Command
from benchmarks.speed import aligned, measuring
from colosim.scenario import Scenario

CASES: Mapping[str, Mapping[str, Any]] = {
    "TCP, responses of 1200 B": {"workload.response": "1200 B"},
    "TCP, responses of 100 kB": {"workload.response": "100 kB", "workload.rate": "50 /s"},
    "TCP, a connection each": {"packet.requests_per_connection": 1},
    "UDP, bursts of 16": {
        "packet.transport": "udp",
        "packet.datagrams": 16,
        "workload.response": "19200 B",
        "workload.rate": "200 /s",
    },
}
COMPARED = (("none", "strict"), ("remus", "strict"), ("colo", "strict"), ("colo", "qemu"))


def scenario() -> Scenario:
    return Scenario.from_mapping(
        {
            "name": "fidelity",
            "duration": "5 s",
            "fidelity": "packet",
            "policy": {"remus": {"interval": "50 ms"}},
            "workload": {
                "kind": "service",
                "load": "open",
                "rate": "500 /s",
                "service_time": "100 us",
            },
            "memory": {"kind": "uniform", "working_set_pages": 2_000, "touches": "5000 /s"},
        }
    )


def run_s(what: Scenario, policy: str) -> tuple[float, int]:
    """CPU time of a run, and the frames that its primary's guest made."""
    started_s = time.process_time()
    record = run_replication(what, policy, 1, 0)
    return time.process_time() - started_s, record.counters.get("frames_of_primary", 0)


def measure(repetitions: int) -> list[tuple[str, ...]]:
    """Rows of text, the heading first."""
    heading = ("case", "policy", "packets", "packets a second (min to max)", "times response")
    rows: list[tuple[str, ...]] = [heading]
    with measuring():
        run_s(scenario(), "colo")  # imports and caches are warm
        for name, changes in CASES.items():
            for policy, mode in COMPARED:
                what = scenario().replace({**changes, "compare.mode": mode})
                plain = what.replace({"fidelity": "response"})
                per_s, ratios, count = [], [], 0
                for _ in range(repetitions):
                    seconds, count = run_s(what, policy)
                    per_s.append(count / seconds)
                    ratios.append(seconds / run_s(plain, policy)[0])
                spread = f"{median(per_s):,.0f} ({min(per_s):,.0f} to {max(per_s):,.0f})"
                who = f"{policy}, {mode}" if policy == "colo" else policy
                rows.append((name, who, f"{count:,}", spread, f"{median(ratios):.1f}"))
    return rows


def main() -> None:
    """Measure and print."""
    parser = Command("fidelity", __doc__)
    parser.count("--repetitions", 3)
    print(aligned(measure(parser.parse_args().repetitions)))


if __name__ == "__main__":
    main()
