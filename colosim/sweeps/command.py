"""What ``colosim sweep`` says of a sweep that was run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import click

from colosim.sweeps.dataset import SUMMARY
from colosim.sweeps.planning import Plan
from colosim.sweeps.running import Outcome

_MOST_SHOWN = 20


def show(plan: Plan, outcome: Outcome, say: Callable[[str], None]) -> int:
    """Write results to stdout, what went wrong by ``say``; exit status."""
    for point, failure in islice(outcome.failures.items(), _MOST_SHOWN):
        say(f"point {point} failed: {failure}")
    if (more := len(outcome.failures) - _MOST_SHOWN) > 0:
        say(f"and {more} more points failed")
    if outcome.violations:
        click.secho(f"VIOLATIONS: {outcome.violations} broken invariants", fg="red", bold=True)
    click.echo(
        f"{outcome.points} points in {outcome.out}: {outcome.finished} run now, "
        f"{outcome.reused} before, {len(outcome.failures)} failed"
    )
    if outcome.interrupted:
        say("interrupted; the finished points are kept, and the same command goes on with them")
        return 130
    if outcome.unwritten:
        kept = "the finished points are kept, and the same command goes on with them"
        say(f"{outcome.unwritten}; {kept}")
        return 2
    if plan.rule is not None:
        click.echo(
            f"{outcome.runs} replications run now; {outcome.wide} points have an interval wider "
            f"than ± {plan.rule.relative:.3g} of the mean"
        )
    click.echo(
        f'read it with pandas.read_parquet("{outcome.out}"); means and intervals: '
        f"{outcome.out / SUMMARY}"
    )
    return 1 if outcome.failures else 0
