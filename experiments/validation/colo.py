"""Does the simulator tell the truth of policy colo? Why guests differ, and what that costs.

Three guests: nginx, whose answers say the time of day to the second; redis, whose answers are the
same; and our own program, of whose answers a known part differs. Each is run live without
protection and under policy colo with two delays and loads; these runs calibrate a scenario. Then
it is run with another delay and load, and over another link, and the scenario must say how often it
checkpoints, for what, and what clients see of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from colosim.scenario import Scenario
from experiments.validation import Run, folder_of

WORKLOADS = ("nginx", "redis", "work")
QUICK = ("work",)
#: of the answers of `work`
CHANCE = 0.03
_CLIENTS: Mapping[str, Mapping[str, Any]] = {
    "nginx": {"kind": "http"},
    "redis": {"kind": "redis"},
    "work": {"kind": "work", "size": "1 KiB"},
}
_SERVICES = {"work": "ground"}
_SLOW_LINK = {"bandwidth": "300 Mbit/s", "delay": "2 ms"}


def plan(quick: bool = False, seed: int = 1, workloads: Sequence[str] = ()) -> list[Run]:
    """All live runs, in the order in which they are run; workloads: only these."""
    names = workloads or (QUICK if quick else WORKLOADS)
    return [each for name in names for each in _runs(name, quick, seed)]


def _runs(workload: str, quick: bool, seed: int) -> Iterator[Run]:
    def run(name: str, purpose: str, delay: str, length_s: int, rate: int, **more: Any) -> Run:
        length_s = length_s // 2 if quick else length_s
        made = _scenario(workload, delay, length_s, rate, seed, **more)
        return Run(workload, name, purpose, made)

    yield run("none", "calibrate", "", 14, 60)
    yield run("300 ms", "calibrate", "300 ms", 22, 40)
    yield run("500 ms, twice the load", "calibrate", "500 ms", 24, 80)
    yield run("400 ms, other load", "held out", "400 ms", 22, 60)
    yield run("300 ms, slow link", "held out", "300 ms", 22, 40, link=_SLOW_LINK)


def _scenario(
    workload: str,
    delay: str,
    length_s: int,
    rate: int,
    seed: int,
    link: Mapping[str, str] | None = None,
) -> Scenario:
    """What one live run asks for; its memory model is not looked at."""
    colo = {"checkpoint_delay": delay, "compare_timeout": "1 s"}
    return Scenario.from_mapping(
        {
            "name": f"colo {workload}",
            "duration": f"{length_s} s",
            "warm_up": "1 s",
            "commit": "loaded",
            "seed": seed,
            "replications": 1,
            "policy": {"name": "colo", "colo": colo} if delay else {"name": "none"},
            "memory": {
                "kind": "uniform",
                "guest_memory": "128 MiB",
                "working_set_pages": 1,
                "touches": "0 /s",
            },
            "link": dict(link or {}),
            # a machine that is busy with other things for a moment is no failure
            "manager": {"heartbeat_timeout": "8 s"},
            "limits": dict.fromkeys(("quiesce", "request", "stop", "cut", "resume"), "8 s"),
            "client": _CLIENTS[workload],
            "workload": {
                "kind": "service",
                "load": "open",
                "rate": f"{rate} /s",
                "connections": 32,
                "service_time": "1 ms",
            },
            "divergence": {"probability": CHANCE} if workload == "work" else {},
            "guest": {
                "services": [_SERVICES.get(workload, workload)],
                "ground": {"touches": "0 /s"},
            },
        }
    )


def hazards(runs: Sequence[Run], out: Path) -> pd.DataFrame:
    """Why the calibrated runs of each workload checkpointed, as `colosim.calibrate` found it."""
    tables = []
    for workload in dict.fromkeys(each.workload for each in runs):
        path = out / "calibrated" / f"{folder_of(workload)}.calibration.json"
        if path.exists():
            rows = json.loads(path.read_text("utf-8"))["hazards"]
            tables.append(pd.DataFrame(rows).assign(workload=workload))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
