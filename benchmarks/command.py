"""The command line of a benchmark, and its result as JSON."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any


class Command(argparse.ArgumentParser):
    """``python -m benchmarks.NAME``; about: the docstring of the module."""

    def __init__(self, name: str, about: str | None) -> None:
        super().__init__(
            prog=f"python -m benchmarks{name and f'.{name}'}",
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def count(self, option: str, default: int, least: int = 1, text: str | None = None) -> None:
        """An option that takes a whole number, at least so many."""
        self.add_argument(option, type=_at_least(least), default=default, metavar="N", help=text)

    def offer_json(self) -> None:
        """The option --json, for `write`."""
        self.add_argument("--json", type=Path, metavar="FILE", help="write the whole result")


def _at_least(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = int(text) if text.isascii() and text.isdigit() else -1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text}: give a whole number, at least {least}")
        return number

    return read


def write(result: Mapping[str, Any], file: Path | None) -> None:
    """The whole result, if it is asked for."""
    if file is not None:
        file.write_text(to_json(result))


def to_json(result: Mapping[str, Any]) -> str:
    """The whole result; what has no value is null."""

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        if isinstance(value, Mapping):
            return {name: plain(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(result), indent=2) + "\n"
