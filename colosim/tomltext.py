"""TOML as text, with comments: what the standard library can read but not write."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_WIDTH = 96


def toml(mapping: Mapping[str, Any], notes: Mapping[str, str], head: Sequence[str]) -> str:
    """TOML of a mapping; ``notes``: dotted key or table -> a comment; ``head``: lines before."""
    lines = [*_comment("\n".join(head)), *_table(mapping, notes, "")]
    return "\n".join(lines) + "\n"


def _table(mapping: Mapping[str, Any], notes: Mapping[str, str], path: str) -> Iterator[str]:
    for key, value in mapping.items():
        if not isinstance(value, Mapping) and not _is_tables(value):
            dotted = f"{path}.{key}" if path else key
            note = f"  # {notes[dotted]}" if dotted in notes else ""
            yield f"{key} = {as_toml(value)}{note}"
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            dotted = f"{path}.{key}" if path else key
            yield ""
            yield from _comment(notes.get(dotted, ""))
            yield f"[{dotted}]"
            yield from _table(value, notes, dotted)
        elif _is_tables(value):
            for each in value:
                yield from ("", f"[[{path}.{key}]]" if path else f"[[{key}]]")
                yield from _table(each, {}, f"{path}.{key}" if path else key)


def _is_tables(value: Any) -> bool:
    is_list = isinstance(value, list | tuple) and bool(value)
    return is_list and all(isinstance(each, Mapping) for each in value)


def as_toml(value: Any) -> str:
    """A value as it stands in a file: text, a number, truth, or a list of them."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)  # text, numbers and truth are written alike


def _comment(text: str) -> Iterator[str]:
    for line in text.splitlines():
        rest = line
        while len(rest) > _WIDTH and (at := rest.rfind(" ", 0, _WIDTH)) > 0:
            yield f"# {rest[:at]}"
            rest = rest[at + 1 :]
        yield f"# {rest}".rstrip()
