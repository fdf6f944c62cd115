"""A small valid scenario, and a way to change one key of it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

Build = Callable[..., dict[str, Any]]

SMALLEST: dict[str, Any] = {
    "name": "smallest",
    "duration": "10 s",
    "workload": {"kind": "service", "load": "open", "rate": "500 /s", "service_time": "1 ms"},
    "memory": {"kind": "measured", "curve": "redis"},
}


@pytest.fixture
def build() -> Build:
    """Smallest scenario with dotted keys set; ``...`` takes one away."""

    def make(changes: dict[str, Any] | None = None) -> dict[str, Any]:
        mapping = deepcopy(SMALLEST)
        for dotted, value in (changes or {}).items():
            *tables, key = dotted.split(".")
            place = mapping
            for table in tables:
                place = place.setdefault(table, {})
            if value is ...:
                del place[key]
            else:
                place[key] = deepcopy(value)
        return mapping

    return make
