"""Every table and key of a scenario file as rows to read: unit, default, meaning.

Made from the JSON schema and from a scenario that gives nothing it need not, so it cannot go stale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from typing import Any

from colosim.scenario import Scenario, ScenarioError, json_schema
from colosim.tomltext import as_toml

#: the least that a scenario has to say, for the defaults of all else; here the schema's hold
_LEAST: Mapping[str, Any] = {
    "name": "least",
    "duration": "1 s",
    "workload": {"kind": "batch", "work": "1 s"},
    "memory": {"kind": "uniform", "working_set_pages": 1, "touches": "1 /s"},
}
_REF = "#/$defs/"


@dataclass(frozen=True)
class Key:
    """One key.

    path: dotted, as in a sweep's axes.  unit: or the one word that chooses its table's form.
    default: as TOML; empty where there is none, or where the meaning tells it.  words: all that may
    be given, if it is one of few.
    """

    path: str
    unit: str
    default: str
    is_required: bool
    meaning: str
    words: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The key within its table."""
        return self.path.rpartition(".")[2]

    @property
    def value(self) -> str:
        """What may be given, in words."""
        return ", ".join(self.words) or self.unit


@dataclass(frozen=True)
class Table:
    """One table, or one form of it.

    path: dotted; empty for what stands above all tables.  form: the keys that choose this form,
    such as ``kind = "batch"``.  is_list: there may be several, ``[[fault]]``.
    """

    path: str
    meaning: str
    keys: tuple[Key, ...]
    form: str = ""
    is_list: bool = False

    @property
    def title(self) -> str:
        """As it is written in a file."""
        head = f"[[{self.path}]]" if self.is_list else f"[{self.path}]"
        words = head if self.path else "above all tables"
        return f"{words}, {self.form}" if self.form else words


@dataclass
class _Walk:
    schema: Mapping[str, Any]
    defaults: Mapping[str, Any]
    found: list[Table] = field(default_factory=list)

    def enter(self, node: Mapping[str, Any], path: str, meaning: str, is_list: bool) -> None:
        if "oneOf" in node:
            for form in node["oneOf"]:
                self.enter(form, path, "", is_list)
            return
        table = self.schema["$defs"][node["$ref"].removeprefix(_REF)] if "$ref" in node else node
        below: list[tuple[Mapping[str, Any], str, str, bool]] = []
        keys = []
        for name, prop in table["properties"].items():
            inner, text = f"{path}.{name}".lstrip("."), prop["description"]
            items = prop.get("items", {})
            if "$ref" in prop or "oneOf" in prop:
                below.append((prop, inner, text, False))
            elif "$ref" in items:
                below.append((items, inner, text, True))
            else:
                keys.append(self._key(inner, name, prop, name in table.get("required", ())))
        form = ", ".join(
            f"{name} = {as_toml(prop['const'])}"
            for name, prop in table["properties"].items()
            if "const" in prop
        )
        words = meaning or table.get("description", "").partition("\n\n")[0]
        self.found.append(Table(path, " ".join(words.split()), tuple(keys), form, is_list))
        for each in below:
            self.enter(*each)

    def _key(self, path: str, name: str, prop: Mapping[str, Any], required: bool) -> Key:
        value: Any = self.defaults
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if path.partition(".")[0] in _LEAST:
            value = prop.get("default")
        words = prop.get("enum") or prop.get("items", {}).get("enum") or ()
        return Key(
            path,
            str(prop.get("const", prop.get("unit", ""))),
            "" if value is None else as_toml(value),
            required,
            " ".join(prop["description"].split()),
            tuple(map(str, words)),
        )


@cache
def tables() -> Sequence[Table]:
    """All tables of a scenario, each form by itself, as the schema has them."""
    defaults = Scenario.from_mapping(dict(_LEAST)).to_mapping()
    walk = _Walk(json_schema(), defaults)
    walk.enter(walk.schema, "", "what the run is", False)
    return walk.found


def explained(name: str) -> str:
    """What there is to know of a key or a table by its dotted name; `ScenarioError` if no such."""
    wanted = name.strip("[] ")
    keys = [key for table in tables() for key in table.keys if key.path == wanted]
    if keys:
        rows = dict.fromkeys("\n".join(_lines(key)) for key in keys)  # forms may share a key
        return "\n".join(rows)
    shown = [table for table in tables() if table.path == wanted and (table.path or not wanted)]
    if shown and wanted:
        return "\n\n".join("\n".join(_described(table)) for table in shown)
    known = [*names()]
    close = get_close_matches(wanted[:100], known, 1) or [
        path for path in known if path.rpartition(".")[2] == wanted
    ]
    guess = f"did you mean {' or '.join(close[:3])}? " if close else ""
    raise ScenarioError(
        f"{wanted!r} is no key and no table of a scenario; {guess}"
        "'colosim schema' without KEY lists all"
    )


def _described(table: Table) -> Iterator[str]:
    yield f"{table.title}: {table.meaning}" if table.meaning else table.title
    for key in table.keys:
        yield from (f"    {line}" for line in _lines(key))
    prefix = f"{table.path}."
    inner = (each.path for each in tables() if each.path.startswith(prefix))
    if below := [*dict.fromkeys(inner)]:
        yield f"    and tables {', '.join(f'[{path}]' for path in below)}"


def _lines(key: Key) -> Iterator[str]:
    required = "required" if key.is_required else ""
    default = f"default {key.default}" if key.default else required
    about = "; ".join(filter(None, (key.value, default)))
    yield f"{key.path} ({about}): {key.meaning}"


def names() -> Iterator[str]:
    """Dotted names of all tables and keys, policies' too."""
    found: dict[str, None] = {}
    for table in tables():
        if table.path:
            found[table.path] = None
        found.update(dict.fromkeys(key.path for key in table.keys))
    yield from found
