"""Looks for the first point that a wrong core fails, in this process."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from colosim.exploration.judging import Verdict, judge
from colosim.exploration.running import run_point
from colosim.exploration.space import BASES, Design, Point, designs, singles, swarm_point


def points(chosen: Iterable[Design] | None = None, most: int = 300) -> Iterator[Point]:
    """Those without a fault, then one of each kind of exploration by turns, in a fixed order."""
    chosen = tuple(designs() if chosen is None else chosen)
    yield from (Point(each, base=base) for each in chosen if each.protects for base in BASES)
    of_base = []
    for base in BASES:
        found = [point for point in singles(chosen, base) if point.faults]
        random.Random(1).shuffle(found)
        of_base.append(found)
    for number in range(most):
        for found in of_base:
            if number < len(found):
                yield found[number]
        yield swarm_point(number, 1, chosen)


def first_violation(candidates: Iterable[Point]) -> tuple[int, Verdict | None]:
    """How many were run, and the verdict on the last of them if it is a violation."""
    number = 0
    for number, point in enumerate(candidates, 1):
        verdict = judge(run_point(point))
        if verdict.violations:
            return number, verdict
    return number, None
