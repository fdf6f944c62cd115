"""What a valid scenario is, how it changes, and that it comes back as it was."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colosim.model.cost import Costs
from colosim.model.memory import MeasuredCurve
from colosim.protocol import checkpoint, manager
from colosim.protocol.dialect import DIALECTS, Message
from colosim.protocol.policies import POLICIES
from colosim.scenario import (
    BatchJob,
    ClosedService,
    OpenService,
    Scenario,
    ScenarioError,
    ZipfMemory,
    json_schema,
    load_scenario,
)
from colosim.section import Quantity, Section
from colosim.units import DIMENSIONS, dimension_of, without_unit

EXAMPLES = sorted((Path(__file__).parents[2] / "experiments/scenarios").glob("*.toml"))
MS, SECOND = 10**6, 10**9


# -- values ----------------------------------------------------------------------------------


def test_units_become_plain_numbers_and_the_rest_has_defaults(build: Any) -> None:
    scenario = Scenario.from_mapping(build({"workload.response": "16 KiB"}))
    assert scenario.duration_ns == 10 * SECOND
    assert isinstance(scenario.workload, OpenService)
    assert scenario.workload.rate_per_s == 500.0
    assert scenario.workload.response_bytes == 16_384
    assert scenario.workload.client_delay_ns == 100_000
    assert scenario.link.bandwidth_bps == 10**9
    assert scenario.seed == 1
    assert scenario.commit is None
    assert scenario.transfer is None
    assert scenario.transfer_of("remus") is checkpoint.Transfer.STOP_AND_SEND
    assert scenario.transfer_of("microcheckpoint") is checkpoint.Transfer.COPY_THEN_SEND
    assert scenario.quirks is checkpoint.Quirks.NONE
    assert scenario.costs() == Costs()
    assert scenario.fault == ()


def test_kind_and_load_choose_the_table(build: Any) -> None:
    closed = {
        "workload": {
            "kind": "service",
            "load": "closed",
            "clients": 20,
            "think_time": "50 ms",
            "service_time": "2 ms",
        },
        "memory": {"kind": "zipf", "working_set_pages": 100, "touches": "5 /s", "exponent": 1.1},
    }
    scenario = Scenario.from_mapping(build(closed))
    assert isinstance(scenario.workload, ClosedService)
    assert scenario.workload.think_time_ns == 50 * MS
    assert isinstance(scenario.memory, ZipfMemory)
    batch = scenario.replace({"workload": {"kind": "batch", "work": "5 s"}})
    assert isinstance(batch.workload, BatchJob)


def test_costs_and_memory_reach_the_models(build: Any) -> None:
    changes = {
        "cost.save_per_page": "4 us",
        "memory.outside": "extrapolate",
        "memory.secondary_overlap": 0.5,
        "memory.guest_memory": "128 MiB",
    }
    scenario = Scenario.from_mapping(build(changes))
    assert scenario.costs().save_per_page_ns == 4_000
    curve = scenario.memory_model()
    assert isinstance(curve, MeasuredCurve)
    assert (curve.label, curve.outside, curve.secondary_overlap) == ("redis", "extrapolate", 0.5)
    assert curve.guest_pages == 32_768


@pytest.mark.parametrize("kind", ["uniform", "zipf", "sequential"])
def test_closed_forms_may_stand_on_a_background(build: Any, kind: str) -> None:
    memory = {"kind": kind, "working_set_pages": 2_000, "touches": "5000 /s"}
    memory |= {"exponent": 1.0} if kind == "zipf" else {}
    alone = Scenario.from_mapping(build({"memory": memory})).memory_model()
    both = Scenario.from_mapping(build({"memory": memory | {"background": "idle"}})).memory_model()
    idle = MeasuredCurve.named("idle")
    exposure_ns = 400 * MS
    assert both.mean(exposure_ns, 0) == pytest.approx(
        alone.mean(exposure_ns, 0) + idle.mean(exposure_ns, 0)
    )


def test_measured_curve_of_your_own_is_relative_to_the_file(build: Any, tmp_path: Path) -> None:
    rows = [f"mine,a,{ms},{ms},{pages},{ms / 1e3 * 500}" for ms, pages in ((10, 5), (1000, 90))]
    header = "workload,setting,interval_ms,exposure_ms,dirty_pages,load_ops"
    (tmp_path / "mine.csv").write_text("\n".join([header, *rows]))
    path = tmp_path / "s.toml"
    path.write_text(
        'name = "own"\nduration = "1 s"\n'
        '[workload]\nkind = "service"\nload = "open"\nrate = "500 /s"\nservice_time = "1 ms"\n'
        '[memory]\nkind = "measured"\nfile = "mine.csv"\nworkload = "mine"\nsetting = "a"\n'
    )
    assert load_scenario(path).memory_model().draw(10 * MS, 5, 0.5).pages == 5


# -- policies --------------------------------------------------------------------------------


def test_file_wins_over_dialect_wins_over_policy(build: Any) -> None:
    upstream = Scenario.from_mapping(build())
    assert upstream.policy_params("remus").interval_ns == 100 * MS
    assert upstream.policy_params("colo").checkpoint_delay_ns == 20 * SECOND
    assert upstream.policy_params("none") == POLICIES["none"].Params()
    rfc = upstream.replace({"dialect": "rfc2014"})
    assert rfc.policy_params("remus").interval_ns == 500 * MS
    assert rfc.policy_params("colo").checkpoint_delay_ns == 10 * SECOND
    given = rfc.replace({"policy.remus.interval": "25 ms"})
    assert given.policy_params("remus").interval_ns == 25 * MS
    assert given.policy_params("colo").checkpoint_delay_ns == 10 * SECOND


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_canonical_mapping_spells_out_what_dialects_decide(
    build: Any, name: str, dialect: str
) -> None:
    scenario = Scenario.from_mapping(build({"dialect": dialect}))
    mapping = scenario.to_mapping()
    params = scenario.policy_params(name)
    assert set(mapping["policy"][name]) == {without_unit(each.name) for each in fields(params)}
    assert Scenario.from_mapping(mapping).policy_params(name) == params


def test_a_new_policy_needs_no_change_here() -> None:
    code = """
