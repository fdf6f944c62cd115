"""What the experiment found: text for a terminal, Markdown for the documentation, a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from colosim.analysis.plots import COLOURS, Chart, styled
from colosim.calibration import title
from experiments.output import markdown_table, page
from experiments.validation import WIRE

#: steps that make up a pause, in order; `copy` and others of copy-then-send are not run here
_STACKED = ("stop", "cut", "save", "send", "wait-received", "wait-loaded", "resume")
_STEPS = (
    *("quiesce", "request", "stop", "cut", "save", "save/scan", "save/device", "save/encode"),
    *("send", "wait-received", "wait-loaded", "resume", "pause", "whole"),
)


def phase_table(phases: pd.DataFrame, engine: str) -> pd.DataFrame:
    """A row per phase, a column per workload: "median / p99" in ms; then pages and n."""
    own = phases[phases["engine"] == engine]
    columns = {}
    for workload, rows in own.groupby("workload", sort=False):
        by_phase = rows.set_index("phase")[["n", "median_ms", "p99_ms", "pages"]].astype(float)
        found = by_phase.to_dict("index")
        cells = {
            step: f"{found[step]['median_ms']:.2f} / {found[step]['p99_ms']:.2f}"
            for step in _STEPS
            if step in found
        }
        cells["pages, median"] = f"{found['pause']['pages']:.0f}"
        cells["checkpoints"] = f"{found['pause']['n']:.0f}"
        columns[str(workload)] = cells
    return pd.DataFrame(columns).fillna("–")


def errors_table(validation: pd.DataFrame) -> pd.DataFrame:
    """Of what was predicted: a row per metric: n, median error, worst error, how many inside."""
    own = validation[validation["status"] == "predicted"].assign(
        error=lambda table: table["error"].abs()
    )
    grouped = own.groupby("metric", sort=False)
    found = grouped.agg(
        n=("inside", "size"),
        median=("error", "median"),
        worst=("error", "max"),
        inside=("inside", "mean"),
    )
    everything = (len(own), own["error"].median(), own["error"].max(), own["inside"].mean())
    found.loc["all"] = list(everything)
    return pd.DataFrame(
        {
            "what": [str(m) if m == "all" else title(str(m)) for m in found.index],
            "n": found["n"].astype(int).to_numpy(),
            "median error": [_percent(each) for each in found["median"]],
            "worst error": [_percent(each) for each in found["worst"]],
            "inside the interval": [f"{each:.0%}" for each in found["inside"]],
        }
    )


def rows_table(validation: pd.DataFrame) -> pd.DataFrame:
    """Every comparison, as text."""
    return pd.DataFrame(
        {
            "workload": validation["workload"],
            "run": validation["name"],
            "load": validation["load"],
            "what": [title(each) for each in validation["metric"]],
            "status": validation["status"],
            "predicted": [f"{each:.4g}" for each in validation["predicted"]],
            "measured": [f"{each:.4g}" for each in validation["measured"]],
            "95 % of runs": [
                f"{low:.4g} to {high:.4g}"
                for low, high in zip(validation["low"], validation["high"], strict=True)
            ],
            "error": [
                "few" if math.isnan(each) else f"{each:+.1%}" for each in validation["error"]
            ],
        }
    )


def _percent(value: float) -> str:
    """For people; what is not known (too few events) is a dash."""
    return "–" if math.isnan(value) else f"{value:.1%}"


def markdown(
    phases: pd.DataFrame,
    validation: pd.DataFrame,
    models: pd.DataFrame,
    about: Mapping[str, str],
    failures: Sequence[str],
) -> str:
    """The page on what was found; made by ``python -m experiments.validation``, not by hand."""
    said = ", ".join(f"{key} {value}" for key, value in about.items())
    parts = [
        "# Validation",
        f"Made by `python -m experiments.validation`: {said}. Guest of 128 MiB.",
        "[calibration.md](calibration.md) says what is fitted and how; the experiment's own "
        "docstring says what is run.",
        "## Phases of a checkpoint",
        "Median / 99 % in ms, interval 100 ms; `pause` is from the stop to the resume, `whole` "
        "from the start. `save/scan` and `save/device` run at the same time.",
    ]
    for engine in pd.unique(phases["engine"]) if len(phases) else ():
        title = "The wire engine" if engine == WIRE else str(engine).capitalize()
        parts += [f"### {title}", markdown_table(phase_table(phases, engine), "phase")]
    if len(validation):
        parts += [
            "## Predictions",
            "What the calibrated scenario says of runs that it has not seen: another interval, "
            "another load, another link. The error is that of the mean over simulated runs; "
            "inside says how many live runs fall where 95 % of simulated ones do.",
            markdown_table(errors_table(validation)),
            "### Models of dirty pages",
            "The model that was chosen, and how far off it was at a run left out of its fit.",
            markdown_table(
                models[["workload", "model", "score"]].assign(
                    score=[f"{each:.1%}" for each in models["score"]]
                )
            ),
            *_every_comparison(validation),
        ]
    return page(parts, failures)


def _every_comparison(validation: pd.DataFrame) -> tuple[str, ...]:
    return (
        "### Every comparison",
        "`fitted` runs are those that were calibrated on: they prove nothing.",
        markdown_table(rows_table(validation)),
    )


def hazards_table(hazards: pd.DataFrame) -> pd.DataFrame:
    """Why the calibrated runs checkpointed: every explanation that was tried, as text."""
    return pd.DataFrame(
        {
            "workload": hazards["workload"],
            "reason": hazards["why"],
            "per": hazards["per"],
            "events": hazards["events"],
            "exposure": [f"{each:.4g}" for each in hazards["exposure"]],
            "rate": [
                ("≤ " if not events else "") + f"{rate:.3g}"
                for rate, events in zip(hazards["rate"], hazards["events"], strict=True)
            ],
            "95 %": [
                f"{low:.3g} to {high:.3g}"
                for low, high in zip(hazards["low"], hazards["high"], strict=True)
            ],
            "log likelihood": [_or_dash(each, ".1f") for each in hazards["log_likelihood"]],
            "runs agree, p": [_or_dash(each, ".2g") for each in hazards["agree"]],
            "taken": ["yes" if each else "" for each in hazards["chosen"]],
        }
    )


def _or_dash(value: float | None, how: str) -> str:
    return "–" if value is None or math.isnan(value) else format(value, how)


def colo_markdown(
    validation: pd.DataFrame,
    hazards: pd.DataFrame,
    about: Mapping[str, str],
    failures: Sequence[str],
) -> str:
    """The page on policy colo; made by ``python -m experiments.validation --colo``."""
    said = ", ".join(f"{key} {value}" for key, value in about.items())
    parts = [
        "# Validation of policy colo",
        f"Made by `python -m experiments.validation --colo`: {said}. Guest of 128 MiB.",
        "[calibration.md](calibration.md) says what is fitted and how; the docstring of "
        "`experiments/validation/colo.py` says what is run.",
    ]
    if len(hazards):
        parts += [
            "## Why the calibrated runs checkpointed",
            "A rate per second that the guests were compared, a chance per response, or per first "
            "response of a connection. Intervals are exact.",
            markdown_table(hazards_table(hazards)),
        ]
    if len(validation):
        parts += [
            "## Predictions",
            "What the calibrated scenario says of runs that it has not seen. `few`: fewer events "
            "than 10 were measured, so only the interval is compared.",
            markdown_table(errors_table(validation)),
            *_every_comparison(validation),
        ]
    return page(parts, failures)


@styled
def phases_figure(phases: pd.DataFrame) -> Chart:
    """Median pause as a stack of its steps, a bar per workload and engine."""
    chart = Chart(figsize=(9, 3.8))
    axes = chart.subplots()
    bars = phases[["workload", "engine"]].drop_duplicates()
    labels = []
    below = np.zeros(len(bars))
    keyed = phases.set_index(["workload", "engine", "phase"])["median_ms"].to_dict()
    keys = list(bars.itertuples(index=False, name=None))
    for workload, engine in keys:
        labels.append(str(workload) if engine == WIRE else f"{workload}\n{engine}")
    for step, colour in zip(_STACKED, COLOURS, strict=True):
        heights = np.array([keyed.get((*key, step), 0.0) for key in keys])
        axes.bar(labels, heights, 0.7, below, color=colour, label=step, ec="white", lw=0.8)
        below += heights
    tails = phases[phases["phase"] == "pause"].set_index(["workload", "engine"])["p99_ms"].to_dict()
    axes.plot(labels, [tails[key] for key in keys], "k_", ms=14, label="p99 of the pause")
    axes.set_ylabel("Pause, medians of its steps (ms)")
    axes.set_title("Pause of the guest, interval 100 ms")
    chart.legend(loc="outside right upper", fontsize="small", reverse=True)
    axes.tick_params(axis="x", labelsize="small")
    return chart
