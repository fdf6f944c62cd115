"""The whole scenario: its tables together, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
from pydantic import Field, model_validator

from colosim import markup
from colosim.guest import Client, Guest, Hosts
from colosim.model import delta, schedule
from colosim.model.cost import Costs
from colosim.model.delta import DeltaRatio
from colosim.model.memory import MeasuredCurve, MemoryModel, Touched
from colosim.model.network import Impairments
from colosim.model.schedule import Schedule
from colosim.protocol.checkpoint import Quirks, Transfer
from colosim.protocol.dialect import DIALECTS
from colosim.protocol.policies import POLICIES
from colosim.scenario.conflicts import problems_of
from colosim.scenario.memory import Memory
from colosim.scenario.pair import (
    ClientNetwork,
    Clocks,
    Compare,
    Cost,
    Disk,
    Divergence,
    Execution,
    Limits,
    Link,
    Manager,
    Packet,
    Sharing,
    Stream,
)
from colosim.scenario.policy import Policy
from colosim.scenario.reading import ScenarioError, read_toml, validated
from colosim.scenario.timeline import Fault, Phase
from colosim.scenario.workload import Service, Workload
from colosim.scenario.years import Availability
from colosim.section import (
    Duration,
    OneOf,
    Problem,
    Section,
    Time,
    invalid,
    join,
    number,
    option,
    plain,
)


class Scenario(Section):
    """One question to the simulator: workload, machine, protection, faults, and how to run it.

    Made by `load_scenario` or `from_mapping`, which raise `ScenarioError`; `replace` changes it.
    """

    name: str = option(
        ..., "name in results", max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$"
    )
    description: str = option("", "what it is about", max_length=10_000)
    duration_ns: Duration = option(..., "simulated time of a run; for a job the longest")
    warm_up_ns: Time = option("0 s", "start of each run that is left out of the metrics")
    seed: Annotated[int, number("seed", 0, 2**63 - 1)] = option(1, "what all chance comes from")
    replications: Annotated[int, number("runs", 1, 1_000_000)] = option(
        10, "independent runs; intervals come from them"
    )
    fidelity: Literal["response", "packet", "epoch"] = option(
        "response",
        "in simulation: a response is one object, or the frames that the core compares live, or "
        "all responses between two points of synchronisation are arrays",
    )
    dialect: Annotated[str, OneOf(tuple(DIALECTS))] = option("upstream", "wire dialect of COLO")
    quirks: Annotated[Quirks, Field(strict=False)] = option(
        Quirks.NONE, "defects of a QEMU version to reproduce"
    )
    transfer: Annotated[Transfer, Field(strict=False)] | None = option(
        None,
        "send the state while the guest is stopped, a copy of it later, or most of it ahead; "
        "default the policy's own, which is stop-and-send but for microcheckpoint",
    )
    commit: Literal["received", "loaded"] | None = option(
        None, "message after which a checkpoint counts as safe; default the dialect's own"
    )
    policy: Policy = option(Policy(), "what protects, and its parameters")
    workload: Workload = option(..., "a table [workload]: what the guest does")
    memory: Memory = option(..., "a table [memory]: which pages it dirties")
    execution: Execution = option(Execution(), "how the two guests run beside each other")
    divergence: Divergence = option(Divergence(), "when their responses differ")
    compare: Compare = option(
        Compare(), "live and at fidelity packet: how both guests' packets are compared"
    )
    packet: Packet = option(Packet(), "at fidelity packet: what clients and guests say")
    network: ClientNetwork = option(
        ClientNetwork(), "at fidelity packet: what happens to frames between clients and guests"
    )
    cost: Cost = option(Cost(), "what the steps of a checkpoint cost")
    link: Link = option(Link(), "replication link")
    stream: Stream = option(Stream(), "how the state of a checkpoint is put on it")
    sharing: Sharing = option(
        Sharing(), "in simulation: several VMs that share hosts and link, and how"
    )
    disk: Disk | None = option(None, "in simulation: the guests' disks; default none")
    guest: Guest = option(Guest(), "for a live run: the guest that is booted")
    client: Client = option(Client(), "for a live run: who talks to the guest")
    hosts: Hosts = option(Hosts(), "for a live run: on which machines its two hosts are")
    manager: Manager = option(Manager(), "failure detection and arbitration")
    clocks: Clocks = option(Clocks(), "in simulation: how the hosts' clocks differ")
    limits: Limits = option(Limits(), "longest wait in each step")
    availability: Availability = option(
        Availability(), "for colosim availability: failures and repairs over years"
    )
    phase: Annotated[tuple[Phase, ...], Field(strict=False)] = option(
        (), "phases in turn, one table [[phase]] each; none: rates never change", max_length=1_000
    )
    after_phases: Literal["repeat", "stay"] = option(
        "repeat", "after the last phase: begin again, or stay as it was"
    )
    fault: Annotated[tuple[Fault, ...], Field(strict=False)] = option(
        (), "faults, one table [[fault]] each", max_length=1_000
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if found := problems_of(self):
            raise invalid(found)
        return self

    @classmethod
    def _problems_of(cls, detail: Any) -> Iterator[Problem]:
        """Told of a key that is known elsewhere: where."""
        for key, text in super()._problems_of(detail):
            homes = _homes(key) if text.startswith("unknown key") else []
            yield key, f"unknown key here; did you mean {' or '.join(homes)}?" if homes else text

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str = "scenario") -> Scenario:
        """The scenario of a mapping shaped like a file; ``where`` stands for the file in errors."""
        return validated(cls, mapping, where)

    def replace(self, changes: Mapping[str, Any], where: str = "scenario") -> Scenario:
        """A changed scenario: {"workload.clients": 20, "fault.0.at": "3 s"}, values as in a file.

        None takes a key away, so that its default holds again.
        """
        mapping = self._given()
        for dotted, value in changes.items():
            path = dotted.split(".")
            _put(mapping, path, value, f"{where}: {join(*map(plain, path))}")
        return self.from_mapping(mapping, where)

    def to_mapping(self) -> dict[str, Any]:
        """All values, defaults too, as in a file: `from_mapping` reads the same scenario back."""
        mapping = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        for name in POLICIES:
            table = type(getattr(self.policy, name))
            complete = table.model_construct(**asdict(self.policy_params(name)))
            mapping["policy"][name] = complete.model_dump(mode="json", by_alias=True)
        return mapping

    def _repr_html_(self) -> str:
        """What was given, and below it, folded, all else that holds."""
        given = dict(markup.leaves(self._given()))
        rest = [each for each in markup.leaves(self.to_mapping()) if each[0] not in given]
        about = f"{given.pop('name', self.name)}: {given.pop('description', 'a scenario')}"
        defaults = markup.more("defaults that hold besides", markup.table(rest))
        return markup.verdict(about) + markup.table(given.items()) + defaults

    def policy_params(self, name: str) -> Any:
        """``POLICIES[name].Params``: the file's values, else the dialect's, else the policy's."""
        table = getattr(self.policy, name)
        given = {key: value for key, value in table if value is not None}
        defaults = DIALECTS[self.dialect].policy_defaults.get(name, {})
        return POLICIES[name].Params(**{**defaults, **given})

    def transfer_of(self, policy: str) -> Transfer:
        """How state gets across under a policy."""
        return POLICIES[policy].transfer if self.transfer is None else self.transfer

    def choices(self, policy: str) -> dict[str, str]:
        """What was chosen, for `colosim.protocol.combinations`."""
        return {
            "policy": policy,
            "transfer": self.transfer_of(policy).value,
            "dialect": self.dialect,
            "quirks": self.quirks.value,
            "compare": self.compare.mode,
            "compression": self.stream.compression,
            "channel_bandwidth": "link" if self.stream.channel_bandwidth_bps is None else "limited",
            "channels": "one channel" if self.stream.channels == 1 else "several channels",
            "fidelity": self.fidelity,
            "load": self.workload.load if isinstance(self.workload, Service) else "batch",
        }

    def costs(self) -> Costs:
        """The table ``[cost]`` as the model takes it."""
        return self._costs

    # made once for all replications
    @cached_property
    def _costs(self) -> Costs:
        return Costs(**self.cost.model_dump())

    @cached_property
    def _memory_model(self) -> MemoryModel:
        return self.memory.model(self._costs.page_bytes)

    def delta_ratio(self) -> DeltaRatio:
        """What is left of a page as a difference."""
        costs, memory = self.costs(), self.memory_model()
        if self.stream.delta_size == "age" and isinstance(memory, MeasuredCurve):
            return delta.by_age(memory)
        if self.stream.delta_size == "writes" and isinstance(memory, Touched):
            return delta.by_writes(memory, costs.delta_write_bytes, costs.page_bytes)
        return delta.constant(costs.delta_ratio)

    def schedule(self) -> Schedule:
        """How rates change in time."""
        phases = (schedule.Phase(*(value for _, value in phase)) for phase in self.phase)
        return Schedule(tuple(phases), self.after_phases == "repeat")

    def impairments(self) -> Impairments:
        """What happens to frames between clients and guests."""
        return Impairments(**self.network.model_dump())

    def memory_model(self) -> MemoryModel:
        """The memory model of this scenario."""
        return self._memory_model

    def _given(self) -> dict[str, Any]:
        """Only what was given, so that defaults can follow a change."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)

    def __reduce__(self) -> tuple[Any, ...]:  # the generated tables have no importable name
        return type(self).from_mapping, (self._given(),)


def _homes(key: str) -> list[str]:
    """Where in a scenario a key of this name is known, dotted; beside or below what was given."""
    above, _, name = key.rpartition(".")
    known = dict.fromkeys(_dotted(Scenario))
    found = [dotted for dotted in known if dotted.rpartition(".")[2] == name]
    return [dotted for dotted in found if dotted.startswith(f"{above}.")] or found[:3]


def _dotted(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Keys of all tables; of a table with several forms more than once."""
    for name, info in section._fields().items():
        below = [*_sections(info.annotation)]
        for table in below:
            yield from _dotted(table, f"{prefix}{name}.")
        if not below:
            yield f"{prefix}{name}"


