"""TOML files in, and their problems, one line each."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from colosim.section import Section, shown

#: A scenario takes about 2 KiB.  tomllib's time and memory grow with the square of a key's length.
_LARGEST_FILE_BYTES = 64 * 1024
_LONGEST_LINE = 2_000
_MOST_PROBLEMS = 20


class ScenarioError(ValueError):
    """What is wrong with a scenario, one line for each problem."""


AnySection = TypeVar("AnySection", bound=Section)


def validated(section: type[AnySection], mapping: Mapping[str, Any], where: str) -> AnySection:
    """The section made of a mapping; `ScenarioError` tells its problems, ``where`` in front."""
    try:
        return section.model_validate(mapping)
    except ValidationError as error:
        (detail,) = error.errors(include_url=False)
    problems = detail["ctx"]["problems"]
    lines = [": ".join(filter(None, (where, key, text))) for key, text in problems[:_MOST_PROBLEMS]]
    if len(problems) > _MOST_PROBLEMS:
        lines.append(f"{where}: and {len(problems) - _MOST_PROBLEMS} more problems")
    raise ScenarioError("\n".join(lines))


def read_toml(path: Path, kind: str = "scenario") -> tuple[dict[str, Any], str]:
    """What a TOML file holds, and what to call it in errors; `ScenarioError` if it is none.

    ``kind`` is what the file should be, for messages.
    """
    where = str(path) if str(path).isprintable() else shown(str(path))
    mapping = _parse(_read(path, where, kind), where, kind)
    for other, keys, right in _OTHER_FILES:
        if other != kind and keys <= mapping.keys():
            raise ScenarioError(f"{where}: is a {other} file, not a {kind} file; {right}")
    return mapping, where


#: kind of a file, what tells it from others, and what to do with it
_OTHER_FILES = (
    ("scenario", {"workload", "memory"}, "a sweep file names it: scenario = ..., and has [axes]"),
    ("sweep", {"scenario", "axes"}, "give it to colosim sweep, or give the scenario that it names"),
)


def _read(path: Path, where: str, kind: str) -> str:
    try:
        if path.is_dir():
            raise ScenarioError(f"{where}: is a directory; give a {kind} file")
        size = path.stat().st_size
        if not path.is_file():  # a pipe may never end
            raise ScenarioError(f"{where}: is not a regular file; give a {kind} file")
        if size > _LARGEST_FILE_BYTES:
            most = f"{_LARGEST_FILE_BYTES >> 10} KiB"
            raise ScenarioError(f"{where}: larger than {most}; give a {kind} file")
        return path.read_bytes().decode("utf-8-sig")  # some editors begin with a mark of order
    except UnicodeDecodeError:
        raise ScenarioError(f"{where}: is not text in UTF-8; give a {kind} file") from None
    except OSError as error:
        raise ScenarioError(f"{where}: {error.strerror}; give a file that can be read") from None


def _parse(text: str, where: str, kind: str) -> dict[str, Any]:
    if not text.strip():
        raise ScenarioError(f"{where}: is empty; give a {kind} file")
    longest = max(text.splitlines(), key=len)
    if len(longest) > _LONGEST_LINE:
        raise ScenarioError(
            f"{where}: has a line of {len(longest)} characters; give at most {_LONGEST_LINE}"
        )
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise ScenarioError(f"{where}: is not TOML: {why}; correct it there") from None
