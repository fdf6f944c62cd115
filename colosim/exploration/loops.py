"""How each node's checkpoint loop is left, as its trace lines say, whatever the world.

* Whoever leaves the loop says so once, has closed the stream before, and says nothing after.
* A checkpoint that was begun is safe or aborted by then, and none is aborted that was not begun.
* A step lasts no longer than its time limit, and its limit has not run out before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from colosim.protocol import types as t
from colosim.protocol.trace import Line

#: how late a simulated node may be woken
_LATE_NS = 2_000_000
_BY_LIMIT = "time limit of step "


@dataclass(slots=True)
class _Loop:
    started: bool = False
    closed: bool = False
    exited: bool = False
    leaves: bool = False  # in this feed, whose actions are yet to come
    under_way: int | None = None  # a checkpoint that is neither safe nor aborted
    step: str = ""
    since_ns: int = 0
    before: tuple[str, int] = ("", 0)  # the step before, and how long it lasted


class Loops:
    """Sees every line; ``wrong`` is the first thing that must not be, or nothing.

    limits_ns: (node, step) -> time limit.  on_time: nobody is late but by the model.
    """

    def __init__(self, limits_ns: Mapping[tuple[str, str], int], on_time: bool) -> None:
        self.wrong = ""
        self._limits_ns = limits_ns
        self._on_time = on_time
        self._loops: dict[str, _Loop] = {}
        self._seen: dict[type, Callable[[_Loop, Line], str]] = {
            t.Start: self._start,
            t.CheckpointStarted: self._begun,
            t.Committed: self._safe,
            t.Loaded: self._safe,
            t.Aborted: self._aborted,
            t.CloseLink: self._closed,
            t.SendMessage: self._sent,
            t.SendState: self._sent,
            t.Exit: self._exited,
            t.Alone: self._alone,
        }

    def see(self, line: Line) -> None:
        loop = self._loops.get(line.node)
        if loop is None:
            loop = self._loops[line.node] = _Loop()
        wrong = self._stepped(loop, line) if line.kind == "event" else ""
        seen = self._seen.get(type(line.body))
        if seen is not None:
            wrong = seen(loop, line) or wrong
        if wrong and not self.wrong:
            self.wrong = f"{wrong} (node {line.node}, line {line.n}, {line.now_ns} ns)"

    def _stepped(self, loop: _Loop, line: Line) -> str:
        if loop.leaves:
            loop.leaves = False
            if wrong := self._left(loop):
                return wrong
        lasted_ns = line.now_ns - loop.since_ns
        if line.step != loop.step:
            loop.before = (loop.step, lasted_ns)
            loop.step, loop.since_ns = line.step, line.now_ns
            return ""
        limit_ns = self._limits_ns.get((line.node, line.step))
        if limit_ns is not None and self._on_time and lasted_ns > limit_ns + _LATE_NS:
            return f"step {line.step} lasts {lasted_ns} ns, its limit is {limit_ns} ns"
        return ""

    @staticmethod
    def _start(loop: _Loop, line: Line) -> str:
        loop.started = True
        return ""

    @staticmethod
    def _begun(loop: _Loop, line: Line) -> str:
        if loop.under_way is not None:
            return f"checkpoint {line.body.checkpoint} begins within {loop.under_way}"
        loop.under_way = line.body.checkpoint
        return ""

    @staticmethod
    def _safe(loop: _Loop, line: Line) -> str:
        loop.under_way = None
        return ""

    @staticmethod
    def _aborted(loop: _Loop, line: Line) -> str:
        if loop.under_way != line.body.checkpoint:
            return f"checkpoint {line.body.checkpoint} is aborted and was not under way"
        loop.under_way = None
        return ""

    @staticmethod
    def _closed(loop: _Loop, line: Line) -> str:
        loop.closed = True
        return ""

    @staticmethod
    def _sent(loop: _Loop, line: Line) -> str:
        return "the stream is closed, and something is sent" if loop.closed else ""

    def _exited(self, loop: _Loop, line: Line) -> str:
        twice, loop.exited = loop.exited, True
        if twice:
            return "the loop is left twice"
        why, (step, lasted_ns) = line.body.why, loop.before
        limit_ns = self._limits_ns.get((line.node, step), 0)
        if why == f"{_BY_LIMIT}{step}" and lasted_ns < limit_ns:
            return f"the limit of {step}, {limit_ns} ns, has run out after {lasted_ns} ns"
        loop.leaves = True
        return ""

    def _alone(self, loop: _Loop, line: Line) -> str:
        return "" if loop.exited else "it is alone and never left the loop"

    @staticmethod
    def _left(loop: _Loop) -> str:
        if loop.under_way is not None:
            return f"the loop is left, and checkpoint {loop.under_way} is neither safe nor aborted"
        if loop.started and not loop.closed:
            return "the loop is left, and the stream is open"
        return ""
