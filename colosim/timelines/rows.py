"""Which row of a run's table of checkpoints a line of its trace began."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Any

from colosim.protocol import types as t
from colosim.protocol.trace import Line

Row = Mapping[Any, Any]


class CheckpointRows:
    """The rows of one replication, in the order in which the checkpoints began.

    Every pair numbers its checkpoints from 1, so after a takeover a number comes again: the n-th
    checkpoint of a number in the trace is the n-th of that number in the table.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._unread: dict[int, deque[Row]] = defaultdict(deque)
        for row in rows:
            self._unread[int(row["checkpoint"])].append(row)

    def begun_by(self, line: Line) -> Row | None:
        """The row of the checkpoint that this line of a primary begins; the lines in order."""
        if not isinstance(line.body, t.CheckpointStarted) or not is_of_primary(line):
            return None
        rows = self._unread.get(line.body.checkpoint)
        return rows.popleft() if rows else None


def is_of_primary(line: Line) -> bool:
    """Of a node that is or was one: ``primary``, in later pairs ``primary.2`` and so on."""
    return line.node.partition(".")[0] == t.Role.PRIMARY.value
