"""Which policy wins in each cell of a grid, by how much, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from colosim.analysis.stats import not_above

COLUMNS = ("policy", "mean", "runner_up", "margin", "confidence")


def winners(
    table: pd.DataFrame,
    by: Sequence[str],
    metric: str,
    policies: Sequence[str] | None = None,
    lowest: bool = True,
) -> pd.DataFrame:
    """The policy with the best mean of a metric in each cell: by..., policy, mean, runner_up,
    margin, confidence.

    table: tidy, as `colosim.sweeps.read` returns it: policy, replication, metric, value and the
    columns ``by``.  A policy that an axis does not concern (null there) competes along all of it.
    policies: who competes; default all but "none", which protects nothing.
    lowest: the lowest mean is the best, else the highest.

    margin: how far the runner-up is behind, as a part of its own mean (0.1: the winner needs 10 %
    less, or has 10 % more).  confidence: 1 - the sum over the others of the p value of a one-sided
    paired t test that the winner is not better than that one (Bonferroni), at least 0: replications
    of a cell met the same random draws.  NaN where fewer than two replications have a value; a
    winner without rivals, or with a difference without any spread, is certain.  The draws must be
    others than those that chose the winner for it to be exact; with the same it flatters a little
    where policies are about equal.

    Raises ValueError for a column, metric or policy that the table does not have.
    """
    _check(table, by, metric, policies)
    rows = table[table["metric"] == metric]
    chosen = list(pd.unique(rows["policy"])) if policies is None else list(policies)
    if policies is None:
        chosen = [policy for policy in chosen if policy != "none"]
    rows = _everywhere(rows[rows["policy"].isin(chosen)], by)
    found = [
        (*key, *_winner(cell, lowest))
        for key, cell in rows.groupby(list(by), sort=True)
        if cell["value"].notna().any()
    ]
    return pd.DataFrame(found, columns=[*by, *COLUMNS])


def _check(
    table: pd.DataFrame, by: Sequence[str], metric: str, policies: Sequence[str] | None
) -> None:
    for column in (*by, "policy", "replication", "metric", "value"):
        if column not in table:
            raise ValueError(f"no column {column!r}; have {', '.join(map(str, table))}")
    metrics, there = pd.unique(table["metric"]), pd.unique(table["policy"])
    if metric not in metrics:
        raise ValueError(f"no metric {metric!r}; have {', '.join(metrics)}")
    for policy in policies or ():
        if policy not in there:
            raise ValueError(f"no policy {policy!r}; have {', '.join(there)}")


def _everywhere(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Rows of policies that an axis does not concern, once for each value of that axis."""
    for column in by:
        without = rows[column].isna()
        values = pd.DataFrame({column: pd.unique(rows.loc[~without, column])})
        spread = rows[without].drop(columns=column).merge(values, how="cross")
        rows = pd.concat([rows[~without], spread], ignore_index=True) if without.any() else rows
    return rows


def _winner(cell: pd.DataFrame, lowest: bool) -> tuple[str, float, str | None, float, float]:
    wide = cell.pivot_table("value", "replication", "policy", aggfunc="mean")
    means = wide.mean().sort_values(ascending=lowest, kind="stable")
    best, mean = str(means.index[0]), float(means.iloc[0])
    if len(means) == 1:
        return best, mean, None, math.nan, 1.0
    second = float(means.iloc[1])
    pairs = ((wide[other], wide[best]) for other in means.index[1:])
    p = [not_above(one, two) if lowest else not_above(two, one) for one, two in pairs]
    margin = abs(second - mean) / abs(second) if second else math.nan
    return best, mean, str(means.index[1]), margin, float(np.maximum(0.0, 1.0 - sum(p)))
