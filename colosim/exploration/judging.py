"""What must hold of a run: promises with a scope, as data.

A promise is made by a design within a scope.  Of a run outside it, what the promise would have said
is a result, not a defect.  The same promises judge simulated and live runs: they look at the record
and at the trace lines only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum

from backends.nodes import node_configs
from colosim.exploration.loops import Loops
from colosim.exploration.space import ARBITER, Point, is_handed_over, is_harsh, is_lasting
from colosim.model.results import Column, RunRecord
from colosim.protocol import invariants
from colosim.protocol import types as t
from colosim.protocol.dialect import DIALECTS
from colosim.protocol.invariants import ALL, Scope
from colosim.protocol.trace import Line
from colosim.scenario import BatchJob, Scenario


def quiet_ns(scenario: Scenario) -> int:
    """How long a healthy pair may leave a request unanswered: a service that answers nobody for so
    long at the end of a run has ended.

    Output waits at most for the next checkpoint, and that for its slowest step; over a slow link
    for the limit of each.
    """
    policy = scenario.policy.name
    params = asdict(scenario.policy_params(policy))
    period_ns = max((v for name, v in params.items() if name.endswith("_ns")), default=0)
    limits = scenario.limits
    steps_ns = limits.loaded_ns
    if any(fault.kind == "slow" for fault in scenario.fault):
        steps_ns = sum(value for _, value in limits)
    return int(period_ns + steps_ns)


class Claim(IntEnum):
    """What a design promises of a run; each includes those before it."""

    NOTHING = 0  # there is no protection
    SAFE = 1  # never two sides; nothing leaves that must not; checkpoints in order
    SURVIVES = 2  # moreover one side serves to the end, and nothing is lost
    UNDISTURBED = 3  # moreover nothing happens, for nothing failed or was asked for


def claim_of(point: Point) -> Claim:
    """What is promised: two faults, a dialect without failover or settings that make healthy parts
    fail take the promise to survive away.  So does having no arbiter, and under a lease whatever
    keeps the primary from its lock service.  A planned switchover counts as a fault.
    """
    if not point.design.protects:
        return Claim.NOTHING
    survives = DIALECTS[point.design.dialect].failover and not any(
        is_harsh(name, value) for name, value in point.settings
    )
    happens = len(point.faults) + is_handed_over(point)
    if happens and point.design.arbiter == "none":
        survives = False
    if point.design.arbiter == "lease":
        survives = survives and all(
            fault.target != ARBITER or fault.side == "secondary" for fault in point.faults
        )
    if not survives or happens > 1:
        return Claim.SAFE
    return Claim.SURVIVES if happens else Claim.UNDISTURBED


# --------------------------------------------------------------------------------------------
# What is seen of a run


class EndlessTalk(Exception):
    """A core that never comes to rest."""


class Watcher:
    """Observes a run's trace lines; keeps what promises ask for, whatever the world.

    on_time: time is simulated, so nobody is late.
    """

    #: a healthy run of a quick scenario has some thousand
    limit = 200_000

    def __init__(self, point: Point, scenario: Scenario, on_time: bool = True) -> None:
        self.loops = Loops(_limits_ns(point, scenario), on_time)
        self.lines = 0
        self.now_ns = 0
        self.promoted: list[str] = []
        self.alone: list[str] = []
        self.exits: Counter[str] = Counter()
        self.reports: list[str] = []
        self.handed_over_ns = -1  # when a protected side was told to let the other one go on
        self.stepped_down: list[str] = []
        self._protected: set[str] = set()
        self._seen: dict[type, Callable[[Line], None]] = {
            t.Promote: lambda line: self.promoted.append(line.node),
            t.Alone: lambda line: self.alone.append(line.node),
            t.Exit: lambda line: self.exits.update((line.node,)),
            t.Report: lambda line: self.reports.append(line.body.text),
            t.Protected: lambda line: self._protected.add(line.node),
            t.HandOver: self._hand_over,
            t.SteppedDown: lambda line: self.stepped_down.append(line.node),
        }

    def see(self, line: Line) -> None:
        self.lines += 1
        self.now_ns = line.now_ns
        if self.lines > self.limit:
            raise EndlessTalk(f"more than {self.limit} trace lines")
        self.loops.see(line)
        seen = self._seen.get(type(line.body))
        if seen is not None:
            seen(line)

    def _hand_over(self, line: Line) -> None:
        if line.node in self._protected:
            self.handed_over_ns = line.now_ns


def _limits_ns(point: Point, scenario: Scenario) -> dict[tuple[str, str], int]:
    """(node, step) -> its time limit."""
    if not point.design.protects:
        return {}
    return {
        (side.value, state.value): getattr(scenario.limits, name)
        for side in t.Role
        for state, name in point.design.machine(side).limits.items()
    }


@dataclass(frozen=True, slots=True)
class Run:
    """What promises look at.  ``record`` is None, and ``failed`` says why, if the core raised."""

    point: Point
    scenario: Scenario
    watcher: Watcher
    record: RunRecord | None
    failed: str = ""
    differences: tuple[str, ...] = ()  # of a replay, where there was one
    longer: RunRecord | None = None  # the same run continued, where that was asked for

    @property
    def struck(self) -> int:
        """How many of its faults happened."""
        return 0 if self.record is None else sum(e["what"] == "fault" for e in self.record.events)

    @property
    def quiet_from_ns(self) -> int:
        """Whatever a client asked before should have been answered at the end."""
        assert self.record is not None
        return self.record.duration_ns - quiet_ns(self.scenario)

    @property
    def is_late(self) -> bool:
        """Somebody waits longer than a pair needs: for what will never come, or for a guest that
        hardly runs?  The same run continued can tell.
        """
        return self.record is not None and not (self.serves() and not self.unanswered())

    def serves(self) -> bool:
        """Whether clients got answers to the end, or would have a little later."""
        assert self.record is not None
        released = (self.longer or self.record).responses["released_ns"]
        return bool((released > self.quiet_from_ns).any())

    def unanswered(self) -> int:
        """Requests without an answer whose time for it was over, whatever the world says.

        Where checkpoints leave the guest hardly any time, its requests wait for that.  This is a
        cost and no loss: what the guest had not made yet may come later.  What it had made may not.
        """
        assert self.record is not None
        columns, from_ns = self.record.responses, self.quiet_from_ns
        late = (columns["released_ns"] < 0) & (columns["arrival_ns"] < from_ns)
        if self.longer is None or not late.any():
            return int(late.sum())
        held = late & (columns["served_ns"] >= 0) & (columns["served_ns"] < from_ns)
        later = self.longer.responses
        answered = {*_requests(later, later["released_ns"] >= 0)}
        return len({*_requests(columns, held)} | ({*_requests(columns, late)} - answered))

    def lost(self) -> int:
        """Requests that nobody will ever answer, as the world counts."""
        assert self.record is not None
        return self.record.counters.get("lost_responses", 0)


def _requests(columns: Mapping[str, Column], which: Column) -> Iterator[tuple[int, int]]:
    """(client, request) of those rows."""
    return zip(columns["client"][which].tolist(), columns["request"][which].tolist(), strict=True)


# --------------------------------------------------------------------------------------------
# Promises


@dataclass(frozen=True, slots=True)
class Promise:
    """broken(run): what is wrong, or nothing.  ``within``: the least claim that includes it."""

    name: str
    within: Claim
    broken: Callable[[Run], str]


def promises_one_side(run: Run) -> bool:
    """Whether the design says that there are never two active sides."""
    scenario = run.scenario
    [config, *_] = node_configs(scenario, run.point.design.policy)
    slowest = min(scenario.clocks.primary_rate, scenario.clocks.secondary_rate)
    return invariants.promises_one_side(config.manager, scenario.manager.lease_drift_bound, slowest)


_SINGLE_FAULT = tuple(i.__name__ for i in ALL if i.scope is Scope.SINGLE_FAULT)


#: what two active sides do: they may say different things, and neither's disk has the other's
_OF_TWO_SIDES = (invariants.OneActiveSide.__name__, invariants.NoLoss.__name__)
_OF_TWO_DISKS = "Disk: "


def _is_split(run: Run) -> bool:
    """Both sides were active, whatever is promised."""
    assert run.record is not None
    spoke = any(v.startswith(invariants.OneActiveSide.__name__) for v in run.record.violations)
    return spoke or len(set(run.watcher.promoted)) > 1


def _of_invariants(single: bool) -> Callable[[Run], str]:
    def broken(run: Run) -> str:
        assert run.record is not None
        found = [v for v in run.record.violations if v.startswith(_SINGLE_FAULT) == single]
        if found and not promises_one_side(run):
            excused = (*_OF_TWO_SIDES, *([_OF_TWO_DISKS] if _is_split(run) else []))
            found = [v for v in found if not v.startswith(excused)]
        return found[0] if found else ""

    return broken


def _two_alone(run: Run) -> str:
    alone = run.watcher.alone
    if len(set(alone)) < 2 or not promises_one_side(run):
        return ""
    return f"{' and '.join(alone)} go on alone"


def _leaves_the_loop_well(run: Run) -> str:
    return run.watcher.loops.wrong


def _replays(run: Run) -> str:
    return run.differences[0] if run.differences else ""


def _serves(run: Run) -> str:
    return "" if run.serves() else "nobody serves at the end"


def _loses_nothing(run: Run) -> str:
    assert run.record is not None
    counters = run.record.counters
    wrong = {
        "lost": run.lost(),
        "overdue": run.unanswered(),
        "wrong": counters.get("wrong_responses", 0),  # live clients look at what they get
        "doubled": counters.get("doubled_responses", 0),
    }
    return ", ".join(f"{count} responses {what}" for what, count in wrong.items() if count)


def _corrupted(run: Run) -> bool:
    """A corrupt link needs a byte to strike at."""
    assert run.record is not None
    return any(event["what"] == "corrupted" for event in run.record.events)


def _one_goes_on(run: Run) -> str:
    """After a fault that lasts one side goes on alone, and not the one that failed."""
    if not run.struck:
        return ""
    [fault] = run.point.faults
    if not is_lasting(fault) or (fault.kind == "corrupt" and not _corrupted(run)):
        return ""
    alone, promoted = run.watcher.alone, run.watcher.promoted
    if len(alone) != 1 or promoted != alone:
        return f"alone: {alone or 'nobody'}; promoted: {promoted or 'nobody'}"
    return f"{alone[0]}, which failed, goes on alone" if alone[0] == fault.target else ""


def _is_handed_over(run: Run) -> str:
    """After a planned switchover the primary steps down, and the other side goes on alone."""
    watcher = run.watcher
    if run.point.faults or not 0 <= watcher.handed_over_ns < run.quiet_from_ns:
        return ""
    if watcher.stepped_down != [t.Role.PRIMARY]:
        return "the primary did not step down: the other side had to miss its heartbeats"
    if watcher.alone == watcher.promoted == [t.Role.SECONDARY]:
        return ""
    return f"alone: {watcher.alone or 'nobody'}; promoted: {watcher.promoted or 'nobody'}"


def _undisturbed(run: Run) -> str:
    watcher = run.watcher
    said = [*watcher.exits, *watcher.promoted, *watcher.alone, *watcher.reports]
    if said:
        return f"without a fault: {said[0]}"
    # a pair in step makes a checkpoint at its policy's pace
    assert run.record is not None
    last_ns = max(run.record.checkpoints["completed_ns"], default=-1)
    if last_ns < run.quiet_from_ns - quiet_ns(run.scenario):
        return f"no checkpoint was complete after {last_ns / 1e6:.1f} ms"
    return ""


PROMISES: tuple[Promise, ...] = (
    Promise("invariants", Claim.SAFE, _of_invariants(single=False)),
    Promise("one side alone", Claim.SAFE, _two_alone),
    Promise("the loop is left well", Claim.SAFE, _leaves_the_loop_well),
    Promise("replays", Claim.NOTHING, _replays),
    Promise("nothing contradicted", Claim.SURVIVES, _of_invariants(single=True)),
    Promise("serves to the end", Claim.SURVIVES, _serves),
    Promise("nothing lost", Claim.SURVIVES, _loses_nothing),
    Promise("one goes on", Claim.SURVIVES, _one_goes_on),
    Promise("handed over", Claim.SURVIVES, _is_handed_over),
    Promise("undisturbed", Claim.UNDISTURBED, _undisturbed),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a point.

    outcome: a word of `OUTCOMES`.  violations: (promise, what is wrong), of promises in scope.
    struck: how many of its faults happened.
    """

    point: Point
    outcome: str
    struck: int
    violations: tuple[tuple[str, str], ...] = field(default=())


OUTCOMES = (
    "violated",  # a promise in scope is broken
    "not run",  # live: not possible this time
    "not struck",  # no fault found its moment
    "unharmed",  # the pair, or what there is, serves on
    "primary went on",
    "secondary went on",
    "lost",  # somebody serves, but answers are lost
    "down",  # nobody serves
)


def judge(run: Run) -> Verdict:
    """The verdict on a run."""
    if run.record is None:
        kind = "the core fails"
        return Verdict(run.point, "violated", len(run.point.faults), ((kind, run.failed),))
    claim = claim_of(run.point)
    found = [
        (promise.name, wrong)
        for promise in PROMISES
        if promise.within <= claim and (wrong := promise.broken(run))
    ]
    return Verdict(run.point, _outcome(run, bool(found)), run.struck, tuple(found))


def _outcome(run: Run, is_violated: bool) -> str:
    if is_violated:
        return "violated"
    if run.point.faults and not run.struck:
        return "not struck"
    if not isinstance(run.scenario.workload, BatchJob):
        if not run.serves():
            return "down"
        if run.lost():
            return "lost"
    alone = run.watcher.alone
    return f"{alone[-1].partition('.')[0]} went on" if alone else "unharmed"
