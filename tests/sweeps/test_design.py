"""Designs: which values a sweep's points have."""

import math
import tomllib
from collections import Counter

import numpy as np
import pytest

from colosim import sweeps
from colosim.scenario import Scenario, ScenarioError
from colosim.sweeps import design
from colosim.sweeps.file import Design
from tests.small import SCENARIO

BASE = Scenario.from_mapping(tomllib.loads(SCENARIO))
INTERVAL = {"policy.remus.interval": {"from": "10 ms", "to": "160 ms", "scale": "log"}}


def points(axes, design=None, policies=("remus",), **more):
    given = {"scenario": BASE, "policies": list(policies), "axes": axes, **more}
    return sweeps.plan(given | ({"design": design} if design else {})).points


def values(axis, given, design=None, **more):
    return [point.axes[axis] for point in points({axis: given}, design, **more)]


@pytest.mark.parametrize(
    ("axis", "given", "found"),
    [
        (
            "policy.remus.interval",
            {"from": "10 ms", "to": "160 ms", "scale": "log", "steps": 5},
            ["10 ms", "20 ms", "40 ms", "80 ms", "160 ms"],
        ),
        (
            "link.bandwidth",
            {"from": "1 Gbit/s", "to": "3 Gbit/s", "steps": 3},
            ["1 Gbit/s", "2 Gbit/s", "3 Gbit/s"],
        ),
        ("workload.connections", {"from": 1, "to": 64, "scale": "log", "steps": 4}, [1, 4, 16, 64]),
        ("divergence.probability", {"from": 0, "to": 1, "steps": 3}, [0.0, 0.5, 1.0]),
        ("workload.rate", {"from": "1 /s", "to": "2 /s", "steps": 2}, ["1 /s", "2 /s"]),
    ],
)
def test_a_range_of_a_grid_has_steps(axis, given, found):
    assert values(axis, given) == found
    assert [type(each) for each in values(axis, given)] == [type(each) for each in found]


def test_a_list_takes_the_axes_side_by_side():
    axes = {"divergence.probability": [0.1, 0.2, 0.1], "link.bandwidth": ["1 Gbit/s"] * 3}
    found = points(axes, {"kind": "list"})
    assert [point.axes["divergence.probability"] for point in found] == [0.1, 0.2, 0.1]


@pytest.mark.parametrize("kind", ["latin-hypercube", "sobol"])
def test_samples_fill_every_axis_evenly_and_come_from_their_seed(kind):
    transfers = ["stop-and-send", "copy-then-send"]
    axes = {
        **INTERVAL,
        "divergence.probability": {"from": 0.0, "to": 1.0},
        "workload.connections": {"from": 1, "to": 4},
        "transfer": transfers,
    }
    found = points(axes, {"kind": kind, "points": 16})
    for axis, place in (
        ("policy.remus.interval", lambda text: math.log2(milliseconds(text) / 10) / 4),
        ("divergence.probability", lambda value: value),
    ):
        cells = [int(place(point.axes[axis]) * 16) for point in found]
        assert sorted(cells) == list(range(16)), axis  # one in each sixteenth
    assert Counter(p.axes["workload.connections"] for p in found) == dict.fromkeys(range(1, 5), 4)
    assert Counter(p.axes["transfer"] for p in found) == dict.fromkeys(transfers, 8)
    again = points(axes, {"kind": kind, "points": 16})
    assert found == again
    assert found != points(axes, {"kind": kind, "points": 16, "seed": 2})


def milliseconds(text):
    from colosim.units import TIME

    return TIME.parse(text) / 1e6


def test_a_policy_without_the_axes_is_run_once_and_all_are_compared_with_theirs():
    axes = INTERVAL | {"divergence.probability": {"from": 0.0, "to": 0.1}}
    found = points(axes, {"kind": "sobol", "points": 4}, ["none", "remus"])
    assert [point.policy for point in found] == ["none"] * 4 + ["remus"] * 4
    assert [point.baseline for point in found] == [None] * 4 + [0, 1, 2, 3]
    for point in found[4:]:
        other = found[point.baseline]
        assert other.axes["divergence.probability"] == point.axes["divergence.probability"]
    alone = points(INTERVAL, {"kind": "sobol", "points": 4}, ["none", "remus"])
    assert [(p.policy, p.baseline) for p in alone] == [("none", None), *[("remus", 0)] * 4]


def test_numpy_values_are_plain_ones():
    assert values("workload.connections", list(np.array([1, 2]))) == [1, 2]
    assert values("divergence.probability", np.linspace(0, 1, 3)) == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("axes", "design", "why"),
    [
        (INTERVAL, None, "a grid takes single values; give steps"),
        (INTERVAL, {"kind": "sobol"}, r"design\.points: missing"),
        (INTERVAL, {"kind": "sobol", "points": 100}, "no power of 2.*give 64 or 128"),
        ({}, {"kind": "sobol", "points": 4}, "needs axes"),
        (INTERVAL, {"kind": "grid", "points": 4}, "has its own; leave it out"),
        (INTERVAL, {"kind": "lattice"}, r"design\.kind: 'lattice' is unknown"),
        ({"seed": [1, 2], "transfer": ["precopy"]}, {"kind": "list"}, "seed has 2, transfer has 1"),
        ({"seed": {"from": 1}}, None, r"axes\.seed: to: missing"),
        ({"seed": {"from": 1, "to": 2, "step": 1}}, None, r"axes\.seed: step: unknown.*steps"),
        ({"seed": {"from": 2, "to": 1, "steps": 2}}, None, "is not below"),
        ({"seed": {"from": 1, "to": 2, "steps": 9}}, None, "more than there are values"),
        ({"link.delay": {"from": "0 s", "to": "1 s", "scale": "log"}}, None, "no logarithm"),
        ({"link.delay": {"from": "1 s", "to": "1 Gbit/s"}}, None, "is no range"),
        ({"link.delay": {"from": "1 s", "to": 2}}, None, "is no range"),
    ],
)
def test_designs_that_cannot_be_are_one_clear_line(axes, design, why):
    with pytest.raises((ScenarioError, sweeps.SweepError), match=why) as caught:
        points(axes, design)
    assert "\n" not in str(caught.value)


def test_very_many_values_are_looked_through_once():
    compared = []

    class Value(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other):
            compared.append(other)
            return str.__eq__(self, other)

    values = [Value(f"{i} us") for i in range(1_000, 3_000)]
    assert not design._has_twice(values)
    assert len(compared) < len(values)  # each with each: 2 million
    assert design._has_twice([*values, "1000 us"])
    [twice] = design.axes({"guest.services": [["ground"], ["redis"], ["ground"]]}, BASE, "sweep")
    with pytest.raises(sweeps.SweepError, match="has a value twice"):
        design.rows(Design(), [twice], "sweep")
