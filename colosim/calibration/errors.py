"""What is wrong with runs that cannot be calibrated on or predicted."""

from __future__ import annotations


class CalibrationError(ValueError):
    """Runs that cannot be used, or not together; one line: what, where, what would be right."""
