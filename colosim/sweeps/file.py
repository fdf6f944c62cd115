"""The file of a sweep, as it may be written."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from colosim.protocol.policies import POLICIES
from colosim.section import OneOf, Section, number, option

MOST_POINTS = 100_000
_MOST_RUNS = 1_000_000


class Design(Section):
    """Which combinations of the axes' values are points."""

    kind: Literal["grid", "list", "latin-hypercube", "sobol"] = option(
        "grid",
        "grid: every combination; list: the first values of all axes, then the second, and so on; "
        "latin-hypercube and sobol: samples that fill the space evenly",
    )
    points: Annotated[int, number("points", 2, MOST_POINTS)] | None = option(
        None, "latin-hypercube and sobol: samples; of sobol a power of 2"
    )
    seed: Annotated[int, number("seed", 0, 2**63 - 1)] = option(
        1, "latin-hypercube and sobol: what the sample comes from; not the scenario's seed"
    )


class Range(Section):
    """An axis as a range."""

    low: Any = option(..., 'the smallest value, with its unit, for example "10 ms"', alias="from")
    high: Any = option(..., 'the largest value, with its unit, for example "200 ms"', alias="to")
    scale: Literal["linear", "log"] = option("linear", "what is even: steps, or factors")
    steps: Annotated[int, number("values", 2, MOST_POINTS)] | None = option(
        None, "grid and list: how many values, both ends among them"
    )

    @classmethod
    def _fields(cls) -> dict[str, Any]:
        return {info.alias or name: info for name, info in cls.model_fields.items()}


class Adaptive(Section):
    """Where further replications go, after the first ``replications`` of every point."""

    metrics: list[str] = option(
        ["latency_mean_ms", "completion_time_s"],
        "whose 95 % intervals are to be narrow; one that a point does not have is not looked at",
    )
    relative: Annotated[float, number("ratio", 1e-4, 0.5)] = option(
        0.05, "wanted half width of the interval, as part of the mean"
    )
    most: Annotated[int, number("runs", 2, _MOST_RUNS)] = option(
        1_000, "replications of a point at most"
    )
    budget: Annotated[int, number("runs", 2)] | None = option(
        None, "replications of all points together at most; default no other limit than most"
    )


class Derived(Section):
    """A metric computed of others."""

    of: str = option(..., 'an expression, for example "link_mbit_per_s / throughput_per_s"')
    unit: str = option("1", "its unit")


class SweepFile(Section):
    """The file of a sweep."""

    scenario: str = option(..., "scenario file, relative to this one")
    policies: list[Annotated[str, OneOf(tuple(POLICIES))]] | None = option(
        None, "policies; default the scenario's own"
    )
    baseline: str | None = option(
        None, "policy that the summary compares with; default the first of policies"
    )
    seed: int | None = option(None, "seed; default the scenario's own")
    replications: int | None = option(None, "runs of each point; default the scenario's own")
    design: Design = option(Design(), "which combinations of the axes' values are points")
    axes: dict[str, Any] = option(
        {}, 'field of the scenario = [values] or { from = "10 ms", to = "1 s", scale = "log" }'
    )
    derived: dict[str, Any] = option({}, "metric = expression of others")
    adaptive: Adaptive | None = option(
        None, "replications go where intervals are wide; default all points have as many"
    )
