"""Who wins a cell, how sure that is, and that the policy map shows it."""

import warnings
from math import isnan, nan
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from colosim.analysis import plots
from colosim.analysis.winners import winners

X, Y = "link.bandwidth_bps", "divergence.rate_per_s"


def table(cells, metric="latency_mean_ms"):
    """Cells (x, y, policy) -> values of the replications."""
    rows = [
        (x, y, policy, i, metric, value, "ms")
        for (x, y, policy), values in cells.items()
        for i, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=[X, Y, "policy", "replication", "metric", "value", "unit"])


def test_the_winner_its_margin_and_a_paired_test_against_all_others():
    remus, colo, hybrid = [10.0, 12.0, 11.0, 13.0], [8.0, 9.9, 9.2, 10.8], [9.0, 12.5, 9.1, 11.0]
    cells = {(1, 1.0, "remus"): remus, (1, 1.0, "colo"): colo, (1, 1.0, "hybrid"): hybrid}
    [found] = winners(
        table(cells | {(1, 1.0, "none"): [1.0] * 4}), [X, Y], "latency_mean_ms"
    ).to_dict("records")
    assert (found["policy"], found["runner_up"]) == ("colo", "hybrid")
    assert found["margin"] == pytest.approx(1 - np.mean(colo) / np.mean(hybrid))
    p = [stats.ttest_rel(colo, other, alternative="less").pvalue for other in (remus, hybrid)]
    assert found["confidence"] == pytest.approx(1 - sum(p))


def test_the_highest_may_win_and_policies_may_be_chosen():
    cells = {
        (1, 1.0, "none"): [30.0, 31.0],
        (1, 1.0, "colo"): [20.0, 21.5],
        (1, 1.0, "remus"): [9.0, 9.0],
    }
    throughput = table(cells, "throughput_per_s")
    [found] = winners(throughput, [X, Y], "throughput_per_s", lowest=False).to_dict("records")
    assert (found["policy"], found["runner_up"]) == ("colo", "remus")
    chosen = winners(throughput, [X, Y], "throughput_per_s", ["none", "remus"], lowest=False)
    assert list(chosen["policy"]) == ["none"]


def test_a_policy_that_an_axis_does_not_concern_competes_along_all_of_it():
    cells = {
        (1, 1.0, "colo"): [5.0] * 2,
        (2, 1.0, "colo"): [20.0] * 2,
        (nan, 1.0, "remus"): [10.0] * 2,
    }
    found = winners(table(cells), [X, Y], "latency_mean_ms")
    assert list(found["policy"]) == ["colo", "remus"]
    assert list(found["confidence"]) == [1.0, 1.0]  # without any spread


def test_what_cannot_be_known_is_not_called_sure():
    one_run = {(1, 1.0, "colo"): [5.0], (1, 1.0, "remus"): [9.0]}
    assert isnan(winners(table(one_run), [X], "latency_mean_ms")["confidence"].item())
    alike = {(1, 1.0, "colo"): [5.0, 5.0], (1, 1.0, "remus"): [5.0, 5.0]}
    assert winners(table(alike), [X], "latency_mean_ms")["confidence"].item() == 0.0
    nothing = {(1, 1.0, "colo"): [nan, nan], (1, 1.0, "remus"): [nan, nan]}
    assert winners(table(nothing), [X], "latency_mean_ms").empty


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (([X, "speed"], "latency_mean_ms"), "no column 'speed'; have link.bandwidth_bps"),
        (([X], "speed"), "no metric 'speed'; have latency_mean_ms"),
        (([X], "latency_mean_ms", ["colo", "none"]), "no policy 'none'; have colo"),
    ],
)
def test_what_is_not_there_is_named(given, wrong):
    with pytest.raises(ValueError, match=wrong):
        winners(table({(1, 1.0, "colo"): [1.0]}), *given)


def test_the_map_has_cells_texts_and_borders_full_where_both_sides_are_sure():
    rng = np.random.default_rng(1)
    means = {"colo": (1.0, 10.0, 30.0), "remus": (20.0, 9.9, 10.0)}  # sure, open, sure
    cells = {
        (x, y, policy): rng.normal(mean[i], 0.5, 6)
        for policy, mean in means.items()
        for i, x in enumerate((10**8, 10**9, 10**10))
        for y in (1.0, 10.0)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chart: Any = plots.policy_map(table(cells), X, Y)
        chart._repr_svg_()
    [axes] = chart.axes
    assert [text.get_text() for text in axes.get_xticklabels()] == [
        "100 Mbit/s",
        "1 Gbit/s",
        "10 Gbit/s",
    ]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("link.bandwidth", "divergence.rate")
    found = winners(table(cells), [X, Y], "latency_mean_ms")
    certain = found["confidence"] >= 0.95
    assert list(certain) == [True, True, False, False, True, True]
    texts = sorted(text.get_text() for text in axes.texts)
    assert len(texts) == 6
    assert sum("(" in text for text in texts) == 2
    marks = [line for line in axes.get_lines() if line.get_marker() != "None"]
    assert sum(line.get_markerfacecolor() == "white" for line in marks) == 2
    borders = [line.get_linestyle() for line in axes.get_lines() if line.get_marker() == "None"]
    assert set(borders) == {":"}
    sure_ones: Any = plots.policy_map(
        table({k: v for k, v in cells.items() if k[0] != 10**9}), X, Y
    )
    lines = sure_ones.axes[0].get_lines()
    assert {line.get_linestyle() for line in lines if line.get_marker() == "None"} == {"-"}


def test_a_tie_is_called_one():
    cells = {(1, 1.0, policy): [1.0, 2.0] for policy in ("colo", "hybrid")}
    chart: Any = plots.policy_map(table(cells), X, Y)
    assert [text.get_text() for text in chart.axes[0].texts] == ["tie"]


def test_a_third_axis_gives_panels():
    cells = {
        (x, y, p): [x + y, x + y + 1.0]
        for x in (1, 2)
        for y in (1.0, 2.0)
        for p in ("colo", "remus")
    }
    rows = pd.concat(table(cells).assign(**{"link.latency_ns": ns}) for ns in (10**6, 5 * 10**6))
    chart = plots.policy_map(rows, X, Y, panels="link.latency_ns")
    assert [axes.get_title() for axes in chart.axes] == ["link.latency 1 ms", "link.latency 5 ms"]
