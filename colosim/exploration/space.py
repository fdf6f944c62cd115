"""What there is to explore: designs, faults, and points made of them.

A `Point` is one run: a design, a base scenario, a seed, settings and faults.  Its text is one line
that reads back as the same point, so whatever was found can be run again by that line alone::

    colo/upstream/stop-and-send/loaded seed=1: primary crash host @send#3; link cut @120ms for 40ms

Which faults there are is asked of the scenario's own rules, and which steps of the tables that run:
no list here has to be kept in step with them.
"""

from __future__ import annotations

import random
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import product
from typing import Any, get_args

from colosim.protocol.checkpoint import (
    Machine,
    Quirks,
    Transfer,
    Verb,
    primary_machine,
    secondary_machine,
)
from colosim.protocol.dialect import DIALECTS, Message
from colosim.protocol.policies import POLICIES
from colosim.protocol.types import Role
from colosim.scenario import Fault, Limits, Scenario, ScenarioError, load_scenario
from colosim.units import BANDWIDTH, TIME, UnitError

LINK = "link"
ARBITER = "arbiter"
SWITCHOVER = "manager.switchover_at"

#: a failure is noticed within some tens of milliseconds, and a run takes as many to simulate


def _paced(**values: Any) -> Mapping[str, Mapping[str, Any]]:
    """Tables of all policies, made of their parameters by name; what is not named is the default.

    A policy that comes later is explored at the same pace, if its parameters are called alike.
    """
    return {
        name: {
            key: values[key]
            for key in (field.name.removesuffix("_ns") for field in fields(policy.Params))
            if key in values
        }
        for name, policy in POLICIES.items()
    }


QUICK: Mapping[str, Any] = {
    "name": "quick",
    "duration": "220 ms",
    "workload": {
        "kind": "service",
        "load": "closed",
        "clients": 3,
        "think_time": "5 ms",
        "service_time": "500 us",
        "retransmit": "5 ms",
    },
    "memory": {"kind": "uniform", "working_set_pages": 100, "touches": "5000 /s"},
    "divergence": {"probability": 0.05},
    # each another, so that one can be told from another
    "limits": {
        name.removesuffix("_ns"): f"{number} ms"
        for number, name in enumerate(Limits.model_fields, 28)
    },
    "manager": {
        "heartbeat_interval": "8 ms",
        "heartbeat_timeout": "30 ms",
        "vote_timeout": "20 ms",
        "fence_timeout": "40 ms",
        "lease_term": "25 ms",
        "lease_renewal": "6 ms",
    },
    "policy": _paced(
        interval="12 ms",
        minimum_interval="9 ms",
        maximum_interval="14 ms",
        compare_timeout="25 ms",
        checkpoint_delay="25 ms",
        storm_checkpoints=2,
        storm_window="50 ms",
        calm_epochs=2,
    ),
}
#: a silent peer is noticed while a state is being loaded, and witnesses queue behind each other
LAGGING: Mapping[str, Any] = {
    **QUICK,
    "name": "lagging",
    "duration": "350 ms",
    "workload": {**QUICK["workload"], "clients": 5, "response": "16 kB"},
    "memory": {"kind": "uniform", "working_set_pages": 20, "touches": "5000 /s"},
    "execution": {"jitter": 0.5},
    "cost": {"load_fixed": "20 ms", "device_state": "10 kB", "fence": "2 ms"},
    "link": {"bandwidth": "100 Mbit/s", "delay": "500 us"},
    "limits": {name: f"{number} ms" for number, name in enumerate(QUICK["limits"], 42)},
    "manager": {
        **QUICK["manager"],
        "heartbeat_interval": "3 ms",
        "heartbeat_timeout": "14 ms",
    },
    "policy": _paced(
        interval="30 ms",
        minimum_interval="25 ms",
        maximum_interval="34 ms",
        compare_timeout="30 ms",
        checkpoint_delay="30 ms",
        storm_checkpoints=2,
        storm_window="120 ms",
        calm_epochs=2,
    ),
}
#: guests have disks, which are replicated and may fail
DISK: Mapping[str, Any] = {
    **QUICK,
    "name": "disk",
    "disk": {
        "reads_per_request": 1,
        "writes_per_request": 2,
        "write": "6 kB",
        "working_set": "1 MiB",
        "read_latency": "50 us",
        "write_latency": "100 us",
        "flush_latency": "300 us",
        "replicate": "50 us",
        "timeout": "20 ms",
        "empty_fixed": "200 us",
        "failover": "1 ms",
        "detach": "500 us",
        "commit_fixed": "1 ms",
    },
}
#: of small real guests; limits that a loaded machine without KVM keeps
LIVE: Mapping[str, Any] = {
    **QUICK,
    "name": "live",
    "duration": "14 s",
    "workload": {
        "kind": "service",
        "load": "closed",
        "clients": 3,
        "think_time": "20 ms",
        "service_time": "1 ms",
    },
    "memory": {
        "kind": "uniform",
        "working_set_pages": 2000,
        "touches": "5000 /s",
        "guest_memory": "131080 KiB",
    },
    "divergence": {},
    "guest": {"accelerator": "tcg"},
    "client": {"kind": "echo"},
    "limits": dict.fromkeys(QUICK["limits"], "5 s"),
    "manager": {"heartbeat_interval": "50 ms", "heartbeat_timeout": "2 s"},
    "policy": _paced(
        interval="150 ms",
        minimum_interval="100 ms",
        maximum_interval="200 ms",
        compare_timeout="1 s",
        checkpoint_delay="1 s",
    ),
}
#: those to simulate, and the one to run on real guests
BASES: Mapping[str, Mapping[str, Any]] = {"quick": QUICK, "lagging": LAGGING}
ALL_BASES: Mapping[str, Mapping[str, Any]] = {**BASES, "disk": DISK, "live": LIVE}


