"""``python -m experiments.validation``: measure live, calibrate, predict, compare."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from colosim.analysis.plots import agreement
from experiments import output, validation
from experiments.validation import colo as colo_runs
from experiments.validation import report

_WORKLOADS = dict.fromkeys((*validation.WORKLOADS, *colo_runs.WORKLOADS))


@click.command()
@output.out_option("validation")
@click.option("--quick", is_flag=True, help="Fewer workloads, short runs: it shows that it works.")
@click.option("--colo", is_flag=True, help="Policy colo instead: why guests differ, what it costs.")
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    type=click.Choice(list(_WORKLOADS)),
    help="Only this one; may be given again.",
)
@click.option("--native", metavar="QEMU", help="Measure a genuine pair of this QEMU beside.")
@output.seed_option
def main(
    out: str, quick: bool, colo: bool, workloads: tuple[str, ...], native: str | None, seed: int
) -> None:
    """Phases of a checkpoint, and predictions of runs that were not calibrated on.

    A run that is in the directory already is not run again.
    """
    known = colo_runs.WORKLOADS if colo else validation.WORKLOADS
    for name in workloads:
        if name not in known:
            which = "with" if colo else "without"
            right = f"give one of {', '.join(known)}"
            raise output.Unusable(f"--workload {name}: there is none {which} --colo; {right}")
    if colo and native is not None:
        raise output.Unusable("--native: a genuine pair has no policy colo; leave out one of both")
    results = output.Results(out)
    run = _colo if colo else _remus
    failures = run(results, quick, workloads, native, seed)
    results.told()
    sys.exit(1 if failures else 0)


def _measured(results: output.Results, runs: Sequence[validation.Run]) -> list[str]:
    results.console.print(f"\n[bold]{len(runs)} live runs[/bold]")
    return validation.run(runs, results.place, results.say)


def _remus(
    results: output.Results, quick: bool, workloads: Sequence[str], native: str | None, seed: int
) -> list[str]:
    failures = []
    if native is not None and not validation.can_be_native():
        failures.append(f"{native}: this colosim has no engine for genuine pairs; left out")
        results.say(failures[-1])
        native = None
    place, runs = results.place, validation.plan(quick, native, seed, workloads)
    failures += _measured(results, runs)
    found, models, more = validation.validate(runs, place, 5 if quick else 20, results.say)
    failures += more
    phases = validation.phases(runs, place)
    about = validation.about(runs, place)
    results.page("validation", report.markdown(phases, found, models, about, failures))
    results.table("phases", phases)
    if len(phases):
        results.figure("phases", report.phases_figure(phases))
    if len(found):
        results.table("validation", found)
        results.figure("validation", agreement(found))
    return failures


def _colo(
    results: output.Results, quick: bool, workloads: Sequence[str], native: str | None, seed: int
) -> list[str]:
    """native: None."""
    place, runs = results.place, colo_runs.plan(quick, seed, workloads)
    failures = _measured(results, runs)
    found, _, more = validation.validate(runs, place, 5 if quick else 20, results.say)
    failures += more
    hazards = colo_runs.hazards(runs, place)
    about = validation.about(runs, place)
    results.page("validation-colo", report.colo_markdown(found, hazards, about, failures))
    if len(hazards):
        results.table("hazards", hazards)
    if len(found):
        results.table("validation-colo", found)
        results.figure("validation-colo", agreement(found))
    return failures


if __name__ == "__main__":
    main()
