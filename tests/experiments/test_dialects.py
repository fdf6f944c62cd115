"""rfc2014 and upstream beside each other at small counts: the order of events must show."""

from __future__ import annotations

import pandas as pd
import pytest
from click.testing import CliRunner
from pandas.testing import assert_frame_equal

from experiments import dialects
from experiments.dialects.__main__ import main


@pytest.fixture(scope="module")
def comparisons():
    return dialects.run(replications=2, jobs=1)


@pytest.fixture(scope="module")
def summary(comparisons):
    return dialects.summary(comparisons)


@pytest.fixture(scope="module")
def rows(summary):
    """(policy, metric) -> row."""
    return summary.set_index(["policy", "metric"])


@pytest.fixture(scope="module")
def costs(comparisons):
    return comparisons["upstream"].results["colo"].scenario.costs()


def test_every_policy_has_every_metric(rows):
    policies = dialects.POLICIES.values()
    metrics = (*dialects.SPANS, *dialects.METRICS)
    assert set(rows.index) == {(policy, metric) for policy in policies for metric in metrics}
    assert rows.notna().all(axis=None)


@pytest.mark.parametrize("policy", dialects.POLICIES.values())
def test_rfc2014_releases_once_the_secondary_has_loaded(rows, costs, policy):
    """Upstream releases at RECEIVED, before the load; rfc2014 at LOADED (`qemu-colo.md` 1.2)."""
    later_ms = rows.loc[(policy, "cut_to_release_ms"), "diff"]
    assert later_ms > costs.load_fixed_ns / 1e6


@pytest.mark.parametrize("policy", dialects.POLICIES.values())
def test_rfc2014_releases_when_the_guest_resumes(rows, costs, policy):
    until_resumed = rows.loc[(policy, "release_to_resume_ms")]
    assert until_resumed["rfc2014"] == pytest.approx(costs.resume_ns / 1e6)
    assert until_resumed["upstream"] > (costs.load_fixed_ns + 2 * costs.resume_ns) / 1e6


@pytest.mark.parametrize("policy", dialects.POLICIES.values())
def test_upstream_stands_while_its_secondary_resumes(rows, costs, policy):
    """Its LOADED comes after the secondary's guest runs, so the primary waits for that too."""
    shorter_ms = -rows.loc[(policy, "pause_ms"), "diff"]
    assert shorter_ms == pytest.approx(costs.resume_ns / 1e6, rel=0.1)


def test_waiting_for_the_load_costs_periodic_clients_as_much(rows):
    added_ms = rows.loc[("periodic", "latency_mean_ms"), "diff"]
    later_ms = rows.loc[("periodic", "cut_to_release_ms"), "diff"]
    assert added_ms == pytest.approx(later_ms, rel=0.25)


def test_nothing_is_extrapolated_or_violated(comparisons):
    for comparison in comparisons.values():
        assert comparison.flags == []
        assert comparison.violations == []


def test_same_seed_same_table(summary):
    again = dialects.summary(dialects.run(replications=2, jobs=2))
    assert_frame_equal(summary, again)
    other = dialects.summary(dialects.run(replications=2, seed=99, jobs=1))
    assert not summary.equals(other)


def test_the_command_says_where_its_results_are(comparisons, summary, tmp_path, monkeypatch):
    monkeypatch.setattr(dialects, "run", lambda *_: comparisons)
    result = CliRunner().invoke(main, ["--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert str(tmp_path) in result.output.replace("\n", "")
    written = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(written) == {"summary.csv", "checkpoint.png", "checkpoint.svg"}
    assert min(written.values()) > 1_000
    assert len(pd.read_csv(tmp_path / "summary.csv")) == len(summary)
