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
# # A tour: what does protection cost a web server?
#
# A virtual machine survives the loss of its host if a second one follows it closely. Two ways:
#
# * **Remus** copies what changed many times a second, and holds back every response until the copy
#   of the state that made it is safe.
# * **COLO** lets both machines answer, releases what is equal, and copies only when they differ.
#
# Here both protect *redis* and *nginx*. How many pages a guest dirties is not a formula but was
# measured on real guests; the protocol that runs is colosim's own core, under a simulated clock.
# All of it runs in about ten seconds. The full comparison is `python -m experiments.webserver`.

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from IPython.display import display

import colosim
from colosim.analysis.plots import policy_map
from colosim.model.memory import MeasuredCurve
from colosim.sliders import sliders

SCENARIOS = Path("../experiments/webserver")
REPLICATIONS = 3  # more give narrower intervals
COLUMNS = ["Latency mean (ms)", "Latency p99 (ms)", "Pause mean (ms)", "Checkpoints (1/s)"]

# %% [markdown]
# ## The workload
#
# A scenario is a file. Every quantity carries its unit, and a mistake is told in one line.
# `fidelity = "epoch"` computes requests in arrays: the same numbers, about a hundred times as fast.

# %%
redis = colosim.load_scenario(SCENARIOS / "redis.toml").replace({"fidelity": "epoch"})
display(redis)

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
# (folded, below the figure) are narrow. A result shows its verdict first.

# %%
comparison = colosim.compare(redis, ["none", "remus", "colo"], replications=REPLICATIONS)
display(comparison)

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
    texts = result.readable()[0][result.policy].reindex([*COLUMNS, "Link (Mbit/s)"], fill_value="–")
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
# order of threads. Move the sliders: how often responses differ, and when COLO checkpoints at the
# latest although none did. Flags say what a reader must know: where the guests seldom differ, an
# epoch lasts longer than the 1.6 s that the curve was measured for, and is extrapolated.


# %%
def latency(differs=0.001, at_the_latest="1500 ms"):
    """Latency of no protection and COLO, one replication."""
    changed = redis.replace(
        {"divergence.probability": differs, "policy.colo.checkpoint_delay": at_the_latest}
    )
    compared = colosim.compare(changed, ["none", "colo"], replications=1, jobs=1)
    return compared.plot_latency()


sliders(
    latency,
    differs=[1e-5, 1e-4, 1e-3, 1e-2, 1e-1],
    at_the_latest=["250 ms", "500 ms", "1500 ms", "5 s"],
)

# %% [markdown]
# ## Another service
#
# nginx dirties hardly more pages in a second than in a hundredth of one. That is good for COLO,
# whose long epochs stay cheap, and bad for Remus, whose short ones do not get cheaper. But COLO's
# secondary sends its responses for comparison, and nginx's are large: see `Link` against
# `Replication`, among all metrics.

# %%
nginx = colosim.load_scenario(SCENARIOS / "nginx.toml").replace({"fidelity": "epoch"})
display(colosim.compare(nginx, ["none", "remus", "colo"], replications=REPLICATIONS))

# %% [markdown]
# ## Many at once
#
# A sweep is a grid over any fields. Its table is tidy, and the map says who wins where and how sure
# that is. `colosim sweep` does the same on all cores, into a directory that it can resume.

# %%
grid = {
    "scenario": redis.replace({"duration": "6 s", "warm_up": "1 s"}),
    "policies": ["remus", "colo"],
    "replications": 4,
    "axes": {
        "divergence.probability": [0.0001, 0.003, 0.1],
        "link.bandwidth": ["100 Mbit/s", "1 Gbit/s", "10 Gbit/s"],
    },
}
table = colosim.sweep(grid, jobs=1)
display(policy_map(table, "divergence.probability", "link.bandwidth_bps"))

# %% [markdown]
# ## What is kept
#
# `out` keeps a run: parameters, seed, tables, summary, and the trace of everything that the
# protocol's nodes saw and did. `replay` feeds the same events to new nodes: they must act alike.

# %%
with TemporaryDirectory() as directory:
    kept = Path(directory, "run")
    short = redis.replace({"duration": "2 s", "warm_up": "500 ms", "fidelity": "response"})
    colosim.simulate(short, replications=1, out=kept)
    print(*sorted(path.name for path in kept.iterdir()))
    for replayed in colosim.replay(kept):
        print(f"{replayed.lines} lines, {len(replayed.differences)} actions differ")

# %% [markdown]
# ## Where to go on
#
# * [Why COLO beats Remus for some services and not for others](colo_or_remus.ipynb)
# * [Anatomy of a checkpoint](checkpoint.ipynb), [a failover, step by step](failover.ipynb),
#   [a live run](live_run.ipynb)
# * [What protection would cost my service](sizing.ipynb)
# * Another workload: measure how many pages it dirties (columns as in
#   `colosim/data/dirty-pages-measured.csv`), and name that file in `[memory]`.
