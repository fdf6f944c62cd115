"""Collects what a replication's record is made of, from signals and from the world's own acts."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from backends.nodes import PRIMARY, role_of
from colosim.model.results import CHECKPOINT_COLUMNS
from colosim.protocol import types as t
from colosim.session import OfRole


class Clock(Protocol):
    """Tells a world's time."""

    def now_ns(self) -> int: ...


class Recorder:
    """Columns with a row per checkpoint of the primary, a list of events, and counters.

    Only the last row changes.  A checkpoint takes 96 bytes: an hour may have a million of them.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.columns = {name: array("q") for name in CHECKPOINT_COLUMNS if name != "reason"}
        self.reasons: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.counters = {"mismatches": 0, "compare_timeouts": 0}

    def ears(self) -> dict[type, Callable[[str, Any], None]]:
        """What to hear; everything else passes by without cost."""
        return {
            t.CheckpointStarted: OfRole(t.Role.PRIMARY, self._started),
            t.Cut: self._at("cut_ns"),
            t.Committed: self._at("committed_ns"),
            t.Resumed: self._at("resumed_ns"),
            t.Completed: self._at("completed_ns"),
            t.Mismatch: self._count("mismatches"),
            t.Stale: self._count("compare_timeouts"),
            t.Exit: lambda node, signal: self.event(node, "exit", signal.why),
        }

    def event(self, node: str, what: str, detail: str) -> None:
        at_ns = self._clock.now_ns()
        self.events.append({"at_ns": at_ns, "node": node, "what": what, "detail": detail})

    def count(self, what: str, more: int = 1) -> None:
        """Something that a run without it does not mention."""
        self.counters[what] = self.counters.get(what, 0) + more

    def stopped(self, node: str) -> None:
        if role_of(node) == PRIMARY and self.reasons:
            column = self.columns["stopped_ns"]
            if column[-1] < 0:
                column[-1] = self._clock.now_ns()

    def saved(self, exposure_ns: int, pages: int) -> None:
        self.columns["exposure_ns"][-1] = exposure_ns
        self.columns["pages"][-1] = pages

    def sent(self, size_bytes: int) -> None:
        self.columns["sent_bytes"][-1] = size_bytes

    def restored(self, pages: int) -> None:
        self.columns["restored_pages"][-1] = pages

    def table(self) -> dict[str, NDArray[Any]]:
        """Columns for `RunRecord.checkpoints`."""
        reasons = np.array(self.reasons, object)
        columns = {name: np.array(column, np.int64) for name, column in self.columns.items()}
        return {name: columns.get(name, reasons) for name in CHECKPOINT_COLUMNS}

    def _started(self, node: str, signal: t.CheckpointStarted) -> None:
        for column in self.columns.values():
            column.append(-1)
        self.columns["checkpoint"][-1] = signal.checkpoint
        self.columns["started_ns"][-1] = self._clock.now_ns()
        self.reasons.append(signal.reason)

    def _at(self, name: str) -> Callable[[str, Any], None]:
        column = self.columns[name]

        def hear(node: str, signal: Any) -> None:
            if column[-1] < 0:
                column[-1] = self._clock.now_ns()

        return OfRole(t.Role.PRIMARY, hear)

    def _count(self, name: str) -> Callable[[str, Any], None]:
        def hear(node: str, signal: Any) -> None:
            self.counters[name] += 1

        return hear
