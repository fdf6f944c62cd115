"""Every problem is one line: FILE: key: what is wrong; what would be right."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from colosim.scenario import Scenario, ScenarioError, load_scenario
from colosim.starting.template import scenario_text

SERVICE = {"kind": "service", "load": "open", "rate": "500 /s", "service_time": "1 ms"}
CLOSED = {
    "kind": "service",
    "load": "closed",
    "clients": 5,
    "think_time": "1 ms",
    "service_time": "1 ms",
}
BATCH = {"kind": "batch", "work": "5 s"}
UNIFORM = {"kind": "uniform", "working_set_pages": 2_000, "touches": "5000 /s"}
CRASH = {"target": "primary", "scope": "host", "kind": "crash", "at": "3 s"}
CUT = {"target": "link", "kind": "cut", "at": "3 s"}
AWAY = {"target": "arbiter", "kind": "cut", "at": "3 s"}
NOTHING: Any = ...


def lines_of(mapping: Any) -> list[str]:
    with pytest.raises(ScenarioError) as raised:
        Scenario.from_mapping(mapping, "F.toml")
    return str(raised.value).splitlines()


# (changes, key, what is wrong, what would be right)
WRONG: list[tuple[dict[str, Any], str, str, str]] = [
    # unknown keys
    ({"durration": "3 s"}, "durration", "unknown key", "did you mean duration?"),
    ({"workload.service_tme": "3 s"}, "workload.service_tme", "unknown", "mean service_time?"),
    ({"workload.service_time_ns": 3}, "workload.service_time_ns", "unknown", "mean service_time?"),
    ({"policy.reemus": {}}, "policy.reemus", "unknown key", "did you mean remus?"),
    ({"policy.remus.intervall": "1 s"}, "policy.remus.intervall", "unknown", "mean interval?"),
    ({"cost.sabe_fixed": "1 ms"}, "cost.sabe_fixed", "unknown key", "did you mean save_fixed?"),
    ({"link.xyzzy": 1}, "link.xyzzy", "unknown key", "known here: bandwidth, delay"),
    ({"fault": [CRASH | {"stepp": 1}]}, "fault.0.stepp", "unknown key", "did you mean step?"),
    ({"workload.clients": 3}, "workload.clients", "not a key of", 'belongs to kind = "service"'),
    ({"workload": BATCH | {"load": "closed"}}, "workload.load", 'kind = "batch"', "belongs to"),
    ({"memory.exponent": 1.0}, "memory.exponent", "not a key of", 'belongs to kind = "zipf"'),
    ({"": 1}, "''", "unknown key", "known here"),
    ({"a\nb": 1}, r"'a\nb'", "unknown key", "known here"),
    # missing
    ({"name": NOTHING}, "name", "missing", "give it: name"),
    ({"duration": NOTHING}, "duration", "missing", 'for example "50 ms"'),
    ({"workload": NOTHING}, "workload", "missing", "give it: a table [workload]"),
    ({"workload": {}}, "workload.kind", "missing", "use one of service, batch"),
    ({"workload.load": NOTHING}, "workload.load", "missing", "use one of open, closed"),
    ({"workload.rate": NOTHING}, "workload.rate", "missing", 'for example "300 /s"'),
    ({"memory.kind": NOTHING}, "memory.kind", "missing", "use one of measured, uniform"),
    ({"fault": [{}]}, "fault.0.target", "missing", "what fails"),
    # units
    ({"duration": 5}, "duration", "needs a unit", 'for example "50 ms"'),
    ({"duration": "5"}, "duration", "needs a unit", 'for example "50 ms"'),
    ({"duration": "5 sec"}, "duration", "unknown unit 'sec'", "(ns, us, ms, s, min, h)"),
    ({"duration": True}, "duration", "not a time", 'for example "50 ms"'),
    ({"link.bandwidth": 10**9}, "link.bandwidth", "needs a unit", '"1 Gbit/s"'),
    ({"link.bandwidth": "10 MB"}, "link.bandwidth", "unknown unit 'MB'", '"1 Gbit/s"'),
    ({"workload.rate": 300}, "workload.rate", "needs a unit", '"300 /s"'),
    ({"workload.response": 1500}, "workload.response", "needs a unit", '"16 KiB"'),
    ({"cost.stop": 5}, "cost.stop", "needs a unit", '"50 ms"'),
    ({"policy.remus.interval": 50}, "policy.remus.interval", "needs a unit", '"50 ms"'),
    # numbers
    ({"duration": "-5 s"}, "duration", "must not be negative", "write a number"),
    ({"duration": "0 s"}, "duration", "too small", "more than 0"),
    ({"duration": "1e300 h"}, "duration", "too large", "at most"),
    ({"duration": "nan s"}, "duration", "not a finite number", "write a number"),
    ({"duration": math.nan}, "duration", "nan", "write a number"),
    ({"workload.rate": "0 /s"}, "workload.rate", "too small", "more than 0 /s"),
    ({"workload.rate": "-1 /s"}, "workload.rate", "must not be negative", "write a number"),
    ({"workload.vcpus": 0}, "workload.vcpus", "0 is too small", "at least 1"),
    ({"workload.vcpus": 1.5}, "workload.vcpus", "1.5 is not a whole number", "for example 10"),
    ({"workload.vcpus": "1"}, "workload.vcpus", "not a whole number", "without quotes"),
    ({"workload.vcpus": True}, "workload.vcpus", "not a whole number", "for example 10"),
    ({"workload.vcpus": 10**5000}, "workload.vcpus", "too large", "at most"),
    ({"seed": -1}, "seed", "too small", "at least 0"),
    ({"seed": 2**63}, "seed", "too large", "at most 9223372036854775807"),
    ({"replications": 0}, "replications", "too small", "at least 1"),
    ({"divergence.probability": math.nan}, "divergence.probability", "nan", "write a number"),
    ({"divergence.probability": math.inf}, "divergence.probability", "inf", "write a number"),
    ({"divergence.probability": 1.5}, "divergence.probability", "too large", "at most 1"),
    ({"divergence.probability": -0.5}, "divergence.probability", "too small", "at least 0"),
    ({"divergence.probability": "a"}, "divergence.probability", "not a number", "for example 0.5"),
    ({"memory.secondary_overlap": 2}, "memory.secondary_overlap", "too large", "at most 1"),
    ({"execution.jitter": -1.0}, "execution.jitter", "too small", "at least 0"),
    ({"policy.remus.interval": "0 s"}, "policy.remus.interval", "too small", "at least 1 ns"),
    ({"cost.page": "0 B"}, "cost.page", "too small", "at least 1 B"),
    # types and words
    ({"name": 5}, "name", "5 is not text", "in quotes"),
    ({"name": "a/b"}, "name", "'a/b' will not do", "letters"),
    ({"name": ""}, "name", "'' will not do", "letters"),
    ({"name": "x" * 100}, "name", "too long", "at most 80"),
    ({"workload": 5}, "workload", "5 is not a table", "write it as one"),
    ({"divergence": [1]}, "divergence", "[1] is not a table", "write it as one"),
    ({"policy": "colo"}, "policy", "'colo' is not a table", "write it as one"),
    ({"fault": CRASH}, "fault", "not a list of tables", "[[fault]]"),
    ({"fault": [5]}, "fault.0", "5 is not a table", "write it as one"),
    ({"fault": [CRASH] * 1001}, "fault", "too many", "at most 1000"),
    ({"execution.executes": "yes"}, "execution.executes", "neither true nor", "true or false"),
    ({"policy.name": "coloo"}, "policy.name", "'coloo' is unknown", "did you mean 'colo'?"),
    (
        {"policy.name": "foo"},
        "policy.name",
        "'foo' is unknown",
        "adaptive, colo, hybrid, micro",
    ),
    ({"workload.load": "opn"}, "workload.load", "'opn' is unknown", "did you mean 'open'?"),
    ({"workload.kind": 1}, "workload.kind", "is unknown", "use one of service, batch"),
    ({"memory.curve": "reddis"}, "memory.curve", "'reddis' is unknown", "did you mean 'redis'?"),
    ({"transfer": 3}, "transfer", "3 is unknown", "stop-and-send, copy-then-send, precopy"),
    ({"stream.channels": 0}, "stream.channels", "0 is too small", "at least 1"),
    ({"stream.compression": "zip"}, "stream.compression", "unknown", "use one of none, delta"),
    ({"policy.adaptive.busy_percent": 101}, "policy.adaptive.busy_percent", "large", "most 100"),
    ({"dialect": "rfc2015"}, "dialect", "unknown", "did you mean 'rfc2014'?"),
    ({"quirks": "qemu"}, "quirks", "unknown", "did you mean 'qemu-7.2'?"),
    ({"commit": "sent"}, "commit", "unknown", "use one of received, loaded"),
    # impossible combinations
    (
        {"policy.adaptive.minimum_interval": "2 s"},
        "policy.adaptive.minimum_interval",
        "more than maximum_interval",
        "give less",
    ),
    *(
        ({"policy.name": "microcheckpoint", "transfer": how}, "transfer", f"with {how}", "leave")
        for how in ("stop-and-send", "precopy")
    ),
    ({"transfer": "precopy", "dialect": "rfc2014"}, "transfer", "one blob", "another transfer"),
    ({"transfer": "precopy", "quirks": "qemu-7.2"}, "transfer", "nothing ahead", '"none"'),
    (
        {"stream.channels": 2, "dialect": "rfc2014"},
        "stream.channels",
        "several channels with rfc2014: a state",
        "give 1",
    ),
    (
        {"policy.name": "hybrid", "compare.mode": "colo-compare"},
        "compare.mode",
        "hybrid with colo-compare",
        "strict or qemu",
    ),
    ({"warm_up": "10 s"}, "warm_up", "leaves nothing to measure", "less than duration"),
    ({"workload": BATCH, "memory": UNIFORM, "warm_up": "1 s"}, "warm_up", "batch", "0 s"),
    (
        {"workload": BATCH | {"work": "11 s"}, "memory": UNIFORM},
        "workload.work",
        "cannot end",
        "at most duration",
    ),
    ({"dialect": "rfc2014", "commit": "received"}, "commit", "rfc2014", "leave commit out"),
    ({"dialect": "rfc2014", "quirks": "qemu-7.2"}, "quirks", "QEMU 7.2", 'dialect = "upstream"'),
    ({"execution.executes": False}, "execution.executes", "compares", "give true or another"),
    (
        {"manager.heartbeat_timeout": "100 ms"},
        "manager.heartbeat_timeout",
        "suspected",
        "more than heartbeat_interval",
    ),
    ({"manager.vote_delay": "1 s"}, "manager.vote_delay", "in time", "less than vote_timeout"),
    ({"cost.fence": "5 s"}, "cost.fence", "in time", "less than manager.fence_timeout"),
    ({"manager.arbiter": "quorum"}, "manager.arbiter", "'quorum' is unknown", "witness, lease"),
    (
        {"manager.arbiter": "lease", "manager.lease_term": "501 ms"},
        "manager.lease_term",
        "before it is renewed",
        "more than lease_renewal and vote_delay",
    ),
    (
        {"manager.arbiter": "messages", "dialect": "rfc2014"},
        "manager.arbiter",
        "nobody asks",
        'give "witness"',
    ),
    (
        {"manager.fencing": False, "manager.fence_failure": 0.5},
        "manager.fencing",
        "cannot fail",
        "give true",
    ),
    ({"manager.failback_after": "1 s"}, "manager.failback_after", "nobody", "reprotect = true"),
    ({"clocks.primary_rate": 0.0}, "clocks.primary_rate", "0", "0.1"),
    # memory
    (
        {"memory.curve": NOTHING},
        "memory.file",
        "missing",
        "give curve, or file, workload and setting",
    ),
    ({"memory.setting": "s"}, "memory.setting", "beside curve", "leave out one"),
    (
        {"memory": {"kind": "measured", "file": "no.csv", "workload": "w", "setting": "s"}},
        "memory.file",
        "no.csv: No such file",
        "give a CSV file",
    ),
    ({"memory.guest_memory": "1 MiB"}, "memory.guest_memory", "at most 256", "give more"),
    ({"memory.guest_memory": "0 B"}, "memory.guest_memory", "guest_pages is 0", "give more"),
    ({"cost.page": "16 KiB"}, "cost.page", "measured in pages of 4 KiB", "give 4 KiB"),
    (
        {"memory": UNIFORM | {"guest_memory": "1 MiB"}},
        "memory.working_set_pages",
        "does not fit",
        "fewer pages or more guest_memory",
    ),
    (
        {"workload.rate": "600 /s"},
        "memory.pages_per_request",
        "measured at 499.985 /s and the workload has 600 /s",
        "or that load",
    ),
    (
        {"workload": CLOSED},
        "memory.pages_per_request",
        "measured at 499.985 /s and the workload has a closed load",
        "or that load",
    ),
    (
        {"workload": BATCH},
        "memory.pages_per_request",
        "measured at 499.985 /s and the workload has 0 /s",
        "or that load",
    ),
    ({"memory.curve": "nginx"}, "memory.pages_per_request", "199.999 /s", "or that load"),
    # faults
    ({"fault": [CRASH | {"kind": "cut"}]}, "fault.0.kind", "a link is cut", "change kind or"),
    ({"fault": [CRASH | {"kind": "slow"}]}, "fault.0.kind", "a link is cut", "change kind or"),
    ({"fault": [CUT | {"kind": "slow"}]}, "fault.0.kind", "how slow?", "bandwidth, delay or"),
    ({"fault": [CUT | {"delay": "1 s"}]}, "fault.0.kind", "of a slow link", 'kind = "slow"'),
    ({"fault": [CUT | {"kind": "hang"}]}, "fault.0.kind", "a link is cut", "change kind or"),
    ({"fault": [CUT | {"scope": "vm"}]}, "fault.0.scope", "a link has none", "leave it out"),
    ({"fault": [CUT, CRASH | {"scope": "vn"}]}, "fault.1.scope", "'vn' is unknown", "vm, node"),
    (
        {"fault": [{"target": "primary", "kind": "crash", "at": "1 s"}]},
        "fault.0.scope",
        "missing",
        "vm, node, host",
    ),
    ({"fault": [AWAY | {"kind": "slow"}]}, "fault.0.kind", "an arbiter is cut", "change kind or"),
    ({"fault": [AWAY | {"scope": "vm"}]}, "fault.0.scope", "nor has an arbiter", "leave it out"),
    ({"fault": [CRASH | {"side": "primary"}]}, "fault.0.side", "whose way", 'target = "arbiter"'),
    ({"fault": [CUT | {"side": "secondary"}]}, "fault.0.side", "whose step", "give step"),
    (
        {"fault": [{"target": "link", "kind": "cut", "side": "secondary", "step": "save"}]},
        "fault.0.step",
        "save is no step there",
        "use one of",
    ),
    (
        {"fault": [AWAY], "manager.arbiter": "none"},
        "fault.0.target",
        "no arbiter",
        "another target",
    ),
    ({"fault": [CRASH | {"duration": "1 s"}]}, "fault.0.duration", "for ever", "leave it out"),
    ({"fault": [CRASH | {"step": "save"}]}, "fault.0.at", "both at and step", "one of them"),
    (
        {"fault": [{"target": "link", "kind": "cut"}]},
        "fault.0.at",
        "neither at nor step",
        "one of them",
    ),
    ({"fault": [CRASH | {"occurrence": 2}]}, "fault.0.occurrence", "only once", "instead of at"),
    ({"fault": [CRASH | {"at": "10 s"}]}, "fault.0.at", "after the end", "less than duration"),
    (
        {"fault": [{"target": "secondary", "scope": "vm", "kind": "crash", "step": "save"}]},
        "fault.0.step",
        "save is no step there",
        "use one of wait-request",
    ),
    (
        {"fault": [{"target": "primary", "scope": "vm", "kind": "crash", "step": "copy"}]},
        "fault.0.step",
        "copy is no step there",
        "save",
    ),
    (
        {"fault": [{"target": "primary", "scope": "vm", "kind": "crash", "step": "saev"}]},
        "fault.0.step",
        "'saev' is unknown",
        "did you mean 'save'?",
    ),
    (
        {"policy.name": "none", "fault": [CRASH | {"target": "secondary"}]},
        "fault.0.target",
        "without protection",
        "give another policy",
    ),
    ({"policy.name": "none", "fault": [CUT]}, "fault.0.target", "without protection", "another"),
    (
        {
            "policy.name": "none",
            "fault": [{"target": "primary", "scope": "vm", "kind": "crash", "step": "save"}],
        },
        "fault.0.step",
        "no checkpoints",
        "at instead of step",
    ),
]


@pytest.mark.parametrize(("changes", "key", "wrong", "right"), WRONG)
def test_one_line_says_what_is_wrong_and_what_would_be_right(
    build: Any, changes: dict[str, Any], key: str, wrong: str, right: str
) -> None:
    lines = [line for line in lines_of(build(changes)) if line.startswith(f"F.toml: {key}: ")]
    assert len(lines) == 1
    text = lines[0].removeprefix(f"F.toml: {key}: ")
    assert wrong in text
    assert right in text


@pytest.mark.parametrize(
    "changes",
    [
        {"workload.rate": "504 /s"},  # within 1 % of the measured load
        {"workload.rate": "600 /s", "memory.pages_per_request": 0.5},
        {"workload": BATCH, "memory.curve": "idle"},
        {"policy.name": "remus", "execution.executes": False},
        {"dialect": "rfc2014", "commit": "loaded"},
        {"quirks": "qemu-7.2"},
        {"quirks": "qemu-7.2", "transfer": "copy-then-send"},
        {"policy.name": "microcheckpoint"},
        {"policy.name": "microcheckpoint", "transfer": "copy-then-send"},
        {"policy.name": "hybrid", "transfer": "precopy", "stream.channels": 4},
        {"policy.name": "colo", "compare.mode": "colo-compare"},
        {"transfer": "precopy", "fault": [{"target": "link", "kind": "cut", "step": "precopy"}]},
        {"policy.name": "none", "fault": [CRASH]},
        {"fault": [{"target": "link", "kind": "cut", "step": "wait-loaded", "occurrence": 3}]},
        {
            "transfer": "copy-then-send",
            "fault": [{"target": "primary", "scope": "vm", "kind": "hang", "step": "copy"}],
        },
    ],
)
def test_neighbours_of_the_impossible_are_possible(build: Any, changes: dict[str, Any]) -> None:
    Scenario.from_mapping(build(changes))


def test_all_problems_are_told_at_once(build: Any) -> None:
    changes = {"durration": "1 s", "seed": -1, "workload.rate": 5, "link.dely": "1 ms"}
    keys = {line.split(": ")[1] for line in lines_of(build(changes))}
    assert keys == {"durration", "seed", "workload.rate", "link.dely"}


def test_problems_without_end_are_cut_short(build: Any) -> None:
    lines = lines_of(build({f"x{i}": 1 for i in range(5_000)}))
    assert len(lines) == 21
    assert lines[-1] == "F.toml: and 4980 more problems"


# -- files -----------------------------------------------------------------------------------


def one_line(path: Path, within_s: float = 2.0) -> str:
    start = time.process_time()
    with pytest.raises(ScenarioError) as raised:
        load_scenario(path)
    assert time.process_time() - start < within_s
    (line,) = str(raised.value).splitlines()
    return line


def test_no_file(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    assert one_line(path) == f"{path}: No such file or directory; give a file that can be read"


def test_directory(tmp_path: Path) -> None:
    assert one_line(tmp_path) == f"{tmp_path}: is a directory; give a scenario file"


@pytest.mark.parametrize("content", ["", "  \n\n"])
def test_empty(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.toml"
    path.write_text(content)
    assert one_line(path) == f"{path}: is empty; give a scenario file"


def test_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.toml"
    with path.open("wb") as file:
        file.truncate(100 * 2**20)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("read"))
    assert one_line(path) == f"{path}: larger than 64 KiB; give a scenario file"


def test_binary_junk(tmp_path: Path) -> None:
    path = tmp_path / "junk.toml"
    path.write_bytes(bytes(range(256)) * 20)
    assert one_line(path) == f"{path}: is not text in UTF-8; give a scenario file"
    path.write_bytes(bytes(20))
    assert one_line(path).startswith(f"{path}: is not TOML: ")


def test_a_mark_of_byte_order_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "bom.toml"
    path.write_text(scenario_text("web", path.name), encoding="utf-8-sig")
    assert load_scenario(path).name == "bom"


def test_bad_toml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('name = "x"\nduration = 10 s\n')
    assert "line 2" in one_line(path)


def test_pipes_and_devices(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        assert one_line(path) == f"{path}: is not a regular file; give a scenario file"


def test_a_name_that_would_break_the_line(tmp_path: Path) -> None:
    assert r"\n" in one_line(tmp_path / "a\nb.toml")


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[\n" * 30_000,
        "a." * 30_000 + "a = 1",
        "\n".join(f"k{i}." + "a." * 990 + "a = 1" for i in range(30)),
        "a = " + "9" * 1_990,
        "a = " + "1" * 5_000,
        "\n".join(f"k{i} = 1" for i in range(7_000)),
        "[[fault]]\n" * 6_000,
    ],
    ids=["nested", "dots", "many-dots", "big-number", "long-line", "many-keys", "many-tables"],
)
def test_hostile_toml_is_refused_quickly(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hostile.toml"
    path.write_text(text)
    start = time.process_time()
    with pytest.raises(ScenarioError):
        load_scenario(path)
    assert time.process_time() - start < 10


# -- anything at all -------------------------------------------------------------------------

WORDS = [
    *("name", "duration", "workload", "memory", "kind", "load", "policy", "remus", "interval"),
    *("fault", "at", "step", "cost", "link", "curve", "file", "setting", "rate", "seed", "limits"),
    *("manager", "execution", "divergence", "probability"),
]
KEYS = st.one_of(st.sampled_from(WORDS), st.text(max_size=8))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.binary(max_size=5),
    st.dates(),
    st.sampled_from(["50 ms", "service", "open", "batch", "measured", "redis", "500 /s", "crash"]),
    st.just(10**4000),
)
JUNK = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=5),
        st.dictionaries(st.one_of(KEYS, st.integers(), st.none()), inner, max_size=2),
    ),
    max_leaves=20,
)
PLACES = [
    *("name", "duration", "seed", "dialect", "transfer", "commit", "workload", "workload.kind"),
    *("workload.load", "workload.rate", "workload.vcpus", "memory", "memory.kind", "memory.file"),
    *("memory.curve", "memory.pages_per_request", "policy", "policy.name", "policy.remus"),
    *("policy.colo.checkpoint_delay", "execution.jitter", "execution.executes", "divergence"),
    *("cost", "cost.page", "link.bandwidth", "manager.fence_fails", "limits.ready", "fault"),
]


def check(build_it: Any) -> None:
    """Either a scenario, or errors that are whole lines beginning with the file's name."""
    try:
        build_it()
    except ScenarioError as error:
        lines = str(error).split("\n")
        assert 1 <= len(lines) <= 21
        for line in lines:
            assert line.startswith("F.toml: ")
            assert line.isprintable()
            assert len(line) < 1_000


