"""Pages over time, made here, as a file that colosim's memory model ``measured`` reads."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path

_HEADER = ("workload", "setting", "interval_ms", "exposure_ms", "dirty_pages")
#: as good as any exposure
_ANY_MS = (0.001, 1_000_000)


def write(file: Path, curves: Mapping[tuple[str, str], Iterable[tuple[float, float]]]) -> None:
    """(workload, setting) -> (exposure in ms, pages) of every sample."""
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(_HEADER)
        for key, samples in curves.items():
            for exposure_ms, pages in samples:
                time = f"{exposure_ms:.6f}"
                writer.writerow((*key, time, time, f"{max(0.0, pages):.3f}"))


def at_any_time(pages: Iterable[float]) -> list[tuple[float, float]]:
    """Samples of a distribution of pages that is the same at every exposure."""
    return list(product(_ANY_MS, pages))
