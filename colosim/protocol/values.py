"""Values: dataclasses that nobody changes, made as quickly as those that may be changed.

A frozen dataclass sets each field of a new object through `object.__setattr__`, which takes longer
than all else about a small one; of events, signals and actions there are dozens in a checkpoint.
So that they are not changed is checked where types are (mypy sees a frozen dataclass), and equal
ones have equal hashes as ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["value"]

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:
    from dataclasses import dataclass

    def value(*, frozen, slots):
        """As `dataclass` with these arguments, but that nothing but mypy keeps it from changes."""
        return dataclass(unsafe_hash=frozen, slots=slots)