def _sections(annotation: Any) -> Iterator[type[Section]]:
    """The tables that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


def _put(mapping: dict[str, Any], path: Sequence[str], value: Any, where: str) -> None:
    """Set (None: remove) one value by its path; a list's items go by number."""
    place: Any = mapping
    for i, part in enumerate(path):
        if isinstance(place, list) and part.isdecimal() and int(part) < len(place):
            key: Any = int(part)
        elif isinstance(place, dict):
            key = part
        else:
            raise ScenarioError(f"{where}: no such key; {plain(path[i - 1])} is no table")
        if i + 1 < len(path):
            place = place[key] if isinstance(place, list) else place.setdefault(key, {})
        elif value is not None:
            place[key] = value.item() if isinstance(value, np.generic) else value
        elif isinstance(place, list) or key in place:
            del place[key]


def load_scenario(path: str | Path) -> Scenario:
    """Read a scenario file; `ScenarioError` with one line for each problem.

    ``memory.file`` is taken relative to the file's folder.
    """
    path = Path(path)
    mapping, where = read_toml(path)
    memory = mapping.get("memory")
    if isinstance(memory, dict) and isinstance(memory.get("file"), str):
        memory["file"] = str(path.parent.absolute() / memory["file"])
    return Scenario.from_mapping(mapping, where)
