"""Makes a violation small: fewer faults, fewer settings, earlier, shorter; the same promise broken.

Greedy: of all smaller points the first that still breaks the promise is taken, until none does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

from colosim.exploration.judging import Verdict, judge
from colosim.exploration.running import run_point
from colosim.exploration.space import Point, fault, plainer_designs
from colosim.scenario import Fault, ScenarioError
from colosim.units import TIME

MOST_TRIES = 300
_MS = 1_000_000


def shrink(
    verdict: Verdict,
    judged: Callable[[Point], Verdict] = lambda point: judge(run_point(point)),
    most_tries: int = MOST_TRIES,
) -> Verdict:
    """The smallest verdict that was found with the same first broken promise.

    judged: how a smaller point is tried; a scenario that cannot be is passed over.
    """
    broken = verdict.violations[0][0]
    tries = 0
    seen = {str(verdict.point)}
    while tries < most_tries:
        for smaller in _smaller(verdict.point):
            if str(smaller) in seen:
                continue
            seen.add(str(smaller))
            tries += 1
            with suppress(ScenarioError):
                now = judged(smaller)
                if any(name == broken for name, _ in now.violations):
                    verdict = now
                    break
            if tries >= most_tries:
                break
        else:
            break
    return verdict


def _smaller(point: Point) -> Iterator[Point]:
    """Simpler points, those that would win most first."""
    faults, settings = point.faults, point.settings
    for gone in range(len(faults)):
        yield replace(point, faults=(*faults[:gone], *faults[gone + 1 :]))
    if settings:
        yield replace(point, settings=())
    for gone in range(len(settings)):
        yield replace(point, settings=(*settings[:gone], *settings[gone + 1 :]))
    for design in plainer_designs(point.design):
        yield replace(point, design=design)
    for place, each in enumerate(faults):
        for simpler in _simpler(each):
            yield replace(point, faults=(*faults[:place], simpler, *faults[place + 1 :]))
    yield from _with(point, "workload.clients", 1, 2)
    yield from _with(point, "duration", "120ms", "170ms")
    if point.seed != 1:
        yield replace(point, seed=1)


def _with(point: Point, name: str, *values: object) -> Iterator[Point]:
    """With a smaller value of one setting; the values are in order, the smallest first."""
    given = dict(point.settings)
    for value in values:
        if given.get(name) == value:
            return
        yield replace(point, settings=tuple({**given, name: value}.items()))


def _simpler(one: Fault) -> Iterator[Fault]:
    given = one.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    def but(**changes: object) -> Fault:
        return fault(**{k: v for k, v in {**given, **changes}.items() if v is not None})

    if one.duration_ns is not None:
        yield but(duration=None)
    for occurrence in range(1, one.occurrence):
        yield but(occurrence=occurrence)
    if one.scope not in (None, "host"):
        yield but(scope="host")
    if one.kind == "hang":
        yield but(kind="crash", duration=None)
    for name in ("at_ns", "duration_ns"):
        value_ns = getattr(one, name)
        if value_ns is not None:
            rounded = {value_ns // 2 // _MS * _MS, value_ns // _MS * _MS, value_ns * 3 // 4}
            for less_ns in sorted(rounded - {value_ns, 0}):
                yield but(**{name.removesuffix("_ns"): TIME.format(less_ns)})
