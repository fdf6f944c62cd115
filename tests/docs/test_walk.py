"""What `docs/walk.md` walks through is there: every file, and in it every name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "walk.md").read_text("utf-8")
#: a file, and the names that follow it with nothing but commas and spaces between
_PLACE = re.compile(r"`([\w/]+\.py)`((?:(?:,\s*|\s+)`\w+`)*)")
PLACES = sorted({(path, *re.findall(r"`(\w+)`", names)) for path, names in _PLACE.findall(PAGE)})


def test_the_page_has_places():
    assert len(PLACES) > 60
    assert PAGE.count(".py`") == len(_PLACE.findall(PAGE))


@pytest.mark.parametrize("place", PLACES, ids=" ".join)
def test_a_place_is_there(place):
    path, *names = place
    text = (ROOT / path).read_text("utf-8")
    for name in names:
        defined = rf"^\s*(async def|def|class) {name}\b|^\s*{name}\s*[:=]"
        assert re.search(defined, text, re.MULTILINE), f"{path} has no {name}"
