"""``colosim watch``: a run directory, a trace or a simulated scenario, played in the terminal."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

from colosim.store import StoreError
from colosim.watching.errors import WatchError
from colosim.watching.facts import NS_PER_S
from colosim.watching.model import View
from colosim.watching.playing import Player, play
from colosim.watching.sources import Recording, Simulated, recording
from colosim.watching.terminal import front

#: a year in 32 ms: more is no pace
_FASTEST = 1e9


def speed_of(text: str | float) -> float:
    """Times as fast as it was: "10x", "0.5", 10, "max" (infinite, as is all above a milliard)."""
    words = str(text).strip().lower()
    if words == "max":
        return math.inf
    try:
        speed = float(words.removesuffix("x"))
    except ValueError:
        speed = math.nan
    if not speed > 0:
        raise WatchError(f"speed {text!r}: expected a number above 0, such as 10x, or max")
    return speed if speed <= _FASTEST else math.inf


def opened(
    run: str | Path, policy: str | None = None, seed: int | None = None
) -> Simulated | nullcontext[Recording]:
    """A recording, to be had by ``with``: of a run directory or trace, or of a scenario, simulated.

    Raises StoreError or ScenarioError, one line, for anything else.
    """
    if str(run).endswith(".toml"):
        return Simulated(run, policy, seed)
    if policy is not None or seed is not None:
        raise WatchError(f"{run}: was run already; policy and seed are for a scenario in TOML")
    if not Path(run).exists():
        raise StoreError(f"{run}: not there; give a run directory, a trace, or a scenario in TOML")
    return nullcontext(recording(run))


def watch(run: Path, speed: str, from_s: float, policy: str | None, seed: int | None) -> None:
    """Play a run on stdout: a screen on a terminal, else plain lines."""
    from rich.console import Console

    pace = speed_of(speed)
    with opened(run, policy, seed) as found:
        from_ns = round(from_s * NS_PER_S)
        if found.duration_ns and from_ns > found.duration_ns:
            raise WatchError(
                f"--from {from_s:g} s: is after the end of the run, {found.duration_ns / 1e9:g} s"
            )
        view = View(found.name, found.duration_ns)
        player = Player(view, found.moments(), pace, from_ns or found.begin_ns)
        with front(Console(), print) as show:
            play(player, show)
