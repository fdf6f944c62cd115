# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What will protection cost my service?
#
# `colosim size` answers from what there is: a live run, a log of a QEMU pair, two packet captures,
# a scenario, or, as here, the few numbers that can be read off a running VM. What is not known is
# given a range, and the answer says how much hangs on it.
#
# Three numbers of a service: QEMU's `calc-dirty-rate` (distinct memory written over a second), how
# many requests it serves, and how long one takes. Put yours here.

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

from IPython.display import display

import colosim
from colosim.sliders import sliders

SERVICE = {
    "dirty_rate": ["12 MiB/s", "3 MiB/s over 100 ms"],
    "memory": "2 GiB",
    "link": "1 Gbit/s",
    "changes": {
        "workload.rate": "200 /s",
        "workload.service_time": "1 ms",
        "divergence.hazard": "0.5 /s",
    },
}

# %% [markdown]
# The verdict is first; below it what each policy would cost, what the answer hangs on, and what to
# change. Each number is measured, given or assumed; an assumed one with a large effect is the next
# to measure. `quick`, two replications and two candidates are for this notebook: leave them out for
# a decision.

# %%
place = TemporaryDirectory()  # a directory of yours keeps the scenario and all tables
answer = colosim.size(
    **SERVICE,
    policies=["remus", "colo"],
    intervals=["50 ms"],
    quick=True,
    replications=2,
    out=Path(place.name, "size"),
    jobs=1,
    progress=lambda done, total: None,
)
display(answer)

# %% [markdown]
# ## What if
#
# The scenario behind the answer is a file like any other. Three of its parameters, and what they
# do:


# %%
FILE = Path(place.name, "size", "scenario.toml")


def latency(differs_per_s=0.5, requests_per_s=200, link="1 Gbit/s"):
    """Latency of no protection, Remus and COLO; one replication."""
    scenario = colosim.load_scenario(FILE).replace(
        {
            "divergence.hazard": f"{differs_per_s} /s",
            "workload.rate": f"{requests_per_s} /s",
            "link.bandwidth": link,
            "policy.remus.interval": "50 ms",
            "duration": "6 s",
            "warm_up": "1 s",
        }
    )
    return colosim.compare(scenario, replications=1, jobs=1).plot_latency()


sliders(
    latency,
    differs_per_s=[0.05, 0.5, 5, 50],
    requests_per_s=[50, 200, 400],
    link=["100 Mbit/s", "1 Gbit/s", "10 Gbit/s"],
)

# %% [markdown]
# ## From more than three numbers
#
# ```
# colosim size out/live-run                        # a live run of the service: colosim live --out
# colosim size primary.pcap secondary.pcap         # both guests' packets: why they differ, too
# colosim size --qmp /run/my-vm.qmp --memory 8GiB  # asks a running VM by calc-dirty-rate
# ```
