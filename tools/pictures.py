"""Puts figures of an experiment's results, small, beside the page that shows them.

    python -m experiments.scaling
    python tools/pictures.py out/scaling experiments/scaling

What is put there is what its README.md shows: ``![...](scaling.png)``.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from pathlib import Path

from PIL import Image

WIDEST_PX = 1_400
MOST_BYTES = 60 * 1024
#: (width in pixels, colours): the first that is small enough is taken
_TRIED = ((WIDEST_PX, 256), (1_200, 256), (1_000, 256), (1_000, 64), (800, 64))


def shown(page: Path) -> list[str]:
    """Names of the pictures beside a page that it shows."""
    return re.findall(r"!\[[^]]*\]\(([^)/]+\.png)\)", page.read_text("utf-8"))


def small(path: Path) -> bytes:
    """A picture as PNG with few colours, no wider than `WIDEST_PX` and, if it can be, small."""
    with Image.open(path) as picture:
        whole = picture.convert("RGB")
    for width_px, colours in _TRIED:
        made, size = io.BytesIO(), (width_px, round(whole.height * width_px / whole.width))
        shrunk = whole if whole.width <= width_px else whole.resize(size, Image.Resampling.LANCZOS)
        few = shrunk.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        few.save(made, "PNG", optimize=True)
        if made.tell() <= MOST_BYTES:
            break
    return made.getvalue()


def main() -> int:
    """Copy; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="where the experiment wrote its figures")
    parser.add_argument("experiment", type=Path, help="where its README.md is")
    given = parser.parse_args()
    page = given.experiment / "README.md"
    missing = [path for path in (page, given.results) if not path.exists()]
    names = [] if missing else shown(page)
    missing += [path for name in names if not (path := given.results / name).exists()]
    for path in missing:
        print(f"{path}: no such file", file=sys.stderr)
    for name in [] if missing else names:
        target = given.experiment / name
        target.write_bytes(small(given.results / name))
        print(f"{target}: {target.stat().st_size:,} bytes")
    return 2 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
