"""The answer of a sizing, and the scenario that it stands on as a file to go on with."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from colosim import store, tomltext
from colosim.calibration.text import compact
from colosim.scenario import Scenario
from colosim.sizing.basis import Basis
from colosim.sizing.candidates import Candidate
from colosim.units import without_unit


@dataclass(frozen=True, eq=False, repr=False)
class Sizing:
    """The answer.

    choice: the candidate's label; runner_up: the next one's.  goal, metric: what is to be small,
    as it was asked, and the metric that says it.
    policies: a row per candidate (`needs.costs`).  facts: key, value, kind, source.  sensitivity: a
    row per unknown (`unknowns.sensitivity`).  draws: a row per draw of all unknowns
    (`unknowns.Drawn`).  changes: what to change (`changes.changes`).  link: bandwidth by bandwidth
    (`needs.link`).  memory: host, what, bytes.
    certain: how sure by chance alone, NaN where no candidate keeps up; (best, draws, low, high): in
    how many draws it is the best, with an exact interval; regret: how much worse it is in the
    others, relative, at most.  undone: what Ctrl-C left undone; its tables are empty.
    """

    scenario: Scenario
    goal: str
    metric: str
    choice: str
    runner_up: str
    policies: pd.DataFrame
    facts: pd.DataFrame
    sensitivity: pd.DataFrame
    draws: pd.DataFrame
    changes: pd.DataFrame
    link: pd.DataFrame
    memory: pd.DataFrame
    certain: float
    best: tuple[int, int, float, float]
    regret: float
    notes: Sequence[str]
    sources: Sequence[str]
    left_out: Mapping[str, str]
    undone: Sequence[str]
    options: Mapping[str, Any]
    basis: Basis = field(repr=False)
    candidates: Mapping[str, Candidate] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The answer in a few sentences."""
        from colosim.sizing import report

        return report.verdict(self)

    def row(self, label: str | None = None) -> Mapping[str, Any]:
        """One candidate's row of ``policies``; None: the choice."""
        rows = self.policies[self.policies["candidate"] == (label or self.choice)]
        return {str(key): value for key, value in rows.iloc[0].items()}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the scenario (files by name), the candidates and all numbers."""
        mapping = self.scenario.to_mapping()
        if file := mapping["memory"].get("file"):
            mapping["memory"]["file"] = Path(file).name
        tables = (self.policies, self.sensitivity, self.draws, self.changes, self.link)
        rows = [table.to_csv(index=False, float_format="%.12g") for table in tables]
        return store.fingerprint(mapping, self.metric, self.choice, rows)

    def to_mapping(self) -> dict[str, Any]:
        """All of it for JSON."""
        from colosim.sizing import report

        return report.mapping(self)

    def readable(self) -> str:
        """All of it as text for people."""
        from colosim.sizing import report

        return report.plain(self)

    def _repr_html_(self) -> str:
        from colosim.sizing import report

        return report.html(self)

    def __repr__(self) -> str:
        return f"<Sizing {self.choice} of {len(self.policies)} candidates>"


def scenario_text(found: Sizing, curve_file: str | None) -> str:
    """The scenario that was simulated, with the choice as its policy, as a file."""
    choice = found.candidates[found.choice]
    scenario = found.scenario.replace(choice.changes)
    tables = ("cost", "memory", "workload", "link", "divergence")
    mapping = copy.deepcopy(compact(scenario, tables))
    if curve_file is not None:
        mapping["memory"]["file"] = curve_file
    notes = {
        fact.key: f"{fact.kind}: {fact.source}"
        for fact in found.basis.facts.values()
        if "\n" not in fact.source
    }
    for unknown in found.basis.unknowns.values():
        if unknown.low < unknown.high:
            key = without_unit(unknown.key)
            between = f"{unknown.shown(unknown.low)} to {unknown.shown(unknown.high)}"
            notes[key] = f"{notes.get(key, unknown.kind)}; {between}"
    head = [
        "Sized by `colosim size`; every number says where it is from.",
        *found.sources,
        f"Chosen: {found.choice}. Go on with: colosim compare FILE --policies none,remus,colo",
    ]
    return tomltext.toml(mapping, notes, head)
