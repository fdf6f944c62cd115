"""What a live run's traces say: one merged trace, and a record like that of a simulated run.

Times of a record count from the start of protection, so that warm-up and duration mean the same
in both worlds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from backends.nodes import PRIMARY
from backends.recorder import Recorder
from colosim.phases import Phase, phases
from colosim.protocol import types as t
from colosim.protocol.checkpoint import P
from colosim.protocol.trace import Line, decode, merge


def read_host(path: Path) -> Iterator[Line]:
    """One host's lines; a SIGKILL may have cut the last one off."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole, _, _ = text.rpartition("\n")
    return decode(whole.splitlines())


def merged(paths: Sequence[Path]) -> list[Line]:
    """The hosts' traces as one, by happens-before."""
    return merge(read_host(path) for path in paths)


class _Told:
    """The time of the line that is looked at, from the start of protection."""

    def __init__(self, start_ns: int) -> None:
        self.start_ns = start_ns
        self.line_ns = start_ns

    def now_ns(self) -> int:
        return self.line_ns - self.start_ns


def recorded(lines: Iterable[Line], saves: Path, start_ns: int) -> Recorder:
    """Checkpoints, exits and counters of a merged trace.

    Exposure is the time from the moment the guest was known to run until it was asked to stop, as
    in the simulator: the same definition is calibrated and predicted.
    """
    clock = _Told(start_ns)
    recorder = Recorder(clock)
    ears = recorder.ears()
    rows = _saves(saves)
    running_ns = start_ns  # since when the guest runs
    exposure_ns = 0  # how long it had run when it was stopped
    for line in lines:
        clock.line_ns = line.now_ns
        hear = ears.get(type(line.body)) if line.kind == "signal" else None
        if hear is not None:
            hear(line.node, line.body)
        if line.node != PRIMARY:
            continue
        if isinstance(line.body, t.Protected | t.Resumed):
            running_ns = line.now_ns
        if line.kind != "action" or not recorder.checkpoints:
            continue
        match line.body:
            case t.StopVm():
                exposure_ns = line.now_ns - running_ns
                recorder.stopped(line.node)
            case t.Save(_, checkpoint) | t.Copy(_, checkpoint) if checkpoint in rows:
                recorder.saved(exposure_ns, rows[checkpoint]["pages"])
            case t.SendState(_, chunks):
                recorder.sent(sum(c.size if isinstance(c, t.Blob) else len(c) for c in chunks))
            case _:
                pass
    return recorder


def phased(lines: Iterable[Line], saves: Path, start_ns: int) -> list[Phase]:
    """Phases of a merged trace, times from the start of protection; and the parts of each save.

    `save/device` and `save/scan` are done at the same time and begin with the save, as far as is
    known; `save/encode` begins when both have ended.
    """
    rows = _saves(saves)
    found = []
    for phase in phases(lines):
        begin_ns = phase.start_ns - start_ns
        found.append(phase._replace(start_ns=begin_ns))
        row = rows.get(phase.checkpoint)
        if phase.phase in (P.SAVE, P.COPY) and row is not None:
            encode_ns = begin_ns + max(row["device_ns"], row["scan_ns"])
            found += [
                Phase(phase.checkpoint, f"{phase.phase}/{part}", at_ns, row[f"{part}_ns"])
                for part, at_ns in (("device", begin_ns), ("scan", begin_ns), ("encode", encode_ns))
            ]
    return found


def _saves(path: Path) -> Mapping[int, dict[str, Any]]:
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["checkpoint"]: row for row in rows}
