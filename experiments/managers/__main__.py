"""``python -m experiments.managers``: tables and two figures."""

from __future__ import annotations

import click
import pandas as pd

from experiments import managers, output
from experiments.managers import figures

_QUICK_SETTINGS = managers.settings((100,), (1.5, 4.5), (0, 300))
_HEAVY_SETTINGS = managers.settings((100,), graces_ms=(0, 300))


@click.command()
@click.option("--out", default="out/managers", show_default=True, help="Directory for results.")
@click.option("--quick", is_flag=True, help="Few runs, and fewer settings.")
@click.option("--seed", default=1, show_default=True, help="What all chance comes from.")
@click.option("--jobs", type=int, help="Worker processes; default all cores.")
def main(out: str, quick: bool, seed: int, jobs: int | None) -> None:
    """How soon a failure is noticed against false failovers, and split brain by arbiter."""
    directory = output.directory(out)
    if quick:
        detected = managers.detection(6, _QUICK_SETTINGS, seed, jobs)
        heavy = managers.detection(6, _QUICK_SETTINGS, seed, jobs, "pareto")
        losses = managers.losses(2, 60, (0.3,), (2.5, 3.5), seed, jobs)
        arbitrated = managers.arbiters(1, seed=seed, jobs=jobs)
    else:
        detected = managers.detection(seed=seed, jobs=jobs)
        heavy = managers.detection(200, _HEAVY_SETTINGS, seed, jobs, "pareto")
        losses = managers.losses(seed=seed, jobs=jobs)
        arbitrated = managers.arbiters(seed=seed, jobs=jobs)
    curve, table = managers.curve(detected), managers.table_of(arbitrated)
    console = output.console()
    for title, shown in (
        ("detection time against false failovers", curve),
        ("the same with blips of a heavy tail (Pareto)", managers.curve(heavy)),
        ("heartbeats lost one by one", losses),
        ("arbiters", table),
    ):
        console.print(f"{title}:")
        console.print(_text(shown), soft_wrap=True, highlight=False)
        console.print()
    detected.to_csv(directory / "detection.csv", index=False)
    heavy.to_csv(directory / "detection-pareto.csv", index=False)
    losses.to_csv(directory / "losses.csv", index=False)
    arbitrated.to_csv(directory / "arbiters.csv", index=False)
    figures.draw_detection(curve, losses, managers.curve(heavy)).save(directory / "detection.svg")
    figures.draw_arbiters(table).save(directory / "arbiters.svg")
    console.print(
        f"tables: {directory}/detection.csv, detection-pareto.csv, losses.csv, arbiters.csv"
    )
    console.print("figures (svg, png): detection, arbiters")


def _text(table: pd.DataFrame) -> str:
    return table.to_string(index=False, float_format=lambda value: f"{value:.3g}")


if __name__ == "__main__":
    main()