#: how a design that says so by a word arbitrates; others ask a witness and fence
ARBITRATIONS: Mapping[str, Mapping[str, Any]] = {
    "lease": {
        "manager.arbiter": "lease",
        "manager.fencing": False,
    },
    "messages": {"manager.arbiter": "messages"},
    "none": {"manager.arbiter": "none", "manager.fencing": False},
}


class PointError(ValueError):
    """A point that cannot be read; one line."""


# --------------------------------------------------------------------------------------------
# Designs


@dataclass(frozen=True, slots=True, order=True)
class Design:
    """What protects: all that chooses a table.  ``commit`` is never left to the dialect here."""

    policy: str
    dialect: str
    transfer: str
    commit: str
    quirks: str = "none"
    arbiter: str = "witness"

    def __str__(self) -> str:
        words = [self.policy, self.dialect, self.transfer, self.commit]
        words += [self.quirks] if self.quirks != "none" else []
        words += [f"by-{self.arbiter}"] if self.arbiter != "witness" else []
        return "/".join(words)

    @classmethod
    def parse(cls, text: str) -> Design:
        words = text.split("/")
        arbiter = "witness"
        if len(words) > 4 and words[-1].startswith("by-"):
            arbiter = words.pop().removeprefix("by-")
        if not 4 <= len(words) <= 5 or arbiter not in ("witness", *ARBITRATIONS):
            raise PointError(
                f"{text}: is no design; write POLICY/DIALECT/TRANSFER/COMMIT[/QUIRKS][/by-ARBITER]"
            )
        return replace(cls(*words), arbiter=arbiter)

    @property
    def changes(self) -> dict[str, Any]:
        """What it makes of a scenario."""
        return {
            "policy.name": self.policy,
            "dialect": self.dialect,
            "transfer": self.transfer,
            "commit": self.commit,
            "quirks": self.quirks,
            **ARBITRATIONS.get(self.arbiter, {}),
        }

    @property
    def protects(self) -> bool:
        return POLICIES[self.policy].protects()

    def machine(self, role: Role) -> Machine:
        """The table of one side."""
        dialect = DIALECTS[self.dialect]
        if role is Role.SECONDARY:
            return secondary_machine(dialect)
        transfer, quirks = Transfer(self.transfer), Quirks(self.quirks)
        return primary_machine(dialect, transfer, quirks, Message(self.commit))


