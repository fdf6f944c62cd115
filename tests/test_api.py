"""simulate, compare and replay on the simulated world."""

import gzip
import hashlib
import json
import subprocess
import sys
import tomllib
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
import pytest

import colosim
from colosim import api, parallel
from colosim.analysis.stats import paired
from colosim.model.errors import ModelError
from colosim.scenario import Scenario, ScenarioError
from colosim.store import StoreError
from tests.small import SCENARIO, write

JOB = """
name = "job"
duration = "10 min"
replications = 2
[policy]
name = "remus"
remus.interval = "300 s"
[workload]
kind = "batch"
work = "500 s"
[memory]
kind = "measured"
curve = "idle"
"""


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "small.toml")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    return colosim.compare(write(tmp_path_factory.mktemp("api") / "small.toml"))


# -- the same result whatever the way ------------------------------------------------------------


def test_file_mapping_and_object_give_the_same_result(file):
    mapping = tomllib.loads(SCENARIO)
    results = [
        colosim.simulate(s) for s in (file, str(file), mapping, Scenario.from_mapping(mapping))
    ]
    assert len({result.fingerprint for result in results}) == 1


def test_the_number_of_processes_changes_nothing(file):
    alone = colosim.simulate(file, jobs=1)
    many = colosim.simulate(file, jobs=2)
    assert many.fingerprint == alone.fingerprint
    assert [record.replication for record in many.records] == [0, 1, 2]
    pd.testing.assert_frame_equal(many.summary, alone.summary)


def test_another_process_finds_the_same_fingerprint(file):
    code = f"import colosim; print(colosim.simulate({str(file)!r}, 'remus').fingerprint)"
    command = [sys.executable, "-c", code]
    environment = {"PYTHONHASHSEED": "7", "PATH": ""}
    printed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert printed.stdout.strip() == colosim.simulate(file, "remus").fingerprint


def test_writing_and_tracing_change_nothing(file, tmp_path):
    plain = colosim.simulate(file)
    for trace in ("none", "first", "all"):
        assert (
            colosim.simulate(file, out=tmp_path / "out", trace=trace).fingerprint
            == plain.fingerprint
        )


def test_what_the_fingerprint_depends_on(file, tmp_path):
    other = write(tmp_path / "other.toml", SCENARIO.replace('"1 ms"', '"2 ms"'))
    results = [
        colosim.simulate(file),
        colosim.simulate(file, "remus"),
        colosim.simulate(file, seed=2),
        colosim.simulate(file, replications=2),
        colosim.simulate(other),
    ]
    assert len({result.fingerprint for result in results}) == len(results)


def test_the_folder_of_a_measured_curve_is_not_part_of_the_fingerprint(tmp_path):
    curve = files("colosim").joinpath("data", "dirty-pages-measured.csv").read_bytes()
    found = set()
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "curve.csv").write_bytes(curve)
        own = 'file = "curve.csv"\nworkload = "idle"\nsetting = "no service"'
        text = JOB.replace('curve = "idle"', own).replace('"300 s"', '"1 s"')
        file = write(tmp_path / name / "job.toml", text)
        out = tmp_path / name / "run"
        found.add(colosim.simulate(file, replications=1, out=out).fingerprint)
        manifest = json.loads((out / "manifest.json").read_text())
        digest = hashlib.sha256(curve).hexdigest()
        assert manifest["sha256"] == {str(tmp_path / name / "curve.csv"): digest}
    assert len(found) == 1


def test_policy_seed_and_replications_replace_the_scenarios_own(file):
    result = colosim.simulate(file, "remus", seed=9, replications=2)
    assert result.policy == "remus"
    assert {(r.policy, r.seed) for r in result.records} == {("remus", 9)}
    assert len(result.records) == 2
    assert result.parameters["policy"]["name"] == "remus"
    assert result.parameters["seed"] == 9


# -- tables --------------------------------------------------------------------------------------


