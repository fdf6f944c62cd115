"""Managers at small counts: what must hold whatever the numbers are."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from experiments import managers
from experiments.managers import Setting, figures
from experiments.managers.__main__ import main

SHORT, LONG, GRACE = Setting(100, 150), Setting(100, 450), Setting(100, 150, 300)


@pytest.fixture(scope="module")
def detected():
    return managers.detection(40, (SHORT, LONG, GRACE), jobs=1)


@pytest.fixture(scope="module")
def arbitrated():
    return managers.arbiters(2, jobs=1)


def test_all_settings_meet_the_same_blips(detected):
    lengths = detected.groupby(list(Setting._fields))["blip_ms"].apply(tuple)
    assert len(set(lengths)) == 1
    assert len(set(lengths.iloc[0])) == 40


def test_a_blip_is_taken_for_a_failure_if_it_is_longer_than_the_silence_allowed(detected):
    for setting, here in managers.by_setting(detected):
        surely = here["blip_ms"] > setting.silence_ms + 5
        never = here["blip_ms"] < setting.silence_ms - setting.interval_ms - 5
        assert here.loc[surely, "is_false"].all()
        assert not here.loc[never, "is_false"].any()
        assert surely.any()
        assert never.any()


def test_a_crash_is_noticed_within_an_interval_less_than_the_silence_allowed(detected):
    least = detected["timeout_ms"] + detected["grace_ms"] - detected["interval_ms"]
    assert (detected["detection_ms"] > least - 5).all()
    assert (detected["detection_ms"] < least + detected["interval_ms"] + 5).all()


def test_grace_is_as_good_as_a_longer_time_out(detected):
    """For silence alone: the same blips, the same verdicts."""
    by = {setting: list(here["is_false"]) for setting, here in managers.by_setting(detected)}
    assert by[LONG] == by[GRACE]


def test_the_curve_has_intervals_and_lies_between_what_is_worked_out(detected):
    curve = managers.curve(detected)
    assert (curve["false_low"] <= curve["false_per_h"]).all()
    assert (curve["false_per_h"] <= curve["false_high"]).all()
    for setting, here in managers.by_setting(curve):
        low, high = managers.foreseen_per_h(setting.silence_ms, setting.interval_ms)
        assert low <= here["false_high"].item()
        assert high >= here["false_low"].item()


def test_blips_of_a_heavy_tail_have_the_same_mean_and_longer_time_outs_buy_less(detected):
    heavy = managers.detection(40, (SHORT, LONG), jobs=1, tail="pareto")
    quantiles = (np.arange(100_000) + 0.5) / 100_000
    for tail in managers.TAILS:
        lengths = [managers._length_ms(each, tail) for each in quantiles]
        assert np.mean(lengths) == pytest.approx(managers.BLIP_MS, rel=0.01)
    for setting, here in managers.by_setting(managers.curve(heavy)):
        low, high = managers.foreseen_per_h(setting.silence_ms, setting.interval_ms, "pareto")
        assert low <= here["false_high"].item()
        assert high >= here["false_low"].item()
    ratios = [
        managers.foreseen_per_h(LONG.silence_ms, 100, tail)[0]
        / managers.foreseen_per_h(SHORT.silence_ms, 100, tail)[0]
        for tail in managers.TAILS
    ]
    assert ratios[1] < ratios[0]
    far = [managers.foreseen_per_h(1_500, 100, tail)[1] for tail in managers.TAILS]
    assert far[1] > 5 * far[0]


def test_losses_in_a_row_are_as_rare_as_they_should_be():
    table = managers.losses(8, 60, (0.3,), (2.5, 3.5), jobs=1)
    assert (table["low"] < table["foreseen_per_h"]).all()
    assert (table["foreseen_per_h"] < table["high"]).all()
    assert managers.lost_in_row(0.5, 1.5) == pytest.approx(2 * 36_000 / 2)  # every other is lost


def test_who_promises_one_side_keeps_it(arbitrated):
    splits = arbitrated.groupby("design", sort=False)["is_split"].any()
    fenced = [name for name in splits.index if name.endswith(", fence")]
    assert len(fenced) == 3
    assert not splits[[*fenced, "lease, no fence"]].any()
    others = ["nobody, no fence", "lease, clock too slow", "messages, no fence"]
    assert splits[[*others, "witness, no fence"]].all()


def test_what_a_lease_costs(arbitrated):
    """The lock service is needed all the time, and its terms have to end."""
    table = managers.table_of(arbitrated).set_index(["design", "fault"])
    assert table.loc[("lease, no fence", "arbiter cut"), "down"] == 1
    assert table.loc[("witness, fence", "arbiter cut"), "down"] == 0
    crash = table.xs("primary crashes", level="fault")["outage_ms"]
    assert crash["lease, no fence"] > crash["witness, no fence"] + 100
    assert (table["split_low"] <= table["split"]).all()


def test_fences_that_fail(arbitrated):
    table = managers.table_of(arbitrated).set_index(["design", "fault"])
    assert table.loc[("witness, fence", "the same, tried again"), "down"] == 0
    assert {fault for design, fault in table.index if "no fence" in design}.isdisjoint(
        managers.FENCES
    )


def test_the_figures_show_everything(detected, arbitrated):
    losses = managers.losses(1, 10, (0.3,), (1.5,), jobs=1)
    curve = managers.curve(detected)
    chart = figures.draw_detection(curve, losses, curve[curve["grace_ms"] == 0])
    assert len(chart.axes) == 3
    table = managers.table_of(arbitrated)
    first, second = figures.draw_arbiters(table).axes
    shown = [text.get_text() for text in first.texts if text.get_text()]
    assert len(shown) == len(table)
    assert len([text for text in second.texts if text.get_text()]) == len(table)


def test_command(tmp_path):
    result = CliRunner().invoke(main, ["--quick", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {
        *("detection.csv", "detection-pareto.csv", "losses.csv", "arbiters.csv"),
        *("detection.svg", "detection.png", "arbiters.svg", "arbiters.png"),
    }
