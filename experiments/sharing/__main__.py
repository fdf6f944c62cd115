"""``python -m experiments.sharing``: a table and a figure."""

from __future__ import annotations

import click
import pandas as pd
from rich import box
from rich.table import Table

from colosim.analysis.stats import interval
from experiments import output, sharing
from experiments.sharing import figures

_QUICK = {"replications": 2, "vms": (1, 4, 12)}
_SHOWN = {
    "pause_mean_ms": "mean pause, ms",
    "throughput_per_s": "requests a second of each VM",
    "latency_mean_ms": "mean latency, ms",
    "checkpoints_per_s": "checkpoints a second of each VM",
    "worst_vm_share": "throughput of the worst VM, mean = 1",
    "link_share": "use of the link, both ways, one way = 1",
}


@click.command()
@click.option("--out", default="out/sharing", show_default=True, help="Directory for results.")
@click.option("--quick", is_flag=True, help="2 replications instead of 5, and fewer VMs.")
@click.option("--seed", default=1, show_default=True, help="What all chance comes from.")
def main(out: str, quick: bool, seed: int) -> None:
    """Pauses and throughput over the number of protected VMs on one host."""
    directory = output.directory(out)
    table = sharing.run(**_QUICK if quick else {}, seed=seed)  # type: ignore[arg-type]
    console = output.console()
    for metric, title in _SHOWN.items():
        console.print(printed(table, metric, title))
    table.to_csv(directory / "sharing.csv", index=False)
    figures.draw(table).save(directory / "sharing.svg")
    console.print(f"table: {directory}/sharing.csv; figure (svg, png): sharing")


def printed(table: pd.DataFrame, metric: str, title: str) -> Table:
    """A row for each number of VMs, a column for each condition: mean ± half of its interval."""
    rows = table[(table["metric"] == metric) & table["value"].notna()]
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    made.add_column("VMs", justify="right")
    conditions = list(rows["condition"].unique())
    for condition in conditions:
        made.add_column(condition, justify="right", no_wrap=True)
    for vms, here in rows.groupby("vms"):
        cells = []
        for condition in conditions:
            _, mean, _, high = interval(here.loc[here["condition"] == condition, "value"])
            cells.append(f"{mean:.4g} ± {high - mean:.2g}")
        made.add_row(str(vms), *cells)
    return made


if __name__ == "__main__":
    main()