@cache
def designs() -> tuple[Design, ...]:
    """Every design that a scenario can have; those that protect nothing are one a policy."""
    found: list[Design] = []
    for policy, *rest in product(
        POLICIES, DIALECTS, (t.value for t in Transfer), ("received", "loaded"), Quirks
    ):
        design = Design(policy, *(str(word) for word in rest))
        if not design.protects and any(other.policy == policy for other in found):
            continue
        try:
            Scenario.from_mapping(QUICK).replace(design.changes)
        except ScenarioError:
            continue
        found.append(design)
    return tuple(found)


@cache
def arbiter_designs() -> tuple[Design, ...]:
    """The plainest design of the two ways to let output wait, with each other arbiter."""
    return tuple(
        Design(policy, "upstream", "stop-and-send", "loaded", arbiter=arbiter)
        for policy in ("remus", "colo")
        for arbiter in ARBITRATIONS
    )


def all_designs() -> tuple[Design, ...]:
    """Every design that there is to explore."""
    return (*designs(), *arbiter_designs())


def plainer_designs(design: Design) -> Iterator[Design]:
    """Plainer designs of the same policy: one word is replaced by the first that there is."""
    same = [other for other in all_designs() if other.policy == design.policy]
    for name, word in _PLAIN.items():
        plainer = replace(design, **{name: word})
        if plainer in same and plainer != design:
            yield plainer


_PLAIN = {
    "arbiter": "witness",
    "quirks": "none",
    "transfer": "stop-and-send",
    "commit": "received",
}


# --------------------------------------------------------------------------------------------
# Faults

#: how slow a slow link is where nothing else is said: nothing gets across within its time limit
SLOW: Mapping[str, str] = {"bandwidth": "2 Mbit/s", "delay": "3 ms"}


def kinds(base: str = "quick") -> tuple[Mapping[str, str], ...]:
    """Every kind of fault that scenarios allow, without its time; of disks where there are any."""
    return _kinds("quick" if base_scenario(base).disk is None else "disk")


@cache
def _kinds(base: str) -> tuple[Mapping[str, str], ...]:
    words = {
        name: [
            word
            for form in (field.annotation, *get_args(field.annotation))
            for word in get_args(form)
            if isinstance(word, str)
        ]
        for name, field in Fault.model_fields.items()
        if name in ("target", "scope", "kind", "part", "sender")
    }
    words["target"] = [word for word in words["target"] if word != ARBITER]
    optional = {name: (None, *words[name]) for name in ("scope", "part", "sender")}
    scenario = base_scenario(base).replace({"policy.name": _protecting()[0]})
    found = []
    for values in product(*(optional.get(name, words[name]) for name in words)):
        kind = {name: value for name, value in zip(words, values, strict=True) if value}
        if kind.get("sender") == Role.PRIMARY:
            continue  # as if it were not given
        if kind["kind"] == "slow":
            kind |= SLOW
        try:
            scenario.replace({"fault": [{**kind, "at": "0 s"}]})
        except ScenarioError:
            continue
        found.append(kind)
    return tuple(found)


def arbiter_kinds(design: Design) -> tuple[Mapping[str, str], ...]:
    """Faults of the way to the arbiter, for designs whose arbiter is another than the witness."""
    if design.arbiter in ("witness", "none"):
        return ()
    cut = {"target": ARBITER, "kind": "cut"}
    return (cut, {**cut, "side": str(Role.PRIMARY)}, {**cut, "side": str(Role.SECONDARY)})


def _protecting() -> list[str]:
    return [name for name, policy in POLICIES.items() if policy.protects()]


