"""Costs of a checkpoint's steps, out of the phases of live runs.

Each is a line over the pages, fixed + per page, of non-negative parts: the least sum of absolute
errors, so that a few slow checkpoints do not turn it, then scaled to the mean of what was seen, so
that they count. The spread is the standard deviation of what was seen around the line, relative to
its mean. The simulator's steps are not cut where a live world's are; what one has and the other
has not goes where it takes the same time in the same part of the pause (`docs/calibration.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import nnls

from colosim.calibration.runs import MeasuredRun
from colosim.model.memory import PAGE_BYTES
from colosim.protocol.checkpoint import Transfer

_MESSAGE_BYTES = 76  # on the link: 64 of headers (`backends.sim.link`), 12 of its own with framing
_HEADER_BYTES = 8
_ROUNDS = 50

Values = NDArray[np.float64]


class Line(NamedTuple):
    """fixed_ns + per_page_ns * pages; spread: relative standard deviation around it."""

    fixed_ns: float
    per_page_ns: float
    spread: float

    def at(self, pages: Values) -> Values:
        return self.fixed_ns + self.per_page_ns * pages


@dataclass(frozen=True, slots=True)
class Fitted:
    """One number of a calibrated scenario: where in the file, what, and how it was found."""

    key: str
    value: Any
    how: str


def line(pages: Values, took_ns: Values) -> Line:
    """The line through durations; see the head of this module."""
    scale = max(float(pages.mean()), 1.0)
    design = np.column_stack([np.ones(pages.size), pages / scale])
    least = max(float(np.median(np.abs(took_ns))) * 1e-4, 1.0)
    weights = np.ones(pages.size)
    for _ in range(_ROUNDS):
        root = np.sqrt(weights)
        found, _norm = nnls(design * root[:, None], took_ns * root)
        weights = 1 / np.maximum(np.abs(took_ns - design @ found), least)
        weights /= weights.max()
    fitted = design @ found
    if fitted.mean() <= 0:
        return Line(0.0, 0.0, 0.0)
    found *= max(float(took_ns.mean()), 0.0) / float(fitted.mean())
    mean = float((design @ found).mean())
    spread = float(np.std(took_ns - design @ found)) / mean if mean > 0 else 0.0
    return Line(float(found[0]), float(found[1]) / scale, spread)


def fit(
    runs: Sequence[MeasuredRun],
    way_ns: int,
    witness: tuple[float, float] = (0.0, 0.0),
    matched_release_ns: float | None = None,
) -> list[Fitted]:
    """All costs that the runs show, keys as in a scenario file.

    way_ns: mean time of a response from host to client, without protection.  witness: mean and
    spread of how late the secondary's output is, where that is known.  matched_release_ns: what
    release is where no run holds all output until its commit.
    """
    table = pd.concat([_with_link(run) for run in runs], ignore_index=True)
    pages = table["pages"].to_numpy(dtype=float)
    early = runs[0].transfer is Transfer.COPY_THEN_SEND
    names = ("copy", "resume-early") if early else ("save", "resume")
    save_ns, resume_ns = (table[name].to_numpy(dtype=float) for name in names)

    none = np.zeros_like(pages)
    stop = line(none, table["stop"].to_numpy(dtype=float) + table["cut"].to_numpy(dtype=float))
    # the simulated secondary takes as long to stop as the primary
    asked_ns = table["quiesce"] + table["request"] - 2 * table["message_ns"] - stop.fixed_ns
    quiesce = line(none, np.maximum(asked_ns.to_numpy(dtype=float), 0))
    save, resume = line(pages, save_ns), line(none, resume_ns)
    # the simulated secondary resumes, which takes as long as the primary's, before it says LOADED
    loaded_ns = table["wait-loaded"].to_numpy(dtype=float) - resume.fixed_ns
    load = line(pages, np.maximum(loaded_ns, 0))
    moved_ns = (table["send"] + table["wait-received"] - table["link_ns"]).to_numpy(dtype=float)
    moved = line(pages, np.maximum(moved_ns + loaded_ns - load.at(pages), 0))
    own = (resume.spread * resume.fixed_ns) ** 2 / max(float(moved.at(pages).mean()), 1.0) ** 2
    moved = moved._replace(spread=max(moved.spread**2 - own, 0.0) ** 0.5)

    late = np.concatenate([_late_ns(run) for run in runs])
    late_ns = float(late.mean()) if late.size else 0.0
    all_held = [not run.compares for run in runs for _ in range(len(run.checkpoints))]
    release_ns = table.loc[all_held, "release_ns"].dropna().to_numpy(dtype=float) - way_ns
    release = Line(matched_release_ns or 0.0, 0.0, 0.0)
    released = "median of answers that no checkpoint had a part in - hold - that of policy none"
    if release_ns.size:
        released = "from commit to clients - client_delay - client_jitter"
        release = line(np.zeros_like(release_ns), np.maximum(release_ns, 0))
    scan_ns = float(table["scan_ns"].median())
    find_ns = min(scan_ns, save.fixed_ns)
    mib = runs[0].scenario.memory.guest_memory_bytes / 2**20
    bare = pages.sum() * (PAGE_BYTES + _HEADER_BYTES) - table["ram_bytes"].sum()
    zero = min(max(float(bare / (pages.sum() * (PAGE_BYTES - 1))), 0.0), 1.0)
    whole = f"step {names[0]}, scan and devices at the same time, then encoding"
    found = [
        ("quiesce_ns", quiesce.fixed_ns, "quiesce + request - the link and the secondary's stop"),
        ("stop_ns", stop.fixed_ns, "steps stop + cut"),
        ("find_pages_ns", find_ns, f"scan: {scan_ns / mib / 1e3:.3g} us per MiB of guest"),
        ("save_fixed_ns", save.fixed_ns - find_ns, f"{whole}; without find_pages"),
        ("save_per_page_ns", save.per_page_ns, whole),
        ("copy_fixed_ns", save.fixed_ns, f"{whole}: a live copy is a save"),
        ("copy_per_page_ns", save.per_page_ns, whole),
        ("transfer_fixed_ns", moved.fixed_ns, "send + wait-received - the link"),
        ("transfer_per_page_ns", moved.per_page_ns, "the same"),
        ("load_fixed_ns", load.fixed_ns, "wait-loaded - resume; below 0 it went into transfer"),
        ("load_per_page_ns", load.per_page_ns, "the same"),
        ("resume_ns", resume.fixed_ns, f"step {names[1]}"),
        ("release_ns", release.fixed_ns, released),
        (
            "witness_ns",
            witness[0],
            "mean hold of output that left by a match - the link's delay",
        ),
        ("wake_up_ns", late_ns, "from interval to interval, where no checkpoint was under way"),
        ("device_state_bytes", float(table["device_bytes"].median()), "median of a.saves"),
        ("zero_pages", zero, "bytes of RAM on the wire against whole pages"),
        ("quiesce_spread", quiesce.spread, "of quiesce + request"),
        ("stop_spread", stop.spread, "of stop + cut"),
        ("save_spread", save.spread, "around its line"),
        ("transfer_spread", moved.spread, "of send + wait-received + wait-loaded: they make up"),
        ("load_spread", 0.0, "in that of transfer"),
        ("resume_spread", resume.spread, f"of {names[1]}"),
        ("release_spread", release.spread, "of release"),
        ("witness_spread", witness[1], "so that the median of those holds is right too"),
    ]
    return [Fitted(f"cost.{key}", _rounded(key, value), how) for key, value, how in found]


def _late_ns(run: MeasuredRun) -> Values:
    """How much later than the policy's interval the next checkpoint began, where it could begin.

    Only where time made it begin, not a difference.
    """
    table = run.checkpoints
    due_ns = table["started_ns"] + run.interval_ns
    next_one = table["checkpoint"].diff(-1) == -1
    late_ns = table["started_ns"].shift(-1) - due_ns
    by_time = table["reason"].shift(-1).isin(("interval", "checkpoint-delay"))
    usable = next_one & by_time & (table["committed_ns"] < due_ns)
    return late_ns[usable].clip(lower=0).to_numpy(dtype=float)


def _rounded(key: str, value: float) -> float | int:
    return round(value) if key.endswith(("_ns", "_bytes")) else round(value, 4)


def _with_link(run: MeasuredRun) -> pd.DataFrame:
    """A run's checkpoints with what its link took: for the state and RECEIVED; for a message."""
    link = run.scenario.link
    sent_ns = run.checkpoints["sent_bytes"] * 8e9 / link.bandwidth_bps
    message_ns = link.delay_ns + _MESSAGE_BYTES * 8e9 / link.bandwidth_bps
    return run.checkpoints.assign(
        link_ns=sent_ns + link.delay_ns + message_ns, message_ns=message_ns
    )
