"""``python -m experiments.colo``: COLO on real guests, beside Remus and no protection."""

from __future__ import annotations

import sys

import click

from experiments import colo, output
from experiments.colo import report


@click.command()
@output.out_option("colo")
@click.option("--quick", is_flag=True, help="Short runs, one kill each: it shows that it works.")
@click.option("--kills", default=20, show_default=True, help="Hosts killed for each design.")
@click.option("--repeat", default=3, show_default=True, help="Runs of each design and load.")
@click.option("--native", metavar="QEMU", help="Measure a genuine pair of this QEMU beside.")
def main(out: str, quick: bool, kills: int, repeat: int, native: str | None) -> None:
    """What COLO costs clients, and what they notice of a kill.

    A run that is in the directory already is not run again.
    """
    results = output.Results(out)
    place, console = results.place, results.console
    runs = colo.plan(1, 5, 1, native) if quick else colo.plan(kills, 10, repeat, native)
    console.print(f"\n[bold]{len(runs)} live runs[/bold]")
    failures = colo.run(runs, place, results.say)
    costs, struck = colo.costs(runs, place), colo.kills(runs, place)
    about = output.about(place / each.folder for each in runs if each.design != "unprotected")
    results.page("colo", report.markdown(costs, struck, about, failures))
    results.table("costs", costs)
    results.table("kills", struck)
    if len(struck):
        results.figure("gaps", report.gaps_figure(struck))
    results.told()
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