#: what happens to a machine where nothing fails
_WELL = frozenset(
    (
        *(Verb.START, Verb.TRIGGER, Verb.READY, Verb.REQUEST, Verb.REPLY, Verb.SEND, Verb.STATE),
        *(Verb.RECEIVED, Verb.LOADED, Verb.DONE),
    )
)


@cache
def steps(design: Design, side: Role) -> Mapping[str, bool]:
    """The steps that a side enters where nothing fails; whether it does so again and again."""
    machine = design.machine(side)
    after: dict[Any, set[Any]] = {}
    for (state, verb), (_, target) in machine.rows.items():
        if verb in _WELL and target is not state:
            after.setdefault(state, set()).add(target)

    def reached(start: Any) -> set[Any]:
        found: set[Any] = set()
        todo = [start]
        while todo:
            for state in after.get(todo.pop(), ()):
                if state not in found:
                    found.add(state)
                    todo.append(state)
        return found

    entered = reached(machine.start)
    order = dict.fromkeys(target for _, target in machine.rows.values())
    return {state.value: state in reached(state) for state in order if state in entered}


@cache
def all_steps(design: Design, side: Role) -> tuple[str, ...]:
    """Every step of a side that can be entered."""
    machine = design.machine(side)
    entered = dict.fromkeys(target for _, target in machine.rows.values())
    return tuple(state.value for state in entered if state is not machine.start)


def by_steps(kind: Mapping[str, str]) -> Iterator[tuple[Role, Mapping[str, str]]]:
    """Whose steps a fault of that kind can wait for, and what it is then: a link's both sides'."""
    if kind["target"] == LINK:
        yield Role.PRIMARY, kind  # as if the side were not given
        yield Role.SECONDARY, {**kind, "side": str(Role.SECONDARY)}
    elif kind["target"] != ARBITER:
        yield Role(kind["target"]), kind
    elif kind.get("side") != Role.SECONDARY:
        yield Role.PRIMARY, kind


def fault(**given: Any) -> Fault:
    """A fault, values as in a file."""
    return Fault.model_validate(given)


def is_lasting(fault: Fault) -> bool:
    """It ends the pair, or the host, for good: somebody must go on alone."""
    if fault.target == ARBITER:
        return False
    if fault.kind == "corrupt":
        return fault.part == "framing"
    return fault.kind != "slow" and fault.duration_ns is None


# --------------------------------------------------------------------------------------------
# Points


@dataclass(frozen=True, slots=True)
class Point:
    """One run.  ``base``: name of a base scenario or path of a scenario file; ``settings``: other
    values than its own, by their dotted names, as in a file.
    """

    design: Design
    faults: tuple[Fault, ...] = ()
    seed: int = 1
    base: str = "quick"
    settings: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        words = [str(self.design), f"seed={self.seed}"]
        if self.base != "quick":
            words.append(f"base={self.base}")
        words += [f"{name}={_word(value)}" for name, value in self.settings]
        head = " ".join(shlex.quote(word) for word in words)
        return f"{head}: {'; '.join(map(fault_text, self.faults)) or 'no fault'}"

    @classmethod
    def parse(cls, text: str) -> Point:
        """The point that `str` wrote; `PointError` for anything else."""
        try:
            head, _, tail = text.strip().rpartition(": ")
            first, *words = shlex.split(head)
            named = [tuple(word.split("=", 1)) for word in words]
            point = cls(Design.parse(first))
            for name, value in named:
                if name == "seed":
                    point = replace(point, seed=int(value))
                elif name == "base":
                    point = replace(point, base=value)
                else:
                    point = replace(point, settings=(*point.settings, (name, _value(value))))
            if tail.strip() == "no fault":
                return point
            return replace(point, faults=tuple(map(parse_fault, tail.split(";"))))
        except PointError:
            raise
        except ValueError:
            example = "colo/upstream/stop-and-send/loaded seed=1: primary crash host @send#3"
            raise PointError(f"{text}: is no point; write it like {example}") from None

    def scenario(self) -> Scenario:
        """What is run; `ScenarioError` if there can be no such scenario."""
        return base_scenario(self.base).replace(
            {
                **self.design.changes,
                "seed": self.seed,
                **dict(self.settings),
                "fault": [
                    each.model_dump(mode="json", by_alias=True, exclude_defaults=True)
                    for each in self.faults
                ],
            },
            str(self),
        )


