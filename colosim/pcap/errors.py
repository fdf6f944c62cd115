"""What is wrong with captures that cannot be compared."""

from __future__ import annotations


class CaptureError(ValueError):
    """A capture that cannot be read or compared; one line: file, what, what would be right."""
