"""``python -m experiments.storm``: tables and a figure."""

from __future__ import annotations

import click
import pandas as pd
from rich.table import Table

from experiments import output, storm
from experiments.storm import figures

_QUICK = {"replications": 2, "bursts": (1, 8, 32), "gaps_us": (10, 300, 1000)}


@click.command()
@output.out_option("storm")
@click.option("--quick", is_flag=True, help="2 replications instead of 8, and fewer places.")
@output.seed_option
def main(out: str, quick: bool, seed: int) -> None:
    """False mismatches of UDP bursts, by QEMU's rules of comparison and by colosim's."""
    results = output.Results(out)
    table = storm.run(**_QUICK if quick else {}, seed=seed)  # type: ignore[arg-type]
    console = results.console
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
    results.table("storm", table)
    results.table("leads", leads)
    results.figure("storm", figures.draw(table))
    results.told()


def printed(rows: pd.DataFrame, metric: str, title: str, place: str) -> Table:
    """A metric by where it was measured."""
    return output.means_table(rows[rows["metric"] == metric], "at", title, place, ".3g")


if __name__ == "__main__":
    main()