from dataclasses import dataclass
from colosim.protocol.policies import POLICIES, base

@dataclass(frozen=True, slots=True)
class Params:
    gap_ns: int = base.parameter(2_000_000, "time", "a gap", 1)
    tries: int = base.parameter(3, "count", "a number", 1)

class New(base.Policy):
    name, output, summary, Params = "brand-new", "commit", "new", Params

POLICIES["brand-new"] = New
from colosim.scenario import Scenario, ScenarioError, json_schema
m = {"name": "x", "duration": "1 s", "workload": {"kind": "batch", "work": "1 s"},
     "memory": {"kind": "uniform", "working_set_pages": 9, "touches": "1 /s"},
     "policy": {"name": "brand-new", "brand-new": {"gap": "5 ms"}}}
s = Scenario.from_mapping(m)
assert s.policy_params("brand-new") == Params(5_000_000, 3)
assert s.to_mapping()["policy"]["brand-new"] == {"gap": "5 ms", "tries": 3}
for key, value in (("gap", "0 s"), ("tries", 0), ("gaps", "1 s")):
    try:
        s.replace({f"policy.brand-new.{key}": value})
    except ScenarioError as error:
        assert f"policy.brand-new.{key}" in str(error), error
    else:
        raise AssertionError(key)
assert "brand-new" in json_schema()["$defs"]["Policy"]["properties"]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# -- changes ---------------------------------------------------------------------------------