@cache
def base_scenario(name: str) -> Scenario:
    """A base by its name, or a scenario file; faults of its own are left out."""
    if name in ALL_BASES:
        return Scenario.from_mapping(ALL_BASES[name])
    return load_scenario(name).replace({"fault": None})


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace(" ", "")


def _value(text: str) -> Any:
    """A value as in a file: quantities and words need no quotes here."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def fault_text(fault: Fault) -> str:
    """``primary hang node @send#2 for 30ms``; a link's: ``link slow bandwidth=2Mbit/s @40ms``."""
    words = [fault.target, fault.kind, *filter(None, (fault.scope, fault.part))]
    if fault.side is not None:
        words.append(f"side={fault.side}")
    if fault.sender is not None:
        words.append(f"sender={fault.sender}")
    if fault.bandwidth_bps is not None:
        words.append(f"bandwidth={_word(BANDWIDTH.format(fault.bandwidth_bps))}")
    if fault.delay_ns is not None:
        words.append(f"delay={_word(TIME.format(fault.delay_ns))}")
    if fault.at_ns is not None:
        words.append(f"@{_word(TIME.format(fault.at_ns))}")
    else:
        words.append(f"@{fault.step}#{fault.occurrence}")
    if fault.duration_ns is not None:
        words.append(f"for {_word(TIME.format(fault.duration_ns))}")
    return " ".join(words)


def parse_fault(text: str) -> Fault:
    """The inverse of `fault_text`."""
    words = text.split()
    given: dict[str, Any] = dict(zip(("target", "kind"), words, strict=False))
    duration = iter(words[2:])
    for word in duration:
        if word.startswith("@"):
            given |= _when(word[1:])
        elif word == "for":
            given["duration"] = next(duration, "")
        elif "=" in word:
            name, _, value = word.partition("=")
            given[name] = value
        else:
            given["part" if given.get("kind") == "corrupt" else "scope"] = word
    try:
        return fault(**given)
    except ValueError:
        raise PointError(f"{text.strip()}: is no fault; write it like {_EXAMPLE}") from None


_EXAMPLE = "primary crash host @send#3, or link cut @120ms for 40ms"


def _when(text: str) -> dict[str, Any]:
    step, _, count = text.partition("#")
    try:
        TIME.parse(step)
    except UnitError:
        return {"step": step, "occurrence": int(count or 1)}
    return {"at": step}


# --------------------------------------------------------------------------------------------
# Exhaustive


def singles(
    chosen: Iterable[Design], base: str = "quick", seed: int = 1, occurrence: int = 3
) -> Iterator[Point]:
    """Every kind of fault at every step that is entered without a fault, for good.

    occurrence: which time the step is entered, of those that are entered again and again.
    First of each design there is a run without any fault, and some with a planned switchover.
    """
    for design in chosen:
        yield Point(design, (), seed, base)
        if design.protects:
            for at_ns in switchovers_ns(base):
                yield Point(design, (), seed, base, ((SWITCHOVER, _word(TIME.format(at_ns))),))
        if not design.protects:
            for kind in kinds(base):
                if kind["target"] == Role.PRIMARY:
                    yield Point(design, (fault(**kind, at="50 ms"),), seed, base)
            continue
        for kind in (*kinds(base), *arbiter_kinds(design)):
            for side, given in by_steps(kind):
                for step, again in steps(design, side).items():
                    struck = fault(**given, step=step, occurrence=occurrence if again else 1)
                    yield Point(design, (struck,), seed, base)


