"""``python -m experiments.policy_map``: which policy wins where."""

from __future__ import annotations

import click

from colosim.store import StoreError
from colosim.sweeps import SweepError
from experiments import output, policy_map
from experiments.policy_map import figures, report


@click.command()
@click.option("--out", default="out/policy_map", show_default=True, help="Directory for results.")
@click.option(
    "--full", is_flag=True, help="A finer grid, and a faster link: some six times as long."
)
@click.option("--replications", type=click.IntRange(2), help="Runs of each cell; default 8.")
@click.option("--seed", default=1, show_default=True, help="What all chance comes from.")
@click.option("--jobs", type=click.IntRange(1), help="Worker processes; default all cores.")
def main(out: str, full: bool, replications: int | None, seed: int, jobs: int | None) -> None:
    """Which policy costs clients least, by dirty rate, divergence rate and link.

    Cells that are in the directory already are not run again.
    """
    directory = output.directory(out)
    grid = policy_map.FULL if full else policy_map.QUICK
    try:
        table = policy_map.run(directory / "runs", grid, replications, seed, jobs)
    except (SweepError, StoreError) as error:
        raise output.Unusable(str(error)) from None
    runs = int(table["replication"].max()) + 1
    page = report.page(table, f"Seed {seed}, {runs} replications.")
    output.console().print(page, soft_wrap=True, markup=False)
    (directory / "policy_map.md").write_text(page, "utf-8")
    table.to_csv(directory / "policy_map.csv", index=False)
    for metric in policy_map.METRICS:
        if len(policy_map.contest(table, metric)):
            figures.draw(table, metric).save(directory / f"{metric}.svg")
    output.console().print(f"written in {directory}: policy_map.md, policy_map.csv", soft_wrap=True)
    output.console().print(f"figures (svg, png): {', '.join(policy_map.METRICS)}")


if __name__ == "__main__":
    main()
