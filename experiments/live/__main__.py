"""``python -m experiments.live [--out DIR]``: kill a real guest's host, see what clients see."""

from __future__ import annotations

from pathlib import Path

import click

from backends.qemu.errors import LiveError
from experiments import live
from experiments.output import console, directory


@click.command()
@click.option("--out", default="out/live", show_default=True, help="Where to write.")
def main(out: str) -> None:
    """Run it, print what happened, draw it."""
    screen = console()
    place = directory(out)
    screen.print("\n[bold]A real guest, its clients, and the end of its primary's host[/bold]")
    try:
        result = live.run(place / "run", lambda text: screen.print(f"  {text}"))
    except LiveError as error:
        screen.print(f"  not shown, for this machine cannot run it: {error}")
        return
    for table in result.readable():
        screen.print(f"\n{table.to_string()}")
    screen.print(f"\n{live.phases(result).round(2).to_string(index=False)}\n")
    for event in result.records[0].events:
        at_s = event["at_ns"] / 1e9
        said = f"  {at_s:9.3f} s  {event['node']:<10}{event['what']:<10}{event['detail']}"
        screen.print(said, markup=False)
    paths = live.figure(result).save(Path(place, "takeover"))
    for path in (*paths, place / "run"):
        screen.print(f"written: {path}")


if __name__ == "__main__":
    main()
