"""What is compared: each policy that is possible, with its parameters, and what is to be small."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from colosim import api
from colosim.protocol.policies import POLICIES
from colosim.protocol.types import Output
from colosim.scenario import Scenario, ScenarioError
from colosim.sizing.errors import SizingError
from colosim.units import TIME, UnitError

NONE = "none"
POLICIES_TRIED = ("remus", "microcheckpoint", "adaptive", "colo", "hybrid")
INTERVALS = ("25 ms", "100 ms", "400 ms")
#: goal -> the metric that is to be small, of services
GOALS: Mapping[str, str] = {
    "p99": "latency_p99_ms",
    "p50": "latency_p50_ms",
    "capacity": "stopped_share",
}
#: the same of jobs, whatever the goal
OF_A_JOB = "completion_time_s"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy with its parameters.

    changes: dotted keys of the scenario.
    """

    label: str
    policy: str
    changes: Mapping[str, Any]

    @property
    def compares(self) -> bool:
        """Output waits for what the secondary says."""
        return POLICIES[self.policy].output is Output.WITNESS


def check(goal: str, policies: Sequence[str], intervals: Sequence[str]) -> None:
    """Raises SizingError, one line, for a goal, policy or interval that is none."""
    if goal not in GOALS:
        raise SizingError(f"goal {goal!r} is unknown; use one of {', '.join(GOALS)}")
    for name in policies:
        if name not in POLICIES or name == NONE:
            known = ", ".join(each for each in POLICIES if each != NONE)
            raise SizingError(f"policy {name!r} protects nothing or is unknown; use {known}")
    if not policies:
        raise SizingError("no policy is given; leave --policies out to try all")
    for each in intervals:
        try:
            TIME.parse(each)
        except UnitError as error:
            raise SizingError(f"interval {each!r}: {error}") from None


def candidates(
    scenario: Scenario, policies: Sequence[str], intervals: Sequence[str]
) -> tuple[dict[str, Candidate], dict[str, str]]:
    """What is possible with a scenario by its label, no protection first, and why the rest is not.

    Raises SizingError if nothing that protects is possible.
    """
    found = {NONE: Candidate(NONE, NONE, {"policy.name": NONE})}
    left_out: dict[str, str] = {}
    for name in policies:
        for each in _variants(scenario, name, intervals):
            try:
                api.policies_of([name], scenario.replace(each.changes))
            except ScenarioError as error:
                left_out[each.label] = str(error).splitlines()[0]
            else:
                found.setdefault(each.label, each)
    if len(found) == 1:
        raise SizingError(f"no policy is possible: {next(iter(left_out.values()))}")
    return found, left_out


def _variants(scenario: Scenario, name: str, intervals: Sequence[str]) -> Iterator[Candidate]:
    changes: dict[str, Any] = {"policy.name": name}
    if name == "microcheckpoint":
        changes["transfer"] = None  # its own: a copy is sent while the guest runs
    if not hasattr(scenario.policy_params(name), "interval_ns") or name == "hybrid":
        yield Candidate(name, name, changes)
        return
    for text in intervals:
        label = f"{name} {TIME.format(int(TIME.parse(text)))}"
        yield Candidate(label, name, changes | {f"policy.{name}.interval": text})
