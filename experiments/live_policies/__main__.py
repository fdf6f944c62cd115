"""``python -m experiments.live_policies``: the policies on real guests, one short run each."""

from __future__ import annotations

import sys

import click
import pandas as pd

from colosim.analysis.plots import latency_cdf
from colosim.protocol.policies import POLICIES
from experiments import live_policies, output


@click.command()
@output.out_option("live_policies")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(list(POLICIES)),
    help="One to run; may be given again.  Default: none, remus, microcheckpoint, colo, hybrid.",
)
@click.option("--turns", default=1, show_default=True, help="Runs of each policy.")
@click.option("--length", default=6, show_default=True, type=click.IntRange(3), help="Of each, s.")
@click.option("--seed", default=1, show_default=True, help="Of the clients.")
def main(out: str, policies: tuple[str, ...], turns: int, length: int, seed: int) -> None:
    """What clients of a real guest notice of each policy.

    A run that is in the directory already is not run again.  Without QEMU nothing is run, and
    the reason is said.
    """
    results = output.Results(out)
    place, console = results.place, results.console
    runs = live_policies.plan(policies or live_policies.POLICIES, turns, length, seed)
    failures = live_policies.run(runs, place, results.say)
    summary = live_policies.summary(runs, place)
    for failure in failures:
        console.print(f"could not be run: {failure}", soft_wrap=True, markup=False)
    if summary.empty:
        console.print("nothing is shown, for this machine could run none of it")
        return
    about = output.about(place / each.folder for each in runs if each.policy != "none")
    parts = [
        output.markdown_table(_texts(summary), "policy"),
        "±: half of a 95 % interval, from batch means.",
        "\n".join(f"* {key}: {value}" for key, value in about.items()),
    ]
    results.page("live_policies", output.page(parts, failures))
    results.table("summary", summary)
    results.figure("latency", latency_cdf(live_policies.latencies(runs, place), tail=True))
    results.told()
    sys.exit(1 if failures else 0)


def _texts(summary: pd.DataFrame) -> pd.DataFrame:
    shown = {}
    for name, title in (("throughput_per_s", "requests/s"), ("latency_mean_ms", "mean, ms")):
        half = (summary[f"{name}_high"] - summary[f"{name}_low"]) / 2
        shown[title] = [f"{m:.1f} ± {h:.1f}" for m, h in zip(summary[name], half, strict=True)]
    for name, title in (
        ("latency_p50_ms", "p50, ms"),
        ("latency_p99_ms", "p99, ms"),
        ("checkpoints_per_s", "checkpoints/s"),
        ("pause_ms", "pause, ms"),
        ("pages", "pages"),
    ):
        shown[title] = ["–" if pd.isna(value) else f"{value:.3g}" for value in summary[name]]
    shown["checkpoints for"] = list(summary["reasons"])
    return pd.DataFrame(shown, index=pd.Index(summary["policy"]))


if __name__ == "__main__":
    main()