def switchovers_ns(base: str) -> list[int]:
    """When to ask for a switchover: spread over the steps of a checkpoint."""
    fifth_ns = base_scenario(base).duration_ns // 5
    return [fifth_ns + number * fifth_ns // 10 // 1000 * 1000 for number in range(6)]


#: (node, step, occurrence) in the order in which the steps were entered
Entered = Sequence[tuple[str, str, int]]


def followed(point: Point, entered: Entered) -> Iterator[Point]:
    """The point with every second fault, at each step that was still entered after its first.

    ``entered``: what the run of the point entered from the moment when its fault struck.  Of a step
    that was entered several times the first counts.
    """
    first: dict[tuple[str, str], int] = {}
    for node, step, occurrence in entered:
        first.setdefault((node, step), occurrence)
    for kind in (*kinds(point.base), *arbiter_kinds(point.design)):
        sides = {str(side): given for side, given in by_steps(kind)}
        for (node, step), occurrence in first.items():
            if node in sides:
                struck = fault(**sides[node], step=step, occurrence=occurrence)
                if struck != point.faults[0]:
                    yield replace(point, faults=(*point.faults, struck))


# --------------------------------------------------------------------------------------------
# Swarm


def _log_uniform(draw: random.Random, low: float, high: float) -> float:
    return float(low * (high / low) ** draw.random())


def _time(ns: float) -> str:
    return TIME.format(round(ns / 1000) * 1000)  # microseconds are readable


def _ms(low: float, high: float) -> Any:
    return lambda draw: _time(_log_uniform(draw, low, high) * 1e6)


def _some(*values: Any) -> Any:
    return lambda draw: draw.choice(values)


#: settings that a run of the swarm may have, and how each is drawn.  First those under which a
#: design keeps its promise of any single fault, then those under which it need not: a limit
#: that a healthy step can miss is a second failure, and so is a fence that fails.
PATIENT: Mapping[str, Any] = {
    "workload.clients": _some(1, 2, 5, 8),
    "workload.service_time": _ms(0.1, 2),
    "workload.retransmit": _ms(1, 10),
    "divergence.probability": _some(0.0, 0.01, 0.3),
    "divergence.hazard": _some("5 /s", "50 /s"),
    "execution.jitter": _some(0.0, 0.5),
    "memory.touches": _some("0 /s", "500 /s", "50000 /s"),
    "link.delay": _ms(0.01, 1),
    "cost.fence": _ms(0.1, 5),
    "cost.resume": _ms(0.05, 2),
    "cost.stop": _ms(0.05, 2),
    "manager.vote_delay": _ms(0.1, 5),
    "manager.heartbeat_interval": _ms(2, 10),
    **{f"limits.{name}": _ms(24, 60) for name in QUICK["limits"]},
    "policy.remus.interval": _ms(5, 30),
    "policy.colo.compare_timeout": _ms(8, 30),
    "policy.colo.checkpoint_delay": _ms(8, 30),
}
HARSH: Mapping[str, Any] = {
    **{f"limits.{name}": _ms(0.5, 24) for name in QUICK["limits"]},
    "manager.heartbeat_timeout": _ms(11, 60),
    "manager.vote_timeout": _ms(5.5, 40),
    "manager.fence_fails": _some(True),
    SWITCHOVER: _ms(10, 120),
    "link.bandwidth": _some("20 Mbit/s", "100 Mbit/s", "300 Mbit/s", "10 Gbit/s"),
    "workload.response": _some("64 B", "16 kB", "64 kB"),
}
#: limits as short as this are still no second failure in a quick scenario
LEAST_LIMIT_NS = 24_000_000


def is_harsh(name: str, value: Any) -> bool:
    """Whether a setting may make healthy parts fail, so that one fault more is one too many."""
    if name.startswith("limits."):
        return TIME.parse(value) < LEAST_LIMIT_NS
    return name in HARSH and name != SWITCHOVER


def is_handed_over(point: Point) -> bool:
    """Whether a switchover is planned, which is as much as a fault."""
    if SWITCHOVER in dict(point.settings):
        return True
    return base_scenario(point.base).manager.switchover_at_ns is not None


_CHANCE = {
    **{f"limits.{name}": 0.04 for name in QUICK["limits"]},
    "manager.fence_fails": 0.03,
    SWITCHOVER: 0.06,
}
_LATEST_MS = 110.0


def swarm_point(number: int, seed: int, chosen: Sequence[Design], base: str = "quick") -> Point:
    """Point ``number`` of a swarm; the same arguments give the same point.

    Each run has a random half of all kinds of faults to draw from, so that faults which hide others
    are absent from many runs (Groce et al., "Swarm Testing", ISSTA 2012).  One to three faults, at
    any time or any step of the tables, for good or for a while.
    """
    draw = random.Random(f"{seed}/{number}")
    design = draw.choice(chosen)
    while True:
        count = draw.choice((1, 1, 2, 2, 3))
        settings = dict(_settings(draw, design, PATIENT, 0.2))
        if draw.random() < 0.5:
            settings |= dict(_settings(draw, design, HARSH, 0.1))
        every = (*kinds(base), *arbiter_kinds(design))
        possible = [kind for kind in every if draw.random() < 0.5] or [draw.choice(every)]
        faults = tuple(_drawn(draw, design, draw.choice(possible)) for _ in range(count))
        point = Point(design, faults, draw.randrange(1, 2**31), base, tuple(settings.items()))
        try:
            point.scenario()
        except ScenarioError:  # what does not go together: draw again
            continue
        return point


def _settings(
    draw: random.Random, design: Design, table: Mapping[str, Any], chance: float
) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        others = name.startswith("policy.") and not name.startswith(f"policy.{design.policy}.")
        if not others and draw.random() < _CHANCE.get(name, chance):
            drawn = value(draw)
            yield name, drawn.replace(" ", "") if isinstance(drawn, str) else drawn


def live_point(number: int, seed: int, chosen: Sequence[Design], base: str = "live") -> Point:
    """Point ``number`` of those to run on real guests: one of the singles, and each fourth time
    with a second fault.
    """
    draw = random.Random(f"live {seed}/{number}")
    design = draw.choice([each for each in chosen if each.protects])
    one = draw.choice(_live_singles(design, base))
    faults = one.faults
    if number % 4 == 3:
        second = draw.choice(_live_singles(design, base)).faults[0]
        if second != faults[0]:
            faults = (*faults, second)
    return replace(one, faults=faults, seed=draw.randrange(1, 2**31))


@cache
def _live_singles(design: Design, base: str) -> Sequence[Point]:
    """Not where the pair is still being made, and not what real links refuse."""
    return [
        point
        for point in singles((design,), base)
        for one in point.faults
        if one.kind != "corrupt" and steps(design, Role(one.steps_of))[str(one.step)]
    ]


def _drawn(draw: random.Random, design: Design, kind: Mapping[str, str]) -> Fault:
    given: dict[str, Any] = dict(kind)
    if kind["kind"] == "slow":
        given["bandwidth"] = BANDWIDTH.format(round(_log_uniform(draw, 100, 1e6)) * 1000)
        given["delay"] = _time(_log_uniform(draw, 1e4, 2e7))
    if kind["kind"] not in ("crash", "corrupt") and draw.random() < 0.7:
        given["duration"] = _time(_log_uniform(draw, 1e5, 8e7))
    if not design.protects or "side" in kind or draw.random() < 0.4:
        given["at"] = _time(draw.uniform(0, _LATEST_MS) * 1e6)
    else:
        sides = [*by_steps(kind)]
        side, known = sides[0] if len(sides) == 1 else draw.choice(sides)
        given = {**known, **given}
        given["step"] = draw.choice(all_steps(design, side))
        given["occurrence"] = draw.choice((1, 1, 2, 3, 4))
    return fault(**given)
