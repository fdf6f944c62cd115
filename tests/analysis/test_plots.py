"""What figures show is what the tables say; style, files and missing data."""

import subprocess
import sys
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer

from colosim.analysis import pages, plots, summary
from colosim.analysis.plots.style import look_of
from colosim.analysis.standing import standing


@pytest.fixture
def records(make_record):
    return [
        make_record(policy, i, latency_ms=base + i)
        for policy, base in (("none", 5), ("remus", 50))
        for i in range(3)
    ]


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_latency_lines_are_distribution_functions_with_bands(records):
    chart = plots.latency_cdf(summary.responses_table(records))
    [axes] = chart.axes
    assert axes.get_xlabel().endswith("(ms)")
    none, remus = axes.get_lines()
    assert [line.get_label() for line in (none, remus)] == ["none", "remus"]
    [legend] = chart.legends
    assert [text.get_text() for text in legend.get_texts()] == ["none", "remus"]
    assert len(axes.collections) == 2  # the bands
    for band in axes.collections:
        [path] = band.get_paths()
        assert path.get_extents().intervaly == pytest.approx([0, 1])  # a share is no more
    # one measured answer per replication: 5, 6, 7 ms, so a third of the mass at each
    x, y = map(np.asarray, none.get_data())
    assert np.interp([5.5, 6.5], x, y) == pytest.approx([1 / 3, 2 / 3])
    y = np.asarray(remus.get_ydata())
    assert np.interp(49.0, x, y) == 0.0
    assert y[-1] == 1.0


def test_the_tail_is_stretched_in_equal_steps(records):
    [axes] = plots.latency_cdf(summary.responses_table(records), tail=True).axes
    at = [axes.transData.transform((5, share))[1] for share in (0.9, 0.99, 0.999)]
    assert at[2] - at[1] == pytest.approx(at[1] - at[0])
    assert [text.get_text() for text in axes.get_yticklabels()][-2:] == ["99 %", "99.9 %"]


def test_shades_are_an_order_in_grey_too():
    grey = [np.dot(to_rgb(each), (0.299, 0.587, 0.114)) for each in plots.shades(5)]
    assert all(light - dark > 0.1 for light, dark in pairwise(grey))


def test_bars_are_means_and_whiskers_are_intervals(records):
    table = summary.summarise(summary.metrics_table(records))
    [axes] = plots.comparison(table, ["latency_mean_ms"]).axes
    [bars] = [each for each in axes.containers if isinstance(each, BarContainer)]
    rows = table[table["metric"] == "latency_mean_ms"]
    assert [bar.get_height() for bar in bars] == list(rows["mean"])
    [whiskers] = [c for c in axes.collections if hasattr(c, "get_segments")]
    ends = [segment[:, 1] for segment in whiskers.get_segments()]
    np.testing.assert_allclose(ends, rows[["ci_low", "ci_high"]])
    assert axes.get_ylabel() == "Latency mean (ms)"


def test_a_metric_that_is_none_is_named(records):
    table = summary.summarise(summary.metrics_table(records))
    with pytest.raises(ValueError, match="no metric 'speed'; have throughput_per_s"):
        plots.comparison(table, ["speed"])


def test_policies_look_alike_in_every_figure(records):
    [latency] = plots.latency_cdf(summary.responses_table(records)).axes
    [pauses] = plots.pause_cdf(summary.checkpoints_table(records[3:])).axes  # remus alone
    assert pauses.get_lines()[0].get_color() == latency.get_lines()[1].get_color()


def test_the_timeline_shows_pauses_and_reasons(records):
    chart = plots.timeline(summary.checkpoints_table(records[3:]), start_s=0, length_s=1)
    [axes] = chart.axes
    stopped, at_risk, *starts = axes.collections
    [path] = stopped.get_paths()  # the second checkpoint never resumed
    assert path.get_extents().intervalx == pytest.approx([0.201, 0.231])
    [path] = at_risk.get_paths()
    assert path.get_extents().intervalx == pytest.approx([0.202, 0.220])
    assert [np.asarray(each.get_offsets())[0, 0] for each in starts] == [0.2, 0.9]
    words = [text.get_text() for text in chart.legends[0].get_texts()]
    assert words == ["guest stopped", "cut, not committed", "interval", "mismatch"]


def test_the_timeline_chooses_a_stretch_with_checkpoints(records):
    [axes] = plots.timeline(summary.checkpoints_table(records)).axes
    low, high = axes.get_xlim()
    assert low <= 0.2
    assert high >= 0.9


