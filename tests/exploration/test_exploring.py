"""Points as text, corrupt links, resuming, the command."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from colosim import explore
from colosim.exploration import running
from colosim.exploration.exploring import look, plan_of
from colosim.exploration.judging import Claim, claim_of, judge
from colosim.exploration.running import entered_after, run_batch, run_point
from colosim.exploration.space import (
    Point,
    PointError,
    all_steps,
    designs,
    fault,
    followed,
    kinds,
    singles,
    steps,
    swarm_point,
)
from colosim.protocol.manager import M, MVerb
from colosim.protocol.types import Role
from tests.exploration import defects

REMUS, COLO = (
    next(d for d in designs() if d.policy == policy and d.quirks == "none")
    for policy in ("remus", "colo")
)


def test_every_point_reads_back_as_itself():
    grid = [*singles(designs())][::5]
    swarm = [swarm_point(number, 3, designs()) for number in range(200)]
    for point in [*grid, *swarm]:
        assert Point.parse(str(point)) == point
        assert Point.parse(str(point)).scenario() == point.scenario()


def test_the_form_of_a_point():
    text = (
        "colo/upstream/stop-and-send/loaded seed=1: primary crash host @send#3; "
        "link cut @120ms for 40ms"
    )
    assert str(Point.parse(text)) == text
    first, second = Point.parse(text).faults
    assert (first.target, first.kind, first.step, first.occurrence) == (
        *("primary", "crash"),
        *("send", 3),
    )
    assert (second.at_ns, second.duration_ns) == (120_000_000, 40_000_000)


@pytest.mark.parametrize(
    "text",
    [
        "colo: primary crash host @send#3",
        "colo/upstream/stop-and-send/loaded seed=1: primary crash host @nowhere#3",
        "colo/upstream/stop-and-send/loaded seed=1: primary explode host @send#3",
        "colo/upstream/stop-and-send/loaded seed=one: no fault",
        "colo/upstream/stop-and-send/loaded seed=1: link cut @send for",
        "colo/upstream/stop-and-send/loaded seed=1",
        "",
    ],
)
def test_what_is_no_point_is_told_in_a_line(text):
    with pytest.raises(PointError) as raised:
        Point.parse(text)
    assert "\n" not in str(raised.value)
    assert "write" in str(raised.value)


def test_the_space_is_that_of_the_tables():
    """Nothing is listed by hand; this holds the size against what is known today."""
    assert len(kinds()) == 17
    design = REMUS
    without_fault = set(steps(design, Role.SECONDARY))
    assert without_fault < set(all_steps(design, Role.SECONDARY))
    assert [step for step, again in steps(design, Role.PRIMARY).items() if not again] == [
        "wait-ready",
        "start",
    ]
    assert {"exited", "failover", "takeover", "alone"}.isdisjoint(steps(design, Role.PRIMARY))
    assert len(designs()) == 54


def test_a_link_fails_at_the_steps_of_both_sides():
    """Every step x side x kind of fault: nothing of the product is left out."""
    struck = {
        (
            fault.target,
            fault.kind,
            fault.scope,
            fault.part,
            fault.sender,
            fault.steps_of,
            fault.step,
        )
        for point in singles((REMUS,))
        for fault in point.faults
    }
    whole = {
        (*(kind.get(name) for name in ("target", "kind", "scope", "part", "sender")), side, step)
        for kind in kinds()
        for side in (Role if kind["target"] == "link" else [Role(kind["target"])])
        for step in steps(REMUS, side)
    }
    assert struck == whole
    point = Point.parse(f"{REMUS} seed=1: link cut side=secondary @load#3")
    assert Point.parse(str(point)) == point
    run = run_point(point)
    assert run.record is not None
    [cut_ns] = [event["at_ns"] for event in run.record.events if event["what"] == "fault"]
    # the state is over, and the word that it was received is not
    table = run.record.checkpoints
    assert table["cut_ns"][2] < cut_ns
    assert table["committed_ns"][2] < 0


def test_a_switchover_is_a_promise_of_every_design_that_can_take_over():
    planned = [p for p in singles((REMUS,)) if p.settings]
    assert len(planned) == 6
    for point in planned:
        run = run_point(point)
        assert claim_of(point) is Claim.SURVIVES
        assert run.watcher.alone == ["secondary"]
        assert judge(run).violations == ()
    two = replace(planned[0], faults=(fault(target="link", kind="cut", at="60 ms"),))
    assert claim_of(two) is Claim.SAFE
    alone = replace(planned[0], design=replace(REMUS, arbiter="none"))
    assert claim_of(alone) is Claim.SAFE
    with defects.rows({(M.WATCH, MVerb.HAND_OVER): ((), M.WATCH)}):
        names = [name for name, _ in judge(run_point(planned[0])).violations]
    assert names == ["handed over"]


def test_of_pairs_a_sample_can_be_run():
    whole = plan_of("pairs", [str(REMUS)])
    plan = plan_of("pairs", [str(REMUS)], per_first=2)
    [first] = plan.points(40)
    _, every = run_batch(whole, 40)
    _, drawn = run_batch(plan, 40)
    assert len(every) > len(drawn) == 3
    assert drawn[0].point == every[0].point == first
    assert {verdict.point for verdict in drawn} < {verdict.point for verdict in every}
    assert run_batch(plan, 40)[1] == drawn
    assert {len(verdict.point.faults) for verdict in drawn[1:]} == {2}


def test_the_second_fault_strikes_where_the_first_led_to():
    first = Point.parse(f"{REMUS} seed=1: primary crash host @send#3")
    verdict, entered = entered_after(first)
    assert verdict.outcome == "secondary went on"
    pairs = list(followed(first, entered))
    struck = {pair.faults[1].step for pair in pairs if pair.faults[1].target == "secondary"}
    assert {"failover", "takeover", "alone"} <= struck
    ended = next(p for p in pairs if str(p.faults[1].step) == "takeover")
    assert judge(run_point(ended)).struck == 2


# -- corrupt links -----------------------------------------------------------------------------


@pytest.mark.parametrize("design", [REMUS, COLO], ids=str)
@pytest.mark.parametrize("sender", ["", " sender=secondary"])
def test_damaged_control_bytes_part_the_pair(design, sender):
    """Whichever byte it is: the codec, the table or a time limit notices, and one side goes on."""
    seen = set()
    for seed in range(1, 31):
        point = Point.parse(f"{design} seed={seed}: link corrupt framing{sender} @run#3")
        run = run_point(point)
        assert judge(run).violations == ()
        assert len(run.watcher.alone) == 1
        assert run.record is not None
        (hit,) = [e for e in run.record.events if e["what"] == "corrupted"]
        seen.add(hit["detail"].split()[1])
    assert len(seen) > 2, "always the same byte"


def test_a_damaged_state_is_counted_and_nobody_can_know():
    point = Point.parse(f"{REMUS} seed=1: link corrupt payload @send#3")
    run = run_point(point)
    assert judge(run).outcome == "unharmed"
    assert run.record is not None
    assert run.record.counters["undetected_corruptions"] == 1
    (loaded,) = [e for e in run.record.events if e["what"] == "undetected"]
    assert loaded["node"] == "secondary"
    whole = run_point(Point.parse(f"{REMUS} seed=1: link cut @send#3 for 1us"))
    assert whole.record is not None
    assert "undetected_corruptions" not in whole.record.counters


# -- what is found, kept and gone on with ------------------------------------------------------


def test_a_violation_is_small_readable_and_run_again_by_one_command(tmp_path):
    with defects.goes_on_without_asking_the_witness():
        found = explore("singles", str(REMUS), jobs=1, out=tmp_path / "out")
        assert found.found.violations > 0
        first = found.violations[0]
        text = "\n".join(first.lines())
        assert f"colosim explore --point '{first.minimal.point}'" in text
        assert "*** fault" in text
        again, _, trace = look(Point.parse(str(first.minimal.point)))
        assert again.violations == first.minimal.violations
        assert trace == first.trace
    body = json.loads((tmp_path / "out" / "report.json").read_text())
    assert body["violated"] == found.found.violations
    assert body["violations"][0]["command"] == first.command


def test_a_violation_without_any_fault_has_a_trace_too():
    with defects.releases_at_the_cut():
        verdict, _, trace = look(Point(REMUS))
    [(promise, wrong)] = verdict.violations
    assert promise == "invariants"
    assert wrong.startswith("OutputCommit")
    at_ms = int(wrong.rpartition(", ")[2].removesuffix(" ns)")) / 1e6
    assert f"{at_ms:10.3f} ms  primary" in trace
    assert "outputs released" in trace


def test_ctrl_c_says_whether_what_was_finished_is_kept(tmp_path, monkeypatch, colosim_main):
    def interrupted(*batch):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "run_batch", interrupted)
    line = ("explore", "--what", "swarm", "--runs", "40", "--jobs", "1")
    status, _, err = colosim_main(*line)
    assert status == 130
    assert "is lost but for what is shown; with --out DIR it is kept" in err
    status, _, err = colosim_main(*line, "--out", tmp_path / "kept")
    assert status == 130
    assert "is kept, and the same command goes on with it" in err


def test_an_exploration_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    whole = explore("swarm", runs=100, jobs=1, out=tmp_path / "whole")
    calls = 0
    original = running.run_batch

    def interrupted(*batch):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return original(*batch)

    monkeypatch.setattr(running, "run_batch", interrupted)
    part = explore("swarm", runs=100, jobs=1, out=tmp_path / "part")
    assert part.interrupted
    assert part.found.points == 40
    verdicts = tmp_path / "part" / "verdicts.csv"
    verdicts.write_text(verdicts.read_text() + "2,20,half a")  # of one that was killed
    rest = explore("swarm", runs=100, jobs=1, out=tmp_path / "part")
    assert calls == 6
    assert not rest.interrupted
    assert rest.table.equals(whole.table)


def test_a_scenario_of_your_own(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text(
        'name = "own"\nduration = "3 s"\n[workload]\nkind = "service"\nload = "closed"\n'
        'clients = 1\nthink_time = "100 ms"\nservice_time = "1 ms"\n'
        '[memory]\nkind = "uniform"\nworking_set_pages = 10\ntouches = "10 /s"\n'
        '[policy.remus]\ninterval = "200 ms"\n[limits]\nloaded = "500 ms"\n'
    )
    found = explore("swarm", "remus/upstream/stop-and-send/*", file, runs=5, jobs=1)
    assert found.found.points == 5
    assert f"base={file}" in str(found.plan.points(0)[0])


def test_what_cannot_be_explored_is_told_in_a_line():
    with pytest.raises(PointError, match="xen/\\*: no such design; write POLICY/"):
        plan_of("singles", ["xen/*"])
    with pytest.raises(PointError, match="triples: cannot be explored"):
        explore("triples")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "colosim.cli", "explore", *arguments],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def test_the_command(tmp_path):
    out = tmp_path / "out"
    ran = command("--what", "swarm", "--runs", "40", "--jobs", "1", "--out", str(out), "--json")
    assert ran.returncode == 0, ran.stderr
    body = json.loads(ran.stdout)
    assert body["points"] == sum(row["points"] for row in body["outcomes"]) == 40
    assert {"outcomes.csv", "report.json", "verdicts.csv"} <= {path.name for path in out.iterdir()}

    ran = command("--point", f"{REMUS} seed=1: primary crash host @send#3")
    assert ran.returncode == 0
    assert "*** fault host crash" in ran.stdout
    assert "outcome: secondary went on" in ran.stdout

    ran = command("--point", "remus")
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
