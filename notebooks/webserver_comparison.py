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
# # What does protection cost a web server?
#
# A virtual machine survives the loss of its host if a second one follows it closely. Two ways:
#
# * **Remus** copies what changed many times a second, and holds back every response until the copy
#   of the state that made it is safe.
# * **COLO** lets both machines answer, releases what is equal, and copies only when they differ.
#
# Here both protect *redis* and *nginx*. How many pages a guest dirties is not a formula but was
# measured on real guests; the protocol that runs is colosim's own core, under a simulated clock.
#
# Run it with Jupyter in the folder `notebooks` (about a minute). The full comparison, with figures
# in files, is `python -m experiments.webserver`.

# %%
from pathlib import Path

import pandas as pd
from IPython.display import display

import colosim
from colosim.model.memory import MeasuredCurve

SCENARIOS = Path("../experiments/webserver")
REPLICATIONS = 4  # more give narrower intervals
COLUMNS = [
    "Latency mean (ms)",
    "Latency p99 (ms)",
    "Pause mean (ms)",
    "Checkpoints (1/s)",
    "Link (Mbit/s)",
    "Throughput (1/s)",
]

# %% [markdown]
# ## The workload
#
# A scenario is a file. Every quantity carries its unit, and a mistake is told in one line.

# %%
redis = colosim.load_scenario(SCENARIOS / "redis.toml")
print((SCENARIOS / "redis.toml").read_text())

# %%
try:
    redis.replace({"policy.remus.intervall": "50 ms"})
except colosim.ScenarioError as error:
    print(error)

# %% [markdown]
# The measured curve: distinct pages that are dirty after the guest has run for so long. It bends,
# because a page that is written again is still one page. redis' bends late, nginx's is nearly flat.

# %%
curves = {name: MeasuredCurve.named(name) for name in ("redis", "nginx")}
display(
    pd.DataFrame(
        {
            name: {f"{ms:g} ms": curve.mean(ms * 1e6, 0) for ms in (10, 25, 50, 100, 400, 1600)}
            for name, curve in curves.items()
        }
    ).round()
)

# %% [markdown]
# ## Three policies, the same clients
#
# `compare` runs every policy with the same random draws: the same requests arrive at the same
# moments and need the same work. So differences between policies are not luck, and their intervals
# (second table) are narrow.

# %%
comparison = colosim.compare(redis, ["none", "remus", "colo"], replications=REPLICATIONS)
display(comparison)

# %% [markdown]
# Half of all responses, nine out of ten, the slowest: the whole distribution says more than a mean.
# Remus delays everything by about the same; COLO delays only those who meet a checkpoint, but those
# for as long as the guest stands still.

# %%
display(comparison.plot_latency())
display(comparison.plot_metrics("latency_mean_ms", "pause_mean_ms", "link_mbit_per_s"))

# %% [markdown]
# When the guest stands still, and when its output is not safe yet:

# %%
display(comparison.plot_timeline())

# %% [markdown]
# ## Remus: latency against traffic
#
# Published Remus lets the guest run on as soon as its pages are copied aside
# (`transfer = "copy-then-send"`), and its backup does not run. A response waits half an interval on
# average, and then for the commit. A shorter interval is quicker, but sends the same hot pages more
# often. The last column is what theory says about the mean.


# %%
def one_row(result):
    """The main numbers of a result, as mean ± half of a 95 % interval, and its flags."""
    texts = result.readable()[0][result.policy].reindex(COLUMNS, fill_value="–")
    return texts.to_dict() | {"flags": ", ".join(result.flags)}


unprotected = comparison.results["none"].summary.set_index("metric")["mean"]
remus = redis.replace(
    {"policy.name": "remus", "transfer": "copy-then-send", "execution.executes": False}
)
rows = {}
for interval_ms in (25, 50, 100):
    changed = remus.replace({"policy.remus.interval": f"{interval_ms} ms"})
    result = colosim.simulate(changed, replications=REPLICATIONS)
    checkpoints = result.checkpoints.query("committed_ns >= 0")
    commit_ms = (checkpoints["committed_ns"] - checkpoints["started_ns"]).mean() / 1e6
    theory_ms = unprotected["latency_mean_ms"] + interval_ms / 2 + commit_ms
    rows[f"{interval_ms} ms"] = one_row(result) | {"none + interval/2 + commit": f"{theory_ms:.2f}"}
display(pd.DataFrame(rows).T)

# %% [markdown]
# ## COLO: everything hinges on how often the guests differ
#
# The chance that a response differs is a property of the service: a clock, a random number, the
# order of threads. Note the column `flags`: where the guests seldom differ, an epoch lasts longer
# than the 1.6 s that the curve was measured for, and the result is marked as extrapolated.

# %%
rows = {}
for probability in (1e-4, 1e-3, 1e-2):
    changed = redis.replace({"divergence.probability": probability})
    rows[f"p = {probability:g}"] = one_row(
        colosim.simulate(changed, "colo", replications=REPLICATIONS)
    )
within = redis.replace({"divergence.probability": 1e-4, "policy.colo.checkpoint_delay": "1.5 s"})
rows["p = 0.0001, at the latest after 1.5 s"] = one_row(
    colosim.simulate(within, "colo", replications=REPLICATIONS)
)
display(pd.DataFrame(rows).T)

# %% [markdown]
# ## Throughput: clients that wait
#
# So far requests came whether or not the last one was answered. Clients that wait for their
# response and then ask again feel latency as throughput: under Remus each gets one response an
# interval, however fast the server is. With enough of them the server is busy anyway.
#
# Their load is not the one that was measured, so colosim wants to know how many further pages a
# further request dirties. The late slope of the curve is one answer: too low for short epochs.

# %%
curve = curves["redis"]
before_ns, last_ns = (point.exposure_ns for point in curve.points[-2:])
pages = curve.mean(last_ns, 0) - curve.mean(before_ns, 0)
further = pages / (curve.load_per_s * (last_ns - before_ns) / 1e9)
print(f"{further:.3f} pages per further request")
rows = {}
for clients in (8, 256):
    closed = {
        "duration": "6 s",
        "warm_up": "1 s",
        "workload.load": "closed",
        "workload.rate": None,
        "workload.clients": clients,
        "workload.think_time": "0 s",
        "memory.pages_per_request": further,
    }
    for name, scenario in {"none": redis, "remus": remus, "colo": redis}.items():
        changed = scenario.replace({"policy.name": name, **closed})
        rows[f"{clients} clients, {name}"] = one_row(
            colosim.simulate(changed, replications=REPLICATIONS)
        )
display(pd.DataFrame(rows).T)

# %% [markdown]
# ## Another service
#
# nginx dirties hardly more pages in a second than in a hundredth of one. That is good for COLO,
# whose long epochs stay cheap, and bad for Remus, whose short ones do not get cheaper. But COLO's
# secondary sends its responses for comparison, and nginx's are large: see `Link` against
# `Replication`.

# %%
nginx = colosim.load_scenario(SCENARIOS / "nginx.toml")
display(colosim.compare(nginx, ["none", "remus", "colo"], replications=REPLICATIONS))

# %% [markdown]
# ## Your own question
#
# * Another workload: measure how many pages it dirties (columns as in
#   `colosim/data/dirty-pages-measured.csv`), and name that file in `[memory]`.
# * A slower link, a slower save: `redis.replace({"link.bandwidth": "100 Mbit/s"})`.
# * What happens when a host dies: `experiments/scenarios/failover.toml`.
# * A grid over many fields, on all cores: `colosim sweep`.
