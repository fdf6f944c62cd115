"""`availability`: a year of each policy, from rates, repairs and simulated takeovers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from colosim import api, parallel, store
from colosim.dependability import takeovers as faults
from colosim.model import availability as states
from colosim.model import markov, rare
from colosim.model.errors import ModelError
from colosim.model.process import YEAR_S, Law, Process
from colosim.progress import Progress, reporter
from colosim.protocol.policies import POLICIES
from colosim.protocol.types import Arbiter
from colosim.scenario import MeasuredMemory, Scenario, ScenarioError, TimeLaw
from colosim.units import without_unit

if TYPE_CHECKING:
    from colosim.analysis.plots import Chart

CYCLES = 50_000
#: bootstrap samples of the simulated takeovers, for the interval of the exact figures
_RESAMPLED = 200
#: a pre-copy ends when the rest takes no longer (QEMU's default downtime-limit), or after so many
_LAST_ROUND_S, _ROUNDS = 0.3, 30

MARKOV, MONTE_CARLO = "markov", "monte carlo"
#: rates of `[availability]`, as `Rates` calls them
_RATES: Mapping[str, str] = {
    "host_crash_per_s": "host_crashes_per_s",
    "host_hang_per_s": "host_hangs_per_s",
    "vm_crash_per_s": "vm_crashes_per_s",
    "link_cut_per_s": "link_cuts_per_s",
    "false_failover_per_s": "false_failovers_per_s",
    "guest_crash_per_s": "guest_crashes_per_s",
}
#: what a VM without a copy does not notice
_OF_A_PAIR = ("link_cut_per_s", "false_failover_per_s")

_FEWEST_CYCLES = 300  # effective ones, below which rare losses are seen too seldom to tell


@dataclass(frozen=True, eq=False, repr=False)
class AvailabilityResult:
    """What a year comes to under each policy.

    summary: policy, method, metric, unit, value, low, high.  Method ``markov`` is exact if all
    times are exponential; its interval is what the simulated takeovers leave open (bootstrap).
    ``monte carlo`` has the scenario's distributions; its interval is of the simulated cycles.
    causes: policy, cause, outages_per_year, outage_s (mean), downtime_s_per_year, share,
    losses_per_year.  states: policy, state, kind, serves, share, s_per_year.  Both by ``markov``.
    takeovers: one row per simulated run: policy, fault, run, at_s, gap_ms, detecting_ms,
    taking_over_ms, recovered, lost_responses.
    cycles: policy, cycles, effective_cycles, mean_weight (expectation 1) of ``monte carlo``.
    interrupted: Ctrl-C came before all runs of each fault, or before all policies.
    """

    scenario: Scenario
    policies: Sequence[str]
    seen: Sequence[faults.Seen]
    summary: pd.DataFrame
    causes: pd.DataFrame
    states: pd.DataFrame
    cycles: pd.DataFrame
    inputs: Mapping[str, str] = field(default_factory=dict)
    interrupted: bool = False

    @cached_property
    def takeovers(self) -> pd.DataFrame:
        """One row for each simulated run with a fault."""
        rows = [
            (
                *(each.policy, str(each.fault), each.run, each.at_ns / 1e9, each.gap_ns / 1e6),
                *(each.detecting_ns / 1e6, (each.gap_ns - each.detecting_ns) / 1e6),
                *(each.recovered, each.lost_responses),
            )
            for each in self.seen
            if each.fault is not None
        ]
        names = "policy fault run at_s gap_ms detecting_ms taking_over_ms recovered lost_responses"
        return pd.DataFrame(rows, columns=names.split())

    @property
    def title(self) -> str:
        table, cycles = self.scenario.availability, int(self.cycles["cycles"].max())
        made = self.fault_runs
        count = f"{made}" if made == table.fault_runs else f"{made} of {table.fault_runs}"
        runs = f"{count} runs of each fault" if table.takeover is None else "no faults run"
        how = f"{runs}, {cycles:,} cycles; seed {self.scenario.seed}"
        return f"{self.scenario.name}: a year of {', '.join(self.policies)}; {how}"

    @property
    def fault_runs(self) -> int:
        """Simulated runs of each fault."""
        return len({each.run for each in self.seen})

    @property
    def flags(self) -> list[str]:
        """What a reader must know."""
        few = self.cycles[self.cycles["effective_cycles"] < _FEWEST_CYCLES]
        return [
            *faults.flags(self.seen),
            *(
                f"{row.policy}: monte carlo of {row.effective_cycles:,.0f} effective cycles; "
                "its intervals may be too narrow; give more --cycles"
                for row in few.itertuples()
            ),
        ]

    @property
    def violations(self) -> list[str]:
        """Broken invariants of the simulated runs."""
        return [
            f"{each.policy}, {each.fault}, run {each.run}: {violation}"
            for each in self.seen
            for violation in each.violations
        ]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over parameters, policies, number of cycles, and what the simulated runs saw."""
        parameters = self.scenario.to_mapping()
        if file := parameters["memory"].get("file"):
            parameters["memory"]["file"] = Path(file).name
        runs = [
            (each.policy, str(each.fault), each.run, each.at_ns, each.gap_ns, each.detecting_ns)
            for each in self.seen
        ]
        return store.fingerprint(parameters, [*self.policies], self.cycles["cycles"].tolist(), runs)

    def value(self, policy: str, metric: str, method: str = MARKOV) -> float:
        """One figure of the summary; KeyError if there is none."""
        table = self.summary.set_index(["policy", "method", "metric"])["value"]
        return float(table.loc[policy, method, metric])

    def plot(self) -> Chart:
        """Downtime a year by policy, with intervals, and by what began the outages; log axes."""
        from colosim.analysis.plots import downtime

        return downtime(self.summary, self.causes)

    def readable(self) -> list[pd.DataFrame]:
        """The summary as text for people, and what begins the outages."""
        from colosim.analysis.years import readable_causes, readable_summary

        return [readable_summary(self.summary), readable_causes(self.causes)]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.title}>"

    def _repr_html_(self) -> str:
        notes = [*(f"VIOLATION: {each}" for each in self.violations), *self.flags]
        head = "".join(f"<p><b>{escape(note)}</b></p>" for note in notes)
        body = "".join(table.to_html() for table in self.readable())
        return f"<p>{escape(self.title)}</p>{head}{body}<p><code>{self.fingerprint}</code></p>"

    def _write(self, directory: Path) -> None:
        self.plot().save(directory / "downtime")
        manifest = {
            "kind": "availability",
            "policies": [*self.policies],
            "seed": self.scenario.seed,
            "interrupted": self.interrupted,
            "fault_runs": self.fault_runs,
            "fingerprint": self.fingerprint,
            "flags": self.flags,
            "violations": self.violations,
            "scenario": self.scenario.to_mapping(),
            "sha256": dict(self.inputs),
        }
        names = ("summary", "causes", "states", "takeovers", "cycles")
        store.write(directory, manifest, {f"{name}.csv": getattr(self, name) for name in names})


