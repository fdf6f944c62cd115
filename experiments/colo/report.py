"""What the experiment found: Markdown for the documentation, and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import LogFormatter

from colosim.analysis.plots import COLOURS, Chart, styled
from experiments.colo import DOWNLOAD_BYTES, kill_summary
from experiments.output import markdown_table, page

_MB = round(DOWNLOAD_BYTES / 1e6)


def costs_table(costs: pd.DataFrame) -> pd.DataFrame:
    """`costs` as text: medians, and in brackets those of single runs, smallest to largest."""
    rows = _rows(costs)
    return pd.DataFrame(
        {
            "design": [row["design"] for row in rows],
            "GET p50, ms": [_ranged(row, "get_p50_ms", "{:.2f}") for row in rows],
            "GET p99, ms": [_ranged(row, "get_p99_ms", "{:.1f}") for row in rows],
            "GETs": [f"{row['gets']:,}" for row in rows],
            "download, MB/s": [_ranged(row, "mb_per_s", "{:.1f}") for row in rows],
            "of unprotected": [_ranged(row, "share", "{:.2f}") for row in rows],
            "downloads": [f"{row['downloads']:,}" for row in rows],
            "pause p50, ms": [_number(row["pause_ms"], "{:.1f}") for row in rows],
            "checkpoints a second": [_number(row["checkpoints_per_s"], "{:.2f}") for row in rows],
        }
    )


def reasons_table(costs: pd.DataFrame) -> pd.DataFrame:
    """What checkpoints were begun for."""
    return costs[["design", "reasons", "download_reasons"]].rename(
        columns={"reasons": "under GET", "download_reasons": "under download"}
    )


def kills_table(struck: pd.DataFrame) -> pd.DataFrame:
    """`kill_summary` as text."""
    rows = _rows(kill_summary(struck))
    return pd.DataFrame(
        {
            "design": [row["design"] for row in rows],
            "kills": [row["kills"] for row in rows],
            "gap, ms": [_spread(row, "gap") for row in rows],
            "detected, ms": [_number(row["detected_ms"], "{:.0f}") for row in rows],
            "promoted, ms": [_number(row["promoted_ms"], "{:.0f}") for row in rows],
            "beyond detection, ms": [_spread(row, "beyond") for row in rows],
            "other, ms": [_number(row["other_ms"], "{:.0f}") for row in rows],
            "lost": [row["lost"] for row in rows],
            "wrong": [row["wrong"] for row in rows],
            "doubled": [row["doubled"] for row in rows],
        }
    )


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _number(value: float, form: str) -> str:
    return form.format(value) if np.isfinite(value) else "–"


def _ranged(row: Mapping[str, float], name: str, form: str) -> str:
    if not np.isfinite(row[name]):
        return "–"
    low, high = form.format(row[f"{name}_low"]), form.format(row[f"{name}_high"])
    return f"{form.format(row[name])} ({low} to {high})"


def _spread(row: Mapping[str, float], name: str) -> str:
    if not np.isfinite(row[f"{name}_ms"]):
        return "–"
    return f"{row[f'{name}_ms']:.0f} ({row[f'{name}_min_ms']:.0f} to {row[f'{name}_max_ms']:.0f})"


def markdown(
    costs: pd.DataFrame,
    struck: pd.DataFrame,
    about: Mapping[str, str],
    failures: Sequence[str],
) -> str:
    """The tables of docs/colo-costs.md; made by ``python -m experiments.colo``, not by hand."""
    said = ", ".join(f"{key} {value}" for key, value in about.items())
    parts = [
        f"Made by `python -m experiments.colo`: {said}. Guest of 128 MiB, one machine.",
        "### While nothing fails",
        f"GET: four clients, 1 KiB of nginx. Download: one client, {_MB} MB of `ground` again and "
        "again; all that came in a run over its time, and how many were whole. In brackets the "
        "smallest and largest of single runs. Of unprotected: median of turns, each with the "
        "unprotected run beside it. Checkpoints and pause: under GET.",
        markdown_table(costs_table(costs)),
        "Checkpoints by reason, in all runs:",
        markdown_table(reasons_table(costs)),
    ]
    if len(struck):
        parts += [
            "### When the primary's host is killed",
            "Four echo clients. Gap: the longest time without an answer to any of them that began "
            "with the kill; median (smallest to largest). The range of n kills has the median of "
            "all in it with probability 1 - 2^(1-n): 97 % for 6, 75 % for 3. Detected, promoted: "
            "from the kill, medians. Other: the longest such time elsewhere in the same run.",
            markdown_table(kills_table(struck)),
        ]
    return page(parts, failures, "###")


@styled
def gaps_figure(struck: pd.DataFrame) -> Chart:
    """Each kill: the whole gap, and what of it came after the detection."""
    chart = Chart(figsize=(7.5, 3.2))
    axes = chart.subplots()
    designs = list(pd.unique(struck["design"]))
    looks = (("gap_ms", "the whole gap", "o", 0.14), ("beyond_ms", "beyond detection", "s", -0.14))
    for (column, label, marker, up), colour in zip(looks, COLOURS, strict=False):
        values = struck[column].to_numpy(float)
        places = np.array([designs.index(each) for each in struck["design"]]) - up
        axes.plot(values, places, marker, color=colour, label=label, alpha=0.7, ms=5)
        medians = struck.groupby("design", sort=False)[column].median()
        axes.plot(medians, np.arange(len(designs)) - up, "|", color=colour, ms=16, mew=2)
    axes.set_yticks(range(len(designs)), designs)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.margins(y=0.12)
    axes.set_xlabel("Time without an answer to any of four clients (ms)")
    axes.set_title("The primary's host is killed; each point is a kill, bars are medians")
    chart.legend(loc="outside right upper", fontsize="small")
    return chart
