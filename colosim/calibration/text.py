"""A scenario file as text, where every number that was calibrated says where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from colosim.scenario import Scenario


def compact(scenario: Scenario, keep: Sequence[str]) -> dict[str, Any]:
    """What a file must say: no defaults, but for the tables in ``keep``, which are whole."""
    mapping = scenario.to_mapping()
    mapping["policy"] = {
        "name": scenario.policy.name,
        scenario.policy.name: mapping["policy"][scenario.policy.name],
    }
    if not mapping["policy"][scenario.policy.name]:
        del mapping["policy"][scenario.policy.name]
    for name, info in type(scenario).model_fields.items():
        value = getattr(scenario, name)
        key = next((k for k in (name, info.alias) if k in mapping), None)
        if key is None or key in keep or key == "policy":
            continue
        if isinstance(mapping[key], Mapping):
            usual = type(value)().model_dump(mode="json", by_alias=True, exclude_none=True)
            mapping[key] = {k: v for k, v in mapping[key].items() if v != usual.get(k)}
        if mapping[key] in ({}, [], ""):
            del mapping[key]
    return mapping
