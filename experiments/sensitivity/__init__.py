"""Which of its inputs COLO's overhead comes from: Sobol indices, first order and total.

Each input of `INPUTS` is uncertain over its range, independently of the others, and `sample` draws
the design of Saltelli and others (Comput. Phys. Commun. 181, 2010) from a scrambled Sobol sequence.
First order: the part of the output's variance that is gone if that input is known; total: the part
that is left if all others are.  Their difference is what the input does together with others.
Estimators: `scipy.stats.sobol_indices`; intervals: bootstrap over the design's rows, percentiles.

Every point is simulated with the same seed, with and without COLO: so chance is the same at all of
them, and what of it is left in the output is said beside (`noise`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from backends.sim import run_replication
from colosim import Scenario, load_scenario, parallel, store


class Input(NamedTuple):
    """A parameter: its key, its unit, its range, and whether it is uniform in its logarithm."""

    name: str
    key: str
    unit: str
    low: float
    high: float
    is_log: bool = True

    def at(self, u: float) -> float:
        """The value at quantile u."""
        if self.is_log:
            return float(self.low * (self.high / self.low) ** u)
        return self.low + (self.high - self.low) * u


INPUTS = (
    Input("divergence rate", "divergence.hazard", "/s", 0.05, 20),
    Input("dirty rate", "memory.touches", "/s", 100, 10_000),
    Input("link bandwidth", "link.bandwidth", "Gbit/s", 0.5, 25),
    Input("link delay", "link.delay", "us", 10, 1_000),
    Input("load", "workload.rate", "/s", 50, 700, is_log=False),
    Input("checkpoint delay", "policy.colo.checkpoint_delay", "ms", 250, 4_000),
    Input("jitter", "execution.jitter", "", 0.0, 0.3, is_log=False),
)
#: name -> what it is
OUTPUTS: Mapping[str, str] = {
    "stopped": "part of the time that the guest stands",
    "slowdown": "log10 of mean latency with COLO over that without",
}
_CHUNK = 32
_RESAMPLES = 999
CONFIDENCE = 0.95


def base() -> Scenario:
    """The service, before anything is varied."""
    return load_scenario(Path(__file__).parent / "sensitivity.toml")


def sample(n: int, seed: int = 1) -> NDArray[np.float64]:
    """Quantiles, shape (n (d + 2), d): A, then B, then A with each column of B in turn.

    n is a power of 2, for only then the sequence is balanced.
    """
    from scipy.stats import qmc

    d = len(INPUTS)
    both = qmc.Sobol(2 * d, scramble=True, seed=np.random.default_rng(seed)).random(n)
    a, b = both[:, :d], both[:, d:]
    mixed = [np.where(np.arange(d) == i, b, a) for i in range(d)]
    return np.concatenate([a, b, *mixed])


def changes(point: NDArray[np.float64]) -> dict[str, object]:
    """What a point makes of the scenario."""
    made: dict[str, object] = {}
    for each, u in zip(INPUTS, point, strict=True):
        value = each.at(float(u))
        made[each.key] = f"{value:.6g} {each.unit}" if each.unit else round(value, 6)
    return made


def run(
    out: Path,
    n: int = 64,
    replications: int | None = None,
    seed: int = 1,
    jobs: int | None = None,
) -> pd.DataFrame:
    """A row for each point of `sample` and replication: point, replication, and `OUTPUTS`.

    ``out`` keeps chunks of points that have been run; a run that was stopped goes on there.
    Raises `store.StoreError` if it holds those of another design or of other code.
    """
    scenario = base().replace({"seed": seed})
    runs = scenario.replications if replications is None else replications
    design = sample(n, seed)
    starts = range(0, len(design), _CHUNK)
    identity = {"scenario": scenario.to_mapping(), "inputs": INPUTS, "n": n, "runs": runs}
    with store.resumable(out, "_plan.json", "sensitivity analysis", identity):
        todo = [at for at in starts if not _part(out, at).exists()]
        pieces = [(scenario, design[at : at + _CHUNK], at, runs, out) for at in todo]
        for _ in parallel.run(_measure, pieces, jobs, what="sensitivity"):
            pass
    return pd.concat([pd.read_csv(_part(out, at)) for at in starts], ignore_index=True)


def _part(out: Path, at: int) -> Path:
    return out / f"points-{at:06}.csv"


def _measure(
    scenario: Scenario, points: NDArray[np.float64], at: int, runs: int, out: Path
) -> None:
    rows = []
    for n, point in enumerate(points):
        what = scenario.replace(changes(point))
        for i in range(runs):
            bare, colo = (
                {key: value for key, (value, _) in record.metrics().items()}
                for record in (
                    run_replication(what, policy, what.seed, i) for policy in ("none", "colo")
                )
            )
            stopped = colo["checkpoints_per_s"] * colo["pause_mean_ms"] / 1e3
            slowdown = math.log10(colo["latency_mean_ms"] / bare["latency_mean_ms"])
            rows.append((at + n, i, 0.0 if math.isnan(stopped) else stopped, slowdown))
    fresh = out / f".{_part(out, at).name}"
    pd.DataFrame(rows, columns=["point", "replication", *OUTPUTS]).to_csv(fresh, index=False)
    fresh.replace(_part(out, at))


# --------------------------------------------------------------------------------------------
# Indices


def indices(
    table: pd.DataFrame, outputs: Sequence[str] = tuple(OUTPUTS), seed: int = 1
) -> pd.DataFrame:
    """A row for each output and input: output, input, first, first_low, first_high, total,
    total_low, total_high; bootstrap intervals, 95 % for each.
    """
    from scipy.stats import bootstrap

    rows = []
    for name in outputs:
        parts = _parts(table, name)
        every = np.arange(parts[0].size)
        ends = bootstrap(
            (every,),
            partial(_estimate, parts),
            confidence_level=CONFIDENCE,
            n_resamples=_RESAMPLES,
            method="percentile",
            vectorized=False,
            random_state=np.random.default_rng(seed),
        ).confidence_interval
        first, total = np.stack([_estimate(parts, every), ends.low, ends.high], axis=-1)
        rows += [(name, each.name, *first[i], *total[i]) for i, each in enumerate(INPUTS)]
    kinds = [f"{kind}{end}" for kind in ("first", "total") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["output", "input", *kinds])


def _estimate(
    parts: tuple[NDArray[np.float64], ...], used: NDArray[np.int64]
) -> NDArray[np.float64]:
    """First order and total, shape (2, d), from these rows of the design."""
    from scipy.stats import sobol_indices

    a, b, mixed = parts
    func = {"f_A": a[None, used], "f_B": b[None, used], "f_AB": mixed[:, None, used]}
    found = sobol_indices(func=func, n=used.size)
    return np.stack([found.first_order, found.total_order])


def noise(table: pd.DataFrame) -> pd.Series[float]:
    """Of each output: the part of its variance over points that is chance left in the mean."""
    by_point = table.groupby("point")[list(OUTPUTS)]
    within = by_point.var().mean() / by_point.size().mean()
    return within / by_point.mean().var()


def _parts(table: pd.DataFrame, name: str) -> tuple[NDArray[np.float64], ...]:
    """Means over replications: f(A), f(B), shape (n,), and f(A with a column of B), (d, n)."""
    d = len(INPUTS)
    values = table.groupby("point")[name].mean().sort_index().to_numpy()
    n = values.size // (d + 2)
    return values[:n], values[n : 2 * n], values[2 * n :].reshape(d, n)


def main_effects(table: pd.DataFrame, design: NDArray[np.float64], parts: int = 8) -> pd.DataFrame:
    """The output's mean by each input: output, input, value (middle of the part), mean, low, high.

    Over the points of A and B, which are independent of each other.
    """
    from colosim.analysis.stats import interval

    d = len(INPUTS)
    n = len(design) // (d + 2)
    means = table.groupby("point")[list(OUTPUTS)].mean().sort_index().to_numpy()[: 2 * n]
    rows = []
    for i, each in enumerate(INPUTS):
        part = np.minimum((design[: 2 * n, i] * parts).astype(int), parts - 1)
        for k in range(parts):
            for column, name in enumerate(OUTPUTS):
                _, mean, low, high = interval(means[part == k, column])
                rows.append((name, each.name, each.at((k + 0.5) / parts), mean, low, high))
    return pd.DataFrame(rows, columns=["output", "input", "value", "mean", "low", "high"])
