"""The one style of all figures: colours, dashes, markers, and a figure that knows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from colosim.units import readable, without_unit

#: Okabe and Ito, "Color Universal Design" (2008); lines differ in their dashes as well
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))
#: look alike in every figure, also in one where the others are missing
_KNOWN = ("none", "remus", "colo", "microcheckpoint", "hybrid", "adaptive")
MARKERS = "ov^sD*X"
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "figure.titlesize": "medium",
    "font.size": 9.0,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "colosim",  # the same figure is the same file
}
P = ParamSpec("P")


class Chart(Figure):
    """A matplotlib figure that knows its style when it is written or shown."""

    def save(self, path: str | Path) -> tuple[Path, Path]:
        """Write ``path`` with the suffixes .svg and .png in place of its own."""
        svg, png = Path(path).with_suffix(".svg"), Path(path).with_suffix(".png")
        with rc_context(_STYLE):
            self.savefig(svg, metadata={"Date": None})
            self.savefig(png)
        return svg, png

    def _repr_svg_(self) -> str:
        from io import StringIO

        text = StringIO()
        with rc_context(_STYLE):
            self.savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()


def styled(draw: Callable[P, Chart]) -> Callable[P, Chart]:
    """Decorate a function that draws: it draws in the one style."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Chart:
        with rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawn


class Look(NamedTuple):
    """How one policy looks wherever it is drawn: told apart without colour, too."""

    colour: str
    dashes: Any
    marker: str


def look_of(policies: Iterable[object]) -> dict[str, Look]:
    """The look of each policy, in the order given; the best known have theirs everywhere.

    After seven the colours begin anew, with other dashes and markers.
    """
    wanted = [str(policy) for policy in dict.fromkeys(policies)]
    others = [policy for policy in wanted if policy not in _KNOWN]
    places = {policy: i for i, policy in enumerate((*_KNOWN, *others))}
    return {policy: _look(places[policy]) for policy in wanted}


def _look(place: int) -> Look:
    colour, form = place % len(COLOURS), (place + place // len(COLOURS)) % len(COLOURS)
    return Look(COLOURS[colour], _DASHES[form], MARKERS[form])


def shades(count: int) -> list[str]:
    """Colours for what has an order, from light to dark: told apart in grey and by everybody."""
    return [to_hex(colormaps["cividis"](place)) for place in np.linspace(0.8, 0, count)]


def gid(policy: object) -> str:
    """Name of what is drawn for one policy, by which a page can hide it."""
    return f"series-{policy}"


def name_of(column: str) -> str:
    """A column for people: "link.bandwidth_bps" is "link.bandwidth"; `ticks_of` has the unit."""
    return without_unit(column).replace("_", " ")


def ticks_of(column: str, values: Iterable[Any]) -> list[str]:
    """Values of a column as short text with the unit that its name carries: "2.5 Gbit/s"."""
    return [readable(column, value) for value in values]
