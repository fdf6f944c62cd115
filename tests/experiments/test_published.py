"""Every source of published results: all numbers are there, and what is predicted was not used."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from rich.console import Console

from colosim import Scenario, load_scenario
from colosim.analysis.plots import Chart
from experiments.published import closed, command, figures, table
from experiments.published.__main__ import STUDIES
from experiments.published.gannet2017 import study as gannet2017
from experiments.published.nilicon2020 import study as nilicon2020
from experiments.published.plover2018 import fits
from experiments.published.plover2018 import study as plover2018
from experiments.published.plover2018.figure import draw as plover_figure
from experiments.published.rows import Row, frame, remarked, show
from experiments.published.rrc2022 import study as rrc2022
from experiments.published.simulation import Outcome, simulate
from experiments.published.straub2026 import study as straub2026
from experiments.published.study import Findings, Study, write
from experiments.published.su2020 import study as su2020

PACKAGE = Path(table.__file__).parent
MODEL = ["model", "interval", "low", "high", "closed_form"]
#: remus2008 has tests of its own
OTHERS = [study for study in STUDIES if study.name != "remus2008"]


class FromScenario(dict[str, Any]):
    """Stands for what a scenario gives: whatever is asked of it follows from the scenario alone."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__()
        mapping = scenario.to_mapping()
        file = mapping["memory"].pop("file", None)
        self.text = repr(mapping) + (Path(file).read_text() if file else "")

    def __missing__(self, metric: str) -> NDArray[np.float64]:
        return np.array([1.0, 1.5]) * (1 + crc32((metric + self.text).encode()) / 2**32)


def not_simulated(scenarios: Mapping[Any, Scenario], *_: object) -> dict[Any, Outcome]:
    return {key: Outcome(FromScenario(scenario)) for key, scenario in scenarios.items()}


def rows_of(study: Study, published: pd.DataFrame, out: Path) -> list[Row]:
    """All rows, of fits that are made and simulations that are not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[study.solve.__module__], "simulate", not_simulated)
        return remarked(study.solve(published, out, True, 1).rows, published)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[Row]]:
    return {
        study.name: rows_of(study, table.load(study.source), tmp_path_factory.mktemp(study.name))
        for study in OTHERS
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


@pytest.mark.parametrize("study", OTHERS, ids=lambda study: study.name)
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
    """Whatever the shipped table notes of a value goes with it, and is shown below it."""
    for study in OTHERS:
        notes = table.load(study.source).set_index("line")["note"]
        rows = found[study.name]
        assert [row.remark for row in rows if row.line] == [
            notes[row.line] for row in rows if row.line
        ]
    shown = StringIO()
    show(found["plover2018"], Console(file=shown, width=200))
    assert shown.getvalue().count("page counts and bandwidth of this service do not agree") == 6
    assert shown.getvalue().count("measured by competitors") == 8


@pytest.mark.parametrize("study", OTHERS, ids=lambda study: study.name)
def test_nothing_that_is_predicted_was_used(
    study: Study, found: Mapping[str, list[Row]], tmp_path: Path
):
    """Where no row was fitted to a number, a smaller one gives the same fits and scenarios.

    Smaller, as a larger one might become the peak that a fit takes.
    """
    published = table.load(study.source)
    status = published["line"].map(command.status(found[study.name]))
    held_out = status.isin(["predicted", "unmodelled"])
    if study.name == "nilicon2020":  # each pause is an input of overheads, and of other pauses
        held_out &= published["metric"] != "pause"
    changed = published.copy()
    changed.loc[held_out, ["value", "low", "high"]] *= 0.99
    before, after = (frame(rows_of(study, each, tmp_path)) for each in (published, changed))
    pd.testing.assert_frame_equal(after[MODEL], before[MODEL], check_exact=True)
    if held_out.any():
        assert not after["published"].equals(before["published"])
    # and what is fitted does count
    if (used := status == "fitted").any() and study.name != "plover2018":  # it takes long
        changed = published.copy()
        changed.loc[used, ["value", "low", "high"]] *= np.linspace(1.005, 1.01, used.sum())[:, None]
        after = frame(rows_of(study, changed, tmp_path))
        predicted = after["kind"] == "predicted"
        assert not after[predicted][MODEL].equals(before[predicted][MODEL])


def test_each_pause_of_nilicon_is_predicted_without_its_own():
    published = table.load(nilicon2020.STUDY.source)
    before = nilicon2020.programs(published)
    for name in before:
        changed = published.copy()
        own = (changed["workload"] == name) & (changed["metric"] == "pause")
        changed.loc[own, "value"] *= 2
        after = nilicon2020.programs(changed)
        assert nilicon2020.pause_by_others(after, name) == nilicon2020.pause_by_others(before, name)


def test_table_and_figure_are_written(found: Mapping[str, list[Row]], tmp_path: Path):
    fitted = fits.fit(table.load(plover2018.STUDY.source))

    def draw(rows: Sequence[Row]) -> Chart:
        return plover_figure(plover2018.Result(fitted, rows))

    files = write(Findings(found["plover2018"], draw), tmp_path)
    assert [file.name for file in files] == ["table.csv", "figure.svg", "figure.png"]
    assert len(pd.read_csv(files[0])) == len(found["plover2018"])
    text = files[1].read_text()
    assert "COLO, called anomalous" in text or "MC 100 ms, called anomalous" in text


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


# -- the simulator gives what the fits ask of it ---------------------------------------------------


def test_the_simulator_agrees_with_what_was_fitted_of_plover(tmp_path: Path):
    """PgSql: without protection, under MC where nobody queues, under COLO at the peak."""
    published = table.load(plover2018.STUDY.source)
    fitted = fits.fit(published)
    effort = plover2018.Effort(1500, 40, 2)
    keys = {
        plover2018.Key("PgSql", fits.NONE, 8.0): 243.7,
        plover2018.Key("PgSql", fits.COLO, 48.0): 266.5,
        plover2018.Key("PgSql", fits.MC, 8.0): 8 / 0.1,  # an answer an epoch for each
    }
    every = plover2018.scenarios(published, fitted, tmp_path / "pages.csv", effort)
    outcomes = simulate({key: every[key] for key in keys}, jobs=1)
    for key, per_s in keys.items():
        assert outcomes[key].of("throughput_per_s").mean == pytest.approx(per_s, rel=0.08), key
    mc = outcomes[plover2018.Key("PgSql", fits.MC, 8.0)]
    pages = mc.of("dirty_pages_mean").mean
    pause, transfer = fitted["PgSql"].lines
    assert mc.of("pause_mean_ms").mean == pytest.approx(pause.at(pages), rel=1e-3)
    assert mc.of("transmit_mean_ms").mean == pytest.approx(transfer.at(pages), rel=1e-3)


def test_the_simulator_agrees_with_closed_forms_of_the_others(tmp_path: Path):
    """A replay's epochs, four streams, a round sent ahead, first writes."""
    replay = rrc2022.scenarios({("a", of): 2.0 for of in rrc2022.READINGS}, quick=True)
    outcomes = simulate(replay, 1, rrc2022.measure)
    for name, of, ms in replay:
        share = 100 * rrc2022.READINGS[of](2.0 * ms / 1e3)
        assert outcomes[name, of, ms].of(of).mean == pytest.approx(share, abs=9)

    found = straub2026.times(table.load(straub2026.STUDY.source))
    models = straub2026.fit(found)
    streams = straub2026.scenarios(found, models, tmp_path / "pages.csv", quick=True)
    way = (straub2026.UPLOAD, "up to the link")
    mean = simulate({way: streams[way]}, 1)[way].of("state_mean_ms").mean
    assert mean == pytest.approx(models[way[1]].of(24.3), rel=0.15)

    programs = nilicon2020.programs(table.load(nilicon2020.STUDY.source))
    jobs = nilicon2020.scenarios(programs, quick=True)
    choice = {key: jobs[key] for key in jobs if key[0] == nilicon2020.FITTED and key[2] == 25}
    for key, outcome in simulate(choice, 1).items():
        write_ms = nilicon2020.first_write_ms(programs[key[0]], 25) * ("first" in key[1])
        expected = nilicon2020.overhead(programs[key[0]], 25, write_ms)
        lost = 100 * (outcome.of("last_served_s").mean / 2.0 - 1)
        assert lost == pytest.approx(expected, rel=0.05)


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.glob("*/*.toml")), ids=lambda path: path.parent.name
)
def test_scenarios_stand_on_their_own(path: Path):
    load_scenario(path)


