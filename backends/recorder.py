"""Collects what a replication's record is made of, from signals and from the world's own acts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from backends.nodes import PRIMARY, role_of
from colosim.model.results import CHECKPOINT_COLUMNS
from colosim.protocol import types as t


class Clock(Protocol):
    """Tells a world's time."""

    def now_ns(self) -> int: ...


class Recorder:
    """One dictionary per checkpoint of the primary, a list of events, and counters."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.checkpoints: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.counters = {"mismatches": 0, "compare_timeouts": 0}

    def ears(self) -> dict[type, Callable[[str, Any], None]]:
        """What to hear; everything else passes by without cost."""
        return {
            t.CheckpointStarted: self._started,
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

    def stopped(self, node: str) -> None:
        if role_of(node) == PRIMARY and self.checkpoints:
            self._first(self.checkpoints[-1], "stopped_ns", self._clock.now_ns())

    def saved(self, exposure_ns: int, pages: int) -> None:
        self.checkpoints[-1].update(exposure_ns=exposure_ns, pages=pages)

    def sent(self, size_bytes: int) -> None:
        self.checkpoints[-1]["sent_bytes"] = size_bytes

    def restored(self, pages: int) -> None:
        self.checkpoints[-1]["restored_pages"] = pages

    def table(self) -> dict[str, NDArray[Any]]:
        """Columns for `RunRecord.checkpoints`."""
        return {
            name: np.array(
                [row[name] for row in self.checkpoints], object if name == "reason" else np.int64
            )
            for name in CHECKPOINT_COLUMNS
        }

    def _started(self, node: str, signal: t.CheckpointStarted) -> None:
        if role_of(node) == PRIMARY:
            row: dict[str, Any] = dict.fromkeys(CHECKPOINT_COLUMNS, -1)
            row.update(checkpoint=signal.checkpoint, reason=signal.reason)
            row["started_ns"] = self._clock.now_ns()
            self.checkpoints.append(row)

    def _at(self, column: str) -> Callable[[str, Any], None]:
        def hear(node: str, signal: Any) -> None:
            if role_of(node) == PRIMARY:
                self._first(self.checkpoints[-1], column, self._clock.now_ns())

        return hear

    def _count(self, name: str) -> Callable[[str, Any], None]:
        def hear(node: str, signal: Any) -> None:
            self.counters[name] += 1

        return hear

    @staticmethod
    def _first(row: dict[str, Any], column: str, value: int) -> None:
        if row[column] < 0:
            row[column] = value
