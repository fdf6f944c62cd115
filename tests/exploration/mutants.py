"""The mutants of the tables (tests/protocol/test_mutations.py), hunted by exploring."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from colosim.exploration.space import Design, Point
from colosim.protocol import manager, node
from colosim.protocol.checkpoint import Machine
from colosim.protocol.manager import MANAGER_ROWS, M
from colosim.protocol.types import Role
from tests.exploration.hunting import first_violation
from tests.protocol.script import Recorder
from tests.protocol.test_mutations import Mutant, fact_mutants, row_mutants, states_of


@dataclass(frozen=True)
class Planted:
    """A mutant and where it goes: the table of a side, or (None) the managers'."""

    design: Design
    side: Role | None
    mutant: Mutant

    @property
    def name(self) -> str:
        return f"{self.design} {self.side or 'manager'}: {self.mutant.name}"

    def plant(self) -> AbstractContextManager[Any]:
        if self.side is None:
            return patch.object(manager, "MANAGER_ROWS", self.mutant.table)
        return machine_is(self.side, self.mutant.table)


def machine_is(side: Role, machine: Machine) -> AbstractContextManager[Any]:
    original = node.machine_of
    return patch.object(
        node, "machine_of", lambda config: machine if config.role is side else original(config)
    )


def mutants(design: Design) -> Iterator[Planted]:
    """Of both sides' tables and the managers'."""
    for side in Role:
        machine = design.machine(side)
        for mutant in row_mutants(machine.rows, states_of(machine.rows)):
            table = replace(machine, rows=mutant.table)
            yield Planted(design, side, replace(mutant, table=table))
        for mutant in fact_mutants(machine):
            yield Planted(design, side, mutant)
    for mutant in row_mutants(MANAGER_ROWS, M):
        yield Planted(design, None, mutant)


class Touched:
    """Which points of a design touch a row or a state of its tables."""

    def __init__(self, design: Design, candidates: Iterable[Point]) -> None:
        self._points: dict[Any, list[Point]] = defaultdict(list)
        for point in candidates:
            recorders = {side: Recorder(design.machine(side).rows) for side in Role}
            managers = Recorder(MANAGER_ROWS)
            original = node.machine_of

            def machine_of(config, recorders=recorders, original=original):
                return replace(original(config), rows=recorders[config.role])

            with (
                patch.object(node, "machine_of", machine_of),
                patch.object(manager, "MANAGER_ROWS", managers),
            ):
                _, wrong = first_violation([point])
            assert wrong is None, wrong
            for side, recorder in recorders.items():
                rows = design.machine(side).rows
                states = {s for key in recorder.used for s in (key[0], rows[key][1])}
                for touched in recorder.used | states:
                    self._points[side, touched].append(point)
            for key in managers.used:
                self._points[None, key].append(point)

    def by(self, planted: Planted) -> list[Point]:
        """Few rather than many: each state is touched by nearly all."""
        found = [
            point
            for touched in planted.mutant.touches
            for point in self._points[planted.side, touched]
        ]
        return list(dict.fromkeys(found))
