"""The drawn state machines are those that run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from colosim.protocol.checkpoint import (
    P,
    Quirks,
    S,
    Transfer,
    Verb,
    primary_machine,
    secondary_machine,
)
from colosim.protocol.dialect import DIALECTS, UPSTREAM, Message
from colosim.protocol.manager import MANAGER_ROWS, M, MVerb
from tools import diagrams

MACHINES = {
    **{
        f"primary-{dialect}-{transfer.value}.md": primary_machine(DIALECTS[dialect], transfer)
        for dialect in DIALECTS
        for transfer in Transfer
        if (dialect, transfer) != ("rfc2014", Transfer.PRECOPY)
    },
    **{
        f"primary-upstream-{transfer.value}-qemu-7.2.md": primary_machine(
            UPSTREAM, transfer, Quirks.QEMU_7_2
        )
        for transfer in Transfer
        if transfer is not Transfer.PRECOPY
    },
    **{f"secondary-{dialect}.md": secondary_machine(DIALECTS[dialect]) for dialect in DIALECTS},
}


def section(text: str, *titles: str) -> str:
    """The sections with these titles."""
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    return "".join(found[title] for title in titles)


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]*)`", cell)


def rows_said(
    text: str, states: type[Enum], verbs: type[Enum]
) -> Iterator[tuple[tuple[Any, Any], tuple[tuple[str, ...], Any]]]:
    """The rows that the tables of a text spell out."""
    for line in re.findall(r"^\| `.*\|$", text, flags=re.MULTILINE):
        from_cell, verb_cell, effect_cell, next_cell = line.strip("| ").split(" | ")
        for state in names(from_cell):
            target = names(next_cell)[0] if names(next_cell) else state
            for verb in names(verb_cell):
                yield (states(state), verbs(verb)), (tuple(names(effect_cell)), states(target))


def as_said(rows: diagrams.Rows) -> dict[Any, Any]:
    return {
        key: (tuple(effect.value for effect in effects), target)
        for key, (effects, target) in rows.items()
    }


TABLES = ("Main path", "The way out", "What changes nothing or is only remembered")


def test_diagrams_are_fresh() -> None:
    assert diagrams.stale() == []


def test_every_machine_is_drawn() -> None:
    assert set(diagrams.documents()) == {*MACHINES, "manager.md", diagrams.INDEX}


@pytest.mark.parametrize("name", MACHINES)
def test_tables_say_every_row_once(name: str) -> None:
    states = P if name.startswith("primary") else S
    said = list(rows_said(section(diagrams.documents()[name], *TABLES), states, Verb))
    assert len(said) == len(dict(said))
    assert dict(said) == as_said(MACHINES[name].rows)


@pytest.mark.parametrize(
    ("transfer", "quirks"),
    [
        *product((Transfer.STOP_AND_SEND, Transfer.COPY_THEN_SEND), Quirks),
        (Transfer.PRECOPY, Quirks.NONE),
    ],
)
def test_commit_section_says_what_commit_changes(transfer: Transfer, quirks: Quirks) -> None:
    name = diagrams.name_of(UPSTREAM, transfer, quirks).replace(", ", "-")
    text = diagrams.documents()[f"primary-{name}.md"]
    rows = dict(rows_said(section(text, *TABLES), P, Verb))
    changed = dict(rows_said(section(text, 'With `commit = "loaded"`'), P, Verb))
    wanted = primary_machine(UPSTREAM, transfer, quirks, Message.LOADED).rows
    assert changed
    assert rows | changed == as_said(wanted)


def test_manager_table_says_every_row_once() -> None:
    said = list(rows_said(diagrams.documents()["manager.md"], M, MVerb))
    assert len(said) == len(dict(said))
    assert dict(said) == as_said(MANAGER_ROWS)


@pytest.mark.parametrize("name", MACHINES)
def test_drawing_of_the_main_path_has_every_main_row(name: str) -> None:
    main, out, _ = diagrams.parts(MACHINES[name])
    drawn = re.findall(r"^    (\w+) --> (\w+): (\S+)", diagrams.documents()[name], re.MULTILINE)
    edges = [
        (diagrams.node(state.value), diagrams.node(target.value), verb.value)
        for (state, verb), (_, target) in main.items()
    ]
    assert drawn[: len(edges)] == edges
    assert {state for state, _ in main}.isdisjoint(
        {P.FROZEN, P.EXITED, P.FAILOVER, P.TAKEOVER, S.RELAUNCH, S.EXITED, S.FAILOVER, S.TAKEOVER}
    )
    assert {diagrams.node(target.value) for _, target in out.values()} <= {
        target for _, target, _ in drawn[len(edges) :]
    }


@pytest.mark.parametrize("name", [*MACHINES, "manager.md"])
def test_pictures_on_the_site_have_every_state_and_every_label(name: str) -> None:
    text = diagrams.documents()[name]
    for mermaid in re.findall(r"^```mermaid\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        dot = diagrams.as_dot(mermaid)
        drawn = {
            (source, target, label.strip())
            for source, target, labels in re.findall(r'"(\S+)" -> "(\w+)" \[label="(.*)"\]', dot)
            for label in (labels.split("\\l")[:-1] or [""])
        }
        edges = re.findall(r"^ *(\S+) --> (\w+)(?:: (.*))?$", mermaid, re.MULTILINE)
        assert drawn == set(edges)
        for state, identifier in re.findall(r'state "(.+)" as (\w+)', mermaid):
            assert f'"{identifier}" [label="{state}"];' in dot


# -- the check can fail ------------------------------------------------------------------------


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    diagrams.write(tmp_path)
    assert diagrams.stale(tmp_path) == []
    return tmp_path


def test_an_edited_file_is_stale(drawn: Path) -> None:
    file = drawn / "manager.md"
    file.write_text(file.read_text().replace("`voting`", "`waiting`", 1))
    assert diagrams.stale(drawn) == ["manager.md: stale"]


def test_a_missing_and_a_strange_file_are_told(drawn: Path) -> None:
    (drawn / "manager.md").rename(drawn / "manger.md")
    assert diagrams.stale(drawn) == ["manager.md: missing", "manger.md: no such machine"]
    diagrams.write(drawn)
    assert diagrams.stale(drawn) == []


def test_every_row_of_a_table_counts(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away each row of the secondary's table in turn: each time its file is stale."""
    machine = secondary_machine(UPSTREAM)
    for key in machine.rows:
        rows = {each: row for each, row in machine.rows.items() if each != key}
        without = replace(machine, rows=rows)
        monkeypatch.setattr(
            diagrams,
            "secondary_machine",
            lambda dialect, without=without: (
                without if dialect is UPSTREAM else secondary_machine(dialect)
            ),
        )
        assert diagrams.stale(drawn) == ["secondary-upstream.md: stale"], key


def test_every_row_of_the_manager_counts(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in MANAGER_ROWS:
        rows = {each: row for each, row in MANAGER_ROWS.items() if each != key}
        monkeypatch.setattr(diagrams, "MANAGER_ROWS", rows)
        assert diagrams.stale(drawn) == ["manager.md: stale"], key


def test_limits_and_reading_states_count(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = secondary_machine(UPSTREAM)
    for changed in (
        replace(machine, reads=machine.reads - {S.RECEIVE}),
        replace(machine, limits={**machine.limits, S.LOAD: "save_ns"}),
        replace(machine, survival={}),
    ):
        monkeypatch.setattr(diagrams, "secondary_machine", lambda dialect, made=changed: made)
        assert "secondary-upstream.md: stale" in diagrams.stale(drawn)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ["--folder", str(tmp_path / "diagrams")]
    assert diagrams.main([*folder, "--check"]) == 1
    assert "manager.md: missing" in capsys.readouterr().err
    assert not (tmp_path / "diagrams").exists()
    assert diagrams.main(folder) == 0
    assert diagrams.main([*folder, "--check"]) == 0
