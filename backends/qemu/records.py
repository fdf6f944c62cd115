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

from backends.nodes import PRIMARY, role_of
from backends.recorder import Recorder
from colosim.holds import Hold, holds
from colosim.phases import Phase, phases
from colosim.protocol import types as t
from colosim.protocol.checkpoint import P
from colosim.protocol.node import Hear
from colosim.protocol.trace import Line, decode, merge
from colosim.session import ears_of


def read_host(path: Path) -> Iterator[Line]:
    """One host's lines; a SIGKILL may have cut the last one off."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole, _, _ = text.rpartition("\n")
    return decode(whole.splitlines())


def merged(paths: Sequence[Path], lost: Collection[str] = ()) -> list[Line]:
    """The hosts' traces as one, by happens-before.

    lost: nodes the end of whose trace died with their machine.  What came of lines that nobody has
    any more has no cause in the result; everywhere else such a line is an error.
    """
    traces = [list(read_host(path)) for path in paths]
    ends = dict.fromkeys(lost, -1)
    for trace in traces:
        ends.update({line.node: line.n for line in trace if line.node in ends})
    return merge([_known(line, ends) for line in trace] for trace in traces)


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
    lines: Iterable[Line],
    saves: Mapping[str, Path],
    start_ns: int,
    ahead_ns: Mapping[str, int] | None = None,
) -> Recorder:
    """Checkpoints, exits and counters of a merged trace; saves: of each primary, by its id.

    ahead_ns: how far the clock of a node's machine is ahead of the runner's.  Exposure is the time
    from the moment the guest was known to run until it was asked to stop, as in the simulator: the
    same definition is calibrated and predicted.
    """
    clock = _Told(start_ns)
    recorder = Recorder(clock)
    ears: dict[str, dict[type, Hear]] = {}
    rows = {node: _saves(path, node) for node, path in saves.items()}
    running_ns = start_ns  # since when the guest runs
    exposure_ns = 0  # how long it had run when it was stopped
    for line in lines:
        now_ns = clock.line_ns = line.now_ns - (ahead_ns or {}).get(line.node, 0)
        if line.node not in ears:
            ears[line.node] = ears_of(recorder.ears(), line.node, t.Role(role_of(line.node)))
        hear = ears[line.node].get(type(line.body)) if line.kind == "signal" else None
        if hear is not None:
            hear(line.body, now_ns)
        if isinstance(line.body, t.Mismatch):
            name = f"mismatches_{line.body.why}"
            recorder.counters[name] = recorder.counters.get(name, 0) + 1
        if role_of(line.node) != PRIMARY:
            continue
        if isinstance(line.body, t.Protected | t.Resumed):
            running_ns = now_ns
        if line.kind != "action" or not recorder.reasons:
            continue
        saved = rows.get(line.node, {})
        match line.body:
            case t.StopVm():
                exposure_ns = now_ns - running_ns
                recorder.stopped(line.node)
            case t.Save(_, checkpoint) | t.Copy(_, checkpoint) if checkpoint in saved:
                recorder.saved(exposure_ns, saved[checkpoint]["pages"])
            case t.SendState(_, chunks):
                recorder.sent(sum(c.size if isinstance(c, t.Blob) else len(c) for c in chunks))
            case _:
                pass
    return recorder


def phased(
    lines: Iterable[Line],
    saves: Mapping[str, Path],
    start_ns: int,
    ahead_ns: Mapping[str, int] | None = None,
) -> list[Phase]:
    """Phases of a merged trace, times from the start of protection; and the parts of each save.

    saves, ahead_ns: as for `recorded`.  `save/device` and `save/scan` begin with the save, as far
    as is known, and are done at the same time; `save/encode` follows the scan.
    """
    lines = list(lines)
    found = []
    for node, path in saves.items():
        rows = _saves(path, node)
        for phase in phases(line for line in lines if line.node == node):
            begin_ns = phase.start_ns - start_ns - (ahead_ns or {}).get(node, 0)
            found.append(phase._replace(start_ns=begin_ns))
            row = rows.get(phase.checkpoint)
            if phase.phase in (P.SAVE, P.COPY) and row is not None:
                found += _parts(phase._replace(start_ns=begin_ns), row)
    return found


def held(
    lines: Iterable[Line], start_ns: int, ahead_ns: Mapping[str, int] | None = None
) -> list[Hold]:
    """How long output was held, times from the start of protection; ahead_ns: as for `recorded`."""
    found = []
    by_node: dict[str, list[Line]] = {}
    for line in lines:
        by_node.setdefault(line.node, []).append(line)
    for node, own in by_node.items():
        zero_ns = start_ns + (ahead_ns or {}).get(node, 0)
        found += [hold._replace(made_ns=hold.made_ns - zero_ns) for hold in holds(own)]
    return sorted(found)


def _parts(save: Phase, row: Mapping[str, int]) -> list[Phase]:
    encode_ns = save.start_ns + row["scan_ns"]
    return [
        Phase(save.checkpoint, f"{save.phase}/{part}", at_ns, row[f"{part}_ns"])
        for part, at_ns in (
            ("device", save.start_ns),
            ("scan", save.start_ns),
            ("encode", encode_ns),
        )
    ]


def timed(recorder: Recorder, phases: Path, start_ns: int) -> None:
    """Of a native pair: the checkpoints' times and sizes as its QEMUs were seen to have them.

    ``phases`` has a row of JSON for each checkpoint; nothing is done where there is no such file.
    A cut is when the primary was handed REPLY: what it made before that is covered.
    """
    if not phases.exists():
        return
    seen = {row["checkpoint"]: row for row in map(json.loads, phases.read_text().splitlines())}
    cut_ns, columns = start_ns, recorder.columns
    for row, checkpoint in enumerate(columns["checkpoint"]):
        times = seen.get(checkpoint, {})
        for column, name in _SEEN.items():
            if name in times and columns[column][row] != -1:
                columns[column][row] = times[name] - start_ns
        if "stop_ns" in times:
            columns["stopped_ns"][row] = times["stop_ns"] - start_ns
            columns["exposure_ns"][row] = times["stop_ns"] - cut_ns
            cut_ns = times["stop_ns"]
        if "pages" in times:
            columns["pages"][row] = times["pages"]


#: column of a record -> that of a native pair's phases
_SEEN = {
    "started_ns": "request_ns",
    "cut_ns": "reply_ns",
    "resumed_ns": "resume_ns",
    "completed_ns": "resume_ns",
}


def _saves(path: Path, node: str) -> Mapping[int, dict[str, Any]]:
    """Checkpoint -> row; a host may have led more than one pair."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["checkpoint"]: row for row in rows if row["node"] == node}
