"""``python -m experiments.validation``: measure live, calibrate, predict, compare."""

from __future__ import annotations

import sys

import click

from colosim.analysis.agreement import agreement
from experiments import output, validation
from experiments.validation import report


@click.command()
@click.option("--out", default="out/validation", show_default=True, help="Where to write.")
@click.option("--quick", is_flag=True, help="Two workloads, short runs: it shows that it works.")
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    type=click.Choice(validation.WORKLOADS),
    help="Only this one; may be given again.",
)
@click.option("--native", metavar="QEMU", help="Measure a genuine pair of this QEMU beside.")
@click.option("--seed", default=1, show_default=True, help="What all chance comes from.")
def main(out: str, quick: bool, workloads: tuple[str, ...], native: str | None, seed: int) -> None:
    """Phases of a checkpoint, and predictions of runs that were not calibrated on.

    A run that is in the directory already is not run again.
    """
    place = output.directory(out)
    console = output.console()

    def say(text: str) -> None:
        console.print(f"  {text}", soft_wrap=True)

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
    for failure in failures:
        console.print(f"[bold]could not be done:[/bold] {failure}", soft_wrap=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
