"""Small results of every kind, made once."""

import pytest

from colosim import api
from colosim.scenario import Scenario

SMALL = {
    "name": "small",
    "duration": "2 s",
    "warm_up": "500 ms",
    "replications": 3,
    "policy": {"name": "remus"},
    "workload": {"kind": "service", "load": "open", "rate": "200 /s", "service_time": "1 ms"},
    "memory": {"kind": "uniform", "working_set_pages": 1000, "touches": "5000 /s"},
    "divergence": {"probability": 0.01},
}
CRASH = {"target": "primary", "scope": "host", "kind": "crash", "at": "1400 ms"}
QUICK = {"heartbeat_interval": "20 ms", "heartbeat_timeout": "100 ms"}


def quiet(done, total):
    """No bar."""


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """Directories: a comparison in which the primary's host dies, one without, a sweep."""
    place = tmp_path_factory.mktemp("results")
    struck = {**SMALL, "fault": [CRASH], "manager": QUICK}
    api.compare(Scenario.from_mapping(struck), out=place / "struck", jobs=1, progress=quiet)
    whole = Scenario.from_mapping(SMALL)
    api.compare(whole, ["none", "colo"], out=place / "whole", jobs=1, progress=quiet)
    api.sweep(
        {
            "scenario": whole,
            "policies": ["remus", "colo"],
            "replications": 2,
            "axes": {
                "link.bandwidth": ["100 Mbit/s", "1 Gbit/s"],
                "divergence.probability": [0.001, 0.5],
            },
        },
        place / "sweep",
        jobs=1,
        progress=quiet,
    )
    return place
