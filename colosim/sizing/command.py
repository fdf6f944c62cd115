"""The command ``colosim size``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from colosim import __version__
from colosim.showing import Place, say, shown

if TYPE_CHECKING:
    from colosim.sizing.answer import Sizing


def _times(context: click.Context, parameter: click.Parameter, text: str) -> list[float]:
    """Times with units, separated by commas."""
    from colosim.units import TIME, UnitError

    try:
        return [TIME.parse(each) / 1e9 for each in text.split(",")]
    except UnitError as error:
        raise click.BadParameter(f"{text}: {error}", context, parameter) from None


def _names(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
    return None if text is None else [each.strip() for each in text.split(",")]


def _offset(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
    if text in (None, "auto"):
        return text
    sign = -1 if text.startswith("-") else 1
    return sign * _times(context, parameter, text.removeprefix("-"))[0]


@click.command(
    epilog='Example: colosim size p.pcap s.pcap --dirty-rate "40 MiB/s" --memory "2 GiB"'
)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...", type=click.Path())
@click.option(
    "--dirty-rate",
    "dirty_rate",
    multiple=True,
    metavar="RATE",
    help='Distinct bytes, "40 MiB/s" (over 1 s) or "90 MiB/s over 100 ms".',
)
@click.option("--dirty-csv", metavar="FILE", help="A table: interval_ms, dirty_pages.")
@click.option("--qmp", metavar="SOCKET", help="Ask a running VM: QEMU's calc-dirty-rate.")
@click.option(
    "--qmp-mode",
    type=click.Choice(["page-sampling", "dirty-bitmap", "dirty-ring"]),
    default="page-sampling",
    metavar="MODE",
    help="page-sampling; dirty-bitmap, dirty-ring: with KVM.",
)
@click.option(
    "--qmp-times",
    "qmp_times_s",
    metavar="TIMES",
    callback=_times,
    default="1 s,2 s,4 s",
    show_default=True,
    help="Over how long; parts of a second need QEMU 8.2.",
)
@click.option("--memory", metavar="SIZE", help='The guest\'s RAM, "2 GiB".')
@click.option("--link", metavar="BANDWIDTH[,DELAY]", help='Between the hosts, "10 Gbit/s,50 us".')
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help='A field, "workload.rate=200 /s".',
)
@click.option(
    "--goal",
    type=click.Choice(["p99", "p50", "capacity"]),
    default="p99",
    show_default=True,
    help="What is to be small; capacity: the time that the guest stands still.",
)
@click.option("--policies", metavar="NAMES", callback=_names, help="What to try; default all.")
@click.option(
    "--intervals",
    metavar="TIMES",
    callback=_names,
    help="Of remus and microcheckpoint; default 25 ms,100 ms,400 ms.",
)
@click.option("--offset", "offset_s", metavar="TIME", callback=_offset, help="As compare-pcap.")
@click.option("--guest", metavar="MAC", help="As compare-pcap.")
@click.option("--quick", is_flag=True, help="Fewer and shorter runs.")
@click.option("--seed", metavar="N", type=click.IntRange(0, 2**63 - 1), help="Of all chance.")
@click.option("--replications", metavar="N", type=click.IntRange(2), help="Of each candidate.")
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="To write; new, empty, or an older one.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--jobs", metavar="N", type=click.IntRange(1), help="Processes; default all cores.")
def size(sources: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Say what protection will cost a service, which policy to choose, and how sure that is.

    SOURCE is what you have: directories of 'colosim live', logs of a genuine QEMU pair, two
    captures (the primary's first), a scenario; or several of them. Captures need a dirty rate too.
    What no source says is assumed, with a range, and it is said what hangs on it.
    """
    from colosim.sizing import SizingError
    from colosim.sizing import size as run

    given = {key: value for key, value in options.items() if value is not None}
    if not sources and not given["dirty_rate"] and not {"dirty_csv", "qmp"} & given.keys():
        raise SizingError(
            "nothing to size from; give a scenario, runs, logs or captures, or a dirty rate"
        )
    sized = partial(run, *sources, say=say, **given)
    return shown(sized, _show_json if as_json else _show, options["out"])


def _show(found: Sizing, place: Place) -> None:
    import sys

    from rich.console import Console

    from colosim.sizing import report

    report.show(found, Console(width=None if sys.stdout.isatty() else report.WIDTH))
    click.echo(f"\nfingerprint {found.fingerprint}")
    click.echo(place.words)


def _show_json(found: Sizing, place: Place) -> None:
    import json

    body = {"colosim": __version__, **found.to_mapping(), "out": place.out}
    click.echo(json.dumps(body, allow_nan=False))
