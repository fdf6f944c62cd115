"""Links lead somewhere, and everything that has a name is mentioned."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from colosim.model.memory import curve_names
from colosim.protocol.checkpoint import (
    Do,
    P,
    Quirks,
    S,
    Transfer,
    Verb,
    primary_machine,
    secondary_machine,
)
from colosim.protocol.dialect import DIALECTS
from colosim.protocol.invariants import ALL
from colosim.protocol.policies import POLICIES
from colosim.scenario import Scenario
from colosim.units import without_unit

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: written by people; what is generated from a name proves nothing about it
WRITTEN = [page for page in PAGES if page.parent.name != "diagrams"]


# -- links -------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def broken_links(page: Path, text: str) -> Iterator[str]:
    """Relative links, and paths in code spans, that lead nowhere."""
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            yield f"{page.name}: {link}: no such file"
        elif anchor and anchor not in anchors(target.read_text("utf-8")):
            yield f"{page.name}: {link}: no such heading"
    for path in re.findall(r"`((?:[\w.-]+/)+(?:[\w-]+\.(?:py|toml|csv|md))?)`", text):
        if not path.startswith(("out/", ".")) and not (ROOT / path).exists():
            yield f"{page.name}: {path}: no such path"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    assert list(broken_links(page, page.read_text("utf-8"))) == []


def test_a_broken_link_is_found() -> None:
    page = ROOT / "docs" / "README.md"
    text = (
        "[a](protocol.md) [b](protocl.md) [c](protocol.md#steps) [d](protocol.md#stops) "
        "[e](https://example.org/x) `backends/base.py` `backends/bass.py` `docs/` `dogs/`"
    )
    assert list(broken_links(page, text)) == [
        "README.md: protocl.md: no such file",
        "README.md: protocol.md#stops: no such heading",
        "README.md: backends/bass.py: no such path",
        "README.md: dogs/: no such path",
    ]


# -- names -------------------------------------------------------------------------------------


def tables() -> Iterator[str]:
    """Every table that a scenario file can have, as it is written there."""
    schema = Scenario.model_json_schema()
    for key, field in schema["properties"].items():
        refs = re.findall(r"#/\$defs/(\w+)", str(field))
        if any(schema["$defs"][ref]["type"] == "object" for ref in refs):
            yield f"[[{key}]]" if field.get("type") == "array" else f"[{key}]"
    yield from (f"[policy.{name}]" for name in POLICIES)


NAMES: Mapping[str, Iterable[str]] = {
    "policy": POLICIES,
    "policy parameter": [
        without_unit(field.name) for policy in POLICIES.values() for field in fields(policy.Params)
    ],
    "step": [*P, *S],
    "verb": Verb,
    "effect": [do.value for do in Do],
    "dialect": DIALECTS,
    "transfer": Transfer,
    "quirks": [f'quirks = "{quirks}"' for quirks in Quirks if quirks is not Quirks.NONE],
    "invariant": [invariant.__name__ for invariant in ALL],
    "curve": [curve.name for curve in curve_names()],
    "scenario table": [*tables()],
}


def unmentioned(text: str) -> list[str]:
    """Names that no code span of the text has."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = set(re.findall(r"`([^`\n]+)`", prose))
    return [
        f"{kind} {name}" for kind, names in NAMES.items() for name in names if name not in spans
    ]


def written() -> str:
    return "\n".join(page.read_text("utf-8") for page in WRITTEN)


def test_every_name_is_mentioned() -> None:
    assert unmentioned(written()) == []


def test_there_are_names() -> None:
    assert all(list(names) for names in NAMES.values())
    assert {"[workload]", "[memory]", "[[fault]]", "[limits]"} <= set(NAMES["scenario table"])


def test_a_missing_name_is_found() -> None:
    text = written()
    for kind, names in NAMES.items():
        for name in names:
            assert f"{kind} {name}" in unmentioned(text.replace(f"`{name}`", name))


# -- what the page on the protocol says of steps -----------------------------------------------


def steps_section() -> str:
    text = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    return text.partition("\n## Steps\n")[2].partition("\n## ")[0]


def test_every_step_is_in_the_table_with_its_side() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (\w+) \|", steps_section(), flags=re.MULTILINE))
    sides = {(True, True): "both", (True, False): "P", (False, True): "S"}
    primary, secondary = {state.value for state in P}, {state.value for state in S}
    assert rows == {step: sides[step in primary, step in secondary] for step in primary | secondary}


def test_reading_states_are_those_listed() -> None:
    sentence = steps_section().partition("A state that is not one of ")[2].partition(" reads ")[0]
    machines = [
        machine
        for dialect in DIALECTS.values()
        for machine in (primary_machine(dialect), secondary_machine(dialect))
    ]
    reads = {state.value for machine in machines for state in machine.reads}
    assert set(re.findall(r"`([^`]+)`", sentence)) == reads


# -- what the page on the architecture says of imports -----------------------------------------


def test_layers_are_those_that_are_enforced() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    layers = next(
        contract["layers"]
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    section = text.partition("\n## Parts and who may import whom\n")[2].partition("\n## ")[0]
    said = [
        set(re.findall(r"`([^`]+)`", cell))
        for cell in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    ]
    assert said == [set(re.split(r" [|:] ", layer)) for layer in layers]
