"""What four streams make of the transfers that one stream took.

Of one stream, mean and 99th percentile are fitted for each workload: a lognormal distribution of
pages, in units of what one stream sends in a millisecond.  Four streams are predicted from it, in
two ways:

* *four times one*: a stream is limited by its thread, at no more than a quarter of the link, so
  four are four times as fast.  Fitted: multifd's fixed time, to the idle mean.
* *up to the link*: besides, how much a stream gets through, to the mean of the upload.  Four then
  fill the link.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri

from colosim.model.cost import Costs
from colosim.scenario import Scenario, load_scenario
from experiments.published import curves
from experiments.published.rows import Row, estimated
from experiments.published.simulation import Outcome, simulate
from experiments.published.study import Findings, Study
from experiments.published.table import one, told

if TYPE_CHECKING:
    from colosim.analysis.plots import Chart

IDLE, UPLOAD = "Windows 2016 idle", "Windows 2016 SMB upload"
PLAIN, MULTIFD = "plain", "multifd-4"
_STREAMS = 4
_LINK_MBPS = 10_000
_SAMPLES = 1000
_Z = ndtri((np.arange(_SAMPLES) + 0.5) / _SAMPLES)
_Z99 = float(ndtri(0.99))
_BITS_PER_PAGE = 8 * (Costs().page_bytes + Costs().page_header_bytes)

_PLAIN_NOTE = (
    "Simulated: one stream; pages are lognormal with the published mean and 99th percentile of "
    "their transfer."
)
_QUARTER, _LINK = "four times one", "up to the link"
_NOTES = {
    _QUARTER: (
        "Simulated: four streams of a quarter of the link each. Fitted is multifd's fixed time, to "
        "the idle mean; nothing of the upload by multifd is used."
    ),
    _LINK: (
        "Simulated: what a stream gets through is fitted too, to the mean of the upload. Four "
        "streams fill the link."
    ),
}


class Times(NamedTuple):
    """RAM transfer, ms: mean and 99th percentile, as rows of the table."""

    mean: pd.Series[Any]
    p99: pd.Series[Any]

    @property
    def mean_ms(self) -> float:
        return float(self.mean["value"])

    @property
    def p99_ms(self) -> float:
        return float(self.p99["value"])


class Model(NamedTuple):
    """stream_mbps: most that one stream gets through; fixed_ms: multifd's own time."""

    stream_mbps: float
    fixed_ms: float

    @property
    def faster(self) -> float:
        """How many times as fast all streams are as one."""
        return min(_STREAMS * self.stream_mbps, _LINK_MBPS) / self.stream_mbps

    def of(self, plain_ms: float) -> float:
        """What takes one stream ``plain_ms``, by multifd."""
        return self.fixed_ms + plain_ms / self.faster


#: (workload, PLAIN or the model's name)
Key = tuple[str, str]


def times(published: pd.DataFrame) -> dict[tuple[str, str], Times]:
    """(workload, plain or multifd-4) -> what is published."""
    found = {}
    for workload, how in product((IDLE, UPLOAD), (PLAIN, MULTIFD)):
        rows = published[published["condition"].str.endswith(how)]
        found[workload, how] = Times(
            *(
                one(rows, workload=workload, metric=f"ram_transfer_{what}")
                for what in ("mean", "p99")
            )
        )
    return found


def fit(found: Mapping[tuple[str, str], Times]) -> dict[str, Model]:
    """Both models of multifd; the 99th percentiles of multifd are not looked at."""
    idle, upload = (
        (found[name, PLAIN].mean_ms, found[name, MULTIFD].mean_ms) for name in (IDLE, UPLOAD)
    )
    faster = (upload[0] - idle[0]) / (upload[1] - idle[1])
    return {
        name: Model(_LINK_MBPS / times_as_fast, idle[1] - idle[0] / times_as_fast)
        for name, times_as_fast in ((_QUARTER, float(_STREAMS)), (_LINK, faster))
    }


def transfers_ms(published: Times) -> NDArray[np.float64]:
    """Quantiles of the lognormal distribution with that mean and 99th percentile."""
    ratio = math.log(published.p99_ms / published.mean_ms)
    sigma = float(brentq(lambda s: _Z99 * s - s * s / 2 - ratio, 1e-9, _Z99))
    values: NDArray[np.float64] = np.exp(sigma * _Z)
    return np.asarray(values * (published.mean_ms / values.mean()))


