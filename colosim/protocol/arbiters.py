"""Arbiters beside the witness (`colosim.protocol.manager`): a lock service, and ordered claims.

Each says who may go on alone, once and for good, because the other side's state is stale from then
on.  They read no clock: time, the arbiter's own, is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterable


def held_ns(term_ns: int, drift_bound: float) -> int:
    """How long a lock service takes a lease of ``term_ns`` for held, by its own clock.

    The holder counts its term from before the service does, by a clock that runs at 1 - drift_bound
    of the service's at the slowest; one nanosecond more for what integers round away.
    """
    return math.ceil(term_ns / (1 - drift_bound)) + 1


class LockService:
    """Grants one lease at a time, and the right to go on alone to one side.

    drift_bound: by what part of it any side's clock may run slower than this one.  Beyond it
    nothing is promised.
    """

    def __init__(self, term_ns: int, drift_bound: float) -> None:
        self._held_ns = held_ns(term_ns, drift_bound)
        self._holder: str | None = None
        self._winner: str | None = None
        self.free_ns = 0  # when the lease that was granted last is over

    def renew(self, node: str, now_ns: int) -> bool:
        """Whether the lease is the node's for another term."""
        if self._winner is not None:
            return self._winner == node
        if self._holder not in (None, node) and now_ns < self.free_ns:
            return False
        self._holder, self.free_ns = node, now_ns + self._held_ns
        return True

    def give_up(self, node: str) -> None:
        """The node needs its lease no more."""
        if self._holder == node:
            self._holder = None

    def ask(self, node: str, now_ns: int) -> bool | None:
        """Whether the node may go on alone; None: not before `free_ns`, and perhaps not then."""
        if self._winner is None:
            if self._holder not in (None, node) and now_ns < self.free_ns:
                return None
            self._winner = node
        return self._winner == node


class Claims:
    """A total order of claims among members, of which a majority must be reached.

    The first claim in the order wins (Straub's colo-heartbeat-daemon, `qemu-colo.md` 7.2, orders
    them by corosync).  Without a majority two parts of a group might order claims each by itself.
    """

    def __init__(self, members: int) -> None:
        self._members = members
        self._first: str | None = None

    def claim(self, node: str, reached: int) -> bool | None:
        """Order a claim of a node that reaches so many members, itself included.

        True if it is the first; None if it is not ordered, because they are no majority.
        """
        if 2 * reached <= self._members:
            return None
        if self._first is None:
            self._first = node
        return self._first == node


def connected(node: str, links: Iterable[tuple[str, str]]) -> frozenset[str]:
    """All members that a node reaches, over others too, itself included."""
    pairs = list(links)
    found = {node}
    while more := {b for pair in pairs for a, b in (pair, pair[::-1]) if a in found} - found:
        found |= more
    return frozenset(found)
