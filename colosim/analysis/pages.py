"""Dirty pages over exposure: what was seen, what a memory model says, and a fit of one's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import OptimizeWarning, curve_fit

from colosim.model.memory import MemoryModel

CURVE_COLUMNS = ("exposure_ms", "pages", "low", "high")
_LEAST = 8  # points that a fit is made of
_LEAST_SPREAD = 1.5  # their longest exposure over their shortest
_SAMPLES, _SEED = 200, 1  # of the bootstrap


def points(checkpoints: pd.DataFrame) -> pd.DataFrame:
    """policy, replication, exposure_ms, pages of the checkpoints that say both."""
    rows = checkpoints[(checkpoints["exposure_ns"] > 0) & (checkpoints["pages"] >= 0)]
    rows = rows[rows["committed_ns"] >= 0] if "committed_ns" in rows else rows
    found = rows[["policy", "replication", "pages"]]
    return found.assign(exposure_ms=rows["exposure_ns"] / 1e6).reset_index(drop=True)


def model_curve(
    model: MemoryModel, exposures_ms: Sequence[float], requests_per_s: float = 0.0
) -> pd.DataFrame:
    """exposure_ms, pages (the model's mean), low, high (95 % of its draws are between).

    requests_per_s: served while exposed.  Raises ModelError beyond what a model knows.
    """
    rows = []
    for exposure_ms in exposures_ms:
        exposure_ns = exposure_ms * 1e6
        requests = requests_per_s * exposure_ms / 1e3
        low, high = (
            model.draw(round(exposure_ns), round(requests), u).pages for u in (0.025, 0.975)
        )
        rows.append((exposure_ms, model.mean(exposure_ns, requests), low, high))
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS))


def fitted_curve(seen: pd.DataFrame) -> pd.DataFrame | None:
    """A curve through what was seen: pages = W (1 - exp(-r t / W)), uniform touches.

    seen: exposure_ms, pages.  low, high: 95 % interval of the mean, by bootstrap of the points.
    None where they are too few, or too much alike, to tell how the curve bends.
    """
    t, pages = (seen[name].to_numpy(dtype=float) for name in ("exposure_ms", "pages"))
    if t.size < _LEAST or t.max() < _LEAST_SPREAD * t.min() or not pages.any():
        return None
    first = _fit(t, pages, (2 * pages.max(), pages.max() / t.max()))
    if first is None:
        return None
    x = np.geomspace(t.min(), t.max(), 60)
    draw = np.random.default_rng(_SEED)
    curves = []
    for _ in range(_SAMPLES):
        chosen = draw.integers(0, t.size, t.size)
        if (again := _fit(t[chosen], pages[chosen], first)) is not None:
            curves.append(_uniform(x, *again))
    if len(curves) < _SAMPLES // 2:
        return None
    low, high = np.percentile(curves, [2.5, 97.5], axis=0)
    return pd.DataFrame({"exposure_ms": x, "pages": _uniform(x, *first), "low": low, "high": high})


def _uniform(t: np.ndarray, working_set: float, per_ms: float) -> np.ndarray:
    return working_set * -np.expm1(-per_ms * t / working_set)


def _fit(
    t: np.ndarray, pages: np.ndarray, first: tuple[float, float]
) -> tuple[float, float] | None:
    import warnings

    bounds = ([1e-6, 1e-9], [1e4 * max(first[0], 1.0), 1e4 * max(first[1], 1.0)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)
        try:
            (working_set, per_ms), _ = curve_fit(_uniform, t, pages, first, bounds=bounds)
        except (RuntimeError, ValueError):
            return None
    return float(working_set), float(per_ms)