def scenarios(
    found: Mapping[tuple[str, str], Times], models: Mapping[str, Model], file: Path, quick: bool
) -> dict[Key, Scenario]:
    """One stream, and four by each model; writes the pages to ``file``."""
    plain = Model(models[_QUARTER].stream_mbps, 0.0)
    ways = {PLAIN: plain, **models}
    distributions = {name: transfers_ms(found[name, PLAIN]) for name in (IDLE, UPLOAD)}
    curves.write(
        file,
        {
            (name, way): curves.at_any_time(ms * model.stream_mbps * 1e3 / _BITS_PER_PAGE)
            for (name, ms), (way, model) in product(distributions.items(), ways.items())
        },
    )
    base = load_scenario(Path(__file__).with_name("checkpoints.toml"))
    base = base.replace({"duration": "61 s", "replications": 3} if quick else {"duration": "601 s"})
    return {
        (name, way): base.replace(
            {
                "memory": {
                    "kind": "measured",
                    "file": str(file.absolute()),
                    "workload": name,
                    "setting": way,
                    "guest_memory": "6 GiB",
                    "pages_per_request": 0.0,
                },
                "stream.channels": 1 if way == PLAIN else _STREAMS,
                "stream.channel_bandwidth": f"{model.stream_mbps:.3f} Mbit/s",
                "cost.transfer_fixed": f"{model.fixed_ms:.6f} ms",
            }
        )
        for name, (way, model) in product((IDLE, UPLOAD), ways.items())
    }


def rows(
    found: Mapping[tuple[str, str], Times],
    models: Mapping[str, Model],
    outcomes: Mapping[Key, Outcome],
) -> Iterator[Row]:
    """One stream, then four by each model."""
    for name in (IDLE, UPLOAD):
        plain = found[name, PLAIN]
        for what, point in (("mean", plain.mean), ("99th percentile", plain.p99)):
            yield _row(name, PLAIN, what, point, outcomes, n=2, parameters=2, note=_PLAIN_NOTE)
        for way, model in models.items():
            multifd = found[name, MULTIFD]
            for what, point, closed_form in (
                ("mean", multifd.mean, model.of(plain.mean_ms)),
                ("99th percentile", multifd.p99, model.of(plain.p99_ms)),
            ):
                used = what == "mean" and (name == IDLE or way == _LINK)
                freedom = {"n": 1 + (way == _LINK), "parameters": 1 + (way == _LINK)}
                yield _row(
                    name,
                    way,
                    what,
                    point,
                    outcomes,
                    **(freedom if used else {}),
                    closed_form=closed_form,
                    note=_NOTES[way],
                )
    for way, quantity, unit, value in (
        (_QUARTER, "fixed time", "ms", models[_QUARTER].fixed_ms),
        (_LINK, "fixed time", "ms", models[_LINK].fixed_ms),
        (_LINK, "a stream gets through", "Gb/s", models[_LINK].stream_mbps / 1e3),
    ):
        yield Row(
            part="Multifd",
            quantity=quantity,
            condition=way,
            kind="fitted",
            unit=unit,
            model=value,
            n=1 + (way == _LINK),
            parameters=1 + (way == _LINK),
            note=_NOTES[way],
        )


def _row(
    name: str,
    way: str,
    what: str,
    point: pd.Series[Any],
    outcomes: Mapping[Key, Outcome],
    **more: Any,
) -> Row:
    metric = {"mean": "state_mean_ms", "99th percentile": "state_p99_ms"}[what]
    return Row(
        part=name,
        quantity=f"RAM transfer, {what}",
        condition="one stream" if way == PLAIN else f"four streams, {way}",
        x=[PLAIN, _QUARTER, _LINK].index(way),
        kind="fitted" if "n" in more else "predicted",
        unit="ms",
        **told(point),
        **estimated(outcomes[name, way].of(metric)),
        **more,
    )


def solve(published: pd.DataFrame, out: Path, quick: bool, jobs: int | None) -> Findings:
    """Fit, simulate, compare."""
    found = times(published)
    models = fit(found)
    outcomes = simulate(scenarios(found, models, out / "pages.csv", quick), jobs)
    return Findings(list(rows(found, models, outcomes)), _draw)


def _draw(rows: Sequence[Row]) -> Chart:
    from colosim.analysis.plots import COLOURS
    from experiments.published.figures import beside, panels

    chart, four = panels(2, 2, 9.6, 6.2)
    for axes, (name, what) in zip(
        four, product((IDLE, UPLOAD), ("mean", "99th percentile")), strict=True
    ):
        chosen = [
            row for row in rows if row.part == name and row.quantity == f"RAM transfer, {what}"
        ]
        labels = [row.condition.replace(", ", ",\n") for row in chosen]
        beside(axes, chosen, labels, COLOURS[what != "mean"])
        axes.set(ylabel="RAM transfer (ms)")
        axes.set_title(f"{name}: {what}", loc="left", fontsize="medium")
        axes.legend(fontsize="small", frameon=False)
    return chart


STUDY = Study("straub2026", "qemu-devel, L. Straub, 2026-01-17, multifd COLO v2", solve)
