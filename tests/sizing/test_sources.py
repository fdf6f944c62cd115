"""What each source says: live runs, logs of a genuine pair, captures."""

import math
import re
from pathlib import Path

import pytest

from backends.qemu.dirty_rate import DirtyPages, Measured
from backends.qemu.qemu_log import phases
from colosim.cli import main
from colosim.sizing import SizingError
from colosim.sizing.basis import BELOW, BEYOND, COSTS, PAGES, START_SKEW
from colosim.sizing.sources import basis_of, sorted_sources
from tests.calibration import as_live
from tests.sizing.test_causes import http_pair
from tests.small import SCENARIO, write

LOGS = Path(__file__).parents[1] / "live" / "qemu_logs"


def silent(text):
    pass


def basis(place, *sources, **more):
    return basis_of(sorted_sources(sources, **more), place, silent)


def test_one_live_run_is_enough_for_costs_and_pages(tmp_path):
    run = as_live.live(tmp_path / "r100", "remus", "100 ms")
    found = basis(tmp_path, run)
    assert found.curve is not None
    [point] = found.curve.points
    truth = 2000 * (1 - math.exp(-point.exposure_ns / 0.4e9))  # 5,000 touches/s of 2,000 pages
    assert sum(point.samples) / len(point.samples) == pytest.approx(truth, rel=0.05)
    assert {BELOW, BEYOND, "workload.service_time_ns", "divergence.unprompted_per_s"} <= {
        *found.unknowns
    }
    assert COSTS not in found.unknowns
    scenario = found.scenario(tmp_path)
    truth = as_live.BASE["cost"]
    assert scenario.cost.save_per_page_ns == pytest.approx(9_000, rel=0.6)
    assert scenario.cost.find_pages_ns == 8_000_000, truth
    assert scenario.workload.rate_per_s == 100


def test_how_late_the_second_guest_starts_is_known_of_runs_that_compared(tmp_path):
    late = {"execution": {"start_skew": "40 ms"}}
    remus = as_live.live(tmp_path / "remus", "remus", "100 ms")
    kvm = as_live.live(tmp_path / "kvm", "remus", "100 ms", about={"accelerator": "kvm"})
    colo = as_live.live(tmp_path / "colo", "colo", "400 ms", **late)
    assert START_SKEW in basis(tmp_path, remus).unknowns
    assert START_SKEW not in basis(tmp_path, kvm).unknowns
    found = basis(tmp_path, colo)
    assert START_SKEW not in found.unknowns
    assert found.scenario(tmp_path).execution.start_skew_ns == pytest.approx(40e6, rel=0.15)
    given = basis(tmp_path, rates=["4 MiB/s"], changes={"execution.start_skew": "1 ms"})
    assert START_SKEW not in given.unknowns


@pytest.mark.parametrize("version", ["7.2", "11.1"])
def test_logs_of_a_genuine_pair_say_costs_pages_and_differences(tmp_path, version):
    logs = [LOGS / f"{version}-{side}.log" for side in ("primary", "secondary")]
    found = basis(tmp_path, *logs, link="10 Gbit/s,20 us", changes={"workload.rate": "50 /s"})
    assert found.curve is not None
    assert found.facts["cost.save_per_page"].kind == "measured"
    assert any("few" in note for note in found.notes)
    pages = [pages for point in found.curve.points for pages in point.samples]
    # the secondary logs what it restored: the same pages, and the few that it had written itself
    restored = [row["flush_pages"] or 0 for row in phases(*logs)][1:]
    assert sorted(pages) == pytest.approx(sorted(restored), rel=0.1)
    scenario = found.scenario(tmp_path)
    assert scenario.link.bandwidth_bps == 10_000_000_000
    assert "workload.rate_per_s" not in found.unknowns
    assert 0 < scenario.divergence.unprompted_per_s < 20


def test_the_memory_that_is_given_does_not_come_too_late_for_a_log(tmp_path):
    """Without it the guest counts as 256 MiB; what it dirties may be more."""
    text = (LOGS / "7.2-primary.log").read_text()

    def times_thousand(found):
        return f"{found[1]}{int(found[2]) * 1000}"

    log = tmp_path / "large.log"
    log.write_text(re.sub(r"(dirty_pages )(\d+)", times_thousand, text))
    with pytest.raises(SizingError, match="are more than the guest's 65,536; give its --memory"):
        basis(tmp_path, log)
    found = basis(tmp_path, log, memory="16 GiB")
    most = max(pages for point in found.curve.points for pages in point.samples)
    assert most > 65_536
    assert found.curve.table()["dirty_pages"].max() > 65_536
    again = basis(tmp_path, log, changes={"memory.guest_memory": "16 GiB"})
    assert again.curve == found.curve


def test_what_qemu_measured_of_a_running_vm_has_its_memory_and_its_doubt(tmp_path):
    points = [DirtyPages(10**9, 5_000.0, 4_500.0, 6_000.0), DirtyPages(2 * 10**9, 7e3, 6e3, 8e3)]
    measured = Measured(128 * 2**20, "11.1.3", "page-sampling", points)
    found = basis(tmp_path, measured=measured)
    assert found.facts["memory.guest_memory"].kind == "measured"
    assert found.scenario(tmp_path).memory.guest_memory_bytes == 128 * 2**20
    assert found.unknowns[PAGES].high == pytest.approx(1.2)
    with pytest.raises(SizingError, match="more than the guest's 4,096"):
        basis(tmp_path, measured=measured, memory="16 MiB")


