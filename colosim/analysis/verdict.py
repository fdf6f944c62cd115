"""What came out, in one sentence: of a run, and of a comparison of policies."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from colosim.analysis.summary import plus_minus

#: what a run is told by: metric, words before, unit behind
_TOLD = (
    ("completion_time_s", "job done in", "s"),
    ("latency_mean_ms", "mean latency", "ms"),
    ("latency_p99_ms", "99 %", "ms"),
    ("checkpoints_per_s", "checkpoints", "a second"),
    ("pause_mean_ms", "mean pause", "ms"),
    ("lost_responses", "answers lost:", ""),
)
#: what policies are compared by: the first that was measured
_CRITERIA = (
    ("completion_time_s", "time of the job", "s"),
    ("latency_mean_ms", "mean latency", "ms"),
)
#: of a job these say nothing more
_OF_CLIENTS = ("latency_mean_ms", "latency_p99_ms")


def of_run(summary: pd.DataFrame, policy: str, violations: int) -> str:
    """The main numbers of one policy, ± half of their 95 % intervals; first what is broken."""
    rows = {str(row["metric"]): row for row in summary[summary["n"] > 0].to_dict("records")}
    left_out = _OF_CLIENTS if "completion_time_s" in rows else ()
    told = []
    for metric, words, unit in _TOLD:
        row = rows.get(metric)
        if row is not None and row["mean"] and metric not in left_out:
            half = (row["ci_high"] - row["ci_low"]) / 2
            told.append(f"{words} {plus_minus(row['mean'], half)} {unit}".rstrip())
    return _broken(violations) + f"{policy}: " + "; ".join(told or ["nothing was measured"]) + "."


def of_comparison(
    summary: pd.DataFrame, baseline: str, policies: Sequence[str], violations: int
) -> str:
    """Which policy costs least, by how much, and whether its interval leaves out the next one.

    By paired differences from the baseline, if that is "none" and was run; else by means.
    """
    found = _broken(violations)
    baseline = "" if summary["diff"].isna().all() else baseline
    protecting = [policy for policy in policies if policy != "none"]
    for metric, words, unit in _CRITERIA:
        rows = summary[(summary["metric"] == metric) & summary["n"].gt(0)].set_index("policy")
        ranked = rows.loc[[name for name in protecting if name in rows.index]].sort_values("mean")
        if ranked.empty:
            continue
        over = f" over {baseline}" if baseline == "none" else ""
        best, *others = (f"{_cost(row, baseline)} {unit}" for _, row in ranked.iterrows())
        if not others:
            return f"{found}{ranked.index[0]}: {words} {best}{over}."
        first, second = ranked.iloc[0], ranked.iloc[1]
        sure = _ends(first, baseline)[1] < _ends(second, baseline)[0]
        doubt = "" if sure else " (the intervals of the first two overlap: not decided)"
        rest = ", ".join(
            f"{name} {cost}" for name, cost in zip(ranked.index[1:], others, strict=True)
        )
        return f"{found}{ranked.index[0]} costs least: {words} {best}{over}; {rest}{doubt}."
    return found + "nothing that policies could be compared by was measured."


def _cost(row: pd.Series, baseline: str) -> str:
    if baseline == "none":
        half = (row["diff_high"] - row["diff_low"]) / 2
        return f"{'+' if row['diff'] >= 0 else ''}{plus_minus(row['diff'], half)}"
    return plus_minus(row["mean"], (row["ci_high"] - row["ci_low"]) / 2)


def _ends(row: pd.Series, baseline: str) -> tuple[float, float]:
    names = ("diff_low", "diff_high") if baseline == "none" else ("ci_low", "ci_high")
    return float(row[names[0]]), float(row[names[1]])


def _broken(violations: int) -> str:
    return f"{violations} broken invariants! " if violations else ""
