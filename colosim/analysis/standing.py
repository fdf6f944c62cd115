"""While what a guest stands, from the states that its checkpointer went through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

#: states (`colosim.states`) in which a guest is being stopped, and in which it is being started
_STOPPING = frozenset(("stop", "failover"))
_STARTING = frozenset(("start", "resume", "resume-early", "relaunch-resume", "takeover"))


def standing(stays: Iterable[tuple[str, float]]) -> Iterator[tuple[float, float]]:
    """From when to when a guest stands: it has stopped where the one state ends, and runs where the
    next of the others does.

    stays: state and when it was left, in order, of one node; the times come back as they are given.
    """
    since: float | None = None
    for state, left in stays:
        if state in _STOPPING:
            since = left if since is None else since
        elif since is not None and state in _STARTING:
            yield since, left
            since = None