def test_replace_changes_only_what_it_names(build: Any) -> None:
    scenario = Scenario.from_mapping(build({"fault": [FAULT]}))
    changed = scenario.replace(
        {"workload.rate": "500.5 /s", "seed": np.int64(7), "fault.0.at": "4 s", "link": {}}
    )
    assert isinstance(changed.workload, OpenService)
    assert changed.workload.rate_per_s == 500.5
    assert changed.seed == 7
    assert changed.fault[0].at_ns == 4 * SECOND
    assert scenario.seed == 1
    assert changed.replace({"workload.rate": "500 /s", "seed": None, "fault": [FAULT]}) == scenario


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"workload.clients": 20}, "workload.clients: not a key of"),
        ({"name.x": 1}, "name.x: no such key"),
        ({"fault.0.at": "1 s"}, "fault: {'0': {'at': '1 s'}} is not a list of tables"),
        ({"policy.name": "foo"}, "policy.name: 'foo' is unknown"),
        ({"": 1}, "''"),
        ({"seed": -1}, "seed: -1 is too small"),
    ],
)
def test_replace_names_the_key_that_is_wrong(
    build: Any, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(ScenarioError) as raised:
        Scenario.from_mapping(build()).replace(changes, "F.toml")
    assert str(raised.value).startswith(f"F.toml: {line}")


def test_scenarios_cannot_be_changed_in_place(build: Any) -> None:
    scenario = Scenario.from_mapping(build())
    with pytest.raises(ValueError, match="frozen"):
        scenario.seed = 2
    with pytest.raises(ValueError, match="frozen"):
        scenario.link.delay_ns = 2


def test_scenarios_travel_between_processes(build: Any) -> None:
    scenario = Scenario.from_mapping(build({"policy.remus.interval": "25 ms", "seed": 5}))
    copy = pickle.loads(pickle.dumps(scenario))
    assert copy == scenario
    assert copy.replace({"dialect": "rfc2014"}).policy_params("colo").checkpoint_delay_ns == 10**10


# -- round trip ------------------------------------------------------------------------------

FAULT = {"target": "primary", "scope": "host", "kind": "crash", "at": "3 s"}
TIMES = st.integers(1, 10**12).map("{} ns".format)
RATIOS = st.floats(0, 1)
SERVICE = {"kind": st.just("service"), "service_time": TIMES}
WORKLOADS = st.one_of(
    st.fixed_dictionaries(
        {**SERVICE, "load": st.just("open"), "rate": st.floats(0.001, 1e6).map("{!r} /s".format)},
        optional={"vcpus": st.integers(1, 64), "connections": st.integers(1, 99)},
    ),
    st.fixed_dictionaries(
        {**SERVICE, "load": st.just("closed"), "clients": st.integers(1, 999), "think_time": TIMES},
        optional={"service_distribution": st.sampled_from(["exponential", "deterministic"])},
    ),
)
TOUCHES = {"working_set_pages": st.integers(1, 65_536), "touches": st.just("5 /s")}
MEMORIES = st.one_of(
    st.fixed_dictionaries(
        {
            "kind": st.just("measured"),
            "curve": st.sampled_from(["redis", "nginx", "idle"]),
            "pages_per_request": st.floats(0, 100),
        },
        optional={"outside": st.just("extrapolate"), "secondary_overlap": RATIOS},
    ),
    st.fixed_dictionaries(
        {"kind": st.sampled_from(["uniform", "sequential"]), **TOUCHES},
        optional={"background": st.just("idle")},
    ),
    st.fixed_dictionaries({"kind": st.just("zipf"), "exponent": st.floats(0, 10), **TOUCHES}),
)
FAULTS = st.one_of(
    st.fixed_dictionaries(
        {
            "target": st.sampled_from(["primary", "secondary"]),
            "scope": st.sampled_from(["vm", "node", "host"]),
            "kind": st.just("hang"),
            "step": st.sampled_from(["stop", "cut", "resume"]),
        },
        optional={"occurrence": st.integers(1, 9), "duration": TIMES},
    ),
    st.just({"target": "link", "kind": "cut", "at": "0 ns"}),
)
VALID = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,20}", fullmatch=True),
        "duration": st.just("20 min"),
        "workload": WORKLOADS,
        "memory": MEMORIES,
    },
    optional={
        "description": st.text(max_size=50),
        "warm_up": st.integers(0, 10**12).map("{} ns".format),
        "seed": st.integers(0, 2**63 - 1),
        "replications": st.integers(1, 1000),
        "dialect": st.sampled_from(sorted(DIALECTS)),
        "transfer": st.sampled_from(["stop-and-send"]),
        "commit": st.just("loaded"),
        "policy": st.fixed_dictionaries(
            {"name": st.sampled_from(["colo", "remus"])},
            optional={
                "remus": st.fixed_dictionaries({"interval": TIMES}),
                "colo": st.fixed_dictionaries({}, optional={"minimum_gap": TIMES}),
            },
        ),
        "execution": st.fixed_dictionaries({"jitter": RATIOS}),
        "divergence": st.fixed_dictionaries({"probability": RATIOS}),
        "cost": st.fixed_dictionaries({"stop": TIMES, "device_state": st.just("1 MB")}),
        "link": st.fixed_dictionaries({"bandwidth": st.integers(1, 10**12).map("{} bit/s".format)}),
        "fault": st.lists(FAULTS, max_size=3),
    },
)


