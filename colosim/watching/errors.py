"""What is wrong with a wish to watch."""

from __future__ import annotations


class WatchError(ValueError):
    """A speed or a moment that cannot be played; one line."""
