"""Does one constant rate of divergence explain epochs of 100 ms and of 1 s?

Fitted: the rate, to the 100 ms row of each service and to nothing else.  Predicted: the 1000 ms
row.  What the published percentage counts allows two readings, and both are shown:

* the primary fails at a random moment, and what was done since the epoch began must have gone
  the same way twice: (1 - exp(-h T)) / (h T);
* a whole epoch must: exp(-h T).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from colosim.analysis.stats import Interval
from colosim.model.results import RunRecord
from colosim.scenario import Scenario, load_scenario
from experiments.published.rows import Row, estimated
from experiments.published.simulation import Outcome, simulate
from experiments.published.study import Findings, Study
from experiments.published.table import reading, select

if TYPE_CHECKING:
    from colosim.analysis.plots import Chart

METRIC = "recovery_without_divergence"
FITTED_MS, PREDICTED_MS = 100, 1000
RANDOM, WHOLE = "failure at a random moment", "a whole epoch replayed"
#: reading -> share without divergence, of h T
READINGS: Mapping[str, Callable[[float], float]] = {
    RANDOM: lambda x: -math.expm1(-x) / x,
    WHOLE: lambda x: math.exp(-x),
}
_AT_ONCE_NS = 1_000_000  # a response that waits for a checkpoint waits longer, but for 1 in 100
_NOTE = (
    "Simulated: two guests that part at a constant rate, fitted to the 100 ms row (one value, one "
    "parameter). Replay itself is not modelled. The two services miss on opposite sides at 1000 ms "
    "in the reading {!r}, so no common correction of a constant rate would mend both."
)

#: (service, reading, epoch in ms)
Key = tuple[str, str, int]


def hazard_per_s(share: float, of: str) -> float:
    """The rate with that share of epochs of 100 ms without divergence."""
    form = READINGS[of]
    return float(brentq(lambda x: form(x) - share, 1e-9, 50.0)) * 1e3 / FITTED_MS


def fit(published: pd.DataFrame) -> dict[tuple[str, str], float]:
    """(service, reading) -> rate per second."""
    services = list(dict.fromkeys(published["workload"]))
    return {
        (name, of): hazard_per_s(
            float(select(published, name, METRIC)["value"][FITTED_MS]) / 100, of
        )
        for name, of in product(services, READINGS)
    }


def scenarios(rates_per_s: Mapping[tuple[str, str], float], quick: bool) -> dict[Key, Scenario]:
    """Every service and reading at both epochs."""
    base = load_scenario(Path(__file__).with_name("epochs.toml"))
    epochs, replications = (25, 5) if quick else (250, 10)
    return {
        (name, of, epoch_ms): base.replace(
            {
                "divergence.hazard": f"{rate:.9f} /s",
                "policy.colo.checkpoint_delay": f"{epoch_ms} ms",
                "policy.colo.minimum_gap": f"{epoch_ms} ms",
                # as many probes in an epoch, whatever its length
                "workload.rate": f"{100_000 / epoch_ms:.6f} /s",
                "duration": f"{epochs * epoch_ms} ms",
                "replications": replications,
            }
        )
        for (name, of), rate in rates_per_s.items()
        for epoch_ms in (FITTED_MS, PREDICTED_MS)
    }


def measure(record: RunRecord) -> Mapping[str, float]:
    """Percent of probes that were answered at once, and of epochs without a mismatch."""
    table, checkpoints = record.responses, record.checkpoints
    answered = table["released_ns"] >= 0
    waited_ns = (table["released_ns"] - table["arrival_ns"])[answered]
    return {
        RANDOM: 100 * float((waited_ns < _AT_ONCE_NS).mean()),
        WHOLE: 100 * float(np.mean(checkpoints["reason"] != "mismatch")),
    }


def rows(
    published: pd.DataFrame,
    rates_per_s: Mapping[tuple[str, str], float],
    outcomes: Mapping[Key, Outcome],
) -> Iterator[Row]:
    """The rate, then both epochs, by service and reading."""
    for (name, of), rate in rates_per_s.items():
        fitted: dict[str, Any] = {"kind": "fitted", "n": 1, "parameters": 1}
        note = _NOTE.format(RANDOM)
        yield Row(
            part=name,
            quantity="rate of divergence",
            condition=of,
            unit="1/s",
            model=rate,
            note=note,
            **fitted,
        )
        for epoch_ms in (FITTED_MS, PREDICTED_MS):
            value: Interval = outcomes[name, of, epoch_ms].of(of)
            yield Row(
                part=name,
                quantity=f"without divergence, {of}",
                condition=f"epochs of {epoch_ms} ms",
                x=epoch_ms,
                unit="%",
                **(fitted if epoch_ms == FITTED_MS else {"kind": "predicted"}),
                **reading(select(published, name, METRIC), epoch_ms),
                **estimated(value),
                closed_form=100 * READINGS[of](rate * epoch_ms / 1e3),
                note=note,
            )


def solve(published: pd.DataFrame, out: Path, quick: bool, jobs: int | None) -> Findings:
    """Fit, simulate, compare."""
    rates_per_s = fit(published)
    outcomes = simulate(scenarios(rates_per_s, quick), jobs, measure)

    def draw(rows: Sequence[Row]) -> Chart:
        return _draw(rows, rates_per_s)

    return Findings(list(rows(published, rates_per_s, outcomes)), draw)


def _draw(rows: Sequence[Row], rates_per_s: Mapping[tuple[str, str], float]) -> Chart:
    from colosim.analysis.plots import COLOURS
    from experiments.published.figures import modelled, panels, used_and_held_out

    names = list(dict.fromkeys(name for name, _ in rates_per_s))
    chart, every = panels(1, len(names), 8.4, 3.4)
    epochs_ms = np.geomspace(50, 2000, 100)
    for name, axes in zip(names, every, strict=True):
        for of, colour, marker, dashes in zip(READINGS, COLOURS, "s^", ("-", "--"), strict=False):
            form, rate = READINGS[of], rates_per_s[name, of]
            shares = [100 * form(rate * ms / 1e3) for ms in epochs_ms]
            label = f"{of}, {rate:.2f} /s"
            axes.plot(epochs_ms, shares, color=colour, linestyle=dashes, label=label)
            of_form = [row for row in rows if row.part == name and row.quantity.endswith(of)]
            modelled(axes, of_form, color=colour, marker=marker, markersize=8, alpha=0.5)
        used_and_held_out(axes, [row for row in of_form if row.x > 0])
        axes.set(xscale="log", xlabel="Epoch (ms)", ylabel="Without divergence (%)", ylim=(0, 102))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(name, loc="left", fontsize="medium")
        axes.legend(fontsize="small", frameon=False, loc="lower left")
    return chart


STUDY = Study("rrc2022", "Zhou and Tamir, RRC, ATC 2022", solve)
