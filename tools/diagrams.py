"""Draws the state machines of `colosim.protocol` into ``docs/diagrams``.

    python tools/diagrams.py            write
    python tools/diagrams.py --check    write nothing; fail if a file is stale

Each machine gets a Mermaid diagram of its main path, one of the way out of it, and every row of its
table: the main path one by one, rows that are equal for several states or verbs as one line.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product
from pathlib import Path
from typing import Any

from colosim.protocol.checkpoint import (
    Machine,
    Quirks,
    Transfer,
    Verb,
    primary_machine,
    secondary_machine,
)
from colosim.protocol.combinations import refusals
from colosim.protocol.dialect import DIALECTS, UPSTREAM, Dialect, Message
from colosim.protocol.manager import MANAGER_ROWS
from colosim.protocol.types import Survival
from colosim.units import without_unit

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "diagrams"
INDEX = "README.md"

#: (state, verb) -> (effects, next); of a checkpointer or of a manager
Rows = Mapping[tuple[Any, Any], tuple[tuple[Any, ...], Any]]

MAIN_VERBS = frozenset(
    (
        Verb.START,
        Verb.TRIGGER,
        Verb.ROUND,
        Verb.READY,
        Verb.REQUEST,
        Verb.REPLY,
        Verb.SEND,
        Verb.STATE,
        Verb.RECEIVED,
        Verb.LOADED,
        Verb.DONE,
    )
)
SAME = "the same"  # instead of the next state where a row stays where it is
ANY_STEP = "any step above"


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that say the same; ``next`` is None where they stay in their state."""

    states: tuple[Enum, ...]
    verbs: tuple[Enum, ...]
    effects: tuple[Enum, ...]
    next: Enum | None


# --------------------------------------------------------------------------------------------
# Sorting rows


def order(member: Enum) -> int:
    """Where a state or verb is declared."""
    return list(type(member)).index(member)


def by_declaration(rows: Rows) -> Rows:
    """The same rows, states and verbs in the order in which their enums declare them."""
    keys = sorted(rows, key=lambda key: (order(key[0]), order(key[1])))
    return {key: rows[key] for key in keys}


def parts(machine: Machine) -> tuple[Rows, Rows, Rows]:
    """(main path, way out, rows that stay in their state) of a checkpoint machine."""
    rows = by_declaration(machine.rows)
    moves = {key: row for key, row in rows.items() if row[1] is not key[0] or key[1] is Verb.ROUND}
    loop, todo = {machine.start}, [machine.start]
    while todo:
        state = todo.pop()
        for (source, verb), (_, target) in moves.items():
            if source is state and verb in MAIN_VERBS and target not in loop:
                loop.add(target)
                todo.append(target)
    main = {
        (state, verb): row
        for (state, verb), row in moves.items()
        if state in loop and verb in MAIN_VERBS
    }
    out = {key: row for key, row in moves.items() if key not in main}
    stay = {key: row for key, row in rows.items() if key not in moves}
    return main, out, stay


def grouped(rows: Rows) -> list[Group]:
    """Equal rows as one: first over the verbs of a state, then over states."""
    verbs_of: dict[tuple[Any, ...], list[Any]] = {}
    for (state, verb), (effects, target) in rows.items():
        to = None if target is state else target
        verbs_of.setdefault((state, effects, to), []).append(verb)
    states_of: dict[tuple[Any, ...], list[Any]] = {}
    for (state, effects, to), verbs in verbs_of.items():
        states_of.setdefault((tuple(verbs), effects, to), []).append(state)
    return [
        Group(tuple(states), verbs, effects, to)
        for (verbs, effects, to), states in states_of.items()
    ]


# --------------------------------------------------------------------------------------------
# Markdown


def code(members: Iterable[Enum]) -> str:
    """Names as code, or a dash if there is none."""
    return ", ".join(f"`{member.value}`" for member in members) or "–"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (heading, ("---",) * len(heading), *rows)]


def row_table(rows: Rows) -> list[str]:
    """Every row on a line of its own."""
    lines = (
        (code([state]), code([verb]), code(effects), code([target]))
        for (state, verb), (effects, target) in rows.items()
    )
    return table(("state", "verb", "effects", "next"), lines)


def group_table(rows: Rows) -> list[str]:
    """Equal rows on one line."""
    lines = (
        (
            code(group.states),
            code(group.verbs),
            code(group.effects),
            SAME if group.next is None else code([group.next]),
        )
        for group in grouped(rows)
    )
    return table(("states", "verbs", "effects", "next"), lines)


