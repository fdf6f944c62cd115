"""colosim: what would COLO, Remus or micro-checkpointing cost your workload, and does it survive?

    >>> import colosim
    >>> result = colosim.simulate("experiments/scenarios/webserver-redis.toml")  # doctest: +SKIP
    >>> result.summary  # doctest: +SKIP

Everything is imported on first use, so that ``import colosim`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colosim.api import compare, live, replay, run_live, simulate, sweep
    from colosim.calibration import calibrate, validate
    from colosim.dependability import availability
    from colosim.exploration.exploring import explore
    from colosim.pcap import compare_pcap
    from colosim.reporting import report
    from colosim.scenario import Scenario, ScenarioError, load_scenario
    from colosim.sizing import size
    from colosim.timelines import export
    from colosim.watching.shipped import recorded_run
    from colosim.watching.widget import watch

__version__ = "0.1.0"

_HOME = {
    "simulate": "colosim.api",
    "compare": "colosim.api",
    "sweep": "colosim.api",
    "live": "colosim.api",
    "replay": "colosim.api",
    "run_live": "colosim.api",
    "calibrate": "colosim.calibration",
    "explore": "colosim.exploration.exploring",
    "export": "colosim.timelines",
    "report": "colosim.reporting",
    "validate": "colosim.calibration",
    "compare_pcap": "colosim.pcap",
    "availability": "colosim.dependability",
    "size": "colosim.sizing",
    "Scenario": "colosim.scenario",
    "ScenarioError": "colosim.scenario",
    "load_scenario": "colosim.scenario",
    "recorded_run": "colosim.watching.shipped",
    "watch": "colosim.watching.widget",
}

__all__ = [
    "Scenario",
    "ScenarioError",
    "__version__",
    "availability",
    "calibrate",
    "compare",
    "compare_pcap",
    "explore",
    "export",
    "live",
    "load_scenario",
    "recorded_run",
    "replay",
    "report",
    "run_live",
    "simulate",
    "size",
    "sweep",
    "validate",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'colosim' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