def test_figures_of_one_replication_and_of_nothing(make_record, tmp_path):
    table = summary.metrics_table([make_record()])
    responses = summary.responses_table([make_record()])
    checkpoints = summary.checkpoints_table([make_record()])
    charts = [
        plots.comparison(summary.summarise(table)),  # no interval
        plots.comparison(summary.summarise(table), ["completion_time_s"]),  # no value
        plots.latency_cdf(responses),
        plots.latency_cdf(responses[:0]),
        plots.pause_cdf(checkpoints[:0]),
        plots.timeline(checkpoints[:0]),
    ]
    for i, chart in enumerate(charts):
        chart.save(tmp_path / str(i))


def test_both_formats_are_written_and_the_same_figure_is_the_same_file(records, tmp_path):
    table = summary.responses_table(records)
    svg, png = plots.latency_cdf(table).save(tmp_path / "first.pdf")
    again, _ = plots.latency_cdf(table).save(tmp_path / "second")
    assert (svg.name, png.name) == ("first.svg", "first.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert svg.read_bytes() == again.read_bytes()
    assert "Latency seen by the client (ms)" in svg.read_text()  # text stays text


def test_a_chart_shows_itself_in_a_notebook(records):
    assert "<svg" in plots.latency_cdf(summary.responses_table(records))._repr_svg_()


def test_no_global_state_is_touched():
    code = (
        "import sys, matplotlib; before = dict(matplotlib.rcParams);"
        "import colosim.analysis.plots;"
        "assert 'matplotlib.pyplot' not in sys.modules; assert before == dict(matplotlib.rcParams)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --------------------------------------------------------------------------------------------
# Service, pages, holds, states


def test_throughput_counts_answers_and_marks_faults(make_record):
    record = make_record("colo", events=[
        {"at_ns": 250_000_000, "node": "primary", "what": "fault", "detail": "host crash"}
    ])  # fmt: skip
    chart: Any = plots.throughput(
        summary.responses_table([record]), summary.events_table([record]), bin_s=0.1
    )
    [axes] = chart.axes
    [steps] = axes.patches
    values, edges, _ = steps.get_data()
    assert list(values) == [10.0, 0.0, 10.0]  # answers at 60 and 210 ms
    np.testing.assert_allclose(edges, [0, 0.1, 0.2, 0.3])
    [mark] = axes.get_lines()
    assert mark.get_xdata()[0] == 0.25
    assert [text.get_text() for text in chart.legends[0].get_texts()] == ["fault"]


def test_dirty_pages_have_a_fit_that_finds_the_curve_and_says_how_well():
    rng = np.random.default_rng(3)
    exposure = np.geomspace(10, 1000, 60)
    true = 800 * -np.expm1(-5 * exposure / 800)
    seen = pd.DataFrame({"exposure_ms": exposure, "pages": true + rng.normal(0, 8, 60)})
    fit = pages.fitted_curve(seen)
    assert fit is not None
    expected = 800 * -np.expm1(-5 * fit["exposure_ms"] / 800)
    assert (abs(fit["pages"] - expected) < 15).all()
    assert (fit["low"] <= fit["pages"]).mean() > 0.9
    assert (fit["high"] >= fit["pages"]).mean() > 0.9
    chart: Any = plots.dirty_pages(seen, {"fit": fit})
    assert "(ms)" in chart.axes[0].get_xlabel()
    assert pages.fitted_curve(seen[:5]) is None
    assert pages.fitted_curve(seen.assign(exposure_ms=100.0)) is None


def test_frames_are_counted_in_the_distribution_of_holds():
    holds = pd.DataFrame(
        {
            "policy": "colo",
            "replication": 0,
            "how": "match",
            "measured": True,
            "hold_ms": [0.0, 1.0, 10.0],
            "frames": [2, 1, 1],
        }
    )
    chart: Any = plots.hold_cdf(holds)
    [line] = chart.axes[0].get_lines()
    x, y = line.get_data()
    np.testing.assert_allclose(np.interp([0.99, 5, 10.1], x, y), [0.5, 0.75, 1.0], atol=0.01)


def test_no_curve_of_holds_is_left_out_and_all_look_different():
    """Three policies that let go in three ways are more than there are colours."""
    rows = [
        {"policy": policy, "how": how, "replication": 0, "measured": True, "hold_ms": 1.0 + i}
        for i, policy in enumerate(["colo", "hybrid", "remus"])
        for how in ("match", "commit", "alone")
    ]
    chart: Any = plots.hold_cdf(pd.DataFrame(rows).assign(frames=1))
    assert len(chart.axes[0].get_lines()) == 9
    assert len(set(look_of(range(40)).values())) == 40


def test_a_replication_that_answers_nobody_counts_in_the_mean(make_record):
    silent = make_record("colo", 1)
    silent.responses["released_ns"][:] = -1
    table = summary.responses_table([make_record("colo"), silent])
    chart: Any = plots.throughput(table, bin_s=0.1)
    values, _, _ = chart.axes[0].patches[0].get_data()
    assert list(values) == [5.0, 0.0, 5.0]  # half of what the other one answers


def test_a_guest_stands_from_its_stop_to_its_start():
    stays = [("run", 10), ("stop", 12), ("save", 15), ("resume-early", 16), ("run", 30)]
    assert [*standing(stays)] == [(12, 16)]
    over = [("stop", 12), ("exited", 20), ("failover", 21), ("takeover", 25), ("alone", 90)]
    assert [*standing(over)] == [(12, 25)]  # stopped once, by the checkpoint
    assert [*standing([("run", 3), ("failover", 5), ("takeover", 9)])] == [(5, 9)]
    assert [*standing([("stop", 5), ("dead", 9)])] == []


VISITS = pd.DataFrame(
    [
        ("primary", 1, "checkpointer", "run", 0, 10e6),
        ("primary", 1, "checkpointer", "stop", 10e6, 12e6),
        ("primary", 1, "checkpointer", "send", 12e6, 20e6),
        ("primary", 1, "checkpointer", "resume", 20e6, 21e6),
        ("primary", 1, "checkpointer", "run", 21e6, np.nan),
        ("secondary", 1, "manager", "watch", 0, np.nan),
    ],
    columns=["node", "pair", "part", "state", "start_ns", "end_ns"],
)


def test_both_sides_shows_a_checkpoint_and_while_what_the_guest_stands():
    chart: Any = plots.both_sides(VISITS)
    [axes] = chart.axes
    assert axes.get_xlabel().startswith("Time (ms")
    stands = axes.collections[-1].get_paths()[0].get_extents()
    low, high = axes.get_xlim()
    assert stands.x1 - stands.x0 == pytest.approx(9.0)  # 12 to 21 ms
    assert low <= stands.x0 < stands.x1 <= high
    assert "send" in [text.get_text() for text in axes.texts]


def test_both_sides_leaves_out_a_pair_of_which_nothing_happens_any_more():
    """Whoever died is not said to run on."""
    dead = pd.DataFrame(
        [("gone", 0, "checkpointer", "run", -9e6, np.nan)], columns=list(VISITS.columns)
    )
    chart: Any = plots.both_sides(pd.concat([dead, VISITS]))
    [axes] = chart.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["primary"]


def test_the_diagram_has_every_state_with_its_visits_and_every_way_with_its_count(tmp_path):
    chart: Any = plots.state_diagram(VISITS)
    left, right = chart.axes
    texts = [text.get_text() for text in left.texts]
    assert "run\n2 × 10 ms" in texts
    assert "stop\n1 × 2 ms" in texts
    assert texts.count("1") == 4  # run, stop, send, resume, run
    assert [text.get_text() for text in right.texts] == ["watch\n1 × to the end"]
    assert all(path.stat().st_size for path in chart.save(tmp_path / "states"))


def test_a_diagram_of_many_parts_has_four_beside_each_other():
    pairs = pd.concat([VISITS.assign(node=f"{VISITS['node'].iloc[0]}.{i}") for i in range(3)])
    chart: Any = plots.state_diagram(pairs)
    assert len(pairs.groupby(["node", "part"])) == 6
    assert chart.get_figwidth() == 4 * 2.6
    assert sum(bool(axes.texts) for axes in chart.axes) == 6


def test_a_legend_is_within_its_figure():
    rows = [
        {"x.y": x, "z": z, "policy": policy, "replication": i, "metric": "latency_mean_ms",
         "unit": "ms", "value": 10.0 * x + z + i * (policy == "colo")}
        for x in (1, 2) for z in (1, 2) for policy in ("remus", "colo", "hybrid") for i in range(3)
    ]  # fmt: skip
    chart = plots.policy_map(pd.DataFrame(rows), "x.y", "z")
    holds = pd.DataFrame(
        {"policy": "microcheckpoint", "replication": 0, "measured": True, "frames": 1,
         "how": ["match", "commit", "alone"], "hold_ms": [1.0, 2.0, 3.0]}
    )  # fmt: skip
    for each in (chart, plots.hold_cdf(holds)):
        each.canvas.draw()
        [legend] = each.legends
        box = legend.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= each.bbox.width