def state_table(machine: Machine) -> list[str]:
    """What is said of the states apart from their rows."""
    states = sorted({state for state, _ in machine.rows}, key=order)
    lines = (
        (
            code([state]),
            f"`limits.{without_unit(machine.limits[state])}`" if state in machine.limits else "–",
            "yes" if state in machine.reads else "–",
            code([machine.survival.get(state, Survival.CLEAN)]),
        )
        for state in states
    )
    heading = ("step", "longest wait", "reads the stream", "can this guest take over?")
    return table(heading, lines)


# --------------------------------------------------------------------------------------------
# Mermaid


def node(name: str) -> str:
    """An identifier that Mermaid takes."""
    return name.replace("-", "_").replace(" ", "_")


def drawing(start: str | None, edges: Iterable[tuple[str, str, str]]) -> list[str]:
    """A Mermaid state diagram of (from, to, label)."""
    edges = list(edges)
    names = dict.fromkeys(name for source, target, _ in edges for name in (source, target))
    return [
        "```mermaid",
        "stateDiagram-v2",
        *(f'    state "{name}" as {node(name)}' for name in names),
        *([] if start is None else [f"    [*] --> {node(start)}"]),
        *(f"    {node(source)} --> {node(target)}: {label}" for source, target, label in edges),
        "```",
    ]


def as_dot(mermaid: str) -> str:
    """A drawing for Graphviz, which the site is drawn with; edges of one way become one arrow."""
    names = re.findall(r'^ *state "(.*)" as (\w+)$', mermaid, re.MULTILINE)
    ways: dict[tuple[str, str], list[str]] = {}
    for source, target, label in re.findall(
        r"^ *(\w+|\[\*\]) --> (\w+)(?:: (.*))?$", mermaid, re.MULTILINE
    ):
        ways.setdefault((source, target), []).append(label)
    return "\n".join(
        [
            "digraph {",
            '  graph [fontname="DejaVu Sans", nodesep=0.2, ranksep=0.35];',
            '  node [fontname="DejaVu Sans", fontsize=12, height=0.35, shape=box, style=rounded];',
            '  edge [fontname="DejaVu Sans", fontsize=10];',
            *(['  "[*]" [shape=point, width=0.15];'] if "[*] -->" in mermaid else []),
            *(f'  "{identifier}" [label="{name}"];' for name, identifier in names),
            *(
                f'  "{source}" -> "{target}" [label="{_lines(labels)}"];'
                for (source, target), labels in ways.items()
            ),
            "}",
        ]
    )


def _lines(labels: Iterable[str]) -> str:
    """A label of several lines, each after a blank that keeps it off its arrow."""
    return "".join(f"\N{NO-BREAK SPACE}{label}\\l" for label in labels if label)


def edges_of(rows: Rows) -> Iterator[tuple[str, str, str]]:
    """One edge a row."""
    for (state, verb), (effects, target) in rows.items():
        done = ", ".join(effect.value for effect in effects)
        yield state.value, target.value, f"{verb.value} / {done}" if done else verb.value


def edges_out(out: Rows, loop: frozenset[Enum]) -> Iterator[tuple[str, str, str]]:
    """The way out: steps of the main path drawn as one, effects left to the table."""
    labels: dict[tuple[str, str], dict[Enum, list[Enum]]] = {}
    for (state, verb), (_, target) in out.items():
        source = ANY_STEP if state in loop else state.value
        labels.setdefault((source, target.value), {}).setdefault(verb, []).append(state)
    for (source, target), verbs in labels.items():
        yield (
            source,
            target,
            ", ".join(
                f"{verb.value} in {states[0].value}"
                if source == ANY_STEP and len(states) == 1
                else verb.value
                for verb, states in verbs.items()
            ),
        )


# --------------------------------------------------------------------------------------------
# Documents

MADE = "<!-- Made by tools/diagrams.py from the tables in colosim/protocol; do not edit. -->"


def machine_document(title: str, chosen_by: str, machine: Machine) -> list[str]:
    """What every checkpoint machine's file begins with."""
    main, out, stay = parts(machine)
    loop = frozenset(state for state, _ in main)
    return [
        MADE,
        "",
        f"# {title}",
        "",
        f"Chosen by {chosen_by}. What the words mean: [protocol](../protocol.md).",
        "",
        "## Main path",
        "",
        *drawing(machine.start.value, edges_of(main)),
        "",
        *row_table(main),
        "",
        "## The way out",
        "",
        *drawing(None, edges_out(out, loop)),
        "",
        "Rows that are equal for several states or verbs are one line.",
        "",
        *group_table(out),
        "",
        "## What changes nothing or is only remembered",
        "",
        *group_table(stay),
        "",
        "## Steps",
        "",
        *state_table(machine),
        "",
    ]