def test_what_is_set_by_hand_is_not_called_assumed(tmp_path):
    changes = {"link.bandwidth": "10 Gbit/s", "memory.guest_memory": "1 GiB"}
    found = basis(tmp_path, rates=["4 MiB/s"], changes=changes)
    assert found.facts["link.bandwidth"].kind == "given"
    assert "link" not in found.facts
    assert found.curve.guest_pages == 2**30 // 4096
    own = {"memory.kind": "uniform", "memory.working_set_pages": 10, "memory.touches": "9 /s"}
    found = basis(tmp_path, rates=["4 MiB/s"], changes=own)
    assert found.scenario(tmp_path).memory.kind == "uniform"
    with pytest.raises(SizingError, match=r"memory\.guest_memory 'much': "):
        basis(tmp_path, rates=["4 MiB/s"], changes={"memory.guest_memory": "much"})


def test_captures_beside_closed_load_leave_what_the_scenario_says(tmp_path):
    text = SCENARIO.replace('load = "open"', 'load = "closed"').replace(
        'rate = "200 /s"', 'clients = 4\nthink_time = "50 ms"'
    )
    file = write(tmp_path / "closed.toml", text)
    paths = http_pair(tmp_path, {5: (b"99", b"item 405!")})
    found = basis(tmp_path, file, *paths)
    assert found.facts["workload"].kind == "given"
    assert any("it is closed or a job" in note for note in found.notes)


def test_an_imported_pair_is_read_from_its_logs(tmp_path):
    logs = [LOGS / f"7.2-{side}.log" for side in ("primary", "secondary")]
    with pytest.raises(SystemExit):
        main(["import-qemu-log", *map(str, logs), "--out", str(tmp_path / "pair")])
    imported, read = basis(tmp_path, tmp_path / "pair"), basis(tmp_path, *logs)
    assert imported.curve == read.curve
    assert imported.mapping == read.mapping


def test_what_a_scenario_does_not_say_is_assumed(tmp_path):
    text = SCENARIO.replace("[divergence]\nprobability = 0.01\n", "")
    fault = '[[fault]]\ntarget = "primary"\nkind = "crash"\nscope = "vm"\nat = "1 s"\n'
    file = write(tmp_path / "small.toml", text + fault)
    found = basis(tmp_path, file)
    assert {*found.unknowns} == {COSTS, START_SKEW, "divergence.unprompted_per_s"}
    assert found.facts["link"].kind == "assumed"
    assert found.facts["workload"].kind == "given"
    assert not found.scenario(tmp_path).to_mapping().get("fault")
    assert "faults are left out" in found.notes[0]


def test_a_log_of_two_checkpoints_is_too_short(tmp_path):
    with pytest.raises(SizingError, match="1 whole checkpoints"):
        basis(tmp_path, LOGS / "10.0-primary.log")


def test_captures_say_load_answers_and_why_the_guests_differ(tmp_path):
    differ = {i: (b"99", b"item 4%02d!" % i) for i in (5, 9, 20, 31)}
    paths = http_pair(tmp_path, differ)
    found = basis(tmp_path, *paths, rates=["4 MiB/s"], memory="512 MiB")
    scenario = found.scenario(tmp_path)
    assert scenario.divergence.probability == pytest.approx(4 / 40)
    low, high = (
        found.unknowns["divergence.probability"].low,
        found.unknowns["divergence.probability"].high,
    )
    assert low == pytest.approx(0.0279, abs=1e-3)  # Clopper and Pearson of 4 in 40
    assert high == pytest.approx(0.2366, abs=1e-3)
    assert scenario.workload.rate_per_s == pytest.approx(40 / 3.92, rel=0.05)
    assert scenario.memory.guest_memory_bytes == 512 * 2**20
    fact = found.facts["memory.guest_memory"]
    assert (fact.value, fact.kind) == ("512 MiB", "given")
    assert [each.name for each in found.causes] == ["http-date (Date)"]
    assert found.unknowns["workload.service_time_ns"].high == pytest.approx(10e6, rel=0.01)


@pytest.mark.parametrize(
    ("sources", "more", "why"),
    [
        ([], {}, "how many pages"),
        (["nothing.toml"], {}, "is not there"),
        (["a.txt"], {}, "cannot be told by its name"),
        (["."], {}, "is no run's directory"),
        (["damaged"], {}, "is no run's directory"),
        (["simulated"], {}, "was not run live; give a scenario"),
        (["a.pcap"], {}, "give two captures"),
        ([], {"rates": ["1 MiB/s"], "table": Path("x.csv")}, "given twice"),
        ([], {"rates": ["1 GiB/s"], "memory": "512 MiB"}, "more than the guest's"),
        ([], {"rates": ["1 MiB/s", "2 MiB/s"]}, "two rates over the same time"),
        ([], {"rates": ["1 MiB/s"], "memory": "1"}, "needs a unit"),
    ],
)
def test_what_cannot_be_sized_from_is_said_in_a_line(tmp_path, monkeypatch, sources, more, why):
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "a.pcap"):
        (tmp_path / name).write_bytes(b"")
    for name, text in (("damaged", "null"), ("simulated", '{"kind": "run", "world": "simulated"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(text)
    with pytest.raises(SizingError, match=why) as error:
        basis(tmp_path, *sources, **more)
    assert "\n" not in str(error.value)
