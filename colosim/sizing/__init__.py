"""What protection costs a service: `size`.

``sources``   what to size from: a scenario, live runs, logs, captures, dirty rates
``basis``     what they say, from where, and ranges for what they do not say
``causes``    why two guests' output differed, from the bytes
``lab``       candidates, simulated with common random numbers
``sizing``    which to choose, how sure, what to change; ``report``: as text, JSON and files

Imported on first use, for the command line registers ``command`` at every start.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colosim.sizing.errors import SizingError
    from colosim.sizing.sizing import Sizing, size

__all__ = ["Sizing", "SizingError", "size"]

_HOME = {
    "Sizing": "colosim.sizing.sizing",
    "SizingError": "colosim.sizing.errors",
    "size": "colosim.sizing.sizing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'colosim.sizing' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
