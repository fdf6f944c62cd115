"""`colosim.availability` and its command: takeovers are simulated, and a year follows from them."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import colosim
from colosim import api, cli
from colosim.dependability.takeovers import Seen, flags, see, takeovers
from colosim.dependability.years import plant_of, resync_of
from colosim.model import rare
from colosim.model.availability import Fault
from colosim.protocol.policies import POLICIES
from colosim.scenario import Scenario, ScenarioError
from tests.small import SCENARIO, write

SHORT = SCENARIO.replace('"2 s"', '"1 s"') + "[availability]\nfault_runs = 2\n"


def scenario(**changes: object) -> Scenario:
    import tomllib

    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return Scenario.from_mapping(tomllib.loads(SHORT)).replace(dotted)


@pytest.fixture(scope="module")
def result():
    return colosim.availability(scenario(), cycles=4000, jobs=1)


# -- takeovers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["remus", "colo"])
def test_a_takeover_is_as_long_as_the_managers_settings_make_it(policy):
    soon, late = (
        see(scenario(manager__heartbeat_timeout=timeout), policy, Fault.PRIMARY_CRASH, 0)
        for timeout in ("300 ms", "900 ms")
    )
    assert soon.recovered
    assert late.recovered
    assert late.detecting_ns - soon.detecting_ns == pytest.approx(600e6, abs=120e6)
    # what follows the detection: vote, fence, promotion, not the silence
    assert abs((late.gap_ns - late.detecting_ns) - (soon.gap_ns - soon.detecting_ns)) < 50e6


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_is_taken_over_and_nothing_is_lost(fault):
    seen = see(scenario(), "colo", fault, 0)
    assert seen.recovered
    assert (seen.lost_responses, seen.violations) == (0, ())
    assert 0 <= seen.detecting_ns <= seen.gap_ns < 1.5e9
    assert "fault-did-not-happen" not in seen.flags


def test_a_fence_that_fails_is_no_takeover():
    seen = [see(scenario(manager__fence_fails=True), "remus", Fault.PRIMARY_CRASH, 0)]
    assert not seen[0].recovered
    assert takeovers(seen, "remus")[Fault.PRIMARY_CRASH].fails == 1.0
    assert list(flags(seen)) == ["remus: after primary host crash nobody took over in 1 of 1 runs"]


def test_runs_become_laws_of_what_was_seen():
    def run(gap_ms: int, recovered: bool = True) -> Seen:
        made = Seen("colo", Fault.LINK_CUT, 0, 1, gap_ms * 10**6, 10**8, recovered, 3, 1.0, (), ())
        return replace(made, lost_responses=3 if recovered else 10**6)

    made = takeovers([run(300), run(500), run(9000, False)], "colo")
    cut = made[Fault.LINK_CUT]
    assert cut.taking_over.samples_s == pytest.approx((0.2, 0.4))
    assert cut.detecting.mean_s == pytest.approx(0.1)
    assert cut.fails == pytest.approx(1 / 3)
    assert cut.lost_responses == 3
    assert made[Fault.PRIMARY_CRASH].detecting.mean_s == 0


# -- the time without a copy ---------------------------------------------------------------------


def test_a_resync_of_an_idle_guest_is_its_memory_over_the_link():
    idle = scenario(memory__touches="0 /s", memory__guest_memory="256 MiB")
    page = 4096 + 8
    bits = 8 * (65536 * page + 105_007)
    assert resync_of(idle, 0.0).mean_s == pytest.approx(
        1 + bits / 1e9 + 8 * 105_007 / 1e9, rel=1e-6
    )


def test_a_resync_of_a_busy_guest_sends_dirty_pages_again():
    idle, busy = (resync_of(scenario(memory__touches=t), 0.0).mean_s for t in ("0 /s", "900 /s"))
    assert idle < busy < 2 * idle


def test_a_given_resync_is_taken():
    given = scenario(availability__resync={"mean": "7 s", "law": "weibull", "spread": 0.5})
    law = resync_of(given, 0.0)
    assert (law.mean_s, law.shape, law.spread) == (7.0, "weibull", 0.5)


# -- a year --------------------------------------------------------------------------------------


def test_both_methods_tell_of_each_policy(result):
    metrics = {"downtime_s_per_year", "outages_per_year", "lost_state_s_per_year"}
    for _, rows in result.summary.groupby(["policy", "method"]):
        assert metrics <= set(rows["metric"])
        # summed in another order than its own mean, a bound may be off by a last digit
        assert (rows["low"] <= rows["value"] * (1 + 1e-9)).all()
        assert (rows["value"] <= rows["high"] * (1 + 1e-9)).all()


def test_protection_turns_restarts_into_short_gaps(result):
    none, colo = (result.value(each, "guest_losses_per_year") for each in ("none", "colo"))
    assert none == pytest.approx(0.7, rel=0.02)  # host crash, host hang, QEMU crash
    assert colo < none / 20
    # a protected pair has two hosts to fail, and clients see most of it
    assert result.value("colo", "outages_per_year") > result.value("none", "outages_per_year")
    assert result.value("colo", "downtime_s_per_year") < result.value("none", "downtime_s_per_year")


def test_measured_takeovers_are_taken_instead_of_simulated_ones():
    measured = {"mean": "3 s", "law": "deterministic"}
    found = colosim.availability(
        scenario(availability__takeover=measured), ["remus"], cycles=500, jobs=1
    )
    cut = found.causes.set_index("cause").loc["link cut"]
    fence_fails_s = 0.001 * (15 * 60 + 60)
    assert cut["outage_s"] == pytest.approx(3 + fence_fails_s, rel=1e-3)
    assert found.takeovers.empty
    effective = float(found.cycles["effective_cycles"].iloc[0])
    assert found.flags == [
        f"remus: monte carlo of {effective:,.0f} effective cycles; "
        "its intervals may be too narrow; give more --cycles"
    ]


def test_lost_state_is_half_of_what_was_not_saved(result):
    lost = result.value("none", "lost_state_s_per_year")
    assert lost == pytest.approx(1800 * result.value("none", "guest_losses_per_year"))


def test_tables_are_tidy_and_add_up(result):
    assert len(result.takeovers) == 2 * 7 * 2  # policies, faults with a rate, runs
    assert set(result.takeovers["fault"]) == {*map(str, Fault)} - {"false failover"}
    for policy, rows in result.causes.groupby("policy"):
        down = result.value(policy, "downtime_s_per_year")
        assert rows["downtime_s_per_year"].sum() == pytest.approx(down)
    assert result.states.groupby("policy")["share"].sum().tolist() == pytest.approx([1.0] * 3)
    assert result.violations == []
    assert (result.cycles["effective_cycles"] > 300).all()
    assert result.flags == []


def test_it_shows_itself_in_a_notebook(result):
    html = result._repr_html_()
    assert "downtime" in html
    assert result.fingerprint in html
    assert result.title in html


def test_the_same_seed_gives_the_same_year(result):
    again, other = (
        colosim.availability(scenario(), ["remus"], seed, cycles=4000, jobs=1) for seed in (1, 2)
    )
    rows = result.summary[result.summary["policy"] == "remus"].reset_index(drop=True)
    pd.testing.assert_frame_equal(again.summary, rows)
    assert other.fingerprint != again.fingerprint


def test_every_policy_has_a_year():
    names = list(POLICIES)
    found = colosim.availability(scenario(availability__fault_runs=1), names, cycles=500, jobs=1)
    assert set(found.summary["policy"]) == set(names)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {
                f"availability__{rate}": "0 /year"
                for rate in ("host_crashes", "host_hangs", "vm_crashes")  # but link_cuts
            },
            "nothing ever fails under policy none; give one of host_crashes",
        ),
        ({"workload": {"kind": "batch", "work": "500 ms"}, "warm_up": "0 s"}, "no clients"),
    ],
)
def test_what_has_no_year_is_refused(changes, says):
    with pytest.raises(ScenarioError, match=says):
        colosim.availability(scenario(**changes), ["none"], cycles=500)


# -- the command ---------------------------------------------------------------------------------


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "small.toml", SHORT.replace("fault_runs = 2", "fault_runs = 1"))

    def ended(*arguments):
        with pytest.raises(SystemExit) as status:
            cli.main(["availability", *map(str, arguments)])
        return (status.value.code, *capsys.readouterr())

    return ended


def test_the_command_writes_a_directory(run, tmp_path):
    status, out, err = run("small.toml", "--policies", "none, colo", "--cycles", 500, "--out", "y")
    assert (status, err) == (0, "")
    assert "downtime (s/year), markov" in out
    assert "written to y" in out
    manifest = json.loads((tmp_path / "y" / "manifest.json").read_text())
    tables = {f"{name}.csv" for name in ("summary", "causes", "states", "takeovers", "cycles")}
    assert {*tables, "downtime.svg", "downtime.png"} == set(manifest["files"])
    assert manifest["fingerprint"] in out
    assert set(pd.read_csv(tmp_path / "y" / "summary.csv")["policy"]) == {"none", "colo"}


def test_ctrl_c_keeps_whole_runs_and_what_follows_from_them():
    tasks = len([each for each in Fault if each is not Fault.FALSE_FAILOVER]) + 2

    def stop(done, total):
        assert total == 2 * tasks
        if done == tasks + 3:
            raise KeyboardInterrupt

    with pytest.raises(
        api.Interrupted, match="kept 1 of 2 runs of each fault, 2 of 2 poli"
    ) as told:
        colosim.availability(scenario(), ["none", "colo"], cycles=100, jobs=1, progress=stop)
    result = told.value.result
    assert result.interrupted
    assert {each.run for each in result.seen} == {0}
    assert set(result.summary["policy"]) == {"none", "colo"}
    assert "1 of 2 runs of each fault" in result.title


def test_ctrl_c_in_the_years_keeps_the_policies_that_were_ready(monkeypatch):
    def second_is_cut(process, cycles, seed, **more):
        calls.append(0)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return simulate(process, cycles, seed, **more)

    simulate, calls = rare.simulate, list[int]()
    monkeypatch.setattr(rare, "simulate", second_is_cut)
    with pytest.raises(api.Interrupted, match="2 of 2 runs of each fault, 1 of 2 poli") as told:
        colosim.availability(scenario(), ["none", "colo"], cycles=100, jobs=1)
    assert list(told.value.result.policies) == ["none"]
    with pytest.raises(api.Interrupted, match="no policy was finished") as told:
        colosim.availability(scenario(), ["colo"], cycles=100, jobs=1)
    assert told.value.result is None


def test_json_is_one_object(run):
    status, out, err = run("small.toml", "--policies", "none", "--cycles", 500, "--json")
    body = json.loads(out)
    assert (status, err) == (0, "")
    assert {row["method"] for row in body["summary"]} == {"markov", "monte carlo"}
    assert body["causes"][0]["share"] > 0
    assert body["out"] is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.toml"], "No such file"),
        (["small.toml", "--policies", "nune"], "did you mean none?"),
        (["small.toml", "--cycles", "3"], "--cycles"),
        (["small.toml", "--out", "small.toml"], "is a file"),
    ],
)
def test_an_error_is_one_clear_line(run, arguments, says):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_the_example_is_a_scenario():
    path = Path(__file__).parents[1] / "experiments" / "availability" / "web.toml"
    assert colosim.load_scenario(path).availability.false_failovers_per_s > 0


@pytest.mark.parametrize(
    ("manager", "fences", "fails"),
    [
        ({}, True, 0.001),
        ({"fencing": False}, False, 0.0),
        ({"fencing": False, "arbiter": "lease"}, True, 0.0),  # without a lease nobody speaks
    ],
)
def test_fencing_is_said_once_in_the_managers_table(manager, fences, fails):
    mapping = {**tomllib.loads(SCENARIO), "manager": manager}
    plant = plant_of(Scenario.from_mapping(mapping), 100.0)
    assert (plant.fencing, plant.fencing_fails) == (fences, fails)
