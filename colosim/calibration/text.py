"""A scenario file as text, where every number that was calibrated says where it came from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from colosim.scenario import Scenario

_WIDTH = 96


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


def toml(mapping: Mapping[str, Any], notes: Mapping[str, str], head: Sequence[str]) -> str:
    """TOML of a mapping; ``notes``: dotted key or table -> a comment; ``head``: lines before."""
    lines = [*_comment("\n".join(head)), *_table(mapping, notes, "")]
    return "\n".join(lines) + "\n"


def _table(mapping: Mapping[str, Any], notes: Mapping[str, str], path: str) -> Iterator[str]:
    for key, value in mapping.items():
        if not isinstance(value, Mapping):
            dotted = f"{path}.{key}" if path else key
            note = f"  # {notes[dotted]}" if dotted in notes else ""
            yield f"{key} = {_value(value)}{note}"
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            dotted = f"{path}.{key}" if path else key
            yield ""
            yield from _comment(notes.get(dotted, ""))
            yield f"[{dotted}]"
            yield from _table(value, notes, dotted)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)  # text, numbers and truth are written alike


def _comment(text: str) -> Iterator[str]:
    for line in text.splitlines():
        rest = line
        while len(rest) > _WIDTH and (at := rest.rfind(" ", 0, _WIDTH)) > 0:
            yield f"# {rest[:at]}"
            rest = rest[at + 1 :]
        yield f"# {rest}".rstrip()
