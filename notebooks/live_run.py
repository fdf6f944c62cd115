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
# # A live run
#
# Two real QEMU guests: COLO protects a web server with clients, and the primary's whole host is
# killed. It runs live where `colosim doctor` says that this machine can, in about a minute.
# Elsewhere a recorded run of the same scenario is looked at, which ships with colosim.
# `COLOSIM_RECORDED=1` in the environment asks for that in any case.

# %%
import os

import pandas as pd
from IPython.display import display

import colosim
from backends.qemu import doctor
from colosim.analysis.plots import COLOURS, Chart, styled
from colosim.watching.shipped import RECORDED


async def can_run_live():
    """What the doctor says, its self-test with a real takeover included; and its verdict."""
    if os.environ.get("COLOSIM_RECORDED"):
        return False, "a recorded run was asked for"
    examination = await doctor.examine(["qemu-system-x86_64"], print)
    return examination.works, examination.verdict


is_live, why = await can_run_live()
print("live:" if is_live else "recorded:", why)

# %%
if is_live:
    scenario = colosim.load_scenario(RECORDED / "scenario.toml")
    result = await colosim.run_live(scenario, say=print)
else:
    result = colosim.recorded_run()
display(pd.Series(dict(result.about), name="run by").to_frame())

# %%
display(result)

# %% [markdown]
# ## What clients saw of the kill
#
# Each point is an answer; grey is a guest that stands for a checkpoint.


# %%
@styled
def answers(result):
    """Latency over time, with what happened to the pair."""
    chart = Chart(figsize=(7.4, 3.6))
    axes = chart.subplots()
    stops = result.checkpoints.query("stopped_ns >= 0 and resumed_ns >= 0")
    for i, (begin, end) in enumerate(zip(stops["stopped_ns"], stops["resumed_ns"], strict=True)):
        axes.axvspan(begin / 1e9, end / 1e9, color="0.75", lw=0,
                     label="guest stands for a checkpoint" if i == 0 else None)  # fmt: skip
    table = result.responses.query("released_ns >= 0")
    axes.plot(table["released_ns"] / 1e9, table["latency_ms"], "o", ms=3, color=COLOURS[0],
              label="an answer")  # fmt: skip
    marks = {
        "fault": ("kill -9 of the primary's host", COLOURS[1], "-"),
        "promoted": ("the secondary goes on", COLOURS[2], "--"),
        "protected": ("protected again", COLOURS[3], ":"),
    }
    for what, (label, colour, dashes) in marks.items():
        at = result.events.loc[result.events["what"] == what, "at_ns"]
        if len(at):
            axes.axvline(at.iloc[0] / 1e9, color=colour, ls=dashes, label=label)
    metrics = result.summary.set_index("metric")["mean"]
    axes.set(
        xlabel="Time (s)",
        ylabel="Latency seen by the client (ms)",
        yscale="log",
        xlim=(0, None),
        title=f"longest gap {metrics['longest_gap_ms']:.0f} ms; "
        f"lost: {metrics['lost_responses']:.0f} answers",
    )
    axes.yaxis.set_major_formatter("{x:g}")
    chart.legend(loc="outside upper center", ncols=3)
    return chart


display(answers(result))

# %%
events = result.events[["at_ns", "node", "what", "detail"]]
display(events.assign(at_s=(events["at_ns"] / 1e9).round(3)).drop(columns="at_ns"))

# %% [markdown]
# ## Where a checkpoint's time goes
#
# The steps are those of the simulated checkpoint in its [anatomy](checkpoint.ipynb): the same core
# ran. On real guests the time of each is measured, not modelled; `colosim calibrate` turns it into
# the simulator's parameters.

# %%
display(result.phase_summary.round(2))

# %% [markdown]
# How long the guest's packets were held, by what released them: an equal packet of the other guest,
# or a checkpoint.

# %%
display(result.hold_summary.round(2))
