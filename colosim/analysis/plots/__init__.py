"""All figures, in one style: colour-blind safe, also in grey; units on the axes, intervals drawn.

Each function takes tidy tables, such as those of `colosim.analysis.summary`, and returns a `Chart`,
which shows itself in a notebook and is written by `Chart.save`.  No pyplot: no global state, no
display needed.
"""

from colosim.analysis.plots.agreement import agreement
from colosim.analysis.plots.checkpoints import timeline
from colosim.analysis.plots.distributions import hold_cdf, latency_cdf, pause_cdf, stretch_tail
from colosim.analysis.plots.holds import hold_times
from colosim.analysis.plots.maps import policy_map
from colosim.analysis.plots.metrics import comparison
from colosim.analysis.plots.pages import dirty_pages
from colosim.analysis.plots.service import throughput
from colosim.analysis.plots.states import both_sides, state_diagram
from colosim.analysis.plots.style import COLOURS, Chart, shades, styled
from colosim.analysis.plots.years import downtime

__all__ = [
    "COLOURS",
    "Chart",
    "agreement",
    "both_sides",
    "comparison",
    "dirty_pages",
    "downtime",
    "hold_cdf",
    "hold_times",
    "latency_cdf",
    "pause_cdf",
    "policy_map",
    "shades",
    "state_diagram",
    "stretch_tail",
    "styled",
    "throughput",
    "timeline",
]
