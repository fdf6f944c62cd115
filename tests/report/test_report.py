"""What a report says is what the result says; what it refuses; that it needs nothing else."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import colosim
from colosim import cli, store
from colosim.reporting import report
from colosim.reporting import verdicts as v
from colosim.reporting.page import inline
from colosim.reporting.reading import read
from colosim.scenario import Scenario
from colosim.wording import lasting, number, percent
from tests.captures import Pair, udp
from tests.report.conftest import SMALL, quiet


def test_costs_are_the_paired_differences_of_the_comparison(results):
    runs: Any = read(results / "whole")
    first, *rest = v.of_runs(runs)
    rows = runs.summary.set_index(["policy", "metric"])
    row: Any = rows.loc[("colo", "latency_p99_ms")]
    low, high = (number(row[name]) for name in ("diff_low", "diff_high"))
    assert f"({low} to {high} ms)" in first
    assert "No fault was injected, so survival was not tried." in rest
    assert any("over 3 replications" in each for each in rest)


def test_with_a_fault_costs_are_those_until_it_and_survival_has_an_interval(results):
    runs: Any = read(results / "struck")
    first, *rest = v.of_runs(runs)
    assert "the unprotected guest did not survive 3 of 3 times" in first
    assert first.count("survived 3 of 3 times") == 2
    assert any("Costs are until the fault" in each for each in rest)
    responses = runs.table("responses")
    p99 = {}
    for key, own in responses.groupby(["policy", "replication"]):
        early = own[own["arrival_ns"].between(500_000_000, 1_399_999_999)]
        early = early[early["released_ns"].between(0, 1_399_999_999)]
        p99[key] = np.quantile(early["latency_ms"], 0.99)
    adds = [p99["remus", i] - p99["none", i] for i in range(3)]
    low, high = stats.t.interval(0.95, 2, np.mean(adds), stats.sem(adds))
    assert f"adds {number(float(np.mean(adds)))} ms to p99 latency" in first
    assert f"({number(low)} to {number(high)} ms)" in first
    [low, high] = stats.binomtest(3, 3).proportion_ci(method="exact")
    said = f"chance of survival, 95 % interval: {percent(low, 0)} to {percent(high, 0)}"
    assert sum(said in each for each in rest) == 2


def test_of_a_sweep_it_says_who_wins_where(results):
    sweep: Any = read(results / "sweep")
    [said] = v.of_sweep(sweep)
    counts = [int(each) for each in re.findall(r"in (\d+) \(", said)]
    assert sum(counts) == 4
    assert said.startswith("Of 4 combinations, the lowest p99 latency has ")


def test_of_a_sweep_it_says_at_how_many_points_invariants_were_broken(results):
    """Every row of a point has their number."""
    sweep: Any = read(results / "sweep")
    table = sweep.table
    broken = table.assign(violations=table["violations"].mask(table["point"].isin([1, 4]), 3))
    [_, said] = v.of_sweep(replace(sweep, table=broken))
    assert said == "Invariants were broken at 2 of 8 points."


def test_of_a_sweep_of_jobs_it_says_seconds_and_where(tmp_path):
    scenario = {
        **{key: SMALL[key] for key in ("name", "memory", "replications")},
        "duration": "20 s",
        "workload": {"kind": "batch", "work": "1 s"},
    }
    plan = {"scenario": Scenario.from_mapping(scenario), "policies": ["remus"], "replications": 1}
    axes = {"link.bandwidth": ["100 Mbit/s", "1 Gbit/s"]}
    colosim.sweep({**plan, "axes": axes}, tmp_path / "jobs", jobs=1, progress=quiet)
    sweep: Any = read(tmp_path / "jobs")
    [said] = v.of_sweep(sweep)
    means = sweep.table[sweep.table["metric"] == "completion_time_s"]["value"]
    low, high = number(means.min()), number(means.max())
    assert said == (
        f"Mean completion time goes from {low} s (1 Gbit/s, remus) to {high} s (100 Mbit/s, remus) "
        "over 2 points."
    )
    text = report(tmp_path / "jobs").read_text("utf-8")
    assert "sweep over link.bandwidth: 2 points" in text
    assert ">100 Mbit/s<" in text


@pytest.mark.parametrize(
    ("metric", "differences", "said"),
    [
        ("completion_time_s", (-2, -3, -1), "takes 20 % less to finish (10 % to 30 %)"),
        ("completion_time_s", (2, 1, 3), "takes 20 % longer to finish (10 % to 30 %)"),
        ("completion_time_s", (2, -1, 3), "costs no time that can be told (−10 % to 30 %)"),
        ("completion_time_s", (-2, np.nan, np.nan), "takes 20 % less to finish (no interval)"),
        ("throughput_per_s", (-2, -3, -1), "costs 20 % of throughput (10 % to 30 %)"),
        ("throughput_per_s", (2, 1, 3), "has 20 % more throughput (10 % to 30 %)"),
        ("throughput_per_s", (2, np.nan, np.nan), "has 20 % more throughput (no interval)"),
        ("throughput_per_s", (-2, -3, 1), "costs no throughput that can be told (−10 % to 30 %)"),
        ("throughput_per_s", (0, 0, 0), "costs no throughput"),
    ],
)
def test_a_difference_is_said_in_its_direction(metric, differences, said):
    row = dict(zip(("diff", "diff_low", "diff_high"), differences, strict=True))
    rows = {("colo", metric): row, ("none", metric): {"mean": 10.0}}
    assert v._relative(rows, "colo", "none", metric) == said


class Page(HTMLParser):
    """Names of elements that are there, what they refer to, and whether all were closed."""

    EMPTY = frozenset(("meta", "link", "input", "br", "path", "use", "rect"))

    def __init__(self, text):
        super().__init__()
        self.ids, self.references, self.alts, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.references += [given[x] for x in ("href", "src", "xlink:href") if given.get(x)]
        if given.get("role") == "img":
            self.alts.append(given["aria-label"])
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.EMPTY:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


@pytest.mark.parametrize("name", ["struck", "whole", "sweep", "whole/colo"])
def test_a_report_is_whole_html_and_refers_to_nothing_else(results, tmp_path, name):
    target = report(results / name, tmp_path / "report.html")
    text = target.read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(each.startswith(("#", "data:")) for each in page.references)
    assert {each[1:] for each in page.references if each.startswith("#")} <= set(page.ids)
    assert "Content-Security-Policy" in text
    assert all(page.alts)
    assert page.alts
    fetched = re.findall(r'(?:src|href)="https?:|url\(["\']?https?:|@import', text)
    assert fetched == []
    if name != "sweep":
        assert store.read_manifest(results / name)["fingerprint"] in text


def test_the_scenario_in_a_report_is_one_that_runs_to_the_same_numbers(results, tmp_path):
    text = report(results / "whole" / "colo", tmp_path / "report.html").read_text("utf-8")
    [scenario] = re.findall(r'id="scenario">(.*?)</pre>', text, flags=re.DOTALL)
    file = tmp_path / "scenario.toml"
    file.write_text(scenario.replace("&#34;", '"').replace("&lt;", "<"))
    again = colosim.simulate(file, progress=quiet, jobs=1)
    assert again.fingerprint == store.read_manifest(results / "whole" / "colo")["fingerprint"]


def test_names_that_are_markup_stay_text(tmp_path):
    name = "<script>alert(1)</script>"
    scenario = Scenario.from_mapping({**SMALL, "description": name, "replications": 1})
    result = colosim.simulate(scenario, progress=quiet, jobs=1)
    text = result.report(tmp_path / "report.html").read_text("utf-8")
    assert name not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "so there is no interval" in text
    assert result.fingerprint in text


def test_figures_in_one_page_have_names_of_their_own():
    from colosim.analysis.plots import latency_cdf

    table = pd.DataFrame(
        {"policy": "colo", "replication": 0, "measured": True, "latency_ms": [1.0, 2.0]}
    )
    one, two = (inline(latency_cdf(table), prefix) for prefix in ("f1", "f2"))
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (one, two)]
    assert not ids[0] & ids[1]
    assert 'data-series="colo"' in one


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(map(str, arguments)))
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.out == ""
    [line] = said.err.splitlines()
    assert line.startswith("colosim: ")
    return line


def test_what_holds_no_result_is_one_line_and_status_2(results, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "holds no result" in refused(capsys, "report", tmp_path / "empty")
    assert "is no directory" in refused(capsys, "report", tmp_path / "nothing")
    broken = tmp_path / "broken"
    shutil.copytree(results / "whole" / "colo", broken)
    events = broken / "events.csv"
    events.write_text("at_ns\n1\n")
    assert "events.csv: has no column replication" in refused(capsys, "report", broken)
    assert "events.csv: has no column replication" in refused(
        capsys, "export", "--perfetto", broken
    )
    events.unlink()
    assert "has no events.csv; it is not whole" in refused(capsys, "report", broken)
    summary = broken / "summary.csv"
    whole = summary.read_text()
    summary.write_text(whole.replace(",", ";"))  # as spreadsheets write it
    assert "summary.csv: has no column policy; it is not as it was written" in refused(
        capsys, "report", broken
    )
    summary.write_text(whole)
    (broken / "responses.parquet").write_bytes(b"PAR1 and no more")
    assert "responses.parquet: cannot be read" in refused(capsys, "report", broken)
    (broken / "manifest.json").write_text("{")
    assert "manifest.json: cannot be read" in refused(capsys, "report", broken)
    (broken / "manifest.json").write_text(json.dumps({"kind": "years"}))
    said = refused(capsys, "report", broken)
    assert "is of kind years; a report is of what simulate, compare, live, sweep, explore, " in said
    (broken / "manifest.json").write_text(json.dumps({"kind": "sizing"}))
    assert "colosim size wrote it, and its report is sizing.txt" in refused(
        capsys, "report", broken
    )
    (broken / "manifest.json").write_text(json.dumps({"kind": "log"}))
    assert "colosim import-qemu-log wrote it" in refused(capsys, "report", broken)
    assert "is no directory" in refused(capsys, "report", broken / "manifest.json")
    target = tmp_path / "no" / "such.html"
    assert "cannot be written" in refused(
        capsys, "report", results / "whole" / "colo", "--out", target
    )
    scenario = tmp_path / "mine.toml"
    scenario.write_text("name = 'mine'")
    assert "mine.toml: was not written by colosim report; give a new name" in refused(
        capsys, "report", results / "whole" / "colo", "--out", scenario
    )
    assert scenario.read_text() == "name = 'mine'"


def test_an_exploration_says_what_was_broken(tmp_path):
    place = tmp_path / "explored"
    colosim.explore("swarm", designs="colo/upstream/*", runs=3, out=place, jobs=1, progress=quiet)
    text = report(place, tmp_path / "report.html").read_text("utf-8")
    assert "None of 3 points broke a promise of its design" in text


@pytest.fixture(scope="module")
def years(tmp_path_factory):
    place = tmp_path_factory.mktemp("years") / "years"
    scenario = Scenario.from_mapping({**SMALL, "availability": {"fault_runs": 1}})
    colosim.availability(scenario, ["none", "colo"], cycles=500, out=place, jobs=1, progress=quiet)
    return place


@pytest.fixture(scope="module")
def captures(tmp_path_factory):
    place = tmp_path_factory.mktemp("captures")
    pair = Pair()
    for i in range(40):
        pair.ours(100 * i, udp(b"number %d" % i))
        theirs = b"numbeR %d" if i in (5, 6, 30) else b"number %d"
        pair.theirs(100 * i + 3, udp(theirs % i))
    pair.write(place)
    colosim.compare_pcap(place / "p.pcap", place / "s.pcap", out=place / "found", progress=quiet)
    return place / "found"


def test_a_year_is_reported_with_its_figures_and_causes(years, tmp_path):
    found: Any = read(years)
    down, *rest = v.of_years(found)
    rows = found.summary.set_index(["policy", "method", "metric"])["value"]
    most_s = rows.xs("downtime_s_per_year", level="metric").max()
    for policy, who in (("none", "the unprotected guest"), ("colo", "colo")):
        value = float(rows[policy, "markov", "downtime_s_per_year"])
        assert f"{who} {lasting(value, most_s)}" in down  # all in one unit
    for low, high in re.findall(r"\(([^()]+) to ([^()]+)\)", " ".join([down, *rest])):
        assert low != high
    assert any("those of 1 simulated runs of each fault" in each for each in rest)
    text = report(years, tmp_path / "years.html").read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert page.alts
    assert store.read_manifest(years)["fingerprint"] in text
    assert "colosim availability scenario.toml --policies none,colo --seed 1 --cycles 500" in text
    assert "unprotected host crash" in text
    assert ">Downtime (s/year)<" in text
    assert "per_year" not in text


def test_captures_are_reported_with_what_differed(captures, tmp_path):
    found: Any = read(captures)
    first, checkpoints, held = v.of_captures(found)
    assert first.startswith("Of 40 frames of the guest 37 (92.5 %) would have left without a check")
    assert re.match(r"3 checkpoints in 3\.90 s, one each 1\.30 s: 3 by \w+\.", checkpoints)
    assert "(median)" in held
    text = report(captures, tmp_path / "captures.html").read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert page.alts
    assert "p.pcap and s.pcap" in text
    assert text.count("52:54") >= 3  # the guest, in notes, provenance and command
    assert 'class="warnings"' not in text
    assert ">Time (s)<" in text
    assert ">Hold p50<" in text
    assert "<dt>compare timeout (s)</dt>" in text
    (captures / "verdicts.csv").unlink()
    with pytest.raises(store.StoreError, match=r"has no verdicts\.csv; it is not whole"):
        read(captures)


@pytest.mark.parametrize(
    ("time_s", "text"),
    [(0.0123, "12.3 ms"), (5, "5.00 s"), (180, "3.00 min"), (9000, "2.50 h"), (259_200, "3.00 d")],
)
def test_a_time_has_the_unit_that_suits_it(time_s, text):
    assert lasting(time_s) == text
    assert lasting(time_s / 1000, time_s).split()[1] == text.split()[1]