def test_tables_are_tidy_and_agree_with_each_other(file):
    result = colosim.simulate(file, "remus")
    answered = result.responses.query("measured and latency_ms.notna()")
    by_hand = answered.groupby("replication")["latency_ms"].mean()
    metric = result.metrics.query("metric == 'latency_mean_ms'").set_index("replication")["value"]
    np.testing.assert_allclose(by_hand, metric)
    [row] = result.summary.query("metric == 'latency_mean_ms'").to_dict("records")
    assert row["n"] == 3
    assert row["mean"] == pytest.approx(by_hand.mean())
    assert row["ci_low"] < row["mean"] < row["ci_high"]
    assert set(result.checkpoints["reason"]) == {"interval"}


def test_a_comparison_is_its_results_with_paired_differences(compared, file):
    assert list(compared.results) == ["none", "remus", "colo"]
    assert compared.results["remus"].fingerprint == colosim.simulate(file, "remus").fingerprint
    values = {
        policy: [record.metrics()["latency_mean_ms"][0] for record in result.records]
        for policy, result in compared.results.items()
    }
    rows = compared.summary.query("metric == 'latency_mean_ms'").set_index("policy")
    assert np.isnan(rows.loc["none", "diff"])
    _, mean, low, high = paired(values["remus"], values["none"])
    assert tuple(rows.loc["remus", ["diff", "diff_low", "diff_high"]]) == (mean, low, high)


def test_policies_meet_the_same_arrivals(compared):
    wide = compared.responses.pivot_table(
        "arrival_ns", ["replication", "client", "request"], "policy"
    ).dropna()
    assert len(wide) > 300
    assert (wide["none"] == wide["remus"]).all()
    assert (wide["none"] == wide["colo"]).all()


def test_every_figure_can_be_drawn(compared, tmp_path):
    charts = [
        compared.plot_latency(),
        compared.plot_pauses(),
        compared.plot_metrics(),
        compared.plot_metrics("pause_mean_ms", "checkpoints_per_s"),
        compared.plot_timeline(),
        compared.plot_timeline(1, start_s=0.5, length_s=0.5),
        compared.results["colo"].plot_metrics(),
    ]
    for i, chart in enumerate(charts):
        chart.save(tmp_path / str(i))


def test_a_notebook_shows_the_summary_and_what_a_reader_must_know(compared):
    html = compared._repr_html_()
    assert "Latency p99 (ms)" in html
    assert "remus - none" in html
    assert compared.fingerprint in html
    result = compared.results["none"]
    record = result.records[0]
    broken = api.Result(
        result.scenario,
        "none",
        [type(record)(**{**vars(record), "flags": ["odd"], "violations": ["a < b"]})],
    )
    assert broken.flags == ["odd"]
    assert broken.violations == ["none, replication 0: a < b"]
    assert "VIOLATION: none, replication 0: a &lt; b" in broken._repr_html_()
    assert "flag: odd" in broken._repr_html_()


def test_a_notebook_shows_the_verdict_first_and_a_figure_and_folds_the_rest(compared):
    html = compared._repr_html_()
    places = [
        html.index(text)
        for text in (compared.verdict, "<table>", "data:image/svg+xml", "<details>", "<code>")
    ]
    assert places == sorted(places)
    assert "to p99 latency" in compared.verdict
    # what is folded is there too
    assert html.index("Dirty pages mean") > html.index("<details>")
    one = compared.results["colo"]
    assert one.verdict.startswith("The guest under colo answered ")
    assert one.verdict in one._repr_html_()


def test_a_notebook_shows_what_a_scenario_gives(compared):
    scenario = compared.results["none"].scenario
    shown, folded = scenario._repr_html_().split("<details>")
    for key in ("workload.kind", "duration"):
        assert key in shown
    assert "cost.stop" in folded
    assert "cost.stop" not in shown
    odd = scenario.replace({"description": "<b> & more"})
    assert "&lt;b&gt; &amp; more" in odd._repr_html_()


