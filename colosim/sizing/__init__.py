"""What protection costs a service: `size`.

==============  =================================================================================
``sources``     what to size from: a scenario, live runs, logs, captures, dirty rates
``basis``       what they say, from where, and ranges for what they do not say
``causes``      why two guests' output differed, from the bytes; ``traffic``: load, from the bytes
``candidates``  what is compared
``trials``      candidates on the basis; ``lab``: simulated with common random numbers
``choosing``    which to choose, and how sure by chance alone
``unknowns``    what the choice hangs on, and how sure with all that is not known
``needs``       capacity, link and memory
``changes``     what to change in the service
``sizing``      all of it in order: `size`; ``answer``: what comes out; ``report``: as text, files
==============  =================================================================================

Imported on first use, for the command line registers ``command`` at every start.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colosim.sizing.answer import Sizing
    from colosim.sizing.errors import SizingError
    from colosim.sizing.sizing import size

__all__ = ["Sizing", "SizingError", "size"]

_HOME = {
    "Sizing": "colosim.sizing.answer",
    "SizingError": "colosim.sizing.errors",
    "size": "colosim.sizing.sizing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'colosim.sizing' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
