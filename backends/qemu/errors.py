"""The one error that a live run shows to a person."""

from __future__ import annotations


class LiveError(RuntimeError):
    """What cannot be done here: one line that says what, where, and what would be right."""
