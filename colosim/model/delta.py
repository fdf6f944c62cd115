"""How large a state is as differences: what is left of a page that is XORed with the older one.

Three models, `stream.delta_size`.  ``ratio``: `cost.delta_ratio`, whatever happened.

``age``: as measured, by the exposure; a page that has been written to for longer has changed more.
`colosim/data/dirty-pages-measured.csv` has medians of XOR and zlib level 1 (LR 5): redis from 0.040
after 10 ms to 0.081 after 1.6 s, nginx flat at 0.08 to 0.09, idle kernels 0.02 to 0.03.  Between
two points linear in the logarithm of the exposure, outside them constant.

``writes``: from the bytes that a touch changes.  N touches that each change w bytes at a random
place of their page leave, of D distinct pages of P bytes,

    51 D + 2.9 N + P d(N w / P)     bytes, at most P D

d(n) is the expected number of distinct pages of n touches, so P d(N w / P) are the distinct bytes:
byte by byte it is the same occupancy problem.  51 B a page and 2.9 B a touch are what zlib at level
1 needs for the zeros in between and the ends of runs: fitted to 4 KiB pages with 1 to 64 writes of
4 to 256 random bytes, where the formula is within 12 % (`tests/model/test_delta.py`).  New bytes
are taken to be random, which no compressor makes smaller; real ones may be smaller.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence

from colosim.model.errors import ModelError, check_range
from colosim.model.memory import MeasuredCurve, Touched

#: (exposure in ns of guest writes, requests) -> what is left of a page, its header aside
DeltaRatio = Callable[[int, int], float]

_PAGE_BYTES_ALONE = 51.0  # of a page in which next to nothing has changed
_TOUCH_BYTES = 2.9  # where a run of changed bytes begins and ends


def constant(ratio: float) -> DeltaRatio:
    """The same for all."""
    check_range("delta_ratio", ratio, high=1.0)
    return lambda exposure_ns, requests: ratio


def by_age(curve: MeasuredCurve) -> DeltaRatio:
    """As measured with a curve of pages; ModelError if its file has no column delta_ratio."""
    points: Sequence[tuple[int, float]] = curve.deltas
    if not points:
        raise ModelError(f"{curve.label} was measured without delta_ratio")
    logs = [math.log(exposure_ns) for exposure_ns, _ in points]
    ratios = [ratio for _, ratio in points]

    def ratio(exposure_ns: int, requests: int) -> float:
        at = math.log(max(exposure_ns, 1))
        upper = bisect_left(logs, at)
        if upper in (0, len(logs)):
            return ratios[max(upper - 1, 0)]
        weight = (at - logs[upper - 1]) / (logs[upper] - logs[upper - 1])
        return ratios[upper - 1] + weight * (ratios[upper] - ratios[upper - 1])

    return ratio


def by_writes(memory: Touched, write_bytes: int, page_bytes: int) -> DeltaRatio:
    """From the bytes that each touch changes."""
    check_range("write_bytes", write_bytes, 1, page_bytes)

    def ratio(exposure_ns: int, requests: int) -> float:
        touches = memory.touches(exposure_ns, requests)
        pages, _ = memory.distinct(touches)
        if not pages:
            return 0.0
        changed, _ = memory.distinct(touches * write_bytes / page_bytes)
        left = _PAGE_BYTES_ALONE * pages + _TOUCH_BYTES * touches + page_bytes * changed
        return min(left / (page_bytes * pages), 1.0)

    return ratio
