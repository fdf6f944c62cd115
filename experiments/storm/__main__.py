"""``python -m experiments.storm``: tables and a figure."""

from __future__ import annotations

import click
import pandas as pd
from rich import box
from rich.table import Table

from colosim.analysis.stats import interval
from experiments import output, storm
from experiments.storm import figures

_QUICK = {"replications": 2, "bursts": (1, 8, 32), "gaps_us": (10, 300, 1000)}


@click.command()
@click.option("--out", default="out/storm", show_default=True, help="Directory for results.")
@click.option("--quick", is_flag=True, help="2 replications instead of 8, and fewer places.")
@click.option("--seed", default=1, show_default=True, help="What all chance comes from.")
def main(out: str, quick: bool, seed: int) -> None:
    """False mismatches of UDP bursts, by QEMU's rules of comparison and by colosim's."""
    directory = output.directory(out)
    table = storm.run(**_QUICK if quick else {}, seed=seed)  # type: ignore[arg-type]
    console = output.console()
    bursts, gaps = (table[table["sweep"] == sweep] for sweep in ("burst", "gap"))
    console.print(printed(bursts, "checkpoints_per_s", "checkpoints a second", "datagrams"))
    console.print(printed(bursts, "goodput_mbit_per_s", "goodput, Mbit/s", "datagrams"))
    console.print(printed(bursts, "goodput_share", "goodput, none = 1", "datagrams"))
    console.print(printed(bursts, "latency_mean_ms", "mean latency, ms", "datagrams"))
    console.print(printed(gaps, "false_share", "bursts of eight that made a checkpoint", "gap, us"))
    chances = [f"{us}: {storm.lead_chance(us):.3f}" for us in gaps["at"].unique()]
    console.print(f"chance that the primary leads by a gap (us): {', '.join(chances)}\n")
    leads = storm.leads()
    wide = leads.pivot(index="ahead", columns="condition", values="mismatches")
    console.print("mismatches of one burst of eight, by how many the primary is ahead:")
    console.print(wide[leads["condition"].unique()].to_string())
    table.to_csv(directory / "storm.csv", index=False)
    leads.to_csv(directory / "leads.csv", index=False)
    figures.draw(table).save(directory / "storm.svg")
    console.print(f"\ntables: {directory}/storm.csv, leads.csv; figure (svg, png): storm")


def printed(rows: pd.DataFrame, metric: str, title: str, place: str) -> Table:
    """A row for each place, a column for each condition: mean ± half of its 95 % interval."""
    rows = rows[rows["metric"] == metric]
    conditions = list(rows["condition"].unique())
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column(place, justify="right")
    for condition in conditions:
        table.add_column(condition, justify="right", no_wrap=True)
    for at, here in rows.groupby("at"):
        cells = []
        for condition in conditions:
            _, mean, _, high = interval(here.loc[here["condition"] == condition, "value"])
            cells.append(f"{mean:.3g} ± {high - mean:.2g}")
        table.add_row(str(at), *cells)
    return table


if __name__ == "__main__":
    main()
