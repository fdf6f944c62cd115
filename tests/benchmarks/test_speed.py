"""The benchmark runs and says something well formed.  How fast it was is nobody's test."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import speed

TINY = speed.Counts(responses=60, checkpoints=6, repetitions=2)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return speed.measure(TINY)


def test_every_case_is_there_with_trace_off_and_on(result: dict[str, Any]) -> None:
    names = [(case.name, trace) for case in speed.cases(TINY) for trace in (False, True)]
    assert [(row["case"], row["trace"]) for row in result["rows"]] == names
    assert {row["policy"] for row in result["rows"]} == set(speed.POLICIES)


def test_rows_are_well_formed(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        assert row["count"] > 0
        assert row["simulated_events"] >= row["count"]
        for key in ("run_s", "bare_s"):
            assert len(row[key]) == TINY.repetitions
            assert all(math.isfinite(each) and each > 0 for each in row[key])
        for key in ("per_s", "ratio_to_bare"):
            assert 0 < row[key]["min"] <= row[key]["median"] <= row[key]["max"] < math.inf


def test_the_trace_changes_nothing_that_is_counted(result: dict[str, Any]) -> None:
    rows = iter(result["rows"])
    for off, on in zip(rows, rows, strict=True):
        assert [off[key] for key in ("case", "count")] == [on[key] for key in ("case", "count")]
        # who looks gets every step of a checkpoint
        assert off["simulated_events"] <= on["simulated_events"]


def test_the_counts_are_as_asked_for() -> None:
    for case in speed.cases(speed.Counts(responses=1_000, checkpoints=20)):
        asked = {"responses": 1_000, "checkpoints": 20}[case.counted]
        assert case.count(speed.run(case, trace=False)) == pytest.approx(asked, rel=0.15)


@pytest.mark.parametrize("events", [1, speed.PENDING, 1_000])
def test_the_bare_loop_does_the_events_it_was_asked_for(events: int) -> None:
    assert speed.bare_loop(events) == events


def test_memory_is_that_of_responses(result: dict[str, Any]) -> None:
    assert [(row["policy"], row["trace"]) for row in result["memory"]] == [
        (policy, trace) for policy in speed.POLICIES for trace in (False, True)
    ]
    # Five integers of eight bytes are kept of each, whatever else.
    assert all(row["bytes_per_response"] > 40 for row in result["memory"])


def test_command(
    result: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[speed.Counts] = []

    def measure(counts: speed.Counts, say: Any) -> dict[str, Any]:
        asked.append(counts)
        return result

    monkeypatch.setattr(speed, "measure", measure)
    file = tmp_path / "speed.json"
    counts = [f"--{name}={getattr(TINY, name)}" for name in speed.Counts.__slots__]
    speed.main(["--json", str(file), *counts])
    assert asked == [TINY]
    assert json.loads(file.read_text()) == result
    out = capsys.readouterr().out
    assert speed.markdown(result) in out
    for said in (result["date"], *result["versions"].values(), *speed.POLICIES):
        assert said in out


def test_markdown_table_is_rectangular(result: dict[str, Any]) -> None:
    rows = [line for line in speed.markdown(result).splitlines() if line.startswith("|")]
    assert len(rows) == len(speed.cases(TINY)) + 2
    assert len({row.count("|") for row in rows}) == 1


@pytest.mark.parametrize("bad", ["--responses=0", "--repetitions=-1", "--checkpoints=x"])
def test_impossible_counts_are_refused(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        speed.main([bad])
    assert "error" in capsys.readouterr().err