@given(JUNK)
def test_junk_never_raises_anything_else(junk: Any) -> None:
    check(lambda: Scenario.from_mapping(junk, "F.toml"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(PLACES), JUNK, min_size=1, max_size=3))
def test_junk_in_any_place_never_raises_anything_else(build: Any, changes: dict[str, Any]) -> None:
    mapping = build()
    for place, junk in changes.items():
        *tables, key = place.split(".")
        table: Any = mapping
        for each in tables:
            table = table.setdefault(each, {}) if isinstance(table, dict) else {}
        if isinstance(table, dict):
            table[key] = junk
    check(lambda: Scenario.from_mapping(mapping, "F.toml"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.one_of(st.sampled_from(PLACES), KEYS), JUNK, max_size=3))
def test_replacing_with_junk_never_raises_anything_else(
    build: Any, changes: dict[str, Any]
) -> None:
    scenario = Scenario.from_mapping(build())
    check(lambda: scenario.replace(changes, "F.toml"))


TOKENS = [
    *("[", "]", "[[fault]]", "[workload]", "=", '"', "'", '"""', "\n", ".", ",", "{", "}", "#"),
    *("name", "duration", '"50 ms"', "kind", "nan", "-inf", "1e999", "2020-01-01", "\\u", "0x"),
]
TOML = st.lists(st.one_of(st.sampled_from(TOKENS), st.text(max_size=4)), max_size=30).map(
    lambda parts: "".join(parts).encode(errors="surrogatepass")
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=300), TOML))
def test_any_bytes_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("F.toml").write_bytes(content)
    check(lambda: load_scenario("F.toml"))
