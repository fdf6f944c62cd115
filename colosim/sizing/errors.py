"""What a person can set right."""

from __future__ import annotations


class SizingError(ValueError):
    """Something that was given cannot be sized from; one line that says what would be right."""
