"""Logs of a genuine QEMU pair as a source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from colosim.calibration.divergence import exact_interval
from colosim.protocol.types import Role
from colosim.sizing.basis import COSTS, UNPROMPTED, Basis, Unknown
from colosim.sizing.errors import SizingError
from colosim.sizing.sources.pages import grouped, take_points
from colosim.units import TIME


def logs(basis: Basis, primary: Path, secondary: Path | None = None) -> None:
    """Costs, dirty pages and differences of a genuine pair, from what its QEMUs logged."""
    from backends.qemu import qemu_log

    table = pd.DataFrame(qemu_log.phases(primary, secondary))
    source = str(primary)
    basis.sources.append(f"QEMU's log {primary}, {len(table)} checkpoints")
    epochs = _logged_epochs(primary)
    usable = [each for each in epochs if each.pages is not None and each.exposure_ns > 0]
    if len(usable) < 2:
        raise SizingError(
            f"{primary}: has {len(usable)} whole checkpoints with their dirty pages; log a pair "
            "for longer, with -trace enable=colo_* -trace enable=migration_bitmap_sync_*"
        )
    _logged_costs(basis, table, usable, source)
    points = grouped([(each.exposure_ns, float(each.pages or 0)) for each in usable])
    take_points(basis, points, "measured", source)
    _logged_differences(basis, epochs, source)
    if len(usable) < 30:
        basis.notes.append(f"{primary}: {len(usable)} checkpoints are few")


@dataclass(frozen=True, slots=True)
class _Epoch:
    """Of a logged checkpoint: from resume to stop before it, and its pages.

    spacing_ns: from request to request.
    """

    exposure_ns: int
    spacing_ns: int
    pages: int | None


def _logged_epochs(primary: Path) -> list[_Epoch]:
    """All but the first of each session, which has what the first synchronisation left."""
    from backends.qemu.qemu_log import part_of, sessions_of

    gained = _logged_pages(primary)
    found: list[_Epoch] = []
    for session in sessions_of(part_of(primary, Role.PRIMARY)):
        own: list[_Epoch] = []
        resumed_ns = session.ready.event.at_ns if session.ready else None
        asked_ns: int | None = None
        for exchange in session.checkpoints:
            stopped_ns = next((e.event.at_ns for e in exchange if e.what == "stop"), None)
            request_ns = exchange[0].event.at_ns
            counted = [gained[e.event.at_ns] for e in exchange if e.event.at_ns in gained]
            pages = sum(counted) if counted else None
            if resumed_ns is not None and stopped_ns is not None:
                spacing_ns = 0 if asked_ns is None else request_ns - asked_ns
                own.append(_Epoch(stopped_ns - resumed_ns, spacing_ns, pages))
            asked_ns = request_ns
            resumed_ns = next((e.event.at_ns for e in exchange if e.what == "start"), None)
        found += own[1:]
    return found


def _logged_pages(primary: Path) -> dict[int, int]:
    """When QEMU looked at its dirty log -> pages that are new since it did before.

    It logs what came since it began to count, which it does anew at the first look more than a
    second later, after it has logged the number.
    """
    from backends.qemu.qemu_log import read_log

    gained: dict[int, int] = {}
    counted, since_ns = 0, None
    for event in read_log(primary):
        if event.name == "migration_bitmap_sync_start" and since_ns is None:
            since_ns = event.at_ns
        if event.name != "migration_bitmap_sync_end" or not event.args.startswith("dirty_pages "):
            continue
        total = int(event.args.split()[1])
        gained[event.at_ns] = total - counted if total >= counted else total
        counted = total
        if since_ns is None or event.at_ns > since_ns + 1_000_000_000:
            counted, since_ns = 0, event.at_ns
    return gained


def _logged_costs(basis: Basis, table: pd.DataFrame, epochs: Sequence[_Epoch], source: str) -> None:
    """Phases of a genuine pair as costs: medians, for its pages are not those of each row."""
    median = table.filter(like="_ns").median()
    pages = max(float(np.median([each.pages for each in epochs if each.pages is not None])), 1.0)
    link_ns = float(TIME.parse(basis.mapping.get("link", {}).get("delay", "50 us")))
    rtt_ns = max(float(median["rtt_ns"]) - 2 * link_ns, 0.0)
    basis.forget("cost")
    rows = {
        "cost.quiesce_ns": (0.0, "in rtt"),
        "cost.stop_ns": (rtt_ns, "checkpoint-request to checkpoint-reply - the link"),
        "cost.find_pages_ns": (0.0, "in RAM's time"),
        "cost.save_fixed_ns": (float(median["device_save_ns"]), "device state"),
        "cost.save_per_page_ns": (float(median["ram_ns"]) / pages, "RAM's time over pages"),
        "cost.transfer_fixed_ns": (
            max(float(median["wait_received_ns"]) - link_ns, 0.0),
            "vmstate-size to vmstate-received",
        ),
        "cost.load_fixed_ns": (
            float(median["load_ns"]),
            "vmstate-received to vmstate-loaded",
        ),
        "cost.load_per_page_ns": (0.0, "in load"),
    }
    for key, (value, how) in rows.items():
        if math.isfinite(value):
            basis.put(key, value, "measured", f"{source}: {how}")
    parts = ("device_save_ns", "ram_ns", "wait_received_ns", "load_ns")
    rest_ns = float(median["pause_ns"]) - sum(float(median[part]) for part in parts)
    if math.isfinite(rest_ns):
        basis.put("cost.resume_ns", max(rest_ns, 0.0), "measured", f"{source}: rest of the pause")
    basis.knows.add("costs")
    basis.unknowns[COSTS] = Unknown(
        COSTS, 1.0, 0.8, 1.25, "assumed", "costs of a checkpoint, cut otherwise in QEMU's log"
    )


def _logged_differences(basis: Basis, epochs: Sequence[_Epoch], source: str) -> None:
    """Checkpoints sooner than the longest spacing, if that is one of several alike: were asked for.

    x-checkpoint-delay is the longest time between two; a log does not say what it is.
    """
    spacings = [each.spacing_ns for each in epochs if each.spacing_ns > 0]
    seconds = sum(each.exposure_ns for each in epochs) / 1e9
    longest = max(spacings, default=0)
    by_delay = sum(each > 0.95 * longest for each in spacings)
    asked = len(spacings) - by_delay if by_delay > 1 else len(spacings)
    low, high = exact_interval(asked, seconds, "second")
    value = asked / seconds if asked else high / 2
    how = f"{asked} of {len(spacings)} checkpoints came before {longest / 1e6:.4g} ms"
    basis.forget("divergence")
    basis.mapping["divergence"] = {}
    what = "differences a second" + ("" if asked else ", none seen")
    basis.put(UNPROMPTED, value, "measured", f"{source}: {how}", (low, high), what)
    basis.knows.add("divergence")
