"""``python -m experiments.policy_map``: which policy wins where."""

from __future__ import annotations

import click

from experiments import output, policy_map
from experiments.policy_map import figures, report


@click.command()
@output.out_option("policy_map")
@click.option(
    "--full", is_flag=True, help="A finer grid, and a faster link: some six times as long."
)
@output.replications_option(8, "cell")
@output.seed_option
@output.jobs_option
def main(out: str, full: bool, replications: int | None, seed: int, jobs: int | None) -> None:
    """Which policy costs clients least, by dirty rate, divergence rate and link.

    Cells that are in the directory already are not run again.
    """
    results = output.Results(out)
    grid = policy_map.FULL if full else policy_map.QUICK
    table = policy_map.run(results.place / "runs", grid, replications, seed, jobs)
    runs = int(table["replication"].max()) + 1
    results.page("policy_map", report.page(table, f"Seed {seed}, {runs} replications."))
    results.table("policy_map", table)
    for metric in policy_map.METRICS:
        if len(policy_map.contest(table, metric)):
            results.figure(metric, figures.draw(table, metric))
    results.told()


if __name__ == "__main__":
    main()
