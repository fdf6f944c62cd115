"""What is known goes in, and must come out: simulated runs, calibrated on."""

from __future__ import annotations

import json
import math

import pytest

import colosim
from colosim.calibration import CalibrationError, readable
from colosim.calibration.costs import line
from tests.calibration.as_live import IDLE, live, scenario

INTERVALS = ("30 ms", "100 ms", "300 ms")
#: a correct estimate is further off than that once in 16,000
SIGMAS = 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    made = {each: live(root / each.replace(" ", ""), "remus", each) for each in INTERVALS}
    made["none"] = live(root / "none", "none", seed=7)
    made["held out"] = live(root / "held-out", "remus", "60 ms", seed=3)
    return made


@pytest.fixture(scope="module")
def calibration(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "calibrated.toml"
    return colosim.calibrate([runs[each] for each in (*INTERVALS, "none")], out)


def test_costs_come_out_as_they_went_in(calibration):
    found, truth = calibration.scenario.costs(), scenario("remus").costs()
    n = calibration.runs["checkpoints"].sum()
    for step in ("quiesce", "stop", "resume", "release"):
        known, spread = getattr(truth, f"{step}_ns"), getattr(truth, f"{step}_spread")
        error = abs(getattr(found, f"{step}_ns") / known - 1)
        assert error < SIGMAS * spread / math.sqrt(n) + 0.01, step
        assert getattr(found, f"{step}_spread") == pytest.approx(spread, rel=0.25), step
    for pages in (200, 1000):
        assert found.save_ns(pages) == pytest.approx(truth.save_ns(pages), rel=0.02)
        moved = [each.transfer_ns(pages) + each.load_ns(pages) for each in (found, truth)]
        # 78 checkpoints have many pages: a deviation of 1.3 ms, a standard error of 0.15 ms
        assert moved[0] == pytest.approx(moved[1], abs=SIGMAS * 0.15e6)
        assert found.state_bytes(pages) == pytest.approx(truth.state_bytes(pages), rel=0.005)
    assert found.save_spread == pytest.approx(truth.save_spread, rel=0.25)
    assert found.wake_up_ns == pytest.approx(truth.wake_up_ns, rel=0.2)
    assert found.device_state_bytes == truth.device_state_bytes


def test_the_memory_model_is_recognised(calibration):
    best = calibration.memory[calibration.memory["chosen"]].iloc[0]
    assert best["model"] == "uniform"
    assert best["score"] < 0.02
    found, truth = calibration.scenario.memory_model(), scenario("remus").memory_model()
    for exposure_ns in (20e6, 60e6, 500e6):
        assert found.mean(exposure_ns, 0) == pytest.approx(truth.mean(exposure_ns, 0), rel=0.03)


def test_latency_without_protection_comes_out(calibration):
    workload = calibration.scenario.workload
    assert workload.service_distribution == "exponential"
    assert workload.service_time_ns == pytest.approx(1e6, rel=0.15)
    total_ns = workload.service_time_ns * math.log(2) + 2 * workload.client_delay_ns
    assert total_ns == pytest.approx(1e6 * math.log(2) + 800e3, rel=0.1)


def test_what_was_held_out_is_predicted(calibration, runs, tmp_path):
    out = tmp_path / "validation"
    given = [runs["held out"], runs["100 ms"]]
    found = colosim.validate(calibration.path, given, out, replications=6, jobs=1)
    table = found.table.set_index(["status", "metric"])
    assert set(found.table["status"]) == {"predicted", "fitted"}
    predicted = table.loc["predicted"]
    assert len(predicted) == 6
    assert (predicted["error"].abs() < 0.1).all(), predicted
    assert predicted["inside"].sum() >= 5
    assert found.median_error < 0.05
    assert {path.name for path in out.iterdir()} == {
        *("validation.csv", "validation.svg", "validation.png")
    }
    assert len(readable(found)) == len(found.table)


def test_a_wrong_calibration_is_seen(calibration, runs):
    """The check can fail: the same scenario with a scan that takes 30 ms instead of 8."""
    lines = [
        'find_pages = "30 ms"' if each.startswith("find_pages = ") else each
        for each in calibration.path.read_text().splitlines()
    ]
    wrong = calibration.path.with_name("wrong.toml")
    wrong.write_text("\n".join(lines))
    found = colosim.validate(wrong, [runs["held out"]], replications=4, jobs=1).table
    assert set(found["status"]) == {"unknown"}  # nothing beside it says what it was made of
    pause = found.set_index("metric").loc["pause_mean_ms"]
    assert pause["error"] > 0.5
    assert not pause["inside"]


def test_an_idle_guest_needs_no_clients(tmp_path):
    given = [live(tmp_path / each.replace(" ", ""), "remus", each, **IDLE) for each in INTERVALS]
    calibration = colosim.calibrate(given, tmp_path / "idle.toml")
    found = colosim.validate(calibration.path, given[:1], replications=2, jobs=1).table
    assert set(found["metric"]) == {"pause_mean_ms", "dirty_pages_mean", "checkpoints_per_s"}
    assert set(found["status"]) == {"fitted"}


def test_every_number_says_where_it_came_from(calibration):
    text = calibration.path.read_text()
    for number in calibration.numbers.itertuples():
        key = number.key.removeprefix("cost.").removesuffix("_ns").removesuffix("_bytes")
        assert f"\n{key} = " in text
        assert f"# {number.how}" in text
    body = json.loads(calibration.path.with_suffix(".calibration.json").read_text())
    assert [each["run"] for each in body["runs"]] == list(calibration.runs["run"])


# -- what does not fit together ------------------------------------------------------------------


def refusal(given, tmp_path):
    with pytest.raises(CalibrationError) as caught:
        colosim.calibrate(given, tmp_path / "x.toml")
    (said,) = str(caught.value).splitlines()
    assert not (tmp_path / "x.toml").exists()
    return said


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"about": {"accelerator": "kvm"}}, "accelerator is kvm, but tcg in"),
        ({"about": {"processor": "8 x other"}}, "processor is 8 x other, but 2 x test in"),
        ({"about": {"qemu of primary": "11.1.3"}}, "qemu of primary is 11.1.3, but 7.2.22 in"),
        ({"guest": {"machine": "q35"}}, "guest.machine is q35, but pc in"),
        ({"client": {"kind": "redis"}}, "client.kind is redis, but none in"),
        ({"duration": "3 s"}, "too short: "),
        ({"transfer": "copy-then-send"}, "transfer differs: stop-and-send in"),
        ({"about": {"world": "simulated"}}, "was not run live; give directories of colosim live"),
        ({"about": {"interrupted": True}}, "was interrupted; run it again to its end"),
    ],
)
def test_runs_that_do_not_fit_are_refused(runs, tmp_path, changes, says):
    other = live(tmp_path / "other", "remus", "200 ms", **changes)
    assert says in refusal([runs["30 ms"], runs["none"], other], tmp_path)