def test_a_policy_without_a_secondary_is_compared_although_the_secondary_fails(tmp_path):
    fault = '[[fault]]\ntarget = "secondary"\nscope = "host"\nkind = "crash"\nat = "1 s"\n'
    file = write(tmp_path / "fault.toml", SCENARIO + fault)
    outcome = colosim.compare(file, ["none", "remus"], replications=1)
    assert set(outcome.events["policy"]) == {"remus"}
    assert "fault" in set(outcome.events["what"])


# -- what is written -----------------------------------------------------------------------------


def test_a_run_directory_holds_everything(file, tmp_path):
    result = colosim.simulate(file, "remus", out=tmp_path / "run")
    out = tmp_path / "run"
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoints.parquet",
        "events.csv",
        "manifest.json",
        "metrics.csv",
        "phases.csv",
        "responses.parquet",
        "summary.csv",
        "trace-0.jsonl.gz",
    ]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["fingerprint"] == result.fingerprint
    assert manifest["interrupted"] is False
    assert (manifest["policy"], manifest["seed"], manifest["replications"]) == ("remus", 1, 3)
    assert [each["fingerprint"] for each in manifest["finished"]] == [
        record.fingerprint() for record in result.records
    ]
    pd.testing.assert_frame_equal(pd.read_parquet(out / "responses.parquet"), result.responses)
    pd.testing.assert_frame_equal(pd.read_parquet(out / "checkpoints.parquet"), result.checkpoints)
    pd.testing.assert_frame_equal(pd.read_csv(out / "summary.csv"), result.summary)
    assert len(pd.read_csv(out / "metrics.csv")) == len(result.metrics)
    # the manifest alone is enough to do it again
    again = colosim.simulate(manifest["scenario"], manifest["policy"])
    assert again.fingerprint == manifest["fingerprint"]


def test_a_comparison_directory_holds_a_run_for_each_policy(file, tmp_path):
    outcome = colosim.compare(file, ["none", "colo"], out=tmp_path / "both", trace="all")
    for policy in ("none", "colo"):
        manifest = json.loads((tmp_path / "both" / policy / "manifest.json").read_text())
        assert manifest["fingerprint"] == outcome.results[policy].fingerprint
        assert sum(name.startswith("trace-") for name in manifest["files"]) == 3
    assert set(pd.read_csv(tmp_path / "both" / "summary.csv")["policy"]) == {"none", "colo"}
    colosim.compare(file, ["none", "colo"], out=tmp_path / "both")  # replaces it


def test_no_traces_if_none_are_wanted(file, tmp_path):
    colosim.simulate(file, out=tmp_path / "run", trace="none")
    with pytest.raises(StoreError, match="holds no trace"):
        api.replay(tmp_path / "run")


# -- replay --------------------------------------------------------------------------------------


def test_every_replication_replays_to_the_same_decisions(file, tmp_path):
    colosim.compare(file, out=tmp_path / "run", trace="all")
    replays = api.replay(tmp_path / "run")
    assert len(replays) == 9
    for each in replays:
        assert each.lines > 300
        assert not each.differences
        assert not each.violations


def edit_trace(path, change):
    with gzip.open(path, "rt") as lines:
        changed = change([json.loads(line) for line in lines])
    with gzip.open(path, "wt") as lines:
        lines.writelines(json.dumps(line) + "\n" for line in changed)
    path.with_name("manifest.json").unlink()  # which says how many lines there were


def test_a_decision_that_is_not_repeated_is_found(file, tmp_path):
    colosim.simulate(file, "remus", replications=1, out=tmp_path / "run")

    def drop_a_release(lines):
        [first, *_] = [i for i, line in enumerate(lines) if "Release" in line["body"]]
        return lines[:first] + lines[first + 1 :]

    edit_trace(tmp_path / "run" / "trace-0.jsonl.gz", drop_a_release)
    [found] = api.replay(tmp_path / "run")
    assert any("Release" in difference.replayed for difference in found.differences)


