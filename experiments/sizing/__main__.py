"""``python -m experiments.sizing``: live runs of nginx, and what it would have been sized to."""

from __future__ import annotations

import sys

import click

from experiments import output, sizing, validation
from experiments.sizing import figures


@click.command()
@click.option("--out", default="out/sizing", show_default=True, help="Directory for results.")
@click.option(
    "--repeats", default=2, show_default=True, type=click.IntRange(1), help="Of each run."
)
@click.option("--seed", default=1, show_default=True, help="What all chance comes from.")
def main(out: str, repeats: int, seed: int) -> None:
    """Size nginx from a part of what is known, beside live runs of every policy.

    A run that is in the directory already is not run again.
    """
    place = output.directory(out)
    console = output.console()

    def say(text: str) -> None:
        console.print(f"  {text}", soft_wrap=True)

    runs = sizing.plan(seed, repeats)
    console.print(f"\n[bold]{len(runs)} live runs[/bold]")
    failures = validation.run(runs, place, say)
    answers = dict(sizing.sized(runs, place, say))
    table = sizing.compared(runs, answers, place)
    shown, choices = sizing.texts(table), sizing.choices(answers)
    console.print("\n[bold]Measured, and what each sizing says[/bold]")
    console.print(shown.to_string(index=False), soft_wrap=True)
    console.print(choices.to_string(index=False), soft_wrap=True)
    table.to_csv(place / "sizing.csv", index=False)
    about = output.about(place / run.folder for run in runs if sizing.label_of(run) != "none")
    parts = [
        *map(output.markdown_table, (shown, choices)),
        "\n".join(f"* {key}: {value}" for key, value in about.items()),
    ]
    figures.draw(table).save(place / "sizing")
    (place / "sizing.md").write_text(output.page(parts, failures), "utf-8")
    console.print(f"\nwritten in {place}: sizing.csv, sizing.md; figure (svg, png): sizing")
    for failure in failures:
        console.print(f"[bold]could not be done:[/bold] {failure}", soft_wrap=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
