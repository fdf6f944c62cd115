"""A scenario file as a source: everything that it says but its faults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from colosim.scenario import load_scenario
from colosim.sizing.basis import Basis

_SKELETON: Mapping[str, Any] = {
    "name": "sized",
    "description": "sized by colosim size",
    "duration": "30 s",
    "warm_up": "2 s",
    "workload": {"kind": "service", "load": "open"},
    "link": {"bandwidth": "1 Gbit/s", "delay": "50 us"},
}


def begin(path: Path | None) -> Basis:
    """What a sizing begins with: the scenario, or hardly anything."""
    if path is None:
        return Basis(json.loads(json.dumps(_SKELETON)))
    scenario = load_scenario(path)
    mapping = scenario.to_mapping()
    basis = Basis(mapping, has_length=True)
    if mapping.pop("fault", None):
        basis.notes.append(f"{path}: its faults are left out: what is sized is every day")
    basis.knows |= {"memory", "load", "service", "divergence", "link", "costs"}
    basis.sources.append(f"scenario {path}")
    for table in ("workload", "memory", "divergence", "link", "cost"):
        if table in scenario.model_fields_set:
            basis.say(table, f"as in {path.name}", "given", str(path))
        else:
            basis.knows.discard("costs" if table == "cost" else table)
    return basis
