"""``python -m experiments.colo``: COLO on real guests, beside Remus and no protection."""

from __future__ import annotations

import sys

import click

from experiments import colo, output
from experiments.colo import report


@click.command()
@click.option("--out", default="out/colo", show_default=True, help="Where to write.")
@click.option("--quick", is_flag=True, help="Short runs, one kill each: it shows that it works.")
@click.option("--kills", default=20, show_default=True, help="Hosts killed for each design.")
@click.option("--repeat", default=3, show_default=True, help="Runs of each design and load.")
@click.option("--native", metavar="QEMU", help="Measure a genuine pair of this QEMU beside.")
def main(out: str, quick: bool, kills: int, repeat: int, native: str | None) -> None:
    """What COLO costs clients, and what they notice of a kill.

    A run that is in the directory already is not run again.
    """
    place = output.directory(out)
    console = output.console()
    runs = colo.plan(1, 5, 1, native) if quick else colo.plan(kills, 10, repeat, native)
    console.print(f"\n[bold]{len(runs)} live runs[/bold]")
    failures = colo.run(runs, place, lambda text: console.print(f"  {text}", soft_wrap=True))
    costs, struck = colo.costs(runs, place), colo.kills(runs, place)
    costs.to_csv(place / "costs.csv", index=False)
    struck.to_csv(place / "kills.csv", index=False)
    console.print("\n[bold]While nothing fails[/bold]")
    console.print(report.costs_table(costs).to_string(index=False), soft_wrap=True)
    console.print(report.reasons_table(costs).to_string(index=False), soft_wrap=True)
    written = ["costs.csv", "kills.csv", "colo.md"]
    if len(struck):
        console.print("\n[bold]When the primary's host is killed[/bold]")
        console.print(report.kills_table(struck).to_string(index=False), soft_wrap=True)
        report.gaps_figure(struck).save(place / "gaps")
        written.append("gaps.svg")
    about = output.about(place / each.folder for each in runs if each.design != "unprotected")
    page = report.markdown(costs, struck, about, failures)
    (place / "colo.md").write_text(page, "utf-8")
    for failure in failures:
        console.print(f"[bold]could not be done:[/bold] {failure}", soft_wrap=True)
    console.print(f"\nwritten in {place}: {', '.join(written)}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
