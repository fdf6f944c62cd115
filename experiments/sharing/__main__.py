"""``python -m experiments.sharing``: a table and a figure."""

from __future__ import annotations

import click

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
@output.out_option("sharing")
@click.option("--quick", is_flag=True, help="2 replications instead of 5, and fewer VMs.")
@output.seed_option
def main(out: str, quick: bool, seed: int) -> None:
    """Pauses and throughput over the number of protected VMs on one host."""
    results = output.Results(out)
    table = sharing.run(**_QUICK if quick else {}, seed=seed)  # type: ignore[arg-type]
    for metric, title in _SHOWN.items():
        rows = table[(table["metric"] == metric) & table["value"].notna()]
        results.console.print(output.means_table(rows, "vms", title, "VMs", ".4g"))
    results.table("sharing", table)
    results.figure("sharing", figures.draw(table))
    results.told()


if __name__ == "__main__":
    main()
