"""The error that a live run shows to a person, and the kind of it that is news to the core."""

from __future__ import annotations


class LiveError(RuntimeError):
    """What cannot be done here: one line that says what, where, and what would be right."""


class GuestGone(LiveError):
    """The guest's process has ended, or is ending: whatever failed by that is not the peer's fault.

    A manager must know before it hears of the failure (`backends/base.py`, promise 10).
    """
