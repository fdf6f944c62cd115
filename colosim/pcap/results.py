"""What a comparison of captures found: verdicts, frames, checkpoints, a summary and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from html import escape
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from colosim import store
from colosim.pcap.comparing import Checkpoint, Finding, Outcome
from colosim.pcap.guest import Contents

if TYPE_CHECKING:
    from colosim.analysis.plots import Chart

_SECOND_NS = 1_000_000_000
_VERDICT_COLUMNS = {
    "time_s": "float64",
    "what": "object",
    "why": "object",
    "connection": "object",
    "primary_frame": "Int64",
    "secondary_frame": "Int64",
    "offset": "Int64",
    "ours": "object",
    "theirs": "object",
    "hold_s": "float64",
    "checkpoint": "Int64",
    "is_first": "bool",
}


@dataclass(frozen=True, eq=False)
class PcapComparison:
    """What a comparison of two captures found.

    guest: its MAC address.  duration_s: from the first frame of either capture to the last.
    settings: how it was compared.  notes: what a reader should know.
    reasons: number of checkpoints by reason; repeated: how many of those were on a connection that
    had caused one before.
    """

    primary: Contents
    secondary: Contents
    guest: str
    duration_s: float
    settings: Mapping[str, Any]
    notes: Sequence[str]
    reasons: Mapping[str, int]
    repeated: int
    _findings: Sequence[Finding]
    _checkpoints: Sequence[Checkpoint]
    _columns: Mapping[str, npt.NDArray[np.integer[Any]]]

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """One row for each difference, overdue or lost frame; the first 100,000.

        time_s and hold_s in s; primary_frame, secondary_frame as numbered in the captures (from 1,
        as Wireshark does); offset: of the first differing byte in the payload of the primary's
        frame; ours, theirs: bytes from there, in hex; checkpoint: its number, from 0.
        """
        rows = [
            (
                each.time_ns / _SECOND_NS,
                each.what,
                each.why,
                each.connection,
                each.primary_frame,
                each.secondary_frame,
                each.offset,
                each.ours.hex(" "),
                each.theirs.hex(" "),
                nan if each.hold_ns is None else each.hold_ns / _SECOND_NS,
                each.checkpoint,
                each.is_first,
            )
            for each in self._findings
        ]
        return pd.DataFrame(rows, columns=list(_VERDICT_COLUMNS)).astype(_VERDICT_COLUMNS)

    def readable(self, first: int = 20) -> str:
        """The first verdicts as text for people: both sides in hex and as text."""
        return "\n".join(line for each in self._findings[:first] for line in _lines(each))

    @cached_property
    def checkpoints(self) -> pd.DataFrame:
        """One row for each assumed checkpoint: time_s, why, connection, frames, is_first."""
        table = pd.DataFrame(
            [asdict(each) for each in self._checkpoints],
            columns=["time_ns", "why", "connection", "frames", "is_first"],
        )
        table.insert(0, "time_s", table.pop("time_ns").astype("float64") / _SECOND_NS)
        return table.astype({"frames": "int64", "is_first": "bool"})

    @cached_property
    def frames(self) -> pd.DataFrame:
        """One row for each frame of the primary's guest.

        frame: its number in the capture; made_s, released_s, hold_s in s, NaN where it never left;
        outcome: "equal", "checkpoint", "lost", or "held" when the captures ended; checkpoint: the
        number of the one that covered it, or -1.
        """
        columns = self._columns
        left = columns["released_ns"] >= 0
        made_s = columns["made_ns"] / _SECOND_NS
        hold_s = np.where(left, (columns["released_ns"] - columns["made_ns"]) / _SECOND_NS, nan)
        return pd.DataFrame(
            {
                "frame": columns["frame"],
                "made_s": made_s,
                "released_s": np.where(left, columns["released_ns"] / _SECOND_NS, nan),
                "hold_s": hold_s,
                "outcome": pd.Categorical.from_codes(
                    columns["outcome"], pd.Index([each.name.lower() for each in Outcome])
                ),
                "checkpoint": columns["checkpoint"],
            }
        )

    def summary(self) -> pd.DataFrame:
        """metric, value, unit: frames and what became of them, hold times, checkpoints by reason.

        Hold times are of all frames that left, from when they were captured.
        """
        columns = self._columns
        outcomes = np.bincount(columns["outcome"], minlength=len(Outcome))
        left = columns["released_ns"] >= 0
        hold_ms = (columns["released_ns"][left] - columns["made_ns"][left]) / 1e6
        at_once = (columns["outcome"] == Outcome.EQUAL) & (
            columns["released_ns"] == columns["made_ns"]
        )
        spread = np.percentile(hold_ms, [50, 99, 100]) if len(hold_ms) else (nan, nan, nan)
        checkpoints = sum(self.reasons.values())
        rows: list[tuple[str, float, str]] = [
            ("frames", len(left), "frames"),
            ("frames_at_once", int(at_once.sum()), "frames"),
            ("frames_after_waiting", outcomes[Outcome.EQUAL] - int(at_once.sum()), "frames"),
            ("frames_by_checkpoint", outcomes[Outcome.CHECKPOINT], "frames"),
            ("frames_lost", outcomes[Outcome.LOST], "frames"),
            ("frames_held_at_end", outcomes[Outcome.HELD], "frames"),
            ("hold_p50_ms", spread[0], "ms"),
            ("hold_p99_ms", spread[1], "ms"),
            ("hold_max_ms", spread[2], "ms"),
            ("duration_s", self.duration_s, "s"),
            ("checkpoints", checkpoints, "checkpoints"),
            ("checkpoints_repeated", self.repeated, "checkpoints"),
            *((f"checkpoints_{why}", n, "checkpoints") for why, n in self.reasons.items()),
        ]
        return pd.DataFrame(rows, columns=["metric", "value", "unit"])

    @property
    def title(self) -> str:
        """What was compared, in a line."""
        files = f"{self.primary.capture.path.name} and {self.secondary.capture.path.name}"
        return f"{files}: guest {self.guest}, mode {self.settings['mode']}"

    def plot(self) -> Chart:
        """Hold time over time, and the checkpoints by reason."""
        from colosim.analysis.plots.holds import hold_times

        return hold_times(self.frames, self.checkpoints)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.title}>"

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return f"<p>{escape(self.title)}</p>{self.summary().to_html(index=False)}{notes}"

    def write(self, directory: Path) -> None:
        """Tables, figure and manifest into a directory."""
        self.plot().save(directory / "holds")
        manifest = {
            "kind": "pcap",
            "primary": str(self.primary.capture.path),
            "secondary": str(self.secondary.capture.path),
            "guest": self.guest,
            "settings": dict(self.settings),
            "notes": list(self.notes),
        }
        tables = {
            "summary.csv": self.summary(),
            "verdicts.csv": self.verdicts,
            "checkpoints.csv": self.checkpoints,
            "frames.parquet": self.frames,
        }
        store.write(directory, manifest, tables)


def _lines(finding: Finding) -> list[str]:
    """What was found and where; then both sides from the first differing byte on."""
    sides = {"primary": finding.primary_frame, "secondary": finding.secondary_frame}
    frames = " and ".join(f"{side} {number}" for side, number in sides.items() if number)
    what = finding.what if finding.why == finding.what else f"{finding.what} ({finding.why})"
    head = f"{finding.time_ns / _SECOND_NS:.6f} s  {what}  {finding.connection}  frame {frames}"
    if finding.offset is None:
        return [head]
    lines = [f"{head}  byte {finding.offset}"]
    for side, data in (("primary", finding.ours), ("secondary", finding.theirs)):
        text = "".join(chr(each) if 0x20 <= each < 0x7F else "." for each in data)
        lines.append(f"    {side:9}  {data.hex(' '):47}  {text}".rstrip())
    return lines
