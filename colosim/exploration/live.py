"""The same points on real guests: one run after another, judged by the same promises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from backends.qemu.errors import LiveError
from colosim import store
from colosim.exploration.exploring import Exploration, Violation, kept, plan_of, write
from colosim.exploration.judging import Run, Verdict, Watcher, judge
from colosim.exploration.report import trace_text
from colosim.exploration.running import Found
from colosim.exploration.space import Design, Point, PointError, base_scenario, live_point
from colosim.protocol.trace import Line, decode_line, encode_line, replay

#: beyond its scenario's time: boot, protection, and the end
_MORE_S = 240.0


def explore_live(
    points: int = 20,
    designs: Sequence[str] | str = "*/upstream/*/*",
    scenario: str | Path = "live",
    *,
    seed: int = 1,
    out: str | Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Exploration:
    """Run points on two real QEMU guests of this machine, one after another.

    points: how many, drawn from ``seed`` among every fault at every step; each fourth has a second
    fault.  scenario: the base that faults are added to.  say: called with how it goes.
    out: as for `explore`; it also gets the directory of each violated run, with its trace.

    A violation is told as it was found: real runs are not made small.  Raises LiveError if nothing
    can be run here.
    """
    patterns = [designs] if isinstance(designs, str) else designs
    plan = plan_of("live", patterns, str(scenario), points, seed)
    plan = replace(plan, designs=_here(plan.designs, plan.base))
    place = None if out is None else Path(out)
    found, told = Found(plan), list[Violation]()
    with kept(place, plan) as (done, keep):
        for number in range(points):
            for verdict in done.get(number, ()):
                found.add(verdict)
            if number in done:
                continue
            point = live_point(number, seed, plan.designs, plan.base)
            say(f"{number + 1} of {points}: {point}")
            try:
                run, lines = run_live_point(point, place)
            except KeyboardInterrupt:
                found.interrupted = True
                break
            except (LiveError, TimeoutError) as error:
                if not found.points:  # so nothing can be run here
                    raise
                why = str(error) or "not done in time"
                say(f"    not run: {why}")
                found.add(Verdict(point, "not run", 0))
                continue
            verdict = judge(run)
            say(f"    {verdict.outcome}: {run.failed or dict(verdict.violations) or 'as promised'}")
            keep(number, [verdict])
            found.add(verdict)
            if verdict.violations:
                told.append(Violation(verdict, verdict, trace_text(run, lines), is_live=True))
        result = Exploration(plan, found, told)
        if place is not None:
            write(place, result)
    return result


def _here(designs: Sequence[Design], base: str) -> tuple[Design, ...]:
    """Those that the live world has; PointError if it has none of them."""
    from backends.qemu.live import refuse_simulated

    here, why = list[Design](), ""
    for design in designs:
        try:
            refuse_simulated(base_scenario(base).replace(design.changes), design.policy)
        except LiveError as error:
            why = str(error)
        else:
            here.append(design)
    if not here:
        raise PointError(f"the live world has no such design: {why}")
    return tuple(here)


def run_live_point(point: Point, keep: Path | None = None) -> tuple[Run, list[Line]]:
    """One point on real guests, and its trace.

    keep: directory that gets the trace of a run that is violated.
    """
    from backends.qemu.live import run_live

    scenario = point.scenario()
    watcher = Watcher(point, scenario, on_time=False)
    limit_s = scenario.duration_ns / 1e9 + _MORE_S
    with TemporaryDirectory(prefix="colosim-") as scratch:
        outcome = asyncio.run(
            asyncio.wait_for(
                run_live(scenario, point.design.policy, Path(scratch), lambda text: None), limit_s
            )
        )
    if outcome.interrupted:
        raise KeyboardInterrupt
    start_ns = outcome.start_ns
    lines = [replace(line, now_ns=line.now_ns - start_ns) for line in outcome.lines]
    for line in lines:
        if line.now_ns <= outcome.record.duration_ns:  # what ends the run is no failure
            watcher.see(line)
    differences = tuple(
        f"node {d.node}, line {d.n}: recorded {d.recorded}, replayed {d.replayed}"
        for d in replay(decode_line(encode_line(line)) for line in outcome.lines)
    )
    run = Run(point, scenario, watcher, outcome.record, "", differences)
    if keep is not None and judge(run).violations:
        with store.trace_writer(keep / f"trace-{point.seed}.jsonl.gz") as write_line:
            for line in outcome.lines:
                write_line(line)
    return run, lines


def look_live(point: Point) -> tuple[Verdict, int, str]:
    """As `exploring.look`, on real guests."""
    run, lines = run_live_point(point)
    return judge(run), len(lines), trace_text(run, lines)
