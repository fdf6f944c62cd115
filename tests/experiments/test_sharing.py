"""VMs that share hosts, at small counts: what must hold whatever the numbers are."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from experiments import sharing
from experiments.sharing import figures
from experiments.sharing.__main__ import main


@pytest.fixture(scope="module")
def table():
    return sharing.run(replications=2, vms=(1, 6), jobs=1)


@pytest.fixture(scope="module")
def mean(table):
    """(condition, vms, metric) -> mean."""
    return table.groupby([*sharing.KEYS, "metric"])["value"].mean()


def test_a_state_waits_for_those_of_the_others(mean):
    """Six states of about 2 ms each at once; in a queue half of them are there sooner."""
    alone = mean["Remus, fair link", 1, "pause_mean_ms"]
    fair, queue, apart = (
        mean[f"Remus, {how}", 6, "pause_mean_ms"] for how in ("fair link", "queue", "set apart")
    )
    assert mean["Remus, queue", 1, "pause_mean_ms"] == pytest.approx(alone)  # there is no other
    assert alone < 1.1 * apart < queue < fair
    assert fair > alone + 5


def test_states_that_do_not_meet_use_six_times_the_link(mean):
    """Where they meet guests run for less of an epoch, and dirty less."""
    one = mean["Remus, set apart", 1, "link_share"]
    assert mean["Remus, set apart", 6, "link_share"] == pytest.approx(6 * one, rel=0.05)
    assert mean["Remus, fair link", 6, "link_share"] < 5.5 * one


def test_vms_are_treated_alike(mean):
    for condition in sharing.CONDITIONS:
        assert mean[condition.name, 6, "worst_vm_share"] > 0.9


def test_table_and_figure(tmp_path, monkeypatch, table):
    monkeypatch.setattr(sharing, "run", lambda **options: table)
    done = CliRunner().invoke(main, ["--quick", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "mean pause" in done.output
    assert sorted(p.suffix for p in (tmp_path / "out").iterdir()) == [".csv", ".png", ".svg"]
    assert figures.draw(table) is not None
