"""Every figure that is committed is shown, small, and what shows one says how to make it anew."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools import pictures

ROOT = Path(__file__).resolve().parents[2]
HOMES = {path.parent for path in (ROOT / "experiments").rglob("*.png")}
#: of each of these a figure is shown
WANTED = {
    *("policy_map", "managers", "scaling", "sensitivity", "live_policies"),
    *("webserver", "storm", "sizing", "published"),
}


def test_the_experiments_that_matter_have_one():
    assert {home.name for home in HOMES} >= WANTED


@pytest.mark.parametrize("home", sorted(HOMES), ids=lambda home: home.name)
def test_a_figure_is_shown_and_small_and_can_be_made_anew(home):
    page = home / "README.md"
    names = pictures.shown(page)
    assert {path.name for path in home.glob("*.png")} == set(names)
    text = " ".join(page.read_text("utf-8").split())
    module = ".".join(home.relative_to(ROOT).parts)
    assert f"python -m {module}" in text
    assert re.search(rf"python tools/pictures\.py out/\w+ {home.relative_to(ROOT)}`", text)
    on_site = (ROOT / "docs" / "experiments.md").read_text("utf-8")
    for name in names:
        path = home / name
        assert path.stat().st_size <= pictures.MOST_BYTES
        with Image.open(path) as picture:
            assert picture.width <= pictures.WIDEST_PX
        assert f"](../{path.relative_to(ROOT)})" in on_site


def test_a_picture_is_made_narrower_and_smaller(tmp_path):
    noise = np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((2800, 200)).save(tmp_path / "wide.png")
    with Image.open(io.BytesIO(pictures.small(tmp_path / "wide.png"))) as picture:
        assert picture.size == (1400, 100)
        assert picture.mode == "P"


def test_what_a_page_shows_is_put_beside_it(tmp_path, monkeypatch, capsys):
    results, home = tmp_path / "results", tmp_path / "home"
    for place in (results, home):
        place.mkdir()
    monkeypatch.setattr(sys, "argv", ["pictures.py", str(results), str(home)])
    assert pictures.main() == 2
    assert capsys.readouterr().err == f"{home / 'README.md'}: no such file\n"
    (home / "README.md").write_text("![a](one.png) ![b](../else.png) ![c](two.png)")
    for name in ("one.png", "other.png"):
        Image.new("RGB", (30, 20), "white").save(results / name)
    assert pictures.main() == 2
    assert capsys.readouterr().err == f"{results / 'two.png'}: no such file\n"
    assert not list(home.glob("*.png"))
    Image.new("RGB", (30, 20), "white").save(results / "two.png")
    assert pictures.main() == 0
    assert {path.name for path in home.glob("*.png")} == {"one.png", "two.png"}
