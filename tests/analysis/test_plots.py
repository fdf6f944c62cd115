"""What figures show is what the tables say; style, files and missing data."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from matplotlib.container import BarContainer

from colosim.analysis import plots, summary


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
    [axes] = plots.latency_cdf(summary.responses_table(records)).axes
    assert axes.get_xlabel().endswith("(ms)")
    none, remus = axes.get_lines()
    assert [line.get_label() for line in (none, remus)] == ["none", "remus"]
    assert axes.get_legend() is not None
    assert len(axes.collections) == 2  # the bands
    # one measured answer per replication: 5, 6, 7 ms, so a third of the mass at each
    x, y = map(np.asarray, none.get_data())
    assert np.interp([5.5, 6.5], x, y) == pytest.approx([1 / 3, 2 / 3])
    y = np.asarray(remus.get_ydata())
    assert np.interp(49.0, x, y) == 0.0
    assert y[-1] == 1.0


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
