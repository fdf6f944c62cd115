"""``python -m experiments.dialects``: the table and the figure."""

from __future__ import annotations

import click
from rich import box
from rich.table import Table

from experiments import dialects, output

_TEXTS = {
    "cut_to_release_ms": "cut to release, ms",
    "release_to_resume_ms": "release to resume, ms",
    "pause_ms": "pause, ms",
    "latency_mean_ms": "mean latency, ms",
    "latency_p99_ms": "p99 latency, ms",
    "checkpoints_per_s": "checkpoints, 1/s",
    "throughput_per_s": "responses, 1/s",
}


@click.command()
@output.out_option("dialects")
@click.option("--quick", is_flag=True, help="2 replications instead of the scenario's.")
@click.option("--seed", type=int, help="What all chance comes from, instead of the scenario's.")
def main(out: str, quick: bool, seed: int | None) -> None:
    """The wire dialects rfc2014 and upstream beside each other on one workload."""
    results = output.Results(out)
    comparisons = dialects.run(2 if quick else None, seed)
    summary = dialects.summary(comparisons)

    console = results.console
    for policy, rows in summary.groupby("policy", sort=False):
        table = Table(title=f"redis, {policy}", title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("")
        for heading in (*dialects.DIALECTS, "rfc2014 - upstream"):
            table.add_column(heading, justify="right")
        for row in rows.to_dict("records"):
            cells = [
                f"{row[name]:.2f} ± {row[f'{name}_high'] - row[name]:.2f}"
                for name in dialects.DIALECTS
            ]
            cells.append(f"{row['diff']:.3f} ± {row['diff_high'] - row['diff']:.3f}")
            table.add_row(_TEXTS[row["metric"]], *cells)
        console.print(table)
    console.print("±: half of a 95 % interval over replications; differences are paired.")
    results.table("summary", summary)
    results.figure("checkpoint", dialects.figure(summary))
    results.told()


if __name__ == "__main__":
    main()
