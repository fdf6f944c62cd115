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
# # Anatomy of a checkpoint
#
# One checkpoint, step by step, on both nodes. What is shown is not drawn from a description: it is
# the trace of the protocol core that runs, here under a simulated clock and live on real guests
# (the [live run](live_run.ipynb) has the same steps).

# %%
from collections import Counter
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from IPython.display import display

import colosim
from colosim import store
from colosim.analysis.plots import COLOURS, Chart, styled
from colosim.protocol import types as t
from colosim.protocol.codec import encode
from colosim.protocol.dialect import DIALECTS, Message
from colosim.sliders import sliders

BASE = colosim.load_scenario("../experiments/webserver/redis.toml").replace(
    {
        "duration": "3 s",
        "warm_up": "500 ms",
        "replications": 1,
        "divergence.probability": 0.002,
        "memory.outside": "extrapolate",
        "policy.colo.checkpoint_delay": "1 s",
    }
)


def traced(scenario, policy):
    """The result of one run, and all lines of its trace."""
    with TemporaryDirectory() as directory:
        out = Path(directory, "run")
        result = colosim.simulate(scenario, policy, out=out, jobs=1)
        return result, list(store.read_trace(next(out.glob("trace-*"))))


result, lines = traced(BASE, "colo")
print(Counter(line.kind for line in lines))
result.checkpoints[["checkpoint", "reason", "started_ns", "pause_ms", "pages"]].head()

# %% [markdown]
# A line of the trace says which node it is of, when, and in which step the node is afterwards. An
# **event** is what the node was told, a **signal** is what its parts told each other, an **action**
# is what it wants done. An event that another node's action caused names it.
#
# ## One that a difference asked for
#
# The first checkpoint for a mismatch, from the response that differed until both guests run again.

# %%
chosen = result.checkpoints.query("reason == 'mismatch' and measured and completed_ns > 0").iloc[0]
begin_ns, end_ns = chosen["started_ns"], chosen["completed_ns"] + 3_000_000
inside = [line for line in lines if begin_ns - 100_000 <= line.now_ns <= end_ns]
OUTPUT = {"GuestOutput", "PeerOutput", "Match", "Release", "OfferWitness", "Tick", "Witnessed"}


WORDS = {encode(DIALECTS["upstream"], message): message.name for message in Message}


def told(body):
    """An event or action for people: its name, and what of it is short or on the wire."""
    name, data = type(body).__name__, getattr(body, "data", None)
    if isinstance(data, t.Blob):
        return f"{name}: {data.id}, {data.size} B"
    if isinstance(data, bytes):
        return f"{name}: {WORDS.get(data[:4], data.hex())}"
    text = str(body)
    return name if len(text) > 70 else text


rows = [
    (f"{(line.now_ns - begin_ns) / 1e6:+.3f}", line.node, line.step, line.kind, told(line.body))
    for line in inside
    if type(line.body).__name__ not in OUTPUT and line.kind != "signal"
]
pd.set_option("display.max_colwidth", 90)
pd.set_option("display.max_rows", 80)
display(pd.DataFrame(rows, columns=["ms", "node", "step after it", "kind", "what"]))

# %% [markdown]
# ## The same as a picture
#
# A node's step is named after the one operation that is outstanding in it. So the time in a step is
# the time between two of its events.


# %%
def steps_of(lines, node, begin_ns, end_ns):
    """(step, from, until) of a node within a stretch of its trace."""
    events = [line for line in lines if line.node == node and line.kind == "event"]
    moves = [(now.now_ns, now.step) for before, now in pairwise(events) if now.step != before.step]
    spans = [
        (step, at, until)
        for (at, step), (until, _) in pairwise(moves)
        if until > begin_ns and at < end_ns
    ]
    return [(step, max(at, begin_ns), min(until, end_ns)) for step, at, until in spans]


@styled
def anatomy(lines, begin_ns, end_ns, title):
    """Both nodes' steps over time, one row for each step."""
    chart = Chart(figsize=(7.6, 4.4))
    axes = chart.subplots()
    labels, y = [], 0
    for node, colour in (("primary", COLOURS[0]), ("secondary", COLOURS[1])):
        spans = steps_of(lines, node, begin_ns, end_ns)
        for step in dict.fromkeys(step for step, _, _ in spans):
            own = [
                ((at - begin_ns) / 1e6, (until - at) / 1e6) for s, at, until in spans if s == step
            ]
            axes.broken_barh(
                [(x, max(width, 0.02)) for x, width in own], (y - 0.35, 0.7), color=colour
            )
            x, width = own[0]
            axes.annotate(f"{sum(w for _, w in own):.2f} ms", (x + width, y), (3, 0),
                          textcoords="offset points", va="center", fontsize=7)  # fmt: skip
            labels.append(f"{node}: {step}")
            y += 1
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set(xlabel="Time since the checkpoint began (ms)", title=title)
    axes.set_xlim(0, (end_ns - begin_ns) / 1e6 * 1.12)
    axes.grid(visible=False, axis="y")
    return chart


title = f"checkpoint {chosen['checkpoint']} for a {chosen['reason']}: {chosen['pages']} pages"
display(anatomy(lines, begin_ns, end_ns, title))

# %% [markdown]
# What to see in it:
#
# * The primary's guest stands from `stop` to `resume`; output made before waits for the commit.
# * The secondary's guest stands as well, from its `stop` to its `resume`: its state is replaced.
# * `send` and `receive` are the same bytes, seen from either end; `load` is the secondary's alone,
#   and with COLO's upstream dialect the primary waits for it.
#
# ## What each step takes
#
# Over all checkpoints of the run, in the order of the steps:

# %%
display(result.phase_summary.round(3))

# %% [markdown]
# ## More pages, another transfer
#
# Which steps grow with pages? Move the slider for the link, and choose how the state gets across:
# with `copy-then-send` the guest runs while its copy is sent, and only output waits.


# %%
@styled
def phases(link="1 Gbit/s", transfer="stop-and-send"):
    """Medians of the steps of periodic checkpoints."""
    scenario = BASE.replace(
        {
            "link.bandwidth": link,
            "transfer": transfer,
            "policy.remus.interval": "100 ms",
            "duration": "1500 ms",
        }
    )
    run, _ = traced(scenario, "remus")
    found = run.phase_summary
    chart = Chart(figsize=(6.6, 3.2))
    axes = chart.subplots()
    bars = axes.barh(found["phase"], found["median_ms"], color=COLOURS[0])
    ends = [found["p95_ms"] - found["median_ms"]]
    axes.errorbar(found["median_ms"], found["phase"], xerr=[[0] * len(found), *ends], fmt="none",
                  color="black", capsize=2)  # fmt: skip
    axes.bar_label(bars, [f"{each:.2f}" for each in found["median_ms"]], padding=14, fontsize=7)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    pause = run.summary.set_index("metric")["mean"]["pause_mean_ms"]
    axes.set(
        xlabel="Median, and 95 % of all (ms)", title=f"{transfer}, {link}: pause {pause:.2f} ms"
    )
    return chart


sliders(
    phases,
    link=["100 Mbit/s", "1 Gbit/s", "10 Gbit/s"],
    transfer=["stop-and-send", "copy-then-send"],
)

# %% [markdown]
# The tables behind these steps are drawn in `docs/diagrams`, from the code that runs; the words are
# explained in `docs/protocol.md`.