def test_what_is_missing_is_said(runs, tmp_path):
    none, remus = runs["none"], runs["30 ms"]
    assert "no run was protected; give live runs with policy remus" in refusal([none], tmp_path)
    assert "give one with policy none too" in refusal([remus, runs["100 ms"]], tmp_path)
    assert "every run checkpoints every 30 ms" in refusal([remus, none], tmp_path)
    assert "holds no manifest.json" in refusal([tmp_path], tmp_path)
    fault = [{"target": "primary", "scope": "host", "kind": "crash", "at": "2 s"}]
    killed = live(tmp_path / "killed", "remus", "100 ms", fault=fault)
    assert "has faults; give runs where nothing fails" in refusal([remus, none, killed], tmp_path)
    bare = live(tmp_path / "bare", "none", **IDLE)
    assert "nothing was measured; leave it out" in refusal([remus, bare], tmp_path)
    untraced = live(tmp_path / "untraced", "remus", "100 ms", duration="3 s")
    (untraced / "phases.csv").unlink()
    assert "holds no phases.csv" in refusal([remus, none, untraced], tmp_path)


def test_a_prediction_of_another_machine_is_refused(calibration, tmp_path):
    other = live(tmp_path / "other", "remus", "100 ms", about={"processor": "8 x other"})
    with pytest.raises(CalibrationError, match="but 2 x test in the calibration"):
        colosim.validate(calibration.path, [other])


def test_a_prediction_of_another_kind_of_workload_is_refused(calibration, tmp_path):
    alone = tmp_path / "alone.toml"  # nothing beside it says what it was made of
    memory = '[memory]\nkind = "uniform"\nworking_set_pages = 9\ntouches = "9 /s"\n'
    alone.write_text(
        'name = "a"\nduration = "9 s"\n[workload]\nkind = "batch"\nwork = "9 s"\n' + memory
    )
    run = live(tmp_path / "run", "remus", "50 ms", duration="8 s")
    with pytest.raises(CalibrationError, match=r"is a service, and .* a batch; give a scenario"):
        colosim.validate(alone, [run])


# -- a line --------------------------------------------------------------------------------------


def test_a_line_is_right_on_average_and_few_slow_ones_do_not_turn_it(rng):
    pages = rng.integers(100, 1000, 400).astype(float)
    took_ns = 2e6 + 3e3 * pages
    exact = line(pages, took_ns)
    assert exact.fixed_ns == pytest.approx(2e6, rel=1e-3)
    assert exact.per_page_ns == pytest.approx(3e3, rel=1e-3)
    assert exact.spread < 1e-3
    took_ns[::40] *= 5
    slow = line(pages, took_ns)
    assert slow.at(pages).mean() == pytest.approx(took_ns.mean())
    assert slow.fixed_ns / slow.per_page_ns == pytest.approx(2e6 / 3e3, rel=0.02)
    assert slow.spread > 0.3


def test_a_line_never_falls_and_never_starts_below_nothing(rng):
    pages = rng.integers(100, 1000, 200).astype(float)
    assert line(pages, 5e6 - 1e3 * pages).per_page_ns == 0
    assert line(pages, 5e3 * (pages - 90)).fixed_ns == 0
    assert line(pages, 0 * pages) == (0, 0, 0)
