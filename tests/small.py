"""A scenario that takes milliseconds to simulate, shared by the tests of what is above the world."""

from __future__ import annotations

from pathlib import Path

SCENARIO = """
name = "small"
duration = "2 s"
warm_up = "500 ms"
replications = 3
[workload]
kind = "service"
load = "open"
rate = "200 /s"
service_time = "1 ms"
[memory]
kind = "uniform"
working_set_pages = 1000
touches = "5000 /s"
[divergence]
probability = 0.01
"""


def write_scenario(directory: Path, more: str = "", name: str = "small.toml") -> Path:
    """The scenario as a file, with ``more`` lines appended."""
    path = directory / name
    path.write_text(SCENARIO + more)
    return path


def slow(text: str) -> str:
    """The same scenario, long enough to be interrupted."""
    return text.replace('duration = "2 s"', 'duration = "20 s"').replace(
        "replications = 3", "replications = 1000"
    )
