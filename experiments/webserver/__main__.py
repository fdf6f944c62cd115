"""``python -m experiments.webserver``: tables, figures and what they support."""

from __future__ import annotations

import click

from experiments import output, webserver
from experiments.webserver import figures, report

_LEGEND = """\
±: half of a 95 % interval over replications. Remus: its interval.
All on link: both ways, over the whole run; with COLO the secondary's responses too.
COLO p=: the chance that a response differs; h=: the rate at which the guests' states part;
1.5 s: checkpoint at the latest then, otherwise after 5 s.
memory: "extrapolated" where an exposure was longer than the 1.6 s that the curve was measured for,
"scaled" where the load is not the measured one (README.md says how)."""


@click.command()
@output.out_option("webserver")
@click.option("--quick", is_flag=True, help="2 replications instead of 8 and 4.")
@output.seed_option
def main(out: str, quick: bool, seed: int) -> None:
    """None, Remus and COLO beside each other on the measured curves of redis and nginx."""
    results = output.Results(out)
    tables = webserver.run(replications=2 if quick else None, seed=seed)

    console = results.console
    for table in report.printed(tables.summary):
        console.print(table)
    console.print(_LEGEND)
    console.print("\nDifferences from the first named, 95 % intervals paired by replication:")
    for finding in report.findings(tables.metrics):
        console.print(f"- {finding}", soft_wrap=True)

    for name in ("metrics", "summary"):
        results.table(name, getattr(tables, name))
    results.figure("latency", figures.latency(tables.responses))
    results.figure("saturation", figures.saturation(tables.metrics))
    results.figure("costs", figures.costs(tables.summary))
    results.told()


if __name__ == "__main__":
    main()
