"""Exploring finds what is wrong with a core: planted defects, and mutants of its tables."""

from __future__ import annotations

import pytest

from colosim.exploration.exploring import look
from colosim.exploration.shrinking import shrink
from tests.exploration import defects
from tests.exploration.hunting import first_violation, points


@pytest.mark.parametrize("defect", defects.ALL, ids=lambda defect: defect.__name__)
def test_a_planted_defect_is_found(defect, record_property):
    """And made small; the small point is violated by the same promise, and only by a wrong core."""
    with defect():
        runs, found = first_violation(points())
        assert found is not None, f"not found in {runs} runs"
        minimal = shrink(found)
        _, _, trace = look(minimal.point)
    name, wrong = minimal.violations[0]
    record_property("counted", f"{defect.__name__}: {runs} runs; {minimal.point}: {name}: {wrong}")
    assert name in [promise for promise, _ in found.violations]
    assert len(minimal.point.faults) <= len(found.point.faults)
    assert trace.count("\n") <= 120
    verdict, lines, _ = look(minimal.point)
    assert verdict.violations == ()
    assert lines > 20
