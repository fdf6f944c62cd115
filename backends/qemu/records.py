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
from colosim.protocol import types as t
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
    """Checkpoints, exits and counters of a merged trace."""
    clock = _Told(start_ns)
    recorder = Recorder(clock)
    ears = recorder.ears()
    rows = _saves(saves)
    cut_ns = start_ns  # of the checkpoint before
    for line in lines:
        clock.line_ns = line.now_ns
        hear = ears.get(type(line.body)) if line.kind == "signal" else None
        if hear is not None:
            hear(line.node, line.body)
        if line.node != PRIMARY or line.kind != "action" or not recorder.checkpoints:
            continue
        match line.body:
            case t.StopVm():
                recorder.stopped(line.node)
            case t.Save(_, checkpoint) | t.Copy(_, checkpoint) if checkpoint in rows:
                recorder.saved(line.now_ns - cut_ns, rows[checkpoint]["pages"])
                cut_ns = line.now_ns
            case t.SendState(_, chunks):
                recorder.sent(sum(c.size if isinstance(c, t.Blob) else len(c) for c in chunks))
            case _:
                pass
    return recorder


def timed(recorder: Recorder, phases: Path, start_ns: int) -> None:
    """Of a native pair: the checkpoints' times and sizes as its QEMUs were seen to have them.

    ``phases`` has a row of JSON for each checkpoint; nothing is done where there is no such file.
    A cut is when the primary was handed REPLY: what it made before that is covered.
    """
    if not phases.exists():
        return
    seen = {row["checkpoint"]: row for row in map(json.loads, phases.read_text().splitlines())}
    cut_ns = start_ns
    for row in recorder.checkpoints:
        times = seen.get(row["checkpoint"], {})
        for column, name in _SEEN.items():
            if name in times and row[column] != -1:
                row[column] = times[name] - start_ns
        if "stop_ns" in times:
            row["stopped_ns"] = times["stop_ns"] - start_ns
            row["exposure_ns"], cut_ns = times["stop_ns"] - cut_ns, times["stop_ns"]
        if "pages" in times:
            row["pages"] = times["pages"]


#: column of a record -> that of a native pair's phases
_SEEN = {
    "started_ns": "request_ns",
    "cut_ns": "reply_ns",
    "resumed_ns": "resume_ns",
    "completed_ns": "resume_ns",
}


def _saves(path: Path) -> Mapping[int, dict[str, Any]]:
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["checkpoint"]: row for row in rows}
