"""Simulated runs in the clothes of live ones, so that what must come out is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import colosim
from colosim.scenario import Scenario

BASE: dict[str, Any] = {
    "name": "truth",
    "duration": "25 s",
    "warm_up": "1 s",
    "replications": 1,
    "commit": "loaded",
    "policy": {"name": "remus"},
    "workload": {
        "kind": "service",
        "load": "open",
        "rate": "100 /s",
        "service_time": "1 ms",
        "client_delay": "400 us",
        "pipelined": False,
    },
    "memory": {"kind": "uniform", "working_set_pages": 2000, "touches": "5000 /s"},
    "cost": {
        "quiesce": "1200 us",
        "stop": "900 us",
        "find_pages": "8 ms",
        "save_fixed": "2 ms",
        "save_per_page": "9 us",
        "transfer_fixed": "3 ms",
        "transfer_per_page": "4 us",
        "load_fixed": "4 ms",
        "load_per_page": "0 s",
        "resume": "2500 us",
        "release": "1500 us",
        "wake_up": "600 us",
        "device_state": "59279 B",
        "zero_pages": 0.05,
        "quiesce_spread": 0.3,
        "stop_spread": 0.3,
        "save_spread": 0.1,
        "transfer_spread": 0.2,
        "resume_spread": 0.2,
        "release_spread": 0.5,
    },
}
IDLE: dict[str, Any] = {"workload": {"kind": "batch", "work": "25 s"}, "warm_up": "0 s"}


def scenario(policy: str, interval: str = "", **changes: Any) -> Scenario:
    tables = {**BASE, **changes, "policy": {"name": policy}}
    if interval:
        key = {"remus": "interval", "colo": "checkpoint_delay"}[policy]
        tables["policy"][policy] = {key: interval}
    return Scenario.from_mapping(tables)


def live(out: Path, policy: str, interval: str = "", **changes: Any) -> Path:
    """A run directory as `colosim live` would have written it.

    Under policy colo frames are compared, as live; of that the scenario says nothing, as live.
    """
    if policy == "colo":
        changes["fidelity"] = "packet"
    about = changes.pop("about", {})
    made = scenario(policy, interval, **changes)
    result = colosim.simulate(made, out=out, jobs=1, progress=lambda *_: None)
    costs = made.costs()
    with (out / "a.saves").open("w") as saves:
        table = result.records[0].checkpoints
        for checkpoint, pages in zip(table["checkpoint"], table["pages"], strict=True):
            if pages < 0:
                continue
            ram = costs.state_bytes(int(pages)) - costs.device_state_bytes
            save = {
                "checkpoint": int(checkpoint),
                "pages": int(pages),
                "scan_ns": costs.find_pages_ns,
                "device_bytes": costs.device_state_bytes,
                "ram_bytes": ram,
            }
            print(json.dumps(save), file=saves)
    known = {"world": "live", "accelerator": "tcg", "processor": "2 x test"}
    edit(out, {**known, "qemu of primary": "7.2.22", **about})
    manifest = json.loads((out / "manifest.json").read_text())
    edit(out, {"scenario": manifest["scenario"] | {"fidelity": "response"}})
    return out


def edit(run: Path, changes: dict[str, Any]) -> None:
    path = run / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
