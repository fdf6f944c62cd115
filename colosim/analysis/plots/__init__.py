"""All figures, in one style: colour-blind safe, also in grey; units on the axes, intervals drawn.

Each function takes tidy tables, such as those of `colosim.analysis.summary`, and returns a `Chart`,
which shows itself in a notebook and is written by `Chart.save`.  No pyplot: no global state, no
display needed.
"""

from colosim.analysis.plots.checkpoints import timeline
from colosim.analysis.plots.distributions import latency_cdf, pause_cdf
from colosim.analysis.plots.maps import policy_map
from colosim.analysis.plots.metrics import comparison
from colosim.analysis.plots.style import COLOURS, Chart, styled

__all__ = [
    "COLOURS",
    "Chart",
    "comparison",
    "latency_cdf",
    "pause_cdf",
    "policy_map",
    "styled",
    "timeline",
]
