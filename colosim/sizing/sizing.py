"""`size`: what protection costs a service, which policy to choose, how sure, what to change.

1. Sources make a scenario, and a range for what they do not say (`colosim.sizing.sources`).
2. All candidates are simulated with common random numbers (`trials`); the best by the goal is
   chosen, and it is said how sure that is by chance alone, from paired differences (`choosing`).
3. How sure, with all that is not known drawn from its ranges at once (Latin hypercube): the share
   of draws in which the choice is still the best; and what it hangs on: each unknown at both ends
   of its range, the others as taken (`unknowns`).
4. What it takes: capacity, link, memory (`needs`).
5. What to change: each reason for which the guests differed is taken out (`changes`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any
from weakref import finalize

import pandas as pd

from colosim import parallel, store
from colosim.api import Interrupted, unwritten
from colosim.progress import Progress
from colosim.sizing import changes as reasons
from colosim.sizing import lab, needs, unknowns
from colosim.sizing.answer import Sizing
from colosim.sizing.candidates import INTERVALS, POLICIES_TRIED, candidates, check
from colosim.sizing.choosing import choose
from colosim.sizing.errors import SizingError
from colosim.sizing.given import changes as texts
from colosim.sizing.sources import basis_of, sorted_sources
from colosim.sizing.trials import QUICK, Effort, Trials


def size(
    *sources: str | Path,
    dirty_rate: str | Sequence[str] = (),
    dirty_csv: str | Path | None = None,
    qmp: str | Path | None = None,
    qmp_mode: str = "page-sampling",
    qmp_times_s: Sequence[float] = (1.0, 2.0, 4.0),
    memory: str | None = None,
    link: str | None = None,
    changes: Mapping[str, Any] | Sequence[str] = (),
    goal: str = "p99",
    policies: Sequence[str] = POLICIES_TRIED,
    intervals: Sequence[str] = INTERVALS,
    quick: bool = False,
    seed: int | None = None,
    replications: int | None = None,
    out: str | Path | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
    **compare: Any,
) -> Sizing:
    """What protection will cost a service.

    sources: a scenario file; directories of live runs; logs of a genuine QEMU pair, or the
    directory that they were imported to; two captures, the primary's first.  Several are laid over
    one another.
    dirty_rate: distinct bytes written, "40 MiB/s" (over 1 s) or "90 MiB/s over 100 ms".
    dirty_csv: the same as a table.  qmp: socket of a running VM, which is asked by calc-dirty-rate
    in that mode over each of these times.
    memory, link: the guest's RAM; the link's bandwidth, and delay after a comma.
    changes: fields of the scenario, as in a file: {"workload.rate": "200 /s"}.
    goal: what is to be small: "p99", "p50" or "capacity" (the time that the guest stands still).
    policies, intervals: what is tried; intervals are those of remus and microcheckpoint.
    quick: fewer and shorter runs.  replications: of each candidate.
    out: directory to write; must be new, empty or an older one.
    compare: options of `colosim.compare_pcap`.

    Raises SizingError, ScenarioError, CalibrationError, CaptureError, LiveError or StoreError, a
    line each; `store.Unwritten`, with the sizing, if only ``out`` is missing.  Ctrl-C raises
    `api.Interrupted`, which keeps what can be said of what was simulated, and so does ``out``.
    """
    effort = QUICK if quick else Effort()
    if replications is not None:
        if replications < 2:
            raise SizingError("replications: 2 or more, or nothing can be said of how sure it is")
        effort = replace(effort, replications=replications)
    check(goal, policies, intervals)
    parallel.check_jobs(jobs)
    given = sorted_sources(
        sources,
        rates=[dirty_rate] if isinstance(dirty_rate, str) else dirty_rate,
        table=None if dirty_csv is None else Path(dirty_csv),
        measured=None if qmp is None else _asked(Path(qmp), qmp_times_s, qmp_mode, say),
        memory=memory,
        link=link,
        changes=changes if isinstance(changes, Mapping) else texts(changes),
        **_of_captures(compare),
    )
    place = Path(mkdtemp(prefix="colosim-"))
    found: Sizing | None = None
    try:
        with nullcontext() if out is None else store.new_directory(out) as directory:
            basis = basis_of(given, place, say)
            basis.mapping.setdefault("seed", 1)
            if seed is not None:
                basis.mapping["seed"] = seed
            trials = Trials(basis, place, goal, effort, jobs, progress, say)
            found = _answer(trials, goal, policies, intervals)
            if directory is not None:
                from colosim.sizing import report

                report.write(found, directory)
    except (store.StoreError, KeyboardInterrupt) as ended:
        if found is None:
            raise
        raise unwritten(ended, "all was simulated", found) from None
    finally:
        if found is None:
            rmtree(place, ignore_errors=True)
        else:
            finalize(found, rmtree, place, True)  # its scenario's curve is there
    if found.undone:
        where = "" if out is None else f" in {out}"
        raise Interrupted(f"kept{where} without {'; '.join(found.undone)}", found)
    return found


def _answer(trials: Trials, goal: str, policies: Sequence[str], intervals: Sequence[str]) -> Sizing:
    basis, scenario, n = trials.basis, trials.scenario, trials.effort.replications
    known, left_out = candidates(scenario, policies, intervals)
    tasks = [trials.task((), scenario, each, n) for each in known.values()]
    table, n = _first(trials, tasks, n)
    part = trials.unless_stopped
    overloaded = part(
        "capacity", lambda: needs.capacity(trials, known), _empty(needs.CAPACITY_COLUMNS)
    )
    choice = choose(trials, table, known)
    notes = list(basis.notes)
    if not choice.keeps_up:
        notes.insert(0, "no candidate keeps up with the load: the one that answers most is shown")
    tried = trials, choice.tried, choice.label
    open_ = part(
        "what is not known, one by one",
        lambda: unknowns.sensitivity(*tried),
        _empty(unknowns.COLUMNS),
    )
    draws = part("what is not known, drawn", lambda: unknowns.drawn(*tried), unknowns.NOT_DRAWN)
    changed = part("what to change", lambda: reasons.changes(*tried), _empty(reasons.COLUMNS))
    links = part(
        "the link", lambda: needs.link(trials, known[choice.label]), _empty(needs.LINK_COLUMNS)
    )
    facts = [(each.key, each.value, each.kind, each.source) for each in basis.facts.values()]
    return Sizing(
        scenario=scenario,
        goal=goal,
        metric=trials.metric,
        choice=choice.label,
        runner_up=choice.runner_up,
        policies=needs.costs(table, overloaded, known),
        facts=pd.DataFrame(facts, columns=["key", "value", "kind", "source"]),
        sensitivity=open_,
        draws=draws.table,
        changes=changed,
        link=links,
        memory=needs.memory(scenario, table, known[choice.label]),
        certain=choice.certain,
        best=(draws.wins, draws.draws, draws.low, draws.high),
        regret=draws.regret,
        notes=notes,
        sources=basis.sources,
        left_out=left_out,
        undone=trials.undone,
        options={"seed": scenario.seed, "replications": n, "goal": goal},
        basis=basis,
        candidates=known,
    )


def _first(trials: Trials, tasks: Sequence[lab.Task], n: int) -> tuple[pd.DataFrame, int]:
    """The candidates' first runs, and how many there are of each; two at least."""
    try:
        return trials.run(tasks, "candidates"), n
    except lab.Stopped as stopped:
        finished = stopped.table["replication"].nunique()
        if finished < 2:
            few = "fewer than 2 runs of each candidate were finished"
            raise Interrupted(f"{few}, nothing is kept") from None
        trials.undone.append(f"{n - finished} of {n} runs of each candidate")
        return stopped.table, finished


def _empty(columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(columns=list(columns))


def _asked(socket: Path, times_s: Sequence[float], mode: str, say: Callable[[str], None]) -> Any:
    import asyncio

    from backends.qemu.dirty_rate import measure

    return asyncio.run(measure(socket, times_s, mode, say))


def _of_captures(compare: Mapping[str, Any]) -> dict[str, Any]:
    known = {"mode", "compare_timeout_s", "numbers", "checkpoint_pause_s", "offset_s", "guest"}
    for name in compare:
        if name not in known:
            raise SizingError(f"{name}: no such option; captures have {', '.join(sorted(known))}")
    rest = {key: value for key, value in compare.items() if key not in ("offset_s", "guest")}
    return {
        "offset": compare.get("offset_s", "auto"),
        "guest": compare.get("guest"),
        "compare": rest,
    }