def test_the_command_of_one_source(tmp_path: Path):
    """Really simulated: the one pause that is fitted, and those that are not."""
    result = CliRunner().invoke(command.command(su2020.STUDY), ["--quick", "--out", str(tmp_path)])
    assert result.exit_code == 0
    assert "second sample 1499" in result.output
    written = pd.read_csv(tmp_path / "table.csv")
    assert (tmp_path / "figure.png").exists()
    both = written.dropna(subset="closed_form")
    assert len(both) == 4
    assert both["model"].tolist() == pytest.approx(both["closed_form"].tolist(), rel=0.01)


def test_the_command_of_all_sources(tmp_path: Path):
    """The same for a list of sources, here of one, and a line for each of them."""
    every = command.command_of_all([su2020.STUDY])
    result = CliRunner().invoke(every, ["--quick", "--out", str(tmp_path)])
    assert result.exit_code == 0
    [line] = pd.read_csv(tmp_path / "summary.csv").to_dict("records")
    assert (line["source"], line["numbers"], line["fitted"]) == (su2020.STUDY.source, 2, 2)
    assert (tmp_path / "summary.md").read_text() in result.output
    assert (tmp_path / "su2020" / "figure.png").exists()


def test_the_overview_says_how_many_predictions_are_near_and_the_best_source_first():
    chart = figures.overview({"worse": [0.2, 1.0, 3.0], "none": [], "better": [0.8, 1.1]})
    axes, right = chart.axes
    assert axes.get_title().startswith("Of 5 predictions 3 are within a factor of 1.25 of")
    assert [each.get_text() for each in axes.get_yticklabels()] == ["better", "worse"]
    assert [each.get_text() for each in right.get_yticklabels()] == ["15% (n = 2)", "80% (n = 3)"]
    low, high = axes.get_xlim()
    assert low < 0.2
    assert high > 3


def test_an_unwritable_directory_is_one_line(tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    for module in ("experiments.published",):
        run = subprocess.run(
            [sys.executable, "-m", module, "--out", str(file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
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
