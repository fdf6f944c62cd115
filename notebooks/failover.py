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
# # A failover, step by step
#
# The primary's host dies under load. Who notices, who decides, what do clients see, and is anything
# lost? The scenario is `experiments/scenarios/failover.toml`: COLO, 500 requests a second, a crash
# of the whole host.

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from IPython.display import display

import colosim
from colosim import store
from colosim.analysis.plots import COLOURS, Chart, styled
from colosim.protocol import types as t
from colosim.sliders import sliders

BASE = colosim.load_scenario("../experiments/scenarios/failover.toml").replace(
    {
        "description": "COLO, crash of the primary's host at 3 s",
        "duration": "6 s",
        "warm_up": "1 s",
        "replications": 1,
        "fault.0.at": "3 s",
    }
)
display(BASE)


# %%
def run(changes):
    """The result of a run with these changes, and its trace."""
    with TemporaryDirectory() as directory:
        out = Path(directory, "run")
        result = colosim.simulate(BASE.replace(changes), out=out, jobs=1)
        return result, list(store.read_trace(next(out.glob("trace-*"))))


result, lines = run({})
died_ns = result.events.query("what == 'fault'")["at_ns"].iloc[0]
display(result.events[["at_ns", "node", "what", "detail"]])

# %% [markdown]
# ## What the survivor saw and did
#
# The secondary's trace from the crash to its first own output. Nobody tells it that the primary is
# dead: it hears no heartbeat until its patience is over (`heartbeat_timeout`), asks the witness for
# the vote, has the other host fenced, and only then lets its guest speak.

# %%
QUIET = (t.GuestOutput, t.PeerOutput, t.OfferWitness, t.Heartbeat)
rows, released, before = [], 0, None
for line in lines:
    if line.node != "secondary" or line.now_ns < died_ns or isinstance(line.body, QUIET):
        continue
    if isinstance(line.body, t.Release):
        released += 1
        if released > 1:
            continue
    if isinstance(line.body, t.Tick) or (released and not isinstance(line.body, t.Release)):
        continue
    after_ms = (line.now_ns - died_ns) / 1e6
    rows.append((f"{after_ms:.3f}", line.kind, line.step, type(line.body).__name__, str(line.body)))
pd.set_option("display.max_colwidth", 100)
display(pd.DataFrame(rows, columns=["ms after the crash", "kind", "step", "what", "in full"]))

# %% [markdown]
# ## What clients see
#
# Each point is an answer. In the gap nobody answers; what was asked meanwhile is answered
# afterwards, late: the survivor serves what it has read, and TCP repeats what died with the host.


# %%
@styled
def answers(heartbeat_timeout="500 ms", heartbeat_interval="100 ms", fence="10 ms"):
    """Answers around the crash, and the longest gap."""
    found, _ = run(
        {
            "manager.heartbeat_timeout": heartbeat_timeout,
            "manager.heartbeat_interval": heartbeat_interval,
            "cost.fence": fence,
        }
    )
    when = {
        what: found.events.loc[found.events["what"] == what, "at_ns"].iloc[0] / 1e9
        for what in ("fault", "promoted")
    }
    table = found.responses.query("released_ns > 2_500_000_000")
    chart = Chart(figsize=(7.4, 3.4))
    axes = chart.subplots()
    axes.plot(table["released_ns"] / 1e9, table["latency_ms"], ".", ms=2.5, color=COLOURS[0],
              label="an answer")  # fmt: skip
    axes.axvline(when["fault"], color=COLOURS[1], label="the primary's host dies")
    axes.axvline(when["promoted"], color=COLOURS[2], ls="--", label="the survivor is promoted")
    metrics = found.summary.set_index("metric")["mean"]
    axes.set(
        xlabel="Time (s)",
        ylabel="Latency seen by the client (ms)",
        xlim=(2.5, 5.5),
        yscale="log",
        title=f"longest gap {metrics['longest_gap_ms']:.0f} ms; "
        f"lost: {metrics['lost_responses']:.0f} answers",
    )
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(loc="upper right")
    return chart


sliders(
    answers,
    heartbeat_timeout=["250 ms", "500 ms", "1 s", "2 s"],
    heartbeat_interval=["50 ms", "100 ms", "200 ms"],
    fence=["10 ms", "200 ms", "1 s"],
)

# %% [markdown]
# ## The price of noticing soon
#
# A shorter patience takes a slow link for a dead peer. How often that happens against how soon a
# crash is noticed is the experiment `python -m experiments.managers`. Here the one side of it:
# the gap that clients see is the patience, less the part of it that had passed, and what follows.

# %%
rows = {}
for timeout in ("250 ms", "500 ms", "1 s", "2 s"):
    found, trace = run({"manager.heartbeat_timeout": timeout})
    asked = next(line.now_ns for line in trace if isinstance(line.body, t.AskVote))
    promoted = found.events.query("what == 'promoted'")["at_ns"].iloc[0]
    metrics = found.summary.set_index("metric")["mean"]
    rows[timeout] = {
        "suspected after, ms": round((asked - died_ns) / 1e6, 1),
        "vote and fence, ms": round((promoted - asked) / 1e6, 1),
        "longest gap, ms": round(metrics["longest_gap_ms"], 1),
        "answers lost": int(metrics["lost_responses"]),
    }
display(pd.DataFrame(rows).T.rename_axis("patience"))

# %% [markdown]
# ## Nothing broken
#
# Invariants watch every line of the trace: nothing leaves before it is safe, no two sides speak,
# nothing that a client saw is taken back. `colosim explore` puts every fault to every step.

# %%
from colosim.protocol import invariants

broken = invariants.check(lines)
print(f"{len(lines)} lines; {len(broken)} broken invariants", *broken)
