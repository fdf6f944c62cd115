"""``python -m experiments.webserver``: tables, figures and what they support."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from experiments import webserver
from experiments.webserver import figures, report

_LEGEND = """\
COLO p=: the chance that a response differs; h=: the rate at which the guests' states part;
1.5 s: checkpoint at the latest then, otherwise after 5 s. Remus: interval.
memory: "extrapolated" where an exposure was longer than the 1.6 s that the curve was measured for,
"scaled" where the load is not the measured one (README.md says how)."""


@click.command()
@click.option("--out", default="out/webserver", show_default=True, help="Directory for results.")
@click.option("--quick", is_flag=True, help="3 replications instead of 8 and 5.")
@click.option("--seed", default=1, show_default=True, help="What all chance comes from.")
def main(out: str, quick: bool, seed: int) -> None:
    """None, Remus and COLO beside each other on the measured curves of redis and nginx."""
    directory = Path(out)
    directory.mkdir(parents=True, exist_ok=True)
    tables = webserver.run(replications=3 if quick else None, seed=seed)

    console = Console(width=None if Console().is_terminal else 150)
    for table in report.printed(tables.summary):
        console.print(table)
    console.print(_LEGEND, highlight=False)
    console.print("\nPaired differences, 95 % intervals that leave out zero:")
    for finding in report.findings(tables):
        console.print(f"  {finding}", highlight=False)

    for name in ("metrics", "summary"):
        getattr(tables, name).to_csv(directory / f"{name}.csv", index=False)
    figures.latency(tables.responses).save(directory / "latency.svg")
    figures.saturation(tables.metrics).save(directory / "saturation.svg")
    figures.costs(tables.summary).save(directory / "costs.svg")
    console.print(f"\ntables: {directory}/summary.csv, metrics.csv", highlight=False)
    console.print(f"figures (svg, png): {directory}/latency, saturation, costs", highlight=False)


if __name__ == "__main__":
    main()
