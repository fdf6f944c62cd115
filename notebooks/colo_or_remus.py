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
# # Why COLO beats Remus for some services and not for others
#
# Both send the pages that changed. They differ in when, and in who waits.
#
# | | Remus | COLO |
# |---|---|---|
# | checkpoints | every interval | when the guests differ, and at the latest after a while |
# | a response waits | half an interval, and for the commit | for that of the other guest |
# | an epoch is | short: few pages | as long as the guests agree: many pages |
#
# So three things decide: how often the guests **differ**, how fast the service **dirties** memory,
# and the **link**. This notebook takes them one by one, then all together.

# %%
import numpy as np
import pandas as pd
from IPython.display import display

import colosim
from colosim.analysis.plots import COLOURS, Chart, policy_map, styled
from colosim.sliders import sliders

BASE = colosim.load_scenario("../experiments/policy_map/policy_map.toml").replace(
    {"duration": "3 s", "warm_up": "500 ms", "replications": 4}
)
POLICIES = ["none", "remus", "colo"]
display(BASE)

# %% [markdown]
# ## Four services
#
# Told by two numbers each: how often the guests' states part, and how many pages the guest writes a
# second. The rest is the same: 1000 requests a second of half a millisecond.

# %%
SERVICES = {
    "static files": ("0.1 /s", "300 /s"),
    "files with a Date header": ("1 /s", "300 /s"),  # both clocks are read, about once a second
    "key-value store": ("1 /s", "10000 /s"),
    "random token in each answer": ("1000 /s", "300 /s"),
}
rows = {}
for name, (differs, dirties) in SERVICES.items():
    scenario = BASE.replace({"divergence.hazard": differs, "memory.touches": dirties})
    compared = colosim.compare(scenario, POLICIES, jobs=1)
    texts = compared.readable()[0]
    rows[name] = {
        **{f"{policy}, mean ms": texts[policy]["Latency mean (ms)"] for policy in POLICIES},
        **{f"{policy}, p99 ms": texts[policy]["Latency p99 (ms)"] for policy in POLICIES[1:]},
        "COLO answers/s": texts["colo"]["Throughput (1/s)"],
    }
display(pd.DataFrame(rows).T)

# %% [markdown]
# Where the guests agree COLO costs next to nothing in the mean. The store's long epochs have many
# pages, so the few who meet a checkpoint wait long: Remus is far better at 99 %. And where every
# answer differs COLO checkpoints all the time, does not keep up, and clients queue.
#
# ## Where the time goes
#
# A mean response of Remus waits half an interval and the time until the commit, whatever the
# service does. One of COLO waits only if it meets a pause: the chance is *checkpoints a second ×
# pause*, and then half a pause on average. Both need no simulation:


# %%
@styled
def by_hand(interval_ms=25, pause_ms=10.0):
    """Mean added latency over the checkpoints that COLO makes a second; its pause held fixed."""
    most_per_s = 1e3 / pause_ms
    per_s = np.geomspace(0.1, most_per_s, 60)
    share = per_s * pause_ms / 1e3
    chart = Chart(figsize=(6.2, 3.4))
    axes = chart.subplots()
    axes.plot(per_s, share * pause_ms / 2, color=COLOURS[2], label="COLO: meets a pause")
    axes.axhline(
        interval_ms / 2 + pause_ms,
        color=COLOURS[1],
        ls="--",
        label="Remus: half an interval + commit",
    )
    axes.axvline(most_per_s, color="0.4", ls=":", label="COLO's guest never runs")
    axes.set(
        xscale="log",
        xlabel="Checkpoints that differing output asks for (1/s)",
        ylabel="Mean wait, without queueing (ms)",
        ylim=(0, None),
        title=f"COLO waits less than Remus up to {most_per_s:.0f} checkpoints a second",
    )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(loc="center left")
    return chart


sliders(by_hand, interval_ms=[10, 25, 50, 100], pause_ms=[5.0, 10.0, 20.0, 50.0])

# %% [markdown]
# What that leaves out is queueing: a guest that stands cannot serve. The simulator has it. Three
# parameters matter; move them:


# %%
def latency(differs_per_s=1, touches_per_s=1000, link="1 Gbit/s"):
    """Distribution of latency, one replication of each policy."""
    scenario = BASE.replace(
        {
            "divergence.hazard": f"{differs_per_s} /s",
            "memory.touches": f"{touches_per_s} /s",
            "link.bandwidth": link,
        }
    )
    return colosim.compare(scenario, POLICIES, replications=1, jobs=1).plot_latency()


sliders(
    latency,
    differs_per_s=[0.1, 1, 10, 100, 300],
    touches_per_s=[100, 1000, 10000, 30000],
    link=["100 Mbit/s", "1 Gbit/s", "10 Gbit/s"],
)

# %% [markdown]
# ## The map
#
# A small one of `python -m experiments.policy_map`, which has all policies, both metrics and links.
# A hollow marker is a cell that is not decided by these few replications. Note the 99 % map: where
# COLO's epochs have many pages Remus wins, although COLO's mean is lower.

# %%
plan = {
    "scenario": BASE,
    "policies": ["remus", "colo"],
    "axes": {
        "divergence.hazard": ["0.1 /s", "3 /s", "30 /s", "300 /s"],
        "memory.touches": ["300 /s", "3000 /s", "10000 /s"],
    },
}
table = colosim.sweep(plan, jobs=1)
for metric in ("latency_mean_ms", "latency_p99_ms"):
    display(policy_map(table, "divergence.hazard_per_s", "memory.touches_per_s", metric))

# %% [markdown]
# ## What to do about it
#
# * **Differ less.** A clock in the answers, a random token, the order of threads: `colosim size`
#   and `colosim compare-pcap` say what differs and what to change.
# * **Shorter epochs.** A `checkpoint_delay` of COLO that is shorter than the default makes each
#   checkpoint cheaper, at the price of more of them.
# * **hybrid** is COLO that turns periodic while output differs too often: see the full map.