def difference(title: str, rows: Rows, other: Rows) -> list[str]:
    """A section with the rows that another setting changes."""
    changed = {key: row for key, row in by_declaration(other).items() if rows.get(key) != row}
    gone = {key: row for key, row in by_declaration(rows).items() if key not in other}
    lines = [
        f"## {title}",
        "",
        "These rows are new or replace those of the same state and verb.",
        "",
        *group_table(changed),
        "",
    ]
    if gone:
        lines += ["These rows are not there.", "", *group_table(gone), ""]
    return lines


def primary_document(dialect: Dialect, transfer: Transfer, quirks: Quirks) -> list[str]:
    """A primary's machine, and what quirks and ``commit`` change in it."""
    machine = primary_machine(dialect, transfer, quirks)
    chosen_by = f'`dialect = "{dialect.name}"`, `transfer = "{transfer.value}"`'
    if dialect is UPSTREAM:
        chosen_by += f', `quirks = "{quirks.value}"`'
    lines = machine_document(f"Primary: {name_of(dialect, transfer, quirks)}", chosen_by, machine)
    if quirks is not Quirks.NONE:
        plain = primary_machine(dialect, transfer)
        title = f'What is different from `quirks = "{Quirks.NONE.value}"`'
        lines += difference(title, plain.rows, machine.rows)
    for commit in commits(dialect):
        if commit is not dialect.commit:
            other = primary_machine(dialect, transfer, quirks, commit)
            title = f'With `commit = "{commit.value}"`'
            lines += difference(title, machine.rows, other.rows)
    return lines


def commits(dialect: Dialect) -> tuple[Message, ...]:
    """When a checkpoint may count as safe; rfc2014 leaves no choice (see `colosim.scenario`)."""
    return (Message.RECEIVED, Message.LOADED) if dialect is UPSTREAM else (dialect.commit,)


def name_of(dialect: Dialect, transfer: Transfer, quirks: Quirks) -> str:
    """What tells one primary's machine from another's."""
    names = [dialect.name, transfer.value]
    return ", ".join(names if quirks is Quirks.NONE else [*names, quirks.value])


def manager_document() -> list[str]:
    """The manager's table, small enough to be drawn whole."""
    rows = by_declaration(MANAGER_ROWS)
    return [
        MADE,
        "",
        "# Manager",
        "",
        "One in each node where the dialect knows failover (`upstream`).",
        "What the words mean: [protocol](../protocol.md).",
        "",
        *drawing(next(iter(rows))[0].value, edges_of(rows)),
        "",
        *row_table(rows),
        "",
        "A verb without a row means nothing in that state and changes nothing.",
        "",
    ]


def documents() -> dict[str, str]:
    """Every file by its name, the index included."""
    made: dict[str, tuple[str, list[str]]] = {}
    for dialect, transfer, quirks in product(DIALECTS.values(), Transfer, Quirks):
        chosen = {"dialect": dialect.name, "transfer": transfer.value, "quirks": quirks.value}
        is_real = quirks is Quirks.NONE or dialect is UPSTREAM  # they are defects of upstream QEMU
        if is_real and not [*refusals(chosen)]:
            name = name_of(dialect, transfer, quirks)
            file = f"primary-{name.replace(', ', '-')}.md"
            made[file] = f"primary: {name}", primary_document(dialect, transfer, quirks)
    for dialect in DIALECTS.values():
        lines = machine_document(
            f"Secondary: {dialect.name}",
            f'`dialect = "{dialect.name}"`',
            secondary_machine(dialect),
        )
        made[f"secondary-{dialect.name}.md"] = f"secondary: {dialect.name}", lines
    made["manager.md"] = "manager", manager_document()
    index = [
        MADE,
        "",
        "# State machines",
        "",
        "Drawn from the tables that run; a test fails when they are stale, and",
        "`python tools/diagrams.py` draws them again.",
        "",
        *(f"* [{title}]({file})" for file, (title, _) in made.items()),
        "",
    ]
    files = {file: lines for file, (_, lines) in made.items()} | {INDEX: index}
    return {file: "\n".join(lines).rstrip() + "\n" for file, lines in files.items()}


def stale(folder: Path = FOLDER) -> list[str]:
    """What is wrong with the files in ``folder``, one line each."""
    wanted = documents()
    there = {path.name: path.read_text("utf-8") for path in sorted(folder.glob("*.md"))}
    return [
        *(f"{name}: missing" for name in wanted if name not in there),
        *(f"{name}: stale" for name in wanted if there.get(name, wanted[name]) != wanted[name]),
        *(f"{name}: no such machine" for name in there if name not in wanted),
    ]


def write(folder: Path = FOLDER) -> None:
    """Write every file and remove those of machines that are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = documents()
    for path in folder.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(description="draw the state machines into docs/diagrams")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if stale")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if not given.check:
        write(given.folder)
        return 0
    problems = stale(given.folder)
    for problem in problems:
        print(f"{problem}; run python tools/diagrams.py", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
