"""`python -m benchmarks`: one page of what ran, what was skipped and what became of the goals."""

from __future__ import annotations

import json

import pytest

from benchmarks import __main__ as whole
from benchmarks import growth, requests
from benchmarks.rounds import Missing, Ratio, Row

RATES = (11e6, 10e6, 12e6)


def test_one_page(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(growth, "VM_REQUESTS", 20)
    parts = ["events", "transfers", "growth"]
    whole.main(["--tiny", "--only", *parts, "--out", str(tmp_path), "--peers", "/nowhere/python"])
    result = json.loads((tmp_path / "benchmarks.json").read_text())
    page = (tmp_path / "benchmarks.md").read_text()
    assert [*result["parts"]] == parts
    assert result["machine"] in page
    assert "cimba skipped: /nowhere/python: No such file or directory" in page
    assert "SimGrid skipped: there is no compiler" in page
    goals = {goal[0]: goal for goal in result["goals"][1:]}
    assert goals["bare events: times SimPy"][3] in ("yes", "no")
    assert goals["checkpoints: times SimGrid's transfers"][3].startswith("not measured: there is")
    assert not any(goal.startswith("requests a second") for goal in goals)  # not asked for
    assert (tmp_path / "growth.svg").exists()
    assert "bare events: times SimPy" in capsys.readouterr().out


def test_a_part_that_is_missing_is_skipped_with_the_reason(monkeypatch):
    def measure(size, python):
        raise Missing("there is no such thing")

    part = whole.Part("Growth", measure, whole.PARTS["growth"].lines)
    monkeypatch.setitem(whole.PARTS, "growth", part)
    said: list[str] = []
    results, skipped = whole.run(["growth"], whole.TINY, "python", said.append)
    assert (results, skipped) == ({}, {"growth": "there is no such thing"})
    lines = whole.judged(results, skipped)
    assert len(lines) > 5
    assert {line[3] for line in lines[1:]} == {"not measured: there is no such thing"}
    assert said[0].startswith("growth: there is no such thing")


@pytest.mark.parametrize(("times", "met"), [(2.5, "yes"), (1.5, "no"), (float("nan"), "too noisy")])
def test_goals_are_judged(times, met):
    peer = requests.bare("cimba")
    cases = [
        Row(f"epoch, {policy}", "requests", RATES, {peer: Ratio(3, times, times, times)})
        for policy in requests.POLICIES
    ]
    lines = whole.judged({"requests": {"rows": cases, "skipped": {}}}, {})
    assert lines[1] == (
        "requests a second, epoch, colo",
        "11,000,000",
        "at least 10,000,000",
        "yes",
    )
    assert [line[3] for line in lines[2:]] == [met] * len(requests.POLICIES)


@pytest.mark.parametrize(
    ("exponent", "met"),
    [
        ((1.0, 0.9, 1.2), "yes"),
        ((1.2, 0.9, 1.5), "not clear"),
        ((1.5, 1.4, 1.6), "no"),
        ((float("nan"),) * 3, "too noisy"),
    ],
)
def test_growth_is_judged_by_its_interval(exponent, met):
    row = {"sizes": [1, 2, 4], "s_exponent": exponent, "peak_bytes_exponent": exponent}
    lines = whole.judged({"growth": {"rows": [row] * len(growth.AXES)}}, {})
    assert [line[3] for line in lines[1:]] == [met] * 2 * len(growth.AXES)


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        whole.main(["--only", "nothing"])
    assert "invalid choice" in capsys.readouterr().err
