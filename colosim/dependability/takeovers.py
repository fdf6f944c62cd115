"""What clients see of a fault: simulated runs of the scenario itself, one fault in each.

The protocol core decides in these runs as in any other.  Silence that lasts until every wait of the
managers would be over means that nobody took over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colosim import parallel
from colosim.model.availability import Fault, Rates, Takeover
from colosim.model.process import Law
from colosim.model.results import RunRecord
from colosim.model.streams import Streams
from colosim.progress import Progress
from colosim.protocol import types as t
from colosim.protocol.arbiters import held_ns
from colosim.protocol.manager import LONGEST_BACK_OFF
from colosim.protocol.policies import POLICIES
from colosim.protocol.trace import Line
from colosim.scenario import Scenario, ScenarioError, Service
from colosim.units import TIME

#: faults strike within so long after the warm-up, or the whole run if that is shorter
_WINDOW_NS = 20_000_000_000

_TABLES: Mapping[Fault, Mapping[str, str]] = {
    Fault.PRIMARY_CRASH: {"target": "primary", "scope": "host", "kind": "crash"},
    Fault.PRIMARY_HANG: {"target": "primary", "scope": "host", "kind": "hang"},
    Fault.PRIMARY_VM: {"target": "primary", "scope": "vm", "kind": "crash"},
    Fault.SECONDARY_CRASH: {"target": "secondary", "scope": "host", "kind": "crash"},
    Fault.SECONDARY_HANG: {"target": "secondary", "scope": "host", "kind": "hang"},
    Fault.SECONDARY_VM: {"target": "secondary", "scope": "vm", "kind": "crash"},
    Fault.LINK_CUT: {"target": "link", "kind": "cut"},
    # the guest runs on, but its node sends no heartbeat in time
    Fault.FALSE_FAILOVER: {"target": "primary", "scope": "node", "kind": "hang"},
}


@dataclass(frozen=True, slots=True)
class Seen:
    """One run with one fault; ``fault`` is None in a run without.

    Times in ns: the strike, the silence that clients saw around or after it, and the part of it
    until a survivor asked for the vote.  recovered: the silence ended.  lost_responses: requests
    that nobody will ever answer.  throughput_per_s: responses from the warm-up to the strike.
    """

    policy: str
    fault: Fault | None
    run: int
    at_ns: int
    gap_ns: int
    detecting_ns: int
    recovered: bool
    lost_responses: int
    throughput_per_s: float
    flags: tuple[str, ...]
    violations: tuple[str, ...]


def rate_of(rates: Rates, fault: Fault) -> float:
    """How often it strikes a protected pair, 1/s, whatever else fails with it."""
    return {
        Fault.PRIMARY_CRASH: rates.host_crash_per_s,
        Fault.PRIMARY_HANG: rates.host_hang_per_s,
        Fault.PRIMARY_VM: rates.vm_crash_per_s,
        Fault.SECONDARY_CRASH: rates.host_crash_per_s,
        Fault.SECONDARY_HANG: rates.host_hang_per_s,
        Fault.SECONDARY_VM: rates.vm_crash_per_s,
        Fault.LINK_CUT: rates.link_cut_per_s,
        Fault.FALSE_FAILOVER: rates.false_failover_per_s,
    }[fault]


def simulate_faults(
    scenario: Scenario,
    policies: Sequence[str],
    rates: Rates,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[Seen]:
    """Runs of each policy without a fault and, if it protects, with each that has a rate.

    ``availability.fault_runs`` of each.  Run *i* strikes in the *i*-th equal part of the window, so
    that all phases of the policy's checkpoints are met; all faults and policies share its draws.
    With ``availability.takeover`` no fault is simulated.
    Ctrl-C ends it: then there are fewer runs, but each with all faults and policies.
    Raises ScenarioError if the workload has no clients, for nobody could see a gap.
    """
    if not isinstance(scenario.workload, Service):
        raise ScenarioError(
            f"{scenario.name}: workload.kind: a batch job has no clients who see an outage; "
            'give "service"'
        )
    measured = scenario.availability.takeover is not None
    tasks = [
        (scenario, policy, fault, run)
        for run in range(scenario.availability.fault_runs)
        for policy in policies
        for fault in (None, *Fault)
        if fault is None
        or (POLICIES[policy].protects() and not measured and rate_of(rates, fault) > 0)
    ]
    found: list[Seen] = []
    with suppress(KeyboardInterrupt):
        found.extend(parallel.run(see, tasks, jobs, progress, f"{scenario.name}: faults"))
    of_run = Counter(seen.run for seen in found)
    whole = Counter(run for _, _, _, run in tasks)
    kept = [seen for seen in found if of_run[seen.run] == whole[seen.run]]
    order = {fault: i for i, fault in enumerate((None, *Fault))}
    return sorted(kept, key=lambda s: (policies.index(s.policy), order[s.fault], s.run))


def see(scenario: Scenario, policy: str, fault: Fault | None, run: int) -> Seen:
    """One run; it is long enough for a takeover, or made again for as long as one can take."""
    seen, went_on = _see(scenario, policy, fault, run, _usual_ns(scenario))
    if fault is not None and not (seen.recovered and went_on):
        seen, _ = _see(scenario, policy, fault, run, _longest_ns(scenario))
    return seen


def _see(
    scenario: Scenario, policy: str, fault: Fault | None, run: int, patience_ns: int
) -> tuple[Seen, bool]:
    """What is seen until so long after the strike, and whether a survivor went on alone."""
    from backends.sim import run_replication

    at_ns, struck = _struck(scenario, policy, fault, run, patience_ns)
    votes: list[int] = []

    def watch(line: Line) -> None:
        if isinstance(line.body, t.AskVote) and line.now_ns >= at_ns:
            votes.append(line.now_ns)

    record = run_replication(struck, policy, scenario.seed, run, [watch] if fault else [])
    alone = [each["at_ns"] for each in record.events if each["what"] == "alone"]
    goes_on_ns = next((each for each in alone if each >= at_ns), None)
    start_ns, end_ns, recovered = _silence(record, at_ns, goes_on_ns)
    asked_ns = min(max(votes[0] if votes else start_ns, start_ns), end_ns)
    released = record.responses["released_ns"]
    before = int(((released >= scenario.warm_up_ns) & (released < at_ns)).sum())
    seen = Seen(
        policy,
        fault,
        run,
        at_ns,
        end_ns - start_ns,
        asked_ns - start_ns,
        recovered,
        record.counters["lost_responses"],
        before / ((at_ns - scenario.warm_up_ns) / 1e9),
        tuple(record.flags),
        tuple(record.violations),
    )
    return seen, goes_on_ns is not None


def _struck(
    scenario: Scenario, policy: str, fault: Fault | None, run: int, patience_ns: int
) -> tuple[int, Scenario]:
    """When the fault strikes in this run, and the scenario with it instead of its own faults."""
    manager = scenario.manager
    window_ns = min(scenario.duration_ns - scenario.warm_up_ns, _WINDOW_NS)
    u = Streams(scenario.seed, run).uniform("fault-time").at(0)
    at_ns = scenario.warm_up_ns + max(
        1, round((run + u) / scenario.availability.fault_runs * window_ns)
    )
    changes: dict[str, Any] = {
        "policy.name": policy,
        "manager.switchover_at": None,
        "manager.reprotect": None,
        "manager.failback_after": None,
        "fault": [],
    }
    if fault is None:
        at_ns = scenario.warm_up_ns + window_ns
        changes["duration"] = TIME.format(at_ns)
    else:
        table: dict[str, str] = {**_TABLES[fault], "at": TIME.format(at_ns)}
        if fault is Fault.FALSE_FAILOVER:
            late_ns = (
                manager.heartbeat_timeout_ns
                + manager.heartbeat_grace_ns
                + 2 * manager.heartbeat_interval_ns
                + _lease_ns(scenario)
            )
            table["duration"] = TIME.format(late_ns)
        changes["fault"] = [table]
        changes["duration"] = TIME.format(at_ns + patience_ns)
    return at_ns, scenario.replace(changes, scenario.name)


def _usual_ns(scenario: Scenario) -> int:
    """As long as a takeover takes where nothing else goes wrong, and a little."""
    manager, workload = scenario.manager, scenario.workload
    repeats_ns = workload.retransmit_ns if isinstance(workload, Service) else 0
    waits = (
        manager.heartbeat_timeout_ns + manager.heartbeat_interval_ns + manager.heartbeat_grace_ns,
        manager.vote_delay_ns,
        _lease_ns(scenario),
        scenario.costs().fence_ns,
        repeats_ns,
    )
    return round(1.2 * sum(waits))


def _longest_ns(scenario: Scenario) -> int:
    """Longer than a takeover can take: every other wait too, one after the other."""
    manager = scenario.manager
    tries = 1 + manager.fence_retries
    back_offs = sum(min(2**n, LONGEST_BACK_OFF) for n in range(manager.fence_retries))
    further = (
        manager.vote_timeout_ns
        + tries * manager.fence_timeout_ns
        + back_offs * manager.fence_backoff_ns
    )
    limits = scenario.limits
    return _usual_ns(scenario) + int(further) + limits.request_ns + limits.quiesce_ns


def _lease_ns(scenario: Scenario) -> int:
    """How long a lock service waits for the end of a lease."""
    manager = scenario.manager
    if manager.arbiter is not t.Arbiter.LEASE:
        return 0
    return held_ns(manager.lease_term_ns, manager.lease_drift_bound)


def _silence(record: RunRecord, at_ns: int, goes_on_ns: int | None) -> tuple[int, int, bool]:
    """(start, end, whether it ended) of the longest silence of clients after a fault.

    It ends after the fault and, if a survivor went on, began before that: when requests are rare,
    some later silence without any reason may be longer.
    """
    released: NDArray[np.int64] = np.sort(record.responses["released_ns"])
    released = released[(released >= 0) & (released <= record.duration_ns)]
    edges = np.concatenate(([0], released, [record.duration_ns]))
    starts, ends = edges[:-1], edges[1:]
    latest_ns = record.duration_ns if goes_on_ns is None else goes_on_ns
    lasts = np.where((ends > at_ns) & (starts <= latest_ns), ends - starts, -1)
    longest = int(lasts.argmax())
    return int(starts[longest]), int(ends[longest]), bool(ends[longest] < record.duration_ns)


# --------------------------------------------------------------------------------------------
# As the model takes them


def takeovers(
    seen: Sequence[Seen], policy: str, generator: np.random.Generator | None = None
) -> dict[Fault, Takeover]:
    """The takeovers of one policy; with a generator, of a bootstrap sample of its runs."""
    made = {}
    for fault in Fault:
        runs = [each for each in seen if each.policy == policy and each.fault is fault]
        if generator is not None and runs:
            runs = [runs[i] for i in generator.integers(len(runs), size=len(runs))]
        made[fault] = _takeover(runs)
    return made


def _takeover(runs: Sequence[Seen]) -> Takeover:
    """Of a fault that was not simulated, for it has no rate: one that takes no time."""
    ended = [each for each in runs if each.recovered]
    if not runs:
        return Takeover(Law(0.0), Law(0.0))
    # where nobody takes over, the silence until then is still that of the runs
    timed = ended or runs
    return Takeover(
        Law.seen([each.detecting_ns / 1e9 for each in timed]),
        Law.seen([(each.gap_ns - each.detecting_ns) / 1e9 for each in timed]),
        1 - len(ended) / len(runs),
        float(np.mean([each.lost_responses for each in ended])) if ended else 0.0,
    )


def throughput_per_s(seen: Sequence[Seen], policy: str) -> float:
    """Mean responses a second of its runs without a fault."""
    runs = [each.throughput_per_s for each in seen if (each.policy, each.fault) == (policy, None)]
    return float(np.mean(runs))


def flags(seen: Sequence[Seen]) -> Iterator[str]:
    """What a reader must know of the runs, each once."""
    yield from sorted({flag for each in seen for flag in each.flags})
    for policy, fault in dict.fromkeys((each.policy, each.fault) for each in seen):
        runs = [each for each in seen if (each.policy, each.fault) == (policy, fault)]
        failed = sum(not each.recovered for each in runs)
        if fault is not None and failed:
            yield f"{policy}: after {fault} nobody took over in {failed} of {len(runs)} runs"