@given(VALID)
def test_a_scenario_comes_back_from_its_mapping(mapping: dict[str, Any]) -> None:
    scenario = Scenario.from_mapping(mapping)
    canonical = scenario.to_mapping()
    again = Scenario.from_mapping(canonical)
    assert again.to_mapping() == canonical
    assert again.model_dump(exclude={"policy"}) == scenario.model_dump(exclude={"policy"})
    for name in POLICIES:
        assert again.policy_params(name) == scenario.policy_params(name)
    assert scenario.replace({}) == scenario


# -- examples, schema, names -----------------------------------------------------------------


def test_the_four_examples_are_there() -> None:
    assert {path.stem for path in EXAMPLES} >= {
        "failover",
        "kernel-build",
        "webserver-nginx",
        "webserver-redis",
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_valid_for_every_policy_and_commented(path: Path) -> None:
    scenario = load_scenario(path)
    assert scenario.name == path.stem
    assert path.read_text().startswith("#")
    for policy in POLICIES:
        scenario.replace({"policy.name": policy})
    longest_ns = scenario.policy_params("colo").checkpoint_delay_ns
    assert scenario.memory_model().draw(longest_ns, 0, 0.5).pages > 0


def properties(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    tables = {"": schema, **schema["$defs"]}
    return [
        (f"{name}.{key}", prop)
        for name, table in tables.items()
        for key, prop in table["properties"].items()
    ]


def test_every_property_of_the_schema_has_a_description_and_a_unit() -> None:
    found = properties(json_schema())
    assert len(found) > 100
    assert [key for key, prop in found if not prop.get("description")] == []
    assert [key for key, prop in found if not prop.get("unit")] == []


def test_the_schema_says_every_default_as_a_file_would() -> None:
    for key, prop in properties(json_schema()):
        if "pattern" in prop and "default" in prop and " (" in prop["unit"]:
            name = prop["unit"].partition(" (")[0]
            dimension = next(each for each in DIMENSIONS.values() if each.name == name)
            assert dimension.parse(prop["default"]) >= 0, key


@given(VALID)
def test_the_schema_accepts_what_we_accept(mapping: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.validate(mapping)
    validator.validate(Scenario.from_mapping(mapping).to_mapping())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_schema_refuses_what_we_refuse(path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    mapping = tomllib.loads(path.read_text())
    validator.validate(mapping)
    for wrong in ({"duration": 5}, {"duration": "5"}, {"durration": "5 s"}, {"seed": -1}):
        assert not validator.is_valid(mapping | wrong)


def sections(root: type[Section] = Section) -> list[type[Section]]:
    return [root, *(each for child in root.__subclasses__() for each in sections(child))]


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_names_end_in_the_unit_of_their_type(section: type[Section]) -> None:
    keys = [without_unit(name) for name in section.model_fields]
    assert len(set(keys)) == len(keys)
    for name, info in section.model_fields.items():
        annotations = (*info.metadata, *(m for a in get_args(info.annotation) for m in get_args(a)))
        quantities = [each for each in annotations if isinstance(each, Quantity)]
        assert [each.dimension for each in quantities] == [
            each for each in (dimension_of(name),) if each is not None
        ], name


def test_tables_feed_the_protocol_core(build: Any) -> None:
    scenario = Scenario.from_mapping(build())
    assert checkpoint.Limits(**scenario.limits.model_dump()).ready_ns == 10 * SECOND
    names = {each.name for each in fields(manager.ManagerConfig)}
    assert names <= set(type(scenario.manager).model_fields)
    assert {Message("received"), Message("loaded")} == {d.commit for d in DIALECTS.values()}


def test_import_is_light() -> None:
    code = (
        "import sys, colosim.scenario\n"
        "heavy = {'pandas', 'matplotlib', 'simpy', 'scipy', 'pyarrow', 'joblib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_replacing_is_quick_enough_for_sweeps(build: Any) -> None:
    scenario = Scenario.from_mapping(build())
    start = time.process_time()
    for seed in range(100):
        scenario.replace({"seed": seed})
    assert time.process_time() - start < 5
