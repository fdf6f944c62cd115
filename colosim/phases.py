"""What each step of a checkpoint took, from the lines of a trace: the same in every world.

A checkpointer's state is named after the one operation that is outstanding in it, and a trace line
says in which state its event left the node. So the time of a step is the time between two events,
and nobody has to measure anything: `Phases.see` is an observer like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from colosim.protocol import types as t
from colosim.protocol.checkpoint import P, State, Verb, primary_machine
from colosim.protocol.dialect import DIALECTS
from colosim.protocol.node import NodeConfig
from colosim.protocol.trace import Line

#: what takes a checkpoint forward
_FORWARD = (Verb.TRIGGER, Verb.DONE, Verb.REPLY, Verb.RECEIVED, Verb.LOADED)


class Phase(NamedTuple):
    """One step of one checkpoint of the primary: when it was entered, and how long it lasted."""

    checkpoint: int
    phase: str
    start_ns: int
    duration_ns: int


class Phases:
    """Collects the phases of a trace as its lines go by (`see`); they are in `found`.

    A phase is a step of the primary's table from `quiesce` until it runs again. One that was
    left otherwise than forwards (a failure), or not at all, is no phase: how long it would have
    taken is not known. Where one event takes the node through several steps, those between took
    no time. ``now_ns`` of a phase is the clock of the trace.
    """

    def __init__(self) -> None:
        self.found: list[Phase] = []
        self._node = ""
        self._next: Mapping[str, str] = {}
        self._checkpoint = 0
        self._step = ""
        self._since_ns = 0

    def see(self, line: Line) -> None:
        """Look at a line; an `Observer` of a session."""
        if line.kind == "node":
            if isinstance(line.body, NodeConfig) and line.body.role is t.Role.PRIMARY:
                self._node, self._next = line.node, _path(line.body)
        elif line.node == self._node:
            if line.kind == "event" and line.step != self._step:
                self._moved(line.step, line.now_ns)
            elif isinstance(line.body, t.CheckpointStarted):
                self._checkpoint = line.body.checkpoint

    def _moved(self, step: str, now_ns: int) -> None:
        passed = self._between(self._step, step)
        if passed is not None:
            duration_ns = now_ns - self._since_ns
            self.found.append(Phase(self._checkpoint, self._step, self._since_ns, duration_ns))
            self.found.extend(Phase(self._checkpoint, each, now_ns, 0) for each in passed)
        self._step, self._since_ns = step, now_ns

    def _between(self, step: str, to: str) -> list[str] | None:
        """Steps of the same checkpoint between two; None if the way between is not forwards."""
        if step == P.RUN or step not in self._next:
            return None
        passed: list[str] = []
        at = self._next[step]
        while at not in (to, P.RUN):
            passed.append(at)
            at = self._next[at]
        # with the wish for another checkpoint remembered, it goes through RUN and on at once
        return passed if at == to or to == self._next[P.RUN] else None


def phases(lines: Iterable[Line]) -> list[Phase]:
    """All phases of a trace, in the order in which they ended."""
    collector = Phases()
    for line in lines:
        collector.see(line)
    return collector.found


def _path(config: NodeConfig) -> Mapping[str, str]:
    """Step -> the next one, from RUN round to RUN, where nothing fails."""
    rows = primary_machine(
        DIALECTS[config.dialect], config.transfer, config.quirks, config.commit
    ).rows
    following: dict[str, str] = {}
    state: State = P.RUN
    while state.value not in following:
        [target] = {
            rows[state, verb][1]
            for verb in _FORWARD
            if (state, verb) in rows and rows[state, verb][1] is not state
        }
        following[state.value] = target.value
        state = target
    return following
