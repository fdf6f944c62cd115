"""``python -m experiments.disk``: three tables and two figures."""

from __future__ import annotations

import click
import pandas as pd
from rich import box
from rich.table import Table

from experiments import disk, output
from experiments.disk import figures


@click.command()
@output.out_option("disk")
@click.option("--quick", is_flag=True, help="2 replications instead of the scenario's.")
@click.option("--seed", type=int, help="What all chance comes from, instead of the scenario's.")
@click.option("--jobs", type=int, help="Processes; default one for each core.")
def main(out: str, quick: bool, seed: int | None, jobs: int | None) -> None:
    """What a replicated disk costs, how its overlays grow, what a takeover takes."""
    results = output.Results(out)
    console = results.console
    replications = 2 if quick else None

    appends = disk.appends(replications, seed, jobs)
    table = Table(title="append of 512 B and flush, p50, ms", title_justify="left")
    for heading in ("", "measured (LR 6)", "simulated", "basis", "error"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in appends.to_dict("records"):
        error = row["mean"] / row["measured_ms"] - 1
        table.add_row(
            row["condition"],
            f"{row['measured_ms']:.1f}",
            f"{row['mean']:.2f} ± {row['ci_high'] - row['mean']:.2f}",
            row["basis"],
            f"{error:+.0%}",
        )
    console.print(table)

    growth = disk.growth(replications, seed, jobs)
    keys = ["policy", "pattern", "interval_ms"]
    wide = growth.pivot(index=keys, columns="metric", values="mean").reset_index()
    table = Table(title="overlays and latency", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("policy", "pattern"):
        table.add_column(heading)
    for heading in ("interval", "epoch", "hidden", "closed form", "active", "p50", "p99"):
        table.add_column(heading, justify="right")
    base = disk.scenario()
    for row in wide.to_dict("records"):
        policy, pattern, interval_ms = (row[key] for key in keys)
        is_uniform = policy != "none" and pattern == "uniform"
        form = disk.touched_bytes(base, row["epoch_ms"]) / 1024 if is_uniform else None
        cells = (row.get("epoch_ms"), row.get("hidden_overlay_mean_KiB"), form)
        more = (row.get("active_overlay_mean_KiB"), row["latency_p50_ms"], row["latency_p99_ms"])
        texts = ["–" if pd.isna(value) else f"{value:.1f}" for value in (*cells, *more)]
        at = "–" if pd.isna(interval_ms) else f"{interval_ms:.0f}"
        table.add_row(policy, pattern, at, *texts)
    console.print(table)
    console.print("ms and KiB; the closed form is that of an epoch as long as it was\n")

    takeovers = disk.takeover(replications, seed, jobs)
    means = takeovers.groupby("killed_ms").mean().drop(columns="replication").reset_index()
    table = Table(title="takeover, means", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("killed after", "overlays, MiB", "commit", "clients' gap", "until it runs"):
        table.add_column(heading, justify="right")
    for row in means.to_dict("records"):
        mib = row["overlay_bytes"] / 2**20
        values = (mib, row["commit_ms"], row["gap_ms"], row["blocked_ms"])
        table.add_row(f"{row['killed_ms']:.0f}", *(f"{value:.1f}" for value in values))
    console.print(table)

    for name, frame in (("appends", appends), ("growth", growth), ("takeover", takeovers)):
        results.table(name, frame)
    results.figure("costs", figures.costs(growth))
    results.figure("takeovers", figures.takeovers(takeovers))
    results.told()


if __name__ == "__main__":
    main()
