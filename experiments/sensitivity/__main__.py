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
@output.out_option("sensitivity")
@click.option(
    "--points",
    default=128,
    show_default=True,
    type=click.IntRange(8),
    callback=_power,
    help="Base points, a power of 2; nine times as many are simulated.  1024 is a full run.",
)
@output.replications_option(2, "point")
@output.seed_option
@output.jobs_option
def main(out: str, points: int, replications: int | None, seed: int, jobs: int | None) -> None:
    """Sobol indices of what COLO costs, with bootstrap intervals.

    Points that are in the directory already are not run again.
    """
    results = output.Results(out)
    try:
        table = sensitivity.run(results.place / "runs", points, replications, seed, jobs)
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
    results.page("sensitivity", "\n\n".join(parts))
    results.table("points", table)
    results.table("indices", found)
    results.figure("indices", figures.draw(found))
    design = sensitivity.sample(points, seed)
    results.figure("effects", figures.effects(sensitivity.main_effects(table, design)))
    results.told()


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
