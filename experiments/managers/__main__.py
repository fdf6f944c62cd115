"""``python -m experiments.managers``: tables and two figures."""

from __future__ import annotations

import click
import pandas as pd

from experiments import managers, output
from experiments.managers import figures

_QUICK_SETTINGS = managers.settings((100,), (1.5, 4.5), (0, 300))
_HEAVY_SETTINGS = managers.settings((100,), graces_ms=(0, 300))


@click.command()
@output.out_option("managers")
@click.option("--quick", is_flag=True, help="Few runs, and fewer settings.")
@output.seed_option
@output.jobs_option
def main(out: str, quick: bool, seed: int, jobs: int | None) -> None:
    """How soon a failure is noticed against false failovers, and split brain by arbiter."""
    results = output.Results(out)
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
    console = results.console
    for title, shown in (
        ("detection time against false failovers", curve),
        ("the same with blips of a heavy tail (Pareto)", managers.curve(heavy)),
        ("heartbeats lost one by one", losses),
        ("arbiters", table),
    ):
        console.print(f"{title}:")
        console.print(_text(shown), soft_wrap=True, highlight=False)
        console.print()
    results.table("detection", detected)
    results.table("detection-pareto", heavy)
    results.table("losses", losses)
    results.table("arbiters", arbitrated)
    results.figure("detection", figures.draw_detection(curve, losses, managers.curve(heavy)))
    results.figure("arbiters", figures.draw_arbiters(table))
    results.told()


def _text(table: pd.DataFrame) -> str:
    return table.to_string(index=False, float_format=lambda value: f"{value:.3g}")


if __name__ == "__main__":
    main()
