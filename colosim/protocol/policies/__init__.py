"""When to checkpoint, and what output waits for.

Adding a policy is adding one module to this package: a `Policy` subclass with a ``name``.  Every
module here is imported below, so nothing else needs to be told about it; command line, scenario
files and docs read `POLICIES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from colosim.protocol.policies.base import Policy

for _module in sorted(info.name for info in iter_modules(__path__)):
    import_module(f"{__name__}.{_module}")


def _named(base: type[Policy]) -> Iterator[type[Policy]]:
    """All that inherit from it and have a name of their own."""
    for cls in base.__subclasses__():
        if "name" in vars(cls):
            yield cls
        yield from _named(cls)


#: name -> policy class, in alphabetical order
POLICIES: dict[str, type[Policy]] = {
    cls.name: cls for cls in sorted(_named(Policy), key=lambda cls: cls.name)
}

__all__ = ["POLICIES", "Policy"]
