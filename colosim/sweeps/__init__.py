"""Sweeps: any scenario fields and policies varied, as a dataset that can be resumed.

A sweep file::

    scenario = "webserver.toml"          # relative to this file
    policies = ["none", "remus"]         # without it, the scenario's own
    replications = 20                    # and seed: instead of the scenario's own

    [axes]                               # any fields of the scenario, by their dotted names
    "link.bandwidth" = ["1 Gbit/s", "10 Gbit/s"]
    "policy.remus.interval" = { from = "25 ms", to = "400 ms", scale = "log", steps = 5 }

All points have the scenario's seed, so they meet the same random draws.  See ``docs/sweeps.md``.

==============  ==============================================================================
``file``        what a file may say
``design``      which combinations of values are points
``derived``     metrics computed of others
``planning``    a file into points, each found possible
``columns``     what the dataset has for each axis
``dataset``     parts, complete or not there; reading, and summaries in bounded memory
``working``     what a worker does
``schedulers``  who the workers are: processes, Dask, Ray
``adaptive``    where further replications go
``running``     the loop
==============  ==============================================================================
"""

from colosim.sweeps.dataset import batches, read, summary
from colosim.sweeps.errors import SweepError
from colosim.sweeps.planning import Plan, Point, plan
from colosim.sweeps.running import Outcome, run, sweep

__all__ = [
    "Outcome",
    "Plan",
    "Point",
    "SweepError",
    "batches",
    "plan",
    "read",
    "run",
    "summary",
    "sweep",
]