def test_a_broken_invariant_is_found(file, tmp_path):
    colosim.simulate(file, "remus", replications=1, out=tmp_path / "run")

    def drop_loads(lines):  # no state is on the other side when output leaves
        return [line for line in lines if "Load" not in line["body"]]

    edit_trace(tmp_path / "run" / "trace-0.jsonl.gz", drop_loads)
    [found] = api.replay(tmp_path / "run")
    assert {violation.invariant for violation in found.violations} == {"OutputCommit"}


def cut_in_half(lines):
    return lines[: len(lines) // 2]


def no_lines(lines):
    return []


def only_headers(lines):
    return [line for line in lines if line["kind"] == "node"]


def no_headers(lines):
    return [line for line in lines if line["kind"] != "node"]


def another_policy(lines):
    return json.loads(json.dumps(lines).replace('"policy": "remus"', '"policy": "bogus"'))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (no_lines, "is empty"),
        (only_headers, "cannot be replayed: holds no event"),
        (no_headers, "cannot be replayed: node 'primary' has lines but no header"),
        (another_policy, "cannot be replayed: header of .*: policy 'bogus' is unknown"),
    ],
)
def test_what_cannot_be_replayed_is_one_line_with_the_traces_name(file, tmp_path, change, why):
    colosim.simulate(file, "remus", replications=1, out=tmp_path / "run")
    trace = tmp_path / "run" / "trace-0.jsonl.gz"
    edit_trace(trace, change)
    with pytest.raises(StoreError, match=f"^{trace}: {why}") as caught:
        colosim.replay(tmp_path / "run")
    assert len(str(caught.value).splitlines()) == 1


def test_a_trace_that_is_not_whole_is_refused(file, tmp_path):
    colosim.simulate(file, "remus", replications=1, out=tmp_path / "run")
    manifest = tmp_path / "run" / "manifest.json"
    text = manifest.read_text()
    edit_trace(tmp_path / "run" / "trace-0.jsonl.gz", cut_in_half)
    manifest.write_text(text)
    written = json.loads(text)["trace_lines"]["trace-0.jsonl.gz"]
    why = rf"trace-0.*: has {written // 2} lines, but {written} were written"
    with pytest.raises(StoreError, match=why):
        colosim.replay(tmp_path / "run")


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"policy": "foo"}, "policy 'foo' is unknown; use one of adaptive, colo, hybrid, micro"),
        ({"policy": "Remus"}, "did you mean remus"),
        ({"policy": ""}, "policy '' is unknown"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"replications": 0}, "replications"),
        ({"trace": "bogus"}, "^trace 'bogus' is unknown; use one of none, first, all$"),
    ],
)
def test_what_cannot_be_is_refused(file, arguments, why):
    with pytest.raises(ScenarioError, match=why):
        colosim.simulate(file, **arguments)


@pytest.mark.parametrize("given", [3, None, ["small.toml"]])
def test_what_is_no_scenario_is_refused(given):
    with pytest.raises(ScenarioError, match=f"a {type(given).__name__} is no scenario; give"):
        colosim.simulate(given)


@pytest.mark.parametrize("jobs", [0, -1, "2"])
def test_a_number_of_processes_that_cannot_be_is_refused(file, tmp_path, jobs):
    sweep = {"scenario": str(file)}
    for start, given in ((colosim.simulate, file), (colosim.compare, file), (colosim.sweep, sweep)):
        with pytest.raises(ValueError, match=f"jobs: {jobs!r} is no number of processes"):
            start(given, out=tmp_path / "out", jobs=jobs)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("policies", [[], ["none", "none"]])
def test_a_comparison_names_each_policy_once(file, policies):
    with pytest.raises(ScenarioError, match="name each policy once"):
        colosim.compare(file, policies)


