"""The examples of a page: fenced blocks, and what is done with each.

``console``: lines after ``$`` are commands, lines after ``>`` go on with them, the rest is what
they print (``...`` stands for anything; nothing: not compared).  ``pycon``: a session.  Those of a
page are run in its order, in one directory and one session.  ``console notest``: only its
commands' options are looked at.
"""

from __future__ import annotations

import doctest
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass
class Command:
    """One command line of a console block, and what it should print."""

    line: str
    expected: str = ""


@dataclass
class Block:
    kind: str
    text: str
    number: int  # of its first line in the page
    commands: list[Command] = field(default_factory=list)

    @property
    def runs(self) -> bool:
        return self.kind in ("console", "pycon")


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    text = page.read_text("utf-8")
    for match in re.finditer(r"^```([^\n]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        number = text.count("\n", 0, match.start()) + 2
        block = Block(match[1].strip(), match[2], number)
        if block.kind.startswith("console"):
            block.commands = list(commands(block.text))
        yield block


def commands(text: str) -> Iterator[Command]:
    found: Command | None = None
    for line in text.splitlines():
        if line.startswith("$ "):
            if found is not None:
                yield found
            found = Command(line[2:])
        elif found is None:
            raise ValueError(f"a console block begins with a command: {line!r}")
        elif re.match(r">( |$)", line):
            found.line += f"\n{line[2:]}"
        else:
            found.expected += f"{line}\n"
    if found is not None:
        yield found


def calls(text: str) -> Iterator[list[str]]:
    """The arguments of every ``colosim`` that lines of a shell call."""
    for line in text.splitlines():
        command = re.sub(r"^(\$ |# ?|  ?)", "", line.strip())
        for part in re.split(r"&&|[|<>]", command):
            words = re.match(r"\s*(?:(?:ip netns exec \w+ )?[\w./]*bin/)?colosim (.*)", part)
            if words and not re.match(r"[:=]", words[1]):
                try:
                    yield shlex.split(words[1], comments=True)
                except ValueError:
                    continue


def differs(expected: str, got: str) -> str:
    """Nothing if it is as expected, else how they differ."""
    if not expected.strip():
        return ""
    example = doctest.Example("", expected)
    checker = doctest.OutputChecker()
    if checker.check_output(expected, got, FLAGS):
        return ""
    return checker.output_difference(example, got, FLAGS)
