"""Every source of published results: all numbers are there, and what is predicted was not used."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from colosim import load_scenario
from experiments.published import closed, command, table
from experiments.published.__main__ import STUDIES
from experiments.published.gannet2017 import study as gannet2017
from experiments.published.nilicon2020 import study as nilicon2020
from experiments.published.plover2018 import fits
from experiments.published.plover2018 import study as plover2018
from experiments.published.rows import Row, frame, remarked
from experiments.published.rrc2022 import study as rrc2022
from experiments.published.straub2026 import study as straub2026
from experiments.published.study import Study, write
from experiments.published.su2020 import study as su2020

PACKAGE = Path(table.__file__).parent
TINY = plover2018.Effort(60, 4, 2)
MODEL = ["model", "interval", "low", "high", "closed_form"]
#: remus2008 has tests of its own; plover2018 is run with less effort than ``quick``
OTHERS = {study.name: study for study in STUDIES if study.name not in ("remus2008", "plover2018")}


def rows_of(name: str, published: pd.DataFrame, out: Path) -> list[Row]:
    if name == "plover2018":
        return list(plover2018.run(published, out, TINY, jobs=1).rows)
    return list(OTHERS[name].solve(published, out, True, 1).rows)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[Row]]:
    """Rows of every source but remus2008, by name."""
    return {
        study.name: rows_of(
            study.name, table.load(study.source), tmp_path_factory.mktemp(study.name)
        )
        for study in STUDIES
        if study.name != "remus2008"
    }


# -- the table -------------------------------------------------------------------------------------


def test_there_is_a_study_for_every_source():
    assert sorted(study.source for study in STUDIES) == sorted(table.sources())
    packages = {path.parent.name for path in PACKAGE.glob("*/__main__.py")}
    assert {study.name for study in STUDIES} == packages
    with pytest.raises(LookupError, match="nothing published by Nobody"):
        table.load("Nobody")


def test_lines_are_those_of_the_file():
    text = (Path(command.__file__).parents[2] / "colosim/data/published-results.csv").read_text()
    lines = text.splitlines()
    loaded = [table.load(study.source) for study in STUDIES]
    assert sorted(line for each in loaded for line in each["line"]) == list(range(2, 311))
    for each in loaded:
        for row in each.to_dict("records"):
            assert row["workload"] in lines[row["line"] - 1]
            assert row["note"] in lines[row["line"] - 1]


def test_what_two_numbers_of_uncertainty_mean():
    """A range that holds the value; or, the same for many values, how well they could be read."""
    remus = table.load("Cully et al., Remus, NSDI 2008")
    pause = table.select(remus, "page toucher", "pause")
    assert (pause["low"] <= pause["value"]).all()
    assert (pause["value"] <= pause["high"]).all()
    assert list(pause.loc[1])[:3] == [0.59, 0.54, 0.73]
    plover = table.load(plover2018.STUDY.source)
    latency = table.one(plover, workload="Redis", system="colo", metric="latency_relative")
    assert (latency["low"], latency["high"]) == (186, 246)
    throughput = table.select(plover, "Redis", "throughput", "none")
    assert list(throughput.loc[8])[:3] == pytest.approx([470822, 460612.7, 481031.3])


# -- all of it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", [each for each in STUDIES if each.name != "remus2008"], ids=str)
def test_every_published_number_is_in_the_result(study: Study, found: Mapping[str, list[Row]]):
    published = table.load(study.source)
    rows = found[study.name]
    assert {row.line for row in rows} - {0} == set(published["line"])
    by_line = published.set_index("line")
    for row in rows:
        assert row.note or row.kind == "measured"
        assert (row.n > 0) == (row.kind == "fitted")
        if row.line:
            assert row.published == by_line["value"][row.line]
            assert row.published_low <= row.published <= row.published_high
            # nothing that is simulated or worked out failed without a word
            assert math.isnan(row.model) == (row.kind == "measured") or row.kind == "unmodelled"
        if row.kind == "unmodelled":
            assert "ot modelled" in row.note or "ot predicted" in row.note


def test_anomalies_stay_visible(found: Mapping[str, list[Row]]):
    """Whatever the shipped table notes of a value goes with it, wherever it is shown."""
    for study in STUDIES:
        published = table.load(study.source)
        rows = [
            Row(part="", quantity="", condition="", kind="measured", unit="", line=line)
            for line in published["line"]
        ]
        remarks = [row.remark for row in remarked(rows, published)]
        assert remarks == published["note"].tolist()
    assert len([1 for row in found["plover2018"] if row.kind == "predicted" and row.line]) > 120


@pytest.fixture(scope="module")
def without_held_out(
    found: Mapping[str, list[Row]], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, list[Row]]:
    """The same after every number that no row was fitted to, or took over, was made larger."""
    changed = {}
    for study in STUDIES:
        if study.name == "remus2008":
            continue
        published = table.load(study.source)
        status = command.status(found[study.name])
        held_out = published["line"].map(status).isin(["predicted", "unmodelled"])
        if study.name == "nilicon2020":  # each pause is an input of overheads, and of other pauses
            held_out &= published["metric"] != "pause"
        published.loc[held_out, ["value", "low", "high"]] *= 1.001
        out = tmp_path_factory.mktemp("held-out")
        changed[study.name] = rows_of(study.name, published, out)
    return changed


@pytest.mark.parametrize("study", [each for each in STUDIES if each.name != "remus2008"], ids=str)
def test_nothing_that_is_predicted_was_used(
    study: Study, found: Mapping[str, list[Row]], without_held_out: Mapping[str, list[Row]]
):
    before, after = frame(found[study.name]), frame(without_held_out[study.name])
    pd.testing.assert_frame_equal(after[MODEL], before[MODEL], check_exact=True)
    status = command.status(found[study.name])
    if "predicted" in status.values():
        assert not after["published"].equals(before["published"])


def test_figures_and_tables_are_written(found: Mapping[str, list[Row]], tmp_path: Path):
    for name, study in OTHERS.items():
        out = tmp_path / name
        out.mkdir()
        result = study.run(out, quick=True, jobs=1)._replace(rows=found[name])
        files = write(result, out)
        assert [file.name for file in files] == ["table.csv", "figure.svg", "figure.png"]
        assert len(pd.read_csv(files[0])) == len(found[name])
        assert "published" in files[1].read_text()


# -- closed forms ----------------------------------------------------------------------------------


def test_clients_that_wait_on_one_server():
    """N = 1: 1 / (Z + S); N = 2 on one server by hand; many: the server is always busy."""
    assert closed.throughput_per_s(1, 0.03, 0.01, 1) == pytest.approx(25)
    ratio = 0.01 / 0.03
    busy = (2 * ratio + 2 * ratio**2) / (1 + 2 * ratio + 2 * ratio**2)
    assert closed.throughput_per_s(2, 0.03, 0.01, 1) == pytest.approx(busy / 0.01)
    assert closed.throughput_per_s(1.5, 0.03, 0.01, 1) == pytest.approx((25 + busy / 0.01) / 2)
    assert closed.throughput_per_s(200, 0.03, 0.01, 4) == pytest.approx(400)
    # no queue with as many servers as clients
    assert closed.throughput_per_s(4, 0.03, 0.01, 4) == pytest.approx(100)


def test_a_fit_has_the_throughputs_that_it_was_given():
    service = closed.fit((8, 165.9), (64, 235.3), 4)
    assert service.throughput_per_s(8) == pytest.approx(165.9)
    assert service.throughput_per_s(64) == pytest.approx(235.3)
    with pytest.raises(ValueError, match="no clients that wait"):
        closed.fit((8, 300.0), (64, 235.3), 4)


def test_epochs_until_the_next_answer():
    rng = np.random.default_rng(1)
    think = rng.exponential(0.07, 200_000)
    drawn = np.ceil((0.02 + think) / 0.1).mean()
    assert closed.epochs_of_cycle(0.1, 0.02, 0.07) == pytest.approx(drawn, rel=0.01)
    assert closed.epochs_of_cycle(0.1, 0.02, 0.0) == 1


# -- single fits -----------------------------------------------------------------------------------


def test_the_lines_of_plover_leave_out_what_is_called_anomalous():
    published = table.load(plover2018.STUDY.source)
    used = fits.clean(published)
    assert sorted(used["workload"].unique()) == ["Node.js", "Redis", "SSDB", "Tomcat", "lighttpd"]
    assert set(used["x"]) == {25}
    odd = published["note"].str.contains("anomaly")
    assert set(published["workload"][odd]) == {"MediaTomb", "DjCMS", "PgSql"}


def test_what_a_stream_gets_through_is_not_asked_of_percentiles():
    found = straub2026.times(table.load(straub2026.STUDY.source))
    models = straub2026.fit(found)
    upload = found[straub2026.UPLOAD, straub2026.PLAIN]
    times_ms = straub2026.transfers_ms(upload)
    assert times_ms.mean() == pytest.approx(24.3)
    assert np.quantile(times_ms, 0.99) == pytest.approx(78.05, rel=0.02)
    assert models["four times one"].faster == 4
    assert models["up to the link"].of(24.3) == pytest.approx(14.12)
    for model in models.values():
        assert model.of(4.5) == pytest.approx(6.48)


def test_the_pause_after_one_round_lies_between_the_extremes():
    fitted = su2020.fit(2.389, 1.184)
    assert su2020.ahead(fitted, 2.389).pause_s == pytest.approx(1.184)
    linear = su2020.ahead(su2020.Writes(su2020.LINEAR, 1.0), 2.389).pause_s
    saturated = su2020.ahead(su2020.Writes(su2020.SATURATED, 100.0), 2.389).pause_s
    assert linear < 1.184 < saturated
    assert saturated == pytest.approx(2.389)


def test_rates_of_divergence_are_those_of_100_ms():
    for (name, of), rate in rrc2022.fit(table.load(rrc2022.STUDY.source)).items():
        share = {"Memcached": 0.943, "Aerospike": 0.845}[name]
        assert rrc2022.READINGS[of](rate * 0.1) == pytest.approx(share)
    assert rrc2022.hazard_per_s(0.943, rrc2022.WHOLE) == pytest.approx(-math.log(0.943) * 10)


def test_a_first_write_costs_what_one_program_lost():
    found = nilicon2020.programs(table.load(nilicon2020.STUDY.source))
    program = found[nilicon2020.FITTED]
    for ms in nilicon2020.INTERVALS_MS:
        write_ms = nilicon2020.first_write_ms(program, ms)
        assert nilicon2020.overhead(program, ms, write_ms) == pytest.approx(12.54)
    others = nilicon2020.pause_by_others(found, "SSDB")
    assert others == pytest.approx(2.4 + (3.0 - 2.4) * (1107 - 212) / (462 - 212))


def test_ftp_loses_what_its_checkpoints_take():
    stopped_ms = gannet2017.ftp_stopped_ms(table.load(gannet2017.STUDY.source))
    assert stopped_ms == pytest.approx(0.54 * 605)


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.glob("*/*.toml")), ids=lambda path: path.parent.name
)
def test_scenarios_stand_on_their_own(path: Path):
    load_scenario(path)


def test_an_unwritable_directory_is_one_line(tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    for module in ("experiments.published", "experiments.published.su2020"):
        run = subprocess.run(
            [sys.executable, "-m", module, "--out", str(file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert run.returncode == 2
        assert run.stderr.count("\n") == 1
        assert str(file) in run.stderr


def test_a_summary_counts_a_number_that_was_used_anywhere_as_fitted():
    def row(line: int, kind: str, model: float) -> Row:
        return Row(
            part="",
            quantity="",
            condition="",
            unit="ms",
            kind=kind,  # type: ignore[arg-type]
            line=line,
            published=10.0,
            published_low=9.0,
            published_high=11.0,
            model=model,
        )

    rows = [
        row(2, "predicted", 30),
        row(2, "fitted", 10),
        row(3, "predicted", 12),
        row(4, "predicted", 10.5),
        row(5, "unmodelled", math.nan),
        row(0, "predicted", 99),
    ]
    told = command.summary(rows)
    assert told["numbers"] == "4"
    assert (told["fitted"], told["predicted"], told["unmodelled"]) == ("1", "2", "1")
    assert told["median error"] == f"{0.125:.0%}"
    assert told["within"] == "1 of 2"
    assert re.fullmatch(r"20\s?%", told["largest"])
