"""The experiment on COLO's cost: what it plans, and how it reads what runs left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import colosim
from backends.qemu.unsafe import unsafe
from experiments import colo
from experiments.colo import report

RUNS = colo.plan(kills=2, length_s=5, repetitions=1)
MS = 1_000_000


def left(
    run: colo.Run,
    out: Path,
    answers_ms: Sequence[float],
    events: Sequence[tuple[float, str]],
    received_bytes: int = 0,
) -> None:
    """What a run of which only these answers and events are known leaves."""
    place = out / run.folder
    place.mkdir(parents=True)
    counters = {"lost_responses": 1, "wrong_responses": 0, "doubled_responses": 2}
    counters["received_bytes"] = received_bytes
    manifest = {
        "interrupted": False,
        "scenario": run.scenario.to_mapping(),
        "finished": [{"counters": counters}],
    }
    (place / "manifest.json").write_text(json.dumps(manifest))
    rows = [{"at_ns": round(at_ms * MS), "what": what} for at_ms, what in events]
    pd.DataFrame(rows, columns=["at_ns", "what"]).to_csv(place / "events.csv", index=False)
    released_ns = (np.array(answers_ms) * MS).astype(np.int64)
    pd.DataFrame(
        {
            "released_ns": released_ns,
            "latency_ms": np.full(released_ns.size, 2000.0),
            "measured": released_ns > 1000 * MS,
        }
    ).to_parquet(place / "responses.parquet")
    pd.DataFrame(
        {"reason": ["mismatch", "timer", "timer"], "pause_ms": [10.0, 20.0, 30.0], "measured": True}
    ).to_parquet(place / "checkpoints.parquet")


def of(design: str, load: str, number: int = 0) -> colo.Run:
    [found] = [r for r in RUNS if (r.design, r.load, r.number) == (design, load, number)]
    return found


def test_every_design_meets_every_load_once_and_the_same_kills():
    kills = [(run.design, run.number) for run in RUNS if run.load == colo.KILL]
    designs = [design for design in colo.DESIGNS if design != colo.NATIVE]
    killed = [design for design in designs if design != "unprotected"]
    assert kills == [(design, number) for number in range(2) for design in killed]
    for load in ("GET", "download"):
        assert [run.design for run in RUNS if run.load == load] == designs
    moments = {run.number: run.scenario.fault[0].at_ns for run in RUNS if run.load == colo.KILL}
    assert len(set(moments.values())) == 2
    assert len({run.folder for run in RUNS}) == len(RUNS)


def test_a_genuine_pair_is_measured_where_a_qemu_is_named():
    with_native = colo.plan(kills=2, length_s=5, repetitions=1, native="/q")
    assert [run for run in with_native if run.design != colo.NATIVE] == RUNS
    natives = [run for run in with_native if run.design == colo.NATIVE]
    assert [run.load for run in natives] == [*colo.LOADS, colo.KILL]
    for run in natives:
        assert (run.scenario.guest.engine, run.scenario.guest.qemu) == ("native", "/q")
        findings = unsafe(run.scenario)
        assert [found for found in findings if found.status == "fail"] == []
        warned = {found.name for found in findings if found.status == "warn"}
        assert warned - {"limits"} == {"guest.engine"}


def test_nothing_unsafe_is_measured_but_what_is_asked_for():
    by_design = {run.design: run.scenario for run in RUNS if run.load == "GET"}
    asked = {"unprotected": {"policy.name"}, "colo qemu": {"compare.mode"}}
    asked["colo-compare"] = asked["colo qemu"]
    for design, scenario in by_design.items():
        names = {found.name for found in unsafe(scenario) if found.status in ("warn", "fail")}
        assert names - {"limits"} == asked.get(design, set()), design


def test_the_gap_at_a_kill_and_what_of_it_came_after_the_detection(tmp_path):
    run = of("colo strict", colo.KILL)
    # a longer silence before the kill is not its doing
    answers_ms = [1000, 3000, 3990, 4005, 4050, 4120, 4125]
    events = [(4000, "fault"), (4020, "exit"), (4060, "promoted"), (4065, "exit")]
    left(run, tmp_path, answers_ms, events)
    [row] = colo.kills(RUNS, tmp_path).to_dict("records")
    assert row["design"] == "colo strict"
    assert row["gap_ms"] == pytest.approx(70)
    assert row["detected_ms"] == pytest.approx(20)
    assert row["promoted_ms"] == pytest.approx(60)
    assert row["beyond_ms"] == pytest.approx(70)  # it began after that
    assert (row["lost"], row["wrong"], row["doubled"]) == (1, 0, 2)
    left(of("colo strict", colo.KILL, 1), tmp_path, [3990, 4290], events)
    [summary] = colo.kill_summary(colo.kills(RUNS, tmp_path)).to_dict("records")
    assert summary["kills"] == 2
    assert summary["gap_ms"] == pytest.approx((70 + 300) / 2)
    assert summary["gap_max_ms"] == pytest.approx(300)
    assert summary["beyond_ms"] == pytest.approx((70 + 270) / 2)
    assert summary["lost"] == 2


def test_costs_of_a_design(tmp_path):
    left(of("colo strict", "GET"), tmp_path, [900, 1100, 1200], [])
    left(of("colo strict", "download"), tmp_path, [1500, 3500], [], received_bytes=50_000_000)
    table = colo.costs(RUNS, tmp_path).set_index("design")
    row = table.loc["colo strict"]
    assert row["gets"] == 2  # the first was in the warm-up
    assert row["get_p50_ms"] == pytest.approx(2000)
    assert row["mb_per_s"] == pytest.approx(50 / 5)
    assert row["downloads"] == 2
    assert row["checkpoints_per_s"] == pytest.approx(3 / 4)
    assert row["reasons"] == row["download_reasons"] == "timer 2, mismatch 1"
    assert table["get_p50_ms"].isna()["unprotected"]


def test_the_share_of_the_unprotected_rate_is_of_turns(tmp_path):
    runs = colo.plan(kills=1, length_s=5, repetitions=2)
    by_key = {(run.design, run.load, run.number): run for run in runs}
    for number, received_bytes in enumerate((40_000_000, 80_000_000)):
        for design, times in (("unprotected", 4), ("colo strict", 1)):
            run = by_key[design, "download", number]
            left(run, tmp_path, [1500], [], received_bytes * times)
    row = colo.costs(runs, tmp_path).set_index("design").loc["colo strict"]
    assert (row["share"], row["share_low"], row["share_high"]) == pytest.approx((0.25,) * 3)
    assert (row["mb_per_s_low"], row["mb_per_s_high"]) == pytest.approx((8, 16))
    assert row["downloads"] == 2


def test_a_silence_that_contains_the_kill_is_its_own_however_long(tmp_path):
    events = [(4000, "fault"), (4020, "exit"), (4060, "promoted")]
    left(of("remus 200 ms", colo.KILL), tmp_path, [1500, 3850, 4080, 4700], events)
    [row] = colo.kills(RUNS, tmp_path).to_dict("records")
    assert row["gap_ms"] == pytest.approx(230)
    assert row["beyond_ms"] == pytest.approx(60)
    assert row["other_ms"] == pytest.approx(2350)


def test_the_page_and_the_figure(tmp_path):
    events = [(4000, "fault"), (4020, "exit"), (4060, "promoted")]
    left(of("colo strict", colo.KILL), tmp_path, [3990, 4080], events)
    left(of("colo strict", "GET"), tmp_path, [1100, 1200], [])
    costs, struck = colo.costs(RUNS, tmp_path), colo.kills(RUNS, tmp_path)
    page = report.markdown(costs, struck, {"day": "today"}, ["it: why"])
    assert "day today" in page
    assert (
        "| colo strict | 2000.00 (2000.00 to 2000.00) | 2000.0 (2000.0 to 2000.0) | 2 | –" in page
    )
    assert "| colo strict | 1 | 90 (90 to 90) | 20 | 60 | 60 (60 to 60) | – | 1 | 0 | 2 |" in page
    assert "* it: why" in page
    report.gaps_figure(struck).save(tmp_path / "gaps")
    assert (tmp_path / "gaps.svg").stat().st_size > 1000


def test_only_a_run_of_the_same_scenario_is_there(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(colosim, "live", lambda scenario, out: asked.append(out))
    left(of("colo strict", "GET"), tmp_path, [1100], [])
    assert colo.run(RUNS, tmp_path, lambda text: None) == []
    assert len(asked) == len(RUNS) - 1
    longer = colo.plan(kills=2, length_s=6, repetitions=1)
    asked.clear()
    colo.run([run for run in longer if run.load == "GET"], tmp_path, lambda text: None)
    assert len(asked) == len(colo.DESIGNS) - 1  # without the genuine pair
