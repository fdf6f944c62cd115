"""Results on stdout, as text or as one JSON object, and what is said beside them on stderr.

A `Show` shows what a command found.  Exit statuses are those of `colosim.cli`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from colosim import __version__

if TYPE_CHECKING:
    import pandas as pd

    from colosim.api import Comparison, Replay, Result
    from colosim.dependability import AvailabilityResult
    from colosim.exploration.exploring import Exploration
    from colosim.exploration.judging import Verdict
    from colosim.pcap import PcapComparison

MOST_SHOWN = 10
_MOST_KINDS = 30


class Place(NamedTuple):
    """Where results are: the directory, if they were written to one; and in words."""

    out: str | None
    words: str


def place_of(out: str | None) -> Place:
    """Where results are that were written, if a directory was asked for."""
    words = f"written to {out}" if out else "nothing was written; --out DIR keeps the results"
    return Place(out, words)


Show = Callable[[Any, Place], None]


def shown(start: Callable[[], Any], show: Show, out: str | None) -> int:
    """Run and show the outcome, also what Ctrl-C or a full disk left of it."""
    from colosim.api import Interrupted
    from colosim.store import Unwritten

    status, is_written = 0, True
    try:
        outcome = start()
    except Interrupted as ended:
        status, outcome, is_written = 130, ended.result, ended.is_written
        say(str(ended))
    except Unwritten as ended:
        status, outcome, is_written = 2, ended.result, False
        say(str(ended))
    if outcome is not None:
        show(outcome, place_of(out) if is_written else Place(None, "nothing was written"))
    return status


def say(line: str) -> None:
    """A line on stderr."""
    try:
        click.echo(f"colosim: {line}", err=True)
    except OSError:  # that nobody can hear it is no reason to end what runs
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


# --------------------------------------------------------------------------------------------
# Of each command


def runs(as_json: bool, phases: bool = False) -> Show:
    """How a run or a comparison is shown; ``phases``: those of checkpoints, too."""
    return partial(_runs_json if as_json else _runs, phases)


def _runs(phases: bool, outcome: Result | Comparison, place: Place) -> None:
    click.echo(f"{outcome.title}\n")
    for violation in outcome.violations[:MOST_SHOWN]:
        click.secho(f"VIOLATION: {violation}", fg="red", bold=True)
    if more := outcome.violations[MOST_SHOWN:]:
        click.secho(f"and {len(more)} more violations", fg="red", bold=True)
    for flag in outcome.flags:
        click.secho(f"FLAG: {flag}", fg="yellow", bold=True)
    for table in outcome.readable():
        click.echo(f"{table.to_string()}\n")
    if phases and len(outcome.phases):
        summary = outcome.phase_summary.drop(columns="policy").round(3)
        click.echo(f"phases of a checkpoint\n{summary.to_string(index=False)}\n")
    if len(outcome.holds):
        summary = outcome.hold_summary.drop(columns="policy").round(3)
        click.echo(f"how long frames were held\n{summary.to_string(index=False)}\n")
    if happened := _happened(outcome):
        click.echo(f"{happened}\n")
    click.echo(
        "mean ± half of the 95 % interval over replications"
        if outcome.summary["ci_low"].notna().any()
        else "one replication, so there is no interval: another one may differ"
    )
    click.echo(f"fingerprint {outcome.fingerprint}")
    click.echo(place.words)


def _runs_json(phases: bool, outcome: Result | Comparison, place: Place) -> None:
    body = {
        "colosim": __version__,
        "title": outcome.title,
        "fingerprint": outcome.fingerprint,
        "interrupted": outcome.interrupted,
        "flags": outcome.flags,
        "violations": outcome.violations,
        "out": place.out,
        "summary": _rows(outcome.summary),
        **({"phases": _rows(outcome.phase_summary)} if phases and len(outcome.phases) else {}),
        **({"holds": _rows(outcome.hold_summary)} if len(outcome.holds) else {}),
        **({"happened": happened} if (happened := _happened(outcome)) else {}),
    }
    click.echo(json.dumps(body, allow_nan=False))


def _happened(outcome: Result | Comparison) -> str:
    """Of a live run: who took over, when, and what clients noticed."""
    if getattr(outcome, "about", {}).get("world") != "live":
        return ""
    from colosim.analysis.failovers import happened

    [record] = outcome.records
    return happened(outcome.events, {name: v for name, (v, _) in record.metrics().items()})


def years(as_json: bool) -> Show:
    """How an availability is shown."""
    return _years_json if as_json else _years


def _years(found: AvailabilityResult, place: Place) -> None:
    click.echo(f"{found.title}\n")
    for violation in found.violations[:MOST_SHOWN]:
        click.secho(f"VIOLATION: {violation}", fg="red", bold=True)
    for flag in found.flags:
        click.secho(f"FLAG: {flag}", fg="yellow", bold=True)
    for table in found.readable():
        click.echo(f"{table.to_string()}\n")
    click.echo("in brackets the 95 % interval; of markov: what the simulated takeovers leave open")
    click.echo(f"fingerprint {found.fingerprint}")
    click.echo(place.words)


def _years_json(found: AvailabilityResult, place: Place) -> None:
    body = {
        "colosim": __version__,
        "title": found.title,
        "fingerprint": found.fingerprint,
        "interrupted": found.interrupted,
        "flags": found.flags,
        "violations": found.violations,
        "out": place.out,
        "summary": _rows(found.summary),
        "causes": _rows(found.causes),
        "states": _rows(found.states),
        "cycles": _rows(found.cycles),
    }
    click.echo(json.dumps(body, allow_nan=False))


def pcaps(as_json: bool, first: int) -> Show:
    """How a comparison of captures is shown, with its first verdicts."""
    return partial(_pcaps_json if as_json else _pcaps, first)


def _pcaps(first: int, found: PcapComparison, place: Place) -> None:
    from math import isnan

    click.echo(f"{found.title}\n")
    for note in found.notes:
        click.echo(f"note: {note}")
    summary = found.summary()
    values = [
        "-" if isnan(value) else f"{value:,.3f}" if unit in ("ms", "s") else f"{value:,.0f}"
        for value, unit in zip(summary["value"], summary["unit"], strict=True)
    ]
    table = summary.assign(value=values)[["metric", "value", "unit"]]
    click.echo(f"\n{table.to_string(index=False)}\n")
    if shown := min(first, len(found.verdicts)):
        click.echo(f"the first {shown:,} of {len(found.verdicts):,} verdicts\n")
        click.echo(f"{found.readable(first)}\n")
    click.echo(place.words)


def _pcaps_json(first: int, found: PcapComparison, place: Place) -> None:
    body = {
        "colosim": __version__,
        "title": found.title,
        "guest": found.guest,
        "settings": dict(found.settings),
        "notes": list(found.notes),
        "out": place.out,
        "summary": _rows(found.summary()),
        "reasons": dict(found.reasons),
        "verdicts": _rows(found.verdicts.head(first)),
    }
    click.echo(json.dumps(body, allow_nan=False))


def exploration(as_json: bool) -> Show:
    """How an exploration is shown."""
    return _exploration_json if as_json else _exploration


def _exploration(found: Exploration, place: Place) -> None:
    click.echo(f"{found.title}\n")
    if found.found.points:
        click.echo(f"{found.summary('design').to_string()}\n")
        click.echo(f"{found.summary('faults').head(_MOST_KINDS).to_string()}\n")
    for violation in found.violations:
        first, *rest = violation.lines()
        click.secho(first, fg="red", bold=True)
        click.echo("\n".join([*rest, ""]))
    click.echo(place.words)


def _exploration_json(found: Exploration, place: Place) -> None:
    from colosim.exploration.exploring import as_mapping

    body = {
        "colosim": __version__,
        "title": found.title,
        "points": found.found.points,
        "violated": found.found.violations,
        "interrupted": found.interrupted,
        "out": place.out,
        "outcomes": _rows(found.table),
        "violations": [as_mapping(each) for each in found.violations],
    }
    click.echo(json.dumps(body, allow_nan=False))


def point(verdict: Verdict, trace: str, as_json: bool) -> int:
    """One point of an exploration, run again; exit status."""
    if as_json:
        body = {
            "point": str(verdict.point),
            "outcome": verdict.outcome,
            "violations": verdict.violations,
            "trace": trace.splitlines(),
        }
        click.echo(json.dumps(body, allow_nan=False))
    else:
        click.echo(f"{trace}\n\n{verdict.point}\noutcome: {verdict.outcome}")
        for promise, wrong in verdict.violations:
            click.secho(f"VIOLATION: {promise}: {wrong}", fg="red", bold=True)
    return 1 if verdict.violations else 0


def replay(each: Replay) -> int:
    """What a replay of a trace found; exit status."""
    found = [
        *(
            f"node {d.node}, line {d.n}: recorded {d.recorded}, replayed {d.replayed}"
            for d in each.differences
        ),
        *(f"VIOLATION: {violation}" for violation in each.violations),
    ]
    verdict = f"{len(found)} problems" if found else "same decisions, no invariant broken"
    click.echo(f"{each.trace}: {each.lines} lines: {verdict}")
    for text in found[:MOST_SHOWN]:
        click.secho(f"    {text}", fg="red")
    if more := found[MOST_SHOWN:]:
        click.echo(f"    and {len(more)} more")
    return 1 if found else 0


def _rows(table: pd.DataFrame) -> list[Mapping[str, Any]]:
    """Rows for JSON, which has no NaN."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows]
