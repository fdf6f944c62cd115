"""What a live run's traces say: one merged trace, and a record like that of a simulated run.

Times of a record count from the start of protection, so that warm-up and duration mean the same
in both worlds.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
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


def merged(paths: Sequence[Path], lost: Collection[Path] = ()) -> list[Line]:
    """The hosts' traces as one, by happens-before.

    lost: traces whose end died with their machine.  What came of lines that nobody has any more has
    no cause in the result; everywhere else such a line is an error.
    """
    traces = {path: list(read_host(path)) for path in paths}
    ends = {trace[-1].node: trace[-1].n for path in lost if (trace := traces.get(path))}
    return merge([_known(line, ends) for line in trace] for trace in traces.values())


def _known(line: Line, ends: Mapping[str, int]) -> Line:
    """Without its cause, if that comes after the end of its node's trace."""
    if line.cause is None or line.cause[1] <= ends.get(line.cause[0], line.cause[1]):
        return line
    return replace(line, cause=None)


class _Told:
    """The time of the line that is looked at, from the start of protection."""

    def __init__(self, start_ns: int) -> None:
        self.start_ns = start_ns
        self.line_ns = start_ns  # by the runner's clock

    def now_ns(self) -> int:
        return self.line_ns - self.start_ns


def recorded(
    lines: Iterable[Line], saves: Path, start_ns: int, ahead_ns: Mapping[str, int] | None = None
) -> Recorder:
    """Checkpoints, exits and counters of a merged trace.

    ahead_ns: how far the clock of a node's machine is ahead of the runner's.
    """
    clock = _Told(start_ns)
    recorder = Recorder(clock)
    ears = recorder.ears()
    rows = _saves(saves)
    cut_ns = start_ns  # of the checkpoint before
    for line in lines:
        now_ns = clock.line_ns = line.now_ns - (ahead_ns or {}).get(line.node, 0)
        hear = ears.get(type(line.body)) if line.kind == "signal" else None
        if hear is not None:
            hear(line.node, line.body)
        if line.node != PRIMARY or line.kind != "action" or not recorder.checkpoints:
            continue
        match line.body:
            case t.StopVm():
                recorder.stopped(line.node)
            case t.Save(_, checkpoint) | t.Copy(_, checkpoint) if checkpoint in rows:
                recorder.saved(now_ns - cut_ns, rows[checkpoint]["pages"])
                cut_ns = now_ns
            case t.SendState(_, chunks):
                recorder.sent(sum(c.size if isinstance(c, t.Blob) else len(c) for c in chunks))
            case _:
                pass
    return recorder


def _saves(path: Path) -> Mapping[int, dict[str, Any]]:
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["checkpoint"]: row for row in rows}