def availability(
    scenario: api.AnyScenario,
    policies: Sequence[str] = ("none", "remus", "colo"),
    seed: int | None = None,
    cycles: int = CYCLES,
    out: str | Path | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> AvailabilityResult:
    """Yearly downtime, outages and lost work of a scenario under several policies.

    First the faults of ``[availability]`` are simulated with the same core as any run, for how
    long clients see nothing; then years are made of rates, repairs and these times: exactly, as
    a Markov chain, and by ``cycles`` simulated cycles with the scenario's distributions.

    policies: each is its own; seed, out, jobs, progress: as in `simulate`.
    Raises ScenarioError, ModelError or StoreError, each with one line for each problem; and like
    `simulate` `api.Interrupted`, with what follows from the runs that were finished, and
    `store.Unwritten`.
    """
    loaded = api.scenario_of(scenario, seed)
    names = api.policies_of(policies, loaded)
    rates = rates_of(loaded)
    for name in names:
        _check_fails(loaded, name, rates)
    if cycles < 10:
        raise ModelError(f"cycles is {cycles}; it must be at least 10")
    parallel.check_jobs(jobs)
    result: AvailabilityResult | None = None
    try:
        with nullcontext() if out is None else store.new_directory(out) as directory:
            result = _long_run(loaded, names, rates, cycles, jobs, progress)
            if directory:
                result._write(directory)
    except (store.StoreError, KeyboardInterrupt) as ended:
        if result is None:
            raise
        raise api.unwritten(ended, "all was computed", result) from None
    if result.interrupted:
        runs = f"{result.fault_runs} of {loaded.availability.fault_runs} runs of each fault"
        of = f"{len(result.policies)} of {len(names)} policies"
        where = "" if out is None else f" in {out}"
        raise api.Interrupted(f"kept {runs}, {of}{where}", result)
    return result


def _long_run(
    scenario: Scenario,
    policies: Sequence[str],
    rates: states.Rates,
    cycles: int,
    jobs: int | None,
    progress: Progress | None,
) -> AvailabilityResult:
    """Takeovers, then years of them; if Ctrl-C came, of the runs and policies that were ready."""
    inputs = store.inputs([scenario])
    seen = faults.simulate_faults(scenario, policies, rates, jobs, progress)
    if not seen:
        raise api.Interrupted("no run of each fault was finished, nothing is kept")
    tables: list[Mapping[str, pd.DataFrame]] = []
    quiet = progress and (lambda done, total: None)  # who is told of runs is not told of years
    with (
        suppress(KeyboardInterrupt),
        reporter(quiet, f"{scenario.name}: years", len(policies)) as report,
    ):
        for policy in policies:
            tables.append(_Year(scenario, policy, seen, cycles).tables())
            report(len(tables), len(policies))
    if not tables:
        raise api.Interrupted("no policy was finished, nothing is kept")
    ready = policies[: len(tables)]
    runs = len({each.run for each in seen})
    is_whole = len(ready) == len(policies) and runs == scenario.availability.fault_runs
    whole = {
        name: pd.concat([each[name] for each in tables], ignore_index=True) for name in tables[0]
    }
    return AvailabilityResult(
        scenario,
        ready,
        [each for each in seen if each.policy in ready],
        whole["summary"],
        whole["causes"],
        whole["states"],
        whole["cycles"],
        inputs,
        interrupted=not is_whole,
    )


# --------------------------------------------------------------------------------------------
# From the scenario to the model


def rates_of(scenario: Scenario) -> states.Rates:
    """The rates of ``[availability]``."""
    table = scenario.availability
    given = {name: getattr(table, key) for name, key in _RATES.items()}
    return states.Rates(**given, common_cause=table.common_cause)


def _check_fails(scenario: Scenario, policy: str, rates: states.Rates) -> None:
    """ScenarioError if nothing can happen under this policy."""
    causes = [each for each in _RATES if each not in _OF_A_PAIR or POLICIES[policy].protects()]
    if not any(getattr(rates, each) for each in causes):
        keys = ", ".join(without_unit(_RATES[each]) for each in causes)
        why = f"nothing ever fails under policy {policy}; give one of {keys} above 0"
        raise ScenarioError(f"{scenario.name}: availability: {why}")


def resync_of(scenario: Scenario, throughput_per_s: float) -> Law:
    """How long a survivor is without a copy: the given time, or a pre-copy of its memory.

    All pages cross the link first, then round by round those dirtied meanwhile, while the guest
    runs under its load, until the rest takes no longer than QEMU lets a migration stop a guest.
    Before it comes ``manager.reprotect_delay``.
    """
    table = scenario.availability
    if table.resync is not None:
        return _law(table.resync)
    if isinstance(scenario.memory, MeasuredMemory):  # a round is longer than was measured
        scenario = scenario.replace({"memory.outside": "extrapolate"}, scenario.name)
    memory, costs = scenario.memory_model(), scenario.costs()
    guest_pages = scenario.memory.guest_memory_bytes // costs.page_bytes
    pages, total_s = float(guest_pages), scenario.manager.reprotect_delay_ns / 1e9
    for _ in range(_ROUNDS):
        round_s = costs.state_bytes(round(pages)) * 8 / scenario.link.bandwidth_bps
        total_s += round_s
        dirtied = min(memory.mean(round_s * 1e9, throughput_per_s * round_s), guest_pages)
        if round_s <= _LAST_ROUND_S or dirtied >= pages:
            break
        pages = dirtied
    return Law(total_s, "deterministic")


def plant_of(scenario: Scenario, throughput_per_s: float) -> states.Plant:
    """Rates and repairs as the model takes them."""
    table, manager = scenario.availability, scenario.manager
    silent = manager.arbiter is Arbiter.LEASE  # who wakes up has no lease, so it says nothing
    given = {
        each.name: _law(getattr(table, each.name))
        for each in fields(states.Times)
        if each.name != "resync"
    }
    return states.Plant(
        rates_of(scenario),
        states.Times(**given, resync=resync_of(scenario, throughput_per_s)),
        manager.fencing or silent,
        table.fencing_fails if manager.fencing else 0.0,
        table.standby,
        table.failure_exponent,
    )


def _law(table: TimeLaw) -> Law:
    return Law(table.mean_ns / 1e9, table.law, table.spread)


# --------------------------------------------------------------------------------------------
# One policy


class _Year:
    """One policy's long run, as tables."""

    def __init__(
        self, scenario: Scenario, policy: str, seen: Sequence[faults.Seen], cycles: int
    ) -> None:
        self._policy, self._seen = policy, seen
        given = scenario.availability.takeover
        self._measured = None if given is None else states.Takeover(Law(0.0), _law(given))
        self._throughput = faults.throughput_per_s(seen, policy)
        self._plant = plant_of(scenario, self._throughput)
        self._metrics = _metrics(scenario.availability.saved_every_ns / 1e9, self._throughput)
        # of the seed alone: policies with the same states meet the same draws
        self._generator = np.random.default_rng(scenario.seed)
        process = self._process()
        self._exact = markov.solve(process)
        self._process_states = process.states
        factors = {metric: factors for metric, (_, factors) in self._metrics.items()}
        self._simulated = rare.simulate(process, cycles, scenario.seed, wanted=factors)

    def _process(self, generator: np.random.Generator | None = None) -> Process:
        if not POLICIES[self._policy].protects():
            return states.alone(self._plant)
        if self._measured is not None:
            made = dict.fromkeys(states.Fault, self._measured)
        else:
            made = faults.takeovers(self._seen, self._policy, generator)
        return states.pair(self._plant, made)

    def tables(self) -> dict[str, pd.DataFrame]:
        """As `AvailabilityResult` has them."""
        names = ("summary", "causes", "states", "cycles")
        return {name: getattr(self, name)() for name in names}

    def summary(self) -> pd.DataFrame:
        exact = self._figures(self._exact)
        low, high = self._bootstrap(exact)
        rows = [
            (MARKOV, metric, unit, exact[metric], low[metric], high[metric])
            for metric, (unit, _) in self._metrics.items()
        ]
        for metric, (unit, _) in self._metrics.items():
            found = self._simulated.measures[metric]
            low_value = max(found.low, 0.0)  # none of them can be less
            rows.append((MONTE_CARLO, metric, unit, found.value, low_value, found.high))
        names = ["method", "metric", "unit", "value", "low", "high"]
        return self._table(rows, names)

    def _figures(self, exact: markov.Exact) -> dict[str, float]:
        return {
            metric: sum(factor * exact.measures[name] for name, factor in factors.items())
            for metric, (_, factors) in self._metrics.items()
        }

    def _bootstrap(
        self, exact: Mapping[str, float]
    ) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """2.5 % and 97.5 % of the exact figures over bootstrap samples of the simulated runs."""
        if self._measured is not None or not POLICIES[self._policy].protects():
            return exact, exact
        samples = [
            self._figures(markov.solve(self._process(self._generator))) for _ in range(_RESAMPLED)
        ]
        table = np.array([[*each.values()] for each in samples])
        low, high = np.quantile(table, (0.025, 0.975), axis=0)
        return dict(zip(exact, low, strict=True)), dict(zip(exact, high, strict=True))

    def causes(self) -> pd.DataFrame:
        down = self._exact.measures["down"]
        rows = [
            (
                *(each.cause, each.outages_per_s * YEAR_S, each.outage_s, each.down * YEAR_S),
                *(each.down / down if down else 0.0, each.losses_per_s * YEAR_S),
            )
            for each in self._exact.causes
        ]
        names = "cause outages_per_year outage_s downtime_s_per_year share losses_per_year"
        return self._table(rows, names.split())

    def states(self) -> pd.DataFrame:
        rows = [
            (state.name, state.kind, state.serves, share, share * YEAR_S)
            for state in self._process_states
            for share in [self._exact.states[state.name]]
        ]
        return self._table(rows, ["state", "kind", "serves", "share", "s_per_year"])

    def cycles(self) -> pd.DataFrame:
        given = asdict(self._simulated)
        names = ["cycles", "effective_cycles", "mean_weight"]
        return self._table([tuple(given[name] for name in names)], names)

    def _table(self, rows: Sequence[tuple[Any, ...]], names: Sequence[str]) -> pd.DataFrame:
        table = pd.DataFrame(rows, columns=[*names])
        table.insert(0, "policy", self._policy)
        return table


def _metrics(
    saved_every_s: float, throughput_per_s: float
) -> dict[str, tuple[str, Mapping[str, float]]]:
    """Metric -> (unit, its parts of `markov.MEASURES`).

    A loss throws the guest back by half of ``saved_every`` on average.
    """
    lost_state_s = {"losses": YEAR_S * saved_every_s / 2, "diverging": YEAR_S}
    lost = {name: factor * throughput_per_s for name, factor in lost_state_s.items()}
    return {
        "downtime_s_per_year": ("s/year", {"down": YEAR_S}),
        "unavailability": ("1", {"down": 1.0}),
        "outages_per_year": ("1/year", {"outages": YEAR_S}),
        "guest_losses_per_year": ("1/year", {"losses": YEAR_S}),
        "lost_state_s_per_year": ("s/year", lost_state_s),
        "lost_responses_per_year": ("1/year", {**lost, "lost_responses": YEAR_S}),
        "split_brain_s_per_year": ("s/year", {"diverging": YEAR_S}),
        "exposed": ("1", {"exposed": 1.0}),
    }
