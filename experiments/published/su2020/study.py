"""What sending dirty pages ahead makes of a pause, when it is not known how pages are dirtied.

One pause is fitted: that without anything sent ahead, by what a page takes.  With one round sent
ahead, the pause is what is dirtied while that round is under way.  Two models of it, neither of
them fitted to the second pause, are the ends of what is possible: no page is written twice (pages
grow in step with time), or all pages are written all the time.  In between, random writes to a
working set of one size have one parameter, which the second pause fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from colosim.model.cost import Costs
from colosim.scenario import Scenario, load_scenario
from experiments.published.rows import Row, estimated
from experiments.published.simulation import Outcome, simulate
from experiments.published.study import Findings, Study
from experiments.published.table import each, told

if TYPE_CHECKING:
    from colosim.analysis.plots import Chart

PERIOD_S = 10.0
_GUEST_PAGES = 262_144
_PAGES = 100_000  # of the fitted pause; another number gives the same times
_LINK_BPS = 10e9
_ROUNDS = (1, 4)
PLAIN, LINEAR, SATURATED, RANDOM = "plain", "no page twice", "all at once", "random writes"

_PLAIN_NOTE = "Simulated; what a page takes is fitted to it."
_NOTES = {
    LINEAR: "Simulated; pages grow in step with time. Nothing is fitted to this pause.",
    SATURATED: (
        "Simulated; every page is written again at once, so that sending it ahead is in vain. "
        "Nothing is fitted to this pause."
    ),
    RANDOM: (
        "Simulated; random writes to one working set, whose rate is fitted to this pause. Between "
        "the two extremes any pause could be had."
    ),
}
_ROUNDS_NOTE = (
    "Prediction without a published value: the fitted random writes with four rounds sent ahead."
)


class Writes(NamedTuple):
    """Pages that the guest dirties; rate_per_s: of the working set, how many times it is touched.

    The working set is as large that the pause without anything sent ahead is as published.
    """

    form: str
    rate_per_s: float

    def share(self, time_s: float) -> float:
        """Dirty pages after a time, of the working set (of LINEAR: of those of a second)."""
        if self.form == LINEAR:
            return time_s
        return float(-np.expm1(-self.rate_per_s * time_s))


class Pauses(NamedTuple):
    """Seconds: the round that is sent ahead, and the pause."""

    ahead_s: float
    pause_s: float


def ahead(writes: Writes, plain_s: float) -> Pauses:
    """Both in the steady state, in closed form, by iteration.

    The guest runs from its resumption until the next checkpoint is due and while the round is under
    way; checkpoints begin every 10 s.
    """
    per_share_s = plain_s / writes.share(PERIOD_S - plain_s)
    found = Pauses(plain_s, plain_s)
    for _ in range(200):
        ahead_s = per_share_s * writes.share(PERIOD_S - sum(found))
        found = Pauses(ahead_s, per_share_s * writes.share(ahead_s))
    return found


def fit(plain_s: float, sent_ahead_s: float) -> Writes:
    """Random writes with that pause; ValueError if it is beyond the extremes."""

    def surplus(log: float) -> float:
        return ahead(Writes(RANDOM, float(np.exp(log))), plain_s).pause_s - sent_ahead_s

    return Writes(RANDOM, float(np.exp(brentq(surplus, np.log(1e-3), np.log(50)))))


def scenarios(
    models: Mapping[str, Writes], plain_s: float, quick: bool
) -> dict[tuple[str, int], Scenario]:
    """(model, rounds; 0: nothing is sent ahead)."""
    base = load_scenario(Path(__file__).with_name("checkpoints.toml"))
    if quick:
        base = base.replace({"duration": "100 s", "replications": 2})
    on_link_s = 8 * (Costs().page_bytes + Costs().page_header_bytes) / _LINK_BPS
    page_s = plain_s / _PAGES
    changes = {"cost.transfer_per_page": f"{(page_s - on_link_s) * 1e9:.0f} ns"}

    def made(writes: Writes, rounds: int) -> Scenario:
        ahead_of = {"transfer": "precopy", "stream.precopy_rounds": rounds} if rounds else {}
        return base.replace({**changes, **ahead_of, "memory": _memory(writes, PERIOD_S - plain_s)})

    return {
        (PLAIN, 0): made(models[RANDOM], 0),
        **{(name, 1): made(writes, 1) for name, writes in models.items()},
        (RANDOM, _ROUNDS[-1]): made(models[RANDOM], _ROUNDS[-1]),
    }


def _memory(writes: Writes, run_s: float) -> dict[str, Any]:
    """`_PAGES` are dirty after ``run_s``."""
    memory: dict[str, Any] = {"kind": "uniform", "guest_memory": "1 GiB"}
    if writes.form == LINEAR:
        touches = _PAGES / run_s
        memory |= {"kind": "sequential", "working_set_pages": _GUEST_PAGES}
    else:
        size = round(_PAGES / writes.share(run_s))
        touches = size * writes.rate_per_s
        memory |= {"working_set_pages": size}
    return {**memory, "touches": f"{touches:.3f} /s"}


def samples(point: pd.Series[Any]) -> dict[str, Any]:
    """What is published, with the second sample of the note as the other end of its reading."""
    [second] = re.findall(r"second sample ([\d.]+)", point["note"])
    both = sorted((float(point["value"]), float(second)))
    return told(point) | {"published_low": both[0], "published_high": both[1]}


def rows(
    points: Sequence[pd.Series[Any]],
    models: Mapping[str, Writes],
    outcomes: Mapping[tuple[str, int], Outcome],
) -> Iterator[Row]:
    """The fitted pause, the two extremes, and what lies between them."""
    plain, sent_ahead = points
    row = partial(Row, part="fio, buffered random writes", unit="ms")
    pause: Callable[[tuple[str, int]], dict[str, Any]] = lambda key: estimated(  # noqa: E731
        outcomes[key].of("pause_mean_ms")
    )
    plain_s = float(plain["value"]) / 1e3
    one: dict[str, Any] = {"kind": "fitted", "n": 1, "parameters": 1}
    yield row(
        quantity="pause",
        condition="nothing sent ahead",
        x=0,
        **one,
        **samples(plain),
        **pause((PLAIN, 0)),
        closed_form=1e3 * plain_s,
        note=_PLAIN_NOTE,
    )
    for x, (name, writes) in enumerate(models.items(), 1):
        yield row(
            quantity="pause",
            condition=f"sent ahead, {name}",
            x=x,
            **(one if name == RANDOM else {"kind": "predicted"}),
            **samples(sent_ahead),
            **pause((name, 1)),
            closed_form=1e3 * ahead(writes, plain_s).pause_s,
            note=_NOTES[name],
        )
    yield row(
        quantity="pause",
        condition=f"sent ahead in {_ROUNDS[-1]} rounds, {RANDOM}",
        x=len(models) + 1,
        kind="predicted",
        **pause((RANDOM, _ROUNDS[-1])),
        note=_ROUNDS_NOTE,
    )


def solve(published: pd.DataFrame, out: Path, quick: bool, jobs: int | None) -> Findings:
    """Fit, simulate, compare."""
    points = each(published)
    plain_s, sent_ahead_s = (float(point["value"]) / 1e3 for point in points)
    models = {
        LINEAR: Writes(LINEAR, 1.0),
        SATURATED: Writes(SATURATED, 100.0),
        RANDOM: fit(plain_s, sent_ahead_s),
    }
    outcomes = simulate(scenarios(models, plain_s, quick), jobs)
    return Findings(list(rows(points, models, outcomes)), _draw)


def _draw(rows: Sequence[Row]) -> Chart:
    from colosim.analysis.plots import COLOURS
    from experiments.published.figures import beside, panels

    chart, (axes,) = panels(1, 1, 7.4, 3.8)
    names = [row.condition.replace(", ", ",\n").replace(" in ", "\nin ") for row in rows]
    beside(axes, rows, names, COLOURS[0])
    axes.set(ylabel="Pause (ms)")
    axes.set_title("COLO's pause; bars: both samples", loc="left", fontsize="medium")
    axes.legend(fontsize="small", frameon=False)
    return chart


STUDY = Study("su2020", "qemu-devel, D. Su, 2020", solve)
