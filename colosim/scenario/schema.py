"""The JSON schema of a scenario file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from colosim.scenario.whole import Scenario

_UNITS = {"boolean": "true or false", "string": "text", "array": "list of tables"}


def json_schema() -> dict[str, Any]:
    """JSON Schema of a scenario file; every property has a description and a unit."""
    schema = Scenario.model_json_schema()
    words = {f"#/$defs/{name}": each for name, each in schema["$defs"].items() if "enum" in each}
    for ref in words:
        del schema["$defs"][ref.rpartition("/")[2]]
    for table in (schema, *schema["$defs"].values()):
        for key, prop in table["properties"].items():
            table["properties"][key] = _described(prop, words)
    return schema


def _described(prop: dict[str, Any], words: Mapping[str, Any]) -> dict[str, Any]:
    """A property with its unit, and without null, which TOML does not have."""
    forms = [form for form in prop.get("anyOf", ()) if form != {"type": "null"}]
    if len(forms) == 1:
        prop = {**forms[0], **prop}
        del prop["anyOf"], prop["default"]
    prop = {**words.get(prop.get("$ref", ""), {}), **prop}
    if "enum" in prop or "const" in prop:
        prop.pop("$ref", None)
        unit = "one word"
    elif "$ref" in prop or "oneOf" in prop:
        for derived in ("default", "discriminator"):  # said by the table's own fields
            prop.pop(derived, None)
        unit = "table"
    else:
        unit = _UNITS.get(prop["type"], "")
    return {"unit": unit, **prop} if unit else prop
