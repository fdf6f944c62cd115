"""The map as text: it is readable where no figure is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from colosim.units import BANDWIDTH
from experiments import policy_map
from experiments.output import markdown_table

_NOBODY = "–"


def maps(table: pd.DataFrame, metric: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """For each link a title and a table: rows dirty rates, columns divergence rates, cells the
    winner and how much less the metric is than the next one's; "?" where it is not decided.
    """
    cells = policy_map.cells(table, metric)
    cells["text"] = [_text(cell) for cell in cells.to_dict("records")]
    for bandwidth, here in cells.groupby(policy_map.LINK):
        wide = here.pivot(index=policy_map.DIRTY, columns=policy_map.DIVERGENCE, values="text")
        wide.index = pd.Index([f"{each:g}" for each in wide.index], name="touches/s")
        wide.columns = pd.Index([f"{each:g}/s" for each in wide.columns])
        yield BANDWIDTH.format(int(float(str(bandwidth)))), wide.sort_index(key=_number)


def _number(index: pd.Index) -> pd.Index:
    return index.astype(float)


def _text(cell: Mapping[Any, Any]) -> str:
    if not isinstance(cell["policy"], str):
        return _NOBODY
    margin, confidence = float(cell["margin"]), float(cell["confidence"])
    ahead = f" {margin:.0%}" if not math.isnan(margin) else ""
    return str(cell["policy"]) + ahead + ("" if confidence >= policy_map.SURE else " ?")


def border(found: pd.DataFrame) -> pd.DataFrame:
    """Rows dirty rates, columns links: between which divergence rates the border lies."""
    shown = found.assign(
        text=[
            f"{_rate(low, 'none')} to {_rate(high, 'never')}"
            for low, high in zip(found["sure_to_per_s"], found["sure_from_per_s"], strict=True)
        ]
    )
    wide = shown.pivot(index=policy_map.DIRTY, columns=policy_map.LINK, values="text")
    wide.index = pd.Index([f"{each:g}" for each in wide.index], name="touches/s")
    wide.columns = pd.Index([BANDWIDTH.format(int(each)) for each in wide.columns])
    return wide.fillna(_NOBODY)


def _rate(value: float, missing: str) -> str:
    return f"{value:g}/s" if not math.isnan(value) else missing


def page(table: pd.DataFrame, about: str) -> str:
    """All of it as Markdown."""
    parts = [about]
    for metric in policy_map.METRICS:
        for link, wide in maps(table, metric):
            parts.append(f"{metric}, link of {link}:\n\n{markdown_table(wide, 'touches/s')}")
        found = border(policy_map.border(table, metric))
        parts.append(
            f"{metric}: COLO surely wins up to the first rate, surely loses from the second:\n\n"
            + markdown_table(found, "touches/s")
        )
    return "\n\n".join(parts) + "\n"
