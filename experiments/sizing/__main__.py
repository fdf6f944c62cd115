"""``python -m experiments.sizing``: live runs of nginx, and what it would have been sized to."""

from __future__ import annotations

import sys

import click

from experiments import output, sizing, validation
from experiments.sizing import figures


@click.command()
@output.out_option("sizing")
@click.option(
    "--repeats", default=2, show_default=True, type=click.IntRange(1), help="Of each run."
)
@output.seed_option
def main(out: str, repeats: int, seed: int) -> None:
    """Size nginx from a part of what is known, beside live runs of every policy.

    A run that is in the directory already is not run again.
    """
    results = output.Results(out)
    place, console = results.place, results.console
    runs = sizing.plan(seed, repeats)
    console.print(f"\n[bold]{len(runs)} live runs[/bold]")
    failures = validation.run(runs, place, results.say)
    answers = dict(sizing.sized(runs, place, results.say))
    table = sizing.compared(runs, answers, place)
    about = output.about(place / run.folder for run in runs if sizing.label_of(run) != "none")
    parts = [
        *map(output.markdown_table, (sizing.texts(table), sizing.choices(answers))),
        "\n".join(f"* {key}: {value}" for key, value in about.items()),
    ]
    console.print("\n[bold]Measured, and what each sizing says[/bold]")
    results.page("sizing", output.page(parts, failures))
    results.table("sizing", table)
    results.figure("sizing", figures.draw(table))
    results.told()
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
