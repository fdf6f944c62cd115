"""Every row of every table matters: each generated mutant fails an expected trace.

A mutant is a table with one change: a row deleted, one effect of a row dropped, the row's target
replaced by any other state, or one fact about a state (it reads, it has this limit, it starts
remembered checkpoints, how it survives) taken back.  ``ended`` is left alone: it only frees memory.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import pytest

from colosim.protocol import manager
from colosim.protocol import types as t
from colosim.protocol.checkpoint import Machine, State
from colosim.protocol.manager import MANAGER_ROWS, M
from colosim.protocol.node import NodeConfig, machine_of
from tests.protocol.script import (
    Player,
    Recorder,
    Script,
    configurations,
    expected_scripts,
    manager_configurations,
    name_of,
)

CONFIGURATIONS = list(configurations())

NAMES_ONLY = {M.YIELDED: M.STRANDED, M.STRANDED: M.YIELDED}
#: mutants that behave as the original: both states are final and silent, their names differ
EQUIVALENT = {
    f"{state}, {verb}: to {NAMES_ONLY[target]}"
    for (state, verb), (_, target) in MANAGER_ROWS.items()
    if target in NAMES_ONLY
}


@dataclass(frozen=True)
class Mutant:
    """One change; ``touches`` are the rows or states without which it cannot be noticed."""

    name: str
    table: Any
    touches: frozenset


def row_mutants(rows: Mapping, states: Iterable) -> Iterator[Mutant]:
    states = list(states)
    for key, (effects, target) in rows.items():
        name = f"{key[0]}, {key[1]}"
        touches = frozenset((key,))
        without = {other: row for other, row in rows.items() if other != key}
        yield Mutant(f"{name}: deleted", without, touches)
        for index, effect in enumerate(effects):
            fewer = (*effects[:index], *effects[index + 1 :])
            yield Mutant(f"{name}: no {effect.name}", {**rows, key: (fewer, target)}, touches)
        for state in states:
            if state is not target:
                yield Mutant(f"{name}: to {state}", {**rows, key: (effects, state)}, touches)


def fact_mutants(machine: Machine) -> Iterator[Mutant]:
    states = states_of(machine.rows)
    for name in ("reads", "between"):
        having = getattr(machine, name)
        for state in having & states:
            yield said_otherwise(machine, state, f"not in {name}", name, having - {state})
    for name in ("limits", "survival"):
        said = getattr(machine, name)
        for state in said.keys() & states:
            less = {other: value for other, value in said.items() if other != state}
            yield said_otherwise(machine, state, f"no {name}", name, less)
            for value in set(said.values()) - {said[state]}:
                more = {**said, state: value}
                yield said_otherwise(machine, state, f"{name} {value}", name, more)


def said_otherwise(machine: Machine, state: State, what: str, name: str, value: Any) -> Mutant:
    changes: dict[str, Any] = {name: value}
    return Mutant(f"{state}: {what}", replace(machine, **changes), frozenset((state,)))


def states_of(rows: Mapping) -> frozenset:
    return frozenset(state for key, row in rows.items() for state in (key[0], row[1]))


class Coverage:
    """Which scripts, under which configuration, touch a row or a state."""

    def __init__(self, rows: Mapping) -> None:
        self._rows = rows
        self._scripts: dict[Any, list[tuple[NodeConfig, Script]]] = defaultdict(list)

    def add(self, config: NodeConfig, script: Script, used: set) -> None:
        states = {key[0] for key in used} | {self._rows[key][1] for key in used}
        for touched in used | states:
            self._scripts[touched].append((config, script))

    def of(self, mutant: Mutant) -> list[tuple[NodeConfig, Script]]:
        """Shortest first: most mutants die early."""
        found = [use for touched in mutant.touches for use in self._scripts[touched]]
        return sorted(found, key=lambda use: len(use[1].lines))


def is_killed(machine: Machine | None, scripts: Iterable[tuple[NodeConfig, Script]]) -> bool:
    for config, script in scripts:
        try:
            Player(config, machine).play(script.lines)
        except (AssertionError, t.ProtocolError):
            return True
    return False


def check(name: str, mutants: list[Mutant], survivors: list[str]) -> None:
    """Every survivor is an equivalent one, and every equivalent one survives."""
    allowed = {mutant.name for mutant in mutants} & EQUIVALENT
    killed = len(mutants) - len(survivors)
    print(f"{name}: {len(mutants)} mutants, {killed} killed, survivors: {survivors or 'none'}")
    assert sorted(survivors) == sorted(allowed)


@pytest.mark.parametrize("config", CONFIGURATIONS, ids=name_of)
def test_checkpoint_tables(config):
    machine = machine_of(config)
    coverage = Coverage(machine.rows)
    for script in expected_scripts(config):
        recorder = Recorder(machine.rows)
        Player(config, replace(machine, rows=recorder)).play(script.lines)
        coverage.add(config, script, recorder.used)
    mutants = [
        *(
            replace(mutant, table=replace(machine, rows=mutant.table))
            for mutant in row_mutants(machine.rows, states_of(machine.rows))
        ),
        *fact_mutants(machine),
    ]
    survivors = [m.name for m in mutants if not is_killed(m.table, coverage.of(m))]
    check(name_of(config), mutants, survivors)


def test_manager_table():
    coverage = Coverage(MANAGER_ROWS)
    for config in (*CONFIGURATIONS, *manager_configurations()):
        for script in expected_scripts(config):
            recorder = Recorder(MANAGER_ROWS)
            with patch.object(manager, "MANAGER_ROWS", recorder):
                Player(config).play(script.lines)
            coverage.add(config, script, recorder.used)
    mutants = list(row_mutants(MANAGER_ROWS, M))
    survivors = []
    for mutant in mutants:
        with patch.object(manager, "MANAGER_ROWS", mutant.table):
            if not is_killed(None, coverage.of(mutant)):
                survivors.append(mutant.name)
    check("manager", mutants, survivors)
