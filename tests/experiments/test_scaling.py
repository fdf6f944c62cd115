"""Clients and vCPUs, at small counts: what must hold whatever the numbers are."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from experiments import scaling
from experiments.scaling import Grid
from experiments.scaling.__main__ import main

SMALL = Grid((2, 48), (1, 4))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return scaling.run(tmp_path_factory.mktemp("scaling"), SMALL, replications=2, jobs=1)


@pytest.fixture(scope="module")
def mean(table):
    """(policy, vcpus, clients) -> the row of the summary."""
    return scaling.summary(table).set_index(scaling.KEYS).sort_index()


def test_without_protection_throughput_is_within_the_asymptotic_bounds(mean):
    """N/(S + Z) and c/S (Lazowska and others 1984, 5.2); S = 2 ms, Z = 20 ms."""
    for (policy, vcpus, clients), row in mean.iterrows():
        if policy == "none":
            bound = min(clients / 22.2e-3, vcpus / 2e-3)
            assert 0.6 * bound < row["throughput_per_s"] < 1.1 * bound


def test_few_clients_of_remus_do_not_profit_from_vcpus(mean):
    few = mean.loc[("remus", 4, 2), "throughput_per_s"]
    assert few == pytest.approx(mean.loc[("remus", 1, 2), "throughput_per_s"], rel=0.1)
    assert mean.loc[("remus", 4, 2), "kept"] < mean.loc[("remus", 4, 48), "kept"]


def test_guests_part_more_often_the_more_vcpus_are_busy(mean):
    one, four = (mean.loc[("colo", vcpus, 48), "checkpoints_per_s"] for vcpus in (1, 4))
    assert four > one
    assert mean.loc[("colo", 4, 2), "kept"] > mean.loc[("remus", 4, 2), "kept"]


def test_parts_are_paired_and_none_keeps_all(mean):
    assert (mean.loc["none", "kept"] == 1).all()
    assert (mean["kept_low"] <= mean["kept"]).all()


def test_command(table, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "run", lambda *arguments: table)
    done = CliRunner().invoke(main, ["--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.iterdir()} == {
        *("scaling.md", "scaling.csv", "scaling.svg", "scaling.png"),
    }
    assert "colo, 4 vCPUs" in (tmp_path / "scaling.md").read_text("utf-8")