def test_a_policy_that_does_not_fit_the_scenario_is_refused_before_anything_runs(tmp_path):
    text = 'policy.name = "remus"\n' + SCENARIO + "[execution]\nexecutes = false\n"
    with pytest.raises(ScenarioError, match=r"small, policy colo: execution\.executes: "):
        colosim.compare(write(tmp_path / "still.toml", text), ["remus", "colo"])


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_of_the_models_leaves_nothing_behind(tmp_path, jobs):
    file = write(tmp_path / "job.toml", JOB)  # the curve ends long before the first checkpoint
    with pytest.raises(ModelError, match="idle"):
        colosim.simulate(file, seed=1, out=tmp_path / "run", jobs=jobs)
    assert [path.name for path in tmp_path.iterdir()] == ["job.toml"]


# -- interruption and progress -------------------------------------------------------------------


def test_ctrl_c_keeps_what_was_finished(file, tmp_path):
    def stop_after_two(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(api.Interrupted, match="kept 1 of 3 replications in") as caught:
        colosim.simulate(file, out=tmp_path / "run", jobs=1, progress=stop_after_two, trace="all")
    result: Any = caught.value.result
    assert result.interrupted
    assert [record.replication for record in result.records] == [0]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["interrupted"] is True
    assert len(manifest["finished"]) == 1
    assert [name for name in manifest["files"] if "trace" in name] == ["trace-0.jsonl.gz"]
    assert set(result.metrics["replication"]) == {0}


def test_ctrl_c_before_anything_was_finished_keeps_nothing(file, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(api.Interrupted, match="nothing is kept") as caught:
        colosim.simulate(file, out=tmp_path / "run", progress=stop)
    assert caught.value.result is None
    assert not (tmp_path / "run").exists()


def test_a_comparison_cut_short_compares_what_there_is(file):
    def stop(done, total):
        if done == 5:  # none, remus, colo of replication 0; none of replication 1
            raise KeyboardInterrupt

    with pytest.raises(api.Interrupted, match="kept 4 of 9") as caught:
        colosim.compare(file, jobs=1, progress=stop)
    result: Any = caught.value.result
    assert result.interrupted
    assert [len(each.records) for each in result.results.values()] == [2, 1, 1]
    assert len(result.summary) > 0


def test_a_comparison_without_its_baseline_has_no_differences(file, tmp_path):
    remus = colosim.simulate(file, "remus", replications=1)
    outcome = api.Comparison({"remus": remus}, baseline="colo")
    assert outcome.summary["diff"].isna().all()
    assert "remus" in outcome.title
    assert len(outcome.readable()) == 1


@pytest.mark.parametrize(("finished", "policies"), [(1, ["colo"]), (2, ["none"])])
def test_a_comparison_cut_short_keeps_its_baseline(file, tmp_path, monkeypatch, finished, policies):
    """Workers finish in any order: here the last policy first."""

    def backwards(function, arguments, *_more):
        for each in list(arguments)[::-1][finished - 1 : finished]:
            yield function(*each)
        raise KeyboardInterrupt

    monkeypatch.setattr(parallel, "run", backwards)
    with pytest.raises(api.Interrupted) as caught:
        colosim.compare(file, ["none", "colo"], out=tmp_path / "out")
    result: Any = caught.value.result
    assert list(result.results) == policies
    assert result.baseline == "none"
    assert result.summary["diff"].isna().all()
    assert result._repr_html_()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["baseline"], manifest["policies"]) == ("none", policies)


@pytest.mark.parametrize("jobs", [None, 1, 2])
def test_progress_is_told_of_every_replication(file, jobs):
    seen = []
    colosim.simulate(file, jobs=jobs, progress=lambda *each: seen.append(each))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def _fail(i):
    raise ZeroDivisionError(i)


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_exception_comes_through_from_any_process(jobs):
    with pytest.raises(ZeroDivisionError):
        list(parallel.run(_fail, [(1,), (2,)], jobs))


def test_no_work_is_no_work():
    assert list(parallel.run(_fail, [], 2)) == []
