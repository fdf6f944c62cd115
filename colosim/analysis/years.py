"""Tables of years of availability, by policy and by what begins the outages."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from colosim.wording import between

_LABELS = {
    "downtime_s_per_year": "downtime",
    "unavailability": "part of the time down",
    "outages_per_year": "outages",
    "guest_losses_per_year": "losses of the guest's state",
    "lost_state_s_per_year": "lost state",
    "lost_responses_per_year": "lost responses",
    "split_brain_s_per_year": "split brain",
    "exposed": "part of the time without a copy",
}


def label_of_year(metric: str, unit: str) -> str:
    """A metric of a year for people: "downtime (s/year)"."""
    return f"{_LABELS.get(metric, metric)}{'' if unit == '1' else f' ({unit})'}"


def readable_summary(summary: pd.DataFrame) -> pd.DataFrame:
    """Metric and method as rows, policies as columns: value (low to high); no rows of zeros."""
    summary = summary[summary.groupby("metric")["value"].transform("max") > 0]
    shown = pd.DataFrame(
        {
            "what": [
                f"{label_of_year(metric, unit)}, {method}"
                for metric, unit, method in zip(
                    summary["metric"], summary["unit"], summary["method"], strict=True
                )
            ],
            "metric": summary["metric"],
            "policy": summary["policy"],
            "text": [
                _with_interval(*each)
                for each in zip(summary["value"], summary["low"], summary["high"], strict=True)
            ],
        }
    )
    order = shown.drop_duplicates("what").sort_values(
        "metric",
        key=lambda names: names.map(list(pd.unique(summary["metric"])).index),
        kind="stable",
    )
    wide = shown.pivot(index="what", columns="policy", values="text")
    wide = wide.loc[list(order["what"]), list(pd.unique(summary["policy"]))]
    return wide.rename_axis(index=None, columns=None)


def _with_interval(value: float, low: float, high: float) -> str:
    around = interval_of_year(low, high)
    return f"{value:.4g} ({around})" if around else f"{value:.4g}"


def interval_of_year(
    low: float, high: float, shown: Callable[[float], str] = "{:.4g}".format
) -> str:
    """As text; nothing where it is too narrow to be seen: that of an exact value, too."""
    return "" if shown(low) == shown(high) else between(low, high, shown)


def readable_causes(causes: pd.DataFrame) -> pd.DataFrame:
    """Downtime in s/year by what began the outage, policies as columns; the largest first."""
    wide = causes.pivot(index="cause", columns="policy", values="downtime_s_per_year")
    wide = wide[list(pd.unique(causes["policy"]))]
    wide = wide.loc[wide.max(axis=1).sort_values(ascending=False).index]
    text = wide.map(lambda value: "–" if math.isnan(value) else f"{value:.3g}")
    return text.rename_axis(index="downtime (s/year) by cause, markov", columns=None)
