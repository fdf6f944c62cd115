"""``python -m experiments.sensitivity``: which inputs COLO's overhead comes from."""

from __future__ import annotations

import click
import pandas as pd

from colosim.store import StoreError
from experiments import output, sensitivity
from experiments.sensitivity import figures


def _power(context: click.Context, parameter: click.Parameter, value: int) -> int:
    if value & (value - 1):
        near = 1 << value.bit_length() - 1
        raise click.BadParameter(f"{value} is no power of 2; give {near} or {2 * near}")
    return value


@click.command()
@click.option("--out", default="out/sensitivity", show_default=True, help="Directory for results.")
@click.option(
    "--points",
    default=128,
    show_default=True,
    type=click.IntRange(8),
    callback=_power,
    help="Base points, a power of 2; nine times as many are simulated.  1024 is a full run.",
)
@click.option("--replications", type=click.IntRange(2), help="Runs of each point; default 2.")
@click.option("--seed", default=1, show_default=True, help="What all chance comes from.")
@click.option("--jobs", type=click.IntRange(1), help="Worker processes; default all cores.")
def main(out: str, points: int, replications: int | None, seed: int, jobs: int | None) -> None:
    """Sobol indices of what COLO costs, with bootstrap intervals.

    Points that are in the directory already are not run again.
    """
    directory = output.directory(out)
    try:
        table = sensitivity.run(directory / "runs", points, replications, seed, jobs)
    except StoreError as error:
        raise output.Unusable(str(error)) from None
    found = sensitivity.indices(table, seed=seed)
    runs = int(table["replication"].max()) + 1
    parts = [
        f"Seed {seed}, {points} base points ({table['point'].nunique()} simulated, "
        f"{runs} replications each); in brackets: bootstrap intervals, 95 %.",
    ]
    noise = sensitivity.noise(table)
    for name, meaning in sensitivity.OUTPUTS.items():
        rows = found[found["output"] == name]
        parts.append(
            f"{meaning} (chance left in the means: {noise[name]:.1%} of the variance):\n\n"
            + output.markdown_table(_texts(rows), "input")
        )
    page = "\n\n".join(parts)
    output.console().print(page, soft_wrap=True, markup=False)
    (directory / "sensitivity.md").write_text(page + "\n", "utf-8")
    table.to_csv(directory / "points.csv", index=False)
    found.to_csv(directory / "indices.csv", index=False)
    figures.draw(found).save(directory / "indices.svg")
    design = sensitivity.sample(points, seed)
    figures.effects(sensitivity.main_effects(table, design)).save(directory / "effects.svg")
    output.console().print(
        f"\nwritten in {directory}: sensitivity.md, points.csv, indices.csv; "
        "figures (svg, png): indices, effects",
        soft_wrap=True,
    )


def _texts(rows: pd.DataFrame) -> pd.DataFrame:
    shown = {}
    for order, title in (("first", "alone (first order)"), ("total", "with others (total)")):
        shown[title] = [
            f"{value:.2f} ({low:.2f} to {high:.2f})"
            for value, low, high in rows[[order, f"{order}_low", f"{order}_high"]].itertuples(
                index=False
            )
        ]
    return pd.DataFrame(shown, index=pd.Index(rows["input"]))


if __name__ == "__main__":
    main()
