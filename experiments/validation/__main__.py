"""``python -m experiments.validation``: measure live, calibrate, predict, compare."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
from rich.console import Console

from colosim.analysis.plots.agreement import agreement
from experiments import output, validation
from experiments.validation import colo as colo_runs
from experiments.validation import report

_WORKLOADS = dict.fromkeys((*validation.WORKLOADS, *colo_runs.WORKLOADS))


@click.command()
@click.option("--out", default="out/validation", show_default=True, help="Where to write.")
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
@click.option("--seed", default=1, show_default=True, help="What all chance comes from.")
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
    place = output.directory(out)
    console = output.console()

    def say(text: str) -> None:
        console.print(f"  {text}", soft_wrap=True)

    if colo:
        failures = _colo(place, console, say, quick, workloads, seed)
    else:
        failures = _remus(place, console, say, quick, workloads, native, seed)
    for failure in failures:
        console.print(f"[bold]could not be done:[/bold] {failure}", soft_wrap=True)
    sys.exit(1 if failures else 0)


def _remus(
    place: Path,
    console: Console,
    say: Callable[[str], None],
    quick: bool,
    workloads: Sequence[str],
    native: str | None,
    seed: int,
) -> list[str]:
    failures = []
    if native is not None and not validation.can_be_native():
        failures.append(f"{native}: this colosim has no engine for genuine pairs; left out")
        say(failures[-1])
        native = None
    runs = validation.plan(quick, native, seed, workloads)
    console.print(f"\n[bold]{len(runs)} live runs[/bold]")
    failures += validation.run(runs, place, say)
    found, models, more = validation.validate(runs, place, 5 if quick else 20, say)
    failures += more
    phases = validation.phases(runs, place)

    for engine in dict.fromkeys(phases["engine"]):
        console.print(f"\n[bold]Phases, {engine}[/bold]: median / p99, ms")
        console.print(report.phase_table(phases, engine).to_string(), soft_wrap=True)
    phases.to_csv(place / "phases.csv", index=False)
    written = ["phases.csv", "validation.md"]
    if len(phases):
        report.phases_figure(phases).save(place / "phases")
        written.append("phases.svg")
    if len(found):
        console.print("\n[bold]Predicted and measured[/bold]")
        console.print(report.rows_table(found).to_string(index=False), soft_wrap=True)
        console.print("\n[bold]Errors of what was not fitted[/bold]")
        console.print(report.errors_table(found).to_string(index=False), soft_wrap=True)
        found.to_csv(place / "validation.csv", index=False)
        agreement(found).save(place / "validation")
        written += ["validation.csv", "validation.svg"]
    about = validation.about(runs, place)
    text = report.markdown(phases, found, models, about, failures)
    (place / "validation.md").write_text(text, "utf-8")
    console.print(f"\nwritten in {place}: {', '.join(written)}")
    return failures


def _colo(
    place: Path,
    console: Console,
    say: Callable[[str], None],
    quick: bool,
    workloads: Sequence[str],
    seed: int,
) -> list[str]:
    runs = colo_runs.plan(quick, seed, workloads)
    console.print(f"\n[bold]{len(runs)} live runs[/bold]")
    failures = validation.run(runs, place, say)
    found, _, more = validation.validate(runs, place, 5 if quick else 20, say)
    failures += more
    hazards = colo_runs.hazards(runs, place)
    written = ["validation-colo.md"]
    if len(hazards):
        console.print("\n[bold]Why the calibrated runs checkpointed[/bold]")
        console.print(report.hazards_table(hazards).to_string(index=False), soft_wrap=True)
        hazards.to_csv(place / "hazards.csv", index=False)
        written.append("hazards.csv")
    if len(found):
        console.print("\n[bold]Predicted and measured[/bold]")
        console.print(report.rows_table(found).to_string(index=False), soft_wrap=True)
        found.to_csv(place / "validation-colo.csv", index=False)
        agreement(found).save(place / "validation-colo")
        written += ["validation-colo.csv", "validation-colo.svg"]
    text = report.colo_markdown(found, hazards, validation.about(runs, place), failures)
    (place / "validation-colo.md").write_text(text, "utf-8")
    console.print(f"\nwritten in {place}: {', '.join(written)}")
    return failures


if __name__ == "__main__":
    main()
