"""Scenario files: TOML in, one validated and frozen `Scenario` out.

A field's Python name ends in its unit (``service_time_ns``); the key in a file is the name without
it and the value carries the unit (``service_time = "2 ms"``).  Every problem of a file is told in
one line, ``FILE: key: what is wrong; what would be right``, all of them at once where possible.

The tables ``[policy.NAME]`` are made from `POLICIES` and ``[cost]`` from `Costs`: whoever adds a
parameter there need not come here.
"""

from colosim.scenario.conflicts import LARGEST_DATAGRAM_BYTES, LEAST_RESPONSE_BYTES, problems_of
from colosim.scenario.memory import (
    MeasuredMemory,
    Memory,
    SequentialMemory,
    TouchedMemory,
    UniformMemory,
    ZipfMemory,
)
from colosim.scenario.pair import (
    ClientNetwork,
    Clocks,
    Compare,
    Cost,
    Disk,
    Divergence,
    Execution,
    Limits,
    Link,
    Manager,
    Packet,
    Sharing,
    Stream,
)
from colosim.scenario.policy import Policy
from colosim.scenario.reading import ScenarioError, read_toml, validated
from colosim.scenario.schema import json_schema
from colosim.scenario.timeline import Fault, Phase
from colosim.scenario.whole import Scenario, load_scenario
from colosim.scenario.workload import BatchJob, ClosedService, OpenService, Service, Workload
from colosim.scenario.years import Availability, TimeLaw

__all__ = [
    "LARGEST_DATAGRAM_BYTES",
    "LEAST_RESPONSE_BYTES",
    "Availability",
    "BatchJob",
    "ClientNetwork",
    "Clocks",
    "ClosedService",
    "Compare",
    "Cost",
    "Disk",
    "Divergence",
    "Execution",
    "Fault",
    "Limits",
    "Link",
    "Manager",
    "MeasuredMemory",
    "Memory",
    "OpenService",
    "Packet",
    "Phase",
    "Policy",
    "Scenario",
    "ScenarioError",
    "SequentialMemory",
    "Service",
    "Sharing",
    "Stream",
    "TimeLaw",
    "TouchedMemory",
    "UniformMemory",
    "Workload",
    "ZipfMemory",
    "json_schema",
    "load_scenario",
    "problems_of",
    "read_toml",
    "validated",
]
