"""A scenario that takes milliseconds to simulate, for the tests of what is above the world."""

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


#: the same, long enough to be interrupted
SLOW = SCENARIO.replace('"2 s"', '"5 s"').replace("replications = 3", "replications = 1000")


def write(path: Path, text: str = SCENARIO) -> Path:
    path.write_text(text)
    return path
