"""What the reference pages are filled with, from the code: Markdown by the name of its mark.

``<!-- generated: NAME -->`` in a page is replaced when the site is built (`docs/conf.py`).
``python tools/reference.py NAME`` prints it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from colosim.protocol.combinations import REFUSED
from colosim.protocol.policies import POLICIES
from colosim.starting.keys import Key, Table, tables
from colosim.units import DIMENSIONS, dimension_of, without_unit

_WAITS_FOR = {
    "none": "nothing",
    "commit": "the commit of its checkpoint",
    "witness": "equal output of the secondary, else the commit of its checkpoint",
}
#: before a table of four columns, which `docs/_static/site.css` lets a narrow screen read
_KEYS = "```{rst-class} keys\n```\n"


def scenario() -> str:
    """Every table and key of a scenario file."""
    lines = ["## Units\n", "| dimension | units | example |", "| --- | --- | --- |"]
    lines += (
        f'| {each.name} | {", ".join(map(_code, each.units))} | `"{each.example}"` |'
        for each in DIMENSIONS.values()
    )
    for table in tables():
        lines += ["", *_table(table)]
    return "\n".join(lines)


def _table(table: Table) -> Iterator[str]:
    yield f"## {_code(table.title) if table.path else 'Above all tables'}"
    yield f"\n{_cell(table.meaning)}\n" if table.meaning else ""
    if table.keys:
        yield _KEYS
        yield "| key | value | default | meaning |"
        yield "| --- | --- | --- | --- |"
        yield from (_row(key) for key in table.keys)


def _row(key: Key) -> str:
    value = ", ".join(map(_code, key.words)) or _cell(key.unit)
    default = _code(key.default) if key.default else "required" if key.is_required else "–"
    return f"| {_code(key.name)} | {value} | {default} | {_cell(key.meaning)} |"


def policies() -> str:
    """Every policy: what it is, its parameters, what it does not go with."""
    return "\n\n".join("\n".join(_policy(policy)) for policy in POLICIES.values())


def _policy(policy: Any) -> Iterator[str]:
    yield f"## {_code(policy.name)}\n"
    yield f"{_cell(policy.summary)}\n"
    yield f"{_cell(inspect.cleandoc(policy.__doc__ or ''))}\n"
    yield f"* Output waits for: {_WAITS_FOR[policy.output.value]}."
    if policy.protects():
        yield f"* Transfer, if none is given: {_code(policy.transfer.value)}."
    for row in REFUSED:
        if policy.name in row.of.get("policy", ()):
            others = (words for name, words in row.of.items() if name != "policy")
            refused = " and ".join(" or ".join(sorted(words)) for words in others)
            yield f"* Not with {refused}: {_cell(row.why)}."
    yield f"* Source: `{inspect.getmodule(policy).__name__}`.\n"
    if parameters := fields(policy.Params):
        yield _KEYS
        yield "| parameter | value | default | meaning |"
        yield "| --- | --- | --- | --- |"
    for each in parameters:
        dimension, value = dimension_of(each.name), each.default
        default = dimension.format(value) if dimension else str(value)
        name, unit = without_unit(each.name), each.metadata["unit"]
        yield f"| {_code(name)} | {unit} | {_code(default)} | {_cell(each.metadata['help'])} |"


def _code(text: str) -> str:
    return f"`{text}`"


def _cell(text: str) -> str:
    """Prose that Markdown takes as it is."""
    for mark in ("\\", "|", "*", "_", "<", "[", "]"):
        text = text.replace(mark, f"\\{mark}")
    return text


#: name of a mark -> what is put there
GENERATED: Mapping[str, Callable[[], str]] = {"scenario": scenario, "policies": policies}

if __name__ == "__main__":
    print(GENERATED[sys.argv[1]]())
