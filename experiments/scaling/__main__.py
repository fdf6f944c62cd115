"""``python -m experiments.scaling``: clients and vCPUs."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pandas as pd

from experiments import output, scaling
from experiments.scaling import figures

#: column of the summary -> title, and how its numbers are written
_SHOWN = {
    "throughput_per_s": ("requests a second", ".0f"),
    "kept": ("throughput, as part of that without protection", ".2f"),
    "latency_mean_ms": ("mean latency, ms", ".3g"),
    "checkpoints_per_s": ("checkpoints a second", ".3g"),
}


@click.command()
@output.out_option("scaling")
@click.option("--full", is_flag=True, help="More clients, more vCPUs: some five times as long.")
@output.replications_option(4, "point")
@output.seed_option
@output.jobs_option
def main(out: str, full: bool, replications: int | None, seed: int, jobs: int | None) -> None:
    """What none, Remus and COLO leave of a service as clients and vCPUs grow.

    Points that are in the directory already are not run again.
    """
    results = output.Results(out)
    grid = scaling.FULL if full else scaling.QUICK
    table = scaling.run(results.place / "runs", grid, replications, seed, jobs)
    summary = scaling.summary(table)
    runs = int(table["replication"].max()) + 1
    page = "\n\n".join(
        [
            f"Seed {seed}, {runs} replications; ±: half of a 95 % interval.",
            *_tables(summary),
            "COLO minus Remus, requests a second, 95 % intervals (paired):\n\n"
            + output.markdown_table(_ahead(scaling.better(table)), "vCPUs"),
        ]
    )
    results.page("scaling", page)
    results.table("scaling", table)
    results.figure("scaling", figures.draw(summary))
    results.told()


def _tables(summary: pd.DataFrame) -> Iterator[str]:
    for name, (title, how) in _SHOWN.items():
        rows = summary[summary["policy"] != "none"] if name == "kept" else summary
        if name == "checkpoints_per_s":
            rows = rows[rows["policy"] == "colo"]
        half = (rows[f"{name}_high"] - rows[f"{name}_low"]) / 2
        text = [f"{mean:{how}} ± {of:.2g}" for mean, of in zip(rows[name], half, strict=True)]
        named = [
            f"{policy}, {vcpus} vCPU{'s' * (vcpus > 1)}"
            for policy, vcpus in zip(rows["policy"], rows["vcpus"], strict=True)
        ]
        wide = rows.assign(text=text, who=named).pivot(
            index="who", columns="clients", values="text"
        )
        wide = wide.loc[list(dict.fromkeys(named))]
        yield f"{title}, by clients:\n\n{output.markdown_table(wide, 'clients')}"


def _ahead(found: pd.DataFrame) -> pd.DataFrame:
    text = [
        f"{ahead:+.0f} ({low:+.0f} to {high:+.0f})"
        for ahead, low, high in found[["ahead", "low", "high"]].itertuples(index=False)
    ]
    return found.assign(text=text).pivot(index="vcpus", columns="clients", values="text")


if __name__ == "__main__":
    main()
