"""How long output was held before it left, from the lines of a trace.

Of frames that are compared; with ``digests`` of whole responses too, each counted as a frame.

Like `colosim.phases` an observer: nobody has to measure anything.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from colosim.protocol import types as t
from colosim.protocol.digests import DIGESTS
from colosim.protocol.node import NodeConfig
from colosim.protocol.trace import Line


class Hold(NamedTuple):
    """Frames that were made together and left together; what let them go."""

    made_ns: int
    hold_ns: int
    frames: int
    how: str  # "match", "commit" or, for what a survivor sends, "alone"


class Holds:
    """Collects the holds of a trace as its lines go by (`see`); they are in `found`.

    digests: also of nodes that compare digests of responses.
    """

    def __init__(self, digests: bool = False) -> None:
        self.found: list[Hold] = []
        self._digests = digests
        self._alone: set[str] = set()
        self._compares: set[str] = set()
        # of each node and stream: the first frame of each batch, and when it was made
        self._made: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
        self._cause: dict[str, str] = {}  # what the event that is looked at let go

    def see(self, line: Line) -> None:
        """Look at a line; an `Observer` of a session."""
        node = line.node
        if isinstance(line.body, NodeConfig):
            if self._digests or line.body.compare != DIGESTS:
                self._compares.add(node)
        elif node in self._compares:
            self._look(node, line)

    def _look(self, node: str, line: Line) -> None:
        if line.kind == "event":
            self._cause[node] = "alone" if node in self._alone else "match"
        match line.body:
            case t.GuestOutput(range_):
                firsts, times = self._made.setdefault((node, range_.stream), ([], []))
                firsts.append(range_.first)
                times.append(line.now_ns)
            case t.Committed():
                self._cause[node] = "commit"
            case t.Alone():
                self._alone.add(node)
                self._cause[node] = "alone"
            case t.Release(ranges):
                for range_ in ranges:
                    self._left(node, range_, line.now_ns)
            case _:
                pass

    def _left(self, node: str, range_: t.Range, now_ns: int) -> None:
        firsts, times = self._made[node, range_.stream]
        at = range_.first
        while at < range_.end:
            i = bisect_right(firsts, at) - 1
            end = min(range_.end, firsts[i + 1] if i + 1 < len(firsts) else range_.end)
            self.found.append(Hold(times[i], now_ns - times[i], end - at, self._cause[node]))
            at = end


def holds(lines: Iterable[Line]) -> list[Hold]:
    """All holds of a trace, in the order in which output left."""
    collector = Holds()
    for line in lines:
        collector.see(line)
    return collector.found
